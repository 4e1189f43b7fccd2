package bastion

import (
	"fmt"
	"sync"
	"time"
)

// Every refusal is a record, and costs its client next to nothing: somebody who
// may reach one host could fill the disk of the log by asking for others. So
// who is refused too often is sent away, and let in again once half of what he
// may is his again. Only what he asks for counts: names that have no address
// now, targets that do not answer, and a server that is full or stops are not
// his doing.
const (
	// refusalEvery is how often a user may be refused in the long run, and
	// refusalBurst how often at once: a browser behind ssh -D that tries many
	// hosts stays below.
	refusalEvery = 100 * time.Millisecond
	refusalBurst = 2000
)

var refusedTooOften = &endCause{reasonFlood, fmt.Sprintf("the user was refused more often than %d times at once and once every %v", refusalBurst, refusalEvery)}

// refusals are those of all users.
type refusals struct {
	allowance

	awayMu sync.Mutex
	away   map[string]time.Time // who was sent away, until when
}

// count counts a refusal and reports whether it is one too many. What is
// refused meanwhile on the user's other connections adds nothing to the time
// that he is sent away for.
func (r *refusals) count(user string, now time.Time) (tooMany bool) {
	beyond := r.take(user, refusalEvery, now)
	if beyond <= 0 {
		return false
	}
	r.give(user, beyond)
	r.awayMu.Lock()
	defer r.awayMu.Unlock()
	r.away[user] = now.Add(refusalBurst * refusalEvery / 2)
	return true
}

// isAway reports whether user is sent away for now.
func (r *refusals) isAway(user string, now time.Time) bool {
	r.awayMu.Lock()
	defer r.awayMu.Unlock()
	until, ok := r.away[user]
	if ok && !now.Before(until) {
		delete(r.away, user)
	}
	return now.Before(until)
}

// countRefusal counts a refusal that is a record, and sends the user away if
// there were too many.
func (c *connection) countRefusal() {
	if c.server.refusals.count(c.principal().User, time.Now()) {
		c.end(refusedTooOften)
	}
}
