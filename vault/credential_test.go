package vault_test

import (
	"strings"
	"testing"
	"time"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/vaulttest"
)

// service makes a principal with an API key.
func service(t *testing.T, v *vaulttest.Bench, who vault.Caller, expires *time.Time) vault.Issued {
	t.Helper()
	principal, err := v.CreatePrincipal(t.Context(), who, "service", []string{"backend-writer", "backend-reader-masked"})
	if err != nil {
		t.Fatal(err)
	}
	issued, err := v.IssueKey(t.Context(), who, principal, vault.KeyTerms{Expires: expires})
	if err != nil {
		t.Fatal(err)
	}
	return issued
}

func TestKeyStandsForItsPrincipal(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant(policy.Admin)
	issued := service(t, v, who, nil)
	if days := issued.Expires.Sub(v.Now()).Hours() / 24; days < 89.9 || days > 90.1 {
		t.Errorf("a key lives for %.1f days unless told otherwise, want 90", days)
	}
	for name, replica := range map[string]*vault.Vault{"this": v.Vault, "another": v.Replica()} {
		caller, err := replica.Authenticate(t.Context(), issued.Key)
		if err != nil {
			t.Fatal(name, err)
		}
		if caller.Tenant != who.Tenant || caller.Principal == who.Principal || strings.Join(caller.Roles, " ") != "backend-writer backend-reader-masked" {
			t.Errorf("on %s replica the key stands for %+v", name, caller)
		}
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant(policy.Admin)
	key := service(t, v, who, nil).Key
	for what, wrong := range map[string]string{
		"nothing":         "",
		"unknown":         vault.NewAPIKey(),
		"the prefix":      "pvak_",
		"no prefix":       key[len("pvak_"):],
		"another prefix":  "pvtk_" + key[len("pvak_"):],
		"in capitals":     strings.ToUpper(key),
		"cut off":         key[:len(key)-1],
		"longer":          key + "0",
		"a blank behind":  key + " ",
		"a NUL":           key[:len(key)-1] + "\x00",
		"not base62":      key[:10] + "-" + key[11:],
		"one sign wrong":  key[:10] + other62(key[10]) + key[11:],
		"a sum wrong":     key[:len(key)-1] + other62(key[len(key)-1]),
		"very long":       strings.Repeat("x", 1<<20),
		"bytes, not text": "pvak_\xff\xfe" + key[7:],
	} {
		_, err := v.Authenticate(t.Context(), wrong)
		wantKind(t, what, err, vault.Unauthenticated)
	}
	if _, err := v.Authenticate(t.Context(), key); err != nil {
		t.Errorf("the key itself: %v", err)
	}
}

func other62(b byte) string {
	if b == 'a' {
		return "b"
	}
	return "a"
}

// A typing error, and a scanner's guess, cost no query.
func TestBadCheckSumCostsNoQuery(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	key := v.Key()
	before := v.Acquires()
	for i := len("pvak_"); i < len(key); i++ {
		_, err := v.Authenticate(t.Context(), key[:i]+other62(key[i])+key[i+1:])
		wantKind(t, "a key with one sign wrong", err, vault.Unauthenticated)
	}
	if got := v.Acquires() - before; got != 0 {
		t.Errorf("%d times a connection was taken for keys with a bad check sum", got)
	}
	if _, err := v.Authenticate(t.Context(), vault.NewAPIKey()); kind(err) != vault.Unauthenticated || v.Acquires() == before {
		t.Errorf("an unknown key with a right check sum: %v, and no connection was taken", err)
	}
	// A token that was made up costs none either.
	who := v.Tenant()
	v.Collection(who, "people", map[string]string{"name": "string"})
	token := v.MustTokenize(who, "people", map[string]string{"name": "Jane"}).Tokens["name"]
	if got := v.Reveal(who, token[:20]+other62(token[20])+token[21:]); got != string(vault.TokenNotFound) {
		t.Errorf("a token with one sign wrong gives %s", got)
	}
}

func TestKeyExpires(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant(policy.Admin)
	for what, at := range map[string]time.Time{"in the past": v.Now().Add(-time.Minute), "too far away": v.Now().Add(367 * 24 * time.Hour)} {
		_, err := v.IssueKey(t.Context(), who, "prn_0000000000000000000001", vault.KeyTerms{Expires: &at})
		wantKind(t, "a key of nobody", err, vault.NotFound)
		principal, err := v.CreatePrincipal(t.Context(), who, "p-"+strings.Fields(what)[0], []string{policy.Admin})
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.IssueKey(t.Context(), who, principal, vault.KeyTerms{Expires: &at})
		wantKind(t, "a key that expires "+what, err, vault.Invalid)
	}
	v.Freeze()
	soon := v.Now().Add(3 * time.Second) // less than a replica may remember who a key stands for
	key := service(t, v, who, &soon).Key
	if _, err := v.Authenticate(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	v.Advance(4 * time.Second)
	_, err := v.Authenticate(t.Context(), key)
	wantKind(t, "an expired key", err, vault.Unauthenticated)
	_, err = v.Replica().Authenticate(t.Context(), key)
	wantKind(t, "an expired key on a fresh replica", err, vault.Unauthenticated)
}

// Revoked is revoked at once where it was done, and within five seconds everywhere (E-6).
func TestKeyIsRevoked(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant(policy.Admin)
	other := v.Replica()
	issued := service(t, v, who, nil)
	second, err := v.IssueKey(t.Context(), who, issued.Principal, vault.KeyTerms{})
	if err != nil {
		t.Fatal(err)
	}
	for _, replica := range []*vault.Vault{v.Vault, other} {
		if _, err := replica.Authenticate(t.Context(), issued.Key); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // again changes nothing
		if err := v.RevokeKey(t.Context(), who, issued.Principal, issued.ID); err != nil {
			t.Fatal(err)
		}
	}
	_, err = v.Authenticate(t.Context(), issued.Key)
	wantKind(t, "a revoked key where it was revoked", err, vault.Unauthenticated)
	v.Advance(5 * time.Second)
	_, err = other.Authenticate(t.Context(), issued.Key)
	wantKind(t, "a revoked key on another replica after five seconds", err, vault.Unauthenticated)
	if _, err := v.Authenticate(t.Context(), second.Key); err != nil {
		t.Errorf("the principal's other key: %v", err)
	}
}

func TestKeyIsNowhereInTheDatabase(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := vaulttest.New(t, options...)
			first := v.Key(policy.Developer)
			who, err := v.Authenticate(t.Context(), first)
			if err != nil {
				t.Fatal(err)
			}
			issued := service(t, v, who, nil)
			if err := v.RevokeKey(t.Context(), who, issued.Principal, issued.ID); err != nil {
				t.Fatal(err)
			}
			birds := newBirds([]string{first, first[5:32], issued.Key, issued.Key[5:32]}, nil)
			for _, table := range tables(v) {
				for _, row := range rows(t, table.url, `select row_to_json(x)::text from `+table.name+` x`) {
					if found := birds.in([]byte(row)); len(found) > 0 {
						t.Errorf("a row of %s holds %q", table.name, found)
					}
				}
			}
			for _, address := range []string{v.OwnerURL, v.KeysURL} {
				if found := birds.in(dump(t, address)); len(found) > 0 {
					t.Errorf("the dump holds %q", found)
				}
			}
			if found := birds.in([]byte(v.Log.String())); len(found) > 0 {
				t.Errorf("the log holds %q", found)
			}
		})
	}
}

func TestPrincipalsThatAreRefused(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	for what, p := range map[string]struct {
		name  string
		roles []string
	}{
		"no name": {"", []string{"admin"}}, "a name": {"Service 1", []string{"admin"}}, "a long name": {strings.Repeat("a", 64), []string{"admin"}},
		"no role": {"a", nil}, "a role that isn't": {"a", []string{"root"}}, "the developer's": {"a", []string{"admin", policy.Developer}},
	} {
		_, err := v.CreatePrincipal(t.Context(), who, p.name, p.roles)
		wantKind(t, what, err, vault.Invalid)
	}
	_, err := v.CreateTenant(t.Context(), "No Name", []string{"admin"}, "")
	wantKind(t, "a tenant's name", err, vault.Invalid)
	if got := v.Count(`select count(*) from privault.principals`); got != 1 {
		t.Errorf("%d principals, want the tenant's first alone", got)
	}
}
