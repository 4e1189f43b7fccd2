package hostsfile

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestAddAndRemove(t *testing.T) {
	for _, test := range []struct {
		name, before     string
		host, addr, want string // what Add makes, and Remove undoes
	}{
		{"an empty file", "", "rds", "10.0.11.147", "10.0.11.147 rds\n"},
		{"a byte order mark alone", "\ufeff", "rds", "10.0.11.147", "\ufeff10.0.11.147 rds\n"},
		{"a file of comments", "# address  names\n\n", "rds", "10.0.11.147", "# address  names\n\n10.0.11.147 rds\n"},
		{"one blank", "10.0.0.115 app\n10.0.0.1 web\n", "rds", "10.0.11.147", "10.0.0.115 app\n10.0.0.1 web\n10.0.11.147 rds\n"},
		{"aligned with blanks", "10.0.0.115   app\n10.0.11.147  rds\n# end\n", "web", "10.0.0.9",
			"10.0.0.115   app\n10.0.11.147  rds\n# end\n10.0.0.9     web\n"},
		{"aligned with blanks, the last with one", "10.0.0.1   app\n10.0.0.115 rds\n", "web", "10.0.0.9",
			"10.0.0.1   app\n10.0.0.115 rds\n10.0.0.9   web\n"},
		{"an address that is too long for the column", "10.0.0.1  app\n", "web", "2001:db8::1", "10.0.0.1  app\n2001:db8::1 web\n"},
		{"a tab", "10.0.0.1\tapp\n", "web", "10.0.0.2", "10.0.0.1\tapp\n10.0.0.2\tweb\n"},
		{"aligned with tabs", "10.0.0.115\tapp\n10.0.0.1\tweb\n", "rds", "10.0.11.147", "10.0.0.115\tapp\n10.0.0.1\tweb\n10.0.11.147\trds\n"},
		{"more tabs for a shorter address", "2001:db8:1:2::5\t\tapp\n", "rds", "::1", "2001:db8:1:2::5\t\tapp\n::1\t\t\trds\n"},
		{"CRLF", "10.0.0.1\tapp\r\n", "web", "10.0.0.2", "10.0.0.1\tapp\r\n10.0.0.2\tweb\r\n"},
		{"another address of a name", "10.0.0.1 app\n", "app", "10.0.0.2", "10.0.0.1 app\n10.0.0.2 app\n"},
		{"another name of an address", "10.0.0.1 app\n", "web", "10.0.0.1", "10.0.0.1 app\n10.0.0.1 web\n"},
		{"an IPv4-mapped address", "", "app", "::ffff:10.0.0.1", "10.0.0.1 app\n"},
		{"a name in upper case with a dot", "", "App.Corp.", "10.0.0.1", "10.0.0.1 App.Corp.\n"},
		{"a comment at the end is no comment of the new line", "10.0.0.1 app\n# below are others\n", "web", "10.0.0.2",
			"10.0.0.1 app\n# below are others\n10.0.0.2 web\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			addr := netip.MustParseAddr(test.addr)
			got, err := Add([]byte(test.before), "hosts", test.host, addr)
			if err != nil || string(got) != test.want {
				t.Fatalf("%v, got\n%q\nwant\n%q", err, got, test.want)
			}
			back, err := Remove(got, "hosts", test.host, addr)
			if err != nil || string(back) != test.before {
				t.Errorf("%v, removed again\n%q\nwant\n%q", err, back, test.before)
			}
		})
	}
}

