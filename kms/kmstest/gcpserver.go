//go:build !nocloud

package kmstest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/privault/privault/kms"
)

// GCPServer is Google Cloud KMS at the wire: Encrypt and Decrypt of the service's own gRPC interface, with real
// encryption, the checksums, and the errors that the service documents. It verifies the signature of the tokens that
// come with the calls.
type GCPServer struct {
	kmspb.UnimplementedKeyManagementServiceServer
	Faults
	// URL is the endpoint.
	URL string

	listener *cutListener
	mu       sync.Mutex
	keys     map[string]*gcpKey // by name
	damage   GCPDamage
	damaged  int
	refused  error
	// refusedCall is what refused is for; empty is all.
	refusedCall string
}

type gcpKey struct {
	id       []byte
	material versions
	retired  int // versions up to this one are disabled, whatever state says
	state    kmspb.CryptoKeyVersion_CryptoKeyVersionState
}

// GCPDamage is one way in which a call gets spoilt between the client and Cloud KMS.
type GCPDamage int

// A request arrives without a checksum or changed; an answer arrives changed, without its checksum or for another key.
const (
	GCPLostChecksum GCPDamage = iota + 1
	GCPLostADChecksum
	GCPChangedRequest
	GCPChangedAnswer
	GCPAnswerWithoutChecksum
	GCPAnswerForOtherKey
)

const gcpAccount = "privault@test-project.iam.gserviceaccount.com"

// gcpSigner is one for all servers of a test binary: making an RSA key takes long.
var gcpSigner = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// NewGCPServer starts a GCPServer without keys. It ends with the test.
func NewGCPServer(t testing.TB) *GCPServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	s := &GCPServer{
		URL:      "http://" + l.Addr().String(),
		listener: &cutListener{Listener: l, conns: make(map[net.Conn]bool)},
		keys:     make(map[string]*gcpKey),
	}
	g := grpc.NewServer(grpc.UnaryInterceptor(s.intercept))
	kmspb.RegisterKeyManagementServiceServer(g, s)
	var served sync.WaitGroup
	served.Go(func() { _ = g.Serve(s.listener) })
	t.Cleanup(func() {
		s.SetStalled(false)
		g.Stop()
		served.Wait()
	})
	return s
}

// Options are those that reach the server and satisfy it.
func (s *GCPServer) Options() kms.Options {
	return kms.Options{GCP: kms.GCPOptions{Endpoint: s.URL, Credentials: gcpCredentials}}
}

// gcpCredentials is the file of a service account, with which the SDK signs its tokens itself.
func gcpCredentials() ([]byte, error) {
	key, err := gcpSigner()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]string{
		"type": "service_account", "project_id": "test-project", "private_key_id": "1", "client_email": gcpAccount,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		"token_uri":   "https://oauth2.invalid/token",
	})
}

// Create makes a key of one version and returns its name.
func (s *GCPServer) Create() (string, error) {
	k := &gcpKey{id: []byte(rand.Text()[:16]), state: kmspb.CryptoKeyVersion_ENABLED}
	if err := k.material.add(); err != nil {
		return "", err
	}
	name := "projects/test-project/locations/europe-west3/keyRings/ring/cryptoKeys/" + rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[name] = k
	return name, nil
}

// Rotate adds a version to a key and makes it the primary one.
func (s *GCPServer) Rotate(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[name].material.add()
}

// Retire disables all versions but the primary one.
func (s *GCPServer) Retire(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[name].retired = len(s.keys[name].material) - 1
}

// SetState sets the state of all versions of a key. A key itself can't be deleted.
func (s *GCPServer) SetState(name string, state kmspb.CryptoKeyVersion_CryptoKeyVersionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[name].state = state
}

// Refuse makes every call fail with err, a status; nil ends that.
func (s *GCPServer) Refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusedCall, s.refused = "", err
}

// RefuseCall makes the calls of one name, Encrypt or Decrypt, fail with err, a status.
func (s *GCPServer) RefuseCall(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusedCall, s.refused = name, err
}

// Damage spoils the next calls.
func (s *GCPServer) Damage(d GCPDamage, calls int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.damage, s.damaged = d, calls
}

// spoilt says how a call is damaged; 0 is not at all.
func (s *GCPServer) spoilt() GCPDamage {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.damaged == 0 {
		return 0
	}
	s.damaged--
	return s.damage
}

// intercept is what Faults.meet is for HTTP.
func (s *GCPServer) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	s.Faults.mu.Lock()
	s.calls++
	n, stalled, down, throttle := s.calls, s.stalled, s.down, s.throttle > 0
	if throttle {
		s.throttle--
	}
	s.Faults.mu.Unlock()
	if stalled != nil {
		select {
		case <-stalled:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	switch {
	case down && n%2 == 0:
		s.listener.cut()
		return nil, status.Error(codes.Unavailable, "cut")
	case down:
		return nil, status.Error(codes.Unavailable, "The service is currently unavailable.")
	case throttle:
		return nil, status.Error(codes.ResourceExhausted, "Quota exceeded for quota metric 'Cryptographic requests'")
	}
	if err := authenticated(ctx); err != nil {
		return nil, status.Error(codes.Unauthenticated, "Request had invalid authentication credentials: "+err.Error())
	}
	s.mu.Lock()
	refused, call := s.refused, s.refusedCall
	s.mu.Unlock()
	if refused != nil && (call == "" || strings.HasSuffix(info.FullMethod, "/"+call)) {
		return nil, refused
	}
	return handle(ctx, req)
}

// authenticated verifies a token that the client signed itself.
func authenticated(ctx context.Context) error {
	key, err := gcpSigner()
	if err != nil {
		return err
	}
	md, _ := metadata.FromIncomingContext(ctx)
	token, ok := strings.CutPrefix(strings.Join(md.Get("authorization"), ","), "Bearer ")
	signed, signature := token, ""
	if i := strings.LastIndexByte(token, '.'); ok && i > 0 {
		signed, signature = token[:i], token[i+1:]
	}
	sig, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(signed))
	if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, digest[:], sig); err != nil {
		return err
	}
	_, payload, _ := strings.Cut(signed, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return err
	}
	var claims struct {
		Iss, Scope string
		Exp        int64
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		return err
	}
	if claims.Iss != gcpAccount || time.Now().Unix() > claims.Exp || !strings.Contains(claims.Scope, "cloud-platform") {
		return errors.New("not a token for us")
	}
	return nil
}

