package api

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

// Limits of a request's body.
const (
	maxBody      = 1 << 20 // of a single resource
	maxBatchBody = 8 << 20 // of a batch
	maxDepth     = 32
	maxMembers   = 256 // of one object
	maxNumber    = 40  // characters
)

const mergePatch = "application/merge-patch+json"

// read gives the request's body, up to limit bytes.
func read(c echo.Context, limit int64, types ...string) ([]byte, error) {
	if err := checkMedia(c, append(types, "application/json")...); err != nil {
		return nil, err
	}
	r := c.Request()
	if r.ContentLength > limit {
		return nil, &vault.Error{Kind: payloadTooLarge} // before reading it
	}
	if held, ok := r.Body.(heldBody); ok {
		return held.content, nil // of the same limit
	}
	body := http.MaxBytesReader(c.Response(), paced(c), limit)
	if r.ContentLength <= 0 {
		return readAll(io.ReadAll(body))
	}
	b := make([]byte, r.ContentLength)
	_, err := io.ReadFull(body, b)
	return readAll(b, err)
}

func readAll(b []byte, err error) ([]byte, error) {
	var tooLarge *http.MaxBytesError
	if err != nil && !errors.As(err, &tooLarge) {
		return nil, malformed("the body ended early, or came too slowly")
	}
	return b, err
}

func checkMedia(c echo.Context, types ...string) error {
	h := c.Request().Header
	media, params, err := mime.ParseMediaType(strings.Join(h.Values("Content-Type"), ","))
	charset := params["charset"]
	if err != nil || h.Get("Content-Encoding") != "" || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return &vault.Error{Kind: unsupportedMedia}
	}
	for _, t := range types {
		if media == t {
			return nil
		}
	}
	return &vault.Error{Kind: unsupportedMedia}
}

// decode reads strict JSON: one value, no duplicate or unknown or wrongly cased members, no null that means nothing, valid
// UTF-8, nothing behind it. 400 means that the text isn't JSON, 422 that it is JSON of another shape. Neither quotes it.
func decode(body []byte, into any) error {
	options := membersKnown
	if bytes.Contains(body, []byte("null")) { // to ask for it at every value costs half as much as all the rest
		options = nullsMeant
	}
	err := json.Unmarshal(body, into, options)
	var shape *json.SemanticError
	switch {
	case err == nil:
		return measure(body)
	case !errors.As(err, &shape), !jsontext.Value(body).IsValid():
		// A fault of shape ends the reading: what stands behind it may be no JSON all the same.
		return &vault.Error{Kind: malformedJSON, Detail: "send one JSON value in UTF-8, with no member twice"}
	}
	if err := measure(body); err != nil {
		return err
	}
	if errors.Is(shape.Err, json.ErrUnknownName) {
		// The member's name is the caller's text: say where it is, not what it is.
		return invalid(shown(shape.JSONPointer.Parent()), "unknown-member", "the body has a member that does not exist")
	}
	return invalid(shown(shape.JSONPointer), "type", "the body has a member of the wrong type")
}

var (
	membersKnown = json.RejectUnknownMembers(true)
	nullsMeant   = json.JoinOptions(membersKnown, json.WithUnmarshalers(json.UnmarshalFromFunc(refuseNull)))
)

var errNull = errors.New("null")

// refuseNull lets null pass only where it has a meaning: as a raw value, whose type refuses it in its own words, and as
// the expiry of what never expires.
func refuseNull(d *jsontext.Decoder, into any) error {
	if d.PeekKind() == 'n' {
		switch into.(type) {
		case *jsontext.Value, **time.Time:
		default:
			return errNull
		}
	}
	return errors.ErrUnsupported // the default does the rest
}

var nameInPointer = regexp.MustCompile(`^([a-z][a-z0-9_]{0,62}|[0-9]{1,4})$`)

// shown cuts a pointer before the first name that could not be a member's or field's: that is the caller's text, and
// might be a value.
func shown(pointer jsontext.Pointer) string {
	var known jsontext.Pointer
	for name := range pointer.Tokens() {
		if !nameInPointer.MatchString(name) {
			break
		}
		known = known.AppendToken(name)
	}
	return string(known)
}

// measure refuses well-formed JSON that is too deep, too wide or has monstrous numbers. It may rely on the syntax.
func measure(body []byte) error {
	var members [maxDepth + 1]int // of the object at each depth
	depth, number := 0, 0
	for i := 0; i < len(body); i++ {
		c := body[i]
		if c >= '0' && c <= '9' || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E' {
			if number++; number > maxNumber {
				return &vault.Error{Kind: malformedJSON, Detail: "a number has at most 40 characters"}
			}
			continue
		}
		number = 0
		switch c {
		case '"':
			for i++; i < len(body) && body[i] != '"'; i++ {
				if body[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			if depth++; depth > maxDepth {
				return invalid("", "depth", "JSON may be nested 32 deep")
			}
			members[depth] = 0
		case '}', ']':
			depth--
		case ':':
			if members[depth]++; members[depth] > maxMembers {
				return invalid("", "members", "an object has at most 256 members")
			}
		}
	}
	return nil
}

// bind reads and decodes a request's body.
func bind(c echo.Context, limit int64, into any, types ...string) ([]byte, error) {
	body, err := read(c, limit, types...)
	if err != nil {
		return nil, err
	}
	return body, decode(body, into)
}

// secrets wraps raw values, which stay as they came.
func secrets(values map[string]jsontext.Value) map[string]vault.Secret {
	out := make(map[string]vault.Secret, len(values))
	for name, raw := range values {
		out[name] = vault.NewSecret(raw)
	}
	return out
}

// dryRun says whether a call is only to find out what it would do.
func dryRun(c echo.Context) (bool, error) {
	switch c.QueryParam("dry_run") {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, malformed("dry_run is true or false")
}
