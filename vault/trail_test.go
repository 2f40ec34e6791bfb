package vault_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/vaulttest"
)

// scene is a vault with something of everything, for operations to work on.
type scene struct {
	*vaulttest.Bench
	who       vault.Caller
	record    vault.Tokenized
	principal string
	entry     string // one of the audit entries
	key       vault.Issued
	job       string

	hold, certificate string
	request           string
	delivery          string // of the webhook crm
	suppression       string
	alarm             string
	sweep             string
	waiting, running  string // sweeps too
	plan, hash        string
}

func newScene(t *testing.T, options ...vaulttest.Option) *scene {
	t.Helper()
	s := &scene{Bench: vaulttest.New(t, options...)}
	s.who = s.Tenant()
	s.who.Request = "req-1"
	ctx := t.Context()
	defineFields(t, s.Bench, s.who, "people", map[string]vault.FieldDefinition{"name": {Type: "string", Index: []string{"exact"}}, "email": {Type: "email"},
		"phone": strategy("phone", "deterministic")})
	s.Collection(s.who, "empty", map[string]string{"name": "string"})
	for _, name := range []string{"alias", "index"} { // before anything is made with them, so that nothing needs their first versions
		if _, err := s.RotateKey(ctx, s.who, name); err != nil {
			t.Fatal(err)
		}
	}
	vaulttest.ExecURL(t, s.KeysURL, `update keystore.key_versions set settled_at = created_at`)
	if err := s.RetireKey(ctx, s.who, "index", 1); err != nil {
		t.Fatal(err)
	}
	s.record = s.MustTokenize(s.who, "people", map[string]string{"name": "Jane Roe", "email": "jane@example.com", "phone": "+44 20 7183 8750"})
	s.Exec(`insert into privault.alias_spaces select tenant_id, digest, 1 from privault.blind_index`)
	var err error
	for _, name := range []string{"cards", "spare"} {
		if _, _, err := s.PutTransform(ctx, s.who, name, cards); err != nil {
			t.Fatal(err)
		}
	}
	if s.principal, err = s.CreatePrincipal(ctx, s.who, "service", []string{policy.Admin}); err != nil {
		t.Fatal(err)
	}
	if s.key, err = s.IssueKey(ctx, s.who, s.principal, vault.KeyTerms{}); err != nil {
		t.Fatal(err)
	}
	leaked, err := s.IssueKey(ctx, s.who, s.principal, vault.KeyTerms{})
	if err == nil {
		err = s.ReportLeakedKey(ctx, leaked.Key)
	}
	alarms, _, listed := s.ListAlarms(ctx, s.who, "", 1)
	if err := errors.Join(err, listed); err != nil {
		t.Fatal(err)
	}
	s.alarm = alarms[0].ID
	s.Exec(`insert into privault.principal_networks select tenant_id, principal_id, '192.0.2.0/24', created_at, created_at from privault.principals`)
	s.Exec(`insert into privault.behaviour select tenant_id, principal_id, date_trunc('hour', created_at), 1, 1, 1, 1 from privault.principals`)
	if _, err := s.RotateKey(ctx, s.who, "wrap"); err != nil {
		t.Fatal(err)
	}
	s.AddJobKind("count", 1, (&steps{to: 1}).step)
	if s.job, err = s.Enqueue(ctx, s.who, "count", "x", nil); err != nil {
		t.Fatal(err)
	}
	s.addWebhook(t)
	s.addSuppression(t)
	s.addRights(t)
	s.addRequests(t)
	s.govern(t)
	s.addRetention(t)
	s.entry = rows(t, s.OwnerURL, `select body::json->>'id' from privault.audit_entries where tenant_id = $1 limit 1`, s.who.Tenant)[0]
	return s
}

// operation is one exported operation, done so that it works; asked for in vain, so that it fails; and by the operator
// alone, where no role can be denied it.
type operation struct {
	name     string
	action   policy.Action
	do       func(*scene, vault.Caller) error
	fail     func(*scene, vault.Caller) error
	problem  vault.Kind // that fail is told
	operator bool
	quiet    bool // leaves no entry when it works
}

