package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"sekisho/audit/tree"
)

// Retention takes whole segments away, the oldest first, in these steps. A
// crash after any of them leaves a log that is read, opened and proven:
//
//	log.prune  a record with the head of the records that go; durable, and
//	           counted by a signed head of the log
//	pruned     the range of the tree that stands for them from now on
//	the files of these segments, which nobody looks at from then on; what
//	           a crash leaves of them is removed at the next start
//
// Only segments go that are packed and not damaged, which is why each is read
// once more before: one whose records are not those of its index is evidence.
// Nothing goes from the first damaged one on. A forward that runs is to
// stay explained: some record that tells all about it must be left, which is
// its forward.open or the newest of its forward.progress. So it holds up
// retention no longer than until it is recorded the next time, or, where
// progress is off, until it ends.
//
// Age is told by the clock, as far as that agrees with the one that the system
// counts by itself. A clock that was wrong when the log was opened, and stays
// so, is believed.
//
// RetainSize bounds what the segments take on disk; of it one SegmentSize is
// set aside for the one that is written. Records about failed logins, which
// strangers make, count nothing: a packed segment counts with what its other
// records take when they are packed by themselves, which was measured then and
// stands in its index. Otherwise strangers would push out what matters. How
// many of their records there are is bounded by the server. One that the disk
// has no room to pack counts as it is, so that older ones make room for it.

// recordTime is how long the keeper waits for its record.
const recordTime = 10 * time.Second

// How much the clock may be off what it should be since the keeper began, and
// how long nothing is taken away for its age once it is more. A clock that is
// wrong for a moment would take away what is a minute old.
const (
	clockDrift = time.Hour
	clockWait  = 24 * time.Hour
)

// A pruning is what is to go: the records before next.
type pruning struct {
	next     uint64
	segments int
	from, to time.Time // of the first and the last of them that are still there
	reason   string    // age or size
	tree     tree.Range
}

func (k *keeper) retain() error {
	gone, _, err := survey(k.log.dir)
	if err == nil {
		err = k.sweep(gone)
	}
	if o := &k.log.opts; err != nil || o.RetainAge <= 0 && o.RetainSize <= 0 {
		return err
	}
	closed, err := k.closed()
	if err != nil {
		return err
	}
	d, err := k.due(gone, closed)
	for err == nil && d != nil {
		var sound bool
		if sound, err = k.sound(d, gone, closed); sound {
			err = k.prune(d, gone, closed)
			break
		}
		if err == nil {
			d, err = k.due(gone, closed) // up to the damage
		}
	}
	return errors.Join(err, k.reserve())
}

// The file reserve takes room on the disk, so that some is left when the disk
// is full of what is to go: to take anything away, the log must have started,
// and a record, a head and the file pruned must be written first.
const (
	reserveFile = "reserve"
	reserveSize = 1 << 20
)

// reserve makes the file if it is not there.
func (k *keeper) reserve() error {
	path := filepath.Join(k.log.dir, reserveFile)
	if info, err := os.Stat(path); err == nil && info.Size() == reserveSize {
		return nil
	}
	err := k.ready()
	if err == nil {
		// Zeros that are written, not a hole.
		err = writeFile(k.log.opts.disk, path, make([]byte, reserveSize))
	}
	if err == nil {
		err = k.log.opts.disk.SyncDir(k.log.dir)
	}
	if err != nil {
		return fmt.Errorf("audit: keep room for what retention writes: %w", err)
	}
	return nil
}

// spend gives up the room that was kept, and reports whether there was any.
func (k *keeper) spend() bool {
	if k.ready() != nil || k.log.opts.disk.Remove(filepath.Join(k.log.dir, reserveFile)) != nil {
		return false
	}
	select { // until the writer tries again
	case <-k.ctx.Done():
	case <-time.After(2 * retryPause):
	}
	return true
}

