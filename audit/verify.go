package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"sekisho/audit/tree"
)

// VerifyOptions say what a log is held against. The zero value holds it
// against nothing but the rules of the format.
type VerifyOptions struct {
	// Keys are those whose heads count: that of the log, and older ones if it
	// was changed. Any of them counts anywhere in the log.
	Keys []note.Verifier

	// Old are keys that the log had before: their heads count up to the first one
	// of Keys and no longer, so that whoever has an old key can do nothing with it.
	Old []note.Verifier

	// Since are heads that were kept where nobody who can write the log can
	// change them, in any order. The caller has made sure who signed them.
	Since []tree.Head

	// Progress is called now and then from the goroutine of Verify.
	Progress func(records uint64, bytes int64)

	now func() time.Time // nil means time.Now
}

// Verify reads the log in dir once, without its lock, and says whether it is
// what was written. An error is that it could not be read.
//
// It grows the tree over all lines and holds it against every head: those
// beside the segments, those within server.start and log.prune, and those
// that were kept. The root at a head proves every line below it. So lines below
// the last head are looked at for their number, time and run only, and those
// above it are read strictly. If a root is not the right one, what stands
// above the last head that fits is read again, strictly, for the first line
// that shows it.
//
// Of the heads in a file, which may be one a second, all roots are compared,
// but the signature is verified only of the last one and of those around harm:
// it speaks for all that the others do. What that leaves out is a head with a
// wrong signature and the right root, which says nothing untrue.
//
// The log may be written meanwhile. What comes after the newest segment was
// opened is not looked at.
func Verify(ctx context.Context, dir string, opts VerifyOptions) (*Verdict, error) {
	const tries = 100 // each takes up where retention has come to
	began := time.Now()
	if opts.now == nil {
		opts.now = time.Now
	}
	for range tries {
		v := &verification{ctx: ctx, dir: dir, opts: opts, kept: slices.Clone(opts.Since)}
		slices.SortStableFunc(v.kept, func(a, b tree.Head) int { return cmp.Compare(a.Size, b.Size) })
		err := v.run()
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil {
			return nil, err
		}
		verdict := v.verdict()
		verdict.Seconds = time.Since(began).Seconds()
		return verdict, nil
	}
	return nil, fmt.Errorf("audit: verify %s: segments went away %d times while they were read", dir, tries)
}

// errMoved is that retention took away what was being read.
var errMoved = errors.New("the log has moved on")

type verification struct {
	ctx  context.Context
	dir  string
	opts VerifyOptions
	kept []tree.Head // opts.Since, by size

	gone   tree.Range
	lock   lockState // before anything was read
	young  bool      // no head is over the log.prune yet, and that is new
	pieces []piece
	files  []headFile
	claims [][]byte // how the last line of a head begins that one of the keys has signed
	olds   [][]byte // the same of the old keys

	at     mark // where it stands
	anchor mark // at the beginning of the segment that the last proven record is in

	// The following look at each record once, also when it is read again.
	open openForwards
	odd  []Harm // of them

	policies namedPolicies
	quick    uint64 // up to here lines were read with less care
}

// A mark is what is carried from record to record. It can be gone back to.
type mark struct {
	tree  tree.Range
	order order
	key   pieceKey // of the segment
	heads headStream

	segments   int
	bytes      int64
	begin      string
	offset     int64 // in the segment
	torn       int64
	compared   int
	signatures int
	head       *tree.Head // the newest that fits
	current    bool       // one that fits is not of an old key
	fit        uint64     // how many records the last head had that fits
	proven     uint64     // the records below are those of a head that somebody signed
	bare       string     // time of the first record after that
	asked      int        // how many kept heads it was held against, or that are of what is gone
	keptFit    *tree.Head // the newest of them that fits, up to the first that does not
	misfit     *tree.Head // the oldest of them that does not
	later      bool       // one after that fits
	over       bool       // all that is there was read
	told       uint64     // seq, and 1, of the log.prune that tells of what is gone; 0: there is none yet
	toldAt     time.Time
	harms      []Harm
}

func (m mark) clone() mark {
	m.tree = m.tree.Clone()
	m.order = m.order.clone()
	m.heads = m.heads.clone()
	m.harms = slices.Clone(m.harms)
	return m
}

