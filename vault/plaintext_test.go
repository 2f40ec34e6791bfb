package vault_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/dsar"
	"github.com/privault/privault/vault/pgserver"
	"github.com/privault/privault/vault/policy"
	"github.com/privault/privault/vault/vaulttest"
)

// forms are how a text could stand somewhere: raw, in hex, URL-encoded, and in base64 wherever it begins.
func forms(text string) []string {
	lower := hex.EncodeToString([]byte(text))
	var percent strings.Builder
	for _, b := range []byte(text) {
		fmt.Fprintf(&percent, "%%%02X", b)
	}
	all := []string{text, lower, strings.ToUpper(lower), percent.String(), strings.ToLower(percent.String()), url.QueryEscape(text)}
	for shift := range 3 {
		whole := base64.StdEncoding.EncodeToString(append(make([]byte, shift), text...))
		// What depends on the bytes before and behind is left out.
		part := whole[(shift*8+5)/6 : (shift+len(text))*8/6]
		all = append(all, part, strings.NewReplacer("+", "-", "/", "_").Replace(part))
	}
	return all
}

func TestFormsAreFoundWhereverTheyStand(t *testing.T) {
	t.Parallel()
	const text = "canary-7Q"
	for before := range 4 {
		whole := strings.Repeat("x", before) + text + "yz"
		for what, encoded := range map[string]string{
			"raw": whole, "hex": hex.EncodeToString([]byte(whole)), "base64": base64.StdEncoding.EncodeToString([]byte(whole)),
			"base64url": base64.RawURLEncoding.EncodeToString([]byte(whole)), "URL": url.QueryEscape(whole),
		} {
			found := false
			for _, form := range forms(text) {
				found = found || strings.Contains(encoded, form)
			}
			if !found {
				t.Errorf("%d bytes in, in %s: not found", before, what)
			}
		}
	}
}

// birds are values that occur nowhere by chance, and what finds any of their forms quickly.
type birds struct {
	needles map[string][][]byte // by what they begin with
}

// newBirds looks for texts in every form, and for digits, of which there are no two alike to begin with, in two.
func newBirds(texts, digits []string) *birds {
	b := &birds{map[string][][]byte{}}
	add := func(form string) {
		head := form[:min(len(form), 7)]
		b.needles[head] = append(b.needles[head], []byte(form))
	}
	for _, text := range texts {
		for _, form := range forms(text) {
			add(form)
		}
	}
	for _, text := range digits {
		add(text)
		add(hex.EncodeToString([]byte(text)))
	}
	return b
}

// in gives the forms that occur in data.
func (b *birds) in(data []byte) (found []string) {
	for head, needles := range b.needles {
		for rest := data; ; {
			at := bytes.Index(rest, []byte(head))
			if at < 0 {
				break
			}
			for _, needle := range needles {
				if bytes.HasPrefix(rest[at:], needle) {
					found = append(found, string(needle))
				}
			}
			rest = rest[at+1:]
		}
	}
	return found
}

// Threat I-9: no plaintext in any table, dump, data file, write-ahead log or log line, whatever is done with it.
func TestPlaintextNeverReachesTheDisk(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]vaulttest.Option{"one database": nil, "keystore apart": {vaulttest.Apart}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := vaulttest.New(t, options...)
			canaries := vaulttest.Canaries(200)
			birds := newBirds(canaries, traffic(t, v, canaries))
			if found := birds.in([]byte("x" + canaries[7] + "y" + hex.EncodeToString([]byte(canaries[199])))); len(found) < 2 {
				t.Fatal("the search finds nothing where there is something")
			}

			for _, table := range tables(v) {
				for _, row := range rows(t, table.url, `select row_to_json(x)::text from `+table.name+` x`) {
					if found := birds.in([]byte(row)); len(found) > 0 {
						t.Errorf("a row of %s holds %q", table.name, found)
					}
				}
				for _, row := range rows(t, table.url, `select string_agg(encode(b, 'escape'), ' ') from (select `+byteas(t, table)+` as b from `+table.name+`) x`) {
					if found := birds.in([]byte(row)); len(found) > 0 {
						t.Errorf("bytes of %s hold %q", table.name, found)
					}
				}
			}
			for _, address := range []string{v.OwnerURL, v.KeysURL} {
				if found := birds.in(dump(t, address)); len(found) > 0 {
					t.Errorf("the dump holds %q", found)
				}
			}
			if found := birds.in([]byte(v.Log.String())); len(found) > 0 {
				t.Errorf("the log holds %q", found)
			}
			v.Exec(`checkpoint`)
			for _, found := range onDisk(t, v, birds) {
				t.Error(found)
			}
		})
	}
}

