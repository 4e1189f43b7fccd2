package bastion

import (
	"context"
	"time"
)

// The end of a server has four parts, of which each knows nothing of the next:
//
//	stopListening ─▶ refuseWork ─▶ awaitForwards ─▶ endRest
//	(listeners)      (gate, live)  (who has none     (whatever is left,
//	                                is sent away)     recorded)

// Shutdown is Drain for limits.drain_timeout, or until ctx ends.
func (s *Server) Shutdown(ctx context.Context) (cut int) {
	ctx, cancel := context.WithTimeout(ctx, s.limits.DrainTimeout)
	defer cancel()
	return s.Drain(ctx)
}

// Drain ends the server in order: it stops accepting connections and forwards,
// lets forwards that run end by themselves until ctx ends, ends the rest, and
// returns once all of it is recorded. It returns how many forwards had to be
// ended. A connection without a forward is ended at once.
func (s *Server) Drain(ctx context.Context) (cut int) {
	s.stopListening()
	s.refuseWork()
	s.awaitForwards(ctx)
	return s.endRest()
}

// stopListening closes the listeners, and those that Serve is given from now on.
// What is connected goes on as before.
func (s *Server) stopListening() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	for l := range s.listeners {
		l.Close()
	}
}

// refuseWork lets nobody log in and no forward begin. Who asks is told why.
func (s *Server) refuseWork() {
	s.gate.close()
	s.forwarder.live.stop(draining)
}

// awaitForwards ends each connection once it carries no forward, and returns
// when none is left or ctx ends.
func (s *Server) awaitForwards(ctx context.Context) {
	for s.endIdle() > 0 && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// endIdle ends the connections that carry nothing and returns how many are
// left.
func (s *Server) endIdle() (left int) {
	for _, c := range s.connections() {
		if c.forwards.Load() == 0 {
			c.end(draining)
		} else {
			left++
		}
	}
	return left
}

// endRest ends every connection with its forwards, waits until that is
// recorded, and returns how many forwards there were. After it the server is
// of no use.
func (s *Server) endRest() (cut int) {
	cut = s.Forwards()
	for _, c := range s.connections() {
		c.end(draining)
	}

	// What is left is writing records; a log that hangs must not hold the
	// stop. Its forwards are then recorded as lost at the next start.
	late, stop := context.WithTimeout(context.Background(), s.limits.DialTimeout)
	defer stop()
	served := make(chan struct{})
	go func() { s.serving.Wait(); close(served) }()
	select {
	case <-served:
	case <-late.Done():
	}
	s.flood.close(late)
	s.forwarder.waitRecords(late)
	s.tending()
	s.tended.Wait()
	return cut
}
