package vault

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// Sending webhooks. A delivery is claimed in one transaction, sent outside any, and what came of it is noted in another: who dies
// in between leaves a lease, and when that is over it is sent again under the same id. So a receiver hears of everything at least once.
//
// The queue is told when a webhook has something that is due (jobs.wake): at once, when the next attempt is, and when an endpoint that
// failed may be tried again. Whoever is woken sends all that is due, some at a time.

// Delivery is one message to one webhook.
type Delivery struct {
	ID           string // the webhook-id of every attempt
	Event        string
	State        string
	Attempts     int
	Created      time.Time
	Next         *time.Time // the next attempt
	Status       *int       // of the last answer
	Problem      string     // why there was none
	Delivered    *time.Time
	Acknowledged *time.Time
	Certificate  string // of the erasure that it tells of
}

// The states of a delivery. The endpoint took one that is delivered; a recipient has done its part of one that is acknowledged.
const (
	DeliveryPending      = "pending"
	DeliveryDelivered    = "delivered"
	DeliveryAcknowledged = "acknowledged"
	DeliveryFailed       = "failed"
)

var deliveryStates = []string{DeliveryPending, DeliveryDelivered, DeliveryAcknowledged, DeliveryFailed}

// deliveryDelays are how long after each failed attempt the next one comes, as Standard Webhooks recommends: three days in all.
var deliveryDelays = []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
	10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour}

const (
	// A delivery whose endpoint rests most of the time may not have come to its last attempt: this ends it.
	deliveryLife = 96 * time.Hour
	// Attempts at one endpoint at once, on all replicas together; of one that failed last, one.
	endpointLoad = 8
	// An attempt takes five seconds at most, and noting it no longer than a trip: by then who claimed it is dead.
	deliveryLease = 20 * time.Second
	// The longest that an endpoint rests which failed again and again.
	endpointRest = 5 * time.Minute
	// How long a recipient that took a message (202) has to acknowledge it.
	acknowledgeWithin = 30 * 24 * time.Hour
	// How long deliveries can be looked at, and sent anew, after they ended.
	deliveryKept = 30 * 24 * time.Hour
)

// endpoint is where a webhook's deliveries go.
type endpoint struct {
	tenant, id ID
	name, url  string
	secrets    [][]byte
	failures   int
	recipient  bool
}

// claimed is a delivery that is ours until its lease is over.
type claimed struct {
	id      ID
	body    string
	attempt int
}

// deliver sends what a webhook has due, until nothing is or go on says so.
func (v *Vault) deliver(ctx context.Context, tenant, webhook ID, goOn func() bool) (more bool, err error) {
	keys, err := v.keyring.of(ctx, tenant)
	if err != nil {
		return false, err
	}
	for {
		if err := v.Fenced(); err != nil {
			return false, err
		}
		to, due, err := v.claimDue(ctx, keys, webhook)
		if err != nil || len(due) == 0 {
			return false, err
		}
		var wait sync.WaitGroup
		failed := make([]error, len(due))
		for i, d := range due {
			wait.Go(func() { failed[i] = v.attempt(ctx, to, d) })
		}
		wait.Wait()
		if err := errors.Join(failed...); err != nil {
			return false, err
		}
		if !goOn() {
			return true, nil
		}
	}
}

// claimDue takes what is due, as much as the endpoint may have at once.
func (v *Vault) claimDue(ctx context.Context, keys *tenantKeys, webhook ID) (to *endpoint, due []claimed, err error) {
	now := v.now()
	to = &endpoint{tenant: keys.tenant, id: webhook}
	var secret, previous []byte
	err = v.store.data.within(ctx, keys.tenant, func(tx pgx.Tx) error {
		var leased int
		err := tx.QueryRow(ctx, `
			select w.name, w.url, w.failures, w.recipient <> '', w.secret, case when w.previous_until > $3 then w.previous_secret end,
				(select count(*) from privault.webhook_deliveries d where d.tenant_id = $1 and d.webhook_id = $2 and d.state = 'pending' and d.leased_until > $3)
			from privault.webhooks w
			where w.tenant_id = $1 and w.webhook_id = $2 and w.disabled_at is null and (w.paused_until is null or w.paused_until <= $3)
			for update of w`, keys.tenant, webhook, now).Scan(&to.name, &to.url, &to.failures, &to.recipient, &secret, &previous, &leased)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		load := endpointLoad
		if to.failures > 0 {
			load = 1
		}
		if leased >= load {
			return nil // who has those sends the rest
		}
		rows, err := tx.Query(ctx, `
			update privault.webhook_deliveries d set leased_until = $4, attempts = d.attempts + 1
			from (select delivery_id from privault.webhook_deliveries
				where tenant_id = $1 and webhook_id = $2 and state = 'pending' and next_at <= $3 and expires_at > $3
					and (leased_until is null or leased_until <= $3)
				order by next_at limit $5 for update skip locked) n
			where d.tenant_id = $1 and d.delivery_id = n.delivery_id
			returning d.delivery_id, d.body, d.attempts`, keys.tenant, webhook, now, now.Add(deliveryLease), load-leased)
		if err != nil {
			return err
		}
		due, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (c claimed, err error) { return c, r.Scan(&c.id, &c.body, &c.attempt) })
		return err
	})
	if err == nil && len(due) > 0 {
		to.secrets, err = keys.openSecrets(webhook, secret, previous) // outside: a key that isn't known yet is fetched
	}
	return to, due, err
}

