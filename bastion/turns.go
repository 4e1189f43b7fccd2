package bastion

import (
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	// longestTurn ends a turn whatever happens: a handshake that hangs in a
	// write holds nobody up. The dearest key exchange, diffie-hellman-group16,
	// takes a tenth of it.
	longestTurn = time.Second

	// While forwards move bytes, a turn is followed by a rest of restFor times
	// as long as it took, up to longestRest. So handshakes have a quarter of
	// the CPUs that they may use, and forwards the others. Rests below
	// leastRest are put together: timers are no finer.
	restFor     = 3
	longestRest = 400 * time.Millisecond
	leastRest   = time.Millisecond

	// surelyWork is how long a turn is taken for work. One that seems longer
	// may have been kept from its CPU, by other programs or by a quota; that is
	// to cost it no rest. CPU time is counted too coarsely for shorter ones.
	surelyWork = 10 * time.Millisecond
)

// turns share out the CPUs among the handshakes: half of the CPUs, one source
// after the other, and first come first served among the connections of a
// source. A source that floods waits for itself.
//
//	Read ─▶ its bytes ─▶ the queue of its source ─▶ turn ─▶ key exchange … ─▶ next Read
//	                                                 └────────────────────────┘ gives it back
//
// A handshake works between two reads, and no client that is silent or slow has
// a turn. What a login costs besides, the check of a signature, is small.
//
// Those who have been shown the host key have a queue of their own, which is
// served as often as the other: who has paid for a key exchange is not to wait
// for a round of newcomers with each of the small steps that are left.
type turns struct {
	busy    func() bool          // forwards move bytes
	cpuTime func() time.Duration // of this process, on all CPUs

	mu       sync.Mutex
	free     int
	queues   [2]queue // of newcomers, and of those who have been shown the host key
	last     int      // the one that was served last
	owedRest time.Duration
}

func newTurns(busy func() bool) *turns {
	return &turns{busy: busy, cpuTime: processTime, free: max(1, runtime.GOMAXPROCS(0)/2)}
}

// A queue holds the seats that wait, at most one of a connection: so
// limits.max_startups bounds them.
type queue struct {
	sources []netip.Prefix // of those who wait, in turn
	seats   map[netip.Prefix][]*seat
}

func (q *queue) push(s *seat) {
	if q.seats == nil {
		q.seats = map[netip.Prefix][]*seat{}
	}
	if len(q.seats[s.source]) == 0 {
		q.sources = append(q.sources, s.source)
	}
	q.seats[s.source] = append(q.seats[s.source], s)
}

// pop returns the next seat, or nil. Its source goes to the end.
func (q *queue) pop() *seat {
	if len(q.sources) == 0 {
		return nil
	}
	s := q.seats[q.sources[0]][0]
	q.remove(s)
	if i := slices.Index(q.sources, s.source); i == 0 {
		q.sources = append(q.sources[1:], s.source)
	}
	return s
}

// remove takes s out and reports whether it was there.
func (q *queue) remove(s *seat) bool {
	seats := q.seats[s.source]
	i := slices.Index(seats, s)
	if i < 0 {
		return false
	}
	if seats = slices.Delete(seats, i, i+1); len(seats) > 0 {
		q.seats[s.source] = seats
		return true
	}
	delete(q.seats, s.source)
	i = slices.Index(q.sources, s.source)
	q.sources = slices.Delete(q.sources, i, i+1)
	return true
}

// A seat is the place of one connection before its login. One goroutine at a
// time takes and gives.
type seat struct {
	turns  *turns
	source netip.Prefix
	gone   <-chan struct{} // closed once the connection has ended
	called chan struct{}   // has one in it once the seat that waited has its turn

	// The following are under turns.mu.
	has     bool
	number  int           // of the turn it has or had
	began   time.Time     // that turn
	cpuTime time.Duration // then
	over    *time.Timer   // ends it at longestTurn
	left    bool          // it takes no turns any more
	starved bool          // the connection ended while it waited for its turn
}

func (t *turns) seat(source netip.Prefix, gone <-chan struct{}) *seat {
	return &seat{turns: t, source: source, gone: gone, called: make(chan struct{}, 1)}
}

// take waits for a turn, in one of the two queues. It returns false if the
// connection ended before.
func (s *seat) take(queue int) bool {
	t := s.turns
	t.mu.Lock()
	if s.left || s.has {
		t.mu.Unlock()
		return true
	}
	if t.free > 0 { // so nobody waits
		t.grant(s)
		t.mu.Unlock()
		return true
	}
	t.queues[queue].push(s)
	t.mu.Unlock()

	select {
	case <-s.called:
		t.mu.Lock()
		defer t.mu.Unlock()
		t.begin(s) // only now: it is on its CPU
		return true
	case <-s.gone:
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s.starved = t.forget(s)
	s.giveBack()
	return false
}

// give ends the turn, if there is one.
func (s *seat) give() {
	s.turns.mu.Lock()
	defer s.turns.mu.Unlock()
	s.giveBack()
}

// leave gives the turn back for good.
func (s *seat) leave() {
	t := s.turns
	t.mu.Lock()
	defer t.mu.Unlock()
	s.left = true
	if t.forget(s) {
		s.called <- struct{}{}
	}
	s.giveBack()
}

// waitedInVain reports whether the connection ended before it had its turn.
func (s *seat) waitedInVain() bool {
	s.turns.mu.Lock()
	defer s.turns.mu.Unlock()
	return s.starved
}

// giveBack is called with turns.mu held.
func (s *seat) giveBack() {
	if !s.has {
		return
	}
	s.has = false
	s.over.Stop()
	took := time.Since(s.began)
	if took > surelyWork && s.turns.busy() {
		// The forwards keep all CPUs of this process at work: what it has
		// used of each is how much of the time it was given.
		each := (s.turns.cpuTime() - s.cpuTime) / time.Duration(runtime.GOMAXPROCS(0))
		took = min(took, max(surelyWork, each))
	}
	s.turns.end(took)
}

// forget takes s out of its queue and reports whether it was in one. t.mu must
// be held.
func (t *turns) forget(s *seat) bool {
	return t.queues[0].remove(s) || t.queues[1].remove(s)
}

// grant is called with t.mu held.
func (t *turns) grant(s *seat) {
	t.free--
	s.has = true
	s.number++
	t.begin(s)
	number := s.number
	s.over = time.AfterFunc(longestTurn, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if s.number == number {
			s.giveBack()
		}
	})
}

// begin notes when a turn begins. t.mu must be held.
func (t *turns) begin(s *seat) {
	s.began, s.cpuTime = time.Now(), t.cpuTime()
}

// end frees what a turn took, at once or after a rest. t.mu must be held.
func (t *turns) end(took time.Duration) {
	if t.busy() {
		t.owedRest += min(restFor*took, longestRest)
	} else {
		t.owedRest = 0
	}
	rest := t.owedRest
	if rest < leastRest {
		t.free++
		t.call()
		return
	}
	t.owedRest = 0
	time.AfterFunc(rest, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.free++
		t.call()
	})
}

// call gives what is free to those who wait. t.mu must be held.
func (t *turns) call() {
	for t.free > 0 {
		t.last = 1 - t.last
		s := t.queues[t.last].pop()
		if s == nil {
			s = t.queues[1-t.last].pop()
		}
		if s == nil {
			return
		}
		t.grant(s)
		s.called <- struct{}{}
	}
}
