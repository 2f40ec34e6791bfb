package vault_test

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/shape"
	"github.com/privault/privault/vault/vaulttest"
)

func define(fields map[string]vault.FieldDefinition) vault.Definition {
	return vault.Definition{Fields: fields}
}

func TestCollectionEvolves(t *testing.T) {
	t.Parallel()
	base := map[string]vault.FieldDefinition{
		"name": {Type: "string", Required: true, Classification: "internal"},
		"note": {Type: "string", Token: vault.TokenDefinition{Strategy: "none"}},
	}
	with := func(name string, f vault.FieldDefinition) map[string]vault.FieldDefinition {
		fields := maps.Clone(base)
		fields[name] = f
		return fields
	}
	without := func(name string) map[string]vault.FieldDefinition {
		fields := maps.Clone(base)
		delete(fields, name)
		return fields
	}
	v := vaulttest.New(t)
	who := v.Tenant()
	for i, story := range []struct {
		what   string
		after  map[string]vault.FieldDefinition
		strand []vault.FieldError // empty: allowed
		same   bool               // no new version
	}{
		{"nothing", base, nil, true},
		{"an optional field more", with("more", vault.FieldDefinition{Type: "email"}), nil, false},
		{"a required field more", with("more", vault.FieldDefinition{Type: "email", Required: true}), []vault.FieldError{{Pointer: "/fields/more/required", Rule: "tightened"}}, false},
		{"a field less", without("note"), []vault.FieldError{{Pointer: "/fields/note", Rule: "removed"}}, false},
		{"another type", with("note", vault.FieldDefinition{Type: "email", Token: vault.TokenDefinition{Strategy: "none"}}),
			[]vault.FieldError{{Pointer: "/fields/note/type", Rule: "changed"}}, false},
		{"no longer required", with("name", vault.FieldDefinition{Type: "string", Classification: "internal"}), nil, false},
		{"required from now on", with("note", vault.FieldDefinition{Type: "string", Required: true, Token: vault.TokenDefinition{Strategy: "none"}}),
			[]vault.FieldError{{Pointer: "/fields/note/required", Rule: "tightened"}}, false},
		{"tokens from now on", with("note", vault.FieldDefinition{Type: "string"}), nil, false},
		{"tokens no longer", with("name", vault.FieldDefinition{Type: "string", Required: true, Classification: "internal", Token: vault.TokenDefinition{Strategy: "none"}}),
			[]vault.FieldError{{Pointer: "/fields/name/token/strategy", Rule: "changed"}}, false},
		{"a stricter classification", with("name", vault.FieldDefinition{Type: "string", Required: true, Classification: "restricted"}), nil, false},
		{"a looser classification", with("name", vault.FieldDefinition{Type: "string", Required: true, Classification: "public"}),
			[]vault.FieldError{{Pointer: "/fields/name/classification", Rule: "lowered"}}, false},
	} {
		name := fmt.Sprint("c", i)
		c, created, err := v.PutCollection(t.Context(), who, name, define(maps.Clone(base)), 0)
		if err != nil || !created || c.Version != 1 {
			t.Fatal(story.what, c, created, err)
		}
		c, created, err = v.PutCollection(t.Context(), who, name, define(story.after), 0)
		if len(story.strand) > 0 {
			wantKind(t, story.what, err, vault.Conflict)
			if diff := cmp.Diff(story.strand, vault.AsError(err).Fields); diff != "" {
				t.Errorf("%s: faults (-want +got):\n%s", story.what, diff)
			}
			c, err = v.GetCollection(t.Context(), who, name)
			if err != nil || c.Version != 1 {
				t.Errorf("%s: afterwards it has version %d, %v", story.what, c.Version, err)
			}
			continue
		}
		if want := map[bool]int32{true: 1, false: 2}[story.same]; err != nil || created || c.Version != want {
			t.Errorf("%s: version %d, created %t, %v", story.what, c.Version, created, err)
		}
	}
}

