package vault_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/vaulttest"
)

var inside, outside = netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("203.0.113.7")

// guarded is a vault with rules of its own, a tenant with a token, and a reader's key.
type guarded struct {
	*vaulttest.Bench
	admin vault.Caller
	token string
	key   vault.Issued
}

func guard(t *testing.T, rules map[string]vault.AlarmRule, allow ...netip.Prefix) *guarded {
	t.Helper()
	g := &guarded{Bench: vaulttest.New(t, vaulttest.With(func(c *vault.Config) { c.Alarms = vault.AlarmRules{Rules: rules, Allow: allow} }))}
	g.Advance(g.Now().Truncate(time.Hour).Add(90 * time.Minute).Sub(g.Now())) // what is counted is counted by the hour: none ends here
	g.admin = g.Tenant()
	g.Collection(g.admin, "people", map[string]string{"name": "name"})
	g.token = g.MustTokenize(g.admin, "people", map[string]string{"name": "Jane Roe"}).Tokens["name"]
	g.key = g.reader("reader")
	g.alarms() // what making all this gives
	return g
}

func (g *guarded) reader(name string) vault.Issued {
	g.T().Helper()
	id, err := g.CreatePrincipal(g.T().Context(), g.admin, name, []string{"backend-reader"})
	if err != nil {
		g.T().Fatal(err)
	}
	key, err := g.IssueKey(g.T().Context(), g.admin, id, vault.KeyTerms{})
	if err != nil {
		g.T().Fatal(err)
	}
	return key
}

// call asks for tokens by a key on a replica, from an address.
func (g *guarded) call(on *vault.Vault, key vault.Issued, from netip.Addr, view string, tokens ...string) ([]vault.Revealed, error) {
	g.T().Helper()
	who, err := on.Authenticate(g.T().Context(), key.Key)
	if err == nil {
		who, err = on.At(g.T().Context(), who, from)
	}
	if err != nil {
		return nil, err
	}
	refs := make([]vault.TokenRef, len(tokens))
	for i, token := range tokens {
		refs[i] = vault.TokenRef{Token: token, View: view}
	}
	return on.Detokenize(g.T().Context(), who, refs)
}

func spray(n int) []string {
	tokens := make([]string, n)
	for i := range tokens {
		tokens[i] = fmt.Sprintf("pvtk_%d", i)
	}
	return tokens
}

// alarms looks on the first replica, and gives all kinds and responses that there are.
func (g *guarded) alarms() (all []string) {
	g.T().Helper()
	if _, err := g.Watch(g.T().Context()); err != nil {
		g.T().Fatal(err)
	}
	page, _, err := g.ListAlarms(g.T().Context(), g.admin, "", 100)
	if err != nil {
		g.T().Fatal(err)
	}
	for _, a := range page {
		all = append(all, a.Kind+" "+a.Response)
	}
	slices.Sort(all)
	return all
}

func (g *guarded) wantAlarms(want ...string) {
	g.T().Helper()
	if diff := cmp.Diff(want, g.alarms()); diff != "" {
		g.T().Errorf("alarms (-want +got):\n%s", diff)
	}
}

// What is tried out among good tokens, in a transaction of its own, counts like anything else.
func TestASprayerWhoReplacesTokensIsSeen(t *testing.T) {
	t.Parallel()
	g := guard(t, map[string]vault.AlarmRule{vault.AlarmTokenSpray: {Floor: 500, Factor: 5}})
	refs := []vault.TokenRef{{Token: g.token}}
	for _, token := range spray(600) {
		refs = append(refs, vault.TokenRef{Token: token})
	}
	if done, err := g.RotateTokens(t.Context(), g.admin, refs); err != nil || done[0].Err != nil {
		t.Fatal(err, done[0].Err)
	}
	g.wantAlarms("token-spray alert")
}

