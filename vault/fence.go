package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/privault/privault/vault/policy"
)

// The fence keeps a server from serving databases that were set back. Each database says how far the ledger is applied to it,
// in the transactions that apply it. A server compares the two when it opens, each time it gets a new connection, and
// every LedgerEvery: a database can't be put in another's place without its connections ending, but for a restore into the
// tables of a living one, which the last look finds.

// LedgerEvery is how often a running server looks whether its databases are still those that the ledger was applied to.
const LedgerEvery = time.Second

const (
	// Longer than any transaction lives: who wrote a line this long ago and hasn't committed never will.
	intentAge = 60 * time.Second
	// Whoever committed a line says so within a second; who died in between is spoken for by others.
	noteAge = 10 * time.Second
)

// fence is what a vault knows of it.
type fence struct {
	up      atomic.Pointer[Error] // nil: it is down
	guards  atomic.Bool           // new connections are looked at
	opened  atomic.Bool           // it was down: what this process has in memory is of the databases as they were then
	lacking atomic.Bool           // the databases know a ledger, and this vault has none
}

// applied is how far one database has the ledger.
type applied struct {
	schema string // privault, or keystore
	ledger *ID    // nil: it knows none
	seq    int64
	hash   []byte
	more   map[int64]bool // beyond seq
}

func (a *applied) has(seq int64) bool { return seq <= a.seq || a.more[seq] }

// highest is the last line that the database knows of.
func (a *applied) highest() int64 {
	high := a.seq
	for seq := range a.more {
		high = max(high, seq)
	}
	return high
}

func (a *applied) name() string {
	if a.schema == "keystore" {
		return "the keystore"
	}
	return "the data database"
}

const (
	dataSchema = "privault"
	keysSchema = "keystore"
)

// readApplied asks a database, in one round trip.
func readApplied(ctx context.Context, c *pgx.Conn, schemas ...string) ([]*applied, error) {
	all := make([]*applied, len(schemas))
	b := &pgx.Batch{}
	b.Queue(setTenant, tenantSetting(deploymentTenant))
	for i, schema := range schemas {
		a := &applied{schema: schema, more: map[int64]bool{}}
		all[i] = a
		b.Queue(`
			select l.ledger_id, l.seq, l.hash, coalesce((select array_agg(a.seq) from ` + schema + `.ledger_applied a where a.seq > l.seq), '{}')
			from ` + schema + `.ledger l`).QueryRow(func(row pgx.Row) error {
			var more []int64
			err := row.Scan(&a.ledger, &a.seq, &a.hash, &more)
			for _, seq := range more {
				a.more[seq] = true
			}
			if errors.Is(err, pgx.ErrNoRows) {
				return nil
			}
			return err
		})
	}
	return all, c.SendBatch(ctx, b).Close()
}

// appliedIn asks both databases.
func (v *Vault) appliedIn(ctx context.Context) (all []*applied, err error) {
	ask := func(d database, schemas ...string) error {
		return d.pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
			some, err := readApplied(ctx, c.Conn(), schemas...)
			all = append(all, some...)
			return err
		})
	}
	if !v.store.apart {
		return all, ask(v.store.data, dataSchema, keysSchema)
	}
	if err := ask(v.store.data, dataSchema); err != nil {
		return nil, err
	}
	return all, ask(v.store.keys, keysSchema)
}

