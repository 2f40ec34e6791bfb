package vault_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/audit"
	"github.com/privault/privault/vault/vaulttest"
)

// checkpoint is the newest signed one, verified.
func checkpoint(t testing.TB, v *vaulttest.Bench) audit.Checkpoint {
	t.Helper()
	signed, err := v.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := v.Config.AuditKeys.Open([]byte(signed))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// audited checks the whole log as an outsider does.
func audited(t testing.TB, v *vaulttest.Bench) error {
	t.Helper()
	fetch := func(tile tlog.Tile) ([]byte, error) { return v.Tile(t.Context(), tile) }
	signed, err := v.Checkpoint(t.Context())
	if err != nil {
		return err
	}
	c, err := v.Config.AuditKeys.Open([]byte(signed))
	if err != nil {
		return err
	}
	return audit.Check(c, fetch, nil)
}

// entriesOf makes n entries of a tenant: lists of its collections.
func entriesOf(t testing.TB, v *vault.Vault, who vault.Caller, n int) {
	t.Helper()
	for range n {
		if _, _, err := v.ListCollections(t.Context(), who, "", 1); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEveryEntryComesIntoTheLogOnce(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	other := v.Replica()
	who := []vault.Caller{v.Tenant(), v.Tenant()}
	var writers, sequencers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() { entriesOf(t, v.Vault, who[i%2], 150) })
	}
	ctx, cancel := context.WithCancel(t.Context())
	for _, s := range []*vault.Vault{v.Vault, other} {
		sequencers.Go(func() {
			for ctx.Err() == nil {
				if _, err := s.Sequence(ctx); err != nil && ctx.Err() == nil {
					t.Error("sequence: ", err)
					return
				}
			}
		})
	}
	writers.Wait()
	cancel()
	sequencers.Wait()
	v.Sequence()
	entries := v.Count(`select count(*) from privault.audit_entries`)
	if c := checkpoint(t, v); c.Size != int64(entries) || entries < 600 {
		t.Errorf("the checkpoint has %d leaves, the table %d entries", c.Size, entries)
	}
	if n := v.Count(`select count(*) from privault.audit_leaves join privault.audit_entries using (tenant_id, entry_id)`); n != entries {
		t.Errorf("%d entries have a leaf, of %d", n, entries)
	}
	if err := audited(t, v); err != nil {
		t.Error(err)
	}
}

// An entry whose transaction began early and commits late is not passed over by entries that came in between.
func TestALateCommitIsNotPassedOver(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	v.Sequence()
	before := checkpoint(t, v).Size
	ctx := t.Context()
	c, err := pgx.Connect(ctx, v.OwnerURL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	tx, err := c.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, `
		insert into privault.audit_entries (tenant_id, entry_id, at, principal_id, action, outcome, body)
		values ($1, gen_random_uuid(), now(), $1, 'late', 'ok', '{}')`, who.Tenant); err != nil {
		t.Fatal(err)
	}
	entriesOf(t, v.Vault, who, 3)
	if _, err := v.Vault.Sequence(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := checkpoint(t, v).Size; got != before {
		t.Fatalf("%d entries were sequenced before an older transaction had ended", got-before)
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	v.Sequence()
	if got := checkpoint(t, v).Size; got != before+4 {
		t.Errorf("%d entries were sequenced, want 4", got-before)
	}
	if n := v.Count(`select leaf_index::int from privault.audit_leaves join privault.audit_entries using (tenant_id, entry_id) where action = 'late'`); int64(n) != before {
		t.Errorf("the late entry has the place %d, want %d", n, before)
	}
}

// freshID is SQL for an entry's id of now.
const freshID = `overlay(privault.first_id(now())::text placing right(gen_random_uuid()::text, 22) from 15)::uuid`

// Each consecutive pair of checkpoints is consistent, across levels of tiles.
func TestTheLogOnlyGrows(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	fetch := func(tile tlog.Tile) ([]byte, error) { return v.Tile(t.Context(), tile) }
	var seen []audit.Checkpoint
	for _, n := range []int{1, 7, 300, 1, 500} {
		v.Exec(`insert into privault.audit_entries (tenant_id, entry_id, at, principal_id, action, outcome, body)
			select $1, `+freshID+`, now(), $1, 'made', 'ok', '{"n":' || n || '}' from generate_series(1, $2::int) n`, who.Tenant, n)
		v.Sequence()
		c := checkpoint(t, v)
		for _, older := range seen {
			root, proof, err := audit.ProveConsistency(c, older.Size, fetch)
			if err != nil || root != older.Root {
				t.Fatalf("from %d to %d: %v", older.Size, c.Size, err)
			}
			if err := audit.CheckConsistency(older, c, proof); err != nil {
				t.Error(err)
			}
		}
		seen = append(seen, c)
	}
	if err := audited(t, v); err != nil {
		t.Error(err)
	}
	if _, err := v.Tile(t.Context(), tlog.Tile{H: 8, L: 1, N: 0, W: 4}); vault.AsError(err).Kind != vault.NotFound {
		t.Errorf("a tile that doesn't exist: %v", err)
	}
}

// Transaction ids are a cluster's own. Restored from a dump into a younger one, the log takes in what was waiting, what comes
// before the sequencer looks, and what comes then.
func TestTheLogGoesOnInAYoungerCluster(t *testing.T) {
	t.Parallel()
	old := vaulttest.New(t)
	who := old.Tenant()
	old.Exec(`do $$ begin for i in 1..20000 loop perform pg_current_xact_id(); commit; end loop; end $$`)
	entriesOf(t, old.Vault, who, 5)
	old.Sequence()
	before := checkpoint(t, old)
	entriesOf(t, old.Vault, who, 3)
	v := old.Elsewhere()
	if v.Count(`select (pg_snapshot_xmax(pg_current_snapshot())::text::bigint < xid::text::bigint)::int from privault.audit_head`) != 1 {
		t.Fatal("the new cluster isn't younger")
	}
	wholeAndMore := func(how string, more int) {
		t.Helper()
		entriesOf(t, v.Vault, who, more)
		v.Sequence()
		entries := v.Count(`select count(*) from privault.audit_entries`)
		if n := v.Count(`select count(*) from privault.audit_leaves join privault.audit_entries using (tenant_id, entry_id)`); n != entries {
			t.Errorf("%s, %d entries of %d have a leaf", how, n, entries)
		}
		c := checkpoint(t, v)
		root, _, err := audit.ProveConsistency(c, before.Size, func(tile tlog.Tile) ([]byte, error) { return v.Tile(t.Context(), tile) })
		if err != nil || root != before.Root || c.Size != int64(entries) {
			t.Errorf("%s, the log doesn't continue: %+v, %v", how, c, err)
		}
		if err := audited(t, v); err != nil {
			t.Errorf("%s: %v", how, err)
		}
		before = c
	}
	wholeAndMore("restored", 4)
	base := v.Count(`select (xid_base >> 40)::int from privault.audit_head`)
	wholeAndMore("later", 4)
	if n := v.Count(`select (xid_base >> 40)::int from privault.audit_head`); n != base || n != 1 {
		t.Errorf("ids were raised %d times, want once", n)
	}
	// The same cluster whose ids went back, as pg_resetwal can have it.
	v.Exec(`update privault.audit_head set xid = (xid_base + 100000000)::text::xid8`)
	v.Exec(`update privault.audit_entries set xid = (select h.xid from privault.audit_head h)`)
	wholeAndMore("with ids that went back", 4)
	wholeAndMore("and later", 3)
}

// A copied database has a second sequencer: the one that comes second to a checkpoint stops, and says so.
func TestTheSecondSequencerOfACopiedDatabaseStops(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	entriesOf(t, v.Vault, who, 5)
	v.Sequence()
	copied := v.Copy()
	entriesOf(t, v.Vault, who, 1)
	entriesOf(t, copied.Vault, who, 3)
	v.Sequence()
	held := file(t, v.Config.AuditCopy)
	for range 2 {
		_, err := copied.Vault.Sequence(t.Context())
		if vault.AsError(err).Kind != vault.IntegrityFailure || !strings.Contains(err.Error(), "stopped") {
			t.Fatalf("the second sequencer: %v", err)
		}
	}
	if vault.AsError(copied.Ready(t.Context())).Kind != vault.IntegrityFailure {
		t.Error("the copy says that it is ready")
	}
	if checkpoint(t, copied).Size >= checkpoint(t, v).Size || file(t, v.Config.AuditCopy) != held {
		t.Error("the second sequencer published something")
	}
	// The first goes on. That the copy is longer by then changes nothing.
	entriesOf(t, v.Vault, who, 1)
	v.Sequence()
	if err := v.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	if file(t, v.Config.AuditCopy) == held {
		t.Error("the first sequencer doesn't go on")
	}
	if again := copied.Replica(); func() bool { _, err := again.Sequence(t.Context()); return err == nil }() {
		t.Error("after a restart the copy sequences")
	}
}

// A copy that is as long as the original, but other, stops too.
func TestAForkOfTheSameLengthStops(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	v.Sequence()
	copied := v.Copy()
	c := copied.Config
	c.AuditCopy = filepath.Join(t.TempDir(), "its own") // until the two meet
	alone, err := vault.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer alone.Close()
	entriesOf(t, v.Vault, who, 2)
	entriesOf(t, alone, who, 2)
	v.Sequence()
	await(t, "the fork is as long as the log", func() bool { // what a fork does unwatched
		if _, err := alone.Sequence(t.Context()); err != nil {
			t.Fatal(err)
		}
		return checkpoint(t, copied).Size == checkpoint(t, v).Size
	})
	if a, b := checkpoint(t, v), checkpoint(t, copied); a.Size != b.Size || a.Root == b.Root {
		t.Fatalf("%+v and %+v are no fork", a, b)
	}
	if _, err := copied.Vault.Sequence(t.Context()); vault.AsError(err).Kind != vault.IntegrityFailure {
		t.Errorf("a fork goes on: %v", err)
	}
}

// Killed between staging, keeping and publishing, the log goes on where it was.
func TestASequencerMayDieAnywhere(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	v.Sequence()
	older, oldest := file(t, v.Config.AuditCopy), v.Count(`select size::int from privault.audit_head`)
	entriesOf(t, v.Vault, who, 4)
	v.Sequence()
	want := checkpoint(t, v)
	// Died before the copy was written: it is older than what is staged, and so is what is published.
	write(t, v.Config.AuditCopy, older)
	v.Exec(`update privault.audit_head set signed = $1`, older)
	v.Sequence()
	if got := checkpoint(t, v); got != want || int64(oldest) >= got.Size {
		t.Errorf("the log has %+v, want %+v", got, want)
	}
	// Died before it was published.
	v.Exec(`update privault.audit_head set signed = $1`, older)
	v.Sequence()
	if got := checkpoint(t, v); got != want {
		t.Errorf("the log has %+v, want %+v", got, want)
	}
	if err := errors.Join(v.Ready(t.Context()), audited(t, v)); err != nil {
		t.Error(err)
	}
}

// A key may be replaced: the newest checkpoint is signed by the new one, and the copy by the old one still counts.
func TestTheAuditKeyCanBeReplaced(t *testing.T) {
	t.Parallel()
	var private [2]string
	var public [2]string
	for i := range private {
		var err error
		if private[i], public[i], err = audit.GenerateKey("vault.example/audit"); err != nil {
			t.Fatal(err)
		}
	}
	keys := func(text string) *audit.Keys {
		k, err := audit.ParseKeys(text)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	v := vaulttest.New(t, vaulttest.With(func(c *vault.Config) { c.AuditKeys = keys(private[0]) }))
	v.Tenant()
	v.Sequence()
	v.Config.AuditKeys = keys(private[1] + "\n" + public[0])
	v.Vault = v.Replica()
	v.Sequence()
	signed, err := v.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys(public[1]).Open([]byte(signed)); err != nil {
		t.Error("the new key's checkpoint: ", err)
	}
	if _, err := keys(public[0]).Open([]byte(signed)); err == nil {
		t.Error("the old key still signs")
	}
	stranger := v.Config
	stranger.AuditKeys = vaulttest.AuditKeys(t)
	s, err := vault.Open(t.Context(), stranger)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Sequence(t.Context()); vault.AsError(err).Kind != vault.IntegrityFailure {
		t.Errorf("a key that doesn't know the old checkpoints goes on: %v", err)
	}
}

// tampering is one thing that somebody with the owner's rights may do to the log, somewhere in it.
var tampering = map[string]string{
	"an entry's text":         `update privault.audit_entries set body = replace(body, '"ok"', '"no"') where (tenant_id, entry_id) = (select tenant_id, entry_id from privault.audit_leaves where leaf_index = $1)`,
	"an entry's salt":         `update privault.audit_entries set salt = gen_random_uuid() where (tenant_id, entry_id) = (select tenant_id, entry_id from privault.audit_leaves where leaf_index = $1)`,
	"an entry deleted":        `delete from privault.audit_entries where (tenant_id, entry_id) = (select tenant_id, entry_id from privault.audit_leaves where leaf_index = $1)`,
	"two entries swapped":     `update privault.audit_entries a set body = b.body, salt = b.salt from privault.audit_entries b where (a.tenant_id, a.entry_id) = (select tenant_id, entry_id from privault.audit_leaves where leaf_index = $1) and (b.tenant_id, b.entry_id) = (select tenant_id, entry_id from privault.audit_leaves where leaf_index = case when $1 = 0 then 1 else $1 - 1 end)`,
	"a leaf":                  `update privault.audit_leaves set leaf = sha256(leaf) where leaf_index = $1`,
	"a leaf deleted":          `delete from privault.audit_leaves where leaf_index = $1`,
	"a leaf and its entry":    `with l as (delete from privault.audit_leaves where leaf_index = $1 returning tenant_id, entry_id) delete from privault.audit_entries where (tenant_id, entry_id) in (select tenant_id, entry_id from l)`,
	"a leaf of another entry": `update privault.audit_leaves set entry_id = (select min(entry_id::text)::uuid from privault.audit_entries e where e.tenant_id = audit_leaves.tenant_id and not exists (select from privault.audit_leaves l where l.entry_id = e.entry_id)) where leaf_index = $1`,
	"a node":                  `update privault.audit_nodes set hash = sha256(hash) where node_index = $1 / 256 % (select count(*) from privault.audit_nodes where level = 1) and level = 1`,
	"a node deleted":          `delete from privault.audit_nodes where node_index = $1 / 256 % (select count(*) from privault.audit_nodes where level = 1) and level = 1`,
	"the checkpoint's size":   `update privault.audit_head set signed = regexp_replace(signed, '\n\d+\n', E'\n' || (size - 1 - $1 % 3) || E'\n')`,
	"the checkpoint's root":   `update privault.audit_head set signed = regexp_replace(signed, '\n([^\n]+\n)\n', E'\n' || encode(sha256(int4send($1)), 'base64') || E'\n\n')`,
}

func TestTamperingIsSeen(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	const n = 700
	v.Exec(`insert into privault.audit_entries (tenant_id, entry_id, at, principal_id, action, outcome, body)
		select $1, `+freshID+`, now(), $1, 'made', 'ok', '{"n":' || n || ',"outcome":"ok"}' from generate_series(1, $2::int) n`, who.Tenant, n)
	v.Sequence()
	entriesOf(t, v.Vault, who, 1) // an entry without a leaf, for one of them
	if err := audited(t, v); err != nil {
		t.Fatal(err)
	}
	others := newFsck(t, v)
	if whole, objects := others.check(t); !whole || objects {
		t.Fatal("tessera's fsck doesn't like the log as it is")
	}
	for what, statement := range tampering {
		for _, index := range []int{rand.IntN(2), 2 + rand.IntN(n-3), n - 1} {
			undo := snapshot(t, v)
			v.Exec(statement, index)
			if err := audited(t, v); err == nil {
				t.Errorf("%s at %d is not seen", what, index)
			}
			if whole, objects := others.check(t); whole || !objects {
				t.Errorf("%s at %d is not seen by tessera's fsck", what, index)
			}
			undo()
		}
	}
	if err := audited(t, v); err != nil {
		t.Fatal("the loop itself broke something: ", err)
	}
}

// fsck is that of github.com/transparency-dev/tessera, unmodified, and the log served to it.
type fsck struct{ url, key string }

func newFsck(t testing.TB, v *vaulttest.Bench) fsck {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, "/")
		var data []byte
		err := error(vault.AsError(os.ErrNotExist))
		if path == "checkpoint" {
			var signed string
			signed, err = v.Checkpoint(r.Context())
			data = []byte(signed)
		} else if tile, ok := audit.ParsePath(path); ok {
			data, err = v.Tile(r.Context(), tile)
		}
		if err != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(data)
	}))
	t.Cleanup(server.Close)
	// Built here, before check's clock runs. Asked to explain its flags, it ends with 2 or 0.
	if said, err := exec.CommandContext(t.Context(), "../scripts/tool.sh", "fsck", "--help").CombinedOutput(); !strings.Contains(string(said), "storage_url") {
		t.Fatalf("tessera's fsck: %v: %s", err, said)
	}
	f := fsck{server.URL, filepath.Join(t.TempDir(), "log.pub")}
	write(t, f.key, v.Config.AuditKeys.Public()[0]+"\n")
	return f
}

// check is what it says: it ends with 0 whatever it finds. With fewer workers than there are tiles, v1.0.4 hangs when some of
// them have found something.
func (f fsck) check(t testing.TB) (whole, objects bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	said, err := exec.CommandContext(ctx, "../scripts/tool.sh", "fsck", "--ui=false", "--N=16", "--storage_url", f.url, "--public_key", f.key).CombinedOutput()
	if err != nil {
		t.Errorf("tessera's fsck: %v: %s", err, said)
	}
	return strings.Contains(string(said), "Successfully fsck'd log"), strings.Contains(string(said), "fsck failed")
}

// snapshot keeps the log's tables, and gives what puts them back.
func snapshot(t testing.TB, v *vaulttest.Bench) (restore func()) {
	t.Helper()
	var keep, back string
	for _, table := range []string{"audit_entries", "audit_leaves", "audit_nodes", "audit_head"} {
		keep += fmt.Sprintf(`create table kept_%[1]s as table privault.%[1]s;`, table)
		back += fmt.Sprintf(`delete from privault.%[1]s; insert into privault.%[1]s table kept_%[1]s; drop table kept_%[1]s;`, table)
	}
	v.Exec(keep)
	return func() { v.Exec(back) }
}

func file(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
