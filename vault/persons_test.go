package vault_test

import (
	"encoding/csv"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/shape"
	"github.com/privault/privault/vault/vaulttest"
)

// persons are 10,000 people: the published ones if they are at hand, or else some like them.
func persons(t *testing.T) (all []map[string]string) {
	t.Helper()
	if data := os.Getenv("PRIVAULT_DATA"); data != "" {
		f, err := os.Open(filepath.Join(data, "febrl", "persons_10000.csv"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		table, err := csv.NewReader(f).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range table[1:] {
			p := map[string]string{}
			for i, name := range table[0] {
				p[name] = row[i]
			}
			all = append(all, p)
		}
		return all
	}
	random := rand.New(rand.NewPCG(3, 4))
	for n := range 10_000 {
		all = append(all, map[string]string{"rec_id": fmt.Sprint(n), "surname": fmt.Sprintf("name %c%c", 'a'+random.IntN(26), 'a'+random.IntN(26)),
			"phone_number": fmt.Sprintf("%02d %08d", random.IntN(10), random.IntN(1e8)), "soc_sec_id": fmt.Sprintf("%07d", random.IntN(1e7))})
	}
	return all
}

// Ten thousand people with aliases in the shape of their e-mail addresses, telephone numbers and social security ids, and four
// indexes: every token leads back, and a search by any value finds just its records.
func TestTenThousandPeopleWithAliasesAndIndexes(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	digits := func(strategy string, shortest, longest int) vault.TokenDefinition {
		return vault.TokenDefinition{Strategy: strategy, Options: shape.Options{Alphabet: "digits", MinLength: shortest, MaxLength: longest}}
	}
	defineFields(t, v, who, "people", map[string]vault.FieldDefinition{
		"email":   {Type: "email", Index: []string{"exact"}, Token: vault.TokenDefinition{Strategy: "deterministic", Options: shape.Options{Kind: "email"}}},
		"phone":   {Type: "string", Index: []string{"exact"}, Token: digits("fpe", 9, 11)},
		"ssn":     {Type: "string", Index: []string{"last4"}, Token: digits("format", 7, 7)},
		"surname": {Type: "name", Index: []string{"exact"}},
	})
	columns := map[string]string{"phone": "phone_number", "ssn": "soc_sec_id", "surname": "surname"}
	people := persons(t)
	of := map[string]map[string][]string{"email": {}, "phone": {}, "ssn": {}, "surname": {}} // field → what its index is of → records
	spelled := map[string]map[string]string{"email": {}, "phone": {}, "ssn": {}, "surname": {}}
	var refs []vault.TokenRef
	var values []string
	start := time.Now()
	for chunk := range slices.Chunk(people, 500) {
		var items []vault.NewRecord
		var sent []map[string]string
		for _, p := range chunk {
			fields := map[string]string{"email": "p" + p["rec_id"] + "@example.com"}
			for field, column := range columns {
				if p[column] != "" {
					fields[field] = p[column]
				}
			}
			items, sent = append(items, vaulttest.Item(fields)), append(sent, fields)
		}
		done, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: items})
		if err != nil {
			t.Fatal(err)
		}
		for i, d := range done {
			if d.Err != nil {
				t.Fatal(d.Err, sent[i])
			}
			for field, value := range sent[i] {
				by := value
				switch field {
				case "ssn":
					by = value[len(value)-4:]
				case "surname":
					by = vault.Normalised("name", value)
				}
				of[field][by], spelled[field][by] = append(of[field][by], d.Record), value
				if token := d.Tokens[field]; field != "surname" {
					if token == value || len(token) != len(value) && field != "email" {
						t.Fatalf("the token of a %s has another shape, or is its value", field)
					}
					refs, values = append(refs, vault.TokenRef{Token: token, Collection: "people", Field: field, View: "plain"}), append(values, `"`+value+`"`)
				}
			}
		}
	}
	t.Logf("%d people stored in %v", len(people), time.Since(start).Round(time.Millisecond))
	start = time.Now()
	at := 0
	for chunk := range slices.Chunk(refs, vault.MaxItems) {
		done, err := v.Detokenize(t.Context(), who, chunk)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range done {
			if d.Err != nil || string(d.Value.Reveal()) != values[at] {
				t.Fatalf("token %d: %v", at, d.Err)
			}
			at++
		}
	}
	t.Logf("%d tokens led back in %v", at, time.Since(start).Round(time.Millisecond))
	start = time.Now()
	searches := 0
	for field, index := range of {
		work := make(chan string)
		var wait sync.WaitGroup
		for range 16 {
			wait.Go(func() {
				for by := range work {
					s := seek("people", field, spelled[field][by])
					if s.Limit = 200; field == "ssn" {
						s = seek("people", field, by)
						s.Terms[0].Index, s.Limit = "last4", 200
					}
					want := slices.Sorted(slices.Values(index[by]))
					if got := finds(t, v.Vault, who, s); !slices.Equal(want, got) {
						t.Errorf("%s: a search finds %d records, want %d", field, len(got), len(want))
					}
				}
			})
		}
		for by := range index {
			searches++
			work <- by
		}
		close(work)
		wait.Wait()
	}
	t.Logf("%d searches in %v", searches, time.Since(start).Round(time.Millisecond))
	if searches < 10_000 {
		t.Errorf("only %d searches were made", searches)
	}
}
