package vault

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// Purpose is what personal data may be read for, and on which of the grounds of GDPR 6.
type Purpose struct {
	Name             string
	Version          int32
	Description      string
	LegalBasis       string
	TextVersion      string // of the text that consent is asked with; consent to another one doesn't count. Empty: any
	Created, Updated time.Time
	Ends             *time.Time // when it ends, which rules of retention may count from; nil: it isn't known
}

// RequiresConsent says whether a purpose reads only those who consented to it.
func (p Purpose) RequiresConsent() bool { return p.LegalBasis == basisConsent }

const basisConsent = "consent"

var legalBases = []string{basisConsent, "contract", "legal_obligation", "vital_interests", "public_task", "legitimate_interests"}

var (
	nameOfPurpose = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	// A version of a text, a reason, a piece of evidence: a reference, never the thing itself.
	opaqueReference = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$`)
)

// PutPurpose registers a purpose, or changes it; created says which. ifVersion is the version that the caller saw; 0: any.
func (v *Vault) PutPurpose(ctx context.Context, who Caller, p Purpose, ifVersion int32) (_ *Purpose, created bool, err error) {
	err = v.changeLaw(ctx, who, policy.WritePurposes, nil, func(t *txn) error {
		if err := p.check(); err != nil {
			return err
		}
		before, err := t.purpose(ctx, p.Name)
		if err != nil {
			return err
		}
		created = before.Version == 0
		if ifVersion != 0 && before.Version != ifVersion {
			return fail(PreconditionFailed, "the purpose has another version by now, or is gone")
		}
		p.Version, p.Created, p.Updated, p.Ends = before.Version, before.Created, before.Updated, microseconds(p.Ends)
		t.entry.Resources = []resource{{Purpose: p.Name}}
		if p.same(before) {
			return nil
		}
		p.Version, p.Updated = before.Version+1, t.now
		if created {
			p.Created = t.now
		}
		_, err = t.data.Exec(ctx, `
			insert into privault.purposes (tenant_id, name, version, description, legal_basis, text_version, created_at, updated_at, ends_at)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
			on conflict (tenant_id, name) do update set version = excluded.version, description = excluded.description,
				legal_basis = excluded.legal_basis, text_version = excluded.text_version, updated_at = excluded.updated_at, ends_at = excluded.ends_at`,
			t.who.Tenant, p.Name, p.Version, p.Description, p.LegalBasis, p.TextVersion, p.Created, p.Updated, p.Ends)
		if err == nil && !sameTime(p.Ends, before.Ends) {
			err = t.restateFor(ctx, p.Name)
		}
		return err
	})
	return &p, created, err
}

// DeletePurpose unregisters a purpose. Whatever requires it is refused from then on.
func (v *Vault) DeletePurpose(ctx context.Context, who Caller, name string, ifVersion int32) error {
	known := func(t *txn) error {
		before, err := t.purpose(ctx, name)
		if err == nil && before.Version == 0 {
			return fail(NotFound, "")
		}
		return err
	}
	return v.changeLaw(ctx, who, policy.WritePurposes, known, func(t *txn) error {
		before, err := t.purpose(ctx, name)
		switch {
		case err != nil:
			return err
		case before.Version == 0:
			return fail(NotFound, "")
		case ifVersion != 0 && before.Version != ifVersion:
			return fail(PreconditionFailed, "the purpose has another version by now")
		}
		t.entry.Resources = []resource{{Purpose: name}}
		_, err = t.data.Exec(ctx, `delete from privault.purposes where tenant_id = $1 and name = $2`, t.who.Tenant, name)
		return err
	})
}

// same says whether the owner says the same of a purpose as before.
func (p *Purpose) same(before *Purpose) bool {
	a, b := *p, *before
	a.Ends, b.Ends = nil, nil
	return a == b && sameTime(p.Ends, before.Ends)
}

func (p *Purpose) check() error {
	var faults faults
	if !nameOfPurpose.MatchString(p.Name) {
		faults.add("", "name", "a purpose's name is a lower-case letter, then up to 62 of a-z 0-9 _ -")
	}
	if !slices.Contains(legalBases, p.LegalBasis) {
		faults.add("/legal_basis", "legal-basis", "the legal bases are "+list(legalBases))
	}
	if len(p.Description) > maxDescription || strings.ContainsRune(p.Description, 0) {
		faults.add("/description", "max-length", "a description has at most 1000 bytes and no U+0000")
	}
	switch {
	case p.TextVersion == "":
	case p.LegalBasis != basisConsent:
		faults.add("/consent_text_version", "not-applicable", "only a purpose on the basis of consent has a consent text")
	case !opaqueReference.MatchString(p.TextVersion):
		faults.add("/consent_text_version", "reference", referenceRule)
	}
	return faults.err()
}

const referenceRule = "a reference is a letter or digit, then up to 127 of A-Z a-z 0-9 . _ : / -"

const purposeColumns = `select name, version, description, legal_basis, text_version, created_at, updated_at, ends_at from privault.purposes `

// purpose reads a purpose; one that isn't registered has version 0.
func (t *txn) purpose(ctx context.Context, name string) (*Purpose, error) {
	if !nameOfPurpose.MatchString(name) {
		return &Purpose{Name: name}, nil
	}
	rows, err := t.data.Query(ctx, purposeColumns+`where tenant_id = $1 and name = $2`, t.who.Tenant, name)
	if err != nil {
		return nil, err
	}
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByPos[Purpose])
	if errors.Is(err, pgx.ErrNoRows) {
		return &Purpose{Name: name}, nil
	}
	return p, err
}

func currentPurposes(ctx context.Context, tx pgx.Tx, tenant ID) (map[string]Purpose, error) {
	rows, err := tx.Query(ctx, purposeColumns+`where tenant_id = $1`, tenant)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Purpose])
	byName := make(map[string]Purpose, len(all))
	for _, p := range all {
		byName[p.Name] = p
	}
	return byName, err
}

// GetPurpose reads a purpose.
func (v *Vault) GetPurpose(ctx context.Context, who Caller, name string) (p *Purpose, err error) {
	err = v.within(ctx, who, policy.ReadPurposes, func(t *txn) error {
		if p, err = t.purpose(ctx, name); err != nil {
			return err
		}
		if p.Version == 0 {
			return fail(NotFound, "")
		}
		t.entry.Resources = []resource{{Purpose: name}}
		return t.entry.require(policy.ReadPurposes)
	})
	return p, err
}

// ListPurposes gives up to limit purposes in the order of their names, from cursor on; the next cursor is empty at the end.
func (v *Vault) ListPurposes(ctx context.Context, who Caller, cursor string, limit int) (page []*Purpose, next string, err error) {
	err = v.readList(ctx, who, policy.ReadPurposes, "purposes", cursor, func(t *txn, keys *tenantKeys, after string) error {
		rows, err := t.data.Query(ctx, purposeColumns+`where tenant_id = $1 and name > $2 order by name limit $3`, who.Tenant, after, limit+1)
		if err != nil {
			return err
		}
		page, next, err = pageOf(keys, rows, pgx.RowToAddrOfStructByPos[Purpose], "purposes", limit, func(p *Purpose) string { return p.Name })
		return err
	})
	return page, next, err
}
