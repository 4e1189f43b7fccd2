package audit

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestStatsTellHowTheWritingGoes(t *testing.T) {
	dir := t.TempDir()
	d := new(testDisk)
	began := time.Now()
	l := open(t, dir, Options{disk: d})
	s := l.Stats()
	if s.Next != 1 || s.Durable.Before(began) || s.Fsync.Count() != 1 || s.Failed != "" || !s.Writing.IsZero() {
		t.Errorf("after the start: %+v", s)
	}
	mustNote(t, l, "a")
	if s := l.Stats(); s.Next != 2 || s.Fsync.Count() != 2 || s.Fsync.Mean() <= 0 || s.LastFsync <= 0 {
		t.Errorf("after a record: %+v", s)
	}
	if why, since := l.Stats().Trouble(time.Now()); why != "" || !since.IsZero() {
		t.Errorf("trouble of a log that is well: %s since %v", why, since)
	}

	d.failing(func(op, _ string) error {
		if op == "write" || op == "open" {
			return syscall.ENOSPC
		}
		return nil
	})
	failing := time.Now()
	jot(l, "b")
	first := l.Stats()
	jot(l, "c")
	s = l.Stats()
	why, since := s.Trouble(time.Now())
	if !strings.Contains(why, syscall.ENOSPC.Error()) || since.Before(failing) || since != first.Since || s.Next != 2 || s.Outages != 1 {
		t.Errorf("while the disk is full: %q since %v, %+v", why, since, s)
	}
	d.failing(nil)
	time.Sleep(retryPause)
	mustNote(t, l, "d")
	s = l.Stats()
	if s.Failed != "" || !s.Since.IsZero() || s.Next != 3 || s.Outages != 1 || s.LastOutage.From != first.Since || s.LastOutage.To.Before(s.LastOutage.From) || s.LastOutage.Why == "" {
		t.Errorf("after the disk was full: %+v", s)
	}
	if segments, bytes, err := l.OnDisk(); err != nil || segments != 2 || bytes < 300 {
		t.Errorf("%d segments, %d bytes, %v", segments, bytes, err)
	}
	try(t, os.WriteFile(filepath.Join(dir, pieceName(0, 0)+".zst"), make([]byte, 1000), 0o600), os.Symlink(pieceName(2, 0), filepath.Join(dir, "current.jsonl")))
	if segments, bytes, err := l.OnDisk(); err != nil || segments != 3 || bytes < 1300 {
		t.Errorf("%d segments, %d bytes, %v", segments, bytes, err)
	}
	try(t, l.Close())
}

func TestALogWhoseDiskHangsIsInTrouble(t *testing.T) {
	d := new(testDisk)
	l := open(t, t.TempDir(), Options{disk: d})
	hold, held := make(chan struct{}), make(chan struct{}, 1)
	d.failing(func(op, _ string) error {
		if op == "sync" {
			held <- struct{}{}
			<-hold
		}
		return nil
	})
	done := make(chan error, 1)
	go func() { done <- jot(l, "a") }()
	<-held
	second := make(chan error, 1)
	go func() { second <- jot(l, "b") }()
	for end := time.Now().Add(10 * time.Second); l.Stats().Waiting != 2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d records wait", l.Stats().Waiting)
		}
	}
	s := l.Stats()
	if lag := s.Lag(s.Writing.Add(time.Minute)); lag != time.Minute {
		t.Errorf("the log is %v behind", lag)
	}
	if why, _ := s.Trouble(s.Writing.Add(stuck / 2)); why != "" {
		t.Errorf("soon: %s", why)
	}
	if why, since := s.Trouble(s.Writing.Add(stuck)); why == "" || since != s.Writing || since.IsZero() {
		t.Errorf("late: %q since %v", why, since)
	}
	close(hold)
	try(t, <-done, <-second, l.Close())
	if s := l.Stats(); !s.Writing.IsZero() || s.Waiting != 0 || s.Lag(time.Now()) != 0 {
		t.Errorf("afterwards: %+v", s)
	}
}

func TestATimingCountsByItsBounds(t *testing.T) {
	var timing Timing
	if timing.Mean() != 0 {
		t.Error("the mean of nothing")
	}
	for _, d := range []time.Duration{0, TimingBounds[0], TimingBounds[0] + 1, time.Second, time.Minute} {
		timing.Add(d)
	}
	if timing.Counts[0] != 2 || timing.Counts[1] != 1 || timing.Counts[len(TimingBounds)] != 1 || timing.Count() != 5 || timing.Mean() < 12*time.Second {
		t.Errorf("%+v", timing)
	}
}
