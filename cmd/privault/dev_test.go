package main

import (
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault/vaulttest"
)

// The folder's name has what a shell and a URL may stumble over, and is too long for a socket's path.
func awkward(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "My Files, 100%", strings.Repeat("deep/", 25), "vault")
}

func TestDevGreeting(t *testing.T) {
	t.Parallel()
	dir := awkward(t)
	d := startDev(t, dir)

	info, err := os.Stat(d.file("dev.json"))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("dev.json: %v %v", info.Mode(), err)
	}
	var members map[string]string
	if err := json.Unmarshal([]byte(read(t, d.file("dev.json"))), &members); err != nil {
		t.Error(err)
	}
	want := []string{"api_key", "database_url", "keystore_url", "ops_url", "url"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(members))); diff != "" {
		t.Error("members of dev.json: ", diff)
	}
	if info, err = os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v %v", info.Mode(), err)
	}

	answers := runGreeting(t, d)
	var made batchAnswer[importedItem]
	if err := json.Unmarshal([]byte(answers[0]), &made); err != nil || made.Items[0].Status != http.StatusCreated {
		t.Errorf("the first call answered %s (%v)", answers[0], err)
	}
	if got := d.caller().reveal(t, []string{made.Items[0].Tokens["email"]}); got[0] != "jane@example.com" {
		t.Errorf("the first call's token stands for %q", got)
	}
	if !strings.Contains(answers[1], `"view":"masked","value":"a***@example.com"`) {
		t.Error("the second call answered ", answers[1])
	}
	if !strings.Contains(answers[2], `"view":"plain","value":"ada@example.com"`) {
		t.Error("the third call answered ", answers[2])
	}
	for path, status := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 200} {
		(caller{url: d.OpsURL}).want(t, status, http.MethodGet, path, nil, nil)
	}
	d.stop(t, syscall.SIGTERM)
}

var greetingCommand = regexp.MustCompile(`(?m)^curl .*\\\n.*$`)

// runGreeting runs the greeting's commands as they stand, by a shell, and gives what they print. Their curl is the test
// binary under that name: a fresh machine has none.
func runGreeting(t *testing.T, d *devServer) []string {
	t.Helper()
	eventually(t, "the greeting is there", func() bool { return strings.Contains(d.stdout.String(), "Ctrl-C") })
	greeting := d.stdout.String()
	commands := greetingCommand.FindAllString(greeting, -1)
	if len(commands) != 3 {
		t.Fatalf("the greeting has %d calls:\n%s", len(commands), greeting)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "curl")); err != nil {
		t.Fatal(err)
	}
	shell := func(command string) string {
		run := exec.CommandContext(t.Context(), "sh", "-c", command)
		run.Env = append(environment(nil), "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := run.CombinedOutput()
		if err != nil {
			t.Errorf("%s\n%v: %s", command, err, out)
		}
		return string(out)
	}
	var answers []string
	for _, command := range commands {
		answers = append(answers, shell(command))
	}
	// psql may be missing too; what it would be given is the point.
	psql := regexp.MustCompile(`psql "(.*)"\n`).FindStringSubmatch(greeting)
	if psql == nil || shell(`echo "`+psql[1]+`"`) != d.DatabaseURL+"\n" {
		t.Errorf("the greeting's psql line gives another address than %s:\n%s", d.DatabaseURL, greeting)
	}
	return answers
}

