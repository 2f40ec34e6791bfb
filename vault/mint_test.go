package vault_test

import (
	"fmt"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/shape"
	"github.com/privault/privault/vault/vaulttest"
)

func shaped(typ, strategy string, o shape.Options) vault.FieldDefinition {
	return vault.FieldDefinition{Type: typ, Token: vault.TokenDefinition{Strategy: strategy, Options: o}}
}

// luhn is the remainder of the digits of a text.
func luhn(text string) int {
	sum, double := 0, false
	for i := len(text) - 1; i >= 0; i-- {
		d := int(text[i] - '0')
		if d < 0 || d > 9 {
			continue
		}
		if double {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum, double = sum+d, !double
	}
	return sum % 10
}

// pans are card numbers that pass Luhn, some in groups.
func pans(t *rapid.T) string {
	body := rapid.StringMatching(`4[0-9]{14}`).Draw(t, "pan")
	for d := byte('0'); ; d++ {
		if text := body + string(d); luhn(text) == 0 {
			if rapid.Bool().Draw(t, "grouped") {
				return text[:4] + " " + text[4:8] + "-" + text[8:]
			}
			return text
		}
	}
}

// What is promised of tokens with a shape, by strategy: they give the value back, have its shape, and are never the value;
// those of a value are equal where that is promised and nowhere else.
func TestTokensHaveTheShapeOfTheirValues(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	ssns := func(t *rapid.T) string {
		return rapid.StringMatching(`[1-5][0-9]{2}-[1-9][0-9]-[1-9][0-9]{3}`).Draw(t, "ssn")
	}
	emails := func(t *rapid.T) string { return rapid.StringMatching(`[a-z]{1,9}@[a-z]{2,9}\.com`).Draw(t, "email") }
	phones := func(t *rapid.T) string {
		return "+44 20 7" + rapid.StringMatching(`[0-9]{3} [0-9]{4}`).Draw(t, "phone")
	}
	dates := func(t *rapid.T) string {
		return rapid.StringMatching(`19[0-9]{2}-0[1-9]-[12][0-8]`).Draw(t, "date")
	}
	for name, row := range map[string]struct {
		field  vault.FieldDefinition
		values func(*rapid.T) string
		shape  func(value, token string) bool
		equal  bool
	}{
		"pan, fpe": {shaped("pan", "fpe", shape.Options{KeepSuffix: 4}), pans, func(value, token string) bool {
			return alike(value, token) && token[len(token)-4:] == value[len(value)-4:] && luhn(token) != 0
		}, true},
		"pan, fpe, valid": {shaped("pan", "fpe", shape.Options{Luhn: "valid"}), pans, func(value, token string) bool {
			return alike(value, token) && luhn(token) == 0
		}, true},
		"pan, format":         {shaped("pan", "format", shape.Options{KeepPrefix: 2}), pans, func(value, token string) bool { return alike(value, token) && token[:2] == value[:2] }, false},
		"pan, deterministic":  {shaped("pan", "deterministic", shape.Options{KeepSuffix: 4}), pans, func(value, token string) bool { return alike(value, token) && luhn(token) != 0 }, true},
		"ssn, fpe":            {shaped("us_ssn", "fpe", shape.Options{}), ssns, alike, true},
		"ssn, format":         {shaped("us_ssn", "format", shape.Options{}), ssns, alike, false},
		"phone, fpe":          {shaped("phone", "fpe", shape.Options{KeepPrefix: 2}), phones, func(value, token string) bool { return alike(value, token) && token[:4] == value[:4] }, true},
		"email, format":       {shaped("email", "format", shape.Options{}), emails, sameDomain, false},
		"email, with domain":  {shaped("email", "format", shape.Options{Domain: "tokens.example"}), emails, func(_, token string) bool { return sameDomain("x@tokens.example", token) }, false},
		"email, one a value":  {shaped("email", "deterministic", shape.Options{Kind: "email"}), emails, sameDomain, true},
		"date, fpe":           {shaped("date", "fpe", shape.Options{}), dates, alike, true},
		"email, opaque":       {strategy("email", "deterministic"), emails, func(_, token string) bool { return regexp.MustCompile(`^pvdt_[0-9A-Za-z]{27}$`).MatchString(token) }, true},
		"text, alphanumeric":  {shaped("string", "fpe", shape.Options{Alphabet: "alphanumeric", MinLength: 6}), func(t *rapid.T) string { return rapid.StringMatching(`[A-Z]{2}[0-9a-z]{6}`).Draw(t, "text") }, func(value, token string) bool { return len(token) == len(value) }, true},
		"ssn, random pointer": {vault.FieldDefinition{Type: "us_ssn"}, ssns, func(_, token string) bool { return len(token) == 61 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			collection := "c" + regexp.MustCompile(`[^a-z]+`).ReplaceAllString(name, "_")
			defineFields(t, v, who, collection, map[string]vault.FieldDefinition{"f": row.field})
			seen := map[string]string{} // token → value
			given := map[string]string{}
			rapid.Check(t, func(t *rapid.T) {
				values := rapid.SliceOfN(rapid.Custom(row.values), 1, 4).Draw(t, "values")
				values = append(values, values[0])
				items := make([]vault.NewRecord, len(values))
				for i, value := range values {
					items[i] = vaulttest.Item(map[string]string{"f": value})
				}
				done, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: collection, Items: items})
				if err != nil {
					t.Fatal(err)
				}
				var refs []vault.TokenRef
				for i, value := range values {
					if done[i].Err != nil {
						t.Fatalf("%q: %v", value, done[i].Err)
					}
					token := done[i].Tokens["f"]
					refs = append(refs, vault.TokenRef{Token: token, Collection: collection, Field: "f", View: "plain"})
					if token == value || !row.shape(value, token) {
						t.Fatalf("the token of %q is %q", value, token)
					}
					if other, have := seen[token]; have && (other != value || !row.equal) {
						t.Fatalf("%q and %q have the token %q", other, value, token)
					}
					if before, have := given[value]; have && row.equal && before != token {
						t.Fatalf("%q has the tokens %q and %q", value, before, token)
					}
					seen[token], given[value] = value, token
				}
				back, err := v.Detokenize(t.Context(), who, refs)
				if err != nil {
					t.Fatal(err)
				}
				for i, value := range values {
					if back[i].Err != nil || string(back[i].Value.Reveal()) != `"`+value+`"` {
						t.Fatalf("the token of %q gives %v", value, back[i].Err)
					}
				}
			})
		})
	}
}

