package vaulttest

import (
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/privault/privault/api/egress"
	"github.com/privault/privault/vault"
)

// Courier sends webhooks by rules of who may be called.
func Courier(r egress.Rules) vault.Courier {
	return vault.Courier{Check: r.CheckWebhook, Post: r.PostWebhook}
}

// Roots vouches for every Receiver.
var Roots = sync.OnceValue(func() *x509.CertPool {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return pool
})

// Received is a message that a Receiver got.
type Received struct {
	Header http.Header
	Body   string
}

// Receiver is a real HTTPS server of a test's own, on the loopback, that webhooks are sent to.
type Receiver struct {
	URL string

	mu       sync.Mutex
	messages []Received
}

// NewReceiver starts one. answer gets how many messages came before; nil: 200.
func NewReceiver(t testing.TB, answer func(w http.ResponseWriter, r *http.Request, before int)) *Receiver {
	t.Helper()
	to := &Receiver{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		to.mu.Lock()
		before := len(to.messages)
		to.messages = append(to.messages, Received{r.Header.Clone(), string(body)})
		to.mu.Unlock()
		if answer != nil {
			answer(w, r, before)
		}
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	to.URL = s.URL + "/hook"
	return to
}

// Messages are all that came so far.
func (r *Receiver) Messages() []Received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Received{}, r.messages...)
}
