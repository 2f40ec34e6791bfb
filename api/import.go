package api

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

const (
	ndjson = "application/x-ndjson"
	// A chunk is what goes to the vault at once: as many lines as have arrived, up to these bounds. A few of them are all that
	// an import of any length holds in memory.
	chunkLines = 500
	chunkBytes = 1 << 20
	maxLine    = maxBody
	// A stream may take as long as it likes, but not stand still.
	streamPause = 60 * time.Second
)

var errLineTooLong = errors.New("line too long")

// streams says whether a request may take as long as it likes.
func streams(c echo.Context) bool {
	return strings.HasSuffix(c.Path(), "/import") || strings.HasSuffix(c.Path(), "/export") || strings.HasSuffix(c.Path(), "/package")
}

// importRecords streams both ways: a record a line in, its outcome a line out, in order. A line that fails leaves the
// others alone. An outcome is written after its record is durable.
func (s *Server) importRecords(c echo.Context) error {
	if err := checkMedia(c, ndjson); err != nil {
		return err
	}
	if len(c.Request().Header.Values(idempotencyHeader)) > 0 {
		return malformed("a stream takes no Idempotency-Key, for what of it was stored is told line by line; batches do")
	}
	// Unknown or forbidden collections are refused before anything streams.
	if err := s.vault.CanTokenize(c.Request().Context(), caller(c), c.Param("collection")); err != nil {
		return err
	}
	control := http.NewResponseController(c.Response())
	_ = control.EnableFullDuplex() // HTTP/2 has it always
	c.Response().Header().Set(echo.HeaderContentType, ndjson)
	c.Response().WriteHeader(http.StatusOK)
	chunks := make(chan *importing, chunksAtOnce()-1) // in order; more than one at once, so that no core waits for the database
	answers := answering{c: c, control: control, done: make(chan struct{})}
	go answers.write(chunks)
	index, err, before := 0, error(nil), make(chan struct{})
	close(before)
	for in := bufio.NewReaderSize(c.Request().Body, 64<<10); err == nil; {
		var lines [][]byte
		_ = control.SetReadDeadline(time.Now().Add(streamPause))
		if answers.gone.Load() { // asked behind the deadline, which whoever goes sets
			break
		}
		if lines, err = readChunk(in); len(lines) == 0 {
			continue
		}
		chunk := &importing{lines: lines, first: index, before: before, done: make(chan struct{})}
		go chunk.run(func() { s.importChunk(c, chunk) })
		chunks <- chunk
		index, before = index+len(lines), chunk.done
	}
	close(chunks)
	<-answers.done
	switch {
	case answers.panicked != nil:
		panic(answers.panicked)
	case answers.gone.Load() || errors.Is(err, io.EOF):
		return nil
	}
	_ = control.SetWriteDeadline(time.Now().Add(streamPause))
	return s.abort(c, index, err)
}

// chunksAtOnce is how many chunks of one import are being stored, or wait to be answered, while the next is read.
func chunksAtOnce() int { return min(4, max(2, runtime.GOMAXPROCS(0))) }

// importing is a chunk on its way.
type importing struct {
	answer
	lines    [][]byte
	first    int           // index of its first line
	before   chan struct{} // closed when the chunk before it is stored
	done     chan struct{}
	panicked *panicked
}

func (i *importing) run(store func()) {
	defer close(i.done)
	defer func() { i.panicked = caught(recover()) }()
	store()
}

// panicked is what went wrong in a goroutine of a request, which its handler panics with, and where.
type panicked struct {
	value any
	stack []byte
}

func caught(value any) *panicked {
	if value == nil {
		return nil
	}
	return &panicked{value, debug.Stack()}
}

// answering writes the outcomes of chunks in their order, as they are ready, until there are no more or the caller is gone.
type answering struct {
	c        echo.Context
	control  *http.ResponseController
	done     chan struct{}
	gone     atomic.Bool // no more is read
	panicked *panicked
}

func (w *answering) write(chunks <-chan *importing) {
	defer close(w.done)
	for chunk := range chunks {
		<-chunk.done
		if !w.gone.Load() && !w.send(chunk) {
			w.gone.Store(true)
			_ = w.control.SetReadDeadline(time.Now())
		}
	}
}

