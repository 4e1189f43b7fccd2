package bastion

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"sekisho/audit"
)

// The bounds of what failed logins write. An auth.fail that was made as long
// as a client can has less than 7 KiB (finish bounds what is in it) and one of
// a usual client 0.5 KiB; an auth.flood has less than 1 KiB. In a day there are
// at most
//
//	2 buckets × (86,400 s / 5 s + the 1,000 of its burst) = 36,560 auth.fail
//	(16 + 1) × 1,440 minutes                              = 24,480 auth.flood
//
// from however many sources: 283 MB (269 MB on each further day) if every byte
// of every record is made to cost the most, and about 30 MB with usual clients.
// TestWhatFailedLoginsCost measures it.
const (
	floodWindow = time.Minute
	maxSingle   = 5               // failures of one source in a window that are recorded one by one
	bucketSize  = 1000            // such records of all sources at once
	bucketEvery = 5 * time.Second // after which there may be one more
	maxSources  = 4096            // that are counted apart in a window, by strangers and by others
	maxFloods   = 16              // sources with a record of their own a window
	maxReasons  = 8               // that are counted apart
)

// A failure is a login that failed.
type failure struct {
	source netip.Prefix // as sourceOf makes it
	// known: somebody is concerned whom the policy knows, as login.known
	// tells. It is not proven, so whoever knows a name or a public key can
	// claim it.
	known  bool
	reason string
}

// A flood decides which failed logins are recorded one by one, counts the
// others by source, and records the counts at the end of each window that has
// any. A window begins with the first failure after the last one. What is
// counted is in the log at the end of the window, or at the end of the server;
// a process that is killed takes up to one window of counts with it.
//
// Failures of strangers, and those that concern somebody known, do not share
// a bucket or a table: a flood of strangers must not hide an attack on alice.
// Its memory is a few megabytes at the most, whatever comes.
type flood struct {
	now      func() time.Time // of one monotonic clock
	recorder Recorder
	limit    time.Duration // on writing the records of one window
	log      logrus.FieldLogger
	failed   func() // what else is to follow when the log cannot be written

	mu      sync.Mutex // held for a few steps
	began   time.Time  // the window
	windows [2]window  // of strangers and of known
	buckets [2]bucket
	timer   *time.Timer // runs when something is counted, to the window's end
	closed  bool

	// telling holds a place for whoever writes the records and uses what
	// follows. It is taken before mu.
	telling chan struct{}
	giveUp  context.Context
	stop    context.CancelFunc
	left    past      // what is not written
	since   time.Time // when the window of the oldest of left began
}

func newFlood(recorder Recorder, limit time.Duration, log logrus.FieldLogger, failed func()) *flood {
	f := &flood{now: time.Now, recorder: recorder, limit: limit, log: log, failed: failed, telling: make(chan struct{}, 1)}
	f.giveUp, f.stop = context.WithCancel(context.Background())
	return f
}

// single reports whether a failure is to be recorded by itself. If not, it is
// counted.
func (f *flood) single(of failure) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	s, bucket := f.source(of, now), &f.buckets[class(of.known)]
	// A source that the full table has no room for is nil. Those in the
	// table have emptied the bucket before it was full, so all that such a
	// source can get is what comes in by drops.
	if (s == nil || s.singles < maxSingle) && bucket.take(now) {
		if s != nil {
			s.singles++
		}
		return true
	}
	f.countOne(s, of, now, false)
	return false
}

// unwritten counts a failure that single let be recorded and that could not
// be. Unsure: the record may yet be in the log.
func (f *flood) unwritten(of failure, unsure bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	f.countOne(f.source(of, now), of, now, unsure)
}

// source returns the count of a failure's source in this window, or nil if it
// has none and there is no room. f.mu must be held.
func (f *flood) source(of failure, now time.Time) *source {
	// While the timer runs, the window is over when the timer says so.
	if f.timer == nil && now.Sub(f.began) >= floodWindow {
		f.began, f.windows = now, [2]window{}
	}
	w := &f.windows[class(of.known)]
	s := w.sources[of.source]
	if s == nil && len(w.sources) < maxSources {
		if w.sources == nil {
			w.sources = map[netip.Prefix]*source{}
		}
		s = new(source)
		w.sources[of.source] = s
	}
	return s
}

// countOne is called with f.mu held.
func (f *flood) countOne(s *source, of failure, now time.Time, unsure bool) {
	c := &f.windows[class(of.known)].rest
	if s != nil {
		c = &s.count
	}
	c.n++
	if of.known {
		c.known++
	}
	c.addReason(of.reason, 1)
	c.last, c.at = of.reason, now
	c.unsure = c.unsure || unsure
	f.arm(now)
}

// arm makes the window's end be told. f.mu must be held.
func (f *flood) arm(now time.Time) {
	if f.timer == nil && !f.closed {
		f.timer = time.AfterFunc(f.began.Add(floodWindow).Sub(now), f.tell)
	}
}

