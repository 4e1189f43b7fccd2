package bastion

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// All channels of a connection share one stream of bytes to the client. What
// is written to it stands in our socket, on the way, and in the client's, and
// a small answer stands behind all of it: for a bulk download that is a whole
// window, 2 MiB, and no option of our socket reaches the client's part.
//
// So while a forward that moves little is active, those of the same connection
// that move much send no more than a limit ahead of what the client has
// certainly read. It tells that by its answer to a marker, a keepalive: that
// comes when everything before the marker is read. The answer to a byte sent
// beside a bulk download then takes 1 to 2 ms at the 90th percentile, not 10 to
// 12, and the download 15 to 35 % longer. Nothing is asked and nothing waits
// where nobody is disturbed.
//
// A client's upload needs nothing of this. What is small there stands behind
// bulk in the client's own socket; the server takes all that comes at once.

const (
	// A forward moves much when it has moved bulkBurst more than bulkRate, in
	// bytes a second, lets it. So a bulk download through a slow line counts
	// as one, too, but for lines that are slower than bulkRate: there an answer
	// waits as it would without this.
	bulkBurst = 256 << 10
	bulkRate  = 128 << 10

	// quietAfter is for how long a forward that moves little is looked after
	// once it has moved a byte: so long that somebody who types is.
	quietAfter = time.Second

	// markEvery is how often it is noted that a forward has moved a byte.
	markEvery = 20 * time.Millisecond

	// What may be ahead of the client's last answer is what the line takes in
	// aheadTime, but aheadLeast to aheadMost, and aheadPath times what the path
	// to the client holds, rate × round trip. It must be more than twice that,
	// since only one marker is on its way and what it tells is half a limit
	// old. Measured at 200 Mbit/s and 20 ms (sshd: 130 ms for the answer):
	//
	//	aheadPath 2.0   40 ms   bulk at 13 MB/s
	//	aheadPath 2.5   50 ms   bulk at 21 MB/s
	//	aheadPath 3.0  126 ms   bulk at 21 MB/s, of 23 without limit
	//
	// and on loopback, where the path holds nothing: aheadMost 96 KiB 1.8 ms,
	// 128 KiB 2.3, 256 KiB 2.5.
	aheadTime  = 5 * time.Millisecond
	aheadLeast = 32 << 10
	aheadMost  = 96 << 10
	aheadPath  = 2.5
	aheadEver  = 1 << 30

	// rateWindow is over how long at least the rate is measured. Answers come
	// in bursts, and each by itself would tell of a much faster line.
	rateWindow = 10 * time.Millisecond

	// bulkPiece is how much is written at a time while the limit holds: a
	// packet.
	bulkPiece = 32 << 10

	// bulkWait is how long a piece waits at most, and patience how long an
	// answer is waited for: a client that gives none is not limited any more
	// until it does.
	bulkWait = 250 * time.Millisecond
	patience = 30 * time.Second
)

// traffic is what the forwards of one connection send to its client.
type traffic struct {
	over <-chan struct{} // the connection is
	// ask sends a marker unless one is on its way. The client's answer becomes
	// a call of answered.
	ask  func() bool
	path func() (roundTrip time.Duration, rate float64) // see tcpPath

	last  atomic.Pointer[lane] // that wrote
	mixed *atomic.Int64        // when another one wrote than before: see outgoing

	sent  atomic.Int64 // bytes of forwards that are written
	small atomic.Int64 // when a lane that moves little last moved a byte: see clock; 0: never

	mu     sync.Mutex  // held for a few steps, never while anything is written
	recent [2]laneMark // the last two lanes that moved little
	asked  int64       // when the marker was sent that is on its way; 0: none is
	read   int64       // so many of sent had been read when the last answer came
	heard  int64       // when it came; 0: never
	limit  int64       // bytes that may be ahead of read
	ahead  int64       // where sent is once all that was let go is written
	queue  []*lane     // those that wait, the first come first

	rate     float64 // bytes a second that the client reads: the highest, of late
	rateFrom int64   // read when its window began
	rateAt   int64   // and the time
}

// A lane is a forward's part of the traffic. It outlives the forward for a
// while, and holds nothing of it.
type lane struct {
	traffic *traffic

	up, down meter        // of the one goroutine that reads, or writes
	bulk     atomic.Bool  // much goes down
	marked   atomic.Int64 // when it was last noted in recent

	// Guarded by traffic.mu.
	turn chan struct{} // gets a value when the lane is taken from the queue; nil before it first was in it
	next int64         // bytes that it wants to write
	done bool          // it waits no more
}

type laneMark struct {
	lane *lane
	at   int64
}

func newTraffic(over <-chan struct{}, ask func() bool, path func() (time.Duration, float64), mixed *atomic.Int64) *traffic {
	return &traffic{over: over, ask: ask, path: path, mixed: mixed, limit: aheadLeast}
}

// A meter tells whether much is moved.
type meter struct {
	level float64 // bytes moved, less what bulkRate allows
	at    int64   // see clock; 0: nothing was moved
}

// add counts n bytes and reports whether they are a part of much.
func (m *meter) add(n int, now int64) bool {
	if m.at != 0 {
		m.level = max(0, m.level-time.Duration(now-m.at).Seconds()*bulkRate)
	}
	m.level = min(m.level+float64(n), 2*bulkBurst) // so it is forgotten 2 s after it has ended
	m.at = now
	return m.level > bulkBurst
}

// Read notes what a client asks for by little: the answer is about to come.
func (s *channelStream) Read(p []byte) (int, error) {
	n, err := s.Channel.Read(p)
	if n > 0 {
		l, now := s.lane, clock()
		if much := l.up.add(n, now); !much && !l.bulk.Load() {
			l.mark(now)
		}
	}
	return n, err
}