func TestRemove(t *testing.T) {
	for _, test := range []struct{ name, before, host, want string }{
		{"the only name of a line", "10.0.0.2 a\n10.0.0.1 db  # the old one\n10.0.0.3 c\n", "db", "10.0.0.2 a\n10.0.0.3 c\n"},
		{"the only name before a comment that touches it", "10.0.0.1 db#x\n", "db", ""},
		{"comments above stay", "# databases\n10.0.0.1 db\n", "db", "# databases\n"},
		{"the first of several names", "10.0.0.1\t db  db.corp  # x\n", "db", "10.0.0.1\t db.corp  # x\n"},
		{"one in the middle", "10.0.0.1 a \tdb  c\n", "db", "10.0.0.1 a  c\n"},
		{"the last", "10.0.0.1 a  db\r\n", "db", "10.0.0.1 a\r\n"},
		{"the last before a comment", "10.0.0.1 a db # x\n", "db", "10.0.0.1 a # x\n"},
		{"a name twice in a line", "10.0.0.1 db a DB.\n", "db", "10.0.0.1 a\n"},
		{"nothing but the name, twice", "10.0.0.1 db DB.\n", "db", ""},
		{"a name in several lines", "10.0.0.1 db\n10.0.0.2 db\n::ffff:10.0.0.1 db x\n", "db", "10.0.0.2 db\n::ffff:10.0.0.1 x\n"},
		{"a name that is asked for in another spelling", "10.0.0.1 db a\n", "DB.", "10.0.0.1 a\n"},
		{"names that only look alike", "10.0.0.1 db.corp db dba\n", "db", "10.0.0.1 db.corp dba\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Remove([]byte(test.before), "hosts", test.host, netip.MustParseAddr("10.0.0.1"))
			if err != nil || string(got) != test.want {
				t.Errorf("%v, got\n%q\nwant\n%q", err, got, test.want)
			}
		})
	}
}

