package vault_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/kms/kmstest"
	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// newDirect is a vault with a tenant whose collection people has kms: direct, and plain has not.
func newDirect(t *testing.T, options ...vaulttest.Option) (*vaulttest.Bench, vault.Caller) {
	t.Helper()
	b := vaulttest.New(t, options...)
	who := b.Tenant()
	b.Collection(who, "plain", map[string]string{"name": "string"})
	direct(t, b, who, "people")
	return b, who
}

func direct(t *testing.T, b *vaulttest.Bench, who vault.Caller, name string) {
	t.Helper()
	d := vault.Definition{KMS: "direct", Fields: map[string]vault.FieldDefinition{
		"name": {Type: "string", Index: []string{"exact"}}, "mail": {Type: "email", Token: vault.TokenDefinition{Strategy: "deterministic"}}}}
	if _, _, err := b.PutCollection(t.Context(), who, name, d, 0); err != nil {
		t.Fatal(err)
	}
}

// A batch of 1,000 is 1,000 calls, so many at once and no more.
func TestDirectBatchesRunBesideEachOther(t *testing.T) {
	t.Parallel()
	for name, most := range map[string]int{"by default": 16, "as set": 5} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registry := prometheus.NewRegistry()
			b, who := newDirect(t, vaulttest.With(func(c *vault.Config) {
				c.Metrics = registry
				if most != 16 {
					c.KMSInFlight = most
				}
			}))
			const pause = 2 * time.Millisecond
			b.KMS.SetDelay(pause)
			wraps := b.KMS.Wraps()
			b.KMS.Peak()
			began := time.Now()
			tokens := people(b, who, 1000)
			if got := b.KMS.Wraps() - wraps; got != 1000 {
				t.Errorf("%d records took %d wraps", len(tokens), got)
			}
			if got := b.KMS.Peak(); got != most {
				t.Errorf("%d calls at once, want %d", got, most)
			}
			t.Logf("1,000 records with %v a call and %d at once: %v", pause, most, time.Since(began).Round(time.Millisecond))
			unwraps := b.KMS.Unwraps()
			refs := make([]vault.TokenRef, len(tokens))
			for i, token := range tokens {
				refs[i] = vault.TokenRef{Token: token, View: "plain"}
			}
			done, err := b.Detokenize(t.Context(), who, refs)
			if err != nil || string(done[999].Value.Reveal()) != `"person 999"` {
				t.Fatal(err, done[999].Err)
			}
			if got := b.KMS.Unwraps() - unwraps; got != 1000 {
				t.Errorf("reading them took %d unwraps", got)
			}
			if got := b.KMS.Peak(); got != most {
				t.Errorf("%d calls at once, want %d", got, most)
			}
			for operation, want := range map[string]float64{"wrap_dek": 1000, "unwrap_dek": 1000, "wrap": 2, "unwrap": 2} { // the deployment's root key, and the tenant's
				if got := kmsCalls(t, registry, operation); got != want {
					t.Errorf("%v calls %s are counted, want %v", got, operation, want)
				}
			}
			// Others' calls stay what they were.
			wraps, unwraps = b.KMS.Wraps(), b.KMS.Unwraps()
			b.Reveal(who, b.MustTokenize(who, "plain", map[string]string{"name": "Jane"}).Tokens["name"])
			if b.KMS.Wraps() != wraps || b.KMS.Unwraps() != unwraps {
				t.Error("a record that isn't direct asked the KMS")
			}
		})
	}
}

// Calls that arrive together are read together, and each asks the KMS for its own record alone.
func TestDirectCallsAskForTheirOwnKeys(t *testing.T) {
	t.Parallel()
	b, who := newDirect(t)
	tokens := people(b, who, 64)
	unwraps := b.KMS.Unwraps()
	var wait sync.WaitGroup
	for i, token := range tokens {
		wait.Go(func() {
			if got, want := b.Reveal(who, token), fmt.Sprintf(`"person %d"`, i); got != want {
				t.Errorf("a token answers %s, want %s", got, want)
			}
		})
	}
	wait.Wait()
	if got := b.KMS.Unwraps() - unwraps; got != len(tokens) {
		t.Errorf("reading %d records took %d unwraps", len(tokens), got)
	}
}

