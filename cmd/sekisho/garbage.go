package main

import (
	"context"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	measured "runtime/metrics"
	"time"
)

// Garbage is collected seldom while much of it is made, and soon afterwards:
// x/crypto/ssh allocates every packet that it reads, and the heap that is alive
// is small, so with Go's own GOGC of 100 an upload at 400 MB/s would bring about
// a hundred collections a second, and the pages given back after each would be
// asked for again at once: a fifth of its CPU time. What is garbage counts as
// memory of the process, though, and most connections are idle.
const (
	garbageTick = time.Second / 4

	// busyRate is at how many bytes a second that are allocated a server is
	// busy. Logins in a row do not come to it.
	busyRate = 64 << 20

	// busyGarbage is how much garbage a busy server makes between two
	// collections: less where its memory limit is below garbageShare times as
	// much.
	busyGarbage  = 64 << 20
	garbageShare = 16

	// quietPercent is GOGC of a server that is not busy, and quietAfter how
	// long it is taken for busy still.
	quietPercent = 50
	quietAfter   = 2 * time.Second

	// leftGarbage is how much may be garbage of a server that has become
	// quiet, or leftShare of what is alive.
	leftGarbage = 4 << 20
	leftShare   = 8
)

// garbage chooses when garbage is collected.
type garbage struct {
	most int64 // between two collections

	at        time.Time // of the last reading
	allocated uint64    // by then
	busy      time.Time // when it was last
	collected uint64    // allocated when it was collected because of quiet
}

// A heap is what the runtime tells of it, in bytes.
type heap struct {
	allocated uint64 // ever
	live      uint64 // and what else is looked through: stacks and globals
}

// choose returns GOGC from now on, and whether to collect at once.
func (g *garbage) choose(now time.Time, h heap) (percent int, collect bool) {
	took := now.Sub(g.at)
	if !g.at.IsZero() && float64(h.allocated-g.allocated) >= busyRate*took.Seconds() {
		g.busy = now
	}
	g.at, g.allocated = now, h.allocated
	if !g.busy.IsZero() && now.Sub(g.busy) < quietAfter {
		return max(int(min(g.most*100/int64(max(h.live, 1)), math.MaxInt32)), 100), false
	}
	if h.allocated-g.collected >= max(leftGarbage, h.live/leftShare) {
		g.collected = h.allocated
		return quietPercent, true
	}
	return quietPercent, false
}

// tendGarbage chooses until ctx ends, unless GOGC says what to do.
func tendGarbage(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	g := garbage{most: min(busyGarbage, debug.SetMemoryLimit(-1)/garbageShare)}
	set := debug.SetGCPercent(quietPercent)
	defer debug.SetGCPercent(set)
	set = quietPercent
	tick := time.NewTicker(garbageTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			percent, collect := g.choose(now, readHeap())
			if !alike(percent, set) { // it stops the world for a moment
				debug.SetGCPercent(percent)
				set = percent
			}
			if collect {
				runtime.GC() // which makes stacks smaller, too
			}
		}
	}
}

// alike reports whether two percentages differ by less than a quarter.
func alike(a, b int) bool { return a == b || a >= 100 && b >= 100 && 4*abs(a-b) < b }

func abs(n int) int { return max(n, -n) }

func readHeap() heap {
	s := []measured.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"},
	}
	measured.Read(s)
	return heap{allocated: s[0].Value.Uint64(), live: s[1].Value.Uint64() + s[2].Value.Uint64() + s[3].Value.Uint64()}
}