// Whoever tries tokens out on several replicas is found out by all of them together, is refused on all of them, and only as
// long as the response is in force.
func TestASprayerIsSuspendedEverywhere(t *testing.T) {
	t.Parallel()
	g := guard(t, map[string]vault.AlarmRule{vault.AlarmTokenSpray: {Floor: 500, Factor: 5, Response: vault.ResponseSuspend, For: time.Hour}})
	other := g.Replica()
	for _, on := range []*vault.Vault{g.Vault, other} {
		if _, err := g.call(on, g.key, outside, "", spray(300)...); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := other.Watch(t.Context()); n != 0 || err != nil {
		t.Errorf("300 unknown tokens are %d alarms, %v", n, err)
	}
	g.wantAlarms("token-spray suspend")
	if _, err := g.call(other, g.key, outside, "", spray(300)...); err != nil {
		t.Fatal("the other replica has not heard yet: ", err)
	}
	if n, err := other.Watch(t.Context()); n != 0 || err != nil {
		t.Errorf("the other replica raises it again: %d, %v", n, err)
	}
	g.Advance(vault.CredentialTTL + time.Second)
	for _, on := range []*vault.Vault{g.Vault, other} {
		_, err := g.call(on, g.key, outside, "", g.token)
		wantKind(t, "a suspended key", err, vault.Unauthenticated)
	}
	if n := g.Count(`select count(*) from privault.audit_entries where action = 'key.use' and body::json->>'rule' = 'alarm-suspend'`); n != 2 {
		t.Errorf("%d entries say why the key is refused", n)
	}
	if n := g.Count(`select count(*) from privault.audit_entries where action = 'alarm.raise' and body::json->'resources'->0->>'outcome' = 'token-spray'`); n != 1 {
		t.Errorf("%d entries say that an alarm was raised", n)
	}
	g.Advance(time.Hour)
	if _, err := g.call(g.Vault, g.key, outside, "", g.token); err != nil {
		t.Error("after its time: ", err)
	}
}

// A response is lifted by somebody whom it is not about, and with an entry.
func TestAResponseIsLifted(t *testing.T) {
	t.Parallel()
	g := guard(t, nil)
	if err := g.ReportLeakedKey(t.Context(), g.key.Key); err != nil {
		t.Fatal(err)
	}
	_, err := g.call(g.Vault, g.key, inside, "", g.token)
	wantKind(t, "a leaked key", err, vault.Unauthenticated)
	page, _, err := g.ListAlarms(t.Context(), g.admin, "", 10)
	if err != nil || len(page) != 1 || page[0].Kind != vault.AlarmKeyLeaked || page[0].Credential != g.key.ID || page[0].Principal != g.key.Principal {
		t.Fatalf("%+v %v", page, err)
	}
	self, err := g.Authenticate(t.Context(), g.key.Key)
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, "lifting one's own", g.LiftAlarm(t.Context(), vaulttest.As(self, policy.Admin), page[0].ID), vault.Conflict)
	if err := g.LiftAlarm(t.Context(), g.admin, page[0].ID); err != nil {
		t.Fatal(err)
	}
	if _, err := g.call(g.Vault, g.key, inside, "", g.token); err != nil {
		t.Error("after it was lifted: ", err)
	}
	if n := g.Count(`select count(*) from privault.audit_entries where action = 'alarm.lift' and outcome = 'ok'`); n != 1 {
		t.Errorf("%d entries", n)
	}
}

// Threat D-9: whoever lacks the secret can bring nothing about, whatever he names.
func TestNobodyIsLockedOutByOthers(t *testing.T) {
	t.Parallel()
	suspend := vault.AlarmRule{Response: vault.ResponseSuspend}
	rules := map[string]vault.AlarmRule{}
	for _, kind := range vault.AlarmKinds() {
		rules[kind] = suspend
	}
	g := guard(t, rules)
	tampered := tamper(g.key.Key)
	for range 10_000 {
		if _, err := g.Authenticate(t.Context(), tampered); err == nil {
			t.Fatal("the forged key is good")
		}
	}
	for _, forged := range []string{"", "x", tampered, g.key.ID, g.key.Principal, g.key.Key + " ", strings.ToLower(g.key.Key)} {
		if err := g.ReportLeakedKey(t.Context(), forged); err != nil {
			t.Error(err)
		}
	}
	// A colleague behind the same address misbehaves.
	colleague := g.reader("colleague")
	if _, err := g.call(g.Vault, colleague, inside, "", spray(900)...); err != nil {
		t.Fatal(err)
	}
	g.wantAlarms("token-spray suspend")
	g.Advance(vault.CredentialTTL + time.Second)
	if _, err := g.call(g.Vault, g.key, inside, "", g.token); err != nil {
		t.Error("the victim: ", err)
	}
	_, err := g.call(g.Vault, colleague, inside, "", g.token)
	wantKind(t, "the colleague", err, vault.Unauthenticated)
}

