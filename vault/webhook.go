package vault

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// Webhook is where events are sent to. One with a Recipient is a party that personal data was disclosed to, and that has to be
// told of erasures, corrections and restrictions (GDPR 19).
type Webhook struct {
	Name             string
	Version          int32
	URL              string
	Events           []string
	Collections      []string // of these alone; none: of any
	Purposes         []string // of records that may be read for these alone; none: of any
	Recipient        *Recipient
	Created, Updated time.Time
	Disabled         *time.Time // since its endpoint said that it is gone
	Paused           *time.Time // its endpoint failed: until then nothing is sent
	Failures         int        // of its endpoint, one behind the other

	id ID
}

// Recipient is to whom personal data was disclosed.
type Recipient struct {
	Name    string
	Country string // ISO 3166-1 alpha-2; empty: not said
}

// Courier is how webhooks are sent. Both functions wait on the network.
type Courier struct {
	// Check says what is wrong with an address; empty: nothing.
	Check func(ctx context.Context, url string) string
	// Post sends a body and gives the answer's status, and how long the receiver wants to be left alone; or why there is no answer.
	Post func(ctx context.Context, url string, header map[string]string, body string) (status int, retryAfter time.Duration, fault string)
}

const (
	secretPrefix = "whsec_"
	secretBytes  = 32
	// After a rotation the old secret signs too for so long: receivers take the new one over without missing anything.
	secretOverlap = 24 * time.Hour
	maxRecipient  = 200
)

var (
	nameOfWebhook  = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	countryOf      = regexp.MustCompile(`^[A-Z]{2}$`)
	recipientShape = regexp.MustCompile(`^[\pL\pN][\pL\pN\pM .,&'()/+-]*$`)
)

func (w *Webhook) check() error {
	var faults faults
	if !nameOfWebhook.MatchString(w.Name) {
		faults.add("", "name", "a webhook's name is a lower-case letter, then up to 62 of a-z 0-9 _ -")
	}
	w.Events = sortedNames(w.Events)
	for _, kind := range w.Events {
		if !slices.Contains(EventKinds(), kind) {
			faults.add("/events", "event", "the events are "+list(EventKinds()))
		}
	}
	if len(w.Events) == 0 {
		faults.add("/events", "size", "name at least one event")
	}
	w.Collections, w.Purposes = sortedNames(w.Collections), sortedNames(w.Purposes)
	if len(w.Collections) > maxPurposes || len(w.Purposes) > maxPurposes {
		faults.add("/collections", "size", "a webhook names at most 50 collections and 50 purposes")
	}
	if r := w.Recipient; r != nil {
		if len(r.Name) > maxRecipient || !recipientShape.MatchString(r.Name) {
			faults.add("/recipient/name", "name", "a recipient's name is 1 to 200 letters, digits, spaces and . , & ' ( ) / + -")
		}
		if r.Country != "" && !countryOf.MatchString(r.Country) {
			faults.add("/recipient/country", "country", "a country is two letters, as ISO 3166-1 has them")
		}
	}
	return faults.err()
}

// sortedNames gives names in order, each once.
func sortedNames(names []string) []string {
	names = append([]string{}, names...)
	slices.Sort(names)
	return slices.Compact(names)
}

// PutWebhook registers a webhook, or changes it and enables it again; created says which, and the secret that its messages are
// signed with comes with the first. ifVersion is the version that the caller saw; 0: any.
func (v *Vault) PutWebhook(ctx context.Context, who Caller, w Webhook, ifVersion int32) (_ *Webhook, secret string, created bool, err error) {
	if err := v.checkWebhook(ctx, who, &w); err != nil {
		return nil, "", false, err
	}
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, "", false, v.refuseUnopened(ctx, who, policy.WriteWebhooks, err)
	}
	err = v.within(ctx, who, policy.WriteWebhooks, func(t *txn) error {
		if err := t.entry.require(policy.WriteWebhooks); err != nil {
			return err
		}
		if err := t.checkScope(ctx, &w); err != nil {
			return err
		}
		before, err := t.webhook(ctx, w.Name)
		if err != nil && AsError(err).Kind != NotFound {
			return err
		}
		created = before == nil
		if ifVersion != 0 && (created || before.Version != ifVersion) {
			return fail(PreconditionFailed, "the webhook has another version by now, or is gone")
		}
		t.entry.Resources = []resource{{Webhook: w.Name}}
		if created {
			secret, err = t.createWebhook(ctx, keys, &w)
			return err
		}
		return t.changeWebhook(ctx, before, &w)
	})
	if err != nil {
		return nil, "", false, err
	}
	return &w, secret, created, nil
}

