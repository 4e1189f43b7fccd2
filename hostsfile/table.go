package hostsfile

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
)

// A Table is what one hosts file says. It never changes, so any number of
// goroutines may ask it. A nil Table has no names.
type Table struct {
	addrs map[string][]netip.Addr // by name in normal form; never an empty slice
}

// LookupNetIP returns the addresses of a host in file order, each once, as
// [net.Resolver.LookupNetIP] does: network is "ip", "ip4" or "ip6", upper case
// and a trailing dot do not matter, and a host that has no address of that kind
// is a *net.DNSError with IsNotFound set. The slice is the caller's own. Unlike
// the Resolver it does not answer for IP literals, and never waits.
//
// The addresses are as the file has them, loopback and metadata services
// included: whoever dials has to judge each of them first.
func (t *Table) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	var wanted func(netip.Addr) bool
	switch network {
	case "ip":
		wanted = func(netip.Addr) bool { return true }
	case "ip4":
		wanted = netip.Addr.Is4
	case "ip6":
		wanted = netip.Addr.Is6
	default:
		return nil, net.UnknownNetworkError(network)
	}
	addrs := t.find(host)
	found := make([]netip.Addr, 0, len(addrs))
	for _, addr := range addrs {
		if wanted(addr) {
			found = append(found, addr)
		}
	}
	if len(found) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return found, nil
}

// find returns the table's own slice.
func (t *Table) find(host string) []netip.Addr {
	if t == nil {
		return nil
	}
	if addrs, ok := t.addrs[host]; ok { // most callers ask in normal form
		return addrs
	}
	name, err := normalName(host)
	if err != nil {
		return nil
	}
	return t.addrs[name]
}

// Names returns all names in normal form, sorted.
func (t *Table) Names() []string {
	if t == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(t.addrs))
}

// Len returns the number of names.
func (t *Table) Len() int {
	if t == nil {
		return 0
	}
	return len(t.addrs)
}