// Started again on the same folder, it goes on with the same data and key. Nothing is left running in between.
func TestDevGoesOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const value = " Zoë \t\"Ünal\" 👩‍🚀\u00a0"
	token, key := "", ""
	for round, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		d := startDev(t, dir)
		if round == 0 {
			d.caller().collection(t, "notes", map[string]string{"note": "string"})
			token, key = d.caller().tokenize(t, "notes", "note", value), d.APIKey
		}
		if d.APIKey != key {
			t.Error("the second start has another key")
		}
		if got := d.caller().reveal(t, []string{token}); got[0] != value {
			t.Errorf("start %d gives %q for the token, want %q", round+1, got, value)
		}
		if n := vaulttest.CountURL(t, d.DatabaseURL, `select count(*) from privault.records`); n != 4 {
			t.Errorf("start %d: %d records, want the sample's three and ours", round+1, n)
		}
		bound(t, d.DatabaseURL)
		pid := d.postgres(t)
		if !alive(pid) {
			t.Fatal("no Postgres")
		}
		d.stop(t, s)
		if alive(pid) {
			t.Errorf("after %v Postgres goes on as %d", s, pid)
		}
		if d.postgres(t) != 0 || exists(t, d.file("dev.json")) {
			t.Errorf("after %v: postmaster.pid or dev.json is still there", s)
		}
		if d.stderr.String() != "" {
			t.Error("it complained: ", d.stderr.String())
		}
	}
}

// bound wants the service's sessions to be of a role that row-level security binds.
func bound(t testing.TB, owner string) {
	t.Helper()
	const sessions = `select count(*) from pg_stat_activity a join pg_roles r on r.rolname = a.usename
		where a.application_name = 'privault' and a.datname = current_database()`
	if vaulttest.CountURL(t, owner, sessions) == 0 {
		t.Fatal("the service has no session")
	}
	n := vaulttest.CountURL(t, owner, sessions+` and (r.rolsuper or r.rolbypassrls or r.rolcreaterole or r.rolcreatedb or exists (
		select from pg_tables where schemaname in ('privault', 'keystore') and pg_has_role(r.oid, tableowner, 'member')))`)
	if n != 0 {
		t.Errorf("%d of the service's sessions are of a superuser or an owner", n)
	}
}

// A start that fails says why in a line, and leaves neither a Postgres nor a file that says it is ready.
func TestDevFailedStart(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	for _, flag := range []string{"--listen", "--ops-listen"} {
		write(t, filepath.Join(dir, "dev.json"), `{"url":"http://127.0.0.1:1"}`) // an earlier run was killed
		d := launchDev(t, dir, flag, taken.Addr().String())
		eventually(t, "the stale dev.json is gone", func() bool { return !exists(t, d.file("dev.json")) })
		if code := d.wait(t); code != exitFailed {
			t.Errorf("%s: it ended with code %d", flag, code)
		}
		said := d.stderr.String()
		if strings.Count(said, "\n") != 1 || !strings.Contains(said, taken.Addr().String()) {
			t.Errorf("%s: it said %q", flag, said)
		}
		if d.postgres(t) != 0 || exists(t, d.file("dev.json")) || d.stdout.String() != "" {
			t.Errorf("%s: something is left, or it greeted: %s", flag, d.stdout.String())
		}
	}
	startDev(t, dir).stop(t, syscall.SIGTERM)
}