func (w *answering) send(chunk *importing) (sent bool) {
	defer func() {
		if p := caught(recover()); p != nil {
			w.panicked = p
		}
	}()
	if w.panicked = chunk.panicked; w.panicked != nil {
		return false
	}
	_ = w.control.SetWriteDeadline(time.Now().Add(streamPause))
	if _, err := w.c.Response().Write(chunk.b); err != nil {
		return false
	}
	return w.control.Flush() == nil
}

// abort ends a stream that can't be read on, with a last line that says why.
func (s *Server) abort(c echo.Context, index int, err error) error {
	e := &vault.Error{Kind: vault.Malformed, Detail: "the stream ended early, or stood still; lines from here on were not stored"}
	if errors.Is(err, errLineTooLong) {
		e = &vault.Error{Kind: payloadTooLarge, Detail: "a line has at most 1 MiB; lines from here on were not stored"}
	}
	a := answer{}
	a.line(index, vault.Tokenized{Err: e}, requestID(c))
	_, _ = c.Response().Write(a.b)
	return nil
}

// readChunk reads the lines that are there: at least one, unless the stream ends, then as many as need no waiting.
func readChunk(in *bufio.Reader) (lines [][]byte, err error) {
	size := 0
	for len(lines) < chunkLines && size < chunkBytes && (len(lines) == 0 || lineBuffered(in)) {
		line, err := readLine(in)
		if len(line) > 0 {
			lines = append(lines, line)
			size += len(line)
		}
		if err != nil {
			return lines, err
		}
	}
	return lines, nil
}

func lineBuffered(in *bufio.Reader) bool {
	ahead, _ := in.Peek(in.Buffered())
	return bytes.IndexByte(ahead, '\n') >= 0
}

// readLine reads one line without its end; blank lines come back empty.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, errLineTooLong
		}
		line = append(line, part...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		return bytes.TrimSpace(line), err
	}
}

// importChunk stores one chunk and writes a line for each of its lines.
func (s *Server) importChunk(c echo.Context, chunk *importing) {
	a, lines, first := &chunk.answer, chunk.lines, chunk.first
	a.b = make([]byte, 0, 200*len(lines))
	batch := vault.Batch{Collection: c.Param("collection")}
	faults := make([]error, len(lines))
	for i, line := range lines {
		var in newRecord
		if faults[i] = decode(line, &in); faults[i] == nil {
			batch.Items = append(batch.Items, in.record())
		}
	}
	var done []vault.Tokenized
	var failed error
	if len(batch.Items) > 0 {
		// Chunks that make tokens for the same values keep each other from being stored. One that has lost too often waits until it
		// is the first: then none comes any more but those behind it, each once.
		for range 1 + chunksAtOnce() {
			done, failed = s.vault.Tokenize(c.Request().Context(), caller(c), batch)
			if e := vault.AsError(failed); failed == nil || e.Kind != vault.Conflict || e.RetryAfter == 0 {
				break
			}
			<-chunk.before
		}
	} else {
		failed = s.vault.Refuse(c.Request().Context(), caller(c), method(c)+" "+route(c), false, httpError(faults[0]))
	}
	at := 0
	for i := range lines {
		switch {
		case faults[i] != nil:
			a.line(first+i, vault.Tokenized{Err: httpError(faults[i])}, requestID(c))
			continue
		case failed != nil:
			a.line(first+i, vault.Tokenized{Err: httpError(failed)}, requestID(c))
		default:
			a.line(first+i, relative(done[at]), requestID(c))
		}
		at++
	}
}

// relative makes the pointers of an item's faults point into its own line.
func relative(d vault.Tokenized) vault.Tokenized {
	if d.Err == nil {
		return d
	}
	e := *d.Err
	e.Fields = nil
	for _, f := range d.Err.Fields {
		_, rest, _ := bytes.Cut([]byte(f.Pointer[len("/items/"):]), []byte("/"))
		e.Fields = append(e.Fields, vault.FieldError{Pointer: "/" + string(rest), Rule: f.Rule})
	}
	d.Err = &e
	return d
}

// line writes the outcome of one line of a stream.
func (a *answer) line(index int, d vault.Tokenized, requestID string) {
	a.fresh = true
	a.element()
	a.number("index", index)
	a.tokenized(d, requestID)
	a.close('}')
	a.b = append(a.b, '\n')
}
