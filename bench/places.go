package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A place is where servers write their logs.
type place struct {
	name  string // tmpfs or disk
	dir   string // made for this run, gone at the end
	fs    string // its file system
	fsync time.Duration
}

// newPlace makes a folder in the one given, and measures it.
func newPlace(name, in string) (*place, error) {
	dir, err := os.MkdirTemp(in, "sekisho-bench-")
	if err != nil {
		return nil, err
	}
	p := &place{name: name, dir: dir}
	if err := os.Chmod(dir, 0o755); err != nil {
		return p, err
	}
	if p.fs, err = fileSystem(dir); err != nil {
		return p, err
	}
	p.fsync, err = fsyncTime(dir)
	return p, err
}

func (p *place) String() string {
	return fmt.Sprintf("%s: %s, an fsync takes %v", p.name, p.fs, p.fsync.Round(time.Microsecond))
}

// fileSystem is the name of the file system of a folder.
func fileSystem(dir string) (string, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return "", err
	}
	switch int64(fs.Type) {
	case unix.TMPFS_MAGIC:
		return "tmpfs", nil
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", nil
	case unix.XFS_SUPER_MAGIC:
		return "xfs", nil
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs", nil
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs", nil
	}
	return fmt.Sprintf("file system %#x", fs.Type), nil
}

// fsyncTime is the median time of appending 512 bytes, about a record, and an
// fsync.
func fsyncTime(dir string) (time.Duration, error) {
	f, err := os.Create(filepath.Join(dir, "fsync"))
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var took []float64
	for range 101 {
		began := time.Now()
		if _, err := f.Write(make([]byte, 512)); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took = append(took, float64(time.Since(began)))
	}
	return time.Duration(median(took)), nil
}
