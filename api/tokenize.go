package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

type tokenizeRequest struct {
	Collection string      `json:"collection"`
	Items      []newRecord `json:"items"`
	Atomic     bool        `json:"atomic"`
}

type newRecord struct {
	Subject *string                   `json:"subject"`
	Fields  map[string]jsontext.Value `json:"fields"`
	Tokens  map[string]string         `json:"tokens"`
	Expires *time.Time                `json:"expires_at"`
}

func (r newRecord) record() vault.NewRecord {
	return vault.NewRecord{Subject: given(r.Subject), Fields: secrets(r.Fields), Tokens: r.Tokens, Expires: r.Expires}
}

// given is what stands in an optional member: empty if it isn't there. One that is there and empty is a fault and not an
// absence, so it becomes what nothing is called.
func given(s *string) string {
	switch {
	case s == nil:
		return ""
	case *s == "":
		return "\x00"
	}
	return *s
}

func (s *Server) tokenize(c echo.Context) error {
	var in tokenizeRequest
	body, err := bind(c, maxBatchBody, &in)
	if err != nil {
		return err
	}
	if in.Collection == "" {
		return invalid("/collection", "required", "name the collection")
	}
	batch := vault.Batch{Collection: in.Collection, Items: make([]vault.NewRecord, len(in.Items)), Atomic: in.Atomic}
	for i, item := range in.Items {
		batch.Items[i] = item.record()
	}
	if batch.Claim, err = idempotencyKey(c, body); err != nil {
		return err
	}
	done, err := s.vault.Tokenize(c.Request().Context(), caller(c), batch)
	if err != nil {
		return err
	}
	return sendBatch(c, len(done), 160, func(a *answer, i int) int { return a.tokenized(done[i], requestID(c)) })
}

// tokenized writes the outcome of one item, behind its index, and gives its status.
func (a *answer) tokenized(d vault.Tokenized, requestID string) int {
	if d.Err != nil {
		return a.problem(d.Err, requestID)
	}
	a.number("status", http.StatusCreated)
	a.text("record", d.Record)
	a.tokens(d.Tokens)
	return http.StatusCreated
}

type detokenizeRequest struct {
	Items []tokenRef `json:"items"`
}

type tokenRef struct {
	namedToken
	View *string `json:"view"`
}

// namedToken is a token, and where it is from.
type namedToken struct {
	Token      *string `json:"token"`
	Collection *string `json:"collection"`
	Field      *string `json:"field"`
}

func (n namedToken) named(i int) (vault.TokenRef, error) {
	if n.Token == nil {
		return vault.TokenRef{}, invalid("/items/"+strconv.Itoa(i)+"/token", "required", "an item has a token")
	}
	return vault.TokenRef{Token: *n.Token, Collection: given(n.Collection), Field: given(n.Field)}, nil
}

func (s *Server) detokenize(c echo.Context) error {
	var in detokenizeRequest
	if _, err := bind(c, maxBatchBody, &in); err != nil {
		return err
	}
	refs := make([]vault.TokenRef, len(in.Items))
	for i, item := range in.Items {
		ref, err := item.named(i)
		if err != nil {
			return err
		}
		ref.View = given(item.View)
		refs[i] = ref
	}
	done, err := s.vault.Detokenize(c.Request().Context(), caller(c), refs)
	if err != nil {
		return err
	}
	return sendBatch(c, len(done), 200, func(a *answer, i int) int {
		d := done[i]
		if d.Err != nil {
			return a.problem(d.Err, requestID(c))
		}
		a.number("status", http.StatusOK)
		a.text("collection", d.Collection)
		a.text("field", d.Field)
		a.text("record", d.Record)
		a.text("view", d.View)
		a.raw("value", d.Value.Reveal())
		return http.StatusOK
	})
}

// tokensNamed reads a batch of tokens.
func tokensNamed(c echo.Context) ([]vault.TokenRef, error) {
	var in struct {
		Items []namedToken `json:"items"`
	}
	if _, err := bind(c, maxBatchBody, &in); err != nil {
		return nil, err
	}
	refs := make([]vault.TokenRef, len(in.Items))
	for i, item := range in.Items {
		ref, err := item.named(i)
		if err != nil {
			return nil, err
		}
		refs[i] = ref
	}
	return refs, nil
}

func (s *Server) validateTokens(c echo.Context) error {
	refs, err := tokensNamed(c)
	if err != nil {
		return err
	}
	done, err := s.vault.ValidateTokens(c.Request().Context(), caller(c), refs)
	if err != nil {
		return err
	}
	return sendBatch(c, len(done), 120, func(a *answer, i int) int {
		if done[i].Err != nil {
			return a.problem(done[i].Err, requestID(c))
		}
		a.number("status", http.StatusOK)
		a.raw("live", []byte("true"))
		a.text("collection", done[i].Collection)
		a.text("field", done[i].Field)
		a.text("record", done[i].Record)
		return http.StatusOK
	})
}

func (s *Server) rotateTokens(c echo.Context) error {
	refs, err := tokensNamed(c)
	if err != nil {
		return err
	}
	done, err := s.vault.RotateTokens(c.Request().Context(), caller(c), refs)
	if err != nil {
		return err
	}
	return sendBatch(c, len(done), 240, func(a *answer, i int) int {
		if done[i].Err != nil {
			return a.problem(done[i].Err, requestID(c))
		}
		a.number("status", http.StatusOK)
		a.text("collection", done[i].Collection)
		a.text("field", done[i].Field)
		a.text("record", done[i].Record)
		a.text("token", done[i].Tokens[done[i].Field])
		a.tokens(done[i].Tokens)
		return http.StatusOK
	})
}
