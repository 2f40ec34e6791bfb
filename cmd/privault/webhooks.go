package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/privault/privault/api/egress"
	"github.com/privault/privault/vault"
)

// Webhooks says where else than to public servers events may be sent.
type Webhooks struct {
	WebhookNetworks []string `name:"webhook-networks" env:"PRIVAULT_WEBHOOK_NETWORKS" placeholder:"CIDR" help:"Private networks that webhooks may be sent into, e.g. 10.1.0.0/16; public addresses always are."`
	WebhookCA       string   `name:"webhook-ca" env:"PRIVAULT_WEBHOOK_CA" placeholder:"FILE" help:"CA bundle (PEM) that receivers of webhooks are verified with, in place of the machine's."`
}

func (w *Webhooks) check(bad func(string, ...any)) {
	if _, err := w.reach(); err != nil {
		bad("%v", err)
	}
}

func (w *Webhooks) reach() (r egress.Rules, err error) {
	for _, text := range w.WebhookNetworks {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return r, errors.New("--webhook-networks are networks, e.g. 10.1.0.0/16")
		}
		r.Networks = append(r.Networks, p.Masked())
	}
	if w.WebhookCA != "" {
		if r.Roots, err = loadPool(w.WebhookCA); err != nil {
			return r, fmt.Errorf("--webhook-ca: %w", err)
		}
	}
	return r, nil
}

// courier sends webhooks where the settings allow it.
func (w *Webhooks) courier() (vault.Courier, error) {
	r, err := w.reach()
	return courierBy(r), err
}

func courierBy(r egress.Rules) vault.Courier {
	return vault.Courier{Check: r.CheckWebhook, Post: r.PostWebhook}
}
