package authkeys

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
)

func TestFrom(t *testing.T) {
	for _, tt := range []struct {
		name, from string
		yes, no    string // addresses, between blanks
	}{
		{"one address", "10.0.0.1", "10.0.0.1 ::ffff:10.0.0.1", "10.0.0.2 10.0.0.10 ::1 ::10.0.0.1"},
		{"an IPv6 address", "2001:db8::1", "2001:db8::1", "2001:db8::2 10.0.0.1"},
		{"an IPv6 address in another spelling", "2001:DB8:0:0::1", "2001:db8::1", "2001:db8::2"},
		{"an IPv4 address in IPv6", "::ffff:10.0.0.1", "10.0.0.1 ::ffff:10.0.0.1", "10.0.0.2"},
		{"an IPv6 address counts on every link", "fe80::1", "fe80::1 fe80::1%eth0", "fe80::2"},
		{"a network", "10.0.0.0/8", "10.0.0.0 10.255.255.255 ::ffff:10.1.2.3", "9.255.255.255 11.0.0.0 ::a00:0"},
		{"an IPv6 network", "2001:db8::/32", "2001:db8:: 2001:db8:ffff::1", "2001:db9:: 10.0.0.1"},
		{"an IPv4 network in IPv6", "::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.0"},
		{"a network on every link", "fe80::/10", "fe80::1%eth0", "fec0::1"},
		{"all of IPv4", "0.0.0.0/0", "0.0.0.0 255.255.255.255 ::ffff:1.2.3.4", ":: ::1"},
		{"all of IPv6 is not IPv4", "::/0", ":: 2001:db8::1", "10.0.0.1 ::ffff:10.0.0.1"},
		{"all of IPv4 in IPv6 is IPv4", "::ffff:0:0/96", "10.0.0.1", "::1"},
		{"a list", "10.0.0.1,10.0.0.3,2001:db8::/32", "10.0.0.1 10.0.0.3 2001:db8::5", "10.0.0.2"},

		{"a star is everything", "*", "10.0.0.1 ::1 fe80::1%eth0", ""},
		{"a star crosses dots", "10.*", "10.0.0.1 10.1.2.3", "110.0.0.1 100.0.0.1 1.10.0.1"},
		{"a star may be empty", "10.0.0.1*", "10.0.0.1 10.0.0.10 10.0.0.199", "10.0.0.2"},
		{"a star in the middle", "10.*.1", "10.0.0.1 10.1.2.1", "10.0.0.2 10.0.0.11"},
		{"stars at both ends", "*.7.*", "1.7.2.3 1.2.7.3", "7.1.2.3 1.2.3.7 1.77.2.3"},
		{"a question mark is one character", "10.0.0.?", "10.0.0.1 10.0.0.9", "10.0.0.10 10.0.0.100"},
		{"a question mark may be a dot", "10.0?0.1", "10.0.0.1", "10.0.1.1"},
		{"patterns see IPv4 in IPv6 as IPv4", "10.0.0.*", "::ffff:10.0.0.1", "::ffff:a00:101"},
		{"a pattern of IPv6", "2001:db8::*", "2001:db8::1 2001:db8::a:b", "2001:db8:1::1 10.0.0.1"},
		{"a pattern of IPv6 in capitals", "2001:DB8:*", "2001:db8::1", "2001:db9::1"},
		{"a pattern is about the shortest text", "2001:db8:0:*", "", "2001:db8::1"},
		{"a pattern does not see the link", "fe80::?", "fe80::1%eth0", "fe80::11"},
		{"colons tell IPv6", "*:*", "::1 2001:db8::1", "10.0.0.1 ::ffff:10.0.0.1"},

		{"an exception before", "!10.0.0.9,10.0.0.0/8", "10.0.0.8", "10.0.0.9 ::ffff:10.0.0.9 11.0.0.1"},
		{"an exception behind", "10.0.0.0/8,!10.0.0.9", "10.0.0.8", "10.0.0.9 11.0.0.1"},
		{"an exception between", "10.0.0.9,!10.0.0.0/24,10.0.0.0/8", "10.0.1.9", "10.0.0.9"},
		{"an exception wider than what is allowed", "10.0.0.9,!10.0.0.0/8", "", "10.0.0.9 10.0.0.8 11.0.0.1"},
		{"an exception with wildcards", "*,!10.*", "9.0.0.1 ::1", "10.0.0.1 ::ffff:10.0.0.1"},
		{"an exception in capitals", "*,!FE80:*", "10.0.0.1", "fe80::1 fe80::1%eth0"},
		{"an exception of a network on every link", "*,!fe80::/10", "::1", "fe80::1%eth0"},
		{"an exception in IPv6 of IPv4", "*,!::ffff:10.0.0.0/104", "11.0.0.1", "10.0.0.1 ::ffff:10.0.0.1"},
		{"an exception of all", "*,!*", "", "10.0.0.1 ::1"},
	} {
		s, why, _ := parseSources(tt.from)
		if why != "" || s.String() != tt.from {
			t.Errorf("%s: %s", tt.name, why)
			continue
		}
		for want, list := range map[bool]string{true: tt.yes, false: tt.no} {
			for _, a := range strings.Fields(list) {
				if s.Match(netip.MustParseAddr(a)) != want {
					t.Errorf("%s: %s from %s is %v", tt.name, tt.from, a, !want)
				}
			}
		}
		if s.Match(netip.Addr{}) {
			t.Errorf("%s: an unknown address matches", tt.name)
		}
	}
}

func TestSourcesThatAreNotThere(t *testing.T) {
	var none *Sources
	a := netip.MustParseAddr("10.0.0.1")
	if !none.Match(a) || !none.Match(netip.Addr{}) || none.String() != "" {
		t.Error("nil Sources do not match everything")
	}
	if new(Sources).Match(a) {
		t.Error("zero Sources match")
	}
}

func TestAPatternOfManyStarsIsQuick(t *testing.T) {
	pattern := strings.Repeat("*0", 31) + "*1"
	if like(pattern, bytes.Repeat([]byte("0"), 1<<16)) {
		t.Error("matches")
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	s, _, _ := parseSources("10.0.0.0/8,*.7,!2001:db8::?,2001:db8:*")
	for _, a := range []string{"10.0.0.1", "::ffff:1.2.3.7", "2001:db8::10", "fe80::1%eth0"} {
		addr := netip.MustParseAddr(a)
		if n := testing.AllocsPerRun(100, func() { s.Match(addr) }); n > 0 {
			t.Errorf("%s: %v allocations", a, n)
		}
	}
}