func TestDefinitionsThatAreRefused(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	many := map[string]vault.FieldDefinition{}
	for i := range 201 {
		many[fmt.Sprint("f", i)] = vault.FieldDefinition{Type: "string"}
	}
	field := func(f vault.FieldDefinition) vault.Definition {
		return define(map[string]vault.FieldDefinition{"f": f})
	}
	for what, story := range map[string]struct {
		definition vault.Definition
		at         string
		rule       string
	}{
		"no field":                 {vault.Definition{}, "/fields", "size"},
		"too many fields":          {define(many), "/fields", "size"},
		"a field's name":           {define(map[string]vault.FieldDefinition{"Bad": {Type: "string"}}), "/fields", "name"},
		"a type that is not known": {field(vault.FieldDefinition{Type: "colour"}), "/fields/f/type", "type"},
		"a type that is refused":   {field(vault.FieldDefinition{Type: "cvv"}), "/fields/f/type", "not-storable"},
		"a classification":         {field(vault.FieldDefinition{Type: "string", Classification: "secret"}), "/fields/f/classification", "classification"},
		"an index that is none":    {field(vault.FieldDefinition{Type: "string", Index: []string{"soundex"}}), "/fields/f/index", "index"},
		"an index twice":           {field(vault.FieldDefinition{Type: "string", Index: []string{"exact", "exact"}}), "/fields/f/index", "duplicate"},
		"unique without an index":  {field(vault.FieldDefinition{Type: "string", Unique: true}), "/fields/f/unique", "index"},
		"what is supplied":         {field(vault.FieldDefinition{Type: "string", Token: vault.TokenDefinition{Supplied: "maybe"}}), "/fields/f/token/supplied", "supplied"},
		"supplied for no token":    {field(vault.FieldDefinition{Type: "string", Token: vault.TokenDefinition{Strategy: "none", Supplied: "allowed"}}), "/fields/f/token/supplied", "supplied"},
		"a token strategy":         {field(vault.FieldDefinition{Type: "string", Token: vault.TokenDefinition{Strategy: "xor"}}), "/fields/f/token/strategy", "strategy"},
		"a shape of random tokens": {field(vault.FieldDefinition{Type: "string", Token: vault.TokenDefinition{Options: shape.Options{KeepPrefix: 1}}}), "/fields/f/token", "not-applicable"},
		"a shape of no text":       {field(vault.FieldDefinition{Type: "number", Token: vault.TokenDefinition{Strategy: "fpe"}}), "/fields/f/token/strategy", "not-applicable"},
		"FF1 of addresses":         {field(vault.FieldDefinition{Type: "email", Token: vault.TokenDefinition{Strategy: "fpe"}}), "/fields/f/token/shape", "not-applicable"},
		"another KMS":              {vault.Definition{KMS: "elsewhere", Fields: map[string]vault.FieldDefinition{"f": {Type: "string"}}}, "/kms", "kms"},
		"a period":                 {vault.Definition{Retention: &vault.Retention{Keep: "1d"}, Fields: map[string]vault.FieldDefinition{"f": {Type: "string"}}}, "/retention/keep", "period"},
		"a field's rule, direct":   {vault.Definition{KMS: "direct", Fields: map[string]vault.FieldDefinition{"f": {Type: "string", Retention: &vault.Retention{Keep: "P1D"}}}}, "/fields/f/retention", "direct"},
		"a long description":       {vault.Definition{Description: strings.Repeat("x", 1001), Fields: map[string]vault.FieldDefinition{"f": {Type: "string"}}}, "/description", "max-length"},
		"a description with NUL":   {vault.Definition{Description: "\x00", Fields: map[string]vault.FieldDefinition{"f": {Type: "string"}}}, "/description", "max-length"},
	} {
		_, _, err := v.PutCollection(t.Context(), who, "people", story.definition, 0)
		wantKind(t, what, err, vault.Invalid)
		if diff := cmp.Diff([]vault.FieldError{{Pointer: story.at, Rule: story.rule}}, vault.AsError(err).Fields); diff != "" {
			t.Errorf("%s: faults (-want +got):\n%s", what, diff)
		}
	}
	for _, name := range []string{"", "People", "9", "a-b", "a\x00", strings.Repeat("a", 64), "a.b", "a b"} {
		_, _, err := v.PutCollection(t.Context(), who, name, field(vault.FieldDefinition{Type: "string"}), 0)
		wantKind(t, "the name "+name, err, vault.Invalid)
		_, err = v.GetCollection(t.Context(), who, name)
		wantKind(t, "getting "+name, err, vault.NotFound)
		wantKind(t, "deleting "+name, v.DeleteCollection(t.Context(), who, name, 0), vault.NotFound)
	}
	if got := v.Count(`select count(*) from privault.collections`); got != 0 {
		t.Errorf("%d collections were made", got)
	}
}

// A field's number is part of every token and ciphertext: it never changes, and no other field gets it.
func TestFieldNumbersAreForGood(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	numbers := func() string {
		return rows(t, v.OwnerURL, `select definition->'numbers' from privault.collections where name = 'people'`)[0]
	}
	fields := map[string]vault.FieldDefinition{"m": {Type: "string"}}
	for _, step := range []struct{ add, want string }{
		{"z", "map[m:1 z:2]"}, {"a", "map[a:3 m:1 z:2]"}, {"n", "map[a:3 m:1 n:4 z:2]"},
	} {
		fields[step.add] = vault.FieldDefinition{Type: "string"}
		if _, _, err := v.PutCollection(t.Context(), who, "people", define(maps.Clone(fields)), 0); err != nil {
			t.Fatal(err)
		}
		if got := numbers(); got != step.want {
			t.Errorf("numbers are %s, want %s", got, step.want)
		}
	}
	// In a collection that is made anew under an old name, the same number is another place.
	done := v.MustTokenize(who, "people", map[string]string{"m": "x"})
	if err := v.DeleteRecord(t.Context(), who, "people", done.Record, 0); err != nil {
		t.Fatal(err)
	}
	if err := v.DeleteCollection(t.Context(), who, "people", 0); err != nil {
		t.Fatal(err)
	}
	v.Collection(who, "people", map[string]string{"m": "string"})
	if got := v.Reveal(who, done.Tokens["m"]); got != string(vault.TokenNotFound) {
		t.Errorf("a token of the collection before gives %s", got)
	}
}

