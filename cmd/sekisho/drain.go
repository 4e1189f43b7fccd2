package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"sekisho/bastion"
	"sekisho/bastion/admin"
)

// What commands ask of the end of a server, beside what api tells of:
//
//	POST /v1/drain  wantDrain → drained   begin it, or change how long it lasts
//	GET  /v1/drain            → drained   how far it is: a moment later, or once it is over
//
// A signal and a command lead the same way:
//
//	SIGTERM, SIGINT ─▶ service.run ─▶ service.stop ─▶ Server.Drain ─▶ server.stop
//	sekisho drain ───▶     ▲                             ▲
//	                     order                    time, or a hurry

// A wantDrain says how the server is to end.
type wantDrain struct {
	Timeout string `json:"timeout,omitempty"` // until what still runs is ended; empty: limits.drain_timeout, or as it was ordered before
	Why     string `json:"why,omitempty"`
	Watch   bool   `json:"watch,omitempty"` // the command stays, to be told how it ends
}

// A drained is how far the end of a server is.
type drained struct {
	Draining bool      `json:"draining"`
	By       string    `json:"by,omitempty"` // the signal, or "drain by root"
	Since    time.Time `json:"since,omitzero"`
	Until    time.Time `json:"until,omitzero"` // when what still runs is ended

	Connections int                   `json:"connections"` // that are left
	Forwards    int                   `json:"forwards"`
	Left        []bastion.ForwardView `json:"left"` // the oldest of the forwards

	Done  bool `json:"done"`  // nothing is left
	Ended int  `json:"ended"` // forwards that had to be, then

	Unrecorded string `json:"unrecorded,omitempty"` // why that is not all in the audit log
}

const (
	// mostLeft bounds how many forwards a drained names, and mostNamed how many
	// a line of the operational log does.
	mostLeft  = 100
	mostNamed = 10

	// drainTick is how long a command waits at most for the next answer.
	drainTick = time.Second
	// drainTold is how long the end waits for a command that watches to be told.
	drainTold = 2 * time.Second
)

// A drain is the end of the server, from the order on. It is made by newDrain.
type drain struct {
	ordered chan error // has the cause in it, once, if a command is the first to order it

	waiting context.Context    // while forwards may end by themselves
	hurry   context.CancelFunc // ends that

	mu           sync.Mutex
	cause        error // nil: nobody has ordered it
	since, until time.Time
	timer        *time.Timer // hurries at until
	cut          int
	watched      time.Time // when a command last asked, that stays

	over     chan struct{} // closed once nothing is left
	told     chan struct{} // closed once a command is about to hear that
	tellOnce func()
}

func newDrain() *drain {
	d := &drain{ordered: make(chan error, 1), over: make(chan struct{}), told: make(chan struct{})}
	d.waiting, d.hurry = context.WithCancel(context.Background())
	d.tellOnce = sync.OnceFunc(func() { close(d.told) })
	return d
}

// begin orders the drain, unless it is ordered already. From here on the server
// is not ready.
func (d *drain) begin(cause error, limit time.Duration) (first bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cause != nil {
		return false
	}
	d.cause, d.since = cause, time.Now().UTC()
	d.until = d.since.Add(limit)
	d.timer = time.AfterFunc(limit, d.hurry)
	return true
}

// limit is how long what runs was given.
func (d *drain) limit() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.until.Sub(d.since)
}

// begun reports whether the drain is ordered.
func (d *drain) begun() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cause != nil
}

// change gives what still runs another time, from now on.
func (d *drain) change(limit time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.until = time.Now().UTC().Add(limit)
	d.timer.Reset(limit)
}

// finish says that nothing is left, and waits until a command that watches
// has heard it.
func (d *drain) finish(cut int) {
	d.mu.Lock()
	d.cut = cut
	watched := time.Since(d.watched) < 3*drainTick
	d.mu.Unlock()
	d.hurry() // whatever waits for the time to be over
	close(d.over)
	if !watched {
		return
	}
	select {
	case <-d.told:
	case <-time.After(drainTold):
	}
}

// drainBy begins a drain by order of a peer, or changes one that is under way.
func (svc *service) drainBy(peer string, want wantDrain) error {
	d, limit := svc.drain, svc.setup.settings.Limits.DrainTimeout
	if want.Timeout != "" {
		var err error
		if limit, err = time.ParseDuration(want.Timeout); err != nil || limit < 0 {
			return &admin.Error{Message: fmt.Sprintf("%q is not a time to wait for", printable(want.Timeout)), Hint: "write a duration such as 5m"}
		}
	}
	if want.Watch {
		d.mu.Lock()
		d.watched = time.Now()
		d.mu.Unlock()
	}
	cause := fmt.Errorf("drain by %s", peer)
	if want.Why != "" {
		cause = fmt.Errorf("drain by %s: %s", peer, want.Why)
	}
	switch {
	case d.begin(cause, limit):
		d.ordered <- cause
	case want.Timeout != "":
		d.change(limit)
		svc.log.WithField("by", printable(peer)).Infof("draining: what still runs is ended in %s", brief(limit))
	}
	return nil
}

// drained is how far the drain is now.
func (svc *service) drained() (p drained) {
	d := svc.drain
	d.mu.Lock()
	if d.cause != nil {
		p.Draining, p.By, p.Since, p.Until = true, d.cause.Error(), d.since, d.until
	}
	p.Ended = d.cut
	d.mu.Unlock()
	select {
	case <-d.over:
		p.Done = true
		p.Unrecorded, _ = svc.book.Stats().Trouble(time.Now())
	default:
	}
	left := svc.server.LiveForwards()
	p.Connections, p.Forwards = svc.server.Connections(), len(left)
	p.Left = left[:min(len(left), mostLeft)]
	return p
}

func (svc *service) handleDrain(server *admin.Server) {
	server.Handle("POST /v1/drain", func(_ context.Context, peer admin.Peer, body []byte) (any, error) {
		var want wantDrain
		if err := json.Unmarshal(body, &want); err != nil {
			return nil, fmt.Errorf("reading the request: %w", err)
		}
		if err := svc.drainBy(peer.User, want); err != nil {
			return nil, err
		}
		return svc.drained(), nil
	})
	server.Handle("GET /v1/drain", func(ctx context.Context, _ admin.Peer, _ []byte) (any, error) {
		svc.drain.mu.Lock()
		svc.drain.watched = time.Now()
		svc.drain.mu.Unlock()
		select {
		case <-svc.drain.over:
		case <-time.After(drainTick):
		case <-ctx.Done():
		}
		p := svc.drained()
		if p.Done {
			svc.drain.tellOnce()
		}
		return p, nil
	})
}

// named names the oldest of forwards, in one line for a log.
func named(forwards []bastion.ForwardView) string {
	var names []string
	for _, f := range forwards[:min(len(forwards), mostNamed)] {
		names = append(names, fmt.Sprintf("%s to %s since %s (%d up, %d down)", f.User, printable(f.Target), when(f.Started), f.Up, f.Down))
	}
	if n := len(forwards) - len(names); n > 0 {
		names = append(names, fmt.Sprintf("%d more", n))
	}
	return strings.Join(names, ", ")
}
