package vault

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/privault/privault/vault/policy"
)

// What a change of rules would make due, before it is in force; and the brake on one that makes much due at once, which is
// unreadable from its commit on.

// Simulation is what new rules would do to the records that there are.
type Simulation struct {
	Records   int64 // of the collection that were looked at
	Exact     bool  // they are all
	DueNow    int64 // at once
	DueBefore int64 // of those, by the rules that are in force
	DueIn     []DueIn
	Hash      string // of the rules and the version that they would change: a confirmation of just this
}

// DueIn is how many records will be due within a time, with those that are now.
type DueIn struct {
	Days    int
	Records int64
}

const (
	simulationTurn   = 8 * time.Second
	simulationWindow = 5000 // records of the tenant
)

// horizons are the times that a simulation looks ahead, in days.
var horizons = []int{30, 90, 365}

// SimulateRetention says what a definition's rules would do.
func (v *Vault) SimulateRetention(ctx context.Context, who Caller, name string, d Definition) (s *Simulation, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, v.refuseUnopened(ctx, who, policy.ReadRetention, err)
	}
	err = v.within(ctx, who, policy.ReadRetention, func(t *txn) error {
		if err := t.entry.require(policy.ReadRetention); err != nil {
			return err
		}
		before, err := t.namedCollection(ctx, name)
		if AsError(err).Kind == NotFound {
			return invalid("/collection", "unknown-collection", "there is no such collection")
		}
		if err != nil {
			return err
		}
		t.entry.Resources = []resource{{Collection: before.Name}}
		if err := d.check(); err != nil {
			return err
		}
		if err := strands(before.Definition, d); err != nil {
			return err
		}
		s, err = v.simulate(ctx, t, keys, before, d)
		return err
	})
	return s, err
}

// simulate goes through the collection's records, for a while, and asks both the rules of before and the new ones.
func (v *Vault) simulate(ctx context.Context, t *txn, keys *tenantKeys, before *Collection, d Definition) (*Simulation, error) {
	raw, err := json.Marshal(stored{d, numbers(d, before.numbers()), normalisers(d, before)})
	if err != nil {
		return nil, err
	}
	after := &Collection{Name: before.Name, Version: before.Version, id: before.id}
	if err := after.adopt(raw); err != nil {
		return nil, err
	}
	rules, err := json.Marshal(struct {
		Version int32
		Rules   string
	}{before.Version, rulesOf(&d)})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append([]byte(before.Name+"\t"), rules...))
	s := &Simulation{Hash: hex.EncodeToString(sum[:]), DueIn: make([]DueIn, len(horizons))}
	for i, days := range horizons {
		s.DueIn[i].Days = days
	}
	w, err := v.newSweeper(ctx, &batch{txn: t, ring: keys}, after)
	if err != nil {
		return nil, err
	}
	w.prior = before
	var at ID
	for began := v.now(); at != lastID && v.now().Sub(began) < simulationTurn; {
		until, err := t.window(ctx, at, simulationWindow)
		if err != nil {
			return nil, err
		}
		if err := w.simulate(ctx, s, at, until); err != nil {
			return nil, err
		}
		at = until
	}
	s.Exact = at == lastID
	return s, nil
}

// simulate counts a window of records.
func (s *sweeper) simulate(ctx context.Context, sum *Simulation, from, until ID) error {
	rows, err := s.read(ctx, `r.record_id > $4 and r.record_id <= $5`, from, until)
	if err != nil {
		return err
	}
	dueAt := func(c *candidate, coll *Collection, at time.Time) (bool, error) {
		f, err := s.ask(ctx, c, coll, at)
		return f.due(), err
	}
	for _, c := range rows {
		sum.Records++
		now, err := dueAt(c, s.coll, s.t.now)
		if err != nil {
			return err
		}
		if now {
			sum.DueNow++
			already, err := dueAt(c, s.prior, s.t.now)
			if err != nil {
				return err
			}
			if already {
				sum.DueBefore++
			}
		}
		for i := range sum.DueIn {
			later, err := dueAt(c, s.coll, s.t.now.AddDate(0, 0, sum.DueIn[i].Days))
			if err != nil {
				return err
			}
			if later {
				sum.DueIn[i].Records++
			}
		}
	}
	clear(s.opened) // of a window; those of all would be the whole collection, in clear
	return nil
}

// window gives the last id of the tenant's next records behind one; lastID if they are the last.
func (t *txn) window(ctx context.Context, after ID, records int) (ID, error) {
	var last *ID
	err := t.data.QueryRow(ctx, `
		select (select r.record_id from privault.records r where r.tenant_id = $1 and r.record_id > $2 order by r.record_id offset $3 limit 1)`,
		t.who.Tenant, after, records-1).Scan(&last)
	if err != nil || last == nil {
		return lastID, err
	}
	return *last, nil
}

// brakeRules refuses rules that would make much of a collection due at once, unless just that was confirmed.
func (v *Vault) brakeRules(ctx context.Context, t *txn, keys *tenantKeys, before *Collection, d Definition, confirmed string) error {
	if sameRules(&before.Definition, &d) {
		return nil
	}
	s, err := v.simulate(ctx, t, keys, before, d)
	if err != nil {
		return err
	}
	fresh := s.DueNow - s.DueBefore
	if fresh < brakeFloor || float64(fresh) <= v.sweeps.share*float64(s.Records) || confirmed == s.Hash {
		return nil
	}
	return &Error{Kind: Conflict, Fields: []FieldError{{"/retention", "confirmation"}},
		Detail: fmt.Sprintf("the rules would make %d of %d records unreadable at once, for a sweep to destroy; look at POST /v1/retention/simulations, and say ?confirm= with the hash that it gives", fresh, s.Records)}
}
