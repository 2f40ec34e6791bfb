package api

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

func (s *Server) getRecord(c echo.Context) error {
	var fields []string
	if list := c.QueryParam("fields"); list != "" {
		fields = strings.Split(list, ",")
	}
	rec, err := s.vault.GetRecord(c.Request().Context(), caller(c), c.Param("collection"), c.Param("record"), fields, c.QueryParam("view"))
	if err != nil {
		return err
	}
	return sendRecord(c, rec)
}

type patchRequest struct {
	Fields  map[string]jsontext.Value `json:"fields"`
	Expires jsontext.Value            `json:"expires_at"`
}

func (s *Server) patchRecord(c echo.Context) error {
	var in patchRequest
	if _, err := bind(c, maxBody, &in, mergePatch); err != nil {
		return err
	}
	version, err := ifMatch(c)
	if err != nil {
		return err
	}
	if version == 0 {
		return &vault.Error{Kind: vault.PreconditionRequired, Detail: "send the record's ETag as If-Match"}
	}
	p := vault.Patch{IfVersion: version}
	p.Fields, p.Remove = merged(in.Fields)
	if p.DryRun, err = dryRun(c); err != nil {
		return err
	}
	if in.Expires != nil {
		p.SetExpires = true
		if err := decode(in.Expires, &p.Expires); err != nil {
			return invalid("/expires_at", "type", "expires_at is an RFC 3339 time or null")
		}
	}
	rec, err := s.vault.PatchRecord(c.Request().Context(), caller(c), c.Param("collection"), c.Param("record"), p)
	if err != nil {
		return err
	}
	return sendRecord(c, rec)
}

// merged reads the members of a merge patch (RFC 7396): what is set, and what is removed.
func merged(members map[string]jsontext.Value) (set map[string]vault.Secret, remove []string) {
	set = map[string]vault.Secret{}
	for name, raw := range members {
		if raw.Kind() == 'n' {
			remove = append(remove, name)
			continue
		}
		set[name] = vault.NewSecret(raw)
	}
	return set, remove
}

func (s *Server) deleteRecord(c echo.Context) error {
	version, err := ifMatch(c)
	if err != nil {
		return err
	}
	if err := s.vault.DeleteRecord(c.Request().Context(), caller(c), c.Param("collection"), c.Param("record"), version); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// sendRecord answers with a record; one that was written has no fields to show.
func sendRecord(c echo.Context, rec *vault.Record) error {
	c.Response().Header().Set("ETag", etag(rec.Version))
	a := answer{b: make([]byte, 0, 512), fresh: true}
	a.open('{')
	a.record(rec)
	a.close('}')
	return a.send(c, http.StatusOK)
}

// record writes the members of a record.
func (a *answer) record(rec *vault.Record) {
	a.text("record", rec.ID)
	a.number("version", int(rec.Version))
	if rec.Subject != "" {
		a.text("subject", rec.Subject)
	}
	if rec.Fields != nil {
		a.name("fields")
		a.open('{')
		for _, name := range sorted(rec.Fields) {
			a.raw(name, rec.Fields[name].Reveal())
		}
		a.close('}')
	}
	a.tokens(rec.Tokens)
	if rec.Changes != nil {
		a.changes(rec.Changes)
	}
	if rec.Previous != nil {
		a.name("previous_tokens")
		a.open('{')
		for _, name := range sorted(rec.Previous) {
			a.name(name)
			a.open('[')
			for _, token := range rec.Previous[name] {
				a.comma()
				a.quote(token)
			}
			a.close(']')
		}
		a.close('}')
	}
	a.time("created_at", rec.Created)
	a.time("updated_at", rec.Updated)
	if rec.Expires != nil {
		a.time("expires_at", *rec.Expires)
	}
}

// changes writes what a patch would do.
func (a *answer) changes(all []vault.FieldChange) {
	a.name("changes")
	a.open('[')
	for _, change := range all {
		a.element()
		a.text("field", change.Field)
		a.text("change", change.Change)
		a.text("token", change.Token)
		a.close('}')
	}
	a.close(']')
}

func etag(version int32) string { return `"` + strconv.Itoa(int(version)) + `"` }

var etagShape = regexp.MustCompile(`^"([1-9][0-9]{0,8})"$`)

// ifMatch gives the version that the caller saw; 0 means that it doesn't say.
func ifMatch(c echo.Context) (int32, error) {
	sent := c.Request().Header.Values("If-Match")
	if len(sent) == 0 || len(sent) == 1 && sent[0] == "*" && c.Request().Method == http.MethodDelete {
		return 0, nil
	}
	match := etagShape.FindStringSubmatch(strings.Join(sent, ","))
	if match == nil {
		return 0, &vault.Error{Kind: vault.PreconditionFailed, Detail: "If-Match is one ETag as this API gave it"}
	}
	version, err := strconv.ParseInt(match[1], 10, 32)
	return int32(version), err
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
