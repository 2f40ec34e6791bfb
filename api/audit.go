package api

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/mod/sumdb/tlog"

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

func (s *Server) auditCosigned(c echo.Context) error {
	signed, err := s.vault.Cosigned(c.Request().Context())
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

func (s *Server) listEntries(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	q := vault.EntryQuery{Subject: c.QueryParam("subject"), Principal: c.QueryParam("principal"), Action: c.QueryParam("action"),
		Purpose: c.QueryParam("purpose"), Outcome: c.QueryParam("outcome"), Record: c.QueryParam("record")}
	for name, at := range map[string]*time.Time{"from": &q.From, "to": &q.To} {
		text := c.QueryParam(name)
		if text == "" {
			continue
		}
		if *at, err = time.Parse(time.RFC3339, text); err != nil {
			return invalid("", name, "from and to are RFC 3339 times")
		}
	}
	entries, next, err := s.vault.Entries(c.Request().Context(), caller(c), q, c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	return sendPage(c, entries, next, func(e json.RawMessage) json.RawMessage { return e })
}

func (s *Server) getEntry(c echo.Context) error {
	e, err := s.vault.Entry(c.Request().Context(), caller(c), c.Param("entry"))
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusOK, struct {
		Entry json.RawMessage `json:"entry"`
		Index *int64          `json:"leaf_index"`
	}{e.Body, e.Index})
}

func (s *Server) getProof(c echo.Context) error {
	p, err := s.vault.Prove(c.Request().Context(), caller(c), c.Param("entry"))
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusOK, struct {
		Entry      string   `json:"entry"` // as text: its bytes are what is proved
		Salt       string   `json:"salt"`
		Tenant     string   `json:"tenant"`
		Index      int64    `json:"leaf_index"`
		Size       int64    `json:"tree_size"`
		Hashes     []string `json:"proof"`
		Checkpoint string   `json:"checkpoint"`
	}{p.Body, p.Salt, p.Tenant, p.Index, p.Size, hashes(p.Hashes), p.Checkpoint})
}

func (s *Server) getConsistency(c echo.Context) error {
	var size [2]int64
	for i, name := range []string{"from", "to"} {
		text := c.QueryParam(name)
		if text == "" && name == "to" {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 1 {
			return invalid("", name, "from and to are numbers of leaves")
		}
		size[i] = n
	}
	p, err := s.vault.ProveConsistency(c.Request().Context(), caller(c), size[0], size[1])
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusOK, struct {
		From     int64    `json:"from"`
		To       int64    `json:"to"`
		FromRoot string   `json:"from_root"`
		ToRoot   string   `json:"to_root"`
		Hashes   []string `json:"proof"`
	}{size[0], p.To, p.FromRoot.String(), p.ToRoot.String(), hashes(p.Hashes)})
}

func hashes(proof []tlog.Hash) []string {
	out := make([]string, len(proof))
	for i, h := range proof {
		out[i] = base64.StdEncoding.EncodeToString(h[:])
	}
	return out
}

func (s *Server) listDisclosures(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	list, next, err := s.vault.Disclosures(c.Request().Context(), caller(c), c.Param("subject"), c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	return sendPage(c, list, next, func(d vault.Disclosure) vault.Disclosure { return d })
}
