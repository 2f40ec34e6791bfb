package vault_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/audit"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/vaulttest"
)

// addWebhook gives a scene a recipient that is told of everything; nobody listens there.
func (s *scene) addWebhook(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	if _, _, _, err := s.PutWebhook(ctx, s.who, vault.Webhook{Name: "crm", URL: "https://127.0.0.1:9/hook", Events: vault.EventKinds(),
		Recipient: &vault.Recipient{Name: "CRM"}}, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.EraseSubject(ctx, s.who, "nobody-1", "gdpr-17", false); vault.AsError(err).Kind != vault.NotFound {
		t.Fatal(err)
	}
	if _, _, err := s.Restrict(ctx, s.who, "told-1", "gdpr-18-1-a", nil); err != nil {
		t.Fatal(err)
	}
	page, _, err := s.ListDeliveries(ctx, s.who, "crm", "", "", 1)
	if err != nil || len(page) != 1 {
		t.Fatal(page, err)
	}
	s.delivery = page[0].ID
}

func webhookOperations() []operation {
	ctx := context.Background()
	put := func(s *scene, who vault.Caller, w vault.Webhook) error {
		w.Events = []string{vault.EventSubjectErased}
		_, _, _, err := s.PutWebhook(ctx, who, w, 0)
		return err
	}
	return []operation{
		{name: "PutWebhook", action: policy.WriteWebhooks, problem: vault.DestinationNotAllowed,
			do: func(s *scene, who vault.Caller) error {
				return put(s, who, vault.Webhook{Name: "billing", URL: "https://127.0.0.1:9/hook"})
			},
			fail: func(s *scene, who vault.Caller) error {
				return put(s, who, vault.Webhook{Name: "billing", URL: "https://169.254.169.254/"})
			}},
		{name: "GetWebhook", action: policy.ReadWebhooks, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { _, err := s.GetWebhook(ctx, who, "crm"); return err },
			fail: func(s *scene, who vault.Caller) error { _, err := s.GetWebhook(ctx, who, "nobody"); return err }},
		{name: "ListWebhooks", action: policy.ReadWebhooks, problem: vault.Malformed,
			do:   func(s *scene, who vault.Caller) error { _, _, err := s.ListWebhooks(ctx, who, "", 10); return err },
			fail: func(s *scene, who vault.Caller) error { _, _, err := s.ListWebhooks(ctx, who, "x", 10); return err }},
		{name: "RotateWebhookSecret", action: policy.WriteWebhooks, problem: vault.NotFound,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.RotateWebhookSecret(ctx, who, "crm")
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.RotateWebhookSecret(ctx, who, "nobody")
				return err
			}},
		{name: "ListDeliveries", action: policy.ReadWebhooks, problem: vault.Invalid,
			do: func(s *scene, who vault.Caller) error {
				_, _, err := s.ListDeliveries(ctx, who, "crm", "pending", "", 10)
				return err
			},
			fail: func(s *scene, who vault.Caller) error {
				_, _, err := s.ListDeliveries(ctx, who, "crm", "lost", "", 10)
				return err
			}},
		{name: "Redeliver", action: policy.Redeliver, problem: vault.NotFound,
			do:   func(s *scene, who vault.Caller) error { _, err := s.Redeliver(ctx, who, "crm", s.delivery); return err },
			fail: func(s *scene, who vault.Caller) error { _, err := s.Redeliver(ctx, who, "crm", "dlv_x"); return err }},
		{name: "Acknowledge", action: policy.Acknowledge, problem: vault.NotFound,
			do: func(s *scene, who vault.Caller) error {
				_, err := s.Acknowledge(ctx, who, "crm", s.delivery)
				return err
			},
			fail: func(s *scene, who vault.Caller) error { _, err := s.Acknowledge(ctx, who, "crm", "dlv_x"); return err }},
		{name: "DeleteWebhook", action: policy.WriteWebhooks, problem: vault.PreconditionFailed,
			do:   func(s *scene, who vault.Caller) error { return s.DeleteWebhook(ctx, who, "billing", 0) },
			fail: func(s *scene, who vault.Caller) error { return s.DeleteWebhook(ctx, who, "crm", 99) }},
	}
}

