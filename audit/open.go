package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrNotRegular is that of a file in the log's folder which is none: a symbolic
// link, a named pipe, a device.
var ErrNotRegular = errors.New("not a regular file")

// OpenFile is os.OpenFile for the files in the folder of a log. They belong to
// the user who serves, and may be read by root: a link would lead root to any
// other file, and a pipe would never answer. So nothing but a regular file is
// opened, and nothing is waited for.
func OpenFile(path string, flag int, perm os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, perm)
	if err != nil {
		// Some of what is no file cannot be opened at all.
		if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
			return nil, notRegular(path, info.Mode())
		}
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = notRegular(path, info.Mode())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openFile is OpenFile for reading.
func openFile(path string) (*os.File, error) { return OpenFile(path, os.O_RDONLY, 0) }

func notRegular(path string, mode fs.FileMode) error {
	return &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("it is %s, %w", modeWord(mode), ErrNotRegular)}
}

func modeWord(mode fs.FileMode) string {
	switch mode.Type() {
	case fs.ModeDir:
		return "a folder"
	case fs.ModeSymlink:
		return "a symbolic link"
	case fs.ModeNamedPipe:
		return "a named pipe"
	case fs.ModeSocket:
		return "a socket"
	}
	return "a device"
}