// checkWebhook validates a webhook before the transaction, since its host is looked up; but for nobody who may not register it.
func (v *Vault) checkWebhook(ctx context.Context, who Caller, w *Webhook) error {
	e, err := v.open(who, policy.WriteWebhooks)
	if err != nil {
		return err
	}
	if err = e.require(policy.WriteWebhooks); err == nil {
		err = w.check()
	}
	if err == nil && v.courier.Check == nil {
		err = fail(Conflict, "this server sends no webhooks")
	}
	if err == nil {
		if fault := v.courier.Check(ctx, w.URL); fault != "" {
			err = &Error{Kind: DestinationNotAllowed, Detail: "a webhook's URL leads to a public server by https: " + fault, Fields: []FieldError{{"/url", "destination"}}}
		}
	}
	if err != nil {
		return v.refuse(ctx, e, err)
	}
	return nil
}

// checkScope refuses collections and purposes that are not there: a misspelt one would never match, and nobody be told.
func (t *txn) checkScope(ctx context.Context, w *Webhook) error {
	var faults faults
	for _, name := range w.Collections {
		if _, err := t.namedCollection(ctx, name); err != nil {
			if AsError(err).Kind != NotFound {
				return err
			}
			faults.add("/collections", "unknown-collection", "a webhook's collections exist")
		}
	}
	for _, name := range w.Purposes {
		p, err := t.purpose(ctx, name)
		if err != nil {
			return err
		}
		if p.Version == 0 {
			faults.add("/purposes", "unknown-purpose", "a webhook's purposes are registered first")
		}
	}
	return faults.err()
}

func (t *txn) createWebhook(ctx context.Context, keys *tenantKeys, w *Webhook) (secret string, err error) {
	if w.id, err = newID(); err != nil {
		return "", err
	}
	// What is sealed under an older key might be sealed after the job that seals it anew.
	if keys, err = t.holdKeys(ctx, keys); err != nil {
		return "", err
	}
	secret, sealed, err := keys.newSecret(w.id)
	if err != nil {
		return "", err
	}
	w.Version, w.Created, w.Updated = 1, t.now, t.now
	recipient := w.recipient()
	_, err = t.data.Exec(ctx, `
		insert into privault.webhooks (tenant_id, webhook_id, name, version, url, events, collections, purposes, recipient, country, secret, created_at, updated_at)
		values ($1, $2, $3, 1, $4, $5, $6, $7, $8, $9, $10, $11, $11)`,
		t.who.Tenant, w.id, w.Name, w.URL, w.Events, w.Collections, w.Purposes, recipient.Name, recipient.Country, sealed, t.now)
	if violates(err, "webhooks_name") {
		return "", fail(Conflict, "a webhook of that name was made a moment ago")
	}
	return secret, err
}

func (w *Webhook) recipient() Recipient {
	if w.Recipient == nil {
		return Recipient{}
	}
	return *w.Recipient
}

func (t *txn) changeWebhook(ctx context.Context, before, w *Webhook) error {
	same := before.URL == w.URL && slices.Equal(before.Events, w.Events) && slices.Equal(before.Collections, w.Collections) &&
		slices.Equal(before.Purposes, w.Purposes) && before.recipient() == w.recipient() && before.Disabled == nil
	if same {
		*w = *before
		return nil
	}
	w.id, w.Version, w.Created, w.Updated = before.id, before.Version+1, before.Created, t.now
	recipient := w.recipient()
	_, err := t.data.Exec(ctx, `
		update privault.webhooks set version = $3, url = $4, events = $5, collections = $6, purposes = $7, recipient = $8, country = $9,
			updated_at = $10, disabled_at = null, failures = 0, paused_until = null
		where tenant_id = $1 and webhook_id = $2`,
		t.who.Tenant, w.id, w.Version, w.URL, w.Events, w.Collections, w.Purposes, recipient.Name, recipient.Country, t.now)
	if err != nil {
		return err
	}
	return t.wake(ctx, 0, w.id)
}

// newSecret makes a secret that a webhook's messages are signed with: its text for the receiver, and the text sealed.
func (k *tenantKeys) newSecret(webhook ID) (text string, sealed []byte, err error) {
	raw := make([]byte, secretBytes)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	sealed, err = k.wrap.Encrypt(raw, k.webhookPlace(webhook))
	return secretPrefix + base64.StdEncoding.EncodeToString(raw), sealed, err
}

func (k *tenantKeys) webhookPlace(webhook ID) []byte {
	return append(k.bound("privault/1/webhook"), webhook[:]...)
}

// signatures are the value of the header webhook-signature (Standard Webhooks): one by each secret.
func signatures(secrets [][]byte, id string, at time.Time, body string) string {
	all := make([]string, 0, len(secrets))
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, secret)
		fmt.Fprintf(mac, "%s.%d.%s", id, at.Unix(), body)
		all = append(all, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(all, " ")
}

