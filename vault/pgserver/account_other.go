//go:build !linux

package pgserver

import (
	"errors"
	"os"
	"syscall"
)

// attributes has no death signal, Linux alone has it: after a kill -9 of ours
// the server stays, and the next Start names it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

func serverAccount(string) (account, error) {
	if os.Geteuid() == 0 {
		return account{}, errors.New("root is refused by Postgres: start as another user")
	}
	return account{}, nil
}

// runsIn tells whether the process is alive; of its folder nothing is known here.
func runsIn(pid int, _ string) bool {
	return syscall.Kill(pid, 0) == nil
}
