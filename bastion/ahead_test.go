package bastion

import (
	"sync/atomic"
	"testing"
	"time"
)

func TestWhatBulkMaySendAheadFollowsTheLine(t *testing.T) {
	for _, c := range []struct {
		name      string
		rate      float64 // bytes a second
		roundTrip time.Duration
		want      int64
	}{
		{"nothing is known of it", 0, 0, aheadLeast},
		{"a slow line", 1e6, 0, aheadLeast},
		{"a faster one", 10e6, 0, 50_000},
		{"a fast one", 1e9, 0, aheadMost},
		{"a slow and long one", 1e6, 100 * time.Millisecond, aheadLeast + 250_000},
		{"a fast and long one", 25e6, 20 * time.Millisecond, aheadMost + 1_250_000},
		{"one that cannot be", 1.8e19, time.Hour, aheadMost + aheadEver},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := newTraffic(nil, nil, func() (time.Duration, float64) { return c.roundTrip, c.rate }, new(atomic.Int64))
			const second = int64(time.Second)
			tr.answered(0, 100*second)
			if tr.limit != c.want {
				t.Errorf("as TCP tells it: %d, want %d", tr.limit, c.want)
			}
			if c.rate > 1e9 {
				return
			}
			tr.rate = 0
			tr.answered(int64(c.rate)/10, 100*second+second/10) // and as it is measured
			if tr.limit != c.want {
				t.Errorf("as it is measured: %d, want %d", tr.limit, c.want)
			}
		})
	}
}

func TestWhatCountsAsMuch(t *testing.T) {
	type step struct {
		after time.Duration
		bytes int
		much  bool
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"a few bytes", []step{{0, 1, false}, {time.Millisecond, 100, false}}},
		{"a page", []step{{0, bulkBurst, false}, {time.Second, bulkBurst / 2, false}}},
		{"a download", []step{{0, bulkBurst, false}, {time.Millisecond, 32 << 10, true}, {time.Second, 1 << 20, true}}},
		{"what has ended", []step{{0, 100 << 20, true}, {2 * time.Second, 1, true}, {2 * time.Second, 1, false}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m meter
			now := -int64(time.Hour) // a clock may run before its zero
			for i, s := range c.steps {
				if now += int64(s.after); m.add(s.bytes, now) != s.much {
					t.Errorf("step %d: much is %v", i, !s.much)
				}
			}
		})
	}
}

func TestMarkersEndWithWhatIsDisturbed(t *testing.T) {
	tr := newTraffic(nil, nil, func() (time.Duration, float64) { return 0, 1e8 }, new(atomic.Int64))
	now := clock()
	tr.small.Store(now)
	tr.beginAsking(now)
	for _, test := range []struct {
		after time.Duration
		again bool
	}{{time.Millisecond, true}, {quietAfter / 2, true}, {quietAfter, false}} {
		tr.sent.Add(1 << 20) // bulk goes on
		now += int64(test.after)
		if again := tr.answered(tr.sent.Load()-1<<20, now); again != test.again {
			t.Errorf("%v later there is another marker: %v, want %v", test.after, again, test.again)
		}
	}
}
