package bastion

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sekisho/audit"
	"sekisho/authz"
)

// live is the set of forwards from request to end, and their counts.
type live struct {
	mu     sync.Mutex
	all    map[*forward]struct{}
	byUser map[string]int
	// byGrant counts those whose grant limits how many a user may have.
	byGrant map[carried]int
	carrier map[*forward]carried // what each of those counts as
	ending  *endCause            // set once no new forward may begin

	goneUp, goneDown uint64 // bytes of forwards that have left
}

// carried is a user by one of his grants.
type carried struct{ user, grant string }

// add takes fw in and returns nil, or why it may not begin.
func (l *live) add(fw *forward, limits Limits) *endCause {
	l.mu.Lock()
	defer l.mu.Unlock()
	user := fw.principal.User
	switch {
	case l.ending != nil:
		return l.ending
	case len(l.all) >= limits.MaxForwards:
		return limitCause("max_forwards", limits.MaxForwards)
	case l.byUser[user] >= limits.MaxForwardsPerUser:
		return limitCause("max_forwards_per_user", limits.MaxForwardsPerUser)
	}
	if l.all == nil {
		l.all, l.byUser = map[*forward]struct{}{}, map[string]int{}
		l.byGrant, l.carrier = map[carried]int{}, map[*forward]carried{}
	}
	l.all[fw] = struct{}{}
	l.byUser[user]++
	return nil
}

// carriedBy counts fw as carried by its grant and returns nil, or the grant's
// limit that is reached.
func (l *live) carriedBy(fw *forward) *endCause {
	fw.mu.Lock()
	by, most := carried{fw.principal.User, fw.grant}, fw.limits.Forwards
	fw.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if was, ok := l.carrier[fw]; ok {
		if was == by && most > 0 {
			return nil
		}
		decrement(l.byGrant, was)
		delete(l.carrier, fw)
	}
	if _, ok := l.all[fw]; !ok || most == 0 {
		return nil
	}
	if l.byGrant[by] >= most {
		return limitCause(fmt.Sprintf("limits.forwards of grant %q", by.grant), most)
	}
	l.byGrant[by]++
	l.carrier[fw] = by
	return nil
}

// isServers reports whether cause is a limit on all users together.
func isServers(cause *endCause) bool {
	return strings.HasPrefix(cause.detail, "max_forwards, ") || strings.HasPrefix(cause.detail, "descriptors, ")
}

// limitCause tells which of limits.max_… is reached.
func limitCause(name string, most int) *endCause {
	return &endCause{reasonLimit, fmt.Sprintf("%s, %d", name, most)}
}

// remove lets fw go; a second time it does nothing.
func (l *live) remove(fw *forward) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.all[fw]; !ok {
		return
	}
	delete(l.all, fw)
	l.goneUp, l.goneDown = l.goneUp+fw.flow.up.Load(), l.goneDown+fw.flow.down.Load()
	decrement(l.byUser, fw.principal.User)
	if by, ok := l.carrier[fw]; ok {
		decrement(l.byGrant, by)
		delete(l.carrier, fw)
	}
}

func (l *live) snapshot() []*forward {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*forward, 0, len(l.all))
	for fw := range l.all {
		all = append(all, fw)
	}
	return all
}

func (l *live) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.all)
}

// stop refuses every forward from now on.
func (l *live) stop(cause *endCause) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ending = cause
}

func (l *live) cutAll(cause *endCause) {
	for _, fw := range l.snapshot() {
		fw.cut(cause)
	}
}

// rejudge asks the Authorizer again about every forward that has an address
// and cuts those that would now be denied, without resolving anything again.
// It returns how many it cut. A forward whose grant no longer holds while
// another does goes on under that one, recorded. It waits for no socket and no
// record: thousands of forwards are judged in one go, and each ends by itself.
func (f *Forwarder) rejudge() int {
	cut := 0
	for _, fw := range f.live.snapshot() {
		if !f.judgeAgain(fw) {
			cut++
		}
	}
	return cut
}

// judgeAgain reports whether fw may go on, and cuts it if not.
func (f *Forwarder) judgeAgain(fw *forward) bool {
	fw.mu.Lock()
	d, cause, judged := f.verdict(f.authorizer, fw)
	if judged {
		fw.takeOver(d)
	}
	fw.mu.Unlock()
	if cause != nil {
		fw.cut(cause)
		return false
	}
	if judged && fw.relaying() && fw.regranted() {
		// One that runs is not cut because the grant that takes over has
		// enough of them.
		f.live.carriedBy(fw)
		go f.recordProgress(fw, reasonGrantChanged, "the grant that carried it no longer does")
	}
	return true
}

// verdict is what an Authorizer makes of a forward as it stands, and why fw is
// to end by that; nil if it may go on. Nothing of fw changes: what ends
// forwards, and what only tells which would end, ask here. It does not judge a
// forward that has no address, which meets the policy in force when it has
// one, nor one that is ending already. fw.mu must be held.
func (f *Forwarder) verdict(by Authorizer, fw *forward) (d authz.Decision, cause *endCause, judged bool) {
	addr := fw.address.Load()
	if addr == nil || fw.ended || fw.cutting.Err() != nil {
		return d, nil, false
	}
	d = by.Decide(fw.request(addr.Addr(), f.now()))
	if d.Effect != authz.Allow {
		return d, &endCause{string(d.Reason), "it is no longer allowed: " + d.Detail}, true
	}
	return d, fw.outlived(d.Limits), true
}

