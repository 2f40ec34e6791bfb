package api_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The examples of GET /v1/types are values of their types, which come back as they were sent and masked as is said, and a
// field may have the masks that it names.
func TestTheTypesAreAsTheyAreDescribed(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	var types struct {
		Items []struct {
			Name, Description, Pattern string
			Normalise                  []string
			Examples                   []struct {
				Value  json.RawMessage
				Masked string
			}
			Indexes []string
			Masks   struct {
				First  int `json:"reveal_first"`
				Last   int `json:"reveal_last"`
				Reveal []string
			}
		}
	}
	c.send(t, "GET", "/v1/types", "").want(t, 200).read(t, &types)
	if len(types.Items) < 18 {
		t.Fatalf("%d types", len(types.Items))
	}
	for _, typ := range types.Items {
		field := map[string]any{"type": typ.Name}
		if typ.Pattern != "" {
			field["pattern"], field["normalise"] = typ.Pattern, typ.Normalise
		}
		define := func(name string, mask map[string]any) answer {
			if mask != nil {
				field["mask"] = mask
			}
			body, err := json.Marshal(map[string]any{"fields": map[string]any{"f": field}})
			if err != nil {
				t.Fatal(err)
			}
			return c.send(t, "PUT", "/v1/collections/"+typ.Name+name, string(body))
		}
		define("", nil).want(t, 201)
		for _, example := range typ.Examples {
			token := c.tokenize(t, typ.Name, `{"f":`+string(example.Value)+`}`)[0].Tokens["f"]
			for view, want := range map[string]string{"plain": string(example.Value), "masked": text(t, example.Masked)} {
				var got struct {
					Items []struct{ Value json.RawMessage }
				}
				c.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+token+`","view":"`+view+`"}]}`).want(t, 200).read(t, &got)
				if diff := cmp.Diff(want, string(got.Items[0].Value)); diff != "" {
					t.Errorf("%s %s: %s", typ.Name, view, diff)
				}
			}
		}
		for i, part := range typ.Masks.Reveal {
			define(fmt.Sprint("_r", i), map[string]any{"reveal": part}).want(t, 201)
		}
		if n := typ.Masks.First; n > 0 {
			define("_first", map[string]any{"reveal_first": n}).want(t, 201)
		}
		if n := typ.Masks.Last; n > 0 {
			define("_last", map[string]any{"reveal_last": n}).want(t, 201)
		}
		if typ.Masks.First < 12 {
			define("_more", map[string]any{"reveal_first": typ.Masks.First + 1}).refused(t, 422, "validation-failed")
		}
	}
}
