package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/dsar"
	"github.com/privault/privault/vault/policy"
)

// What a person's package says of the processing: purposes and legal bases, who saw and who stored the data, what the person
// said about it.

// accountingPage is how many disclosures are in memory at once.
const accountingPage = 200

// processing reads it, and makes sure that the person is still there: who was erased meanwhile gets no package.
func (p *packing) processing(ctx context.Context) (told dsar.Processing, err error) {
	err = p.vault.within(ctx, p.who, policy.ReadPackage, func(t *txn) error {
		told = dsar.Processing{Purposes: []dsar.Purpose{}, Recipients: []dsar.Recipient{}, Sources: []dsar.Recipient{}, Statements: []dsar.Statement{}}
		t.entry.Resources = p.names()
		if err := p.decide(t.entry, p.parts...); err != nil {
			return err
		}
		if p.subject == nil {
			return nil
		}
		var there, merged bool
		if err := t.data.QueryRow(ctx, personThere, t.who.Tenant, p.subject).Scan(&there, &merged); err != nil {
			return err
		}
		if err := moved(there, merged); err != nil {
			return err
		}
		if err := t.account(ctx, *p.subject, &told); err != nil {
			return err
		}
		if err := t.statements(ctx, *p.subject, &told); err != nil {
			return err
		}
		p.purposes(t.entry.law, &told)
		told.Jurisdiction, err = t.jurisdictionOf(ctx, *p.subject)
		return err
	})
	return told, err
}

// purposes are those that the data may be read for, and those that it was.
func (p *packing) purposes(l *law, told *dsar.Processing) {
	wanted := map[string]bool{}
	for _, r := range told.Recipients {
		wanted[r.Purpose] = true
	}
	for _, part := range p.parts {
		of := func(names []string) {
			if len(names) == 0 {
				names = slices.Collect(maps.Keys(l.purposes)) // any of them
			}
			for _, name := range names {
				wanted[name] = true
			}
		}
		of(part.coll.Definition.Purposes)
		for _, f := range slices.Concat(part.fields, part.held) {
			if len(f.purposes) > 0 {
				of(f.purposes)
			}
		}
	}
	for _, name := range sortedKeys(l.purposes) {
		if purpose := l.purposes[name]; wanted[name] {
			told.Purposes = append(told.Purposes, dsar.Purpose{Name: name, Description: purpose.Description, LegalBasis: purpose.LegalBasis, TextVersion: purpose.TextVersion})
		}
	}
}

// involvement is somebody who saw, or stored, values for one purpose.
type involvement struct {
	principal, purpose string
	stored             bool
}

// account adds up the disclosures of a person: who saw values, who stored them. Packages for the person don't count.
func (t *txn) account(ctx context.Context, subject ID, told *dsar.Processing) error {
	sums := map[involvement]*dsar.Recipient{}
	for before, more := lastID, true; more; {
		page, last, err := t.disclosures(ctx, subject, before, accountingPage+1)
		if err != nil {
			return err
		}
		if before, more = last, len(page) > accountingPage; more {
			page = page[:accountingPage]
		}
		for _, d := range page {
			if err := addUp(sums, d); err != nil {
				return err
			}
		}
	}
	names, err := t.principalNames(ctx, sums)
	if err != nil {
		return err
	}
	order := slices.SortedFunc(maps.Keys(sums), func(a, b involvement) int { return sums[a].First.Compare(sums[b].First) })
	for _, who := range order {
		sum := sums[who]
		sum.Principal, sum.Purpose = names[who.principal], who.purpose
		for _, fields := range sum.Fields {
			slices.Sort(fields)
		}
		if who.stored {
			told.Sources = append(told.Sources, *sum)
		} else {
			told.Recipients = append(told.Recipients, *sum)
		}
	}
	return nil
}

// addUp adds one disclosure to what is known of whoever made it.
func addUp(sums map[involvement]*dsar.Recipient, d Disclosure) error {
	stored := slices.Contains([]string{string(policy.Tokenize), string(policy.UpdateRecord), string(policy.RunRequests)}, d.Action) // a correction, of the last
	if d.Outcome != outcomeOK || d.Action == string(policy.ReadPackage) {
		return nil
	}
	at, err := time.Parse(time.RFC3339Nano, d.At)
	if err != nil {
		return &Error{Kind: IntegrityFailure, cause: fmt.Errorf("the time of an audit entry does not parse: %w", err)}
	}
	who := involvement{d.Principal, d.Purpose, stored}
	counted := false
	for _, r := range d.Resources {
		shown := r.View == policy.Plain.String() || r.View == policy.Masked.String()
		if r.Outcome == outcomeDenied || !stored && !shown {
			continue
		}
		sum := sums[who]
		if sum == nil {
			sum = &dsar.Recipient{Fields: map[string][]string{}, First: at, Last: at}
			sums[who] = sum
		}
		if !counted {
			counted, sum.Times, sum.First = true, sum.Times+1, at // the newest comes first
		}
		for _, name := range r.Fields {
			if !slices.Contains(sum.Fields[r.Collection], name) {
				sum.Fields[r.Collection] = append(sum.Fields[r.Collection], name)
			}
		}
	}
	return nil
}

// principalNames are what a person is told of whoever saw the data: a principal's name, or, of those who are vouched for, by
// whom. So nobody of the staff is named who signs in with a name of their own.
func (t *txn) principalNames(ctx context.Context, sums map[involvement]*dsar.Recipient) (map[string]string, error) {
	var ids []ID
	for who := range sums {
		if id, ok := parseID(principalPrefix, who.principal); ok {
			ids = append(ids, id)
		}
	}
	names := map[string]string{"": "operator"} // on the machine itself
	var id ID
	var name string
	return names, each(ctx, t.data, []any{&id, &name}, func() error {
		names[formatID(principalPrefix, id)] = name
		return nil
	}, `select principal_id, coalesce(authority, name) from privault.principals where tenant_id = $1 and principal_id = any($2)`, t.who.Tenant, ids)
}

// statements are what the person said about the data.
func (t *txn) statements(ctx context.Context, subject ID, told *dsar.Processing) error {
	var s dsar.Statement
	err := each(ctx, t.data, []any{&s.At, &s.Kind, &s.Purpose, &s.Given, &s.TextVersion, &s.Reference}, func() error {
		told.Statements = append(told.Statements, s)
		return nil
	}, `
		select at, kind, purpose, begins, text_version, reference from privault.subject_history
		where tenant_id = $1 and subject_id = $2 order by event_id`, t.who.Tenant, subject)
	if err != nil {
		return err
	}
	restricted, err := t.said(ctx, subject, restrictionFact, "")
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	told.Restriction = &dsar.Restriction{Since: restricted.Since, Reason: restricted.Reference, Allowed: restricted.Allowed}
	return err
}
