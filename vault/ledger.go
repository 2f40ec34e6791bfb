package vault

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/privault/privault/vault/durable"
)

// The ledger is a file outside the database that says what a restored database must be told again: erasures, those that a
// hold defers, holds, restrictions, objections, withdrawn consents, links of references (replay.go). Lines of JSON, each with the SHA-256 of the line before it,
// with ids and keyed digests and never a person's reference. A line is durable before its transaction commits, and when that
// is known to have happened, a later line says so: "done". So
//
//   - a line that is done and that a database doesn't have: the database was set back (fence.go);
//   - a line that isn't, nor applied after a while: whoever wrote it died before the commit, or was refused it. It is a wish of somebody who
//     was allowed to have it, and is carried out.
//
// Replicas share the file: they take turns by flock(2). Whole lines are never taken back, so that who has read one can rely
// on it; what a crash left of a last line is cut off by whoever writes next.
type ledger struct {
	path     string
	readOnly bool
	now      func() time.Time
	log      *slog.Logger
	writes   *group[[]*ledgerLine]

	mu     sync.Mutex
	file   *os.File
	header ledgerLine
	read   int64             // how far the file is read: the end of a line
	last   int64             // the last line that was read
	tip    [sha256.Size]byte // its hash
	hashes map[int64][sha256.Size]byte
	beyond map[int64]*pendingLine // lines behind settled
	broken error                  // what stands in the file may not be durable; it stays so until the server opens it anew
	// settled is the highest line up to which a database was ever seen to have everything.
	settled int64
}

// pendingLine is what memory keeps of a line.
type pendingLine struct {
	kind   lineKind
	tenant ID
	at     int64 // where it begins
	size   int
	seen   time.Time // when it was first read
	done   bool      // it is known to have been committed
	noted  bool      // and the ledger says so
	ours   bool      // this process committed it
}

// lineKind says what a line is about.
type lineKind string

const (
	ledgerBegins lineKind = "ledger" // the first line
	doneLine     lineKind = "done"
	erasureLine  lineKind = "erasure"
	deferralLine lineKind = "deferral"
	withdrawLine lineKind = "withdrawal" // of an erasure that was deferred
	holdLine     lineKind = "hold"
	releaseLine  lineKind = "release"
	factLine     lineKind = "fact"   // one that holds from then on
	factEndsLine lineKind = "unfact" // and no longer
	linkLine     lineKind = "link"   // two references are one person
)

// inKeystore says whether a line changes the keystore too.
func (k lineKind) inKeystore() bool { return k == erasureLine }

// takesEffect says whether a line is something that a database must have.
func (k lineKind) takesEffect() bool { return k != ledgerBegins && k != doneLine }

// ledgerLine is a line. Prev stands first, so that a chain can be followed by eye.
type ledgerLine struct {
	Prev   string    `json:"prev"` // SHA-256 of the line before without its end, base64url
	Seq    int64     `json:"seq"`
	At     time.Time `json:"at"`
	Kind   lineKind  `json:"kind"`
	Tenant *lineID   `json:"tenant,omitempty"`

	Deployment *lineID      `json:"deployment,omitempty"` // of the first line
	Ledger     *lineID      `json:"ledger,omitempty"`     // likewise: the ledger's own id
	After      *lostLedger  `json:"after,omitempty"`      // likewise: what it goes on from, because that is lost
	Done       []int64      `json:"done,omitempty"`
	Erasure    *lineErasure `json:"erasure,omitempty"`
	Hold       *lineHold    `json:"hold,omitempty"`
	Fact       *lineFact    `json:"fact,omitempty"`
	Link       *lineLink    `json:"link,omitempty"`
}

// lineID is an id as the database shows it.
type lineID = uuid.UUID

func idInLine(id ID) *lineID {
	u := uuid.UUID(id)
	return &u
}

// lostLedger is how far a ledger is known to have gone that is no more.
type lostLedger struct {
	Ledger lineID `json:"ledger"`
	Seq    int64  `json:"seq"`
}

// errLedgerLost is a ledger that isn't the one that the database knows.
var errLedgerLost = errors.New("the ledger that this database knows is lost")

func newLedger(path string, readOnly bool, now func() time.Time, log *slog.Logger) *ledger {
	l := &ledger{path: path, readOnly: readOnly, now: now, log: log,
		hashes: map[int64][sha256.Size]byte{}, beyond: map[int64]*pendingLine{}}
	// Who waits while one write is being made durable shares the next.
	l.writes = newGroup(1, 10_000, tripLimit, l.writeTogether)
	return l
}

