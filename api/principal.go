package api

import (
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
)

func (s *Server) createPrincipal(c echo.Context) error {
	var in struct {
		Name  string   `json:"name"`
		Roles []string `json:"roles"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	id, err := s.vault.CreatePrincipal(c.Request().Context(), caller(c), in.Name, in.Roles)
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusCreated, struct {
		ID    string   `json:"id"`
		Name  string   `json:"name"`
		Roles []string `json:"roles"`
	}{id, in.Name, in.Roles})
}

func (s *Server) issueKey(c echo.Context) error {
	var in struct {
		Expires *time.Time `json:"expires_at"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	issued, err := s.vault.IssueKey(c.Request().Context(), caller(c), c.Param("principal"), in.Expires)
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusCreated, struct {
		ID      string `json:"id"`
		Key     string `json:"key"`
		Expires string `json:"expires_at"`
	}{issued.ID, issued.Key, formatTime(issued.Expires)})
}

func (s *Server) revokeKey(c echo.Context) error {
	if err := s.vault.RevokeKey(c.Request().Context(), caller(c), c.Param("principal"), c.Param("key")); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}
