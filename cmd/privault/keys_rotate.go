package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/privault/privault/vault"
)

// operating is whose keys are worked on, by whoever has the database and the KMS at hand.
type operating struct {
	Tenant     string `xor:"whose" required:"" placeholder:"NAME" help:"Whose keys."`
	Deployment bool   `xor:"whose" required:"" help:"The deployment's own keys, which API keys are checked by, and not a tenant's."`
	Database   `embed:""`
	Keys       `embed:""`
}

// open opens the vault, and gives the caller who stands for the operator.
func (o *operating) open(ctx context.Context) (*vault.Vault, vault.Caller, error) {
	v, err := openOperating(ctx, o.Database, o.Keys)
	if err != nil {
		return nil, vault.Caller{}, err
	}
	if o.Deployment {
		return v, vault.DeploymentOperator(), nil
	}
	who, err := v.Operator(ctx, o.Tenant)
	if err != nil {
		v.Close()
		return nil, who, err
	}
	return v, who, nil
}

func openOperating(ctx context.Context, d Database, k Keys) (*vault.Vault, error) {
	if err := operable(d, k); err != nil {
		return nil, err
	}
	return openVault(ctx, d, k, func(*vault.Config) {})
}

// operable says what is wrong with the settings of a command beside the server.
func operable(d Database, k Keys) error {
	var faults []string
	bad := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	d.check(bad, true)
	k.check(bad)
	if len(faults) > 0 {
		return &configError{faults}
	}
	return nil
}

type keysListCmd struct {
	operating `embed:""`
}

func (k *keysListCmd) Run(ctx context.Context) error {
	v, who, err := k.open(ctx)
	if err != nil {
		return err
	}
	defer v.Close()
	all, err := v.Keys(ctx, who)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, key := range all {
		if key.KMS != "" {
			fmt.Printf("wrapped by %s\n", key.KMS)
		}
	}
	fmt.Fprintln(w, "key\tversion\tstate\talgorithm\tcreated\tuses\tnext rotation\tpurpose")
	for _, key := range all {
		for _, version := range key.Versions {
			uses, next := "-", "-"
			if version.Uses != nil {
				uses = fmt.Sprint(*version.Uses)
			}
			if key.NextRotation != nil && version.Version == key.Version {
				next = key.NextRotation.Format(time.DateOnly)
			}
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", key.Name, version.Version, version.State, key.Algorithm,
				version.Created.Format(time.DateOnly), uses, next, key.Purpose)
		}
	}
	return w.Flush()
}

type keysRotateCmd struct {
	Name      string `arg:"" help:"The key, as privault keys list names it."`
	Wait      bool   `help:"Wait for the job that brings what exists under the new version, and show how far it is. The servers do the work."`
	operating `embed:""`
}

func (k *keysRotateCmd) Run(ctx context.Context) error {
	v, who, err := k.open(ctx)
	if err != nil {
		return err
	}
	defer v.Close()
	done, err := v.RotateKey(ctx, who, k.Name)
	if err != nil {
		return err
	}
	return tellRotation(ctx, v, who, done, k.Wait)
}

func tellRotation(ctx context.Context, v *vault.Vault, who vault.Caller, done vault.Rotation, wait bool) error {
	fmt.Printf("key %s\nversion %d\n", done.Name, done.Version)
	if done.Job == "" {
		return nil
	}
	fmt.Printf("job %s\n", done.Job)
	if !wait {
		return nil
	}
	return follow(ctx, v, who, done.Job)
}

type keysMoveCmd struct {
	To       string `required:"" placeholder:"URI" help:"The KMS key that is to wrap the root key: that of --kms, or one of --kms-keys."`
	Tenant   string `required:"" xor:"whose" placeholder:"NAME" help:"Whose keys."`
	All      bool   `required:"" xor:"whose" help:"The deployment's own keys, and those of all tenants that are under the same KMS key as they."`
	Wait     bool   `help:"Wait for the jobs that bring the directly wrapped data keys along. The servers do the work."`
	Database `embed:""`
	Keys     `embed:""`
}

func (k *keysMoveCmd) Run(ctx context.Context) error {
	v, err := openOperating(ctx, k.Database, k.Keys)
	if err != nil {
		return err
	}
	defer v.Close()
	if k.All {
		return k.moveAll(ctx, v)
	}
	who, err := v.Operator(ctx, k.Tenant)
	if err != nil {
		return err
	}
	done, moved, err := v.MoveRoot(ctx, who, k.To)
	switch {
	case err != nil:
		return err
	case !moved:
		fmt.Println("it is there already")
		return nil
	}
	return tellRotation(ctx, v, who, done, k.Wait)
}

// moveAll tells of the jobs that it starts: the old KMS key is needed until they have ended.
func (k *keysMoveCmd) moveAll(ctx context.Context, v *vault.Vault) error {
	jobs := map[string]vault.Caller{}
	moved := 0
	err := v.MoveRoots(ctx, k.To, func(who vault.Caller, done vault.Rotation) {
		moved++
		if done.Job != "" {
			jobs[done.Job] = who
		}
	})
	fmt.Printf("moved %d\n", moved)
	for job, who := range jobs {
		fmt.Printf("job %s\n", job)
		if k.Wait {
			err = errors.Join(err, follow(ctx, v, who, job))
		}
	}
	return err
}

// keyVersion is one version of a key.
type keyVersion struct {
	Name      string `arg:"" help:"The key, as privault keys list names it."`
	Version   int    `arg:"" help:"The version: an old one."`
	operating `embed:""`
}

func (k *keyVersion) end(ctx context.Context, end func(*vault.Vault, context.Context, vault.Caller, string, int) error) error {
	v, who, err := k.open(ctx)
	if err != nil {
		return err
	}
	defer v.Close()
	return end(v, ctx, who, k.Name, k.Version)
}

type keysRetireCmd struct {
	keyVersion `embed:""`
}

func (k *keysRetireCmd) Run(ctx context.Context) error { return k.end(ctx, (*vault.Vault).RetireKey) }

type keysDestroyCmd struct {
	keyVersion `embed:""`
}

func (k *keysDestroyCmd) Run(ctx context.Context) error { return k.end(ctx, (*vault.Vault).DestroyKey) }

// follow shows how far a job is until it ends.
func follow(ctx context.Context, v *vault.Vault, who vault.Caller, id string) error {
	bar := newCountBar("waiting for a server")
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		job, err := v.Job(ctx, who, id)
		if err != nil {
			return err
		}
		if job.Total != nil {
			bar.Describe(job.Kind)
			bar.ChangeMax64(max(*job.Total, job.Done, 1))
		}
		_ = bar.Set64(job.Done) // it only shows
		if job.Finished != nil {
			_ = bar.Finish() // likewise
			if job.Problem != "" {
				return fmt.Errorf("the job failed: %s", job.Problem)
			}
			fmt.Printf("done %d\n", job.Done)
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
