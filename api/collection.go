package api

import (
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

// collection is a collection on the wire.
type collection struct {
	Name    string `json:"name"`
	Version int32  `json:"version"`
	vault.Definition
	Stale   []string `json:"stale_indexes,omitempty"`
	Created string   `json:"created_at"`
	Updated string   `json:"updated_at"`
}

func wire(c *vault.Collection) collection {
	return collection{c.Name, c.Version, c.Definition, c.Stale(), formatTime(c.Created), formatTime(c.Updated)}
}

func (s *Server) putCollection(c echo.Context) error {
	var in vault.Definition
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	version, err := ifMatch(c)
	if err != nil {
		return err
	}
	in.Confirmed = c.QueryParam("confirm")
	coll, created, err := s.vault.PutCollection(c.Request().Context(), caller(c), c.Param("collection"), in, version)
	if err != nil {
		return err
	}
	return sendVersion(c, created, coll.Version, wire(coll))
}

func (s *Server) getCollection(c echo.Context) error {
	coll, err := s.vault.GetCollection(c.Request().Context(), caller(c), c.Param("collection"))
	if err != nil {
		return err
	}
	return sendVersion(c, false, coll.Version, wire(coll))
}

func (s *Server) listCollections(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	page, next, err := s.vault.ListCollections(c.Request().Context(), caller(c), c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	return sendPage(c, page, next, wire)
}

func (s *Server) deleteCollection(c echo.Context) error {
	version, err := ifMatch(c)
	if err != nil {
		return err
	}
	if err := s.vault.DeleteCollection(c.Request().Context(), caller(c), c.Param("collection"), version); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// The page sizes of lists.
const (
	defaultPage = 50
	maxPage     = 200
)

func pageLimit(c echo.Context) (int, error) {
	text, sent := c.QueryParams()["limit"]
	if !sent {
		return defaultPage, nil
	}
	n, err := strconv.Atoi(text[0])
	if err != nil || n < 1 || n > maxPage {
		return 0, invalid("", "limit", "limit is 1 to 200")
	}
	return n, nil
}
