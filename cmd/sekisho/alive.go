package main

import (
	"context"
	"fmt"
	"time"
)

// Between two messages to a service manager that waits for no sign of life.
const tellStatus = 30 * time.Second

// While it stops, the server asks for this much more time each time that it
// tells how it is.
const (
	moreTime  = 30 * time.Second
	whileStop = 10 * time.Second
)

// alive tells the service manager how the server is until ctx ends. A sign of
// life goes with it only while the server answers itself: see ask. One that
// does not is restarted, which ends all that runs, so that nothing counts as a
// failure here that a restart would not repair. A log that cannot be written
// least of all: nothing new begins then, and what runs goes on.
func (svc *service) alive(ctx context.Context, n notifier) {
	if n.socket == "" {
		return
	}
	every := tellStatus
	if n.watchdog > 0 {
		// Thrice in the time, each with as long for the answer.
		every = n.watchdog / 3
	}
	silent := false
	var asked chan string
	for {
		if asked == nil {
			asked = svc.ask()
		}
		select {
		case status := <-asked:
			asked = nil
			if silent {
				svc.log.Warn("the server answers itself again")
			}
			silent = false
			if err := n.tell("WATCHDOG=1", "STATUS="+status); err != nil {
				svc.log.WithError(err).Warn("no sign of life could be given")
			}
		case <-time.After(every):
			silent = true
			svc.log.WithField("waited", brief(every)).Error("the server does not answer itself: the service manager gets no sign of life")
			continue
		case <-ctx.Done():
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
	}
}

// ask asks what each new connection, login and forward asks for, every lock of
// which must be free soon. The answer says how the server is.
func (svc *service) ask() (answer chan string) {
	answer = make(chan string, 1)
	go func() {
		svc.server.LimitsInUse() // the gate, the connections, and the forwards
		in, before := svc.server.LoggedIn()
		status := fmt.Sprintf("%s, %d of them logged in; %s", many(in+before, "connection"), in, many(svc.server.Forwards(), "forward"))
		if why, _ := svc.book.Stats().Trouble(time.Now()); why != "" { // which waits for no disk
			status += "; the audit log cannot be written: no new forwards"
		}
		if svc.drain.begun() {
			status = "stopping: " + status
		}
		answer <- status
	}()
	return answer
}

// tellStopping tells the service manager that the server stops, and until the
// function that it returns is called, that it needs more time for it: how much,
// the settings say, not the unit.
func (n notifier) tellStopping() (stopped func()) {
	if n.socket == "" {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	more := n.usec("EXTEND_TIMEOUT_USEC", moreTime)
	n.tell("STOPPING=1", more)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(whileStop):
				n.tell(more)
			}
		}
	}()
	return func() { cancel(); <-done }
}
