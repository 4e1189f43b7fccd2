package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// How the keeper works: how often it looks for what is to do, how soon it tries
// again what failed, and how much it reads before it lets others have the
// processor, for as long as that took.
const (
	keepEvery  = time.Minute
	keepAgain  = 5 * time.Second
	paceBlock  = 1 << 20
	paceMost   = 100 * time.Millisecond
	keeperWait = 5 * time.Second // for it to stop when the log is closed
)

// A keeper does what is to be done with segments that are closed: it packs
// them (pack.go), takes them away when their time has come (retain.go), and
// points current.jsonl at the one that is written.
//
// It comes after everything else. Whatever fails is put off and no record is
// lost; it touches only segments that come before the one that holds the newest
// durable record, and only while the lock is held.
type keeper struct {
	log *Log
	ctx context.Context // ended by Close

	pieces   map[string]*Index // of packed segments, by stem, without the filters
	bad      map[string]bool   // segments with damage, by stem: told, and left alone
	waits    bool              // something is to be done once a newer head is signed
	linked   string            // stem that current.jsonl points to
	full     bool              // the disk is: some segment could not be packed
	pruned   uint64            // so many records a log.prune of this run says to go
	prunedBy uint64            // a head of so many records counts that one
	proven   string            // what the file pruned says, once that was compared with the log
	told     string            // the last warning

	checked map[string]bool // packed segments that were read to the end in this run, by stem
	readTo  uint64          // those before it were, for what is about to be taken away

	ran     func() time.Duration // for how long the keeper has, by the clock that nobody sets
	wall    time.Time            // what the other clock said
	wallRan time.Duration        // at this time
	unsure  time.Duration        // that clock is not believed before this time

	hurry bool      // no pauses
	done  int       // bytes since the last pause
	since time.Time // when that was
}

func newKeeper(l *Log, ctx context.Context) *keeper {
	began := time.Now()
	return &keeper{log: l, ctx: ctx, ran: func() time.Duration { return time.Since(began) }, wall: l.opts.now().Round(0), pieces: map[string]*Index{}, bad: map[string]bool{}, checked: map[string]bool{}, since: began}
}

// keep starts the keeper.
func (l *Log) keep() {
	if l.opts.still {
		close(l.kept)
		return
	}
	k := newKeeper(l, l.life)
	k.point() // so that it is there from the beginning
	go k.run()
}

// run is the goroutine.
func (k *keeper) run() {
	defer close(k.log.kept)
	k.clean()
	pause := keepAgain
	for k.ctx.Err() == nil {
		wait := keepEvery
		switch err := k.round(); {
		case k.ctx.Err() != nil:
			return
		case err != nil:
			k.warn("the closed segments of the audit log are not all taken care of; this is tried again", err, nil)
			wait, pause = pause, min(2*pause, keepEvery)
		case k.waits:
			wait = 2 * k.log.opts.headPause
		case k.check():
			wait = 0 // one at a time: what is closed meanwhile comes first
		default:
			k.told, pause = "", keepAgain
		}
		select {
		case <-k.ctx.Done():
		case <-k.log.rotated:
		case <-time.After(wait):
		}
	}
}

// warn tells what failed, once.
func (k *keeper) warn(text string, err error, fields map[string]any) {
	if fields == nil {
		fields = map[string]any{}
	}
	fields["error"] = err
	if said := text + err.Error(); said != k.told {
		k.told = said
		k.log.warn(text, fields)
	}
}

// ready returns an error once nothing is to be touched any more.
func (k *keeper) ready() error {
	if err := k.ctx.Err(); err != nil {
		return err
	}
	return k.log.lock.check()
}

// pace is called for n bytes of work.
func (k *keeper) pace(n int) error {
	if k.done += n; k.done < paceBlock {
		return nil
	}
	if !k.hurry {
		select {
		case <-k.ctx.Done():
		case <-time.After(min(time.Since(k.since), paceMost)):
		}
	}
	k.done, k.since = 0, time.Now()
	k.point()
	return k.ready()
}

// round does all that is to be done now.
func (k *keeper) round() error {
	k.waits, k.full = false, false
	k.point()
	closed, err := k.closed()
	if err != nil {
		return err
	}
	failed := []error{k.begins(closed)}
	for _, p := range closed {
		if err := k.ready(); err != nil {
			return err
		}
		err := k.tolerate(p, k.keep(p))
		if failed = append(failed, err); errors.Is(err, syscall.ENOSPC) {
			k.full = true
			break // it would be the same with the next
		}
	}
	// It gives room, too.
	return errors.Join(append(failed, k.retain())...)
}

// tolerate tells of an error that is a damage of the piece, which is left alone
// from then on, and returns any other.
func (k *keeper) tolerate(p piece, err error) error {
	damage, ok := errors.AsType[*damage](err)
	if !ok {
		return err
	}
	k.bad[p.stem()] = true
	k.warn("a segment of the audit log is damaged: it is left as it is, and neither packed nor taken away",
		damage.error, map[string]any{"segment": p.path})
	return nil
}

// begins returns an error unless the pieces begin where retention ended.
func (k *keeper) begins(closed []piece) error {
	gone, err := readPruned(k.log.dir)
	if err != nil || len(closed) == 0 || closed[0].first <= gone.Next() {
		return err
	}
	return fmt.Errorf("audit: records %d to %d are missing before %s, and were not taken away by the log", gone.Next(), closed[0].first-1, closed[0].path)
}