func (k *tenantKeys) openSecrets(webhook ID, sealed ...[]byte) (secrets [][]byte, err error) {
	for _, s := range sealed {
		if s == nil {
			continue
		}
		secret, err := k.wrap.Decrypt(s, k.webhookPlace(webhook))
		if err != nil {
			return nil, &Error{Kind: IntegrityFailure, cause: errors.New("the secret of a webhook does not open")}
		}
		secrets = append(secrets, secret)
	}
	return secrets, nil
}

// attempt sends a delivery once, and notes what came of it.
func (v *Vault) attempt(ctx context.Context, to *endpoint, c claimed) error {
	id, at := formatID(deliveryPrefix, c.id), v.now()
	status, retryAfter, fault := v.courier.Post(ctx, to.url, map[string]string{
		"Content-Type": "application/json", "User-Agent": "privault",
		"Webhook-Id": id, "Webhook-Timestamp": strconv.FormatInt(at.Unix(), 10), "Webhook-Signature": signatures(to.secrets, id, at, c.body),
	}, c.body)
	// It was sent: that the server stops must not have it sent again.
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), tripLimit)
	defer cancel()
	return v.within(late, Caller{Tenant: to.tenant, Request: id}, policy.Deliver, func(t *txn) error {
		t.operator()
		return v.noteAttempt(late, t, to, c, answered{status, fault, retryAfter})
	})
}

// answered is what came of an attempt.
type answered struct {
	status     int
	fault      string
	retryAfter time.Duration
}

func (a answered) taken() bool { return a.status >= 200 && a.status < 300 }

// away says whether it is the endpoint that can't, and not the message that it doesn't want.
func (a answered) away() bool { return a.fault != "" || a.status >= 500 || a.status == 429 }

const (
	statusGone     = 410
	statusAccepted = 202
)

// noteAttempt writes down what came of an attempt, and when the next one is.
func (v *Vault) noteAttempt(ctx context.Context, t *txn, to *endpoint, c claimed, a answered) error {
	state, next := DeliveryPending, time.Duration(0)
	switch {
	case a.taken() && to.recipient && a.status != statusAccepted:
		state = DeliveryAcknowledged
	case a.taken():
		state = DeliveryDelivered
	case a.status == statusGone, c.attempt > len(deliveryDelays):
		state = DeliveryFailed
	default:
		next = max(jitter(deliveryDelays[c.attempt-1]), a.retryAfter)
	}
	t.entry.Resources = []resource{{Webhook: to.name, Delivery: formatID(deliveryPrefix, c.id), Outcome: state}}
	var nextAt *time.Time
	if state == DeliveryPending {
		at := t.now.Add(next)
		nextAt = &at
	}
	// First of all, as whoever acts on a delivery does: of attempts at once that find the endpoint gone, each would wait for the others' deliveries.
	if _, err := t.data.Exec(ctx, `select from privault.webhooks where tenant_id = $1 and webhook_id = $2 for update`, to.tenant, to.id); err != nil {
		return err
	}
	// What a later attempt is about to find out isn't spoilt by an earlier one that failed; that one was taken stays so.
	var erasure *ID
	err := t.data.QueryRow(ctx, `
		update privault.webhook_deliveries set state = $3, next_at = $4, leased_until = null, status = nullif($5, 0), problem = nullif($6, ''),
			delivered_at = case when $7 then $8::timestamptz else delivered_at end,
			acknowledged_at = case when $3 = 'acknowledged' then $8::timestamptz else acknowledged_at end
		where tenant_id = $1 and delivery_id = $2 and state = 'pending' and (attempts = $9 or $7)
		returning erasure_id`,
		to.tenant, c.id, state, nextAt, a.status, a.fault, a.taken(), t.now, c.attempt).Scan(&erasure)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // it went with its webhook or its person, or another attempt was taken
	}
	if err != nil {
		return err
	}
	if err := v.noteEndpoint(ctx, t, to, a); err != nil {
		return err
	}
	if nextAt != nil {
		return t.wake(ctx, next, to.id)
	}
	return v.settleRecipient(ctx, t, erasure, to.id)
}

