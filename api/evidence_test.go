package api_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/privault/privault/vault/audit"
)

// auditEntry is what these tests read of an audit entry, or of a disclosure.
type auditEntry struct {
	ID, Entry, Principal, Purpose, Action, Outcome string
	Resources                                      []struct {
		Collection, View string
		Fields, Records  []string
	}
}

type auditPage struct {
	Items []auditEntry
	Next  *string `json:"next_cursor"`
}

// story is a tenant with two persons, whose data was stored, read, refused and deleted.
func story(t *testing.T) (c client, reader client, records map[string]string) {
	t.Helper()
	c = serve(t).tenant()
	c.collection(t, "people", "name", "name", "email", "email")
	records = map[string]string{}
	tokens := map[string]string{}
	for _, subject := range []string{"cust-1", "cust-2"} {
		i := c.send(t, "POST", "/v1/tokenize", `{"collection":"people","items":[{"subject":"`+subject+`","fields":{"name":"Jane","email":"jane@example.com"}}]}`).want(t, 200).items(t)[0]
		records[subject], tokens[subject] = i.Record, i.Tokens["email"]
	}
	reader = c.colleague(t, "backend-reader-masked")
	// One call that touches both persons.
	reader.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+tokens["cust-1"]+`"},{"token":"`+tokens["cust-2"]+`"}]}`, "Privault-Purpose: support").want(t, 200)
	reader.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+tokens["cust-1"]+`","view":"plain"}]}`).want(t, 403)
	reader.send(t, "GET", "/v1/collections/people/records/"+records["cust-2"], "").want(t, 200)
	c.send(t, "PATCH", "/v1/collections/people/records/"+records["cust-1"], `{"fields":{"name":"Ann"}}`, `If-Match: "1"`, "Content-Type: application/merge-patch+json").want(t, 200)
	c.send(t, "DELETE", "/v1/collections/people/records/"+records["cust-1"], "").want(t, 204)
	return c, reader, records
}

func TestDisclosuresOfAPerson(t *testing.T) {
	t.Parallel()
	c, _, records := story(t)
	auditor := c.colleague(t, "auditor")
	var p auditPage
	auditor.send(t, "GET", "/v1/subjects/cust-1/disclosures", "").want(t, 200).read(t, &p)
	var got []string
	for _, d := range p.Items {
		for _, r := range d.Resources {
			if diff := cmp.Diff([]string{records["cust-1"]}, r.Records); diff != "" {
				t.Errorf("%s shows records of others: %s", d.Action, diff)
			}
		}
		got = append(got, d.Action+" "+d.Outcome+" "+d.Purpose)
	}
	want := []string{"record.delete ok ", "record.update ok ", "detokenize denied ", "detokenize ok support", "tokenize ok "}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the disclosures (-want +got):\n%s", diff)
	}
	if p.Items[3].Resources[0].View != "masked" || p.Items[3].Resources[0].Fields[0] != "email" {
		t.Errorf("what was seen: %+v", p.Items[3])
	}
	// In pages.
	var paged []string
	for cursor := ""; ; {
		auditor.send(t, "GET", "/v1/subjects/cust-1/disclosures?limit=2"+cursor, "").want(t, 200).read(t, &p)
		for _, d := range p.Items {
			paged = append(paged, d.Action+" "+d.Outcome+" "+d.Purpose)
		}
		if p.Next == nil {
			break
		}
		cursor = "&cursor=" + *p.Next
	}
	if diff := cmp.Diff(want, paged); diff != "" {
		t.Errorf("in pages (-want +got):\n%s", diff)
	}
	// Nobody's, another tenant's, and without the privilege.
	auditor.send(t, "GET", "/v1/subjects/cust-9/disclosures", "").refused(t, 404, "not-found")
	c.tenant().send(t, "GET", "/v1/subjects/cust-1/disclosures", "").refused(t, 404, "not-found")
	c.colleague(t, "backend-reader").send(t, "GET", "/v1/subjects/cust-1/disclosures", "").refused(t, 403, "forbidden")
	// When the person's row goes, so does the link; the log stays whole.
	c.Sequence()
	c.Exec(`delete from privault.subjects`)
	auditor.send(t, "GET", "/v1/subjects/cust-1/disclosures", "").refused(t, 404, "not-found")
	head, err := c.Config.AuditKeys.Open(c.send(t, "GET", "/audit/checkpoint", "").want(t, 200).body)
	if err != nil {
		t.Fatal(err)
	}
	err = audit.Check(head, func(tile tlog.Tile) ([]byte, error) {
		return c.send(t, "GET", "/audit/"+audit.Path(tile), "").want(t, 200).body, nil
	}, nil)
	if err != nil {
		t.Error(err)
	}
}

