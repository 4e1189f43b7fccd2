package bastion

import (
	"math"
	"time"
)

// RecordEveryFailure makes s record every failed login by itself, as if each
// came a minute after the one before it.
func RecordEveryFailure(s *Server) {
	s.flood.mu.Lock()
	defer s.flood.mu.Unlock()
	at := time.Now()
	s.flood.now = func() time.Time {
		at = at.Add(floodWindow)
		return at
	}
}

// What bounds renewals of keys.
const (
	RenewalBurst = renewalBurst
	RenewalEvery = renewalEvery
	RenewalFree  = renewalFree
)

// What bounds refusals of forwards.
const (
	RefusalBurst = refusalBurst
	RefusalEvery = refusalEvery
)

// ForgetRenewals lets every user renew his keys as if he had not done so yet.
func ForgetRenewals(s *Server) { s.renewals.forget(time.Now().Add(time.Hour)) }

// FreeTurns lets every handshake of s have a turn at once, for comparison.
func FreeTurns(s *Server) {
	s.turns.mu.Lock()
	defer s.turns.mu.Unlock()
	s.turns.free, s.turns.busy = 1<<30, func() bool { return false }
}

// ProcessTime is the CPU time that the process has used.
func ProcessTime() time.Duration { return processTime() }

// BulkWait is how long a piece of bulk waits at most.
const BulkWait = bulkWait

// LimitNoTraffic lets bulk of the connections that s has now go as it likes,
// for comparison.
func LimitNoTraffic(s *Server) {
	for _, c := range s.connections() {
		c.traffic.mu.Lock()
		c.traffic.asked = math.MinInt64 / 2 // a marker that was never answered
		c.traffic.mu.Unlock()
	}
}

// FastGCM is whether clients that offer AES-GCM get it on this CPU.
var FastGCM = fastGCM