// openLedger opens the ledger and holds the databases against it, before anything is served. What isn't the ledger that the
// databases know ends the start, unless the operator says that it is lost.
func (v *Vault) openLedger(ctx context.Context, c Config) error {
	all, err := v.appliedIn(ctx)
	if err != nil {
		return err
	}
	known := (*applied)(nil)
	settled := int64(1<<63 - 1)
	for _, a := range all {
		settled = min(settled, a.seq)
		if a.ledger != nil && (known == nil || a.highest() > known.highest()) {
			known = a
		}
	}
	if c.Ledger == "" {
		v.fence.lacking.Store(known != nil)
		return nil
	}
	v.ledger = newLedger(c.Ledger, c.Restoring, v.now, v.log)
	found, err := v.ledger.open(settled)
	if err != nil {
		return err
	}
	if found {
		err = v.fits(all)
	} else if known != nil {
		err = fmt.Errorf("%w: there is no ledger %s, and %s has one applied up to line %d", errLedgerLost, c.Ledger, known.name(), known.highest())
	}
	if errors.Is(err, errLedgerLost) && c.LostLedger {
		if err = v.goOnWithout(known, found); err == nil {
			found = true
		}
	}
	if err != nil {
		return err
	}
	if !found {
		if err := v.ledger.create(v.deployment, nil); err != nil {
			return err
		}
	}
	if c.Restoring {
		return nil
	}
	return v.openFence(ctx, all)
}

// fits says whether the ledger is the one that the databases know, and goes as far as they do.
func (v *Vault) fits(all []*applied) error {
	l := v.ledger
	if ID(*l.header.Deployment) != v.deployment {
		return fmt.Errorf("the ledger %s is another deployment's (%s)", l.path, l.header.Deployment)
	}
	for _, a := range all {
		hash := l.hashes[a.seq]
		switch {
		case a.ledger == nil:
		case *a.ledger != ID(*l.header.Ledger):
			return fmt.Errorf("%w: %s has applied another one (%s) than %s", errLedgerLost, a.name(), uuid.UUID(*a.ledger), l.path)
		case a.highest() > l.last:
			return fmt.Errorf("%w: %s ends with line %d, and %s has it applied up to line %d: the file was set back", errLedgerLost, l.path, l.last, a.name(), a.highest())
		case !bytes.Equal(hash[:], a.hash):
			return fmt.Errorf("%w: %s has another line %d than the one that %s has applied", errLedgerLost, l.path, a.seq, a.name())
		}
	}
	return nil
}

// goOnWithout begins a new ledger where the lost one is known to have ended, unless that was done and only a database is from before.
func (v *Vault) goOnWithout(known *applied, found bool) error {
	l := v.ledger
	if after := l.header.After; found && after != nil && ID(after.Ledger) == *known.ledger {
		return nil
	}
	if found && l.readOnly {
		return fmt.Errorf("%w: %s is not the one that goes on from it", errLedgerLost, l.path)
	}
	if found {
		if err := l.setAside(); err != nil {
			return err
		}
		l = newLedger(l.path, l.readOnly, l.now, l.log)
		v.ledger = l
	}
	return l.create(v.deployment, &lostLedger{Ledger: uuid.UUID(*known.ledger), Seq: known.highest()})
}

// openFence raises the fence where a database is behind, and otherwise finishes what was begun.
func (v *Vault) openFence(ctx context.Context, all []*applied) error {
	k := v.ledger.knows()
	for _, a := range all {
		v.ledger.normalise(a)
	}
	if behind := v.ledger.judge(k, all); behind != nil {
		v.raiseFence(ctx, behind)
		return nil
	}
	for _, a := range all {
		if err := v.writeApplied(ctx, a.schema, v.ledger.header.Seq); err != nil {
			return err
		}
	}
	if err := v.finishIntents(ctx, k, all, 0); err != nil {
		v.log.ErrorContext(ctx, "finish what was begun before the last stop", "error", err)
		v.raiseFence(ctx, fail(RestoreFence, "an erasure, hold or restriction that was begun before the last stop can't be finished yet"))
		return nil // WatchLedger tries again
	}
	v.lowerFence()
	return nil
}

// normalise lets a database that knows no ledger, or one that is lost, stand at the beginning of this one.
func (l *ledger) normalise(a *applied) {
	if a.ledger == nil || *a.ledger != ID(*l.header.Ledger) {
		a.ledger, a.seq, a.more = (*ID)(l.header.Ledger), l.header.Seq, map[int64]bool{}
	}
}

