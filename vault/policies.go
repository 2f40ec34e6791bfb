package vault

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// Policy is one version of a tenant's own policy: a document of Cedar policies, in force beside the roles.
type Policy struct {
	Name    string
	Version int32
	Text    string
	Deleted bool // this version is the end of it
	Created time.Time
	By      string // the principal
}

var nameOfPolicy = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

// maxPolicies bounds the documents of one tenant.
const maxPolicies = 100

// PutPolicy stores the next version of a policy and puts it in force: here for calls that begin afterwards, elsewhere
// within 5 s. ifVersion is the version that the caller saw; 0: any.
func (v *Vault) PutPolicy(ctx context.Context, who Caller, name, text string, ifVersion int32) (p *Policy, created bool, err error) {
	err = v.changeLaw(ctx, who, policy.WritePolicies, nil, func(t *txn) error {
		if !nameOfPolicy.MatchString(name) {
			return invalid("", "name", "a policy's name is a lower-case letter, then up to 62 of a-z 0-9 _ -")
		}
		if faults := policy.Check(text); len(faults) > 0 {
			return policyFaults(faults)
		}
		if p, err = t.lastPolicy(ctx, name); err != nil {
			return err
		}
		created = p.Version == 0 || p.Deleted
		t.entry.Resources = []resource{{Policy: name, Version: p.Version}}
		switch {
		case ifVersion != 0 && (created || p.Version != ifVersion):
			return fail(PreconditionFailed, "the policy has another version by now, or is gone")
		case !created && p.Text == text:
			return nil
		}
		p = &Policy{Name: name, Version: p.Version + 1, Text: text}
		return t.storePolicy(ctx, p)
	})
	return p, created, err
}

// DeletePolicy puts a policy out of force; its history stays. ifVersion is the version that the caller saw; 0: any.
func (v *Vault) DeletePolicy(ctx context.Context, who Caller, name string, ifVersion int32) error {
	known := func(t *txn) error {
		_, err := t.policyInForce(ctx, name)
		return err
	}
	return v.changeLaw(ctx, who, policy.WritePolicies, known, func(t *txn) error {
		p, err := t.policyInForce(ctx, name)
		if err != nil {
			return err
		}
		if ifVersion != 0 && p.Version != ifVersion {
			return fail(PreconditionFailed, "the policy has another version by now")
		}
		return t.storePolicy(ctx, &Policy{Name: name, Version: p.Version + 1, Deleted: true})
	})
}

func (t *txn) storePolicy(ctx context.Context, p *Policy) error {
	p.Created, p.By = t.now, t.entry.Principal
	t.entry.Resources = []resource{{Policy: p.Name, Version: p.Version}}
	text := &p.Text
	if p.Deleted {
		text = nil
	}
	_, err := t.data.Exec(ctx, `
		insert into privault.policies (tenant_id, name, version, text, created_at, created_by) values ($1, $2, $3, $4, $5, $6)`,
		t.who.Tenant, p.Name, p.Version, text, t.now, t.who.Principal)
	if err != nil {
		return err
	}
	documents, err := currentPolicies(ctx, t.data, t.who.Tenant)
	if err != nil {
		return err
	}
	if len(documents) > maxPolicies {
		return fail(Conflict, "a tenant has at most %d policies", maxPolicies)
	}
	set, err := policy.Compile(documents)
	if err != nil {
		return err
	}
	if !set.Decide(t.entry.question(policy.WritePolicies, policy.NoView)).Allowed {
		return fail(Conflict, "with this change you could no longer change policies: whoever does so must keep policy.write")
	}
	return nil
}

// policyFaults says what is wrong with a text, and where.
func policyFaults(faults []policy.Fault) error {
	err := &Error{Kind: Invalid}
	for _, f := range faults {
		err.Fields = append(err.Fields, FieldError{"/text", f.Rule})
		err.At = append(err.At, Place{f.Line, f.Column})
		if err.Detail != "" {
			err.Detail += "; "
		}
		err.Detail += fmt.Sprintf("line %d, column %d: %s", f.Line, f.Column, f.Detail)
	}
	return err
}

const policyColumns = `select name, version, coalesce(text, ''), text is null, created_at, created_by from privault.policies `

