package api

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

// alarm is an alarm on the wire.
type alarm struct {
	ID         string  `json:"id"`
	Kind       string  `json:"kind"`
	Principal  string  `json:"principal"`
	Credential string  `json:"credential"`
	Network    *string `json:"network"`
	Raised     string  `json:"raised_at"`
	Counted    int64   `json:"counted"`
	Usual      int64   `json:"usual"`
	Response   string  `json:"response"`
	Expires    string  `json:"expires_at"`
	Lifted     *string `json:"lifted_at"`
}

func wireAlarm(a vault.Alarm) alarm {
	out := alarm{ID: a.ID, Kind: a.Kind, Principal: a.Principal, Credential: a.Credential, Raised: formatTime(a.Raised), Counted: a.Counted,
		Usual: a.Usual, Response: a.Response, Expires: formatTime(a.Expires), Lifted: formatTimeOrNull(a.Lifted)}
	if a.Network.IsValid() {
		out.Network = optional(a.Network.String())
	}
	return out
}

func (s *Server) listAlarms(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	page, next, err := s.vault.ListAlarms(c.Request().Context(), caller(c), c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	return sendPage(c, page, next, wireAlarm)
}

func (s *Server) liftAlarm(c echo.Context) error {
	if err := s.vault.LiftAlarm(c.Request().Context(), caller(c), c.Param("alarm")); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// reportLeakedKey takes no credential: who found a key has no other. Good keys and bad ones are answered alike.
func (s *Server) reportLeakedKey(c echo.Context) error {
	if err := checkQuery(c, c.Request()); err != nil {
		return err
	}
	var in struct {
		Key string `json:"key"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	if err := s.vault.ReportLeakedKey(c.Request().Context(), in.Key); err != nil {
		return err
	}
	s.limits.Fail(s.address(c.Request())) // guessing here is as dear as anywhere
	return c.NoContent(http.StatusNoContent)
}
