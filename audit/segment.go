package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// A disk is where segments are written. Tests put one in that fails.
type disk interface {
	OpenFile(name string, flag int, perm os.FileMode) (file, error)
	Remove(name string) error
	Rename(from, to string) error
	Symlink(to, name string) error
	SyncDir(dir string) error
}

type file interface {
	io.WriteCloser
	Sync() error
	Truncate(size int64) error
	Stat() (os.FileInfo, error)
}

type osDisk struct{}

func (osDisk) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	f, err := OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (osDisk) Remove(name string) error { return os.Remove(name) }

func (osDisk) Rename(from, to string) error { return os.Rename(from, to) }

func (osDisk) Symlink(to, name string) error { return os.Symlink(to, name) }

// SyncDir makes the names in dir durable: a file that was synced is still lost
// with its name.
func (osDisk) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// inPlace returns an error unless the file is the one at the path. What is
// written to it is nowhere otherwise, though every fsync succeeds. While the
// file is open, no other can be taken for it.
func inPlace(file os.FileInfo, path string) error {
	info, err := os.Lstat(path) // a link to the file elsewhere is not the file
	if err == nil && !os.SameFile(file, info) {
		err = fmt.Errorf("%s is another file now", path)
	}
	return err
}

// A segment is the piece that is being written.
type segment struct {
	file
	path string
	stem string
	info os.FileInfo
	size int64 // up to here it is acknowledged
	born time.Time
}

// create makes the file for the records from first on and makes its name
// durable. If that fails, made tells whether a file of that name may be left.
func create(d disk, dir string, first uint64, now time.Time) (s *segment, made bool, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, false, fmt.Errorf("audit: list the segments: %w", err)
	}
	nth := 0 // after all that began here and failed, whatever they are now: somebody's link stops no record
	for _, e := range entries {
		if p, ok := parsePieceName(e.Name()); ok && p.first == first {
			nth = max(nth, p.nth+1)
		}
	}
	stem := stem(first, nth)
	path := filepath.Join(dir, stem+plainEnd)
	f, err := d.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, false, err
	}
	s = &segment{file: f, path: path, stem: stem, born: now}
	if s.info, err = f.Stat(); err == nil {
		err = d.SyncDir(dir)
	}
	if err != nil {
		undone := s.remove(d) == nil && d.SyncDir(dir) == nil
		s.Close()
		return nil, !undone, err
	}
	return s, true, nil
}

// remove removes the file, but no other that has come into its place.
func (s *segment) remove(d disk) error {
	if s.info != nil {
		if err := inPlace(s.info, s.path); err != nil {
			return err
		}
	}
	return d.Remove(s.path)
}

// check returns an error unless the segment is still the file at its path.
func (s *segment) check() error {
	if err := inPlace(s.info, s.path); err != nil {
		return fmt.Errorf("the segment is gone: %w", err)
	}
	return nil
}

// put writes b and waits until it is on stable storage. The caller has to check
// that this is still in the folder.
func (s *segment) put(b []byte) error {
	if _, err := s.Write(b); err != nil {
		return err
	}
	return s.Sync()
}

// abandon closes a segment that failed and takes back what was not
// acknowledged. It reports whether that is durably gone.
//
// The descriptor still serves to ask for the truncation: a failed fsync makes
// later ones lie about the data that was lost, not about the size.
func (s *segment) abandon(d disk) bool {
	gone := s.Truncate(s.size) == nil && s.Sync() == nil
	if s.size == 0 {
		s.remove(d) // it would be in nobody's way, but a long outage would leave many
	}
	s.Close()
	return gone
}
