package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"sekisho/audit/tree"
)

// prunedFile keeps, of the records that retention took away, the hashes that
// are needed to prove those that remain: one tree.Range that begins at 0.
//
// It is a note, signed with the log key: a record log.prune tells of each step
// as well, but whoever removes records could append one of those, and the next
// head would sign it. A log without a key has the range alone.
//
//	sekisho audit pruned v1
//	0 812 hash hash …
//
//	— bastion-1 signature
const (
	prunedFile  = "pruned"
	prunedTitle = "sekisho audit pruned v1"

	// maxPruned bounds it: a hash for each level of the tree, and a signature.
	maxPruned = 8 << 10
)

// sealPruned is the content of the file.
func sealPruned(r tree.Range, signer note.Signer) ([]byte, error) {
	line, err := r.MarshalText()
	if err != nil || signer == nil {
		return append(line, '\n'), err
	}
	return note.Sign(&note.Note{Text: prunedTitle + "\n" + string(line) + "\n"}, signer)
}

// readPruned returns what retention took away. It does not ask who says so.
func readPruned(dir string) (tree.Range, error) {
	r, _, err := loadPruned(dir)
	return r, err
}

func loadPruned(dir string) (r tree.Range, content []byte, err error) {
	path := filepath.Join(dir, prunedFile)
	content, err = readUpTo(path, maxPruned)
	if errors.Is(err, os.ErrNotExist) {
		return tree.NewRange(0), nil, nil
	}
	if err != nil {
		return tree.Range{}, nil, fmt.Errorf("audit: read what was pruned: %w", err)
	}
	text := string(content)
	if rest, ok := strings.CutPrefix(text, prunedTitle+"\n"); ok {
		text, _, _ = strings.Cut(rest, "\n")
	}
	r, err = tree.ParseRange([]byte(strings.TrimSuffix(text, "\n")))
	if err == nil && r.First() != 0 {
		err = fmt.Errorf("it begins at record %d", r.First())
	}
	if err != nil {
		return tree.Range{}, nil, fmt.Errorf("audit: %s: %w", path, err)
	}
	return r, content, nil
}

// errPrunedKey is that of a file pruned that is not signed with the log key.
var errPrunedKey = errors.New("what it says that retention took away is not signed with the log key")

// checkPruned returns an error unless one of the keys has signed what retention
// took away, or nothing was. One that wraps tree.ErrForeignKey is that another
// key has.
func checkPruned(dir string, keys ...note.Verifier) error {
	r, content, err := loadPruned(dir)
	if err != nil || r.Next() == 0 {
		return err
	}
	path := filepath.Join(dir, prunedFile)
	n, err := note.Open(content, note.VerifierList(keys...))
	if err == nil {
		line, _ := r.MarshalText()
		if n.Text != prunedTitle+"\n"+string(line)+"\n" {
			err = errPrunedKey
		}
	}
	if errors.As(err, new(*note.UnverifiedNoteError)) {
		return fmt.Errorf("%s: %w: %w", path, errPrunedKey, tree.ErrForeignKey)
	}
	if err != nil || !bytes.HasPrefix(content, []byte(prunedTitle)) {
		return fmt.Errorf("%s: %w", path, errPrunedKey)
	}
	return nil
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
