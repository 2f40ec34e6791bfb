package main

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/privault/privault/vault/vaulttest"
)

// pgProgram runs one of Postgres's client programs, as docs/operate.md says.
func pgProgram(t testing.TB, program string, args ...string) {
	t.Helper()
	dir, err := clientBinaries()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(filepath.Join(dir, program), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", program, err, out)
	}
}

// dump writes a dump of a database.
func dump(t testing.TB, database, format string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "dump")
	pgProgram(t, "pg_dump", "--format", format, "--file", file, "--dbname", database)
	return file
}

// restored makes a database of a dump, in place of the one at this URL.
func restored(t testing.TB, database, file string) {
	t.Helper()
	name, admin := vaulttest.DatabaseOf(t, database), vaulttest.OwnerURL("postgres")
	vaulttest.ExecURL(t, admin, "drop database "+name+" with (force)")
	vaulttest.ExecURL(t, admin, "create database "+name)
	pgProgram(t, "pg_restore", "--exit-on-error", "--dbname", database, file)
}

// population is a deployment with people in it, of whom some are erased after a backup.
type population struct {
	*installation
	settings   []string
	key        string
	tokens     map[string]string // person → token
	data, keys string            // the dumps
	erased     []string
}

func (p *population) at(s *server) caller { return caller{url: "http://" + s.public, key: p.key} }

func newPeople(t *testing.T, apart bool) *population {
	t.Helper()
	p := &population{installation: newInstallation(t, apart), tokens: map[string]string{}, erased: []string{"p-0", "p-1", "p-2"}}
	run1(t, p.migrating(t), "migrate", "up").want(t, 0)
	p.settings = p.serving(t)
	run1(t, p.settings, "keys", "create").want(t, 0)
	p.key = tenantKey(t, p.settings)
	s := startServe(t, p.settings...)
	c := p.at(s)
	c.collection(t, "people", map[string]string{"email": "email"})
	for i := range 6 {
		person := fmt.Sprintf("p-%d", i)
		var got batchAnswer[importedItem]
		c.want(t, http.StatusOK, http.MethodPost, "/v1/tokenize", map[string]any{"collection": "people",
			"items": []any{map[string]any{"subject": person, "fields": map[string]string{"email": person + "@example.com"}}}}, &got)
		p.tokens[person] = got.Items[0].Tokens["email"]
	}
	p.data = dump(t, p.installation.data, "custom")
	if apart {
		p.keys = dump(t, p.installation.keys, "custom")
	}
	for _, person := range p.erased {
		c.want(t, http.StatusOK, http.MethodPost, "/v1/subjects/"+person+"/erasure", map[string]string{"reason": "gdpr-17"}, nil)
	}
	eventually(t, "the audit log has entries from after the backup, and its checkpoint is kept", func() bool {
		_, err := os.Stat(p.checkpoint())
		return err == nil && vaulttest.CountURL(t, p.installation.data, `select count(*) from privault.audit_entries e join privault.audit_leaves using (tenant_id, entry_id) where action = 'erase'`) == len(p.erased)
	})
	s.stop(t, syscall.SIGTERM)
	return p
}

// ledger is the file that the servers write.
func (p *population) ledger() string { return auditKey(p.kms) + ".ledger" }

// checkpoint is the file that the newest checkpoint of the audit log is kept in.
func (p *population) checkpoint() string { return auditKey(p.kms) + ".checkpoint" }

// everyRead tries what could give a value, or a sign of one.
func everyRead(t *testing.T, c caller, token string) {
	t.Helper()
	for path, body := range map[string]any{
		"/v1/detokenize":      map[string]any{"items": []any{map[string]string{"token": token, "view": "plain"}}},
		"/v1/tokens/validate": map[string]any{"items": []any{map[string]string{"token": token}}},
		"/v1/tokenize":        oneItem("people", "email", "new@example.com"),
	} {
		if p := c.problem(t, http.StatusServiceUnavailable, http.MethodPost, path, body); p != "restore-fence" {
			t.Errorf("%s: %s", path, p)
		}
	}
	for _, path := range []string{"/v1/subjects/p-0", "/v1/collections", "/v1/nowhere", "/openapi.yaml", "/audit/checkpoint"} {
		if p := c.problem(t, http.StatusServiceUnavailable, http.MethodGet, path, nil); p != "restore-fence" {
			t.Errorf("%s: %s", path, p)
		}
	}
}

