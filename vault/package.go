package vault

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/audit"
	"github.com/privault/privault/vault/dsar"
	"github.com/privault/privault/vault/policy"
)

// What a person gets who asked for their data. A package is made while it is sent and stored nowhere, so there is nothing
// to clear away and nothing to steal. The records go by twice (package dsar): the first time each page has its entry before it is sent, the
// second time it must be what that entry says.

// PackageOrder says what a package is to have in it.
type PackageOrder struct {
	Request   string // whose answer it is; empty: none
	Subject   string
	Kind      string // dsar.Access or dsar.Portability
	Regime    string // dsar.GDPR, dsar.CCPA or dsar.HIPAA
	Recipient string // an age public key that the package is encrypted to; empty: it isn't
}

// sendSize is how much of a package is sent at once. A smaller one is sent when all of it is made, so that it fails as a whole.
const sendSize = 64 << 10

// packing is a package under way.
type packing struct {
	vault   *Vault
	who     Caller
	order   PackageOrder
	to      age.Recipient // nil: nobody in particular
	created time.Time
	subject *ID             // nil: nobody is known by that reference
	theirs  map[string]bool // references that are the person's: the one that was asked by, and those that records were found to have
	facts   []subjectFact
	until   ID
	parts   []*part
}

// part is what a package has of one collection.
type part struct {
	coll    *Collection
	fields  []*field // whose values are sent
	held    []*field // whose values are only said to be there
	digests [][sha256.Size]byte
}

// recipient reads an age public key.
func recipient(key string) (age.Recipient, error) {
	if key == "" {
		return nil, nil //nolint:nilnil // nobody in particular
	}
	found, err := age.ParseRecipients(strings.NewReader(key))
	if err != nil || len(found) != 1 || !strings.HasPrefix(key, "age1") || strings.ContainsAny(key, "\r\n") {
		return nil, invalid("/recipient_key", "age-recipient", "a recipient's key is one age public key, age1…")
	}
	return found[0], nil
}

