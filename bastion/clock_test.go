package bastion_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// settable is a wall clock that somebody sets, over an even one.
type settable struct{ by atomic.Int64 }

func (s *settable) now() time.Time      { return time.Now().Add(time.Duration(s.by.Load())) }
func (s *settable) set(d time.Duration) { s.by.Store(int64(d)) }

// atNoon runs a test with a clock that shows noon on Sunday, 2 January 2000.
func atNoon(t *testing.T, policy string, limits func(*bastion.Limits), test func(*testing.T, *bubble, *settable)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(midnight.Add(12*time.Hour + 123*time.Millisecond)))
		clock := new(settable)
		b := &bubble{t: t, network: bastiontest.NewNetwork(), text: "version: 1\ntimezone: UTC\n" + policy}
		b.Bastion = bastiontest.Start(t, bastiontest.Options{
			Policy: b.text, Listener: b.network, Dialer: echoDialer{}, Limits: limits,
			Hosts:  bastiontest.Hosts{"target": {"127.0.0.1"}, "other": {"127.0.0.1"}},
			Config: func(c *bastion.Config) { c.Now = clock.now },
		})
		test(t, b, clock)
	})
}

const clockTargets = `targets:
  - {name: a, hosts: [target], ports: ["22"]}
  - {name: b, hosts: [other], ports: ["22"]}
`

func TestAClockThatIsSetEndsWhatItsNewTimeForbidsAndNothingElse(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		name   string
		when   string
		by     time.Duration
		reason string // of the end; empty: it goes on
	}{
		{"forwards, past the end of the hours", `{hours: ["11:00-13:00"]}`, 2 * time.Hour, "outside_hours"},
		{"back, to before the hours", `{hours: ["11:00-13:00"]}`, -2 * time.Hour, "outside_hours"},
		{"back, within the hours", `{hours: ["11:00-13:00"]}`, -30 * time.Minute, ""},
		{"forwards, within the hours", `{hours: ["11:00-13:00"]}`, 30 * time.Minute, ""},
		{"forwards, by a day, to the same hours", `{hours: ["11:00-13:00"]}`, day, ""},
		{"back, by a day, to the same hours", `{hours: ["11:00-13:00"]}`, -day, ""},
		{"forwards, past until", `{until: 2000-01-02}`, day, "expired"},
		{"back, from before until", `{until: 2000-01-02}`, -10 * day, ""},
		{"back, to before after", `{after: 2000-01-02}`, -day, "not_yet"},
		{"forwards, from after after", `{after: 2000-01-02}`, 10 * day, ""},
		{"back, by twenty years", `{after: 1990-01-01, until: 2010-01-01}`, -7300 * day, "not_yet"},
		{"forwards, by twenty years", `{after: 1990-01-01, until: 2010-01-01}`, 7300 * day, "expired"},
	} {
		t.Run(c.name, func(t *testing.T) {
			policy := `users:
  - {name: alice, keys: ["{alice}"]}
` + clockTargets + `grants:
  - {name: timed, users: [alice], to: [a], when: ` + c.when + `}
  - {name: always, users: [alice], to: [b]}
`
			atNoon(t, policy, func(l *bastion.Limits) { l.IdleForward = time.Hour }, func(t *testing.T, b *bubble, clock *settable) {
				client := b.login(b.Alice)
				timed, always := client.open("target"), client.open("other")
				time.Sleep(time.Minute)
				clock.set(c.by)
				set := time.Now()
				if c.reason == "" {
					time.Sleep(5 * time.Minute)
					timed.echoes()
				} else {
					if took := (<-timed.watch().over).Sub(set); took > time.Second {
						t.Errorf("it is closed after %v", took)
					}
					if rec := b.Book.Await(t, audit.ForwardClose, 1); rec.Reason != c.reason || rec.Duration > 2*time.Minute {
						t.Errorf("recorded %s", rec.AppendJSON(nil))
					}
				}
				always.echoes()
				time.Sleep(time.Second) // an edge of time may act a tick before the clock is looked at
				if !strings.Contains(b.Lines.String(), "the clock was set") {
					t.Error("nothing is said of it")
				}
				// What the clock forbade is allowed again as soon as it is right.
				clock.set(0)
				time.Sleep(time.Second)
				client.open("target").Close()
			})
		})
	}
}

func TestAClockThatIsSetEndsAConnectionWhoseUserItForbids(t *testing.T) {
	for _, by := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		policy := `users:
  - {name: alice, keys: ["{alice}"], when: {after: 2000-01-02, until: 2000-01-02}}
` + clockTargets + `grants:
  - {name: all, users: [alice], to: [a]}
`
		atNoon(t, policy, nil, func(t *testing.T, b *bubble, clock *settable) {
			client := b.login(b.Alice)
			clock.set(by)
			set := time.Now()
			if took := (<-client.over).Sub(set); took > time.Second {
				t.Errorf("set by %v, it ends after %v", by, took)
			}
		})
	}
}

func TestLimitsDoNotGoByTheWallClock(t *testing.T) {
	policy := `users:
  - {name: alice, keys: ["{alice}"]}
` + clockTargets + `grants:
  - {name: long, users: [alice], to: [a], limits: {duration: 1h}}
  - {name: idle, users: [alice], to: [b]}
`
	atNoon(t, policy, func(l *bastion.Limits) { l.IdleForward = 20 * time.Minute }, func(t *testing.T, b *bubble, clock *settable) {
		client := b.login(b.Alice)
		began := time.Now()
		long, idle := client.open("target"), client.open("other")
		// Back and forth, by more than every limit.
		for i, by := range []time.Duration{-100 * time.Hour, 100 * time.Hour, -1000 * time.Hour, 0, 5 * time.Hour} {
			clock.set(by)
			time.Sleep(11 * time.Minute)
			long.echoes()
			if i == 0 {
				idle.watch()
			}
		}
		if took := (<-idle.over).Sub(began); took < 20*time.Minute || took > 21*time.Minute {
			t.Errorf("idle_forward acts after %v", took)
		}
		if took := (<-long.watch().over).Sub(began); took < time.Hour || took > time.Hour+time.Second {
			t.Errorf("duration acts after %v", took)
		}
		for _, rec := range b.Book.Records(audit.ForwardClose) {
			if rec.Duration < 0 || rec.Duration > 2*time.Hour {
				t.Errorf("recorded %s", rec.AppendJSON(nil))
			}
		}
	})
}

func TestATargetThatSendsAByteASecondIsNotIdle(t *testing.T) {
	policy := `users:
  - {name: alice, keys: ["{alice}"]}
` + clockTargets + `grants:
  - {name: all, users: [alice], to: [a]}
`
	atNoon(t, policy, func(l *bastion.Limits) { l.IdleForward, l.HalfClosed = 2*time.Second, 2*time.Second }, func(t *testing.T, b *bubble, _ *settable) {
		fw := b.login(b.Alice).open("target")
		for range 3600 {
			time.Sleep(time.Second)
			fw.echoes()
		}
		fw.Close()
	})
}