func operations() []operation {
	ctx := context.Background()
	fields := func(names ...string) vault.Definition {
		d := vault.Definition{Fields: map[string]vault.FieldDefinition{}}
		for _, name := range names {
			d.Fields[name] = vault.FieldDefinition{Type: "string"}
		}
		return d
	}
	batch := func(collection string, claim *vault.IdempotencyKey) vault.Batch {
		item := vaulttest.Item(map[string]string{"name": "Joe"})
		item.Subject = "person-1"
		return vault.Batch{Collection: collection, Items: []vault.NewRecord{item}, Claim: claim}
	}
	claim := func() *vault.IdempotencyKey {
		return &vault.IdempotencyKey{Key: "key-1", Request: sha256.Sum256([]byte("body"))}
	}
	expired := time.Unix(0, 0)
	return append(slices.Concat(rightsOperations(), linkOperations(), governanceOperations(), requestOperations(), webhookOperations(), retentionOperations(), suppressionOperations()), []operation{
		{name: "ReportLeakedKey", action: policy.RaiseAlarm, operator: true, problem: vault.Internal,
			do: func(s *scene, _ vault.Caller) error { return s.ReportLeakedKey(ctx, s.key.Key) },
			fail: func(s *scene, _ vault.Caller) error {
				s.Exec(`alter table privault.alarms drop constraint alarms_response_check, add constraint alarms_response_check check (response = '') not valid`)
				defer s.Exec(`alter table privault.alarms drop constraint alarms_response_check, add constraint alarms_response_check check (response <> '')`)
				return s.ReportLeakedKey(ctx, s.key.Key)
			}},
		{name: "Tokenize", action: policy.Tokenize, problem: vault.NotFound,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.Tokenize(ctx, who, batch("people", nil))
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, err := s.Tokenize(ctx, who, batch("nobody", nil))
				return err
			}},
		{name: "SearchRecords", action: policy.Search, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.SearchRecords(ctx, who, seek("people", "name", "Jane Roe"))
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.SearchRecords(ctx, who, seek("people", "email", "jane@example.com"))
				return err
			}},
		{name: "Tokenize with a key", action: policy.Tokenize, problem: vault.LooksLikePII,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.Tokenize(ctx, who, batch("people", claim()))
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, err := s.Tokenize(ctx, who, batch("people", &vault.IdempotencyKey{Key: "jane@example.com"}))
				return err
			}},
		{name: "Tokenize, atomic", action: policy.Tokenize, problem: vault.BatchRolledBack,
			do: func(s *scene, who vault.Caller) error {
				b := batch("people", nil)
				b.Atomic = true
				_, err := s.Tokenize(ctx, who, b)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				b := batch("people", nil)
				b.Atomic, b.Items = true, append(b.Items, vaulttest.Item(map[string]string{"email": "no address"}))
				_, err := s.Tokenize(ctx, who, b)
				return err
			}},
		{name: "Tokenize, every item refused", action: policy.Tokenize, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.Tokenize(ctx, who, batch("people", nil))
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				done, err := s.Tokenize(ctx, who, vault.Batch{Collection: "people", Items: one(map[string]string{"email": "no address"})})
				if err != nil {
					return err
				}
				return done[0].Err
			}},
		{name: "CanTokenize", action: policy.Tokenize, problem: vault.NotFound, quiet: true,
			do:   func(s *scene, who vault.Caller) error { return s.CanTokenize(ctx, who, "people") },
			fail: func(s *scene, who vault.Caller) error { return s.CanTokenize(ctx, who, "nobody") }},
		{name: "Detokenize", action: policy.Detokenize, problem: vault.TokenNotFound,
			do: func(s *scene, who vault.Caller) error { return reveal(s, who, s.record.Tokens["email"], "plain") },
			fail: func(s *scene, who vault.Caller) error {
				return reveal(s, who, s.record.Tokens["email"]+"x", "plain")
			}},
		{name: "Detokenize, masked", action: policy.Detokenize, problem: vault.Invalid,
			do:   func(s *scene, who vault.Caller) error { return reveal(s, who, s.record.Tokens["email"], "") },
			fail: func(s *scene, who vault.Caller) error { return reveal(s, who, s.record.Tokens["email"], "upside down") }},
		{name: "Detokenize, redacted", action: policy.Detokenize, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error { return reveal(s, who, s.record.Tokens["email"], "redacted") },
			fail: func(s *scene, who vault.Caller) error {
				_, err := s.Detokenize(ctx, who, nil)
				return err
			}},
		{name: "ValidateTokens", action: policy.ValidateToken, problem: vault.TokenNotFound,
			do: func(s *scene, who vault.Caller) error { return validate(s, who, s.record.Tokens["email"]) },
			fail: func(s *scene, who vault.Caller) error {
				return validate(s, who, s.record.Tokens["email"]+"x")
			}},
		{name: "GetRecord", action: policy.ReadRecord, problem: vault.NotFound,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.GetRecord(ctx, who, "people", s.record.Record, nil, "masked")
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, err := s.GetRecord(ctx, who, "empty", s.record.Record, nil, "masked")
				return err
			}},
		{name: "ExportRecords", action: policy.Export, problem: vault.NotFound,
			do: func(s *scene, who vault.Caller) error {
				return s.ExportRecords(ctx, who, vault.Export{Collection: "people"}, func([]vault.Exported) error { return nil })
			},
			fail: func(s *scene, who vault.Caller) error {
				return s.ExportRecords(ctx, who, vault.Export{Collection: "nobody"}, func([]vault.Exported) error { return nil })
			}},
		{name: "PatchRecord", action: policy.UpdateRecord, problem: vault.PreconditionFailed,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.PatchRecord(ctx, who, "people", s.record.Record, vault.Patch{Fields: map[string]vault.Secret{"name": secret(`"Ann"`)}, IfVersion: 1})
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, err := s.PatchRecord(ctx, who, "people", s.record.Record, vault.Patch{Remove: []string{"name"}, IfVersion: 9})
				return err
			}},
		{name: "RotateTokens", action: policy.RotateToken, problem: vault.TokenNotFound,
			do: func(s *scene, who vault.Caller) error { return rotate(s, who, s.record.Tokens["email"]) },
			fail: func(s *scene, who vault.Caller) error {
				return rotate(s, who, s.record.Tokens["email"]+"x")
			}},
		{name: "RotateTokens, of a value", action: policy.RotateToken, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error { return rotate(s, who, s.record.Tokens["phone"]) },
			fail: func(s *scene, who vault.Caller) error {
				_, err := s.RotateTokens(ctx, who, nil)
				return err
			}},
		{name: "DeleteRecord", action: policy.DeleteRecord, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { return s.DeleteRecord(ctx, who, "people", s.record.Record, 0) },
			fail: func(s *scene, who vault.Caller) error { return s.DeleteRecord(ctx, who, "people", "rec_x", 0) }},
		{name: "PutCollection, new", action: policy.DefineCollection, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.PutCollection(ctx, who, "new", fields("a"), 0)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.PutCollection(ctx, who, "Bad Name", fields("a"), 0)
				return err
			}},
		{name: "PutCollection, evolved", action: policy.DefineCollection, problem: vault.Conflict,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.PutCollection(ctx, who, "empty", fields("name", "more"), 0)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.PutCollection(ctx, who, "empty", fields("other"), 0)
				return err
			}},
		{name: "GetCollection", action: policy.ReadCollection, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { _, err := s.GetCollection(ctx, who, "people"); return err },
			fail: func(s *scene, who vault.Caller) error { _, err := s.GetCollection(ctx, who, "nobody"); return err }},
		{name: "ListCollections", action: policy.ReadCollection, problem: vault.Malformed,
			do:   func(s *scene, who vault.Caller) error { _, _, err := s.ListCollections(ctx, who, "", 10); return err },
			fail: func(s *scene, who vault.Caller) error { _, _, err := s.ListCollections(ctx, who, "x", 10); return err }},
		{name: "DeleteCollection", action: policy.DropCollection, problem: vault.Conflict,
			do:   func(s *scene, who vault.Caller) error { return s.DeleteCollection(ctx, who, "empty", 0) },
			fail: func(s *scene, who vault.Caller) error { return s.DeleteCollection(ctx, who, "people", 0) }},
		{name: "PutTransform, new", action: policy.DefineTransform, problem: vault.NotErasable,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.PutTransform(ctx, who, "new", cards)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.PutTransform(ctx, who, "erasable", vault.TransformDefinition{Erasable: true})
				return err
			}},
		{name: "PutTransform, as it is", action: policy.DefineTransform, problem: vault.Conflict,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.PutTransform(ctx, who, "cards", cards)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.PutTransform(ctx, who, "cards", vault.TransformDefinition{})
				return err
			}},
		{name: "GetTransform", action: policy.ReadTransform, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { _, err := s.GetTransform(ctx, who, "cards"); return err },
			fail: func(s *scene, who vault.Caller) error { _, err := s.GetTransform(ctx, who, "Bad Name"); return err }},
		{name: "ListTransforms", action: policy.ReadTransform, problem: vault.Malformed,
			do:   func(s *scene, who vault.Caller) error { _, _, err := s.ListTransforms(ctx, who, "", 10); return err },
			fail: func(s *scene, who vault.Caller) error { _, _, err := s.ListTransforms(ctx, who, "x", 10); return err }},
		{name: "Encode", action: policy.Encode, problem: vault.Invalid,
			do:   func(s *scene, who vault.Caller) error { _, err := code(s.Encode, who, "4111111111111111"); return err },
			fail: func(s *scene, who vault.Caller) error { _, err := code(s.Encode, who, "4111111111111112"); return err }},
		{name: "Decode", action: policy.Decode, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error {
				_, err := code(s.Decode, who, "4111111111111116")
				return err
			},
			fail: func(s *scene, who vault.Caller) error { _, err := code(s.Decode, who, "4111111111111111"); return err }},
		{name: "DeleteTransform", action: policy.DefineTransform, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { return s.DeleteTransform(ctx, who, "spare") },
			fail: func(s *scene, who vault.Caller) error { return s.DeleteTransform(ctx, who, "nobody") }},
		{name: "Entries", action: policy.ReadAudit, problem: vault.Malformed,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.Entries(ctx, who, vault.EntryQuery{Action: "tokenize"}, "", 10)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.Entries(ctx, who, vault.EntryQuery{}, "x", 10)
				return err
			}},
		{name: "Entry", action: policy.ReadAudit, problem: vault.NotFound,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.Entry(ctx, who, s.entry)
				return err
			},
			fail: func(s *scene, who vault.Caller) error { _, err := s.Entry(ctx, who, "aud_x"); return err }},
		{name: "CreatePrincipal", action: policy.ManagePrincipals, problem: vault.Conflict,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.CreatePrincipal(ctx, who, "another", []string{"admin"})
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, err := s.CreatePrincipal(ctx, who, "service", []string{"admin"})
				return err
			}},
		{name: "IssueKey", action: policy.ManagePrincipals, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.IssueKey(ctx, who, s.principal, vault.KeyTerms{})
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, err := s.IssueKey(ctx, who, s.principal, vault.KeyTerms{Expires: &expired})
				return err
			}},
		{name: "RevokeKey", action: policy.ManagePrincipals, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { return s.RevokeKey(ctx, who, s.principal, s.key.ID) },
			fail: func(s *scene, who vault.Caller) error { return s.RevokeKey(ctx, who, s.principal, "key_x") }},
		{name: "Keys", action: policy.ReadKeys, problem: vault.KMSUnavailable,
			do: func(s *scene, who vault.Caller) error { _, err := s.Keys(ctx, who); return err },
			fail: func(s *scene, who vault.Caller) error {
				s.KMS.SetDown(true)
				defer func() {
					s.KMS.SetDown(false)
					s.Advance(3 * time.Second) // the KMS is left alone for a pause
				}()
				s.Advance(time.Hour)
				_, err := s.Keys(ctx, who)
				return err
			}},
		{name: "RotateKey", action: policy.ManageKeys, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { _, err := s.RotateKey(ctx, who, "wrap"); return err },
			fail: func(s *scene, who vault.Caller) error { _, err := s.RotateKey(ctx, who, "wrong"); return err }},
		{name: "RetireKey", action: policy.ManageKeys, problem: vault.Conflict,
			do:   func(s *scene, who vault.Caller) error { return s.RetireKey(ctx, who, "alias", 1) },
			fail: func(s *scene, who vault.Caller) error { return s.RetireKey(ctx, who, "root", 1) }},
		{name: "DestroyKey", action: policy.ManageKeys, problem: vault.Conflict,
			do:   func(s *scene, who vault.Caller) error { return s.DestroyKey(ctx, who, "index", 1) },
			fail: func(s *scene, who vault.Caller) error { return s.DestroyKey(ctx, who, "wrap", 1) }},
		{name: "Job", action: policy.ReadJobs, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { _, err := s.Job(ctx, who, s.job); return err },
			fail: func(s *scene, who vault.Caller) error { _, err := s.Job(ctx, who, "job_x"); return err }},
		{name: "IssueKey, replacing", action: policy.ManagePrincipals, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.IssueKey(ctx, who, s.principal, vault.KeyTerms{Replaces: s.key.ID})
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, err := s.IssueKey(ctx, who, s.principal, vault.KeyTerms{Replaces: "key_x"})
				return err
			}},
		{name: "ListPrincipals", action: policy.ManagePrincipals, problem: vault.Malformed,
			do:   func(s *scene, who vault.Caller) error { _, _, err := s.ListPrincipals(ctx, who, "", 10); return err },
			fail: func(s *scene, who vault.Caller) error { _, _, err := s.ListPrincipals(ctx, who, "x", 10); return err }},
		{name: "ListKeys", action: policy.ManagePrincipals, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { _, err := s.ListKeys(ctx, who, s.principal); return err },
			fail: func(s *scene, who vault.Caller) error { _, err := s.ListKeys(ctx, who, "prn_x"); return err }},
		{name: "DisablePrincipal", action: policy.ManagePrincipals, problem: vault.NotFound,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.DisablePrincipal(ctx, who, s.principal, true)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, err := s.DisablePrincipal(ctx, who, "prn_x", true)
				return err
			}},
		{name: "RevokeToken", action: policy.ManagePrincipals, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error {
				return s.RevokeToken(ctx, who, "https://idp.example", "jti-1", nil)
			},
			fail: func(s *scene, who vault.Caller) error { return s.RevokeToken(ctx, who, "", "jti-1", nil) }},
		{name: "SweepRevocations", action: policy.Sweep, operator: true, problem: vault.Internal,
			do: func(s *scene, who vault.Caller) error { _, err := s.SweepRevocations(ctx, who.Tenant, 10); return err },
			fail: func(s *scene, who vault.Caller) error {
				s.Exec(`alter table privault.revoked_tokens rename to elsewhere`)
				defer s.Exec(`alter table privault.elsewhere rename to revoked_tokens`)
				_, err := s.SweepRevocations(ctx, who.Tenant, 10)
				return err
			}},
		{name: "SweepBehaviour", action: policy.Sweep, operator: true, problem: vault.Internal,
			do: func(s *scene, who vault.Caller) error { _, err := s.SweepBehaviour(ctx, who.Tenant, 10); return err },
			fail: func(s *scene, who vault.Caller) error {
				s.Exec(`alter table privault.behaviour rename to elsewhere`)
				defer s.Exec(`alter table privault.elsewhere rename to behaviour`)
				_, err := s.SweepBehaviour(ctx, who.Tenant, 10)
				return err
			}},
		{name: "ListAlarms", action: policy.ReadAlarms, problem: vault.Malformed,
			do:   func(s *scene, who vault.Caller) error { _, _, err := s.ListAlarms(ctx, who, "", 10); return err },
			fail: func(s *scene, who vault.Caller) error { _, _, err := s.ListAlarms(ctx, who, "x", 10); return err }},
		{name: "LiftAlarm", action: policy.LiftAlarm, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { return s.LiftAlarm(ctx, who, s.alarm) },
			fail: func(s *scene, who vault.Caller) error { return s.LiftAlarm(ctx, who, "alm_x") }},
		{name: "CreateTenant", action: policy.CreateTenant, problem: vault.Conflict, operator: true,
			do: func(s *scene, _ vault.Caller) error {
				_, err := s.CreateTenant(ctx, "fresh", []string{"admin"}, "")
				return err
			},
			fail: func(s *scene, _ vault.Caller) error {
				name := rows(s.T(), s.OwnerURL, `select name from privault.tenants limit 1`)[0]
				_, err := s.CreateTenant(ctx, name, []string{"admin"}, "")
				return err
			}},
		{name: "SweepIdempotencyKeys", action: policy.Sweep, operator: true, problem: vault.Internal,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.SweepIdempotencyKeys(ctx, who.Tenant, 10)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				s.Exec(`alter table privault.idempotency_keys rename to elsewhere`)
				defer s.Exec(`alter table privault.elsewhere rename to idempotency_keys`)
				_, err := s.SweepIdempotencyKeys(ctx, who.Tenant, 10)
				return err
			}},
	}...)
}

