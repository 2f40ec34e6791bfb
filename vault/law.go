package vault

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/singleflight"

	"github.com/privault/privault/vault/policy"
)

// law is what a tenant has decided for all of its data: policies and purposes. It is immutable.
type law struct {
	version  int64
	policies *policy.Set
	purposes map[string]Purpose
}

// A law is used without a look at the database for lawFresh, goes on being used until lawLife while one is under way, and
// never longer: a change is in force everywhere within lawLife and the time of one look, which is less than 5 s.
const (
	lawFresh = 1500 * time.Millisecond
	lawLife  = 4 * time.Second
)

// laws holds the law of each tenant that is being served.
type laws struct {
	mu      sync.Mutex // of changes of held
	held    sync.Map   // tenant ID → *heldLaw
	flights singleflight.Group
}

type heldLaw struct {
	*law
	read time.Time // when the look at the database began
}

// lawOf gives a tenant's law. It must not be asked for inside a transaction: it may take a connection of its own.
func (v *Vault) lawOf(tenant ID) (*law, error) {
	now := v.now()
	var age time.Duration
	h, have := v.laws.held.Load(tenant)
	if have {
		age = now.Sub(h.(*heldLaw).read)
	}
	switch {
	case have && age < lawFresh:
		return h.(*heldLaw).law, nil
	case have && age < lawLife:
		v.laws.flights.DoChan(string(tenant[:]), func() (any, error) { return v.readLaw(tenant) })
		return h.(*heldLaw).law, nil
	}
	// A flight that began before this call, if it can be joined, began less than a trip ago.
	found, err, _ := v.laws.flights.Do(string(tenant[:]), func() (any, error) { return v.readLaw(tenant) })
	if err != nil {
		return nil, AsError(err)
	}
	return found.(*law), nil
}

// amended makes the next call look: what a caller has changed is in force for what it does next.
func (v *Vault) amended(tenant ID, version int64) {
	v.laws.put(tenant, &heldLaw{&law{version: version}, time.Time{}})
	v.laws.flights.Forget(string(tenant[:])) // a flight may have looked before the change
}

// put keeps the newer law: two that were read at the same time may come in either order.
func (l *laws) put(tenant ID, h *heldLaw) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if have, is := l.held.Load(tenant); !is || have.(*heldLaw).version <= h.version {
		l.held.Store(tenant, h)
	}
}

// readLaw looks whether the law has changed, and reads it if so.
func (v *Vault) readLaw(tenant ID) (*law, error) {
	ctx, cancel := context.WithTimeout(context.Background(), tripLimit) // the flight is everybody's who waits for it
	defer cancel()
	read := v.now()
	var known *law
	if h, have := v.laws.held.Load(tenant); have && h.(*heldLaw).policies != nil {
		known = h.(*heldLaw).law
	}
	found := &law{policies: policy.Builtin()}
	err := v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `select version from privault.governance where tenant_id = $1`, tenant).Scan(&found.version)
		switch {
		case err != nil && !errors.Is(err, pgx.ErrNoRows):
			return err
		case known != nil && known.version == found.version:
			found = known
			return nil
		case found.version == 0:
			return nil
		}
		documents, err := currentPolicies(ctx, tx, tenant)
		if err != nil {
			return err
		}
		if found.policies, err = policy.Compile(documents); err != nil {
			// An older or newer version of the service stored what this one can't read: shut, but for whoever can mend it.
			v.log.ErrorContext(ctx, "stored policies don't compile: everything is refused but policies", "tenant", tenantSetting(tenant), "error", err)
			found.policies = policy.Shut()
		}
		found.purposes, err = currentPurposes(ctx, tx, tenant)
		return err
	})
	if err != nil {
		return nil, err
	}
	v.laws.put(tenant, &heldLaw{found, read})
	return found, nil
}

// amend notes that the law has changed, gives its version, and lets nobody else change it until this transaction ends.
func (t *txn) amend(ctx context.Context) (version int64, err error) {
	err = t.data.QueryRow(ctx, `
		insert into privault.governance as g (tenant_id, version, facts) values ($1, 1, false)
		on conflict (tenant_id) do update set version = g.version + 1
		returning version`, t.who.Tenant).Scan(&version)
	return version, err
}

// operatorsLaw is that of calls by nobody's credential, which decide by being on the machine itself.
var operatorsLaw = &law{policies: policy.Builtin()}

// changeLaw runs one change of a tenant's law, alone. known, if any, says whether what is to be changed is there, which is
// asked before the decision, and may no longer be so in do.
func (v *Vault) changeLaw(ctx context.Context, who Caller, action policy.Action, known, do func(*txn) error) error {
	var version int64
	err := v.within(ctx, who, action, func(t *txn) (err error) {
		if known != nil {
			if err := known(t); err != nil {
				return err
			}
		}
		if err := t.entry.require(action); err != nil {
			return err
		}
		if version, err = t.amend(ctx); err != nil {
			return err
		}
		return do(t)
	})
	if err == nil {
		v.amended(who.Tenant, version)
	}
	return err
}