func scanPolicy(r pgx.CollectableRow) (*Policy, error) {
	p := &Policy{}
	var by ID
	err := r.Scan(&p.Name, &p.Version, &p.Text, &p.Deleted, &p.Created, &by)
	p.By = formatID(principalPrefix, by)
	return p, err
}

// lastPolicy is the newest version of a policy; one that never was has version 0.
func (t *txn) lastPolicy(ctx context.Context, name string) (*Policy, error) {
	if !nameOfPolicy.MatchString(name) {
		return &Policy{}, nil
	}
	rows, err := t.data.Query(ctx, policyColumns+`where tenant_id = $1 and name = $2 order by version desc limit 1`, t.who.Tenant, name)
	if err != nil {
		return nil, err
	}
	p, err := pgx.CollectExactlyOneRow(rows, scanPolicy)
	if errors.Is(err, pgx.ErrNoRows) {
		return &Policy{}, nil
	}
	return p, err
}

func (t *txn) policyInForce(ctx context.Context, name string) (*Policy, error) {
	p, err := t.lastPolicy(ctx, name)
	if err == nil && (p.Version == 0 || p.Deleted) {
		return nil, fail(NotFound, "")
	}
	return p, err
}

// currentPolicies are the documents in force.
func currentPolicies(ctx context.Context, tx pgx.Tx, tenant ID) ([]policy.Document, error) {
	rows, err := tx.Query(ctx, `
		select name, version, text from (
			select distinct on (name) name, version, text from privault.policies where tenant_id = $1 order by name, version desc) p
		where text is not null order by name`, tenant)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[policy.Document])
}

// GetPolicy reads the version of a policy that is in force.
func (v *Vault) GetPolicy(ctx context.Context, who Caller, name string) (p *Policy, err error) {
	err = v.within(ctx, who, policy.ReadPolicies, func(t *txn) error {
		if p, err = t.policyInForce(ctx, name); err != nil {
			return err
		}
		t.entry.Resources = []resource{{Policy: p.Name, Version: p.Version}}
		return t.entry.require(policy.ReadPolicies)
	})
	return p, err
}

// PolicyHistory gives every version that a policy ever had, the newest first.
func (v *Vault) PolicyHistory(ctx context.Context, who Caller, name, cursor string, limit int) (page []*Policy, next string, err error) {
	return v.listPolicies(ctx, who, "policy/"+name, cursor, limit, `where tenant_id = $1 and name = $3
			and version < coalesce(nullif($2::text, '')::int, 2147483647)
		order by version desc`, func(p *Policy) string { return fmt.Sprint(p.Version) }, name)
}

// ListPolicies gives up to limit of the policies in force in the order of their names, from cursor on; the next cursor is
// empty at the end.
func (v *Vault) ListPolicies(ctx context.Context, who Caller, cursor string, limit int) (page []*Policy, next string, err error) {
	return v.listPolicies(ctx, who, "policies", cursor, limit, `p where tenant_id = $1 and name > $2 and text is not null and version = (
			select max(l.version) from privault.policies l where l.tenant_id = $1 and l.name = p.name)
		order by name`, func(p *Policy) string { return p.Name })
}

func (v *Vault) listPolicies(ctx context.Context, who Caller, list, cursor string, limit int, where string, position func(*Policy) string,
	args ...any) (page []*Policy, next string, err error) {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return nil, "", v.refuseUnopened(ctx, who, policy.ReadPolicies, err)
	}
	err = v.within(ctx, who, policy.ReadPolicies, func(t *txn) error {
		if len(args) > 0 { // one policy's history
			p, err := t.lastPolicy(ctx, args[0].(string))
			if err != nil {
				return err
			}
			if p.Version == 0 {
				return fail(NotFound, "")
			}
		}
		if err := t.entry.require(policy.ReadPolicies); err != nil {
			return err
		}
		after, err := keys.openCursor(list, cursor)
		if err != nil {
			return err
		}
		rows, err := t.data.Query(ctx, policyColumns+where+fmt.Sprintf(` limit %d`, limit+1), slices.Concat([]any{who.Tenant, after}, args)...)
		if err != nil {
			return err
		}
		page, next, err = pageOf(keys, rows, scanPolicy, list, limit, position)
		return err
	})
	return page, next, err
}
