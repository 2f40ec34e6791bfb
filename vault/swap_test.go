package vault_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/seal"
	"github.com/privault/privault/vault/vaulttest"
)

// Threats T-1 and T-2: whoever may write to the databases moves ciphertext or keys from one place to another. What they
// moved never gives a value: it doesn't open where it is now, or there is nothing any more where it was.

// spot is one stored value, in a place of its own.
type spot struct {
	who    vault.Caller
	coll   string
	record vault.Tokenized
	field  string
	value  string
}

func (s spot) token() string  { return s.record.Tokens[s.field] }
func (s spot) id() [16]byte   { return vault.RecordID(s.record.Record) }
func (s spot) number() uint32 { return map[string]uint32{"email": 1, "name": 2}[s.field] }

// spots are values that differ in one part of their place, the version left out.
type spots struct {
	*vaulttest.Bench
	t *testing.T

	here, field, record, collection, tenant spot
}

// newSpots stores them in a vault that stories may share: each has tenants of its own.
func newSpots(t *testing.T, b *vaulttest.Bench) *spots {
	t.Helper()
	s := &spots{Bench: b, t: t}
	mine, theirs := s.Tenant(), s.Tenant()
	put := func(who vault.Caller, coll string) spot {
		fields := map[string]string{"name": "name-" + coll, "email": coll + "@example.com"}
		return spot{who, coll, s.MustTokenize(who, coll, fields), "name", `"` + fields["name"] + `"`}
	}
	for _, who := range []vault.Caller{mine, theirs} {
		for _, coll := range []string{"people", "others"} {
			s.Collection(who, coll, map[string]string{"name": "string", "email": "string"})
		}
	}
	s.here, s.record, s.collection, s.tenant = put(mine, "people"), put(mine, "people"), put(mine, "others"), put(theirs, "people")
	s.field = s.here
	s.field.field, s.field.value = "email", `"people@example.com"`
	for _, at := range []spot{s.here, s.field, s.record, s.collection, s.tenant} {
		if got := s.Reveal(at.who, at.token()); got != at.value {
			t.Fatalf("before any swap the token gives %s, want %s", got, at.value)
		}
	}
	return s
}

// refuses fails the test if any of the spots still gives a value, in any way that a value can be had.
func (s *spots) refuses(t *testing.T, v *vault.Vault, want vault.Kind, at ...spot) {
	t.Helper()
	ctx := t.Context()
	for _, at := range at {
		for _, view := range []string{"plain", "masked"} {
			done, err := v.Detokenize(ctx, at.who, []vault.TokenRef{{Token: at.token(), View: view}})
			if err == nil && done[0].Err != nil {
				err = done[0].Err
			}
			if kind(err) != want {
				t.Errorf("the %s of %s in view %s: %v, want %s", at.field, at.coll, view, err, want)
			}
			if err == nil {
				t.Errorf("it gives %s", done[0].Value.Reveal())
			}
		}
		record := want
		if want == vault.TokenNotFound {
			record = vault.NotFound
		}
		_, err := v.GetRecord(ctx, at.who, at.coll, at.record.Record, []string{at.field}, "plain")
		wantKind(t, "reading the record", err, record)
		_, err = v.PatchRecord(ctx, at.who, at.coll, at.record.Record, vault.Patch{
			Fields: map[string]vault.Secret{other(at.field): secret(`"new"`)}, IfVersion: 1})
		wantKind(t, "patching the record", err, record)
	}
}

func other(field string) string { return map[string]string{"email": "name", "name": "email"}[field] }

// boxes are those of a stored record.
func (s *spots) boxes(at spot) seal.Boxes {
	s.t.Helper()
	boxes, err := seal.Unpack(s.sealed(at))
	if err != nil {
		s.t.Fatal(err)
	}
	return boxes
}

func (s *spots) sealed(at spot) []byte {
	s.t.Helper()
	return bytesOf(s.t, s.OwnerURL, `select sealed from privault.records where record_id = $1`, at.id())
}

func bytesOf(t *testing.T, url, query string, args ...any) (b []byte) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	if err := c.QueryRow(t.Context(), query, args...).Scan(&b); err != nil {
		t.Fatal(err)
	}
	return b
}

