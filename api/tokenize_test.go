package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTokenizeAndDetokenizeOne(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name", "email", "email", "pan", "pan")
	stored := c.send(t, "POST", "/v1/tokenize", `{"collection":"people","items":[{"subject":"cust-1001",
		"fields":{"name":"Jane Roe","email":"jane@example.com","pan":"4111 1111 1111 1111"},"expires_at":"2099-01-01T00:00:00Z"}]}`).
		want(t, 200).items(t)[0]
	if stored.Status != 201 || len(stored.Tokens) != 3 {
		t.Fatalf("stored as %+v", stored)
	}
	got := c.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+stored.Tokens["email"]+`"}]}`).want(t, 200).items(t)
	want := []item{{Status: 200, Record: stored.Record, Collection: "people", Field: "email", View: "masked", Value: []byte(`"j***@example.com"`)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := c.reveal(t, stored.Tokens["pan"]); got != `"4111 1111 1111 1111"` {
		t.Errorf("the number comes back as %s", got)
	}
}

func TestEachViewShowsAsMuchAsItsNameSays(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "pan", "pan")
	token := c.tokenize(t, "people", `{"pan":"4111111111111111"}`)[0].Tokens["pan"]
	for view, want := range map[string]string{"plain": `"4111111111111111"`, "masked": `"************1111"`, "redacted": "null"} {
		got := c.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+token+`","collection":"people","field":"pan","view":"`+view+`"}]}`).
			want(t, 200).items(t)[0]
		if string(got.Value) != want || got.View != view {
			t.Errorf("view %s shows %s as %s", view, got.Value, got.View)
		}
	}
}

func TestABatchReportsEachItemInItsPlace(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "email", "email")
	items := c.send(t, "POST", "/v1/tokenize", batch("people", `{"email":"a@example.com"}`, `{"email":"none"}`, `{"email":"c@example.com"}`)).
		want(t, 207).items(t)
	var statuses []int
	for i, item := range items {
		if item.Index != i {
			t.Errorf("item %d says it is %d", i, item.Index)
		}
		statuses = append(statuses, item.Status)
	}
	if diff := cmp.Diff([]int{201, 422, 201}, statuses); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff([]fault{{"/items/1/fields/email", "email"}}, items[1].Error.Errors); diff != "" {
		t.Error(diff)
	}
	back := c.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+items[2].Tokens["email"]+`","view":"plain"},{"token":"pvtk_no"},{"token":"`+
		items[0].Tokens["email"]+`","view":"plain"}]}`).want(t, 207).items(t)
	if string(back[0].Value) != `"c@example.com"` || back[1].Error.slug() != "token-not-found" || string(back[2].Value) != `"a@example.com"` {
		t.Errorf("got %+v", back)
	}
}

func TestABatchThatFailsWholeHasTheStatusThatAllShare(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "email", "email")
	token := c.tokenize(t, "people", `{"email":"a@example.com"}`)[0].Tokens["email"]
	c.send(t, "POST", "/v1/tokenize", batch("people", `{"email":"none"}`, `{}`)).want(t, 422).items(t)
	c.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"pvtk_no"},{"token":"none"}]}`).want(t, 404).items(t)
	mixed := c.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"none"},{"token":"`+token+`","view":"full"}]}`).want(t, 422).items(t)
	if mixed[0].Status != 404 || mixed[1].Status != 422 {
		t.Errorf("got %+v", mixed)
	}
}

func TestAnAtomicBatchIsStoredWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "email", "email", "name", "name")
	atomic := func(items ...string) string {
		return strings.TrimSuffix(batch("people", items...), "}") + `,"atomic":true}`
	}
	p := c.send(t, "POST", "/v1/tokenize", atomic(`{"email":"a@example.com"}`, `{"email":"none"}`, `{"name":""}`)).refused(t, 409, "batch-rolled-back")
	if diff := cmp.Diff([]fault{{"/items/1/fields/email", "email"}, {"/items/2/fields/name", "min-length"}}, p.Errors); diff != "" {
		t.Error(diff)
	}
	// It holds no record, so it can be dropped.
	c.send(t, "DELETE", "/v1/collections/people", "").want(t, 204)
	c.collection(t, "people", "email", "email")
	c.send(t, "POST", "/v1/tokenize", atomic(`{"email":"a@example.com"}`, `{"email":"b@example.com"}`)).want(t, 200)
	// What is no fault of a field is said of its item: a value that is there already, in the database or in the batch.
	c.send(t, "PUT", "/v1/collections/members", `{"fields":{"email":{"type":"email","unique":true,"index":["exact"]}}}`).want(t, 201)
	members := func(items ...string) string { return strings.Replace(atomic(items...), `"people"`, `"members"`, 1) }
	c.send(t, "POST", "/v1/tokenize", members(`{"email":"a@example.com"}`)).want(t, 200)
	p = c.send(t, "POST", "/v1/tokenize", members(`{"email":"b@example.com"}`, `{"email":"a@example.com"}`, `{"email":"none"}`)).refused(t, 409, "batch-rolled-back")
	if diff := cmp.Diff([]fault{{"/items/1", "conflict"}, {"/items/2/fields/email", "email"}}, p.Errors); diff != "" {
		t.Error(diff)
	}
	p = c.send(t, "POST", "/v1/tokenize", members(`{"email":"c@example.com"}`, `{"email":"c@example.com"}`)).refused(t, 409, "batch-rolled-back")
	if diff := cmp.Diff([]fault{{"/items/1", "conflict"}}, p.Errors); diff != "" {
		t.Error(diff)
	}
}