// Much is sudden only against a principal's own past. Step-up: nothing in clear any more, masked values as before.
func TestExfiltrationIsAgainstOnesOwnPast(t *testing.T) {
	t.Parallel()
	g := guard(t, map[string]vault.AlarmRule{vault.AlarmExfiltration: {Floor: 100, Factor: 3, Response: vault.ResponseMask}})
	busy := g.reader("busy")
	for _, key := range []vault.Issued{busy, g.key} {
		who, err := g.Authenticate(t.Context(), key.Key)
		if err != nil {
			t.Fatal(err)
		}
		usual := 10
		if key == busy {
			usual = 200
		}
		for hour := range 10 * 24 {
			g.Exec(`insert into privault.behaviour values ($1, $2, date_trunc('hour', $3::timestamptz) - make_interval(hours => $4), $5, 0, 0, 0)`,
				who.Tenant, who.Principal, g.Now(), hour+1, usual)
		}
	}
	distinct := make([]string, 150)
	for i := range distinct {
		distinct[i] = g.MustTokenize(g.admin, "people", map[string]string{"name": fmt.Sprint("Jane ", i)}).Tokens["name"]
	}
	for _, key := range []vault.Issued{busy, g.key} {
		if _, err := g.call(g.Vault, key, inside, "masked", distinct...); err != nil {
			t.Fatal(err)
		}
	}
	g.Exec(`update privault.principal_networks set first_at = first_at - interval '8 days'`)
	if got := g.alarms(); slices.ContainsFunc(got, func(a string) bool { return strings.HasPrefix(a, "exfiltration") }) {
		t.Errorf("masked values are %v", got)
	}
	for _, key := range []vault.Issued{busy, g.key} {
		if _, err := g.call(g.Vault, key, inside, "plain", distinct...); err != nil {
			t.Fatal(err)
		}
	}
	g.alarms()
	page, _, err := g.ListAlarms(t.Context(), g.admin, "", 10)
	if err != nil {
		t.Fatal(err)
	}
	page = slices.DeleteFunc(page, func(a vault.Alarm) bool { return a.Kind != vault.AlarmExfiltration })
	if len(page) != 1 || page[0].Principal != g.key.Principal || page[0].Counted != 150 || page[0].Usual != 10 || page[0].Network.String() != "10.1.2.0/24" {
		t.Fatalf("alarms: %+v", page)
	}
	g.Advance(vault.CredentialTTL + time.Second)
	done, err := g.call(g.Vault, g.key, inside, "plain", g.token)
	if err != nil || done[0].Err == nil || done[0].Err.Kind != vault.Forbidden {
		t.Errorf("in clear: %+v, %v", done, err)
	}
	if done, err = g.call(g.Vault, g.key, inside, "masked", g.token); err != nil || done[0].Err != nil {
		t.Errorf("masked: %+v, %v", done, err)
	}
	if done, err = g.call(g.Vault, busy, inside, "plain", g.token); err != nil || done[0].Err != nil {
		t.Errorf("somebody else: %+v, %v", done, err)
	}
	if n := g.Count(`select count(*) from privault.audit_entries where outcome = 'denied' and body::json->>'rule' = 'alarm-mask'`); n != 1 {
		t.Errorf("%d entries say why", n)
	}
}

