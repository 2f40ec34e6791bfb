package vault_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// census is a tenant whose records have everything that is found by a digest.
type census struct {
	*vaulttest.Bench
	who    vault.Caller
	n      int
	tokens []map[string]string
	ids    []string
}

func (c *census) email(i int) string { return fmt.Sprintf("p%d@example.com", i) }
func (c *census) city(i int) string  { return fmt.Sprintf("city %d", i%3) }
func (c *census) pan(i int) string   { return fmt.Sprintf("%016d", 4000000000000000+i*7) }
func (c *census) subject(i int) string {
	return fmt.Sprintf("cust-%d", i%10)
}

func (c *census) item(i int) vault.NewRecord {
	item := vaulttest.Item(map[string]string{"email": c.email(i), "city": c.city(i), "account": c.pan(i), "phone": fmt.Sprintf("+1415555%04d", i)})
	item.Subject = c.subject(i)
	return item
}

func newCensus(t *testing.T, direct string, n int, options ...vaulttest.Option) *census {
	t.Helper()
	b := vaulttest.New(t, options...)
	c := &census{Bench: b, who: b.Tenant(), n: n}
	email, city := strategy("email", "deterministic"), strategy("string", "deterministic")
	email.Index, email.Unique = []string{"exact"}, true
	city.Index = []string{"exact/smoothed:16"}
	account := strategy("string", "fpe")
	account.Token.Alphabet = "digits"
	account.Token.MinLength, account.Token.MaxLength = 16, 16
	definition := vault.Definition{KMS: direct, Fields: map[string]vault.FieldDefinition{"email": email, "city": city, "account": account, "phone": strategy("phone", "format")}}
	if _, _, err := b.PutCollection(t.Context(), c.who, "people", definition, 0); err != nil {
		t.Fatal(err)
	}
	var items []vault.NewRecord
	for i := range n {
		items = append(items, c.item(i))
	}
	done, err := b.Tokenize(t.Context(), c.who, vault.Batch{Collection: "people", Items: items})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range done {
		if d.Err != nil {
			t.Fatal(d.Err)
		}
		c.tokens, c.ids = append(c.tokens, d.Tokens), append(c.ids, d.Record)
	}
	return c
}

// holds asks a replica for everything that a digest leads to.
func (c *census) holds(t *testing.T, when string, v *vault.Vault) {
	t.Helper()
	for _, field := range []string{"email", "city", "account", "phone"} {
		var tokens []string
		for i := range c.tokens {
			tokens = append(tokens, c.tokens[i][field])
		}
		for i, got := range resolves(t, v, c.who, "people", field, tokens...) {
			want := map[string]string{"email": c.email(i), "city": c.city(i), "account": c.pan(i), "phone": fmt.Sprintf("+1415555%04d", i)}[field]
			if got != `"`+want+`"` {
				t.Fatalf("%s: the token of %s %d gives %s", when, field, i, got)
			}
		}
	}
	for i, tokens := range c.tokens[:10] {
		if got := finds(t, v, c.who, seek("people", "email", c.email(i))); len(got) != 1 || got[0] != c.ids[i] {
			t.Fatalf("%s: searching e-mail %d finds %v", when, i, got)
		}
		rec, err := v.GetRecord(t.Context(), c.who, "people", c.ids[i], nil, "masked")
		if err != nil {
			t.Fatalf("%s: record %d: %v", when, i, err)
		}
		for _, field := range []string{"email", "city", "phone"} {
			if rec.Tokens[field] != tokens[field] {
				t.Fatalf("%s: record %d has another token of %s", when, i, field)
			}
		}
		if i > 2 {
			continue
		}
		m, _, err := v.GetSubject(t.Context(), c.who, c.subject(i), "", 50)
		if err != nil || len(m.Records) < c.n/10 {
			t.Fatalf("%s: subject %d: %v, %+v", when, i, err, m)
		}
	}
	if got := finds(t, v, c.who, seek("people", "city", c.city(1))); len(got) < c.n/3 {
		t.Fatalf("%s: searching a city finds %d records", when, len(got))
	}
	// A value that is there has its token; one that is unique is refused; both without a second row.
	done, err := v.Tokenize(t.Context(), c.who, vault.Batch{Collection: "people", Items: []vault.NewRecord{
		vaulttest.Item(map[string]string{"city": c.city(2)}), vaulttest.Item(map[string]string{"email": c.email(3)})}})
	if err != nil || done[0].Tokens["city"] != c.tokens[2]["city"] || kind(done[1].Err) != vault.Conflict {
		t.Fatalf("%s: storing values that are there: %v, %+v", when, err, done)
	}
}

