package pgserver

import (
	"os"
	"testing"
)

func TestAccount(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	uid, err := owner(s.data)
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		if uid != os.Geteuid() {
			t.Errorf("cluster of uid %d", uid)
		}
		return
	}
	if uid == 0 || uid != s.account.uid {
		t.Errorf("cluster of uid %d, account %v", uid, s.account)
	}
	// Whoever owns the cluster runs it, even if the usual account changes.
	stop(t, s)
	if err := os.Chown(s.data, 0, 0); err != nil {
		t.Fatal(err)
	}
	_, err = Start(t.Context(), Config{Dir: s.dir})
	wantError(t, err, "belongs to root")
}

func TestFirstCommon(t *testing.T) {
	t.Parallel()
	a, err := firstCommon("root:x:0:0::/:/bin/sh\nbroken\nzoe:x:1002:7::/:/bin/sh\nann:x:1001:6::/:/bin/sh\n")
	if err != nil || a != (account{other: true, uid: 1001, gid: 6}) {
		t.Errorf("%v, %v", a, err)
	}
	_, err = firstCommon("root:x:0:0::/:/bin/sh\n")
	wantError(t, err, "no other user")
}