func TestLookingForAuditEntries(t *testing.T) {
	t.Parallel()
	c, _, records := story(t)
	auditor := c.colleague(t, "auditor")
	var all auditPage
	auditor.send(t, "GET", "/v1/audit/entries?limit=200", "").want(t, 200).read(t, &all)
	if len(all.Items) < 9 || all.Next != nil {
		t.Fatalf("%d entries, %v", len(all.Items), all.Next)
	}
	middle := all.Items[len(all.Items)/2]
	for query, want := range map[string]func(auditEntry) bool{
		"action=detokenize":             func(e auditEntry) bool { return e.Action == "detokenize" },
		"outcome=denied":                func(e auditEntry) bool { return e.Outcome == "denied" },
		"purpose=support":               func(e auditEntry) bool { return e.Purpose == "support" },
		"principal=" + middle.Principal: func(e auditEntry) bool { return e.Principal == middle.Principal },
		"record=" + records["cust-2"]: func(e auditEntry) bool {
			for _, r := range e.Resources {
				for _, id := range r.Records {
					if id == records["cust-2"] {
						return true
					}
				}
			}
			return false
		},
		"action=detokenize&outcome=ok": func(e auditEntry) bool { return e.Action == "detokenize" && e.Outcome == "ok" },
		"action=nothing":               func(auditEntry) bool { return false },
	} {
		var expected, got []string
		for _, e := range all.Items {
			if want(e) {
				expected = append(expected, e.ID)
			}
		}
		for cursor := ""; ; {
			var p auditPage
			auditor.send(t, "GET", "/v1/audit/entries?limit=1&"+query+cursor, "").want(t, 200).read(t, &p)
			for _, e := range p.Items {
				if e.Action != "audit.read" {
					got = append(got, e.ID)
				}
			}
			if p.Next == nil {
				break
			}
			cursor = "&cursor=" + *p.Next
		}
		if diff := cmp.Diff(expected, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
	}
	var p auditPage
	auditor.send(t, "GET", "/v1/audit/entries?subject=cust-2", "").want(t, 200).read(t, &p)
	if len(p.Items) != 3 {
		t.Errorf("%d entries of a person, want 3", len(p.Items))
	}
	auditor.send(t, "GET", "/v1/audit/entries?from=2030-01-01T00:00:00Z", "").want(t, 200).read(t, &p)
	if len(p.Items) != 0 {
		t.Errorf("%d entries of the future", len(p.Items))
	}
	auditor.send(t, "GET", "/v1/audit/entries?action=audit.read", "").want(t, 200).read(t, &p)
	if len(p.Items) < 10 {
		t.Errorf("%d entries say that entries were read", len(p.Items))
	}
	for _, bad := range []string{"principal=x", "record=x", "from=yesterday", "limit=0"} {
		auditor.send(t, "GET", "/v1/audit/entries?"+bad, "").refused(t, 422, "validation-failed")
	}
	auditor.send(t, "GET", "/v1/audit/entries?cursor=x", "").refused(t, 400, "malformed-request")
	c.colleague(t, "backend-writer").send(t, "GET", "/v1/audit/entries", "").refused(t, 403, "forbidden")
}

// What an outsider is given proves the entry, and no other.
func TestProofOfAnEntry(t *testing.T) {
	t.Parallel()
	c, _, _ := story(t)
	var p auditPage
	c.send(t, "GET", "/v1/audit/entries?action=detokenize", "").want(t, 200).read(t, &p)
	id := p.Items[0].ID
	c.send(t, "GET", "/v1/audit/entries/"+id+"/proof", "").want(t, 404) // no tree yet
	c.Sequence()
	var proof struct {
		Entry, Salt, Tenant, Checkpoint string
		Index                           int64 `json:"leaf_index"`
		Size                            int64 `json:"tree_size"`
		Proof                           [][]byte
	}
	c.send(t, "GET", "/v1/audit/entries/"+id+"/proof", "").want(t, 200).read(t, &proof)
	head, err := c.Config.AuditKeys.Open([]byte(proof.Checkpoint))
	if err != nil || head.Size != proof.Size {
		t.Fatal(head, err)
	}
	var salt, tenant [16]byte
	for text, id := range map[string][]byte{proof.Salt: salt[:], proof.Tenant: tenant[:]} {
		if _, err := hex.Decode(id, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	leaf := audit.Leaf(salt, tenant, []byte(proof.Entry))
	if err := audit.CheckInclusion(head, proof.Index, leaf[:], treeHashes(t, proof.Proof)); err != nil {
		t.Error(err)
	}
	other := audit.Leaf(salt, tenant, []byte(proof.Entry+" "))
	if audit.CheckInclusion(head, proof.Index, other[:], treeHashes(t, proof.Proof)) == nil {
		t.Error("another text is proved too")
	}
	var one struct {
		Entry json.RawMessage
		Index *int64 `json:"leaf_index"`
	}
	c.send(t, "GET", "/v1/audit/entries/"+id, "").want(t, 200).read(t, &one)
	if string(one.Entry) != proof.Entry || one.Index == nil || *one.Index != proof.Index {
		t.Errorf("the entry itself: %s at %v", one.Entry, one.Index)
	}
	// It has entries by now that are in no tree.
	c.send(t, "GET", "/v1/audit/entries?action=audit.read&limit=1", "").want(t, 200).read(t, &p)
	c.send(t, "GET", "/v1/audit/entries/"+p.Items[0].ID+"/proof", "").refused(t, 409, "conflict")
	c.Sequence()
	var grown struct {
		To       int64
		FromRoot string `json:"from_root"`
		ToRoot   string `json:"to_root"`
		Proof    [][]byte
	}
	c.send(t, "GET", "/v1/audit/consistency?from="+strconv.FormatInt(head.Size, 10), "").want(t, 200).read(t, &grown)
	root, err := base64.StdEncoding.DecodeString(grown.ToRoot)
	if err != nil || grown.FromRoot != head.Root.String() || grown.To <= head.Size {
		t.Fatal(grown, err)
	}
	newer := audit.Checkpoint{Size: grown.To, Root: tlog.Hash(root)}
	if err := audit.CheckConsistency(head, newer, treeHashes(t, grown.Proof)); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "?from=0", "?from=x", "?from=1000000", "?from=3&to=2"} {
		c.send(t, "GET", "/v1/audit/consistency"+bad, "").refused(t, 422, "validation-failed")
	}
	for _, path := range []string{"/v1/audit/entries/aud_0000000000000000000000", "/v1/audit/entries/x/proof"} {
		c.send(t, "GET", path, "").refused(t, 404, "not-found")
	}
	c.tenant().send(t, "GET", "/v1/audit/entries/"+id, "").refused(t, 404, "not-found")
	c.colleague(t, "backend-writer").send(t, "GET", "/v1/audit/entries/"+id, "").refused(t, 403, "forbidden")
}

func treeHashes(t *testing.T, raw [][]byte) []tlog.Hash {
	t.Helper()
	out := make([]tlog.Hash, len(raw))
	for i, b := range raw {
		if len(b) != tlog.HashSize {
			t.Fatalf("a hash of %d bytes", len(b))
		}
		out[i] = tlog.Hash(b)
	}
	return out
}
