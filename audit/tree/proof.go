package tree

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	// MaxProof bounds the text of a proof of records.
	MaxProof = 16 << 20
	// MaxProven bounds how many records are proven in one text.
	MaxProven = 1000

	proofTitle = "sekisho audit proof v1"
	headTitle  = "head" // stands before the signed head, which is the end of every text
)

// ErrNotProven is that of a proof which is well formed, with a head that is
// signed, and whose path does not lead from the record to it.
var ErrNotProven = errors.New("the record is not in the log that the head is of")

// A Proven is a record as it stands in the log.
type Proven struct {
	Seq  uint64
	Line []byte // without the newline
}

// FormatProof returns a text that proves the records to whoever has the key
// of the head. Their seq ascends. Hashes of the tree are read from r, and a
// proof that would not hold is an error.
//
//	sekisho audit proof v1
//	record 812
//	{"v":1,"seq":812,…
//	(the path of RFC 6962 section 2.1.1, from the leaf up, a hash a line)
//	head
//	(the signed head)
func FormatProof(head []byte, records []Proven, r tlog.HashReader) ([]byte, error) {
	h, err := PeekHead(head)
	if err != nil {
		return nil, err
	}
	b := []byte(proofTitle + "\n")
	for _, rec := range records {
		if rec.Seq >= h.Size {
			return nil, fmt.Errorf("record %d is not among the %d of the head", rec.Seq, h.Size)
		}
		path, err := tlog.ProveRecord(int64(h.Size), int64(rec.Seq), r)
		if err != nil {
			return nil, fmt.Errorf("prove record %d: %w", rec.Seq, err)
		}
		b = fmt.Appendf(b, "record %d\n%s\n", rec.Seq, rec.Line)
		b = appendHashes(b, path)
	}
	b = append(append(b, headTitle+"\n"...), head...)
	if _, _, _, err := readProof(b); err != nil {
		return nil, err
	}
	return b, nil
}

// CheckProof returns what text proves: that the records are in the log whose
// head one of the keys has signed. It shows nothing about other records, such
// as that there are none between these. Errors are ErrNotProven and those of
// OpenHead.
func CheckProof(text []byte, keys ...note.Verifier) (Head, []Proven, error) {
	raw, h, records, err := readProof(text)
	if err != nil && !errors.Is(err, ErrNotProven) {
		return Head{}, nil, err
	}
	// Who has signed comes first: without that the rest means nothing.
	if _, err := OpenHead(raw, keys...); err != nil {
		return Head{}, nil, err
	}
	if err != nil {
		return Head{}, nil, err
	}
	return h, records, nil
}

// readProof checks all but the signature of the head. With ErrNotProven too
// it returns the head's text.
func readProof(text []byte) (raw []byte, h Head, records []Proven, err error) {
	if len(text) > MaxProof {
		return nil, Head{}, nil, malformed("a proof of more than %d bytes", MaxProof)
	}
	l := lines{rest: text}
	if err := l.want(proofTitle); err != nil {
		return nil, Head{}, nil, err
	}
	var paths [][]Hash
	for {
		line, err := l.next()
		if err != nil {
			return nil, Head{}, nil, err
		}
		if line == headTitle && len(records) > 0 {
			break
		}
		rec, path, err := readRecord(&l, line)
		if err != nil {
			return nil, Head{}, nil, err
		}
		if n := len(records); n > 0 && records[n-1].Seq >= rec.Seq {
			return nil, Head{}, nil, l.malformed("record %d stands after record %d", rec.Seq, records[n-1].Seq)
		}
		if len(records) == MaxProven {
			return nil, Head{}, nil, l.malformed("more than %d records", MaxProven)
		}
		records, paths = append(records, rec), append(paths, path)
	}
	if h, err = PeekHead(l.rest); err != nil {
		return nil, Head{}, nil, err
	}
	for i, rec := range records {
		if tlog.CheckRecord(paths[i], int64(h.Size), h.Root, int64(rec.Seq), Leaf(rec.Line)) != nil {
			return l.rest, Head{}, nil, fmt.Errorf("record %d: %w", rec.Seq, ErrNotProven)
		}
	}
	return l.rest, h, records, nil
}

// readRecord reads what follows the line "record N".
func readRecord(l *lines, line string) (rec Proven, path []Hash, err error) {
	number, ok := strings.CutPrefix(line, "record ")
	if !ok {
		return rec, nil, l.malformed(`%.60q where "record N" or %q should be`, line, headTitle)
	}
	if rec.Seq, err = parseSize(number); err != nil {
		return rec, nil, err
	}
	if line, err = l.next(); err != nil {
		return rec, nil, err
	}
	rec.Line = []byte(line)
	if err := checkLine(rec); err != nil {
		return rec, nil, err
	}
	path, err = l.hashes()
	return rec, path, err
}

// checkLine makes sure that a person who reads the line reads what is proven:
// the tree would take any bytes.
func checkLine(rec Proven) error {
	if !printable(rec.Line) {
		return malformed("the line of record %d has characters that do not print", rec.Seq)
	}
	rest, ok := bytes.CutPrefix(rec.Line, []byte(`{"v":`))
	rest = bytes.TrimLeft(rest, "0123456789")
	rest, ok2 := bytes.CutPrefix(rest, strconv.AppendUint([]byte(`,"seq":`), rec.Seq, 10))
	if !ok || !ok2 || len(rest) == 0 || rest[0] != ',' && rest[0] != '}' || !json.Valid(rec.Line) {
		return malformed("the line of record %d is not that of a record with this number", rec.Seq)
	}
	return nil
}
