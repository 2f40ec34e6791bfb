package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/privault/privault/kms/kmstest"
	"github.com/privault/privault/vault/vaulttest"
)

// writeCertificate makes a certificate of its own issue, with a serial number that no other has.
func writeCertificate(t testing.TB, dir string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "vault"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true},
		&x509.Certificate{Subject: pkix.Name{CommonName: "vault"}}, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})))
	write(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: made})))
	return cert, key
}

// trusting is what a client has that trusts this certificate alone.
func trusting(t testing.TB, cert string) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(read(t, cert))) {
		t.Fatal("not a certificate")
	}
	return &tls.Config{RootCAs: pool}
}

// handshake connects anew and gives the connection's state.
func handshake(address string, c *tls.Config) (tls.ConnectionState, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", address, c)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	return conn.ConnectionState(), conn.Close()
}

func TestServeTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := writeCertificate(t, dir)
	settings := append(trial(vaulttest.AppURL(vaulttest.Database(t)), kmstest.LocalURI(t)),
		"PRIVAULT_INSECURE_HTTP=false", "PRIVAULT_TLS_CERT="+cert, "PRIVAULT_TLS_KEY="+key)
	s := startServe(t, settings...)

	for version, accepted := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		c := trusting(t, cert)
		c.MinVersion, c.MaxVersion, c.NextProtos = version, version, []string{"h2", "http/1.1"}
		state, err := handshake(s.public, c)
		if accepted && (err != nil || state.Version != version || state.NegotiatedProtocol != "h2") || !accepted && err == nil {
			t.Errorf("%s: got %s with %q, %v", tls.VersionName(version), tls.VersionName(state.Version), state.NegotiatedProtocol, err)
		}
	}
	for protocol, via := range map[string]*http.Transport{
		"HTTP/1.1": {TLSClientConfig: trusting(t, cert), DisableKeepAlives: true},
		"HTTP/2.0": {TLSClientConfig: trusting(t, cert), DisableKeepAlives: true, ForceAttemptHTTP2: true},
	} {
		got, err := (&http.Client{Transport: via}).Get("https://" + s.public + "/openapi.yaml")
		if err != nil {
			t.Fatal(err)
		}
		_ = got.Body.Close()
		if got.Proto != protocol || got.StatusCode != http.StatusOK || !strings.HasPrefix(got.Header.Get("Strict-Transport-Security"), "max-age=") {
			t.Errorf("%s: %s %s, HSTS %q", protocol, got.Proto, got.Status, got.Header.Get("Strict-Transport-Security"))
		}
	}
	if got, err := http.Get("http://" + s.public + "/openapi.yaml"); err == nil {
		if _ = got.Body.Close(); got.StatusCode != http.StatusBadRequest {
			t.Error("plain HTTP is answered ", got.Status)
		}
	}
	s.replaceCertificate(t, cert, key)
	s.stop(t, syscall.SIGTERM)
}

// replaceCertificate wants a new certificate to be taken up without a restart, and a broken one not to be.
func (s *server) replaceCertificate(t *testing.T, cert, key string) {
	t.Helper()
	serves := func(what string, c *tls.Config) {
		t.Helper()
		eventually(t, what, func() bool {
			_, err := handshake(s.public, c)
			return err == nil
		})
	}
	former := trusting(t, cert)
	writeCertificate(t, filepath.Dir(cert))
	second := trusting(t, cert)
	serves("new connections get the new certificate", second)
	if _, err := handshake(s.public, former); err == nil {
		t.Error("the former certificate is served yet")
	}

	for what, broken := range map[string]string{"cut short": read(t, key)[:40], "empty": ""} {
		seen := strings.Count(s.stderr.String(), "does not load")
		write(t, key, broken)
		eventually(t, "a key that is "+what+" is noticed", func() bool {
			if _, err := handshake(s.public, second); err != nil {
				t.Fatalf("a key that is %s: %v", what, err)
			}
			return strings.Count(s.stderr.String(), "does not load") > seen
		})
	}
	writeCertificate(t, filepath.Dir(cert))
	serves("new connections get the third certificate", trusting(t, cert))
}