func (v *verification) run() error {
	v.lock = lockOf(v.dir)
	if _, err := os.Stat(filepath.Join(v.dir, policiesDir)); err == nil {
		v.policies.named = map[string]bool{}
	}
	if err := v.look(); err != nil {
		if errors.As(err, new(*fs.PathError)) {
			return err
		}
		v.at.harms = []Harm{{KindPruned, filepath.Join(v.dir, prunedFile), 0, 0, 0, err.Error(), 0}}
		return nil
	}
	for _, k := range v.opts.Keys {
		v.claims = append(v.claims, claim(k))
	}
	for _, k := range v.opts.Old {
		v.olds = append(v.olds, claim(k))
	}
	v.at = mark{tree: v.gone.Clone(), order: newOrder(v.gone.Next())}
	v.at.heads.from, v.at.key.nth = v.gone.Next(), -1
	for v.at.asked < len(v.kept) && v.kept[v.at.asked].Size < v.gone.Next() {
		v.at.asked++
	}
	start := v.at.clone()
	v.anchor = start
	trust, err := v.lastHead()
	if err != nil {
		return err
	}
	if len(v.opts.Keys) == 0 && len(v.kept) == 0 {
		trust = 0
	}
	harm, err := v.walk(trust)
	if err != nil {
		return err
	}
	if v.at.misfit != nil {
		v.anchor = start // heads of the log prove nothing
	}
	if trust > 0 && (harm != nil || v.quick > v.at.proven || v.at.misfit != nil) {
		// What is wrong stands after the anchor, unless retention has come there.
		if err := v.look(); err != nil {
			return err
		}
		if v.gone.Next() > v.anchor.tree.Next() {
			return errMoved
		}
		v.gone, v.at = start.tree, v.anchor.clone()
		if harm, err = v.walk(0); err != nil {
			return err
		}
	}
	if harm != nil {
		if err := v.blamePruned(harm); errors.Is(err, fs.ErrNotExist) {
			return errMoved
		} else if err != nil {
			return err
		}
		v.at.harms = slices.Insert(v.at.harms, 0, *harm)
	}
	return nil
}

// look takes the list of what is there: the heads first, so that there is a
// segment for each. Of a segment that has been read, no heads count that have
// come since: a server that runs may write one when it is already in the next.
func (v *verification) look() (err error) {
	was := v.files
	if v.files, err = listHeads(v.dir); err != nil {
		return err
	}
	for i, f := range v.files {
		if was == nil || f.key.after(v.at.key) {
			continue
		}
		before := slices.IndexFunc(was, func(w headFile) bool { return w.key == f.key })
		if before < 0 {
			v.files[i].size = 0
		} else {
			v.files[i].size = min(f.size, was[before].size)
		}
	}
	for range 5 {
		// In this order, as in survey.
		if v.pieces, err = list(v.dir); err != nil {
			return err
		}
		if v.gone, err = readPruned(v.dir); err != nil {
			return err
		}
		if n := len(v.pieces); n == 0 || v.pieces[n-1].first >= v.gone.Next() {
			break
		}
		// What was the newest then has been taken away since.
	}
	return nil
}

// walk goes from where it stands to the end, and returns the first harm after
// which nothing can be said. Lines below trust are read with less care, for a
// head is to prove them.
func (v *verification) walk(trust uint64) (*Harm, error) {
	if harm, err := v.compare(trust > 0); harm != nil || err != nil { // at a head of what is gone
		return harm, err
	}
	for {
		p, f, err := v.nextPiece()
		if err != nil {
			return nil, err
		}
		if f == nil {
			break
		}
		harm, err := v.piece(p, f, trust)
		f.Close()
		if errors.Is(err, fs.ErrNotExist) { // it was packed or taken away when it was to be looked at again
			err = errMoved
		}
		if err == errEnd || harm == nil && err == nil && p.limit == noLimit {
			break
		}
		if harm != nil || err != nil {
			return harm, err
		}
	}
	return v.ended()
}

// nextPiece opens the next segment that has records. It takes the list again
// if that may be old: of the newest, to know where it ends, and of one that is
// packed meanwhile.
func (v *verification) nextPiece() (piece, *stream, error) {
	for try := 0; ; try++ {
		i := slices.IndexFunc(v.pieces, func(p piece) bool { return p.key().after(v.at.key) && !p.void() && p.limit > v.gone.Next() })
		if i < 0 {
			return piece{}, nil, nil
		}
		p := v.pieces[i]
		if p.limit != noLimit || try > 0 {
			f, err := p.open()
			if !errors.Is(err, fs.ErrNotExist) || try > 3 {
				return p, f, err
			}
		}
		was := v.gone
		if err := v.look(); err != nil {
			return piece{}, nil, err
		}
		if v.gone.Next() > v.at.tree.Next() || v.gone.Next() < was.Next() {
			return piece{}, nil, errMoved
		}
		v.gone = was // all that went since was read before
	}
}