// usable needs s.mu.
func (s *GCPServer) usable(name string) (*gcpKey, error) {
	k := s.keys[name]
	if k == nil {
		return nil, status.Errorf(codes.NotFound, "CryptoKey %s not found.", name)
	}
	if k.state != kmspb.CryptoKeyVersion_ENABLED {
		return nil, status.Errorf(codes.FailedPrecondition, "%s/cryptoKeyVersions/1 is not enabled, current state is: %s.", name, k.state)
	}
	return k, nil
}

// Encrypt makes a ciphertext of the id of the key, the version, and what is sealed.
func (s *GCPServer) Encrypt(_ context.Context, r *kmspb.EncryptRequest) (*kmspb.EncryptResponse, error) {
	d := s.spoilt()
	plaintext := arrived(d, r.GetPlaintext())
	if !intact(plaintext, r.GetPlaintextCrc32C()) || !intact(r.GetAdditionalAuthenticatedData(), r.GetAdditionalAuthenticatedDataCrc32C()) {
		return nil, status.Error(codes.InvalidArgument, "The checksum in field plaintext_crc32c did not match the data in field plaintext.")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.usable(r.GetName())
	if err != nil {
		return nil, err
	}
	ciphertext := binary.BigEndian.AppendUint32(bytes.Clone(k.id), uint32(len(k.material)))
	ciphertext = append(ciphertext, k.material.seal(len(k.material), plaintext, r.GetAdditionalAuthenticatedData())...)
	answer := &kmspb.EncryptResponse{
		Name:                    fmt.Sprintf("%s/cryptoKeyVersions/%d", r.GetName(), len(k.material)),
		CiphertextCrc32C:        crc32c(d, ciphertext),
		Ciphertext:              answered(d, ciphertext),
		VerifiedPlaintextCrc32C: r.GetPlaintextCrc32C() != nil && d != GCPLostChecksum,
		VerifiedAdditionalAuthenticatedDataCrc32C: r.GetAdditionalAuthenticatedDataCrc32C() != nil && d != GCPLostADChecksum,
	}
	if d == GCPAnswerForOtherKey {
		answer.Name = r.GetName() + "2/cryptoKeyVersions/1"
	}
	return answer, nil
}

// Decrypt takes the version from the ciphertext.
func (s *GCPServer) Decrypt(_ context.Context, r *kmspb.DecryptRequest) (*kmspb.DecryptResponse, error) {
	d := s.spoilt()
	ciphertext := arrived(d, r.GetCiphertext())
	if !intact(ciphertext, r.GetCiphertextCrc32C()) || !intact(r.GetAdditionalAuthenticatedData(), r.GetAdditionalAuthenticatedDataCrc32C()) {
		return nil, status.Error(codes.InvalidArgument, "The checksum in field ciphertext_crc32c did not match the data in field ciphertext.")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.usable(r.GetName())
	if err != nil {
		return nil, err
	}
	invalid := status.Error(codes.InvalidArgument, "Decryption failed: the ciphertext is invalid.")
	sealed, ours := bytes.CutPrefix(ciphertext, k.id)
	if !ours || len(sealed) < 4 {
		return nil, invalid
	}
	version := int(binary.BigEndian.Uint32(sealed))
	if version <= k.retired {
		return nil, status.Errorf(codes.FailedPrecondition, "%s/cryptoKeyVersions/%d is not enabled, current state is: DISABLED.", r.GetName(), version)
	}
	plaintext, err := k.material.open(version, sealed[4:], r.GetAdditionalAuthenticatedData())
	if err != nil {
		return nil, invalid
	}
	return &kmspb.DecryptResponse{PlaintextCrc32C: crc32c(d, plaintext), Plaintext: answered(d, plaintext)}, nil
}

func arrived(d GCPDamage, b []byte) []byte {
	if d == GCPChangedRequest {
		return with(b, 0, 0)
	}
	return b
}

func answered(d GCPDamage, b []byte) []byte {
	if d == GCPChangedAnswer {
		return with(b, 0, 0)
	}
	return b
}

func crc32c(d GCPDamage, b []byte) *wrapperspb.Int64Value {
	if d == GCPAnswerWithoutChecksum {
		return nil
	}
	return wrapperspb.Int64(int64(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))))
}

// intact takes a checksum that is absent for one that wasn't sent, as the service does.
func intact(b []byte, sum *wrapperspb.Int64Value) bool {
	return sum == nil || sum.GetValue() == crc32c(0, b).GetValue()
}

// cutListener can cut the connections that it has accepted.
type cutListener struct {
	net.Listener
	mu    sync.Mutex
	conns map[net.Conn]bool
}

func (l *cutListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		l.conns[c] = true
		l.mu.Unlock()
	}
	return c, err
}

func (l *cutListener) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		_ = c.Close()
		delete(l.conns, c)
	}
}
