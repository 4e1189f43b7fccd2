package bastion

import "time"

// MostAuthTries is the highest MaxAuthTries: x/crypto/ssh ends a connection
// after 128 requests to log in, whatever becomes of them.
const MostAuthTries = 100

// Limits bound what clients may hold and how long anything is waited for.
// Counts and durations of zero are not "unlimited" but zero, except where a
// field says that zero is off: start from DefaultLimits.
type Limits struct {
	LoginGrace time.Duration // from accept to a finished login

	// MaxAuthTries is how many refused offers one connection may make and
	// still log in with the next: agents offer every key they hold.
	MaxAuthTries int

	MaxStartups           int // connections before login, in all
	MaxStartupsPerSource  int // … per source: an IPv4 address or an IPv6 /64
	MaxConnections        int // logged in, in all
	MaxConnectionsPerUser int

	MaxForwards                  int
	MaxForwardsPerConnection     int
	MaxForwardsPerUser           int
	MaxPendingDialsPerConnection int // asked for and not yet answered

	// MaxBacklogPerConnection is how many bytes of memory a connection may
	// make the server hold of what it sent and no target has taken.
	MaxBacklogPerConnection int64

	// DialTimeout covers all that stands between a request and its answer:
	// resolving, recording, and dialling all addresses of the target.
	DialTimeout time.Duration

	KeepaliveInterval  time.Duration // 0: off
	KeepaliveMaxMissed int           // unanswered ones in a row that end the connection

	IdleForward    time.Duration // a forward without a byte either way; 0: off
	IdleConnection time.Duration // a connection without forwards and sessions; 0: off
	HalfClosed     time.Duration // a forward with one direction ended and no byte in the other; 0: off

	DrainTimeout time.Duration // from the order to stop until what still runs is ended
}

// DefaultLimits are the limits of a configuration that names none.
func DefaultLimits() Limits {
	return Limits{
		LoginGrace:                   30 * time.Second,
		MaxAuthTries:                 20,
		MaxStartups:                  200,
		MaxStartupsPerSource:         64, // Ansible and CI come with 50 at once
		MaxConnections:               10000,
		MaxConnectionsPerUser:        200,
		MaxForwards:                  20000,
		MaxForwardsPerConnection:     256,
		MaxForwardsPerUser:           1000,
		MaxPendingDialsPerConnection: 64,
		MaxBacklogPerConnection:      64 << 20,
		DialTimeout:                  10 * time.Second,
		KeepaliveInterval:            30 * time.Second,
		KeepaliveMaxMissed:           3,
		HalfClosed:                   10 * time.Minute,
		DrainTimeout:                 30 * time.Second,
	}
}
