package vault_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// shown is what a record's fields hold.
func shown(fields map[string]vault.Secret) map[string]string {
	out := map[string]string{}
	for name, value := range fields {
		out[name] = string(value.Reveal())
	}
	return out
}

func (w *warmed) patch(t *testing.T, p vault.Patch) (*vault.Record, error) {
	t.Helper()
	return w.PatchRecord(t.Context(), w.who, "people", w.record.Record, p)
}

// person is a vault with one record of several fields.
func newPerson(t *testing.T) *warmed {
	t.Helper()
	w := &warmed{Bench: vaulttest.New(t)}
	w.who = w.Tenant()
	_, _, err := w.PutCollection(t.Context(), w.who, "people", vault.Definition{Fields: map[string]vault.FieldDefinition{
		"name": {Type: "name", Required: true}, "email": {Type: "email"}, "age": {Type: "number"},
		"note": {Type: "text", Token: vault.TokenDefinition{Strategy: "none"}}}}, 0)

	if err != nil {
		t.Fatal(err)
	}
	done, err := w.Tokenize(t.Context(), w.who, vault.Batch{Collection: "people", Items: []vault.NewRecord{{Subject: "p-1", Fields: map[string]vault.Secret{
		"name": secret(`"Jane Roe"`), "email": secret(`"jane@example.com"`), "note": secret(`"hm"`)}}}})
	if err != nil || done[0].Err != nil {
		t.Fatal(done, err)
	}
	w.record = done[0]
	return w
}

func TestRecordReadsAsItWasStored(t *testing.T) {
	t.Parallel()
	w := newPerson(t)
	rec, err := w.GetRecord(t.Context(), w.who, "people", w.record.Record, nil, "plain")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"name": `"Jane Roe"`, "email": `"jane@example.com"`, "note": `"hm"`}
	if diff := cmp.Diff(want, shown(rec.Fields)); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(w.record.Tokens, rec.Tokens); diff != "" {
		t.Errorf("tokens (-stored +read):\n%s", diff)
	}
	if got := slices.Sorted(maps.Keys(rec.Tokens)); !cmp.Equal(got, []string{"email", "name"}) {
		t.Errorf("fields with a token: %v, want those whose strategy isn't none", got)
	}
	if rec.Subject != "p-1" || rec.Version != 1 || rec.ID != w.record.Record || rec.Expires != nil {
		t.Errorf("the record: %+v", rec)
	}
	for view, want := range map[string]string{"": `"j***@example.com"`, "masked": `"j***@example.com"`, "redacted": `null`} {
		rec, err := w.GetRecord(t.Context(), w.who, "people", w.record.Record, []string{"email"}, view)
		if err != nil || !cmp.Equal(shown(rec.Fields), map[string]string{"email": want}) {
			t.Errorf("view %q: %v, %v", view, shown(rec.Fields), err)
		}
	}
}

func TestPatchMergesAndKeepsTokens(t *testing.T) {
	t.Parallel()
	w := newPerson(t)
	rec, err := w.patch(t, vault.Patch{IfVersion: 1,
		Fields: map[string]vault.Secret{"email": secret(`"ann@example.com"`), "age": secret(`40`)}, Remove: []string{"note"}})
	if err != nil {
		t.Fatal(err)
	}
	if rec.Version != 2 || rec.Subject != "" || len(rec.Fields) != 0 { // a writer reads nothing
		t.Errorf("the changed record: %+v", rec)
	}
	for name, token := range w.record.Tokens {
		if rec.Tokens[name] != token {
			t.Errorf("the token of %s is another one", name)
		}
	}
	if got := w.Reveal(w.who, w.record.Tokens["email"]); got != `"ann@example.com"` {
		t.Errorf("the token gives %s", got)
	}
	if got := w.Reveal(w.who, rec.Tokens["age"]); got != `40` {
		t.Errorf("the new field's token gives %s", got)
	}
	read, err := w.GetRecord(t.Context(), w.who, "people", w.record.Record, nil, "plain")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"name": `"Jane Roe"`, "email": `"ann@example.com"`, "age": `40`}
	if diff := cmp.Diff(want, shown(read.Fields)); diff != "" {
		t.Errorf("fields after the change (-want +got):\n%s", diff)
	}
	if read.Subject != "p-1" || !read.Created.Equal(rec.Created) || read.Updated.Before(read.Created) {
		t.Errorf("the record: %+v", read)
	}
	if got := rows(t, w.KeysURL, `select version from keystore.data_keys`); !cmp.Equal(got, []string{"2"}) {
		t.Errorf("DEKs of the versions %v are there, want 2 alone", got)
	}
	// A field that went has no value, and its token resolves to nothing; it may come back.
	if _, err := w.patch(t, vault.Patch{IfVersion: 2, Remove: []string{"email"}}); err != nil {
		t.Fatal(err)
	}
	if got := w.Reveal(w.who, w.record.Tokens["email"]); got != string(vault.TokenNotFound) {
		t.Errorf("a removed field's token gives %s", got)
	}
	if _, err := w.patch(t, vault.Patch{IfVersion: 3, Fields: map[string]vault.Secret{"email": secret(`"eve@example.com"`)}}); err != nil {
		t.Fatal(err)
	}
	if got := w.Reveal(w.who, w.record.Tokens["email"]); got != `"eve@example.com"` {
		t.Errorf("the token of a field that came back gives %s", got)
	}
}

