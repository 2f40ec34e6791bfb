package api_test

import (
	"testing"
)

func TestOperatorsSweepAndComplianceConfirms(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.Work()
	admin := s.tenant("admin")
	admin.send(t, "PUT", "/v1/collections/cases", `{"retention":{"keep":"P1Y","after":"field:closed"},
		"fields":{"name":{"type":"name"},"closed":{"type":"date"}}}`).want(t, 201)
	writer, officer, operator := admin.colleague(t, "backend-writer"), admin.colleague(t, "compliance"), admin.colleague(t, "operator")
	for range 12 {
		writer.send(t, "POST", "/v1/tokenize", `{"collection":"cases","items":[{"fields":{"name":"Jane","closed":"2020-01-01"}}]}`).want(t, 200)
	}
	writer.send(t, "POST", "/v1/retention/sweeps", `{}`).refused(t, 403, "forbidden")
	operator.send(t, "POST", "/v1/retention/sweeps", `{"collection":"nothing"}`).refused(t, 422, "validation-failed")
	operator.send(t, "POST", "/v1/retention/sweeps", `{"dry_run":"no"}`).refused(t, 422, "validation-failed")
	operator.send(t, "GET", "/v1/retention/sweeps/swp_x", "").refused(t, 404, "not-found")
	var sweep struct {
		ID, State, Reason                string
		Due, Deleted, Minimum, Remaining int
	}
	ends := func(state string) {
		t.Helper()
		s.Until(func() bool {
			operator.send(t, "GET", "/v1/retention/sweeps/"+sweep.ID, "").want(t, 200).read(t, &sweep)
			return sweep.State != "queued" && sweep.State != "running"
		})
		if sweep.State != state {
			t.Fatalf("the sweep is %+v, want %s", sweep, state)
		}
	}
	operator.send(t, "POST", "/v1/retention/sweeps", `{"dry_run":false}`).want(t, 202).read(t, &sweep)
	ends("needs_confirmation")
	operator.send(t, "POST", "/v1/retention/sweeps/"+sweep.ID+"/confirm", `{}`).refused(t, 403, "forbidden")
	officer.send(t, "POST", "/v1/retention/sweeps/"+sweep.ID+"/confirm", `{}`).want(t, 200)
	ends("completed")
	if sweep.Due != 12 || sweep.Deleted != 12 || sweep.Remaining != 0 {
		t.Errorf("it says %+v", sweep)
	}
	officer.send(t, "POST", "/v1/retention/sweeps/"+sweep.ID+"/confirm", `{}`).refused(t, 409, "conflict")
	officer.send(t, "POST", "/v1/retention/sweeps/"+sweep.ID+"/stop", `{}`).refused(t, 409, "conflict")
}
