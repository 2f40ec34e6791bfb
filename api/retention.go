package api

import (
	"context"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

// sweep is a sweep on the wire.
type sweep struct {
	ID         string `json:"id"`
	State      string `json:"state"`
	Reason     string `json:"reason,omitempty"`
	Collection string `json:"collection,omitempty"`
	Plan       string `json:"plan,omitempty"`
	DryRun     bool   `json:"dry_run"`
	vault.SweepCounts
	Remaining int64  `json:"remaining"`
	AsOf      string `json:"as_of"`
	Created   string `json:"created_at"`
	Started   string `json:"started_at,omitempty"`
	Confirmed string `json:"confirmed_at,omitempty"`
	Finished  string `json:"finished_at,omitempty"`
	Report    string `json:"report,omitempty"`
}

func wireSweep(s *vault.Sweep) sweep {
	return sweep{s.ID, s.State, s.Reason, s.Collection, s.Plan, s.DryRun, s.Counts, s.Counts.Remaining(), formatTime(s.AsOf), formatTime(s.Created),
		formatTimeIf(s.Started), formatTimeIf(s.Confirmed), formatTimeIf(s.Finished), s.Report}
}

func (s *Server) startSweep(c echo.Context) error {
	var in struct {
		Collection *string `json:"collection"`
		DryRun     bool    `json:"dry_run"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	if in.Collection != nil && *in.Collection == "" {
		return invalid("/collection", "unknown-collection", "leave collection out to sweep all")
	}
	started, err := s.vault.StartSweep(c.Request().Context(), caller(c), given(in.Collection), in.DryRun)
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusAccepted, wireSweep(&started))
}

func (s *Server) getSweep(c echo.Context) error {
	found, err := s.vault.GetSweep(c.Request().Context(), caller(c), c.Param("sweep"))
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusOK, wireSweep(found))
}

func (s *Server) listSweeps(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	page, next, err := s.vault.ListSweeps(c.Request().Context(), caller(c), c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	return sendPage(c, page, next, func(s vault.Sweep) sweep { return wireSweep(&s) })
}

// changeSweep confirms a sweep, or stops it.
func (s *Server) changeSweep(change func(context.Context, vault.Caller, string) (*vault.Sweep, error)) echo.HandlerFunc {
	return func(c echo.Context) error {
		var in struct{}
		if _, err := bind(c, maxBody, &in); err != nil {
			return err
		}
		changed, err := change(c.Request().Context(), caller(c), c.Param("sweep"))
		if err != nil {
			return err
		}
		return sendJSON(c, http.StatusOK, wireSweep(changed))
	}
}

// plan is a plan of retention on the wire.
type plan struct {
	ID         string              `json:"id"`
	State      string              `json:"state"`
	Collection string              `json:"collection"`
	AsOf       string              `json:"as_of"`
	Hash       string              `json:"hash,omitempty"`
	Counts     planCounts          `json:"counts"`
	Skipped    map[string]int64    `json:"skipped"`
	Rules      []vault.PlannedRule `json:"rules"`
	Created    string              `json:"created_at"`
	Expires    string              `json:"expires_at"`
	Sweep      *sweep              `json:"sweep,omitempty"` // that executes it
}

// planCounts are how many records a plan is about, and by what.
type planCounts struct {
	Due     int64            `json:"due"`
	Rules   map[string]int64 `json:"rules"`
	Actions map[string]int64 `json:"actions"`
}

func wirePlan(p *vault.RetentionPlan) plan {
	orNone := func(m map[string]int64) map[string]int64 {
		if m == nil {
			return map[string]int64{}
		}
		return m
	}
	out := plan{p.ID, p.State, p.Collection, formatTime(p.AsOf), p.Hash, planCounts{p.Counts.Due, orNone(p.Counts.Rules), orNone(p.Counts.Actions)},
		orNone(p.Counts.Skipped), p.Rules, formatTime(p.Created), formatTime(p.Expires), nil}
	if out.Rules == nil {
		out.Rules = []vault.PlannedRule{}
	}
	if p.Outcome != nil {
		s := wireSweep(p.Outcome)
		out.Sweep = &s
	}
	return out
}

func (s *Server) makePlan(c echo.Context) error {
	var in struct {
		Collection string     `json:"collection"`
		AsOf       *time.Time `json:"as_of"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	made, err := s.vault.MakePlan(c.Request().Context(), caller(c), in.Collection, in.AsOf)
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusCreated, wirePlan(made))
}

func (s *Server) getPlan(c echo.Context) error {
	found, err := s.vault.GetPlan(c.Request().Context(), caller(c), c.Param("plan"))
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusOK, wirePlan(found))
}

