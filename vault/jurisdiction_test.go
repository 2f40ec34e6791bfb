package vault_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/deadline"
	"github.com/privault/privault/vault/dsar"
	"github.com/privault/privault/vault/vaulttest"
)

// settle says that a person is under a jurisdiction.
func (h *household) settle(t *testing.T, subject, code string) vault.Said {
	t.Helper()
	said, _, err := h.SetJurisdiction(t.Context(), h.who, subject, code)
	if err != nil {
		t.Fatalf("%s in %s: %v", subject, code, err)
	}
	return said
}

// whereIs is what the data map says.
func whereIs(t *testing.T, v *vault.Vault, who vault.Caller, subject string) string {
	t.Helper()
	m, _, err := v.GetSubject(t.Context(), who, subject, "", 10)
	if err != nil {
		t.Fatalf("the data map of %s: %v", subject, err)
	}
	return m.Jurisdiction
}

// A person's jurisdiction is said, changed and taken back, on every replica; policies see it; it goes with the person.
func TestAPersonHasAJurisdiction(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	other := h.Replica()
	ctx := t.Context()
	if _, _, err := h.PutPolicy(ctx, h.who, "abroad", `forbid (principal, action in Action::"reveal", resource) when { context.jurisdiction like "US-*" };`, 0); err != nil {
		t.Fatal(err)
	}
	sees := func(want string) {
		t.Helper()
		for _, v := range []*vault.Vault{h.Vault, other} {
			if got := vaulttest.RevealOn(t, v, h.who, h.tokens["p-1"][0]); got != want {
				t.Errorf("a token gives %s, want %s", got, want)
			}
			if got := vaulttest.RevealOn(t, v, h.who, h.tokens["p-2"][0]); got != jane {
				t.Errorf("somebody else's token gives %s", got)
			}
		}
	}
	sees(jane)
	first, created, err := h.SetJurisdiction(ctx, h.who, "p-1", "US-CA")
	if err != nil || !created || first.Jurisdiction != "US-CA" {
		t.Fatal(first, created, err)
	}
	sees(string(vault.Forbidden))
	if again, created, err := other.SetJurisdiction(ctx, h.who, "p-1", "US-CA"); err != nil || created || !cmp.Equal(again, first) {
		t.Errorf("said again: %+v %v %v, want %+v", again, created, err, first)
	}
	if moved, created, err := other.SetJurisdiction(ctx, h.who, "p-1", "DE"); err != nil || created || moved.Jurisdiction != "DE" {
		t.Errorf("changed: %+v %v %v", moved, created, err)
	}
	sees(jane)
	if got := whereIs(t, h.Vault, h.who, "p-1"); got != "DE" {
		t.Errorf("the data map says %q", got)
	}
	if err := h.ClearJurisdiction(ctx, h.who, "p-1"); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "taken back again", h.ClearJurisdiction(ctx, h.who, "p-1"), vault.NotFound)
	if got := whereIs(t, h.Vault, h.who, "p-1"); got != "" {
		t.Errorf("the data map says %q", got)
	}
	h.settle(t, "p-5", "FR") // of whom nothing is held
	if got := whereIs(t, other, h.who, "p-5"); got != "FR" {
		t.Errorf("the data map of a new person says %q", got)
	}

	h.settle(t, "p-1", "US-CA")
	h.erase(t, "p-1")
	h.Work()
	await(t, "what was said of the person goes", func() bool { return h.Count(`select count(*) from privault.subject_facts`) == 1 })
	h.store(t, "people", "p-1")
	if got := whereIs(t, other, h.who, "p-1"); got != "" {
		t.Errorf("who comes again is in %q", got)
	}
}

func TestJurisdictionsAreISO3166(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	for _, code := range []string{"DE", "GB", "US", "US-CA", "DE-BY", "GB-SCT", "AT-9", "AX", "CH", "BR-SP"} {
		h.settle(t, "p-1", code)
	}
	for _, code := range []string{"", "de", "Germany", "DEU", "276", "UK", "EU", "ZZ", "UN", "EZ", "DD", "US-", "US-ca", "US-CALI", "US_CA", "-CA", "US-CA-1", "DE\n"} {
		_, _, err := h.SetJurisdiction(t.Context(), h.who, "p-1", code)
		wantKind(t, "the jurisdiction "+code, err, vault.Invalid)
	}
	_, _, err := h.SetJurisdiction(t.Context(), h.who, "jane@example.com", "DE")
	wantKind(t, "an address as a reference", err, vault.LooksLikePII)
	if got := whereIs(t, h.Vault, h.who, "p-1"); got != "BR-SP" {
		t.Errorf("what was refused has changed it to %q", got)
	}
}

