package main

import (
	"runtime"
	"testing"
	"time"
)

func TestGarbageIsCollectedByHowBusyTheServerIs(t *testing.T) {
	at := time.Now()
	g := garbage{most: 16 << 20}
	for _, step := range []struct {
		name      string
		after     time.Duration
		allocated uint64 // more than before
		live      uint64
		percent   int
		free      bool
	}{
		{"at the start it is quiet", 0, 1 << 20, 2 << 20, quietPercent, false},
		{"little is allocated", time.Second, 1 << 20, 2 << 20, quietPercent, false},
		{"much is allocated, in a short time", 10 * time.Millisecond, 4 << 20, 2 << 20, 400, false},
		{"little again, for a moment", time.Second / 2, 1 << 20, 2 << 20, 400, false},
		{"and for longer", time.Second, 1 << 20, 2 << 20, quietPercent, true},
		{"what is freed once is not freed again", time.Second, 0, 2 << 20, quietPercent, false},
		{"busy again", time.Second / 4, 100 << 20, 2 << 20, 400, false},
		{"and quiet, but it was freed a moment ago", time.Second, 0, 2 << 20, quietPercent, false},
		{"which is made up for", 5 * time.Second, 0, 2 << 20, quietPercent, true},
		{"a heap of 8 MiB", time.Second, 100 << 20, 8 << 20, 200, false},
		{"with a large heap there is at least as much garbage as by default", time.Second, 100 << 20, 500 << 20, 100, false},
		{"an empty heap counts as one of 4 MiB", time.Second, 100 << 20, 0, 400, false},
	} {
		at = at.Add(step.after)
		percent, free := g.choose(at, heap{allocated: g.allocated + step.allocated, live: step.live})
		if percent != step.percent || free != step.free {
			t.Errorf("%s: %d, %v; want %d, %v", step.name, percent, free, step.percent, step.free)
		}
	}
}

func TestEachCollectionIsTold(t *testing.T) {
	told := collections(t.Context())
	for range 3 {
		runtime.GC()
		select {
		case <-told:
		case <-time.After(30 * time.Second):
			t.Fatal("it was not told")
		}
	}
}

func TestTheHeapIsRead(t *testing.T) {
	runtime.GC()
	before := readHeap()
	kept := make([]byte, 8<<20)
	after := readHeap()
	runtime.KeepAlive(kept)
	if before.live == 0 || after.allocated-before.allocated < 8<<20 {
		t.Errorf("%+v, then %+v", before, after)
	}
}
