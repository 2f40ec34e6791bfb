package kms

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"time"
)

// TransitOptions are those of hcvault keys. Exactly one of Token, AppRole.RoleID and Kubernetes.Role is set. Proxies are
// not used: they would come out of the environment.
type TransitOptions struct {
	// Namespace is that of the transit engine and of the login, on servers that have namespaces.
	Namespace string
	// CAFile has the certificates, in PEM, that servers are trusted by. If it is empty, the system's are.
	CAFile string
	// Token is asked before every call, so that it may come out of a file that an agent keeps fresh.
	Token func() (string, error)
	// AppRole logs in with a role id and a secret id.
	AppRole AppRole
	// Kubernetes logs in as the service account of the pod.
	Kubernetes Kubernetes
}

// AppRole is a login by the auth method of that name.
type AppRole struct {
	// Mount is where the auth method is; empty is "approle".
	Mount  string
	RoleID string
	// SecretID is asked at every login.
	SecretID func() (string, error)
}

// Kubernetes is a login by the auth method of that name.
type Kubernetes struct {
	// Mount is where the auth method is; empty is "kubernetes".
	Mount string
	Role  string
	// TokenFile has the JWT, and is read at every login; empty is where Kubernetes puts it.
	TokenFile string
}

const (
	transitPort      = "8200"
	transitMaxAnswer = 64 << 10
	// transitNoKey is a type of key that doesn't exist. Without it, encrypting with a key that was deleted would make
	// a new one of its name, for callers with that permission. The type of a key that is there isn't looked at.
	transitNoKey = "none"
	// podToken is where Kubernetes mounts the JWT of a service account.
	podToken = "/var/run/secrets/kubernetes.io/serviceaccount/token" //nolint:gosec // a path
)

