package vault_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

func TestIndexesThatTellTooMuchAreNamed(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	defineFields(t, v, who, "people", map[string]vault.FieldDefinition{
		"email":   {Type: "email", Index: []string{"exact"}, Unique: true},
		"phone":   {Type: "string", Index: []string{"exact"}},
		"name":    {Type: "name", Index: []string{"exact"}},
		"smooth":  {Type: "name", Index: []string{"exact/smoothed:1024"}},
		"rough":   {Type: "name", Index: []string{"exact/smoothed:16"}},
		"colour":  {Type: "string", Index: []string{"exact"}},
		"bucket":  {Type: "name", Index: []string{"exact/bucketed:64"}},
		"seldom":  {Type: "string", Index: []string{"exact"}},
		"nothing": {Type: "string"},
	})
	defineFields(t, v, who, "empty", map[string]vault.FieldDefinition{"name": {Type: "name", Index: []string{"exact"}}})
	random := rand.New(rand.NewPCG(1, 2))
	frequent := map[string]int64{}
	const records = 5000
	for at := 0; at < records; at += 1000 {
		var items []vault.NewRecord
		for n := at; n < at+1000; n++ {
			name := fmt.Sprintf("person %d", random.IntN(3000)+20)
			if random.IntN(10) == 0 { // one in ten has one of a few names
				name = fmt.Sprintf("person %d", random.IntN(4))
			}
			frequent[name]++
			fields := map[string]string{"email": fmt.Sprintf("p%d@example.com", n), "phone": fmt.Sprint(n / 2), "name": name, "smooth": name, "rough": name, "bucket": fmt.Sprintf("person %d", random.IntN(3000)),
				"colour": []string{"red", "green", "blue"}[n%3], "nothing": "x"}
			if n < 100 {
				fields["seldom"] = "same"
			}
			items = append(items, vaulttest.Item(fields))
		}
		if _, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: items}); err != nil {
			t.Fatal(err)
		}
	}
	leaks, err := v.IndexLeaks(t.Context(), who.Tenant)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]vault.Leak{}
	for _, l := range leaks {
		t.Logf("%+v", l)
		got[l.Field] = l
		if l.Tenant == "" || l.Collection != "people" || strings.Contains(l.Advice, "person") {
			t.Errorf("got %+v", l)
		}
	}
	near := func(what string, is, want, off float64) {
		t.Helper()
		if is < want-off || is > want+off {
			t.Errorf("%s: %.2f, want %.2f", what, is, want)
		}
	}
	for field, want := range map[string]struct {
		level    vault.Level
		distinct float64
		entropy  float64
	}{"email": {vault.Fine, records, 12.29}, "phone": {vault.Fine, records / 2, 11.29}, "name": {vault.Warn, 0, 0}, "smooth": {vault.Fine, 0, 0}, "rough": {vault.Warn, 0, 0},
		"colour": {vault.Warn, 3, 1.58}, "bucket": {vault.Fine, 64, 5.9}, "seldom": {vault.Fine, 1, 0}} {
		l := got[field]
		if l.Level != want.level {
			t.Errorf("%s is %s: %s", field, l.Level, l.Advice)
		}
		if want.distinct > 0 {
			near(field+", distinct", float64(l.Distinct), want.distinct, want.distinct/20)
			near(field+", entropy", l.Entropy, want.entropy, map[bool]float64{true: 1, false: 0.15}[field == "seldom"]) // estimated from some thirty
		}
	}
	top := int64(0)
	for _, n := range frequent {
		top = max(top, n)
	}
	if got["name"].Top != top || got["colour"].Top != 1667 || got["seldom"].Top != 100 || len(leaks) != 8 {
		t.Errorf("the most frequent have %d (of %d), %d, %d", got["name"].Top, top, got["colour"].Top, got["seldom"].Top)
	}
	if n := v.Count(`select count(*) from privault.audit_entries where action = 'index.inspect' and body::json->>'rule' = 'operator'`); n != 2 {
		t.Errorf("%d entries say what was examined", n)
	}
}

func TestExamineSeesWhatIsWrong(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	v.Collection(who, "people", map[string]string{"name": "name"})
	soon := v.Now().Add(time.Hour)
	item := vaulttest.Item(map[string]string{"name": "Jane Roe"})
	item.Expires = &soon
	if _, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: []vault.NewRecord{item}}); err != nil {
		t.Fatal(err)
	}
	v.Sequence()
	said := func() (all []string) {
		t.Helper()
		found, err := v.Examine(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			all = append(all, string(f.Level)+" "+f.Check+" "+f.Text)
		}
		return all
	}
	has := func(all []string, want string) {
		t.Helper()
		if !slices.ContainsFunc(all, func(line string) bool { return strings.Contains(line, want) }) {
			t.Errorf("%q is not among %q", want, all)
		}
	}
	first := said()
	has(first, "ok clock")
	has(first, "fsync=off") // the tests' server
	has(first, "nothing to look at")
	v.MustTokenize(who, "people", map[string]string{"name": "Jane Roe"})
	v.Advance(80 * 24 * time.Hour)
	v.Exec(`insert into privault.jobs (tenant_id, job_id, kind, params, state, created_at, started_at, finished_at)
		select tenant_id, gen_random_uuid(), 'x', '{}', 'failed', $1, $1, $1 from privault.tenants`, v.Now())
	v.Exec(`update privault.collections set definition = jsonb_set(jsonb_set(definition, '{normalisers,name}', '7'), '{fields,name,index}', '["exact"]')`)
	if _, err := v.Authenticate(t.Context(), v.Key()); err != nil {
		t.Fatal(err)
	}
	later := said()
	has(later, "fault clock")
	has(later, "entries have waited")
	has(later, "1 jobs failed")
	has(later, "1 records have expired")
	has(later, "the collection people has values that another version normalised, in name")
	v.KMS.SetDown(true)
	v.Advance(24 * time.Hour)
	has(said(), "fault ready kms-unavailable")
}