// plan finds out what is held of the person, and decides on all of it.
func (v *Vault) plan(ctx context.Context, t *txn, keys *tenantKeys, order PackageOrder) (*packing, error) {
	p := &packing{vault: v, who: t.who, order: order, created: t.now, theirs: map[string]bool{order.Subject: true}}
	known, err := t.knownSubject(ctx, keys, order.Subject)
	switch {
	case err == nil:
		p.subject = &known.id
	case AsError(err).Kind != NotFound:
		return nil, err
	}
	t.entry.Resources = p.names()
	if p.facts, err = t.subjectFacts(ctx, p.subject); err != nil {
		return nil, err
	}
	if err := p.divide(ctx, t); err != nil {
		return nil, err
	}
	if err := p.decide(t.entry, p.parts...); err != nil {
		return nil, err
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	p.until, err = newIDAt(t.now)
	return p, err
}

// names are what every entry of a package names.
func (p *packing) names() []resource {
	return []resource{{Subject: formatOptional(subjectPrefix, p.subject), Request: p.order.Request}}
}

// check says what of an order can't be.
func (p *packing) check() (err error) {
	var faults faults
	if p.order.Kind != dsar.Access && p.order.Kind != dsar.Portability {
		faults.add("/type", "type", "a package is for access or portability")
	}
	if !slices.Contains([]string{dsar.GDPR, dsar.CCPA, dsar.HIPAA}, p.order.Regime) {
		faults.add("/regime", "regime", "the regimes are gdpr, ccpa and hipaa")
	}
	if err := faults.err(); err != nil {
		return err
	}
	if p.vault.audit.keys == nil || !p.vault.audit.keys.CanSign() {
		return errors.New("there is no key to sign a package with")
	}
	p.to, err = recipient(p.order.Recipient)
	return err
}

// divide finds the collections that hold records of the person.
func (p *packing) divide(ctx context.Context, t *txn) error {
	if p.subject == nil {
		return nil
	}
	holding := map[ID]bool{}
	var id ID
	err := each(ctx, t.data, []any{&id}, func() error {
		holding[id] = true
		return nil
	}, `
		select distinct r.collection_id from privault.records r
		where r.tenant_id = $1 and r.subject_id = $2 and (r.expires_at is null or r.expires_at > $3)`, t.who.Tenant, p.subject, t.now)
	if err != nil {
		return err
	}
	colls, err := collectionsOf(ctx, t.data, t.who.Tenant)
	if err != nil {
		return err
	}
	for _, c := range colls {
		if holding[c.id] {
			p.add(c)
		}
	}
	return nil
}

// add adds a collection, with the fields that the kind and the regime leave of it.
func (p *packing) add(c *Collection) {
	part := &part{coll: c}
	for _, f := range c.order {
		switch {
		case p.order.Kind == dsar.Portability && !f.portable:
		case p.order.Regime == dsar.CCPA && f.nondisclosable != "":
			part.held = append(part.held, f)
		default:
			part.fields = append(part.fields, f)
		}
	}
	if len(part.fields)+len(part.held) > 0 {
		p.parts = append(p.parts, part)
	}
}

// decide asks for each field whose values are sent.
func (p *packing) decide(e *entry, parts ...*part) error {
	facts := e.law.facts(&row{subject: p.subject, facts: p.facts}, p.who.Purpose)
	asked := false
	for _, part := range parts {
		for _, f := range part.fields {
			asked = true
			if err := e.requireField(policy.ReadPackage, policy.Plain, part.coll, f, facts); err != nil {
				return err
			}
		}
	}
	if asked {
		return nil
	}
	return e.requireField(policy.ReadPackage, policy.Plain, &Collection{Name: everyCollection}, nil, facts)
}

// write writes the package; alive is asked now and then whether to go on.
func (p *packing) write(ctx context.Context, out io.Writer, alive func(context.Context) error) error {
	buffered := bufio.NewWriterSize(out, sendSize)
	if p.to == nil {
		if err := p.archive(ctx, buffered, alive); err != nil {
			return err
		}
		return buffered.Flush()
	}
	sealed, err := age.Encrypt(buffered, p.to)
	if err != nil {
		return err
	}
	if err := p.archive(ctx, sealed, alive); err != nil {
		return err
	}
	if err := sealed.Close(); err != nil {
		return err
	}
	return buffered.Flush()
}

func (p *packing) archive(ctx context.Context, out io.Writer, alive func(context.Context) error) error {
	w := dsar.New(out, dsar.Head{Request: p.order.Request, Subject: p.order.Subject, Kind: p.order.Kind, Regime: p.order.Regime, Created: p.created,
		Deployment: uuid.UUID(p.vault.deployment).String(), Tenant: uuid.UUID(p.who.Tenant).String()})
	err := w.Data(func(collection func(dsar.Collection, dsar.Records) error) error {
		for _, part := range p.parts {
			if err := collection(part.describe(), p.records(ctx, part, alive, false)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, part := range p.parts {
		if err := w.Table(part.describe(), p.records(ctx, part, alive, true)); err != nil {
			return err
		}
	}
	told, err := p.processing(ctx)
	if err != nil {
		return err
	}
	return w.Finish(told, func(text string) ([]byte, error) {
		return p.vault.audit.keys.SignText(audit.PackageTitle + "\n" + text)
	})
}

// describe tells what a collection is, as far as the package is about it.
func (c *part) describe() dsar.Collection {
	d := &c.coll.Definition
	out := dsar.Collection{Name: c.coll.Name, Description: d.Description, Purposes: d.Purposes, PurposeRequired: d.PurposeRequired}
	if d.Retention != nil {
		out.Retention = &dsar.Retention{Keep: d.Retention.Keep, After: d.Retention.After, Action: d.Retention.Action}
		if m := d.Retention.Minimum; m != nil {
			out.Retention.Minimum, out.Retention.Ground = m.Keep, m.Ground
		}
	}
	for _, f := range c.coll.order {
		held := slices.Contains(c.held, f)
		if !held && !slices.Contains(c.fields, f) {
			continue
		}
		described := dsar.Field{Name: f.name, Type: d.Fields[f.name].Type, Classification: f.classification, Purposes: f.purposes, Portable: f.portable}
		if held {
			described.Held = f.nondisclosable
		}
		out.Fields = append(out.Fields, described)
	}
	return out
}

// errMoved is that the two times that the records went by were not alike.
var errMoved = &Error{Kind: Conflict, Detail: "the person's records changed while the package was made; fetch it again"}

// records gives the records of a collection, page by page. The first time, the entry of each page is durable before any of it goes
// on; again, each page must have just the records, in just the versions, that its entry is about.
func (p *packing) records(ctx context.Context, part *part, alive func(context.Context) error, again bool) dsar.Records {
	return func(add func(*dsar.Record) error) error {
		s := &scan{collection: part.coll.id, subject: p.subject, until: p.until}
		for n, more := 0, true; more; n++ {
			e, err := p.vault.open(p.who, policy.ReadPackage)
			if err != nil {
				return err
			}
			e.Resources = p.names()
			var page []*dsar.Record
			var digest [sha256.Size]byte
			page, digest, more, err = p.page(ctx, e, part, s)
			if err == nil && again && (n >= len(part.digests) || digest != part.digests[n]) {
				err = errMoved
			}
			if err != nil {
				return p.vault.refuse(ctx, e, err)
			}
			if !again {
				part.digests = append(part.digests, digest)
				if err := p.vault.commit(ctx, &change{entry: e}); err != nil {
					return AsError(err)
				}
				p.vault.metrics.batch(string(policy.ReadPackage), e.Items, e.Refused)
			}
			if err := alive(ctx); err != nil {
				return err
			}
			for _, r := range page {
				if err := add(r); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// personThere asks whether a person is there under an id, and whether somebody else is by whom they are known since.
const personThere = `
	select exists (select from privault.subjects where tenant_id = $1 and subject_id = $2),
		exists (select from privault.subject_links where tenant_id = $1 and merged_id = $2)`

// moved says what has become of a person who isn't there any more; nil: they are.
func moved(there, merged bool) error {
	switch {
	case merged:
		return errMoved
	case !there:
		return fail(SubjectErased, "the person was erased while the package was made")
	}
	return nil
}

// isTheirs says whether a reference is the person's. It is asked of the database once of each.
func (p *packing) isTheirs(ctx context.Context, keys *tenantKeys, reference string) (bool, error) {
	if p.theirs[reference] || reference == "" {
		return reference != "", nil
	}
	s, err := keys.subject(reference)
	if err != nil {
		return false, err
	}
	var theirs, there, merged bool
	b := &pgx.Batch{}
	b.Queue(`
		select exists (select from privault.subjects where tenant_id = $1 and subject_id = $2 and digest = any($3))`,
		p.who.Tenant, p.subject, s.all).QueryRow(func(row pgx.Row) error { return row.Scan(&theirs) })
	// Afterwards: who has gone by the first has by the second.
	b.Queue(personThere, p.who.Tenant, p.subject).QueryRow(func(row pgx.Row) error { return row.Scan(&there, &merged) })
	if err := p.vault.store.data.pipeline(ctx, p.who.Tenant, b); err != nil {
		return false, err
	}
	if !theirs {
		if err := moved(there, merged); err != nil {
			return false, err
		}
	}
	p.theirs[reference] = theirs
	return theirs, nil
}

// page opens the next records, and gives what tells this page from every other.
func (p *packing) page(ctx context.Context, e *entry, part *part, s *scan) (page []*dsar.Record, digest [sha256.Size]byte, more bool, err error) {
	if err := p.decide(e, part); err != nil {
		return nil, digest, false, err // the policy may have changed since the last page
	}
	keys, err := p.vault.keyring.of(ctx, p.who.Tenant)
	if err != nil {
		return nil, digest, false, err
	}
	ids, more, err := p.vault.scanIDs(ctx, p.who.Tenant, s)
	if err != nil {
		return nil, digest, false, err
	}
	found := &found{}
	if len(ids) > 0 {
		if found, err = p.vault.look(ctx, p.who.Tenant, ask{ids: ids}); err != nil {
			return nil, digest, false, err
		}
	}
	r := p.vault.newReader(keys, e)
	r.unwrap(ctx, found.rows)
	sum := sha256.New()
	for _, id := range ids {
		row := found.rows[id]
		if row == nil {
			continue // expired, or gone: if since the first time, the digest is another
		}
		rec, err := p.open(ctx, r, part, row, sum)
		if errors.Is(err, errDue) {
			continue
		}
		if err != nil {
			return nil, digest, false, r.failed(ctx, err)
		}
		if len(rec.Values)+len(rec.Held) > 0 {
			page = append(page, rec)
		}
	}
	r.conclude()
	e.Items = len(page)
	return page, [sha256.Size]byte(sum.Sum(nil)), more, nil
}

// open opens one record, which must be this person's by its own word: whose it is stands in its row for everybody who can
// write the database, and is sealed inside it.
func (p *packing) open(ctx context.Context, r *reader, part *part, row *row, sum hash.Hash) (*dsar.Record, error) {
	o, err := r.open(ctx, row)
	if err != nil {
		return nil, err
	}
	whose, err := r.plain(o, subjectField)
	if err != nil {
		return nil, err
	}
	theirs, err := p.isTheirs(ctx, r.keys, string(whose))
	if err != nil {
		return nil, err
	}
	if !theirs || row.collection != part.coll.id {
		return nil, &Error{Kind: IntegrityFailure, cause: fmt.Errorf("record %s is found as one of a person whose it isn't", o.id)}
	}
	sum.Write(row.id[:])
	sum.Write(binary.BigEndian.AppendUint32(nil, uint32(row.version)))
	rec := &dsar.Record{ID: o.id, Created: row.created, Updated: row.updated, Expires: row.expires, Values: map[string]json.RawMessage{}}
	for _, f := range part.fields {
		if _, has := o.boxes.Get(uint32(f.number)); !has {
			continue
		}
		value, err := r.show(o, f, policy.Plain, policy.ReadPackage)
		if err != nil {
			return nil, err
		}
		rec.Values[f.name] = bytes.Clone(value.Reveal())
	}
	for _, f := range part.held {
		if _, has := o.boxes.Get(uint32(f.number)); has {
			rec.Held = append(rec.Held, f.name)
		}
	}
	return rec, nil
}
