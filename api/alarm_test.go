package api_test

import (
	"testing"
)

// Whoever finds a key reports it without a credential; it is suspended, its owner reads of it, and can lift that.
func TestALeakedKeyIsReported(t *testing.T) {
	t.Parallel()
	s := serve(t)
	admin, nobody := s.tenant("admin"), client{service: s}
	writer := admin.colleague(t, "backend-writer")
	writer.send(t, "GET", "/v1/collections", "").want(t, 200)
	report := func(key string) answer {
		return nobody.send(t, "POST", "/v1/leaked-keys", `{"key":"`+key+`"}`)
	}
	unknown := report("pvak_unknown").want(t, 204)
	known := report(writer.key).want(t, 204)
	if string(unknown.body) != string(known.body) || len(unknown.header) != len(known.header) {
		t.Errorf("a good key's report is told from another's: %v and %v", known, unknown)
	}
	report(writer.key).want(t, 204) // again
	writer.send(t, "GET", "/v1/collections", "").refused(t, 401, "unauthenticated")
	var page struct {
		Items []struct {
			ID, Kind, Response string
			Lifted             *string `json:"lifted_at"`
		}
	}
	admin.send(t, "GET", "/v1/alarms", "").want(t, 200).read(t, &page)
	if len(page.Items) != 1 || page.Items[0].Kind != "key-leaked" || page.Items[0].Response != "suspend" || page.Items[0].Lifted != nil {
		t.Fatalf("the alarms are %+v", page)
	}
	admin.send(t, "DELETE", "/v1/alarms/"+page.Items[0].ID, "").want(t, 204)
	admin.send(t, "DELETE", "/v1/alarms/"+page.Items[0].ID, "").want(t, 204)
	writer.send(t, "GET", "/v1/collections", "").want(t, 200)
	admin.send(t, "GET", "/v1/alarms", "").want(t, 200).read(t, &page)
	if page.Items[0].Lifted == nil {
		t.Error("the alarm does not say that it was lifted")
	}
	nobody.send(t, "POST", "/v1/leaked-keys?key="+writer.key, `{"key":"x"}`).refused(t, 400, "malformed-request")
	nobody.send(t, "POST", "/v1/leaked-keys", `{"key":5}`).refused(t, 422, "validation-failed")
	quiet(t, "the log", s.Log.String(), writer.key[5:])
}
