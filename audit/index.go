package audit

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"sekisho/audit/tree"
)

// An Index stands beside a segment that is closed and tells what cannot be in
// it, so that a search need not read it. It is a note, signed with the log key:
// an index that anybody could write would hide records.
//
//	sekisho audit index v1
//	records 812 1630
//	time 2026-11-22T01:02:03.123456Z 2026-11-22T23:59:58.000001Z
//	run 01J…
//	bytes 412345 of which 1234 are failed logins
//	packed 23456 without failed logins
//	range 812 1630 hash hash …
//	filter base64
//
// It tells of the records as they were when it was made. That they are still
// the same, only the tree shows.
type Index struct {
	from, to time.Time // of the first and the last record
	run      string
	bytes    uint64 // of the lines, with their newlines
	failed   uint64 // of those about failed logins
	packed   uint64 // bytes that the others take when they are packed by themselves
	tree     tree.Range
	filter   filter
}

const (
	indexEnd   = ".index"
	indexTitle = "sekisho audit index v1"

	// maxIndex bounds the file: a filter in base64 and a few lines.
	maxIndex = 1_000_000
)

// ErrOtherRecords is that of an index which is of other records than those of
// the segment that it stands beside.
var ErrOtherRecords = errors.New("the index is of other records")

// First is the seq of the first record.
func (x *Index) First() uint64 { return x.tree.First() }

// Next is the seq after the last one.
func (x *Index) Next() uint64 { return x.tree.Next() }

// Span returns the times of the first and of the last record.
func (x *Index) Span() (from, to time.Time) { return x.from, x.to }

// Run is that of all records of the segment.
func (x *Index) Run() string { return x.run }

// Bytes is how long the text of the segment is, up to where its records count.
func (x *Index) Bytes() uint64 { return x.bytes }

// Failed is how much of Bytes is of records about failed logins.
func (x *Index) Failed() uint64 { return x.failed }

// Packed is how many bytes the records take that are not about failed logins,
// packed by themselves.
func (x *Index) Packed() uint64 { return x.packed }

// Range is the part of the log's tree over the records.
func (x *Index) Range() tree.Range { return x.tree.Clone() }

// May reports whether a record may have the value in the field; if not, none
// has. The fields are user, login, key, offered, grant, target (the host, or
// host and port as net.JoinHostPort writes them), address and source (the IP),
// type, reason, conn and forward; target.host, address.ip and source.ip are
// other names of theirs. Values are those that ParseRecord returns, but hosts
// are compared in lower case and without a final dot. Of any other field, and
// of an empty value, it says yes.
func (x *Index) May(field, value string) bool {
	if value == "" {
		return true
	}
	switch field {
	case "user", "login", "key", "offered", "grant", "type", "reason", "conn", "forward":
	case "address", "address.ip":
		field = "address"
	case "source", "source.ip":
		field = "source"
	case "target", "target.host":
		field, value = "target", hostName(value)
	default:
		return true
	}
	return x.filter.has(field, value)
}

// hostName is how a host is written in an index.
func hostName(host string) string { return strings.TrimSuffix(strings.ToLower(host), ".") }

// targetName is how a target is, with its port.
func targetName(e Endpoint) string {
	return net.JoinHostPort(hostName(e.Host), strconv.FormatUint(uint64(e.Port), 10))
}

// An indexer makes the index of the records that it is shown.
type indexer struct {
	index  Index
	filter filter
	said   map[string]string // what of each field is in the filter since it was last asked
}

func newIndexer(first uint64) *indexer {
	return &indexer{index: Index{tree: tree.NewRange(first)}, filter: make(filter, maxFilter), said: map[string]string{}}
}

func (i *indexer) add(line []byte, r Record) {
	x := &i.index
	if x.tree.First() == x.tree.Next() {
		x.from, x.run = r.Time, r.Run
	}
	x.to = r.Time
	x.tree.Append(tree.Leaf(line))
	x.bytes += uint64(len(line)) + 1
	if r.Type.failsLogin() {
		x.failed += uint64(len(line)) + 1
	}

	i.say("user", r.User)
	i.say("login", r.Login)
	i.say("key", r.Key)
	for _, key := range r.Offered {
		i.say("offered", key)
	}
	i.say("grant", r.Grant)
	if r.Target != (Endpoint{}) {
		i.say("target", hostName(r.Target.Host))
		i.say("target", targetName(r.Target))
	}
	i.say("address", ipText(r.Address))
	i.say("source", ipText(r.Source))
	i.say("type", string(r.Type))
	i.say("reason", r.Reason)
	i.say("conn", r.Conn)
	i.say("forward", r.Forward)
}