// outlived is why limits, those of a grant, end the forward by now; nil if
// they do not. fw.mu must be held.
func (fw *forward) outlived(limits authz.Limits) *endCause {
	if most := limits.Duration; most > 0 && fw.opened && time.Since(fw.started) >= most {
		return &endCause{reasonDuration, fmt.Sprintf("it has lasted for limits.duration of its grant, %v", most)}
	}
	return nil
}

// relaying reports whether the forward is confirmed to the client.
func (fw *forward) relaying() bool { return fw.flow.active.Load() != 0 }

// tend ends forwards that have been quiet for too long, or whose name leads
// elsewhere, and writes the progress of those that run, until ctx ends.
func (f *Forwarder) tend(ctx context.Context) {
	defer f.follower.lookups.Wait()
	wall := newClockWatch(f.now())
	tick := time.NewTicker(tendEvery(f.limits.IdleForward, f.limits.HalfClosed, f.progress))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if by := wall.step(f.now()); by != 0 {
			f.log.WithField("by", by).Warn("the clock was set; all that runs is judged anew")
			f.rejudge()
		}
		all := f.live.snapshot()
		for _, fw := range all {
			f.tendOne(fw)
		}
		f.pace.measure(&f.live)
		f.follow(ctx, all)
	}
}

// pace tells whether forwards move so many bytes that handshakes are to leave
// them the CPUs.
type pace struct {
	busy atomic.Bool

	// The last measurement; tend's.
	at    int64 // see clock
	moved uint64
}

// busyPace is a rate, in bytes a second, that people who type do not reach.
const busyPace = 1 << 20

func (p *pace) measure(l *live) {
	now := clock()
	took := time.Duration(now - p.at)
	if took < time.Second/5 {
		return // too short to tell
	}
	up, down := l.bytes()
	p.busy.Store(float64(up+down-p.moved) >= busyPace*took.Seconds())
	p.at, p.moved = now, up+down
}

// tendEvery is the tick at which limits, and the edges of time in the policy,
// are looked after: often enough that they act within a second, and each
// quarter of the shortest limit that is on.
func tendEvery(limits ...time.Duration) time.Duration {
	every := time.Second / 4
	for _, limit := range limits {
		if limit > 0 {
			every = min(every, max(limit/4, time.Millisecond))
		}
	}
	return every
}

func (f *Forwarder) tendOne(fw *forward) {
	fw.mu.Lock()
	edge := fw.edge
	fw.mu.Unlock()
	if !edge.IsZero() && !f.now().Before(edge) && !f.judgeAgain(fw) {
		return
	}
	fw.mu.Lock()
	cause := fw.outlived(fw.limits) // of the grant that carries it now
	fw.mu.Unlock()
	if cause != nil {
		fw.cut(cause)
		return
	}
	if !fw.relaying() {
		return
	}
	if !fw.tuned {
		fw.tuned = true
		tuneTarget(fw.dialled, &f.limits)
	}
	quiet := fw.flow.quiet()
	switch idle, half := f.limits.IdleForward, f.limits.HalfClosed; {
	case idle > 0 && quiet >= idle:
		fw.cut(&endCause{reasonIdle, fmt.Sprintf("no byte for idle_forward, %v", idle)})
	case half > 0 && quiet >= half && fw.flow.halves.Load() == 1:
		fw.cut(&endCause{reasonHalfClosed, fmt.Sprintf("one direction had ended and no byte moved in the other for half_closed, %v", half)})
	case f.targetVanished(fw, quiet):
		fw.cut(&endCause{reasonTargetReset, fmt.Sprintf("the target has vanished: it acknowledged nothing for %v", f.limits.silence())})
	case f.progress > 0 && fw.progressDue(f.progress):
		go f.recordProgress(fw, "", "")
	}
}

// targetVanished reports whether the network of fw's target is gone, with
// bytes on their way to it. While there are none the TCP keepalive looks after
// that. It asks the kernel about forwards that are quiet, and not each time.
func (f *Forwarder) targetVanished(fw *forward, quiet time.Duration) bool {
	after, now := f.limits.silence(), clock()
	if after == 0 || quiet < after || time.Duration(now-fw.looked) < after/8 {
		return false
	}
	fw.looked = now
	return vanished(fw.dialled, after)
}

// progressDue reports whether a progress record is due, and if so counts it
// as written.
func (fw *forward) progressDue(every time.Duration) bool {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	now := clock()
	if fw.progress == 0 { // first seen
		fw.progress = now
	}
	if now-fw.progress < int64(every) {
		return false
	}
	fw.progress = now
	return true
}

// recordProgress writes how far fw has come. Its failure loses nothing: the
// end tells the same.
func (f *Forwarder) recordProgress(fw *forward, reason, detail string) {
	if reason == "" && !fw.recording.TryLock() {
		return // the last one still waits for the log
	} else if reason != "" {
		fw.recording.Lock()
	}
	defer fw.recording.Unlock()
	fw.mu.Lock()
	rec, ended := fw.recordLocked(audit.ForwardProgress), fw.ended
	fw.mu.Unlock()
	if ended {
		return
	}
	rec.Reason, rec.Detail = reason, detail
	rec.BytesUp, rec.BytesDown = fw.flow.up.Load(), fw.flow.down.Load()
	rec.Duration = time.Since(fw.started)
	ctx, cancel := context.WithTimeout(fw.ctx, f.limits.DialTimeout)
	defer cancel()
	if err := f.recorder.Append(ctx, rec); err != nil && fw.ctx.Err() == nil {
		f.logLine(fw).WithError(err).Error("the progress of a forward is not recorded")
		f.recordFailed()
	}
}
