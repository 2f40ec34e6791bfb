package kms

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxLocalFile is far above a keyset of a thousand keys.
const maxLocalFile = 1 << 20

// readPrivate reads a file that nobody but its owner can read. It checks against carelessness, not against
// whoever can write to the folder. The kind of file is looked at before it is opened, because opening a pipe
// would wait.
func readPrivate(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o: others than its owner may use it; run chmod 600 on it", path, mode)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLocalFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxLocalFile {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, maxLocalFile)
	}
	return b, nil
}

// create writes a new file at path. It fails with fs.ErrExist if there is one, however late it appeared: a hard
// link, unlike a rename, doesn't replace.
func create(path string, content func() ([]byte, error)) error {
	return write(path, content, func(staged string) error {
		if err := os.Link(staged, path); err != nil {
			return err
		}
		return os.Remove(staged)
	})
}

// replace writes the file at path anew.
func replace(path string, content func() ([]byte, error)) error {
	return write(path, content, func(staged string) error { return os.Rename(staged, path) })
}

// write stages content beside path and has place put it there; a crash at any moment leaves the old file or the
// new one. The staged file doubles as the lock: only one process can make it, and content runs while we hold it,
// so a content that starts from the present file misses no other change to it.
func write(path string, content func() ([]byte, error), place func(staged string) error) error {
	staged := path + ".new"
	f, err := os.OpenFile(staged, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		// Not fs.ErrExist: to our callers that says that path exists.
		return fmt.Errorf("%s is there: another change is under way, or one was cut short; remove it if none is", staged)
	}
	if err != nil {
		return err
	}
	if err := stage(f, content); err != nil {
		return errors.Join(err, os.Remove(staged))
	}
	if err := place(staged); err != nil {
		return errors.Join(err, os.Remove(staged))
	}
	return syncFolder(filepath.Dir(path))
}

// stage closes f.
func stage(f *os.File, content func() ([]byte, error)) error {
	b, err := content()
	if err == nil {
		_, err = f.Write(b)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncFolder makes the names in dir durable; syncing a file says nothing about its name.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