// A dry run says what would become of fields and tokens, refuses what the change itself would be refused for, and leaves no trace
// but its entry, which names no new version.
func TestAPatchThatIsOnlyTried(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "a keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := vaulttest.New(t, options...)
			who := v.Tenant()
			mail := strategy("email", "deterministic")
			mail.Unique, mail.Index = true, []string{"exact"}
			defineFields(t, v, who, "people", map[string]vault.FieldDefinition{"name": {Type: "string"}, "note": {Type: "string"}, "age": {Type: "number"},
				"email": mail, "second": strategy("email", "deterministic")})
			v.MustTokenize(who, "people", map[string]string{"email": "taken@example.com"})
			stored := v.MustTokenize(who, "people", map[string]string{"name": "Jane Roe", "note": "x", "email": "jane@example.com", "second": "j@example.com"})
			tables := func() []string {
				return append(rows(t, v.OwnerURL, `select r::text from privault.records r union all select b::text from privault.blind_index b union all select a::text from privault.aliases a order by 1`),
					rows(t, v.KeysURL, `select k::text from keystore.data_keys k order by 1`)...)
			}
			before := tables()
			try := vault.Patch{IfVersion: 1, DryRun: true, Remove: []string{"note"}, Fields: map[string]vault.Secret{"name": secret(`"Jane Doe"`),
				"age": secret(`40`), "email": secret(`"new@example.com"`), "second": secret(`"j@example.com"`)}}
			rec, err := v.PatchRecord(t.Context(), who, "people", stored.Record, try)
			if err != nil {
				t.Fatal(err)
			}
			want := []vault.FieldChange{{"age", "add", "new"}, {"email", "replace", "new"}, {"name", "replace", "kept"}, {"note", "remove", "none"}, {"second", "replace", "kept"}}
			slices.SortFunc(rec.Changes, func(a, b vault.FieldChange) int { return strings.Compare(a.Field, b.Field) })
			if diff := cmp.Diff(want, rec.Changes); diff != "" || rec.Version != 1 {
				t.Errorf("version %d, changes (-want +got):\n%s", rec.Version, diff)
			}
			if diff := cmp.Diff(map[string]string{"name": stored.Tokens["name"], "second": stored.Tokens["second"]}, rec.Tokens); diff != "" {
				t.Errorf("tokens (-want +got):\n%s", diff)
			}
			try.Fields["email"] = secret(`"taken@example.com"`)
			_, err = v.PatchRecord(t.Context(), who, "people", stored.Record, try)
			wantKind(t, "somebody else's address", err, vault.Conflict)
			if diff := cmp.Diff(before, tables()); diff != "" {
				t.Errorf("the tables (-before +after):\n%s", diff)
			}
			if n := v.Count(`select count(*) from privault.audit_entries where action = 'record.update' and outcome = 'ok' and body not like '%"sealed"%' and body like '%"tried"%' and body like $1`, "%"+stored.Record+"%"); n != 1 {
				t.Errorf("%d entries that name the record and no new version", n)
			}
			try.DryRun, try.Fields["email"] = false, secret(`"new@example.com"`)
			if rec, err = v.PatchRecord(t.Context(), who, "people", stored.Record, try); err != nil || rec.Version != 2 || rec.Changes != nil {
				t.Errorf("in earnest: %+v %v", rec, err)
			}
		})
	}
}

