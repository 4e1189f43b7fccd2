//go:build linux

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/mod/sumdb/note"

	"sekisho/audit/tree"
)

// checkLog proves that the log is whole, by means of the test's own: that seq
// has no gap, and that every head that was ever signed, and those in the
// records, are heads of the records that are there. Only the signatures are
// left to the product to check; and what the product finds is compared.
func (b *bastion) checkLog() {
	t := b.t
	t.Helper()
	lines := b.leaves()
	grow := rfcTree{}
	roots := [][32]byte{grow.root()} // by size
	for i, line := range lines {
		var rec struct {
			Seq  *uint64
			Type string
			Head struct {
				Size uint64
				Root []byte
			}
		}
		if err := json.Unmarshal(line, &rec); err != nil || rec.Seq == nil || *rec.Seq != uint64(i) {
			t.Fatalf("line %d of the log is not its record (%v): %s", i, err, line)
		}
		if rec.Type == "server.start" && i > 0 && (rec.Head.Size != uint64(i) || !bytes.Equal(rec.Head.Root, roots[i][:])) {
			t.Errorf("record %d has the head %d %x, want %x", i, rec.Head.Size, rec.Head.Root, roots[i])
		}
		grow.add(line)
		roots = append(roots, grow.root())
	}

	public, err := os.ReadFile(filepath.Join(b.dir, "log_key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := note.NewVerifier(strings.TrimSpace(string(public)))
	if err != nil {
		t.Fatal(err)
	}
	heads := b.heads()
	for _, text := range heads {
		h, err := tree.OpenHead(text, key)
		switch {
		case err != nil:
			t.Errorf("a head cannot be opened: %v\n%s", err, text)
		case h.Size >= uint64(len(roots)):
			t.Errorf("a head counts %d records, and there are %d", h.Size, len(lines))
		case [32]byte(h.Root) != roots[h.Size]:
			t.Errorf("the head of %d records has the root %x, want %x", h.Size, h.Root, roots[h.Size])
		}
	}
	if len(heads) == 0 {
		t.Error("no head was ever signed")
	}
	if r := b.sekisho("audit", "verify"); r.code != 0 {
		t.Errorf("sekisho audit verify: exit %d\n%s%s", r.code, r.out, r.err)
	}
}

// leaves are the records of the log as they stand on the disk, read by nothing
// of the product. What follows the last newline is half written.
func (b *bastion) leaves() [][]byte {
	t := b.t
	t.Helper()
	name := regexp.MustCompile(`^(\d{20})(?:\.(\d+))?\.jsonl(\.zst)?$`)
	type segment struct {
		first, nth uint64
		text       []byte
	}
	byStem := map[[2]uint64]segment{} // a crash may leave one packed and not, and then the two are the same
	entries, err := os.ReadDir(b.auditAt)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		m := name.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join(b.auditAt, e.Name()))
		if err == nil && m[3] != "" {
			text, err = unpack(text)
		}
		if err != nil {
			t.Fatalf("%s: %v", e.Name(), err)
		}
		first, _ := strconv.ParseUint(m[1], 10, 64)
		nth, _ := strconv.ParseUint(m[2], 10, 64)
		byStem[[2]uint64{first, nth}] = segment{first, nth, text}
	}
	var all []segment
	for _, s := range byStem {
		all = append(all, s)
	}
	slices.SortFunc(all, func(x, y segment) int {
		return slices.Compare([]uint64{x.first, x.nth}, []uint64{y.first, y.nth})
	})
	var lines [][]byte
	for i, s := range all {
		if s.first != uint64(len(lines)) && (i == 0 || all[i-1].first != s.first) {
			t.Fatalf("a segment begins at record %d, and those before it end at %d", s.first, len(lines))
		}
		text := bytes.SplitAfter(s.text, []byte("\n"))
		text = text[:len(text)-1]
		if i+1 < len(all) { // it ends where the next one begins
			text = text[:min(uint64(len(text)), all[i+1].first-s.first)]
		}
		for _, line := range text {
			lines = append(lines, bytes.TrimSuffix(line, []byte("\n")))
		}
	}
	return lines
}

func unpack(b []byte) ([]byte, error) {
	z, err := zstd.NewReader(nil)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return z.DecodeAll(b, nil)
}

// heads are the texts of all that stand in the folder and are whole.
func (b *bastion) heads() (texts [][]byte) {
	b.t.Helper()
	whole := regexp.MustCompile(`(?m)^[^\n]+\n\d+\n[^\n]{44}\ntime [^\n]+\n\n— [^\n]+\n`)
	files, err := filepath.Glob(filepath.Join(b.auditAt, "*.heads"))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			b.t.Fatal(err)
		}
		texts = append(texts, whole.FindAll(text, -1)...)
	}
	return texts
}

// An rfcTree is the Merkle tree of RFC 6962 section 2.1: of the sizes that are
// powers of two and make up its own, the largest first, the hash of each.
type rfcTree struct {
	size   uint64
	hashes [][32]byte
}

func (r *rfcTree) add(leaf []byte) {
	h := sha256.Sum256(append([]byte{0}, leaf...))
	for range bits.TrailingZeros64(^r.size) { // each carry of size + 1 joins two of one size
		last := len(r.hashes) - 1
		h = rfcNode(r.hashes[last], h)
		r.hashes = r.hashes[:last]
	}
	r.hashes = append(r.hashes, h)
	r.size++
}

func (r *rfcTree) root() [32]byte {
	if r.size == 0 {
		return sha256.Sum256(nil)
	}
	h := r.hashes[len(r.hashes)-1]
	for _, left := range slices.Backward(r.hashes[:len(r.hashes)-1]) {
		h = rfcNode(left, h)
	}
	return h
}

func rfcNode(left, right [32]byte) [32]byte {
	return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
}

// TestTheTestsTreeIsThatOfTheRFC holds it against the definition.
func TestTheTestsTreeIsThatOfTheRFC(t *testing.T) {
	var mth func(leaves []string) [32]byte
	mth = func(leaves []string) [32]byte {
		switch n := len(leaves); n {
		case 0:
			return sha256.Sum256(nil)
		case 1:
			return sha256.Sum256([]byte("\x00" + leaves[0]))
		default:
			k := 1 << (bits.Len(uint(n-1)) - 1) // the largest power of two below n
			return rfcNode(mth(leaves[:k]), mth(leaves[k:]))
		}
	}
	var leaves []string
	r := rfcTree{}
	for n := range 100 {
		if r.root() != mth(leaves) {
			t.Fatalf("the roots of %d leaves differ", n)
		}
		leaf := fmt.Sprint("leaf ", n)
		leaves = append(leaves, leaf)
		r.add([]byte(leaf))
	}
}
