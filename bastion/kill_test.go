package bastion

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"sekisho/authz"
)

const killPolicy = `version: 1
users:
  - {name: alice, keys: ["%s"]}
  - {name: alice2, keys: ["%s"]}
  - {name: calice, keys: ["%s"]}
targets:
  - {name: all, hosts: [rds, rds.corp, "*.rds", "10.0.0.0/16"], ports: ["1-65535"]}
grants:
  - {name: everything, users: [alice, alice2, calice], to: [all]}
`

func TestASelectionTakesWhatItNamesAndNothingElse(t *testing.T) {
	s := still(t, parsePolicy(t, fmt.Sprintf(killPolicy, keyLine(1), keyLine(2), keyLine(3))), nil)
	conn := func(user string) *connection {
		_, there := net.Pipe()
		t.Cleanup(func() { there.Close() })
		return stillConnection(s, Principal{User: user, Key: fingerprint(1), Source: netip.MustParseAddrPort("192.0.2.1:1024")}, there)
	}
	addr := netip.MustParseAddr
	all := map[string]*forward{}
	add := func(name string, c *connection, host string, port int, dialled netip.Addr) {
		all[name] = stillForward(t, s, *c.principal(), host, port, dialled, time.Now(), true)
	}
	one, two, upper := conn("alice"), conn("alice"), conn("Alice")
	named := conn("calice")
	one.id, two.id = "cabc", "cabcd" // one a prefix of the other
	for _, c := range []*connection{one, two} {
		c.principal().Conn = c.id
	}
	named.principal().User = "cabc" // a user who is named as a connection is
	add("rds", one, "rds", 3306, addr("10.0.0.1"))
	add("RDS.", one, "RDS.", 5432, addr("10.0.0.1"))
	add("rds.corp", two, "rds.corp", 3306, addr("10.0.0.2"))
	add("x.rds", two, "x.rds", 3306, netip.Addr{})
	add("literal", upper, "10.0.0.1", 3306, addr("10.0.0.1"))
	add("other literal", upper, "10.0.0.11", 3306, addr("10.0.0.11"))
	add("malformed", named, "0x7f.1", 3306, netip.Addr{})
	all["rds"].id, all["rds.corp"].id = "fabc", "fabcd"

	for _, test := range []struct {
		name     string
		sel      Selection
		conns    int
		forwards []string
	}{
		{"nothing", Selection{}, 0, nil},
		{"a port alone", Selection{Port: 3306}, 0, nil},
		{"a connection whose id begins another's", Selection{ID: "cabc"}, 1, []string{"rds", "RDS."}},
		{"the other one", Selection{ID: "cabcd"}, 1, []string{"rds.corp", "x.rds"}},
		{"the beginning of an id", Selection{ID: "cab"}, 0, nil},
		{"an id in upper case", Selection{ID: "CABC"}, 0, nil},
		{"a forward whose id begins another's", Selection{ID: "fabc"}, 0, []string{"rds"}},
		{"a user", Selection{User: "alice"}, 2, []string{"rds", "RDS.", "rds.corp", "x.rds"}},
		{"a user in other case", Selection{User: "Alice"}, 1, []string{"literal", "other literal"}},
		{"a user named like a connection", Selection{User: "cabc"}, 1, []string{"malformed"}},
		{"the id of a user", Selection{ID: "alice"}, 0, nil},
		{"a host", Selection{Host: "rds"}, 0, []string{"rds", "RDS."}},
		{"a host and a port", Selection{Host: "rds", Port: 5432}, 0, []string{"RDS."}},
		{"a host and another port", Selection{Host: "rds", Port: 330}, 0, nil},
		{"a host that begins as another", Selection{Host: "rds.corp"}, 0, []string{"rds.corp"}},
		{"the end of a host", Selection{Host: "corp"}, 0, nil},
		{"an address, however it was named", Selection{Addr: addr("10.0.0.1")}, 0, []string{"rds", "RDS.", "literal"}},
		{"an address and a port", Selection{Addr: addr("10.0.0.1"), Port: 5432}, 0, []string{"RDS."}},
		{"an address that another begins with", Selection{Addr: addr("10.0.0.11")}, 0, []string{"other literal"}},
		{"an address that nobody is at", Selection{Addr: addr("10.0.0.3")}, 0, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			conns, forwards := s.selected(test.sel)
			if len(conns) != test.conns || len(forwards) != len(test.forwards) {
				t.Errorf("%d connections, %d forwards", len(conns), len(forwards))
			}
			for _, name := range test.forwards {
				if !test.sel.forward(all[name]) {
					t.Errorf("not %s", name)
				}
			}
		})
	}

	if conns, forwards := s.Kill("by root", Selection{ID: "fabc"}); conns != 0 || forwards != 1 {
		t.Errorf("%d connections, %d forwards", conns, forwards)
	}
	if conns, forwards := s.Kill("by root", Selection{User: "alice"}, Selection{ID: "cabc"}); conns != 2 || forwards != 4 {
		t.Errorf("%d connections, %d forwards", conns, forwards)
	}
	for name, fw := range all {
		cause, ended := causeOf(fw.cutting, nil), fw.principal.User == "alice"
		if (cause != nil) != ended || ended && (cause.reason != reasonKilled || cause.detail != "by root") {
			t.Errorf("%s: %v", name, cause)
		}
	}
	for _, c := range []*connection{one, two, upper, named} {
		if cause := causeOf(c.ctx, nil); (cause != nil) != (c == one || c == two) {
			t.Errorf("connection %s of %s: %v", c.id, c.principal().User, cause)
		}
	}
}

