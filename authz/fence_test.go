package authz

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

func prefixes(s ...string) (ps []netip.Prefix) {
	for _, p := range s {
		ps = append(ps, netip.MustParsePrefix(p))
	}
	return ps
}

func addrs(s ...string) (as []netip.Addr) {
	for _, a := range s {
		as = append(as, netip.MustParseAddr(a))
	}
	return as
}

// Every class, in every way that it can be written, against a fence that has
// all addresses in wide networks and none as a single address; and against
// one that lists just that address.
func TestFenceClasses(t *testing.T) {
	tests := []struct {
		addr string
		want Reason
	}{
		{"10.0.0.1", ""}, {"192.168.1.1", ""}, {"100.64.0.1", ""}, {"8.8.8.8", ""}, {"fd00::1", ""}, {"2001:db8::1", ""},
		{"::ffff:10.0.0.1", ""}, {"64:ff9b::a00:1", ""}, {"2002:a00:1::1", ""}, {"::a00:1", ""},
		{"169.253.255.255", ""}, {"169.255.0.0", ""}, {"126.255.255.255", ""}, {"128.0.0.0", ""}, {"1.0.0.0", ""}, {"223.255.255.255", ""}, {"240.0.0.1", ""}, {"255.255.255.254", ""},
		{"fe7f::1", ""}, {"fec0::1", ""}, {"fd00:ec2::255", ""}, {"100.100.100.201", ""},

		{"10.9.9.9", OwnAddress}, {"::ffff:10.9.9.9", OwnAddress}, {"fd99::1", OwnAddress}, {"64:ff9b::a09:909", OwnAddress}, {"2002:a09:909::", OwnAddress}, {"::a09:909", OwnAddress}, {"64:ff9b:1::a09:909", OwnAddress}, {"::ffff:0:a09:909", OwnAddress},

		{"127.0.0.1", Loopback}, {"127.255.255.255", Loopback}, {"127.9.9.9", Loopback}, {"::1", Loopback}, {"::ffff:127.0.0.1", Loopback}, {"64:ff9b::7f00:1", Loopback}, {"2002:7f00:1::", Loopback},
		{"::7f00:1", Loopback}, {"64:ff9b:1::7f00:1", Loopback}, {"::ffff:0:7f00:1", Loopback},

		{"169.254.0.1", LinkLocal}, {"169.254.255.255", LinkLocal}, {"fe80::1", LinkLocal}, {"febf::1", LinkLocal}, {"::ffff:169.254.1.1", LinkLocal}, {"64:ff9b::a9fe:101", LinkLocal}, {"2002:a9fe:101::", LinkLocal},

		{"224.0.0.1", Multicast}, {"239.255.255.255", Multicast}, {"ff02::1", Multicast}, {"ff0e::1", Multicast}, {"255.255.255.255", Multicast}, {"::ffff:255.255.255.255", Multicast}, {"::ffff:224.0.0.1", Multicast}, {"64:ff9b::e000:1", Multicast},

		{"0.0.0.0", Unspecified}, {"0.0.0.1", Unspecified}, {"0.255.255.255", Unspecified}, {"::", Unspecified}, {"::ffff:0.0.0.0", Unspecified}, {"64:ff9b::", Unspecified}, {"::2", Unspecified},

		{"169.254.169.254", Metadata}, {"169.254.170.2", Metadata}, {"169.254.170.23", Metadata}, {"169.254.169.123", Metadata}, {"fd00:ec2::254", Metadata}, {"fd00:ec2::23", Metadata}, {"fd20:ce::254", Metadata},
		{"100.100.100.200", Metadata}, {"192.0.0.192", Metadata}, {"168.63.129.16", Metadata}, {"::ffff:169.254.169.254", Metadata}, {"64:ff9b::a9fe:a9fe", Metadata}, {"2002:a9fe:a9fe::1", Metadata}, {"::a9fe:a9fe", Metadata},
	}
	own := addrs("10.9.9.9", "fd99::1", "127.0.0.1")
	wide := newFence(prefixes("0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"), own)
	for _, tt := range tests {
		a := netip.MustParseAddr(tt.addr)
		if got := wide.check(a); got != tt.want {
			t.Errorf("%s in wide networks: %q, want %q", a, got, tt.want)
		}
		wantClass := tt.want
		if wantClass == OwnAddress {
			wantClass = ""
		}
		if got := ClassOf(a); got != wantClass {
			t.Errorf("ClassOf(%s) = %q, want %q", a, got, wantClass)
		}
		single := newFence([]netip.Prefix{netip.PrefixFrom(a, a.BitLen())}, own)
		if got := single.check(a); got != "" {
			t.Errorf("%s, listed as that single address: %q", a, got)
		}
		if got := single.check(netip.MustParseAddr("10.77.0.1")); got != OutsideNetworks {
			t.Errorf("another address, with only %s listed: %q", a, got)
		}
		if a.Is6() && !a.Is4In6() {
			if got := wide.check(a.WithZone("eth0")); got == "" || tt.want != "" && tt.want != OwnAddress && got != tt.want {
				t.Errorf("%s with a zone: %q", a, got)
			}
			if got := single.check(a.WithZone("eth0")); got == "" {
				t.Errorf("%s with a zone, listed without: allowed", a)
			}
		}
	}
}

func TestFenceNetworks(t *testing.T) {
	f := newFence(prefixes("10.0.0.0/16", "10.0.5.0/24", "127.0.0.1/32", "fd12::/32", "::ffff:192.168.0.0/112", "10.3.0.1/32"), addrs("10.0.0.5"))
	tests := []struct {
		addr string
		want Reason
	}{
		{"10.0.5.1", ""}, {"10.0.6.1", ""}, {"10.0.255.255", ""}, {"::ffff:10.0.5.1", ""}, {"10.3.0.1", ""}, {"fd12::1", ""}, {"192.168.3.4", ""},
		{"127.0.0.1", ""}, {"127.0.0.2", Loopback}, {"64:ff9b::7f00:1", Loopback}, {"10.0.0.5", OwnAddress}, {"::1", Loopback},
		{"10.1.0.0", OutsideNetworks}, {"9.255.255.255", OutsideNetworks}, {"10.3.0.2", OutsideNetworks}, {"fd13::1", OutsideNetworks}, {"64:ff9b::a00:501", OutsideNetworks},
	}
	for _, tt := range tests {
		if got := f.check(netip.MustParseAddr(tt.addr)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.addr, got, tt.want)
		}
	}
	if got := f.check(netip.Addr{}); got != Unspecified {
		t.Errorf("the invalid address: %q", got)
	}
	empty := newFence(nil, nil)
	if got := empty.check(netip.MustParseAddr("10.0.0.1")); got != OutsideNetworks {
		t.Errorf("without networks: %q", got)
	}
}

func TestNetworksAgreeWithALinearSearch(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var ps []netip.Prefix
		for range rnd.IntN(12) {
			a := netip.AddrFrom4([4]byte{10, byte(rnd.IntN(3)), byte(rnd.IntN(3)), byte(rnd.IntN(256))})
			ps = append(ps, netip.PrefixFrom(a, 8+rnd.IntN(25)))
		}
		ns := makeNetworks(ps)
		for range 50 {
			a := netip.AddrFrom4([4]byte{10, byte(rnd.IntN(4)), byte(rnd.IntN(4)), byte(rnd.IntN(256))})
			want := false
			for _, p := range ps {
				want = want || p.Contains(a)
			}
			if got := ns.contains(a); got != want {
				t.Fatalf("%v in %v: %v, want %v", a, ps, got, want)
			}
		}
	}
}