// onDisk looks through the server's folder: its log, its write-ahead log, temporary files, and the databases' own files.
func onDisk(t *testing.T, v *vaulttest.Bench, birds *birds) (found []string) {
	t.Helper()
	own := []string{"1"}
	for _, address := range []string{v.OwnerURL, v.KeysURL} {
		own = append(own, rows(t, address, `select oid from pg_database where datname = current_database()`)...)
	}
	looked := map[string]bool{}
	err := filepath.WalkDir(vaulttest.Dir(), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // a file of another test's database, gone by now
		}
		dir, name := filepath.Base(filepath.Dir(path)), filepath.Base(path)
		if e.IsDir() && dir == "base" && !slices.Contains(own, name) {
			return fs.SkipDir
		}
		if !e.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // likewise
		}
		looked[dir], looked[name] = true, true
		for _, form := range birds.in(data) {
			found = append(found, fmt.Sprintf("%s holds %q", strings.TrimPrefix(path, vaulttest.Dir()), form))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(own, "postgres.log", "pg_wal") {
		if !looked[name] {
			t.Errorf("%s was not looked at", name)
		}
	}
	return found
}

// byteas is an expression with all bytea columns of a table as one.
func byteas(t *testing.T, table table) string {
	t.Helper()
	columns := rows(t, table.url, `select column_name::text from information_schema.columns
		where table_schema || '.' || table_name = $1 and data_type = 'bytea'`, table.name)
	return strings.Join(append(columns, `''::bytea`), ` || `)
}

// dump is what pg_dump says. Without that program beside the server's, the tables were read in the test itself.
func dump(t *testing.T, address string) []byte {
	t.Helper()
	dir, err := pgserver.Find()
	if err != nil {
		t.Fatal(err)
	}
	// PATH may have links to the server's binaries alone.
	server, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(filepath.Dir(server), "pg_dump")
	if _, err := os.Stat(path); err != nil {
		t.Logf("no %s: the tables alone were looked at", path)
		return nil
	}
	out, err := exec.CommandContext(t.Context(), path, "--inserts", address).Output()
	if err != nil || !bytes.Contains(out, []byte("audit_entries")) {
		t.Fatalf("pg_dump: %v, %d bytes", err, len(out))
	}
	return out
}

