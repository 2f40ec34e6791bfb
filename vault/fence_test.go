package vault_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// replay applies the ledger to databases as `privault restore replay` does.
func replay(t *testing.T, b *vaulttest.Bench) vault.Replay {
	t.Helper()
	c := b.Config
	c.Restoring = true
	v, err := vault.Open(t.Context(), c)
	if err != nil {
		t.Fatal("open a vault to replay: ", err)
	}
	defer v.Close()
	r, err := v.ReplayLedger(t.Context(), func(int, int) {})
	if err != nil {
		t.Fatal("replay: ", err)
	}
	return r
}

// busy is a household to whom things happened after a backup.
type busy struct {
	*household
	data, keys string // the backup
	erased     vault.Erasure
	deferred   vault.Erasure
	hold       vault.Hold
}

func newBusy(t *testing.T, options ...vaulttest.Option) *busy {
	t.Helper()
	b := &busy{household: newHousehold(t, options...)}
	b.store(t, "people", "p-3")
	b.define(t, "letters")
	before, err := b.PlaceHold(t.Context(), b.who, vault.Hold{Matter: "case-1", Record: b.of["p-2"][0]})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.GiveConsent(t.Context(), b.who, "p-2", "letters", "v1", ""); err != nil {
		t.Fatal(err)
	}
	if err := b.WatchLedger(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.data, b.keys = b.Backup()

	b.erased = b.erase(t, "p-1")
	if b.hold, err = b.PlaceHold(t.Context(), b.who, vault.Hold{Matter: "case-2", Subject: "p-3"}); err != nil {
		t.Fatal(err)
	}
	b.deferred = b.erase(t, "p-3")
	_, _, restricted := b.Restrict(t.Context(), b.who, "p-2", "dispute", nil)
	_, _, objected := b.Object(t.Context(), b.who, "p-4", "letters", "")
	for _, err := range []error{restricted, objected, b.WithdrawConsent(t.Context(), b.who, "p-2", "letters"),
		b.ReleaseHold(t.Context(), b.who, before.ID), b.WatchLedger(t.Context())} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func (h *household) define(t *testing.T, purpose string) {
	t.Helper()
	if _, _, err := h.PutPurpose(t.Context(), h.who, vault.Purpose{Name: purpose, LegalBasis: "consent"}, 0); err != nil {
		t.Fatal(err)
	}
}

// A backup from before an erasure serves nothing; after the replay it has what had happened since, and once more changes nothing.
func TestARestoredBackupServesNothingBeforeTheReplay(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options          []vaulttest.Option
		oldData, oldKeys bool
		lines            int
	}{
		"one database":               {nil, true, true, 7},
		"data, and the keys are new": {[]vaulttest.Option{vaulttest.Apart}, true, false, 7},
		"keys, and the data is new":  {[]vaulttest.Option{vaulttest.Apart}, false, true, 1},
		"data and keys":              {[]vaulttest.Option{vaulttest.Apart}, true, true, 7},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBusy(t, c.options...)
			b.Close()
			data, keys := b.data, b.keys
			if !c.oldData {
				data = vaulttest.DatabaseOf(t, b.OwnerURL)
			}
			if !c.oldKeys {
				keys = vaulttest.DatabaseOf(t, b.KeysURL)
			}
			r := b.On(data, keys)
			r.Vault = r.Replica()
			for range 2 {
				servesNothing(t, r, b)
				if err := r.WatchLedger(t.Context()); vault.AsError(err).Kind != vault.RestoreFence {
					t.Errorf("a look at it: %v", err)
				}
			}
			if !c.oldKeys { // they have it all, and aren't written to
				vaulttest.ExecURL(t, vaulttest.OwnerURL("postgres"), `alter database `+keys+` set default_transaction_read_only = on`)
			}
			done := replay(t, r)
			if !c.oldKeys {
				vaulttest.ExecURL(t, vaulttest.OwnerURL("postgres"), `alter database `+keys+` reset default_transaction_read_only`)
			}
			if done.Lines != c.lines || done.Erasures != 1 || done.Strange != 0 || done.Unfinished != 0 {
				t.Errorf("the replay: %+v", done)
			}
			if again := replay(t, r); again.Lines != 0 {
				t.Errorf("replayed again: %+v", again)
			}
			if err := r.WatchLedger(t.Context()); err != nil {
				t.Fatal("after the replay: ", err)
			}
			b.isUpToDate(t, r)
		})
	}
}

