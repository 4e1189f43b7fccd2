package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"

	"sekisho/audit/tree"
)

// ended holds the end of the log against the heads that speak of more, and
// against what retention took.
func (v *verification) ended() (*Harm, error) {
	m := &v.at
	n := m.tree.Next()
	m.over = true
	last := v.dir
	for _, p := range v.pieces {
		if p.key() == m.key {
			last = p.path
		}
	}
	if m.misfit != nil {
		v.differs()
	}
	if m.asked < len(v.kept) {
		newest := v.kept[len(v.kept)-1]
		m.harms = addHarm(m.harms, Harm{KindRollback, last, 0, n, newest.Size, fmt.Sprintf("the head that was kept counts %d records, and the log ends before record %d", newest.Size, n), 0})
	}
	newest, err := v.beyond()
	if err != nil {
		return nil, err
	}
	if newest != nil {
		return &Harm{KindTruncated, last, 0, n, newest.Size, fmt.Sprintf("the log ends before record %d, and a head signed at %s counts %d records", n, newest.Time.Format(time.RFC3339), newest.Size), 0}, nil
	}
	if h := v.headless(); h != nil {
		return h, nil
	}
	return v.account(), nil
}

// headless makes sure that a run which does not begin with the head of the
// records before it is of a version that knew none: it is proven by a later
// head, or nothing of the log is.
func (v *verification) headless() *Harm {
	m := &v.at
	seq := m.order.headless
	if seq == 0 || seq < m.proven || m.proven == 0 && !m.order.dropped {
		return nil
	}
	return &Harm{KindChanged, "", 0, max(m.fit, v.gone.Next()), seq + 1, fmt.Sprintf("record %d, with which a run begins, has no head of the records before it", seq), 0}
}

// account makes sure that retention took what is gone. Only a log.prune below a
// head says so: anybody can append another. That of a log.prune which has just
// been written may be still to come.
func (v *verification) account() *Harm {
	m, gone := &v.at, v.gone.Next()
	switch {
	case gone == 0:
		return nil
	case m.told == 0:
		return &Harm{KindMissing, "", 0, 0, gone, fmt.Sprintf("they are gone, and no %s tells that retention took them", LogPrune), 0}
	case len(v.opts.Keys) == 0 || m.told <= m.proven:
		return nil
	}
	age := v.opts.now().Sub(m.toldAt)
	if v.lock == lockHeld && lockOf(v.dir) == lockHeld && age.Abs() < youngFor && len(m.harms) == 0 && len(v.odd) == 0 {
		v.young = true
		return nil
	}
	return &Harm{KindMissing, "", 0, 0, gone, fmt.Sprintf("they are gone, and the %s that tells that retention took them, record %d, has no head over it: anybody can have written it", LogPrune, m.told-1), 0}
}

// youngFor is how old a log.prune may be that has no head over it.
const youngFor = time.Minute

// A lockState is whether somebody writes the log.
type lockState int

const (
	lockUnknown lockState = iota
	lockHeld
	lockFree // nobody does
)

// lockOf tries the lock of a log that somebody else may write, and holds it for
// no time. Without the file nobody writes: a writer sees to it that it is there.
func lockOf(dir string) lockState {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return lockFree
	}
	if err != nil {
		return lockUnknown
	}
	defer f.Close() // which lets go of it
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); {
	case err == nil:
		return lockFree
	case errors.Is(err, unix.EWOULDBLOCK):
		return lockHeld
	}
	return lockUnknown
}

// beyond returns the newest head of more records than there are.
func (v *verification) beyond() (newest *tree.Head, err error) {
	m := &v.at
	for i := 1; ; i++ {
		h := m.heads.peek(v.files)
		if m.heads.err != nil {
			return nil, m.heads.err
		}
		if h == nil {
			return newest, nil
		}
		if i&0xff == 0 {
			if err := v.breathe(); err != nil {
				return nil, err
			}
		}
		if head, _ := v.openHead(*h); head != nil && head.Size > m.tree.Next() && (newest == nil || head.Size > newest.Size) {
			if m.heads.again { // it may be of records that have come since
				return nil, errMoved
			}
			newest = head
		}
		m.heads.pop()
	}
}

