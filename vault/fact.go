package vault

import (
	"context"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// Facts are what persons have said about their data: consents, objections, a restriction. They are read with the records,
// so that they hold on every replica at once. A tenant none of whose persons has any pays for a flag that comes along.

// subjectFact is one of them that holds now.
type subjectFact struct {
	kind        string
	purpose     string   // empty for a restriction
	textVersion string   // of a consent
	allowed     []string // purposes that a restriction allows all the same

	jurisdiction string // of a jurisdiction
}

// The kinds of fact.
const (
	consentFact     = "consent"
	objectionFact   = "objection"
	restrictionFact = "restriction"

	jurisdictionFact = "jurisdiction" // which is said of a person, not by one
)

// haveFacts is a column that says whether the tenant's persons have any facts.
const haveFacts = `coalesce((select g.facts from privault.governance g where g.tenant_id = $1), false)`

// selectFacts gives the facts of whose records they are when it is asked: between it and the statement that read the records, two
// persons may have become one, and a restriction must not be missed for that.
const selectFacts = `
	select r.record_id, f.kind, f.purpose, f.text_version, f.allowed, f.jurisdiction
	from unnest($2::uuid[]) y(record_id) cross join lateral (
		select r.record_id, r.subject_id from privault.records r where r.tenant_id = $1 and r.record_id = y.record_id offset 0) r
	cross join lateral (
		select f.kind, f.purpose, f.text_version, f.allowed, f.jurisdiction from privault.subject_facts f where f.tenant_id = $1 and f.subject_id = r.subject_id offset 0) f`

// factsOf are the facts that one trip brings, by record.
type factsOf struct {
	any bool
	by  map[ID][]subjectFact
}

func (f *factsOf) read(rows pgx.Rows) error {
	var of ID
	var fact subjectFact
	_, err := pgx.ForEachRow(rows, []any{&of, &fact.kind, &fact.purpose, &fact.textVersion, &fact.allowed, &fact.jurisdiction}, func() error {
		if f.by == nil {
			f.by = map[ID][]subjectFact{}
		}
		f.by[of] = append(f.by[of], fact)
		fact.allowed = nil
		return nil
	})
	return err
}

// spread gives each row the facts of its person.
func (f *factsOf) spread(rows map[ID]*row) {
	if len(f.by) == 0 {
		return
	}
	for id, r := range rows {
		r.facts = f.by[id]
	}
}

// fetchFacts is the trip of its own for a tenant of which it was not known that it has facts.
func (v *Vault) fetchFacts(ctx context.Context, tenant ID, rows map[ID]*row, facts *factsOf) error {
	b := &pgx.Batch{}
	b.Queue(selectFacts, tenant, slices.Collect(maps.Keys(rows))).Query(facts.read)
	return v.store.data.pipeline(ctx, tenant, b)
}

// subjectFacts reads the facts of one person inside a transaction; nobody has none.
func (t *txn) subjectFacts(ctx context.Context, subject *ID) ([]subjectFact, error) {
	if subject == nil {
		return nil, nil
	}
	rows, err := t.data.Query(ctx, `
		select subject_id, kind, purpose, text_version, allowed, jurisdiction from privault.subject_facts
		where tenant_id = $1 and subject_id = $2`, t.who.Tenant, *subject)
	if err != nil {
		return nil, err
	}
	var facts factsOf
	err = facts.read(rows)
	return facts.by[*subject], err
}

// facts are what a policy sees of the person whose record it is, under a purpose.
func (l *law) facts(r *row, purpose string) policy.SubjectFacts {
	s := policy.SubjectFacts{Known: r.subject != nil}
	for _, f := range r.facts {
		switch f.kind {
		case restrictionFact:
			s.Restricted = l.purposes[purpose].Version == 0 || !slices.Contains(f.allowed, purpose)
		case objectionFact:
			s.Objected = s.Objected || f.purpose == purpose
		case consentFact:
			wanted := l.purposes[f.purpose].TextVersion
			s.Consented = s.Consented || f.purpose == purpose && (wanted == "" || wanted == f.textVersion)
		case jurisdictionFact:
			s.Jurisdiction = f.jurisdiction
		}
	}
	return s
}
