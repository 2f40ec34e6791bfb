package vault_test

import (
	"fmt"
	"testing"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// A connection keeps the plans of its statements. Those that were made while the tables were empty must not read them whole later.
func TestLooksStayCheapWhileTablesGrow(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t, vaulttest.With(func(c *vault.Config) { c.MaxConns = 1 })) // whose counts come all at once
	for _, table := range []string{"privault.aliases", "privault.blind_index", "privault.records", "keystore.data_keys"} {
		v.Exec("alter table " + table + " set (autovacuum_enabled = off)") // no analysis, which would make the plans anew
	}
	who := v.Tenant()
	defineFields(t, v, who, "people", map[string]vault.FieldDefinition{
		"email": {Type: "email", Index: []string{"exact"}, Unique: true, Token: vault.TokenDefinition{Strategy: "deterministic"}},
		"phone": strategy("phone", "format")})
	n := 0
	person := func() map[string]string {
		n++
		return map[string]string{"email": fmt.Sprintf("p%d@example.com", n), "phone": fmt.Sprintf("+4930%07d", n)}
	}
	calls := func(times int) {
		for range times {
			have := person()
			done := v.MustTokenize(who, "people", have)
			for _, field := range []string{"email", "phone"} {
				refs := []vault.TokenRef{{Token: done.Tokens[field], Collection: "people", Field: field, View: "plain"}}
				if back, err := v.Detokenize(t.Context(), who, refs); err != nil || back[0].Err != nil || string(back[0].Value.Reveal()) != `"`+have[field]+`"` {
					t.Fatalf("%s doesn't come back: %v %v", field, err, back[0].Err)
				}
			}
			if found := finds(t, v.Vault, who, seek("people", "email", have["email"])); len(found) != 1 {
				t.Fatalf("%d records are found", len(found))
			}
		}
	}
	calls(10) // Postgres keeps a plan from the sixth time on
	for range 20 {
		items := make([]vault.NewRecord, 250)
		for i := range items {
			items[i] = vaulttest.Item(person())
		}
		if _, err := v.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: items}); err != nil {
			t.Fatal(err)
		}
	}
	const stored = `select coalesce(sum(n_tup_ins), 0)::bigint from pg_stat_user_tables where relname = 'records'`
	const read = `select coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::bigint from pg_stat_user_tables
		where relname in ('aliases', 'blind_index', 'records', 'data_keys')`
	v.Until(func() bool { return v.Count(stored) == n })
	before := v.Count(read)
	const times = 50
	calls(times)
	v.Until(func() bool { return v.Count(stored) == n })
	if each := (v.Count(read) - before) / times; each > 100 {
		t.Errorf("storing, reading and finding one of %d records reads %d rows", n, each)
	}
}
