package api_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// wire sends bytes as they are, and gives the first answer.
func (s *service) wire(t *testing.T, raw string) answer {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	return receive(t, res)
}

func TestRequestsThatAreNoHTTP(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	secret := canary()
	const body = `{"items":[{"token":"x"}]}`
	head := "POST /v1/detokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer " + c.key + "\r\n"
	for name, row := range map[string]struct {
		raw    string
		status int
	}{
		"two lengths":             {head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + secret, 400},
		"a negative length":       {head + "Content-Length: -1\r\n\r\n", 400},
		"a signed length":         {head + "Content-Length: +5\r\n\r\n" + secret, 400},
		"a length that is none":   {head + "Content-Length: " + secret + "\r\n\r\n", 400},
		"two codings":             {head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501},
		"an unknown coding":       {head + "Transfer-Encoding: gzip\r\n\r\n", 501},
		"no host":                 {"GET /v1/collections HTTP/1.1\r\n\r\n", 400},
		"two hosts":               {"GET /v1/collections HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
		"no host in HTTP/1.0":     {"GET /v1/collections HTTP/1.0\r\nAuthorization: Bearer " + c.key + "\r\n\r\n", 400},
		"an unknown expectation":  {head + "Expect: 200-maybe\r\nContent-Length: 25\r\n\r\n" + body, 417},
		"a header of 70 KiB":      {head + "X-More: " + strings.Repeat("m", 70<<10) + "\r\n\r\n", 431},
		"a header with a space":   {head + "X More: 1\r\n\r\n", 400},
		"a header with a NUL":     {head + "X-More: \x00\r\n\r\n", 400},
		"an unknown version":      {"GET /v1/collections HTTP/9.9\r\nHost: x\r\n\r\n", 505},
		"no request line":         {secret + "\r\n\r\n", 400},
		"a path with a space":     {"GET /v1/" + secret + " x HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"a path with a bad %":     {"GET /v1/%zz" + secret + " HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"a chunk of no length":    {head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n" + secret + "\r\n0\r\n\r\n", 400},
		"two credentials":         {"GET /v1/collections HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + c.key + "\r\nAuthorization: Bearer " + c.key + "\r\n\r\n", 401},
		"300 headers":             {head + strings.Repeat("X-More: "+secret+"\r\n", 300) + "\r\n", 431},
		"a URI of 9 KiB":          {"GET /v1/collections?" + strings.Repeat(secret, 9<<10/len(secret)) + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + c.key + "\r\n\r\n", 414},
		"TRACE":                   {"TRACE /v1/tokenize HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + c.key + "\r\nX-More: " + secret + "\r\n\r\n", 405},
		"CONNECT":                 {"CONNECT /v1/tokenize HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + c.key + "\r\n\r\n", 405},
		"CONNECT to another host": {"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", 404},
		"a URI of another host":   {"GET http://example.com/metrics HTTP/1.1\r\nHost: example.com\r\n\r\n", 404},
		"an asterisk":             {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := c.wire(t, row.raw)
			if a.status != row.status {
				t.Errorf("got %d %s, want %d", a.status, a.body, row.status)
			}
			quiet(t, "the answer", string(a.body), secret, c.key[5:])
			// What isn't HTTP never gets as far as a problem.
			if a.header.Get("X-Request-Id") != "" {
				var p problem
				a.read(t, &p)
				if p.Status != row.status {
					t.Errorf("the problem is %s", a.body)
				}
			}
		})
	}
	t.Cleanup(func() { quiet(t, "the log", c.Log.String(), secret, c.key[5:]) })
}

func TestABodyThatIsTooLargeIsRefusedUnread(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	for target, size := range map[string]string{"PUT /v1/collections/people": "1048577", "POST /v1/principals": "1048577", "POST /v1/tokenize": "8388609",
		"POST /v1/detokenize": "9223372036854775807"} {
		// Of the body, nothing is sent.
		a := c.wire(t, target+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "+size+"\r\nAuthorization: Bearer "+c.key+"\r\n\r\n")
		a.refused(t, 413, "payload-too-large")
		if !a.closed {
			t.Errorf("%s keeps the connection", target)
		}
	}
	// Strangers are not told about sizes.
	c.wire(t, "POST /v1/tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 8388609\r\n\r\n").refused(t, 401, "unauthenticated")
}

func TestABodyThatEndsEarly(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /v1/detokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\nAuthorization: Bearer "+c.key+"\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	receive(t, res).refused(t, 400, "malformed-request")
}