// check reads one packed segment that was not read to its end in this run, and
// tells of damage: what nobody reads would be found out when it is too late. It
// reports whether there may be another.
func (k *keeper) check() bool {
	closed, err := k.closed()
	if err != nil {
		return false // as the next round will say
	}
	for _, p := range closed {
		stem := p.stem()
		if !p.packed || p.void() || k.bad[stem] || k.checked[stem] {
			continue
		}
		k.checked[stem] = true
		if err := k.tolerate(p, k.examine(p)); err != nil && k.ready() == nil {
			k.warn("a segment of the audit log cannot be read", err, map[string]any{"segment": p.path})
		}
		return true
	}
	return false
}

// closed returns the pieces that the writer has done with: those before the one
// that holds the newest durable record. A newer file than that, which may be in
// the folder, says nothing: the writer may still remove it and go on with the
// old one. So which one it is has to be asked before the folder is read.
func (k *keeper) closed() ([]piece, error) {
	newest := k.log.newest()
	_, all, err := survey(k.log.dir)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(p piece) bool { return p.stem() == newest })
	return all[:max(i, 0)], nil
}

// newest is the stem of the segment that holds the newest durable record.
func (l *Log) newest() string {
	l.growing.Lock()
	defer l.growing.Unlock()
	return l.grown.stem
}

// keep does what is to be done with a closed piece.
func (k *keeper) keep(p piece) error {
	stem := p.stem()
	switch {
	case k.bad[stem]:
		return nil
	case p.void():
		return k.drop(p)
	case p.packed:
		if err := k.glance(p); err != nil || k.log.opts.Signer == nil {
			return err
		}
		_, err := k.summary(p)
		return err
	}
	if k.log.opts.Signer != nil {
		// The file of its heads is still written to until one is signed that
		// counts more records.
		if s := k.log.signing.Load(); s == nil || s.size <= p.limit {
			k.waits = true
			return nil
		}
	}
	return k.pack(p)
}

// drop removes a piece without records in which there is nothing. One that has
// something in it stays for the next Open, which keeps a copy and says so:
// nobody was told that it is in the log, but somebody may have read it there.
func (k *keeper) drop(p piece) error {
	info, err := os.Stat(p.path)
	if err == nil && info.Size() == 0 {
		err = k.log.opts.disk.Remove(p.path)
	}
	if err != nil {
		return fmt.Errorf("audit: remove an empty segment: %w", err)
	}
	return nil
}

// currentFile is a symbolic link to the segment that is written, for people.
const currentFile = "current.jsonl"

// point lets current.jsonl point to the newest segment. Nothing depends on it.
func (k *keeper) point() {
	newest := k.log.newest()
	if newest == k.linked || k.ready() != nil {
		return
	}
	disk := k.log.opts.disk
	path := filepath.Join(k.log.dir, currentFile)
	disk.Remove(path + tmpEnd)
	err := disk.Symlink(newest+plainEnd, path+tmpEnd)
	if err == nil {
		err = disk.Rename(path+tmpEnd, path)
	}
	if err != nil {
		k.warn("current.jsonl does not point to the newest segment of the audit log", err, map[string]any{"file": path})
		return
	}
	k.linked = newest
}

// tmpEnd is the end of the name of a file that is not finished.
const tmpEnd = ".tmp"

// clean removes what a crash left unfinished.
func (k *keeper) clean() {
	entries, err := os.ReadDir(k.log.dir)
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), tmpEnd)
		if !ok || k.ready() != nil {
			continue
		}
		_, _, ours := ofSegment(name)
		if ours || name == prunedFile || name == currentFile || name == reserveFile {
			err = errors.Join(err, k.log.opts.disk.Remove(filepath.Join(k.log.dir, e.Name())))
		}
	}
	err = errors.Join(err, k.cleanPolicies())
	if err != nil {
		k.warn("what a crash left unfinished in the folder of the audit log is not removed", err, nil)
	}
}

func (k *keeper) cleanPolicies() error {
	k.log.policing.Lock()
	defer k.log.policing.Unlock()
	dir := filepath.Join(k.log.dir, policiesDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), policyEnd+tmpEnd) && k.ready() == nil {
			err = errors.Join(err, k.log.opts.disk.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// ofSegment reports whether a name is that of a segment or of what stands
// beside one, and where that begins.
func ofSegment(name string) (first uint64, stem string, ok bool) {
	plain := name
	if i := strings.Index(name, ".torn-"); i >= 0 {
		plain = name[:i]
	}
	for _, end := range []string{headsEnd, indexEnd} {
		if rest, ok := strings.CutSuffix(plain, end); ok {
			plain = rest + plainEnd
		}
	}
	p, ok := parsePieceName(plain)
	return p.first, p.stem(), ok
}

// writeFile makes a file with the content, whole or not at all. Its name is
// durable once the folder is synced.
func writeFile(d disk, path string, content []byte) error {
	f, err := d.OpenFile(path+tmpEnd, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(content); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = d.Rename(path+tmpEnd, path)
	}
	if err != nil {
		d.Remove(path + tmpEnd)
	}
	return err
}