// What is found by digests is found before, during and after a rotation of their keys, on replicas that know of it and on those that don't.
func TestRotatingKeysOfDigests(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"index", "alias", "fpe", "pseudonym"} {
		for place, options := range map[string][]vaulttest.Option{"together": nil, "apart": {vaulttest.Apart}, "direct": nil} {
			kms := "hierarchical"
			if place == "direct" {
				kms = place
			}
			t.Run(name+" "+place, func(t *testing.T) {
				t.Parallel()
				c := newCensus(t, kms, 230, options...)
				replica := c.Replica()
				c.holds(t, "before", replica)
				state := `select record_id, version, updated_at, sealed from privault.records order by 1`
				before := rows(t, c.OwnerURL, state)
				digests := rows(t, c.OwnerURL, `select digest from privault.subjects`)
				done, err := c.RotateKey(t.Context(), c.who, name)
				if err != nil || done.Version != 2 || done.Job == "" {
					t.Fatalf("got %+v, %v", done, err)
				}
				c.holds(t, "rotated, on a replica that doesn't know", replica)
				c.holds(t, "rotated", c.Vault)
				if err := c.RetireKey(t.Context(), c.who, name, 1); kind(err) != vault.Conflict {
					t.Errorf("retired before the job has finished: %v", err)
				}
				c.Work()
				if j := c.Finish(c.who, done.Job); j.State != "completed" || j.Done < 230 {
					t.Fatalf("got %+v", j)
				}
				c.holds(t, "done", replica)
				c.holds(t, "done", c.Vault)
				if after := rows(t, c.OwnerURL, state); !slices.Equal(before, after[:len(before)]) {
					t.Error("a record has changed")
				}
				if name == "pseudonym" {
					for _, d := range rows(t, c.OwnerURL, `select digest from privault.subjects`) {
						if slices.Contains(digests, d) {
							t.Fatal("a subject is still found under the old key")
						}
					}
					return
				}
				if err := c.RetireKey(t.Context(), c.who, name, 1); err != nil {
					t.Fatal(err)
				}
				if err := c.DestroyKey(t.Context(), c.who, name, 1); err != nil {
					t.Fatal(err)
				}
				if k := keyNamed(t, c.Bench, c.who, name); k.Versions[0].State != "destroyed" || k.Version != 2 {
					t.Errorf("got %+v", k)
				}
				c.holds(t, "retired", c.Vault)
				c.holds(t, "retired", replica)
				c.holds(t, "retired", c.Replica())
			})
		}
	}
}

func TestRotatingFPEIssuesNewTokensAndTheOldOnesResolve(t *testing.T) {
	t.Parallel()
	c := newCensus(t, "", 20)
	c.Work()
	done, err := c.RotateKey(t.Context(), c.who, "fpe")
	if err != nil {
		t.Fatal(err)
	}
	c.Finish(c.who, done.Job)
	for i := range c.n {
		rec, err := c.GetRecord(t.Context(), c.who, "people", c.ids[i], nil, "masked")
		if err != nil {
			t.Fatal(err)
		}
		old, fresh := c.tokens[i]["account"], rec.Tokens["account"]
		if old == fresh || len(fresh) != 16 {
			t.Errorf("record %d: %d characters, changed: %t", i, len(fresh), old != fresh)
		}
		for _, token := range []string{old, fresh} {
			if got := resolves(t, c.Vault, c.who, "people", "account", token)[0]; got != `"`+c.pan(i)+`"` {
				t.Errorf("record %d: got %s", i, got)
			}
		}
		again, err := c.Tokenize(t.Context(), c.who, vault.Batch{Collection: "people", Items: one(map[string]string{"account": c.pan(i)})})
		if err != nil || again[0].Tokens["account"] != fresh {
			t.Errorf("the same value again: %v, another token: %t", err, again[0].Tokens["account"] != fresh)
		}
	}
	all, _ := exported(t, c.Vault, c.who, vault.Export{Collection: "people", Previous: true, Fields: []string{"account", "email"}})
	for i, id := range c.ids {
		if diff := cmp.Diff(map[string][]string{"account": {c.tokens[i]["account"]}}, all[id].Previous); diff != "" {
			t.Errorf("previous tokens of record %d (-want +got):\n%s", i, diff)
		}
	}
	// With its last holder, all tokens of a value stop.
	if _, err := c.EraseSubject(t.Context(), c.who, c.subject(0), "gdpr-17", false); err != nil {
		t.Fatal(err)
	}
	if n := c.Count(`select count(*) from privault.aliases where key_version > 0`); n != 2*c.n {
		t.Errorf("%d aliases: the second record of each value still holds them", n)
	}
}

