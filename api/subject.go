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
		Subject      string       `json:"subject"`
		Created      string       `json:"created_at"`
		Jurisdiction string       `json:"jurisdiction,omitempty"`
		Collections  []collection `json:"collections"`
		Items        []record     `json:"items"`
		Next         *string      `json:"next_cursor"`
	}{Subject: c.Param("subject"), Created: formatTime(m.Created), Jurisdiction: m.Jurisdiction, Collections: []collection{}, Items: []record{}, Next: optional(next)}
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
	Scope          []vault.ErasurePart `json:"scope,omitempty"`
	Retained       []vault.Retained    `json:"retained,omitempty"`
	Recipients     []erasureRecipient  `json:"recipients,omitempty"`
}

// erasureRecipient is a party that had to be told of an erasure.
type erasureRecipient struct {
	Name         string  `json:"name"`
	Country      string  `json:"country,omitempty"`
	State        string  `json:"state"`
	Acknowledged *string `json:"acknowledged_at,omitempty"`
	Failed       *string `json:"failed_at,omitempty"`
}

// staying is why something of a person stays in a collection.
type staying struct {
	Collection string     `json:"collection"`
	Ground     string     `json:"ground"`
	Until      *time.Time `json:"until,omitempty"`
}

func retained(all []staying) (out []vault.Retained) {
	for _, s := range all {
		out = append(out, vault.Retained{Collection: s.Collection, Ground: s.Ground, Until: s.Until})
	}
	return out
}

func (s *Server) eraseSubject(c echo.Context) error {
	var in struct {
		Reason   string              `json:"reason"`
		Scope    []vault.ErasurePart `json:"scope"`
		Retained []staying           `json:"retained"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	dry, err := dryRun(c)
	if err != nil {
		return err
	}
	var e vault.Erasure
	ctx, who, subject := c.Request().Context(), caller(c), c.Param("subject")
	switch {
	case in.Scope != nil:
		p := vault.PartialErasure{Reason: in.Reason, Scope: in.Scope, Retained: retained(in.Retained), DryRun: dry}
		e, err = s.vault.ErasePart(ctx, who, subject, p)
	case in.Retained != nil:
		return invalid("/retained", "scope", "retained says why something stays; name in scope what goes")
	default:
		e, err = s.vault.EraseSubject(ctx, who, subject, in.Reason, dry)
	}
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
	out := erasure{Certificate: e.ID, State: e.State, Reason: e.Reason, Requested: formatTime(e.Requested), Erased: formatOptional(e.Erased),
		ShredEffective: formatOptional(e.ShredEffective), Counts: e.Counts, Scope: e.Scope, Retained: e.Retained}
	for _, r := range e.Recipients {
		one := erasureRecipient{Name: r.Name, Country: r.Country, State: r.State}
		if r.State == vault.DeliveryFailed {
			one.Failed = formatOptional(r.Settled)
		} else {
			one.Acknowledged = formatOptional(r.Settled)
		}
		out.Recipients = append(out.Recipients, one)
	}
	return out
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

// getCompletion gives the note that every recipient has acknowledged an erasure, or was given up.
func (s *Server) getCompletion(c echo.Context) error {
	e, err := s.vault.GetErasure(c.Request().Context(), caller(c), c.Param("certificate"))
	if err != nil {
		return err
	}
	if e.Completion == "" {
		return &vault.Error{Kind: vault.NotFound, Detail: "not every recipient has acknowledged the erasure, or there is none"}
	}
	return c.Blob(http.StatusOK, echo.MIMETextPlainCharsetUTF8, []byte(e.Completion))
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