// open opens the file and reads it to its end; false: there is none, or nothing in it. Lines up to settled are only held against the chain.
func (l *ledger) open(settled int64) (found bool, err error) {
	flags := os.O_RDWR | os.O_APPEND
	if l.readOnly {
		flags = os.O_RDONLY
	}
	l.file, err = os.OpenFile(l.path, flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("the ledger: %w", err)
	}
	l.settled = settled
	if err := l.refresh(); err != nil {
		return false, err
	}
	return l.read > 0, nil
}

// create begins a ledger. Who comes second finds it begun.
func (l *ledger) create(deployment ID, after *lostLedger) error {
	if l.readOnly {
		return fmt.Errorf("there is no ledger %s", l.path)
	}
	id, err := newID()
	if err != nil {
		return err
	}
	if l.file, err = os.OpenFile(l.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600); err != nil {
		return fmt.Errorf("the ledger: %w", err)
	}
	first := &ledgerLine{Kind: ledgerBegins, Deployment: idInLine(deployment), Ledger: idInLine(id), After: after}
	begun := errors.New("begun")
	err = l.append([]*ledgerLine{first}, func() error {
		if l.read > 0 {
			return begun
		}
		if after != nil {
			l.last = after.Seq
		}
		return nil
	})
	if err != nil && !errors.Is(err, begun) {
		return err
	}
	return durable.SyncFolder(l.path)
}

// setAside closes and renames a file that can't be gone on with.
func (l *ledger) setAside() error {
	l.close()
	to := l.path + ".lost-" + l.now().UTC().Format("20060102T150405Z")
	l.log.Warn("the ledger is not the one that the database knows; it is set aside", "file", to)
	if err := os.Rename(l.path, to); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (l *ledger) close() {
	if l == nil {
		return
	}
	l.writes.close()
	if l.file != nil {
		_ = l.file.Close()
	}
}

// write makes lines durable; they have their numbers then. Whatever the error, they may stand in the file.
func (l *ledger) write(ctx context.Context, lines []*ledgerLine) error {
	if l.readOnly {
		return errors.New("this ledger is only read")
	}
	return l.writes.ride(ctx, lines, len(lines))
}

func (l *ledger) writeTogether(_ context.Context, rs []rider[[]*ledgerLine]) {
	var lines []*ledgerLine
	for _, r := range rs {
		lines = append(lines, r.cargo...)
	}
	err := l.append(lines, nil)
	for _, r := range rs {
		r.settle(err)
	}
}

// append numbers, chains and writes lines behind what all replicas have written, and makes them durable. prepare may refuse.
func (l *ledger) append(lines []*ledgerLine, prepare func() error) error {
	if err := l.place(lines, prepare); err != nil {
		return err
	}
	// Without the lock: it makes durable whatever stands in the file, by whomever.
	return l.synced(l.file.Sync())
}

// synced notes how making the file durable went. Once it has failed, a later success would say nothing about what failed: the kernel
// may have dropped it.
func (l *ledger) synced(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && l.broken == nil {
		l.broken = fmt.Errorf("the ledger could not be made durable, and is not written any more; check its disk, then restart the server: %w", err)
	}
	return l.broken
}

func (l *ledger) place(lines []*ledgerLine, prepare func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return l.broken
	}
	if err := syscall.Flock(int(l.file.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("the ledger: %w", err)
	}
	defer func() { _ = syscall.Flock(int(l.file.Fd()), syscall.LOCK_UN) }() // it can't fail on an open file
	if err := l.mend(); err != nil {
		return err
	}
	if prepare != nil {
		if err := prepare(); err != nil {
			return err
		}
	}
	var text bytes.Buffer
	raws := make([][]byte, len(lines))
	tip, seq := l.tip, l.last
	for i, line := range lines {
		seq++
		line.Seq, line.Prev, line.At = seq, base64.RawURLEncoding.EncodeToString(tip[:]), l.now().UTC().Truncate(time.Microsecond)
		raw, err := json.Marshal(line)
		if err != nil {
			return err
		}
		tip, raws[i] = sha256.Sum256(raw), raw
		text.Write(raw)
		text.WriteByte('\n')
	}
	_, err := l.file.Write(text.Bytes())
	if err != nil {
		// Of what arrived, whole lines stay: another replica may have read them.
		return errors.Join(fmt.Errorf("the ledger: %w", err), l.mend())
	}
	if written, err := l.file.Stat(); err != nil || written.Size() != l.read+int64(text.Len()) {
		return errors.Join(err, l.catchUp()) // somebody wrote without the lock
	}
	for i, line := range lines { // a line of many records takes milliseconds to read
		if err := l.follow(*line, raws[i]); err != nil {
			return err
		}
	}
	return nil
}

// mend reads what others have written, and cuts off the piece of a line that a crash has left. It is called with the lock on the file, so nobody is writing.
func (l *ledger) mend() error {
	opened, err := l.file.Stat()
	if err != nil {
		return fmt.Errorf("the ledger: %w", err)
	}
	named, err := os.Stat(l.path)
	if err != nil || !os.SameFile(opened, named) {
		return fmt.Errorf("the ledger %s was moved or replaced: %w", l.path, errLedgerLost)
	}
	if err := l.catchUp(); err != nil {
		return err
	}
	if opened, err = l.file.Stat(); err != nil || opened.Size() == l.read {
		return err
	}
	l.log.Warn("the ledger ended in the middle of a line, which a crash had left; it is cut off", "bytes", opened.Size()-l.read)
	return l.file.Truncate(l.read)
}

// refresh reads what has been written since.
func (l *ledger) refresh() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.catchUp()
}

