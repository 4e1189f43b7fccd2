package audit

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/mod/sumdb/note"

	"sekisho/audit/tree"
)

// NewestHead returns the newest signed head in the folder of a log, as it was
// signed, of those that one of the keys has signed.
func NewestHead(dir string, keys ...note.Verifier) (text []byte, h tree.Head, err error) {
	text, h, _, err = newestHead(dir, keys...)
	if err == nil && text == nil {
		err = fmt.Errorf("audit: %s has no signed head", dir)
	}
	return text, h, err
}

// Prove returns a text that proves the records to whoever has the key of the
// head (tree.CheckProof). They are in ascending order.
func Prove(dir string, head []byte, records []tree.Proven, keys ...note.Verifier) ([]byte, error) {
	text, err := tree.FormatProof(head, records, hashReader{dir, keys})
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return text, nil
}

// ReadRecord calls fn with the record that has the number, if it is in the log.
// The line is overwritten after the call.
func ReadRecord(dir string, seq uint64, fn func(line []byte, rec Record) error) error {
	_, pieces, err := survey(dir)
	if err != nil {
		return err
	}
	for _, p := range pieces {
		if seq < p.first || seq >= p.limit {
			continue
		}
		return p.lines(func(n uint64, line []byte) error {
			if n < seq {
				return nil
			}
			rec, err := ParseRecord(line)
			if err == nil && rec.Seq != seq {
				err = fmt.Errorf("it is record %d", rec.Seq)
			}
			if err != nil {
				return fmt.Errorf("audit: %s: record %d: %w", p.path, seq, err)
			}
			if err := fn(line, rec); err != nil {
				return err
			}
			return errStop
		})
	}
	return nil
}

// Answer returns a text that proves to whoever keeps an older head, of from
// records, that the log of the head given begins with the same ones
// (tree.CheckAnswer). If from is 0 he keeps none. It says so itself if
// retention took away what that would need, and if the log on disk is not the
// one that the head is of. That it could not be read is an error.
func Answer(dir string, head []byte, from uint64, keys ...note.Verifier) ([]byte, error) {
	text, err := answer(dir, head, from, keys)
	if unprovable(err) {
		// A folder that changes while it is listed may show less than it has.
		if text, err = answer(dir, head, from, keys); unprovable(err) {
			text, err = tree.FormatUnprovable(head, from)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return text, nil
}

func answer(dir string, head []byte, from uint64, keys []note.Verifier) ([]byte, error) {
	if _, err := tree.PeekHead(head); err != nil {
		return nil, fmt.Errorf("the head to answer with: %v", err) // it is not the log that is malformed
	}
	text, err := tree.FormatAnswer(head, from, hashReader{dir, keys})
	if !errors.Is(err, ErrPruned) {
		return text, err
	}
	gone, err := readPruned(dir)
	if err != nil {
		return nil, err
	}
	if text, err = tree.FormatPruned(head, from, gone.Next()); err != nil {
		err = fmt.Errorf("%w: %w", errNotThere, err) // it was not retention that took them
	}
	return text, err
}

// unprovable reports whether an error tells of what is in the log, rather than
// of a disk or a folder that does not let itself be read.
func unprovable(err error) bool {
	for _, kind := range []error{
		tree.ErrUnprovable, // the hashes lead elsewhere
		tree.ErrMalformed,  // what was pruned
		errNotThere, errTooLong, ErrNotRegular,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return errors.Is(err, errPacked) && !errors.As(err, new(*fs.PathError))
}
