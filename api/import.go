package api

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"runtime"
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
	// Unknown or forbidden collections are refused before anything streams.
	if err := s.vault.CanTokenize(c.Request().Context(), caller(c), c.Param("collection")); err != nil {
		return err
	}
	control := http.NewResponseController(c.Response())
	_ = control.EnableFullDuplex() // HTTP/2 has it always
	c.Response().Header().Set(echo.HeaderContentType, ndjson)
	c.Response().WriteHeader(http.StatusOK)
	chunks := make(chan *importing, runtime.GOMAXPROCS(0)) // in order; more than one at once, so that no core waits for the database
	answers := answering{c: c, control: control, done: make(chan struct{})}
	go answers.write(chunks)
	index, err := 0, error(nil)
	for in := bufio.NewReaderSize(c.Request().Body, 64<<10); err == nil && !answers.gone.Load(); {
		var lines [][]byte
		_ = control.SetReadDeadline(time.Now().Add(streamPause))
		if lines, err = readChunk(in); len(lines) == 0 {
			continue
		}
		chunk := &importing{first: index, done: make(chan struct{})}
		go chunk.run(func() { s.importChunk(c, &chunk.answer, lines, chunk.first) })
		chunks <- chunk
		index += len(lines)
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

// importing is a chunk on its way.
type importing struct {
	answer
	first    int // index of its first line
	done     chan struct{}
	panicked any
}

func (i *importing) run(store func()) {
	defer close(i.done)
	defer func() { i.panicked = recover() }() // it is the request's, whose handler is another goroutine
	store()
}

// answering writes the outcomes of chunks in their order, as they are ready, until there are no more or the caller is gone.
type answering struct {
	c        echo.Context
	control  *http.ResponseController
	done     chan struct{}
	gone     atomic.Bool // no more is read
	panicked any
}

func (w *answering) write(chunks <-chan *importing) {
	defer close(w.done)
	for chunk := range chunks {
		<-chunk.done
		if chunk.panicked != nil {
			w.panicked = chunk.panicked
			w.gone.Store(true)
		}
		if w.gone.Load() {
			continue
		}
		_ = w.control.SetWriteDeadline(time.Now().Add(streamPause))
		_, err := w.c.Response().Write(chunk.b)
		if err == nil {
			err = w.control.Flush()
		}
		w.gone.Store(err != nil)
	}
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
func (s *Server) importChunk(c echo.Context, a *answer, lines [][]byte, first int) {
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
		done, failed = s.vault.Tokenize(c.Request().Context(), caller(c), batch)
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
