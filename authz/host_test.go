package authz

import (
	"net/netip"
	"strings"
	"testing"
	"unicode"
)

func TestParseHost(t *testing.T) {
	long := strings.Repeat("a", 63)
	long253 := long + "." + long + "." + long + "." + long[:61]
	accepted := []struct{ in, name, addr string }{
		{"rds", "rds", ""},
		{"RDS", "rds", ""},
		{"AppServer.Corp.Example", "appserver.corp.example", ""},
		{"appserver.corp.example.", "appserver.corp.example", ""},
		{"rds.", "rds", ""},
		{"web-1.corp.example", "web-1.corp.example", ""},
		{"_ldap._tcp.corp.example", "_ldap._tcp.corp.example", ""},
		{"a_b", "a_b", ""},
		{"_", "_", ""},
		{"xn--bcher-kva.example", "xn--bcher-kva.example", ""},
		{"1a", "1a", ""},
		{"10.0.0.1.example", "10.0.0.1.example", ""},
		{"0x7f.example", "0x7f.example", ""},
		{"3com", "3com", ""},
		{"0xyz", "0xyz", ""},
		{"a.0xg", "a.0xg", ""},
		{"a1.b2.c3d", "a1.b2.c3d", ""},
		{"deadbeef", "deadbeef", ""},
		{long, long, ""},
		{long253, long253, ""},
		{long253 + ".", long253, ""},
		{"10.0.0.1", "10.0.0.1", "10.0.0.1"},
		{"0.0.0.0", "0.0.0.0", "0.0.0.0"},
		{"255.255.255.255", "255.255.255.255", "255.255.255.255"},
		{"fd00::1", "fd00::1", "fd00::1"},
		{"FD00::A", "fd00::a", "fd00::a"},
		{"::", "::", "::"},
		{"::1", "::1", "::1"},
		{"::ffff:10.0.0.1", "10.0.0.1", "10.0.0.1"},
		{"::FFFF:10.0.0.1", "10.0.0.1", "10.0.0.1"},
		{"2001:db8::1:0:0:1", "2001:db8::1:0:0:1", "2001:db8::1:0:0:1"},
		{"64:ff9b::a00:1", "64:ff9b::a00:1", "64:ff9b::a00:1"},
	}
	for _, tt := range accepted {
		name, addr, err := ParseHost(tt.in)
		var want netip.Addr
		if tt.addr != "" {
			want = netip.MustParseAddr(tt.addr)
		}
		if err != nil || name != tt.name || addr != want {
			t.Errorf("ParseHost(%q) = %q, %v, %v; want %q, %v", tt.in, name, addr, err, tt.name, want)
		}
	}

	const (
		notIPv4  = "neither a name nor an IPv4 address of four decimal numbers from 0 to 255"
		notIPv6  = "not an IPv6 address, and a name has no colon"
		zone     = "an address with a zone is not allowed"
		empty    = "a label (the part between dots) is empty"
		hyphen   = `a label (the part between dots) neither begins nor ends with "-"`
		control  = "a control character is not allowed"
		space    = "a space is not allowed"
		ascii    = "a name is ASCII; an international one is written as xn--…"
		tooLong  = "a host has at most 253 bytes"
		tooLong2 = "a label (the part between dots) has at most 63 bytes"
		brackets = "an IPv6 address is written without brackets"
	)
	refused := []struct{ in, why string }{
		{"", "the host is empty"},
		{".", empty}, {"..", empty}, {"a..b", empty}, {".a", empty}, {"a..", empty}, {"rds..", empty},
		{"-", hyphen}, {"-a", hyphen}, {"a-", hyphen}, {"a.-b", hyphen}, {"a-.b", hyphen},
		{"127.1", notIPv4}, {"1.2.3", notIPv4}, {"2130706433", notIPv4}, {"0", notIPv4}, {"1", notIPv4},
		{"010.0.0.1", notIPv4}, {"10.0.0.01", notIPv4}, {"0177.0.0.1", notIPv4}, {"0x7f.1", notIPv4}, {"0x7f000001", notIPv4},
		{"0X7F000001", notIPv4}, {"0x7f.0x0.0x0.0x1", notIPv4}, {"127.0.0.0x1", notIPv4}, {"0x", notIPv4}, {"a.0x", notIPv4},
		{"256.1.1.1", notIPv4}, {"1.2.3.4.5", notIPv4}, {"10.0.0.1.", notIPv4}, {"a.1", notIPv4}, {"example.123", notIPv4}, {"0.0.0.0.", notIPv4},
		{"1e3.5", notIPv4}, {"99999999999999999999", notIPv4}, {"127.0.1", notIPv4},
		{"::1%lo", zone}, {"fe80::1%eth0", zone}, {"fe80::1%25eth0", zone},
		{"[::1]", brackets}, {"[fd00::1]:22", brackets},
		{"::1.", notIPv6}, {"10.0.0.1:22", notIPv6}, {"rds:3306", notIPv6}, {":", notIPv6}, {":::", notIPv6}, {"1:2:3", notIPv6}, {"::g", notIPv6}, {"::ffff:010.0.0.1", notIPv6},
		{"0:0:0:0:0:0:0:1", "not the canonical form of the address, which is ::1"},
		{"fd00:0::1", "not the canonical form of the address, which is fd00::1"},
		{"fd00::0001", "not the canonical form of the address, which is fd00::1"},
		{"::ffff:a00:1", "not the canonical form of the address, which is ::ffff:10.0.0.1"},
		{"::ffff:7f00:1", "not the canonical form of the address, which is ::ffff:127.0.0.1"},
		{"2001:db8:0:0:1::1", "not the canonical form of the address, which is 2001:db8::1:0:0:1"},
		{"::10.0.0.1", "not the canonical form of the address, which is ::a00:1"},
		{"a b", space}, {" a", space}, {"a ", space}, {"10.0.0.1 ", space},
		{"a\x00", control}, {"a\n", control}, {"a\x1b[31mb", control}, {"a\x7f", control}, {"\ta", control},
		{"bücher.example", ascii}, {"１０.0.0.1", ascii}, {"rds\u202e", ascii}, {"a\u3002b", ascii}, {"\xff", ascii},
		{"a/b", `the character '/' is not allowed`}, {"10.0.0.0/8", `the character '/' is not allowed`}, {"a%b", `the character '%' is not allowed`},
		{"*", `the character '*' is not allowed`}, {"a*b", `the character '*' is not allowed`}, {"user@host", `the character '@' is not allowed`},
		{"a\\b", `the character '\\' is not allowed`}, {"a,b", `the character ',' is not allowed`}, {"+1", `the character '+' is not allowed`},
		{long + "a", tooLong2}, {long253 + "a", tooLong}, {long253 + "..", tooLong}, {strings.Repeat("a.", 5000), tooLong},
	}
	for _, tt := range refused {
		name, addr, err := ParseHost(tt.in)
		if err == nil || name != "" || addr.IsValid() {
			t.Errorf("ParseHost(%q) = %q, %v, %v; want it refused", tt.in, name, addr, err)
			continue
		}
		want := quote(tt.in) + ": " + tt.why
		if tt.in == "" {
			want = tt.why
		}
		if err.Error() != want {
			t.Errorf("ParseHost(%q):\n got %s\nwant %s", tt.in, err, want)
		}
	}
	if n := len(accepted) + len(refused); n < 100 {
		t.Errorf("only %d spellings", n)
	}
}

