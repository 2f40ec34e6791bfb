package vault_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/deadline"
	"github.com/privault/privault/vault/vaulttest"
)

// fetch hands a package out to a writer.
func fetch(t *testing.T, v *vault.Vault, who vault.Caller, request string, out io.Writer) error {
	t.Helper()
	return v.HandOut(t.Context(), who, request, func(bool) io.Writer { return out })
}

// ready is a request whose package can be fetched.
func (h *household) ready(t *testing.T) *vault.Request {
	t.Helper()
	return h.step(t, h.ask(t, of(deadline.Access, "p-1")).ID, verified)
}

func TestAPackageIsHandedOutOnce(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHousehold(t, options...)
			r := h.ready(t)
			officer := vaulttest.As(h.who, "compliance")
			var out bytes.Buffer
			if err := fetch(t, h.Vault, officer, r.ID, &out); err != nil {
				t.Fatal(err)
			}
			if u := unpack(t, h.Bench, out.Bytes()); len(u.data.Collections["people"].Records) != 2 || !strings.Contains(u.files["manifest.note"], "request: "+r.ID+"\n") {
				t.Errorf("%+v", u.data)
			}
			after, err := h.GetRequest(t.Context(), h.who, r.ID)
			if err != nil || after.State != vault.RequestCompleted || after.Outcome != vault.OutcomeComplied {
				t.Fatalf("%+v %v", after, err)
			}
			for range 2 {
				out.Reset()
				wantKind(t, "again", fetch(t, h.Replica(), officer, r.ID, &out), vault.NotFound)
				if out.Len() > 0 {
					t.Errorf("%d bytes were sent again", out.Len())
				}
			}
			if n := h.Count(`select count(*) from privault.audit_entries where body like '%"outcome":"delivered"%' and body like '%` + r.ID + `%'`); n != 1 {
				t.Errorf("%d entries say that it was handed out", n)
			}
		})
	}
}

