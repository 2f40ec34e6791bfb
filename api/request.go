package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/deadline"
)

// request is a request of a person on the wire.
type request struct {
	ID            string              `json:"id"`
	Version       int32               `json:"version"`
	Type          string              `json:"type"`
	Regime        string              `json:"regime"`
	State         string              `json:"state"`
	Subject       string              `json:"subject,omitempty"`
	Received      string              `json:"received_at"`
	Opened        string              `json:"opened_at"`
	OpenedBy      string              `json:"opened_by"`
	AcknowledgeBy *string             `json:"acknowledge_by,omitempty"`
	Acknowledged  *string             `json:"acknowledged_at,omitempty"`
	Due           string              `json:"due_at"`
	Asked         *string             `json:"asked_at,omitempty"`
	Paused        *string             `json:"paused_at,omitempty"`
	Extension     *extension          `json:"extension,omitempty"`
	Verification  *verification       `json:"verification,omitempty"`
	Approval      bool                `json:"approval"`
	Approved      *string             `json:"approved_at,omitempty"`
	ApprovedBy    string              `json:"approved_by,omitempty"`
	Reason        string              `json:"reason,omitempty"`
	Purpose       string              `json:"purpose,omitempty"`
	Allowed       []string            `json:"allowed_purposes,omitempty"`
	Correction    *corrected          `json:"correction,omitempty"`
	Scope         []vault.ErasurePart `json:"scope,omitempty"`
	Retained      []staying           `json:"retained,omitempty"`
	RecipientKey  string              `json:"recipient_key,omitempty"`
	Agent         *vault.Agent        `json:"agent,omitempty"`
	Outcome       string              `json:"outcome,omitempty"`
	Denial        *denial             `json:"denial,omitempty"`
	Statement     string              `json:"statement,omitempty"`
	Certificate   string              `json:"certificate,omitempty"`
	Closed        *string             `json:"closed_at,omitempty"`
	History       *[]requestEvent     `json:"history,omitempty"`
}

type extension struct {
	Reason  string `json:"reason"`
	Noticed string `json:"noticed_at"`
}

type verification struct {
	Method    string `json:"method"`
	Level     string `json:"level"`
	Reference string `json:"reference,omitempty"`
	By        string `json:"by"`
	At        string `json:"at"`
}

// corrected says which record a correction is about. The values that it brings are not shown.
type corrected struct {
	Collection string `json:"collection"`
	Record     string `json:"record"`
}

type denial struct {
	Reason string `json:"reason"`
	Law    string `json:"law"`
}

type requestEvent struct {
	Event  string  `json:"event"`
	At     string  `json:"at"`
	By     string  `json:"by,omitempty"`
	State  string  `json:"state"`
	Reason string  `json:"reason,omitempty"`
	Moment *string `json:"moment,omitempty"`
}

func wireRequest(r *vault.Request) request {
	out := request{ID: r.ID, Version: r.Version, Type: string(r.Type), Regime: string(r.Regime), State: r.State, Subject: r.Terms.Subject,
		Received: formatTime(r.Received), Opened: formatTime(r.Opened), OpenedBy: r.OpenedBy, Acknowledged: formatOptional(r.Acknowledged),
		Due: formatDue(r.Due), Asked: formatOptional(r.Asked), Paused: formatOptional(r.Paused), Approval: r.Approval,
		Approved: formatOptional(r.Approved), ApprovedBy: r.ApprovedBy, Reason: r.Terms.Reason, Purpose: r.Terms.Purpose, Allowed: r.Terms.Allowed,
		RecipientKey: r.Terms.RecipientKey, Agent: r.Terms.Agent, Scope: r.Terms.Scope, Outcome: r.Outcome, Statement: r.Statement, Certificate: r.Certificate,
		Closed: formatOptional(r.Closed)}
	if r.AcknowledgeBy != nil {
		out.AcknowledgeBy = optional(formatDue(*r.AcknowledgeBy))
	}
	if r.Extension != "" {
		out.Extension = &extension{r.Extension, formatTime(*r.Noticed)}
	}
	if v := r.Verified; v != nil {
		out.Verification = &verification{v.Method, v.Level, v.Evidence, v.By, formatTime(v.At)}
	}
	if r.Terms.Record != "" {
		out.Correction = &corrected{r.Terms.Collection, r.Terms.Record}
	}
	for _, s := range r.Terms.Retained {
		out.Retained = append(out.Retained, staying{s.Collection, s.Ground, s.Until})
	}
	if r.Denial != "" {
		out.Denial = &denial{r.Denial, r.Law()}
	}
	if r.History != nil {
		out.History = &[]requestEvent{}
		for _, e := range r.History {
			*out.History = append(*out.History, requestEvent{e.Event, formatTime(e.At), e.By, e.State, e.Reason, formatOptional(e.Moment)})
		}
	}
	return out
}

