package api_test

import (
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/privault/privault/vault/audit"
)

// An outsider, without a credential, reads and checks the whole log over HTTP.
func TestTheLogIsServedAsTiles(t *testing.T) {
	t.Parallel()
	s := serve(t)
	stranger := client{service: s}
	stranger.send(t, "GET", "/audit/checkpoint", "").refused(t, 404, "not-found")
	c := s.tenant()
	for range 300 {
		c.send(t, "GET", "/v1/collections", "").want(t, 200)
	}
	s.Sequence()
	signed := stranger.send(t, "GET", "/audit/checkpoint", "", "Accept: text/plain").want(t, 200)
	head, err := s.Config.AuditKeys.Open(signed.body)
	if err != nil {
		t.Fatal(err)
	}
	if head.Size < 301 {
		t.Errorf("the log has %d leaves", head.Size)
	}
	err = audit.Check(head, func(tile tlog.Tile) ([]byte, error) {
		return stranger.send(t, "GET", "/audit/"+audit.Path(tile), "").want(t, 200).body, nil
	}, nil)
	if err != nil {
		t.Error(err)
	}
	for _, path := range []string{"0/001", "0/1", "7/000", "entries/000.p/0", "entries/x001/000", "0/x001/x001/001.p/3", "nothing/000", "1/000"} {
		stranger.send(t, "GET", "/audit/tile/"+path, "").refused(t, 404, "not-found")
	}
}