func TestLiveConnectionsHaveTheirForwards(t *testing.T) {
	s := still(t, parsePolicy(t, fmt.Sprintf(killPolicy, keyLine(1), keyLine(2), keyLine(3))), nil)
	if all, before := s.LiveConnections(); all == nil || len(all) != 0 || before != 0 {
		t.Errorf("%v, %d", all, before)
	}
	_, there := net.Pipe()
	defer there.Close()
	p := Principal{
		User: "alice", Login: "ec2\x1b[2J", Key: fingerprint(1), Client: "SSH-2.0-\x07", Source: netip.MustParseAddrPort("192.0.2.1:1024"),
		Cert: &authz.Cert{Authority: "corp", KeyID: "a\nb", Serial: 7},
	}
	c := stillConnection(s, p, there)
	fw := stillForward(t, s, *c.principal(), "rds", 3306, netip.MustParseAddr("10.0.0.1"), time.Now(), true)
	fw.flow.up.Store(5)
	nobody := stillConnection(s, p, there)
	nobody.proven.Store(nil)
	all, before := s.LiveConnections()
	if len(all) != 1 || before != 1 || len(all[0].Forwards) != 1 {
		t.Fatalf("%+v, %d", all, before)
	}
	v := all[0]
	if v.Conn != c.id || v.User != "alice" || v.Login != "ec2\uFFFD[2J" || v.Client != "SSH-2.0-\uFFFD" || v.KeyID != "a\uFFFDb" || v.Serial != 7 || v.Authority != "corp" {
		t.Errorf("%+v", v)
	}
	if f := v.Forwards[0]; f.Forward != fw.id || f.Up != 5 || f.Target != "rds:3306" {
		t.Errorf("%+v", f)
	}
}

func TestCountsOfBytesNeverBecomeFewer(t *testing.T) {
	s := still(t, parsePolicy(t, fmt.Sprintf(killPolicy, keyLine(1), keyLine(2), keyLine(3))), nil)
	fw := stillForward(t, s, Principal{User: "alice"}, "rds", 3306, netip.MustParseAddr("10.0.0.1"), time.Now(), true)
	fw.flow.up.Store(5)
	fw.flow.down.Store(7)
	for range 3 {
		if c := s.Counts(); c.BytesUp != 5 || c.BytesDown != 7 {
			t.Errorf("%d up, %d down", c.BytesUp, c.BytesDown)
		}
		s.forwarder.live.remove(fw)
	}
}

func TestLimitsInUseNameWhoUsesTheMost(t *testing.T) {
	s := still(t, parsePolicy(t, fmt.Sprintf(killPolicy, keyLine(1), keyLine(2), keyLine(3))), func(c *Config) {
		c.Limits.MaxForwardsPerUser = 3
	})
	for range 2 {
		stillForward(t, s, Principal{User: "alice"}, "rds", 3306, netip.Addr{}, time.Now(), false)
	}
	stillForward(t, s, Principal{User: "Alice"}, "rds", 3306, netip.Addr{}, time.Now(), false)
	s.gate.enter(netip.MustParsePrefix("192.0.2.1/32"))
	want := map[string]LimitUse{
		"max_forwards_per_user":    {"max_forwards_per_user", 2, 3, "alice"},
		"max_forwards":             {"max_forwards", 3, s.limits.MaxForwards, ""},
		"max_startups":             {"max_startups", 1, s.limits.MaxStartups, ""},
		"max_startups_per_source":  {"max_startups_per_source", 1, s.limits.MaxStartupsPerSource, "192.0.2.1/32"},
		"max_connections_per_user": {"max_connections_per_user", 0, s.limits.MaxConnectionsPerUser, ""},
	}
	for _, use := range s.LimitsInUse() {
		if w, ok := want[use.Name]; ok && w != use {
			t.Errorf("%+v, want %+v", use, w)
		}
		delete(want, use.Name)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}