func servesNothing(t *testing.T, r *vaulttest.Bench, b *busy) {
	t.Helper()
	for _, subject := range []string{"p-1", "p-2"} {
		for _, token := range b.tokens[subject] {
			if got := r.Reveal(b.who, token); got != string(vault.RestoreFence) {
				t.Errorf("a token gives %s", got)
			}
		}
	}
	_, err := r.Tokenize(t.Context(), b.who, vault.Batch{Collection: "people", Items: []vault.NewRecord{vaulttest.Item(map[string]string{"name": "Joe"})}})
	wantKind(t, "storing", err, vault.RestoreFence)
	_, err = r.EraseSubject(t.Context(), b.who, "p-2", "gdpr-17", false)
	wantKind(t, "erasing", err, vault.RestoreFence)
	wantKind(t, "readiness", r.Ready(t.Context()), vault.RestoreFence)
}

// isUpToDate looks for what happened after the backup.
func (b *busy) isUpToDate(t *testing.T, r *vaulttest.Bench) {
	t.Helper()
	for _, token := range b.tokens["p-1"] {
		if got := r.Reveal(b.who, token); got != string(vault.TokenNotFound) {
			t.Errorf("a token of the erased person gives %s", got)
		}
	}
	e, err := r.GetErasure(t.Context(), b.who, b.erased.ID)
	if err != nil || e.Certificate != b.erased.Certificate || e.Counts != b.erased.Counts {
		t.Errorf("the certificate: %+v %v", e, err)
	}
	if again, err := r.EraseSubject(t.Context(), b.who, "p-1", "gdpr-17", false); err != nil || again.ID != b.erased.ID {
		t.Errorf("erasing again gives %s %v, want %s", again.ID, err, b.erased.ID)
	}
	if n := r.Count(`select count(*) from keystore.data_keys k where record_id = any(select r.record_id from privault.records r join privault.erasing using (tenant_id, subject_id))`); b.OwnerURL == b.KeysURL && n != 0 {
		t.Errorf("%d keys of the erased person are left", n)
	}
	wantKind(t, "deleting what is held", r.DeleteRecord(t.Context(), b.who, "people", b.of["p-3"][0], 0), vault.LegalHold)
	if e, err := r.EraseSubject(t.Context(), b.who, "p-3", "gdpr-17", false); err != nil || e.ID != b.deferred.ID || e.State != vault.ErasureDeferred {
		t.Errorf("the deferred erasure: %+v %v", e, err)
	}
	if got := r.Reveal(b.who, b.tokens["p-2"][0]); got != string(vault.SubjectRestricted) {
		t.Errorf("a token of the restricted person gives %s", got)
	}
	facts := r.Texts(`select kind || ' ' || purpose from privault.subject_facts order by 1`)
	if diff := cmp.Diff([]string{"objection letters", "restriction "}, facts); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	holds, _, err := r.ListHolds(t.Context(), b.who, "", 10)
	if err != nil || len(holds) != 2 || holds[0].ID != b.hold.ID || holds[0].Released != nil || holds[1].Released == nil {
		t.Errorf("holds: %+v %v", holds, err)
	}
	r.Work()
	await(t, "the rows of the erased person go", func() bool {
		return r.Count(`select count(*) from privault.records r join privault.erasing using (tenant_id, subject_id)`) == 0
	})
	if err := r.ReleaseHold(t.Context(), b.who, b.hold.ID); err != nil {
		t.Fatal(err)
	}
	await(t, "the deferred erasure is done", func() bool {
		return r.Count(`select count(*) from privault.erasures where state = 'purged'`) == 2
	})
}

// failCommits makes every commit of an erasure or a hold fail, after its line was written.
const (
	failCommits = `
	create function privault.refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
	create constraint trigger refuse after insert or update on privault.erasures deferrable initially deferred for each row execute function privault.refuse();
	create constraint trigger refuse after insert on privault.holds deferrable initially deferred for each row execute function privault.refuse()`
	letCommit = `drop function privault.refuse() cascade`
)

