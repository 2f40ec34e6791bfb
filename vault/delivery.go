package vault

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// The handing out of a package: to one download at a time, whole once, and not for ever. A download claims the package under a lease
// that it renews while it gets on, so one whose server died can be begun anew when the lease is over.

const (
	// A download that doesn't get on for so long has lost its claim. Longer than whoever sends waits for one write.
	packageLease = 45 * time.Second
	// How often at most a lease is renewed.
	packageRenewal = 5 * time.Second
)

// delivery is a download under way.
type delivery struct {
	*packing
	request ID
	claim   ID
	renewed time.Time
	begin   func(encrypted bool) io.Writer
	out     io.Writer // nil: it has not begun
}

// HandOut sends the package of a request for access or portability to what begin gives; begin is told whether the package is
// encrypted, and is called when there is something to send. When all of it is sent, the request is completed, and there is no second time: so HandOut returns
// nil only if that is durable. With an error the package can be fetched again.
func (v *Vault) HandOut(ctx context.Context, who Caller, request string, begin func(encrypted bool) io.Writer) error {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return v.refuseUnopened(ctx, who, policy.ReadPackage, err)
	}
	d := &delivery{begin: begin}
	err = v.within(ctx, who, policy.ReadPackage, func(t *txn) error {
		r, err := v.packageOf(ctx, t, keys, request)
		if err != nil {
			return err
		}
		order := PackageOrder{Request: r.ID, Subject: r.Terms.Subject, Kind: string(r.Type), Regime: string(r.Regime), Recipient: r.Terms.RecipientKey}
		if d.packing, err = v.plan(ctx, t, keys, order); err != nil {
			return err
		}
		if err := v.deliverable(r, t.now); err != nil {
			return err
		}
		d.request, d.renewed = r.id, t.now
		d.claim, err = t.claimPackage(ctx, r.id)
		return err
	})
	if err != nil {
		return err
	}
	if err = d.write(ctx, d, d.renew); err == nil {
		err = d.sent(ctx, keys)
	}
	if err != nil {
		d.release(ctx)
	}
	return err
}

// Write sends, and renews the lease before: a write may take its time.
func (d *delivery) Write(p []byte) (int, error) {
	if err := d.renew(context.Background()); err != nil {
		return 0, err
	}
	if d.out == nil {
		d.out = d.begin(d.to != nil)
	}
	return d.out.Write(p)
}

// packageOf reads a request that has a package, and locks it.
func (v *Vault) packageOf(ctx context.Context, t *txn, keys *tenantKeys, request string) (*Request, error) {
	keys, err := t.holdKeys(ctx, keys)
	if err != nil {
		return nil, err
	}
	r, err := v.request(ctx, t, keys, request, "for update")
	if err != nil {
		return nil, err
	}
	if !handsOut(r.Type) {
		return nil, fail(NotFound, "only a request for access or portability has a package")
	}
	return r, nil
}

// deliverable says whether a request's package can be fetched now.
func (v *Vault) deliverable(r *Request, now time.Time) error {
	switch {
	case r.Outcome == OutcomeNothingHeld:
		return fail(NotFound, "nothing was held of the person, or nothing is any more, so there is no package")
	case r.Terms.Subject == "":
		return fail(NotFound, "the person was erased, so there is no package")
	}
	switch r.State {
	case RequestInProgress:
	case RequestCompleted:
		return fail(NotFound, "the request is completed, and a package is handed out once; whoever needs it again makes another request")
	case RequestReceived, RequestVerifying, RequestWaiting:
		return fail(Conflict, "the request is %s; its package can be fetched once it is verified, and approved where it must be", r.State)
	default:
		return fail(NotFound, "the request is %s, so there is no package", r.State)
	}
	ready := r.Verified.At
	if r.Approved != nil {
		ready = *r.Approved
	}
	if until := ready.Add(v.packageLife); !now.Before(until) {
		return fail(NotFound, "the package could be fetched until %s; whoever needs it makes another request", until.UTC().Format(time.RFC3339))
	}
	return nil
}

