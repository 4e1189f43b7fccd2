package bastion

import (
	"net/netip"
	"testing"
	"time"
)

// A step of a source, and for how long it is refused after it.
type penaltyStep struct {
	after   time.Duration
	addr    string
	offence offence // noOffence: it is only asked
	refused time.Duration
}

func TestPenaltiesAddUpAndFade(t *testing.T) {
	rules := DefaultPenalties()
	rules.Exempt = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:1::7/128")}
	const a, b = "192.0.2.1", "192.0.2.2"
	for name, steps := range map[string][]penaltyStep{
		"below the threshold nobody is refused": {
			{0, a, authFail, 0}, {0, a, authFail, 0}, {0, a, noAuth, 0}, {0, a, noAuth, 0}, {0, a, noAuth, 0}, {0, a, noAuth, 0},
		},
		"at the threshold the source is, and only it": {
			{0, a, badBytes, 0}, {0, a, authFail, 15 * time.Second}, {0, b, noOffence, 0}, {0, b, authFail, 0},
		},
		"offences that are far apart never come to it": {
			{0, a, badBytes, 0}, {10 * time.Second, a, badBytes, 0}, {10 * time.Second, a, badBytes, 0}, {6 * time.Second, a, badBytes, 0},
		},
		"it fades second by second, and is over when all of it is": {
			{0, a, graceExceeded, 0}, {0, a, graceExceeded, 20 * time.Second}, {6 * time.Second, a, noOffence, 14 * time.Second},
			{13 * time.Second, a, noOffence, time.Second}, {time.Second, a, noOffence, 0}, {0, a, badBytes, 0},
		},
		"what a refused source had begun before adds to it": {
			{0, a, badBytes, 0}, {0, a, badBytes, 20 * time.Second}, {time.Second, a, noAuth, 20 * time.Second},
		},
		"no source has more than the maximum left": append(hundred(a), penaltyStep{0, a, badBytes, 10 * time.Minute},
			penaltyStep{10*time.Minute - time.Second, a, noOffence, time.Second}, penaltyStep{time.Second, a, noOffence, 0}),
		"an IPv6 source is its /64": {
			{0, "2001:db8::1", badBytes, 0}, {0, "2001:db8::2", badBytes, 20 * time.Second}, {0, "2001:db8::ffff:3", noOffence, 20 * time.Second},
			{0, "2001:db8:0:1::1", noOffence, 0},
		},
		"an IPv4 address is the same in IPv6": {
			{0, a, badBytes, 0}, {0, "::ffff:192.0.2.1", badBytes, 20 * time.Second}, {0, a, noOffence, 20 * time.Second},
		},
		"who is exempt is never refused": {
			{0, "198.51.100.9", badBytes, 0}, {0, "198.51.100.9", badBytes, 0}, {0, "198.51.100.9", badBytes, 0}, {0, "::ffff:198.51.100.9", noOffence, 0},
		},
		"an exempt address stays so in a refused /64": {
			{0, "2001:db8:1::7", badBytes, 0}, {0, "2001:db8:1::8", badBytes, 0}, {0, "2001:db8:1::8", badBytes, 20 * time.Second},
			{0, "2001:db8:1::7", noOffence, 0},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, now := newPenalised(rules), time.Now()
			for i, s := range steps {
				now = now.Add(s.after)
				addr := netip.MustParseAddr(s.addr)
				p.add(addr, s.offence, now)
				var want string
				if s.refused > 0 {
					want = "its source is refused for another " + s.refused.String()
				}
				got := ""
				if cause := p.refusal(addr, now); cause != nil {
					got = cause.detail
				}
				if got != want {
					t.Errorf("step %d, %s %s: %q, not %q", i+1, s.offence, s.addr, got, want)
				}
			}
		})
	}
}