// RotateWebhookSecret gives a webhook a new secret. The old one signs beside it for a day.
func (v *Vault) RotateWebhookSecret(ctx context.Context, who Caller, name string) (secret string, until time.Time, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return "", until, v.refuseUnopened(ctx, who, policy.WriteWebhooks, err)
	}
	err = v.within(ctx, who, policy.WriteWebhooks, func(t *txn) error {
		w, err := t.webhookFor(ctx, name, policy.WriteWebhooks)
		if err != nil {
			return err
		}
		if keys, err = t.holdKeys(ctx, keys); err != nil {
			return err
		}
		var sealed []byte
		if secret, sealed, err = keys.newSecret(w.id); err != nil {
			return err
		}
		until = t.now.Add(secretOverlap)
		_, err = t.data.Exec(ctx, `
			update privault.webhooks set previous_secret = secret, previous_until = $3, secret = $4, version = version + 1, updated_at = $5
			where tenant_id = $1 and webhook_id = $2`, who.Tenant, w.id, until, sealed, t.now)
		return err
	})
	if err != nil {
		return "", until, err
	}
	return secret, until, nil
}

// DeleteWebhook removes a webhook and what was to be sent to it. A recipient that has not acknowledged an erasure will not.
func (v *Vault) DeleteWebhook(ctx context.Context, who Caller, name string, ifVersion int32) error {
	return v.within(ctx, who, policy.WriteWebhooks, func(t *txn) error {
		w, err := t.webhookFor(ctx, name, policy.WriteWebhooks)
		if err != nil {
			return err
		}
		if ifVersion != 0 && w.Version != ifVersion {
			return fail(PreconditionFailed, "the webhook has another version by now")
		}
		if _, err := t.data.Exec(ctx, `delete from privault.webhooks where tenant_id = $1 and webhook_id = $2`, who.Tenant, w.id); err != nil {
			return err
		}
		if _, err := t.data.Exec(ctx, `delete from privault.webhook_deliveries where tenant_id = $1 and webhook_id = $2`, who.Tenant, w.id); err != nil {
			return err
		}
		return v.settleAll(ctx, t, w.id)
	})
}

const webhookColumns = `select webhook_id, name, version, url, events, collections, purposes, recipient, country, created_at, updated_at,
	disabled_at, paused_until, failures from privault.webhooks where tenant_id = $1 and `

func scanWebhook(r pgx.CollectableRow) (*Webhook, error) {
	w, recipient := &Webhook{}, Recipient{}
	err := r.Scan(&w.id, &w.Name, &w.Version, &w.URL, &w.Events, &w.Collections, &w.Purposes, &recipient.Name, &recipient.Country,
		&w.Created, &w.Updated, &w.Disabled, &w.Paused, &w.Failures)
	if recipient.Name != "" {
		w.Recipient = &recipient
	}
	return w, err
}

// webhook reads a webhook and locks it; or gives nil and NotFound.
func (t *txn) webhook(ctx context.Context, name string) (*Webhook, error) {
	rows, err := t.data.Query(ctx, webhookColumns+`name = $2 for update`, t.who.Tenant, name)
	if err != nil {
		return nil, err
	}
	w, err := pgx.CollectExactlyOneRow(rows, scanWebhook)
	return w, orNotFound(err)
}

// webhookFor reads a webhook for an action on it.
func (t *txn) webhookFor(ctx context.Context, name string, action policy.Action) (*Webhook, error) {
	w, err := t.webhook(ctx, name)
	if err != nil {
		return nil, err
	}
	t.entry.Resources = []resource{{Webhook: w.Name}}
	return w, t.entry.require(action)
}

// GetWebhook reads a webhook.
func (v *Vault) GetWebhook(ctx context.Context, who Caller, name string) (w *Webhook, err error) {
	err = v.within(ctx, who, policy.ReadWebhooks, func(t *txn) error {
		w, err = t.webhookFor(ctx, name, policy.ReadWebhooks)
		return err
	})
	return w, err
}

// ListWebhooks gives up to limit webhooks in the order of their names, from cursor on; the next cursor is empty at the end.
func (v *Vault) ListWebhooks(ctx context.Context, who Caller, cursor string, limit int) (page []*Webhook, next string, err error) {
	err = v.readList(ctx, who, policy.ReadWebhooks, "webhooks", cursor, func(t *txn, keys *tenantKeys, after string) error {
		rows, err := t.data.Query(ctx, webhookColumns+`name > $2 order by name limit $3`, who.Tenant, after, limit+1)
		if err != nil {
			return err
		}
		page, next, err = pageOf(keys, rows, scanWebhook, "webhooks", limit, func(w *Webhook) string { return w.Name })
		return err
	})
	return page, next, err
}