// The published example of Standard Webhooks, and what an HMAC of RFC 4231's kind gives for two secrets.
func TestSignatureOfStandardWebhooks(t *testing.T) {
	t.Parallel()
	secret, err := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	const id, body, want = "msg_p5jXN8AQM9LWM0D4loKWxJek", `{"test": 2432232314}`, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	at := time.Unix(1614265330, 0)
	if got := vault.Signatures([][]byte{secret}, id, at, body); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	both := strings.Fields(vault.Signatures([][]byte{secret, []byte("another")}, id, at, body))
	if len(both) != 2 || both[0] != want || both[1] == want {
		t.Errorf("two secrets sign %q", both)
	}
}

// listener is a webhook with its receiver.
type listener struct {
	*vaulttest.Receiver
	secret string
}

func (h *household) webhook(t *testing.T, name string, change func(*vault.Webhook), answer func(http.ResponseWriter, *http.Request, int)) listener {
	t.Helper()
	to := listener{Receiver: vaulttest.NewReceiver(t, answer)}
	w := vault.Webhook{Name: name, URL: to.URL, Events: []string{vault.EventSubjectErased}}
	if change != nil {
		change(&w)
	}
	var err error
	if _, to.secret, _, err = h.PutWebhook(t.Context(), h.who, w, 0); err != nil {
		t.Fatal(err)
	}
	return to
}

func isRecipient(w *vault.Webhook) {
	w.Recipient = &vault.Recipient{Name: "Acme & Sons (CRM)", Country: "IE"}
}

// read checks the signature of a message and gives what it tells.
func (l listener) read(t *testing.T, m vaulttest.Received, secrets ...string) (body message) {
	t.Helper()
	var want []string
	for _, secret := range append(secrets, l.secret) {
		raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		if err != nil || !strings.HasPrefix(secret, "whsec_") || len(raw) != 32 {
			t.Fatalf("secret %q: %v", secret, err)
		}
		var seconds int64
		if _, err := fmt.Sscan(m.Header.Get("Webhook-Timestamp"), &seconds); err != nil {
			t.Fatal(err)
		}
		want = append(want, vault.Signatures([][]byte{raw}, m.Header.Get("Webhook-Id"), time.Unix(seconds, 0), m.Body))
	}
	if got := m.Header.Get("Webhook-Signature"); got != strings.Join(want, " ") {
		t.Errorf("signed %s, want %s", got, want)
	}
	if err := json.Unmarshal([]byte(m.Body), &body); err != nil {
		t.Fatal(err)
	}
	return body
}

type message struct {
	Type, Acknowledge string
	Data              struct {
		Certificate, Subject string
		Collections          []struct {
			Collection string
			Records    []string
			Fields     []string
			Version    int
		}
		Part, Parts int
	}
}

func (h *household) deliveries(t *testing.T, webhook string) []*vault.Delivery {
	t.Helper()
	page, _, err := h.ListDeliveries(t.Context(), h.who, webhook, "", "", 200)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

func (h *household) deliver(t *testing.T) {
	t.Helper()
	if err := h.DeliverDue(t.Context(), h.who.Tenant); err != nil {
		t.Fatal(err)
	}
}

func TestRecipientsAreToldOfAnErasureAndTheCertificateSaysSo(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	crm := h.webhook(t, "crm", func(w *vault.Webhook) { isRecipient(w); w.Collections = []string{"people"} }, nil)
	other := h.webhook(t, "other", func(w *vault.Webhook) { w.Events = []string{vault.EventAlarmRaised} }, nil)
	h.Work()
	e := h.erase(t, "p-1")
	h.Until(func() bool { return len(crm.Messages()) == 1 })
	m := crm.Messages()[0]
	got := crm.read(t, m)
	if got.Type != vault.EventSubjectErased || got.Data.Certificate != e.ID || len(got.Data.Collections) != 1 || got.Data.Collections[0].Collection != "people" {
		t.Errorf("it is told %s", m.Body)
	}
	want := slices.Sorted(slices.Values(h.of["p-1"]))
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(got.Data.Collections[0].Records))); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	for _, secret := range append(h.tokens["p-1"], "p-1", "Jane", "name") {
		if strings.Contains(m.Body, secret) {
			t.Errorf("the message holds %q: %s", secret, m.Body)
		}
	}
	var done *vault.Erasure
	h.Until(func() bool {
		var err error
		if done, err = h.GetErasure(t.Context(), h.who, e.ID); err != nil {
			t.Fatal(err)
		}
		return done.Completion != ""
	})
	if len(done.Recipients) != 1 || done.Recipients[0].State != vault.DeliveryAcknowledged || done.Recipients[0].Name != "Acme & Sons (CRM)" || done.Recipients[0].Settled == nil {
		t.Errorf("recipients: %+v", done.Recipients)
	}
	text, err := h.Config.AuditKeys.OpenText(audit.CompletionTitle, []byte(done.Completion))
	if err != nil || !strings.Contains(text, "\ncertificate: "+e.ID+"\n") || !strings.Contains(text, "\nrecipient: \"Acme & Sons (CRM)\" acknowledged ") {
		t.Errorf("the completion: %v\n%s", err, text)
	}
	if _, err := h.Config.AuditKeys.OpenText(audit.CompletionTitle, []byte(strings.Replace(done.Completion, "acknowledged", "Acknowledged", 1))); err == nil {
		t.Error("a completion that was changed still verifies")
	}
	if d := h.deliveries(t, "crm"); len(d) != 1 || d[0].State != vault.DeliveryAcknowledged || d[0].Attempts != 1 || *d[0].Status != 200 || d[0].ID != m.Header.Get("Webhook-Id") {
		t.Errorf("deliveries: %+v", d[0])
	}
	if n := len(other.Messages()); n != 0 {
		t.Errorf("a webhook for alarms was told of %d erasures", n)
	}
	if n := h.Count(`select count(*) from privault.audit_entries where action = 'webhook.deliver' and body::json->'resources'->0->>'outcome' = 'acknowledged'`); n != 1 {
		t.Errorf("%d entries of the delivery", n)
	}
}

