package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

// key is a line of the inventory, on the wire.
type key struct {
	Name         string       `json:"name"`
	Purpose      string       `json:"purpose"`
	Algorithm    string       `json:"algorithm"`
	KMS          string       `json:"kms,omitempty"`
	Version      int          `json:"version"`
	State        string       `json:"state"`
	Created      string       `json:"created_at"`
	Uses         *int64       `json:"uses,omitempty"`
	NextRotation *string      `json:"next_rotation_at"`
	Versions     []keyVersion `json:"versions"`
}

type keyVersion struct {
	Version int    `json:"version"`
	State   string `json:"state"`
	Created string `json:"created_at"`
	Uses    *int64 `json:"uses,omitempty"`
}

func (s *Server) listKeys(c echo.Context) error {
	all, err := s.vault.Keys(c.Request().Context(), caller(c))
	if err != nil {
		return err
	}
	items := make([]key, len(all))
	for i, k := range all {
		items[i] = key{Name: k.Name, Purpose: k.Purpose, Algorithm: k.Algorithm, KMS: k.KMS, Version: k.Version, State: "primary",
			Created: formatTime(k.Created), Uses: k.Uses, NextRotation: formatTimeOrNull(k.NextRotation)}
		for _, v := range k.Versions {
			items[i].Versions = append(items[i].Versions, keyVersion{v.Version, v.State, formatTime(v.Created), v.Uses})
		}
	}
	return sendJSON(c, http.StatusOK, struct {
		Items []key `json:"items"`
	}{items})
}

func formatTimeOrNull(t *time.Time) *string {
	if t == nil {
		return nil
	}
	text := formatTime(*t)
	return &text
}

// bindNothing reads a body that has nothing to say; an empty object may be sent.
func bindNothing(c echo.Context) error {
	if c.Request().ContentLength == 0 {
		return nil
	}
	var in struct{}
	_, err := bind(c, maxBody, &in)
	return err
}

func (s *Server) rotateKey(c echo.Context) error {
	if err := bindNothing(c); err != nil {
		return err
	}
	done, err := s.vault.RotateKey(c.Request().Context(), caller(c), c.Param("key"))
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusAccepted, struct {
		Name    string `json:"name"`
		Version int    `json:"version"`
		Job     string `json:"job,omitempty"`
	}{done.Name, done.Version, done.Job})
}

// endKey retires or destroys one version of a key.
func (s *Server) endKey(end func(ctx context.Context, who vault.Caller, name string, version int) error) echo.HandlerFunc {
	return func(c echo.Context) error {
		if err := bindNothing(c); err != nil {
			return err
		}
		version, err := strconv.ParseUint(c.Param("version"), 10, 16)
		if err != nil {
			version = 0 // there is no such version
		}
		if err := end(c.Request().Context(), caller(c), c.Param("key"), int(version)); err != nil {
			return err
		}
		return c.NoContent(http.StatusNoContent)
	}
}
