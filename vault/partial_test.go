package vault_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/audit"
	"github.com/privault/privault/vault/vaulttest"
)

// customer is a person of whom two collections hold something, beside somebody else.
type customer struct {
	*vaulttest.Bench
	who            vault.Caller
	letter, order  vault.Tokenized
	bare, stranger vault.Tokenized // of the orders: one that holds nothing but what goes, and one of somebody else's
}

func newCustomer(t *testing.T, options ...vaulttest.Option) *customer {
	t.Helper()
	c := &customer{Bench: vaulttest.New(t, options...)}
	c.who = c.Tenant()
	c.Collection(c.who, "letters", map[string]string{"name": "string"})
	defineFields(t, c.Bench, c.who, "orders", map[string]vault.FieldDefinition{
		"item": {Type: "string"}, "note": {Type: "string", Index: []string{"exact"}}, "phone": strategy("phone", "deterministic")})
	store := func(collection, subject string, fields map[string]string) vault.Tokenized {
		item := vaulttest.Item(fields)
		item.Subject = subject
		done, err := c.Tokenize(t.Context(), c.who, vault.Batch{Collection: collection, Items: []vault.NewRecord{item}})
		if err != nil || done[0].Err != nil {
			t.Fatal(done, err)
		}
		return done[0]
	}
	c.letter = store("letters", "p-1", map[string]string{"name": "Jane"})
	c.order = store("orders", "p-1", map[string]string{"item": "chair", "note": "ring twice", "phone": "+44 20 7183 8750"})
	c.bare = store("orders", "p-1", map[string]string{"note": "ring twice"})
	c.stranger = store("orders", "p-2", map[string]string{"item": "table", "note": "ring twice"})
	return c
}

// partial is what the customer asks for: the letters, and the notes and telephone numbers of orders.
func partial() vault.PartialErasure {
	until := time.Date(2034, 1, 1, 0, 0, 0, 0, time.UTC)
	return vault.PartialErasure{Reason: "gdpr-17",
		Scope:    []vault.ErasurePart{{Collection: "letters"}, {Collection: "orders", Fields: []string{"note", "phone"}}},
		Retained: []vault.Retained{{Collection: "orders", Ground: "legal-obligation", Until: &until}}}
}

// hasPart looks whether just the part is gone.
func (c *customer) hasPart(t *testing.T, v *vaulttest.Bench) {
	t.Helper()
	for what, row := range map[string]struct{ token, want string }{
		"the letter": {c.letter.Tokens["name"], string(vault.TokenNotFound)}, "the note": {c.order.Tokens["note"], string(vault.TokenNotFound)},
		"the phone": {c.order.Tokens["phone"], string(vault.TokenNotFound)}, "the bare order's note": {c.bare.Tokens["note"], string(vault.TokenNotFound)},
		"the order's item": {c.order.Tokens["item"], `"chair"`}, "somebody else's note": {c.stranger.Tokens["note"], `"ring twice"`},
	} {
		if got := v.Reveal(c.who, row.token); got != row.want {
			t.Errorf("%s: %s, want %s", what, got, row.want)
		}
	}
	found, _, err := v.SearchRecords(t.Context(), c.who, seek("orders", "note", "ring twice"))
	if err != nil || len(found) != 1 || found[0].Record != c.stranger.Record {
		t.Errorf("a search finds %+v %v", found, err)
	}
	m, _, err := v.GetSubject(t.Context(), c.who, "p-1", "", 10)
	if err != nil || len(m.Records) != 1 || m.Records[0].Record != c.order.Record || len(m.Records[0].Tokens) != 1 {
		t.Errorf("what is held: %+v %v", m, err)
	}
}

