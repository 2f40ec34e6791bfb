package api

import (
	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

// link is how a reference came to be a person's, on the wire.
type link struct {
	ID      string `json:"id"`
	Subject string `json:"subject,omitempty"`
	Linked  string `json:"linked,omitempty"`
	Reason  string `json:"reason"`
	Merged  bool   `json:"merged"`
	Records int    `json:"records"`
	At      string `json:"linked_at"`
	By      string `json:"linked_by"`
}

func wireLink(l vault.Link) link {
	return link{l.ID, l.Subject, l.Linked, l.Reason, l.Merged, l.Records, formatTime(l.At), l.By}
}

func (s *Server) linkSubjects(c echo.Context) error {
	var in struct {
		Subject string `json:"subject"`
		Reason  string `json:"reason"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	l, created, err := s.vault.LinkSubjects(c.Request().Context(), caller(c), c.Param("subject"), in.Subject, in.Reason)
	if err != nil {
		return err
	}
	return sendPut(c, created, wireLink(*l))
}

func (s *Server) listLinks(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	page, next, err := s.vault.Links(c.Request().Context(), caller(c), c.Param("subject"), c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	return sendPage(c, page, next, wireLink)
}
