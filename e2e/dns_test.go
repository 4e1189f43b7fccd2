//go:build linux

package e2e

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"sekisho/audit"
)

const (
	dnsIP   = "127.0.0.9"  // of the DNS server, on port 53
	fenceIP = "127.0.0.10" // that networks does not list
)

// TestNamesAreAskedOfDNSOnlyAndOnlyThoseThatMayBe runs the server in a mount
// namespace, where resolv.conf names a DNS server of the test and a search
// domain, and where /etc/hosts says what nobody should believe. Both binaries
// are tried: the resolver of the C library could only be in one of them.
func TestNamesAreAskedOfDNSOnlyAndOnlyThoseThatMayBe(t *testing.T) {
	t.Parallel()
	needRoot(t, "it gives the server an /etc/resolv.conf and an /etc/hosts of its own")
	dns := serveDNS(t, dnsIP)
	t.Run("race", func(t *testing.T) { testDNS(t, dns, raceBinary) })
	t.Run("static", func(t *testing.T) { testDNS(t, dns, staticBinary) })
}

func testDNS(t *testing.T, dns *nameServer, binary string) {
	const searched = "search.example"
	dns.reset(map[string]string{
		"spelt.corp.example.":    appserverIP,
		"long.corp.example.":     appserverIP,
		"disputed.corp.example.": appserverIP,
		"moving.corp.example.":   appserverIP,
		"db.zone.example.":       appserverIP,
		// What must not be asked would be answered.
		"outside.example.":                       appserverIP,
		"notzone.example.":                       appserverIP,
		"single.":                                appserverIP,
		"single." + searched + ".":               appserverIP,
		"unknown.corp.example." + searched + ".": appserverIP,
		"trap.corp.example." + searched + ".":    appserverIP,
	}, "long.corp.example.")

	etc := t.TempDir()
	resolv, hosts := filepath.Join(etc, "resolv.conf"), filepath.Join(etc, "hosts")
	writeFile(t, resolv, "nameserver "+dnsIP+"\nsearch "+searched+"\n")
	writeFile(t, hosts, "127.0.0.1 localhost\n"+appserverIP+" trap.corp.example trap.zone.example outside.example notzone.example single\n"+
		rdsIP+" disputed.corp.example\n")
	b := newBastion(t, setup{
		binary: binary,
		policy: standardUsers(t) + `
targets:
  - {name: names, hosts: [spelt.corp.example, long.corp.example, disputed.corp.example, moving.corp.example, unknown.corp.example, trap.corp.example, single], ports: ["1-65535"]}
  - {name: network, hosts: ["127.0.0.0/8"], ports: ["1-65535"]}
grants:
  - {name: spelt, users: [alice], to: [names]}
  - {name: wide, users: [alice], to: [network]}
`,
		settings: map[string]any{"dns": map[string]any{"zones": []string{"zone.example"}}},
		wrap: []string{"unshare", "-m", "--propagation", "private", "sh", "-ec",
			`mount --bind "$1" /etc/resolv.conf; mount --bind "$2" /etc/hosts; shift 2; exec "$@"`, "sh", resolv, hosts},
	})

	host := serve(t, appserverIP, greet)
	witness := func(ip string) *target {
		l, err := net.Listen("tcp", host.as(ip))
		if err != nil {
			t.Fatal(err)
		}
		return serveOn(t, l, greet)
	}
	other, fenced := witness(rdsIP), witness(fenceIP)
	c := b.login(alice(t))

	var asked []string // names that DNS should have been asked for
	reached := 0
	reach := func(name, grant string) {
		t.Helper()
		asked = append(asked, name+".")
		ch, err := c.open(name, host.port)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		readLine(t, ch)
		ch.echoes()
		ch.Close()
		reached++
		open := b.recorded(audit.ForwardOpen, func(r audit.Record) bool { return r.Target.Host == name })
		if open.Grant != grant || open.Address.Addr().String() != appserverIP {
			t.Errorf("%s was opened under the grant %s at %v, want %s at %s", name, open.Grant, open.Address, grant, appserverIP)
		}
	}
	denials := 0
	refuse := func(name, reason, says string) {
		t.Helper()
		ch, err := c.open(name, host.port)
		if err == nil {
			ch.Close()
			t.Errorf("%s was opened", name)
			reached++
			return
		}
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%s is refused with %q, want %q in it", name, err, says)
		}
		denials++
		if d := b.denied(denials)[denials-1]; d.Reason != reason || d.Target.Host != name {
			t.Errorf("%s is denied for %q (record of %s), want %q", name, d.Reason, d.Target.Host, reason)
		}
	}

	// Somebody whom no grant names the host learns nothing about it.
	const hidden = "(no grant)"

	reach("spelt.corp.example", "spelt")
	reach("long.corp.example", "spelt") // by TCP, since the answer does not fit
	reach("db.zone.example", "wide")
	refuse("outside.example", "no_such_name", hidden)
	refuse("notzone.example", "no_such_name", hidden)
	refuse("single", "no_such_name", "has no address here")

	// The search domain would add to names that do not exist.
	asked = append(asked, "unknown.corp.example.")
	refuse("unknown.corp.example", "no_such_name", "has no address here")

	// Nobody believes the machine's /etc/hosts.
	asked = append(asked, "trap.corp.example.", "trap.zone.example.")
	refuse("trap.corp.example", "no_such_name", "has no address here")
	refuse("trap.zone.example", "no_such_name", hidden)
	reach("disputed.corp.example", "spelt")

	// What DNS says is judged each time.
	reach("moving.corp.example", "spelt")
	dns.set("moving.corp.example.", fenceIP)
	refuse("moving.corp.example", "loopback", "may not open moving.corp.example")
	dns.set("moving.corp.example.", "192.0.2.9")
	refuse("moving.corp.example", "outside_networks", "may not open moving.corp.example")

	if n := host.accepted.Load(); n != int64(reached) {
		t.Errorf("the target was reached %d times for %d forwards", n, reached)
	}
	for _, w := range []*target{other, fenced} {
		if n := w.accepted.Load(); n != 0 {
			t.Errorf("%s was reached %d times", w.ip, n)
		}
	}
	b.forwards(reached)
	slices.Sort(asked)
	var got []string
	long := map[string]bool{}
	for _, q := range dns.questions() {
		got = append(got, q.name)
		if q.name == "long.corp.example." {
			long[q.transport] = true
		}
	}
	slices.Sort(got)
	if got = slices.Compact(got); !slices.Equal(got, asked) {
		t.Errorf("DNS was asked for\n\t%q, want\n\t%q", got, asked)
	}
	if !long["udp"] || !long["tcp"] {
		t.Errorf("the name whose answer does not fit was asked by %v, want by udp and tcp", long)
	}
}

