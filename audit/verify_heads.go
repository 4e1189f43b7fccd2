package audit

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"sekisho/audit/tree"
)

// A pieceKey puts segments, and what stands beside them, in order.
type pieceKey struct {
	first uint64
	nth   int
}

func (p piece) key() pieceKey { return pieceKey{p.first, p.nth} }

func (k pieceKey) after(other pieceKey) bool {
	return cmp.Or(cmp.Compare(k.first, other.first), cmp.Compare(k.nth, other.nth)) > 0
}

// A headFile is one that heads stand in, up to a size: what comes later may be
// of records that are not read.
type headFile struct {
	path string
	key  pieceKey
	size int64
	info os.FileInfo
}

func listHeads(dir string) ([]headFile, error) {
	paths, err := headFiles(dir)
	if err != nil {
		return nil, err
	}
	var files []headFile
	for _, path := range paths {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s is not a regular file", path)
		}
		if err != nil {
			return nil, fmt.Errorf("audit: list the heads: %w", err)
		}
		p, _ := parsePieceName(strings.TrimSuffix(filepath.Base(path), headsEnd) + plainEnd)
		files = append(files, headFile{path, p.key(), info.Size(), info})
	}
	slices.SortFunc(files, func(a, b headFile) int {
		return cmp.Or(cmp.Compare(a.key.first, b.key.first), cmp.Compare(a.key.nth, b.key.nth))
	})
	return files, nil
}

// SplitHeads returns the heads in a text of many, such as a witness keeps. Of whom
// they are is not looked at. What is none is left out: a crash leaves half a one.
func SplitHeads(text []byte) [][]byte { return splitHeads(text) }

// A headText is a head as it was found. Size and root are read, but not by
// whom it is signed.
type headText struct {
	file headFile
	text []byte
	size uint64
	root string
	last bool // of its file
}

// glimpse finds the first head in b. It takes no more time than it must, for
// there may be one a second; end is where the rest begins, or 0 if there is
// none. What is no head, such as half a one that a crash left, is passed over.
func glimpse(b []byte) (h headText, end int) {
	for at := 0; ; {
		i := bytes.Index(b[at:], []byte("\n\n— "))
		if i < 0 {
			return h, 0
		}
		i += at // the newline after the body
		at = i + 2
		n := bytes.IndexByte(b[at:], '\n')
		if n < 0 {
			return h, 0
		}
		begin := i
		for range headLines - 2 {
			begin = bytes.LastIndexByte(b[:max(begin, 0)], '\n')
		}
		text := b[begin+1 : at+n+1]
		lines := bytes.SplitN(text, []byte("\n"), 4)
		if len(lines) < 4 {
			continue
		}
		size, err := strconv.ParseUint(string(lines[1]), 10, 64)
		if err != nil || len(lines[2]) != base64.StdEncoding.EncodedLen(len(tree.Hash{})) || !wholeSignature(b[at:at+n]) {
			continue
		}
		return headText{text: text, size: size, root: string(lines[2])}, at + n + 1
	}
}

// claim is how the signature of a key begins, as far as base64 lets it end.
func claim(k note.Verifier) []byte {
	hash := binary.BigEndian.AppendUint32(nil, k.KeyHash())
	return []byte("\n\n— " + k.Name() + " " + base64.StdEncoding.EncodeToString(hash)[:5])
}

// claimed reports whether h says that one of these keys has signed it.
func (h headText) claimed(claims [][]byte) bool {
	return slices.ContainsFunc(claims, func(c []byte) bool { return bytes.Contains(h.text, c) })
}

// A headStream reads the heads of all files, in order. It holds no file open.
type headStream struct {
	from uint64 // files of segments below this are not read

	file headFile
	read int64  // of the file
	buf  []byte // what of it is not used up, never written to
	some bool   // the stream has begun
	past uint64 // the size of the last head of it that was taken

	// Another file of the name stands there, since the heads were thinned: of it
	// those are taken that come after that one.
	again bool

	queue []headText // up to two
	err   error
}

func (s headStream) clone() headStream {
	s.queue = slices.Clone(s.queue)
	return s
}

// peek returns the next head, or nil.
func (s *headStream) peek(files []headFile) *headText {
	for len(s.queue) < 2 {
		h, ok := s.more(files)
		if !ok {
			break
		}
		if n := len(s.queue); n > 0 && s.queue[n-1].file.key != h.file.key {
			s.queue[n-1].last = true
		}
		s.queue = append(s.queue, h)
	}
	if len(s.queue) == 0 {
		return nil
	}
	if len(s.queue) == 1 {
		s.queue[0].last = true
	}
	return &s.queue[0]
}

func (s *headStream) pop() { s.queue = s.queue[1:] }

// more reads on.
func (s *headStream) more(files []headFile) (headText, bool) {
	const chunk = 64 << 10
	for s.err == nil {
		if h, end := glimpse(s.buf); end > 0 {
			s.buf = s.buf[end:]
			if s.again && h.size <= s.past {
				continue
			}
			h.file, s.past = s.file, h.size
			return h, true
		}
		for _, f := range files { // it may have grown
			if s.some && f.key == s.file.key && os.SameFile(f.info, s.file.info) {
				s.file = f
			}
		}
		if s.some && s.read < s.file.size {
			// Half a head is kept. It can be no longer than this.
			keep := s.buf[max(0, len(s.buf)-tree.MaxHead):]
			b := make([]byte, len(keep)+int(min(chunk, s.file.size-s.read)))
			copy(b, keep)
			n, info, err := readAt(s.file.path, b[len(keep):], s.read)
			if info != nil && !os.SameFile(info, s.file.info) {
				s.file.info, s.file.size = info, min(s.file.size, info.Size())
				s.read, s.buf, s.again = 0, nil, true
				continue
			}
			s.buf, s.read = b[:len(keep)+n], s.read+int64(n)
			if n == 0 {
				s.read = s.file.size // it is shorter now, or gone
			}
			s.err = err
			continue
		}
		i := slices.IndexFunc(files, func(f headFile) bool {
			return f.key.first >= s.from && (!s.some || f.key.after(s.file.key))
		})
		if i < 0 {
			return headText{}, false
		}
		s.file, s.read, s.buf, s.some, s.past, s.again = files[i], 0, nil, true, 0, false
	}
	return headText{}, false
}

