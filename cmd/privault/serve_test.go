package main

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/privault/privault/kms/kmstest"
	"github.com/privault/privault/migrations"
	"github.com/privault/privault/vault/pgserver"
	"github.com/privault/privault/vault/vaulttest"
)

// server is a `privault serve` that serves.
type server struct {
	*process
	public, ops string // host:port
}

// startServe starts a server with these settings on any free ports and waits until it serves.
func startServe(t testing.TB, settings ...string) *server {
	t.Helper()
	s := &server{process: start(t, t.TempDir(), append(settings, "PRIVAULT_LISTEN=127.0.0.1:0", "PRIVAULT_OPS_LISTEN=127.0.0.1:0"), "serve")}
	s.tell(t)
	eventually(t, "the server serves", func() bool {
		if s.ended() {
			t.Fatalf("the server ended with code %d:\n%s", s.ProcessState.ExitCode(), s.stderr.String())
		}
		for _, line := range s.log(t) {
			if line["msg"] == "serving" {
				s.public, s.ops = line["listen"].(string), line["ops_listen"].(string)
			}
		}
		return s.public != ""
	})
	return s
}

// log is what the server has logged: JSON, line by line, and nothing else.
func (s *server) log(t testing.TB) []map[string]any {
	t.Helper()
	var lines []map[string]any
	for text := range strings.Lines(s.stderr.String()) {
		if !strings.HasSuffix(text, "\n") {
			break // still being written
		}
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("a log line is not JSON: %q", text)
		}
		lines = append(lines, line)
	}
	return lines
}

func (s *server) operations() caller { return caller{url: "http://" + s.ops} }

// trial are settings that let a server run on the tests' Postgres, which has fsync off.
func trial(databaseURL, kms string) []string {
	return []string{"PRIVAULT_DATABASE_URL=" + databaseURL, "PRIVAULT_KMS=" + kms, "PRIVAULT_ALLOW_LOCAL_KMS=true",
		"PRIVAULT_CLIENT_ADDRESS=direct", "PRIVAULT_INSECURE_HTTP=true", "PRIVAULT_AUDIT_KEY=" + auditKey(kms), "PRIVAULT_LEDGER=" + auditKey(kms) + ".ledger", "PRIVAULT_ALLOW_UNSAFE_DATABASE=true"}
}

// auditKey is the file of the audit log's key, beside that of a local KMS; it is made when it isn't there.
func auditKey(kms string) string {
	path, _, _ := strings.Cut(strings.TrimPrefix(kms, "local://"), "?")
	path += ".audit"
	if _, err := os.Stat(path); err != nil {
		if _, err := writeAuditKey(path, "test.example/audit", nil); err != nil {
			return "" // which the server will not like
		}
	}
	return path
}

