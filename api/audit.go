package api

import (
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/audit"
)

func (s *Server) auditCheckpoint(c echo.Context) error {
	signed, err := s.vault.Checkpoint(c.Request().Context())
	if err != nil {
		return err
	}
	return c.Blob(http.StatusOK, "text/plain; charset=utf-8", []byte(signed))
}

func (s *Server) auditTile(c echo.Context) error {
	t, ok := audit.ParsePath(strings.TrimPrefix(c.Request().URL.Path, "/audit/"))
	if !ok {
		return &vault.Error{Kind: vault.NotFound}
	}
	data, err := s.vault.Tile(c.Request().Context(), t)
	if err != nil {
		return err
	}
	c.Response().Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	return c.Blob(http.StatusOK, "application/octet-stream", data)
}