// A request that names no regime has the one that the jurisdiction implies.
func TestARequestTakesTheRegimeOfTheJurisdiction(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	ask := func(subject string, regime deadline.Regime) (deadline.Regime, error) {
		r, err := h.OpenRequest(t.Context(), h.who, vault.NewRequest{Type: deadline.Access, Regime: regime, Terms: vault.Terms{Subject: subject}})
		if err != nil {
			return "", err
		}
		if (r.AcknowledgeBy != nil) != (r.Regime == deadline.CCPA) {
			t.Errorf("under %s it is to be acknowledged by %v", r.Regime, r.AcknowledgeBy)
		}
		return r.Regime, nil
	}
	for code, want := range map[string]deadline.Regime{"DE": deadline.GDPR, "DE-BY": deadline.GDPR, "NO": deadline.GDPR, "GB": deadline.GDPR, "US-CA": deadline.CCPA} {
		h.settle(t, "p-1", code)
		if got, err := ask("p-1", ""); err != nil || got != want {
			t.Errorf("in %s: %s %v, want %s", code, got, err, want)
		}
	}
	if got, err := ask("p-1", deadline.HIPAA); err != nil || got != deadline.HIPAA {
		t.Errorf("a regime that is named: %s %v", got, err)
	}
	before := h.Count(`select count(*) from privault.requests`)
	for _, code := range []string{"US-NY", "US", "CH"} {
		h.settle(t, "p-1", code)
		_, err := ask("p-1", "")
		wantKind(t, "in "+code, err, vault.Invalid)
	}
	for _, subject := range []string{"p-2", "nobody"} {
		_, err := ask(subject, "")
		wantKind(t, subject+" without a jurisdiction", err, vault.Invalid)
	}
	_, err := ask("jane@example.com", "")
	wantKind(t, "an address", err, vault.LooksLikePII)
	if n := h.Count(`select count(*) from privault.requests`); n != before {
		t.Errorf("%d requests came of what was refused", n-before)
	}
}

// Of two persons who become one, the one that stays keeps its jurisdiction; if it has none, it takes the other's.
func TestALinkKeepsTheJurisdiction(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	first := h.settle(t, "p-1", "DE")
	h.settle(t, "p-2", "US-CA")
	h.link(t, "p-1", "p-2")
	h.store(t, "people", "p-3")
	h.link(t, "p-3", "p-1")
	h.link(t, "p-3", "p-4")
	for _, subject := range []string{"p-1", "p-2", "p-3", "p-4"} {
		if got := whereIs(t, h.Vault, h.who, subject); got != "DE" {
			t.Errorf("%s is in %q", subject, got)
		}
	}
	if again := h.settle(t, "p-4", "DE"); !again.Since.Equal(first.Since) {
		t.Errorf("since %v, want %v", again.Since, first.Since)
	}
}

func TestAPackageSaysTheJurisdiction(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	who := v.Tenant()
	personsFiles(t, v, who)
	keep(t, v, who, "customers", "p-1", janesFields)
	if u := pack(t, v, who, order(dsar.Access, dsar.GDPR)); u.processing.Jurisdiction != "" || strings.Contains(u.files["report.html"], "taken to be in") {
		t.Errorf("without one: %q", u.processing.Jurisdiction)
	}
	if _, _, err := v.SetJurisdiction(t.Context(), who, "p-1", "IS"); err != nil {
		t.Fatal(err)
	}
	u := pack(t, v, who, order(dsar.Access, dsar.GDPR))
	if u.processing.Jurisdiction != "IS" || !strings.Contains(u.files["report.html"], "You are taken to be in") {
		t.Errorf("the package says %q", u.processing.Jurisdiction)
	}
}

// A restored database has what it had, and the ledger says nothing of jurisdictions.
func TestARestoredJurisdictionIsTheBackups(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	ctx := t.Context()
	h.settle(t, "p-1", "DE")
	if err := h.WatchLedger(ctx); err != nil {
		t.Fatal(err)
	}
	data, keys := h.Backup()
	h.settle(t, "p-1", "US-CA")
	if err := h.WatchLedger(ctx); err != nil {
		t.Fatal(err)
	}
	h.Close()
	r := h.On(data, keys)
	r.Vault = r.Replica()
	if done := replay(t, r); done.Lines != 0 {
		t.Errorf("the replay: %+v", done)
	}
	if err := r.WatchLedger(ctx); err != nil {
		t.Fatal(err)
	}
	if got := whereIs(t, r.Vault, h.who, "p-1"); got != "DE" {
		t.Errorf("after a restore the person is in %q", got)
	}
}