// sound reads what is to go: where it was damaged, or changed, it is the
// evidence of that, and stays. What was read for an attempt that failed is not
// read again.
func (k *keeper) sound(d *pruning, gone tree.Range, closed []piece) (bool, error) {
	for _, p := range closed {
		if p.void() || p.limit > d.next || p.limit <= max(k.readTo, gone.Next()) {
			continue
		}
		if err := k.tolerate(p, k.examine(p)); err != nil || k.bad[p.stem()] {
			return false, err
		}
		k.readTo = p.limit
	}
	return true, nil
}

// due returns what is to go; nil if there is nothing.
func (k *keeper) due(gone tree.Range, closed []piece) (*pruning, error) {
	var total int64
	for _, p := range closed {
		size, err := k.counted(p)
		if err != nil {
			return nil, err
		}
		total += size
	}
	o := &k.log.opts
	room := max(o.RetainSize-o.SegmentSize, o.RetainSize/2)
	now, sure := k.clock()
	old := now.Add(-o.RetainAge)
	named := k.log.oldestNamed()
	d := pruning{tree: gone.Clone()}
	for _, p := range closed {
		if p.void() {
			continue
		}
		x := k.pieces[p.stem()]
		if x == nil || !p.packed || k.bad[p.stem()] || p.limit > named {
			break
		}
		aged := o.RetainAge > 0 && sure && x.to.Before(old)
		if large := o.RetainSize > 0 && total > room; !aged && !large {
			break
		}
		d.reason = "age"
		if !aged {
			d.reason = "size"
		}
		size, err := k.counted(p)
		if err != nil {
			return nil, err
		}
		total -= size
		if err := d.tree.Join(x.tree); err != nil {
			return nil, fmt.Errorf("audit: take away old records: %w", err)
		}
		if d.segments++; d.segments == 1 {
			d.from = x.from
		}
		d.next, d.to = p.limit, x.to
	}
	if d.segments == 0 {
		return nil, nil
	}
	return &d, nil
}

// clock returns the time, and whether records may be taken away for their age
// by it: not for clockWait after it jumped against a clock that nobody sets.
func (k *keeper) clock() (now time.Time, sure bool) {
	o := &k.log.opts
	now = o.now().Round(0) // without the reading of the other clock
	ran := k.ran()
	drift := now.Sub(k.wall) - (ran - k.wallRan)
	if o.RetainAge > 0 && drift.Abs() > clockDrift {
		k.wall, k.wallRan, k.unsure = now, ran, ran+clockWait
		k.warn("no records are taken away for their age in the next hours, since the clock was set",
			fmt.Errorf("it was %v off what it should have been", drift.Round(time.Second)), map[string]any{"hours": int(clockWait.Hours())})
	}
	return now, ran >= k.unsure
}

// counted is how much of a segment counts against RetainSize.
func (k *keeper) counted(p piece) (int64, error) {
	if p.void() || k.bad[p.stem()] {
		return 0, nil
	}
	if !p.packed {
		if !k.full {
			return 0, nil // it is about to be
		}
		info, err := os.Stat(p.path)
		if err != nil {
			return 0, fmt.Errorf("audit: take away old records: %w", err)
		}
		return info.Size(), nil
	}
	x, err := k.summary(p)
	if err != nil {
		return 0, err
	}
	return int64(x.packed), nil
}

// prune takes the records away.
func (k *keeper) prune(d *pruning, gone tree.Range, closed []piece) error {
	if ok, err := k.prove(d, closed); !ok {
		return err
	}
	err := k.declare(d, gone)
	if errors.Is(err, syscall.ENOSPC) && k.spend() {
		err = k.declare(d, gone)
	}
	if err != nil {
		return fmt.Errorf("audit: take away old records: %w", err)
	}
	k.readTo = 0
	return k.sweep(d.tree)
}

