package main

import (
	"bufio"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

// bufferedLog gathers log lines and writes them a few times a second: a system call for each request's line cost 6 % of
// a small request. A process that is killed loses the last moments of its log; evidence is in the audit entries.
type bufferedLog struct {
	mu   sync.Mutex
	to   io.Writer
	w    *bufio.Writer
	stop chan struct{}
	done chan struct{}
}

const logFlush = 200 * time.Millisecond

// newLog gives a JSON logger to w, and what ends it.
func newLog(w io.Writer) (*slog.Logger, func()) {
	l := &bufferedLog{to: w, w: bufio.NewWriterSize(w, 64<<10), stop: make(chan struct{}), done: make(chan struct{})}
	go l.flush()
	return slog.New(slog.NewJSONHandler(l, nil)), func() {
		close(l.stop)
		<-l.done
	}
}

func (l *bufferedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.w.Write(p)
	if err != nil {
		l.w.Reset(l.to) // else one full disk would end the log for good
	}
	return n, err
}

func (l *bufferedLog) flush() {
	defer close(l.done)
	tick := time.NewTicker(logFlush)
	defer tick.Stop()
	for open := true; open; {
		select {
		case <-tick.C:
		case <-l.stop:
			open = false
		}
		l.mu.Lock()
		if l.w.Flush() != nil {
			l.w.Reset(l.to) // there is nowhere left to say that the log can't be written; the next lines may be luckier
		}
		l.mu.Unlock()
	}
}

// relaxGC lets the heap grow to five times what is live before it is collected, unless the operator has said otherwise:
// the live heap is a few tens of MiB, and collecting it twice as often costs a tenth of the throughput.
func relaxGC() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
}