func (i *indexer) say(field, value string) {
	if value == "" || i.said[field] == value {
		return
	}
	i.said[field] = value
	i.filter.add(field, value)
}

func ipText(a netip.AddrPort) string {
	if !a.Addr().IsValid() {
		return ""
	}
	return a.Addr().String()
}

// done returns the index of what was added.
func (i *indexer) done() *Index {
	i.index.filter = i.filter.fold()
	return &i.index
}

// failsLogin reports whether records of the type tell of logins that failed,
// of which a stranger can make many.
func (t Type) failsLogin() bool { return t == AuthFail || t == AuthFlood }

// A filter is a Bloom filter over pairs of field and value. It never denies
// what is in it. Its length is a power of two, so that half of it laid over the
// other half is the filter that half as long a one would have been.
type filter []byte

const (
	minFilter    = 64
	maxFilter    = 512 << 10 // for 400,000 entries; of more it says yes too often
	filterHashes = 7         // a false yes in 100 at 10 bits an entry
	entryBits    = 10
)

// places yields the bits of a pair, counted without end: modulo the length
// they are those in the filter.
func places(field, value string) func(yield func(uint64) bool) {
	var room [128]byte
	sum := sha256.Sum256(append(append(append(room[:0], field...), 0), value...))
	a, b := binary.BigEndian.Uint64(sum[:]), binary.BigEndian.Uint64(sum[8:])|1
	return func(yield func(uint64) bool) {
		for range filterHashes {
			if !yield(a) {
				return
			}
			a += b
		}
	}
}

func (f filter) add(field, value string) {
	most := uint64(len(f))*8 - 1
	for n := range places(field, value) {
		f[n&most>>3] |= 1 << (n & 7)
	}
}

func (f filter) has(field, value string) bool {
	most := uint64(len(f))*8 - 1
	for n := range places(field, value) {
		if f[n&most>>3]&(1<<(n&7)) == 0 {
			return false
		}
	}
	return true
}

// fold returns the filter as short as what is in it allows: with room for
// entryBits an entry. How many entries there are shows in the bits, as long as
// they seldom meet, and else there is nothing to fold.
func (f filter) fold() filter {
	ones := 0
	for _, b := range f {
		ones += bits.OnesCount8(b)
	}
	need := ones / filterHashes * entryBits / 8
	for len(f)/2 >= max(need, minFilter) {
		half := len(f) / 2
		for i, b := range f[half:] {
			f[i] |= b
		}
		f = f[:half:half]
	}
	return bytes.Clone(f)
}

// text is what is signed.
func (x *Index) text() string {
	hashes, _ := x.tree.MarshalText()
	var b strings.Builder
	fmt.Fprintln(&b, indexTitle)
	fmt.Fprintln(&b, "records", x.First(), x.Next())
	fmt.Fprintln(&b, "time", x.from.UTC().Format(timeLayout), x.to.UTC().Format(timeLayout))
	fmt.Fprintln(&b, "run", x.run)
	fmt.Fprintln(&b, "bytes", x.bytes, "of which", x.failed, "are failed logins")
	fmt.Fprintln(&b, "packed", x.packed, "without failed logins")
	fmt.Fprintf(&b, "range %s\n", hashes)
	fmt.Fprintf(&b, "filter %s\n", base64.StdEncoding.EncodeToString(x.filter))
	return b.String()
}

// sign returns the file of x.
func (x *Index) sign(s note.Signer) ([]byte, error) {
	text, err := note.Sign(&note.Note{Text: x.text()}, s)
	if err == nil {
		_, _, err = readIndex(text) // nobody could read it otherwise
	}
	if err != nil {
		return nil, fmt.Errorf("audit: sign an index: %w", err)
	}
	return text, nil
}

func badIndex(format string, args ...any) error {
	return fmt.Errorf("the index is %w: %s", tree.ErrMalformed, fmt.Sprintf(format, args...))
}

// openIndex reads an index that one of the keys has signed. What is wrong with
// any other text is one of tree.ErrMalformed, tree.ErrForeignKey and
// tree.ErrSignature.
func openIndex(text []byte, keys ...note.Verifier) (*Index, error) {
	x, n, err := readIndex(text)
	if err != nil {
		return nil, err
	}
	sig := n.UnverifiedSigs[0]
	_, err = note.Open(text, tree.Keys(keys))
	switch {
	case err == nil:
		return x, nil
	case errors.As(err, new(*note.UnverifiedNoteError)):
		return nil, fmt.Errorf("the index is %w: %s+%08x", tree.ErrForeignKey, sig.Name, sig.Hash)
	case errors.As(err, new(*note.InvalidSignatureError)):
		return nil, fmt.Errorf("the index of records %d up to %d: %w: it is not one of the key %s+%08x that it names", x.First(), x.Next(), tree.ErrSignature, sig.Name, sig.Hash)
	}
	return nil, badIndex("%v", err)
}

