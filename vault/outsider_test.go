package vault_test

import (
	"testing"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/vaulttest"
)

// The development server's role comes from no authority, whatever it was configured to say.
func TestNoAuthorityMakesADeveloper(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	if _, err := v.CreateTenant(t.Context(), "acme", []string{policy.Admin}, ""); err != nil {
		t.Fatal(err)
	}
	o := vault.Outsider{Tenant: "acme", Authority: "https://login.example", Subject: "jane", Credential: "jti-1", Roles: []string{"auditor"}, Method: vault.MethodJWT}
	if _, err := v.Admit(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	o.Roles = []string{"auditor", policy.Developer}
	_, err := v.Admit(t.Context(), o)
	wantKind(t, "a developer by token", err, vault.Unauthenticated)
}
