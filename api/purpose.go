package api

import (
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

type purpose struct {
	Purpose         string `json:"purpose"`
	Version         int32  `json:"version"`
	Description     string `json:"description"`
	LegalBasis      string `json:"legal_basis"`
	TextVersion     string `json:"consent_text_version,omitempty"`
	RequiresConsent bool   `json:"requires_consent"`
	Created         string `json:"created_at"`
	Updated         string `json:"updated_at"`
	Ends            string `json:"ends_at,omitempty"`
}

func wirePurpose(p *vault.Purpose) purpose {
	return purpose{p.Name, p.Version, p.Description, p.LegalBasis, p.TextVersion, p.RequiresConsent(), formatTime(p.Created), formatTime(p.Updated), formatTimeIf(p.Ends)}
}

func (s *Server) putPurpose(c echo.Context) error {
	var in struct {
		Description string     `json:"description"`
		LegalBasis  string     `json:"legal_basis"`
		TextVersion string     `json:"consent_text_version"`
		Ends        *time.Time `json:"ends_at"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	version, err := ifMatch(c)
	if err != nil {
		return err
	}
	p, created, err := s.vault.PutPurpose(c.Request().Context(), caller(c), vault.Purpose{Name: c.Param("purpose"),
		Description: in.Description, LegalBasis: in.LegalBasis, TextVersion: in.TextVersion, Ends: in.Ends}, version)
	if err != nil {
		return err
	}
	return sendVersion(c, created, p.Version, wirePurpose(p))
}

func (s *Server) getPurpose(c echo.Context) error {
	p, err := s.vault.GetPurpose(c.Request().Context(), caller(c), c.Param("purpose"))
	if err != nil {
		return err
	}
	return sendVersion(c, false, p.Version, wirePurpose(p))
}

func (s *Server) listPurposes(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	page, next, err := s.vault.ListPurposes(c.Request().Context(), caller(c), c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	return sendPage(c, page, next, wirePurpose)
}

func (s *Server) deletePurpose(c echo.Context) error {
	version, err := ifMatch(c)
	if err != nil {
		return err
	}
	if err := s.vault.DeletePurpose(c.Request().Context(), caller(c), c.Param("purpose"), version); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// said is a consent, an objection, a restriction or a jurisdiction that holds.
type said struct {
	Subject      string    `json:"subject"`
	Purpose      string    `json:"purpose,omitempty"`
	TextVersion  string    `json:"text_version,omitempty"`
	Evidence     string    `json:"evidence,omitempty"`
	Reason       string    `json:"reason,omitempty"`
	Allowed      *[]string `json:"allowed_purposes,omitempty"`
	Jurisdiction string    `json:"jurisdiction,omitempty"`
	Since        string    `json:"since"`
}

func (s *Server) putConsent(c echo.Context) error {
	var in struct {
		TextVersion string `json:"text_version"`
		Evidence    string `json:"evidence"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	subject := c.Param("subject")
	held, created, err := s.vault.GiveConsent(c.Request().Context(), caller(c), subject, c.Param("purpose"), in.TextVersion, in.Evidence)
	if err != nil {
		return err
	}
	return sendPut(c, created, said{Subject: subject, Purpose: held.Purpose, TextVersion: held.TextVersion, Evidence: held.Reference, Since: formatTime(held.Since)})
}

func (s *Server) withdrawConsent(c echo.Context) error {
	if err := s.vault.WithdrawConsent(c.Request().Context(), caller(c), c.Param("subject"), c.Param("purpose")); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

type consentEvent struct {
	ID          string `json:"id"`
	Purpose     string `json:"purpose"`
	Event       string `json:"event"`
	TextVersion string `json:"text_version"`
	Evidence    string `json:"evidence,omitempty"`
	At          string `json:"at"`
	By          string `json:"by"`
}

func (s *Server) listConsents(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	page, next, err := s.vault.Consents(c.Request().Context(), caller(c), c.Param("subject"), c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	return sendPage(c, page, next, func(e vault.ConsentEvent) consentEvent {
		event := "withdrawn"
		if e.Given {
			event = "given"
		}
		return consentEvent{e.ID, e.Purpose, event, e.TextVersion, e.Reference, formatTime(e.At), e.By}
	})
}

func (s *Server) putObjection(c echo.Context) error {
	var in struct {
		Evidence string `json:"evidence"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	subject := c.Param("subject")
	held, created, err := s.vault.Object(c.Request().Context(), caller(c), subject, c.Param("purpose"), in.Evidence)
	if err != nil {
		return err
	}
	return sendPut(c, created, said{Subject: subject, Purpose: held.Purpose, Evidence: held.Reference, Since: formatTime(held.Since)})
}

func (s *Server) withdrawObjection(c echo.Context) error {
	if err := s.vault.WithdrawObjection(c.Request().Context(), caller(c), c.Param("subject"), c.Param("purpose")); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func (s *Server) putRestriction(c echo.Context) error {
	var in struct {
		Reason  string   `json:"reason"`
		Allowed []string `json:"allowed_purposes"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	subject := c.Param("subject")
	held, created, err := s.vault.Restrict(c.Request().Context(), caller(c), subject, in.Reason, in.Allowed)
	if err != nil {
		return err
	}
	return sendPut(c, created, restriction(subject, held))
}

func restriction(subject string, held vault.Said) said {
	return said{Subject: subject, Reason: held.Reference, Allowed: &held.Allowed, Since: formatTime(held.Since)}
}

func (s *Server) getRestriction(c echo.Context) error {
	held, err := s.vault.GetRestriction(c.Request().Context(), caller(c), c.Param("subject"))
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusOK, restriction(c.Param("subject"), held))
}

func (s *Server) liftRestriction(c echo.Context) error {
	var in struct {
		Informed *time.Time `json:"informed_at"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	if in.Informed == nil {
		return invalid("/informed_at", "required", "say when the person was told that the restriction ends (GDPR 18(3))")
	}
	if err := s.vault.LiftRestriction(c.Request().Context(), caller(c), c.Param("subject"), *in.Informed); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func (s *Server) putJurisdiction(c echo.Context) error {
	var in struct {
		Jurisdiction string `json:"jurisdiction"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	subject := c.Param("subject")
	held, created, err := s.vault.SetJurisdiction(c.Request().Context(), caller(c), subject, in.Jurisdiction)
	if err != nil {
		return err
	}
	return sendPut(c, created, said{Subject: subject, Jurisdiction: held.Jurisdiction, Since: formatTime(held.Since)})
}

func (s *Server) deleteJurisdiction(c echo.Context) error {
	if err := s.vault.ClearJurisdiction(c.Request().Context(), caller(c), c.Param("subject")); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}
