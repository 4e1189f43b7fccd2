package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"sekisho/audit/tree"
)

// ErrPruned is that of hashes which need records that retention took away.
var ErrPruned = errors.New("retention has taken away the records that it needs")

var (
	errNotThere = errors.New("they are not in the log")
	errTooLong  = errors.New("the line is longer than any record")
)

// A hashReader reads nodes of the tree out of the folder of a log. Whole
// segments are in their indexes, and of the one or two that a node begins or
// ends in, the records are hashed again: nothing else is kept of a tree, and
// nobody asks for its nodes often.
type hashReader struct {
	dir  string
	keys []note.Verifier // of indexes that can be used
}

// A wanted is a node on its way: the range grows from the first leaf of the
// node to its last.
type wanted struct {
	level int
	n     uint64
	tree.Range
}

func (w *wanted) end() uint64   { return (w.n + 1) << w.level }
func (w *wanted) missing() bool { return w.Next() < w.end() }

// ReadHashes is that of tlog.HashReader.
func (h hashReader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	// A segment may be packed or removed between the listing and the reading.
	for try := 0; ; try++ {
		got, err := h.read(indexes)
		if err == nil || try == 3 || !errors.Is(err, os.ErrNotExist) {
			return got, err
		}
	}
}

func (h hashReader) read(indexes []int64) ([]tlog.Hash, error) {
	gone, pieces, err := survey(h.dir)
	if err != nil {
		return nil, err
	}
	wants := make([]*wanted, len(indexes))
	for i, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		w := &wanted{level: level, n: uint64(n)}
		w.Range = tree.NewRange(w.n << level)
		if first := w.First(); first < gone.Next() {
			part, ok := gone.Part(first, min(w.end(), gone.Next()))
			if !ok {
				return nil, fmt.Errorf("audit: the tree below record %d: %w", gone.Next(), ErrPruned)
			}
			w.Range = part
		}
		wants[i] = w
	}
	for _, p := range pieces {
		if err := h.feed(p, wants); err != nil {
			return nil, err
		}
	}
	got := make([]tlog.Hash, len(wants))
	for i, w := range wants {
		node, ok := w.Node(w.level, w.n)
		if !ok {
			return nil, fmt.Errorf("audit: records %d to %d, of which a hash is needed: %w", w.Next(), w.end()-1, errNotThere)
		}
		got[i] = node
	}
	return got, nil
}

// feed lets the nodes grow by the records of a piece.
func (h hashReader) feed(p piece, wants []*wanted) error {
	var here []*wanted
	for _, w := range wants {
		if w.missing() && w.Next() < p.limit && p.first <= w.Next() {
			here = append(here, w)
		}
	}
	if here = h.take(p, here); len(here) == 0 {
		return nil
	}
	last := uint64(0)
	for _, w := range here {
		last = max(last, w.end())
	}
	return p.lines(func(seq uint64, line []byte) error {
		if seq >= last {
			return errStop
		}
		var leaf tree.Hash
		hashed := false
		for _, w := range here {
			if w.Next() != seq || !w.missing() {
				continue
			}
			if !hashed {
				leaf, hashed = tree.Leaf(line), true
			}
			w.Append(leaf)
		}
		return nil
	})
}

// take lets the nodes grow by what the index of the piece has of them, and
// returns those for which it has to be read.
func (h hashReader) take(p piece, here []*wanted) (rest []*wanted) {
	x, err := p.index(h.keys...)
	if err != nil || x == nil {
		return here // what is not signed with a key is no index
	}
	for _, w := range here {
		part, ok := x.tree.Part(w.Next(), min(w.end(), x.Next()))
		if !ok || w.Join(part) != nil {
			rest = append(rest, w)
		}
	}
	return rest
}

// lines calls fn with the lines of the piece that count, without asking
// whether they are records. A line is overwritten after the call. With errStop
// fn ends it.
func (p piece) lines(fn func(seq uint64, line []byte) error) error {
	f, err := p.open()
	if err != nil {
		return err
	}
	defer f.Close()
	lines := lineReader(f)
	defer readers.Put(lines)
	for seq := p.first; seq < p.limit; seq++ {
		line, err := lines.ReadSlice('\n')
		switch {
		case err == io.EOF: // what stands behind the last newline is not written yet
			return nil
		case err == bufio.ErrBufferFull:
			return fmt.Errorf("audit: %s: record %d: %w", p.path, seq, errTooLong)
		case err != nil:
			return fmt.Errorf("audit: read a segment: %w", err)
		}
		if err := fn(seq, line[:len(line)-1]); err == errStop {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}
