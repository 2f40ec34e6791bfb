package api

import (
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

func (s *Server) getSubject(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	m, next, err := s.vault.GetSubject(c.Request().Context(), caller(c), c.Param("subject"), c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	type collection struct {
		Name    string         `json:"collection"`
		Records int            `json:"records"`
		Fields  map[string]int `json:"fields"`
	}
	type record struct {
		Collection string            `json:"collection"`
		Record     string            `json:"record"`
		Tokens     map[string]string `json:"tokens"`
		Created    string            `json:"created_at"`
		Held       bool              `json:"held"`
	}
	out := struct {
		Subject     string       `json:"subject"`
		Created     string       `json:"created_at"`
		Collections []collection `json:"collections"`
		Items       []record     `json:"items"`
		Next        *string      `json:"next_cursor"`
	}{Subject: c.Param("subject"), Created: formatTime(m.Created), Collections: []collection{}, Items: []record{}, Next: optional(next)}
	for _, coll := range m.Collections {
		out.Collections = append(out.Collections, collection(coll))
	}
	for _, r := range m.Records {
		out.Items = append(out.Items, record{r.Collection, r.Record, r.Tokens, formatTime(r.Created), r.Held})
	}
	return sendJSON(c, http.StatusOK, out)
}

// erasure is an erasure on the wire.
type erasure struct {
	Certificate    string              `json:"certificate,omitempty"`
	State          string              `json:"state"`
	Reason         string              `json:"reason"`
	Requested      string              `json:"requested_at"`
	Erased         *string             `json:"erased_at,omitempty"`
	ShredEffective *string             `json:"shred_effective_at,omitempty"`
	Counts         vault.ErasureCounts `json:"counts"`
}

func (s *Server) eraseSubject(c echo.Context) error {
	var in struct {
		Reason string `json:"reason"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	dry, err := dryRun(c)
	if err != nil {
		return err
	}
	e, err := s.vault.EraseSubject(c.Request().Context(), caller(c), c.Param("subject"), in.Reason, dry)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if e.State == vault.ErasureDeferred {
		status = http.StatusAccepted
	}
	return sendJSON(c, status, wireErasure(&e))
}

func wireErasure(e *vault.Erasure) erasure {
	return erasure{e.ID, e.State, e.Reason, formatTime(e.Requested), formatOptional(e.Erased), formatOptional(e.ShredEffective), e.Counts}
}

// getCertificate gives an erasure as JSON, or its certificate as the signed note that it is.
func (s *Server) getCertificate(c echo.Context) error {
	e, err := s.vault.GetErasure(c.Request().Context(), caller(c), c.Param("certificate"))
	if err != nil {
		return err
	}
	if wantsText(c.Request().Header.Get("Accept")) && e.Certificate != "" {
		return c.Blob(http.StatusOK, echo.MIMETextPlainCharsetUTF8, []byte(e.Certificate))
	}
	return sendJSON(c, http.StatusOK, wireErasure(e))
}

// wantsText says whether plain text stands before JSON among what a caller accepts.
func wantsText(accept string) bool {
	for _, part := range strings.Split(accept, ",") {
		switch media, _, _ := mime.ParseMediaType(part); media {
		case "text/plain":
			return true
		case "application/json":
			return false
		}
	}
	return false
}

func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func formatOptional(t *time.Time) *string {
	if t == nil {
		return nil
	}
	return optional(formatTime(*t))
}