// reveal asks for one token and gives its error, whether of the call or of the item.
func reveal(s *scene, who vault.Caller, token, view string) error {
	done, err := s.Detokenize(context.Background(), who, []vault.TokenRef{{Token: token, View: view}})
	if err != nil {
		return err
	}
	if done[0].Err != nil {
		return done[0].Err
	}
	return nil
}

// validate and rotate do likewise.
func validate(s *scene, who vault.Caller, token string) error {
	done, err := s.ValidateTokens(context.Background(), who, []vault.TokenRef{{Token: token}})
	if err != nil {
		return err
	}
	if done[0].Err != nil {
		return done[0].Err
	}
	return nil
}

func rotate(s *scene, who vault.Caller, token string) error {
	done, err := s.RotateTokens(context.Background(), who, []vault.TokenRef{{Token: token}})
	if err != nil {
		return err
	}
	if done[0].Err != nil {
		return done[0].Err
	}
	return nil
}

// written are the entries that do leaves, as action, outcome and problem.
func written(s *scene, do func()) []string {
	const all = `select entry_id from privault.audit_entries`
	before := rows(s.T(), s.OwnerURL, all)
	do()
	var fresh []string
	for _, line := range rows(s.T(), s.OwnerURL, `
		select entry_id, ' ' || action || ' ' || outcome || ' ' || coalesce(body::jsonb->>'problem', '-') || ' ' || coalesce(body::jsonb->>'request', '-')
		from privault.audit_entries where action <> 'job.work' order by entry_id`) { // batches that a call works along have their own
		if !slices.ContainsFunc(before, func(id string) bool { return strings.HasPrefix(line, id) }) {
			fresh = append(fresh, line[strings.LastIndex(line, "] ")+2:])
		}
	}
	return fresh
}