func TestAPartOfAPersonIsErased(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "a keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t, options...)
			try := partial()
			try.DryRun = true
			dry, err := c.ErasePart(t.Context(), c.who, "p-1", try)
			if err != nil || dry.State != vault.ErasureDryRun || dry.Retained[0].Records != 2 {
				t.Fatalf("%+v %v", dry, err)
			}
			if got := c.Reveal(c.who, c.letter.Tokens["name"]); got != `"Jane"` {
				t.Error("a dry run did something: ", got)
			}
			if _, _, _, err := c.PutWebhook(t.Context(), c.who, vault.Webhook{Name: "crm", URL: "https://127.0.0.1:9/", Events: vault.EventKinds()}, 0); err != nil {
				t.Fatal(err)
			}
			e, err := c.ErasePart(t.Context(), c.who, "p-1", partial())
			if err != nil || e.State != vault.ErasureErased {
				t.Fatal(e.State, err)
			}
			c.hasPart(t, c.Bench)
			// What is told of are the records that go, and those that go on without some values.
			want := []string{"record.corrected orders " + c.order.Record + ` ["note","phone"]`, "subject.erased letters " + c.letter.Record + " ",
				"subject.erased orders " + c.order.Record + ` ["note","phone"]`, "subject.erased orders " + c.bare.Record + " "}
			slices.Sort(want)
			told := c.Texts(`select d.event || ' ' || (i->>'collection') || ' ' || (i->'records'->>0) || ' ' || coalesce(i->>'fields', '') from privault.webhook_deliveries d,
				json_array_elements(d.body::json->'data'->'collections') i order by 1`)
			if diff := cmp.Diff(want, told); diff != "" {
				t.Errorf("told (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(vault.ErasureCounts{Records: 2, DEKs: 2, Entries: 1, Values: 3}, e.Counts); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
			for _, line := range []string{"scope: letters; orders (note, phone)\n", "values: 3\n", "retained: orders, 1 records, legal-obligation, until 2034-01-01T00:00:00Z\n"} {
				if !strings.Contains(e.Certificate, line) {
					t.Errorf("the certificate says\n%s", e.Certificate)
				}
			}
			if _, err := c.Config.AuditKeys.OpenText(audit.ErasureTitle, []byte(e.Certificate)); err != nil {
				t.Error(err)
			}
			c.Work()
			await(t, "the rows go", func() bool { return c.Count(`select count(*) from privault.records`) == 2 })
			if n := vaulttest.CountURL(t, c.KeysURL, `select count(*) from keystore.data_keys`); n != 2 {
				t.Errorf("%d keys", n)
			}
			c.Sequence()
			if list, _ := differing(t, c.Bench); len(list) > 0 {
				t.Errorf("differing: %q", list)
			}
			got, err := c.GetErasure(t.Context(), c.who, e.ID)
			if diff := cmp.Diff(e.Scope, got.Scope); err != nil || diff != "" || len(got.Retained) != 1 || got.State != vault.ErasurePurged {
				t.Errorf("%+v %v", got, err)
			}
			// The whole person is another erasure, and has its own certificate.
			whole, err := c.EraseSubject(t.Context(), c.who, "p-1", "gdpr-17", false)
			if err != nil || whole.ID == e.ID || whole.State != vault.ErasureErased || whole.Counts.Records != 1 {
				t.Errorf("the rest: %+v %v", whole, err)
			}
			if after, err := c.ErasePart(t.Context(), c.who, "p-1", partial()); err != nil || after.ID != whole.ID {
				t.Errorf("a part of somebody erased: %s %v, want %s", after.ID, err, whole.ID)
			}
		})
	}
}

