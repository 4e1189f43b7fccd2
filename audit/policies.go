package audit

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Policies stand in a folder beside the log, each under its hash, so that what
// was decided by one can be explained when it is no longer in force. Retention
// leaves them alone.
const (
	policiesDir = "policies"
	policyEnd   = ".yaml"
	hashBegin   = "sha256:"

	// mostPolicy bounds what is read back.
	mostPolicy = 64 << 20
)

// ErrNoPolicy is that of a hash under which no policy is kept.
var ErrNoPolicy = errors.New("no such policy is kept")

// A KeptPolicy is one that stands beside the log.
type KeptPolicy struct {
	Hash  string    // "sha256:…"
	First time.Time // when it was kept, which is just before it was first loaded
	Bytes int64
}

// Keep makes the text of a policy durable beside the log, unless it is there.
// The hash is "sha256:…" of the text, as records have it. It is to be called
// before the record is made that the policy is loaded.
func (l *Log) Keep(hash string, text []byte) error {
	name, err := policyName(hash)
	if err == nil && hashOf(text) != hash {
		err = errors.New("the text is not the one of the hash")
	}
	if err != nil {
		return fmt.Errorf("audit: keep the policy %.80s: %w", hash, err)
	}
	l.policing.Lock()
	defer l.policing.Unlock()
	select {
	case <-l.closing:
		return ErrClosed
	default:
	}
	if err := l.lock.check(); err != nil {
		return fmt.Errorf("audit: keep the policy: %w", err)
	}

	disk := l.opts.disk
	dir := filepath.Join(l.dir, policiesDir)
	if err = os.Mkdir(dir, 0o700); errors.Is(err, os.ErrExist) {
		err = nil
	}
	if err == nil {
		err = disk.SyncDir(l.dir)
	}
	if path := filepath.Join(dir, name); err == nil {
		if old, err2 := readUpTo(path, int64(len(text))); err2 != nil || !bytes.Equal(old, text) {
			err = writeFile(disk, path, text)
		}
	}
	if err == nil {
		err = disk.SyncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("audit: keep the policy: %w", err)
	}
	return nil
}

// Policy returns the text of a policy that was kept in the log's folder. If it
// is not the one of the hash any more, that is an error.
func Policy(dir, hash string) ([]byte, error) {
	name, err := policyName(hash)
	if err != nil {
		return nil, fmt.Errorf("audit: the policy %.80q: %w", hash, err)
	}
	path := filepath.Join(dir, policiesDir, name)
	text, err := readUpTo(path, mostPolicy)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("audit: %w under %s", ErrNoPolicy, hash)
	}
	if err == nil && hashOf(text) != hash {
		err = fmt.Errorf("%s was changed: it is not the policy of its name", path)
	}
	if err != nil {
		return nil, fmt.Errorf("audit: read a policy: %w", err)
	}
	return text, nil
}

// Policies returns what is kept in the log's folder, the oldest first. It reads
// no text: whether one is what its name says, Policy tells.
func Policies(dir string) ([]KeptPolicy, error) {
	entries, err := os.ReadDir(filepath.Join(dir, policiesDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("audit: list the policies: %w", err)
	}
	var all []KeptPolicy
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), policyEnd)
		if _, err := policyName(hashBegin + digits); !ok || err != nil {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("audit: list the policies: %w", err)
		}
		all = append(all, KeptPolicy{hashBegin + digits, info.ModTime().UTC(), info.Size()})
	}
	slices.SortStableFunc(all, func(a, b KeptPolicy) int { return cmp.Or(a.First.Compare(b.First), cmp.Compare(a.Hash, b.Hash)) })
	return all, nil
}

func hashOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hashBegin + hex.EncodeToString(sum[:])
}

// policyName is the name of the file for a hash, which must be one: it may be
// what somebody typed.
func policyName(hash string) (string, error) {
	digits, ok := strings.CutPrefix(hash, hashBegin)
	if b, err := hex.DecodeString(digits); !ok || err != nil || len(b) != sha256.Size || strings.ToLower(digits) != digits {
		return "", errors.New(`this is no hash such as sha256:…, with 64 hexadecimal digits`)
	}
	return digits + policyEnd, nil
}

// readUpTo reads a file that has at most so many bytes.
func readUpTo(path string, most int64) ([]byte, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return b, err
}
