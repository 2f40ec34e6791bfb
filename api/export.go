package api

import (
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

type exportRequest struct {
	Fields   []string          `json:"fields"`
	View     *string           `json:"view"`
	Views    map[string]string `json:"views"`
	After    *string           `json:"after"`
	Previous bool              `json:"previous_tokens"`
}

// exportRecords streams a collection: a record a line, as it is read alone. A line is written after the entry that says
// what it shows is durable. What can't be shown is a line with a problem; so is the end, if it comes early.
func (s *Server) exportRecords(c echo.Context) error {
	var in exportRequest
	if c.Request().ContentLength != 0 { // all of it has a default
		if _, err := bind(c, maxBody, &in, ndjson); err != nil {
			return err
		}
	}
	if in.Fields != nil && len(in.Fields) == 0 {
		return invalid("/fields", "size", "name the fields that are wanted, or leave fields out for all")
	}
	x := vault.Export{Collection: c.Param("collection"), Fields: in.Fields, View: given(in.View), Views: in.Views, After: given(in.After), Previous: in.Previous}
	control := http.NewResponseController(c.Response())
	err := s.vault.ExportRecords(c.Request().Context(), caller(c), x, func(page []vault.Exported) error {
		_ = control.SetWriteDeadline(time.Now().Add(streamPause))
		if !c.Response().Committed {
			c.Response().Header().Set(echo.HeaderContentType, ndjson)
			c.Response().WriteHeader(http.StatusOK)
		}
		a := answer{b: make([]byte, 0, 512*len(page))}
		for _, x := range page {
			a.fresh = true
			a.element()
			if x.Err != nil {
				a.text("record", x.ID)
				a.problem(x.Err, requestID(c))
			} else {
				a.record(x.Record)
			}
			a.close('}')
			a.b = append(a.b, '\n')
		}
		if _, err := c.Response().Write(a.b); err != nil {
			return err
		}
		return control.Flush()
	})
	if err == nil || !c.Response().Committed {
		return err
	}
	_ = control.SetWriteDeadline(time.Now().Add(streamPause))
	a := answer{}
	a.open('{')
	a.problem(httpError(err), requestID(c))
	a.close('}')
	_, _ = c.Response().Write(append(a.b, '\n')) // the caller may be gone
	return nil
}
