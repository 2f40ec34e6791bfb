package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/privault/privault/api/egress"
	"github.com/privault/privault/vault"
	"github.com/privault/privault/vault/audit"
)

// witness is somebody outside who signs the log's checkpoints.
type witness struct {
	*audit.Witness
	url string // empty: only its signatures are known
}

// loadWitnesses reads lines of a witness's key and, for who asks it, its address; what follows # is a comment.
func loadWitnesses(path string) (all []witness, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		w := witness{}
		if len(fields) > 2 {
			return nil, fmt.Errorf("%s: a line is a witness's key and its address", path)
		}
		if w.Witness, err = audit.ParseWitness(fields[0]); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if len(fields) == 2 {
			if !egress.Fetchable(fields[1]) {
				return nil, fmt.Errorf("%s: a witness's address is an https:// URL", path)
			}
			w.url = strings.TrimSuffix(fields[1], "/")
		}
		all = append(all, w)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s names no witness", path)
	}
	return all, nil
}

// askers are the witnesses that a server asks, and how.
type askers struct {
	keys      *audit.Keys
	witnesses []witness
	every     time.Duration
	private   bool
}

// ask gives what a server needs to ask witnesses; nil, if there are none.
func (w Witnesses) ask(a Audit) (*askers, error) {
	if w.Witnesses == "" {
		return nil, nil
	}
	keys, err := loadAuditKeys(a.AuditKey)
	if err != nil {
		return nil, err
	}
	all, err := loadWitnesses(w.Witnesses)
	return &askers{keys, all, w.WitnessEvery, w.WitnessPrivate}, err
}

// askWitnesses shows the newest checkpoint to every witness, now and then, until ctx ends.
func (s *service) askWitnesses(ctx context.Context) error {
	if s.witnesses == nil {
		return nil
	}
	tick := time.NewTicker(s.witnesses.every)
	defer tick.Stop()
	last := map[string]string{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.cosign(ctx, last); err != nil && ctx.Err() == nil {
				s.log.ErrorContext(ctx, "the witnesses' signatures are not kept", "error", err)
			}
		}
	}
}

// cosign collects the signatures for one checkpoint. last are the errors of the last time: they come back each time.
func (s *service) cosign(ctx context.Context, last map[string]string) error {
	signed, err := s.vault.Checkpoint(ctx)
	if err != nil {
		return nil //nolint:nilerr // there is none yet
	}
	cosigned, by := signed, []string(nil)
	for _, w := range s.witnesses.witnesses {
		line, err := s.ask(ctx, w, signed)
		if err == nil {
			cosigned, by = cosigned+line, append(by, w.Name())
			delete(last, w.Name())
		} else if text := err.Error(); last[w.Name()] != text && ctx.Err() == nil {
			last[w.Name()] = text
			s.log.WarnContext(ctx, "a witness has not signed", "witness", w.Name(), "error", text)
		}
	}
	if len(by) == 0 {
		return nil
	}
	return s.vault.KeepCosigned(ctx, cosigned, by)
}

// ask gets a witness's signature line for a checkpoint. A witness that has seen another size than was noted says so.
func (s *service) ask(ctx context.Context, w witness, signed string) (string, error) {
	seen := int64(-1)
	for range 2 {
		sub, err := s.vault.ForWitness(ctx, w.Name(), seen, signed)
		if err != nil {
			return "", err
		}
		status, answer, err := s.submit(ctx, w, sub)
		switch {
		case err != nil:
			return "", err
		case status == http.StatusOK:
			cosigned, err := s.witnesses.keys.Cosign(signed, answer, w.Witness)
			return strings.TrimPrefix(cosigned, signed), err
		case status != http.StatusConflict:
			return "", fmt.Errorf("it answers %d", status)
		}
		if seen, err = strconv.ParseInt(strings.TrimSpace(answer), 10, 64); err != nil || seen < 0 {
			return "", errors.New("it has seen another size, and doesn't say which")
		}
	}
	return "", errors.New("it keeps having seen another size")
}

const witnessTimeout = 10 * time.Second

func (s *service) submit(ctx context.Context, w witness, sub vault.Submission) (status int, answer string, err error) {
	ctx, cancel := context.WithTimeout(ctx, witnessTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+"/add-checkpoint", bytes.NewReader(audit.AddCheckpoint(sub.Seen, sub.Proof, sub.Signed)))
	if err != nil {
		return 0, "", err
	}
	res, err := egress.Client(w.url, s.witnesses.private).Do(r)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	return res.StatusCode, string(body), err
}
