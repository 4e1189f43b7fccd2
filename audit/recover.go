package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/mod/sumdb/note"

	"sekisho/audit/tree"
)

// Recovery is what Open found to mend, mostly of a run that had ended without
// Close. It is zero if there was nothing.
type Recovery struct {
	Cut     int64  // bytes that were cut off, in all
	Segment string // the file they were in; the oldest, if they were in several
	Saved   string // the file that keeps them
	Lost    int    // forwards that were recorded as lost
	Foreign error  // that the newest heads are signed with another key; nil if they are not

	// Unsigned is how many records at the end no signed head was over. A crash
	// leaves those of a second or two so. Doubt says why these are not of one:
	// somebody may have changed them, or removed heads.
	Unsigned uint64
	Doubt    string
}

// Open makes the caller the writer of the log in dir, which it creates if need
// be, and starts a run. Before it returns, these records are durable:
// server.start, a log.mend for each segment that a crash left torn, and a
// forward.lost for each forward that an earlier run opened and did not end.
//
// Open refuses a log with damage that no crash does, and changes nothing then.
// If another Log is open on dir, the error wraps ErrLocked.
func Open(dir string, opts Options) (*Log, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("audit: make the folder of the log: %w", err)
	}
	if err := (osDisk{}).SyncDir(filepath.Dir(filepath.Clean(dir))); err != nil {
		return nil, fmt.Errorf("audit: make the folder of the log durable: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	l := newLog(dir, opts, lock)
	err = l.recover()
	if errors.Is(err, syscall.ENOSPC) && !errors.Is(err, ErrInFlight) && l.opts.disk.Remove(filepath.Join(dir, reserveFile)) == nil {
		// Without a start there is no retention, which would make room.
		l.retry = time.Time{}
		err = l.recover()
	}
	if err != nil {
		if l.seg != nil {
			l.seg.Close()
		}
		l.keeping()
		lock.Close()
		return nil, err
	}
	go l.write()
	if l.opts.Signer != nil {
		go l.signHeads()
	} else {
		close(l.sealed)
	}
	l.keep()
	return l, nil
}

// recover brings the log into order. A crash at any point of it leaves what
// the next Open recovers in the same way: the old segments change only when
// the batch is durable that tells how. From then on what they hold beyond
// their records is void, so that the cut may even be missing. And of a batch
// that is itself torn, each record that is whole counts and is not repeated.
func (l *Log) recover() error {
	f, err := inspect(l.dir, l.opts.Verifier)
	if err != nil {
		return err
	}
	l.next, l.last, l.before = f.next, f.last, f.last
	before, err := f.tree.Root()
	if err != nil {
		return err
	}
	l.grown.tree = f.tree
	l.recovered.Foreign = f.foreign

	for _, name := range f.empty {
		if err := l.opts.disk.Remove(name); err != nil {
			return fmt.Errorf("audit: remove an empty segment: %w", err)
		}
	}
	for i := range f.torn {
		if f.torn[i].told {
			continue
		}
		if err := f.torn[i].save(l.opts.disk, l.run); err != nil {
			l.forget(f.torn)
			return fmt.Errorf("audit: keep the torn end of %s: %w", f.torn[i].path, err)
		}
	}

	// A process that was killed between writing and syncing leaves records that
	// can be read and are not durable. They count from now on, and heads will be
	// signed over them.
	for _, path := range f.plain {
		if err := syncFile(l.opts.disk, path); err != nil {
			return fmt.Errorf("audit: make what the last run has written durable: %w", err)
		}
	}
	if err := l.opts.disk.SyncDir(l.dir); err != nil {
		return fmt.Errorf("audit: make what the last run has written durable: %w", err)
	}

	l.begin()
	n := 0
	add := func(r Record) {
		l.add(uint64(n), r.appendBody(nil))
		n++
	}
	add(Record{Type: ServerStart, Head: TreeHead{f.next, before}})
	if unsigned := f.unsigned(); unsigned > 0 {
		l.recovered.Unsigned, l.recovered.Doubt = unsigned, f.doubt()
		add(Record{Type: LogMend, Reason: "unsigned", Detail: unsignedText(f.next, unsigned, l.recovered.Doubt)})
	}
	for _, t := range f.torn {
		if !t.told {
			add(Record{Type: LogMend, Reason: "torn", Detail: t.String()})
		}
	}
	for _, r := range f.lost {
		add(r)
	}
	err = l.measured(n)
	if err != nil {
		if !errors.Is(err, ErrInFlight) {
			l.forget(f.torn)
		}
		return err
	}
	l.buf = nil // it may have been large

	for _, t := range f.torn {
		if err := t.cut(l.opts.disk); err != nil {
			return fmt.Errorf("audit: cut the torn end of %s: %w", t.path, err)
		}
	}

	l.recovered.Lost = len(f.lost)
	for _, t := range f.torn {
		if t.told {
			continue
		}
		l.recovered.Cut += t.size - t.keep
		l.recovered.Segment = cmp.Or(l.recovered.Segment, t.path)
		l.recovered.Saved = cmp.Or(l.recovered.Saved, t.saved)
	}
	return nil
}

// syncFile makes what is in a file durable.
func syncFile(d disk, path string) error {
	f, err := d.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// unsigned is how many records are above the newest head.
func (f *findings) unsigned() uint64 {
	switch {
	case f.key == nil || f.foreign != nil:
		return 0 // nobody signs, or another key has
	case f.head == nil:
		return f.next - f.gone
	}
	return f.next - f.head.Size
}

// unsignedFor is how long records can have been without a head over them in a
// run that ends with a crash. The log signs every second.
const unsignedFor = 10 * time.Second

// doubt is why records without a head are not what a crash leaves, or "".
func (f *findings) doubt() string {
	switch {
	case f.stopped:
		return "yet the run before ended in order, with a head over its last record"
	case f.head == nil:
		return "and none at all is there"
	case f.last.Sub(f.head.Time) > unsignedFor:
		return fmt.Sprintf("and they are of %s after the newest head", f.last.Sub(f.head.Time).Round(time.Second))
	}
	return ""
}

func unsignedText(next, unsigned uint64, doubt string) string {
	text := fmt.Sprintf("no signed head was over the %d records from %d on when this run began", unsigned, next-unsigned)
	if doubt == "" {
		return text + ", as a crash leaves the last ones"
	}
	return text + ", " + doubt + ": they may have been changed, or heads removed"
}

// forget removes the copies of an Open that failed and will be tried again.
func (l *Log) forget(all []torn) {
	for _, t := range all {
		if t.saved != "" {
			l.opts.disk.Remove(t.saved)
		}
	}
}

// findings are what is to be done, and where the log goes on.
type findings struct {
	next  uint64
	last  time.Time
	empty []string // files that nothing was written to
	torn  []torn   // oldest first
	lost  []Record // in the order in which they were opened

	tree    tree.Range
	key     note.Verifier // that of the log; nil: none
	head    *tree.Head    // the newest; nil: none is signed
	foreign error         // that newer ones are, with another key

	gone    uint64   // records that retention took
	plain   []string // files of records that may not be durable
	stopped bool     // the last record is server.stop
}

// inspect reads what it must of the log and changes nothing. The key is that
// of the heads; without one they are not looked at.
func inspect(dir string, key note.Verifier) (*findings, error) {
	gone, all, err := survey(dir)
	if err != nil {
		return nil, err
	}
	f := findings{next: gone.Next(), tree: gone.Clone(), key: key, gone: gone.Next()}
	if key != nil {
		text, head, foreign, err := newestHead(dir, key)
		if errors.Is(err, tree.ErrSignature) {
			return nil, refuse(dir, err)
		}
		if err != nil {
			return nil, err
		}
		if f.foreign = foreign; text != nil {
			f.head = &head
		}
		switch err := checkPruned(dir, key); {
		case errors.Is(err, tree.ErrForeignKey):
			f.foreign = cmp.Or(f.foreign, err)
		case err != nil:
			return nil, refuse(dir, err)
		}
	}

	// Files at the end that hold no record that counts are what a run left that
	// did not come to writing.
	tip := len(all) - 1
	var behind []torn
	for ; tip >= 0; tip-- {
		p := all[tip]
		e, err := p.scan(func([]byte, Record) error { return errStop })
		if err == errStop {
			break
		}
		if err == nil {
			err = f.mendable(p, e)
		}
		if err != nil {
			return nil, err
		}
		behind = f.note(behind, p, e)
	}
	slices.Reverse(behind)
	if tip < 0 {
		if len(all) > 0 && all[0].first != f.next {
			return nil, all[0].missing(f.next)
		}
	} else if err := f.read(all[:tip+1]); err != nil {
		return nil, err
	}
	if f.head != nil && f.head.Size > f.next {
		return nil, refuse(dir, fmt.Errorf("%s: the log ends before record %d, and a head signed at %s counts %d records", dir, f.next, f.head.Time.Format(time.RFC3339), f.head.Size))
	}
	f.torn = append(f.torn, behind...)
	return &f, nil
}

// read goes through the pieces, of which the last has a record, and through
// those closely from which on forwards may still be open.
func (f *findings) read(all []piece) error {
	start, err := settled(all)
	if err != nil {
		return err
	}
	if err := f.climb(all[:start]); err != nil {
		return err
	}
	open := forwards{}
	told := map[string]bool{} // files that a log.mend names
	begun := false            // false: retention took away where the run begins
	for i, p := range all[start:] {
		if p.first != f.next {
			return p.missing(f.next)
		}
		e, err := p.scan(func(line []byte, r Record) error {
			f.last, f.stopped = r.Time, r.Type == ServerStop
			begun = begun || r.Type == ServerStart
			open.see(r, !begun)
			if r.Type == LogMend {
				name, _, _ := strings.Cut(r.Detail, ":")
				told[name] = true
			}
			return f.grow(p, line)
		})
		if err == nil && start+i < len(all)-1 {
			err = p.complete(e)
		} else if err == nil {
			err = f.mendable(p, e)
		}
		if err != nil {
			return err
		}
		f.next = e.next
		f.torn = f.note(f.torn, p, e)
		if !p.packed && !p.void() {
			f.plain = append(f.plain, p.path)
		}
	}
	for i := range f.torn {
		f.torn[i].told = told[filepath.Base(f.torn[i].path)]
	}
	f.lost = open.lost()
	return nil
}

// climb brings the tree up over pieces in which nothing else matters. Where
// the log's own key has signed an index of one, that tells what its leaves come
// to: whether it tells the truth, the newest head shows, as it does of the
// records themselves.
func (f *findings) climb(all []piece) error {
	for _, p := range all {
		if p.first != f.next {
			return p.missing(f.next)
		}
		if done, err := f.leap(p); err != nil {
			return err
		} else if done {
			continue
		}
		e, err := p.scan(func(line []byte, _ Record) error { return f.grow(p, line) })
		if err == nil {
			err = p.complete(e)
		}
		if err != nil {
			return err
		}
		f.next = e.next
	}
	return nil
}

// leap takes the range of a piece from its index, if there is a good one of all
// of its records, and the newest head does not end among them.
func (f *findings) leap(p piece) (done bool, err error) {
	if f.key == nil || p.limit == noLimit || p.void() {
		return false, nil
	}
	if f.head != nil && p.first < f.head.Size && f.head.Size < p.limit {
		return false, nil
	}
	x, err := p.index(f.key)
	if err != nil || x == nil {
		return false, nil // it has to be read, then
	}
	if err := f.tree.Join(x.tree); err != nil {
		return false, p.refuse(err)
	}
	f.next = p.limit
	return true, f.hold(p)
}

// grow adds a record to the tree.
func (f *findings) grow(p piece, line []byte) error {
	f.tree.Append(tree.Leaf(line))
	return f.hold(p)
}

// hold holds the tree against the newest head, where that ends.
func (f *findings) hold(p piece) error {
	if f.head == nil || f.tree.Next() != f.head.Size {
		return nil
	}
	root, err := f.tree.Root()
	if err != nil || root != f.head.Root {
		return p.refuse(fmt.Errorf("%s: up to record %d these are not the records whose head was signed at %s; sekisho audit verify tells more",
			p.path, f.head.Size-1, f.head.Time.Format(time.RFC3339)))
	}
	return nil
}

// note adds p to list if it holds more than its records, and to the empty
// files if it holds nothing.
func (f *findings) note(list []torn, p piece, e extent) []torn {
	switch {
	case e.size == 0:
		f.empty = append(f.empty, p.path)
	case e.size > e.end:
		list = append(list, torn{path: p.path, keep: e.end, size: e.size})
	}
	return list
}

var errStop = errors.New("stop")

// settled returns the piece from which on forwards may still be open.
//
// That is where the newest run begins that got beyond its own recovery: what
// it did first was to settle all that older runs had left open, in one batch,
// and any other record of it proves that the batch was whole. A run with no
// other record may have died within the batch, so that one has to look behind
// it.
func settled(all []piece) (int, error) {
	for i := len(all) - 1; i >= 0; i-- {
		run, beyond, err := all[i].peek()
		if err != nil {
			return 0, err
		}
		if !beyond {
			continue
		}
		start := i
		for i--; i >= 0; i-- {
			if all[i].void() {
				continue
			}
			r, _, err := all[i].peek()
			if err != nil {
				return 0, err
			}
			if r != run {
				break
			}
			start = i
		}
		return start, nil
	}
	return 0, nil
}

// peek returns the run of the piece, and whether it has a record that no
// recovery writes.
func (p piece) peek() (run string, beyond bool, err error) {
	if p.void() {
		return "", false, nil
	}
	e, err := p.scan(func(_ []byte, r Record) error {
		run = r.Run
		if beyond = r.Type != ServerStart && r.Type != LogMend && r.Type != ForwardLost; beyond {
			return errStop
		}
		return nil
	})
	if err == errStop {
		return run, beyond, nil
	}
	if err == nil && e.next == p.first {
		err = p.complete(e)
	}
	return run, beyond, err
}

// complete returns an error unless the records of the piece reach the next one.
func (p piece) complete(e extent) error {
	if err := p.whole(e); err != nil {
		return p.refuse(err)
	}
	return nil
}

// mendable returns an error unless the end of p, after which no record counts,
// is one that a crash can leave: the last lines are none. Above the newest
// signed head records may stand behind them: the parts of a batch that was not
// acknowledged reach the disk in any order.
func (f *findings) mendable(p piece, e extent) error {
	if p.limit != noLimit {
		return p.complete(e)
	}
	if e.bad == nil {
		return nil
	}
	if e.odd {
		return p.refuse(e.bad)
	}
	if f.head != nil && e.next >= f.head.Size {
		return nil
	}
	after, err := p.recordAfter(e.end)
	if err != nil {
		return err
	}
	if after {
		return p.refuse(fmt.Errorf("%w, yet a record follows", e.bad))
	}
	return nil
}

func (p piece) refuse(err error) error { return refuse(filepath.Dir(p.path), err) }

// missing is that the piece begins where there should be records before it.
func (p piece) missing(next uint64) error {
	return p.refuse(fmt.Errorf("%s: records %d to %d are missing before it", p.path, next, p.first-1))
}

func refuse(dir string, err error) error {
	return fmt.Errorf("audit: %w: no crash does this, so nothing was mended; to start a new log, move %s away and keep it as evidence", err, dir)
}

// A torn file has bytes that are no record after those that it keeps.
type torn struct {
	path       string
	keep, size int64
	told       bool   // a log.mend tells of it already, and only the cut is missing
	saved      string // the file with the bytes between the two
}

func (t torn) String() string {
	return fmt.Sprintf("%s: %d bytes that are no record were cut off at byte %d and are kept in %s",
		filepath.Base(t.path), t.size-t.keep, t.keep, filepath.Base(t.saved))
}

// save copies the bytes beside the segment.
func (t *torn) save(d disk, run string) error {
	in, err := openFile(t.path)
	if err != nil {
		return err
	}
	defer in.Close()
	t.saved = t.path + ".torn-" + run
	out, err := d.OpenFile(t.saved, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.NewSectionReader(in, t.keep, t.size-t.keep))
	return errors.Join(err, out.Sync(), out.Close(), d.SyncDir(filepath.Dir(t.path)))
}

// cut removes them from it, or the file with them if it holds nothing else.
func (t torn) cut(d disk) error {
	if t.keep == 0 {
		return d.Remove(t.path)
	}
	f, err := d.OpenFile(t.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(t.keep), f.Sync(), f.Close())
}

// forwards are those that were opened and have not ended, by their id.
type forwards map[string]*Record

// see takes note of a record. Where retention may have taken the forward.open
// away, a forward.progress tells as much.
func (open forwards) see(r Record, pruned bool) {
	f := open[r.Forward]
	switch {
	case r.Type == ForwardOpen || pruned && f == nil && r.Type == ForwardProgress:
		open[r.Forward] = &r
	case r.Type.Ends():
		delete(open, r.Forward)
	case f == nil:
	case r.Type == ForwardRetry:
		f.Address = r.Address
	case r.Type == ForwardProgress:
		f.BytesUp, f.BytesDown = r.BytesUp, r.BytesDown
		f.Grant, f.Policy = r.Grant, r.Policy
	}
}

// lost returns the ends that the run of these forwards did not come to write.
func (open forwards) lost() []Record {
	ends := make([]Record, 0, len(open))
	for _, f := range open {
		told := fmt.Sprintf("it was opened in run %s by record %d", f.Run, f.Seq)
		if f.Type == ForwardProgress {
			told = fmt.Sprintf("its opening in run %s was before the oldest record left, and record %d tells of it", f.Run, f.Seq)
		}
		ends = append(ends, Record{
			Type:       ForwardLost,
			Seq:        f.Seq,
			Conn:       f.Conn,
			Forward:    f.Forward,
			Entrance:   f.Entrance,
			User:       f.User,
			Login:      f.Login,
			Key:        f.Key,
			Cert:       f.Cert,
			Client:     f.Client,
			Source:     f.Source,
			Originator: f.Originator,
			Target:     f.Target,
			Address:    f.Address,
			Grant:      f.Grant,
			Policy:     f.Policy,
			BytesUp:    f.BytesUp,
			BytesDown:  f.BytesDown,
			Reason:     "crash",
			Detail:     "the server ended without an end of this forward; " + told,
		})
	}
	slices.SortFunc(ends, func(a, b Record) int { return cmp.Compare(a.Seq, b.Seq) })
	return ends
}