var (
	transitPath    = regexp.MustCompile(`^/((?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)+)keys/([A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?)$`)
	transitMount   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$`)
	transitWrapped = regexp.MustCompile(`^vault:v[1-9][0-9]{0,8}:([A-Za-z0-9+/]+={0,2})$`)
)

// transitKey is a key of a transit engine. Its type has to be one that takes associated data, such as aes256-gcm96,
// and not derived. What it wraps is the ciphertext as the server spells it.
//
// The server's own rewrap is of no use: neither HashiCorp Vault's nor OpenBao's takes associated data, and without it
// nothing opens that was wrapped here.
type transitKey struct {
	uri         string
	mount, name string // the mount ends with a slash
	server      *transit
	// bound is true once the server has been seen to refuse other associated data.
	bound atomic.Bool
}

// openTransit calls nobody: that the server, the login and the key are right shows with the first call.
func openTransit(_ context.Context, uri string, o Options) (Key, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, errors.New("hcvault URI: no URI at all")
	}
	path := transitPath.FindStringSubmatch(u.Path)
	insecure := u.RawQuery == "insecure=true"
	switch {
	case u.User != nil:
		return nil, errors.New("hcvault URI: credentials don't belong there")
	case u.Hostname() == "" || path == nil || u.RawPath != "" || u.Fragment != "":
		return nil, errors.New("hcvault URI: want hcvault://HOST[:PORT]/MOUNT/keys/NAME")
	case u.RawQuery != "" && !insecure:
		return nil, errors.New("hcvault URI: unknown parameters (known: insecure=true)")
	case insecure && !loopback(u.Hostname()):
		return nil, errors.New("hcvault URI: insecure=true is for loopback only")
	}
	server, err := o.Transit.open()
	if err != nil {
		return nil, err
	}
	host := transitHost(u)
	server.base = "https://" + host
	if insecure {
		server.base = "http://" + host
	}
	if u.Port() == "" || u.Port() == transitPort {
		server.base += ":" + transitPort
	}
	return &transitKey{uri: transitURI(u), mount: path[1], name: path[2], server: server}, nil
}

func transitURI(u *url.URL) string { return "hcvault://" + transitHost(u) + u.Path }

// transitHost leaves out the port that is the usual one.
func transitHost(u *url.URL) string {
	return strings.TrimSuffix(strings.ToLower(u.Host), ":"+transitPort)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (k *transitKey) URI() string { return k.uri }

// Wrap needs the capability "update" on MOUNT/encrypt/NAME, and the first one what Unwrap needs besides.
func (k *transitKey) Wrap(ctx context.Context, plaintext, ad []byte) ([]byte, error) {
	if err := checkWrap(ctx, plaintext, ad); err != nil {
		return nil, err
	}
	return retry(ctx, func(ctx context.Context) ([]byte, error) {
		in := transitRequest{Plaintext: plaintext, AssociatedData: ad, Type: transitNoKey}
		out, err := k.server.call(ctx, k.mount+"encrypt/"+k.name, in, nil)
		if err != nil {
			return nil, fmt.Errorf("encrypt: %w", err)
		}
		wrapped := []byte(out.Data.Ciphertext)
		if !canonical(wrapped) {
			return nil, fmt.Errorf("%w: encrypt: the answer has no ciphertext", ErrUnavailable)
		}
		return wrapped, k.provesBinding(ctx, wrapped, ad)
	})
}

// provesBinding has the first wrapped key refused under other associated data: older versions of HashiCorp Vault ignore
// it without a word, and wrapped keys could be moved between rows.
func (k *transitKey) provesBinding(ctx context.Context, wrapped, ad []byte) error {
	if k.bound.Load() {
		return nil
	}
	_, err := k.decrypt(ctx, wrapped, append(bytes.Clone(ad), 0))
	switch {
	case err == nil:
		return errors.New("encrypt: the server doesn't bind associated data; it is too old")
	case !errors.Is(err, ErrCorrupt):
		return err
	}
	k.bound.Store(true)
	return nil
}

// Unwrap needs the capability "update" on MOUNT/decrypt/NAME.
func (k *transitKey) Unwrap(ctx context.Context, wrapped, ad []byte) ([]byte, error) {
	if err := checkUnwrap(ctx, wrapped, ad); err != nil {
		return nil, err
	}
	if !canonical(wrapped) {
		return nil, fmt.Errorf("%w: not a ciphertext of a transit engine", ErrCorrupt)
	}
	return retry(ctx, func(ctx context.Context) ([]byte, error) { return k.decrypt(ctx, wrapped, ad) })
}

func (k *transitKey) decrypt(ctx context.Context, wrapped, ad []byte) ([]byte, error) {
	in := transitRequest{Ciphertext: string(wrapped), AssociatedData: ad}
	out, err := k.server.call(ctx, k.mount+"decrypt/"+k.name, in, ErrCorrupt)
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	if len(out.Data.Plaintext) == 0 {
		return nil, fmt.Errorf("%w: decrypt: the answer has no plaintext", ErrUnavailable)
	}
	return out.Data.Plaintext, nil
}

// canonical holds that a wrapped key has one spelling. The server takes more: version 0 for 1, signs and zeros before
// a version, line breaks in base64 and bits behind its end.
func canonical(wrapped []byte) bool {
	match := transitWrapped.FindSubmatch(wrapped)
	if match == nil || len(wrapped) > MaxWrapped {
		return false
	}
	b, err := base64.StdEncoding.DecodeString(string(match[1]))
	return err == nil && base64.StdEncoding.EncodeToString(b) == string(match[1])
}

// transit is a server, with what it takes to be let in.
type transit struct {
	base      string
	namespace string
	client    *http.Client
	// token returns one that isn't refused, or refused itself if there is no other.
	token func(ctx context.Context, refused string) (string, error)
}

// transitRequest has the fields of all calls; JSON puts bytes in base64.
type transitRequest struct {
	Plaintext      []byte `json:"plaintext,omitempty"`
	Ciphertext     string `json:"ciphertext,omitempty"`
	AssociatedData []byte `json:"associated_data,omitempty"`
	Type           string `json:"type,omitempty"`
	RoleID         string `json:"role_id,omitempty"`
	SecretID       string `json:"secret_id,omitempty"`
	Role           string `json:"role,omitempty"`
	JWT            string `json:"jwt,omitempty"`
}

type transitAnswer struct {
	Data struct {
		Ciphertext string `json:"ciphertext"`
		Plaintext  []byte `json:"plaintext"`
	} `json:"data"`
	Auth   transitAuth `json:"auth"`
	Errors []string    `json:"errors"`
}

type transitAuth struct {
	Token     string `json:"client_token"`
	Lease     int64  `json:"lease_duration"` // in seconds; 0 is for ever
	Renewable bool   `json:"renewable"`
}

func (o TransitOptions) open() (*transit, error) {
	ways := 0
	for _, set := range []bool{o.Token != nil, o.AppRole.RoleID != "", o.Kubernetes.Role != ""} {
		if set {
			ways++
		}
	}
	if ways != 1 {
		return nil, fmt.Errorf("hcvault: %d ways to log in, want one of token, AppRole and Kubernetes", ways)
	}
	roots, err := o.roots()
	if err != nil {
		return nil, err
	}
	t := &transit{namespace: o.Namespace, client: &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:   true,
			MaxIdleConnsPerHost: 16,
			IdleConnTimeout:     90 * time.Second,
		},
		// A redirect would take the token and the key material to where we weren't told to send them.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if o.Token != nil {
		t.token = func(context.Context, string) (string, error) { return secretText("token", o.Token) }
		return t, nil
	}
	l := &login{server: t, turn: make(chan struct{}, 1), mount: cmp.Or(o.AppRole.Mount, "approle"), request: o.AppRole.request}
	if o.Kubernetes.Role != "" {
		l.mount, l.request = cmp.Or(o.Kubernetes.Mount, "kubernetes"), o.Kubernetes.request
	}
	if !transitMount.MatchString(l.mount) {
		return nil, errors.New("hcvault: the mount of the auth method is no path")
	}
	t.token = l.token
	return t, nil
}

func (o TransitOptions) roots() (*x509.CertPool, error) {
	if o.CAFile == "" {
		return nil, nil
	}
	b, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("%w: hcvault CA file: %w", ErrDenied, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%w: hcvault CA file %s has no certificate", ErrDenied, o.CAFile)
	}
	return roots, nil
}

// secretText is what get returns, without the line break that a file ends with.
func secretText(name string, get func() (string, error)) (string, error) {
	s, err := get()
	if err != nil {
		return "", fmt.Errorf("%w: hcvault %s: %w", ErrDenied, name, err)
	}
	if s = strings.TrimSpace(s); s == "" {
		return "", fmt.Errorf("%w: hcvault %s is empty", ErrDenied, name)
	}
	return s, nil
}

// call posts with a token. One that is refused is replaced once, if there is another to be had: it may have been
// revoked. Unexplained is the kind of a 400 that says nothing we know.
func (t *transit) call(ctx context.Context, path string, in transitRequest, unexplained error) (transitAnswer, error) {
	token, err := t.token(ctx, "")
	if err != nil {
		return transitAnswer{}, err
	}
	out, err := t.post(ctx, token, path, in, unexplained)
	if !errors.Is(err, errForbidden) {
		return out, err
	}
	fresh, tokenErr := t.token(ctx, token)
	if tokenErr != nil {
		return transitAnswer{}, tokenErr
	}
	if fresh != token {
		out, err = t.post(ctx, fresh, path, in, unexplained)
	}
	if errors.Is(err, errForbidden) {
		return out, permissionError{`the capability "update" on ` + path + ", or a valid token", err}
	}
	return out, err
}

func (t *transit) post(ctx context.Context, token, path string, in transitRequest, unexplained error) (transitAnswer, error) {
	var out transitAnswer
	body, err := json.Marshal(in) //nolint:gosec // a login is where a JWT goes
	if err != nil {
		return out, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, t.base+"/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return out, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Vault-Request", "true") // agents may insist on it
	if token != "" {
		r.Header.Set("X-Vault-Token", token)
	}
	if t.namespace != "" {
		r.Header.Set("X-Vault-Namespace", t.namespace)
	}
	w, err := t.client.Do(r)
	if err != nil {
		return out, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer w.Body.Close()
	b, err := io.ReadAll(io.LimitReader(w.Body, transitMaxAnswer+1))
	if err != nil {
		return out, fmt.Errorf("%w: reading the answer: %w", ErrUnavailable, err)
	}
	if len(b) > transitMaxAnswer {
		return out, fmt.Errorf("%w: an answer of more than %d bytes", ErrUnavailable, transitMaxAnswer)
	}
	parseErr := json.Unmarshal(b, &out)
	switch {
	case w.StatusCode != http.StatusOK:
		return transitAnswer{}, transitError(w.StatusCode, strings.Join(out.Errors, "; "), unexplained)
	case parseErr != nil: // whose text may quote the answer
		return transitAnswer{}, fmt.Errorf("%w: an answer that isn't of a transit engine", ErrUnavailable)
	}
	return out, nil
}

// errForbidden is for a token that is refused, or that has no permission: the server doesn't say which.
var errForbidden = errors.New("permission denied")

// transitReasons are what the server says with a 400, and what we say, which never quotes it: what it was sent might
// be in there. Without a kind it is a setting of the key that can't be right.
var transitReasons = []struct {
	text string
	kind error
	ours string
}{
	{"message authentication failed", ErrCorrupt, "it doesn't open under this associated data"},
	{"unable to decrypt", ErrCorrupt, "it doesn't open under this associated data"},
	{"invalid ciphertext", ErrCorrupt, "not a ciphertext of this key"},
	{"key not found", ErrDenied, "no such key"},
	{"unknown key type", ErrDenied, "no such key"}, // see transitNoKey
	{"soft-deleted", ErrDenied, "the key is soft-deleted"},
	{"too old", ErrDenied, "wrapped with a version below the key's min_decryption_version"},
	{"missing client token", ErrDenied, "no token"},
	{"non-AEAD", nil, "the key's type takes no associated data"},
	{"derivation", nil, "the key is derived"},
}

func transitError(status int, reason string, unexplained error) error {
	kind, ours := ErrDenied, http.StatusText(status)
	switch {
	case status == http.StatusForbidden:
		return fmt.Errorf("%w: %w", ErrDenied, errForbidden)
	case status == http.StatusNotFound:
		ours = "no such engine or namespace"
	case status == http.StatusBadRequest && reason != "":
		kind, ours = unexplained, "refused, for a reason that is in the server's audit log"
		for _, r := range transitReasons {
			if strings.Contains(reason, r.text) {
				kind, ours = r.kind, r.ours
				break
			}
		}
	// A standby redirects to the active server; 412 is a replica that has yet to catch up.
	case status < http.StatusBadRequest, status >= http.StatusInternalServerError,
		status == http.StatusTooManyRequests, status == http.StatusPreconditionFailed, status == http.StatusRequestTimeout:
		kind = ErrUnavailable
	}
	if kind == nil {
		return fmt.Errorf("status %d: %s", status, ours)
	}
	return fmt.Errorf("%w: status %d: %s", kind, status, ours)
}

const (
	// A token is renewed when a third of its lease is left, or less than leaseMargin.
	leaseMargin = 10 * time.Second
	// loginPause is the time between two logins for a token that is refused: a permission that is missing must not
	// become a login for each call.
	loginPause = 10 * time.Second
)

// login keeps a token by an auth method: it logs in when one is first needed, renews while the server lets it, and
// logs in again when that ends or the token is refused.
type login struct {
	server  *transit
	mount   string
	request func() (transitRequest, error)

	turn     chan struct{} // holds what follows; a channel, because a wait for it ends with ctx
	auth     transitAuth
	due, end time.Time // zero for a token that lives for ever
	replaced time.Time
}

func (a AppRole) request() (transitRequest, error) {
	if a.SecretID == nil {
		return transitRequest{}, fmt.Errorf("%w: hcvault: an AppRole without a secret id", ErrDenied)
	}
	secret, err := secretText("secret id", a.SecretID)
	return transitRequest{RoleID: a.RoleID, SecretID: secret}, err
}

func (k Kubernetes) request() (transitRequest, error) {
	jwt, err := secretText("token file", func() (string, error) {
		b, err := os.ReadFile(cmp.Or(k.TokenFile, podToken))
		return string(b), err
	})
	return transitRequest{Role: k.Role, JWT: jwt}, err
}

func (l *login) token(ctx context.Context, refused string) (string, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return "", fmt.Errorf("%w: waiting for a login: %w", ErrUnavailable, ctx.Err())
	}
	now := time.Now()
	live := l.auth.Token != "" && (l.end.IsZero() || now.Before(l.end))
	if live && refused == l.auth.Token {
		if now.Before(l.replaced.Add(loginPause)) {
			return refused, nil
		}
		l.replaced, live = now, false
	}
	if live && (l.due.IsZero() || now.Before(l.due)) {
		return l.auth.Token, nil
	}
	auth, err := l.obtain(ctx, live && l.auth.Renewable)
	if err != nil {
		if live && errors.Is(err, ErrUnavailable) {
			return l.auth.Token, nil
		}
		return "", err
	}
	l.keep(auth, now)
	return l.auth.Token, nil
}

// obtain renews if it may, and logs in if it may not or that fails.
func (l *login) obtain(ctx context.Context, renew bool) (transitAuth, error) {
	if renew {
		out, err := l.server.post(ctx, l.auth.Token, "auth/token/renew-self", transitRequest{}, ErrDenied)
		if err == nil && out.Auth.Lease > 0 {
			out.Auth.Token = l.auth.Token
			return out.Auth, nil
		}
	}
	in, err := l.request()
	if err != nil {
		return transitAuth{}, err
	}
	out, err := l.server.post(ctx, "", "auth/"+l.mount+"/login", in, ErrDenied)
	if err != nil {
		return transitAuth{}, fmt.Errorf("login at auth/%s: %w", l.mount, err)
	}
	if out.Auth.Token == "" {
		return transitAuth{}, fmt.Errorf("%w: login at auth/%s: the answer has no token", ErrUnavailable, l.mount)
	}
	return out.Auth, nil
}

func (l *login) keep(a transitAuth, now time.Time) {
	l.auth, l.due, l.end = a, time.Time{}, time.Time{}
	if lease := time.Duration(a.Lease) * time.Second; lease > 0 {
		l.end = now.Add(lease)
		l.due = l.end.Add(-max(lease/3, leaseMargin))
	}
}
