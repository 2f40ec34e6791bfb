package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// exitConfirm is that of a sweep that somebody has to confirm, and of one that stopped or failed: cron's mail says why.
const exitConfirm = 3

type sweepCmd struct {
	DryRun     bool   `help:"Only count what is due."`
	Collection string `help:"Sweep this collection alone."`
	Wait       bool   `help:"Wait until the sweep has ended, and show how far it is. The servers do the work."`
	Confirm    string `placeholder:"SWEEP" help:"Let the sweep of this id go on, which waits because it would take more than is usual."`

	connection `embed:""`
}

// sweepState is what the command needs to know of a sweep.
type sweepState struct {
	ID         string          `json:"id"`
	State      string          `json:"state"`
	Reason     string          `json:"reason"`
	Due        int64           `json:"due"`
	Deleted    int64           `json:"deleted"`
	Anonymised int64           `json:"anonymised"`
	Held       int64           `json:"held"`
	Restricted int64           `json:"restricted"`
	Minimum    int64           `json:"minimum"`
	Unreadable int64           `json:"unreadable"`
	Remaining  int64           `json:"remaining"`
	Braked     json.RawMessage `json:"braked"`
	Finished   string          `json:"finished_at"`
}

// unfinishedSweep is a sweep that didn't do all that was asked for.
type unfinishedSweep struct{ s sweepState }

func (e *unfinishedSweep) Error() string {
	switch {
	case e.s.State == "needs_confirmation" && e.s.Reason == "clock-gap":
		return fmt.Sprintf("sweep %s waits: nobody has looked at the clock for a week, so it may have jumped; if the time is right, say --confirm %s", e.s.ID, e.s.ID)
	case e.s.State == "needs_confirmation":
		return fmt.Sprintf("sweep %s waits: it would take more than is usual (%s); if that is meant, somebody who may says --confirm %s", e.s.ID, e.s.Braked, e.s.ID)
	case e.s.Reason == "clock-anomaly":
		return fmt.Sprintf("sweep %s stopped: the clocks of server and database disagree, or went backwards; nothing more was deleted", e.s.ID)
	}
	return fmt.Sprintf("sweep %s is %s %s", e.s.ID, e.s.State, e.s.Reason)
}

func (c *sweepCmd) Run(ctx context.Context) error {
	if c.Confirm != "" && (c.DryRun || c.Collection != "") {
		return &configError{[]string{"--confirm goes with --wait alone: what is swept was said when the sweep began"}}
	}
	if err := c.credentials(); err != nil {
		return err
	}
	path, body := "/v1/retention/sweeps", map[string]any{"dry_run": c.DryRun}
	if c.Collection != "" {
		body["collection"] = c.Collection
	}
	if c.Confirm != "" {
		path, body = path+"/"+c.Confirm+"/confirm", map[string]any{}
	}
	sent, err := json.Marshal(body)
	if err != nil {
		return err
	}
	s, err := c.ask(ctx, http.MethodPost, path, sent)
	if err != nil {
		return err
	}
	fmt.Printf("sweep %s\n", s.ID)
	if !c.Wait {
		return nil
	}
	if s, err = c.follow(ctx, s); err != nil {
		return err
	}
	fmt.Printf("due %d\ndeleted %d\nanonymised %d\nheld %d\nrestricted %d\nminimum %d\nunreadable %d\nremaining %d\n",
		s.Due, s.Deleted, s.Anonymised, s.Held, s.Restricted, s.Minimum, s.Unreadable, s.Remaining)
	if s.State != "completed" {
		return &unfinishedSweep{s}
	}
	return nil
}

func (c *sweepCmd) ask(ctx context.Context, method, path string, body []byte) (s sweepState, err error) {
	status, answer, err := c.call(ctx, method, path, body, "")
	switch {
	case err != nil:
		return s, err
	case status >= http.StatusInternalServerError:
		return s, errors.Join(errTryAgain, errors.New(problemText(status, answer)))
	case status >= http.StatusBadRequest:
		return s, errors.New(problemText(status, answer))
	}
	return s, json.Unmarshal(answer, &s)
}

// follow shows how far a sweep is until it ends, or waits for somebody.
func (c *sweepCmd) follow(ctx context.Context, s sweepState) (sweepState, error) {
	bar := newCountBar("waiting for a server")
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		if s.State == "running" {
			bar.Describe("sweeping")
			bar.ChangeMax64(max(s.Due, 1))
		}
		_ = bar.Set64(s.Due - s.Remaining) // it only shows
		if s.Finished != "" || s.State == "needs_confirmation" {
			_ = bar.Finish() // likewise
			return s, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return s, ctx.Err()
		}
		next, err := c.ask(ctx, http.MethodGet, "/v1/retention/sweeps/"+s.ID, nil)
		if err != nil {
			return s, err
		}
		s = next
	}
}
