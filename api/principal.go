package api

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
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

// listedPrincipal is a principal in a list. It has more than a new one, which nobody can have disabled.
type listedPrincipal struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Roles    []string `json:"roles"`
	Issuer   string   `json:"issuer,omitempty"`
	Subject  string   `json:"subject,omitempty"`
	Created  string   `json:"created_at"`
	Disabled *string  `json:"disabled_at"`
}

func listed(p vault.Principal) listedPrincipal {
	return listedPrincipal{p.ID, p.Name, p.Roles, p.Authority, p.Subject, formatTime(p.Created), formatTimeOrNull(p.Disabled)}
}

func (s *Server) listPrincipals(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	page, next, err := s.vault.ListPrincipals(c.Request().Context(), caller(c), c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	return sendPage(c, page, next, listed)
}

func (s *Server) patchPrincipal(c echo.Context) error {
	var in struct {
		Disabled *bool `json:"disabled"`
	}
	if _, err := bind(c, maxBody, &in, mergePatch); err != nil {
		return err
	}
	if in.Disabled == nil {
		return invalid("/disabled", "required", "say whether the principal is disabled")
	}
	p, err := s.vault.DisablePrincipal(c.Request().Context(), caller(c), c.Param("principal"), *in.Disabled)
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusOK, listed(p))
}

func (s *Server) issueKey(c echo.Context) error {
	var in struct {
		Expires  *time.Time `json:"expires_at"`
		Networks []string   `json:"networks"`
		Replaces string     `json:"replaces"`
		Overlap  *int64     `json:"overlap_seconds"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	terms := vault.KeyTerms{Expires: in.Expires, Replaces: in.Replaces}
	for _, text := range in.Networks {
		p, err := netip.ParsePrefix(text)
		if err != nil || p != p.Masked() || p.Addr().Is4In6() {
			return invalid("/networks", "cidr", "a network is an address block such as 192.0.2.0/24, with no bits set behind its length")
		}
		terms.Networks = append(terms.Networks, p)
	}
	if in.Overlap != nil {
		if *in.Overlap < 0 || *in.Overlap > maxOverlapSeconds {
			return invalid("/overlap_seconds", "range", "an overlap is 0 seconds to 7 days")
		}
		overlap := time.Duration(*in.Overlap) * time.Second
		terms.Overlap = &overlap
	}
	issued, err := s.vault.IssueKey(c.Request().Context(), caller(c), c.Param("principal"), terms)
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusCreated, struct {
		ID      string `json:"id"`
		Key     string `json:"key"`
		Expires string `json:"expires_at"`
	}{issued.ID, issued.Key, formatTime(issued.Expires)})
}

// maxOverlapSeconds only keeps a duration from overflowing; the vault knows the rule.
const maxOverlapSeconds = 366 * 24 * 60 * 60

func (s *Server) listAPIKeys(c echo.Context) error {
	keys, err := s.vault.ListKeys(c.Request().Context(), caller(c), c.Param("principal"))
	if err != nil {
		return err
	}
	type key struct {
		ID       string         `json:"id"`
		Created  string         `json:"created_at"`
		Expires  string         `json:"expires_at"`
		Revoked  *string        `json:"revoked_at"`
		LastUsed *string        `json:"last_used_at"`
		Networks []netip.Prefix `json:"networks"`
	}
	out := struct {
		Items []key `json:"items"`
	}{Items: make([]key, 0, len(keys))}
	for _, k := range keys {
		out.Items = append(out.Items, key{k.ID, formatTime(k.Created), formatTime(k.Expires), formatTimeOrNull(k.Revoked), formatTimeOrNull(k.LastUsed), k.Networks})
	}
	return sendJSON(c, http.StatusOK, out)
}

func (s *Server) revokeKey(c echo.Context) error {
	if err := s.vault.RevokeKey(c.Request().Context(), caller(c), c.Param("principal"), c.Param("key")); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func (s *Server) revokeToken(c echo.Context) error {
	var in struct {
		Issuer  string     `json:"issuer"`
		Token   string     `json:"token"`
		Expires *time.Time `json:"expires_at"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	if err := s.vault.RevokeToken(c.Request().Context(), caller(c), in.Issuer, in.Token, in.Expires); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}
