package main

import (
	"context"
	"net/netip"
	"time"

	"github.com/privault/privault/api/limit"
	"github.com/privault/privault/vault"
)

// Alarms says what counts as sudden behaviour, and what is done about it.
type Alarms struct {
	Alarms string `name:"alarms" env:"PRIVAULT_ALARMS" placeholder:"FILE" help:"JSON file of rules about sudden behaviour, over the defaults (docs/operate.md)."`
}

// alarmFile is the file.
type alarmFile struct {
	Allow []netip.Prefix `json:"allow"`
	Rules map[string]struct {
		Off      bool           `json:"off"`
		Floor    int64          `json:"floor"`
		Factor   float64        `json:"factor"`
		Response string         `json:"response"`
		For      limit.Duration `json:"for"`
	} `json:"rules"`
}

func (a Alarms) check(bad func(string, ...any)) {
	rules, err := a.rules()
	if err != nil {
		bad("--alarms: %v", err)
	}
	for _, fault := range rules.Faults() {
		bad("--alarms: %s", fault)
	}
}

func (a Alarms) rules() (vault.AlarmRules, error) {
	rules := vault.AlarmRules{Rules: map[string]vault.AlarmRule{}}
	if a.Alarms == "" {
		return rules, nil
	}
	var in alarmFile
	err := readSettings(a.Alarms, &in)
	rules.Allow = in.Allow
	for kind, r := range in.Rules {
		rules.Rules[kind] = vault.AlarmRule{Off: r.Off, Floor: r.Floor, Factor: r.Factor, Response: r.Response, For: time.Duration(r.For)}
	}
	return rules, err
}

const watchEvery = 5 * time.Second

// watch looks for sudden behaviour.
func (s *service) watch(ctx context.Context) {
	if _, err := s.vault.Watch(ctx); err != nil {
		s.log.WarnContext(ctx, "what callers do is not compared", "error", err)
	}
}
