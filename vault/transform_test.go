package vault_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/datatype"
	"github.com/privault/privault/vault/shape"
	"github.com/privault/privault/vault/vaulttest"
)

// cards is a transform of card numbers.
var cards = vault.TransformDefinition{Options: shape.Options{Alphabet: "digits", KeepSuffix: 4, Luhn: "invalid", MinLength: 13, MaxLength: 19}}

// code encodes or decodes one text by the transform "cards".
func code(do func(context.Context, vault.Caller, string, []vault.TransformItem) ([]vault.Transformed, error), who vault.Caller, text string) (string, error) {
	done, err := do(context.Background(), who, "cards", []vault.TransformItem{{Value: secret(text)}})
	if err != nil {
		return "", err
	}
	if done[0].Err != nil {
		return "", done[0].Err
	}
	return string(done[0].Value.Reveal()), nil
}

func newCards(t *testing.T, options ...vaulttest.Option) (*vaulttest.Bench, vault.Caller) {
	t.Helper()
	v := vaulttest.New(t, options...)
	who := v.Tenant()
	if _, created, err := v.PutTransform(t.Context(), who, "cards", cards); err != nil || !created {
		t.Fatal(created, err)
	}
	return v, who
}

func TestTransformRoundTrip(t *testing.T) {
	t.Parallel()
	v, who := newCards(t)
	const value = "4111 1111 1111 1111"
	token, err := code(v.Encode, who, value)
	if err != nil || token == value || len(token) != len(value) || !strings.HasSuffix(token, " 1111") {
		t.Fatalf("the token is %s, %v", token, err)
	}
	if again, err := code(v.Encode, who, value); err != nil || again != token {
		t.Errorf("encoded again: %s, %v", again, err)
	}
	if back, err := code(v.Decode, who, token); err != nil || back != value {
		t.Errorf("decoded: %s, %v", back, err)
	}

	// Another tenant, and another transform of the same tenant, have other tokens.
	stranger := v.Tenant()
	if _, err := code(v.Decode, stranger, token); vault.AsError(err).Kind != vault.NotFound {
		t.Errorf("a stranger's transform: %v", err)
	}
	if _, _, err := v.PutTransform(t.Context(), stranger, "cards", cards); err != nil {
		t.Fatal(err)
	}
	if other, err := code(v.Encode, stranger, value); err != nil || other == token {
		t.Errorf("another tenant's token: %s, %v", other, err)
	}
	// One made anew has keys of its own.
	if err := v.DeleteTransform(t.Context(), who, "cards"); err != nil {
		t.Fatal(err)
	}
	if _, err := code(v.Decode, who, token); vault.AsError(err).Kind != vault.NotFound {
		t.Errorf("a deleted transform: %v", err)
	}
	if _, _, err := v.PutTransform(t.Context(), who, "cards", cards); err != nil {
		t.Fatal(err)
	}
	if back, err := code(v.Decode, who, token); err != nil || back == value {
		t.Errorf("one of the same name decodes %s, %v", back, err)
	}
	if n := v.Count(`select count(*) from privault.records`) + v.Count(`select count(*) from keystore.data_keys`); n != 0 {
		t.Errorf("%d rows are stored", n)
	}
}

