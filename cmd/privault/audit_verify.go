package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/privault/privault/vault/audit"
	"github.com/privault/privault/vault/durable"
)

type auditVerifyCmd struct {
	Source  string `arg:"" optional:"" help:"The log: its address (https://vault.example/audit) or a folder that privault audit mirror made."`
	Key     string `required:"" placeholder:"FILE" help:"The log's public keys (FILE.pub of privault audit keygen)."`
	Since   string `placeholder:"FILE" help:"A checkpoint that was verified before: the log must continue it. The new one takes its place."`
	Witness string `placeholder:"FILE" help:"Lines with the keys of witnesses: they must have signed a checkpoint that the log continues."`
	Quorum  int    `placeholder:"N" help:"With --witness: how many of them, at least. By default all."`
	Proof   string `placeholder:"FILE" help:"Check the proof of one entry instead (the answer of /v1/audit/entries/ID/proof): nothing else is needed."`
}

func (a *auditVerifyCmd) Run(ctx context.Context) error {
	keys, err := loadAuditKeys(a.Key)
	if err != nil {
		return err
	}
	if a.Proof != "" {
		return verifyProof(keys, a.Proof)
	}
	source, err := openTiles(ctx, a.Source)
	if err != nil {
		return err
	}
	signed, c, err := source.newest(keys)
	if err != nil {
		return err
	}
	if err := audit.Check(c, source.tile, nil); err != nil {
		return err
	}
	if a.Witness != "" {
		if err := a.witnessed(keys, c, source); err != nil {
			return err
		}
	}
	if a.Since != "" {
		if err := continues(keys, c, a.Since, source); err != nil {
			return err
		}
		if err := os.WriteFile(a.Since, signed, 0o600); err != nil {
			return err
		}
	}
	fmt.Printf("the log %s is whole: %d entries, root %s\n", c.Origin, c.Size, c.Root)
	return nil
}

// witnessed says whether enough witnesses have signed a checkpoint that the log continues.
func (a *auditVerifyCmd) witnessed(keys *audit.Keys, now audit.Checkpoint, source tiles) error {
	all, err := loadWitnesses(a.Witness)
	if err != nil {
		return err
	}
	signed, err := source("cosigned")
	if err != nil {
		return fmt.Errorf("what the witnesses have signed: %w", err)
	}
	known := make([]*audit.Witness, len(all))
	for i := range all {
		known[i] = all[i].Witness
	}
	c, by, err := keys.OpenCosigned(signed, known)
	if err != nil {
		return err
	}
	quorum := a.Quorum
	if quorum < 1 {
		quorum = len(all)
	}
	if len(by) < quorum {
		return fmt.Errorf("%d of the %d witnesses have signed the checkpoint of %d entries, which is fewer than %d", len(by), len(all), c.Size, quorum)
	}
	older, newer := c, now
	if older.Size > newer.Size { // it has grown since its checkpoint was read
		older, newer = now, c
	}
	if err := goesOn(newer, older, source, "what the witnesses have signed"); err != nil {
		return err
	}
	for _, w := range by {
		fmt.Printf("%s has signed the checkpoint of %d entries at %s\n", w.Witness, c.Size, w.At.Format(time.RFC3339))
	}
	return nil
}

// newest gives a log's newest checkpoint: as it was signed, and what it says.
func (t tiles) newest(keys *audit.Keys) (signed []byte, c audit.Checkpoint, err error) {
	if signed, err = t("checkpoint"); err != nil {
		return nil, c, err
	}
	c, err = keys.Open(signed)
	return signed, c, err
}

// continues says whether the log goes on from a checkpoint that was seen before; none yet is fine.
func continues(keys *audit.Keys, now audit.Checkpoint, path string, source tiles) error {
	signed, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	before, err := keys.Open(signed)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return goesOn(now, before, source, path)
}

// goesOn says whether a checkpoint continues an older one, which is called what.
func goesOn(newer, older audit.Checkpoint, source tiles, what string) error {
	root, _, err := audit.ProveConsistency(newer, older.Size, source.tile)
	if err != nil {
		return fmt.Errorf("the log doesn't continue %s: %w", what, err)
	}
	if root != older.Root {
		return fmt.Errorf("the log doesn't continue %s: its first %d entries are others now", what, older.Size)
	}
	return nil
}

