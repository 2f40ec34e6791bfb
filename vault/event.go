package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// What happens is told to the webhooks that want to hear of it: a delivery for each, in the transaction of the cause, so that
// there is one if and only if it happened. What is told are ids.

// The kinds of event.
const (
	EventSubjectErased     = "subject.erased"
	EventSubjectRestricted = "subject.restricted"
	EventRestrictionLifted = "subject.restriction-lifted"
	EventRecordCorrected   = "record.corrected"
	EventRequestDueSoon    = "request.due-soon"
	EventRequestOverdue    = "request.overdue"
	EventRequestCompleted  = "request.completed"
	EventAlarmRaised       = "alarm.raised"
)

// EventKinds are all of them.
func EventKinds() []string {
	return []string{EventSubjectErased, EventSubjectRestricted, EventRestrictionLifted, EventRecordCorrected,
		EventRequestDueSoon, EventRequestOverdue, EventRequestCompleted, EventAlarmRaised}
}

// happening is what an event tells, in the order in which it does: ids, names from the schema, times. It never holds a
// reference, a value, a token or free text.
type happening struct {
	Certificate string     `json:"certificate,omitempty"`
	Subject     string     `json:"subject,omitempty"` // the random id, whose link to the person dies with the person
	Request     string     `json:"request,omitempty"`
	State       string     `json:"state,omitempty"`
	Due         *time.Time `json:"due_at,omitempty"`
	Alarm       string     `json:"alarm,omitempty"`
	Kind        string     `json:"kind,omitempty"` // of the alarm
	Principal   string     `json:"principal,omitempty"`
	Collections []affected `json:"collections,omitempty"`
	Part        int        `json:"part,omitempty"` // of what is too much for one message
	Parts       int        `json:"parts,omitempty"`

	subject *ID // the person, while there is one: what is told of them goes when they are erased
	erasure *ID // that recipients have to acknowledge
}

// affected are records of one collection that something happened to.
type affected struct {
	Collection string   `json:"collection"`
	Records    []string `json:"records"`
	Fields     []string `json:"fields,omitempty"`
	Version    int32    `json:"version,omitempty"`

	purposes []string // that values may be read for; none: any
}

// partRecords is how many records one message names: what receivers take without a thought.
const partRecords = 1000

// emit tells what happened to the webhooks that want to hear of it. It belongs at the end of a transaction.
func (t *txn) emit(ctx context.Context, kind string, about happening) error {
	hear, err := t.hearers(ctx, kind)
	if err != nil {
		return err
	}
	return t.tell(ctx, kind, hear, about)
}

// emitOf is emit of what happened to all records of a person, which are only looked for if somebody wants to hear of it.
func (t *txn) emitOf(ctx context.Context, kind string, subject ID, about happening) error {
	hear, err := t.hearers(ctx, kind)
	if err != nil || len(hear) == 0 {
		return err
	}
	var name string
	var limited bool
	var purposes []string
	var records []ID
	err = each(ctx, t.data, []any{&name, &limited, &purposes, &records}, func() error {
		in := affected{Collection: name}
		if limited {
			in.purposes = slices.Clone(purposes)
		}
		for _, id := range records {
			in.Records = append(in.Records, formatID(recordPrefix, id))
		}
		about.Collections = append(about.Collections, in)
		return nil
	}, `
		select c.name, coalesce(jsonb_array_length(c.definition->'purposes'), 0) > 0,
			array(select jsonb_path_query(c.definition, '$.**.purposes[*]')#>>'{}'), r.records
		from (select collection_id, array_agg(record_id order by record_id) as records from privault.records
			where tenant_id = $1 and subject_id = $2 group by collection_id) r
		join privault.collections c on c.tenant_id = $1 and c.collection_id = r.collection_id
		order by c.name`, t.who.Tenant, subject)
	if err != nil {
		return err
	}
	about.Subject = formatID(subjectPrefix, subject)
	return t.tell(ctx, kind, hear, about)
}

// hearer is a webhook that wants to hear of a kind of event.
type hearer struct {
	id                    ID
	name                  string
	collections, purposes []string
	recipient, country    string
}