// declare says durably what goes.
func (k *keeper) declare(d *pruning, gone tree.Range) error {
	root, err := d.tree.Root()
	if err != nil {
		return err
	}
	text, err := d.tree.MarshalText()
	if err != nil {
		return err
	}
	if k.pruned != d.next {
		ctx, cancel := context.WithTimeout(k.ctx, recordTime)
		defer cancel()
		if err := k.log.Append(ctx, Record{
			Type: LogPrune, Head: TreeHead{d.next, root}, Reason: d.reason, Detail: d.detail(gone.Next(), &k.log.opts),
		}); err != nil {
			return err
		}
		k.pruned, k.prunedBy = d.next, k.log.Durable()
	}
	if err := k.sealed(k.prunedBy); err != nil {
		return err
	}
	if err := k.ready(); err != nil {
		return err
	}
	k.proven = string(text) // even if what follows fails halfway
	disk := k.log.opts.disk
	content, err := sealPruned(d.tree, k.log.opts.Signer)
	if err == nil {
		err = writeFile(disk, filepath.Join(k.log.dir, prunedFile), content)
	}
	if err == nil {
		err = disk.SyncDir(k.log.dir)
	}
	return err
}

// sealed waits for a head of so many records or more, if heads are signed.
func (k *keeper) sealed(size uint64) error {
	if k.log.opts.Signer == nil {
		return nil
	}
	for began := time.Now(); ; {
		s := k.log.signing.Load()
		switch {
		case s != nil && s.size >= size:
			return nil
		case time.Since(began) > recordTime && s != nil && s.err != nil:
			return s.err
		case time.Since(began) > recordTime:
			return errors.New("no head is signed that counts the record of it")
		}
		select {
		case <-k.ctx.Done():
			return k.ctx.Err()
		case <-time.After(min(k.log.opts.headPause, 100*time.Millisecond)):
		}
	}
}

func (d *pruning) detail(first uint64, o *Options) string {
	why := fmt.Sprintf("they were older than %v", o.RetainAge)
	if d.reason == "size" {
		why = fmt.Sprintf("the log had more than %d bytes", o.RetainSize)
	}
	segments := "1 segment"
	if d.segments > 1 {
		segments = fmt.Sprintf("%d segments", d.segments)
	}
	return fmt.Sprintf("%d records in %s, from %s to %s, were taken away: %s",
		d.next-first, segments, d.from.Format(time.RFC3339), d.to.Format(time.RFC3339), why)
}

// prove tells whether what will stand for the records that go comes, with all
// that stays, to the tree that the log has grown. Of a segment that is not
// packed it reads the records. It cannot tell if another segment has begun since
// they were listed, and does not if one that stays is damaged: nothing goes then.
func (k *keeper) prove(d *pruning, closed []piece) (ok bool, err error) {
	whole := d.tree.Clone()
	for _, p := range closed {
		if p.void() || p.first < d.next {
			continue
		}
		x := k.pieces[p.stem()]
		if x == nil {
			if x, err = k.read(p, nil); err != nil {
				return false, fmt.Errorf("audit: no records are taken away, for what stays cannot be read: %w", err)
			}
		}
		if err := whole.Join(x.tree); err != nil {
			return false, fmt.Errorf("audit: take away old records: %w", err)
		}
	}
	k.log.growing.Lock()
	part := k.log.grown.part.Clone()
	want, err := k.log.grown.tree.Root()
	k.log.growing.Unlock()
	if err != nil || part.First() != whole.Next() {
		return false, err
	}
	if err := whole.Join(part); err != nil {
		return false, fmt.Errorf("audit: take away old records: %w", err)
	}
	if root, err := whole.Root(); err != nil || root != want {
		return false, errors.New("audit: no records are taken away: what the indexes say does not come to the tree of the log; sekisho audit verify tells more")
	}
	return true, nil
}

// sweep removes the files of segments that retention has taken away.
func (k *keeper) sweep(gone tree.Range) error {
	if gone.Next() == 0 {
		return nil
	}
	entries, err := os.ReadDir(k.log.dir)
	if err != nil {
		return fmt.Errorf("audit: remove what retention took away: %w", err)
	}
	removed := false
	for _, e := range entries {
		first, stem, ok := ofSegment(e.Name())
		if !ok || first >= gone.Next() {
			continue
		}
		if err := k.confirm(gone); err != nil {
			return err
		}
		if !removed { // the name pruned must be durable before any file goes
			if err := k.log.opts.disk.SyncDir(k.log.dir); err != nil {
				return fmt.Errorf("audit: remove what retention took away: %w", err)
			}
		}
		if err := k.ready(); err != nil {
			return err
		}
		if err := k.log.opts.disk.Remove(filepath.Join(k.log.dir, e.Name())); err != nil {
			return fmt.Errorf("audit: remove what retention took away: %w", err)
		}
		delete(k.pieces, stem)
		removed = true
	}
	if removed {
		if err := k.log.opts.disk.SyncDir(k.log.dir); err != nil {
			return fmt.Errorf("audit: remove what retention took away: %w", err)
		}
	}
	return nil
}

