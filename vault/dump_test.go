package vault_test

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"maps"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/vaulttest"
)

// dumped is a record with all that opens it, as docs/formats.md describes a dump. The root key is opened here by the KMS alone.
func dumped(t *testing.T, b *vaulttest.Bench, tenant [16]byte, record string) map[string]any {
	t.Helper()
	ctx := t.Context()
	id := vault.RecordID(record)
	text := map[string]any{}
	set := func(name string, bytes []byte) { text[name] = hex.EncodeToString(bytes) }
	var deployment, collection [16]byte
	var version int
	var sealed, wrapped, keyset, root []byte
	c, err := pgx.Connect(ctx, b.OwnerURL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	for _, q := range []struct {
		sql  string
		args []any
		into []any
	}{
		{`select deployment_id from privault.deployment`, nil, []any{&deployment}},
		{`select collection_id, version, sealed from privault.records where tenant_id = $1 and record_id = $2`, []any{tenant, id}, []any{&collection, &version, &sealed}},
		{`select wrapped from keystore.data_keys where tenant_id = $1 and record_id = $2`, []any{tenant, id}, []any{&wrapped}},
		{`select sealed from keystore.tenant_keys where tenant_id = $1 and name = 'wrap'`, []any{tenant}, []any{&keyset}},
		{`select wrapped from keystore.tenant_roots where tenant_id = $1`, []any{tenant}, []any{&root}},
	} {
		if err := c.QueryRow(ctx, q.sql, q.args...).Scan(q.into...); err != nil {
			t.Fatal(q.sql, err)
		}
	}
	ad := append(append([]byte("privault/1/root"), deployment[:]...), tenant[:]...)
	if root, err = b.KMS.Unwrap(ctx, root, ad); err != nil {
		t.Fatal(err)
	}
	set("deployment", deployment[:])
	set("tenant", tenant[:])
	set("collection", collection[:])
	set("record", id[:])
	set("sealed", sealed)
	set("wrapped", wrapped)
	set("keyset", keyset)
	set("root", root)
	text["version"] = version
	if wrapped[0] == 2 {
		place := append(append(append([]byte("privault/1/dek"), deployment[:]...), tenant[:]...), id[:]...)
		dek, err := b.KMS.Unwrap(ctx, wrapped[9:], binary.BigEndian.AppendUint32(place, uint32(version)))
		if err != nil {
			t.Fatal(err)
		}
		set("dek", dek)
		text["kms_uri"] = b.KMS.URI()
		delete(text, "root")
		delete(text, "keyset")
	}
	return text
}

// So it is with a record whose key the KMS itself has wrapped.
func TestAnotherLanguageOpensADirectRecord(t *testing.T) {
	t.Parallel()
	b, who := newDirect(t)
	dump := dumped(t, b, who.Tenant, b.MustTokenize(who, "people", map[string]string{"name": "Jané Roe"}).Record)
	if out, complaint, opened := checkRecord(t, dump); !opened || !strings.Contains(out, `"value":"Jané Roe"`) {
		t.Errorf("got %s%s", out, complaint)
	}
	for name, value := range map[string]string{"kms_uri": "local:///elsewhere", "dek": strings.Repeat("00", 32)} {
		spoilt := maps.Clone(dump)
		spoilt[name] = value
		if out, _, opened := checkRecord(t, spoilt); opened || out != "" {
			t.Errorf("with another %s it prints %s", name, out)
		}
	}
}

// checkRecord runs the independent checker.
func checkRecord(t *testing.T, dump map[string]any) (out, complaint string, opened bool) {
	t.Helper()
	encoded, err := json.Marshal(dump)
	if err != nil {
		t.Fatal(err)
	}
	node := exec.CommandContext(t.Context(), "node", "../scripts/check-record.mjs", "-")
	node.Stdin = strings.NewReader(string(encoded))
	var o, e strings.Builder
	node.Stdout, node.Stderr = &o, &e
	err = node.Run()
	if _, ended := err.(*exec.ExitError); err != nil && !ended { //nolint:errorlint // it is wrapped by nothing
		t.Fatal("node: ", err)
	}
	return o.String(), e.String(), err == nil
}

// Whoever has the document, a dump and the KMS can open a record without us, before a rotation of every key and after it.
func TestAnotherLanguageOpensADump(t *testing.T) {
	t.Parallel()
	b := vaulttest.New(t)
	who := b.Tenant()
	b.Collection(who, "people", map[string]string{"name": "string", "email": "email"})
	done := b.MustTokenize(who, "people", map[string]string{"name": "Jané Roe", "email": strings.Repeat("j", 40) + "@example.com"})
	b.Work()
	want := rows(t, b.OwnerURL, `select key, value from privault.collections, jsonb_each_text(definition->'numbers') order by value::int`)
	if len(want) != 2 {
		t.Fatalf("the collection's numbers are %v", want)
	}
	for range 2 {
		dump := dumped(t, b, who.Tenant, done.Record)
		out, complaint, opened := checkRecord(t, dump)
		if !opened || !strings.Contains(out, `"value":"Jané Roe"`) || !strings.Contains(out, strings.Repeat("j", 40)+"@example.com") {
			t.Fatalf("got %s%s", out, complaint)
		}
		for _, name := range []string{"deployment", "tenant", "collection", "record", "sealed", "wrapped", "keyset", "root"} {
			spoilt := maps.Clone(dump)
			was := spoilt[name].(string)
			last := "0"
			if strings.HasSuffix(was, "0") {
				last = "1"
			}
			spoilt[name] = was[:len(was)-1] + last
			if out, _, opened := checkRecord(t, spoilt); opened || out != "" {
				t.Errorf("with another %s it prints %s", name, out)
			}
		}
		spoilt := maps.Clone(dump)
		spoilt["version"] = 2
		if _, _, opened := checkRecord(t, spoilt); opened {
			t.Error("with another version it opens")
		}
		if diff := cmp.Diff("", complaint); diff != "" {
			t.Error(diff)
		}
		for _, name := range []string{"root", "wrap"} {
			rotation, err := b.RotateKey(t.Context(), who, name)
			if err != nil {
				t.Fatal(err)
			}
			if rotation.Job != "" {
				b.Finish(who, rotation.Job)
			}
		}
	}
}
