package hostsfile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A File is a hosts file that can be followed while it is asked. Its methods may
// be called from any number of goroutines.
type File struct {
	path         string
	settle, poll time.Duration

	reading sync.Mutex // held while the file is read and current replaced; lookups never take it
	current atomic.Pointer[version]
}

// A version is one content of the file, accepted.
type version struct {
	table    *Table
	warnings []Problem
	sum      [sha256.Size]byte
	seen     state // of the file as it was read
}

// An Option changes how a File is followed.
type Option func(*File)

// WithSettle sets for how long a file must have been still before a change of it
// is read; the default is 200 ms. It is the guard against files that are written
// in place: below some 20 ms it guards nothing.
func WithSettle(d time.Duration) Option { return func(f *File) { f.settle = d } }

// WithPoll sets how often the file is looked at without having been told of a
// change; the default is 5 s.
func WithPoll(d time.Duration) Option { return func(f *File) { f.poll = d } }

// Open reads the hosts file at path. An error in it is a *ParseError with all its
// problems; a file that cannot be read is the error of package os. Who may write
// the file, and so decide where names lead, is the caller's to check.
func Open(path string, opts ...Option) (*File, error) {
	f := &File{path: path, settle: 200 * time.Millisecond, poll: pollInterval}
	for _, opt := range opts {
		opt(f)
	}
	if _, _, err := f.reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// LookupNetIP is [Table.LookupNetIP] of the table in force.
func (f *File) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return f.Table().LookupNetIP(ctx, network, host)
}

// Table returns the table in force. Several lookups on it agree with each other,
// whatever happens to the file meanwhile.
func (f *File) Table() *Table { return f.current.Load().table }

// Sum returns the SHA-256 of the content in force.
func (f *File) Sum() [sha256.Size]byte { return f.current.Load().sum }

// Warnings returns the warnings about the table in force.
func (f *File) Warnings() []Problem { return f.current.Load().warnings }

// Reload reads the file now, without waiting for it to settle, and reports
// whether its content is another than before. On an error nothing has changed:
// what the package comment lists is not taken over.
func (f *File) Reload() (changed bool, err error) {
	changed, _, err = f.reload()
	return changed, err
}

// Stage is the first half of Reload: it reads and judges the file, and changes
// nothing. The other half is Commit, which takes no time and cannot fail. With a
// *ParseError there is a Staged, too, for its Sum, but nothing to commit.
func (f *File) Stage() (*Staged, error) {
	f.reading.Lock()
	defer f.reading.Unlock()
	return f.stage()
}

// A Staged is a content of the file that was read and judged.
type Staged struct {
	file      *File
	old, next *version // next has no table if it was refused
}

// Changed reports whether the content is another than that in force when it was
// staged, and good.
func (s *Staged) Changed() bool { return s.next != s.old && s.next.table != nil }

// Sum is the SHA-256 of the content.
func (s *Staged) Sum() [sha256.Size]byte { return s.next.sum }

// Table is the table that Commit puts in force.
func (s *Staged) Table() *Table { return s.next.table }

// Commit puts the table in force and reports whether it is another than before.
// It does nothing if some other content was taken over since Stage.
func (s *Staged) Commit() (changed bool) {
	return s.Changed() && s.file.current.CompareAndSwap(s.old, s.next)
}

// stage is Stage with the lock held.
func (f *File) stage() (*Staged, error) {
	text, seen, err := readStill(f.path)
	if err != nil {
		return nil, err
	}
	s := &Staged{file: f, old: f.current.Load(), next: &version{sum: sha256.Sum256(text), seen: seen}}
	var old *Table // nil at Open
	if s.old != nil {
		if s.old.sum == s.next.sum {
			s.next = s.old
			return s, nil
		}
		old = s.old.table
	}
	s.next.table, s.next.warnings = parse(string(text), f.path, old)
	if s.next.table == nil {
		return s, &ParseError{s.next.warnings}
	}
	return s, nil
}

// reload also returns what it found, to tell one refused content from the next.
func (f *File) reload() (changed bool, found string, err error) {
	f.reading.Lock()
	defer f.reading.Unlock()
	for {
		s, err := f.stage()
		if s == nil {
			return false, err.Error(), err
		}
		found = string(s.next.sum[:])
		if err != nil || !s.Changed() {
			return false, found, err
		}
		if s.Commit() {
			return true, found, nil
		}
		// Somebody has committed meanwhile what was staged before: look anew.
	}
}

// Follow reloads the file whenever it has changed and then been still for the
// settle time, until ctx ends; then it returns nil. It sees changes since the
// table in force was read, also those from before it was called.
//
// It calls report, never twice at once, for each change: (true, nil) for one
// taken over, (false, err) for one refused, once for each content that is refused
// in a row, and (false, nil) when after a refusal the file is again as the table
// in force. A file that is gone is a refusal; one that cannot be read is tried again
// at each poll. While report runs, changes wait.
//
// The error is only about a folder that cannot be followed at all.
func (f *File) Follow(ctx context.Context, report func(changed bool, err error)) error {
	refused := ""
	w := watcher{path: f.path, settle: f.settle, poll: f.poll, known: f.current.Load().seen}
	w.changed = func() (retry bool) {
		changed, found, err := f.reload()
		switch {
		case err != nil && found != refused:
			refused = found
			report(false, err)
		case err == nil && (changed || refused != ""):
			refused = ""
			report(changed, nil)
		}
		// If not the content was refused, the file could not be read, and nothing
		// in its state will tell when it can.
		var parseErr *ParseError
		return err != nil && !errors.As(err, &parseErr)
	}
	return w.run(ctx)
}

// readStill reads a file that nobody writes meanwhile, as far as its size and
// times can show, with its state. It waits a moment for whoever is writing.
func readStill(path string) ([]byte, state, error) {
	for try := 0; ; try++ {
		before := stateOf(path)
		switch {
		case before.err != nil:
			return nil, before, before.err
		case !before.info.Mode().IsRegular(): // opening a pipe could block for ever
			return nil, before, fmt.Errorf("%s is not a regular file", path)
		}
		text, err := readBounded(path)
		if err != nil {
			return nil, before, err
		}
		if stateOf(path).same(before) && int64(len(text)) == min(before.info.Size(), maxFile+1) {
			return text, before, nil
		}
		if try == 4 {
			return nil, before, fmt.Errorf("%s changes while it is read", path)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// readBounded reads one byte more than a hosts file may have, at most.
func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var text bytes.Buffer
	_, err = io.Copy(&text, io.LimitReader(file, maxFile+1))
	return text.Bytes(), err
}