// All that is wrong with the settings is said at once, with the code that says "starting again won't help".
func TestServeSettings(t *testing.T) {
	t.Parallel()
	cert, key := writeCertificate(t, t.TempDir())
	_, otherKey := writeCertificate(t, t.TempDir())
	garbage := filepath.Join(t.TempDir(), "garbage.pem")
	write(t, garbage, "not a certificate")
	fit := []string{"--database-url", "postgres://vault:secret-word@/vault", "--kms", "local:///nowhere", "--allow-local-kms", "--client-address", "direct", "--ledger", filepath.Join(t.TempDir(), "ledger"), "--insecure-http", "--audit-key", auditKey("local://" + filepath.Join(t.TempDir(), "kms"))}
	issuers := filepath.Join(t.TempDir(), "issuers.json")
	write(t, issuers, `{"issuers":[{"issuer":"http://login.example","algorithms":["HS256"],"tenant":{"name":"acme"}}],"certificates":[{"spiffe":"spiffe://x/*","tenant":"acme","roles":["developer"]}]}`)
	with := func(args ...string) []string { return append(fit[:len(fit):len(fit)], args...) }
	tls := func(args ...string) []string {
		return append(slices.Delete(slices.Clone(fit), len(fit)-3, len(fit)-2), args...)
	}
	for _, c := range []struct {
		args   []string
		faults []string
	}{
		{nil, []string{"--database-url (PRIVAULT_DATABASE_URL) is missing", "--kms (PRIVAULT_KMS) is missing", "--audit-key (PRIVAULT_AUDIT_KEY) is missing", "--client-address", "--ledger (PRIVAULT_LEDGER) is missing", "--insecure-http"}},
		{[]string{"--kms", "local:///nowhere", "--listen", "8443", "--ops-listen", "nope", "--tls-cert", cert, "--max-conns", "1", "--key-cache-ttl", "1ms",
			"--database-url", "postgres://vault:secret-word@db.example/vault?sslmode=disable", "--keystore-url", "http://keys.example/", "--allow-no-ledger"},
			[]string{"--allow-local-kms", "--audit-key (PRIVAULT_AUDIT_KEY) is missing", "--listen is not host:port", "--ops-listen is not host:port", "--tls-cert and --tls-key go together",
				"--max-conns is 2 to 1000", "--key-cache-ttl", "--database-url names another machine", "--keystore-url is not a postgres:// URL"}},
		{with("--issuers", issuers), []string{"issuer must be an https:// URL", "audience is missing", "algorithms are RS256", "developer is for development"}},
		{with("--issuers", garbage), []string{"--issuers"}},
		{with("--client-ca", cert), []string{"--client-ca needs --tls-cert"}},
		{tls("--tls-cert", cert, "--tls-key", key, "--client-ca", key), []string{"--client-ca: no certificate in it"}},
		{with("--trusted-proxies", "10.0.0.0/8"), []string{"--trusted-proxies needs --client-address proxy"}},
		{with("--client-address", "proxy"), []string{"--client-address proxy needs --trusted-proxies"}},
		{with("--client-address", "proxy", "--trusted-proxies", "10.0.0.1"), []string{"--trusted-proxies are networks"}},
		{with("--public-url", "https://vault.example/path"), []string{"--public-url"}},
		{with("--keystore-url", "postgres://keys.example/?sslmode=disable"), []string{"--keystore-url names another machine"}},
		{with("--keystore-url", "postgres:///keys?host=10.1.2.3&sslmode=disable"), []string{"--keystore-url names another machine"}},
		{with("--tls-cert", cert, "--tls-key", key), []string{"--insecure-http and --tls-cert exclude each other"}},
		{with("--allow-no-ledger"), []string{"--ledger and --allow-no-ledger exclude each other"}},
		{with("--ledger", filepath.Join(t.TempDir(), "gone", "ledger")), []string{"--ledger: there is no folder"}},
		{with("--audit-key", garbage), []string{"--audit-key"}},
		{with("--audit-key", filepath.Join(t.TempDir(), "gone")), []string{"--audit-key"}},
		{with("--audit-copy", filepath.Join(t.TempDir(), "gone", "copy")), []string{"--audit-copy"}},
		{tls("--tls-key", key), []string{"--tls-cert and --tls-key go together"}},
		{tls("--tls-cert", garbage, "--tls-key", key), []string{"the certificate"}},
		{tls("--tls-cert", filepath.Join(t.TempDir(), "gone.pem"), "--tls-key", key), []string{"gone.pem"}},
		{tls("--tls-cert", cert, "--tls-key", otherKey), []string{"the certificate"}},
	} {
		got := run1(t, nil, append([]string{"serve"}, c.args...)...).want(t, exitConfig)
		if n := strings.Count(got.err, "\n  - "); n != len(c.faults) {
			t.Errorf("serve %q names %d faults, want %d:\n%s", c.args, n, len(c.faults), got.err)
		}
		for _, fault := range c.faults {
			if !strings.Contains(got.err, fault) {
				t.Errorf("serve %q does not say %q:\n%s", c.args, fault, got.err)
			}
		}
		if strings.Contains(got.err, "secret-word") {
			t.Error("a password is in ", got.err)
		}
	}
}

