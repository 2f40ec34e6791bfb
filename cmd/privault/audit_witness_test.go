package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/privault/privault/kms/kmstest"
	"github.com/privault/privault/vault/vaulttest"
)

// testWitness is a witness for one log, by C2SP tlog-witness and no code of ours: x/mod's note and tlog.
type testWitness struct {
	name string
	key  ed25519.PrivateKey
	log  note.Verifier

	mu              sync.Mutex
	size            int64
	root            tlog.Hash
	signed, refused int
	down            bool
	server          *httptest.Server
}

func newWitness(t *testing.T, name, logKey string) *testWitness {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	log, err := note.NewVerifier(strings.TrimSpace(logKey))
	if err != nil {
		t.Fatal(err)
	}
	w := &testWitness{name: name, key: key, log: log}
	w.server = httptest.NewServer(http.HandlerFunc(w.addCheckpoint))
	t.Cleanup(w.server.Close)
	return w
}

func (w *testWitness) public() []byte {
	return append([]byte{4}, w.key.Public().(ed25519.PublicKey)...)
}

// Name, KeyHash and Sign are those of a note.Signer for cosignature/v1.
func (w *testWitness) Name() string { return w.name }

func (w *testWitness) KeyHash() uint32 {
	sum := sha256.Sum256([]byte(w.name + "\n" + string(w.public())))
	return binary.BigEndian.Uint32(sum[:])
}

func (w *testWitness) Sign(text []byte) ([]byte, error) {
	at := uint64(time.Now().Unix())
	return append(binary.BigEndian.AppendUint64(nil, at), ed25519.Sign(w.key, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, text))...), nil
}

func (w *testWitness) line() string {
	return fmt.Sprintf("%s+%08x+%s %s\n", w.name, w.KeyHash(), base64.StdEncoding.EncodeToString(w.public()), w.server.URL)
}

func (w *testWitness) addCheckpoint(out http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil || w.down || r.Method != http.MethodPost || r.URL.Path != "/add-checkpoint" {
		out.WriteHeader(http.StatusInternalServerError)
		return
	}
	head, signed, _ := strings.Cut(string(body), "\n\n")
	lines := strings.Split(head, "\n")
	old, err := strconv.ParseInt(strings.TrimPrefix(lines[0], "old "), 10, 64)
	n, bad := note.Open([]byte(signed), note.VerifierList(w.log))
	if err != nil || bad != nil {
		w.refuse(out, http.StatusForbidden, "")
		return
	}
	tree, err := tlog.ParseTree([]byte("go.sum database tree\n" + strings.SplitN(n.Text, "\n", 2)[1]))
	switch {
	case err != nil:
		w.refuse(out, http.StatusBadRequest, "")
		return
	case old != w.size:
		out.Header().Set("Content-Type", "text/x.tlog.size")
		w.refuse(out, http.StatusConflict, strconv.FormatInt(w.size, 10)+"\n")
		return
	}
	var proof tlog.TreeProof
	for _, line := range lines[1:] {
		h, err := tlog.ParseHash(line)
		if err != nil {
			w.refuse(out, http.StatusBadRequest, "")
			return
		}
		proof = append(proof, h)
	}
	same := tree.N == old && len(proof) == 0 && tree.Hash == w.root
	if !same && (old > 0 && tlog.CheckTree(proof, tree.N, tree.Hash, old, w.root) != nil || old == 0 && len(proof) > 0) {
		w.refuse(out, http.StatusUnprocessableEntity, "")
		return
	}
	w.size, w.root = tree.N, tree.Hash
	w.signed++
	answer, err := note.Sign(&note.Note{Text: n.Text}, w)
	if err != nil {
		w.refuse(out, http.StatusInternalServerError, "")
		return
	}
	_, line, _ := strings.Cut(string(answer), "\n\n")
	_, _ = io.WriteString(out, line)
}

func (w *testWitness) refuse(out http.ResponseWriter, status int, text string) {
	w.refused++
	out.WriteHeader(status)
	_, _ = io.WriteString(out, text)
}

func (w *testWitness) change(do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	do()
}

