package vault

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/privault/privault/vault/durable"
)

// safekeeping keeps the newest checkpoint in a file outside the database: what shows that a database was set back, or that
// a copy of it has a sequencer of its own. Where several replicas share the file, it also keeps them apart; where each
// has its own, each is a witness to the others.
type safekeeping struct{ path string }

// hold locks the file and hands its content to stage, nil if there is none. What stage gives is written, durable, and then
// settle is called. If somebody else holds the file, nothing is done. A nil safekeeping keeps nothing.
func (s *safekeeping) hold(stage func([]byte) ([]byte, error), settle func() error) error {
	if s == nil {
		if _, err := stage(nil); err != nil {
			return err
		}
		return settle()
	}
	lock, err := os.OpenFile(s.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("the copy of the newest checkpoint: %w", err)
	}
	defer lock.Close() // and with it the lock goes
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil
		}
		return fmt.Errorf("the copy of the newest checkpoint: %w", err)
	}
	held, err := os.ReadFile(s.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the copy of the newest checkpoint: %w", err)
	}
	next, err := stage(held)
	if err != nil {
		return err
	}
	if string(next) != string(held) {
		if err := durable.Replace(s.path, next); err != nil {
			return fmt.Errorf("the copy of the newest checkpoint: %w", err)
		}
	}
	return settle()
}
