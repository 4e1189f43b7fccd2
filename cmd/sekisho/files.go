package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// mostBytes is the size of the largest file that is read.
const mostBytes = 64 << 20

// readFile reads a regular file whole. Anything else could block for ever, or
// never end.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("it is not a regular file")}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, mostBytes+1))
	if err != nil {
		return nil, err
	}
	if len(content) > mostBytes {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("it is larger than %d MiB", mostBytes>>20)}
	}
	return content, nil
}

// isNotExist reports whether nothing is at path.
func isNotExist(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// reason is what an error of package os says beside the path, which is told
// elsewhere.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// A newFile is a file to be written.
type newFile struct {
	name    string
	content []byte
	perm    fs.FileMode
}

// writeNew writes the files into dir, which it makes if need be, durably. It
// writes all of them or none, and never over one that is there.
func writeNew(dir string, files []newFile) (err error) {
	made, err := makeFolder(dir)
	var undo []string
	defer func() {
		if err == nil {
			return
		}
		for i := len(undo) - 1; i >= 0; i-- {
			os.Remove(undo[i])
		}
		for _, folder := range made {
			os.Remove(folder) // only while it is empty
		}
	}()
	if err != nil {
		return err
	}
	temporary := make([]string, len(files))
	for i, file := range files {
		temporary[i], err = writeTemporary(dir, file)
		if temporary[i] != "" {
			undo = append(undo, temporary[i])
		}
		if err != nil {
			return err
		}
	}
	for i, file := range files {
		path := filepath.Join(dir, file.name)
		if err = moveNew(temporary[i], path); err != nil {
			return fmt.Errorf("making %s: %w", path, reason(err))
		}
		undo = append(undo, path)
	}
	for _, folder := range append(made, dir) {
		if err = syncFolder(folder); err != nil {
			return err
		}
	}
	return nil
}

// makeFolder makes dir and what is missing above it, and returns what it made,
// the deepest first.
func makeFolder(dir string) (made []string, err error) {
	var missing []string
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); err == nil || !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			break
		}
		missing = append(missing, at)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		if err := os.Mkdir(missing[i], 0o755); err != nil {
			return made, err
		}
		made = append([]string{missing[i]}, made...)
		if err := os.Chmod(missing[i], 0o755); err != nil { // whatever the umask says
			return made, err
		}
		if err := syncFolder(filepath.Dir(missing[i])); err != nil {
			return made, err
		}
	}
	return made, nil
}

func writeTemporary(dir string, file newFile) (path string, err error) {
	f, err := os.CreateTemp(dir, "."+file.name+".*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(file.content)
	return f.Name(), errors.Join(err, f.Chmod(file.perm), f.Sync(), f.Close())
}

// moveNew renames a file, unless there is one of the new name.
func moveNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // not on every file system
		if err = os.Link(from, to); err == nil {
			err = os.Remove(from)
		}
	}
	return err
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// replaceFile writes a file in the place of what may be there, durably and in
// one step. The one that is there keeps its mode and owner.
func replaceFile(path string, content []byte, perm fs.FileMode) (err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // a link stays one
	}
	info, err := os.Stat(path)
	if err == nil {
		perm = info.Mode().Perm()
	}
	temporary, err := writeTemporary(filepath.Dir(path), newFile{filepath.Base(path), content, perm})
	if err == nil && info != nil && (ownerOf(info) != os.Geteuid() || groupOf(info) != os.Getegid()) {
		err = os.Chown(temporary, ownerOf(info), groupOf(info))
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		if temporary != "" {
			os.Remove(temporary)
		}
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// lockName is the file by which commands keep each other from changing files of
// a folder. Only who may change them can open it: a lock of the folder itself
// could be held by anybody who may look into it.
const lockName = ".sekisho.lock"

// lockFolder keeps other commands from changing files in a folder meanwhile.
func lockFolder(dir string) (unlock func(), err error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			f.Close()
			return nil, fmt.Errorf("another command holds %s: %w", path, err)
		}
	}
}
