package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"sekisho/bastion"
)

func TestADrainIsOrderedOnceAndItsTimeMayChange(t *testing.T) {
	d := newDrain()
	if d.begun() {
		t.Error("it has begun by itself")
	}
	if !d.begin(errors.New("drain by root"), time.Hour) || d.limit() != time.Hour {
		t.Errorf("it lasts %v", d.limit())
	}
	if d.begin(errors.New("a signal"), 0) || d.cause.Error() != "drain by root" || d.waiting.Err() != nil {
		t.Errorf("the second order counts: %v", d.cause)
	}
	d.change(2 * time.Hour)
	if left := time.Until(d.until); left < 119*time.Minute || d.waiting.Err() != nil {
		t.Errorf("%v are left", left)
	}
	d.change(0)
	select {
	case <-d.waiting.Done():
	case <-time.After(10 * time.Second):
		t.Error("it goes on")
	}
	began := time.Now()
	d.finish(3)
	if took := time.Since(began); took > drainTold/2 {
		t.Errorf("nobody watches, and the end waited for %v", took)
	}
}

func TestTheEndOfADrainWaitsForWhoWatchesButNotForLong(t *testing.T) {
	for _, hears := range []bool{true, false} {
		d := newDrain()
		d.begin(errors.New("drain by root"), time.Hour)
		d.watched = time.Now()
		if hears {
			go func() { <-d.over; d.tellOnce(); d.tellOnce() }()
		}
		began := time.Now()
		d.finish(0)
		if took := time.Since(began); hears == (took >= drainTold) {
			t.Errorf("hears %v: after %v", hears, took)
		}
		if d.waiting.Err() == nil {
			t.Error("somebody waits for the time to be over")
		}
	}
}

func TestOrdersOfADrainThatMakeNoSense(t *testing.T) {
	svc, _, _ := startTest(t)
	for _, timeout := range []string{"-1s", "5", "soon\x1b[2J", "1h1"} {
		if err := svc.drainBy("root", wantDrain{Timeout: timeout}); err == nil || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q: %v", timeout, err)
		}
	}
	if svc.drain.begun() {
		t.Error("one of them is followed")
	}
	if p := svc.drained(); p.Draining || p.Done || p.Left == nil {
		t.Errorf("%+v", p)
	}
}

func TestALineNamesFewOfManyForwards(t *testing.T) {
	if got := named(nil); got != "" {
		t.Errorf("%q", got)
	}
	at := time.Date(2026, 11, 24, 10, 12, 9, 0, time.UTC)
	one := bastion.ForwardView{User: "bob", Target: "rds\x1b:3306", Started: at, Up: 1924, Down: 48210}
	if got, want := named([]bastion.ForwardView{one}), "bob to rds\uFFFD:3306 since 2026-11-24 10:12:09 UTC (1924 up, 48210 down)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	many := make([]bastion.ForwardView, 20000)
	if got := named(many); !strings.HasSuffix(got, ", 19990 more") || len(got) > 2000 {
		t.Errorf("%d bytes: %s", len(got), got)
	}
}
