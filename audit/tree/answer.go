package tree

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	// MaxAnswer bounds the text of an answer.
	MaxAnswer = 16 << 10

	answerTitle = "sekisho audit head v1"
	noPath      = "unprovable" // stands where the path would
)

var (
	// ErrInconsistent is that of a new head whose log does not begin with that
	// of the old one: records before it have been changed.
	ErrInconsistent = errors.New("the log is not the one that the old head is of")
	// ErrRollback is that of a new head with fewer records than the old one.
	ErrRollback = errors.New("the log has become shorter")
	// ErrPruned is that of a server which says that retention took records
	// that the old head is of, so that it cannot prove more.
	ErrPruned = errors.New("what the old head is of has been removed by retention")
	// ErrUnprovable is that of a log which does not lead to its own head, and
	// of a server which says so: the records on its disk are others than those
	// that it has signed.
	ErrUnprovable = errors.New("the log on the disk of the server is not the one that its head is of")
)

// FormatAnswer answers somebody who asks for the newest head and has one of
// from records, 0 for none. Hashes of the tree are read from r, and a proof
// that would not hold is an error that wraps ErrUnprovable. To one who has
// more records than the head no proof can be given: the answer is the head
// alone.
//
//	sekisho audit head v1
//	from 812
//	(the path of RFC 6962 section 2.1.2, a hash a line)
//	head
//	(the signed head)
func FormatAnswer(head []byte, from uint64, r tlog.HashReader) ([]byte, error) {
	h, err := PeekHead(head)
	if err != nil {
		return nil, err
	}
	var path []Hash
	if 0 < from && from < h.Size {
		if path, err = proveTree(h, from, r); err != nil {
			return nil, fmt.Errorf("prove that %d records are the beginning of %d: %w", from, h.Size, err)
		}
	}
	b := fmt.Appendf(nil, "%s\nfrom %d\n", answerTitle, from)
	b = appendHashes(b, path)
	return append(append(b, headTitle+"\n"...), head...), nil
}

func proveTree(h Head, from uint64, r tlog.HashReader) ([]Hash, error) {
	path, err := tlog.ProveTree(int64(h.Size), int64(from), r)
	if err != nil {
		return nil, err
	}
	old, err := tlog.TreeHash(int64(from), r)
	if err != nil {
		return nil, err
	}
	if err := tlog.CheckTree(path, int64(h.Size), h.Root, int64(from), old); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnprovable, err)
	}
	return path, nil
}

// FormatUnprovable is FormatAnswer where no path can be made of the records
// that are there. It has the line "unprovable" in its place. Who asks is to
// know that, rather than get no answer as from a server that is down.
func FormatUnprovable(head []byte, from uint64) ([]byte, error) {
	h, err := PeekHead(head)
	if err != nil {
		return nil, err
	}
	if from == 0 || from >= h.Size {
		return nil, fmt.Errorf("from %d to %d records there is nothing to prove", from, h.Size)
	}
	return append(fmt.Appendf(nil, "%s\nfrom %d\n%s\n%s\n", answerTitle, from, noPath, headTitle), head...), nil
}

// FormatPruned is FormatAnswer where the path would need records that
// retention took: those before pruned. It has the line "pruned 900" in its
// place.
func FormatPruned(head []byte, from, pruned uint64) ([]byte, error) {
	h, err := PeekHead(head)
	if err != nil {
		return nil, err
	}
	if from == 0 || from >= pruned || pruned > h.Size {
		return nil, fmt.Errorf("a head of %d records, from %d on and pruned up to %d, needs no excuse", h.Size, from, pruned)
	}
	return append(fmt.Appendf(nil, "%s\nfrom %d\npruned %d\n%s\n", answerTitle, from, pruned, headTitle), head...), nil
}

// CheckAnswer returns the head in text, and the text of that head as it was
// signed, to be kept. With the head that the asker has, and has asked from, it
// makes sure that the log has only grown since then. Errors are
// ErrInconsistent, ErrRollback, ErrPruned, ErrUnprovable and those of OpenHead;
// with the first four, head and raw are returned too, as evidence.
func CheckAnswer(text []byte, keys []note.Verifier, old *Head) (h Head, raw []byte, err error) {
	a, err := readAnswer(text)
	if err != nil {
		return Head{}, nil, err
	}
	if h, err = OpenHead(a.head, keys...); err != nil {
		return Head{}, nil, err
	}
	var have Head
	if old != nil {
		have = *old
	}
	if a.from != have.Size {
		return Head{}, nil, malformed("the answer is to somebody who has %d records, not %d", a.from, have.Size)
	}
	return h, a.head, a.check(h, have)
}

// check judges the step from the head that the asker has to the new one.
func (a answer) check(h, have Head) error {
	switch {
	case h.Size < have.Size:
		return fmt.Errorf("%w: %d records were signed at %s, and now %d", ErrRollback, have.Size, have.Time.Format(time.RFC3339), h.Size)
	case a.pruned != 0:
		return fmt.Errorf("%w: it is of %d records, and those before %d are gone", ErrPruned, have.Size, a.pruned)
	case a.unprovable:
		return fmt.Errorf("%w: it cannot prove that %d records, signed at %s, are the beginning of the %d that were signed at %s",
			ErrUnprovable, have.Size, have.Time.Format(time.RFC3339), h.Size, h.Time.Format(time.RFC3339))
	case have.Size == 0:
		return nil // every log begins with an empty one
	case tlog.CheckTree(a.path, int64(h.Size), h.Root, int64(have.Size), have.Root) != nil:
		return fmt.Errorf("%w: no proof leads from its %d records to the %d that were signed at %s",
			ErrInconsistent, have.Size, h.Size, h.Time.Format(time.RFC3339))
	}
	return nil
}

// An answer is one as it stands in a text, with nothing checked.
type answer struct {
	from       uint64
	path       []Hash
	pruned     uint64 // 0: nothing that is needed is missing
	unprovable bool
	head       []byte
}

func readAnswer(text []byte) (a answer, err error) {
	if len(text) > MaxAnswer {
		return a, malformed("an answer of more than %d bytes", MaxAnswer)
	}
	l := lines{rest: text}
	if err := l.want(answerTitle); err != nil {
		return a, err
	}
	line, err := l.next()
	if err != nil {
		return a, err
	}
	number, ok := strings.CutPrefix(line, "from ")
	if !ok {
		return a, l.malformed(`%.60q where "from N" should be`, line)
	}
	if a.from, err = parseSize(number); err != nil {
		return a, err
	}
	if a.path, err = l.hashes(); err != nil {
		return a, err
	}
	if line, err = l.next(); err != nil {
		return a, err
	}
	number, pruned := strings.CutPrefix(line, "pruned ")
	if a.unprovable = line == noPath; a.unprovable || pruned {
		if pruned {
			if a.pruned, err = parseSize(number); err != nil {
				return a, err
			}
		}
		if a.from == 0 || len(a.path) > 0 || pruned && a.pruned <= a.from {
			return a, l.malformed("%q where nothing is missing", line)
		}
		if line, err = l.next(); err != nil {
			return a, err
		}
	}
	if a.from == 0 && len(a.path) > 0 {
		return a, l.malformed("a proof that nobody has asked for")
	}
	if line != headTitle {
		return a, l.malformed("%.60q where %q should be", line, headTitle)
	}
	a.head = l.rest
	return a, nil
}