// hundred are as many offences at once.
func hundred(addr string) (steps []penaltyStep) {
	for i := range 100 {
		left := min(time.Duration(i+1)*10*time.Second, 10*time.Minute)
		if i == 0 {
			left = 0
		}
		steps = append(steps, penaltyStep{0, addr, badBytes, left})
	}
	return steps
}

func TestTheZeroPenaltiesRefuseNobody(t *testing.T) {
	p, now, addr := newPenalised(Penalties{}), time.Now(), netip.MustParseAddr("192.0.2.1")
	for range 100 {
		if left, refused := p.add(addr, badBytes, now); left != 0 || refused {
			t.Fatalf("%v are left, refused %v", left, refused)
		}
	}
	if p.refusal(addr, now) != nil || p.count(now) != 0 {
		t.Error("it is refused")
	}
}

func TestASourceIsToldOfOnceWhenItIsRefused(t *testing.T) {
	p, now, addr := newPenalised(DefaultPenalties()), time.Now(), netip.MustParseAddr("192.0.2.1")
	told := 0
	for range 50 {
		if _, refused := p.add(addr, badBytes, now); refused {
			told++
		}
	}
	if told != 1 || p.count(now) != 1 {
		t.Errorf("told %d times; %d are refused", told, p.count(now))
	}
	now = now.Add(10 * time.Minute)
	if p.count(now) != 0 {
		t.Error("it still is")
	}
	p.add(addr, badBytes, now)
	if _, refused := p.add(addr, badBytes, now); !refused {
		t.Error("a second time nothing is told")
	}
}

// Three times as many sources as there is room for, with a mild offence each, leave the heavy ones in, and take
// no more room than there is.
func TestAFloodOfMildOffendersFreesNoHeavyOne(t *testing.T) {
	p, now := newPenalised(DefaultPenalties()), time.Now()
	heavy := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }
	for i := range 100 {
		for range 10 {
			p.add(heavy(i), badBytes, now)
		}
	}
	for i := range 3 * maxPenalised {
		if i%20_000 == 0 {
			now = now.Add(time.Second) // those that fade make room too
		}
		p.add(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), authFail, now)
		if len(p.bySource) > maxPenalised || len(p.byEnd) != len(p.bySource) {
			t.Fatalf("%d sources are kept, %d in order", len(p.bySource), len(p.byEnd))
		}
	}
	if len(p.bySource) < maxPenalised/2 {
		t.Errorf("only %d sources are kept", len(p.bySource))
	}
	for i := range 100 {
		if p.refusal(heavy(i), now) == nil {
			t.Fatalf("%v is let in again", heavy(i))
		}
	}
	if n := p.count(now); n != 100 {
		t.Errorf("%d are refused", n)
	}
	if now = now.Add(time.Hour); p.count(now) != 0 || len(p.bySource) != 0 {
		t.Errorf("%d sources are kept when all is over", len(p.bySource))
	}
}

// When all places are taken by those with more left, a newcomer is let go
// rather than one of them; a heavier one takes the place of the mildest.
func TestAFullTableKeepsThoseWithTheMostLeft(t *testing.T) {
	p, now := newPenalised(Penalties{NoAuth: time.Second, BadBytes: 20 * time.Second, AuthFail: 30 * time.Second, Threshold: 15 * time.Second, Max: time.Minute}), time.Now()
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range maxPenalised {
		p.add(addr(i), badBytes, now.Add(time.Duration(i)))
	}
	newcomer := netip.MustParseAddr("192.0.2.1")
	p.add(newcomer, noAuth, now)
	if p.bySource[sourceOf(newcomer)] != nil || p.refusal(addr(0), now) == nil {
		t.Error("a mild newcomer took somebody's place")
	}
	p.add(newcomer, authFail, now)
	if p.refusal(newcomer, now) == nil || p.refusal(addr(0), now) != nil || p.refusal(addr(1), now) == nil {
		t.Error("a heavy newcomer did not take the place of the one with the least left")
	}
}
