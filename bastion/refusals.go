package bastion

import (
	"fmt"
	"time"
)

// Every refused forward is a record, and a refusal costs its client next to
// nothing: somebody who may reach one host could fill the disk of the log by
// asking for others. So who is refused too often is sent away, and let in again
// once half of what he may is his again.
const (
	// refusalEvery is how often a user's forwards may be refused in the long
	// run, and refusalBurst how many may be at once: a browser behind ssh -D
	// that tries many hosts stays below.
	refusalEvery = 100 * time.Millisecond
	refusalBurst = 2000
)

// countRefusal counts that a forward was refused without a dial, and ends the
// connection if that has come too often.
func (c *connection) countRefusal() {
	if c.server.refusals.take(c.principal().User, refusalEvery, time.Now()) > 0 {
		c.end(refusedTooOften)
	}
}

var refusedTooOften = &endCause{reasonFlood, fmt.Sprintf("more forwards of the user were refused than %d at once and one every %v", refusalBurst, refusalEvery)}
