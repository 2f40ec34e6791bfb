package api

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault/datatype"
)

func (s *Server) listTypes(c echo.Context) error {
	types, err := s.vault.Types(c.Request().Context(), caller(c))
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusOK, struct {
		Items []datatype.Description `json:"items"`
	}{types})
}
