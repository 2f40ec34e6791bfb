package api

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

// suppression is an entry of the suppression list on the wire.
type suppression struct {
	ID          string   `json:"id"`
	Identifiers []string `json:"identifiers"`
	Certificate string   `json:"certificate,omitempty"`
	Created     string   `json:"created_at"`
}

func wireSuppression(s *vault.Suppressed) suppression {
	return suppression{s.ID, s.Identifiers, s.Certificate, formatTime(s.Created)}
}

func (s *Server) listSuppressions(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	page, next, err := s.vault.ListSuppressions(c.Request().Context(), caller(c), c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	return sendPage(c, page, next, wireSuppression)
}

func (s *Server) suppress(c echo.Context) error {
	var in struct {
		Subject string `json:"subject"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	put, created, err := s.vault.Suppress(c.Request().Context(), caller(c), in.Subject)
	if err != nil {
		return err
	}
	return sendPut(c, created, wireSuppression(put))
}

func (s *Server) liftSuppression(c echo.Context) error {
	if err := s.vault.LiftSuppression(c.Request().Context(), caller(c), c.Param("suppression")); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}
