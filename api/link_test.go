package api_test

import (
	"testing"
	"time"
)

// Two references are found to be one person: from then on everything is the one's.
func TestTwoReferencesBecomeOnePerson(t *testing.T) {
	t.Parallel()
	s := serve(t)
	admin := s.tenant("admin")
	admin.collection(t, "people", "email", "email")
	writer, officer, auditor := admin.colleague(t, "backend-writer"), admin.colleague(t, "compliance"), admin.colleague(t, "auditor")
	writer.send(t, "POST", "/v1/tokenize", `{"collection":"people","items":[
		{"subject":"cus_1","fields":{"email":"jane@example.com"}},{"subject":"cus_77","fields":{"email":"jane@example.org"}}]}`).want(t, 200)
	officer.send(t, "PUT", "/v1/subjects/cus_77/restriction", `{"reason":"dispute"}`).want(t, 201)
	officer.send(t, "POST", "/v1/requests", `{"type":"access","regime":"gdpr","subject":"cus_77"}`).want(t, 201)

	body := `{"subject":"cus_77","reason":"duplicate"}`
	writer.send(t, "POST", "/v1/subjects/cus_1/links", body).refused(t, 403, "forbidden")
	auditor.send(t, "POST", "/v1/subjects/cus_1/links", body).refused(t, 403, "forbidden")
	officer.send(t, "POST", "/v1/subjects/cus_2/links", body).refused(t, 404, "not-found")
	s.tenant("compliance").send(t, "POST", "/v1/subjects/cus_1/links", body).refused(t, 404, "not-found")
	officer.send(t, "POST", "/v1/subjects/cus_1/links", `{"subject":"cus_1","reason":"duplicate"}`).refused(t, 422, "validation-failed")
	officer.send(t, "POST", "/v1/subjects/cus_1/links", `{"subject":"cus_77","reason":"Jane said so"}`).refused(t, 422, "validation-failed")
	officer.send(t, "POST", "/v1/subjects/cus_1/links", `{"subject":"jane@example.com","reason":"duplicate"}`).refused(t, 422, "identifier-looks-like-pii")

	type link struct {
		ID, Subject, Linked, Reason string
		Merged                      bool
		Records                     int
	}
	var made, again link
	officer.send(t, "POST", "/v1/subjects/cus_1/links", body).want(t, 201).read(t, &made)
	if made.ID == "" || made != (link{made.ID, "cus_1", "cus_77", "duplicate", true, 1}) {
		t.Errorf("the link: %+v", made)
	}
	if officer.send(t, "POST", "/v1/subjects/cus_77/links", `{"subject":"cus_1","reason":"replaced"}`).want(t, 200).read(t, &again); again != made {
		t.Errorf("linked again: %+v", again)
	}
	stranger := s.tenant("compliance") // whose own cus_1 has nothing to do with this one's cus_77
	stranger.send(t, "PUT", "/v1/subjects/cus_1/restriction", `{"reason":"dispute"}`).want(t, 201)
	stranger.send(t, "POST", "/v1/subjects/cus_1/links", body).want(t, 201).read(t, &again)
	if again.Merged || again.Records != 0 {
		t.Errorf("another tenant's link: %+v", again)
	}
	var page struct{ Items []link }
	for _, subject := range []string{"cus_1", "cus_77"} {
		officer.send(t, "GET", "/v1/subjects/"+subject+"/links", "").want(t, 200).read(t, &page)
		if len(page.Items) != 1 || page.Items[0] != made {
			t.Errorf("the links of %s: %+v", subject, page)
		}
		var m struct{ Items []struct{ Record string } }
		officer.send(t, "GET", "/v1/subjects/"+subject, "").want(t, 200).read(t, &m)
		officer.send(t, "GET", "/v1/subjects/"+subject+"/restriction", "").want(t, 200)
		var requests struct{ Items []struct{ Subject string } }
		officer.send(t, "GET", "/v1/requests?subject="+subject, "").want(t, 200).read(t, &requests)
		if len(m.Items) != 2 || len(requests.Items) != 1 || requests.Items[0].Subject != "cus_77" {
			t.Errorf("%s has %d records and the requests %+v", subject, len(m.Items), requests)
		}
	}
	writer.send(t, "GET", "/v1/subjects/cus_1/links", "").refused(t, 403, "forbidden")
	officer.send(t, "GET", "/v1/subjects/cus_1/links?cursor=x", "").refused(t, 400, "malformed-request")

	var e, other struct {
		Certificate string
		Counts      struct{ Records int }
	}
	officer.send(t, "POST", "/v1/subjects/cus_77/erasure", `{"reason":"gdpr-17"}`).want(t, 200).read(t, &e)
	officer.send(t, "POST", "/v1/subjects/cus_1/erasure", `{"reason":"gdpr-17"}`).want(t, 200).read(t, &other)
	if e.Counts.Records != 2 || other.Certificate != e.Certificate {
		t.Errorf("erased: %+v and %+v", e, other)
	}
	writer.send(t, "POST", "/v1/tokenize", `{"collection":"people","items":[{"subject":"cus_3","fields":{"email":"joe@example.com"}}]}`).want(t, 200)
	officer.send(t, "POST", "/v1/subjects/cus_3/links", body).refused(t, 409, "subject-erased")
}

