package vault

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// Alarm is something sudden, and what was done about it. A response strikes nobody but the principal, or the credential, that
// the evidence was made with: whoever lacks the secret can't bring it about. It ends by itself, and can be lifted.
type Alarm struct {
	ID         string
	Kind       string
	Principal  string
	Credential string
	Network    netip.Prefix // where from; zero: it has no place
	Raised     time.Time
	Counted    int64
	Usual      int64 // the most in an hour before
	Response   string
	Expires    time.Time // of the response
	Lifted     *time.Time

	principal, credential ID
}

// curb is a response in force, as a Caller carries it.
type curb struct {
	response   string
	credential ID
	network    netip.Prefix
	until      time.Time
}

// curbsOf reads the responses in force about a principal.
func curbsOf(ctx context.Context, tx pgx.Tx, tenant, principal ID, now time.Time) ([]curb, error) {
	rows, err := tx.Query(ctx, `
		select response, credential_id, network, expires_at from privault.alarms
		where tenant_id = $1 and principal_id = $2 and response <> 'alert' and expires_at > $3 and lifted_at is null`, tenant, principal, now)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (curb, error) {
		var c curb
		var network *netip.Prefix
		err := r.Scan(&c.response, &c.credential, &network, &c.until)
		if network != nil {
			c.network = *network
		}
		return c, err
	})
}

// ruleOf names a response that refuses in audit entries.
func ruleOf(response string) string { return "alarm-" + response }

// curbed says by which response a caller is refused, if it is, and whether it sees nothing in clear.
func (c Caller) curbed(now time.Time) (refused string, masked bool) {
	for _, x := range c.curbs {
		switch {
		case !now.Before(x.until):
		case x.response == ResponseMask:
			masked = true
		case x.response == ResponseSuspend && x.credential == c.Credential,
			x.response == ResponseBlock && x.network.Contains(c.Network):
			refused = x.response
		}
	}
	return refused, masked
}

