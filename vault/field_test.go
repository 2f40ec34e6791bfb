package vault_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/datatype"
	"github.com/privault/privault/vault/vaulttest"
)

// masked reads a token in the default view.
func masked(t *testing.T, v *vaulttest.Bench, who vault.Caller, token string) string {
	t.Helper()
	done, err := v.Detokenize(t.Context(), who, []vault.TokenRef{{Token: token}})
	if err != nil || done[0].Err != nil {
		t.Fatal(err, done)
	}
	var s string
	if err := json.Unmarshal(done[0].Value.Reveal(), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// A value of every type comes back byte for byte, and masked as its field says.
func TestEveryTypeComesBackAndIsMasked(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	fields, values, want := map[string]vault.FieldDefinition{}, map[string]vault.Secret{}, map[string]string{}
	add := func(name string, d vault.FieldDefinition, value, shown string) {
		fields[name], values[name], want[name] = d, vault.NewSecret([]byte(value)), shown
	}
	for _, d := range datatype.Describe() {
		add(d.Name, vault.FieldDefinition{Type: d.Name, Pattern: d.Pattern, Normalise: d.Normalise}, string(d.Examples[0].Value), d.Examples[0].Masked)
	}
	mask := func(typ string, m datatype.MaskDefinition) vault.FieldDefinition {
		return vault.FieldDefinition{Type: typ, Mask: &m}
	}
	add("own_pan", mask("pan", datatype.MaskDefinition{RevealFirst: 6, RevealLast: 4}), `"4111 1111 1111 1111"`, "411111******1111")
	add("own_ssn", mask("us_ssn", datatype.MaskDefinition{Template: "***-**-{last4}"}), `"123456789"`, "***-**-6789")
	add("own_email", mask("email", datatype.MaskDefinition{Part: "domain"}), `"jane@example.com"`, "***@example.com")
	add("own_birth", mask("date_of_birth", datatype.MaskDefinition{Part: "none"}), `"1978-05-06"`, "***")
	plate := mask("custom", datatype.MaskDefinition{Template: "{first2}-***"})
	plate.Pattern, plate.Normalise = `^[A-Z]{2}[0-9]{6}$`, []string{"lower"}
	add("plate", plate, `"AB123456"`, "AB-***")
	add("hidden", vault.FieldDefinition{Type: "custom", Pattern: `^[A-Z]{4}$`}, `"ABCD"`, "***")

	if _, _, err := v.PutCollection(t.Context(), who, "all", define(fields), 0); err != nil {
		t.Fatal(err)
	}
	if c, _, err := v.PutCollection(t.Context(), who, "all", define(fields), 0); err != nil || c.Version != 1 {
		t.Fatal("the same definition again:", c, err)
	}
	done, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "all", Items: []vault.NewRecord{{Fields: maps.Clone(values)}}})
	if err != nil || done[0].Err != nil {
		t.Fatal(err, done)
	}
	for name, token := range done[0].Tokens {
		if got := v.Reveal(who, token); got != string(values[name].Reveal()) {
			t.Errorf("%s comes back as %s", name, got)
		}
		if got := masked(t, v, who, token); got != want[name] {
			t.Errorf("%s is masked as %s, want %s", name, got, want[name])
		}
	}
	if len(done[0].Tokens) != len(fields) {
		t.Errorf("%d tokens of %d fields", len(done[0].Tokens), len(fields))
	}
}