// What was written ahead and never committed is carried out: by the next start, or by a server that runs, after a while.
func TestWhatWasBegunIsFinished(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		for _, how := range []string{"by a start", "by a running server"} {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				h := newHousehold(t, options...)
				h.Exec(failCommits)
				if _, err := h.EraseSubject(t.Context(), h.who, "p-1", "gdpr-17", false); err == nil {
					t.Fatal("the commit did not fail")
				}
				if _, err := h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-1", Subject: "p-2"}); err == nil {
					t.Fatal("the commit did not fail")
				}
				h.Exec(letCommit)
				if err := h.WatchLedger(t.Context()); err != nil {
					t.Fatal(err)
				}
				if n := h.Count(`select (select count(*) from privault.erasures) + (select count(*) from privault.holds)`); n != 0 {
					t.Fatal("it was carried out while somebody may still be at it")
				}
				v := h.Vault
				if how == "by a start" {
					v = h.Replica()
				} else {
					h.Advance(2 * time.Minute)
					if err := v.WatchLedger(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if got := vaulttest.RevealOn(t, v, h.who, h.tokens["p-1"][0]); got != string(vault.TokenNotFound) {
					t.Errorf("a token of whom to erase was begun gives %s", got)
				}
				e := h.erase(t, "p-1")
				if n := h.Count(`select count(*) from privault.erasures`); n != 1 || e.State != vault.ErasureErased || e.Counts.Records != 4 {
					t.Errorf("%d erasures, %+v", n, e)
				}
				wantKind(t, "deleting what was to be held", v.DeleteRecord(t.Context(), h.who, "people", h.of["p-2"][0], 0), vault.LegalHold)
				if err := v.WatchLedger(t.Context()); err != nil {
					t.Fatal(err)
				}
				if r := replay(t, h.Bench); r.Lines != 0 || r.Unfinished != 0 {
					t.Errorf("afterwards there is something left: %+v", r)
				}
			})
		}
	}
}

// An erasure that was begun asks the holds that there are by then.
func TestWhatWasBegunAsksForHolds(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	h.Exec(failCommits)
	if _, err := h.EraseSubject(t.Context(), h.who, "p-1", "gdpr-17", false); err == nil {
		t.Fatal("the commit did not fail")
	}
	h.Exec(letCommit)
	if _, err := h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-1", Subject: "p-1"}); err != nil {
		t.Fatal(err)
	}
	v := h.Replica()
	if got := vaulttest.RevealOn(t, v, h.who, h.tokens["p-1"][0]); got != jane {
		t.Errorf("a token of a held person gives %s", got)
	}
	if e := h.erase(t, "p-1"); e.State != vault.ErasureDeferred {
		t.Errorf("the erasure: %+v", e)
	}
}