// kmsCalls is how many calls of an operation went well, as the metrics have it.
func kmsCalls(t *testing.T, r *prometheus.Registry, operation string) (n float64) {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "privault_kms_calls_total" && m.GetLabel()[0].GetValue() == operation && m.GetLabel()[1].GetValue() == "ok" {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

func TestDirectRecordsLiveLikeOthers(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"together": nil, "apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, who := newDirect(t, options...)
			ctx := t.Context()
			item := vaulttest.Item(map[string]string{"name": "Jane", "mail": "jane@example.com"})
			item.Subject = "cust-1"
			done, err := b.Tokenize(ctx, who, vault.Batch{Collection: "people", Items: []vault.NewRecord{item}, Atomic: true})
			if err != nil {
				t.Fatal(err)
			}
			record, token := done[0].Record, done[0].Tokens["name"]
			if got := vaulttest.CountURL(t, b.KeysURL, `select count(*) from keystore.data_keys where get_byte(wrapped, 0) = 2`); got != 1 {
				t.Errorf("%d keys are wrapped directly", got)
			}
			rec, err := b.PatchRecord(ctx, who, "people", record, vault.Patch{Fields: map[string]vault.Secret{"name": secret(`"Ann"`)}, IfVersion: 1})
			if err != nil || rec.Version != 2 {
				t.Fatal(rec, err)
			}
			if got := b.Reveal(who, token); got != `"Ann"` {
				t.Errorf("the token gives %s", got)
			}
			_, err = b.PatchRecord(ctx, who, "people", record, vault.Patch{Fields: map[string]vault.Secret{"name": secret(`"Eve"`)}, IfVersion: 1})
			wantKind(t, "a change of an old version", err, vault.PreconditionFailed)
			_, err = b.PatchRecord(ctx, vaulttest.As(who, "auditor"), "people", record, vault.Patch{Fields: map[string]vault.Secret{"name": secret(`"Eve"`)}, IfVersion: 2})
			wantKind(t, "a change by an auditor", err, vault.Forbidden)
			got, err := b.GetRecord(ctx, who, "people", record, nil, "plain")
			if err != nil || string(got.Fields["mail"].Reveal()) != `"jane@example.com"` || got.Tokens["mail"] != done[0].Tokens["mail"] {
				t.Errorf("the record: %+v, %v", got, err)
			}
			found, _, err := b.SearchRecords(ctx, who, vault.Search{Collection: "people", Terms: []vault.Term{{Field: "name", Equals: secret(`"Ann"`)}}, At: strconv.Itoa, Limit: 5})
			if err != nil || len(found) != 1 {
				t.Errorf("found %v, %v", found, err)
			}
			held, _, err := b.GetSubject(ctx, who, "cust-1", "", 5)
			if err != nil || len(held.Records) != 1 || held.Records[0].Tokens["mail"] != done[0].Tokens["mail"] {
				t.Errorf("of the person: %+v, %v", held, err)
			}
			again, err := b.RotateTokens(ctx, who, []vault.TokenRef{{Token: token}, {Token: done[0].Tokens["mail"]}})
			if err != nil || again[0].Err != nil || again[1].Err != nil {
				t.Fatal(again, err)
			}
			token = again[1].Tokens["name"]
			if got := b.Reveal(who, token); got != `"Ann"` {
				t.Errorf("the new token gives %s", got)
			}
			if _, err := b.EraseSubject(ctx, who, "cust-1", "gdpr-17", false); err != nil {
				t.Fatal(err)
			}
			if got := b.Reveal(who, token); got != string(vault.TokenNotFound) {
				t.Errorf("erased, the token gives %s", got)
			}
			if got := vaulttest.CountURL(t, b.KeysURL, `select count(*) from keystore.data_keys`); got != 0 {
				t.Errorf("%d keys are left", got)
			}
		})
	}
}

