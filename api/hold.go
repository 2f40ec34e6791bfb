package api

import (
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

// hold is a legal hold on the wire.
type hold struct {
	ID         string  `json:"id"`
	Matter     string  `json:"matter"`
	Reason     string  `json:"reason"`
	Subject    string  `json:"subject,omitempty"`
	Collection string  `json:"collection,omitempty"`
	Record     string  `json:"record,omitempty"`
	Created    string  `json:"created_at"`
	Review     *string `json:"review_at,omitempty"`
	Expires    *string `json:"expires_at,omitempty"`
	Released   *string `json:"released_at,omitempty"`
}

func wireHold(h vault.Hold) hold {
	return hold{h.ID, h.Matter, h.Reason, h.Subject, h.Collection, h.Record, formatTime(h.Created),
		formatOptional(h.Review), formatOptional(h.Expires), formatOptional(h.Released)}
}

func (s *Server) placeHold(c echo.Context) error {
	var in struct {
		Matter     string     `json:"matter"`
		Reason     string     `json:"reason"`
		Subject    *string    `json:"subject"`
		Collection *string    `json:"collection"`
		Record     *string    `json:"record"`
		Review     *time.Time `json:"review_at"`
		Expires    *time.Time `json:"expires_at"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	placed, err := s.vault.PlaceHold(c.Request().Context(), caller(c), vault.Hold{Matter: in.Matter, Reason: in.Reason, Subject: given(in.Subject),
		Collection: given(in.Collection), Record: given(in.Record), Review: in.Review, Expires: in.Expires})
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusCreated, wireHold(placed))
}

func (s *Server) listHolds(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	page, next, err := s.vault.ListHolds(c.Request().Context(), caller(c), c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	return sendPage(c, page, next, wireHold)
}

func (s *Server) releaseHold(c echo.Context) error {
	if err := s.vault.ReleaseHold(c.Request().Context(), caller(c), c.Param("hold")); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}