// piece reads a segment.
func (v *verification) piece(p piece, f *stream, trust uint64) (*Harm, error) {
	m := &v.at
	if p.first != m.tree.Next() {
		return v.missing(p), nil
	}
	before := m.clone()
	m.key = p.key()
	m.segments++
	m.order.enter()
	m.offset, m.torn = 0, 0

	lines := lineReader(f)
	defer readers.Put(lines)
	due := m.due(v)
	n, proven := 0, m.proven
	for n = 1; m.tree.Next() < p.limit; n++ {
		if n&0xfff == 0 {
			if err := v.breathe(); err != nil {
				return nil, err
			}
		}
		line, err := lines.ReadSlice('\n')
		if err != nil {
			if err == io.EOF && len(line) == 0 {
				break
			}
			return v.stopped(p, n, line, err)
		}
		text := line[:len(line)-1]
		if m.tree.Next() < trust && m.order.fast(text) {
			v.quick = max(v.quick, m.tree.Next()+1)
		} else if harm, err := v.strict(p, n, text); harm != nil || err != nil {
			return harm, err
		}
		if m.tree.Next() >= v.open.next {
			if harm := v.open.see(m.order.kind, m.order.rest, m.tree.Next()); harm != "" {
				v.odd = addHarm(v.odd, Harm{KindForwards, p.path, n, m.tree.Next(), m.tree.Next() + 1, harm, 0})
			}
			v.policies.see(m.order.kind, text)
		}
		if m.bare == "" {
			m.bare = string(m.order.last)
		}
		m.tree.Append(tree.Leaf(text))
		m.bytes += int64(len(line))
		m.offset += int64(len(line))
		if m.tree.Next() >= due {
			if harm, err := v.compare(trust > 0); harm != nil || err != nil {
				return harm, err
			}
			due = m.due(v)
			if m.proven > proven {
				v.anchor, proven = before, m.proven
			}
		}
	}
	if p.limit != noLimit && m.tree.Next() < p.limit {
		return v.short(p), nil
	}
	if p.packed {
		if harm, err := v.packedEnd(p, lines); harm != nil || err != nil {
			return harm, err
		}
	}
	return nil, v.index(p, before.tree)
}

// packedEnd makes sure that a segment unpacks to its end and has records.
func (v *verification) packedEnd(p piece, lines *bufio.Reader) (*Harm, error) {
	next := v.at.tree.Next()
	if _, err := lines.ReadByte(); err != nil && err != io.EOF {
		return v.stopped(p, 0, nil, err)
	}
	if next == p.first {
		return &Harm{KindUnpack, p.path, 0, next, next + 1, "no record is in it", 0}, nil
	}
	return nil, nil
}

// strict reads a line as a record that must stand there.
func (v *verification) strict(p piece, n int, text []byte) (*Harm, error) {
	m := &v.at
	seq := m.tree.Next()
	rec, err := ParseRecord(text)
	if err != nil {
		if p.limit == noLimit && !p.packed {
			return v.torn(p, n, err)
		}
		return &Harm{KindEdited, p.path, n, seq, seq + 1, err.Error(), 0}, nil
	}
	if rec.Seq != seq {
		return v.misnumbered(p, n, rec.Seq)
	}
	var before TreeHead // it takes some time
	if rec.Type == ServerStart && seq > 0 {
		if before.Root, err = m.tree.Root(); err != nil {
			return nil, err
		}
		before.Size = seq
	}
	kind, why := m.order.check(&rec, text, before)
	if why != "" {
		h := Harm{kind, p.path, n, seq, seq + 1, why, 0}
		if kind == KindChanged { // that is not in this line
			h = Harm{kind, "", 0, max(m.fit, v.gone.Next()), seq, why, 0}
		}
		return &h, nil
	}
	if m.begin == "" {
		m.begin = string(m.order.last)
	}
	if rec.Type == LogPrune && rec.Head.Size > seq {
		return &Harm{KindEdited, p.path, n, seq, seq + 1, fmt.Sprintf("it tells of the removal of %d records", rec.Head.Size), 0}, nil
	}
	if rec.Type == LogPrune && rec.Head.Size > 0 && rec.Head.Size == v.gone.Next() {
		if root, err := v.gone.Root(); err != nil || root != rec.Head.Root {
			return &Harm{KindPruned, "", 0, 0, v.gone.Next(), fmt.Sprintf("the file pruned has hashes of other records than those that record %d says were taken away", seq), 0}, err
		}
		if m.told == 0 {
			m.told, m.toldAt = seq+1, rec.Time
		}
	}
	return nil, nil
}

// stopped is a line that does not end, or cannot be read.
func (v *verification) stopped(p piece, n int, line []byte, err error) (*Harm, error) {
	next := v.at.tree.Next()
	switch {
	case errors.Is(err, errPacked):
		return &Harm{KindUnpack, p.path, 0, next, max(next+1, min(p.limit, noLimit-1)), strings.TrimPrefix(err.Error(), p.path+": "), 0}, nil
	case err != io.EOF && err != bufio.ErrBufferFull:
		return nil, fmt.Errorf("audit: read a segment: %w", err)
	case p.limit == noLimit && !p.packed:
		return v.torn(p, n, errors.New("the line does not end"))
	}
	return &Harm{KindEdited, p.path, n, next, next + 1, "the line does not end", 0}, nil
}