// A directly wrapped key opens its record's version and nothing else.
func TestDirectKeysDoNotMove(t *testing.T) {
	t.Parallel()
	b, who := newDirect(t)
	names := map[string]string{"name": "Jane"}
	first, second := b.MustTokenize(who, "people", names), b.MustTokenize(who, "people", names)
	plain := b.MustTokenize(who, "plain", names)
	keyOf := func(r vault.Tokenized) []byte {
		return bytesOf(t, b.KeysURL, `select wrapped from keystore.data_keys where record_id = $1`, vault.RecordID(r.Record))
	}
	at := func(r vault.Tokenized, wrapped []byte) {
		b.Exec(`update keystore.data_keys set wrapped = $2 where record_id = $1`, vault.RecordID(r.Record), wrapped)
	}
	own, others, keysets := keyOf(first), keyOf(second), keyOf(plain)
	flipped := func(i int) []byte {
		f := append([]byte{}, own...)
		f[i] ^= 1
		return f
	}
	for what, wrapped := range map[string][]byte{
		"another record's": others, "one of the keyset": keysets, "a last bit flipped": flipped(len(own) - 1), "cut short": own[:len(own)-1],
		"the mark of a keyset": append([]byte{1}, own[1:]...), "no mark": own[9:], "an unknown mark": append([]byte{3}, own[1:]...),
	} {
		at(first, wrapped)
		if got := b.Reveal(who, first.Tokens["name"]); got != string(vault.IntegrityFailure) {
			t.Errorf("%s: the token gives %s", what, got)
		}
	}
	at(plain, own)
	if got := b.Reveal(who, plain.Tokens["name"]); got != string(vault.IntegrityFailure) {
		t.Errorf("another record's direct key: the token gives %s", got)
	}
	at(first, flipped(3)) // another KMS key, as it says: the one at hand is tried
	if got := b.Reveal(who, first.Tokens["name"]); got != jane {
		t.Errorf("with another name for the KMS key: %s", got)
	}
	at(first, own)
	other := b.Tenant()
	b.Exec(`update keystore.data_keys set tenant_id = $2 where record_id = $1`, vault.RecordID(first.Record), other.Tenant)
	b.Exec(`update privault.records set tenant_id = $2, collection_id = (select collection_id from privault.collections where tenant_id = $2)
		where record_id = $1`, vault.RecordID(first.Record), func() vault.ID { direct(t, b, other, "people"); return other.Tenant }())
	_, err := b.GetRecord(t.Context(), other, "people", first.Record, nil, "plain")
	wantKind(t, "in another tenant", err, vault.IntegrityFailure)
}

// While the KMS is away, or refuses, direct records are told so and all else goes on.
func TestDirectRecordsInAnOutage(t *testing.T) {
	t.Parallel()
	b, who := newDirect(t)
	tokens := people(b, who, 200)
	plain := b.MustTokenize(who, "plain", map[string]string{"name": "Jane"}).Tokens["name"]
	refs := []vault.TokenRef{{Token: plain, View: "plain"}}
	for _, token := range tokens {
		refs = append(refs, vault.TokenRef{Token: token, View: "plain"})
	}
	for what, set := range map[string]func(bool){"away": b.KMS.SetDown, "refusing": b.KMS.SetDenied} {
		set(true)
		b.Advance(3 * time.Second)
		calls := b.KMS.Wraps() + b.KMS.Unwraps()
		done, err := b.Detokenize(t.Context(), who, refs)
		if err != nil || done[0].Err != nil {
			t.Fatalf("%s: the record that isn't direct: %v, %v", what, err, done[0].Err)
		}
		for _, d := range done[1:] {
			if d.Err == nil || d.Err.Kind != vault.KMSUnavailable || what == "refusing" != strings.Contains(d.Err.Detail, "refuses") {
				t.Fatalf("%s: a direct record: %v", what, d.Err)
			}
		}
		stored := b.Count(`select count(*) from privault.records`)
		for _, atomic := range []bool{false, true} {
			_, err = b.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": "Joe"}), Atomic: atomic})
			if !atomic {
				continue // one by one
			}
			wantKind(t, what+", a new direct record", err, vault.KMSUnavailable)
		}
		again, err := b.RotateTokens(t.Context(), who, []vault.TokenRef{{Token: tokens[1]}, {Token: plain}})
		if err != nil || again[0].Err == nil || again[0].Err.Kind != vault.KMSUnavailable || again[1].Err != nil {
			t.Fatalf("%s, new tokens: %+v, %v", what, again, err)
		}
		plain = again[1].Tokens["name"]
		refs[0].Token = plain
		if got := b.Count(`select count(*) from privault.records`); got != stored {
			t.Errorf("%s: %d records, want %d", what, got, stored)
		}
		if got := b.KMS.Wraps() + b.KMS.Unwraps() - calls; got > 32 {
			t.Errorf("%s: %d calls of a KMS that fails", what, got)
		}
		b.MustTokenize(who, "plain", map[string]string{"name": "Joe"})
		set(false)
		b.Advance(3 * time.Second)
		if got := b.Reveal(who, tokens[0]); got != `"person 0"` {
			t.Errorf("%s, and back: %s", what, got)
		}
	}
}

