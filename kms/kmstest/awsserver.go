package kmstest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/privault/privault/kms"
)

// Faults are the switches that the stand-ins for KMS servers have. They are safe for concurrent use, and the zero value
// has them all off.
type Faults struct {
	mu       sync.Mutex
	calls    int
	down     bool
	throttle int
	stalled  chan struct{}
	answer   http.HandlerFunc
}

// Calls counts the requests that came in, failed and stalled ones included.
func (f *Faults) Calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

// SetDown makes every other call end with a server error, and those between lose their connection.
func (f *Faults) SetDown(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = on
}

// SetStalled makes calls wait until it is off again, or until the client goes away.
func (f *Faults) SetStalled(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case on && f.stalled == nil:
		f.stalled = make(chan struct{})
	case !on && f.stalled != nil:
		close(f.stalled)
		f.stalled = nil
	}
}

// Throttle turns the next calls away.
func (f *Faults) Throttle(calls int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.throttle = calls
}

// Answer takes the place of the server; nil ends that.
func (f *Faults) Answer(h http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = h
}

// meet is true if a fault has dealt with the call.
func (f *Faults) meet(w http.ResponseWriter, r *http.Request, throttled, broken http.HandlerFunc) bool {
	f.mu.Lock()
	f.calls++
	n, stalled, down, answer, throttle := f.calls, f.stalled, f.down, f.answer, f.throttle > 0
	if throttle {
		f.throttle--
	}
	f.mu.Unlock()
	if stalled != nil {
		select {
		case <-stalled:
		case <-r.Context().Done():
			return true
		}
	}
	switch {
	case answer != nil:
		answer(w, r)
	case down && n%2 == 0:
		panic(http.ErrAbortHandler) // cuts the connection
	case down:
		broken(w, r)
	case throttle:
		throttled(w, r)
	default:
		return false
	}
	return true
}