// Write writes p to the client, in its turn where others are disturbed.
func (s *channelStream) Write(p []byte) (n int, err error) {
	l := s.lane
	for {
		piece, now := p[n:], clock()
		l.writes(now)
		much := l.down.add(len(piece), now)
		if l.bulk.Load() != much {
			l.bulk.Store(much)
		}
		switch {
		case !much:
			l.mark(now)
		case l.disturbs(now):
			piece = piece[:min(len(piece), bulkPiece)]
			l.wait(len(piece), now)
		}
		m, err := s.Channel.Write(piece)
		l.traffic.sent.Add(int64(m)) // not before: a marker that is sent meanwhile may go ahead of it
		n += m
		if err != nil || n >= len(p) {
			return n, err
		}
	}
}

// Close also ends the wait of a Write.
func (s *channelStream) Close() error {
	s.lane.leave()
	return s.Channel.Close()
}

// writes notes which lane writes.
func (l *lane) writes(now int64) {
	t := l.traffic
	if last := t.last.Load(); last != l {
		t.last.Store(l)
		if last != nil {
			t.mixed.Store(now)
		}
	}
}

// mark notes that a lane that moves little has moved a byte.
func (l *lane) mark(now int64) {
	t := l.traffic
	if before := l.marked.Load(); before != 0 && now-before < int64(markEvery) {
		return
	}
	l.marked.Store(now)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.recent[0].lane != l {
		t.recent[1] = t.recent[0]
	}
	t.recent[0] = laneMark{l, now}
	t.small.Store(now)
}

// disturbs reports whether another lane is active that moves little.
func (l *lane) disturbs(now int64) bool {
	t := l.traffic
	recently := func(at int64) bool { return at != 0 && now-at < int64(quietAfter) }
	if !recently(t.small.Load()) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.recent {
		// It may itself have moved little, then, or what did moves much now.
		if r.lane != nil && r.lane != l && recently(r.at) && !r.lane.bulk.Load() {
			return true
		}
	}
	return false
}

// wait returns when n bytes may be written, or after bulkWait, or when the
// connection is over or the lane has left.
func (l *lane) wait(n int, now int64) {
	t := l.traffic
	t.mu.Lock()
	if l.done || t.asked != 0 && now-t.asked > int64(patience) {
		t.mu.Unlock()
		return
	}
	t.ahead = max(t.ahead, t.sent.Load())
	free := len(t.queue) == 0 && t.ahead-t.read < t.limit
	if free {
		t.ahead += int64(n)
	} else {
		if l.turn == nil {
			l.turn = make(chan struct{}, 1)
		}
		l.next = int64(n)
		t.queue = append(t.queue, l)
	}
	ask := t.asked == 0 && t.wantsAnswer()
	t.mu.Unlock()
	if ask {
		t.ask()
	}
	if free {
		return
	}
	late := time.NewTimer(bulkWait)
	defer late.Stop()
	select {
	case <-l.turn:
		return
	case <-late.C:
	case <-t.over:
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.queue, l); i >= 0 {
		t.queue = slices.Delete(t.queue, i, i+1)
	} else {
		<-l.turn // given just now
	}
}

// leave ends the wait of a lane, if it waits, and lets it wait no more.
func (l *lane) leave() {
	t := l.traffic
	t.mu.Lock()
	defer t.mu.Unlock()
	l.done = true
	if i := slices.Index(t.queue, l); i >= 0 {
		t.queue = slices.Delete(t.queue, i, i+1)
		l.turn <- struct{}{}
	}
}

// wantsAnswer reports whether it is time for a marker. At half of the limit
// the other half can be written while it is on its way. t.mu must be held.
func (t *traffic) wantsAnswer() bool {
	return len(t.queue) > 0 || t.ahead-t.read >= t.limit/2
}

// beginAsking reports whether a marker may be sent, which then waits for its
// answer: no other is on its way.
func (t *traffic) beginAsking(now int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.asked != 0 {
		return false
	}
	t.asked = now
	return true
}

// answered is told that the client has read what was sent before the marker,
// and reports whether another is to be sent at once.
func (t *traffic) answered(sent, now int64) (again bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.read = sent
	t.setLimit(now)
	// What a lane was let go with may still wait in its channel's window, for
	// as long as its reader there likes. So it counts until here, and no more.
	t.ahead = t.sent.Load()
	for len(t.queue) > 0 && t.ahead-t.read < t.limit {
		l := t.queue[0]
		t.queue = slices.Delete(t.queue, 0, 1)
		t.ahead += l.next
		l.turn <- struct{}{}
	}
	t.asked = 0
	small := t.small.Load()
	disturbed := small != 0 && now-small < int64(quietAfter)
	if again = len(t.queue) > 0 || disturbed && t.wantsAnswer(); again {
		t.asked = now
	}
	return again
}

// setLimit measures the rate and derives the limit from it. t.mu must be held.
func (t *traffic) setLimit(now int64) {
	fresh := t.heard == 0 || now-t.heard >= int64(quietAfter)
	t.heard = now
	elapsed := time.Duration(now - t.rateAt)
	if !fresh && elapsed < rateWindow {
		return
	}
	roundTrip, rate := t.path()
	if !fresh {
		rate = max(float64(t.read-t.rateFrom)/elapsed.Seconds(), t.rate*7/8)
	}
	t.rate, t.rateFrom, t.rateAt = rate, t.read, now
	line := min(max(rate*aheadTime.Seconds(), aheadLeast), aheadMost)
	path := min(aheadPath*rate*roundTrip.Seconds(), aheadEver) // what a kernel tells may be anything
	t.limit = int64(line + path)
}
