package bastion

import (
	"sync"
	"time"
)

// An allowance is how much of something each user may do: burst at once, and
// one more every so long. What is counted is the user, not his connection, of
// which he may have hundreds.
type allowance struct {
	every time.Duration
	burst int

	mu sync.Mutex
	// paid is until when what a user has done uses up what he may.
	paid map[string]time.Time
}

func newAllowance(every time.Duration, burst int) allowance {
	return allowance{every: every, burst: burst, paid: map[string]time.Time{}}
}

// take counts something that costs user that much of the time in which he might
// do one, and returns how long he is beyond what he may; not above 0 if he is
// not.
func (a *allowance) take(user string, cost time.Duration, now time.Time) (beyond time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	paid := a.paid[user]
	if paid.Before(now) {
		paid = now
	}
	paid = paid.Add(cost)
	a.paid[user] = paid
	return paid.Sub(now) - time.Duration(a.burst)*a.every
}

// give gives back what user has paid and was not given.
func (a *allowance) give(user string, cost time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.paid[user] = a.paid[user].Add(-cost)
}

// forget forgets users who have done nothing for long.
func (a *allowance) forget(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for user, paid := range a.paid {
		if paid.Before(now) {
			delete(a.paid, user)
		}
	}
}
