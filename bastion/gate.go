package bastion

import (
	"net/netip"
	"sync"
)

// gate counts connections, from accept to login and from login to their end,
// and refuses those above the limits.
type gate struct {
	limits Limits

	mu       sync.Mutex
	startups int
	bySource map[netip.Prefix]int // startups
	users    int
	byUser   map[string]int // logged in
	closed   bool
}

func newGate(limits Limits) *gate {
	return &gate{limits: limits, bySource: map[netip.Prefix]int{}, byUser: map[string]int{}}
}

// enter counts a new connection from source and returns nil, or why it may
// not come in.
func (g *gate) enter(source netip.Prefix) *endCause {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return draining
	case g.startups >= g.limits.MaxStartups:
		return limitCause("max_startups", g.limits.MaxStartups)
	case g.bySource[source] >= g.limits.MaxStartupsPerSource:
		return limitCause("max_startups_per_source", g.limits.MaxStartupsPerSource)
	}
	g.startups++
	g.bySource[source]++
	return nil
}

// leave ends what enter began: by a login, or by the end of the connection.
func (g *gate) leave(source netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.startups--
	decrement(g.bySource, source)
}

// login counts a connection of a user and returns nil, or why there is no
// room for it.
func (g *gate) login(user string) *endCause {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return draining
	case g.users >= g.limits.MaxConnections:
		return limitCause("max_connections", g.limits.MaxConnections)
	case g.byUser[user] >= g.limits.MaxConnectionsPerUser:
		return limitCause("max_connections_per_user", g.limits.MaxConnectionsPerUser)
	}
	g.users++
	g.byUser[user]++
	return nil
}

func (g *gate) logout(user string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.users--
	decrement(g.byUser, user)
}

// draining is why nothing begins any more once the server is to stop.
var draining = &endCause{reasonDrain, "the server is stopping"}

// close refuses everybody from now on.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

func decrement[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] == 0 {
		delete(counts, key)
	}
}

// sourceOf is the key under which connections of one source are counted: an
// IPv4 address, or the /64 of an IPv6 address, which one customer commonly
// holds whole.
func sourceOf(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	prefix, _ := addr.Prefix(bits)
	return prefix
}
