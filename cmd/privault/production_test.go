package main

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/vaulttest"
)

// installation is a deployment in the making, by the commands that docs/operate.md tells to run, in its order.
type installation struct {
	data, keys     string // databases, as administrator
	migrator       string // the owner's role
	writer, keeper string // the service's roles; the same where both databases are
	kms            string
}

// as is a database's URL for a role.
func as(t testing.TB, database, role string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "pass-word")
	return u.String()
}

func newInstallation(t testing.TB, apart bool) *installation {
	t.Helper()
	mark := "_" + strings.ToLower(rand.Text()[:8]) // roles belong to the whole server
	i := &installation{data: vaulttest.EmptyDatabase(t), migrator: "privault_migrator" + mark, writer: "vault" + mark}
	i.keys, i.keeper = i.data, i.writer
	groups := "privault_app, privault_keystore"
	if apart {
		i.keys, i.keeper, groups = vaulttest.EmptyDatabase(t), "keeper"+mark, "privault_app"
	}
	roles := run1(t, nil, "migrate", "roles").want(t, 0).out
	for range 2 { // it may be run again
		vaulttest.ExecURL(t, i.data, roles)
	}
	vaulttest.ExecURL(t, i.data, "create role "+i.migrator+" login password 'pass-word'")
	vaulttest.ExecURL(t, i.data, "create role "+i.writer+" login password 'pass-word' in role "+groups)
	if apart {
		vaulttest.ExecURL(t, i.data, "create role "+i.keeper+" login password 'pass-word' in role privault_keystore")
	}
	for _, database := range []string{i.data, i.keys} {
		c, err := pgx.ParseConfig(database)
		if err != nil {
			t.Fatal(err)
		}
		vaulttest.ExecURL(t, database, "grant create on database "+c.Database+" to "+i.migrator)
	}
	dir := filepath.Join(t.TempDir(), "kms")
	i.kms = "local://" + dir + ".keyset?key-file=" + dir + ".key"
	return i
}

func (i *installation) migrating(t testing.TB) []string {
	t.Helper()
	env := []string{"PRIVAULT_MIGRATE_DATABASE_URL=" + as(t, i.data, i.migrator)}
	if i.keys != i.data {
		env = append(env, "PRIVAULT_MIGRATE_KEYSTORE_URL="+as(t, i.keys, i.migrator))
	}
	return env
}

func (i *installation) serving(t testing.TB) []string {
	t.Helper()
	env := trial(as(t, i.data, i.writer), i.kms)
	if i.keys != i.data {
		env = append(env, "PRIVAULT_KEYSTORE_URL="+as(t, i.keys, i.keeper))
	}
	return env
}

func TestProduction(t *testing.T) {
	t.Parallel()
	for name, apart := range map[string]bool{"one database": false, "keystore apart": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newInstallation(t, apart)
			i.migrate(t)

			run1(t, i.serving(t), "keys", "create").want(t, 0)
			again := run1(t, i.serving(t), "keys", "create").want(t, exitFailed)
			if !strings.Contains(again.err, "exists") {
				t.Error("a second keys create said ", again.err)
			}
			admin := printedKey(t, run1(t, i.serving(t), "tenant", "create", "acme").want(t, 0))
			twice := run1(t, i.serving(t), "tenant", "create", "acme").want(t, exitFailed)
			if strings.Contains(twice.out, "pvak_") {
				t.Error("a second tenant of the name got a key")
			}

			s := startServe(t, i.serving(t)...)
			useProduction(t, "http://"+s.public, admin)
			bound(t, i.data)
			bound(t, i.keys)
			s.stop(t, syscall.SIGTERM)
			if vaulttest.CountURL(t, i.keys, `select count(*) from keystore.data_keys`) != 1 {
				t.Error("the record's key is not in the keystore")
			}
			if apart {
				held := `select count(*) from information_schema.schemata where schema_name = `
				if vaulttest.CountURL(t, i.data, held+`'keystore'`)+vaulttest.CountURL(t, i.keys, held+`'privault'`) != 0 {
					t.Error("a schema is in the other's database")
				}
			}
		})
	}
}

// migrate applies the schema as an owner who is nothing else, and again, which changes nothing.
func (i *installation) migrate(t *testing.T) {
	t.Helper()
	behind := run1(t, i.migrating(t), "migrate", "status").want(t, exitFailed)
	if !strings.Contains(behind.out, "behind") || !strings.Contains(behind.err, "privault migrate up") {
		t.Errorf("before the first migration, status said %s%s", behind.out, behind.err)
	}
	up := run1(t, i.migrating(t), "migrate", "up").want(t, 0)
	status := run1(t, i.migrating(t), "migrate", "status").want(t, 0)
	if up.out != status.out || strings.Count(status.out, "up to date") != 2 {
		t.Errorf("up said %q and status %q", up.out, status.out)
	}
	if twice := run1(t, i.migrating(t), "migrate", "up").want(t, 0); twice.out != up.out {
		t.Errorf("up said %q, and then %q", up.out, twice.out)
	}
	wrong := run1(t, []string{"PRIVAULT_MIGRATE_DATABASE_URL=" + strings.Replace(as(t, i.data, i.migrator), "pass-word", "other-word", 1)}, "migrate", "up").want(t, exitFailed)
	if strings.Contains(wrong.err, "other-word") {
		t.Error("a password is in ", wrong.err)
	}
}

// useProduction does what an installation is for: the admin lets others in, and sees no value.
func useProduction(t *testing.T, address, admin string) {
	t.Helper()
	boss := caller{url: address, key: admin}
	boss.collection(t, "people", map[string]string{"email": "email"})
	worker := caller{url: address, key: boss.principal(t, "billing", "backend-writer")}
	reader := caller{url: address, key: boss.principal(t, "support", "backend-reader")}
	token := worker.tokenize(t, "people", "email", "jane@example.com")
	if got := reader.reveal(t, []string{token}); got[0] != "jane@example.com" {
		t.Errorf("the token stands for %q", got)
	}
	for _, c := range []caller{boss, worker} {
		body := map[string]any{"items": []any{map[string]string{"token": token, "view": "plain"}}}
		var got batchAnswer[struct{ Value json.RawMessage }]
		c.want(t, http.StatusForbidden, http.MethodPost, "/v1/detokenize", body, &got)
		if len(got.Items) != 1 || got.Items[0].Value != nil {
			t.Errorf("who must not read is told %s", got.Items)
		}
	}
}

// principal makes a principal of this role and gives its key.
func (c caller) principal(t testing.TB, name, role string) string {
	t.Helper()
	var principal struct{ ID string }
	c.want(t, http.StatusCreated, http.MethodPost, "/v1/principals", map[string]any{"name": name, "roles": []string{role}}, &principal)
	var issued struct{ Key string }
	c.want(t, http.StatusCreated, http.MethodPost, "/v1/principals/"+principal.ID+"/keys", "{}", &issued)
	return issued.Key
}