// A second server on a folder in use is turned away, and the first one's dev.json stays. When its Postgres dies, the
// first one ends too and says where to look.
func TestDevTwiceAtOnce(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir(), "--no-sample")
	second := runIn(t, t.TempDir(), nil, "dev", "--data", d.dir, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0").want(t, exitFailed)
	if !strings.Contains(second.err, d.dir) || !strings.Contains(second.err, "in use") {
		t.Error("the second server said ", second.err)
	}
	if !exists(t, d.file("dev.json")) {
		t.Error("the second server took the first one's dev.json")
	}
	if strings.Contains(d.stdout.String(), "curl") {
		t.Error("without a sample the greeting's calls can't work: ", d.stdout.String())
	}
	var collections batchAnswer[json.RawMessage]
	d.caller().want(t, http.StatusOK, http.MethodGet, "/v1/collections", nil, &collections)
	if len(collections.Items) != 0 {
		t.Errorf("without a sample there are %d collections", len(collections.Items))
	}

	if err := syscall.Kill(d.postgres(t), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := d.wait(t); code != exitFailed || !strings.Contains(d.stderr.String(), d.file("postgres/postgres.log")) {
		t.Errorf("its Postgres is gone, and it ended with code %d and %q", code, d.stderr.String())
	}
	if exists(t, d.file("dev.json")) {
		t.Error("dev.json is still there")
	}
}

// Stopped in the middle of its first start, it leaves nothing running and a folder to start on again.
func TestDevStoppedWhileStarting(t *testing.T) {
	t.Parallel()
	d := launchDev(t, t.TempDir())
	eventually(t, "the cluster is being made", func() bool {
		unfinished, err := filepath.Glob(d.file("postgres/data*"))
		return err == nil && len(unfinished) > 0
	})
	d.signal(syscall.SIGTERM)
	d.wait(t)
	if d.postgres(t) != 0 || exists(t, d.file("dev.json")) {
		t.Error("a Postgres or a dev.json is left")
	}
	again := startDev(t, d.dir)
	runGreeting(t, again)
	again.stop(t, syscall.SIGTERM)
}

// On a given server it starts none of its own, and works as well; twice.
func TestDevOnGivenDatabase(t *testing.T) {
	t.Parallel()
	dir, owner := t.TempDir(), vaulttest.EmptyDatabase(t)
	var first *devServer
	for range 2 {
		d := startDev(t, dir, "--database-url", owner)
		if d.DatabaseURL != owner || exists(t, d.file("postgres")) {
			t.Error("it has a Postgres of its own")
		}
		runGreeting(t, d)
		bound(t, owner)
		if first != nil && first.APIKey != d.APIKey {
			t.Error("the second start has another key")
		}
		first = d
		d.stop(t, syscall.SIGTERM)
	}
	if n := vaulttest.CountURL(t, owner, `select count(*) from privault.tenants`); n != 1 {
		t.Errorf("%d tenants", n)
	}

	// A server that is not there: a line that keeps the password to itself.
	wrong := run1(t, nil, "dev", "--data", t.TempDir(), "--database-url", "postgres://nobody:secret-word@127.0.0.1:1/x").want(t, exitFailed)
	if strings.Contains(wrong.err, "secret-word") || strings.Count(wrong.err, "\n") != 1 {
		t.Error("a database that isn't there: ", wrong.err)
	}
}

// The folder may be moved between two starts.
func TestDevMoved(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	d := startDev(t, filepath.Join(parent, "here"))
	d.stop(t, syscall.SIGTERM)
	if err := os.Rename(d.dir, filepath.Join(parent, "there")); err != nil {
		t.Fatal(err)
	}
	moved := startDev(t, filepath.Join(parent, "there"))
	if moved.APIKey != d.APIKey {
		t.Error("the moved server has another key")
	}
	runGreeting(t, moved)
	moved.stop(t, syscall.SIGTERM)
}

// A second server on the first one's database, with a folder of its own, is a replica with a tenant of its own.
func TestDevReplica(t *testing.T) {
	t.Parallel()
	owner := vaulttest.EmptyDatabase(t)
	first := startDev(t, t.TempDir(), "--database-url", owner)
	second := startDev(t, t.TempDir(), "--database-url", owner)
	runGreeting(t, first)
	runGreeting(t, second)
	if first.APIKey == second.APIKey {
		t.Error("two tenants have one key")
	}
	// The first tenant's key is good at either server.
	token := first.caller().tokenize(t, sampleCollection, "name", "Jane Roe")
	if got := (caller{url: second.URL, key: first.APIKey}).reveal(t, []string{token}); got[0] != "Jane Roe" {
		t.Errorf("on the other server the token stands for %q", got)
	}
	body := map[string]any{"items": []any{map[string]string{"token": token, "view": "plain"}}}
	second.caller().want(t, http.StatusNotFound, http.MethodPost, "/v1/detokenize", body, nil)
}
