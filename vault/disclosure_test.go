package vault_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/vaulttest"
)

// What was done with one person's records is found whole among that of many. PRIVAULT_DISCLOSURES=5000000 measures it.
func TestDisclosuresAmongMany(t *testing.T) {
	text, set := os.LookupEnv("PRIVAULT_DISCLOSURES")
	n := 20_000
	if set {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 10_000 || n > 10_000_000 {
			t.Fatal("PRIVAULT_DISCLOSURES is 10000 to 10000000")
		}
	} else {
		t.Parallel()
	}
	const persons = 100 // among n/50 of whom 50 things are known
	v := vaulttest.New(t)
	who := v.Tenant(policy.Admin, policy.Developer)
	v.Collection(who, "people", map[string]string{"name": "string"})
	batch := vault.Batch{Collection: "people"}
	for i := range persons {
		item := vaulttest.Item(map[string]string{"name": "Jane Roe"})
		item.Subject = fmt.Sprintf("cust-%d", i)
		batch.Items = append(batch.Items, item)
	}
	if done, err := v.Tokenize(t.Context(), who, batch); err != nil || done[0].Err != nil {
		t.Fatal(err)
	}
	// Everybody's are spread over the whole time, a chunk a statement.
	for from := 0; from < n; from += 100_000 {
		v.Exec(`
			with everybody as (
				select s.subject_id, r.record_id, 'rec_' || s.subject_id as name, row_number() over (order by s.subject_id) - 1 as n
				from privault.subjects s join privault.records r using (tenant_id, subject_id) where s.tenant_id = $1),
			made as (
				select `+freshID+` as entry_id, n from generate_series($2::int, $3::int) n),
			entry as (
				insert into privault.audit_entries (tenant_id, entry_id, at, principal_id, action, outcome, body)
				select $1, m.entry_id, now(), $1, 'detokenize', 'ok', '{"n":' || m.n || ',"outcome":"ok","action":"detokenize","purpose":"support","resources":[]}' from made m)
			insert into privault.disclosures (tenant_id, entry_id, subject_id, record_id)
			select $1, m.entry_id, coalesce(e.subject_id, md5((m.n % ($4::int / 50))::text)::uuid), coalesce(e.record_id, md5(m.n::text)::uuid)
			from made m left join everybody e on e.n = m.n % ($4::int / 50)`,
			who.Tenant, from, min(n, from+100_000)-1, n)
	}
	v.Exec(`vacuum analyze privault.audit_entries`)
	v.Exec(`vacuum analyze privault.disclosures`)
	v.Exec(`checkpoint`)

	var took []time.Duration
	for range 10 * persons {
		begun := time.Now()
		page, _, err := v.Disclosures(t.Context(), who, fmt.Sprintf("cust-%d", rand.IntN(persons)), "", 50)
		took = append(took, time.Since(begun))
		if err != nil || len(page) != 50 {
			t.Fatal(len(page), err)
		}
	}
	slices.Sort(took)
	t.Logf("50 of 51 disclosures among %d: p50 %s, p99 %s", n, took[len(took)/2], took[len(took)*99/100])
	// All of one person's, the making of the record too.
	count, cursor := 0, ""
	for {
		page, next, err := v.Disclosures(t.Context(), who, "cust-7", cursor, 20)
		if err != nil {
			t.Fatal(err)
		}
		count += len(page)
		if cursor = next; cursor == "" {
			break
		}
	}
	if count != 51 {
		t.Errorf("%d disclosures of a person", count)
	}
}
