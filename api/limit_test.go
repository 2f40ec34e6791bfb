package api_test

import (
	"io"
	"strings"
	"testing"
)

func TestBodiesAreReadUpToTheirLimit(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	for _, to := range c.targets(t) {
		limit := 1 << 20
		if to.path == "/v1/tokenize" || to.path == "/v1/detokenize" {
			limit = 8 << 20
		}
		// White space is JSON's padding: as long as it is read, the body is malformed, or what stands in it counts.
		for body, status := range map[string]int{strings.Repeat(" ", limit): 400, strings.Repeat(" ", limit+1): 413} {
			sized := c.send(t, to.method, to.path, body, `If-Match: "1"`)
			r := c.request(t, to.method, to.path, io.MultiReader(strings.NewReader(body)), `If-Match: "1"`) // of unknown length: chunked
			chunked := c.do(t, r, []byte(body))
			if status == 413 && (!sized.closed || !chunked.closed) {
				t.Errorf("%s %s keeps the connection", to.method, to.path)
			}
			if sized.status != status || chunked.status != status {
				t.Errorf("%s %s, %d bytes: %d sized and %d chunked, want %d", to.method, to.path, len(body), sized.status, chunked.status, status)
			}
		}
	}
}

func TestALargeBatchIsStored(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "texts", "v", "text")
	fields := make([]string, 120)
	for i := range fields {
		fields[i] = `{"v":"` + strings.Repeat("x", 64<<10) + `"}`
	}
	items := c.tokenize(t, "texts", fields...)
	if got := c.reveal(t, items[119].Tokens["v"]); len(got) != 64<<10+2 {
		t.Errorf("%d bytes come back", len(got))
	}
	c.send(t, "POST", "/v1/tokenize", batch("texts", `{"v":"`+strings.Repeat("x", 64<<10+1)+`"}`)).want(t, 422)
}

func TestABatchOfAThousand(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name")
	fields := make([]string, 1000)
	for i := range fields {
		fields[i] = `{"name":"Jane Roe"}`
	}
	if got := len(c.tokenize(t, "people", fields...)); got != 1000 {
		t.Errorf("%d outcomes", got)
	}
}

func TestAnObjectOf256MembersNested32Deep(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "things", "j", "json")
	deep := strings.Repeat("[", 27) + `{` + members(256) + `}` + strings.Repeat("]", 27) // four levels are the request's
	if got := c.reveal(t, c.tokenize(t, "things", `{"j":`+deep+`}`)[0].Tokens["j"]); got != deep {
		t.Errorf("got %s", got)
	}
}