func TestARepeatedRequestGetsItsFirstAnswer(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	colleague := c.colleague(t, "backend-writer")
	c.collection(t, "people", "email", "email")
	body := batch("people", `{"email":"a@example.com"}`, `{"email":"none"}`)
	const key = "Idempotency-Key: order-8d2c1f"
	first := c.send(t, "POST", "/v1/tokenize", body, key, "X-Request-Id: one").want(t, 207)
	second := c.send(t, "POST", "/v1/tokenize", body, key, "X-Request-Id: one").want(t, 207)
	if diff := cmp.Diff(string(first.body), string(second.body)); diff != "" {
		t.Error(diff)
	}
	c.send(t, "POST", "/v1/tokenize", batch("people", `{"email":"b@example.com"}`), key).refused(t, 409, "idempotency-conflict")
	if colleague.send(t, "POST", "/v1/tokenize", body, key).want(t, 207).items(t)[0].Record == first.items(t)[0].Record {
		t.Error("another principal's request got this one's answer")
	}
	if n := c.Count(`select count(*) from privault.records`); n != 2 {
		t.Errorf("%d records, want 2", n)
	}
}

func TestIdempotencyKeysThatAreRefused(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "email", "email")
	body := batch("people", `{"email":"a@example.com"}`)
	for _, key := range []string{strings.Repeat("k", 256), "two words", "schlüssel"} {
		a := c.send(t, "POST", "/v1/tokenize", body, "Idempotency-Key: "+key)
		a.refused(t, 400, "malformed-request")
		quiet(t, "the answer", string(a.body), "two words", "schlüssel")
	}
	c.send(t, "POST", "/v1/tokenize", body, "Idempotency-Key: jane@example.com").refused(t, 422, "identifier-looks-like-pii")
	c.send(t, "POST", "/v1/tokenize", body, "Idempotency-Key: "+strings.Repeat("k", 255)).want(t, 200)
	if n := c.Count(`select count(*) from privault.records`); n != 1 {
		t.Errorf("%d records, want 1", n)
	}
}

func TestOneTokenManyTimes(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "email", "email")
	token := c.tokenize(t, "people", `{"email":"a@example.com"}`)[0].Tokens["email"]
	items := strings.TrimSuffix(strings.Repeat(`{"token":"`+token+`","view":"plain"},`, 1000), ",")
	for _, item := range c.send(t, "POST", "/v1/detokenize", `{"items":[`+items+`]}`).want(t, 200).items(t) {
		if string(item.Value) != `"a@example.com"` {
			t.Fatalf("got %+v", item)
		}
	}
	if n := c.Count(`select count(*) from privault.audit_entries where action = 'detokenize' and (body::json->>'items')::int = 1000`); n != 1 {
		t.Errorf("%d audit entries, want 1", n)
	}
}

// Direct records are refused each for itself while the KMS is away, beside records that aren't direct; the inventory names the KMS key.
func TestDirectCollections(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c := s.tenant()
	c.collection(t, "plain", "name", "name")
	c.send(t, "PUT", "/v1/collections/people", `{"kms":"direct","fields":{"name":{"type":"name"}}}`).want(t, 201)
	if got := c.send(t, "GET", "/v1/collections/people", "").want(t, 200).body; !strings.Contains(string(got), `"kms":"direct"`) {
		t.Errorf("the collection is %s", got)
	}
	plain := c.tokenize(t, "plain", `{"name":"Jane"}`)[0].Tokens["name"]
	token := c.tokenize(t, "people", `{"name":"Jane"}`)[0].Tokens["name"]
	both := `{"items":[{"token":"` + plain + `"},{"token":"` + token + `"}]}`
	c.send(t, "POST", "/v1/detokenize", both).want(t, 200)
	s.KMS.SetDown(true)
	items := c.send(t, "POST", "/v1/detokenize", both).want(t, 207).items(t)
	if items[0].Status != 200 || items[1].Status != 503 {
		t.Errorf("got %+v", items)
	}
	if items := c.send(t, "POST", "/v1/tokenize", batch("people", `{"name":"Joe"}`)).want(t, 503).items(t); items[0].Error.slug() != "kms-unavailable" {
		t.Errorf("got %+v", items)
	}
	c.send(t, "POST", "/v1/tokenize", `{"collection":"people","atomic":true,"items":[{"fields":{"name":"Joe"}}]}`).refused(t, 503, "kms-unavailable")
	s.KMS.SetDown(false)
	s.Advance(3 * time.Second)
	if got := c.reveal(t, token); got != `"Jane"` {
		t.Errorf("afterwards the token gives %s", got)
	}
	c.send(t, "PUT", "/v1/collections/people", `{"fields":{"name":{"type":"name"}}}`).refused(t, 409, "conflict")
	if got := c.send(t, "GET", "/v1/keys", "").want(t, 200).body; !strings.Contains(string(got), `"kms":"local:keyset.age"`) {
		t.Errorf("the inventory is %s", got)
	}
}