func TestParseHostOfNormalFormsDoesNotAllocate(t *testing.T) {
	for _, s := range []string{"rds", "web-1.corp.example", "10.0.0.1", "fd00::1", "a..b"} {
		if n := testing.AllocsPerRun(100, func() { parseHost(s) }); n > 0 {
			t.Errorf("%s: %v allocations", s, n)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	for _, s := range []string{"", "rds", "RDS.", "10.0.0.1", "::ffff:10.0.0.1", "0x7f.1", "127.1", "fe80::1%eth0", "a..b", "bücher", "xn--a.b", "\x00", "FD00::A", "64:ff9b::7f00:1", "1.2.3.4."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, addr, err := ParseHost(s)
		if err != nil {
			for _, r := range err.Error() {
				if !unicode.IsPrint(r) {
					t.Fatalf("unsafe text %q", err)
				}
			}
			return
		}
		again, addr2, err := ParseHost(name)
		if err != nil || again != name || addr2 != addr {
			t.Fatalf("%q -> %q -> %q, %v", s, name, again, err)
		}
		if addr.IsValid() && (addr.Zone() != "" || addr.Is4In6() || addr.String() != name) {
			t.Fatalf("%q: not a normal address %v", s, addr)
		}
		if _, perr := netip.ParseAddr(name); (perr == nil) != addr.IsValid() {
			t.Fatalf("%q: netip and we differ", s)
		}
		if name != strings.ToLower(name) || len(name) > maxHost || strings.HasSuffix(name, ".") {
			t.Fatalf("%q -> %q is no normal form", s, name)
		}
	})
}
