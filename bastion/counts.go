package bastion

import (
	"maps"
	"sync"
	"time"

	"sekisho/audit"
)

// Counts are what a server has counted since it was made, and what it holds
// now. No key of a map is anything that a client or the policy says: results
// and reasons are codes, of which there are few.
type Counts struct {
	Connections        uint64             // taken in
	ConnectionsRefused map[string]uint64  // before a byte was read, by reason
	ConnectionsEnded   map[Outcome]uint64 // of those taken in
	Logins             map[Outcome]uint64 // finished, or failed: recorded by themselves or counted
	Forwards           map[Outcome]uint64 // that have ended, or were denied

	BytesUp, BytesDown uint64 // of all forwards, those that run among them

	DialsDone, DialsFailed audit.Timing // of one address each

	// From when a connection was taken in until the client, its keys
	// exchanged, asked to be let in, or was gone without having come to that.
	HandshakesDone, HandshakesFailed audit.Timing
}

// An Outcome is how something came out: its result and the reason of its
// record.
//
//	of a connection  close; fail: it was never logged in
//	of a login       ok, fail
//	of a forward     close, fail, deny
type Outcome struct{ Result, Reason string }

// counts are those of a running server. The zero one counts from 0.
type counts struct {
	mu  sync.Mutex
	all Counts // but for the bytes
}

func (c *counts) connection() { c.change(func(all *Counts) { all.Connections++ }) }

func (c *counts) refused(reason string) {
	c.change(func(all *Counts) { increment(&all.ConnectionsRefused, reason) })
}

func (c *counts) ended(result, reason string) {
	c.change(func(all *Counts) { increment(&all.ConnectionsEnded, Outcome{result, reason}) })
}

func (c *counts) handshake(took time.Duration, done bool) {
	c.change(func(all *Counts) {
		if done {
			all.HandshakesDone.Add(took)
		} else {
			all.HandshakesFailed.Add(took)
		}
	})
}

func (c *counts) login(result, reason string) {
	c.change(func(all *Counts) { increment(&all.Logins, Outcome{result, reason}) })
}

func (c *counts) forward(result, reason string) {
	c.change(func(all *Counts) { increment(&all.Forwards, Outcome{result, reason}) })
}

func (c *counts) dial(took time.Duration, err error) {
	c.change(func(all *Counts) {
		if err != nil {
			all.DialsFailed.Add(took)
		} else {
			all.DialsDone.Add(took)
		}
	})
}

func (c *counts) change(how func(*Counts)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	how(&c.all)
}

func increment[K comparable](counts *map[K]uint64, key K) {
	if *counts == nil {
		*counts = map[K]uint64{}
	}
	(*counts)[key]++
}

// Counts returns what is counted by now.
func (s *Server) Counts() Counts {
	c := &s.forwarder.counts
	c.mu.Lock()
	all := c.all
	all.ConnectionsRefused, all.ConnectionsEnded = maps.Clone(all.ConnectionsRefused), maps.Clone(all.ConnectionsEnded)
	all.Logins, all.Forwards = maps.Clone(all.Logins), maps.Clone(all.Forwards)
	c.mu.Unlock()
	all.BytesUp, all.BytesDown = s.forwarder.live.bytes()
	return all
}

// bytes are those of all forwards, of those that have ended too. They never
// become fewer.
func (l *live) bytes() (up, down uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	up, down = l.goneUp, l.goneDown
	for fw := range l.all {
		up, down = up+fw.flow.up.Load(), down+fw.flow.down.Load()
	}
	return up, down
}

// A LimitUse is how much of a limit is used: of one that is for each user,
// source or connection, by the one that uses the most.
type LimitUse struct {
	Name string `json:"name"` // "max_forwards"
	Used int    `json:"used"`
	Most int    `json:"most"`
	By   string `json:"by,omitempty"` // the user, source or connection
}

// LimitsInUse tells how much is used of the limits that bound how many there
// may be, and of the descriptors that there are for them.
func (s *Server) LimitsInUse() []LimitUse {
	limits := s.limits
	g := s.gate
	g.mu.Lock()
	source, fromSource := most(g.bySource)
	user, ofUser := most(g.byUser)
	uses := []LimitUse{
		{"max_startups", g.startups, limits.MaxStartups, ""},
		{"max_startups_per_source", fromSource, limits.MaxStartupsPerSource, ""},
		{"max_connections", g.users, limits.MaxConnections, ""},
		{"max_connections_per_user", ofUser, limits.MaxConnectionsPerUser, user},
	}
	g.mu.Unlock()
	if fromSource > 0 {
		uses[1].By = source.String()
	}
	forwards, dials := map[string]int{}, map[string]int{}
	for _, c := range s.connections() {
		forwards[c.id], dials[c.id] = int(c.forwards.Load()), len(c.dials)
	}
	l := &s.forwarder.live
	l.mu.Lock()
	busiest, carries := most(l.byUser)
	uses = append(uses, LimitUse{"max_forwards", len(l.all), limits.MaxForwards, ""}, LimitUse{"max_forwards_per_user", carries, limits.MaxForwardsPerUser, busiest})
	l.mu.Unlock()
	conn, n := most(forwards)
	uses = append(uses, LimitUse{"max_forwards_per_connection", n, limits.MaxForwardsPerConnection, conn})
	conn, n = most(dials)
	uses = append(uses, LimitUse{"max_pending_dials_per_connection", n, limits.MaxPendingDialsPerConnection, conn})
	if d := &s.forwarder.descriptors; d.most > 0 {
		uses = append(uses, LimitUse{"descriptors", int(d.used.Load()), d.most, ""})
	}
	return uses
}

// most returns the key with the highest count; the zero one if all are 0.
func most[K comparable](counts map[K]int) (key K, n int) {
	for k, count := range counts {
		if count > n {
			key, n = k, count
		}
	}
	return key, n
}