// noteEndpoint lets an endpoint that is away rest, twice as long each time, and disables one that is gone.
func (v *Vault) noteEndpoint(ctx context.Context, t *txn, to *endpoint, a answered) error {
	switch {
	case a.away():
		rest := min(time.Second<<min(to.failures, 20), endpointRest)
		rest = max(jitter(rest), a.retryAfter)
		_, err := t.data.Exec(ctx, `
			update privault.webhooks set failures = $3 + 1, paused_until = greatest(paused_until, $4) where tenant_id = $1 and webhook_id = $2 and failures <= $3`,
			to.tenant, to.id, to.failures, t.now.Add(rest))
		if err != nil {
			return err
		}
		return t.wake(ctx, rest, to.id)
	case a.status == statusGone:
		_, err := t.data.Exec(ctx, `
			update privault.webhooks set disabled_at = coalesce(disabled_at, $3) where tenant_id = $1 and webhook_id = $2`, to.tenant, to.id, t.now)
		if err != nil {
			return err
		}
		return v.failPending(ctx, t, to.id)
	case to.failures > 0:
		_, err := t.data.Exec(ctx, `
			update privault.webhooks set failures = 0, paused_until = null where tenant_id = $1 and webhook_id = $2`, to.tenant, to.id)
		return err
	}
	return nil
}

// failPending gives up what a webhook that is disabled was still to be sent.
func (v *Vault) failPending(ctx context.Context, t *txn, webhook ID) error {
	_, err := t.data.Exec(ctx, `
		update privault.webhook_deliveries set state = 'failed', next_at = null, leased_until = null, problem = 'disabled'
		where tenant_id = $1 and webhook_id = $2 and state = 'pending'`, t.who.Tenant, webhook)
	if err != nil {
		return err
	}
	return v.settleAll(ctx, t, webhook)
}

// jitter is a time within a fifth of d, so that what failed together doesn't come back together.
func jitter(d time.Duration) time.Duration {
	return d*4/5 + time.Duration(rand.Int64N(int64(d)*2/5+1)) //nolint:gosec // nothing secret depends on it
}

const deliveryColumns = `select delivery_id, event, state, attempts, created_at, next_at, status, coalesce(problem, ''), delivered_at, acknowledged_at, erasure_id
	from privault.webhook_deliveries where tenant_id = $1 and `

func scanDelivery(r pgx.CollectableRow) (*Delivery, error) {
	d := &Delivery{}
	var id ID
	var erasure *ID
	err := r.Scan(&id, &d.Event, &d.State, &d.Attempts, &d.Created, &d.Next, &d.Status, &d.Problem, &d.Delivered, &d.Acknowledged, &erasure)
	d.ID, d.Certificate = formatID(deliveryPrefix, id), formatOptional(erasurePrefix, erasure)
	return d, err
}

// ListDeliveries gives up to limit deliveries of a webhook, newest first, from cursor on, of one state or of all; the next cursor
// is empty at the end.
func (v *Vault) ListDeliveries(ctx context.Context, who Caller, webhook, state, cursor string, limit int) (page []*Delivery, next string, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, "", v.refuseUnopened(ctx, who, policy.ReadWebhooks, err)
	}
	err = v.within(ctx, who, policy.ReadWebhooks, func(t *txn) error {
		w, err := t.webhookFor(ctx, webhook, policy.ReadWebhooks)
		if err != nil {
			return err
		}
		if state != "" && !slices.Contains(deliveryStates, state) {
			return invalid("", "state", "the states are "+list(deliveryStates))
		}
		of := "deliveries/" + formatID("", w.id)
		before, err := keys.openCursor(of, cursor)
		if err != nil {
			return err
		}
		rows, err := t.data.Query(ctx, deliveryColumns+`webhook_id = $2 and delivery_id < $3 and ($4 = '' or state = $4) order by delivery_id desc limit $5`,
			who.Tenant, w.id, idBefore(deliveryPrefix, before), state, limit+1)
		if err != nil {
			return err
		}
		page, next, err = pageOf(keys, rows, scanDelivery, of, limit, func(d *Delivery) string { return d.ID })
		return err
	})
	return page, next, err
}

