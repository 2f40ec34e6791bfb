package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// A server that is killed while a receiver has its message, and before it could note that, sends it again under the same id; and
// what it sends is checked by the code of docs/webhooks.md.
func TestKilledBetweenSendingAndNoting(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir(), "--no-sample")
	type received struct {
		header http.Header
		body   string
	}
	got := make(chan received, 10)
	var killing atomic.Bool
	killing.Store(true)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- received{r.Header.Clone(), string(body)}
		if killing.Load() {
			<-r.Context().Done() // the server that asks is gone by then
		}
	}))
	t.Cleanup(receiver.Close)
	c := d.caller()
	c.collection(t, "people", map[string]string{"email": "email"})
	c.want(t, http.StatusOK, http.MethodPost, "/v1/tokenize", `{"collection":"people","items":[{"subject":"cust-1","fields":{"email":"jane@example.com"}}]}`, nil)
	var hook struct{ Secret string }
	c.want(t, http.StatusCreated, http.MethodPut, "/v1/webhooks/crm", map[string]any{"url": receiver.URL + "/hook", "events": []string{"subject.erased"}, "recipient": true}, &hook)
	var erased struct{ Certificate string }
	c.want(t, http.StatusOK, http.MethodPost, "/v1/subjects/cust-1/erasure", `{"reason":"gdpr-17"}`, &erased)
	first := <-got
	d.kill(t)
	killing.Store(false)

	again := startDev(t, d.dir, "--no-sample")
	second := <-got
	if id := first.header.Get("Webhook-Id"); id == "" || second.header.Get("Webhook-Id") != id || second.body != first.body {
		t.Errorf("sent first as %s %s, then as %s %s", id, first.body, second.header.Get("Webhook-Id"), second.body)
	}
	c = again.caller()
	var page struct {
		Items []struct {
			ID, State string
			Attempts  int
		}
	}
	eventually(t, "the delivery is acknowledged", func() bool {
		c.want(t, http.StatusOK, http.MethodGet, "/v1/webhooks/crm/deliveries", nil, &page)
		return page.Items[0].State == "acknowledged"
	})
	if page.Items[0].Attempts != 2 || len(page.Items) != 1 {
		t.Errorf("deliveries: %+v", page.Items)
	}
	if len(got) != 0 {
		t.Errorf("it was sent %d times more", len(got))
	}
	status, note, err := c.send(t.Context(), http.MethodGet, "/v1/certificates/"+erased.Certificate+"/completion", nil)
	if err != nil || status != http.StatusOK {
		t.Fatal(status, string(note), err)
	}
	write(t, again.file("completion"), string(note))
	printed := run1(t, nil, "receipt", "verify", again.file("completion"), "--key", again.file("audit.key.pub")).want(t, 0).out
	if !strings.Contains(printed, `recipient: "crm" acknowledged `) {
		t.Errorf("the completion says %s", printed)
	}
	checkByTheDocs(t, hook.Secret, second.header, second.body)
}

// checkByTheDocs has a message checked by the code that docs/webhooks.md gives, in Go and in Node.
func checkByTheDocs(t *testing.T, secret string, header http.Header, body string) {
	t.Helper()
	dir := t.TempDir()
	for _, block := range fence.FindAllStringSubmatch(read(t, "../../docs/webhooks.md"), -1) {
		if name := strings.TrimSpace(block[2]); name != "" {
			write(t, filepath.Join(dir, name), block[3])
		}
	}
	write(t, filepath.Join(dir, "go.mod"), "module receiver\n\ngo 1.24\n")
	write(t, filepath.Join(dir, "main.go"), `package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"
)

func main() {
	var cases []struct {
		Secret, Body string
		Header       map[string]string
	}
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		panic(err)
	}
	for _, c := range cases {
		h := http.Header{}
		for name, value := range c.Header {
			h.Set(name, value)
		}
		fmt.Println(Verify(c.Secret, h, []byte(c.Body), time.Now()) == nil)
	}
}
`)
	write(t, filepath.Join(dir, "main.mjs"), `import { readFileSync } from "node:fs";
import { verify } from "./verify.mjs";
for (const c of JSON.parse(readFileSync(0, "utf8"))) console.log(verify(c.secret, c.header, c.body));
`)
	headers := func(change map[string]string) map[string]string {
		h := map[string]string{}
		for _, name := range []string{"webhook-id", "webhook-timestamp", "webhook-signature"} {
			h[name] = header.Get(name)
		}
		for name, value := range change {
			h[name] = value
		}
		return h
	}
	type message struct {
		Secret string            `json:"secret"`
		Body   string            `json:"body"`
		Header map[string]string `json:"header"`
	}
	cases, err := json.Marshal([]message{
		{secret, body, headers(nil)},
		{secret, body, headers(map[string]string{"webhook-signature": "v1,AAAA " + header.Get("webhook-signature")})}, // by another secret too
		{secret, strings.Replace(body, "crt_", "crt-", 1), headers(nil)},
		{secret, body, headers(map[string]string{"webhook-timestamp": "1600000000"})},
		{secret, body, headers(map[string]string{"webhook-id": "dlv_another"})},
		{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", body, headers(nil)},
		{secret, body, headers(map[string]string{"webhook-signature": ""})},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"go", "run", "."}, {"node", "main.mjs"}} {
		run := exec.CommandContext(t.Context(), command[0], command[1:]...)
		run.Dir, run.Stdin = dir, strings.NewReader(string(cases))
		run.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
		out, err := run.CombinedOutput()
		if want := "true\ntrue\nfalse\nfalse\nfalse\nfalse\nfalse\n"; err != nil || string(out) != want {
			t.Errorf("%v says %s, %v", command, out, err)
		}
	}
}
