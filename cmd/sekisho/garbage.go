package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	measured "runtime/metrics"
	"time"
)

// Garbage is collected seldom while much of it is made, and soon afterwards.
// x/crypto/ssh allocates every packet that it reads, and the heap that is alive
// is small: with Go's own GOGC of 100 an upload at 400 MB/s brings about a
// hundred collections a second, and after each one pages are given back that
// are asked for again at once. That is a fifth of its CPU time. But what is
// garbage is memory of the process, too, and most connections are idle.
const (
	garbageTick = time.Second / 2

	// busyRate is at how many bytes a second that are allocated a server is
	// busy; a hundred logins a second are less, and would leave what lives on
	// scattered over more memory. quietAfter is how long it then is taken for
	// busy.
	busyRate   = 32 << 20
	quietAfter = time.Second

	// busyGarbage is how much garbage a busy server makes between two
	// collections, if it is not told to make less by its memory limit, of which
	// it is at most garbageShare. More is not better: memory that is new to the
	// process costs more than a collection.
	busyGarbage  = 16 << 20
	garbageShare = 16

	// smallHeap is the heap that Go begins with, which GOGC scales too.
	smallHeap = 4 << 20

	// quietPercent is GOGC of a server that is not busy. When it has become so,
	// what it holds for nothing goes back to the system, but not all the time:
	// it may be asked for again, and it looks through all that lives: a second
	// for each 100 MiB of that is added, so that it takes 1 % of a CPU or so.
	quietPercent = 100
	freeEvery    = 3 * time.Second
	freeLess     = 100 << 20
)

// garbage chooses when garbage is collected.
type garbage struct {
	most int64 // between two collections

	at        time.Time // of the last reading
	allocated uint64    // by then
	until     time.Time // when it is quiet again
	owed      bool      // memory, to the system
	freed     time.Time // when that was paid last
}

// A heap is what the runtime tells of it, in bytes.
type heap struct {
	allocated uint64 // ever
	live      uint64 // and what else is looked through: stacks and globals
}

// choose returns GOGC from now on, and whether to give memory back at once.
func (g *garbage) choose(now time.Time, h heap) (percent int, free bool) {
	if !g.at.IsZero() && float64(h.allocated-g.allocated) >= busyRate*now.Sub(g.at).Seconds() {
		g.until = now.Add(quietAfter)
	}
	g.at, g.allocated = now, h.allocated
	if now.Before(g.until) {
		g.owed = true
		return max(int(g.most*100/int64(max(h.live, smallHeap))), 100), false
	}
	if free = g.owed && now.Sub(g.freed) >= freeEvery+time.Duration(h.live/freeLess)*time.Second; free {
		g.owed, g.freed = false, now
	}
	return quietPercent, free
}

// tendGarbage chooses until ctx ends, unless GOGC says what to do.
func tendGarbage(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	g := garbage{most: min(busyGarbage, debug.SetMemoryLimit(-1)/garbageShare)}
	set := quietPercent
	defer debug.SetGCPercent(debug.SetGCPercent(set))
	tick := time.NewTicker(garbageTick)
	defer tick.Stop()
	collected := collections(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-collected:
		case <-tick.C:
		}
		percent, free := g.choose(time.Now(), readHeap())
		if !alike(percent, set) { // it stops the world for a moment
			debug.SetGCPercent(percent)
			set = percent
		}
		if free {
			debug.FreeOSMemory() // which makes stacks smaller, too
		}
	}
}

// collections tells after each collection until ctx ends: a server that becomes
// busy is noticed within a few MiB, and not a tick later.
func collections(ctx context.Context) <-chan struct{} {
	type mark struct{ self *mark } // has a pointer, so that it has memory of its own
	done := make(chan struct{}, 1)
	var gone func(*mark)
	gone = func(m *mark) {
		select {
		case done <- struct{}{}:
		default:
		}
		if ctx.Err() == nil {
			runtime.SetFinalizer(m, gone)
		}
	}
	runtime.SetFinalizer(new(mark), gone)
	return done
}

// alike reports whether two percentages are so near that a change is not worth
// it.
func alike(a, b int) bool {
	return a == b || a >= 100 && b >= 100 && 4*max(a-b, b-a) < b
}

func readHeap() heap {
	s := []measured.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"},
	}
	measured.Read(s)
	return heap{allocated: s[0].Value.Uint64(), live: s[1].Value.Uint64() + s[2].Value.Uint64() + s[3].Value.Uint64()}
}