func TestCorrectionsAndRestrictionsAreTold(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	ctx := t.Context()
	crm := h.webhook(t, "crm", func(w *vault.Webhook) {
		w.Events = []string{vault.EventRecordCorrected, vault.EventSubjectRestricted, vault.EventRestrictionLifted}
	}, nil)
	record := h.of["p-1"][0]
	if _, err := h.PatchRecord(ctx, h.who, "people", record, vault.Patch{IfVersion: 1, Fields: map[string]vault.Secret{"name": secret(`"Janet"`)}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Restrict(ctx, h.who, "p-1", "gdpr-18-1-a", nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Restrict(ctx, h.who, "p-1", "gdpr-18-1-a", nil); err != nil { // as it is
		t.Fatal(err)
	}
	h.Advance(time.Second)
	if err := h.LiftRestriction(ctx, h.who, "p-1", h.Now()); err != nil {
		t.Fatal(err)
	}
	h.deliver(t)
	var kinds []string
	for _, m := range crm.Messages() {
		got := crm.read(t, m)
		kinds = append(kinds, got.Type)
		switch got.Type {
		case vault.EventRecordCorrected:
			c := got.Data.Collections[0]
			if c.Records[0] != record || c.Version != 2 || c.Fields[0] != "name" {
				t.Errorf("a correction is told as %s", m.Body)
			}
		default:
			if len(got.Data.Collections) != 2 || len(got.Data.Collections[0].Records) != 2 {
				t.Errorf("a restriction is told as %s", m.Body)
			}
		}
		if strings.Contains(m.Body, "Janet") || strings.Contains(m.Body, "p-1") {
			t.Errorf("the message holds more than ids: %s", m.Body)
		}
	}
	slices.Sort(kinds)
	if diff := cmp.Diff([]string{"record.corrected", "subject.restricted", "subject.restriction-lifted"}, kinds); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	// What was told of a person goes with the person.
	h.Work()
	h.erase(t, "p-1")
	h.Until(func() bool {
		return h.Count(`select count(*) from privault.webhook_deliveries`) == 0 && h.Count(`select count(*) from privault.erasing`) == 0
	})
}

func TestAFailingEndpointIsTriedAgainAndRests(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	crm := h.webhook(t, "crm", isRecipient, func(w http.ResponseWriter, _ *http.Request, before int) {
		if before < 3 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	e := h.erase(t, "p-1")
	h.Freeze()
	var id string
	for attempt := 1; attempt <= 4; attempt++ {
		h.deliver(t)
		h.deliver(t) // nothing is due
		if n := len(crm.Messages()); n != attempt {
			t.Fatalf("%d messages after %d attempts", n, attempt)
		}
		m := crm.Messages()[attempt-1]
		if crm.read(t, m); id != "" && m.Header.Get("Webhook-Id") != id {
			t.Errorf("attempt %d has the id %s, the one before %s", attempt, m.Header.Get("Webhook-Id"), id)
		}
		id = m.Header.Get("Webhook-Id")
		d := h.deliveries(t, "crm")[0]
		w, err := h.GetWebhook(t.Context(), h.who, "crm")
		if err != nil {
			t.Fatal(err)
		}
		if attempt == 4 {
			if d.State != vault.DeliveryAcknowledged || d.Attempts != 4 || *d.Status != 200 || w.Failures != 0 || w.Paused != nil {
				t.Errorf("in the end: %+v of %+v", d, w)
			}
			break
		}
		if d.State != vault.DeliveryPending || d.Attempts != attempt || *d.Status != 500 || d.Next == nil || w.Failures != attempt || w.Paused == nil {
			t.Fatalf("after attempt %d: %+v of %+v", attempt, d, w)
		}
		wait := d.Next.Sub(h.Now())
		if want := []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute}[attempt-1]; wait < want*4/5 || wait > want*6/5 {
			t.Errorf("after attempt %d the next is in %v, want about %v", attempt, wait, want)
		}
		h.Advance(wait + time.Second)
	}
	if done, err := h.GetErasure(t.Context(), h.who, e.ID); err != nil || done.Completion == "" {
		t.Errorf("the erasure: %+v, %v", done, err)
	}
}

// Ten attempts, and then it is given up; and all of it said where the certificate is.
func TestADeadEndpointIsGivenUp(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	ctx := t.Context()
	dead := func(w *vault.Webhook) { isRecipient(w); w.URL = "https://127.0.0.1:9/hook" }
	h.webhook(t, "crm", dead, nil)
	e := h.erase(t, "p-1")
	for range 40 {
		h.deliver(t)
		d := h.deliveries(t, "crm")[0]
		if d.State != vault.DeliveryPending {
			break
		}
		if d.Problem != "unreachable" || d.Status != nil {
			t.Fatalf("%+v", d)
		}
		h.Advance(d.Next.Sub(h.Now()) + 6*time.Minute)
	}
	d := h.deliveries(t, "crm")[0]
	if d.State != vault.DeliveryFailed || d.Attempts != 10 {
		t.Errorf("it ends as %+v", d)
	}
	done, err := h.GetErasure(ctx, h.who, e.ID)
	if err != nil || done.Recipients[0].State != vault.DeliveryFailed || !strings.Contains(done.Completion, `"Acme & Sons (CRM)" failed `) {
		t.Errorf("%+v, %v", done, err)
	}
	// Somebody mends it and sends it again: the note is taken back until it is acknowledged.
	now := h.webhook(t, "crm", isRecipient, func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusAccepted) })
	if _, err := h.Redeliver(ctx, h.who, "crm", d.ID); err != nil {
		t.Fatal(err)
	}
	if done, err := h.GetErasure(ctx, h.who, e.ID); err != nil || done.Recipients[0].State != vault.DeliveryPending || done.Completion != "" {
		t.Errorf("to be sent again: %+v, %v", done, err)
	}
	h.deliver(t)
	if len(now.Messages()) != 1 || now.Messages()[0].Header.Get("Webhook-Id") != d.ID {
		t.Fatalf("sent again: %+v", now.Messages())
	}
	done, err = h.GetErasure(ctx, h.who, e.ID)
	if err != nil || done.Recipients[0].State != vault.DeliveryDelivered || done.Completion != "" {
		t.Errorf("after 202: %+v, %v", done, err)
	}
	if _, err := h.Acknowledge(ctx, h.who, "crm", d.ID); err != nil {
		t.Fatal(err)
	}
	done, err = h.GetErasure(ctx, h.who, e.ID)
	if err != nil || done.Recipients[0].State != vault.DeliveryAcknowledged || !strings.Contains(done.Completion, `"Acme & Sons (CRM)" acknowledged `) {
		t.Errorf("after the acknowledgement: %+v, %v", done, err)
	}
	_, err = h.Redeliver(ctx, h.who, "crm", d.ID)
	wantKind(t, "sending again what is acknowledged", err, vault.Conflict)
}

func TestGoneRedirectAndSlowEndpoints(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	ctx := t.Context()
	elsewhere := vaulttest.NewReceiver(t, nil)
	h.webhook(t, "gone", isRecipient, func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusGone) })
	h.webhook(t, "moved", nil, func(w http.ResponseWriter, r *http.Request, _ int) {
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	})
	h.webhook(t, "slow", nil, func(_ http.ResponseWriter, r *http.Request, _ int) {
		select {
		case <-r.Context().Done():
		case <-time.After(30 * time.Second):
		}
	})
	endless := h.webhook(t, "endless", nil, func(w http.ResponseWriter, r *http.Request, _ int) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	})
	e := h.erase(t, "p-1")
	h.deliver(t)
	if n := len(elsewhere.Messages()); n != 0 {
		t.Errorf("a redirect was followed %d times", n)
	}
	states := map[string]string{}
	for _, name := range []string{"gone", "moved", "slow", "endless"} {
		d := h.deliveries(t, name)[0]
		states[name] = d.State + " " + d.Problem
		if d.Status != nil {
			states[name] += fmt.Sprint(*d.Status)
		}
	}
	if diff := cmp.Diff(map[string]string{"gone": "failed 410", "moved": "pending 307", "slow": "pending timeout", "endless": "delivered 200"}, states); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(endless.Messages()) != 1 {
		t.Error("the endless one was not called")
	}
	w, err := h.GetWebhook(ctx, h.who, "gone")
	if err != nil || w.Disabled == nil {
		t.Errorf("the endpoint that is gone: %+v, %v", w, err)
	}
	if _, err := h.Redeliver(ctx, h.who, "gone", h.deliveries(t, "gone")[0].ID); vault.AsError(err).Kind != vault.Conflict {
		t.Errorf("sending to what is gone: %v", err)
	}
	if done, err := h.GetErasure(ctx, h.who, e.ID); err != nil || done.Recipients[0].State != vault.DeliveryFailed {
		t.Errorf("%+v, %v", done, err)
	}
	h.erase(t, "p-2")
	if n := len(h.deliveries(t, "gone")); n != 1 {
		t.Errorf("a disabled webhook has %d deliveries", n)
	}
}