// delivery locks a delivery of a webhook for an action.
func (t *txn) delivery(ctx context.Context, webhook, delivery string, action policy.Action) (w *Webhook, d *Delivery, id ID, err error) {
	if w, err = t.webhook(ctx, webhook); err != nil {
		return nil, nil, id, err
	}
	id, ok := parseID(deliveryPrefix, delivery)
	if !ok {
		return nil, nil, id, fail(NotFound, "")
	}
	rows, err := t.data.Query(ctx, deliveryColumns+`webhook_id = $2 and delivery_id = $3 for update`, t.who.Tenant, w.id, id)
	if err != nil {
		return nil, nil, id, err
	}
	d, err = pgx.CollectExactlyOneRow(rows, scanDelivery)
	if err != nil {
		return nil, nil, id, orNotFound(err)
	}
	t.entry.Resources = []resource{{Webhook: webhook, Delivery: delivery}}
	return w, d, id, t.entry.require(action)
}

// Redeliver sends a delivery again from its first attempt on, under the same id. One that its recipient has acknowledged is done.
func (v *Vault) Redeliver(ctx context.Context, who Caller, webhook, delivery string) (d *Delivery, err error) {
	err = v.within(ctx, who, policy.Redeliver, func(t *txn) error {
		w, found, id, err := t.delivery(ctx, webhook, delivery, policy.Redeliver)
		if err != nil {
			return err
		}
		if w.Disabled != nil {
			return fail(Conflict, "the webhook's endpoint said that it is gone; PUT the webhook to enable it again")
		}
		if d = found; d.State == DeliveryAcknowledged {
			return fail(Conflict, "the recipient has acknowledged it: there is nothing to send again")
		}
		d.State, d.Attempts, d.Next, d.Status, d.Problem = DeliveryPending, 0, &t.now, nil, ""
		var erasure *ID
		err = t.data.QueryRow(ctx, `
			update privault.webhook_deliveries set state = 'pending', attempts = 0, next_at = $3, expires_at = $4, leased_until = null, status = null, problem = null
			where tenant_id = $1 and delivery_id = $2 returning erasure_id`, who.Tenant, id, t.now, t.now.Add(deliveryLife)).Scan(&erasure)
		if err != nil {
			return err
		}
		if err := v.settleRecipient(ctx, t, erasure, w.id); err != nil {
			return err
		}
		return t.wake(ctx, 0, w.id)
	})
	return d, err
}

// Acknowledge notes that a recipient has done its part of what it was told. Saying so again changes nothing.
func (v *Vault) Acknowledge(ctx context.Context, who Caller, webhook, delivery string) (d *Delivery, err error) {
	err = v.within(ctx, who, policy.Acknowledge, func(t *txn) error {
		w, found, id, err := t.delivery(ctx, webhook, delivery, policy.Acknowledge)
		if err != nil {
			return err
		}
		if w.Recipient == nil {
			return fail(Conflict, "the webhook is no recipient: there is nothing to acknowledge")
		}
		if d = found; d.State == DeliveryAcknowledged {
			return nil
		}
		d.State, d.Acknowledged, d.Next = DeliveryAcknowledged, &t.now, nil
		var erasure *ID
		err = t.data.QueryRow(ctx, `
			update privault.webhook_deliveries set state = 'acknowledged', acknowledged_at = $3, next_at = null, leased_until = null
			where tenant_id = $1 and delivery_id = $2 returning erasure_id`, who.Tenant, id, t.now).Scan(&erasure)
		if err != nil {
			return err
		}
		return v.settleRecipient(ctx, t, erasure, w.id)
	})
	return d, err
}