func (s *spots) setSealed(at spot, sealed []byte) {
	s.Exec(`update privault.records set sealed = $2 where record_id = $1`, at.id(), sealed)
}

// exchange swaps the boxes of two values, and the keys of their records too if keys says so.
func (s *spots) exchange(a, b spot, keys bool) {
	s.t.Helper()
	if a.id() == b.id() {
		boxes := s.boxes(a)
		boxes[0].Sealed, boxes[1].Sealed = boxes[1].Sealed, boxes[0].Sealed
		s.setSealed(a, boxes.Pack())
		return
	}
	ofA, ofB := s.boxes(a), s.boxes(b)
	for i := range ofA {
		if ofA[i].Field == a.number() {
			ofA[i].Sealed, ofB[i].Sealed = ofB[i].Sealed, ofA[i].Sealed
		}
	}
	s.setSealed(a, ofA.Pack())
	s.setSealed(b, ofB.Pack())
	if keys {
		vaulttest.ExecURL(s.t, s.KeysURL, `
			update keystore.data_keys k set wrapped = o.wrapped from keystore.data_keys o
			where (k.record_id, o.record_id) in (($1::uuid, $2::uuid), ($2, $1))`, a.id(), b.id())
	}
}

func TestBoxesAndKeysExchangedBetweenPlaces(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	for name, pick := range map[string]func(*spots) spot{
		"field":      func(s *spots) spot { return s.field },
		"record":     func(s *spots) spot { return s.record },
		"collection": func(s *spots) spot { return s.collection },
		"tenant":     func(s *spots) spot { return s.tenant },
	} {
		for what, keys := range map[string]bool{"boxes": false, "boxes and keys": true} {
			t.Run(name+" "+what, func(t *testing.T) {
				t.Parallel()
				s := newSpots(t, v)
				there := pick(s)
				s.exchange(s.here, there, keys)
				s.refuses(t, s.Vault, vault.IntegrityFailure, s.here, there)
			})
		}
	}
}

// exchangeIDs swaps the record ids of two rows.
func exchangeIDs(s *spots, table string) {
	meanwhile := s.here.id()
	meanwhile[0]++
	for _, step := range [][2][16]byte{{s.here.id(), meanwhile}, {s.record.id(), s.here.id()}, {meanwhile, s.record.id()}} {
		s.Exec(`update `+table+` set record_id = $2 where record_id = $1`, step[0], step[1])
	}
}