// What one replica changes, the others work with at their next write, and every value stays readable everywhere.
func TestCollectionChangesReachOtherReplicas(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who, other := v.Tenant(), v.Replica()
	ctx := t.Context()
	v.Collection(who, "people", map[string]string{"name": "string"})
	before := v.MustTokenize(who, "people", map[string]string{"name": "Jane"})
	if got := vaulttest.RevealOn(t, other, who, before.Tokens["name"]); got != jane {
		t.Fatal(got)
	}
	if err := other.CanTokenize(ctx, who, "people"); err != nil {
		t.Fatal(err)
	}
	v.Collection(who, "people", map[string]string{"name": "string", "email": "email"})
	after := v.MustTokenize(who, "people", map[string]string{"name": "Joe", "email": "joe@example.com"})
	if got := vaulttest.RevealOn(t, other, who, after.Tokens["email"]); got != `"joe@example.com"` {
		t.Errorf("the new field on the other replica gives %s", got)
	}
	if got := vaulttest.RevealOn(t, other, who, before.Tokens["name"]); got != jane {
		t.Errorf("the old record gives %s", got)
	}
	// The other replica's schema is old when it is asked to store by it.
	done, err := other.Tokenize(ctx, who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": "Ann"})})
	if err != nil || done[0].Err != nil {
		t.Fatalf("a write with an old schema: %v, %v", done, err)
	}
	for _, record := range []string{before.Record, after.Record, done[0].Record} {
		if err := v.DeleteRecord(ctx, who, "people", record, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.DeleteCollection(ctx, who, "people", 0); err != nil {
		t.Fatal(err)
	}
	_, err = other.Tokenize(ctx, who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": "Eve"})})
	wantKind(t, "a write into a collection that is gone", err, vault.NotFound)
	v.Collection(who, "people", map[string]string{"name": "string"})
	done, err = other.Tokenize(ctx, who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": "Eve"})})
	if err != nil || vaulttest.RevealOn(t, v.Vault, who, done[0].Tokens["name"]) != `"Eve"` {
		t.Errorf("a write into the collection of that name made anew: %v, %v", done, err)
	}
}

func TestCollectionWithRecordsStays(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	wantKind(t, "deleting it", w.DeleteCollection(t.Context(), w.who, "people", 0), vault.Conflict)
	w.read(t, jane)
}

// 64 writers against one who deletes the collection: no record is ever in a collection that isn't there, and what was
// acknowledged is readable.
func TestDeletingACollectionAgainstWriters(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	replicas := []*vault.Vault{v.Vault, v.Replica()}
	ctx := t.Context()
	var stored, deleted atomic.Int32
	for round := range 6 {
		v.Collection(who, "people", map[string]string{"name": "string"})
		var wait sync.WaitGroup
		start := make(chan struct{})
		for i := range 64 {
			wait.Go(func() {
				<-start
				mine := replicas[i%2]
				if i%16 == round%16 {
					switch err := mine.DeleteCollection(ctx, who, "people", 0); kind(err) {
					case "":
						deleted.Add(1)
					case vault.Conflict, vault.NotFound:
					default:
						t.Errorf("deleting: %v", err)
					}
					return
				}
				done, err := mine.Tokenize(ctx, who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": "Jane"})})
				switch kind(err) {
				case "":
					stored.Add(1)
					if got := vaulttest.RevealOn(t, replicas[(i+1)%2], who, done[0].Tokens["name"]); got != jane {
						t.Errorf("an acknowledged record gives %s", got)
					}
				case vault.NotFound:
				default:
					t.Errorf("storing: %v", err)
				}
			})
		}
		close(start)
		wait.Wait()
		orphans := v.Count(`select count(*) from privault.records r where not exists (
			select from privault.collections c where c.tenant_id = r.tenant_id and c.collection_id = r.collection_id)`)
		if orphans != 0 {
			t.Fatalf("round %d: %d records in a collection that is gone", round, orphans)
		}
		v.Exec(`delete from privault.records`)
		if err := v.DeleteCollection(ctx, who, "people", 0); err != nil && kind(err) != vault.NotFound {
			t.Fatal(err)
		}
	}
	if stored.Load() == 0 || deleted.Load() == 0 {
		t.Errorf("%d records stored and %d collections deleted: that was no race", stored.Load(), deleted.Load())
	}
}

// Two that make the same collection at once: one makes it, the others evolve it.
func TestCollectionMadeByManyAtOnce(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	replicas := []*vault.Vault{v.Vault, v.Replica()}
	var made atomic.Int32
	var wait sync.WaitGroup
	for i := range 16 {
		wait.Go(func() {
			_, created, err := replicas[i%2].PutCollection(t.Context(), who, "people", define(map[string]vault.FieldDefinition{"name": {Type: "string"}}), 0)
			if err != nil {
				t.Error(err)
			}
			if created {
				made.Add(1)
			}
		})
	}
	wait.Wait()
	if made.Load() != 1 {
		t.Errorf("%d of 16 made the collection", made.Load())
	}
}
