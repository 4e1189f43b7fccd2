//go:build linux

package e2e

import (
	"net"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
)

// TestNothingForbiddenIsDialledHoweverItIsSpelt asks for addresses that the
// fence holds, in all the spellings that some resolver somewhere takes. The
// policy grants everything and the fence's networks are as wide as can be, so
// that only the rules about spellings and classes of addresses stand in the
// way. The witnesses are a listener on every address of the namespace, and
// the kernel's own count of connections begun.
func TestNothingForbiddenIsDialledHoweverItIsSpelt(t *testing.T) {
	t.Parallel()
	needRoot(t, "it gives a network namespace the addresses that must not be dialled")
	away, here := newWire(t)
	for _, own := range []string{"169.254.169.254/32 dev lo", "169.254.7.7/32 dev lo", "10.99.0.1/32 dev lo", "fd00:ec2::254/128 dev lo nodad", "fd00:99::1/128 dev lo nodad", "100.100.100.200/32 dev lo"} {
		here.set(t, "addr add "+own)
	}
	const allowedIP = "127.0.0.77"
	policy := standardUsers(t) + `
targets:
  - name: everything
    hosts: [appserver, nowhere, localhost, ip6-localhost, metadata, mixed, "*.example", "0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"]
    ports: ["1-65535"]
grants:
  - {name: all, users: [alice], to: [everything]}
`
	hosts := allowedIP + " appserver mixed\n127.0.0.1 localhost\n::1 ip6-localhost\n169.254.169.254 metadata\n10.99.0.1 own.example\n127.0.0.1 mixed\n"
	b := newBastion(t, setup{
		listen: here.ip + ":0", wrap: here.run(), policy: policy, hosts: hosts,
		networks: []string{allowedIP + "/32", "127.0.0.0/8", "10.0.0.0/8", "169.254.0.0/16", "100.64.0.0/10", "fd00::/8", "fe80::/10", "::/8", "64:ff9b::/96", "224.0.0.0/4"},
	})

	// The witness: one listener that takes connections to any address that
	// the namespace has, of either family.
	witness := serveOn(t, here.listen(t, "[::]:0"), func(c *net.TCPConn) { c.Close() })
	port := witness.port
	for _, addr := range []string{"127.0.0.1", "169.254.169.254", "[::1]", "[fd00:99::1]", here.ip} {
		here.dial(t, addr+":"+strconv.Itoa(port)).Close() // it works
	}
	eventually(t, "the witness to have seen all", func() bool { return witness.accepted.Load() == 5 })
	allowed := serveOn(t, here.listen(t, allowedIP+":0"), greet)

	config := b.clientConfig("alice", ssh.PublicKeys(alice(t).signer))
	c, err := b.handshake(away.dial(t, b.addr), config)
	if err != nil {
		t.Fatal(err)
	}
	dialled := here.dialled(t)

	const (
		badHost  = "bad_host"
		loopback = "loopback"
		metadata = "metadata"
	)
	cases := []struct {
		host   string
		reason string
	}{
		// The loopback address in other words.
		{"127.0.0.1", loopback}, {"127.1", badHost}, {"127.0.1", badHost}, {"0x7f.1", badHost}, {"0x7f000001", badHost},
		{"0x7F.0.0.1", badHost}, {"2130706433", badHost}, {"017700000001", badHost}, {"0177.0.0.1", badHost}, {"0177.0.0.01", badHost},
		{"127.0.0.01", badHost}, {"127.00.0.1", badHost}, {"127.0.0.1.", badHost}, {"127.0.0.1..", badHost}, {".127.0.0.1", badHost},
		{"127.0.0.1 ", badHost}, {" 127.0.0.1", badHost}, {"127.0.0.1\x00", badHost}, {"127.0.0.1\n", badHost}, {"127.0.0.1%lo", badHost},
		{"127.0.0.1/32", badHost}, {"127.0.0.1:80", badHost}, {"127.0.0.1@10.0.0.1", badHost}, {"127。0。0。1", badHost},
		{"１２７.0.0.1", badHost}, {"①②⑦.0.0.1", badHost}, {"127.0.0.256", badHost}, {"127.255.255.254", loopback}, {"127.0.0.2", loopback},
		{"::1", loopback}, {"[::1]", badHost}, {"[127.0.0.1]", badHost}, {"0:0:0:0:0:0:0:1", badHost}, {"::0001", badHost}, {"::1%lo", badHost}, {"::1%", badHost},
		{"::ffff:127.0.0.1", loopback}, {"::FFFF:127.0.0.1", loopback}, {"::ffff:7f00:1", badHost}, {"0:0:0:0:0:ffff:127.0.0.1", badHost},
		{"::ffff:0:127.0.0.1", badHost}, {"::127.0.0.1", badHost}, {"::7f00:1", loopback}, {"64:ff9b::7f00:1", loopback}, {"64:ff9b::127.0.0.1", badHost},
		{"localhost", loopback}, {"LOCALHOST", loopback}, {"localhost.", loopback}, {"LocalHost.", loopback}, {"localhost..", badHost},
		{"ip6-localhost", loopback}, {"localhost\x00.example", badHost}, {"local\thost", badHost}, {"lo\u200bcalhost", badHost}, {"ｌｏｃａｌｈｏｓｔ", badHost}, {"localhoſt", badHost},
		// All addresses, and none.
		{"0.0.0.0", "unspecified"}, {"0", badHost}, {"0.0", badHost}, {"0x0", badHost}, {"00000000", badHost}, {"::", "unspecified"}, {"0.0.0.1", "unspecified"}, {"::ffff:0.0.0.0", "unspecified"},
		{"255.255.255.255", "multicast"}, {"224.0.0.1", "multicast"}, {"ff02::1", "multicast"},
		// Where clouds hand out credentials.
		{"169.254.169.254", metadata}, {"0xa9fea9fe", badHost}, {"2852039166", badHost}, {"0251.0376.0251.0376", badHost}, {"169.254.43518", badHost},
		{"::ffff:169.254.169.254", metadata}, {"64:ff9b::a9fe:a9fe", metadata}, {"fd00:ec2::254", metadata}, {"FD00:EC2::254", metadata}, {"fd00:0ec2::254", badHost},
		{"metadata", metadata}, {"100.100.100.200", metadata},
		{"169.254.7.7", "link_local"}, {"fe80::1", "link_local"}, {"fe80::1%lo", badHost}, {"fe80::1%25lo", badHost}, {"FE80::1%wire1", badHost},
		// The server's own.
		{here.ip, "own_address"}, {"10.99.0.1", "own_address"}, {"::ffff:10.99.0.1", "own_address"}, {"fd00:99::1", "own_address"}, {"64:ff9b::a63:1", "own_address"},
		{"own.example", "own_address"}, {"OWN.example.", "own_address"}, {"10.99.1", badHost}, {"012.99.0.1", badHost}, {"10.0x63.0.1", badHost},
		// Names that are no names.
		{"", badHost}, {".", badHost}, {"..", badHost}, {"-", badHost}, {"*", badHost}, {"*.example", badHost}, {"a..example", badHost}, {"-a.example", badHost},
		{"appserver/", badHost}, {"appserver:22", badHost}, {"app server", badHost}, {"appserver\r\n", badHost}, {"\x1b[2Jappserver", badHost}, {"appserver\x7f", badHost}, {"appſerver", badHost}, {"\xff\xfe", badHost},
		{"/etc/passwd", badHost}, {"../hosts", badHost}, {strings.Repeat("a", 254), badHost}, {strings.Repeat("a", 64) + ".example", badHost}, {strings.Repeat("a.", 127) + "a1", badHost}, {strings.Repeat("x", 100000), badHost},
		// Names that nobody knows.
		{"nowhere", "no_such_name"}, {"NOWHERE.", "no_such_name"},
		// Outside the networks.
		{"192.0.2.1", "outside_networks"}, {"8.8.8.8", "outside_networks"}, {"2001:db8::1", "outside_networks"},
	}
	for _, tc := range cases {
		refusal := c.refused(tc.host, port)
		if refusal.Reason != ssh.Prohibited {
			t.Errorf("%.60q: the answer is %v (%s), want administratively prohibited", tc.host, refusal.Reason, refusal.Message)
		}
		if strings.ContainsFunc(refusal.Message, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("%.60q: the answer holds control characters: %q", tc.host, refusal.Message)
		}
	}
	// Odd ports.
	for _, port := range []int{0, 65536, 65536 + 22, 1<<32 - 1} {
		c.refused("appserver", port)
	}

	denials := b.denied(len(cases) + 4)
	for i, tc := range cases {
		d := denials[i]
		if d.Reason != tc.reason {
			t.Errorf("%.60q: the recorded reason is %q (%s), want %q", tc.host, d.Reason, d.Detail, tc.reason)
		}
		if d.User != "alice" || d.Target.Port != uint32(port) || !strings.HasPrefix(tc.host, strings.TrimRight(firstOf(d.Target.Host, 8), "\ufffd")) {
			t.Errorf("%.60q: the record is of %s at %.60q port %d", tc.host, d.User, d.Target.Host, d.Target.Port)
		}
	}
	for _, d := range denials[len(cases):] {
		if d.Reason != "bad_port" {
			t.Errorf("port %d: the recorded reason is %q, want bad_port", d.Target.Port, d.Reason)
		}
	}
	if n := here.dialled(t) - dialled; n != 0 {
		t.Errorf("%d connections were begun while all was refused", n)
	}
	if n := witness.accepted.Load(); n != 5 {
		t.Errorf("the witness was reached %d times", n-5)
	}
	if n := b.count(audit.ForwardOpen); n != 0 {
		t.Errorf("%d forwards were opened", n)
	}
	for line := range strings.Lines(b.text()) {
		if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("a record holds control characters: %q", line)
		}
	}

	// The same client reaches what it may, in the spellings that are one.
	for _, host := range []string{"appserver", "APPSERVER", "appserver.", "AppServer.", allowedIP, "::ffff:" + allowedIP} {
		ch, err := c.open(host, allowed.port)
		if err != nil {
			t.Errorf("%q: %v", host, err)
			continue
		}
		readLine(t, ch)
		ch.Close()
	}
	// Of a name's addresses only those inside the fence are dialled.
	ch := c.mustOpen("mixed", allowed.port)
	readLine(t, ch)
	ch.Close()
	open := b.forwards(7)[6].open
	if open.Address.Addr().String() != allowedIP || len(open.Dropped) != 1 || open.Dropped[0].Addr.String() != "127.0.0.1" || open.Dropped[0].Reason != loopback {
		t.Errorf("mixed was opened at %v, and %v was dropped", open.Address, open.Dropped)
	}
	if n := here.dialled(t) - dialled; n != 7 {
		t.Errorf("%d connections were begun for 7 forwards", n)
	}
}

