package api

import (
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

// job is how far a job is, on the wire.
type job struct {
	ID       string `json:"id"`
	Kind     string `json:"kind"`
	State    string `json:"state"`
	Done     int64  `json:"done"`
	Total    *int64 `json:"total,omitempty"`
	Problem  string `json:"problem,omitempty"`
	Created  string `json:"created_at"`
	Started  string `json:"started_at,omitempty"`
	Finished string `json:"finished_at,omitempty"`
}

func jobOf(j vault.Job) job {
	return job{j.ID, j.Kind, j.State, j.Done, j.Total, j.Problem, formatTime(j.Created), formatTimeIf(j.Started), formatTimeIf(j.Finished)}
}

// formatTimeIf is empty for a time that has not come.
func formatTimeIf(t *time.Time) string {
	if t == nil {
		return ""
	}
	return formatTime(*t)
}

func (s *Server) getJob(c echo.Context) error {
	found, err := s.vault.Job(c.Request().Context(), caller(c), c.Param("job"))
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusOK, jobOf(found))
}