// planItem is one record of a plan on the wire.
type planItem struct {
	Record  string `json:"record"`
	Rule    string `json:"rule"`
	Action  string `json:"action"`
	Skipped string `json:"skipped,omitempty"`
	Outcome string `json:"outcome,omitempty"`
}

func (s *Server) listPlanItems(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	page, next, err := s.vault.ListPlanItems(c.Request().Context(), caller(c), c.Param("plan"), c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	return sendPage(c, page, next, func(i vault.PlanItem) planItem { return planItem(i) })
}

// executePlan answers 200 once the plan is executed, and 202 while jobs go on with it.
func (s *Server) executePlan(c echo.Context) error {
	var in struct {
		Hash string `json:"hash"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	done, err := s.vault.ExecutePlan(c.Request().Context(), caller(c), c.Param("plan"), in.Hash)
	if err != nil {
		return err
	}
	if done.Outcome == nil || done.Outcome.Finished == nil {
		return sendJSON(c, http.StatusAccepted, wirePlan(done))
	}
	return sendJSON(c, http.StatusOK, wirePlan(done))
}

// summary is a quarter of retention on the wire.
type summary struct {
	Quarter    string           `json:"quarter"`
	From       string           `json:"from"`
	To         string           `json:"to"`
	Sweeps     int64            `json:"sweeps"`
	Stopped    int64            `json:"stopped"`
	Waiting    int64            `json:"waiting"`
	Deleted    int64            `json:"deleted"`
	Anonymised int64            `json:"anonymised"`
	Rules      map[string]int64 `json:"rules"`
	Last       string           `json:"last_completed_at,omitempty"`
	Overdue    int64            `json:"overdue"`
	Held       int64            `json:"held"`
	Oldest     string           `json:"oldest_overdue_since,omitempty"`
}

var quarterShape = regexp.MustCompile(`^(20\d\d)-Q([1-4])$`)

func (s *Server) retentionSummary(c echo.Context) error {
	quarter := c.QueryParam("quarter")
	found := quarterShape.FindStringSubmatch(quarter)
	if found == nil {
		return invalid("", "quarter", "quarter is a year and a quarter, such as 2026-Q4")
	}
	year, _ := strconv.Atoi(found[1]) // four digits
	n, _ := strconv.Atoi(found[2])    // one
	from := time.Date(year, time.Month(3*n-2), 1, 0, 0, 0, 0, time.UTC)
	sum, err := s.vault.SummariseRetention(c.Request().Context(), caller(c), from, from.AddDate(0, 3, 0))
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusOK, summary{quarter, formatTime(sum.From), formatTime(sum.To), sum.Sweeps, sum.Stopped, sum.Waiting, sum.Counts.Deleted, sum.Counts.Anonymised,
		sum.Counts.Rules, formatTimeIf(sum.Last), sum.Overdue, sum.Counts.Held, formatTimeIf(sum.OldestSince)})
}

// simulation is what new rules would do, on the wire.
type simulation struct {
	Records   int64   `json:"records"`
	Exact     bool    `json:"exact"`
	DueNow    int64   `json:"due_now"`
	DueBefore int64   `json:"due_before"`
	DueIn     []dueIn `json:"due_in"`
	Hash      string  `json:"hash"`
}

type dueIn struct {
	Days    int   `json:"days"`
	Records int64 `json:"records"`
}

func wireSimulation(s *vault.Simulation) simulation {
	out := simulation{s.Records, s.Exact, s.DueNow, s.DueBefore, make([]dueIn, 0, len(s.DueIn)), s.Hash}
	for _, d := range s.DueIn {
		out.DueIn = append(out.DueIn, dueIn(d))
	}
	return out
}

func (s *Server) simulateRetention(c echo.Context) error {
	var in struct {
		Collection string           `json:"collection"`
		Definition vault.Definition `json:"definition"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	done, err := s.vault.SimulateRetention(c.Request().Context(), caller(c), in.Collection, in.Definition)
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusOK, wireSimulation(done))
}