// Attempts at once that all find the endpoint gone don't wait for each other in a circle.
func TestManyFindAnEndpointGone(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	h.webhook(t, "gone", isRecipient, func(w http.ResponseWriter, _ *http.Request, _ int) {
		time.Sleep(200 * time.Millisecond) //nolint:forbidigo // until all are there
		w.WriteHeader(http.StatusGone)
	})
	h.erase(t, "p-1")
	h.erase(t, "p-2")
	h.Exec(`insert into privault.webhook_deliveries (tenant_id, delivery_id, webhook_id, event, body, state, created_at, expires_at, next_at)
		select tenant_id, gen_random_uuid(), webhook_id, event, body, state, created_at, expires_at, next_at
		from privault.webhook_deliveries, generate_series(1, 3)`)
	h.deliver(t)
	for _, d := range h.deliveries(t, "gone") {
		if d.State != vault.DeliveryFailed {
			t.Errorf("%+v", d)
		}
	}
}

// Two replicas send everything once, and an endpoint that hangs holds up nobody else.
func TestReplicasShareDeliveries(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	ctx := t.Context()
	const messages = 60
	events := func(w *vault.Webhook) { w.Events = []string{vault.EventRecordCorrected} }
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	h.webhook(t, "hangs", events, func(_ http.ResponseWriter, r *http.Request, _ int) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	good := h.webhook(t, "good", events, nil)
	other := h.Replica()
	h.Work()
	h.WorkOn(other)
	for version := range int32(messages) {
		_, err := h.PatchRecord(ctx, h.who, "people", h.of["p-1"][0], vault.Patch{IfVersion: version + 1, Fields: map[string]vault.Secret{"name": secret(fmt.Sprintf(`"Jane %d"`, version))}})
		if err != nil {
			t.Fatal(err)
		}
	}
	h.Until(func() bool {
		return h.Count(`select count(*) from privault.webhook_deliveries d join privault.webhooks w using (tenant_id, webhook_id) where w.name = 'good' and d.state = 'delivered'`) == messages
	})
	// A machine may be so slow that an answer comes too late. Then the attempt has failed, and its message is sent again.
	late := h.Count(`select count(*) from privault.audit_entries where action = 'webhook.deliver' and body like '%"outcome":"pending"%' and body like '%"webhook":"good"%'`)
	seen := map[string]bool{}
	for _, m := range good.Messages() {
		if id := m.Header.Get("Webhook-Id"); !seen[id] {
			seen[id] = true
		} else if late--; late < 0 {
			t.Errorf("%s was sent twice", id)
		}
	}
	if len(seen) != messages {
		t.Errorf("%d messages, want %d", len(seen), messages)
	}
}

func TestBothSecretsSignForADay(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	ctx := t.Context()
	crm := h.webhook(t, "crm", nil, nil)
	old := crm.secret
	var err error
	var until time.Time
	if crm.secret, until, err = h.RotateWebhookSecret(ctx, h.who, "crm"); err != nil || crm.secret == old {
		t.Fatal(until, err)
	}
	h.erase(t, "p-1")
	// Under another wrapping key both still open, and the old key isn't needed.
	h.Work()
	rotation, err := h.RotateKey(ctx, h.who, "wrap")
	if err != nil {
		t.Fatal(err)
	}
	if j := h.Finish(h.who, rotation.Job); j.State != "completed" {
		t.Fatal(j)
	}
	if err := h.RetireKey(ctx, h.who, "wrap", 1); err != nil {
		t.Fatal(err)
	}
	h.Until(func() bool { return h.deliveries(t, "crm")[0].State == vault.DeliveryDelivered }) // before the clock jumps over its lease
	m := crm.Messages()[0]
	swapped := listener{crm.Receiver, old}
	swapped.read(t, m, crm.secret)
	h.Advance(25 * time.Hour)
	h.erase(t, "p-2")
	h.deliver(t)
	h.Until(func() bool { return len(crm.Messages()) == 2 })
	crm.read(t, crm.Messages()[1])
}

func TestWhatAWebhookIsFor(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	ctx := t.Context()
	for _, name := range []string{"billing", "letters"} {
		if _, _, err := h.PutPurpose(ctx, h.who, vault.Purpose{Name: name, LegalBasis: "contract"}, 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := h.PutCollection(ctx, h.who, "invoices", vault.Definition{Purposes: []string{"billing"}, Fields: map[string]vault.FieldDefinition{"name": {Type: "string"}}}, 0); err != nil {
		t.Fatal(err)
	}
	h.store(t, "invoices", "p-1")
	letters := h.webhook(t, "letters", func(w *vault.Webhook) { w.Purposes = []string{"letters"} }, nil)
	billing := h.webhook(t, "billing", func(w *vault.Webhook) { w.Purposes = []string{"billing"} }, nil)
	only := h.webhook(t, "only", func(w *vault.Webhook) { w.Collections = []string{"invoices"} }, nil)
	h.erase(t, "p-1")
	h.erase(t, "p-2")
	h.deliver(t)
	collections := func(to listener) (names []string) {
		for _, m := range to.Messages() {
			for _, c := range to.read(t, m).Data.Collections {
				names = append(names, c.Collection)
			}
		}
		slices.Sort(names)
		return names
	}
	for _, c := range []struct {
		to   listener
		want []string
	}{{letters, []string{"orders", "orders", "people", "people"}}, {billing, []string{"invoices", "orders", "orders", "people", "people"}}, {only, []string{"invoices"}}} {
		if diff := cmp.Diff(c.want, collections(c.to)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	for name, w := range map[string]vault.Webhook{
		"unknown collection": {Collections: []string{"nothing"}}, "unknown purpose": {Purposes: []string{"nothing"}}, "no event": {Events: []string{}},
		"unknown event": {Events: []string{"subject.born"}}, "a recipient's name": {Recipient: &vault.Recipient{Name: "a\nb"}}, "a country": {Recipient: &vault.Recipient{Name: "A", Country: "ireland"}},
	} {
		w.Name, w.URL = "x", letters.URL
		if w.Events == nil {
			w.Events = []string{vault.EventSubjectErased}
		}
		_, _, _, err := h.PutWebhook(ctx, h.who, w, 0)
		wantKind(t, name, err, vault.Invalid)
	}
}

// A person of very many records is told of in parts, each of which is acknowledged.
func TestAnErasureInParts(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	items := make([]vault.NewRecord, 800)
	for i := range items {
		items[i] = vaulttest.Item(map[string]string{"name": "Joe"})
		items[i].Subject = "big-1"
	}
	for _, collection := range []string{"people", "orders", "people"} {
		if _, err := h.Tokenize(t.Context(), h.who, vault.Batch{Collection: collection, Items: items}); err != nil {
			t.Fatal(err)
		}
	}
	crm := h.webhook(t, "crm", isRecipient, nil)
	e := h.erase(t, "big-1")
	h.deliver(t)
	seen, parts := map[string]bool{}, map[int]bool{}
	for _, m := range crm.Messages() {
		got := crm.read(t, m)
		n := 0
		for _, c := range got.Data.Collections {
			for _, r := range c.Records {
				seen[r] = true
				n++
			}
		}
		if parts[got.Data.Part] = true; n > 1000 || got.Data.Parts != len(crm.Messages()) {
			t.Errorf("part %d of %d has %d records", got.Data.Part, got.Data.Parts, n)
		}
	}
	if len(seen) != 2400 || len(parts) < 3 {
		t.Errorf("%d records in %d parts", len(seen), len(parts))
	}
	if done, err := h.GetErasure(t.Context(), h.who, e.ID); err != nil || done.Completion == "" || len(done.Recipients) != 1 {
		t.Errorf("%+v, %v", done, err)
	}
}

// What a queue has lost, and what nobody acknowledged, is found by those who look now and then.
func TestWebhooksAreWokenAndGivenUp(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	ctx := t.Context()
	crm := h.webhook(t, "crm", isRecipient, func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusAccepted) })
	e := h.erase(t, "p-1")
	h.Exec(`delete from river.river_job`)
	if err := h.WakeWebhooks(ctx); err != nil {
		t.Fatal(err)
	}
	h.Work()
	h.Until(func() bool { return h.deliveries(t, "crm")[0].State == vault.DeliveryDelivered })
	if err := h.StopJobs(ctx); err != nil { // or the vault at work gives up what the test wants given up
		t.Fatal(err)
	}
	if len(crm.Messages()) != 1 {
		t.Errorf("%d messages", len(crm.Messages()))
	}
	if err := h.SweepDeliveries(ctx); err != nil {
		t.Fatal(err)
	}
	h.Advance(31 * 24 * time.Hour)
	h.Exec(`insert into privault.webhook_deliveries (tenant_id, delivery_id, webhook_id, event, body, state, created_at, expires_at, next_at)
		select tenant_id, ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, webhook_id, event, body, 'pending', created_at, expires_at, created_at
		from privault.webhook_deliveries, generate_series(1, 250) n`) // more than a batch
	if err := h.WakeWebhooks(ctx); err != nil {
		t.Fatal(err)
	}
	if n := h.Count(`select count(*) from privault.webhook_deliveries where state <> 'failed'`); n != 0 {
		t.Errorf("%d deliveries are not given up", n)
	}
	if d := h.deliveries(t, "crm")[0]; d.State != vault.DeliveryFailed || d.Problem != "not-acknowledged" {
		t.Errorf("%+v", d)
	}
	if done, err := h.GetErasure(ctx, h.who, e.ID); err != nil || !strings.Contains(done.Completion, " failed ") {
		t.Errorf("%+v, %v", done, err)
	}
	h.Advance(31 * 24 * time.Hour)
	if err := h.SweepDeliveries(ctx); err != nil {
		t.Fatal(err)
	}
	if n := len(h.deliveries(t, "crm")); n != 0 {
		t.Errorf("%d deliveries are left", n)
	}
	if done, err := h.GetErasure(ctx, h.who, e.ID); err != nil || len(done.Recipients) != 1 || done.Completion == "" {
		t.Errorf("%+v, %v", done, err)
	}
}

// Of a partial erasure recipients are told what is gone, and not what stays.
func TestRecipientsAreToldOfAPartialErasure(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	crm := h.webhook(t, "crm", isRecipient, nil)
	orders := h.webhook(t, "orders", func(w *vault.Webhook) { w.Collections = []string{"orders"} }, nil)
	e, err := h.ErasePart(t.Context(), h.who, "p-1", vault.PartialErasure{Reason: "gdpr-17", Scope: []vault.ErasurePart{{Collection: "people"}},
		Retained: []vault.Retained{{Collection: "orders", Ground: "legal-obligation"}}})
	if err != nil {
		t.Fatal(err)
	}
	h.deliver(t)
	if len(crm.Messages()) != 1 || len(orders.Messages()) != 0 {
		t.Fatalf("%d and %d messages", len(crm.Messages()), len(orders.Messages()))
	}
	got := crm.read(t, crm.Messages()[0])
	if got.Data.Certificate != e.ID || len(got.Data.Collections) != 1 || got.Data.Collections[0].Collection != "people" || len(got.Data.Collections[0].Records) != 2 {
		t.Errorf("it is told %s", crm.Messages()[0].Body)
	}
}
