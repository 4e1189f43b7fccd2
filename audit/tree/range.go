package tree

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// MaxSize bounds every size and index that is read or signed. It is far from
// what a log can reach, and from where the arithmetic of tlog goes wrong.
const MaxSize = 1 << 60

// A Hash is that of a leaf, an inner node or a root.
type Hash = tlog.Hash

// Leaf returns the hash of a line, which has no newline (RFC 6962 section
// 2.1: SHA-256 of a zero byte and the line). It allocates nothing.
func Leaf(line []byte) Hash { return tlog.RecordHash(line) }

// A Range holds the hashes of the fewest whole subtrees that cover the leaves
// [First, Next), left to right. Whole means 1<<level leaves that begin at a
// multiple of 1<<level: such a subtree is a node of every larger tree. The
// zero Range is the empty one at 0.
//
// Copies of a Range share memory: go on with one of them only, or use Clone.
type Range struct {
	first, next uint64
	nodes       []Hash
}

// NewRange returns the empty range at first.
func NewRange(first uint64) Range { return Range{first: first, next: first} }

// First returns the index of the first leaf.
func (r *Range) First() uint64 { return r.first }

// Next returns the index after the last leaf.
func (r *Range) Next() uint64 { return r.next }

// Append adds the leaf Next.
func (r *Range) Append(leaf Hash) { r.push(0, r.next, leaf) }

// Join adds next, which must begin where r ends.
func (r *Range) Join(next Range) error {
	if next.first != r.next {
		return fmt.Errorf("records %d up to %d do not follow on %d up to %d", next.first, next.next, r.first, r.next)
	}
	i := 0
	for level, n := range subtrees(next.first, next.next) {
		r.push(level, n, next.nodes[i])
		i++
	}
	return nil
}

// push adds the subtree [n<<level, (n+1)<<level), which begins at r.next. As
// long as it is the right half of a subtree whose left half is in the range,
// that half is the last node, and the two become one.
func (r *Range) push(level int, n uint64, h Hash) {
	r.next += 1 << level
	for n&1 == 1 && (n-1)<<level >= r.first {
		last := len(r.nodes) - 1
		h = tlog.NodeHash(r.nodes[last], h)
		r.nodes = r.nodes[:last]
		level, n = level+1, n>>1
	}
	r.nodes = append(r.nodes, h)
}

// Root returns the root of the tree over all leaves, for a range that begins
// at 0. That of no leaves is SHA-256 of nothing.
func (r Range) Root() (Hash, error) {
	if r.first != 0 {
		return Hash{}, fmt.Errorf("a range that begins at %d has no root", r.first)
	}
	if len(r.nodes) == 0 {
		return sha256.Sum256(nil), nil
	}
	last := len(r.nodes) - 1
	h := r.nodes[last]
	for _, left := range slices.Backward(r.nodes[:last]) {
		h = tlog.NodeHash(left, h)
	}
	return h, nil
}

// Clone returns a copy that shares nothing with r.
func (r Range) Clone() Range {
	r.nodes = slices.Clone(r.nodes)
	return r
}

// Node returns the hash of the subtree [n<<level, (n+1)<<level) if it is one
// of those that make up the range.
func (r Range) Node(level int, n uint64) (Hash, bool) {
	i := 0
	for l, m := range subtrees(r.first, r.next) {
		if l == level && m == n {
			return r.nodes[i], true
		}
		i++
	}
	return Hash{}, false
}

// Part returns the range [first, next) if it is made of whole nodes of r. So
// is every part of a subtree that r reaches into from outside it.
func (r Range) Part(first, next uint64) (Range, bool) {
	from, to := -1, -1
	at, i := r.first, 0
	for level := range subtrees(r.first, r.next) {
		if at == first {
			from = i
		}
		if at == next {
			to = i
		}
		at += 1 << level
		i++
	}
	if at == first {
		from = i
	}
	if at == next {
		to = i
	}
	if from < 0 || to < from {
		return Range{}, false
	}
	return Range{first, next, slices.Clone(r.nodes[from:to])}, true
}

// subtrees yields level and number of the fewest whole subtrees that cover
// [first, next), left to right.
func subtrees(first, next uint64) func(yield func(level int, n uint64) bool) {
	return func(yield func(int, uint64) bool) {
		for first < next {
			level := bits.Len64(next-first) - 1 // the largest that ends in time
			if first != 0 {
				level = min(level, bits.TrailingZeros64(first)) // and begins here
			}
			if !yield(level, first>>level) {
				return
			}
			first += 1 << level
		}
	}
}

// AppendText appends r as one line without a newline: first, next and the
// nodes in base64, with spaces between. The error is always nil.
func (r Range) AppendText(b []byte) ([]byte, error) {
	b = fmt.Appendf(b, "%d %d", r.first, r.next)
	for _, h := range r.nodes {
		b = append(append(b, ' '), h.String()...)
	}
	return b, nil
}

// MarshalText returns r as AppendText writes it.
func (r Range) MarshalText() ([]byte, error) { return r.AppendText(nil) }

// UnmarshalText sets r to what ParseRange reads.
func (r *Range) UnmarshalText(text []byte) error {
	got, err := ParseRange(text)
	if err == nil {
		*r = got
	}
	return err
}

// maxRange bounds the text of a range: two numbers, and at most two subtrees
// of each level.
const maxRange = 2*20 + 2*61*(1+hashText)

// ParseRange reads what AppendText wrote. Of the hashes only their number and
// spelling can be wrong: whether they are those of a log shows in its root.
func ParseRange(text []byte) (Range, error) {
	if len(text) > maxRange {
		return Range{}, malformed("a range of %d bytes", len(text))
	}
	words := strings.Split(string(text), " ")
	if len(words) < 2 {
		return Range{}, malformed("%.60q is not a range", text)
	}
	first, err1 := parseSize(words[0])
	next, err2 := parseSize(words[1])
	if err := cmp.Or(err1, err2); err != nil {
		return Range{}, err
	}
	if next < first {
		return Range{}, malformed("the range %d to %d ends before it begins", first, next)
	}
	r, words := Range{first: first, next: next}, words[2:]
	for range subtrees(first, next) {
		if len(words) == 0 {
			return Range{}, malformed("the range %d to %d has too few hashes", first, next)
		}
		h, err := parseHash(words[0])
		if err != nil {
			return Range{}, err
		}
		r.nodes, words = append(r.nodes, h), words[1:]
	}
	if len(words) > 0 {
		return Range{}, malformed("the range %d to %d has too many hashes", first, next)
	}
	return r, nil
}
