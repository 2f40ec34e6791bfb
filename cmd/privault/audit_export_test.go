package main

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/leodido/go-syslog/v4"
	"github.com/leodido/go-syslog/v4/octetcounting"
	"github.com/leodido/go-syslog/v4/rfc5424"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/audit"
	"github.com/privault/privault/vault/vaulttest"
)

// loggedVault is a vault whose log has n entries and a few more, every seventh of them denied, and one very long.
func loggedVault(t testing.TB, n int) *vaulttest.Bench {
	t.Helper()
	v := vaulttest.New(t)
	who := v.Tenant()
	v.Exec(`insert into privault.audit_entries (tenant_id, entry_id, at, principal_id, action, outcome, body)
		select $1, overlay(privault.first_id(now())::text placing right(gen_random_uuid()::text, 22) from 15)::uuid, now(), $1, 'detokenize', 'ok',
			json_build_object('id', 'aud_' || n, 'at', '2026-01-02T03:04:05.678901Z', 'action', 'detokenize',
				'outcome', case when n % 7 = 0 then 'denied' else 'ok' end,
				'resources', json_build_array(json_build_object('collection', 'people',
					'records', case when n = 3 then (select json_agg('rec_' || i) from generate_series(1, 1000) i) else '["rec_1"]'::json end)))::text
		from generate_series(1, $2::int) n`, who.Tenant, n)
	v.Sequence()
	return v
}

// exported are entries as a receiver has them: in the order of their coming, possibly more than once.
type exported struct {
	mu      sync.Mutex
	entries []vault.ShippedEntry
}

func (x *exported) add(t testing.TB, line []byte) {
	t.Helper()
	var e vault.ShippedEntry
	if err := json.Unmarshal(line, &e); err != nil {
		t.Errorf("%v in %q", err, line)
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.entries = append(x.entries, e)
}

func (x *exported) count() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.entries)
}

// complete wants every entry up to size to have come, in order but for what came again.
func (x *exported) complete(t testing.TB, size int64) {
	t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	next := int64(0)
	for _, e := range x.entries {
		if e.Index > next {
			t.Fatalf("entry %d comes before %d", e.Index, next)
		}
		next = max(next, e.Index+1)
	}
	if next < size || len(x.entries) == 0 {
		t.Errorf("%d entries came, the log has %d", next, size)
	}
}