func TestTransformBatch(t *testing.T) {
	t.Parallel()
	v, who := newCards(t)
	ctx := t.Context()
	items := []vault.TransformItem{
		{Value: secret("4111111111111111")}, {Value: secret("4111111111111112")}, {Value: secret("x")}, {Value: secret("4111111111111111"), KeyVersion: 2},
		{Value: secret("4111111111111111"), KeyVersion: 1},
	}
	done, err := v.Encode(ctx, who, "cards", items)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range done {
		if d.Err == nil {
			got = append(got, fmt.Sprintf("version %d", d.KeyVersion))
			continue
		}
		got = append(got, fmt.Sprintf("%s %s", d.Err.Fields[0].Pointer, d.Err.Fields[0].Rule))
	}
	want := []string{"version 1", "/items/1/value luhn", "/items/2/value characters", "/items/3/key_version key-version", "version 1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	for name, n := range map[string]int{"nothing": 0, "too many": vault.MaxItems + 1} {
		if _, err := v.Encode(ctx, who, "cards", make([]vault.TransformItem, n)); vault.AsError(err).Kind != vault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTransformDefinitions(t *testing.T) {
	t.Parallel()
	v, who := newCards(t)
	ctx := t.Context()
	got, created, err := v.PutTransform(ctx, who, "cards", cards)
	if err != nil || created || got.Definition.Separators != " -" || got.KeyVersion != 1 {
		t.Errorf("put again: %+v, %v, %v", got, created, err)
	}
	for name, bad := range map[string]struct {
		name string
		d    vault.TransformDefinition
		kind vault.Kind
		at   string
	}{
		"another definition": {"cards", vault.TransformDefinition{Options: shape.Options{Alphabet: "lower"}}, vault.Conflict, ""},
		"erasable":           {"other", vault.TransformDefinition{Erasable: true}, vault.NotErasable, "/erasable"},
		"too few": {"other", vault.TransformDefinition{Options: shape.Options{Alphabet: "digits", KeepPrefix: 6, KeepSuffix: 4, Luhn: "valid", MinLength: 16}},
			vault.DomainTooSmall, "/min_length"},
		"an address": {"other", vault.TransformDefinition{Options: shape.Options{Kind: "email"}}, vault.Invalid, "/shape"},
		"a name":     {"Cards", cards, vault.Invalid, ""},
	} {
		_, _, err := v.PutTransform(ctx, who, bad.name, bad.d)
		e := vault.AsError(err)
		if err == nil || e.Kind != bad.kind || bad.at != "" && e.Fields[0].Pointer != bad.at {
			t.Errorf("%s: %v %+v", name, err, e)
		}
	}
	for _, name := range []string{"a", "b", "c"} {
		if _, _, err := v.PutTransform(ctx, who, name, vault.TransformDefinition{}); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for cursor, more := "", true; more; more = cursor != "" {
		page, next, err := v.ListTransforms(ctx, who, cursor, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range page {
			names = append(names, p.Name)
		}
		cursor = next
	}
	if diff := cmp.Diff([]string{"a", "b", "c", "cards"}, names); diff != "" {
		t.Error(diff)
	}
	if one, err := v.GetTransform(ctx, who, "cards"); err != nil || one.Definition.KeepSuffix != 4 {
		t.Errorf("%+v, %v", one, err)
	}
}

func TestATransformMasks(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	four := 4
	for name, c := range map[string]struct {
		d    vault.TransformDefinition
		from string
		want string
	}{
		"cards":  {vault.TransformDefinition{Type: "pan"}, "4111 1111 1111 1111", "************1111"},
		"mails":  {vault.TransformDefinition{Type: "email", Mask: &datatype.MaskDefinition{Part: "domain"}}, "jane@example.com", "***@example.com"},
		"phones": {vault.TransformDefinition{Type: "phone", Mask: &datatype.MaskDefinition{RevealLast: four}}, "+44 20 7183 8750", ""},
		"codes":  {vault.TransformDefinition{Type: "custom", Pattern: "^[A-Z]{2}[0-9]{6}$", Mask: &datatype.MaskDefinition{RevealLast: 3}}, "AB123456", "*****456"},
	} {
		made, created, err := v.PutTransform(t.Context(), who, name, c.d)
		if err != nil || !created || made.KeyVersion != 0 {
			t.Fatal(name, made, created, err)
		}
		if _, created, err := v.PutTransform(t.Context(), who, name, c.d); err != nil || created {
			t.Errorf("%s again: %t, %v", name, created, err)
		}
		done, err := v.Encode(t.Context(), who, name, []vault.TransformItem{{Value: secret(c.from)}, {Value: secret("no such value")}, {Value: secret(c.from), KeyVersion: 1}})
		if err != nil || done[0].Err != nil || done[0].KeyVersion != 0 || done[1].Err == nil || done[2].Err == nil || done[2].Err.Fields[0].Rule != "key-version" {
			t.Fatalf("%s: %+v %v", name, done, err)
		}
		got := string(done[0].Value.Reveal())
		if c.want != "" && got != c.want || strings.Contains(got, c.from) {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		_, err = v.Decode(t.Context(), who, name, []vault.TransformItem{{Value: secret(got)}})
		wantKind(t, name+" decoded", err, vault.Invalid)
	}
	for what, d := range map[string]vault.TransformDefinition{
		"a mask and a shape":  {Type: "pan", Options: shape.Options{Alphabet: "digits"}},
		"no such type":        {Type: "nothing"},
		"a type that is none": {Type: "cvv"},
		"no text":             {Type: "boolean"},
		"a mask that shows":   {Type: "us_ssn", Mask: &datatype.MaskDefinition{RevealFirst: 12}},
		"a mask of no type":   {Mask: &datatype.MaskDefinition{RevealFirst: 1}},
	} {
		_, _, err := v.PutTransform(t.Context(), who, "refused", d)
		wantKind(t, what, err, vault.Invalid)
	}
	_, _, err := v.PutTransform(t.Context(), who, "refused", vault.TransformDefinition{Type: "pan", Erasable: true})
	wantKind(t, "erasable", err, vault.NotErasable)
	_, _, err = v.PutTransform(t.Context(), who, "cards", vault.TransformDefinition{Type: "pan", Mask: &datatype.MaskDefinition{RevealFirst: 6, RevealLast: 4}})
	wantKind(t, "changed", err, vault.Conflict)
}
