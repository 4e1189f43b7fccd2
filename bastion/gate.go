package bastion

import (
	"fmt"
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

// enter counts a new connection from source and returns "", or the name of
// the limit that is reached.
func (g *gate) enter(source netip.Prefix) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return "the server is draining"
	case g.startups >= g.limits.MaxStartups:
		return fmt.Sprintf("max_startups, %d", g.limits.MaxStartups)
	case g.bySource[source] >= g.limits.MaxStartupsPerSource:
		return fmt.Sprintf("max_startups_per_source, %d", g.limits.MaxStartupsPerSource)
	}
	g.startups++
	g.bySource[source]++
	return ""
}

// leave ends what enter began: by a login, or by the end of the connection.
func (g *gate) leave(source netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.startups--
	decrement(g.bySource, source)
}

// login counts a connection of a user and returns "", or the name of the
// limit that is reached.
func (g *gate) login(user string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return "the server is draining"
	case g.users >= g.limits.MaxConnections:
		return fmt.Sprintf("max_connections, %d", g.limits.MaxConnections)
	case g.byUser[user] >= g.limits.MaxConnectionsPerUser:
		return fmt.Sprintf("max_connections_per_user, %d", g.limits.MaxConnectionsPerUser)
	}
	g.users++
	g.byUser[user]++
	return ""
}

func (g *gate) logout(user string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.users--
	decrement(g.byUser, user)
}

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
