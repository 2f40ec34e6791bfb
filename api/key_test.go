package api_test

import "testing"

func TestKeysAreListedAndRotated(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.Work()
	c := s.tenant()
	c.collection(t, "people", "name", "string")
	token := c.tokenize(t, "people", `{"name":"Jane"}`)[0].Tokens["name"]
	var rotation struct {
		Name    string
		Version int
		Job     string
	}
	c.send(t, "POST", "/v1/keys/wrap/rotate", "", "Content-Type:").want(t, 202).read(t, &rotation)
	if rotation.Name != "wrap" || rotation.Version != 2 {
		t.Errorf("got %+v", rotation)
	}
	var job struct {
		State       string
		Done, Total int
	}
	s.Until(func() bool {
		c.send(t, "GET", "/v1/jobs/"+rotation.Job, "").want(t, 200).read(t, &job)
		return job.State == "completed"
	})
	if job.Done != 1 || job.Total != 1 {
		t.Errorf("got %+v", job)
	}
	var list struct {
		Items []struct {
			Name, State string
			Version     int
			Uses        *int
			Versions    []struct{ Version, Uses int }
		}
	}
	c.send(t, "GET", "/v1/keys", "").want(t, 200).read(t, &list)
	if len(list.Items) != 7 || list.Items[1].Name != "wrap" || list.Items[1].Version != 2 || *list.Items[1].Uses != 1 || list.Items[1].Versions[0].Uses != 0 {
		t.Errorf("got %+v", list)
	}
	if got := c.reveal(t, token); got != `"Jane"` {
		t.Errorf("the token reveals %s", got)
	}
	c.send(t, "POST", "/v1/keys/root/rotate", `{}`).want(t, 202)
	if got := c.reveal(t, token); got != `"Jane"` {
		t.Errorf("the token reveals %s", got)
	}
	c.send(t, "POST", "/v1/keys/wrap/rotate", `{"x":1}`).refused(t, 422, "validation-failed")
	c.send(t, "POST", "/v1/keys/wrap/versions/1/destroy", `{}`).refused(t, 409, "conflict")
	c.send(t, "POST", "/v1/keys/wrap/versions/1/retire", "", "Content-Type:").want(t, 204)
	c.send(t, "POST", "/v1/keys/wrap/versions/1/destroy", `{}`).want(t, 204)
	c.send(t, "POST", "/v1/keys/wrap/versions/2/retire", `{}`).refused(t, 409, "conflict")
	c.send(t, "POST", "/v1/keys/wrap/versions/3/retire", `{}`).refused(t, 404, "not-found")
	c.send(t, "POST", "/v1/keys/wrap/versions/1/retire", `{"x":1}`).refused(t, 422, "validation-failed")
	c.send(t, "POST", "/v1/keys/nothing/rotate", `{}`).refused(t, 404, "not-found")
	c.send(t, "GET", "/v1/jobs/job_0000000000000000000000", "").refused(t, 404, "not-found")
	reader := c.colleague(t, "backend-reader")
	reader.send(t, "GET", "/v1/keys", "").refused(t, 403, "forbidden")
	reader.send(t, "POST", "/v1/keys/wrap/rotate", `{}`).refused(t, 403, "forbidden")
	reader.send(t, "GET", "/v1/jobs/"+rotation.Job, "").refused(t, 403, "forbidden")
}