// raise writes alarms down: one of a kind for a principal in an hour, whichever replica sees it first.
func (v *Vault) raise(ctx context.Context, tenant ID, alarms []Alarm) (raised int, err error) {
	var fresh []Alarm
	err = v.within(ctx, Caller{Tenant: tenant}, policy.RaiseAlarm, func(t *txn) error {
		t.entry.Rule = "alarm"
		for _, a := range alarms {
			id, err := newID()
			if err != nil {
				return err
			}
			var network *netip.Prefix
			if a.Network.IsValid() {
				network = &a.Network
			}
			done, err := t.data.Exec(ctx, `
				insert into privault.alarms (tenant_id, alarm_id, kind, principal_id, credential_id, network, raised_at, hour, counted, usual, response, expires_at)
				values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) on conflict do nothing`,
				tenant, id, a.Kind, a.principal, a.credential, network, a.Raised, a.Raised.Truncate(time.Hour), a.Counted, a.Usual, a.Response, a.Expires)
			if err != nil {
				return err
			}
			if done.RowsAffected() == 0 {
				continue
			}
			a.ID = formatID(alarmPrefix, id)
			fresh = append(fresh, a)
			t.entry.Resources = append(t.entry.Resources, resource{Alarm: a.ID, Outcome: a.Kind, Rule: a.Response,
				Principal: formatID(principalPrefix, a.principal), Credential: formatID(credentialPrefix, a.credential)})
			err = t.emit(ctx, EventAlarmRaised, happening{Alarm: a.ID, Kind: a.Kind, Principal: formatID(principalPrefix, a.principal)})
			if err != nil {
				return err
			}
		}
		t.entry.Items = len(fresh)
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, a := range fresh {
		v.metrics.alarms.WithLabelValues(a.Kind, a.Response).Inc()
		v.log.WarnContext(ctx, "alarm", "alarm", a.Kind, "id", a.ID, "principal", formatID(principalPrefix, a.principal), "response", a.Response)
	}
	if slices.ContainsFunc(fresh, func(a Alarm) bool { return a.Response != ResponseAlert }) {
		v.credentials.forget()
	}
	return len(fresh), nil
}

// ReportLeakedKey hears of a key that somebody found where it should not be. Whoever reports it has it, which is all the
// evidence that is needed. A key that is not good, or not one at all, is heard of alike.
func (v *Vault) ReportLeakedKey(ctx context.Context, key string) error {
	who, err := v.Authenticate(ctx, key)
	if err != nil {
		if AsError(err).Kind == Unauthenticated {
			return nil
		}
		return err
	}
	r := v.alarms.rule(AlarmKeyLeaked)
	if r.Off {
		return nil
	}
	_, err = v.raise(ctx, who.Tenant, []Alarm{v.alarms.alarm(AlarmKeyLeaked, who.Principal, doer{credential: who.Credential}, 1, 0, v.now().UTC().Truncate(time.Microsecond))})
	return err
}

// ListAlarms reads up to limit alarms, newest first, from cursor on; the next cursor is empty at the end.
func (v *Vault) ListAlarms(ctx context.Context, who Caller, cursor string, limit int) (page []Alarm, next string, err error) {
	err = v.readList(ctx, who, policy.ReadAlarms, "alarms", cursor, func(t *txn, keys *tenantKeys, before string) error {
		rows, err := t.data.Query(ctx, `
			select alarm_id, kind, principal_id, credential_id, network, raised_at, counted, usual, response, expires_at, lifted_at
			from privault.alarms where tenant_id = $1 and alarm_id < $2 order by alarm_id desc limit $3`, who.Tenant, idBefore(alarmPrefix, before), limit+1)
		if err != nil {
			return err
		}
		page, next, err = pageOf(keys, rows, scanAlarm, "alarms", limit, func(a Alarm) string { return a.ID })
		return err
	})
	return page, next, err
}

func scanAlarm(r pgx.CollectableRow) (Alarm, error) {
	var a Alarm
	var id ID
	var network *netip.Prefix
	err := r.Scan(&id, &a.Kind, &a.principal, &a.credential, &network, &a.Raised, &a.Counted, &a.Usual, &a.Response, &a.Expires, &a.Lifted)
	if network != nil {
		a.Network = *network
	}
	a.ID, a.Principal, a.Credential = formatID(alarmPrefix, id), formatID(principalPrefix, a.principal), formatID(credentialPrefix, a.credential)
	return a, err
}

// LiftAlarm ends the response to an alarm: for calls that begin afterwards here, within CredentialTTL on every other replica.
// A principal can't lift what is about itself.
func (v *Vault) LiftAlarm(ctx context.Context, who Caller, alarm string) error {
	err := v.within(ctx, who, policy.LiftAlarm, func(t *txn) error {
		id, ok := parseID(alarmPrefix, alarm)
		if !ok {
			return fail(NotFound, "")
		}
		var about ID
		err := t.data.QueryRow(ctx, `
			select principal_id from privault.alarms where tenant_id = $1 and alarm_id = $2 for update`, who.Tenant, id).Scan(&about)
		if errors.Is(err, pgx.ErrNoRows) {
			return fail(NotFound, "")
		}
		if err != nil {
			return err
		}
		if err := t.entry.require(policy.LiftAlarm); err != nil {
			return err
		}
		t.entry.Resources = []resource{{Alarm: alarm, Principal: formatID(principalPrefix, about)}}
		if about == who.Principal {
			return fail(Conflict, "an alarm is lifted by somebody whom it is not about")
		}
		_, err = t.data.Exec(ctx, `
			update privault.alarms set lifted_at = coalesce(lifted_at, $3), lifted_by = coalesce(lifted_by, $4) where tenant_id = $1 and alarm_id = $2`,
			who.Tenant, id, t.now, who.Principal)
		return err
	})
	if err == nil {
		v.credentials.forget()
	}
	return err
}

// SweepBehaviour deletes up to batch hours of one tenant that are too long ago to compare with, and networks that nobody has
// come from for longer, and gives the more of the two: less than batch says that none is left.
func (v *Vault) SweepBehaviour(ctx context.Context, tenant ID, batch int) (deleted int, err error) {
	return v.sweep(ctx, tenant, func(t *txn) (int64, error) {
		done, err := t.data.Exec(ctx, `
			delete from privault.behaviour where (tenant_id, principal_id, hour) in (
				select tenant_id, principal_id, hour from privault.behaviour where tenant_id = $1 and hour < $2
				limit $3 for update skip locked)`, tenant, t.now.Add(-pastLife), batch)
		if err != nil {
			return 0, err
		}
		gone, err := t.data.Exec(ctx, `
			delete from privault.principal_networks where (tenant_id, principal_id, network) in (
				select tenant_id, principal_id, network from privault.principal_networks where tenant_id = $1 and last_at < $2
				limit $3 for update skip locked)`, tenant, t.now.Add(-networkLife), batch)
		return max(done.RowsAffected(), gone.RowsAffected()), err
	})
}

// networkLife is how long a network stays known that nobody comes from.
const networkLife = 90 * 24 * time.Hour