// proves wants what came to make the tree that the log has signed: the copy is evidence by itself.
func (x *exported) proves(t testing.TB, v *vaulttest.Bench) {
	t.Helper()
	signed, err := v.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := v.Config.AuditKeys.Open([]byte(signed))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := audit.NewTree(0, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range x.entries {
		if e.Index != tree.Size || tree.Size == c.Size {
			continue
		}
		salt, err := hex.DecodeString(e.Salt)
		tenant, bad := uuid.Parse(e.Tenant)
		if err != nil || bad != nil {
			t.Fatal(err, bad)
		}
		leaf := audit.Leaf([16]byte(salt), tenant, e.Entry)
		tree.Append(leaf[:])
	}
	if tree.Size != c.Size || tree.Root() != c.Root {
		t.Errorf("the copy makes a tree of %d with another root than the log's of %d", tree.Size, c.Size)
	}
}

func exportTo(v *vaulttest.Bench, args ...string) []string {
	return append([]string{"audit", "export", "--database-url", v.Config.DataURL}, args...)
}

// Killed again and again, an export to a file goes on where it was: nothing is missing, and no line is torn.
func TestExportIsResumed(t *testing.T) {
	t.Parallel()
	const n = 3000
	v := loggedVault(t, n)
	dir := t.TempDir()
	file, cursor := filepath.Join(dir, "log.ndjson"), filepath.Join(dir, "cursor")
	args := exportTo(v, "--to", file, "--cursor", cursor, "--batch", "5")
	for kills := 1; kills <= 4; kills++ {
		p := start(t, dir, nil, append(args, "--follow")...)
		eventually(t, "some of it is there", func() bool { return exists(t, file) && strings.Count(read(t, file), "\n") > kills*100 })
		if kills == 1 {
			run1(t, nil, args...).want(t, exitFailed) // one at a time
		}
		p.kill(t)
	}
	write(t, file, read(t, file)+`{"index":99999,"ten`) // as a machine may leave it that lost its power
	run1(t, nil, args...).want(t, 0)
	var got exported
	for line := range strings.Lines(read(t, file)) {
		got.add(t, []byte(line))
	}
	got.complete(t, n)
	got.proves(t, v)
	// Another database's log does not go on from there, nor one that was set back.
	run1(t, nil, append(exportTo(loggedVault(t, 1)), "--to", file, "--cursor", cursor)...).want(t, exitFailed)
	write(t, cursor, `{"next":1000000}`)
	if f := run1(t, nil, args...).want(t, exitFailed); !strings.Contains(f.err, "set back") {
		t.Error(f.err)
	}
	// To standard output, and from an index.
	got = exported{}
	for line := range strings.Lines(run1(t, nil, exportTo(v, "--from", "2990")...).want(t, 0).out) {
		got.add(t, []byte(line))
	}
	if got.entries[0].Index != 2990 {
		t.Errorf("it begins with %d", got.entries[0].Index)
	}
	if n := v.Count(`select count(*) from privault.audit_entries where action = 'audit.ship'`); n < 4 {
		t.Errorf("%d entries say that the log was copied", n)
	}
	run1(t, nil, exportTo(v, "--to", "gopher://x")...).want(t, exitConfig)
}

// rsyslog is a real syslog server, and what it has received.
type rsyslog struct {
	port, out string
}

func startRsyslog(t *testing.T) rsyslog {
	t.Helper()
	dir := t.TempDir()
	conf, port, out := filepath.Join(dir, "rsyslog.conf"), filepath.Join(dir, "port"), filepath.Join(dir, "out")
	write(t, conf, fmt.Sprintf(`
		global(workDirectory="%[1]s")
		module(load="imtcp")
		input(type="imtcp" address="127.0.0.1" port="0" listenPortFileName="%[2]s")
		template(name="line" type="string" string="%%pri%% %%timestamp:::date-rfc3339%% %%app-name%% %%msgid%% %%protocol-version%%%%msg%%\n")
		action(type="omfile" file="%[3]s" template="line")
	`, dir, port, out))
	c := exec.Command("rsyslogd", "-n", "-f", conf, "-i", filepath.Join(dir, "pid"))
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		t.Fatal("start rsyslogd (Debian: apt-get install rsyslog): ", err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	eventually(t, "rsyslog listens", func() bool { return exists(t, port) && read(t, port) != "" })
	return rsyslog{strings.TrimSpace(read(t, port)), out}
}

func TestExportToRsyslog(t *testing.T) {
	t.Parallel()
	const n = 1200
	v := loggedVault(t, n)
	r := startRsyslog(t)
	cursor := filepath.Join(t.TempDir(), "cursor")
	run1(t, nil, exportTo(v, "--to", "syslog+tcp://127.0.0.1:"+r.port, "--cursor", cursor)...).want(t, 0)
	size, _ := strconv.Atoi(strings.TrimSuffix(read(t, cursor)[strings.Index(read(t, cursor), `"next":`)+7:], "}\n"))
	if size < n {
		t.Fatalf("the cursor is at %d", size)
	}
	eventually(t, "rsyslog has written everything", func() bool { return exists(t, r.out) && strings.Count(read(t, r.out), "\n") >= size })
	var got exported
	shortened := 0
	for line := range strings.Lines(read(t, r.out)) {
		head, message, _ := strings.Cut(line, "{")
		got.add(t, []byte("{"+message))
		fields := strings.Fields(head)
		if len(fields) != 5 || fields[2] != "privault" || fields[4] != "1" {
			t.Fatalf("rsyslog read %q", head)
		}
		if fields[3] != "detokenize" {
			continue
		}
		denied := strings.Contains(message, `"denied"`)
		if fields[0] != "110" && !denied || fields[0] != "108" && denied || !strings.HasPrefix(fields[1], "2026-01-02T03:04:05.678901") {
			t.Fatalf("rsyslog read %q of %s", head, message)
		}
		if strings.Contains(message, `"shortened":1000`) {
			shortened++
		}
	}
	got.complete(t, int64(size))
	if shortened != 1 {
		t.Errorf("%d entries came without their records, want the one that is too long", shortened)
	}
}

// Over TLS, to a receiver that fails in every way that TCP has, everything comes, as a parser of RFC 5424 reads it.
func TestExportOverTLSToAReceiverThatFails(t *testing.T) {
	t.Parallel()
	const n = 300
	v := loggedVault(t, n)
	dir := t.TempDir()
	certificate, key := writeCertificate(t, dir)
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var got exported
	go func() {
		for connections := 0; ; connections++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if c.(*tls.Conn).HandshakeContext(t.Context()) != nil { // it doesn't trust us
				_ = c.Close()
				continue
			}
			switch connections {
			case 1: // dies at once
			case 3: // reads something and dies: what it had is lost
				_, _ = io.ReadFull(c, make([]byte, 3000))
			default:
				body, err := io.ReadAll(c)
				if err != nil {
					t.Error("read: ", err)
				}
				octetcounting.NewParser(syslog.WithListener(func(r *syslog.Result) {
					m, ok := r.Message.(*rfc5424.SyslogMessage)
					if r.Error != nil || !ok || !m.Valid() || m.Message == nil {
						t.Errorf("not RFC 5424: %v", r.Error)
						return
					}
					if *m.Facility != 13 || *m.Appname != "privault" || m.Timestamp == nil {
						t.Errorf("a message of facility %d", *m.Facility)
					}
					got.add(t, []byte(*m.Message))
				}), syslog.WithMaxMessageLength(8192)).Parse(bytes.NewReader(body))
			}
			if tcp, ok := c.(*tls.Conn).NetConn().(*net.TCPConn); ok && (connections == 1 || connections == 3) {
				_ = tcp.SetLinger(0)
				_ = tcp.Close()
			}
			_ = c.Close()
		}
	}()
	run1(t, nil, exportTo(v, "--to", "syslog+tls://"+l.Addr().String(), "--cursor", filepath.Join(dir, "cursor"), "--ca", certificate, "--batch", "40")...).want(t, 0)
	got.complete(t, n)
	// To somebody else's certificate nothing is sent.
	before := got.count()
	run1(t, nil, exportTo(v, "--to", "syslog+tls://"+l.Addr().String(), "--patience", "1s")...).want(t, exitTryAgain)
	if got.count() != before {
		t.Error("entries went to a server that nobody vouches for")
	}
}

// The receiver reads OTLP's own schema, strictly.
func TestExportToOTLP(t *testing.T) {
	t.Parallel()
	const n = 400
	v := loggedVault(t, n)
	var got exported
	var calls atomic.Int64
	var partial atomic.Bool
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		call := calls.Add(1)
		body, err := io.ReadAll(r.Body)
		var request logs.LogsData // whose JSON is that of an export request
		if err == nil {
			err = protojson.Unmarshal(body, &request)
		}
		if err != nil || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Api-Key") != "s3cret" || r.URL.Path != "/v1/logs" {
			t.Errorf("%v in a call of %s", err, r.URL.Path)
		}
		w.Header().Set("Content-Type", "application/json")
		switch {
		case partial.Load():
			_, _ = io.WriteString(w, `{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"x"}}`)
			return
		case call == 2 || call == 4:
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		for _, record := range request.ResourceLogs[0].ScopeLogs[0].LogRecords {
			e := vault.ShippedEntry{Entry: json.RawMessage(record.Body.GetStringValue())}
			outcome := ""
			for _, a := range record.Attributes {
				switch a.Key {
				case "privault.audit.index":
					e.Index = a.Value.GetIntValue()
				case "privault.audit.salt":
					e.Salt = a.Value.GetStringValue()
				case "privault.tenant":
					e.Tenant = a.Value.GetStringValue()
				case "privault.audit.outcome":
					outcome = a.Value.GetStringValue()
				}
			}
			if record.TimeUnixNano == 0 || (outcome == "ok") != (record.SeverityNumber == logs.SeverityNumber_SEVERITY_NUMBER_INFO) {
				t.Errorf("a record of %s: %v", outcome, record.SeverityNumber)
			}
			got.mu.Lock()
			got.entries = append(got.entries, e)
			got.mu.Unlock()
		}
		_, _ = io.WriteString(w, `{"partialSuccess":{}}`)
	}))
	defer receiver.Close()
	headers := filepath.Join(t.TempDir(), "headers")
	write(t, headers, "Api-Key: s3cret\n")
	args := exportTo(v, "--to", receiver.URL+"/v1/logs", "--header-file", headers, "--batch", "100")
	run1(t, nil, args...).want(t, 0)
	got.complete(t, n)
	got.proves(t, v)
	partial.Store(true)
	if f := run1(t, nil, args...).want(t, exitFailed); !strings.Contains(f.err, "refuses") || slices.Contains(strings.Fields(f.err), "s3cret") {
		t.Error(f.err)
	}
}