func TestEditsThatAreRefused(t *testing.T) {
	const file = "# hosts\n10.0.0.1 a  db\n10.0.0.2 db\n"
	const cutOff = "no newline at the end: taken as cut off, and not edited"
	addr := netip.MustParseAddr("10.0.0.1")
	for _, test := range []struct {
		name string
		edit func([]byte, string, string, netip.Addr) ([]byte, error)
		file string
		host string
		addr netip.Addr
		want string
	}{
		{"a name that has the address", Add, file, "DB", addr, `hosts:2:13: "DB" has the address 10.0.0.1 already`},
		{"a name that has the IPv4-mapped address", Add, file, "db", netip.MustParseAddr("::ffff:10.0.0.1"), `hosts:2:13: "db" has the address 10.0.0.1 already`},
		{"a name that is none", Add, file, "a b", addr, `name "a b" contains ' ': only letters, digits, '-', '_' and '.' may stand in it`},
		{"a name with a line break", Add, file, "b\n10.0.0.9 x", addr, `name "b\n10.0.0.9 x" contains '\n': only letters, digits, '-', '_' and '.' may stand in it`},
		{"a comment as a name", Add, file, "#b", addr, `name "#b" contains '#': only letters, digits, '-', '_' and '.' may stand in it`},
		{"an address as a name", Add, file, "10.0.0.1", addr, `name "10.0.0.1" ends in a number, as an address does`},
		{"no address", Add, file, "b", netip.Addr{}, `there is no address for "b"`},
		{"an address with a zone", Add, file, "b", netip.MustParseAddr("fe80::1%eth0"), `fe80::1%eth0 has a zone, which means something on one machine only`},
		{"a file with an error", Add, "10.0.0 a\n", "b", addr, `hosts:1:1: "10.0.0" is not an address: IPv4 address too short`},
		{"a file that may be cut off", Add, "10.0.0.1 a\n10.0.0.2 b", "c", addr, "hosts:2:11: " + cutOff},
		{"a removal from a file that may be cut off", Remove, "10.0.0.1 a\n10.0.0.2 b", "a", addr, "hosts:2:11: " + cutOff},
		{"a removal from a file with an error", Remove, "10.0.0.1 a\n10.0.0.2\n", "a", addr, `hosts:2:1: address 10.0.0.2 has no name`},
		{"a name that is not there", Remove, file, "dba", addr, `hosts: there is no name "dba"`},
		{"an address that the name does not have", Remove, file, "db", netip.MustParseAddr("10.0.0.3"), `hosts: "db" does not have the address 10.0.0.3, but 10.0.0.1, 10.0.0.2`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.edit([]byte(test.file), "hosts", test.host, test.addr)
			if got != nil || err == nil || err.Error() != test.want {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

func TestAFileIsNeverMadeTooLarge(t *testing.T) {
	full := []byte(strings.Repeat("#"+strings.Repeat("x", 1022)+"\n", maxFile/1024))
	if out, err := Add(full, "hosts", "a", netip.MustParseAddr("10.0.0.1")); out != nil || err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %d bytes, %v", len(out), err)
	}
}

// checkRoundTrip checks that Add gives the name the address and changes nothing
// else, and that Remove undoes it.
func checkRoundTrip(t *testing.T, content, host string, addr netip.Addr) {
	t.Helper()
	out, err := Add([]byte(content), "hosts", host, addr)
	if err != nil {
		return
	}
	if !strings.HasPrefix(string(out), content) || strings.Count(string(out), "\n") != strings.Count(content, "\n")+1 {
		t.Fatalf("%q became %q", content, out)
	}
	before, _ := Parse(strings.NewReader(content), "hosts")
	after, problems := Parse(strings.NewReader(string(out)), "hosts")
	if len(problems) > 0 {
		t.Fatalf("%q became %q: %v", content, out, problems)
	}
	want := slices.Sorted(strings.Lines(dump(before)))
	name, _ := normalName(host)
	want = append(want, fmt.Sprintln(addr.Unmap(), name))
	slices.Sort(want)
	if got := slices.Sorted(strings.Lines(dump(after))); !slices.Equal(got, want) {
		t.Fatalf("%q became %q, which says %q", content, out, got)
	}
	if addrs := after.find(host); addrs[len(addrs)-1] != addr.Unmap() {
		t.Fatalf("%s has %v", host, addrs)
	}
	back, err := Remove(out, "hosts", host, addr)
	if err != nil || string(back) != content {
		t.Fatalf("added and removed again: %v\n%q\n%q\n%q", err, content, out, back)
	}
}

func TestRandomHosts(t *testing.T) {
	for seed := range uint64(3000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		pick := func(from ...string) string { return from[rnd.IntN(len(from))] }
		var b strings.Builder
		for range rnd.IntN(8) {
			b.WriteString(pick("", "", "", " "))
			if rnd.IntN(4) > 0 {
				b.WriteString(pick("10.0.0.1", "10.0.0.115", "10.10.10.10", "2001:DB8::1", "::ffff:10.0.0.1"))
				for range 1 + rnd.IntN(3) {
					b.WriteString(pick(" ", "  ", "   ", "\t", "\t\t", " \t") + pick("a", "A", "b.corp", "B.corp.", "c-1", "db"))
				}
			}
			b.WriteString(pick("", "", "", " ", "\t# a", "# b", "#") + pick("\n", "\n", "\r\n"))
		}
		text, host, addr := b.String(), pick("a", "B.CORP", "c-1", "new"), netip.MustParseAddr(pick("10.0.0.1", "10.0.0.9", "2001:db8::1"))
		checkRoundTrip(t, text, host, addr)

		before, problems := Parse(strings.NewReader(text), "hosts")
		if before == nil {
			t.Fatalf("seed %d: %v", seed, problems)
		}
		out, err := Remove([]byte(text), "hosts", host, addr)
		if has := slices.Contains(before.find(host), addr); has != (err == nil) {
			t.Fatalf("seed %d: %q has %s: %v, %v\n%s", seed, host, addr, has, err, text)
		}
		if err != nil {
			continue
		}
		name, _ := normalName(host)
		want := strings.Replace("\n"+dump(before), fmt.Sprintf("\n%s %s\n", addr, name), "\n", 1)
		if after, _ := Parse(strings.NewReader(string(out)), "hosts"); "\n"+dump(after) != want {
			t.Fatalf("seed %d: without %s %s\n%s\n%s", seed, addr, name, text, out)
		}
	}
}

func FuzzAddHost(f *testing.F) {
	f.Add("# hosts\n10.0.0.1\ta b  # c\r\n", "rds", "10.0.11.147")
	f.Add("\ufeff10.0.0.115   appserver\n10.0.11.147  rds\n\n", "App.", "2001:db8::1")
	f.Add("10.0.0.1 a", "a", "::ffff:10.0.0.1")
	f.Fuzz(func(t *testing.T, content, host, address string) {
		addr, _ := netip.ParseAddr(address)
		checkRoundTrip(t, content, host, addr)
		before, _ := Parse(strings.NewReader(content), "hosts")
		for _, name := range before.Names() {
			gone := before.find(name)[0]
			out, err := Remove([]byte(content), "hosts", name, gone)
			if err != nil {
				continue
			}
			after, problems := Parse(strings.NewReader(string(out)), "hosts")
			if after == nil || slices.Contains(after.find(name), gone) {
				t.Fatalf("%q without %s %s: %q, %v", content, gone, name, out, problems)
			}
		}
	})
}