// traffic does everything that can be done with the canaries, and gives those that it added: they have digits alone.
func traffic(t *testing.T, v *vaulttest.Bench, canaries []string) (added []string) {
	t.Helper()
	ctx := t.Context()
	who := v.Tenant()
	who.Request = "req-1"
	defineFields(t, v, who, "people", map[string]vault.FieldDefinition{
		"name":  {Type: "string", Index: []string{"exact"}, Token: vault.TokenDefinition{Supplied: "allowed"}},
		"email": {Type: "email", Index: []string{"exact", "domain"}, Token: vault.TokenDefinition{Strategy: "deterministic"}},
		"ssn":   strategy("us_ssn", "fpe"), "note": {Type: "text"}, "doc": {Type: "json"}, "born": {Type: "date"},
		"phone": strategy("phone", "format"), "card": {Type: "pan"}, "n": {Type: "number"}, "yes": {Type: "boolean"}})
	next := func() string {
		canary := canaries[0]
		canaries = canaries[1:]
		return canary
	}
	digits := func(format string, ranges ...int) string {
		numbers := make([]any, len(ranges))
		for i, n := range ranges {
			numbers[i] = n + rand.IntN(n*8)
		}
		added = append(added, fmt.Sprintf(format, numbers...))
		return added[len(added)-1]
	}
	var tokens []vault.TokenRef
	var records []string
	for range 15 {
		done, err := v.Tokenize(ctx, who, vault.Batch{Collection: "people", Items: []vault.NewRecord{
			{Subject: next(), Tokens: map[string]string{"name": next()}, Fields: map[string]vault.Secret{
				"name": secret(`"` + next() + `"`), "email": secret(`"` + next() + `@example.com"`),
				"note": secret(`"` + strings.Repeat(next()+" ", 300) + `"`), "doc": secret(`{"a":["` + next() + `"]}`),
				"n": secret(digits("%d%d.25", 1e7, 1e7)), "ssn": secret(`"` + digits("123-%d-%d", 10, 1000) + `"`)}},
			{Subject: "jane@example.com", Fields: map[string]vault.Secret{"name": secret(`"` + next() + `"`)}},
			{Fields: map[string]vault.Secret{"born": secret(`"` + next() + `"`), "yes": secret(`"` + next() + `"`),
				"card": secret(`"` + digits("%d%d", 1e7, 1e7) + `"`)}},
			{Fields: map[string]vault.Secret{next(): secret(`1`), "email": secret(`{"x":"` + next() + `"}`)}},
		}})
		if err != nil || done[0].Err != nil || done[3].Err == nil {
			t.Fatalf("the items: %v, %v", done, err)
		}
		records = append(records, done[0].Record)
		for field, token := range done[0].Tokens {
			tokens = append(tokens, vault.TokenRef{Token: token, View: "plain", Collection: "people", Field: field}, vault.TokenRef{Token: token})
		}
		// The texts of aliases are no more to be read than values.
		added = append(added, done[0].Tokens["ssn"])
		if _, _, err := v.SearchRecords(ctx, who, seek("people", "name", next())); err != nil {
			t.Fatal(err)
		}
	}
	tokens = append(tokens, vault.TokenRef{Token: canaries[0], Collection: canaries[0], Field: canaries[0], View: canaries[0]})
	if _, err := v.Detokenize(ctx, who, tokens); err != nil {
		t.Fatal(err)
	}
	// Where only a name belongs, a value may come by mistake.
	_, err := v.Tokenize(ctx, who, vault.Batch{Collection: canaries[1], Items: one(map[string]string{"name": canaries[1]}),
		Claim: &vault.IdempotencyKey{Key: canaries[2], Request: [32]byte([]byte(canaries[2]))}})
	wantKind(t, "a value for a collection's name", err, vault.NotFound)
	_, err = v.Tokenize(ctx, who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": canaries[3]}),
		Claim: &vault.IdempotencyKey{Key: canaries[2], Request: [32]byte([]byte(canaries[2]))}})
	wantKind(t, "with a key", err, "")
	_, err = v.Tokenize(ctx, who, vault.Batch{Collection: "people", Atomic: true, Items: []vault.NewRecord{
		vaulttest.Item(map[string]string{"email": canaries[3]}), vaulttest.Item(map[string]string{"name": canaries[3]})}})
	wantKind(t, "atomic", err, vault.BatchRolledBack)
	_, err = v.GetRecord(ctx, who, "people", canaries[0], []string{canaries[1]}, canaries[2])
	wantKind(t, "a value for a record's id", err, vault.NotFound)
	_, err = v.GetRecord(ctx, who, "people", records[0], []string{canaries[1]}, "plain")
	wantKind(t, "a value for a field's name", err, vault.Invalid)
	_, err = v.GetRecord(ctx, who, "people", records[0], nil, canaries[2])
	wantKind(t, "a value for a view", err, vault.Invalid)
	read, err := v.GetRecord(ctx, who, "people", records[0], nil, "plain")
	wantKind(t, "a read", err, "")
	_, _, err = v.LinkSubjects(ctx, who, read.Subject, next(), "duplicate")
	wantKind(t, "a link", err, "")
	_, _, err = v.LinkSubjects(ctx, who, read.Subject, canaries[0], canaries[1])
	wantKind(t, "a value for a link's reason", err, vault.Invalid)
	wantKind(t, "a package", v.Package(ctx, who, vault.PackageOrder{Subject: read.Subject, Kind: dsar.Access, Regime: dsar.GDPR}, io.Discard), "")
	_, err = v.Authenticate(ctx, "pvak_"+canaries[0])
	wantKind(t, "a value for a key", err, vault.Unauthenticated)
	_, _, err = v.PutCollection(ctx, who, canaries[0], vault.Definition{}, 0)
	wantKind(t, "a value for a new collection's name", err, vault.Invalid)
	_, _, err = v.PutCollection(ctx, who, "new", vault.Definition{Fields: map[string]vault.FieldDefinition{canaries[0]: {Type: canaries[1], Classification: canaries[2]}}}, 0)
	wantKind(t, "values in a definition", err, vault.Invalid)
	_, err = v.CreatePrincipal(ctx, who, canaries[0], []string{canaries[1]})
	wantKind(t, "a value for a principal's name", err, vault.Invalid)
	_, err = v.CreatePrincipal(ctx, who, "service", []string{canaries[1], policy.Admin})
	wantKind(t, "a value for a role", err, vault.Invalid)
	for i, record := range records {
		set := map[string]vault.Secret{"name": secret(`"` + canaries[i] + `"`)}
		if i%4 == 1 {
			set = map[string]vault.Secret{"born": secret(`"` + canaries[i] + `"`), canaries[i+1]: secret(`1`)}
		}
		_, err := v.PatchRecord(ctx, who, "people", record, vault.Patch{Fields: set, Remove: []string{"doc"}, IfVersion: 1})
		if want := map[bool]vault.Kind{true: vault.Invalid}[i%4 == 1]; kind(err) != want {
			t.Errorf("a patch: %v, want %q", err, want)
		}
		if i%4 == 2 {
			wantKind(t, "a delete", v.DeleteRecord(ctx, who, "people", record, 0), "")
		}
	}
	// Broken underneath, so that causes of every sort reach the log.
	v.Exec(raises("privault.records"))
	_, err = v.Tokenize(ctx, who, vault.Batch{Collection: "people", Items: one(map[string]string{"name": canaries[0]})})
	wantKind(t, "with a broken table", err, vault.Internal)
	v.Exec(`drop trigger broken on privault.records`)
	v.Exec(`update privault.records set sealed = substr(sealed, 2)`)
	if _, err := v.Detokenize(ctx, who, tokens); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(v.Log.String(), "integrity failure") {
		t.Error("nothing was logged that could have held a value")
	}
	return added
}