// verifyProof checks that an entry is in the log, offline.
func verifyProof(keys *audit.Keys, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var p struct {
		Entry, Salt, Tenant, Checkpoint string
		Index                           int64       `json:"leaf_index"`
		Hashes                          []tlog.Hash `json:"proof"`
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return fmt.Errorf("%s is not the proof of an entry: %w", path, err)
	}
	c, err := keys.Open([]byte(p.Checkpoint))
	if err != nil {
		return err
	}
	salt, bad := hex.DecodeString(p.Salt)
	tenant, worse := hex.DecodeString(p.Tenant)
	if bad != nil || worse != nil || len(salt) != 16 || len(tenant) != 16 {
		return fmt.Errorf("%s: salt and tenant are 16 bytes, hex", path)
	}
	leaf := audit.Leaf([16]byte(salt), [16]byte(tenant), []byte(p.Entry))
	if err := audit.CheckInclusion(c, p.Index, leaf[:], p.Hashes); err != nil {
		return fmt.Errorf("the entry is not in the log: %w", err)
	}
	fmt.Printf("the entry is number %d of %d in the log %s\n", p.Index, c.Size, c.Origin)
	return nil
}

type auditMirrorCmd struct {
	Source string `arg:"" help:"The log's address (https://vault.example/audit)."`
	Folder string `arg:"" help:"Folder to copy it to. What is there already is not fetched again."`
	Key    string `required:"" placeholder:"FILE" help:"The log's public keys."`
}

func (a *auditMirrorCmd) Run(ctx context.Context) error {
	keys, err := loadAuditKeys(a.Key)
	if err != nil {
		return err
	}
	// Before the checkpoint: what the witnesses have signed must not reach beyond it. A log may have no witnesses.
	source, err := openTiles(ctx, a.Source)
	if err != nil {
		return err
	}
	cosigned, unwitnessed := source("cosigned")
	signed, c, err := source.newest(keys)
	if err != nil {
		return err
	}
	err = audit.TilesOf(c.Size, func(t tlog.Tile) error {
		path := filepath.Join(a.Folder, filepath.FromSlash(audit.Path(t)))
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		data, err := source(audit.Path(t))
		if err != nil {
			return err
		}
		return keep(path, data)
	})
	if err != nil {
		return err
	}
	if unwitnessed == nil {
		if err := keep(filepath.Join(a.Folder, "cosigned"), cosigned); err != nil {
			return err
		}
	}
	// Last: a copy that was broken off has the checkpoint of the one before.
	return keep(filepath.Join(a.Folder, "checkpoint"), signed)
}

// keep writes a file whole or not at all, for what is there is not fetched again.
func keep(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.Replace(path, data)
}

// tiles reads what lies under a path of a log.
type tiles func(path string) ([]byte, error)

// tile reads a tile, or the full one where a partial one is no longer there.
func (t tiles) tile(asked tlog.Tile) ([]byte, error) {
	data, err := t(audit.Path(asked))
	if err != nil && asked.W < audit.TileWidth {
		asked.W = audit.TileWidth
		if whole, failed := t(audit.Path(asked)); failed == nil {
			return whole, nil
		}
	}
	return data, err
}

// maxTile is more than any tile or bundle of ours has.
const maxTile = 64 << 10

func openTiles(ctx context.Context, source string) (tiles, error) {
	u, err := url.Parse(source)
	if source == "" || err != nil {
		return nil, &configError{[]string{"name the log: its address, or a folder"}}
	}
	if u.Scheme == "" {
		return func(path string) ([]byte, error) {
			return os.ReadFile(filepath.Join(source, filepath.FromSlash(path)))
		}, nil
	}
	client := &http.Client{Timeout: 30 * time.Second}
	return func(path string) ([]byte, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(source, "/")+"/"+path, nil)
		if err != nil {
			return nil, err
		}
		res, err := client.Do(r)
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s: the log answers %s", path, res.Status)
		}
		return io.ReadAll(io.LimitReader(res.Body, maxTile))
	}, nil
}