func firstOf(s string, n int) string { return s[:min(n, len(s))] }

// TestLoopbackIsReachedOnlyWhereItIsListed is the part that needs no namespace:
// what is on loopback and not listed one by one is never dialled.
func TestLoopbackIsReachedOnlyWhereItIsListed(t *testing.T) {
	t.Parallel()
	policy := standardUsers(t) + `
targets:
  - {name: everything, hosts: ["127.0.0.0/8", "::1", localhost], ports: ["1-65535"]}
grants:
  - {name: all, users: [alice], to: [everything]}
`
	b := newBastion(t, setup{policy: policy, networks: []string{"127.0.0.0/8", appserverIP + "/32"}, hosts: "127.0.0.1 localhost\n"})
	c := b.login(alice(t))
	var witnesses []*target
	for _, ip := range []string{"127.0.0.1", rdsIP, "::1", "127.1.2.3"} {
		l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
		if err != nil {
			if ip == "::1" {
				continue // this machine has no IPv6
			}
			t.Fatal(err)
		}
		w := serveOn(t, l, greet)
		witnesses = append(witnesses, w)
		c.refused(ip, w.port)
		if ip == "127.0.0.1" {
			c.refused("localhost", w.port)
		}
	}
	ok := serve(t, appserverIP, greet)
	readLine(t, c.mustOpen(appserverIP, ok.port))
	for _, w := range witnesses {
		if n := w.accepted.Load(); n != 0 {
			t.Errorf("%s was reached %d times", w.ip, n)
		}
	}
	for _, d := range b.denied(len(witnesses) + 1) {
		if d.Reason != "loopback" {
			t.Errorf("%s is denied for %q, want loopback", d.Target.Host, d.Reason)
		}
	}
}