// serve starts a server for h that ends with the test. Calls that still stall end with it.
func (f *Faults) serve(t testing.TB, h http.HandlerFunc, start func(http.Handler) *httptest.Server) *httptest.Server {
	t.Helper()
	s := start(h)
	t.Cleanup(func() {
		f.SetStalled(false)
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// body reads a request to its end, without which the server doesn't notice a client that goes away.
func body(r *http.Request, into any) error {
	b, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

// versions are the key material of one key, the newest last.
type versions []cipher.AEAD

func (v *versions) add() error {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return err
	}
	*v = append(*v, gcm)
	return nil
}

// seal returns nonce and ciphertext under version n, counted from 1.
func (v versions) seal(n int, plaintext, ad []byte) []byte {
	nonce := make([]byte, v[n-1].NonceSize())
	rand.Read(nonce)
	return v[n-1].Seal(nonce, nonce, plaintext, ad)
}

func (v versions) open(n int, sealed, ad []byte) ([]byte, error) {
	if n < 1 || n > len(v) || len(sealed) < v[n-1].NonceSize() {
		return nil, errors.New("no such version, or too short")
	}
	size := v[n-1].NonceSize()
	return v[n-1].Open(nil, sealed[:size], sealed[size:], ad)
}

// AWSServer is AWS KMS at the wire: the operations that package kms calls, in awsJson1_1, with real encryption and
// the errors that the service documents. It serves every Region; which one is meant it takes from the signature, of
// which it checks no more than that it is there and names the access key.
type AWSServer struct {
	Faults
	// URL is the endpoint.
	URL string

	mu   sync.Mutex
	keys map[string]*awsKey // by ARN; the replicas of a multi-Region key share one material
	none map[string]bool    // operations that the caller has no permission for
}

type awsKey struct {
	id       string
	material *versions
	state    string
}

const (
	awsAccessKey = "AKIAIOSFODNN7EXAMPLE"
	awsAccount   = "111122223333"
	awsEnabled   = "Enabled"
)

// NewAWSServer starts an AWSServer without keys. It ends with the test.
func NewAWSServer(t testing.TB) *AWSServer {
	t.Helper()
	s := &AWSServer{keys: make(map[string]*awsKey), none: make(map[string]bool)}
	s.URL = s.serve(t, s.handle, httptest.NewServer).URL
	return s
}

// Options are those that reach the server and satisfy it.
func (s *AWSServer) Options() kms.Options {
	return kms.Options{AWS: kms.AWSOptions{
		Endpoint: s.URL,
		Credentials: func() (kms.AWSCredentials, error) {
			return kms.AWSCredentials{AccessKeyID: awsAccessKey, SecretAccessKey: "not checked"}, nil
		},
	}}
}

// Create makes a key in a Region and returns its ARN. The id of a multi-Region key begins with mrk-.
func (s *AWSServer) Create(region string, multiRegion bool) (string, error) {
	id := fmt.Sprintf("1234abcd-12ab-34cd-56ef-%s", strings.ToLower(rand.Text()[:12]))
	if multiRegion {
		id = "mrk-" + strings.ToLower(rand.Text()+"abcdef")
	}
	k := &awsKey{id: id, material: new(versions), state: awsEnabled}
	if err := k.material.add(); err != nil {
		return "", err
	}
	return s.put(region, k), nil
}

func (s *AWSServer) put(region string, k *awsKey) string {
	arn := "arn:aws:kms:" + region + ":" + awsAccount + ":key/" + k.id
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[arn] = k
	return arn
}

// Replicate makes a replica of a multi-Region key in another Region, and returns its ARN.
func (s *AWSServer) Replicate(arn, region string) (string, error) {
	s.mu.Lock()
	k := s.keys[arn]
	s.mu.Unlock()
	if k == nil || !strings.HasPrefix(k.id, "mrk-") {
		return "", errors.New("not a multi-Region key")
	}
	return s.put(region, &awsKey{id: k.id, material: k.material, state: awsEnabled}), nil
}

// Rotate adds key material to a key, and to its replicas.
func (s *AWSServer) Rotate(arn string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[arn].material.add()
}

// SetState sets a key's state, as KMS calls it: Enabled, Disabled, PendingDeletion. Anything else deletes the key.
func (s *AWSServer) SetState(arn, state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case awsEnabled, "Disabled", "PendingDeletion":
		s.keys[arn].state = state
	default:
		delete(s.keys, arn)
	}
}

// Forbid takes away the permission for an operation, or gives it back.
func (s *AWSServer) Forbid(operation string, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.none[operation] = on
}

// awsFault is an error as it goes over the wire.
type awsFault struct {
	status        int
	code, message string
}

func (f *awsFault) Error() string { return f.code }

func refuse(code, message string) error {
	return &awsFault{status: http.StatusBadRequest, code: code, message: message}
}

func (f *awsFault) write(w http.ResponseWriter, _ *http.Request) {
	writeAWS(w, f.status, map[string]string{"__type": f.code, "message": f.message})
}

func writeAWS(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", "00000000-0000-0000-0000-000000000000")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

// awsCall has the fields of all the operations; JSON brings blobs in base64.
type awsCall struct {
	KeyID                        string `json:"KeyId"`
	Plaintext, CiphertextBlob    []byte
	EncryptionContext            map[string]string
	SourceKeyID                  string `json:"SourceKeyId"`
	SourceEncryptionContext      map[string]string
	DestinationKeyID             string `json:"DestinationKeyId"`
	DestinationEncryptionContext map[string]string
}

func (s *AWSServer) handle(w http.ResponseWriter, r *http.Request) {
	var call awsCall
	err := body(r, &call)
	throttled := &awsFault{http.StatusBadRequest, "ThrottlingException", "Rate exceeded"}
	broken := &awsFault{http.StatusInternalServerError, "KMSInternalException", ""}
	if s.meet(w, r, throttled.write, broken.write) {
		return
	}
	var answer any
	if err != nil {
		err = refuse("SerializationException", "")
	} else {
		answer, err = s.dispatch(r, call)
	}
	if err != nil {
		var f *awsFault
		if !errors.As(err, &f) {
			f = broken
		}
		f.write(w, r)
		return
	}
	writeAWS(w, http.StatusOK, answer)
}

func (s *AWSServer) dispatch(r *http.Request, c awsCall) (any, error) {
	region, err := signed(r)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	operation, _ := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	if s.none[operation] {
		return nil, refuse("AccessDeniedException", "User: arn:aws:iam::"+awsAccount+":user/test is not authorized to perform: kms:"+
			operation+" on this resource because no identity-based policy allows the kms:"+operation+" action")
	}
	switch operation {
	case "Encrypt":
		blob, err := s.encrypt(region, c.KeyID, c.Plaintext, c.EncryptionContext)
		return map[string]any{"KeyId": c.KeyID, "CiphertextBlob": blob, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}, err
	case "Decrypt":
		b, err := s.decrypt(region, c.KeyID, c.CiphertextBlob, c.EncryptionContext)
		return map[string]any{"KeyId": c.KeyID, "Plaintext": b, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}, err
	case "ReEncrypt":
		b, err := s.decrypt(region, c.SourceKeyID, c.CiphertextBlob, c.SourceEncryptionContext)
		if err != nil {
			return nil, err
		}
		blob, err := s.encrypt(region, c.DestinationKeyID, b, c.DestinationEncryptionContext)
		return map[string]any{"KeyId": c.DestinationKeyID, "SourceKeyId": c.SourceKeyID, "CiphertextBlob": blob}, err
	}
	return nil, refuse("UnknownOperationException", "")
}

// signed returns the Region that a request is signed for.
func signed(r *http.Request) (region string, err error) {
	authorization := r.Header.Get("Authorization")
	_, rest, ok := strings.Cut(authorization, "AWS4-HMAC-SHA256 Credential=")
	scope := strings.Split(rest, "/") // KEY/DATE/REGION/kms/aws4_request, SignedHeaders=...
	if !ok || r.Header.Get("X-Amz-Date") == "" || len(scope) < 5 || scope[3] != "kms" ||
		!strings.Contains(rest, "x-amz-target") || !strings.Contains(rest, "Signature=") {
		return "", refuse("MissingAuthenticationTokenException", "Missing Authentication Token")
	}
	if scope[0] != awsAccessKey {
		return "", refuse("UnrecognizedClientException", "The security token included in the request is invalid.")
	}
	return scope[2], nil
}

func (s *AWSServer) usable(region, arn string) (*awsKey, error) {
	k := s.keys[arn]
	if k == nil || !strings.HasPrefix(arn, "arn:aws:kms:"+region+":") {
		return nil, refuse("NotFoundException", "Key '"+arn+"' does not exist")
	}
	switch k.state {
	case awsEnabled:
		return k, nil
	case "Disabled":
		return nil, refuse("DisabledException", arn+" is disabled.")
	}
	return nil, refuse("KMSInvalidStateException", arn+" is pending deletion.")
}

// The blob is the length of the key id, the key id, the version, and what is sealed.
func (s *AWSServer) encrypt(region, arn string, plaintext []byte, context map[string]string) ([]byte, error) {
	k, err := s.usable(region, arn)
	if err != nil {
		return nil, err
	}
	if len(plaintext) == 0 || len(plaintext) > 4096 {
		return nil, refuse("ValidationException", "1 validation error detected")
	}
	header := append([]byte{byte(len(k.id))}, k.id...)
	header = binary.BigEndian.AppendUint32(header, uint32(len(*k.material)))
	return append(header, k.material.seal(len(*k.material), plaintext, bound(header, context))...), nil
}

func (s *AWSServer) decrypt(region, arn string, blob []byte, context map[string]string) ([]byte, error) {
	k, err := s.usable(region, arn)
	if err != nil {
		return nil, err
	}
	if len(blob) == 0 || len(blob) > 6144 {
		return nil, refuse("ValidationException", "1 validation error detected")
	}
	invalid := refuse("InvalidCiphertextException", "")
	size := 1 + int(blob[0]) + 4
	if len(blob) < size {
		return nil, invalid
	}
	header, id := blob[:size], string(blob[1:size-4])
	if id != k.id {
		for _, other := range s.keys {
			if other.id == id {
				return nil, refuse("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.")
			}
		}
		return nil, invalid
	}
	b, err := k.material.open(int(binary.BigEndian.Uint32(header[size-4:])), blob[size:], bound(header, context))
	if err != nil {
		return nil, invalid
	}
	return b, nil
}

// bound is what authenticates a header and an encryption context: JSON sorts the names.
func bound(header []byte, context map[string]string) []byte {
	b, _ := json.Marshal(context) //nolint:errchkjson // strings
	return append(append([]byte{}, header...), b...)
}