func TestAPackageIsFetchedByOneAtATime(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	replica := h.Replica()
	r := h.ready(t)
	out := &interfering{}
	out.do = func() {
		err := fetch(t, replica, h.who, r.ID, io.Discard)
		wantKind(t, "meanwhile", err, vault.Conflict)
		if after := vault.AsError(err).RetryAfter; after <= 0 || after > time.Minute {
			t.Errorf("try again after %v", after)
		}
	}
	if err := fetch(t, h.Vault, h.who, r.ID, out); err != nil || out.do != nil {
		t.Error(err)
	}
	// Of many at once, one gets it.
	r = h.ready(t)
	var wait sync.WaitGroup
	var whole, refused int
	var mu sync.Mutex
	for i := range 16 {
		v := []*vault.Vault{h.Vault, replica}[i%2]
		wait.Go(func() {
			err := fetch(t, v, h.who, r.ID, io.Discard)
			mu.Lock()
			defer mu.Unlock()
			switch k := kind(err); {
			case err == nil:
				whole++
			case k == vault.Conflict || k == vault.NotFound:
				refused++
			default:
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if whole != 1 || refused != 15 {
		t.Errorf("%d got it, %d were refused", whole, refused)
	}
}

// What breaks off can be fetched again: at once if the server lives, else when the lease is over. Whoever stood still for longer
// than that has lost the package to the next.
func TestAPackageThatBreaksOffIsFetchedAgain(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	r := h.ready(t)
	gone := errors.New("gone")
	for range 2 {
		if err := fetch(t, h.Vault, h.who, r.ID, broken{gone}); !errors.Is(err, gone) {
			t.Fatal(err)
		}
	}
	// A server that died in the middle leaves its claim.
	h.Exec(`update privault.packages set claim = gen_random_uuid(), leased_until = $1`, h.Now().Add(30*time.Second))
	wantKind(t, "under the lease", fetch(t, h.Vault, h.who, r.ID, io.Discard), vault.Conflict)
	h.Advance(31 * time.Second)
	slow, fast := &interfering{}, &bytes.Buffer{}
	slow.do = func() {
		h.Advance(time.Minute)
		wantKind(t, "the next", fetch(t, h.Replica(), h.who, r.ID, fast), "")
	}
	wantKind(t, "whoever stood still", fetch(t, h.Vault, h.who, r.ID, slow), vault.Conflict)
	unpack(t, h.Bench, fast.Bytes())
	if n := h.Count(`select attempts from privault.packages where delivered_at is not null`); n != 4 {
		t.Errorf("%d attempts", n)
	}
	if n := h.Count(`select count(*) from privault.audit_entries where body like '%"outcome":"delivered"%' and outcome = 'ok'`); n != 1 {
		t.Errorf("it was handed out %d times", n)
	}
}

// The lease is renewed as long as the download gets on.
func TestALongDownloadKeepsItsClaim(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	for range 12 {
		keep(t, h.Bench, h.who, "people", "p-1", map[string]string{"name": rubbish(12_000)})
	}
	r := h.ready(t)
	out := &slowly{do: func() { h.Advance(40 * time.Second) }}
	if err := fetch(t, h.Vault, h.who, r.ID, out); err != nil || out.writes < 3 {
		t.Errorf("%d writes, %v", out.writes, err)
	}
}

// slowly takes its time for each write.
type slowly struct {
	do     func()
	writes int
}

func (w *slowly) Write(p []byte) (int, error) {
	w.writes++
	w.do()
	return len(p), nil
}

func TestRequestsWithoutAPackage(t *testing.T) {
	t.Parallel()
	h := newHousehold(t, vaulttest.With(func(c *vault.Config) { c.PackageLife = 48 * time.Hour }))
	n := of(deadline.Access, "p-1")
	n.Approval = true
	for what, story := range map[string]struct {
		request string
		want    vault.Kind
	}{
		"received":               {h.ask(t, of(deadline.Access, "p-1")).ID, vault.Conflict},
		"verifying":              {h.step(t, h.ask(t, of(deadline.Access, "p-1")).ID, vault.Step{Kind: vault.StepVerify, Asked: true}).ID, vault.Conflict},
		"waiting for approval":   {h.step(t, h.ask(t, n).ID, verified).ID, vault.Conflict},
		"denied":                 {h.step(t, h.ask(t, of(deadline.Access, "p-1")).ID, vault.Step{Kind: vault.StepDeny, Reason: "identity-not-verified"}).ID, vault.NotFound},
		"cancelled":              {h.step(t, h.ready(t).ID, vault.Step{Kind: vault.StepCancel}).ID, vault.NotFound},
		"completed by hand":      {h.step(t, h.ready(t).ID, vault.Step{Kind: vault.StepComplete}).ID, vault.NotFound},
		"of nobody":              {h.step(t, h.ask(t, of(deadline.Access, "p-9")).ID, verified).ID, vault.NotFound},
		"for something else":     {h.ask(t, of(deadline.Erasure, "p-1")).ID, vault.NotFound},
		"that doesn't exist":     {"req_0000000000000000000001", vault.NotFound},
		"that can't exist":       {"nothing", vault.NotFound},
		"whose person is erased": {h.step(t, h.ask(t, of(deadline.Portability, "p-2")).ID, verified).ID, vault.NotFound},
	} {
		if strings.Contains(what, "erased") {
			h.erase(t, "p-2")
		}
		var out bytes.Buffer
		before := h.Count(`select count(*) from privault.audit_entries`)
		wantKind(t, what, fetch(t, h.Vault, h.who, story.request, &out), story.want)
		if out.Len() > 0 {
			t.Errorf("%s: %d bytes were sent", what, out.Len())
		}
		if n := h.Count(`select count(*) from privault.audit_entries`) - before; n != 1 {
			t.Errorf("%s: %d entries say so", what, n)
		}
	}
	r := h.ready(t)
	wantKind(t, "without the privilege", fetch(t, h.Vault, vaulttest.As(h.who, "auditor"), r.ID, io.Discard), vault.Forbidden)
	wantKind(t, "another tenant's", fetch(t, h.Vault, h.Tenant(), r.ID, io.Discard), vault.NotFound)
	h.Advance(49 * time.Hour)
	wantKind(t, "too late", fetch(t, h.Vault, h.who, r.ID, io.Discard), vault.NotFound)
}

// A request that ends while its package is on the way is not completed by it.
func TestARequestEndsWhileItsPackageIsOnTheWay(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	r := h.ready(t)
	out := &interfering{}
	out.do = func() { h.step(t, r.ID, vault.Step{Kind: vault.StepCancel}) }
	wantKind(t, "cancelled meanwhile", fetch(t, h.Vault, h.who, r.ID, out), vault.Conflict)
	if after, err := h.GetRequest(t.Context(), h.who, r.ID); err != nil || after.State != vault.RequestCancelled {
		t.Errorf("%+v %v", after, err)
	}
}
