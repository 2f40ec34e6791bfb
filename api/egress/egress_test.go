package egress_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/privault/privault/api/egress"
)

// names is a real DNS server of a test's own: what it answers can change.
type names struct {
	*net.Resolver
	answer  atomic.Pointer[map[string]string] // name, with its dot, to an IPv4 address
	queries atomic.Int64
}

func serveNames(t *testing.T) *names {
	t.Helper()
	listen := net.ListenConfig{}
	conn, err := listen.ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	n := &names{}
	n.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	go n.serve(conn)
	return n
}

func (n *names) serve(conn net.PacketConn) {
	buffer := make([]byte, 1500)
	for {
		size, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buffer[:size]) != nil || len(m.Questions) != 1 {
			continue
		}
		n.queries.Add(1)
		m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
		q := m.Questions[0]
		if ip, known := (*n.answer.Load())[strings.ToLower(q.Name.String())]; !known {
			m.RCode = dnsmessage.RCodeNameError
		} else if q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}, Body: &dnsmessage.AResource{A: netip.MustParseAddr(ip).As4()}}}
		}
		if reply, err := m.Pack(); err == nil {
			_, _ = conn.WriteTo(reply, from)
		}
	}
}

// canary is a server inside, which must not be reached.
func canary(t *testing.T) (port string, reached *atomic.Int64) {
	t.Helper()
	reached = &atomic.Int64{}
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ConnState = func(net.Conn, http.ConnState) { reached.Add(1) }
	s.Start()
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port, reached
}

// Threat E-7: no form of a URL leads inside, neither when it is registered nor when it is called.
func TestNoFormOfAURLLeadsInside(t *testing.T) {
	t.Parallel()
	n := serveNames(t)
	n.answer.Store(&map[string]string{"inside.example.": "127.0.0.1", "private.example.": "10.0.0.1", "metadata.google.internal.": "169.254.169.254", "public.example.": "93.184.215.14"})
	port, reached := canary(t)
	r := egress.Rules{Resolver: n.Resolver}
	hosts := []string{"127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "0", "0.0.0.0", "127.0.0.1.", "localhost", "localhost.", "LOCALHOST",
		"[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:169.254.169.254]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1]", "[fe80::1%25lo]", "[fd00::1]", "[fec0::1]",
		"10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "100.127.255.254", "169.254.169.254", "169.254.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
		"224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "inside.example", "inside.example.", "private.example", "metadata.google.internal", "nowhere.example", "１２７.0.0.1", "ⓛocalhost", "xn--1"}
	forms := 0
	for _, host := range hosts {
		for _, url := range []string{"https://" + host + ":" + port + "/", "http://" + host + ":" + port + "/"} {
			forms++
			if fault := r.CheckWebhook(t.Context(), url); fault == "" {
				t.Errorf("%s may be registered", url)
			}
			if status, _, fault := r.PostWebhook(t.Context(), url, nil, "{}"); fault == "" {
				t.Errorf("%s answers %d", url, status)
			}
		}
		if fault := r.CheckWebhook(t.Context(), "https://"+host+"/"); fault == "" {
			t.Errorf("%s may be registered on its usual port", host)
		}
	}
	for _, url := range []string{"", "/hook", "public.example", "//public.example/", "https:public.example", "https:///hook", "https://user@public.example/", "https://user:x@public.example/",
		"https://public.example:22/", "https://public.example:0/", "https://public.example/#x", "http://public.example/", "file:///etc/passwd", "gopher://public.example/", "ftp://public.example/", "https://public.example:99999/", "https://[::1/"} {
		forms++
		if fault := r.CheckWebhook(t.Context(), url); fault == "" {
			t.Errorf("%q may be registered", url)
		}
	}
	if n := reached.Load(); n != 0 || forms < 60 {
		t.Errorf("the server inside was reached %d times, by %d forms", n, forms)
	}
	for _, url := range []string{"https://public.example", "https://public.example/hook?code=x", "https://PUBLIC.example:443/", "https://public.example:8443/a/b", "https://93.184.215.14/", "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/"} {
		if fault := r.CheckWebhook(t.Context(), url); fault != "" {
			t.Errorf("%s: %s", url, fault)
		}
	}
}

// Whatever networks an operator names, clouds' metadata services are not among them.
func TestMetadataIsNeverReached(t *testing.T) {
	t.Parallel()
	r := egress.Rules{Private: true, Networks: []netip.Prefix{netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("100.64.0.0/10")}}
	for address, admitted := range map[string]bool{"fd00:ec2::254": false, "100.100.100.200": false, "::ffff:100.100.100.200": false, "169.254.169.254": false,
		"fd00:ec2::1": true, "100.100.100.201": true} {
		if got := r.Admits(netip.MustParseAddr(address)); got != admitted {
			t.Errorf("%s: admitted %v", address, got)
		}
	}
}

// A name that led into a network with ports of its own when it was registered leads to no such port of a public server later.
func TestAReboundNameLeadsToNoOtherPort(t *testing.T) {
	t.Parallel()
	n := serveNames(t)
	r := egress.Rules{Resolver: n.Resolver, Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}
	n.answer.Store(&map[string]string{"hook.example.": "10.1.0.7"})
	if fault := r.CheckWebhook(t.Context(), "https://hook.example:6443/"); fault != "" {
		t.Fatal(fault)
	}
	n.answer.Store(&map[string]string{"hook.example.": "93.184.215.14"})
	if _, _, fault := r.PostWebhook(t.Context(), "https://hook.example:6443/", nil, "{}"); fault != "destination-not-allowed" {
		t.Errorf("to another port of a public server: %q", fault)
	}
}

// A name that led outside when it was registered, and leads inside when it is called, reaches nothing there.
func TestAReboundNameLeadsNowhere(t *testing.T) {
	t.Parallel()
	n := serveNames(t)
	port, reached := canary(t)
	url := "https://hook.example:" + port + "/"
	r := egress.Rules{Resolver: n.Resolver, Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}
	n.answer.Store(&map[string]string{"hook.example.": "10.1.0.7"})
	if fault := r.CheckWebhook(t.Context(), url); fault != "" {
		t.Fatal(fault)
	}
	for _, inside := range []string{"127.0.0.1", "169.254.169.254", "10.2.0.1"} {
		n.answer.Store(&map[string]string{"hook.example.": inside})
		asked := n.queries.Load()
		if _, _, fault := r.PostWebhook(t.Context(), url, nil, "{}"); fault != "destination-not-allowed" {
			t.Errorf("to %s: %q", inside, fault)
		}
		if n.queries.Load() == asked {
			t.Error("the name was not looked up again")
		}
		if fault := r.CheckWebhook(t.Context(), url); fault == "" {
			t.Errorf("with %s it may still be registered", inside)
		}
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("the server inside was reached %d times", n)
	}
	// The same server, where this machine may be called: the canary can be reached.
	n.answer.Store(&map[string]string{"hook.example.": "127.0.0.1"})
	if status, _, _ := (egress.Rules{Resolver: n.Resolver, Loopback: true}).PostWebhook(t.Context(), "http://hook.example:"+port+"/", nil, "{}"); status != http.StatusNotFound || reached.Load() == 0 {
		t.Errorf("status %d, reached %d times", status, reached.Load())
	}
}