// wakeWebhooks tells the queue what is due within its own period: a queue that lost something is mended. And it gives up what
// was not taken, or not acknowledged, in time. A tenant for which that fails keeps it from no other.
func (v *Vault) wakeWebhooks(ctx context.Context) error {
	tenants, err := v.Tenants(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, tenant := range tenants {
		if err := v.wakeWebhooksOf(ctx, tenant); err != nil {
			if failed = append(failed, err); ctx.Err() != nil {
				break
			}
		}
	}
	return errors.Join(failed...)
}

const wakeEvery = 2 * time.Minute

func (v *Vault) wakeWebhooksOf(ctx context.Context, tenant ID) error {
	now := v.now()
	var late bool
	err := v.store.data.within(ctx, tenant, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			select exists (select from privault.webhook_deliveries where tenant_id = $1 and `+lateDelivery+`)`,
			tenant, now, now.Add(-acknowledgeWithin)).Scan(&late)
		if err != nil {
			return err
		}
		var webhook ID
		var at time.Time
		due := map[ID]time.Duration{}
		err = each(ctx, tx, []any{&webhook, &at}, func() error {
			due[webhook] = max(0, at.Sub(now))
			return nil
		}, `
			select d.webhook_id, min(greatest(d.next_at, d.leased_until, w.paused_until))
			from privault.webhook_deliveries d join privault.webhooks w using (tenant_id, webhook_id)
			where d.tenant_id = $1 and d.state = 'pending' and w.disabled_at is null
				and greatest(d.next_at, d.leased_until, w.paused_until) <= $2 group by d.webhook_id`, tenant, now.Add(wakeEvery))
		for webhook, in := range due {
			if err == nil {
				err = v.jobs.wake(ctx, tx, tenant, in, webhook)
			}
		}
		return err
	})
	for n := 1; err == nil && late && n > 0; {
		n, err = v.sweep(ctx, tenant, func(t *txn) (int64, error) { return v.giveUp(ctx, t) })
	}
	return err
}

// lateDelivery is one that was not taken by $2, or that tells of an erasure, was taken before $3, and was not acknowledged.
const lateDelivery = `(state = 'pending' and expires_at <= $2 or state = 'delivered' and erasure_id is not null and delivered_at <= $3)`

// giveUpBatch is how many deliveries are given up at once: each may have to settle an erasure, and sign its completion.
const giveUpBatch = 100

// giveUp ends deliveries that were not taken in time, and those of erasures that were taken and not acknowledged: some of one
// webhook, whose erasures are locked in the order in which everybody locks them.
func (v *Vault) giveUp(ctx context.Context, t *txn) (n int64, err error) {
	var webhook ID
	var erasures []ID
	err = t.data.QueryRow(ctx, `
		with late as (
			select delivery_id, webhook_id from privault.webhook_deliveries
			where tenant_id = $1 and `+lateDelivery+`
			order by webhook_id limit $4 for update skip locked),
		ended as (
			update privault.webhook_deliveries d set state = 'failed', next_at = null, leased_until = null,
				problem = case when d.state = 'delivered' then 'not-acknowledged' else coalesce(d.problem, 'expired') end
			where d.tenant_id = $1 and d.delivery_id in (select delivery_id from late where webhook_id = (select webhook_id from late limit 1))
			returning d.webhook_id, d.erasure_id)
		select webhook_id, count(*), coalesce(array_agg(distinct erasure_id order by erasure_id) filter (where erasure_id is not null), '{}')
		from ended group by webhook_id`, t.who.Tenant, t.now, t.now.Add(-acknowledgeWithin), giveUpBatch).Scan(&webhook, &n, &erasures)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	for i := range erasures {
		if err == nil {
			err = v.settleRecipient(ctx, t, &erasures[i], webhook)
		}
	}
	return n, err
}

// sweepDeliveries deletes deliveries that ended long ago.
func (v *Vault) sweepDeliveries(ctx context.Context) error {
	return v.eachTenant(ctx, func(ctx context.Context, tenant ID, batch int) (done int, err error) {
		return v.sweep(ctx, tenant, func(t *txn) (int64, error) {
			swept, err := t.data.Exec(ctx, `
				delete from privault.webhook_deliveries where tenant_id = $1 and delivery_id in (
					select delivery_id from privault.webhook_deliveries where tenant_id = $1 and state <> 'pending' and delivery_id < $2
						and not (state = 'delivered' and erasure_id is not null)
					order by delivery_id limit $3 for update skip locked)`, tenant, firstID(t.now.Add(-deliveryKept-deliveryLife)), batch)
			return swept.RowsAffected(), err
		})
	})
}
