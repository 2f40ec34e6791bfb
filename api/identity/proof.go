package identity

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	proofLife = 60 * time.Second // how old a DPoP proof may be
	maxProof  = 4 << 10
	maxProofs = 200_000
)

var proofAlgorithms = []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.ES512, jose.EdDSA, jose.RS256, jose.PS256}

// Prove checks that the caller holds what the token is bound to, if it is bound, and that it is bound if the issuer's
// configuration asks for it.
func (a *Authority) Prove(ctx context.Context, id Identity, token string, r Request) error {
	if (id.key != "") != r.DPoP {
		return refused("a token that is bound to a key comes under the scheme DPoP, and no other does")
	}
	if id.certificate != "" && (r.Certificate == nil || !same(id.certificate, Fingerprint(r.Certificate))) {
		return refused("the token is bound to another client certificate")
	}
	switch {
	case id.binding == bindingMTLS && id.certificate == "",
		id.binding == bindingDPoP && id.key == "",
		id.binding == bindingAny && id.certificate == "" && id.key == "":
		return refused("the issuer's tokens must be bound to their sender, and this one isn't")
	}
	if id.key == "" {
		return nil
	}
	return a.dpop(ctx, id, token, r)
}

// Fingerprint is a certificate's x5t#S256.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// dpop checks a proof as RFC 9449 section 4.3 lists it. Nonces of the server's are not used: the replay memory takes
// their place.
func (a *Authority) dpop(ctx context.Context, id Identity, token string, r Request) error {
	if len(r.Proofs) != 1 || len(r.Proofs[0]) > maxProof || strings.Count(r.Proofs[0], ".") != 2 {
		return refused("send one DPoP proof")
	}
	var h struct {
		Alg string          `json:"alg"`
		Typ string          `json:"typ"`
		JWK json.RawMessage `json:"jwk"`
		Kid string          `json:"kid"`
	}
	head, _, _ := strings.Cut(r.Proofs[0], ".")
	if decodePart(head, &h) != nil || h.Typ != "dpop+jwt" {
		return refused("the proof's header")
	}
	var key jose.JSONWebKey
	if json.Unmarshal(h.JWK, &key) != nil || !key.IsPublic() || !strong(key.Key, families[h.Alg]) {
		return refused("the proof's key is not a strong public key")
	}
	thumb, err := key.Thumbprint(crypto.SHA256)
	if err != nil || !same(base64.RawURLEncoding.EncodeToString(thumb), id.key) {
		return refused("the token is bound to another key")
	}
	signed, err := jose.ParseSignedCompact(r.Proofs[0], proofAlgorithms)
	if err != nil {
		return refused("the proof is not a signed token")
	}
	body, err := signed.Verify(key.Key)
	if err != nil {
		return refused("the proof's signature")
	}
	var c claims
	if decodePart(base64.RawURLEncoding.EncodeToString(body), &c) != nil {
		return refused("the proof's claims are not JSON")
	}
	return a.checkProof(ctx, c, token, r)
}

func (a *Authority) checkProof(ctx context.Context, c claims, token string, r Request) error {
	method, _ := c.text("htm")
	target, _ := c.text("htu")
	jti, _ := c.text("jti")
	ath, _ := c.text("ath")
	iat, dated := c.time("iat")
	sum := sha256.Sum256([]byte(token))
	now := a.now()
	switch {
	case method != r.Method || !sameTarget(target, r.URL):
		return refused("the proof is for another request")
	case jti == "" || len(jti) > maxText:
		return refused("the proof has no jti")
	case !same(ath, base64.RawURLEncoding.EncodeToString(sum[:])):
		return refused("the proof is for another token")
	case !dated || iat.After(now.Add(leeway)) || iat.Before(now.Add(-proofLife)):
		return refused("the proof is old, or from the future")
	}
	first, err := a.replays.First(ctx, sha256.Sum256([]byte(ath+"\x00"+jti)), proofLife+leeway)
	if err != nil {
		return fmt.Errorf("remember a proof: %w", err)
	}
	if !first {
		return refused("the proof was used before")
	}
	return nil
}

// sameTarget compares htu with the request's URL, both without query and fragment.
func sameTarget(htu string, u *url.URL) bool {
	t, err := url.Parse(htu)
	return err == nil && u != nil && strings.EqualFold(t.Scheme, u.Scheme) && strings.EqualFold(hostPort(t), hostPort(u)) &&
		t.EscapedPath() == u.EscapedPath()
}

func hostPort(u *url.URL) string {
	if u.Port() == "" && strings.EqualFold(u.Scheme, "https") {
		return u.Hostname() + ":443"
	}
	if u.Port() == "" {
		return u.Hostname() + ":80"
	}
	return u.Host
}

// Memory remembers proofs in memory, for one replica. When it is full it takes no more, and says so: to forget one that
// is still good would be to accept it again.
type Memory struct {
	now  func() time.Time
	mu   sync.Mutex
	seen map[[32]byte]time.Time
	next time.Time // when to look for what is over
}

// First says whether digest is new, and keeps it for life.
func (m *Memory) First(_ context.Context, digest [32]byte, life time.Duration) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if m.seen == nil {
		m.seen = map[[32]byte]time.Time{}
	}
	if now.After(m.next) || len(m.seen) >= maxProofs {
		for d, until := range m.seen {
			if now.After(until) {
				delete(m.seen, d)
			}
		}
		m.next = now.Add(life)
	}
	if until, seen := m.seen[digest]; seen && now.Before(until) {
		return false, nil
	}
	if len(m.seen) >= maxProofs {
		return false, fmt.Errorf("more than %d proofs within a minute and a half", maxProofs)
	}
	m.seen[digest] = now.Add(life)
	return true, nil
}
