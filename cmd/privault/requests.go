package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/deadline"
)

type requestsCmd struct {
	List requestsListCmd `cmd:"" help:"List the requests of persons, those that are due first."`
}

type requestsListCmd struct {
	DueWithin time.Duration `placeholder:"TIME" help:"Only open ones that are due within, e.g. 168h; those that are overdue are among them."`
	DueBefore time.Time     `placeholder:"TIME" help:"Only open ones that are due before this time (RFC 3339)."`
	State     string        `help:"Only those in this state."`

	connection `embed:""`
}

// listedRequest is what the list shows of a request. It shows no subject: lists end up in mail.
type listedRequest struct {
	ID     string    `json:"id"`
	Type   string    `json:"type"`
	Regime string    `json:"regime"`
	State  string    `json:"state"`
	Due    time.Time `json:"due_at"`
	Paused string    `json:"paused_at"`
	Closed string    `json:"closed_at"`
}

// Run writes a table of requests.
func (l *requestsListCmd) Run(ctx context.Context) error {
	if l.DueWithin != 0 && !l.DueBefore.IsZero() {
		return &configError{[]string{"--due-within and --due-before exclude each other"}}
	}
	if err := l.credentials(); err != nil {
		return err
	}
	if l.DueWithin != 0 {
		l.DueBefore = time.Now().Add(l.DueWithin)
	}
	query := url.Values{"limit": {"200"}}
	if !l.DueBefore.IsZero() {
		query.Set("due_before", l.DueBefore.Format(time.RFC3339))
	}
	if l.State != "" {
		query.Set("state", l.State)
	}
	all, err := l.all(ctx, query)
	if err != nil {
		return err
	}
	slices.SortStableFunc(all, func(a, b listedRequest) int { return a.Due.Compare(b.Due) })
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DUE\tREQUEST\tTYPE\tREGIME\tSTATE\t")
	for _, r := range all {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Due.Format(time.DateOnly), r.ID, r.Type, r.Regime, r.State, r.remark())
	}
	return table.Flush()
}

// all reads every page.
func (l *requestsListCmd) all(ctx context.Context, query url.Values) (all []listedRequest, err error) {
	for {
		var page struct {
			Items []listedRequest `json:"items"`
			Next  string          `json:"next_cursor"`
		}
		status, body, err := l.call(ctx, http.MethodGet, "/v1/requests?"+query.Encode(), nil, "")
		if err != nil {
			return nil, err
		}
		if status != http.StatusOK {
			return nil, errors.New("list the requests: " + problemText(status, body))
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return nil, err
		}
		if all = append(all, page.Items...); page.Next == "" {
			return all, nil
		}
		query.Set("cursor", page.Next)
	}
}

func (r *listedRequest) remark() string {
	switch {
	case r.Closed != "":
		return ""
	case r.Paused != "":
		return "the clock stands still"
	case time.Now().After(r.Due):
		return "OVERDUE"
	}
	return ""
}

// Clocks says how requests of persons are dated.
type Clocks struct {
	RequestClocks string `name:"request-clocks" env:"PRIVAULT_REQUEST_CLOCKS" placeholder:"FILE" help:"JSON file of the time zone and the holidays of each regime, by which requests of persons are due (docs/requests.md). By default UTC and no holidays."`
}

// clockFile is the file.
type clockFile map[deadline.Regime]struct {
	Zone     string   `json:"zone"`
	Holidays []string `json:"holidays"`
}

func (c Clocks) check(bad func(string, ...any)) {
	if _, err := c.clocks(); err != nil {
		bad("--request-clocks: %v", err)
	}
}

func (c Clocks) clocks() (vault.Clocks, error) {
	if c.RequestClocks == "" {
		return nil, nil
	}
	var in clockFile
	if err := readSettings(c.RequestClocks, &in); err != nil {
		return nil, err
	}
	clocks := vault.Clocks{}
	for regime, set := range in {
		if _, err := deadline.For(regime, deadline.Access); err != nil {
			return nil, fmt.Errorf("there is no regime %q: they are gdpr, ccpa and hipaa", regime)
		}
		calendar, err := deadline.NewCalendar(set.Holidays...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", regime, err)
		}
		zone, err := time.LoadLocation(set.Zone)
		if err != nil || set.Zone == "Local" {
			return nil, fmt.Errorf("%s: the zone is one of the IANA time zones, e.g. Europe/Berlin", regime)
		}
		clocks[regime] = vault.Clock{Zone: zone, Calendar: calendar}
	}
	return clocks, nil
}