func TestPatchesThatAreRefused(t *testing.T) {
	t.Parallel()
	w := newPerson(t)
	yesterday := w.Now().Add(-24 * time.Hour)
	for what, story := range map[string]struct {
		patch vault.Patch
		want  vault.Kind
		at    []vault.FieldError
	}{
		"a required field removed": {vault.Patch{Remove: []string{"name"}, IfVersion: 1}, vault.Invalid, []vault.FieldError{{Pointer: "/fields/name", Rule: "required"}}},
		"an unknown field":         {vault.Patch{Fields: map[string]vault.Secret{"x": secret(`1`)}, IfVersion: 1}, vault.Invalid, []vault.FieldError{{Pointer: "/fields", Rule: "unknown-field"}}},
		"an unknown field removed": {vault.Patch{Remove: []string{"x"}, IfVersion: 1}, vault.Invalid, []vault.FieldError{{Pointer: "/fields", Rule: "unknown-field"}}},
		"nothing":                  {vault.Patch{IfVersion: 1}, vault.Invalid, []vault.FieldError{{Rule: "size"}}},
		"an expiry in the past":    {vault.Patch{SetExpires: true, Expires: &yesterday, IfVersion: 1}, vault.Invalid, []vault.FieldError{{Pointer: "/expires_at", Rule: "future"}}},
		"an old version":           {vault.Patch{Remove: []string{"note"}, IfVersion: 7}, vault.PreconditionFailed, nil},
		"no version":               {vault.Patch{Remove: []string{"note"}}, vault.PreconditionFailed, nil},
	} {
		_, err := w.patch(t, story.patch)
		wantKind(t, what, err, story.want)
		if diff := cmp.Diff(story.at, vault.AsError(err).Fields); diff != "" {
			t.Errorf("%s: faults (-want +got):\n%s", what, diff)
		}
	}
	_, err := w.patch(t, vault.Patch{Fields: map[string]vault.Secret{"email": secret(`"no address"`)}, IfVersion: 1})
	if wantKind(t, "a bad value", err, vault.Invalid); len(vault.AsError(err).Fields) != 1 || vault.AsError(err).Fields[0].Pointer != "/fields/email" {
		t.Errorf("a bad value: %v", vault.AsError(err).Fields)
	}
	rec, err := w.GetRecord(t.Context(), w.who, "people", w.record.Record, nil, "plain")
	if err != nil || rec.Version != 1 || len(rec.Fields) != 3 {
		t.Errorf("after refused patches the record is %+v, %v", rec, err)
	}
	if got := rows(t, w.KeysURL, `select version from keystore.data_keys`); !cmp.Equal(got, []string{"1"}) {
		t.Errorf("DEKs of the versions %v are there, want 1 alone", got)
	}
}

func TestLastFieldStays(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	_, err := w.patch(t, vault.Patch{Remove: []string{"name"}, IfVersion: 1})
	wantKind(t, "removing the last field", err, vault.Invalid)
	w.read(t, jane)
}

// Threat I-11: deleted is deleted on every replica at once, warm caches or not, and the key is gone with the row.
func TestDeletedOnEveryReplicaAtOnce(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWarmed(t, options...)
			other := w.Replica()
			for round := range 20 {
				rec := w.MustTokenize(w.who, "people", map[string]string{"name": "Jane"})
				if got := vaulttest.RevealOn(t, other, w.who, rec.Tokens["name"]); got != jane {
					t.Fatalf("the other replica gives %s", got)
				}
				deleter, reader := w.Vault, other
				if round%2 == 1 {
					deleter, reader = other, w.Vault
				}
				wantKind(t, "deleting another version", deleter.DeleteRecord(t.Context(), w.who, "people", rec.Record, 2), vault.PreconditionFailed)
				if err := deleter.DeleteRecord(t.Context(), w.who, "people", rec.Record, 1); err != nil {
					t.Fatal(err)
				}
				for _, v := range []*vault.Vault{reader, deleter} {
					if got := vaulttest.RevealOn(t, v, w.who, rec.Tokens["name"]); got != string(vault.TokenNotFound) {
						t.Fatalf("after the delete a replica gives %s", got)
					}
				}
				_, err := reader.GetRecord(t.Context(), w.who, "people", rec.Record, nil, "")
				wantKind(t, "reading a deleted record", err, vault.NotFound)
				wantKind(t, "deleting it again", deleter.DeleteRecord(t.Context(), w.who, "people", rec.Record, 0), vault.NotFound)
			}
			if got := vaulttest.CountURL(t, w.KeysURL, `select count(*) from keystore.data_keys`); got != 1 {
				t.Errorf("%d DEKs are left of 1 record", got)
			}
		})
	}
}