// No transaction, and no connection, waits for a call of the KMS.
func TestDirectCallsHoldNoConnection(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"together": nil, "apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, who := newDirect(t, options...)
			ctx := t.Context()
			stored := b.MustTokenize(who, "people", map[string]string{"name": "Jane", "mail": "jane@example.com"})
			other := b.MustTokenize(who, "people", map[string]string{"name": "Bob"})
			for what, do := range map[string]func() error{
				"tokenize": func() error {
					_, err := b.Tokenize(ctx, who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": "Joe"})})
					return err
				},
				"detokenize": func() error {
					_, err := b.Detokenize(ctx, who, []vault.TokenRef{{Token: stored.Tokens["name"]}})
					return err
				},
				"read": func() error {
					_, err := b.GetRecord(ctx, who, "people", stored.Record, nil, "plain")
					return err
				},
				"patch": func() error {
					_, err := b.PatchRecord(ctx, who, "people", stored.Record, vault.Patch{Fields: map[string]vault.Secret{"name": secret(`"Ann"`)}, IfVersion: 1})
					return err
				},
				"rotate": func() error {
					_, err := b.RotateTokens(ctx, who, []vault.TokenRef{{Token: other.Tokens["name"]}})
					return err
				},
				"search": func() error {
					_, _, err := b.SearchRecords(ctx, who, vault.Search{Collection: "people", Terms: []vault.Term{{Field: "name", Equals: secret(`"Bob"`)}}, At: strconv.Itoa, Limit: 5})
					return err
				},
			} {
				release := b.KMS.Hold()
				calls := b.KMS.Wraps() + b.KMS.Unwraps()
				ended := make(chan error, 1)
				go func() { ended <- do() }()
				await(t, what+" asks the KMS", func() bool { return b.KMS.Wraps()+b.KMS.Unwraps() > calls })
				await(t, what+" holds no connection", func() bool { return b.InUse() == 0 })
				release()
				if err := <-ended; err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

func TestKMSOfACollectionChangesWhileItIsEmpty(t *testing.T) {
	t.Parallel()
	b, who := newDirect(t)
	d := vault.Definition{Fields: map[string]vault.FieldDefinition{"name": {Type: "string"}}}
	put := func(kms string) error {
		d.KMS = kms
		_, _, err := b.PutCollection(t.Context(), who, "plain", d, 0)
		return err
	}
	wantKind(t, "another kms", put("sideways"), vault.Invalid)
	if err := put("direct"); err != nil {
		t.Fatal(err)
	}
	calls := b.KMS.Wraps()
	b.MustTokenize(who, "plain", map[string]string{"name": "Jane"})
	if b.KMS.Wraps() != calls+1 {
		t.Error("the record isn't direct")
	}
	wantKind(t, "back, with a record in it", put("hierarchical"), vault.Conflict)
	wantKind(t, "back, by default", put(""), vault.Conflict)
	if err := put("direct"); err != nil {
		t.Error(err)
	}
}

// Moved to another KMS key, direct records follow by a job, those besides that another replica wraps under the old key meanwhile.
func TestDirectRecordsFollowTheRootKey(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"together": nil, "apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			keys := &ownKeys{named: map[string]kms.Key{}}
			next := kmstest.NewFaulty(kmstest.Local(t))
			keys.add(next)
			b, who := newDirect(t, append(options, vaulttest.With(func(c *vault.Config) { c.OpenKMS, c.KeyCacheTTL = keys.open, 2*time.Second }))...)
			keys.add(b.KMS)
			tokens := people(b, who, 450)
			replica := b.Replica()
			revealAll(t, replica, who, tokens[:1])
			before := rows(t, b.OwnerURL, `select record_id, version, updated_at, sealed from privault.records order by 1`)
			done, moved, err := b.MoveRoot(t.Context(), who, next.URI())
			if err != nil || !moved || done.Job == "" {
				t.Fatalf("got %+v, %v", done, err)
			}
			revealAll(t, b.Vault, who, tokens[:3]) // under the key that wrapped them, before the job has come
			late, err := replica.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": "late"})})
			if err != nil {
				t.Fatal(err)
			}
			b.Work()
			if j := b.Finish(who, done.Job); j.State != "completed" || j.Done != 451 {
				t.Errorf("the job: %+v", j)
			}
			b.KMS.SetDenied(true) // the old key is needed no more
			revealAll(t, b.Vault, who, tokens)
			if got := vaulttest.RevealOn(t, replica, who, late[0].Tokens["name"]); got != `"late"` {
				t.Errorf("what was wrapped late gives %s", got)
			}
			marks := `select count(distinct substring(wrapped from 1 for 9)) from keystore.data_keys`
			if n := vaulttest.CountURL(t, b.KeysURL, marks); n != 1 {
				t.Errorf("the keys are under %d KMS keys", n)
			}
			after := rows(t, b.OwnerURL, `select record_id, version, updated_at, sealed from privault.records where record_id <> $1 order by 1`,
				vault.RecordID(late[0].Record))
			if !slices.Equal(before, after) {
				t.Error("a record has changed")
			}
			// A new root key under the same KMS key wraps them anew too, by the newest version of that.
			if done, err = b.RotateKey(t.Context(), who, "root"); err != nil || done.Job == "" {
				t.Fatalf("got %+v, %v", done, err)
			}
			if j := b.Finish(who, done.Job); j.State != "completed" || j.Done != 451 || *j.Total != 451 {
				t.Errorf("the job: %+v", j)
			}
			revealAll(t, b.Vault, who, tokens[:20])
		})
	}
}