func TestWhatAPartialErasureMustSay(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	yesterday := c.Now().Add(-24 * time.Hour)
	for what, row := range map[string]struct {
		change func(*vault.PartialErasure)
		at     vault.FieldError
	}{
		"no reason":             {func(p *vault.PartialErasure) { p.Reason = "because" }, vault.FieldError{Pointer: "/reason", Rule: "reason"}},
		"no scope":              {func(p *vault.PartialErasure) { p.Scope = nil }, vault.FieldError{Pointer: "/scope", Rule: "size"}},
		"an unknown collection": {func(p *vault.PartialErasure) { p.Scope[0].Collection = "x" }, vault.FieldError{Pointer: "/scope/0/collection", Rule: "unknown-collection"}},
		"a collection twice":    {func(p *vault.PartialErasure) { p.Scope[0].Collection = "orders" }, vault.FieldError{Pointer: "/scope/1/collection", Rule: "duplicate"}},
		"an unknown field":      {func(p *vault.PartialErasure) { p.Scope[1].Fields = []string{"x"} }, vault.FieldError{Pointer: "/scope/1/fields/0", Rule: "unknown-field"}},
		"no ground":             {func(p *vault.PartialErasure) { p.Retained = nil }, vault.FieldError{Pointer: "/retained", Rule: "required"}},
		"a strange ground":      {func(p *vault.PartialErasure) { p.Retained[0].Ground = "later" }, vault.FieldError{Pointer: "/retained/0/ground", Rule: "ground"}},
		"a date that has been":  {func(p *vault.PartialErasure) { p.Retained[0].Until = &yesterday }, vault.FieldError{Pointer: "/retained/0/until", Rule: "future"}},
		"a ground for nothing":  {func(p *vault.PartialErasure) { p.Retained[0].Collection = "letters" }, vault.FieldError{Pointer: "/retained/0/collection", Rule: "nothing-held"}},
	} {
		p := partial()
		row.change(&p)
		_, err := c.ErasePart(t.Context(), c.who, "p-1", p)
		wantKind(t, what, err, vault.Invalid)
		if got := vault.AsError(err).Fields; len(got) == 0 || got[0] != row.at {
			t.Errorf("%s: %v, want %v", what, got, row.at)
		}
	}
	_, err := c.ErasePart(t.Context(), c.who, "p-9", partial())
	wantKind(t, "nobody", err, vault.NotFound)
	_, err = c.ErasePart(t.Context(), vaulttest.As(c.who, "backend-writer"), "p-1", partial())
	wantKind(t, "a writer", err, vault.Forbidden)
	if got := c.Reveal(c.who, c.letter.Tokens["name"]); got != `"Jane"` {
		t.Error("something was erased: ", got)
	}
}

// A hold on what is to go defers it, a hold on what stays doesn't; what was asked for is done when the hold ends.
func TestAPartialErasureWaitsForAHold(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	hold, err := c.PlaceHold(t.Context(), c.who, vault.Hold{Matter: "case-1", Record: c.letter.Record})
	if err != nil {
		t.Fatal(err)
	}
	e, err := c.ErasePart(t.Context(), c.who, "p-1", partial())
	if err != nil || e.State != vault.ErasureDeferred || e.Counts.Held != 1 {
		t.Fatalf("%+v %v", e, err)
	}
	if got := c.Reveal(c.who, c.order.Tokens["note"]); got != `"ring twice"` {
		t.Error("a part of the part is gone: ", got)
	}
	if again, err := c.ErasePart(t.Context(), c.who, "p-1", partial()); err != nil || again.ID != e.ID {
		t.Errorf("asked for again it is %s %v", again.ID, err)
	}
	notes := partial()
	notes.Scope = notes.Scope[1:]
	notes.Retained = append(notes.Retained, vault.Retained{Collection: "letters", Ground: "legal-claims"})
	if other, err := c.ErasePart(t.Context(), c.who, "p-1", notes); err != nil || other.State != vault.ErasureErased || other.ID == e.ID {
		t.Fatalf("what isn't held: %+v %v", other, err)
	}
	if err := c.ReleaseHold(t.Context(), c.who, hold.ID); err != nil {
		t.Fatal(err)
	}
	c.Work()
	await(t, "the deferred one is done", func() bool {
		got, err := c.GetErasure(t.Context(), c.who, e.ID)
		return err == nil && got.State == vault.ErasurePurged
	})
	c.hasPart(t, c.Bench)
}