// torn is the end of the newest segment that is no record. A crash leaves that,
// as does a writer at work, if nothing is behind it.
func (v *verification) torn(p piece, n int, why error) (*Harm, error) {
	m := &v.at
	next := m.tree.Next()
	after, err := p.recordAfter(m.offset)
	if err != nil {
		return nil, err
	}
	size, grown, err := p.recordAt(m.offset, next)
	switch {
	case err != nil:
		return nil, err
	case grown: // it was being written
		return nil, errEnd
	case after:
		return &Harm{KindEdited, p.path, n, next, next + 1, why.Error() + ", yet a record follows", 0}, nil
	}
	m.torn = max(size-m.offset, 0)
	return nil, errEnd
}

// recordAt reports whether the record of that number stands at an offset, and
// returns the size of the file.
func (p piece) recordAt(offset int64, seq uint64) (size int64, found bool, err error) {
	f, err := openFile(p.path)
	if err != nil {
		return 0, false, fmt.Errorf("audit: read a segment: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, false, fmt.Errorf("audit: read a segment: %w", err)
	}
	lines := lineReader(io.NewSectionReader(f, offset, maxLine))
	defer readers.Put(lines)
	line, err := lines.ReadSlice('\n')
	if err != nil {
		return info.Size(), false, nil
	}
	r, err := ParseRecord(line[:len(line)-1])
	return info.Size(), err == nil && r.Seq == seq, nil
}

// errEnd is that there are no more records, though something is behind them.
var errEnd = errors.New("the end of the records")

// breathe ends a verification that is no longer wanted, and tells how far it is.
func (v *verification) breathe() error {
	if v.ctx.Err() != nil {
		return fmt.Errorf("audit: verify: %w", context.Cause(v.ctx))
	}
	if v.opts.Progress != nil {
		v.opts.Progress(v.at.tree.Next()-v.gone.Next(), v.at.bytes)
	}
	return nil
}

// misnumbered tells what a record does where another should be.
func (v *verification) misnumbered(p piece, n int, got uint64) (*Harm, error) {
	want := v.at.tree.Next()
	if got < want {
		return &Harm{KindInserted, p.path, n, want, want + 1, fmt.Sprintf("record %d stands where record %d should: it was put in, or is there twice", got, want), 0}, nil
	}
	f, err := p.open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := lineReader(f)
	defer readers.Put(lines)
	begin := fmt.Appendf(nil, `{"v":%d,"seq":%d,`, Version, want)
	for i := 1; ; i++ {
		line, err := lines.ReadSlice('\n')
		if err != nil && err != bufio.ErrBufferFull {
			break
		}
		if i > n && bytes.HasPrefix(line, begin) {
			return &Harm{KindReordered, p.path, n, want, got + 1, fmt.Sprintf("record %d stands where record %d should, which stands in line %d", got, want, i), 0}, nil
		}
	}
	return &Harm{KindRemoved, p.path, n, want, got, fmt.Sprintf("%s missing before this line", are(want, got)), 0}, nil
}

func are(from, to uint64) string {
	if to <= from+1 {
		return records(from, to) + " is"
	}
	return records(from, to) + " are"
}

// short is a segment whose records end before the next one begins.
func (v *verification) short(p piece) *Harm {
	next := v.at.tree.Next()
	if p.packed && next == p.first {
		return &Harm{KindUnpack, p.path, 0, next, p.limit, "no record is in it", 0}
	}
	why := fmt.Sprintf("%s missing after it", are(next, p.limit))
	for _, f := range v.files {
		if f.key.after(p.key()) && f.key.first < p.limit && f.size > 0 {
			return &Harm{KindMissing, p.path, 0, next, p.limit, fmt.Sprintf("%s: %s is without its segment", why, f.path), 0}
		}
	}
	if h := v.at.heads.peek(v.files); h != nil && h.file.key == p.key() {
		return &Harm{KindRemoved, p.path, 0, next, p.limit, why, 0}
	}
	return &Harm{KindMissing, p.path, 0, next, p.limit, why, 0}
}

// missing is a segment that begins too late, which only the first can.
func (v *verification) missing(p piece) *Harm {
	next := v.at.tree.Next()
	if p.first < next {
		return &Harm{KindPruned, p.path, 0, p.first, next, fmt.Sprintf("the file pruned says that %s were taken away, which ends within this segment", records(0, next)), 0}
	}
	why := fmt.Sprintf("%s missing before it, and no file pruned tells of them", are(next, p.first))
	if next > 0 {
		why = fmt.Sprintf("%s missing before it", are(next, p.first))
	}
	return &Harm{KindMissing, p.path, 0, next, p.first, why, 0}
}
