package api

import (
	"crypto/sha256"
	"io"
	"regexp"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

const idempotencyHeader = "Idempotency-Key"

var idempotencyKeyShape = regexp.MustCompile(`^[\x21-\x7e]{1,255}$`)

func idempotencyKey(c echo.Context, body []byte) (*vault.IdempotencyKey, error) {
	sent := c.Request().Header.Values(idempotencyHeader)
	if len(sent) == 0 {
		return nil, nil
	}
	if len(sent) > 1 || !idempotencyKeyShape.MatchString(sent[0]) {
		return nil, malformed("an Idempotency-Key is 1 to 255 visible ASCII characters")
	}
	return &vault.IdempotencyKey{Key: sent[0], Request: sha256.Sum256(body)}, nil
}

// heldBody is a body that was read, for whoever reads it next.
type heldBody struct {
	io.ReadCloser
	content []byte
}

// once has a change, whose body has up to limit bytes, made once under its Idempotency-Key, if it has one: sent again, it is refused
// (vault.Caller.Once).
func once(limit int64, change echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		if len(r.Header.Values(idempotencyHeader)) == 0 {
			return change(c)
		}
		var body []byte
		if r.ContentLength != 0 {
			var err error
			if body, err = read(c, limit); err != nil {
				return err
			}
			r.Body = heldBody{r.Body, body}
		}
		key, err := idempotencyKey(c, body)
		if err != nil {
			return err
		}
		key.Route = r.Method + " " + r.URL.RequestURI()
		c.Get(callerKey).(*vault.Caller).Once = key
		return change(c)
	}
}