// What a deferred one asked for goes with the whole person.
func TestAPartialErasureIsOvertaken(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	hold, err := c.PlaceHold(t.Context(), c.who, vault.Hold{Matter: "case-1", Record: c.letter.Record})
	if err != nil {
		t.Fatal(err)
	}
	e, err := c.ErasePart(t.Context(), c.who, "p-1", partial())
	if err != nil {
		t.Fatal(err)
	}
	c.Exec(`update privault.holds set released_at = now() where matter = $1`, hold.Matter) // without the job that release enqueues
	whole, err := c.EraseSubject(t.Context(), c.who, "p-1", "gdpr-17", false)
	if err != nil || whole.State != vault.ErasureErased || whole.ID == e.ID {
		t.Fatal(whole.State, err)
	}
	c.Work() // the periodic one looks
	await(t, "it has ended", func() bool {
		got, err := c.GetErasure(t.Context(), c.who, e.ID)
		return err == nil && got.State != vault.ErasureDeferred && got.Certificate == whole.Certificate
	})
}

// A restored backup has the part again, until the ledger is replayed.
func TestAPartialErasureSurvivesARestore(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options []vaulttest.Option
		oldKeys bool
	}{"one database": {nil, true}, "data alone": {[]vaulttest.Option{vaulttest.Apart}, false}, "data and keys": {[]vaulttest.Option{vaulttest.Apart}, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newCustomer(t, c.options...)
			if err := p.WatchLedger(t.Context()); err != nil {
				t.Fatal(err)
			}
			data, keys := p.Backup()
			e, err := p.ErasePart(t.Context(), p.who, "p-1", partial())
			if err != nil {
				t.Fatal(err)
			}
			if err := p.WatchLedger(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !c.oldKeys {
				keys = vaulttest.DatabaseOf(t, p.KeysURL)
			}
			p.Close()
			r := p.On(data, keys)
			r.Vault = r.Replica()
			if got := r.Reveal(p.who, p.letter.Tokens["name"]); got != string(vault.RestoreFence) {
				t.Fatal("before the replay: ", got)
			}
			if done := replay(t, r); done.Erasures != 1 || done.Lines != 1 {
				t.Errorf("the replay: %+v", done)
			}
			if err := r.WatchLedger(t.Context()); err != nil {
				t.Fatal(err)
			}
			if c.oldKeys {
				p.hasPart(t, r)
			} else { // the order's key of before the backup is gone with the values that it held
				for _, token := range []string{p.letter.Tokens["name"], p.order.Tokens["note"], p.order.Tokens["phone"], p.bare.Tokens["note"]} {
					if got := r.Reveal(p.who, token); got != string(vault.TokenNotFound) {
						t.Error("after the replay: ", got)
					}
				}
			}
			if got, err := r.GetErasure(t.Context(), p.who, e.ID); err != nil || got.Certificate != e.Certificate || len(got.Scope) != 2 {
				t.Errorf("%+v %v", got, err)
			}
			r.Work()
			await(t, "the rows go", func() bool {
				return r.Count(`select count(*) from privault.records r join privault.erasing using (tenant_id, subject_id)`) == 0
			})
		})
	}
}

// Who was erased in part is no failure of a drill: the rest of their records still opens.
func TestADrillKnowsPartialErasures(t *testing.T) {
	t.Parallel()
	p := newCustomer(t)
	if err := p.WatchLedger(t.Context()); err != nil {
		t.Fatal(err)
	}
	data, keys := p.Backup()
	if _, err := p.ErasePart(t.Context(), p.who, "p-1", partial()); err != nil {
		t.Fatal(err)
	}
	if err := p.WatchLedger(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.Close()
	c := p.On(data, keys).Config
	c.Restoring = true
	v, err := vault.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	d, err := v.Drill(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The letter and the bare order were there again and are not; the order and the stranger's live.
	if !d.Passed() || d.Erased != 2 || d.Before != 2 || d.After != 0 || d.Living != 2 || d.LivingOpened != 2 {
		t.Errorf("the drill: %+v", d)
	}
}
