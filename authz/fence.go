package authz

import (
	"net/netip"
	"slices"
)

// networks is a set of addresses: disjoint prefixes in order, IPv4-mapped ones
// counted as IPv4.
type networks []netip.Prefix

func makeNetworks(prefixes []netip.Prefix) networks {
	ns := make(networks, 0, len(prefixes))
	for _, p := range prefixes {
		if p = unmapPrefix(p); p.IsValid() {
			ns = append(ns, p)
		}
	}
	slices.SortFunc(ns, comparePrefix)
	out := ns[:0]
	for _, p := range ns {
		// Two prefixes are disjoint, or one holds the other.
		if len(out) == 0 || !out[len(out)-1].Contains(p.Addr()) {
			out = append(out, p)
		}
	}
	return slices.Clip(out)
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

func unmapPrefix(p netip.Prefix) netip.Prefix {
	if p.IsValid() && p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

// contains reports whether a, which must be unmapped, lies in the set.
func (ns networks) contains(a netip.Addr) bool {
	lo, hi := 0, len(ns) // the last prefix that does not begin after a is before hi
	for lo < hi {
		mid := (lo + hi) / 2
		if ns[mid].Addr().Compare(a) <= 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo > 0 && ns[lo-1].Contains(a)
}

// overlap returns what p and q have in common.
func overlap(p, q netip.Prefix) (netip.Prefix, bool) {
	if !p.Overlaps(q) {
		return netip.Prefix{}, false
	}
	if p.Bits() < q.Bits() {
		p = q
	}
	return p, true
}

// A fence is where the server may dial at all, whatever the grants say.
type fence struct {
	networks networks
	single   map[netip.Addr]struct{} // listed as that one address: no class refuses them
	own      map[netip.Addr]struct{}
}

func newFence(prefixes []netip.Prefix, own []netip.Addr) fence {
	f := fence{networks: makeNetworks(prefixes), single: map[netip.Addr]struct{}{}, own: ownSet(own)}
	for _, p := range prefixes {
		if p = unmapPrefix(p); p.IsValid() && p.IsSingleIP() {
			f.single[p.Addr()] = struct{}{}
		}
	}
	return f
}

func ownSet(own []netip.Addr) map[netip.Addr]struct{} {
	set := make(map[netip.Addr]struct{}, len(own))
	for _, a := range own {
		if a.IsValid() {
			set[a.WithZone("").Unmap()] = struct{}{}
		}
	}
	return set
}

// check returns "" if a may be dialled, and otherwise why not.
func (f *fence) check(a netip.Addr) Reason {
	if a.Zone() != "" { // one address on several links: never the one that was judged
		if c := ClassOf(a); c != "" {
			return c
		}
		return OutsideNetworks
	}
	a = a.Unmap()
	if _, ok := f.single[a]; ok {
		return ""
	}
	if c := ClassOf(a); c != "" {
		return c
	}
	if f.isOwn(a) {
		return OwnAddress
	}
	if !f.networks.contains(a) {
		return OutsideNetworks
	}
	return ""
}

func (f *fence) isOwn(a netip.Addr) bool {
	if _, ok := f.own[a]; ok {
		return true
	}
	if v4, ok := embedded(a); ok {
		_, ok = f.own[v4]
		return ok
	}
	return false
}

// metadata holds the addresses at which clouds hand out credentials and
// settings of the machine to whoever asks from it.
var metadata = map[netip.Addr]struct{}{
	netip.MustParseAddr("169.254.169.254"): {}, // nearly all of them
	netip.MustParseAddr("169.254.170.2"):   {}, // AWS ECS
	netip.MustParseAddr("169.254.170.23"):  {}, // AWS EKS
	netip.MustParseAddr("169.254.169.123"): {}, // AWS time
	netip.MustParseAddr("fd00:ec2::254"):   {}, // AWS
	netip.MustParseAddr("fd00:ec2::23"):    {}, // AWS EKS
	netip.MustParseAddr("fd20:ce::254"):    {}, // Google
	netip.MustParseAddr("100.100.100.200"): {}, // Alibaba
	netip.MustParseAddr("192.0.0.192"):     {}, // Oracle
	netip.MustParseAddr("168.63.129.16"):   {}, // Azure
}

var (
	broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	thisHost  = netip.MustParsePrefix("0.0.0.0/8")
	nat64     = netip.MustParsePrefix("64:ff9b::/96")
	nat64Own  = netip.MustParsePrefix("64:ff9b:1::/48")
	siit      = netip.MustParsePrefix("::ffff:0:0:0/96")
	v4compat  = netip.MustParsePrefix("::/96")
	sixToFour = netip.MustParsePrefix("2002::/16")
)

// ClassOf returns why an address is refused unless it is listed as that single
// address: Metadata, Loopback, LinkLocal, Multicast or Unspecified. It returns
// "" for all others. An IPv6 address that stands for an IPv4 address (mapped,
// NAT64, 6to4 …) has the class of that one. The invalid Addr is Unspecified.
func ClassOf(addr netip.Addr) Reason {
	a := addr.WithZone("").Unmap()
	if c := classOf(a); c != "" {
		return c
	}
	if v4, ok := embedded(a); ok {
		return classOf(v4)
	}
	return ""
}

func classOf(a netip.Addr) Reason {
	switch {
	case !a.IsValid(), a.IsUnspecified(), thisHost.Contains(a):
		return Unspecified
	case a.IsLoopback():
		return Loopback
	case a.IsMulticast(), a == broadcast:
		return Multicast
	}
	if _, ok := metadata[a]; ok {
		return Metadata
	}
	if a.IsLinkLocalUnicast() {
		return LinkLocal
	}
	return ""
}

// embedded returns the IPv4 address that a router may send packets for the
// IPv6 address a to.
func embedded(a netip.Addr) (netip.Addr, bool) {
	if !a.Is6() {
		return netip.Addr{}, false
	}
	b := a.As16()
	switch {
	case nat64.Contains(a), nat64Own.Contains(a), siit.Contains(a), v4compat.Contains(a):
		return netip.AddrFrom4([4]byte(b[12:16])), true
	case sixToFour.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return netip.Addr{}, false
}

// Fence says why no grant can let anybody have an address dialled. The reason
// is "" if there is nothing against it.
func (p *Policy) Fence(addr netip.Addr) (Reason, string) {
	if p == nil {
		return OutsideNetworks, ""
	}
	if reason := p.fence.check(addr); reason != "" {
		return reason, classSentence(addr, reason)
	}
	return "", ""
}

// classSentence says in words what a class of the fence means.
func classSentence(a netip.Addr, r Reason) string {
	var room wordsRoom
	w, what := words(room[:0]), "is refused"
	switch r {
	case OutsideNetworks:
		if a.Zone() != "" {
			return string(w.quotedAddr(a).s(" has a zone"))
		}
		return string(w.addr(a).s(" is outside networks"))
	case OwnAddress:
		what = "is an address of this server"
	case Loopback:
		what = "is a loopback address"
	case LinkLocal:
		what = "is a link-local address"
	case Multicast:
		what = "is a multicast or broadcast address"
	case Unspecified:
		what = "is an unspecified address"
	case Metadata:
		what = "is a metadata address of a cloud"
	}
	return string(w.quotedAddr(a).s(" ").s(what).s(", and networks does not list it as that single address"))
}
