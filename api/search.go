package api

import (
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

type searchTerm struct {
	Field  string         `json:"field"`
	Index  *string        `json:"index"`
	Equals jsontext.Value `json:"equals"`
}

// searchRequest is one term, or several that all must hold.
type searchRequest struct {
	searchTerm
	And    []searchTerm `json:"and"`
	Limit  *int         `json:"limit"`
	Cursor *string      `json:"cursor"`
}

func (s *Server) searchRecords(c echo.Context) error {
	var in searchRequest
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	terms, at := in.And, func(i int) string { return "/and/" + strconv.Itoa(i) }
	if in.Field != "" || in.Equals != nil || in.Index != nil {
		if in.And != nil {
			return invalid("/and", "exclusive", "a search has one term, or several in `and`")
		}
		terms, at = []searchTerm{in.searchTerm}, func(int) string { return "" }
	}
	search := vault.Search{Collection: c.Param("collection"), At: at, Limit: defaultPage, Cursor: given(in.Cursor)}
	for i, term := range terms {
		if term.Equals == nil {
			return invalid(at(i)+"/equals", "required", "a term says what the value equals")
		}
		search.Terms = append(search.Terms, vault.Term{Field: term.Field, Index: given(term.Index), Equals: vault.NewSecret(term.Equals)})
	}
	if in.Limit != nil {
		if search.Limit = *in.Limit; search.Limit < 1 || search.Limit > maxPage {
			return invalid("/limit", "limit", "limit is 1 to 200")
		}
	}
	page, next, err := s.vault.SearchRecords(c.Request().Context(), caller(c), search)
	if err != nil {
		return err
	}
	a := answer{b: make([]byte, 0, 64+160*len(page)), fresh: true}
	a.open('{')
	a.name("items")
	a.open('[')
	for _, match := range page {
		a.element()
		a.text("record", match.Record)
		a.tokens(match.Tokens)
		a.close('}')
	}
	a.close(']')
	a.cursor(next)
	a.close('}')
	return a.send(c, http.StatusOK)
}

// cursor writes where a list goes on.
func (a *answer) cursor(next string) {
	if next == "" {
		a.raw("next_cursor", []byte("null"))
		return
	}
	a.text("next_cursor", next)
}