// tell ends the window and records what is counted. What cannot be recorded
// stays, and is told with the next window.
func (f *flood) tell() {
	f.telling <- struct{}{}
	defer func() { <-f.telling }()
	now := f.gather()
	if f.left.empty() {
		return
	}
	ctx, cancel := context.WithTimeout(f.giveUp, f.limit)
	defer cancel()
	for _, h := range f.left.heaps() {
		rec := h.record()
		rec.Duration = now.Sub(f.since)
		if err := f.recorder.Append(ctx, rec); err != nil {
			if errors.Is(err, audit.ErrInFlight) {
				f.left.doubt(h)
			}
			f.later(err)
			return
		}
		f.left.remove(h)
	}
}

// gather ends the window, takes over what it has counted, and logs that.
func (f *flood) gather() (now time.Time) {
	f.mu.Lock()
	now = f.now()
	began, windows := f.began, f.windows
	f.began, f.windows, f.timer = time.Time{}, [2]window{}, nil
	f.mu.Unlock()

	var fresh past
	fresh.take(&windows[class(true)]) // first, so that there is room for them
	fresh.take(&windows[class(false)])
	if fresh.empty() {
		return now
	}
	fresh.line(f.log).Warn("logins refused, more than are told one by one")
	if f.left.empty() {
		f.left, f.since = fresh, began
	} else {
		f.left.merge(&fresh)
	}
	return now
}

// later says that the log failed, and has it tried again.
func (f *flood) later(err error) {
	total := f.left.total()
	line := f.log.WithError(err).WithField("count", total.n)
	f.mu.Lock()
	closed := f.closed
	if now := f.now(); f.timer == nil && !closed {
		if now.Sub(f.began) >= floodWindow {
			f.began, f.windows = now, [2]window{}
		}
		f.arm(now)
	}
	f.mu.Unlock()
	if closed {
		line.Error("failed logins that were counted are not recorded")
	} else {
		line.Error("failed logins that were counted are not yet recorded")
	}
	f.failed()
}

// close records what is counted, until ctx ends. Nothing is recorded later.
func (f *flood) close(ctx context.Context) {
	f.mu.Lock()
	f.closed = true
	if f.timer != nil {
		f.timer.Stop()
	}
	f.mu.Unlock()
	defer context.AfterFunc(ctx, f.stop)()
	f.tell()
}

// class is the index of what strangers and known have of their own.
func class(known bool) int {
	if known {
		return 1
	}
	return 0
}

// A bucket holds up to bucketSize tokens and gets one each bucketEvery. The
// zero one is full.
type bucket struct {
	from time.Time // as if all tokens in it had come since
}

func (b *bucket) take(now time.Time) bool {
	if full := now.Add(-bucketSize * bucketEvery); b.from.Before(full) {
		b.from = full
	}
	if now.Sub(b.from) < bucketEvery {
		return false
	}
	b.from = b.from.Add(bucketEvery)
	return true
}

// A window is what is known of the failures in it.
type window struct {
	sources map[netip.Prefix]*source // at most maxSources
	rest    count                    // of further ones
}

type source struct {
	singles int // failures that were recorded one by one
	count
}

// A count is of failures that are not recorded one by one.
type count struct {
	n       uint64
	known   uint64 // those of them that concern somebody known
	reasons []reasonCount
	last    string    // reason
	at      time.Time // of last
	unsure  bool      // some may be in a record that was not confirmed
}

type reasonCount struct {
	reason string
	n      uint64
}

// addReason counts failures by a reason. All reasons are words of ours: none
// is what a client sent.
func (c *count) addReason(reason string, n uint64) {
	for i := range c.reasons {
		if c.reasons[i].reason == reason {
			c.reasons[i].n += n
			return
		}
	}
	if len(c.reasons) < maxReasons {
		c.reasons = append(c.reasons, reasonCount{reason, n})
	}
}

func (c *count) add(d *count) {
	c.n += d.n
	c.known += d.known
	for _, r := range d.reasons {
		c.addReason(r.reason, r.n)
	}
	if d.at.After(c.at) {
		c.last, c.at = d.last, d.at
	}
	c.unsure = c.unsure || d.unsure
}

// words are the reasons, those of most failures first.
func (c *count) words() string {
	slices.SortStableFunc(c.reasons, func(a, b reasonCount) int { return cmp.Compare(b.n, a.n) })
	var all []string
	others := c.n
	for _, r := range c.reasons {
		all = append(all, fmt.Sprintf("%s %d", r.reason, r.n))
		others -= r.n
	}
	if others > 0 {
		all = append(all, fmt.Sprintf("others %d", others))
	}
	return strings.Join(all, ", ")
}

// A past holds the counts of windows that are over.
type past struct {
	sources map[netip.Prefix]*count // at most 2 × maxSources
	rest    count                   // of further ones
}