// knowledge is what is known of the ledger at one moment: what a database that is asked afterwards must have.
type knowledge struct {
	settled, last int64
	done          []int64 // beyond settled
	pending       map[int64]pendingLine
}

func (l *ledger) knows() *knowledge {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := &knowledge{settled: l.settled, last: l.last, pending: make(map[int64]pendingLine, len(l.beyond))}
	for seq, p := range l.beyond {
		k.pending[seq] = *p
		if p.done {
			k.done = append(k.done, seq)
		}
	}
	slices.Sort(k.done)
	return k
}

// in says whether the data database and the keystore have a line.
func (p pendingLine) in(seq int64, all []*applied) bool {
	return all[0].has(seq) && (!p.kind.inKeystore() || all[1].has(seq))
}

// missing are the lines that were committed and that a database doesn't have.
func (k *knowledge) missing(a *applied) (all []int64) {
	for _, seq := range k.done {
		if !a.has(seq) && (a.schema != keysSchema || k.pending[seq].kind.inKeystore()) {
			all = append(all, seq)
		}
	}
	return all
}

// judge says what is wrong with databases that were asked after k was known; nil: nothing.
func (l *ledger) judge(k *knowledge, all []*applied) *Error {
	for _, a := range all {
		if a.ledger != nil && *a.ledger != ID(*l.header.Ledger) {
			return fail(RestoreFence, "%s has applied another ledger than this server's", a.name())
		}
		if n := len(k.missing(a)); n > 0 || a.seq < k.settled {
			return fail(RestoreFence, "%s is older than the ledger of erasures, holds and restrictions: privault restore replay brings it up to date", a.name())
		}
	}
	// The file may have grown since, and is never behind a database.
	if err := l.refresh(); err != nil {
		return &Error{Kind: RestoreFence, Detail: "the ledger of erasures, holds and restrictions can't be relied on", cause: err}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range all {
		if a.highest() > l.last {
			return &Error{Kind: RestoreFence, Detail: "the ledger of erasures, holds and restrictions is shorter than " + a.name() + " knows it", cause: errLedgerLost}
		}
	}
	return nil
}

// raiseFence puts the fence up. Once this process has served, it stays up until a restart: what was cached is of another state.
func (v *Vault) raiseFence(ctx context.Context, why *Error) {
	why.RetryAfter = time.Minute
	if v.fence.opened.Load() {
		why.Detail += "; restart the server afterwards"
	}
	if was := v.fence.up.Swap(why); was == nil || was.Detail != why.Detail {
		v.log.ErrorContext(ctx, "nothing is served", "problem", string(why.Kind), "error", why)
	}
	v.metrics.fenced.Set(1)
}

func (v *Vault) lowerFence() {
	v.fence.opened.Store(true)
	v.fence.up.Store(nil)
	v.metrics.fenced.Set(0)
}

// Fenced says why nothing may be served; nil: it may.
func (v *Vault) Fenced() error {
	if up := v.fence.up.Load(); up != nil {
		return up
	}
	return nil
}

// inspect looks at a connection before it is used for the first time.
func (v *Vault) inspect(ctx context.Context, c *pgx.Conn, schemas ...string) error {
	if !v.fence.guards.Load() {
		return nil
	}
	if err := v.ledger.refresh(); err != nil {
		v.log.ErrorContext(ctx, "read the ledger", "error", err) // WatchLedger judges it
	}
	k := v.ledger.knows()
	all, err := readApplied(ctx, c, schemas...)
	if err != nil {
		return err
	}
	return v.compareLedger(ctx, k, all)
}

// compareLedger raises the fence if databases that were asked after k was known are behind.
func (v *Vault) compareLedger(ctx context.Context, k *knowledge, all []*applied) error {
	for _, a := range all {
		if a.ledger == nil {
			v.ledger.normalise(a)
		}
	}
	if behind := v.ledger.judge(k, all); behind != nil {
		v.raiseFence(ctx, behind)
		return behind
	}
	return nil
}

// WatchLedger compares databases and ledger, raises and lowers the fence, notes in the ledger what has been committed, and finishes
// what somebody began who died.
func (v *Vault) WatchLedger(ctx context.Context) error {
	if v.ledger == nil {
		all, err := v.appliedIn(ctx)
		if err == nil {
			v.fence.lacking.Store(slices.ContainsFunc(all, func(a *applied) bool { return a.ledger != nil }))
		}
		return err
	}
	if err := v.ledger.refresh(); errors.Is(err, errLedgerLost) {
		v.raiseFence(ctx, &Error{Kind: RestoreFence, Detail: "the ledger of erasures, holds and restrictions is not the one that it was", cause: err})
		return err
	} else if err != nil {
		return err
	}
	k := v.ledger.knows()
	all, err := v.appliedIn(ctx)
	if err != nil {
		return err // of a new connection, which has raised the fence, too
	}
	if err := v.compareLedger(ctx, k, all); err != nil {
		return err
	}
	age := intentAge
	if !v.fence.opened.Load() {
		age = 0
	}
	unfinished := v.finishIntents(ctx, k, all, age)
	if unfinished == nil && !v.fence.opened.Load() {
		v.lowerFence()
	}
	// Whatever can't be finished: a backup that lacks the others must be missed.
	if err := v.noteDone(ctx, k, all); err != nil {
		return errors.Join(unfinished, err)
	}
	return errors.Join(unfinished, v.settle(ctx, k, all, dataSchema, keysSchema))
}

// finishIntents carries out what was written and never committed, if nobody can be at it any more. A line that can't be carried out
// doesn't keep the others.
func (v *Vault) finishIntents(ctx context.Context, k *knowledge, all []*applied, age time.Duration) error {
	var failed []error
	for _, seq := range slices.Sorted(maps.Keys(k.pending)) {
		p := k.pending[seq]
		if p.done || p.in(seq, all) || p.seen.After(v.now().Add(-age)) {
			continue
		}
		if err := v.reapply(ctx, seq, p, v.finishLine); err != nil {
			failed = append(failed, lineFailed(seq, err))
			if hopeless(ctx, err) {
				break
			}
			continue
		}
		v.ledger.committed([]*ledgerLine{{Seq: seq}})
	}
	return errors.Join(failed...)
}

func lineFailed(seq int64, err error) error { return fmt.Errorf("line %d of the ledger: %w", seq, err) }

// hopeless says of an error of one line that the next would get it too.
func hopeless(ctx context.Context, err error) bool {
	return ctx.Err() != nil || AsError(err).Kind == DatabaseUnavailable && !deadlocked(err)
}

// noteDone writes down which lines are known to be committed.
func (v *Vault) noteDone(ctx context.Context, k *knowledge, all []*applied) error {
	note := &ledgerLine{Kind: doneLine}
	old := v.now().Add(-noteAge)
	for _, seq := range slices.Sorted(maps.Keys(k.pending)) {
		p := k.pending[seq]
		if (p.done || p.in(seq, all)) && !p.noted && (p.ours || p.seen.Before(old)) {
			note.Done = append(note.Done, seq)
		}
	}
	if len(note.Done) == 0 {
		return nil
	}
	return v.ledger.write(ctx, []*ledgerLine{note})
}

// settle moves up what these databases say they have without gaps, as far as the ledger says that it is done.
func (v *Vault) settle(ctx context.Context, k *knowledge, all []*applied, schemas ...string) error {
	to := k.last
	for seq, p := range k.pending {
		if !p.in(seq, all) || !p.noted { // what isn't noted would not be missed in a database that is set back behind it
			to = min(to, seq-1)
		}
	}
	if to <= k.settled {
		return nil
	}
	for _, a := range all {
		if a.seq >= to || len(a.more) == 0 && to-a.seq < 1000 || !slices.Contains(schemas, a.schema) { // an idle database is not written to
			continue
		}
		if err := v.writeApplied(ctx, a.schema, to); err != nil {
			return err
		}
		a.seq = to
	}
	v.ledger.forget(min(all[0].seq, all[1].seq))
	return nil
}

// writeApplied says in a database that it has the ledger up to a line.
func (v *Vault) writeApplied(ctx context.Context, schema string, seq int64) error {
	d := v.store.data
	if schema == keysSchema {
		d = v.store.keys
	}
	v.ledger.mu.Lock()
	hash, have := v.ledger.hashes[seq]
	v.ledger.mu.Unlock()
	if !have {
		return nil // somebody has gone further meanwhile
	}
	b := &pgx.Batch{}
	b.Queue(`
		insert into `+schema+`.ledger as l (ledger_id, seq, hash) values ($1, $2, $3)
		on conflict (one) do update set ledger_id = excluded.ledger_id, seq = excluded.seq, hash = excluded.hash
			where l.ledger_id <> excluded.ledger_id or l.seq < excluded.seq`, ID(*v.ledger.header.Ledger), seq, hash[:])
	b.Queue(`delete from `+schema+`.ledger_applied where seq <= $1`, seq)
	return d.pipeline(ctx, deploymentTenant, b)
}

// writeAhead puts what a transaction is about to commit into the ledger, and what it has put there into the transaction. It
// comes last: nothing but the commit itself can fail after it.
func (v *Vault) writeAhead(ctx context.Context, t *txn) error {
	if len(t.lines) == 0 || v.ledger == nil && !v.fence.lacking.Load() {
		return nil
	}
	if v.ledger == nil {
		return &Error{Kind: AuditUnavailable, Detail: "this database has a ledger of erasures, holds and restrictions, and this server doesn't write it"}
	}
	if err := v.ledger.write(ctx, t.lines); err != nil {
		return &Error{Kind: AuditUnavailable, Detail: "the ledger of erasures, holds and restrictions can't be written", cause: err}
	}
	for _, line := range t.lines {
		if _, _, err := t.markApplied(ctx, line.Seq, true, line.Kind.inKeystore()); err != nil {
			return err
		}
	}
	return nil
}

// markApplied says in the databases that they have a line from this transaction on; false: they had it before.
func (t *txn) markApplied(ctx context.Context, seq int64, inData, inKeys bool) (data, keys bool, err error) {
	if inData {
		done, err := t.data.Exec(ctx, `insert into privault.ledger_applied (tenant_id, seq) values ($1, $2) on conflict do nothing`, t.who.Tenant, seq)
		if data = done.RowsAffected() > 0; err != nil {
			return false, false, err
		}
	}
	if inKeys {
		done, err := t.keys.Exec(ctx, `insert into keystore.ledger_applied (tenant_id, seq) values ($1, $2) on conflict do nothing`, t.who.Tenant, seq)
		if keys = done.RowsAffected() > 0; err != nil {
			return false, false, err
		}
	}
	return data, keys, nil
}

// enter notes what the ledger is to say of a transaction.
func (t *txn) enter(line *ledgerLine) {
	line.Tenant = idInLine(t.who.Tenant)
	t.lines = append(t.lines, line)
}

// reapply does what a line says in a transaction of its own.
func (v *Vault) reapply(ctx context.Context, seq int64, p pendingLine, do func(ctx context.Context, t *txn, line *ledgerLine) error) error {
	line, err := v.ledger.line(p)
	if err == nil && line.Seq != seq {
		err = errors.New("the ledger was changed")
	}
	if err != nil {
		return err
	}
	return v.within(ctx, Caller{Tenant: p.tenant}, policy.Replay, func(t *txn) error {
		t.operator()
		return do(ctx, t, &line)
	})
}