// claimPackage claims a package for one download.
func (t *txn) claimPackage(ctx context.Context, request ID) (claim ID, err error) {
	if claim, err = newID(); err != nil {
		return claim, err
	}
	done, err := t.data.Exec(ctx, `
		insert into privault.packages as p (tenant_id, request_id, claim, leased_until, attempts) values ($1, $2, $3, $4, 1)
		on conflict (tenant_id, request_id) do update set claim = excluded.claim, leased_until = excluded.leased_until, attempts = p.attempts + 1
		where p.delivered_at is null and (p.claim is null or p.leased_until <= $5)`,
		t.who.Tenant, request, claim, t.now.Add(packageLease), t.now)
	if err != nil || done.RowsAffected() == 1 {
		return claim, err
	}
	var until time.Time
	err = t.data.QueryRow(ctx, `
		select leased_until from privault.packages where tenant_id = $1 and request_id = $2 and delivered_at is null`, t.who.Tenant, request).Scan(&until)
	if errors.Is(err, pgx.ErrNoRows) {
		return claim, fail(NotFound, "the package was handed out, which is done once")
	}
	if err != nil {
		return claim, err
	}
	busy := fail(Conflict, "the package is being fetched; if that breaks off it can be fetched again")
	busy.RetryAfter = until.Sub(t.now)
	return claim, busy
}

// errClaim is that somebody else has the package by now.
var errClaim = &Error{Kind: Conflict, Detail: "the download stood still for too long, or the request has changed meanwhile; fetch the package again"}

// renew makes the lease last from now on.
func (d *delivery) renew(ctx context.Context) error {
	now := d.vault.now()
	if now.Sub(d.renewed) < packageRenewal {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, tripLimit)
	defer cancel()
	var mine bool
	err := d.vault.store.data.within(ctx, d.who.Tenant, func(tx pgx.Tx) error {
		done, err := tx.Exec(ctx, `
			update privault.packages set leased_until = $4 where tenant_id = $1 and request_id = $2 and claim = $3`,
			d.who.Tenant, d.request, d.claim, now.Add(packageLease))
		mine = done.RowsAffected() == 1
		return err
	})
	if err == nil && !mine {
		err = errClaim
	}
	d.renewed = now
	return err
}

// sent notes that a package has been sent whole, which completes its request.
func (d *delivery) sent(ctx context.Context, keys *tenantKeys) error {
	return d.vault.within(ctx, d.who, policy.ReadPackage, func(t *txn) error {
		r, err := d.vault.packageOf(ctx, t, keys, d.order.Request)
		if err != nil {
			return err
		}
		t.entry.Resources = []resource{{Subject: formatOptional(subjectPrefix, d.subject), Request: r.ID, Outcome: outcomeDelivered}}
		if err := d.decide(t.entry, d.parts...); err != nil {
			return err
		}
		done, err := t.data.Exec(ctx, `
			update privault.packages set claim = null, leased_until = null, delivered_at = $4
			where tenant_id = $1 and request_id = $2 and claim = $3`, d.who.Tenant, d.request, d.claim, t.now)
		if err != nil {
			return err
		}
		if done.RowsAffected() == 0 || r.State != RequestInProgress {
			return errClaim
		}
		t.answered(r, OutcomeComplied)
		return t.putRequest(ctx, r)
	})
}

// release gives a claim back, so that nobody needs to wait for the end of its lease.
func (d *delivery) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tripLimit)
	defer cancel()
	err := d.vault.store.data.within(ctx, d.who.Tenant, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			update privault.packages set claim = null, leased_until = null where tenant_id = $1 and request_id = $2 and claim = $3`,
			d.who.Tenant, d.request, d.claim)
		return err
	})
	if err != nil {
		d.vault.log.WarnContext(ctx, "a package that was not fetched whole can be fetched when its lease is over", "error", err)
	}
}