// What docs/requests.md says to do when a link was a mistake: afterwards each has what is theirs.
func TestAMistakenLinkIsPutRight(t *testing.T) {
	t.Parallel()
	s := serve(t)
	admin := s.tenant("admin")
	admin.collection(t, "people", "email", "email")
	writer, reader, officer := admin.colleague(t, "backend-writer"), admin.colleague(t, "backend-reader"), admin.colleague(t, "compliance")
	store := func(subject, email string) string {
		return writer.send(t, "POST", "/v1/tokenize", `{"collection":"people","items":[{"subject":"`+subject+`","fields":{"email":"`+email+`"}}]}`).want(t, 200).items(t)[0].Tokens["email"]
	}
	janes, joes := store("cus_1", "jane@example.com"), store("cus_77", "joe@example.com")
	officer.send(t, "PUT", "/v1/subjects/cus_77/restriction", `{"reason":"dispute"}`).want(t, 201)
	officer.send(t, "POST", "/v1/subjects/cus_1/links", `{"subject":"cus_77","reason":"duplicate"}`).want(t, 201)
	officer.send(t, "DELETE", "/v1/subjects/cus_1/restriction", `{"informed_at":"`+time.Now().UTC().Format(time.RFC3339Nano)+`"}`, "Content-Type: application/json").want(t, 204)

	type subjectMap struct{ Items []struct{ Record string } }
	of := func(subject string) (m subjectMap) {
		officer.send(t, "GET", "/v1/subjects/"+subject, "").want(t, 200).read(t, &m)
		return m
	}
	moved := 0
	for _, item := range of("cus_1").Items {
		var record struct {
			Subject string
			Fields  struct{ Email string }
		}
		at := "/v1/collections/people/records/" + item.Record
		if reader.send(t, "GET", at+"?view=plain", "").want(t, 200).read(t, &record); record.Subject != "cus_77" {
			continue
		}
		moved++
		joes = store("cus_78", record.Fields.Email)
		writer.send(t, "DELETE", at, "").want(t, 204)
	}
	officer.send(t, "PUT", "/v1/subjects/cus_78/restriction", `{"reason":"dispute"}`).want(t, 201)
	if one, other := of("cus_1"), of("cus_78"); moved != 1 || len(one.Items) != 1 || len(other.Items) != 1 {
		t.Errorf("%d were moved; one has %+v, the other %+v", moved, one, other)
	}
	if got := reader.reveal(t, janes); got != `"jane@example.com"` {
		t.Errorf("Jane's: %s", got)
	}
	reader.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+joes+`","view":"plain"}]}`).want(t, 423)
	officer.send(t, "DELETE", "/v1/subjects/cus_78/restriction", `{"informed_at":"`+time.Now().UTC().Format(time.RFC3339Nano)+`"}`, "Content-Type: application/json").want(t, 204)
	officer.send(t, "POST", "/v1/subjects/cus_1/erasure", `{"reason":"gdpr-17"}`).want(t, 200)
	if got := reader.reveal(t, joes); got != `"joe@example.com"` {
		t.Errorf("Joe's, after an erasure of the other: %s", got)
	}
}