func TestExpiredIsUnreadableAtOnce(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	soon := w.Now().Add(time.Hour).Truncate(time.Microsecond)
	rec, err := w.patch(t, vault.Patch{SetExpires: true, Expires: &soon, IfVersion: 1})
	if err != nil || rec.Expires == nil || !rec.Expires.Equal(soon) {
		t.Fatal(rec, err)
	}
	done, err := w.Tokenize(t.Context(), w.who, vault.Batch{Collection: "people", Items: []vault.NewRecord{
		{Fields: map[string]vault.Secret{"name": secret(jane)}, Expires: &soon}}})
	if err != nil {
		t.Fatal(err)
	}
	w.Advance(59 * time.Minute)
	w.read(t, jane)
	w.Advance(2 * time.Minute)
	w.read(t, string(vault.TokenNotFound))
	if got := w.Reveal(w.who, done[0].Tokens["name"]); got != string(vault.TokenNotFound) {
		t.Errorf("a record that was stored with an expiry gives %s", got)
	}
	_, err = w.GetRecord(t.Context(), w.who, "people", w.record.Record, nil, "")
	wantKind(t, "reading", err, vault.NotFound)
	_, err = w.patch(t, vault.Patch{SetExpires: true, IfVersion: 2})
	wantKind(t, "bringing it back", err, vault.NotFound)
	// What nobody may read any more, its owner may still delete.
	if err := w.DeleteRecord(t.Context(), w.who, "people", w.record.Record, 0); err != nil {
		t.Errorf("deleting: %v", err)
	}
	if got := w.Count(`select count(*) from keystore.data_keys where record_id = $1`, vault.RecordID(w.record.Record)); got != 0 {
		t.Error("the expired record was deleted and its DEK is there")
	}
	_, err = w.Tokenize(t.Context(), w.who, vault.Batch{Collection: "people", Atomic: true, Items: []vault.NewRecord{
		vaulttest.Item(map[string]string{"name": "Joe"}), {Fields: map[string]vault.Secret{"name": secret(jane)}, Expires: &soon}}})
	wantKind(t, "storing something that has expired", err, vault.BatchRolledBack)
}

func TestExpiryIsTakenBack(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	soon := w.Now().Add(time.Hour).Truncate(time.Microsecond)
	if _, err := w.patch(t, vault.Patch{SetExpires: true, Expires: &soon, IfVersion: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.patch(t, vault.Patch{Fields: map[string]vault.Secret{"name": secret(`"Ann"`)}, IfVersion: 2}); err != nil {
		t.Fatal(err)
	}
	rec, err := w.patch(t, vault.Patch{SetExpires: true, IfVersion: 3})
	if err != nil || rec.Expires != nil {
		t.Fatal(rec, err)
	}
	w.Advance(2 * time.Hour)
	w.read(t, `"Ann"`)
}

func TestConcurrentPatchesOneWins(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWarmed(t, options...)
			replicas := []*vault.Vault{w.Vault, w.Replica()}
			for version := int32(1); version <= 5; version++ {
				var won atomic.Int32
				var name atomic.Value
				var wait sync.WaitGroup
				for i := range 8 {
					wait.Go(func() {
						mine := `"n` + string(rune('a'+i)) + `"`
						_, err := replicas[i%2].PatchRecord(t.Context(), w.who, "people", w.record.Record,
							vault.Patch{Fields: map[string]vault.Secret{"name": secret(mine)}, IfVersion: version})
						switch kind(err) {
						case "":
							won.Add(1)
							name.Store(mine)
						case vault.PreconditionFailed:
						default:
							t.Errorf("a patch that lost got %v", err)
						}
					})
				}
				wait.Wait()
				if won.Load() != 1 {
					t.Fatalf("%d of 8 patches won", won.Load())
				}
				w.read(t, name.Load().(string))
			}
			if got := vaulttest.CountURL(t, w.KeysURL, `select count(*) from keystore.data_keys`); got != 1 {
				t.Errorf("%d DEKs for one record", got)
			}
		})
	}
}

// Whatever a reader sees beside changes, it is one of the values that the record had, never an error or a mixture.
func TestReadersBesidePatches(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			readBesidePatches(t, vaulttest.New(t, options...))
		})
	}
}

func readBesidePatches(t *testing.T, v *vaulttest.Bench) {
	t.Helper()
	who := v.Tenant()
	v.Collection(who, "people", map[string]string{"a": "string", "b": "string"})
	rec := v.MustTokenize(who, "people", map[string]string{"a": "0", "b": "0"})
	ctx, stop := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	var reads atomic.Int32
	for range 4 {
		wait.Go(func() {
			for ctx.Err() == nil {
				got, err := v.GetRecord(t.Context(), who, "people", rec.Record, nil, "plain")
				if err != nil {
					t.Errorf("a reader beside a change got %v", err)
					return
				}
				if fields := shown(got.Fields); fields["a"] != fields["b"] {
					t.Errorf("a reader saw a mixture: %v", fields)
				}
				reads.Add(1)
			}
		})
	}
	for version := int32(1); version <= 60 || reads.Load() < 60 && !t.Failed(); version++ {
		next := secret(`"` + string('0'+version%10) + `"`)
		if _, err := v.PatchRecord(t.Context(), who, "people", rec.Record, vault.Patch{Fields: map[string]vault.Secret{"a": next, "b": next}, IfVersion: version}); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	wait.Wait()
}