// readIndex is strict: exactly one signature, and the one spelling that sign
// has.
func readIndex(text []byte) (*Index, *note.Note, error) {
	if len(text) > maxIndex {
		return nil, nil, badIndex("it has more than %d bytes", maxIndex)
	}
	_, err := note.Open(text, nil)
	unverified, ok := errors.AsType[*note.UnverifiedNoteError](err)
	if !ok || len(unverified.Note.UnverifiedSigs) != 1 {
		return nil, nil, badIndex("it is not a note with one signature")
	}
	n := unverified.Note
	x, err := parseIndex(n.Text)
	if err != nil {
		return nil, nil, err
	}
	sig := n.UnverifiedSigs[0]
	if shown(sig.Name) != sig.Name {
		return nil, nil, badIndex("the key that signed it is named %.60q", sig.Name)
	}
	if string(text) != n.Text+"\n— "+sig.Name+" "+sig.Base64+"\n" {
		return nil, nil, badIndex("the signature is not spelt as it should be")
	}
	return x, n, nil
}

func parseIndex(text string) (*Index, error) {
	var field [7]string
	rest, ok := strings.CutPrefix(text, indexTitle+"\n")
	for i, name := range []string{"records", "time", "run", "bytes", "packed", "range", "filter"} {
		var line string
		if ok {
			line, rest, ok = strings.Cut(rest, "\n")
		}
		if ok {
			field[i], ok = strings.CutPrefix(line, name+" ")
		}
		if !ok {
			return nil, badIndex("the line %q is missing", name)
		}
	}
	var x Index
	var err error
	if x.tree, err = tree.ParseRange([]byte(field[5])); err != nil {
		return nil, badIndex("%v", err)
	}
	from, to, _ := strings.Cut(field[1], " ")
	var err1, err2 error
	x.from, err1 = time.Parse(timeLayout, from)
	x.to, err2 = time.Parse(timeLayout, to)
	if err := cmp.Or(err1, err2); err != nil || x.to.Before(x.from) {
		return nil, badIndex("%.80q is not a span of time", field[1])
	}
	x.run = field[2]
	size, failed, _ := strings.Cut(field[3], " of which ")
	x.bytes, err1 = strconv.ParseUint(size, 10, 63)
	x.failed, err2 = strconv.ParseUint(strings.TrimSuffix(failed, " are failed logins"), 10, 63)
	if err := cmp.Or(err1, err2); err != nil || x.failed > x.bytes {
		return nil, badIndex("%.80q is not a number of bytes", field[3])
	}
	if x.packed, err = strconv.ParseUint(strings.TrimSuffix(field[4], " without failed logins"), 10, 63); err != nil {
		return nil, badIndex("%.80q is not a number of bytes", field[4])
	}
	if x.filter, err = base64.StdEncoding.Strict().DecodeString(field[6]); err != nil {
		return nil, badIndex("the filter is not base64")
	}
	if size := len(x.filter); size < minFilter || size > maxFilter || size&(size-1) != 0 {
		return nil, badIndex("a filter of %d bytes", size)
	}
	// Whatever else can be written in two ways shows here.
	if x.text() != text {
		return nil, badIndex("it is not spelt as it should be")
	}
	return &x, nil
}

// index returns the index beside the piece; nil if there is none, or if the
// piece may still grow.
func (p piece) index(keys ...note.Verifier) (*Index, error) {
	if p.limit == noLimit && !p.packed {
		return nil, nil
	}
	path := p.beside(indexEnd)
	f, err := openFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("audit: read an index: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxIndex+1))
	if err != nil {
		return nil, fmt.Errorf("audit: read an index: %w", err)
	}
	x, err := openIndex(text, keys...)
	if err == nil && (x.First() != p.first || x.Next() != p.limit && p.limit != noLimit || x.Next() == x.First()) {
		err = fmt.Errorf("%w: %d up to %d", ErrOtherRecords, x.First(), x.Next())
	}
	if err != nil {
		return nil, fmt.Errorf("audit: %s: %w", path, err)
	}
	return x, nil
}

// Index returns what stands beside the segment about its records; nil if there
// is nothing, and the segment is to be read. It is to be read as well if there
// is an error: that no index of the records is signed with one of the keys. The
// error wraps tree.ErrForeignKey, tree.ErrSignature, tree.ErrMalformed or
// ErrOtherRecords.
func (s Segment) Index(keys ...note.Verifier) (*Index, error) { return s.piece.index(keys...) }