// What is wrong behind the settings ends the start too, in a line that gives no password away.
func TestServeWithoutWhatItNeeds(t *testing.T) {
	t.Parallel()
	kms := kmstest.LocalURI(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	database := vaulttest.AppURL(vaulttest.Database(t))
	for what, c := range map[string]struct {
		settings []string
		args     []string
		said     string
	}{
		"no Postgres":    {settings: trial("postgres://vault:secret-word@127.0.0.1:1/vault", kms), said: "127.0.0.1"},
		"no schema":      {settings: trial(vaulttest.EmptyDatabase(t), kms), said: "privault migrate up"},
		"no keyset file": {settings: append(trial(database, "local:///nowhere/keyset?key-file=/nowhere/key"), "PRIVAULT_AUDIT_KEY="+auditKey(kms)), said: "/nowhere/key"},
		"port in use":    {settings: trial(database, kms), args: []string{"--listen", taken.Addr().String()}, said: taken.Addr().String()},
	} {
		got := run1(t, c.settings, append([]string{"serve", "--ops-listen", "127.0.0.1:0"}, c.args...)...).want(t, exitFailed)
		_, last, found := strings.Cut("\n"+got.err, "\nprivault: ")
		if !found || !strings.Contains(last, c.said) || strings.Contains(got.err, "secret-word") {
			t.Errorf("%s: it said %q", what, got.err)
		}
	}
}

// role makes a login on the tests' Postgres and gives its URL for a database.
func role(t testing.TB, database, privileges string) (name, databaseURL string) {
	t.Helper()
	name = "r_" + strings.ToLower(rand.Text()[:10])
	vaulttest.ExecURL(t, vaulttest.OwnerURL(database), "create role "+name+" login password 'pass-word' "+privileges)
	u, err := url.Parse(vaulttest.OwnerURL(database))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(name, "pass-word")
	return name, u.String()
}

// A role that row-level security would not bind is refused by name, whatever is allowed; a server that may lose what it
// acknowledged is refused unless that is.
func TestServeUnfitDatabase(t *testing.T) {
	t.Parallel()
	kms, database := kmstest.LocalURI(t), vaulttest.Database(t)
	for privileges, reason := range map[string]string{
		"superuser": "superuser=true",
		"bypassrls in role privault_app, privault_keystore": "bypassrls=true",
		"in role privault_app, privault_keystore":           "owner of schema privault=true",
	} {
		name, as := role(t, database, privileges)
		if strings.Contains(reason, "owner") {
			vaulttest.ExecURL(t, vaulttest.OwnerURL(database), "grant "+pgserver.Owner+" to "+name)
		}
		got := run1(t, trial(as, kms), "serve", "--ops-listen", "127.0.0.1:0", "--listen", "127.0.0.1:0").want(t, exitConfig)
		if !strings.Contains(got.err, reason) || !strings.Contains(got.err, name) || strings.Contains(got.err, "pass-word") {
			t.Errorf("%s: it said %s", privileges, got.err)
		}
	}

	_, as := role(t, database, "in role privault_app, privault_keystore")
	settings := trial(as, kms)
	got := run1(t, settings[:len(settings)-1], "serve", "--ops-listen", "127.0.0.1:0", "--listen", "127.0.0.1:0").want(t, exitConfig)
	if !strings.Contains(got.err, "fsync=off") || strings.Count(got.err, "\n  - ") != 1 {
		t.Error("fsync off: it said ", got.err)
	}
	s := startServe(t, settings...)
	s.operations().want(t, http.StatusOK, http.MethodGet, "/readyz", nil, nil)
	s.stop(t, syscall.SIGTERM)
}

// The operators' routes are on their own listener only, and the log is JSON to its last line.
func TestServeListeners(t *testing.T) {
	t.Parallel()
	database, kms := vaulttest.AppURL(vaulttest.Database(t)), kmstest.LocalURI(t)
	s := startServe(t, trial(database, kms)...)
	public := caller{url: "http://" + s.public}
	for path, says := range map[string]string{"/healthz": "ok", "/readyz": "ok", "/metrics": "privault_http_requests_total"} {
		public.want(t, http.StatusNotFound, http.MethodGet, path, nil, nil)
		status, answer, err := s.operations().send(t.Context(), http.MethodGet, path, nil)
		if err != nil || status != http.StatusOK || !strings.Contains(string(answer), says) {
			t.Errorf("%s: %d %v", path, status, err)
		}
	}
	s.operations().want(t, http.StatusNotFound, http.MethodGet, "/v1/collections", nil, nil)
	s.operations().want(t, http.StatusNotFound, http.MethodGet, "/openapi.yaml", nil, nil)
	s.operations().want(t, http.StatusNotFound, http.MethodGet, "/debug/pprof/", nil, nil)
	public.want(t, http.StatusOK, http.MethodGet, "/openapi.yaml", nil, nil)
	if p := public.problem(t, http.StatusUnauthorized, http.MethodGet, "/v1/collections", nil); p != "unauthenticated" {
		t.Error("without a key: ", p)
	}
	s.stop(t, syscall.SIGTERM)
	lines := s.log(t)
	if last := lines[len(lines)-1]; last["msg"] != "stopped" || s.stdout.String() != "" {
		t.Errorf("the last line is %v, and stdout has %q", last, s.stdout.String())
	}
}

// SIGTERM in the middle of a request: its rest is awaited, it is done, and its answer says so; nobody new gets in.
func TestServeFinishesWhatItAccepted(t *testing.T) {
	t.Parallel()
	database, kms := vaulttest.Database(t), kmstest.LocalURI(t)
	settings := trial(vaulttest.AppURL(database), kms)
	key := tenantKey(t, settings)
	s := startServe(t, settings...)
	c := caller{url: "http://" + s.public, key: key}
	c.collection(t, "people", map[string]string{"email": "email"})

	const body = `{"collection":"people","items":[{"fields":{"email":"jane@example.com"}}]}`
	conn, err := net.Dial("tcp", s.public)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/tokenize HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
		key, len(body))
	answer := bufio.NewReader(conn)
	// "100 Continue" says that the handler has the request and reads its body.
	if line, err := answer.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("%q %v", line, err)
	}
	if _, err := answer.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	s.signal(syscall.SIGTERM)
	eventually(t, "nobody new gets in", func() bool {
		again, err := net.Dial("tcp", s.public)
		if err == nil {
			_ = again.Close()
		}
		return err != nil
	})
	fmt.Fprint(conn, body)
	got, err := http.ReadResponse(answer, nil)
	if err != nil {
		t.Fatal("the accepted request got no answer: ", err)
	}
	defer got.Body.Close()
	if got.StatusCode != http.StatusOK {
		t.Error("the accepted request was answered ", got.Status)
	}
	if code := s.wait(t); code != 0 {
		t.Error("it ended with code ", code)
	}
	if n := vaulttest.CountURL(t, vaulttest.OwnerURL(database), `select count(*) from privault.records`); n != 1 {
		t.Errorf("%d records", n)
	}
}

