package api_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestValuesComeBackByteForByte(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	for typ, values := range map[string][]string{
		"string":  {`"a"`, `" padded\t"`, `"<script>&amp;</script>"`, `"\u00e9\u0301 \ud83d\ude00 \/ \" \\ \b\f\n\r"`, `"\u2028\u2029"`},
		"text":    {`"línea\nuno"`, `"日本語"`},
		"name":    {`"Zoë O’Brien"`, `"Zoe\u0308"`, `"Zo\u00eb"`},
		"email":   {`"Jane.Roe+tag@Example.COM"`, `"jürgen@bücher.example"`},
		"phone":   {`"+44 20 7183 8750"`, `"+12025550123"`},
		"pan":     {`"4111-1111-1111-1111"`, `"4111111111111111"`},
		"us_ssn":  {`"078-05-1121"`},
		"date":    {`"2024-02-29"`, `"0001-01-01"`, `"9999-12-31"`},
		"number":  {`1.50`, `-0`, `0.10e+5`, `123456789012345678901234567890.123456789`, `1E300`},
		"boolean": {`true`, `false`},
		"json":    {`{"b" : [1.50, null ,"\u00e9"],  "a":"<&>"}`, `"a\/b"`, `[ ]`, `1.0`, `false`, `{"z":{"z":{}}}`},
	} {
		t.Run(typ, func(t *testing.T) {
			t.Parallel()
			c.collection(t, "of_"+typ, "v", typ)
			var fields []string
			for _, v := range values {
				fields = append(fields, `{"v":`+v+`}`)
			}
			for i, stored := range c.tokenize(t, "of_"+typ, fields...) {
				record := c.send(t, "GET", "/v1/collections/of_"+typ+"/records/"+stored.Record+"?view=plain", "").want(t, 200)
				var read struct {
					Fields struct{ V json.RawMessage }
				}
				record.read(t, &read)
				for _, got := range []string{c.reveal(t, stored.Tokens["v"]), string(read.Fields.V)} {
					same(t, typ, values[i], got)
				}
			}
		})
	}
}

// same compares JSON: the characters of a text type's string, and otherwise the text itself.
func same(t *testing.T, typ, want, got string) {
	t.Helper()
	if typ != "json" && want[0] == '"' {
		var a, b string
		answer{body: []byte(want)}.read(t, &a)
		answer{body: []byte(got)}.read(t, &b)
		want, got = a, b
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a %s came back changed:\n%s", typ, diff)
	}
}

// nasty are strings that software has choked on.
var nasty = []string{
	"undefined", "null", "NULL", "nil", "None", "true", "false", "NaN", "Infinity", "-0", "0", "1e1000", "0x10", "1/0", "08", "1,000.00",
	"\\", "\\\\", "\\u0000", "\"", "'", "''", "`", "\"'\"'\"", "%s%d%n%x", "%00", "$HOME", "${jndi:ldap://127.0.0.1/a}", "$(touch /tmp/x)", "{{7*7}}",
	"`ls -al /`", "; drop table records; --", "1' or '1'='1", "' union select null--", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>",
	"<!--#exec cmd=\"ls\"-->", "<![CDATA[x]]>", "&lt;&amp;&#0;", "]]>", "../../../../etc/passwd", "..\\..\\windows\\win.ini", "file:///etc/passwd", "CON", "LPT1",
	"=cmd|' /C calc'!A0", "@SUM(1+1)", "-2+3", "\t=1", "\r\nSet-Cookie: a=b", "line\nbreak", "carriage\rreturn", "tab\tstop", "\u0001\u0002\u001f", "\u007f",
	"\u0085", "\u00a0", "\u00ad", "\u200b", "\u200e\u200f", "\u202e\u0645\u0631\u062d\u0628\u0627", "\u2028", "\u2029", "\u2060", "\ufeff", "\ufffe", "\uffff", "\ufffd",
	"\U000e0001", "\U0010ffff", "Z̮̞̠͙͔ͅa̷l̖̲g̵o", "ﷺ", "ẞß", "ıİiI", "ǅ", "ffi", "Å\u212b", "é\u0065\u0301", "사회과학원", "𠜎𠜱𠝹", "田中さん", "הָיְתָה", "👩‍👩‍👧‍👦", "🏳️‍🌈",
	"👾 🙇 💁 🙅", "1⃣2⃣", "🇺🇸🇷🇺", "١٢٣", "１２３", "Ⅷ", "⁰⁴⁵", "¡™£¢∞§¶•ªº–≠", "Ω≈ç√∫˜µ≤≥÷", "(╯°□°）╯︵ ┻━┻", "ثم نفس سقطت", "̡̫͙̥", " ", "  ", "\n",
	strings.Repeat("a", 64<<10), strings.Repeat("é", 32<<10), strings.Repeat("\"", 4096), strings.Repeat("\u0301", 500),
	"canary https://user:pass@example.com/?q=1#f", `{"json":"in a string"}`, `[1,2`, `"quoted"`, "pvtk_" + strings.Repeat("0", 56), "pvak_" + strings.Repeat("0", 33),
}

func TestNastyStringsAreOrdinaryValues(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "texts", "v", "text")
	fields := make([]string, len(nasty))
	for i, v := range nasty {
		fields[i] = `{"v":` + text(t, v) + `}`
	}
	stored := c.tokenize(t, "texts", fields...)
	refs := make([]map[string]string, len(stored))
	for i, item := range stored {
		refs[i] = map[string]string{"token": item.Tokens["v"], "view": "plain"}
	}
	for i, item := range c.send(t, "POST", "/v1/detokenize", text(t, map[string]any{"items": refs})).want(t, 200).items(t) {
		var got string
		answer{body: item.Value}.read(t, &got)
		if got != nasty[i] {
			t.Errorf("%.80q came back as %.80q", nasty[i], got)
		}
		if len(nasty[i]) >= 12 && strings.Contains(c.Log.String(), nasty[i]) {
			t.Errorf("the log holds %.80q", nasty[i])
		}
	}
}

func TestAnExpiredRecordIsGone(t *testing.T) {
	t.Parallel()
	c := serve(t).tenant()
	c.collection(t, "people", "name", "name")
	expires := c.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	stored := c.send(t, "POST", "/v1/tokenize",
		`{"collection":"people","items":[{"fields":{"name":"Jane Roe"},"expires_at":"`+expires+`"}]}`).want(t, 200).items(t)[0]
	path := "/v1/collections/people/records/" + stored.Record
	if got := c.reveal(t, stored.Tokens["name"]); got != `"Jane Roe"` {
		t.Errorf("got %s", got)
	}
	var read struct {
		Expires string `json:"expires_at"`
	}
	c.send(t, "GET", path, "").want(t, 200).read(t, &read)
	if read.Expires != expires {
		t.Errorf("it expires at %s, want %s", read.Expires, expires)
	}
	c.Advance(2 * time.Hour)
	gone := c.send(t, "POST", "/v1/detokenize", `{"items":[{"token":"`+stored.Tokens["name"]+`"}]}`).want(t, 404).items(t)
	if gone[0].Error.slug() != "token-not-found" {
		t.Errorf("got %+v", gone)
	}
	c.send(t, "GET", path, "").refused(t, 404, "not-found")
	c.send(t, "PATCH", path, `{"expires_at":null}`, `If-Match: "1"`).refused(t, 404, "not-found")
	// Nobody reads it any more, and its row and key can still be removed.
	c.send(t, "DELETE", path, "").want(t, 204)
	c.send(t, "DELETE", path, "").refused(t, 404, "not-found")
}
