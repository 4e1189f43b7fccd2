package hostsfile

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// dump prints a table as a hosts file, one address and name a line.
func dump(t *Table) string {
	var b strings.Builder
	for _, name := range t.Names() {
		for _, addr := range t.addrs[name] {
			fmt.Fprintln(&b, addr, name)
		}
	}
	return b.String()
}

// mustParse parses a text without problems.
func mustParse(t testing.TB, text string) *Table {
	t.Helper()
	table, problems := Parse(strings.NewReader(text), "hosts")
	if len(problems) > 0 {
		t.Fatalf("problems in %q: %v", text, problems)
	}
	return table
}

func TestParse(t *testing.T) {
	label63 := strings.Repeat("a", 63)
	name253 := strings.Join([]string{label63, label63, label63, strings.Repeat("b", 61)}, ".")
	for _, test := range []struct {
		name, text string
		want       string // as dump prints it
	}{
		{"an empty file has no names", "", ""},
		{"only comments, blanks and tabs have no names", "# one\n\n \t\n\t# two\n", ""},
		{"a line gives one name an address", "10.0.0.115 appserver\n", "10.0.0.115 appserver\n"},
		{"a line may give several names", "10.0.0.1 a b\tc\n", "10.0.0.1 a\n10.0.0.1 b\n10.0.0.1 c\n"},
		{"tabs and blanks in any number part the fields", "\t 10.0.0.1 \t\t a  b \t\n", "10.0.0.1 a\n10.0.0.1 b\n"},
		{"addresses of a name add up in file order", "10.0.0.9 db\n10.0.0.1 db\n", "10.0.0.9 db\n10.0.0.1 db\n"},
		{"a repeated address counts once, where it came first", "10.0.0.9 db db\n10.0.0.1 db\n10.0.0.9 db\n", "10.0.0.9 db\n10.0.0.1 db\n"},
		{"IPv4 and IPv6 may be mixed", "2001:db8::1 db\n10.0.0.1 db\n", "2001:db8::1 db\n10.0.0.1 db\n"},
		{"an IPv4-mapped address is the IPv4 address", "::ffff:10.0.0.1 db\n10.0.0.1 db\n", "10.0.0.1 db\n"},
		{"an IPv6 address may be spelt in any way", "2001:0DB8:0:0::01 db\n", "2001:db8::1 db\n"},
		{"upper case becomes lower case", "10.0.0.1 DB\n10.0.0.2 Db\n", "10.0.0.1 db\n10.0.0.2 db\n"},
		{"one trailing dot is dropped", "10.0.0.1 db.corp.example.\n", "10.0.0.1 db.corp.example\n"},
		{"a comment may follow, even without a blank", "10.0.0.1 a#b c\n", "10.0.0.1 a\n"},
		{"a comment may be in any language", "10.0.0.1 a # 本番 \xff\n", "10.0.0.1 a\n"},
		{"lines may end in CRLF", "10.0.0.1 a\r\n\r\n# c\r\n10.0.0.2 b\r\n", "10.0.0.1 a\n10.0.0.2 b\n"},
		{"a byte order mark is skipped", "\ufeff10.0.0.1 a\n", "10.0.0.1 a\n"},
		{"digits, dashes and underscores may be in a name", "10.0.0.1 web-01_b 1st.x--y 0xg 0x1.b\n",
			"10.0.0.1 0x1.b\n10.0.0.1 0xg\n10.0.0.1 1st.x--y\n10.0.0.1 web-01_b\n"},
		{"the longest label and name are accepted", "10.0.0.1 " + name253 + ".\n", "10.0.0.1 " + name253 + "\n"},
		{"the longest line is accepted", "10.0.0.1 a #" + strings.Repeat("x", maxLine-12) + "\r\n", "10.0.0.1 a\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := dump(mustParse(t, test.text)); got != test.want {
				t.Errorf("got\n%swant\n%s", got, test.want)
			}
		})
	}
}