// tenantKey makes a tenant by the command and gives the key of its first principal, who may do everything.
func tenantKey(t testing.TB, settings []string) string {
	t.Helper()
	return printedKey(t, run1(t, settings, "tenant", "create", "acme", "--role", "developer").want(t, 0))
}

func printedKey(t testing.TB, f finished) string {
	t.Helper()
	_, key, found := strings.Cut(f.out, "\nkey ")
	if !found || !strings.HasPrefix(key, "pvak_") || strings.Count(key, "\n") != 1 {
		t.Fatalf("no key in %q", f.out)
	}
	return strings.TrimSpace(key)
}

// Postgres goes and comes back: the server says what is missing in the meantime, and needs no restart.
func TestServeWithoutPostgres(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	private := startPostgres(t, dir)
	vaulttest.ExecURL(t, private.URL("postgres"), migrations.Roles)
	vaulttest.ExecURL(t, private.URL("postgres"), "create role service login password 'pass-word' in role privault_app, privault_keystore")
	if err := migrations.Up(t.Context(), private.URL("postgres"), private.URL("postgres")); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(private.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("service", "pass-word")
	settings := trial(u.String(), kmstest.LocalURI(t))
	key := tenantKey(t, settings)
	// A durable server needs no --allow-unsafe-database.
	s := startServe(t, settings[:len(settings)-1]...)
	c := caller{url: "http://" + s.public, key: key}
	c.collection(t, "people", map[string]string{"email": "email"})
	token := c.tokenize(t, "people", "email", "jane@example.com")

	if err := private.Stop(); err != nil {
		t.Fatal(err)
	}
	for path, body := range map[string]any{
		"/v1/tokenize":   oneItem("people", "email", "joe@example.com"),
		"/v1/detokenize": map[string]any{"items": []any{map[string]string{"token": token, "view": "plain"}}},
	} {
		if p := c.problem(t, http.StatusServiceUnavailable, http.MethodPost, path, body); p != "database-unavailable" {
			t.Errorf("%s without Postgres: %s", path, p)
		}
	}
	s.operations().want(t, http.StatusServiceUnavailable, http.MethodGet, "/readyz", nil, nil)
	s.operations().want(t, http.StatusOK, http.MethodGet, "/healthz", nil, nil)
	s.operations().want(t, http.StatusOK, http.MethodGet, "/metrics", nil, nil)

	private = startPostgres(t, dir)
	eventually(t, "the server is ready again", func() bool {
		status, _, err := s.operations().send(t.Context(), http.MethodGet, "/readyz", nil)
		return err == nil && status == http.StatusOK
	})
	if got := c.reveal(t, []string{token}); got[0] != "jane@example.com" {
		t.Errorf("after Postgres came back the token stands for %q", got)
	}
	c.tokenize(t, "people", "email", "joe@example.com")
	s.stop(t, syscall.SIGTERM)
	if err := private.Stop(); err != nil {
		t.Error(err)
	}
	if strings.Contains(s.stderr.String(), "pass-word") || strings.Contains(s.stderr.String(), "example.com") {
		t.Error("a password or a value is in the log")
	}
}

func startPostgres(t testing.TB, dir string) *pgserver.Server {
	t.Helper()
	s, err := pgserver.Start(t.Context(), pgserver.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop() }) // again, for a test that failed; a bad end was reported the first time
	return s
}