// A log that witnesses sign: an outsider who trusts two of them notices another history, even one with a good signature.
func TestWitnessesSignTheLog(t *testing.T) {
	t.Parallel()
	kms := kmstest.LocalURI(t)
	public := auditKey(kms) + ".pub"
	dir := t.TempDir()
	one, two := newWitness(t, "one.example", read(t, public)), newWitness(t, "two.example/w", read(t, public))
	file := filepath.Join(dir, "witnesses")
	write(t, file, "# those whom we trust\n"+one.line()+two.line())
	witnessed := []string{"PRIVAULT_AUDIT_WITNESSES=" + file, "PRIVAULT_AUDIT_WITNESS_EVERY=100ms"}
	begin := func(more ...string) (*server, caller) {
		settings := append(trial(vaulttest.AppURL(vaulttest.Database(t)), kms), more...)
		settings = append(settings, "PRIVAULT_AUDIT_COPY="+filepath.Join(t.TempDir(), "copy"))
		key := tenantKey(t, settings)
		s := startServe(t, settings...)
		c := caller{url: "http://" + s.public, key: key}
		c.collection(t, "people", map[string]string{"email": "email"})
		return s, c
	}
	s, c := begin(witnessed...)
	log := "http://" + s.public + "/audit"
	verify := func(log string, args ...string) finished {
		return run1(t, nil, append([]string{"audit", "verify", log, "--key", public, "--witness", file}, args...)...)
	}
	grows := func() {
		t.Helper()
		var before int64
		one.change(func() { before = one.size })
		c.tokenize(t, "people", "email", "jane@example.com")
		eventually(t, "a witness sees the log grow", func() (grown bool) {
			one.change(func() { grown = one.size > before })
			return grown
		})
	}
	grows()
	eventually(t, "both have signed", func() bool { return verify(log).code == 0 })
	if got := verify(log).want(t, 0).out; strings.Count(got, "has signed the checkpoint") != 2 {
		t.Error(got)
	}
	grows() // with a proof of consistency
	// A witness that has lost its memory, or has seen more than was noted, is asked again.
	one.change(func() { one.size, one.root = 0, tlog.Hash{} })
	grows()
	one.change(func() {
		if one.refused == 0 {
			t.Error("the witness never said that it has seen another size")
		}
	})
	// One of them is away.
	two.change(func() { two.down = true })
	grows()
	eventually(t, "one alone has signed", func() bool { return verify(log, "--quorum", "1").code == 0 && verify(log).code != 0 })
	two.change(func() { two.down = false })
	eventually(t, "both sign again", func() bool { return verify(log).code == 0 })
	// Offline.
	mirror := filepath.Join(dir, "mirror")
	run1(t, nil, "audit", "mirror", log, mirror, "--key", public).want(t, 0)
	verify(mirror).want(t, 0)
	// Another history, signed with the log's own key: whole by itself, and not what the witnesses have signed.
	other, _ := begin()
	forged := filepath.Join(dir, "forged")
	eventually(t, "there is another log", func() bool {
		return run1(t, nil, "audit", "mirror", "http://"+other.public+"/audit", forged, "--key", public).code == 0
	})
	run1(t, nil, "audit", "verify", forged, "--key", public).want(t, 0)
	if f := verify(forged).want(t, exitFailed); !strings.Contains(f.err, "cosigned") {
		t.Error(f.err)
	}
	cosigned, err := os.ReadFile(filepath.Join(mirror, "cosigned"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(forged, "cosigned"), string(cosigned))
	verify(forged).want(t, exitFailed)
	// A stranger's signature counts for nothing.
	strange := filepath.Join(dir, "strange")
	write(t, strange, newWitness(t, "three.example", read(t, public)).line())
	run1(t, nil, "audit", "verify", mirror, "--key", public, "--witness", strange).want(t, exitFailed)
}

func TestWitnessSettings(t *testing.T) {
	t.Parallel()
	kms := kmstest.LocalURI(t)
	w := newWitness(t, "one.example", read(t, auditKey(kms)+".pub"))
	key, _, _ := strings.Cut(w.line(), " ")
	for _, text := range []string{"", "x\n", key + "\n", key + " http://witness.example\n", key + " ftp://witness.example\n", key + " https://u:p@witness.example\n"} {
		file := filepath.Join(t.TempDir(), "witnesses")
		write(t, file, text)
		settings := append(trial("postgres://127.0.0.1:1/x", kms), "PRIVAULT_AUDIT_WITNESSES="+file, "PRIVAULT_LISTEN=127.0.0.1:0", "PRIVAULT_OPS_LISTEN=127.0.0.1:0")
		if f := run1(t, settings, "serve").want(t, exitConfig); !strings.Contains(f.err, "--witnesses") {
			t.Errorf("%q: %s", text, f.err)
		}
	}
}
