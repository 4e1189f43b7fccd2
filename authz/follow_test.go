package authz

import (
	"net/netip"
	"testing"
	"time"
)

func TestFollowDNSIsThatOfTheTargetThatNamesTheHost(t *testing.T) {
	p := mustParse(t, `
version: 1
users:
  - {name: alice, groups: [dev], keys: [KEY1]}
  - {name: bob, groups: [dev], keys: [KEY2]}
targets:
  - {name: db, hosts: [rds, "db-*.corp.example"], ports: [3306], follow_dns: 30s}
  - {name: slow, hosts: [rds, cache], ports: ["1-65535"], within: [10.0.1.0/24], follow_dns: 5m}
  - {name: still, hosts: [rds], ports: [22]}
  - {name: net, hosts: [10.0.1.0/24], ports: ["1-65535"], follow_dns: 10s}
grants:
  - {name: early, users: [bob], to: [still, slow], when: {until: 2026-12-31}}
  - {name: all, groups: [dev], to: [net, db, still, slow]}
`, Options{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}, Zones: []string{"zone.example"}})
	inside, outside := netip.MustParseAddr("10.0.1.5"), netip.MustParseAddr("10.0.2.5")
	before, after := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name string
		n    int
		host string
		port uint32
		addr netip.Addr
		at   time.Time
		want time.Duration
	}{
		{"the first target that names the host", 1, "rds", 3306, inside, after, 30 * time.Second},
		{"by a pattern", 1, "db-1.corp.example", 3306, outside, after, 30 * time.Second},
		{"one without it comes first", 1, "rds", 22, outside, after, 0},
		{"the port leads to another target", 1, "rds", 23, inside, after, 5 * time.Minute},
		{"an address is no name", 1, "10.0.1.5", 3306, inside, after, 0},
		{"a name that only a network allows", 1, "x.zone.example", 3306, inside, after, 0},
		{"of the grant that carries it", 2, "rds", 3306, inside, before, 5 * time.Minute},
		{"of the one that takes over", 2, "rds", 3306, inside, after, 30 * time.Second},
		{"within leaves a target out", 2, "rds", 3306, outside, before, 30 * time.Second},
		{"a name with an address outside of the fence", 1, "rds", 3306, netip.MustParseAddr("192.0.2.1"), after, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			user := []string{"alice", "bob"}[c.n-1]
			d := p.Decide(Request{User: user, Key: fingerprint(c.n), Host: c.host, Port: c.port, Addr: c.addr, Time: c.at})
			if d.FollowDNS != c.want {
				t.Errorf("%v, want %v, of %+v", d.FollowDNS, c.want, d)
			}
		})
	}
}

func TestCompareTellsOfFollowDNS(t *testing.T) {
	policy := func(follow string) *Policy {
		return mustParse(t, `
version: 1
users: [{name: alice, keys: [KEY1]}]
targets: [{name: db, hosts: [rds], ports: [3306]`+follow+`}]
grants: [{name: all, users: [alice], to: [db]}]
`, Options{})
	}
	changes := policy("").Compare(policy(", follow_dns: 30s"))
	if len(changes) != 1 || len(changes[0].Gains) != 1 || len(changes[0].Loses) != 1 {
		t.Errorf("the change is told as %+v", changes)
	}
}