func TestFieldsThatAreRefused(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	for i, story := range []struct {
		field    vault.FieldDefinition
		at, rule string
	}{
		{vault.FieldDefinition{Type: "custom"}, "pattern", "pattern"},
		{vault.FieldDefinition{Type: "custom", Pattern: `[A-Z]{2}`}, "pattern", "pattern"},
		{vault.FieldDefinition{Type: "custom", Pattern: `^(a|b)*a(a|b){16}$`}, "pattern", "pattern"},
		{vault.FieldDefinition{Type: "custom", Pattern: `^a$`, Normalise: []string{"sort"}}, "normalise", "normalise"},
		{vault.FieldDefinition{Type: "string", Pattern: `^a$`}, "pattern", "pattern"},
		{vault.FieldDefinition{Type: "string", Normalise: []string{"trim"}}, "normalise", "normalise"},
		{vault.FieldDefinition{Type: "pan", Mask: &datatype.MaskDefinition{RevealFirst: 9, RevealLast: 4}}, "mask", "mask"},
		{vault.FieldDefinition{Type: "pan", Mask: &datatype.MaskDefinition{Template: "{last5}"}}, "mask", "mask"},
		{vault.FieldDefinition{Type: "us_ssn", Mask: &datatype.MaskDefinition{RevealLast: 9}}, "mask", "mask"},
		{vault.FieldDefinition{Type: "custom", Pattern: `^[0-9]{4}$`, Mask: &datatype.MaskDefinition{RevealLast: 4}}, "mask", "mask"},
		{vault.FieldDefinition{Type: "string", Mask: &datatype.MaskDefinition{}}, "mask", "mask"},
		{vault.FieldDefinition{Type: "cvv", Mask: &datatype.MaskDefinition{Part: "none"}}, "type", "not-storable"},
	} {
		_, _, err := v.PutCollection(t.Context(), who, "c", define(map[string]vault.FieldDefinition{"f": story.field}), 0)
		wantKind(t, fmt.Sprint(i), err, vault.Invalid)
		if diff := cmp.Diff([]vault.FieldError{{Pointer: "/fields/f/" + story.at, Rule: story.rule}}, vault.AsError(err).Fields); diff != "" {
			t.Errorf("%+v: faults (-want +got):\n%s", story.field, diff)
		}
	}
}

// A mask may change. To show more is noted, and refused in a restricted field; a custom type stays what it is.
func TestMasksEvolve(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	last := func(n int) *datatype.MaskDefinition { return &datatype.MaskDefinition{RevealLast: n} }
	none := &datatype.MaskDefinition{Part: "none"}
	pattern := vault.FieldDefinition{Type: "custom", Pattern: `^[a-z]{8}$`, Normalise: []string{"trim"}}
	otherPattern, otherSteps := pattern, pattern
	otherPattern.Pattern, otherSteps.Normalise = `^[a-z]{9}$`, nil
	for i, story := range []struct {
		was, is  vault.FieldDefinition
		at       string // of the fault; empty: allowed
		loosened int    // entries that say so
	}{
		{vault.FieldDefinition{Type: "pan"}, vault.FieldDefinition{Type: "pan", Mask: none}, "", 0},
		{vault.FieldDefinition{Type: "pan", Mask: none}, vault.FieldDefinition{Type: "pan"}, "", 1},
		{vault.FieldDefinition{Type: "pan"}, vault.FieldDefinition{Type: "pan", Mask: last(4)}, "", 0},
		{vault.FieldDefinition{Type: "string", Mask: last(2)}, vault.FieldDefinition{Type: "string", Mask: last(4)}, "", 1},
		{vault.FieldDefinition{Type: "string", Mask: last(2), Classification: "restricted"},
			vault.FieldDefinition{Type: "string", Mask: last(4), Classification: "restricted"}, "/fields/f/mask loosened", 0},
		{vault.FieldDefinition{Type: "string", Mask: last(4), Classification: "restricted"},
			vault.FieldDefinition{Type: "string", Mask: last(2), Classification: "restricted"}, "", 0},
		// What the CCPA keeps from being handed out may be marked and unmarked, which is noted; whether it is portable is not.
		{vault.FieldDefinition{Type: "string"}, vault.FieldDefinition{Type: "string", Nondisclosable: true, Portable: true}, "", 0},
		{vault.FieldDefinition{Type: "string", Nondisclosable: true}, vault.FieldDefinition{Type: "string", Portable: true}, "", 1},
		{pattern, otherPattern, "/fields/f/pattern changed", 0},
		{pattern, otherSteps, "/fields/f/normalise changed", 0},
	} {
		name := fmt.Sprint("c", i)
		put := func(f vault.FieldDefinition) (*vault.Collection, error) {
			c, _, err := v.PutCollection(t.Context(), who, name, define(map[string]vault.FieldDefinition{"f": f}), 0)
			return c, err
		}
		if _, err := put(story.was); err != nil {
			t.Fatal(i, err)
		}
		c, err := put(story.is)
		if story.at != "" {
			wantKind(t, name, err, vault.Conflict)
			if f := vault.AsError(err).Fields; len(f) != 1 || f[0].Pointer+" "+f[0].Rule != story.at {
				t.Errorf("%d: faults %v, want %s", i, f, story.at)
			}
			continue
		}
		if err != nil || c.Version != 2 {
			t.Errorf("%d: %v, %v", i, c, err)
		}
		if got := v.Count(`select count(*) from privault.audit_entries where body like '%"collection":"` + name + `","fields":["f"],"outcome":"loosened"%'`); got != story.loosened {
			t.Errorf("%d: %d entries say that the mask shows more, want %d", i, got, story.loosened)
		}
	}
}