// confirm looks for the record that says what the file pruned claims. Nothing
// is removed on the word of that file alone, which anybody can have written,
// nor on that of a record that anybody can have put at the end of the log: a
// head must count it that was signed before this run, which signs whatever it
// has found. For what this run takes away itself nothing is looked for.
func (k *keeper) confirm(gone tree.Range) error {
	root, err := gone.Root()
	if err != nil {
		return err
	}
	text, err := gone.MarshalText()
	if err != nil || string(text) == k.proven {
		return err
	}
	_, all, err := survey(k.log.dir)
	if err != nil {
		return err
	}
	claim := TreeHead{gone.Next(), root}
	key := k.log.opts.Verifier
	start := k.log.Durable() // of this run
	for i := len(all) - 1; i >= 0 && all[i].first >= gone.Next(); i-- {
		var said []tree.Proven
		_, err := all[i].scan(func(line []byte, r Record) error {
			if key != nil && r.Run == k.log.run {
				start = all[i].first
				return errStop
			}
			if r.Type == LogPrune && r.Head == claim {
				said = []tree.Proven{{Seq: r.Seq, Line: bytes.Clone(line)}}
				return errStop
			}
			return k.pace(len(line) + 1)
		})
		if err != nil && err != errStop {
			return err
		}
		if len(said) > 0 && (key == nil || k.signedBefore(start, said) == nil) {
			k.proven = string(text)
			return nil
		}
	}
	return fmt.Errorf("audit: %s says that the records before %d were taken away, and no record says so that a head of the log's key counts: their files are left as they are", filepath.Join(k.log.dir, prunedFile), gone.Next())
}

// signedBefore returns an error unless the records are counted by a head that
// was signed before record start was made.
func (k *keeper) signedBefore(start uint64, records []tree.Proven) error {
	key := k.log.opts.Verifier
	files, err := headFiles(k.log.dir)
	if err != nil {
		return err
	}
	for _, path := range slices.Backward(files) {
		heads, err := headsOf(path)
		if err != nil {
			return err
		}
		for _, head := range slices.Backward(heads) {
			if h, err := tree.PeekHead(head); err != nil || h.Size > start {
				continue
			}
			if _, err := tree.OpenHead(head, key); err != nil {
				continue
			}
			proof, err := Prove(k.log.dir, head, records, key)
			if err == nil {
				_, _, err = tree.CheckProof(proof, key)
			}
			return err
		}
	}
	return errors.New("audit: no head was signed before")
}

// tell keeps in mind where the newest record stands that tells all about a
// forward which runs, for retention. It is called for each record of a batch,
// of which the first has the number first, before anybody is answered.
func (l *Log) tell(batch []*waiter, first uint64, err error) {
	l.growing.Lock()
	defer l.growing.Unlock()
	for i, w := range batch {
		switch _, runs := l.grown.named[w.forward]; {
		case w.kind.Ends():
			delete(l.grown.named, w.forward)
		case err == nil && (w.kind == ForwardOpen || w.kind == ForwardProgress && runs):
			l.grown.named[w.forward] = first + uint64(i)
		}
	}
}

// untell is told of the end of a forward that will not be in the log. The
// forward does not run all the same.
func (l *Log) untell(forward string) {
	l.growing.Lock()
	delete(l.grown.named, forward)
	l.growing.Unlock()
}

// oldestNamed is the seq of the oldest record that must stay for the sake of a
// forward that runs.
func (l *Log) oldestNamed() uint64 {
	l.growing.Lock()
	defer l.growing.Unlock()
	oldest := uint64(math.MaxUint64)
	for _, seq := range l.grown.named {
		oldest = min(oldest, seq)
	}
	return oldest
}
