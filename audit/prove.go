package audit

import (
	"errors"
	"fmt"

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
// retention took away what that would need.
func Answer(dir string, head []byte, from uint64, keys ...note.Verifier) ([]byte, error) {
	text, err := tree.FormatAnswer(head, from, hashReader{dir, keys})
	if errors.Is(err, ErrPruned) {
		var gone tree.Range
		if gone, err = readPruned(dir); err == nil {
			text, err = tree.FormatPruned(head, from, gone.Next())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return text, nil
}