// One token for one value, whatever rotates meanwhile and whichever replica is asked.
func TestConcurrentClientsAgreeOnTokensDuringRotations(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	email := strategy("email", "deterministic")
	email.Index = []string{"exact"}
	defineFields(t, v, who, "people", map[string]vault.FieldDefinition{"email": email, "name": {Type: "name"}})
	v.Work()
	replicas := []*vault.Vault{v.Vault, v.Replica(), v.Replica()}
	// Twenty rotations a second can be too many, and a lock that is waited for too long: the caller is told to come again.
	again := func(err error) bool { return kind(err) == vault.Conflict || kind(err) == vault.DatabaseUnavailable }
	var mu sync.Mutex
	tokens := map[string]map[string]bool{}
	var wait, rotating sync.WaitGroup
	stop := make(chan struct{})
	rotations := 0
	rotating.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := []string{"alias", "index", "pseudonym", "wrap"}[i%4]
			if _, err := replicas[i%3].RotateKey(t.Context(), who, name); err != nil && !again(err) {
				t.Errorf("rotate %s: %v", name, err)
			} else if err == nil {
				rotations++
			}
			time.Sleep(50 * time.Millisecond) //nolint:forbidigo // rotations are not back to back
		}
	})
	const clients, values = 24, 40
	for client := range clients {
		wait.Go(func() {
			for i := range values {
				value := fmt.Sprintf("v%d@example.com", (i*7+client)%values)
				item := vaulttest.Item(map[string]string{"email": value})
				item.Subject = fmt.Sprintf("cust-%d", (i*7+client)%values)
				done, err := replicas[client%3].Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: []vault.NewRecord{item}})
				for again(err) {
					done, err = replicas[client%3].Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: []vault.NewRecord{item}})
				}
				if err != nil || done[0].Err != nil {
					t.Errorf("client %d: %v, %v", client, err, done)
					return
				}
				mu.Lock()
				if tokens[value] == nil {
					tokens[value] = map[string]bool{}
				}
				tokens[value][done[0].Tokens["email"]] = true
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	close(stop)
	rotating.Wait()
	if rotations < 3 {
		t.Fatalf("%d rotations: that was no race", rotations)
	}
	for value, all := range tokens {
		if len(all) != 1 {
			t.Errorf("%s has %d tokens after %d rotations", value, len(all), rotations)
		}
		for token := range all {
			wantResolves(t, replicas[1], who, token, `"`+value+`"`)
		}
		if got := finds(t, replicas[2], who, seek("people", "email", value)); len(got) != clients {
			t.Errorf("%s: %d records are found", value, len(got))
		}
	}
	if n := v.Count(`select count(*) from privault.subjects`); n != values {
		t.Errorf("%d subjects", n)
	}
}

