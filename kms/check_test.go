package kms_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/kms/kmstest"
)

// steps are those of findings; the last may have failed.
func steps(found []kms.Finding) (names []string) {
	for _, f := range found {
		names = append(names, f.Step)
	}
	return names
}

func TestCheck(t *testing.T) {
	t.Parallel()
	found := kms.Check(t.Context(), kmstest.LocalURI(t), kms.Options{}, time.Minute)
	if diff := cmp.Diff([]string{"open", "wrap", "unwrap", "bind"}, steps(found)); diff != "" {
		t.Error(diff)
	}
	for _, f := range found {
		if f.Err != nil || f.Spare || f.First <= 0 {
			t.Errorf("%+v", f)
		}
	}
	if found := kms.Check(t.Context(), "local:///nowhere", kms.Options{}, time.Minute); len(found) != 1 || found[0].Err == nil {
		t.Errorf("no keyset: %+v, want one finding, with an error", found)
	}
}

// wantDenied checks that the check ended with this step, for want of this permission.
func wantDenied(t *testing.T, found []kms.Finding, step, permission string) {
	t.Helper()
	last := found[len(found)-1]
	if last.Step != step || !errors.Is(last.Err, kms.ErrDenied) || kms.MissingPermission(last.Err) != permission {
		t.Errorf("ended with %s, %v, missing %q; want %s, ErrDenied, missing %q", last.Step, last.Err, kms.MissingPermission(last.Err), step, permission)
	}
}

// TestCheckTransit: what the first Wrap needs of decrypt is told from what it needs of encrypt.
func TestCheckTransit(t *testing.T) {
	t.Parallel()
	for operation, step := range map[string]string{"encrypt": "wrap", "decrypt": "wrap"} {
		s := kmstest.NewTransitServer(t, false)
		uri := transitCreate(t, s, "root")
		s.Forbid(operation, true)
		wantDenied(t, kms.Check(t.Context(), uri, s.ByToken(), time.Minute), step,
			`the capability "update" on team/transit/`+operation+"/root, or a valid token")
	}
	s := kmstest.NewTransitServer(t, false)
	uri := transitCreate(t, s, "root")
	s.SetDeaf(true)
	found := kms.Check(t.Context(), uri, s.ByToken(), time.Minute)
	if last := found[len(found)-1]; last.Err == nil || kms.MissingPermission(last.Err) != "" {
		t.Errorf("a server that binds nothing: %+v", found)
	}
	s.SetDown(true)
	found = kms.Check(t.Context(), uri, s.ByToken(), time.Minute)
	if last := found[len(found)-1]; !errors.Is(last.Err, kms.ErrUnavailable) {
		t.Errorf("a server that is down: %+v", found)
	}
}
