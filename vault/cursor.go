package vault

import (
	"context"
	"encoding/base64"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault/policy"
)

// A cursor is where a list goes on, sealed for one list of one tenant: opaque to the caller, and refused if it was
// changed or belongs to another list or tenant.

func (k *tenantKeys) sealCursor(list, position string) (string, error) {
	sealed, err := k.wrap.Encrypt([]byte(position), k.cursorPlace(list))
	return base64.RawURLEncoding.EncodeToString(sealed), err
}

// openCursor gives the position; the empty cursor is the start.
func (k *tenantKeys) openCursor(list, cursor string) (string, error) {
	if cursor == "" {
		return "", nil
	}
	sealed, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil {
		sealed, err = k.wrap.Decrypt(sealed, k.cursorPlace(list))
	}
	if err != nil {
		return "", fail(Malformed, "the cursor is not one of this list")
	}
	return string(sealed), nil
}

func (k *tenantKeys) cursorPlace(list string) []byte {
	return append(k.bound("privault/1/cursor"), list...)
}

// pageOf reads a page of up to limit of what a query gives, which is one more at most, and seals the cursor of what follows, if
// there was that one. at is the position that an element stands for.
func pageOf[T any](k *tenantKeys, rows pgx.Rows, scan pgx.RowToFunc[T], list string, limit int, at func(T) string) (page []T, next string, err error) {
	if page, err = pgx.CollectRows(rows, scan); err != nil || len(page) <= limit {
		return page, "", err
	}
	page = page[:limit]
	next, err = k.sealCursor(list, at(page[limit-1]))
	return page, next, err
}

// readList reads a page of a list, which do gives from the position on that the cursor stands for; at first, "".
func (v *Vault) readList(ctx context.Context, who Caller, action policy.Action, list, cursor string, do func(t *txn, keys *tenantKeys, from string) error) error {
	keys, err := v.keyring.of(ctx, who.Tenant)
	if err != nil {
		return v.refuseUnopened(ctx, who, action, err)
	}
	return v.within(ctx, who, action, func(t *txn) error {
		if err := t.entry.require(action); err != nil {
			return err
		}
		from, err := keys.openCursor(list, cursor)
		if err != nil {
			return err
		}
		return do(t, keys, from)
	})
}

// idBefore is the id that stands for a position in a list with the newest first.
func idBefore(prefix, position string) ID {
	if id, ok := parseID(prefix, position); ok {
		return id
	}
	return lastID
}
