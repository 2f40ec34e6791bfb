package api

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/policy"
)

type policyVersion struct {
	Name    string  `json:"name"`
	Version int32   `json:"version"`
	Text    *string `json:"text"` // null: with this version it was deleted
	Created string  `json:"created_at"`
	By      string  `json:"created_by"`
}

func wirePolicy(p *vault.Policy) policyVersion {
	out := policyVersion{Name: p.Name, Version: p.Version, Created: formatTime(p.Created), By: p.By}
	if !p.Deleted {
		out.Text = &p.Text
	}
	return out
}

func (s *Server) putPolicy(c echo.Context) error {
	var in struct {
		Text string `json:"text"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	version, err := ifMatch(c)
	if err != nil {
		return err
	}
	p, created, err := s.vault.PutPolicy(c.Request().Context(), caller(c), c.Param("policy"), in.Text, version)
	if err != nil {
		return err
	}
	return sendVersion(c, created, p.Version, wirePolicy(p))
}

func (s *Server) getPolicy(c echo.Context) error {
	p, err := s.vault.GetPolicy(c.Request().Context(), caller(c), c.Param("policy"))
	if err != nil {
		return err
	}
	return sendVersion(c, false, p.Version, wirePolicy(p))
}

func (s *Server) listPolicies(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	page, next, err := s.vault.ListPolicies(c.Request().Context(), caller(c), c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	return sendPage(c, page, next, wirePolicy)
}

func (s *Server) policyHistory(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	page, next, err := s.vault.PolicyHistory(c.Request().Context(), caller(c), c.Param("policy"), c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	return sendPage(c, page, next, wirePolicy)
}

func (s *Server) deletePolicy(c echo.Context) error {
	version, err := ifMatch(c)
	if err != nil {
		return err
	}
	if err := s.vault.DeletePolicy(c.Request().Context(), caller(c), c.Param("policy"), version); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// ExplainRequest asks what a policy decides.
type ExplainRequest struct {
	Principal  string              `json:"principal"`
	Roles      []string            `json:"roles"`
	Attributes map[string][]string `json:"attributes"`
	Action     string              `json:"action"`
	Collection string              `json:"collection"`
	Field      string              `json:"field"`
	View       string              `json:"view"`
	Purpose    string              `json:"purpose"`
	Network    string              `json:"network"`
	Method     string              `json:"method"`
	MTLS       bool                `json:"mtls"`
	DPoP       bool                `json:"dpop"`
	Time       *time.Time          `json:"time"`
	Subject    *struct {
		Restricted bool `json:"restricted"`
		Objected   bool `json:"objected"`
		Consented  bool `json:"consented"`

		Jurisdiction string `json:"jurisdiction"`
	} `json:"subject"`
}

// Question is the request as the vault is asked it.
func (r ExplainRequest) Question() (vault.Explain, error) {
	x := vault.Explain{Principal: r.Principal, Roles: r.Roles, Attributes: r.Attributes, Action: r.Action, Collection: r.Collection,
		Field: r.Field, View: r.View, Purpose: r.Purpose, Method: r.Method, MTLS: r.MTLS, DPoP: r.DPoP}
	if r.Time != nil {
		x.At = *r.Time
	}
	if r.Subject != nil {
		x.Subject = policy.SubjectFacts{Known: true, Restricted: r.Subject.Restricted, Objected: r.Subject.Objected, Consented: r.Subject.Consented,
			Jurisdiction: r.Subject.Jurisdiction}
	}
	if r.Network != "" {
		var err error
		if x.Network, err = netip.ParseAddr(r.Network); err != nil {
			return x, invalid("/network", "network", "a network is one IP address")
		}
	}
	return x, nil
}

func (s *Server) explainPolicy(c echo.Context) error {
	var in ExplainRequest
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	x, err := in.Question()
	if err != nil {
		return err
	}
	out, err := s.vault.Explain(c.Request().Context(), caller(c), x)
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusOK, struct {
		Allowed  bool     `json:"allowed"`
		Rule     string   `json:"rule"`
		View     *string  `json:"view"`
		Policies []string `json:"policies"`
	}{out.Allowed, out.Rule, optional(out.View.String()), out.Policies})
}