func (c *past) empty() bool { return len(c.sources) == 0 && c.rest.n == 0 }

// take takes over what is counted in a window.
func (c *past) take(w *window) {
	for prefix, s := range w.sources {
		if s.n > 0 {
			c.add(prefix, &s.count)
		}
	}
	c.rest.add(&w.rest)
}

func (c *past) merge(d *past) {
	for prefix, more := range d.sources {
		c.add(prefix, more)
	}
	c.rest.add(&d.rest)
}

func (c *past) add(prefix netip.Prefix, more *count) {
	if c.sources == nil {
		c.sources = map[netip.Prefix]*count{}
	}
	switch had := c.sources[prefix]; {
	case had != nil:
		had.add(more)
	case len(c.sources) < 2*maxSources:
		c.sources[prefix] = more
	default:
		c.rest.add(more)
	}
}

func (c *past) total() *count {
	total := new(count)
	for _, s := range c.sources {
		total.add(s)
	}
	total.add(&c.rest)
	return total
}

// line is the start of an operational line about all of them.
func (c *past) line(log logrus.FieldLogger) *logrus.Entry {
	total := c.total()
	line := log.WithFields(logrus.Fields{"count": total.n, "known": total.known, "sources": max(len(c.sources), 1), "reasons": total.words()})
	if most := c.most(); len(most) > 0 {
		line = line.WithFields(logrus.Fields{fieldSource: most[0].String(), "of_source": c.sources[most[0]].n})
	}
	return line
}

// most returns the sources that have a record of their own: those with the
// most failures, but half of the places go first to those with the most that
// concern somebody known.
func (c *past) most() []netip.Prefix {
	all := slices.Collect(maps.Keys(c.sources))
	by := func(number func(*count) uint64) func(a, b netip.Prefix) int {
		return func(a, b netip.Prefix) int {
			return cmp.Or(cmp.Compare(number(c.sources[b]), number(c.sources[a])), a.Addr().Compare(b.Addr()))
		}
	}
	slices.SortFunc(all, by(func(c *count) uint64 { return c.known }))
	first := 0
	for first < min(maxFloods/2, len(all)) && c.sources[all[first]].known > 0 {
		first++
	}
	failures := by(func(c *count) uint64 { return c.n })
	slices.SortFunc(all[first:], failures)
	all = all[:min(maxFloods, len(all))]
	slices.SortFunc(all, failures)
	return all
}

// A heap is what one record tells of.
type heap struct {
	prefix netip.Prefix // the one source, or
	others []netip.Prefix
	rest   bool
	count  *count
}

// heaps are one for each of most, and one for all that is left.
func (c *past) heaps() []heap {
	var all []heap
	left := maps.Clone(c.sources)
	for _, prefix := range c.most() {
		all = append(all, heap{prefix: prefix, count: c.sources[prefix]})
		delete(left, prefix)
	}
	if len(left) == 0 && c.rest.n == 0 {
		return all
	}
	others := heap{others: slices.Collect(maps.Keys(left)), rest: true, count: new(count)}
	for _, s := range left {
		others.count.add(s)
	}
	others.count.add(&c.rest)
	others.rest = c.rest.n > 0
	return append(all, others)
}

func (c *past) remove(h heap) {
	delete(c.sources, h.prefix)
	for _, prefix := range h.others {
		delete(c.sources, prefix)
	}
	if h.rest {
		c.rest = count{}
	}
}

// doubt notes that h may be in the log or not.
func (c *past) doubt(h heap) {
	if s := c.sources[h.prefix]; s != nil {
		s.unsure = true
	}
	for _, prefix := range h.others {
		c.sources[prefix].unsure = true
	}
	c.rest.unsure = c.rest.unsure || h.rest
}

// record is the record of h, without the duration.
func (h heap) record() audit.Record {
	rec := audit.Record{Type: audit.AuthFlood, Entrance: entranceSSH, Count: h.count.n, Reason: h.count.last}
	var from string
	switch {
	case h.others == nil && !h.rest:
		rec.Source = netip.AddrPortFrom(h.prefix.Addr(), 0)
		from = "from " + h.prefix.String()
	case h.rest:
		rec.Sources = uint64(max(len(h.others), 1))
		from = fmt.Sprintf("from other sources (at least %d)", rec.Sources)
	default:
		rec.Sources = uint64(len(h.others))
		from = fmt.Sprintf("from other sources (%d)", rec.Sources)
	}
	rec.Detail = fmt.Sprintf("failed logins %s, beside those recorded one by one: %s", from, h.count.words())
	if h.count.known > 0 {
		rec.Detail += fmt.Sprintf("; %d with a login, key or certificate that the policy knows", h.count.known)
	}
	if h.count.unsure {
		rec.Detail += "; some may be in an earlier record too, which was not confirmed"
	}
	return rec
}