func TestEveryOperationLeavesOneEntry(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for _, op := range operations() {
		request := "req-1"
		if op.operator {
			request = "-"
		}
		leaves := func(how string, do func(), want ...string) {
			if diff := cmp.Diff(want, written(s, do)); diff != "" {
				t.Errorf("entries of %s, %s (-want +got):\n%s", op.name, how, diff)
			}
		}
		leaves("in vain", func() { wantKind(t, op.name+" in vain", op.fail(s, s.who), op.problem) },
			fmt.Sprintf("%s failed %s %s", op.action, op.problem, request))
		if !op.operator {
			leaves("without a role", func() {
				wantKind(t, op.name+" without a role", op.do(s, vaulttest.As(s.who, "nobody")), vault.Forbidden)
			}, fmt.Sprintf("%s denied forbidden req-1", op.action))
		}
		var want []string
		if !op.quiet {
			want = []string{fmt.Sprintf("%s ok - %s", op.action, request)}
		}
		leaves("allowed", func() { wantKind(t, op.name, op.do(s, s.who), "") }, want...)
	}
}

// Without a place for the entry there is no answer and no change, whatever makes the audit trail unwritable.
func TestNoOperationWithoutItsEntry(t *testing.T) {
	t.Parallel()
	for how, breakIt := range map[string]string{
		"no privilege": `revoke insert on privault.audit_entries from privault_app`,
		"a trigger":    raises("privault.audit_entries"),
		"no table":     `alter table privault.audit_entries rename to elsewhere`,
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			before := state(s.Bench)
			s.Exec(breakIt)
			for _, op := range operations() {
				if op.quiet {
					continue
				}
				wantKind(t, op.name, op.do(s, s.who), vault.AuditUnavailable)
				if diff := cmp.Diff(before, state(s.Bench)); diff != "" {
					t.Fatalf("%s changed something without an entry:\n%s", op.name, diff)
				}
			}
		})
	}
}