// readAt reads on in a file, and tells which one that is; nil if it is gone.
func readAt(path string, b []byte, off int64) (int, os.FileInfo, error) {
	f, err := openFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, fmt.Errorf("audit: read the heads: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, nil, fmt.Errorf("audit: read the heads: %w", err)
	}
	n, err := f.ReadAt(b, off)
	if err != nil && err != io.EOF {
		return n, info, fmt.Errorf("audit: read the heads: %w", err)
	}
	return n, info, nil
}

// lastHead is the size of what seems to be the newest head. It only says how
// far lines may be read with less care until a head has proven them.
func (v *verification) lastHead() (uint64, error) {
	size := uint64(0)
	if n := len(v.kept); n > 0 {
		size = v.kept[n-1].Size
	}
	for _, f := range slices.Backward(v.files) {
		b := make([]byte, min(f.size, 64<<10))
		n, _, err := readAt(f.path, b, f.size-int64(len(b)))
		if err != nil {
			return 0, err
		}
		found := false
		for b = b[:n]; ; {
			h, end := glimpse(b)
			if end == 0 {
				break
			}
			if h.claimed(v.claims) || h.claimed(v.olds) {
				size, found = max(size, h.size), true
			}
			b = b[end:]
		}
		if found {
			break
		}
	}
	return size, nil
}

// due is how many records there are at the next head.
func (m *mark) due(v *verification) uint64 {
	due := uint64(math.MaxUint64)
	if h := m.heads.peek(v.files); h != nil {
		due = h.size
	}
	if m.asked < len(v.kept) {
		due = min(due, v.kept[m.asked].Size)
	}
	if m.heads.err != nil {
		due = 0
	}
	return due
}

// compare holds the tree against the heads of as many records.
func (v *verification) compare(quick bool) (*Harm, error) {
	m := &v.at
	n := m.tree.Next()
	root, err := m.tree.Root()
	if err != nil {
		return nil, err
	}
	for m.due(v) <= n {
		if m.heads.err != nil {
			return nil, m.heads.err
		}
		if m.asked < len(v.kept) && v.kept[m.asked].Size <= n {
			m.ask(&v.kept[m.asked], root)
			continue
		}
		h := *m.heads.peek(v.files)
		m.heads.pop()
		if quick && !h.last && h.size == n && h.root == root.String() {
			current := h.claimed(v.claims)
			if current || !m.current && h.claimed(v.olds) {
				m.current = m.current || current
				m.compared++
				continue
			}
		}
		if harm := v.hold(h, root); harm != nil {
			return harm, nil
		}
	}
	return nil, nil
}

// ask holds the tree against a head that was kept.
func (m *mark) ask(kept *tree.Head, root tree.Hash) {
	m.asked++
	switch fits := kept.Root == root; {
	case fits && m.misfit != nil:
		m.later = true
	case fits:
		m.keptFit = kept
		m.prove(kept.Size)
	case m.misfit == nil:
		m.misfit = kept
	}
}

// hold holds the tree against a head whose signature matters.
func (v *verification) hold(h headText, root tree.Hash) *Harm {
	m := &v.at
	head, old := v.openHead(h)
	switch n := m.tree.Next(); {
	case head == nil:
	case head.Size < n:
		m.harms = addHarm(m.harms, Harm{KindHeads, h.file.path, 0, head.Size, n, fmt.Sprintf("the head of %d records does not stand where it was written", head.Size), 0})
	case head.Root == root:
		m.compared++
		if m.fit = n; len(v.opts.Keys) > 0 {
			m.prove(n)
			m.head, m.current = head, m.current || !old
		}
	default:
		return &Harm{KindChanged, "", 0, max(m.fit, v.gone.Next()), n, fmt.Sprintf("they are not those of the head that was signed at %s (%s)", head.Time.Format(time.RFC3339), h.file.path), 0}
	}
	return nil
}

func (m *mark) prove(n uint64) { m.proven, m.fit, m.bare = max(m.proven, n), n, "" }

// openHead reads a head. It is nil if none of the keys has signed it, which is a
// harm of its own. Without keys nobody is asked. Old keys are, as long as no head
// of another one was seen.
func (v *verification) openHead(h headText) (head *tree.Head, old bool) {
	m := &v.at
	if len(v.opts.Keys) == 0 {
		if head, err := tree.PeekHead(h.text); err == nil {
			return &head, false
		}
		return nil, false
	}
	got, err := tree.OpenHead(h.text, v.opts.Keys...)
	if errors.Is(err, tree.ErrForeignKey) && !m.current && len(v.opts.Old) > 0 && h.claimed(v.olds) {
		old = true
		got, err = tree.OpenHead(h.text, v.opts.Old...)
	}
	kind := KindSignature
	switch {
	case err == nil:
		m.signatures++
		return &got, old
	case errors.Is(err, tree.ErrMalformed):
		return nil, false // what a crash left
	case errors.Is(err, tree.ErrForeignKey):
		kind = KindForeign
	}
	m.harms = addHarm(m.harms, Harm{kind, h.file.path, 0, m.fit, h.size, err.Error(), 0})
	return nil, false
}
