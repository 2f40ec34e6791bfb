package vault_test

import (
	"testing"
	"time"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// A crash between the two commits, in both orders: what was acknowledged opens, what lost its key answers like an unknown one,
// and a key that no record has is swept once it is old.
func TestOrphansAreSweptWhereTheKeystoreIsApart(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t, vaulttest.Apart)
	who := b.Tenant()
	b.Collection(who, "people", map[string]string{"name": "string"})
	tokens := people(b, who, 5)
	ids := rows(t, b.OwnerURL, `select encode(uuid_send(record_id), 'hex') from privault.records order by record_id`)
	if len(ids) != 5 {
		t.Fatal(ids)
	}
	first := `(select record_id from privault.records order by record_id limit 1)`
	// A delete that died behind the keystore's commit.
	vaulttest.ExecURL(t, b.KeysURL, `delete from keystore.data_keys where record_id = (select record_id from keystore.data_keys where tenant_id = $1 order by record_id limit 1)`, who.Tenant)
	if got := b.Reveal(who, tokens[0]); got != string(vault.TokenNotFound) {
		t.Errorf("a record without its key answers %s", got)
	}
	// An insert that died there: its record never came; and a change, whose new version never came.
	b.Exec(`delete from privault.records where record_id = ` + first)
	b.Exec(`delete from privault.records where record_id = ` + first)
	vaulttest.ExecURL(t, b.KeysURL, `
		insert into keystore.data_keys select tenant_id, record_id, 2, wrapped, created_at from keystore.data_keys
		where tenant_id = $1 order by record_id desc limit 1`, who.Tenant)
	count := func() int {
		return vaulttest.CountURL(t, b.KeysURL, `select count(*) from keystore.data_keys where tenant_id = $1`, who.Tenant)
	}
	if n := count(); n != 5 {
		t.Fatalf("%d keys, want 3 with a record and 2 without", n)
	}
	b.Work()
	for _, step := range []struct {
		pass time.Duration
		want int
	}{{0, 5}, {11 * time.Minute, 3}} {
		b.Advance(step.pass)
		if err := b.SweepOrphans(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.Until(func() bool {
			return b.Count(`select count(*) from privault.jobs where finished_at is null`) == 0
		})
		if n := count(); n != step.want {
			t.Errorf("after %v there are %d keys, want %d", step.pass, n, step.want)
		}
	}
	for _, token := range tokens[2:] {
		if got := b.Reveal(who, token); len(got) == 0 || got[0] != '"' {
			t.Errorf("an acknowledged record answers %s", got)
		}
	}
}
