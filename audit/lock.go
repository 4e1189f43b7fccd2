package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked is wrapped by the error of Open when another Log is open on the
// folder.
var ErrLocked = errors.New("the audit log is in use")

// A lock is a lock file that is held.
type lock struct {
	*os.File
	info os.FileInfo
}

// check returns an error unless the file is still the one at its path. If it
// is not, the lock keeps nobody out of the folder, or it is another folder.
func (k *lock) check() error {
	err := inPlace(k.info, k.Name())
	if err != nil {
		return fmt.Errorf("the lock file %s is gone or another's (%w): another writer may be at work; restart", k.Name(), err)
	}
	return nil
}

// How often a lock that is held is tried again, and how soon: Verify holds it
// for a moment, to see whether somebody writes.
const (
	lockTries = 10
	lockPause = 50 * time.Millisecond
)

// lockDir makes the caller the only writer of dir until the file is closed or
// the process ends, however it ends. The file itself stays: removing it would
// let two processes each lock one of the same name.
func lockDir(dir string) (*lock, error) {
	name := filepath.Join(dir, "lock")
	f, err := OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("audit: lock the log: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for range lockTries {
		if !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		time.Sleep(lockPause)
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		pid, _ := io.ReadAll(io.LimitReader(f, 20))
		f.Close()
		return nil, fmt.Errorf("audit: %w: process %s holds %s", ErrLocked, strings.TrimSpace(string(pid)), name)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("audit: lock %s: %w", name, err)
	}
	k := &lock{File: f}
	if k.info, err = f.Stat(); err == nil {
		err = k.check() // it may have been removed before it was locked
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("audit: lock the log: %w", err)
	}
	// The number is for people only, so that it is nothing to fail by.
	f.Truncate(0)
	f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return k, nil
}