// alike says whether digits stand where digits stood and the same of everything else.
func alike(value, token string) bool {
	digits := regexp.MustCompile(`[0-9]`)
	return digits.ReplaceAllString(value, "#") == digits.ReplaceAllString(token, "#")
}

func sameDomain(value, token string) bool {
	domain := regexp.MustCompile(`@.*$`)
	return domain.FindString(value) == domain.FindString(token) && len(domain.ReplaceAllString(token, "")) == 16
}

// The same value has the same FF1 token again after the last record with it is gone, and it doesn't resolve in between.
func TestAnFPETokenComesBackWithItsValue(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	defineFields(t, v, who, "cards", map[string]vault.FieldDefinition{"pan": shaped("pan", "fpe", shape.Options{KeepSuffix: 4}), "ssn": shaped("us_ssn", "format", shape.Options{})})
	first := v.MustTokenize(who, "cards", map[string]string{"pan": "4111111111111111", "ssn": "123-45-6789"})
	rec, err := v.GetRecord(t.Context(), who, "cards", first.Record, nil, "masked")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first.Tokens, rec.Tokens); diff != "" {
		t.Errorf("the record has other tokens (-given +read):\n%s", diff)
	}
	// The format token is the record's and stays; the FF1 token is the value's and moves.
	rec, err = v.PatchRecord(t.Context(), who, "cards", first.Record, vault.Patch{
		Fields: map[string]vault.Secret{"pan": secret(`"4012888888881881"`), "ssn": secret(`"234-56-7890"`)}, IfVersion: 1})
	if err != nil {
		t.Fatal(err)
	}
	if rec.Tokens["ssn"] != first.Tokens["ssn"] || rec.Tokens["pan"] == first.Tokens["pan"] {
		t.Errorf("after the patch the tokens are %v, before they were %v", rec.Tokens, first.Tokens)
	}
	got := append(resolves(t, v.Vault, who, "cards", "pan", first.Tokens["pan"], rec.Tokens["pan"]), resolves(t, v.Vault, who, "cards", "ssn", rec.Tokens["ssn"])...)
	if diff := cmp.Diff([]string{"token-not-found", `"4012888888881881"`, `"234-56-7890"`}, got); diff != "" {
		t.Error(diff)
	}
	if again := v.MustTokenize(who, "cards", map[string]string{"pan": "4111111111111111"}); again.Tokens["pan"] != first.Tokens["pan"] {
		t.Errorf("the token is %s, it was %s", again.Tokens["pan"], first.Tokens["pan"])
	}
	if got := resolves(t, v.Vault, who, "cards", "pan", first.Tokens["pan"])[0]; got != `"4111111111111111"` {
		t.Errorf("it gives %s", got)
	}
}

