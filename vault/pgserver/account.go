package pgserver

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// account is whom Postgres runs as: the caller, or, since Postgres refuses
// root, another user in root's place.
type account struct {
	other    bool
	uid, gid int // meaningful when other
}

func (a account) String() string {
	if !a.other {
		return "the current user"
	}
	return fmt.Sprintf("uid %d (Postgres refuses root)", a.uid)
}

// command prepares a Postgres program. It gets a process group of its own, so
// that a terminal's Ctrl-C doesn't reach it past us, and none of our
// environment, which may hold secrets.
func (a account) command(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = "/" // ours may be closed to the other user
	cmd.Env = []string{"PATH=" + filepath.Dir(path) + ":/usr/local/bin:/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = attributes()
	if a.other {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return cmd
}

// share returns the name by which the command can open f.
//
// Root's folders are often closed to the other user (/root, a temporary folder
// of mode 0700), who then can't reach what lies in them, though it be his own.
// So he inherits the open file and names it through /proc, which leads to it
// without walking the path. That takes no capability (CAP_DAC_OVERRIDE would let
// the server write anywhere on the machine) and opens no folder.
func (a account) share(cmd *exec.Cmd, f *os.File) string {
	if !a.other {
		return f.Name()
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	return fmt.Sprintf("/proc/self/fd/%d", 2+len(cmd.ExtraFiles))
}

// own hands a file or folder of ours to the account.
func (a account) own(path string) error {
	if !a.other {
		return nil
	}
	return os.Lchown(path, a.uid, a.gid)
}
