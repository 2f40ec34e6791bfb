package vault_test

import (
	"testing"

	"github.com/privault/privault/vault/vaulttest"
)

func TestTokenizeThenDetokenize(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := vaulttest.New(t, options...)
			who := v.Tenant()
			v.Collection(who, "people", map[string]string{"name": "name", "email": "email"})
			done := v.MustTokenize(who, "people", map[string]string{"name": "Jane Roe", "email": "jane@example.com"})
			if got := v.Reveal(who, done.Tokens["email"]); got != `"jane@example.com"` {
				t.Errorf("the e-mail's token gives %s", got)
			}
			if got := v.Reveal(who, done.Tokens["name"]); got != `"Jane Roe"` {
				t.Errorf("the name's token gives %s", got)
			}
			if got := v.Count(`select count(*) from privault.audit_entries where outcome = 'ok' and action in ('tokenize', 'detokenize')`); got != 3 {
				t.Errorf("%d audit entries, want 3", got)
			}
		})
	}
}