// formatDue writes a date's last second in the zone in which it is that date's.
func formatDue(at time.Time) string { return at.Format(time.RFC3339) }

func (s *Server) openRequest(c echo.Context) error {
	var in struct {
		Type         string              `json:"type"`
		Regime       string              `json:"regime"`
		Subject      string              `json:"subject"`
		Received     *time.Time          `json:"received_at"`
		Approval     bool                `json:"approval"`
		Reason       *string             `json:"reason"`
		Purpose      *string             `json:"purpose"`
		Allowed      []string            `json:"allowed_purposes"`
		RecipientKey *string             `json:"recipient_key"`
		Agent        *vault.Agent        `json:"agent"`
		Scope        []vault.ErasurePart `json:"scope"`
		Retained     []staying           `json:"retained"`
		Correction   *struct {
			Collection string                    `json:"collection"`
			Record     string                    `json:"record"`
			Fields     map[string]jsontext.Value `json:"fields"`
		} `json:"correction"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	n := vault.NewRequest{Type: deadline.Type(in.Type), Regime: deadline.Regime(in.Regime), Received: in.Received, Approval: in.Approval,
		Terms: vault.Terms{Subject: in.Subject, Reason: given(in.Reason), Purpose: given(in.Purpose), Allowed: in.Allowed,
			RecipientKey: given(in.RecipientKey), Agent: in.Agent, Scope: in.Scope, Retained: retained(in.Retained)}}
	if in.Correction != nil {
		n.Terms.Collection, n.Terms.Record = in.Correction.Collection, in.Correction.Record
		n.Fields, n.Remove = merged(in.Correction.Fields)
	}
	r, err := s.vault.OpenRequest(c.Request().Context(), caller(c), n)
	if err != nil {
		return err
	}
	return sendVersion(c, true, r.Version, wireRequest(r))
}

func (s *Server) getRequest(c echo.Context) error {
	r, err := s.vault.GetRequest(c.Request().Context(), caller(c), c.Param("request"))
	if err != nil {
		return err
	}
	return sendVersion(c, false, r.Version, wireRequest(r))
}

func (s *Server) listRequests(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	q := vault.RequestQuery{State: c.QueryParam("state"), Subject: c.QueryParam("subject")}
	if text := c.QueryParam("due_before"); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return invalid("", "due_before", "due_before is an RFC 3339 time")
		}
		q.DueBefore = &at
	}
	page, next, err := s.vault.ListRequests(c.Request().Context(), caller(c), q, c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	return sendPage(c, page, next, wireRequest)
}

// takeStep takes a step of a request, with what reading its body gives.
func (s *Server) takeStep(kind string, body func(echo.Context) (vault.Step, error)) echo.HandlerFunc {
	return func(c echo.Context) error {
		step, err := body(c)
		if err != nil {
			return err
		}
		step.Kind = kind
		if step.IfVersion, err = ifMatch(c); err != nil {
			return err
		}
		r, err := s.vault.TakeStep(c.Request().Context(), caller(c), c.Param("request"), step)
		if err != nil {
			return err
		}
		return sendVersion(c, false, r.Version, wireRequest(r))
	}
}

// requestSteps are the routes of the steps, and what each one's body says.
func (s *Server) requestSteps(g *echo.Group) {
	nothing := func(c echo.Context) (vault.Step, error) { return vault.Step{}, bindNothing(c) }
	for _, kind := range []string{vault.StepApprove, vault.StepResume, vault.StepCancel, vault.StepComplete} {
		g.POST("/requests/:request/"+kind, s.takeStep(kind, nothing))
	}
	g.POST("/requests/:request/verify", s.takeStep(vault.StepVerify, func(c echo.Context) (vault.Step, error) {
		var in struct {
			Outcome   string `json:"outcome"`
			Method    string `json:"method"`
			Level     string `json:"level"`
			Reference string `json:"reference"`
		}
		if _, err := bind(c, maxBody, &in); err != nil {
			return vault.Step{}, err
		}
		if in.Outcome != "" && in.Outcome != "asked" && in.Outcome != "verified" {
			return vault.Step{}, invalid("/outcome", "outcome", "the person is asked, or is verified")
		}
		return vault.Step{Asked: in.Outcome == "asked", Method: in.Method, Level: in.Level, Reference: in.Reference}, nil
	}))
	reason := func(c echo.Context) (vault.Step, error) {
		var in struct {
			Reason string `json:"reason"`
		}
		_, err := bind(c, maxBody, &in)
		return vault.Step{Reason: in.Reason}, err
	}
	g.POST("/requests/:request/deny", s.takeStep(vault.StepDeny, reason))
	g.POST("/requests/:request/pause", s.takeStep(vault.StepPause, reason))
	g.POST("/requests/:request/extend", s.takeStep(vault.StepExtend, func(c echo.Context) (vault.Step, error) {
		var in struct {
			Reason  string     `json:"reason"`
			Noticed *time.Time `json:"noticed_at"`
		}
		_, err := bind(c, maxBody, &in)
		return vault.Step{Reason: in.Reason, At: in.Noticed}, err
	}))
	g.POST("/requests/:request/acknowledge", s.takeStep(vault.StepAcknowledge, func(c echo.Context) (vault.Step, error) {
		var in struct {
			At *time.Time `json:"acknowledged_at"`
		}
		if c.Request().ContentLength == 0 {
			return vault.Step{}, nil
		}
		_, err := bind(c, maxBody, &in)
		return vault.Step{At: in.At}, err
	}))
	g.POST("/requests/:request/contest", s.takeStep(vault.StepContest, func(c echo.Context) (vault.Step, error) {
		var in struct {
			Reference string `json:"reference"`
		}
		_, err := bind(c, maxBody, &in)
		return vault.Step{Reference: in.Reference}, err
	}))
}

// requestCounts are the counts of one type of request, or of all.
type requestCounts struct {
	Received    int            `json:"received"`
	Complied    int            `json:"complied"`
	InPart      int            `json:"complied_in_part"`
	NothingHeld int            `json:"nothing_held"`
	Denied      int            `json:"denied"`
	Denials     map[string]int `json:"denied_by_reason"`
	Cancelled   int            `json:"cancelled"`
	Expired     int            `json:"expired"`
	Open        int            `json:"open"`
	MedianDays  *float64       `json:"median_days"`
	MeanDays    *float64       `json:"mean_days"`
}

func (s *Server) getRequestMetrics(c echo.Context) error {
	year, err := strconv.Atoi(c.QueryParam("year"))
	if err != nil {
		year = 0 // the vault says that it is none
	}
	m, err := s.vault.RequestMetrics(c.Request().Context(), caller(c), deadline.Regime(c.QueryParam("regime")), year)
	if err != nil {
		return err
	}
	out := struct {
		Regime string                   `json:"regime"`
		Year   int                      `json:"year"`
		All    requestCounts            `json:"all"`
		Types  map[string]requestCounts `json:"types"`
	}{string(m.Regime), m.Year, requestCounts(m.All), map[string]requestCounts{}}
	for typ, counts := range m.Types {
		out.Types[string(typ)] = requestCounts(counts)
	}
	return sendJSON(c, http.StatusOK, out)
}