// After a week a principal has habits. Where it never came from it is refused, nowhere else, and nobody but it.
func TestNewNetworksAndHours(t *testing.T) {
	t.Parallel()
	block := vault.AlarmRule{Response: vault.ResponseBlock, For: 10 * time.Minute}
	g := guard(t, map[string]vault.AlarmRule{vault.AlarmNewNetwork: block}, netip.MustParsePrefix("192.0.2.0/24"))
	colleague := g.reader("colleague")
	for _, key := range []vault.Issued{g.key, colleague} {
		if _, err := g.call(g.Vault, key, inside, "", g.token); err != nil {
			t.Fatal(err)
		}
	}
	g.wantAlarms()
	if _, err := g.call(g.Vault, g.key, netip.MustParseAddr("198.51.100.1"), "", g.token); err != nil {
		t.Fatal(err)
	}
	g.wantAlarms() // nothing is a habit on the first day
	g.Advance(8 * 24 * time.Hour)
	if _, err := g.call(g.Vault, g.key, inside, "", g.token); err != nil {
		t.Fatal(err)
	}
	g.wantAlarms()
	if _, err := g.call(g.Vault, g.key, outside, "", g.token); err != nil {
		t.Fatal(err)
	}
	g.wantAlarms("new-network block")
	g.Advance(vault.CredentialTTL + time.Second)
	_, err := g.call(g.Vault, g.key, outside.Next(), "", g.token)
	wantKind(t, "the principal from there", err, vault.Unauthenticated)
	for what, who := range map[string]struct {
		key  vault.Issued
		from netip.Addr
	}{"the principal from elsewhere": {g.key, inside}, "somebody else from there": {colleague, outside}} {
		if _, err := g.call(g.Vault, who.key, who.from, "", g.token); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	g.Advance(3 * time.Hour)
	if _, err := g.call(g.Vault, g.key, outside, "", g.token); err != nil {
		t.Error("after its time: ", err)
	}
	if got := g.alarms(); !slices.Contains(got, "new-hour alert") {
		t.Errorf("three hours later: %v", got)
	}
	// From a range that is allowed there is an alarm and no response.
	if _, err := g.call(g.Vault, g.key, netip.MustParseAddr("192.0.2.9"), "", g.token); err != nil {
		t.Fatal(err)
	}
	if got := g.alarms(); !slices.Contains(got, "new-network alert") {
		t.Errorf("from an allowed range: %v", got)
	}
}

// one key from many networks at once; and what the policy denies, again and again.
func TestSharedCredentialsAndDenials(t *testing.T) {
	t.Parallel()
	g := guard(t, map[string]vault.AlarmRule{vault.AlarmDenials: {Floor: 20}})
	for n := range 5 {
		if _, err := g.call(g.Vault, g.key, netip.AddrFrom4([4]byte{10, byte(n), 0, 1}), "", g.token); err != nil {
			t.Fatal(err)
		}
	}
	g.wantAlarms("credential-shared alert")
	who, err := g.Authenticate(t.Context(), g.key.Key)
	if err != nil {
		t.Fatal(err)
	}
	for range 21 {
		_, err := g.look(t.Context(), who)
		wantKind(t, "an auditor's question", err, vault.Forbidden)
	}
	g.wantAlarms("credential-shared alert", "denials alert")
	if got := g.Log.String(); !strings.Contains(got, `"alarm":"denials"`) {
		t.Error("the log does not say so")
	}
	// Old hours are swept.
	g.Advance(100 * 24 * time.Hour)
	if n, err := g.SweepBehaviour(t.Context(), who.Tenant, 100); err != nil || n == 0 {
		t.Errorf("%d swept, %v", n, err)
	}
	if n := g.Count(`select (select count(*) from privault.behaviour) + (select count(*) from privault.principal_networks)`); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

func (g *guarded) look(ctx context.Context, who vault.Caller) (page []vault.Alarm, err error) {
	page, _, err = g.ListAlarms(ctx, who, "", 1)
	return page, err
}

func TestFaultsOfAlarmRules(t *testing.T) {
	t.Parallel()
	for _, rules := range []map[string]vault.AlarmRule{
		{"nothing": {}}, {vault.AlarmDenials: {Response: "shout"}}, {vault.AlarmDenials: {Floor: -1}},
		{vault.AlarmDenials: {Response: vault.ResponseBlock, For: 2 * time.Hour}}, {vault.AlarmDenials: {Response: vault.ResponseSuspend, For: 25 * time.Hour}},
		{vault.AlarmKeyLeaked: {Response: vault.ResponseBlock}},
	} {
		if len(vault.AlarmRules{Rules: rules}.Faults()) != 1 {
			t.Errorf("%v has no fault", rules)
		}
	}
	if faults := (vault.AlarmRules{Rules: vault.DefaultAlarms()}).Faults(); len(faults) > 0 {
		t.Errorf("the defaults: %v", faults)
	}
}

// tamper gives a key with another first character behind its prefix.
func tamper(key string) string {
	other := "0"
	if strings.HasPrefix(key, "pvak_0") {
		other = "1"
	}
	return "pvak_" + other + key[len("pvak_")+1:]
}
