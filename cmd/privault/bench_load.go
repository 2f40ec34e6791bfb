package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// traffic appends the n-th request of a load to b. It is called from many clients at once.
type traffic func(b []byte, n int) []byte

// request appends a whole HTTP request: the load must cost the machine little.
func (t *benchTarget) request(b []byte, method, path string, body []byte) []byte {
	b = fmt.Appendf(b, "%s %s%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n", method, t.base, path, t.host, t.APIKey)
	if body == nil {
		return append(b, '\r', '\n')
	}
	return append(fmt.Appendf(b, "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n", len(body)), body...)
}

// posts is the traffic of one kind of call, whose body the function gives.
func (t *benchTarget) posts(path string, body func(n int) []byte) traffic {
	return func(b []byte, n int) []byte { return t.request(b, "POST", path, body(n)) }
}

// closed sends requests from so many clients, each waiting for its answer before the next.
func (t *benchTarget) closed(ctx context.Context, clients int, length time.Duration, requests traffic) (figure, error) {
	var next atomic.Int64
	return t.swarm(ctx, clients, length, func(c *benchConn, began time.Time) (took []time.Duration, err error) {
		for len(took) == 0 || time.Since(began) < length && ctx.Err() == nil {
			c.sent = requests(c.sent[:0], int(next.Add(1)))
			start := time.Now()
			if err := c.exchange(); err != nil {
				return nil, err
			}
			took = append(took, time.Since(start))
		}
		return took, nil
	})
}

// openConnections is how many calls of an open loop may be unanswered at once; those behind them wait, and their wait counts.
const openConnections = 256

// open sends requests at a constant rate, whether or not those before were answered, until length is over or ctx ends. A latency counts
// from when its call was due, so that a server which stands still for a second is charged for all the calls that came in that second.
func (t *benchTarget) open(ctx context.Context, rate float64, length time.Duration, requests traffic) (figure, error) {
	var next atomic.Int64
	return t.swarm(ctx, openConnections, length, func(c *benchConn, began time.Time) (took []time.Duration, err error) {
		for {
			n := next.Add(1)
			since := time.Duration(float64(n-1) / rate * float64(time.Second))
			if since >= length || !rest(ctx, time.Until(began.Add(since))) {
				return took, nil
			}
			c.sent = requests(c.sent[:0], int(n))
			if err := c.exchange(); err != nil {
				return nil, err
			}
			took = append(took, time.Since(began.Add(since)))
		}
	})
}

// patienceOfBench is how long after its time a measurement waits for answers.
const patienceOfBench = time.Minute

// swarm runs a worker on each of so many connections, once all of them stand, and puts together what they took.
func (t *benchTarget) swarm(ctx context.Context, clients int, length time.Duration, work func(c *benchConn, began time.Time) ([]time.Duration, error)) (figure, error) {
	conns := make([]*benchConn, clients)
	for i := range conns {
		c, err := t.dial(context.WithoutCancel(ctx))
		if err != nil {
			return figure{}, err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(length + patienceOfBench)); err != nil {
			return figure{}, err
		}
		conns[i] = c
	}
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	var wait sync.WaitGroup
	start := time.Now()
	for _, c := range conns {
		wait.Go(func() {
			took, err := work(c, start)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			failed = cmp.Or(failed, err)
		})
	}
	wait.Wait()
	if failed != nil {
		return figure{}, failed
	}
	if len(all) == 0 {
		return figure{}, errors.New("no call was answered in time")
	}
	seconds := time.Since(start).Seconds()
	slices.Sort(all)
	return figure{value: float64(len(all)) / seconds, p50: all[len(all)/2], p99: all[len(all)*99/100]}, nil
}

// benchConn is a client's connection and what it holds for sending and reading.
type benchConn struct {
	net.Conn
	sent    []byte
	answers *bufio.Reader
}

func (t *benchTarget) dial(ctx context.Context) (*benchConn, error) {
	var conn net.Conn
	var err error
	if t.tls {
		conn, err = (&tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}}).DialContext(ctx, "tcp", t.host)
	} else {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", t.host)
	}
	if err != nil {
		return nil, err
	}
	return &benchConn{Conn: conn, answers: bufio.NewReaderSize(conn, 64<<10)}, nil
}

// exchange sends what is in sent and reads its answer.
func (c *benchConn) exchange() error {
	if _, err := c.Write(c.sent); err != nil {
		return err
	}
	return readAnswer(c.answers)
}

var contentLength = []byte("Content-Length")

// readAnswer reads one answer of status 200, and no more of it than it must.
func readAnswer(r *bufio.Reader) error {
	length := -1
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
			hint := ""
			if bytes.HasPrefix(line, []byte("HTTP/1.1 429")) {
				hint = ": its limits are lower than what is measured; measure with lower --clients and --records, or raise them (PRIVAULT_LIMITS)"
			}
			return fmt.Errorf("the server answered %q%s", bytes.TrimSpace(line), hint)
		}
		if name, value, _ := bytes.Cut(line, []byte(":")); bytes.EqualFold(name, contentLength) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
		if len(line) == 2 {
			break
		}
	}
	if length < 0 {
		return readChunked(r)
	}
	_, err := r.Discard(length)
	return err
}

// readChunked reads past a body of RFC 9112 chunks.
func readChunked(r *bufio.Reader) error {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 64)
		if err != nil {
			return err
		}
		if _, err := r.Discard(int(size) + 2); err != nil || size == 0 {
			return err
		}
	}
}