func TestRowsMovedToAnotherPlace(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	for name, story := range map[string]struct {
		move func(*spots)
		want map[string]vault.Kind // of here, and of there
	}{
		"sealed column copied to another record": {
			func(s *spots) { s.setSealed(s.record, s.sealed(s.here)) },
			map[string]vault.Kind{"record": vault.IntegrityFailure}},
		"sealed column and key copied to another record": {
			func(s *spots) {
				s.setSealed(s.record, s.sealed(s.here))
				s.Exec(`update keystore.data_keys set wrapped = (select wrapped from keystore.data_keys where record_id = $1) where record_id = $2`,
					s.here.id(), s.record.id())
			},
			map[string]vault.Kind{"record": vault.IntegrityFailure}},
		"sealed column and key copied to another tenant": {
			func(s *spots) {
				s.setSealed(s.tenant, s.sealed(s.here))
				s.Exec(`update keystore.data_keys set wrapped = (select wrapped from keystore.data_keys where record_id = $1) where record_id = $2`,
					s.here.id(), s.tenant.id())
			},
			map[string]vault.Kind{"tenant": vault.IntegrityFailure}},
		"another collection_id": {
			func(s *spots) {
				s.Exec(`update privault.records set collection_id = (select collection_id from privault.records where record_id = $2) where record_id = $1`,
					s.here.id(), s.collection.id())
				s.here.coll = "others"
			},
			map[string]vault.Kind{"here": vault.IntegrityFailure}},
		"another tenant_id on the record": {
			func(s *spots) {
				s.Exec(`update privault.records set tenant_id = $2 where record_id = $1`, s.here.id(), s.tenant.who.Tenant)
			},
			map[string]vault.Kind{"here": vault.TokenNotFound}},
		"the record and its key under another tenant's ids": {
			func(s *spots) {
				s.Exec(`delete from privault.records where record_id = $1`, s.tenant.id())
				s.Exec(`delete from keystore.data_keys where record_id = $1`, s.tenant.id())
				s.Exec(`update keystore.data_keys set tenant_id = $2, record_id = $3 where record_id = $1`, s.here.id(), s.tenant.who.Tenant, s.tenant.id())
				s.Exec(`update privault.records set tenant_id = $2, record_id = $3, collection_id =
					(select collection_id from privault.collections where tenant_id = $2 and name = 'people') where record_id = $1`,
					s.here.id(), s.tenant.who.Tenant, s.tenant.id())
			},
			map[string]vault.Kind{"here": vault.TokenNotFound, "tenant": vault.IntegrityFailure}},
		"record ids exchanged": {
			func(s *spots) {
				exchangeIDs(s, "privault.records")
			},
			map[string]vault.Kind{"here": vault.IntegrityFailure, "record": vault.IntegrityFailure}},
		"record ids exchanged in both tables": {
			func(s *spots) {
				exchangeIDs(s, "privault.records")
				exchangeIDs(s, "keystore.data_keys")
			},
			map[string]vault.Kind{"here": vault.IntegrityFailure, "record": vault.IntegrityFailure}},
		"another version on the record": {
			func(s *spots) {
				s.Exec(`update privault.records set version = 2 where record_id = $1`, s.here.id())
			},
			map[string]vault.Kind{"here": vault.TokenNotFound}},
		"another version on the record and its key": {
			func(s *spots) {
				s.Exec(`update privault.records set version = 2 where record_id = $1`, s.here.id())
				s.Exec(`update keystore.data_keys set version = 2 where record_id = $1`, s.here.id())
			},
			map[string]vault.Kind{"here": vault.IntegrityFailure}},
		"another epoch": {
			func(s *spots) {
				s.Exec(`update privault.records set epoch = 1 where record_id = $1`, s.here.id())
			},
			map[string]vault.Kind{}}, // the record may still be read by its id
		"no key": {
			func(s *spots) {
				s.Exec(`delete from keystore.data_keys where record_id = $1`, s.here.id())
			},
			map[string]vault.Kind{"here": vault.TokenNotFound}},
		"wrapped DEK of nothing": {
			func(s *spots) {
				s.Exec(`update keystore.data_keys set wrapped = decode(repeat('00', 77), 'hex') where record_id = $1`, s.here.id())
			},
			map[string]vault.Kind{"here": vault.IntegrityFailure}},
		"sealed column of nothing": {
			func(s *spots) { s.setSealed(s.here, []byte{}) },
			map[string]vault.Kind{"here": vault.IntegrityFailure}},
		"sealed column of another format": {
			func(s *spots) {
				sealed := s.sealed(s.here)
				sealed[0]++
				s.setSealed(s.here, sealed)
			},
			map[string]vault.Kind{"here": vault.IntegrityFailure}},
		"sealed column cut off": {
			func(s *spots) {
				sealed := s.sealed(s.here)
				s.setSealed(s.here, sealed[:len(sealed)-1])
			},
			map[string]vault.Kind{"here": vault.IntegrityFailure}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSpots(t, v)
			story.move(s)
			for at, want := range story.want {
				switch at {
				case "here":
					s.refuses(t, s.Vault, want, s.here)
				case "record":
					s.refuses(t, s.Vault, want, s.record)
				case "tenant":
					s.refuses(t, s.Vault, want, s.tenant)
				}
			}
			if len(story.want) == 0 {
				if got := s.Reveal(s.here.who, s.here.token()); got != string(vault.TokenNotFound) {
					t.Errorf("the token gives %s", got)
				}
			}
			// Neighbours that weren't touched go on.
			if _, moved := story.want["tenant"]; !moved {
				if got := s.Reveal(s.tenant.who, s.tenant.token()); got != s.tenant.value {
					t.Errorf("the other tenant's token gives %s", got)
				}
			}
		})
	}
}

