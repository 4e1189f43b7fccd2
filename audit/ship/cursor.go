package ship

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"sekisho/audit"
)

// A cursor is where in the log to go on.
type cursor struct {
	Next uint64 `json:"next"`           // seq of the first record that may not have arrived
	Last string `json:"last,omitempty"` // SHA-256 of the line before it, by which a log is known again
}

func hash(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

// readCursor returns the zero cursor, the beginning of the log, if there is no
// such file.
func readCursor(path string) (c cursor, err error) {
	f, err := audit.OpenFile(path, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read the cursor: %w", err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return c, fmt.Errorf("read the cursor: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(content))
	d.DisallowUnknownFields()
	var read struct {
		Next *uint64 `json:"next"`
		Last string  `json:"last"`
	}
	if err := d.Decode(&read); err != nil || read.Next == nil {
		return c, fmt.Errorf(`%s is not a cursor, which is {"next":N}`, path)
	}
	return cursor{*read.Next, read.Last}, nil
}

// write puts the cursor into the place of the one that is there, durably and in
// one step.
func (c cursor) write(path string) (err error) {
	content, err := json.Marshal(c)
	if err != nil {
		return err
	}
	// Of one name, so that crashes leave no more than one behind.
	temporary := path + ".new"
	f, err := audit.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write the cursor: %w", err)
	}
	_, err = f.Write(append(content, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return fmt.Errorf("write the cursor: %w", err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("write the cursor: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
