package bastion

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"sekisho/authz"
)

// maxFollowing bounds the lookups of followed names at a time. A DNS that is
// silent holds each of them for half of dial_timeout, and the others wait:
// that only makes moves be noticed later.
const maxFollowing = 64

// follower looks up again the names of forwards that run and whose target has
// follow_dns, each name once however many forwards lead to it:
//
//	forwards that run ──▶ their names ──when due──▶ lookup, beside
//	      ▲                                            │
//	      └── an absence begins, ends, or is over ◀── answer
//
// All but the lookups belongs to the goroutine that tends forwards.
type follower struct {
	names   map[followed]*followedName
	slots   chan struct{} // has one in it for each lookup under way
	lookups sync.WaitGroup
}

// followed is a name, and whether DNS may be asked for it.
type followed struct {
	host string // normal form
	dns  bool
}

type followedName struct {
	asked   int64             // when it was last looked up: see clock
	jitter  float64           // of the next time, so that names do not keep step
	looking bool              // a lookup is under way
	done    chan []netip.Addr // gets its answer; nil if it failed
	failing bool              // so it was told

	// Of one pass over all forwards:
	answer []netip.Addr  // one that has come since the last pass
	every  time.Duration // how often to look it up
}

// An absence is what is known of a forward whose address is no longer among
// those of its name.
type absence struct {
	since int64        // when the first such answer came: see clock; 0: there is none
	at    []netip.Addr // what all answers since then had
}

// follow compares the forwards that run with the answers that have come, cuts
// those whose name has moved, and looks up the names that are due.
func (f *Forwarder) follow(ctx context.Context, all []*forward) {
	fo := &f.follower
	now := clock()
	for _, n := range fo.names {
		n.answer, n.every = nil, 0
		select {
		case n.answer = <-n.done:
			n.looking = false
		default:
		}
	}
	for _, fw := range all {
		name, grace := fw.follows()
		if grace == 0 {
			fw.away = absence{}
			continue
		}
		n := fo.name(name, now)
		if n.answer != nil {
			f.compare(fw, n.answer, grace, now)
		}
		every := restEvery(grace)
		if fw.away.since != 0 {
			every = awayEvery(grace)
		}
		if n.every == 0 || every < n.every {
			n.every = every
		}
	}
	for name, n := range fo.names {
		switch {
		case n.looking:
		case n.every == 0: // no forward follows it any more
			delete(fo.names, name)
		case now-n.asked >= int64(n.jitter*float64(n.every)):
			f.lookAgain(ctx, name, n, now)
		}
	}
}

// restEvery and awayEvery are how often a name is looked up: more often once
// an address is missing, so that a name that takes turns shows all of them
// before the grace is over.
func restEvery(grace time.Duration) time.Duration {
	return min(max(grace/6, time.Second), time.Minute)
}

func awayEvery(grace time.Duration) time.Duration {
	return min(max(grace/20, time.Second/4), 10*time.Second)
}

// name returns what is known of a name.
func (fo *follower) name(name followed, now int64) *followedName {
	n := fo.names[name]
	if n == nil {
		if fo.names == nil {
			fo.names, fo.slots = map[followed]*followedName{}, make(chan struct{}, maxFollowing)
		}
		// The first forward to it was opened a moment ago, by an answer of then.
		n = &followedName{asked: now, jitter: rand.Float64(), done: make(chan []netip.Addr, 1)}
		fo.names[name] = n
	}
	return n
}

// follows is the name that fw is to be followed by, and for how long that may
// lead elsewhere; 0 if it is not.
func (fw *forward) follows() (followed, time.Duration) {
	if fw.following.Load() == 0 || !fw.relaying() {
		return followed{}, 0
	}
	fw.mu.Lock()
	defer fw.mu.Unlock()
	return followed{fw.host, fw.dns}, time.Duration(fw.following.Load())
}

// lookAgain looks a name up, unless too many others are being looked up: then
// it is the next time's.
func (f *Forwarder) lookAgain(ctx context.Context, name followed, n *followedName, now int64) {
	fo := &f.follower
	select {
	case fo.slots <- struct{}{}:
	default:
		return
	}
	if f.descriptors.take(pendingDescriptors) != nil { // clients go first
		<-fo.slots
		return
	}
	n.asked, n.jitter, n.looking = now, 0.9+0.2*rand.Float64(), true
	fo.lookups.Go(func() {
		defer func() { f.descriptors.give(pendingDescriptors); <-fo.slots }()
		limited, cancel := context.WithTimeout(ctx, f.limits.DialTimeout/2) // as for a forward that is opened
		defer cancel()
		addrs, err := f.lookup(limited, name.host, name.dns)
		line := f.log.WithField("host", name.host)
		switch {
		case ctx.Err() != nil: // the server stops
		case err != nil && !n.failing:
			line.WithError(err).Warn("a name that is followed has no address now; its forwards go on")
		case err == nil && n.failing:
			line.Info("a name that is followed has an address again")
		}
		n.failing = err != nil
		n.done <- addrs
	})
}

// compare looks whether the address of fw is among those that its name has
// now, and cuts it when that has not been so for grace. Only what is known
// counts: an answer that never came says nothing, and nor does one of which no
// address may be reached. A name that takes turns among several addresses
// has not moved: all answers must have another address in common.
func (f *Forwarder) compare(fw *forward, answer []netip.Addr, grace time.Duration, now int64) {
	dialled := fw.address.Load().Addr()
	if slices.Contains(answer, dialled) {
		fw.away = absence{}
		return
	}
	usable := f.usable(fw, answer)
	if len(usable) == 0 {
		return
	}
	common := slices.DeleteFunc(slices.Clone(fw.away.at), func(a netip.Addr) bool { return !slices.Contains(usable, a) })
	if len(common) == 0 {
		fw.away = absence{since: now, at: usable}
		return
	}
	fw.away.at = common
	if now-fw.away.since >= int64(grace) {
		fw.cut(&endCause{reasonDNSMoved, fmt.Sprintf("its name no longer resolves to %v but to %s", dialled, addressWords(common))})
	}
}

// usable returns those of the addresses that fw might have been opened to.
func (f *Forwarder) usable(fw *forward, addrs []netip.Addr) (usable []netip.Addr) {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	for _, a := range addrs[:min(len(addrs), maxAddresses)] {
		if f.authorizer.Decide(fw.request(a, f.now())).Effect == authz.Allow {
			usable = append(usable, a)
		}
	}
	return usable
}

// addressWords names the first few addresses.
func addressWords(addrs []netip.Addr) string {
	const most = 4
	var words []string
	for _, a := range addrs[:min(len(addrs), most)] {
		words = append(words, a.String())
	}
	s := strings.Join(words, ", ")
	if more := len(addrs) - most; more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}