// Threat T-3 for one row: yesterday's row put back does not open, because its DEK went with the change.
func TestRowPutBackAfterAChange(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSpots(t, vaulttest.New(t, options...))
			s.Exec(`create table public.yesterday as select tenant_id, record_id, collection_id, subject_id, created_at, updated_at, expires_at, version, epoch, sealed from privault.records`)
			_, err := s.PatchRecord(t.Context(), s.here.who, "people", s.here.record.Record,
				vault.Patch{Fields: map[string]vault.Secret{"name": secret(`"new"`)}, IfVersion: 1})
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Reveal(s.here.who, s.here.token()); got != `"new"` {
				t.Errorf("after the change the token gives %s", got)
			}
			// The old content under the new version number: what a version column alone would let through.
			s.Exec(`update privault.records r set sealed = y.sealed from public.yesterday y where y.record_id = r.record_id and r.record_id = $1`, s.here.id())
			if got := s.Reveal(s.here.who, s.here.token()); got != string(vault.IntegrityFailure) {
				t.Errorf("yesterday's boxes in today's row give %s", got)
			}
			s.Exec(`delete from privault.records where record_id = $1`, s.here.id())
			s.Exec(`insert into privault.records (tenant_id, record_id, collection_id, subject_id, created_at, updated_at, expires_at, version, epoch, sealed)
				select tenant_id, record_id, collection_id, subject_id, created_at, updated_at, expires_at, version, epoch, sealed from public.yesterday where record_id = $1`, s.here.id())
			s.refuses(t, s.Vault, vault.TokenNotFound, s.here)
			s.refuses(t, s.Replica(), vault.TokenNotFound, s.here)
		})
	}
}

