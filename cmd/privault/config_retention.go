package main

import (
	"time"

	"github.com/privault/privault/vault"
)

// Retention says how a server sweeps what is due.
type Retention struct {
	SweepEvery time.Duration `env:"PRIVAULT_SWEEP_EVERY" default:"24h" help:"How often what is due is swept; 0: only when somebody asks (privault sweep)."`
	SweepLanes int           `env:"PRIVAULT_SWEEP_LANES" default:"2" help:"Jobs that a sweep has, which servers work beside each other."`
	SweepShare float64       `env:"PRIVAULT_SWEEP_SHARE" default:"0.05" help:"The share of a collection of which a sweep takes as much without a confirmation, up to 1."`
}

func (r Retention) check(bad func(string, ...any)) {
	if r.SweepEvery != 0 && r.SweepEvery < time.Hour {
		bad("--sweep-every is 0 or at least 1h")
	}
	if r.SweepLanes < 1 || r.SweepLanes > 64 {
		bad("--sweep-lanes is 1 to 64")
	}
	if r.SweepShare <= 0 || r.SweepShare > 1 {
		bad("--sweep-share is more than 0, and 1 at most")
	}
}

func (r Retention) apply(c *vault.Config) {
	c.SweepEvery, c.SweepLanes, c.SweepShare = r.SweepEvery, r.SweepLanes, r.SweepShare
}