func (t *txn) hearers(ctx context.Context, kind string) ([]hearer, error) {
	rows, err := t.data.Query(ctx, `
		select webhook_id, name, collections, purposes, recipient, country from privault.webhooks
		where tenant_id = $1 and $2 = any(events) and disabled_at is null order by webhook_id`, t.who.Tenant, kind)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (h hearer, err error) {
		return h, r.Scan(&h.id, &h.name, &h.collections, &h.purposes, &h.recipient, &h.country)
	})
}

// narrow leaves of what happened what the webhook is for; false: nothing.
func (h *hearer) narrow(about happening) (happening, bool) {
	if len(h.collections)+len(h.purposes) == 0 || about.subject == nil && about.erasure == nil && len(about.Collections) == 0 {
		return about, true
	}
	about.Collections = slices.DeleteFunc(slices.Clone(about.Collections), func(a affected) bool {
		return len(h.collections) > 0 && !slices.Contains(h.collections, a.Collection) ||
			len(h.purposes) > 0 && len(a.purposes) > 0 && !slices.ContainsFunc(h.purposes, func(p string) bool { return slices.Contains(a.purposes, p) })
	})
	return about, len(about.Collections) > 0
}

// parts divides what happened into what single messages say.
func (h happening) parts() []happening {
	parts, room := []happening{h}, partRecords
	parts[0].Collections = nil
	for _, a := range h.Collections {
		for records := range slices.Chunk(a.Records, partRecords) {
			if len(records) > room {
				next := h
				next.Collections, room = nil, partRecords
				parts = append(parts, next)
			}
			last := &parts[len(parts)-1]
			a.Records, room = records, room-len(records)
			last.Collections = append(last.Collections, a)
		}
	}
	for i := range parts {
		if len(parts) > 1 {
			parts[i].Part, parts[i].Parts = i+1, len(parts)
		}
	}
	return parts
}

// message is what is sent, in the form that Standard Webhooks recommends.
type message struct {
	Type        string    `json:"type"`
	Timestamp   time.Time `json:"timestamp"`
	Acknowledge string    `json:"acknowledge,omitempty"` // where a recipient acknowledges that it has done its part
	Data        happening `json:"data"`
}

// tell makes the deliveries.
func (t *txn) tell(ctx context.Context, kind string, hear []hearer, about happening) error {
	b := &pgx.Batch{}
	var wake []ID
	for i := range hear {
		h := &hear[i]
		narrowed, concerned := h.narrow(about)
		if !concerned {
			continue
		}
		wake = append(wake, h.id)
		for _, part := range narrowed.parts() {
			if err := t.queueDelivery(b, kind, h, part); err != nil {
				return err
			}
		}
		if about.erasure != nil && h.recipient != "" {
			b.Queue(`
				insert into privault.erasure_recipients (tenant_id, erasure_id, webhook_id, name, country, state) values ($1, $2, $3, $4, $5, $6)
				on conflict (tenant_id, erasure_id, webhook_id) do nothing`,
				t.who.Tenant, about.erasure, h.id, h.recipient, h.country, DeliveryPending)
		}
	}
	if len(wake) == 0 {
		return nil
	}
	if err := t.data.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	return t.wake(ctx, 0, wake...)
}

func (t *txn) queueDelivery(b *pgx.Batch, kind string, h *hearer, part happening) error {
	id, err := newID()
	if err != nil {
		return err
	}
	erasure := part.erasure
	if h.recipient == "" {
		erasure = nil // nobody waits for its acknowledgement
	}
	m := message{Type: kind, Timestamp: t.now.UTC(), Data: part}
	if h.recipient != "" {
		m.Acknowledge = fmt.Sprintf("/v1/webhooks/%s/deliveries/%s/acknowledge", h.name, formatID(deliveryPrefix, id))
	}
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	b.Queue(`
		insert into privault.webhook_deliveries (tenant_id, delivery_id, webhook_id, event, subject_id, erasure_id, body, state,
			created_at, expires_at, next_at)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $9)`,
		t.who.Tenant, id, h.id, kind, part.subject, erasure, string(body), DeliveryPending, t.now, t.now.Add(deliveryLife))
	return nil
}