// A tenth of the texts of a shape are handed out, and not one more; what is deleted makes room.
func TestASmallSpaceIsFilledToATenth(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	// Two digits of four vary: a hundred texts for each pair that is kept.
	defineFields(t, v, who, "codes", map[string]vault.FieldDefinition{"code": shaped("string", "format", shape.Options{KeepPrefix: 2})})
	store := func(code string) vault.Tokenized {
		t.Helper()
		done, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "codes", Items: one(map[string]string{"code": code})})
		if err != nil {
			t.Fatal(err)
		}
		return done[0]
	}
	var kept []vault.Tokenized
	tokens := []string{}
	for i := range 10 {
		d := store(fmt.Sprintf("12%02d", i))
		if d.Err != nil {
			t.Fatal(d.Err)
		}
		kept, tokens = append(kept, d), append(tokens, d.Tokens["code"])
	}
	slices.Sort(tokens)
	if len(slices.Compact(tokens)) != 10 {
		t.Errorf("tokens were given twice: %v", tokens)
	}
	if d := store("1299"); d.Err == nil || d.Err.Kind != vault.FormatSpaceExhausted {
		t.Errorf("the eleventh is %v", d)
	}
	if d := store("1399"); d.Err != nil {
		t.Error("another space: ", d.Err)
	}
	if err := v.DeleteRecord(t.Context(), who, "codes", kept[0].Record, 0); err != nil {
		t.Fatal(err)
	}
	if d := store("1299"); d.Err != nil {
		t.Error("after a deletion: ", d.Err)
	}
}

func TestSearchByWhatDerivesFromAValue(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	defineFields(t, v, who, "people", map[string]vault.FieldDefinition{
		"email": {Type: "email", Index: []string{"domain", "exact"}}, "pan": {Type: "pan", Index: []string{"exact", "last4"}}})
	jane := v.MustTokenize(who, "people", map[string]string{"email": "jane@Example.com", "pan": "4111 1111 1111 1111"}).Record
	joe := v.MustTokenize(who, "people", map[string]string{"email": "joe@example.com", "pan": "4012888888881881"}).Record
	by := func(field, index, equals string) []string {
		s := seek("people", field, equals)
		s.Terms[0].Index = index
		return finds(t, v.Vault, who, s)
	}
	both := []string{jane, joe}
	slices.Sort(both)
	for _, row := range []struct {
		field, index, equals string
		want                 []string
	}{
		{"email", "domain", "EXAMPLE.com", both}, {"email", "domain", "example.org", []string{}}, {"email", "", "JOE@example.com", []string{joe}},
		{"pan", "last4", "1111", []string{jane}}, {"pan", "exact", "4012-8888-8888-1881", []string{joe}},
	} {
		if diff := cmp.Diff(row.want, by(row.field, row.index, row.equals)); diff != "" {
			t.Errorf("%s %s %s (-want +found):\n%s", row.field, row.index, row.equals, diff)
		}
	}
	for _, few := range []vault.FieldDefinition{{Type: "boolean", Index: []string{"exact"}}, {Type: "date", Index: []string{"year"}}} {
		_, _, err := v.PutCollection(t.Context(), who, "few", vault.Definition{Fields: map[string]vault.FieldDefinition{"f": few}}, 0)
		wantKind(t, "an index on few values", err, vault.IndexDomainTooSmall)
	}
	_, _, err := v.PutCollection(t.Context(), who, "few", vault.Definition{Fields: map[string]vault.FieldDefinition{"f": shaped("pan", "fpe", shape.Options{KeepPrefix: 6, KeepSuffix: 4})}}, 0)
	wantKind(t, "FF1 on few values", err, vault.DomainTooSmall)
}