// A backup from before erasures is restored with Postgres's own programs: (a) of the data alone, and (b) of data and keystore. Two servers on it
// serve nothing until the ledger is replayed, and afterwards nothing of those who are erased.
func TestARestoredBackupBringsNobodyBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ apart, oldKeys bool }{
		"one database": {false, true}, "data alone": {true, false}, "data and an old keystore": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPeople(t, c.apart)
			restored(t, p.installation.data, p.data)
			if c.apart && c.oldKeys {
				restored(t, p.installation.keys, p.keys)
			}
			// The audit log was set back too: docs/operate.md says to keep its checkpoint as evidence.
			if err := os.Rename(p.checkpoint(), p.checkpoint()+".before-restore"); err != nil {
				t.Fatal(err)
			}
			servers := []*server{startServe(t, p.settings...), startServe(t, p.settings...)}
			for _, s := range servers {
				everyRead(t, p.at(s), p.tokens["p-0"])
				s.operations().want(t, http.StatusOK, http.MethodGet, "/healthz", nil, nil)
				status, why, err := s.operations().send(t.Context(), http.MethodGet, "/readyz", nil)
				if err != nil || status != http.StatusServiceUnavailable || !strings.Contains(string(why), "privault restore replay") {
					t.Errorf("readyz: %d %s %v", status, why, err)
				}
			}
			report := filepath.Join(t.TempDir(), "report")
			run1(t, p.settings, "restore", "replay", "--report", report).want(t, 0)
			run1(t, nil, "receipt", "verify", "--key", auditKey(p.kms)+".pub", report).want(t, 0)
			if text := read(t, report); !strings.Contains(text, "\nerasures: 3\n") || strings.Contains(text, "p-0") {
				t.Errorf("the report:\n%s", text)
			}
			for _, s := range servers {
				eventually(t, "the server serves again", func() bool {
					status, _, err := s.operations().send(t.Context(), http.MethodGet, "/readyz", nil)
					return err == nil && status == http.StatusOK
				})
				p.check(t, p.at(s))
			}
			again := run1(t, p.settings, "restore", "replay").want(t, 0)
			if !strings.Contains(again.out, "\nlines-replayed: 0\n") {
				t.Errorf("replayed again:\n%s", again.out)
			}
			for _, s := range servers {
				s.stop(t, syscall.SIGTERM)
			}
		})
	}
}

// check wants the erased to be gone, and the others to be there.
func (p *population) check(t *testing.T, c caller) {
	t.Helper()
	for person, token := range p.tokens {
		status, body, err := c.send(t.Context(), http.MethodPost, "/v1/detokenize", map[string]any{"items": []any{map[string]string{"token": token, "view": "plain"}}})
		want := http.StatusOK
		for _, gone := range p.erased {
			if gone == person {
				want = http.StatusNotFound
			}
		}
		if err != nil || status != want || (want == http.StatusOK) != strings.Contains(string(body), person+"@example.com") {
			t.Errorf("the token of %s: %d %s %v", person, status, body, err)
		}
	}
}

// A drill says of a dump what would come back, and that nothing does after the replay; and it leaves nothing behind.
func TestADrillTriesABackup(t *testing.T) {
	t.Parallel()
	t.Cleanup(func() { // when both have ended
		if n := vaulttest.CountURL(t, vaulttest.OwnerURL("postgres"), `select count(*) from pg_database where datname like 'privault\_drill\_%'`); n != 0 {
			t.Errorf("%d scratch databases are left", n)
		}
	})
	for name, apart := range map[string]bool{"one database": false, "keystore apart": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPeople(t, apart)
			u, err := url.Parse(vaulttest.OwnerURL("postgres"))
			if err != nil {
				t.Fatal(err)
			}
			ledger := read(t, p.ledger())
			settings := []string{"PRIVAULT_KMS=" + p.kms, "PRIVAULT_LEDGER=" + p.ledger(), "PRIVAULT_AUDIT_KEY=" + auditKey(p.kms), "PRIVAULT_DRILL_SERVER=" + u.String()}
			both := []string{"restore", "drill", "--dump", p.data}
			if apart {
				both = append(both, "--keystore-dump", p.keys)
			}
			report := filepath.Join(t.TempDir(), "report")
			run1(t, settings, append(both, "--report", report)...).want(t, 0)
			run1(t, nil, "receipt", "verify", "--key", auditKey(p.kms)+".pub", report).want(t, 0)
			wantLines(t, read(t, report), "records-of-erased-people: 3", "of-them-readable-before-the-replay: 3", "of-them-readable-after-the-replay: 0",
				"records-of-others-tried: 3", "of-them-readable: 3", "erasures: 3", "verdict: passed")
			if apart {
				// The data alone, with the keystore that is in use, which a drill can't change.
				alone := run1(t, append(settings, "PRIVAULT_KEYSTORE_URL="+p.installation.keys), "restore", "drill", "--dump", p.data).want(t, 0)
				wantLines(t, alone.out, "of-them-readable-before-the-replay: 0", "of-them-readable: 3", "verdict: passed")
				run1(t, settings, "restore", "drill", "--dump", p.data).want(t, exitConfig)
			} else {
				plain := run1(t, settings, "restore", "drill", "--dump", dump(t, p.installation.data, "plain")).want(t, 0)
				wantLines(t, plain.out, "lines-replayed: 0", "of-them-readable: 3", "verdict: passed")
			}
			// A ledger that lacks the erasures is what a drill is there to find out about, and a key that opens nothing.
			broken := filepath.Join(t.TempDir(), "dump")
			write(t, broken, read(t, p.data)[:2000])
			run1(t, settings, "restore", "drill", "--dump", broken).want(t, exitFailed)
			run1(t, append(settings, "PRIVAULT_DRILL_SERVER=postgres://nobody@127.0.0.1:1/x"), both...).want(t, exitTryAgain)
			if read(t, p.ledger()) != ledger {
				t.Error("the drill wrote the ledger")
			}
		})
	}
}

func wantLines(t testing.TB, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %q in:\n%s", line, text)
		}
	}
}