func TestParseProblems(t *testing.T) {
	const letters = "only letters, digits, '-', '_' and '.' may stand in it"
	label64 := strings.Repeat("a", 64)
	name254 := strings.Repeat("a.", 126) + "bc"
	for _, test := range []struct {
		name, text string
		want       []string
	}{
		{"an address without a name", "\n  10.0.0.1 # db\n", []string{`hosts:2:3: address 10.0.0.1 has no name`}},
		{"an address that is none", "10.0.0 db\n", []string{`hosts:1:1: "10.0.0" is not an address: IPv4 address too short`}},
		{"leading zeros", "010.0.0.1 db\n", []string{`hosts:1:1: "010.0.0.1" is not an address: IPv4 field has octet with leading zero`}},
		{"a number as an address", "167772161 db\n", []string{`hosts:1:1: "167772161" is not an address: unable to parse IP`}},
		{"a prefix length", "10.0.0.0/24 db\n", []string{`hosts:1:1: "10.0.0.0/24" is not an address: unexpected character (at "/24")`}},
		{"a zone", "fe80::1%eth0 db\n", []string{`hosts:1:1: "fe80::1%eth0" has a zone, which means something on one machine only`}},
		{"name and address swapped", "db 10.0.0.1\n", []string{`hosts:1:1: "db" is not an address: the address comes first, then its names`}},
		{"two addresses on a line", "10.0.0.1 db 10.0.0.2\n", []string{`hosts:1:13: "10.0.0.2" is an address where a name is expected: each address begins a line`}},
		{"an IPv6 address as a name", "10.0.0.1 ::1\n", []string{`hosts:1:10: "::1" is an address where a name is expected: each address begins a line`}},
		{"a name that ends in a number", "10.0.0.1 db.1 010.0.0.1 0x7f 0x a.0Xff 2130706433\n", []string{
			`hosts:1:10: name "db.1" ends in a number, as an address does`,
			`hosts:1:15: name "010.0.0.1" ends in a number, as an address does`,
			`hosts:1:25: name "0x7f" ends in a number, as an address does`,
			`hosts:1:30: name "0x" ends in a number, as an address does`,
			`hosts:1:33: name "a.0Xff" ends in a number, as an address does`,
			`hosts:1:40: name "2130706433" ends in a number, as an address does`}},
		{"empty labels", "10.0.0.1 . a..b .a a..\n", []string{
			`hosts:1:10: name "." has an empty label`, `hosts:1:12: name "a..b" has an empty label`,
			`hosts:1:17: name ".a" has an empty label`, `hosts:1:20: name "a.." has an empty label`}},
		{"a dash at the edge of a label", "10.0.0.1 -a b.c-\n", []string{
			`hosts:1:10: name "-a" has a label that begins or ends with '-'`,
			`hosts:1:13: name "b.c-" has a label that begins or ends with '-'`}},
		{"a label that is too long", "10.0.0.1 " + label64 + "\n", []string{`hosts:1:10: name "` + label64 + `" has a label longer than 63 bytes`}},
		{"a name that is too long", "10.0.0.1 " + name254 + "\n", []string{`hosts:1:10: name "` + name254 + `" is longer than 253 bytes`}},
		{"other characters", "10.0.0.1 a:22 *.b\n", []string{
			`hosts:1:10: name "a:22" contains ':': ` + letters, `hosts:1:15: name "*.b" contains '*': ` + letters}},
		{"letters beyond ASCII", "10.0.0.1 bücher \u212ab\n", []string{
			`hosts:1:10: name "bücher" contains '\u00fc': letters beyond ASCII are written as xn--…`,
			"hosts:1:18: name \"\u212ab\" contains '\\u212a': letters beyond ASCII are written as xn--…"}},
		{"a blank that is none", "10.0.0.1\u3000db\n", []string{`hosts:1:1: "10.0.0.1\u3000db" is not an address: unexpected character (at "\u3000db")`}},
		{"control characters, in comments too", "10.0.0.1 a\x00b\n# \x1b[2J\n10.0.0.2\rb\n10.0.0.3\vb\n# \u0085\n", []string{
			`hosts:1:11: control character '\x00'`, `hosts:2:3: control character '\x1b'`,
			`hosts:3:9: control character '\r'`, `hosts:4:9: control character '\v'`, `hosts:5:3: control character '\u0085'`}},
		{"a line that is too long", "10.0.0.1 a\n#" + strings.Repeat("x", maxLine) + "\n", []string{`hosts:2:4097: line is longer than 4096 bytes`}},
		{"all problems at once, in file order", "10.0.0 a -b\n10.0.0.1 ok\n10.0.0.2\n10.0.0.3 c.", []string{
			`hosts:1:1: "10.0.0" is not an address: IPv4 address too short`,
			`hosts:1:10: name "-b" has a label that begins or ends with '-'`,
			`hosts:3:1: address 10.0.0.2 has no name`,
			`hosts:4:12: no newline at the end: accepted now, but a later change that ends so is taken as cut off`}},
		{"columns do not count a byte order mark", "\ufeff10.0.0.1\n", []string{`hosts:1:1: address 10.0.0.1 has no name`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			table, problems := Parse(strings.NewReader(test.text), "hosts")
			if table != nil {
				t.Error("a table in spite of errors")
			}
			var got []string
			for _, p := range problems {
				got = append(got, p.Error())
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

func TestParseWarnsOfAMissingNewline(t *testing.T) {
	for _, text := range []string{"10.0.0.1 a", "10.0.0.1 a\n# end", "10.0.0.1 a\n "} {
		table, problems := Parse(strings.NewReader(text), "hosts")
		if table.Len() != 1 || len(problems) != 1 || !problems[0].Warning {
			t.Errorf("%q: %d names, problems %v", text, table.Len(), problems)
		}
	}
}

func TestParseBounds(t *testing.T) {
	last := func(text string) string {
		table, problems := Parse(strings.NewReader(text), "hosts")
		if table != nil || len(problems) == 0 {
			t.Fatal("accepted")
		}
		return fmt.Sprint(len(problems), " ", problems[len(problems)-1])
	}
	line := "::1" + strings.Repeat(" a", 1000) + "\n"
	if got, want := last(strings.Repeat(line, 1000)+"::1 b\n"), "1 hosts:1001:5: more than 1000000 entries: the rest is not looked at"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := last(strings.Repeat("x\n", 5000)), "1001 hosts:1001:1: more than 1000 problems: the rest is not looked at"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := last(strings.Repeat("\n", maxFile+1)), "1 hosts:1:1: file is larger than 16 MiB"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if table := mustParse(t, strings.Repeat(line, 1000)); table.Len() != 1 {
		t.Errorf("%d names at the limit, want 1", table.Len())
	}
	table, problems := Parse(iotest.ErrReader(errors.New("disk gone")), "hosts")
	if table != nil || fmt.Sprint(problems) != "[hosts:1:1: cannot be read: disk gone]" {
		t.Errorf("a reader that fails: %v, %v", table, problems)
	}
}

// A name with very many addresses must not take quadratic time.
func TestParseManyAddressesOfOneName(t *testing.T) {
	var b strings.Builder
	addr := netip.MustParseAddr("10.0.0.0")
	const n = 200_000
	for range n {
		fmt.Fprintf(&b, "%s db\n%[1]s db\n", addr)
		addr = addr.Next()
	}
	if got := len(mustParse(t, b.String()).addrs["db"]); got != n {
		t.Errorf("%d addresses, want %d", got, n)
	}
}

func TestLookup(t *testing.T) {
	table := mustParse(t, "10.0.0.2 db\n2001:db8::1 db\n10.0.0.1 DB.\n10.0.0.3 web.corp.example k\n2001:db8::2 six\n")
	for _, test := range []struct{ name, network, host, want string }{
		{"all addresses come in file order", "ip", "db", "[10.0.0.2 2001:db8::1 10.0.0.1]"},
		{"ip4 gives the IPv4 addresses", "ip4", "db", "[10.0.0.2 10.0.0.1]"},
		{"ip6 gives the IPv6 addresses", "ip6", "db", "[2001:db8::1]"},
		{"case does not matter", "ip", "Web.CORP.example", "[10.0.0.3]"},
		{"a trailing dot does not matter", "ip", "web.corp.example.", "[10.0.0.3]"},
		{"an unknown name is not found", "ip", "nobody", ""},
		{"a name without an address of the kind is not found", "ip4", "six", ""},
		{"two trailing dots are not a name", "ip", "db..", ""},
		{"a part of a name is not found", "ip", "web", ""},
		{"the empty name is not found", "ip", "", ""},
		{"an address is not a name", "ip", "10.0.0.2", ""},
		{"only ASCII letters are folded", "ip", "\u212a", ""}, // the Kelvin sign, lower case k
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := table.LookupNetIP(t.Context(), test.network, test.host)
			if test.want != "" {
				if err != nil || fmt.Sprint(got) != test.want {
					t.Errorf("got %v, %v, want %s", got, err, test.want)
				}
				return
			}
			var dns *net.DNSError
			if !errors.As(err, &dns) || !dns.IsNotFound || dns.Name != test.host || got != nil {
				t.Errorf("got %v, %v, want not found", got, err)
			}
		})
	}
	t.Run("an unknown network is an error of its own", func(t *testing.T) {
		_, err := table.LookupNetIP(t.Context(), "tcp", "db")
		if err != error(net.UnknownNetworkError("tcp")) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("the answer is the caller's own", func(t *testing.T) {
		first, _ := table.LookupNetIP(t.Context(), "ip", "db")
		first[0] = netip.Addr{}
		if again, _ := table.LookupNetIP(t.Context(), "ip", "db"); !again[0].IsValid() {
			t.Error("writing into an answer changed the table")
		}
	})
	t.Run("names are sorted", func(t *testing.T) {
		if got := fmt.Sprint(table.Names(), table.Len()); got != "[db k six web.corp.example] 4" {
			t.Error(got)
		}
	})
	t.Run("a nil table has no names", func(t *testing.T) {
		var none *Table
		_, err := none.LookupNetIP(t.Context(), "ip", "db")
		var dns *net.DNSError
		if !errors.As(err, &dns) || !dns.IsNotFound || none.Len() != 0 || none.Names() != nil {
			t.Errorf("%v, %d, %v", err, none.Len(), none.Names())
		}
	})
}

// What parses is in normal form, prints as a hosts file, and is the same again.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "# c", "10.0.0.1 a b # c\r\n::1 A.\n", "\ufeff::ffff:1.2.3.4\ta\n1.2.3.4 a", "fe80::1%x a\n", "1.2.3.4 0x7f\n", "a 1.2.3.4\n", "1.2.3.4\x00 é -\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		table, problems := Parse(strings.NewReader(text), "hosts")
		if failed := slices.ContainsFunc(problems, func(p Problem) bool { return !p.Warning }); failed == (table != nil) {
			t.Fatalf("table %v with problems %v", table, problems)
		}
		for _, p := range problems {
			if p.Line < 1 || p.Column < 1 || p.Line > strings.Count(text, "\n")+1 || p.Column > len(text)+1 {
				t.Errorf("no such place: %v", p)
			}
			if strings.IndexFunc(p.Error(), isControl) >= 0 {
				t.Errorf("not safe to print: %q", p.Error())
			}
		}
		if table == nil {
			return
		}
		for name, addrs := range table.addrs {
			if again, err := normalName(name); err != nil || again != name || isAddr(name) {
				t.Errorf("name %q is not in normal form: %q, %v", name, again, err)
			}
			if got, err := table.LookupNetIP(t.Context(), "ip", strings.ToUpper(name)+"."); err != nil || !slices.Equal(got, addrs) {
				t.Errorf("%q is not found by another spelling: %v, %v", name, got, err)
			}
		}
		printed := dump(table)
		if again := dump(mustParse(t, printed)); again != printed {
			t.Errorf("printed\n%sparsed again\n%s", printed, again)
		}
	})
}

func manyNames(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "10.%d.%d.%d host-%d.corp.example host-%[4]d\n", i>>16, i>>8&255, i&255, i)
	}
	return b.String()
}

func BenchmarkLookup(b *testing.B) {
	table := mustParse(b, manyNames(50_000)) // 100,000 names
	b.Run("normal form", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := table.LookupNetIP(b.Context(), "ip", "host-31415.corp.example"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("other spelling", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := table.LookupNetIP(b.Context(), "ip", "Host-31415.Corp.Example."); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("absent", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := table.LookupNetIP(b.Context(), "ip", "nobody.corp.example"); err == nil {
				b.Fatal("found")
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	text := manyNames(50_000)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		mustParse(b, text)
	}
}