// A crash in the middle of a line, or of a block of the file system, leaves something that is cut off and no more.
func TestATornLineIsMended(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	whole := file(t, h.Config.Ledger)
	for i, torn := range []string{`{"prev":"abc","se`, strings.Repeat("\x00", 300), "{\"prev\"\x00\x00\x00"} {
		before := file(t, h.Config.Ledger)
		appendTo(t, h.Config.Ledger, torn)
		v := h.Replica()
		if _, err := v.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-1", Subject: "p-1"}); err != nil {
			t.Fatal("with a torn line: ", err)
		}
		after := file(t, h.Config.Ledger)
		if !strings.HasPrefix(after, before) || strings.Contains(after, torn) || strings.Count(after, "\n") != strings.Count(whole, "\n")+1+i {
			t.Errorf("the ledger after torn line %d:\n%s", i, after)
		}
	}
	if !strings.Contains(h.Log.String(), "cut off") {
		t.Error("the log does not say it")
	}
	h.Close()
	h.Vault = h.Replica() // it is whole
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// A ledger that was changed, set back, lost or is another's ends the start, in words that say what to do; a lost one can be gone on without.
func TestALedgerThatDoesNotFit(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	early := file(t, h.Config.Ledger)
	for range 3 {
		if _, err := h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-1", Subject: "p-2"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.WatchLedger(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.Close()
	good := file(t, h.Config.Ledger)
	first, _, _ := strings.Cut(good, "\n")
	_, deployment, _ := strings.Cut(first, `"deployment":"`)
	stranger := strings.Replace(first, deployment[:8], "00000000", 1) + "\n"
	for what, c := range map[string]struct {
		content string
		said    string
		lost    bool // it can be gone on without
	}{
		"changed in the middle": {strings.Replace(good, `"matter":"case-1"`, `"matter":"case-2"`, 1), "damaged behind line", false},
		"a line taken out":      {strings.Join(append(strings.SplitAfter(good, "\n")[:1], strings.SplitAfter(good, "\n")[2:]...), ""), "damaged behind line", false},
		"zeros in the middle":   {first + "\n" + strings.Repeat("\x00", 64) + good[len(first)+65:], "damaged behind line", false},
		"zeros before an end":   {good + "\x00\x00\n", "damaged behind line", false},
		"zeros before a piece":  {good + "\x00\x00{", "damaged behind line", false},
		"set back":              {early, "set back", true},
		"gone":                  {"", "there is no ledger", true},
		"another deployment's":  {stranger, "another deployment", false},
		"another one":           {file(t, vaulttest.New(t).Config.Ledger), "another one", true},
	} {
		h.tryLedger(t, what, c.content, c.said, c.lost)
	}
}

// tryLedger opens the vault with a ledger of this content, which must end the start; if it counts as lost, it is gone on without.
func (h *household) tryLedger(t *testing.T, what, content, said string, lost bool) {
	t.Helper()
	config := h.Config
	config.Ledger = t.TempDir() + "/ledger"
	if content != "" {
		writeFile(t, config.Ledger, content)
	}
	open := func() (*vault.Vault, error) { return vault.Open(t.Context(), config) }
	if _, err := open(); err == nil || !strings.Contains(err.Error(), said) {
		t.Fatalf("%s: the start: %v, want %q", what, err, said)
	}
	config.LostLedger = true
	v, err := open()
	if !lost {
		if err == nil {
			v.Close()
			t.Errorf("%s: it was gone on with", what)
		}
		return
	}
	if err != nil {
		t.Fatalf("%s: with the ledger lost: %v", what, err)
	}
	defer v.Close()
	if err := v.Fenced(); err != nil {
		t.Errorf("%s: the fence is up: %v", what, err)
	}
	if _, err := v.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-3", Subject: "p-2"}); err != nil {
		t.Errorf("%s: it does not go on: %v", what, err)
	}
	if first, _, _ := strings.Cut(file(t, config.Ledger), "\n"); !strings.Contains(first, `"after":{"ledger"`) {
		t.Errorf("%s: the new ledger begins with %s", what, first)
	}
	// From here on the database knows the new one, and not the old.
	config.Ledger, config.LostLedger = h.Config.Ledger, false
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "another one") {
		t.Errorf("%s: with the old ledger: %v", what, err)
	}
	// A database that knows none is behind it. For the next it is as it was.
	h.Exec(`delete from privault.ledger; delete from privault.ledger_applied; delete from keystore.ledger; delete from keystore.ledger_applied`)
	if r := replay(t, h.Bench); r.Lines == 0 {
		t.Errorf("%s: a database without a ledger is not behind one", what)
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replayWithout replays while nothing can be written into a table.
func replayWithout(t *testing.T, b *vaulttest.Bench, table string) (vault.Replay, error) {
	t.Helper()
	b.Exec(`create function public.refuse() returns trigger language plpgsql as $$ begin raise exception 'refused'; end $$;
		create trigger refuse before insert on privault.` + table + ` for each row execute function public.refuse()`)
	defer b.Exec(`drop trigger refuse on privault.` + table)
	c := b.Config
	c.Restoring = true
	v, err := vault.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	return v.ReplayLedger(t.Context(), func(int, int) {})
}

// A line that can't be applied keeps no other: the replay names it, and goes on from there when it is run again.
func TestAReplayGoesOnBehindALineThatFails(t *testing.T) {
	t.Parallel()
	b := newBusy(t)
	b.Close()
	r := b.On(b.data, b.keys)
	done, err := replayWithout(t, r, "holds")
	if err == nil || strings.Count(err.Error(), "line ") != 1 || done.Lines != 6 || done.Holds != 0 || done.Erasures != 1 {
		t.Errorf("the replay: %+v, %v", done, err)
	}
	if done := replay(t, r); done.Lines != 1 || done.Holds != 1 {
		t.Errorf("the rest: %+v", done)
	}
	r.Vault = r.Replica()
	b.isUpToDate(t, r)
}

// That recipients were told of an erasure may be lost with the rest: a replay tells them once more.
func TestAReplayTellsRecipients(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	h.webhook(t, "crm", isRecipient, nil)
	data, keys := h.Backup()
	e := h.erase(t, "p-1")
	if err := h.WatchLedger(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.Close()
	r := h.On(data, keys)
	replay(t, r)
	r.Vault = r.Replica()
	page, _, err := r.ListDeliveries(t.Context(), h.who, "crm", "", "", 10)
	if err != nil || len(page) != 1 || page[0].Event != vault.EventSubjectErased || page[0].Certificate != e.ID {
		t.Errorf("deliveries: %+v, %v", page, err)
	}
	if got, err := r.GetErasure(t.Context(), h.who, e.ID); err != nil || len(got.Recipients) != 1 {
		t.Errorf("the erasure: %+v, %v", got, err)
	}
}

// A hold on a person who was introduced with it is placed although that transaction is lost, and on who they are by then.
func TestAHoldOnANewPersonIsFinished(t *testing.T) {
	t.Parallel()
	for _, before := range []bool{false, true} {
		h := newHousehold(t)
		h.Exec(failCommits)
		if _, err := h.PlaceHold(t.Context(), h.who, vault.Hold{Matter: "case-1", Subject: "p-new"}); err == nil {
			t.Fatal("the commit did not fail")
		}
		h.Exec(letCommit)
		if before {
			h.store(t, "people", "p-new")
		}
		h.Vault = h.Replica()
		if !before {
			h.store(t, "people", "p-new")
		}
		if e := h.erase(t, "p-new"); e.State != vault.ErasureDeferred {
			t.Errorf("stored before it is finished: %v: the erasure: %+v", before, e)
		}
	}
}

// Behind a fence that goes up in a running server nothing is done in the background either.
func TestAFenceStopsBackgroundWork(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	crm := h.webhook(t, "crm", isRecipient, nil)
	h.erase(t, "p-1")
	h.Work()
	h.Until(func() bool { return len(crm.Messages()) == 1 })
	if err := os.Truncate(h.Config.Ledger, 10); err != nil {
		t.Fatal(err)
	}
	if err := h.WatchLedger(t.Context()); err == nil {
		t.Fatal("a ledger that was cut is taken")
	}
	h.Exec(`update privault.webhook_deliveries set state = 'pending', next_at = created_at, attempts = 0`)
	wantKind(t, "sending", h.DeliverDue(t.Context(), h.who.Tenant), vault.RestoreFence)
	if n := len(crm.Messages()); n != 1 {
		t.Errorf("%d messages", n)
	}
}

// A server without the ledger does nothing that belongs into it.
func TestAVaultWithoutTheLedgerErasesNobody(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	config := h.Config
	config.Ledger = ""
	v, err := vault.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	_, err = v.EraseSubject(t.Context(), h.who, "p-1", "gdpr-17", false)
	wantKind(t, "erasing", err, vault.AuditUnavailable)
	if got := h.Reveal(h.who, h.tokens["p-1"][0]); got != jane {
		t.Errorf("a token gives %s", got)
	}
}

// A database is put in another's place under a running server: from its first new connection on, nothing of the old state is served.
func TestADatabaseIsSwappedUnderAServer(t *testing.T) {
	t.Parallel()
	b := newBusy(t)
	name := vaulttest.DatabaseOf(t, b.OwnerURL)
	admin := vaulttest.OwnerURL("postgres")
	vaulttest.ExecURL(t, admin, `alter database `+name+` allow_connections false`)
	vaulttest.ExecURL(t, admin, `select pg_terminate_backend(pid) from pg_stat_activity where datname = '`+name+`'`)
	await(t, "the old database is left", func() bool {
		return vaulttest.CountURL(t, admin, `select count(*) from pg_stat_activity where datname = $1`, name) == 0
	})
	vaulttest.ExecURL(t, admin, `alter database `+name+` rename to `+name+`_old`)
	vaulttest.ExecURL(t, admin, `alter database `+b.data+` rename to `+name)
	t.Cleanup(func() { vaulttest.ExecURL(t, admin, `drop database if exists `+name+`_old with (force)`) })
	fenced := false
	for range 50 {
		switch got := b.Reveal(b.who, b.tokens["p-1"][0]); got {
		case string(vault.RestoreFence):
			fenced = true
		case string(vault.DatabaseUnavailable), string(vault.Unauthenticated), string(vault.TokenNotFound):
			if fenced {
				t.Errorf("behind the fence: %s", got)
			}
		default:
			t.Fatalf("the swapped database gives %s", got)
		}
	}
	if !fenced {
		t.Fatal("the fence is not up")
	}
	replay(t, b.Bench)
	// What it has in memory is of the other database.
	wantKind(t, "after the replay", b.WatchLedger(t.Context()), "")
	wantKind(t, "after the replay", b.Fenced(), vault.RestoreFence)
	again := b.Replica()
	if got := vaulttest.RevealOn(t, again, b.who, b.tokens["p-1"][0]); got != string(vault.TokenNotFound) {
		t.Errorf("a token of the erased person gives %s", got)
	}
}
