package vault

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/datatype"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/seal"
)

// Doors for the tests in package vault_test. They look, or hand the group commit what no operation would.

// Crowd says how many changes of a tenant wait for a trip, and how many trips are in flight.
func (v *Vault) Crowd(tenant ID) (waiting, flying int) {
	g := v.groupsOf(tenant).writes
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting), g.flying
}

// Stopping says whether the tenant's group commit takes no more changes.
func (v *Vault) Stopping(tenant ID) bool {
	g := v.groupsOf(tenant).writes
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

// LightLanes is how many trips of small changes are in flight at most.
func LightLanes() int {
	light, _ := lanes()
	return light
}

// Acquires counts how often a connection was taken from a pool.
func (v *Vault) Acquires() int64 {
	n := v.store.data.pool.Stat().AcquireCount()
	if v.store.apart {
		n += v.store.keys.pool.Stat().AcquireCount()
	}
	return n
}

// InUse is how many connections are out of the pools.
func (v *Vault) InUse() int {
	n := v.store.data.pool.Stat().AcquiredConns()
	if v.store.apart {
		n += v.store.keys.pool.Stat().AcquiredConns()
	}
	return int(n)
}

// Raw is a change of one record as no operation makes it.
type Raw struct {
	Collection string
	Record     ID
	Sealed     []byte
	Wrapped    []byte
	Action     policy.Action
}

// CommitRaw hands a change to the group commit.
func (v *Vault) CommitRaw(ctx context.Context, who Caller, r Raw) error {
	e, err := v.open(who, r.Action)
	if err != nil {
		return err
	}
	coll, err := v.collectionNamed(ctx, who.Tenant, r.Collection, false)
	if err != nil {
		return err
	}
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return err
	}
	return v.commit(ctx, &change{entry: e, schema: schemaRef{coll.id, coll.Version, keys.generation},
		records: []newRecord{{id: r.Record, collection: coll.id, sealed: r.Sealed, wrapped: r.Wrapped}}})
}

// RecordID reads the text of a record's id.
func RecordID(text string) ID {
	id, _ := parseID(recordPrefix, text)
	return id
}

// TokenAt gives the token of any pointer, as the tenant's own key makes it.
func (v *Vault) TokenAt(ctx context.Context, tenant, record ID, field, epoch uint16) (string, error) {
	keys, err := v.keyring.of(ctx, tenant)
	if err != nil {
		return "", err
	}
	return keys.tokenOf(pointer{record, field, epoch}), nil
}

// NewAPIKey makes a well-formed key that nobody issued.
func NewAPIKey() string { return newAPIKey() }

// AddJobKind adds a kind of job whose step counts up from where the batch before has left off.
func (v *Vault) AddJobKind(name string, total int64, step func(ctx context.Context, at *int) (done int, more bool, err error)) {
	v.jobs.kinds[name] = jobKind{
		count: func(context.Context, *batch) (int64, error) { return total, nil },
		step: func(ctx context.Context, b *batch) (int, bool, error) {
			var params string
			if err := b.read(&params); err != nil || params == "" {
				return 0, false, errors.Join(errors.New("no parameters"), err)
			}
			at := 0
			if err := b.resume(&at); err != nil {
				return 0, false, err
			}
			done, more, err := step(ctx, &at)
			if err == nil {
				err = b.leave(at)
			}
			return done, more, err
		},
	}
}

// Enqueue makes a job in an operation that fails behind it if spoil does.
func (v *Vault) Enqueue(ctx context.Context, who Caller, kind, params string, spoil error) (id string, err error) {
	err = v.within(ctx, who, policy.ReadJobs, func(t *txn) error {
		if err := t.entry.require(policy.ReadJobs); err != nil {
			return err
		}
		if id, err = t.enqueue(ctx, kind, params); err != nil {
			return err
		}
		return spoil
	})
	return id, err
}

// SweepJobs does what is done daily.
func (v *Vault) SweepJobs(ctx context.Context) error { return v.sweepJobs(ctx) }

// RotateDue does what is done periodically.
func (v *Vault) RotateDue(ctx context.Context) error { return v.rotateDue(ctx) }

// DeleteBehind runs a statement as the service's role, in a transaction of the tenant's, as an operation that forgot the gate.
func (v *Vault) DeleteBehind(tenant ID, statement string) error {
	ctx := context.Background()
	return v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, statement, tenant)
		return err
	})
}

