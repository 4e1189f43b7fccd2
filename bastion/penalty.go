package bastion

import (
	stdheap "container/heap"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// Penalties are what connections that end before a login cost their source, an
// IPv4 address or an IPv6 /64, as PerSourcePenalties of sshd_config(5): each
// offence adds its time to what is left of those before it. Once that has come
// to Threshold the source is refused until all of it is over, which is when
// nothing was added for as long. A time of zero is no penalty: so the zero
// Penalties have none.
//
// Only what no client does that is in order is an offence: a client that meets
// an unknown host key and leaves, as ssh-keyscan does, one that has no
// algorithm in common with the server, one whose agent offers
// many keys that are refused, one that tries method none, or a load balancer
// that connects and says nothing, costs its source nothing.
type Penalties struct {
	AuthFail      time.Duration // a bad signature, all tries used up, a password
	NoAuth        time.Duration // gone in the middle, before it was shown a host key
	GraceExceeded time.Duration // Limits.LoginGrace
	BadBytes      time.Duration // bytes that are not SSH

	Threshold time.Duration
	Max       time.Duration // that can be left at any time

	Exempt []netip.Prefix // from all of this, not from Limits
}

// DefaultPenalties are those of a configuration that names none.
func DefaultPenalties() Penalties {
	return Penalties{
		AuthFail: 5 * time.Second, NoAuth: time.Second, GraceExceeded: 10 * time.Second, BadBytes: 10 * time.Second,
		Threshold: 15 * time.Second, Max: 10 * time.Minute,
	}
}

// An offence is what a source is penalised for.
type offence string

const (
	noOffence     offence = ""
	authFail      offence = "auth_fail"
	noAuth        offence = "no_auth"
	graceExceeded offence = "grace_exceeded"
	badBytes      offence = "bad_bytes"
)

func (p *Penalties) of(o offence) time.Duration {
	switch o {
	case authFail:
		return p.AuthFail
	case noAuth:
		return p.NoAuth
	case graceExceeded:
		return p.GraceExceeded
	case badBytes:
		return p.BadBytes
	}
	return 0
}

// exempts reports whether addr is never penalised. The address is asked for,
// not the source: a /128 can be exempt while the rest of its /64 is not.
func (p *Penalties) exempts(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, network := range p.Exempt {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}

// refusedPenalty is why a connection is not let in whose source is penalised. It
// is of no record: nothing is written about who is refused at the door.
const refusedPenalty = "penalty"

// maxPenalised bounds the sources that have penalties: a few megabytes. Beyond
// it those with the least left go, and a newcomer with less than any of them is
// not taken up, so that no flood of mild offenders frees a heavy one.
const maxPenalised = 1 << 16

// penalised are the sources that have penalties.
type penalised struct {
	rules Penalties

	mu       sync.Mutex
	bySource map[netip.Prefix]*penalty
	byEnd    penalties
}

// A penalty is what a source has left.
type penalty struct {
	source  netip.Prefix
	end     time.Time // what is left is the time until then: so it fades by itself
	refused bool      // it has come to the threshold
	place   int       // in byEnd
}

func newPenalised(rules Penalties) *penalised {
	return &penalised{rules: rules, bySource: map[netip.Prefix]*penalty{}}
}

// add penalises the source of addr. It returns what is left, and whether the
// source is refused by this and was not before.
func (p *penalised) add(addr netip.Addr, o offence, now time.Time) (left time.Duration, refused bool) {
	more := p.rules.of(o)
	if more <= 0 || p.rules.exempts(addr) {
		return 0, false
	}
	source := sourceOf(addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fade(now)
	has := p.bySource[source]
	if has == nil {
		has = &penalty{source: source, end: now.Add(min(more, p.rules.Max))}
		if !p.room(has.end) {
			return 0, false
		}
		p.bySource[source] = has
		stdheap.Push(&p.byEnd, has)
	} else {
		has.end = now.Add(min(has.end.Sub(now)+more, p.rules.Max))
		stdheap.Fix(&p.byEnd, has.place)
	}
	left = has.end.Sub(now)
	if has.refused || left < p.rules.Threshold {
		return left, false
	}
	has.refused = true
	return left, true
}

// room makes room for a penalty that ends at end, unless all others end later.
// p.mu must be held.
func (p *penalised) room(end time.Time) bool {
	if len(p.byEnd) < maxPenalised {
		return true
	}
	if !p.byEnd[0].end.Before(end) {
		return false
	}
	p.dropFirst()
	return true
}

// fade drops what is over. p.mu must be held.
func (p *penalised) fade(now time.Time) {
	for len(p.byEnd) > 0 && !p.byEnd[0].end.After(now) {
		p.dropFirst()
	}
}

func (p *penalised) dropFirst() {
	delete(p.bySource, stdheap.Pop(&p.byEnd).(*penalty).source)
}

// refusal is why nobody at addr is let in now, or nil.
func (p *penalised) refusal(addr netip.Addr, now time.Time) *endCause {
	p.mu.Lock()
	defer p.mu.Unlock()
	has := p.bySource[sourceOf(addr)]
	if has == nil || !has.refused || !has.end.After(now) || p.rules.exempts(addr) {
		return nil
	}
	return &endCause{refusedPenalty, fmt.Sprintf("its source is refused for another %v", roundUp(has.end.Sub(now)))}
}

// count is how many sources are refused now.
func (p *penalised) count(now time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fade(now)
	n := 0
	for _, has := range p.byEnd {
		if has.refused {
			n++
		}
	}
	return n
}

// roundUp is d in whole seconds, of which none is left out.
func roundUp(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// penalties are a heap: the one that ends first is the first.
type penalties []*penalty

func (h penalties) Len() int           { return len(h) }
func (h penalties) Less(i, j int) bool { return h[i].end.Before(h[j].end) }
func (h penalties) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *penalties) Push(x any) {
	has := x.(*penalty)
	has.place = len(*h)
	*h = append(*h, has)
}

func (h *penalties) Pop() any {
	last := len(*h) - 1
	has := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return has
}