func TestAnIdempotencyKeyIsFoundAfterARotation(t *testing.T) {
	t.Parallel()
	w := newWarmed(t)
	replica := w.Replica()
	if _, err := replica.Tokenize(t.Context(), w.who, keyed("other", "Jo")); err != nil {
		t.Fatal(err)
	}
	first, err := w.Tokenize(t.Context(), w.who, keyed("order-1", "Joe"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		for _, name := range []string{"pseudonym", "wrap"} {
			if _, err := w.RotateKey(t.Context(), w.who, name); err != nil {
				t.Fatal(err)
			}
		}
		for _, v := range []*vault.Vault{replica, w.Vault, w.Replica()} {
			again, err := v.Tokenize(t.Context(), w.who, keyed("order-1", "Joe"))
			if err != nil || again[0].Record != first[0].Record {
				t.Errorf("after %d rotations: %v, another record: %t", i+1, err, again[0].Record != first[0].Record)
			}
		}
	}
}

// An erasure that waits for a hold finds the person under whichever key.
func TestADeferredErasureOutlivesARotation(t *testing.T) {
	t.Parallel()
	c := newCensus(t, "", 10)
	hold, err := c.PlaceHold(t.Context(), c.who, vault.Hold{Matter: "case-7", Reason: "litigation", Subject: c.subject(1)})
	if err != nil {
		t.Fatal(err)
	}
	e, err := c.EraseSubject(t.Context(), c.who, c.subject(1), "gdpr-17", false)
	if err != nil || e.State != vault.ErasureDeferred {
		t.Fatalf("%+v, %v", e, err)
	}
	done, err := c.RotateKey(t.Context(), c.who, "pseudonym")
	if err != nil {
		t.Fatal(err)
	}
	c.Work()
	c.Finish(c.who, done.Job)
	if err := c.ReleaseHold(t.Context(), c.who, hold.ID); err != nil {
		t.Fatal(err)
	}
	await(t, "the erasure", func() bool {
		e, err := c.GetErasure(t.Context(), c.who, e.ID)
		return err == nil && e.State != vault.ErasureDeferred
	})
	again, err := c.EraseSubject(t.Context(), c.who, c.subject(1), "gdpr-17", false)
	if err != nil || again.ID != e.ID {
		t.Errorf("erasing again gives %+v, %v", again, err)
	}
	if got := resolves(t, c.Vault, c.who, "people", "email", c.tokens[1]["email"])[0]; got != string(vault.TokenNotFound) {
		t.Errorf("got %s", got)
	}
}

func TestAPIKeysOutliveTheRotationOfTheirDigestsKey(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t)
	replica := b.Replica()
	old := b.Key("admin")
	who, err := replica.Authenticate(t.Context(), old)
	if err != nil {
		t.Fatal(err)
	}
	operator := vault.DeploymentOperator()
	if _, err := b.RotateKey(t.Context(), operator, "credential"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.RotateKey(t.Context(), operator, "wrap"); kind(err) != vault.NotFound {
		t.Errorf("the deployment has no such key: %v", err)
	}
	if _, err := b.RotateKey(t.Context(), who, "credential"); kind(err) == "" {
		t.Error("a tenant rotated the deployment's key")
	}
	fresh := b.Key("admin")
	for what, v := range map[string]*vault.Vault{"knows": b.Vault, "doesn't know": replica, "new": b.Replica()} {
		for _, key := range []string{old, fresh} {
			if _, err := v.Authenticate(t.Context(), key); err != nil {
				t.Errorf("a replica that %s: %v", what, err)
			}
		}
	}
	if err := b.RetireKey(t.Context(), operator, "credential", 1); kind(err) != vault.Conflict {
		t.Errorf("retired while an API key is under it: %v", err)
	}
	b.Advance(400 * 24 * time.Hour)
	if err := b.RetireKey(t.Context(), operator, "credential", 1); err != nil {
		t.Error(err)
	}
}

func TestRetiringIsRefusedWhileAnythingNeedsTheKey(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t)
	who := b.Tenant()
	b.Collection(who, "people", map[string]string{"name": "string"})
	tokens := people(b, who, 300)
	ctx := t.Context()
	for _, refused := range []struct {
		name    string
		version int
		want    vault.Kind
	}{{"wrap", 1, vault.Conflict}, {"wrap", 2, vault.NotFound}, {"wrap", 0, vault.NotFound}, {"root", 1, vault.Conflict}, {"nothing", 1, vault.NotFound}} {
		if err := b.RetireKey(ctx, who, refused.name, refused.version); kind(err) != refused.want {
			t.Errorf("%s %d: %v", refused.name, refused.version, err)
		}
	}
	rotated := map[string]string{}
	for _, name := range []string{"wrap", "token", "pseudonym"} {
		done, err := b.RotateKey(ctx, who, name)
		if err != nil {
			t.Fatal(err)
		}
		rotated[name] = done.Job
		if err := b.RetireKey(ctx, who, name, 1); kind(err) != vault.Conflict {
			t.Errorf("%s: %v", name, err)
		}
		if err := b.DestroyKey(ctx, who, name, 1); kind(err) != vault.Conflict {
			t.Errorf("%s was destroyed without being retired: %v", name, err)
		}
	}
	b.Work()
	b.Finish(who, rotated["wrap"])
	for range 2 { // asked again, it is as it was asked
		if err := b.RetireKey(ctx, who, "wrap", 1); err != nil {
			t.Fatal(err)
		}
	}
	if s := keyNamed(t, b, who, "wrap").Versions[0].State; s != "retired" {
		t.Errorf("it is %s", s)
	}
	for range 2 {
		if err := b.DestroyKey(ctx, who, "wrap", 1); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range []*vault.Vault{b.Vault, b.Replica()} {
		revealAll(t, v, who, tokens)
	}
	if err := b.RetireKey(ctx, vaulttest.As(who, "admin"), "wrap", 1); kind(err) != vault.Forbidden {
		t.Errorf("by who doesn't run keys: %v", err)
	}
}

// A replica that is behind reads the newest keys without a connection that its own transactions may hold.
func TestChangesOnAReplicaThatIsBehind(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t, vaulttest.With(func(c *vault.Config) { c.MaxConns = 4 }))
	who := b.Tenant()
	email := strategy("email", "deterministic")
	defineFields(t, b, who, "people", map[string]vault.FieldDefinition{"email": email, "name": {Type: "name"}})
	var items []vault.NewRecord
	for i := range 16 {
		items = append(items, vaulttest.Item(map[string]string{"email": fmt.Sprintf("p%d@example.com", i), "name": "Jane"}))
	}
	done, err := b.Tokenize(t.Context(), who, vault.Batch{Collection: "people", Items: items})
	if err != nil {
		t.Fatal(err)
	}
	replica := b.Replica()
	resolves(t, replica, who, "people", "email", done[0].Tokens["email"])
	held := b.Replica()
	resolves(t, held, who, "people", "email", done[0].Tokens["email"])
	for _, name := range []string{"alias", "wrap"} {
		if _, err := b.RotateKey(t.Context(), who, name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := held.PlaceHold(t.Context(), who, vault.Hold{Matter: "case-7", Reason: "litigation", Subject: "cust-1"}); err != nil {
		t.Error("placing a hold: ", err)
	}
	var wait sync.WaitGroup
	for i, d := range done {
		wait.Go(func() {
			rec, err := replica.PatchRecord(t.Context(), who, "people", d.Record, vault.Patch{IfVersion: 1, Fields: map[string]vault.Secret{"name": secret(`"Joan"`)}})
			if err != nil || rec.Tokens["email"] != d.Tokens["email"] {
				t.Errorf("record %d: %v", i, err)
			}
		})
	}
	wait.Wait()
}

// The tokens that an FPE key made before go on resolving whatever is rotated next, and in which order.
func TestFPETokensOfBeforeOutliveARotationOfAliasKeys(t *testing.T) {
	t.Parallel()
	for _, order := range [][]string{{"fpe", "alias"}, {"alias", "fpe"}, {"fpe", "alias", "fpe", "alias"}} {
		for _, atOnce := range []bool{false, true} {
			t.Run(fmt.Sprint(order, " at once ", atOnce), func(t *testing.T) {
				t.Parallel()
				c := newCensus(t, "", 30)
				var jobs []string
				if !atOnce {
					c.Work()
				}
				for _, name := range order {
					done, err := c.RotateKey(t.Context(), c.who, name)
					if err != nil {
						t.Fatal(err)
					}
					if jobs = append(jobs, done.Job); !atOnce {
						c.Finish(c.who, done.Job)
					}
				}
				if atOnce {
					c.Work()
				}
				for _, job := range jobs {
					c.Finish(c.who, job)
				}
				for i := range c.n {
					if got := resolves(t, c.Vault, c.who, "people", "account", c.tokens[i]["account"])[0]; got != `"`+c.pan(i)+`"` {
						t.Fatalf("the first token of account %d gives %s", i, got)
					}
				}
				if _, err := c.PatchRecord(t.Context(), c.who, "people", c.ids[0], vault.Patch{IfVersion: 1, Fields: map[string]vault.Secret{"city": secret(`"elsewhere"`)}}); err != nil {
					t.Fatal(err)
				}
				if got := resolves(t, c.Vault, c.who, "people", "account", c.tokens[0]["account"])[0]; got != `"`+c.pan(0)+`"` {
					t.Errorf("after a change of its record the first token gives %s", got)
				}
			})
		}
	}
}

// A rotation whose job never was is finished all the same.
func TestARotationWithoutItsJobIsFinished(t *testing.T) {
	t.Parallel()
	c := newCensus(t, "", 10)
	if _, err := c.RotateKey(t.Context(), c.who, "index"); err != nil {
		t.Fatal(err)
	}
	c.Exec(`delete from privault.jobs`)
	c.Work() // periodic work begins with the server
	await(t, "the rotation", func() bool { return c.RetireKey(t.Context(), c.who, "index", 1) == nil })
	c.holds(t, "finished", c.Vault)
}

// A person's references are all brought under a new key, though the records that carry them stand in one batch.
func TestRotatingPseudonymsMovesAllReferencesOfAPerson(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	h.link(t, "p-1", "p-2")
	was := rows(t, h.OwnerURL, `select digest from privault.subjects`)
	done, err := h.RotateKey(t.Context(), h.who, "pseudonym")
	if err != nil || len(was) != 2 {
		t.Fatal(was, err)
	}
	h.Work()
	if j := h.Finish(h.who, done.Job); j.State != "completed" {
		t.Fatal(j)
	}
	for _, digest := range rows(t, h.OwnerURL, `select digest from privault.subjects`) {
		if slices.Contains(was, digest) {
			t.Error("a reference is still found under the old key")
		}
	}
}
