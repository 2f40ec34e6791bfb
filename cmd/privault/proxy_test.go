package main

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
)

// proxy is a way to a server that breaks.
type proxy struct {
	address string
	broken  atomic.Int64 // how often it has
}

// breakingProxy passes everything on, but drops each nth answer, with its connection.
func breakingProxy(t testing.TB, to string, nth int64) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	p := &proxy{address: listener.Addr().String()}
	var answers atomic.Int64
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			go p.carry(in, to, func() bool { return answers.Add(1)%nth == 0 })
		}
	}()
	return p
}

func (p *proxy) carry(in net.Conn, to string, breaks func() bool) {
	defer in.Close()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	go func() {
		_, _ = io.Copy(out, in) // either side may be gone
		_ = out.Close()
	}()
	answer := make([]byte, 64<<10)
	for {
		n, err := out.Read(answer)
		if err != nil {
			return
		}
		if breaks() {
			p.broken.Add(1)
			return
		}
		if _, err := in.Write(answer[:n]); err != nil {
			return
		}
	}
}
