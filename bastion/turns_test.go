package bastion

import (
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// aTurn is the turns of a machine with few CPUs: one at a time.
func aTurn(busy bool) *turns {
	t := newTurns(func() bool { return busy })
	began := time.Now()
	t.free, t.cpuTime = 1, func() time.Duration { return time.Since(began) * time.Duration(runtime.GOMAXPROCS(0)) }
	return t
}

var testSource = netip.MustParsePrefix("192.0.2.1/32")

func TestTurnsGoRoundTheSourcesAndTheTwoQueues(t *testing.T) {
	for name, test := range map[string]struct{ come, served string }{
		"first come, first served in a source": {"a1 a2 a3", "a1 a2 a3"},
		"a flood waits for itself":             {"a1 a2 a3 a4 b1 c1 b2", "a1 b1 c1 a2 b2 a3 a4"},
		"who has been shown the host key does not wait for newcomers": {
			"a1 a2 b1 c1 D1 d2", "D1 a1 b1 c1 d2 a2"},
		"nor do newcomers wait for those": {"A1 A2 A3 B1 B2 c1 d1", "A1 c1 B1 d1 A2 B2 A3"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				turns := aTurn(false)
				holder := turns.seat(testSource, nil)
				holder.take(0)
				var served []string
				for come := range strings.FieldsSeq(test.come) {
					source := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, come[0] | 0x20}), 32)
					seat, queue := turns.seat(source, nil), 0
					if come[0] < 'a' {
						queue = 1
					}
					go func() {
						if !seat.take(queue) {
							t.Error("it has no turn")
						}
						served = append(served, come) // one at a time
						seat.give()
					}()
					synctest.Wait()
				}
				holder.give()
				synctest.Wait()
				if got := strings.Join(served, " "); got != test.served {
					t.Errorf("served %s, not %s", got, test.served)
				}
				if turns.free != 1 || len(turns.queues[0].sources)+len(turns.queues[0].seats)+len(turns.queues[1].sources)+len(turns.queues[1].seats) != 0 {
					t.Errorf("left behind: %+v", turns)
				}
			})
		})
	}
}

func TestATurnEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := aTurn(false)
		stuck, next := turns.seat(testSource, nil), turns.seat(testSource, nil)
		stuck.take(0)
		began := time.Now()
		next.take(0)
		if took := time.Since(began); took != longestTurn {
			t.Errorf("the next waited %v", took)
		}
		stuck.give() // too late: it has none any more
		if turns.free != 0 {
			t.Errorf("%d are free", turns.free)
		}
		next.give()
		time.Sleep(2 * longestTurn)
		if turns.free != 1 {
			t.Errorf("%d are free in the end", turns.free)
		}
	})
}

func TestWhoIsGoneWaitsNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := aTurn(false)
		holder := turns.seat(testSource, nil)
		holder.take(0)
		gone := make(chan struct{})
		waits, behind := turns.seat(testSource, gone), turns.seat(testSource, nil)
		took := make(chan bool, 2)
		go func() { took <- waits.take(0) }()
		synctest.Wait()
		go func() { took <- behind.take(0) }()
		synctest.Wait()
		close(gone)
		if <-took {
			t.Error("who is gone has a turn")
		}
		if !waits.waitedInVain() || behind.waitedInVain() {
			t.Error("who waited in vain is not told apart")
		}
		holder.give()
		if !<-took {
			t.Error("who was behind him has none")
		}
		behind.leave()
		waits.leave()
		if turns.free != 1 {
			t.Errorf("%d are free", turns.free)
		}
	})
}

func TestWhoHasLoggedInTakesNoTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := aTurn(false)
		in, waits := turns.seat(testSource, nil), turns.seat(testSource, nil)
		in.take(0)
		took := make(chan bool, 1)
		go func() { took <- waits.take(0) }()
		synctest.Wait()
		waits.leave() // logged in while it waits to read on
		if !<-took {
			t.Error("it cannot read on")
		}
		if turns.free != 0 {
			t.Errorf("%d are free", turns.free)
		}
		in.leave()
		in.take(0)
		if turns.free != 1 {
			t.Errorf("%d are free: who is logged in has a turn", turns.free)
		}
	})
}

func TestATurnThatWasKeptFromItsCPUCostsNoRest(t *testing.T) {
	for name, test := range map[string]struct{ took, used, want time.Duration }{
		"at work all the time":    {100 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond},
		"half of the time":        {100 * time.Millisecond, 50 * time.Millisecond, 150 * time.Millisecond},
		"hardly at all":           {100 * time.Millisecond, time.Millisecond, 30 * time.Millisecond},
		"too short to be counted": {5 * time.Millisecond, 0, 15 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				turns := aTurn(true)
				var used time.Duration
				turns.cpuTime = func() time.Duration { return used }
				seat, next := turns.seat(testSource, nil), turns.seat(testSource, nil)
				seat.take(0)
				time.Sleep(test.took)
				used += test.used * time.Duration(runtime.GOMAXPROCS(0))
				seat.give()
				began := time.Now()
				next.take(0)
				if rest := time.Since(began); rest != test.want {
					t.Errorf("a rest of %v, not %v", rest, test.want)
				}
				next.leave()
			})
		})
	}
}

func TestATurnIsFollowedByARestOnlyWhileForwardsAreBusy(t *testing.T) {
	for name, test := range map[string]struct {
		busy bool
		took []time.Duration
		want []time.Duration // after which the next turn is to be had
	}{
		"idle":                   {false, []time.Duration{20 * time.Millisecond, 300 * time.Millisecond}, []time.Duration{0, 0}},
		"busy":                   {true, []time.Duration{20 * time.Millisecond, 3 * time.Millisecond}, []time.Duration{60 * time.Millisecond, 9 * time.Millisecond}},
		"a dear one":             {true, []time.Duration{300 * time.Millisecond}, []time.Duration{longestRest}},
		"small ones go together": {true, []time.Duration{150 * time.Microsecond, 150 * time.Microsecond, 150 * time.Microsecond}, []time.Duration{0, 0, 1350 * time.Microsecond}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				turns := aTurn(test.busy)
				var got []time.Duration
				for _, took := range test.took {
					seat := turns.seat(testSource, nil)
					seat.take(0)
					time.Sleep(took)
					seat.give()
					began := time.Now()
					next := turns.seat(testSource, nil)
					next.take(0)
					got = append(got, time.Since(began))
					next.leave()
				}
				if !slices.Equal(got, test.want) {
					t.Errorf("rests of %v, not %v", got, test.want)
				}
			})
		})
	}
}
