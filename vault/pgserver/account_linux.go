package pgserver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
)

// attributes of every process: SIGINT, Postgres's fast shutdown, comes when the
// thread that forked it ends.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
}

// serverAccount returns the user to run as: for root the owner of the cluster,
// for a new cluster the user postgres, else nobody, else the first common one.
func serverAccount(data string) (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	info, err := os.Stat(data)
	if err == nil {
		stat := info.Sys().(*syscall.Stat_t)
		if stat.Uid != 0 {
			return account{other: true, uid: int(stat.Uid), gid: int(stat.Gid)}, nil
		}
		if _, err := os.Stat(data + "/PG_VERSION"); err == nil {
			return account{}, fmt.Errorf("%s belongs to root, whom Postgres refuses: chown -R it to another user", data)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return account{}, err
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			return parseAccount(u.Uid, u.Gid)
		}
	}
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return account{}, err
	}
	return firstCommon(string(passwd))
}

// firstCommon returns the user with the lowest uid from 1000 on.
func firstCommon(passwd string) (account, error) {
	var first account
	for line := range strings.Lines(passwd) {
		fields := strings.Split(line, ":")
		if len(fields) < 4 {
			continue
		}
		a, err := parseAccount(fields[2], fields[3])
		if err == nil && a.uid >= 1000 && (!first.other || a.uid < first.uid) {
			first = a
		}
	}
	if !first.other {
		return first, errors.New("root is refused by Postgres and there is no other user: add one named postgres")
	}
	return first, nil
}

func parseAccount(uid, gid string) (account, error) {
	u, err := strconv.Atoi(uid)
	if err != nil {
		return account{}, err
	}
	g, err := strconv.Atoi(gid)
	return account{other: true, uid: u, gid: g}, err
}

// runsIn tells whether the process is alive and works in the folder, as a
// Postgres does in its data folder: a pid alone may be another's by now.
func runsIn(pid int, folder string) bool {
	cwd, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return false
	}
	info, err := os.Stat(folder)
	return err == nil && os.SameFile(cwd, info)
}