// catchUp is refresh under the lock of memory. It stops at the end of the last whole line: behind it somebody may be writing.
func (l *ledger) catchUp() error {
	info, err := l.file.Stat()
	if err != nil {
		return fmt.Errorf("the ledger: %w", err)
	}
	if info.Size() < l.read {
		return fmt.Errorf("the ledger is shorter than it was: %w", errLedgerLost)
	}
	if info.Size() == l.read {
		return nil
	}
	in := bufio.NewReaderSize(io.NewSectionReader(l.file, l.read, info.Size()-l.read), 1<<16)
	for {
		text, err := in.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("the ledger: %w", err)
		}
		// A file system may leave zeros where a crash kept it from writing, at the end: mend cuts them off. Elsewhere they are damage.
		whole := err == nil
		if zeros := bytes.IndexByte(text, 0); zeros >= 0 && len(bytes.Trim(text[zeros:], "\x00")) > 0 {
			err = errors.New("there are zeros in the middle")
		} else if whole {
			err = l.take(text[:len(text)-1])
		} else {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the ledger %s is damaged behind line %d: %w; what stands there was changed by somebody else, so it is not gone on with", l.path, l.last, err)
		}
	}
}

// take reads the next line.
func (l *ledger) take(raw []byte) error {
	var line ledgerLine
	if err := json.Unmarshal(raw, &line); err != nil {
		return errors.New("the next line is not one of a ledger")
	}
	return l.follow(line, raw)
}

// follow is take of a line whose text is known.
func (l *ledger) follow(line ledgerLine, raw []byte) error {
	if l.read == 0 {
		if line.Kind != ledgerBegins || line.Deployment == nil || line.Ledger == nil {
			return errors.New("it does not begin like one")
		}
		l.header, l.last = line, line.Seq-1
	}
	if line.Seq != l.last+1 || line.Prev != base64.RawURLEncoding.EncodeToString(l.tip[:]) {
		return errors.New("the next line does not follow it")
	}
	hash := sha256.Sum256(raw)
	if line.Seq >= l.settled {
		l.hashes[line.Seq] = hash
	}
	if line.Seq > l.settled && line.Kind.takesEffect() {
		p := &pendingLine{kind: line.Kind, at: l.read, size: len(raw), seen: l.now()}
		if line.Tenant != nil {
			p.tenant = ID(*line.Tenant)
		}
		l.beyond[line.Seq] = p
	}
	for _, seq := range line.Done {
		if p := l.beyond[seq]; p != nil {
			p.done, p.noted = true, true
		}
	}
	l.last, l.tip, l.read = line.Seq, hash, l.read+int64(len(raw))+1
	return nil
}

// committed notes that transactions of this process are durable. That they are is written down by the next look (fence.go).
func (l *ledger) committed(lines []*ledgerLine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range lines {
		if p := l.beyond[line.Seq]; p != nil {
			p.done, p.ours = true, true
		}
	}
}

// forget lets go of lines that every database has.
func (l *ledger) forget(settled int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for seq := range l.beyond {
		if seq <= settled {
			delete(l.beyond, seq)
		}
	}
	for seq := range l.hashes {
		if seq < settled {
			delete(l.hashes, seq)
		}
	}
	l.settled = max(l.settled, settled)
}

// line reads a line again, whole.
func (l *ledger) line(p pendingLine) (line ledgerLine, err error) {
	raw := make([]byte, p.size)
	if _, err := l.file.ReadAt(raw, p.at); err != nil {
		return line, fmt.Errorf("the ledger: %w", err)
	}
	return line, json.Unmarshal(raw, &line)
}