// differs tells of a kept head that does not fit.
func (v *verification) differs() {
	m, s := &v.at, v.at.misfit
	from := v.gone.Next()
	if m.keptFit != nil {
		from = m.keptFit.Size
	}
	h := Harm{KindChanged, "", 0, from, s.Size, fmt.Sprintf("they are not those of the head that was kept, signed at %s", s.Time.Format(time.RFC3339)), 0}
	if m.head != nil && m.head.Size >= s.Size {
		h.Kind = KindRewritten
		h.Detail += "; those that are there now were signed with the log key"
	}
	if m.later {
		h.Detail += "; a later one fits, so that the heads that were kept are not all of one log"
	}
	m.harms = addHarm(m.harms, h)
}

// blamePruned finds out whether it is the file pruned that makes the records
// after it look changed.
func (v *verification) blamePruned(h *Harm) error {
	gone := v.gone.Next()
	if h.Kind != KindChanged || gone == 0 || v.at.fit > gone {
		return nil
	}
	root, err := v.gone.Root()
	if err != nil {
		return err
	}
	for _, p := range v.pieces {
		if p.void() || p.limit <= gone {
			continue
		}
		_, err := p.scan(func(_ []byte, r Record) error {
			if r.Type == LogPrune && r.Head.Size == gone && r.Head.Root != root {
				*h = Harm{KindPruned, "", 0, 0, gone, fmt.Sprintf("the file pruned has hashes of other records than those that record %d says were taken away", r.Seq), 0}
				return errStop
			}
			return v.ctx.Err()
		})
		if err == errStop {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// index looks at the index beside a piece that is good so far, before which the
// log was the tree given. A search believes the index, so that it has to be of
// just these records.
func (v *verification) index(p piece, before tree.Range) error {
	if len(v.opts.Keys) == 0 {
		return nil
	}
	keys := v.opts.Keys
	if !v.at.current {
		keys = slices.Concat(keys, v.opts.Old)
	}
	x, err := p.index(keys...)
	if errors.As(err, new(*fs.PathError)) {
		return err
	}
	if err == nil && x != nil {
		before = before.Clone() // the anchor may be the same
		if before.Join(x.tree) != nil || !sameRoot(before, v.at.tree) {
			err = fmt.Errorf("audit: %s: %w", p.beside(indexEnd), ErrOtherRecords)
		}
	}
	if err != nil {
		v.at.harms = addHarm(v.at.harms, Harm{KindIndex, p.beside(indexEnd), 0, p.first, p.first, err.Error(), 0})
	}
	return nil
}

func sameRoot(a, b tree.Range) bool {
	x, err1 := a.Root()
	y, err2 := b.Root()
	return err1 == nil && err2 == nil && x == y
}

func keyNames(keys []note.Verifier) []string {
	names := []string{}
	for _, k := range keys {
		names = append(names, fmt.Sprintf("%s+%08x", k.Name(), k.KeyHash()))
	}
	return names
}

// What has no head over it may be so old, and no older, while somebody writes
// the log, which signs every second. And of what was written when nobody could
// look at the clock, it may be so much time.
const (
	signedIn = 10 * time.Second
	bareFor  = time.Minute
)

// bare says why the records from the newest head on should have one over them;
// "" if a server may be about to sign it, or if all have one.
func (v *verification) bare(end time.Time) string {
	m := &v.at
	if m.proven == 0 || m.bare == "" {
		return ""
	}
	first, _ := time.Parse(timeLayout, m.bare)
	held := v.lock == lockHeld || lockOf(v.dir) == lockHeld
	fresh := v.opts.now().Sub(first) <= signedIn
	switch {
	case m.order.stopped && !(held && fresh):
		return "though the log was closed in order, which signs the last one: they were added, or their heads were removed"
	case v.lock == lockFree && !held:
		return "though nobody writes the log: a crash has kept it from signing them, which the next start does, or they were added, or their heads were removed"
	case !fresh, end.Sub(first) > bareFor:
		return "though the log signs every second: it could not, for a crash or a full disk, or they were added, or their heads were removed"
	}
	return ""
}

func (v *verification) verdict() *Verdict {
	m := &v.at
	r := &Verdict{
		Dir: v.dir, First: v.gone.Next(), Next: m.tree.Next(), Segments: m.segments, Bytes: m.bytes, Torn: m.torn, Open: len(v.open.open),
		Keys: keyNames(v.opts.Keys), OldKeys: keyNames(v.opts.Old), Heads: m.compared, Signatures: m.signatures, Complete: m.over, Protected: m.proven,
		Harms: append(append([]Harm{}, m.harms...), v.odd...), Gaps: []string{}, Notes: []string{},
	}
	r.Begin, _ = time.Parse(timeLayout, m.begin)
	r.End, _ = time.Parse(timeLayout, string(m.order.last))
	if v.open.full {
		r.Open = -1
	}
	if m.head != nil {
		r.Head = signedFor(m.head)
	}
	v.judgeKept(r)
	if r.Good() {
		v.limits(r)
	}
	for i := range r.Harms {
		r.Harms[i].Detail = shown(r.Harms[i].Detail)
	}
	for i := range r.Gaps {
		r.Gaps[i] = shown(r.Gaps[i])
	}
	return r
}

// shown is a text that may come from a file, so that it does nothing to a
// terminal but show.
func shown(s string) string {
	var b strings.Builder
	for i, r := range s {
		if _, n := utf8.DecodeRuneInString(s[i:]); r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, `\x%02x`, s[i])
		} else if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// judgeKept says what came of the heads that were kept.
func (v *verification) judgeKept(r *Verdict) {
	m, n := &v.at, len(v.kept)
	if n == 0 {
		return
	}
	r.Kept, r.Since = n, signedFor(&v.kept[n-1])
	misfit := m.misfit
	switch {
	case misfit != nil:
		r.SinceSays = SinceDiffers
	case m.asked < n && m.over:
		r.SinceSays, misfit = SinceAhead, &v.kept[m.asked]
	case m.asked < n:
		r.SinceSays = SinceNotAsked
	case m.keptFit == nil:
		r.SinceSays = SincePruned
	default:
		r.SinceSays = SinceFits
	}
	if m.keptFit != nil {
		r.NewestFit = signedFor(m.keptFit)
	}
	if misfit != nil {
		r.OldestMisfit = signedFor(misfit)
	}
}

// limits says what a good verdict does not.
func (v *verification) limits(r *Verdict) {
	gap := func(format string, args ...any) { r.Gaps = append(r.Gaps, fmt.Sprintf(format, args...)) }
	say := func(format string, args ...any) { r.Notes = append(r.Notes, fmt.Sprintf(format, args...)) }
	switch fits := r.SinceSays == SinceFits; {
	case len(r.Keys) == 0 && fits:
		gap("There is no log key to check by: who has signed the head that was kept was not looked at, and of what comes after it only the structure was.")
	case len(r.Keys) == 0:
		gap("There is no log key to check by: only the structure was looked at, and whoever edits the log with some care is not noticed.")
	case r.Head != nil && !v.at.current:
		gap("No head is signed with the log key, but only with one before it: whoever has that could have made them.")
	case r.Head == nil && !fits:
		gap("No head is signed with the key: none of the records is protected by it.")
	}
	if r.SinceSays == SincePruned {
		gap("The head that was kept counts %d records, and retention has taken away %d: it cannot be compared any more.", r.Since.Size, r.First)
	}
	if missing, first := v.policies.missing(v.dir); missing > 0 {
		gap("What was decided by %s cannot be explained any more: the text is not beside the log, or is another's (%s).", policiesOf(missing), first)
	}
	if v.policies.full {
		gap("The log names more than %d policies: whether the text of the others is there was not looked at.", mostPolicies)
	}
	if r.Open < 0 {
		gap("More than %d forwards were open at a time: that each has one end was not checked.", mostOpen)
	}
	if v.young {
		gap("Record %d, which tells that retention took the %d records before it, is new and has no head over it yet: verify again in a minute.", v.at.told-1, r.First)
	}
	bare := v.bare(r.End)
	if bare != "" {
		gap("The records from %d on have no head over them, %s.", r.Protected, bare)
	}

	if seq := v.at.order.headless; seq > 0 {
		say("Records before %d were written without a tree, by a version that had none: what was changed of them before their first head was signed is not noticed.", seq)
	}
	if r.SinceSays == SinceFits {
		say("Somebody with the log key can have changed what comes after the %d records of the head that was kept.", r.Since.Size)
	} else {
		say("Without a head that was kept elsewhere (--since), somebody with the log key, or who put back an older copy of the whole folder, is not noticed.")
	}
	if n := r.Protected; n > 0 && n < r.Next && bare == "" {
		at := "the head that was kept"
		if r.Head != nil && r.Head.Size == n {
			at = "the head of " + r.Head.Time.Format(time.RFC3339)
		}
		say("Nothing after record %d (%s) is protected by a head yet.", n-1, at)
	}
	if r.Torn > 0 {
		say("Behind the last record stand %d bytes that are none: a crash has left them, or they are being written.", r.Torn)
	}
}