// The keys of a tenant open nothing in another's place, nor one keyset in another's.
func TestTenantKeysExchanged(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	const exchange = `update keystore.%s k set %[2]s = o.%[2]s from keystore.%[1]s o where (k.tenant_id, o.tenant_id) in (($1::uuid, $2::uuid), ($2, $1)) %[3]s`
	for name, statement := range map[string]string{
		"tenant_roots":       fmt.Sprintf(exchange, "tenant_roots", "wrapped", ""),
		"tenant_keys":        fmt.Sprintf(exchange, "tenant_keys", "sealed", "and k.name = o.name"),
		"tenant_keys, wrap":  fmt.Sprintf(exchange, "tenant_keys", "sealed", "and k.name = 'wrap' and o.name = 'wrap'"),
		"tenant_keys, token": fmt.Sprintf(exchange, "tenant_keys", "sealed", "and k.name = 'token' and o.name = 'token'"),
		"two keysets of one tenant": `update keystore.tenant_keys k set sealed = o.sealed from keystore.tenant_keys o
			where k.tenant_id = o.tenant_id and k.tenant_id in ($1, $2) and (k.name, o.name) in (('wrap', 'token'), ('token', 'wrap'))`,
		"root keys and keysets of the other": `with moved as (` + fmt.Sprintf(exchange, "tenant_roots", "wrapped", "") + `)` +
			fmt.Sprintf(exchange, "tenant_keys", "sealed", "and k.name = o.name"),
		"a keyset that is gone": `delete from keystore.tenant_keys where tenant_id in ($1, $2) and name = 'token'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSpots(t, v)
			s.Exec(statement, s.here.who.Tenant, s.tenant.who.Tenant)
			fresh := s.Replica() // the first one holds the keys already
			for _, at := range []spot{s.here, s.tenant} {
				if got := vaulttest.RevealOn(t, fresh, at.who, at.token()); got != string(vault.IntegrityFailure) {
					t.Errorf("the token gives %s", got)
				}
				_, err := fresh.Tokenize(t.Context(), at.who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": "new"})})
				wantKind(t, "tokenize with swapped keys", err, vault.IntegrityFailure)
			}
		})
	}
}

// No bit of what is stored can be changed and still give a value.
func TestEveryFlippedBitIsRefused(t *testing.T) {
	t.Parallel()
	s := newSpots(t, vaulttest.New(t))
	sealed := s.sealed(s.here)
	wrapped := bytesOf(t, s.KeysURL, `select wrapped from keystore.data_keys where record_id = $1`, s.here.id())
	c, err := pgx.Connect(t.Context(), s.OwnerURL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	// One bit of every byte.
	try := func(column string, stored []byte, update string) {
		for i := range stored {
			flipped := append([]byte(nil), stored...)
			flipped[i] ^= 1 << (i % 8)
			if _, err := c.Exec(t.Context(), update, s.here.id(), flipped); err != nil {
				t.Fatal(err)
			}
			for _, at := range []spot{s.here, s.field} {
				got := s.Reveal(at.who, at.token())
				refused := got == string(vault.IntegrityFailure) || got == string(vault.TokenNotFound)
				// A bit in the other field's box leaves this one alone.
				if !refused && (column == "wrapped" || got != at.value) {
					t.Errorf("%s with bit %d of byte %d flipped gives %s", column, i%8, i, got)
				}
			}
			if a, b := s.Reveal(s.here.who, s.here.token()), s.Reveal(s.field.who, s.field.token()); a == s.here.value && b == s.field.value {
				t.Errorf("%s with bit %d of byte %d flipped changes nothing", column, i%8, i)
			}
		}
		if _, err := c.Exec(t.Context(), update, s.here.id(), stored); err != nil {
			t.Fatal(err)
		}
	}
	try("sealed", sealed, `update privault.records set sealed = $2 where record_id = $1`)
	try("wrapped", wrapped, `update keystore.data_keys set wrapped = $2 where record_id = $1`)
	if got := s.Reveal(s.here.who, s.here.token()); got != s.here.value {
		t.Errorf("with every bit in its place the token gives %s", got)
	}
}

// What was tampered with is logged for an operator, and the log holds no value.
func TestIntegrityFailureIsLogged(t *testing.T) {
	t.Parallel()
	s := newSpots(t, vaulttest.New(t))
	s.exchange(s.here, s.record, true)
	s.refuses(t, s.Vault, vault.IntegrityFailure, s.here)
	if got := s.Count(`select count(*) from privault.audit_entries where outcome = 'failed' and body::jsonb->>'problem' = 'integrity-failure'`); got == 0 {
		t.Error("no audit entry says integrity-failure")
	}
	if log := s.Log.String(); !strings.Contains(log, `"msg":"integrity failure"`) || strings.Contains(log, "name-people") {
		t.Errorf("the log: %s", log)
	}
}

// Threat T-1 for aliases: a row that was moved to another value or record gives nothing of it, and neither does its text.
func TestAMovedAliasGivesNothing(t *testing.T) {
	t.Parallel()
	for name, move := range map[string]string{
		"to another value":        `update privault.aliases a set value_digest = b.value_digest, generation = 2 from privault.aliases b where a.text_digest < b.text_digest and a.field = 1 and b.field = 1`,
		"with the value's text":   `update privault.aliases a set value_digest = b.value_digest, sealed_text = b.sealed_text, generation = 2 from privault.aliases b where a.text_digest < b.text_digest and a.field = 1 and b.field = 1`,
		"to another's records":    `update privault.blind_index i set record_id = (select r.record_id from privault.records r where r.record_id <> i.record_id) where not exists (select from privault.aliases a where a.text_digest = i.digest)`,
		"of a record, to another": `update privault.aliases a set record_id = (select r.record_id from privault.records r where r.record_id <> a.record_id) where record_id is not null`,
		"to another generation":   `update privault.aliases set generation = 7 where field = 1`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := vaulttest.New(t)
			who := v.Tenant()
			defineFields(t, v, who, "people", map[string]vault.FieldDefinition{"email": strategy("email", "deterministic"), "ssn": strategy("us_ssn", "format")})
			var one, two vault.Tokenized
			one = v.MustTokenize(who, "people", map[string]string{"email": "jane@example.com", "ssn": "123-45-6789"})
			two = v.MustTokenize(who, "people", map[string]string{"email": "joe@example.com", "ssn": "234-56-7890"})
			v.Exec(move)
			moved := 0
			for _, row := range []struct {
				of    vault.Tokenized
				email string
				ssn   string
			}{{one, `"jane@example.com"`, `"123-45-6789"`}, {two, `"joe@example.com"`, `"234-56-7890"`}} {
				for field, right := range map[string]string{"email": row.email, "ssn": row.ssn} {
					switch got := resolves(t, v.Vault, who, "people", field, row.of.Tokens[field])[0]; got {
					case right:
					case string(vault.TokenNotFound), string(vault.IntegrityFailure):
						moved++
					default:
						t.Errorf("the token of %s gives %s", right, got)
					}
				}
			}
			if moved == 0 {
				t.Error("nothing was moved")
			}
		})
	}
}