// nameServer is a DNS server that records what it is asked.
type nameServer struct {
	mu    sync.Mutex
	names map[string]string // to their IPv4 addresses
	cut   string            // a name whose answer does not fit into UDP
	asked []question
}

type question struct{ transport, name string }

func (s *nameServer) reset(names map[string]string, cut string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names, s.cut, s.asked = names, cut, nil
}

func (s *nameServer) set(name, address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[name] = address
}

func (s *nameServer) questions() []question {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// serveDNS runs a DNS server, by UDP and TCP, until the test ends.
func serveDNS(t *testing.T, ip string) *nameServer {
	t.Helper()
	s := &nameServer{}
	conn, err := net.ListenPacket("udp", net.JoinHostPort(ip, "53"))
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if out, err := s.answer("udp", buf[:n]); err == nil {
				conn.WriteTo(out, from)
			}
		}
	})
	t.Cleanup(func() { conn.Close(); running.Wait() })
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "53"))
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, func(c *net.TCPConn) {
		for {
			var size [2]byte
			if _, err := io.ReadFull(c, size[:]); err != nil {
				return
			}
			query := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(c, query); err != nil {
				return
			}
			out, err := s.answer("tcp", query)
			if err != nil {
				return
			}
			c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
		}
	})
	return s
}

func (s *nameServer) answer(transport string, query []byte) ([]byte, error) {
	var msg dnsmessage.Message
	if err := msg.Unpack(query); err != nil {
		return nil, err
	}
	if len(msg.Questions) != 1 {
		return nil, errors.New("not one question")
	}
	q := msg.Questions[0]
	name := strings.ToLower(q.Name.String())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, question{transport, name})
	msg.Response, msg.RecursionAvailable, msg.Additionals = true, true, nil
	address, ok := s.names[name]
	switch {
	case !ok:
		msg.RCode = dnsmessage.RCodeNameError
	case q.Type != dnsmessage.TypeA:
	case name == s.cut && transport == "udp":
		msg.Truncated = true
	default:
		msg.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
			Body:   &dnsmessage.AResource{A: netip.MustParseAddr(address).As4()},
		}}
	}
	return msg.Pack()
}