// SweepOrphans does what is done daily.
func (v *Vault) SweepOrphans(ctx context.Context) error { return v.sweepOrphans(ctx) }

// LawLife is how long a tenant's law is used at most.
const LawLife = lawLife

// Normalised is a value of a type as it is matched.
func Normalised(typ, value string) string {
	known, _ := datatype.Lookup(typ)
	return string(known.Normalise([]byte(value)))
}

// Signatures is the header that a message is signed with.
func Signatures(secrets [][]byte, id string, at time.Time, body string) string {
	return signatures(secrets, id, at, body)
}

// DeliverDue sends what every webhook of a tenant has due, as the queue would have it done.
func (v *Vault) DeliverDue(ctx context.Context, tenant ID) error {
	var ids []ID
	err := v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
		var id ID
		return each(ctx, tx, []any{&id}, func() error {
			ids = append(ids, id)
			return nil
		}, `select webhook_id from privault.webhooks where tenant_id = $1 order by name`, tenant)
	})
	for _, id := range ids {
		if err == nil {
			_, err = v.deliver(ctx, tenant, id, func() bool { return true })
		}
	}
	return err
}

// WakeWebhooks does what is done every two minutes, and SweepDeliveries what is done hourly.
func (v *Vault) WakeWebhooks(ctx context.Context) error { return v.wakeWebhooks(ctx) }

// SweepDeliveries deletes what ended long ago.
func (v *Vault) SweepDeliveries(ctx context.Context) error { return v.sweepDeliveries(ctx) }

// OpenWithEveryKey tries each key of the tenant's keystore on each box of a sealed record, in every place that it may have been, and
// says how many opened. Records that are there tell the places.
func (v *Vault) OpenWithEveryKey(ctx context.Context, tenant ID, sealed string) (opened int) {
	raw, err := hex.DecodeString(sealed)
	if err != nil {
		return -1
	}
	boxes, err := seal.Unpack(raw)
	if err != nil {
		return -1
	}
	keys, err := v.keyring.of(ctx, tenant)
	if err != nil {
		return -1
	}
	colls := map[ID]bool{}
	err = v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
		all, err := collectionsOf(ctx, tx, tenant)
		for _, c := range all {
			colls[c.id] = true
		}
		return err
	})
	if err != nil {
		return -1
	}
	err = v.store.keys.within(ctx, tenant, func(tx pgx.Tx) error {
		var id ID
		var version int32
		var wrapped []byte
		return each(ctx, tx, []any{&id, &version, &wrapped}, func() error {
			key, err := keys.openDEK(id, version, wrapped)
			if err != nil {
				return err
			}
			for _, box := range boxes {
				for c := range colls {
					if _, err := key.Open(box.Sealed, keys.place(c, id, version, box.Field)); err == nil {
						opened++
					}
				}
			}
			return nil
		}, `select record_id, version, wrapped from keystore.data_keys where tenant_id = $1`, tenant)
	})
	if err != nil {
		return -1
	}
	return opened
}

// WorkAll works the unfinished jobs of a tenant, whatever the queue says of when.
func (v *Vault) WorkAll(ctx context.Context, tenant ID) error {
	for {
		var job ID
		err := v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, `select job_id from privault.jobs where tenant_id = $1 and finished_at is null limit 1`, tenant).Scan(&job)
		})
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err == nil {
			_, _, err = v.runBatch(ctx, tenant, job)
		}
		if err != nil {
			return err
		}
	}
}

// Package writes a person's package to out. Whoever is not known, or not any more, gets one that says that nothing is held. With an
// error, what was written is no package: it doesn't open as an archive, and verifies with no key.
func (v *Vault) Package(ctx context.Context, who Caller, order PackageOrder, out io.Writer) error {
	p, err := v.planPackage(ctx, who, order)
	if err != nil {
		return err
	}
	return p.write(ctx, out, func(context.Context) error { return nil })
}

// planPackage finds out what is held of the person, and decides on all of it.
func (v *Vault) planPackage(ctx context.Context, who Caller, order PackageOrder) (*packing, error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, v.refuseUnopened(ctx, who, policy.ReadPackage, err)
	}
	var p *packing
	err = v.within(ctx, who, policy.ReadPackage, func(t *txn) (err error) {
		p, err = v.plan(ctx, t, keys, order)
		return err
	})
	return p, err
}