// raises is SQL that makes every write to a table fail.
func raises(table string) string {
	schema := strings.Split(table, ".")[0]
	return fmt.Sprintf(`
		create or replace function %[1]s.raise() returns trigger language plpgsql as $$ begin raise exception 'broken'; end $$;
		create trigger broken before insert or update or delete on %[2]s for each row execute function %[1]s.raise()`, schema, table)
}

// P-3: whichever statement of a write fails, nothing of it stays but the entry that says so.
func TestEveryStatementMayFailAlone(t *testing.T) {
	t.Parallel()
	writes := map[string][]string{
		"Tokenize with a key":    {"privault.subjects", "privault.idempotency_keys", "privault.records", "keystore.data_keys"},
		"PatchRecord":            {"privault.records", "keystore.data_keys"},
		"DeleteRecord":           {"privault.records", "keystore.data_keys"},
		"PutCollection, new":     {"privault.collections"},
		"PutCollection, evolved": {"privault.collections"},
		"DeleteCollection":       {"privault.collections"},
		"PutTransform, new":      {"privault.transforms"},
		"DeleteTransform":        {"privault.transforms"},
		"CreatePrincipal":        {"privault.principals"},
		"IssueKey":               {"privault.credentials"},
		"RevokeKey":              {"privault.credentials"},
		"CreateTenant":           {"privault.tenants", "privault.principals", "privault.credentials", "keystore.tenant_roots", "keystore.tenant_keys"},
	}
	s := newScene(t)
	before := state(s.Bench)
	for _, op := range operations() {
		for _, broken := range writes[op.name] {
			s.Exec(raises(broken))
			got := written(s, func() { wantKind(t, op.name+" with a broken "+broken, op.do(s, s.who), vault.Internal) })
			if len(got) != 1 || !strings.HasPrefix(got[0], string(op.action)+" failed internal") {
				t.Errorf("%s with a broken %s left the entries %q, want one of a failure", op.name, broken, got)
			}
			s.Exec(`drop trigger broken on ` + broken)
			if diff := cmp.Diff(before, state(s.Bench)); diff != "" {
				t.Fatalf("part of %s stayed when %s was broken:\n%s", op.name, broken, diff)
			}
		}
		delete(writes, op.name)
	}
	if len(writes) > 0 {
		t.Errorf("not tried: %v", writes)
	}
}

