package api

import (
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

// webhook is a webhook on the wire.
type webhook struct {
	Name        string     `json:"webhook"`
	Version     int32      `json:"version"`
	URL         string     `json:"url"`
	Events      []string   `json:"events"`
	Collections []string   `json:"collections,omitempty"`
	Purposes    []string   `json:"purposes,omitempty"`
	Recipient   *recipient `json:"recipient,omitempty"`
	State       string     `json:"state"`
	Failures    int        `json:"failures"`
	Paused      *string    `json:"paused_until,omitempty"`
	Disabled    *string    `json:"disabled_at,omitempty"`
	Created     string     `json:"created_at"`
	Updated     string     `json:"updated_at"`
	Secret      string     `json:"secret,omitempty"` // only where it was made just now
}

type recipient struct {
	Name    string `json:"name"`
	Country string `json:"country,omitempty"`
}

func wireWebhook(w *vault.Webhook) webhook {
	out := webhook{Name: w.Name, Version: w.Version, URL: w.URL, Events: w.Events, Collections: w.Collections, Purposes: w.Purposes, State: "enabled",
		Failures: w.Failures, Paused: formatOptional(w.Paused), Disabled: formatOptional(w.Disabled), Created: formatTime(w.Created), Updated: formatTime(w.Updated)}
	if w.Disabled != nil {
		out.State = "disabled"
	}
	if w.Recipient != nil {
		out.Recipient = &recipient{w.Recipient.Name, w.Recipient.Country}
	}
	return out
}

func (s *Server) putWebhook(c echo.Context) error {
	var in struct {
		URL         string         `json:"url"`
		Events      []string       `json:"events"`
		Collections []string       `json:"collections"`
		Purposes    []string       `json:"purposes"`
		Recipient   jsontext.Value `json:"recipient"`
	}
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	version, err := ifMatch(c)
	if err != nil {
		return err
	}
	w := vault.Webhook{Name: c.Param("webhook"), URL: in.URL, Events: in.Events, Collections: in.Collections, Purposes: in.Purposes}
	if w.Recipient, err = recipientOf(w.Name, in.Recipient); err != nil {
		return err
	}
	put, secret, created, err := s.vault.PutWebhook(c.Request().Context(), caller(c), w, version)
	if err != nil {
		return err
	}
	out := wireWebhook(put)
	out.Secret = secret
	return sendVersion(c, created, put.Version, out)
}

// recipientOf reads what makes a webhook a recipient: true, by the webhook's own name, or a name and a country.
func recipientOf(name string, raw jsontext.Value) (*vault.Recipient, error) {
	switch string(raw) {
	case "", "null", "false":
		return nil, nil
	case "true":
		return &vault.Recipient{Name: name}, nil
	}
	var in recipient
	if err := json.Unmarshal(raw, &in, json.RejectUnknownMembers(true)); err != nil {
		return nil, invalid("/recipient", "type", "recipient is true, or an object of a name and a country")
	}
	return &vault.Recipient{Name: in.Name, Country: in.Country}, nil
}

func (s *Server) getWebhook(c echo.Context) error {
	w, err := s.vault.GetWebhook(c.Request().Context(), caller(c), c.Param("webhook"))
	if err != nil {
		return err
	}
	return sendVersion(c, false, w.Version, wireWebhook(w))
}

func (s *Server) listWebhooks(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	page, next, err := s.vault.ListWebhooks(c.Request().Context(), caller(c), c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	return sendPage(c, page, next, wireWebhook)
}

func (s *Server) deleteWebhook(c echo.Context) error {
	version, err := ifMatch(c)
	if err != nil {
		return err
	}
	if err := s.vault.DeleteWebhook(c.Request().Context(), caller(c), c.Param("webhook"), version); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func (s *Server) rotateWebhookSecret(c echo.Context) error {
	if err := bindNothing(c); err != nil {
		return err
	}
	secret, until, err := s.vault.RotateWebhookSecret(c.Request().Context(), caller(c), c.Param("webhook"))
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusOK, struct {
		Secret   string `json:"secret"`
		Previous string `json:"previous_until"`
	}{secret, formatTime(until)})
}

// delivery is a delivery on the wire.
type delivery struct {
	ID           string  `json:"id"`
	Event        string  `json:"event"`
	State        string  `json:"state"`
	Attempts     int     `json:"attempts"`
	Created      string  `json:"created_at"`
	Next         *string `json:"next_attempt_at"`
	Status       *int    `json:"status_code"`
	Problem      string  `json:"problem,omitempty"`
	Delivered    *string `json:"delivered_at"`
	Acknowledged *string `json:"acknowledged_at"`
	Certificate  string  `json:"certificate,omitempty"`
}

func wireDelivery(d *vault.Delivery) delivery {
	return delivery{ID: d.ID, Event: d.Event, State: d.State, Attempts: d.Attempts, Created: formatTime(d.Created), Next: formatTimeOrNull(d.Next),
		Status: d.Status, Problem: d.Problem, Delivered: formatTimeOrNull(d.Delivered), Acknowledged: formatTimeOrNull(d.Acknowledged), Certificate: d.Certificate}
}

func (s *Server) listDeliveries(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	page, next, err := s.vault.ListDeliveries(c.Request().Context(), caller(c), c.Param("webhook"), c.QueryParam("state"), c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	return sendPage(c, page, next, wireDelivery)
}

func (s *Server) redeliver(c echo.Context) error {
	if err := bindNothing(c); err != nil {
		return err
	}
	d, err := s.vault.Redeliver(c.Request().Context(), caller(c), c.Param("webhook"), c.Param("delivery"))
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusAccepted, wireDelivery(d))
}

func (s *Server) acknowledge(c echo.Context) error {
	if err := bindNothing(c); err != nil {
		return err
	}
	d, err := s.vault.Acknowledge(c.Request().Context(), caller(c), c.Param("webhook"), c.Param("delivery"))
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusOK, wireDelivery(d))
}
