package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"sekisho/audit/tree"
)

// prunedFile keeps, of the records that retention took away, the hashes that
// are needed to prove those that remain: one tree.Range that begins at 0. What
// it claims is proven by the record log.prune, which is in the tree itself.
const prunedFile = "pruned"

// readPruned returns what retention took away.
func readPruned(dir string) (tree.Range, error) {
	path := filepath.Join(dir, prunedFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return tree.NewRange(0), nil
	}
	if err != nil {
		return tree.Range{}, fmt.Errorf("audit: read what was pruned: %w", err)
	}
	r, err := tree.ParseRange(bytes.TrimSuffix(text, []byte("\n")))
	if err == nil && r.First() != 0 {
		err = fmt.Errorf("it begins at record %d", r.First())
	}
	if err != nil {
		return tree.Range{}, fmt.Errorf("audit: %s: %w", path, err)
	}
	return r, nil
}

// survey returns what retention took away and the pieces that it left.
func survey(dir string) (gone tree.Range, pieces []piece, err error) {
	// In this order, since retention may be at work: it says what goes before
	// anything does.
	if pieces, err = list(dir); err != nil {
		return gone, nil, err
	}
	if gone, err = readPruned(dir); err != nil {
		return gone, nil, err
	}
	// A crash may have left some that it did not come to remove.
	for len(pieces) > 0 && pieces[0].limit <= gone.Next() {
		pieces = pieces[1:]
	}
	return gone, pieces, nil
}