// The normaliser's version is stored with each field; another one than the server's makes its index stale, until it is
// made anew, and a change of the collection does not pass for that.
func TestAStaleNormaliserIsReported(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	v.Collection(who, "people", map[string]string{"name": "name", "email": "email"})
	if got := v.Count(`select (definition->'normalisers'->>'email')::int from privault.collections`); got != datatype.NormaliserVersion {
		t.Errorf("a new field has normaliser %d", got)
	}
	stale := func() []string {
		t.Helper()
		c, err := v.Replica().GetCollection(t.Context(), who, "people")
		if err != nil {
			t.Fatal(err)
		}
		return c.Stale()
	}
	if got := stale(); len(got) != 0 {
		t.Errorf("stale from the start: %v", got)
	}
	// As a server with another normaliser would have left it; name has no index, so nothing of it is stale.
	v.Exec(`update privault.collections set definition = jsonb_set(jsonb_set(jsonb_set(definition,
		'{normalisers,email}', '99'), '{normalisers,name}', '99'), '{fields,email,index}', '["exact"]')`)
	if got := stale(); !slices.Equal(got, []string{"email"}) {
		t.Errorf("stale are %v", got)
	}
	// A collection from before there were versions has the first one.
	v.Exec(`update privault.collections set definition = definition - 'normalisers'`)
	if got, want := stale(), datatype.NormaliserVersion != 1; len(got) > 0 != want {
		t.Errorf("without versions, stale are %v", got)
	}
}

func TestAStaleIndexIsRefusedAndMadeAnew(t *testing.T) {
	t.Parallel()
	c := newCensus(t, "", 30)
	replica := c.Replica()
	c.holds(t, "before", replica)
	// As a server with another normaliser would have left it: what it made of the values is found by nobody.
	c.Exec(`update privault.collections set version = version + 1, definition = jsonb_set(definition, '{normalisers,email}', '99')`)
	c.Exec(`update privault.blind_index set digest = sha256(digest) where sole`)
	c.Exec(`update privault.records r set digests = (select array_agg(case when exists (
			select from privault.blind_index i where i.digest = sha256(d) and i.record_id = r.record_id) then sha256(d) else d end)
		from unnest(r.digests) d)`)
	fresh := c.Replica()
	for _, v := range []*vault.Vault{fresh, c.Replica()} {
		if _, _, err := v.SearchRecords(t.Context(), c.who, seek("people", "email", c.email(1))); kind(err) != vault.Conflict {
			t.Errorf("searching a stale index: %v", err)
		}
	}
	c.Work()
	done, err := c.RotateKey(t.Context(), c.who, "index")
	if err != nil {
		t.Fatal(err)
	}
	c.Finish(c.who, done.Job)
	for _, v := range []*vault.Vault{replica, fresh, c.Replica()} {
		coll, err := v.GetCollection(t.Context(), c.who, "people")
		if err != nil || len(coll.Stale()) > 0 {
			t.Errorf("stale are %v, %v", coll.Stale(), err)
		}
		c.holds(t, "made anew", v)
	}
	if n := c.Count(`select count(*) from privault.blind_index i where not exists (select from privault.records r where r.record_id = i.record_id and i.digest = any(r.digests))`); n > 0 {
		t.Errorf("%d entries lead to a record that doesn't know of them", n)
	}
}

func TestReadingTheTypesLeavesAnEntry(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	if types, err := v.Types(t.Context(), who); err != nil || len(types) != len(datatype.Names())+1 {
		t.Errorf("%d types, %v", len(types), err)
	}
	nobody := vaulttest.As(who)
	_, err := v.Types(t.Context(), nobody)
	wantKind(t, "without a role", err, vault.Forbidden)
	for outcome, want := range map[string]int{"ok": 1, "denied": 1} {
		if got := v.Count(`select count(*) from privault.audit_entries where action = 'collection.read' and outcome = $1`, outcome); got != want {
			t.Errorf("%d entries %s, want %d", got, outcome, want)
		}
	}
}