// What stands in an entry, and nothing besides.
func TestEntryOfAReveal(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.who.Purpose = "support"
	other := s.MustTokenize(s.who, "people", map[string]string{"name": "Joe"})
	_, err := s.Detokenize(t.Context(), s.who, []vault.TokenRef{
		{Token: s.record.Tokens["email"], View: "plain"}, {Token: s.record.Tokens["name"], View: "plain"},
		{Token: other.Tokens["name"], View: "plain"}, {Token: other.Tokens["name"]}, {Token: "pvtk_x"},
	})
	if err != nil {
		t.Fatal(err)
	}
	body := rows(t, s.OwnerURL, `select body from privault.audit_entries where action = 'detokenize'`)
	var got map[string]any
	if err := json.Unmarshal([]byte(body[0]), &got); err != nil || len(body) != 1 {
		t.Fatal(body, err)
	}
	for _, name := range []string{"id", "at", "principal", "credential"} {
		if text, _ := got[name].(string); text == "" {
			t.Errorf("the entry has no %s", name)
		}
		delete(got, name)
	}
	records := func(ids ...any) []any { return ids }
	want := map[string]any{
		"request": "req-1", "purpose": "support", "action": "detokenize", "outcome": "ok", "rule": "role:developer",
		"items": 5.0, "refused": 1.0,
		"resources": []any{
			map[string]any{"collection": "people", "fields": records("email", "name"), "view": "plain", "rule": "role:developer", "records": records(s.record.Record)},
			map[string]any{"collection": "people", "fields": records("name"), "view": "plain", "rule": "role:developer", "records": records(other.Record)},
			map[string]any{"collection": "people", "fields": records("name"), "view": "masked", "rule": "role:developer", "records": records(other.Record)},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the entry (-want +got):\n%s", diff)
	}
}

// Entries have the members of an allow-list, and none holds a value, a masked value, a token or a key.
func TestEntriesHoldNothingOfTheCallers(t *testing.T) {
	t.Parallel()
	allowed := []string{"action", "alarm", "at", "collection", "credential", "delivery", "erasure", "sweep", "plan", "fields", "hold", "id", "items", "job", "key", "outcome",
		"policy", "principal", "problem", "purpose", "records", "refused", "request", "resources", "rule", "sealed", "subject", "suppression", "transform", "version", "view", "webhook"}
	s := newScene(t)
	for _, op := range operations() {
		_ = op.fail(s, s.who)
		_ = op.do(s, vaulttest.As(s.who, "nobody"))
		_ = op.do(s, s.who)
	}
	bodies := rows(t, s.OwnerURL, `select body from privault.audit_entries`)
	if len(bodies) < 3*len(operations())-6 {
		t.Errorf("only %d entries", len(bodies))
	}
	ids := regexp.MustCompile(`[a-z]{3}_[0-9A-Za-z]{22}`) // random: they may hold "Joe"
	for _, body := range bodies {
		body = ids.ReplaceAllString(body, "id")
		var entry map[string]any
		if err := json.Unmarshal([]byte(body), &entry); err != nil {
			t.Fatal(err)
		}
		for _, name := range members(entry) {
			if !slices.Contains(allowed, name) {
				t.Errorf("an entry has the member %q", name)
			}
		}
		for _, canary := range []string{"Jane", "Roe", "jane@", "j***", "example.com", "Joe", "Ann", "person-1", "key-1", "leaving-1", "gone-1", "held-1",
			"no address", "upside down", "41111111", "pvtk_", "pvdt_", "pvak_", "Bad Name", "broken"} {
			if strings.Contains(body, canary) {
				t.Errorf("an entry holds %q: %s", canary, body)
			}
		}
	}
}

func members(v any) []string {
	var names []string
	switch v := v.(type) {
	case map[string]any:
		names = slices.Collect(maps.Keys(v))
		for _, member := range v {
			names = append(names, members(member)...)
		}
	case []any:
		for _, element := range v {
			names = append(names, members(element)...)
		}
	}
	return names
}