// Through the real SDK: throttled calls are made again, and a new root key has AWS re-encrypt each record's key inside itself.
func TestDirectRecordsOnAWS(t *testing.T) {
	t.Parallel()
	s := kmstest.NewAWSServer(t)
	arn, err := s.Create("eu-central-1", false)
	if err != nil {
		t.Fatal(err)
	}
	key, err := kms.Open(t.Context(), "aws-kms://"+arn, s.Options())
	if err != nil {
		t.Fatal(err)
	}
	b, who := newDirect(t, vaulttest.With(func(c *vault.Config) { c.KMS = key }))
	const n = 300
	if _, err := b.Keys(t.Context(), who); err != nil { // the tenant's root key is at hand
		t.Fatal(err)
	}
	s.Throttle(3) // as many as one call bears, should it meet all of them
	before := s.Calls()
	tokens := people(b, who, n)
	if got := s.Calls() - before; got != n+3 {
		t.Errorf("%d records with 3 throttled calls took %d calls", n, got)
	}
	if err := s.Rotate(arn); err != nil {
		t.Fatal(err)
	}
	before = s.Calls()
	done, err := b.RotateKey(t.Context(), who, "root")
	if err != nil || done.Job == "" {
		t.Fatalf("got %+v, %v", done, err)
	}
	b.Work()
	if j := b.Finish(who, done.Job); j.State != "completed" || j.Done != n {
		t.Errorf("the job: %+v", j)
	}
	if got := s.Calls() - before; got < n || got > n+10 {
		t.Errorf("wrapping %d keys anew took %d calls", n, got)
	}
	revealAll(t, b.Vault, who, tokens)
	s.SetState(arn, "Disabled")
	if got := b.Reveal(who, tokens[0]); got != unavailable {
		t.Errorf("with the key disabled: %s", got)
	}
	if log := b.Log.String(); strings.Contains(log, arn) {
		t.Error("the key's ARN is in the log")
	}
}
