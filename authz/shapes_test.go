package authz

import (
	"fmt"
	"net/netip"
	"testing"
)

var port22 = []portRange{{22, 22}}

// spread has ten grants for each user, over twice as many targets as users: of
// ten grants nine are given to users and one to a group, of a hundred one to
// the group of all.
func spread(grants int) *Policy {
	b := newBuild()
	users := make([]*user, grants/10)
	groups := make([]string, max(len(users)/20, 1))
	for i := range groups {
		groups[i] = fmt.Sprintf("group%d", i)
	}
	for i := range users {
		users[i] = b.user(fmt.Sprintf("user%d", i), "all", groups[i%len(groups)], groups[(i*7+1)%len(groups)])
	}
	targets := make([]*target, 2*len(users))
	for i := range targets {
		targets[i] = b.target([]portRange{{22, 22}, {8000, 8100}}, fmt.Sprintf("host%d", i), fmt.Sprintf("web-*.s%d.corp.example", i), fmt.Sprintf("10.%d.%d.%d/28", i>>12&255, i>>4&255, i<<4&255))
	}
	for i := range grants {
		to := targets[i*13%len(targets)]
		switch {
		case i%100 == 99:
			b.grant(nil, []string{"all"}, to)
		case i%10 == 9:
			b.grant(nil, groups[i/10%len(groups):][:1], to)
		default:
			b.grant(users[i%len(users):][:1], nil, to)
		}
	}
	return b.finish()
}

func decideMany(b *testing.B, p *Policy, r Request, want Reason) {
	b.Helper()
	r.Key = AnyKey
	if d := p.Decide(r); d.Reason != want {
		b.Fatalf("%+v", d)
	}
	b.ReportAllocs()
	for b.Loop() {
		p.Decide(r)
	}
}

// BenchmarkDecideGrants shows how the cost of a decision grows with the number
// of grants.
func BenchmarkDecideGrants(b *testing.B) {
	for _, grants := range []int{1000, 10_000, 100_000, 1_000_000} {
		var p *Policy
		b.Run(fmt.Sprint(grants), func(b *testing.B) {
			if p == nil {
				p = spread(grants)
			}
			for _, bm := range []struct {
				name string
				req  Request
				want Reason
			}{
				{"by-name", Request{User: "user5", Host: "host65", Port: 22}, Granted},
				{"by-name-and-address", Request{User: "user5", Host: "host65", Port: 22, Addr: netip.MustParseAddr("10.0.4.1")}, Granted},
				{"by-pattern", Request{User: "user5", Host: "web-1.s65.corp.example", Port: 8050, Addr: netip.MustParseAddr("10.0.4.1")}, Granted},
				{"by-address", Request{User: "user5", Host: "10.0.4.17", Port: 22, Addr: netip.MustParseAddr("10.0.4.17")}, Granted},
				{"no-grant", Request{User: "user5", Host: "host66", Port: 22, Addr: netip.MustParseAddr("10.0.4.33")}, NoGrant},
				{"no-such-host", Request{User: "user5", Host: "nowhere", Port: 23}, NoGrant},
			} {
				b.Run(bm.name, func(b *testing.B) { decideMany(b, p, bm.req, bm.want) })
			}
		})
	}
}

// BenchmarkDecideShapes has policies that are legal and odd. What such a shape
// costs stands at index.
func BenchmarkDecideShapes(b *testing.B) {
	addr := netip.MustParseAddr("10.200.0.1")
	for _, bm := range []struct {
		name string
		make func(build)
		req  Request
		want Reason
	}{
		{"a user with 1000 grants by one group", func(b build) {
			b.user("u", "g")
			for i := range 1000 {
				b.grant(nil, []string{"g"}, b.target(port22, fmt.Sprintf("host%d", i)))
			}
		}, Request{User: "u", Host: "host999", Port: 22}, Granted},
		{"a user in 1000 groups with a grant each", func(b build) {
			var groups []string
			for i := range 1000 {
				groups = append(groups, fmt.Sprintf("g%d", i))
				b.grant(nil, groups[i:], b.target(port22, fmt.Sprintf("host%d", i)))
			}
			b.user("u", groups...)
		}, Request{User: "u", Host: "host999", Port: 22, Addr: addr}, Granted},
		{"a target of 100000 grants of others", others, Request{User: "u", Host: "rds", Port: 22, Addr: addr}, NoGrant},
		{"a target of 100000 grants of others, and 1000 grants elsewhere", func(b build) {
			others(b)
			for range 1000 {
				b.grant(nil, []string{"g"}, b.target(port22, "elsewhere"))
			}
		}, Request{User: "u", Host: "rds", Port: 22, Addr: addr}, NoGrant},
		{"100000 addresses", func(b build) {
			b.user("u", "g")
			for i := range 100_000 {
				b.grant(nil, []string{"g"}, b.target(port22, fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)))
			}
		}, Request{User: "u", Host: "10.1.0.7", Port: 22, Addr: netip.MustParseAddr("10.1.0.7")}, Granted},
		{"all 128 lengths of prefixes", func(b build) {
			b.user("u", "g")
			for i := 1; i <= 128; i++ {
				p, _ := netip.MustParseAddr("fd00::ffff").Prefix(i)
				b.grant(nil, []string{"g"}, b.target(port22, p.String()))
			}
		}, Request{User: "u", Host: "fd00:1::1", Port: 23, Addr: netip.MustParseAddr("fd00:1::1")}, NoGrant},
		{"10000 patterns with heads and the same tail", func(b build) {
			b.user("u", "g")
			for i := range 10_000 {
				b.grant(nil, []string{"g"}, b.target(port22, fmt.Sprintf("web%d-*.corp.example", i)))
			}
		}, Request{User: "u", Host: "web77-1.corp.example", Port: 22, Addr: addr}, Granted},
		{"10000 patterns with ends and the same tail", func(b build) {
			b.user("u", "g")
			for i := range 10_000 {
				b.grant(nil, []string{"g"}, b.target(port22, fmt.Sprintf("*-%d.corp.example", i)))
			}
		}, Request{User: "u", Host: "web-77.corp.example", Port: 22, Addr: addr}, Granted},
		{"10000 patterns of one target", func(b build) {
			b.user("u", "g")
			var hosts []string
			for i := range 10_000 {
				hosts = append(hosts, fmt.Sprintf("web%d-*.corp.example", i))
			}
			b.grant(nil, []string{"g"}, b.target(port22, hosts...))
		}, Request{User: "u", Host: "web77-1.corp.example", Port: 22, Addr: addr}, Granted},
		{"the same pattern of 10000 targets, and 100 grants", func(b build) {
			b.user("u", "g")
			for i := range 10_000 {
				b.grant(nil, []string{[]string{"g", "h"}[min(i%100, 1)]}, b.target(port22, "*.corp.example"))
			}
		}, Request{User: "u", Host: "a.corp.example", Port: 23, Addr: addr}, NoGrant},
		{"10000 patterns with nothing but stars around", func(b build) {
			b.user("u", "g")
			for i := range 10_000 {
				b.grant(nil, []string{"g"}, b.target(port22, fmt.Sprintf("*x%d*.corp.example", i)))
			}
		}, Request{User: "u", Host: "ax77b.corp.example", Port: 22, Addr: addr}, Granted},
		{"a group of all with 10000 grants", func(b build) {
			b.user("u", "all")
			for i := range 10_000 {
				b.grant(nil, []string{"all"}, b.target(port22, fmt.Sprintf("host%d", i), fmt.Sprintf("10.%d.%d.0/28", i>>8, i&255)))
			}
		}, Request{User: "u", Host: "host9999", Port: 22}, Granted},
		{"10000 networks, and one port that only the last has", func(b build) {
			b.user("u", "all")
			for i := range 10_000 {
				b.grant(nil, []string{"all"}, b.target(port22, fmt.Sprintf("10.%d.%d.0/28", i>>8, i&255)))
			}
			b.grant(nil, []string{"all"}, b.target([]portRange{{3306, 3306}}, "10.99.0.0/28"))
		}, Request{User: "u", Host: "somewhere", Port: 3306}, Granted},
		{"1000 grants whose conditions do not hold", func(b build) {
			b.user("u", "g")
			t := b.target(port22, "rds")
			for range 1000 {
				b.grant(nil, []string{"g"}, t).cond = &conditions{touch: true}
			}
		}, Request{User: "u", Host: "rds", Port: 22, Addr: addr}, NeedsTouch},
		{"1000 grants each given to 20 and leading to 20, of others", func(b build) {
			b.user("u", "g")
			var users []*user
			var targets []*target
			for i := range 20 {
				users = append(users, b.user(fmt.Sprintf("v%d", i)))
				targets = append(targets, b.target(port22, fmt.Sprintf("host%d", i)))
			}
			for range 1000 {
				b.grant(users, nil, targets...)
				b.grant(nil, []string{"g"}, b.target(port22, "elsewhere"))
			}
		}, Request{User: "u", Host: "host7", Port: 22, Addr: addr}, NoGrant},
	} {
		b.Run(bm.name, func(b *testing.B) {
			made := newBuild()
			bm.make(made)
			decideMany(b, made.finish(), bm.req, bm.want)
		})
	}
}

// others gives 100,000 grants of a target to 10,000 others.
func others(b build) {
	b.user("u", "g")
	t := b.target(port22, "rds")
	var users []*user
	for i := range 10_000 {
		users = append(users, b.user(fmt.Sprintf("other%d", i)))
	}
	for i := range 100_000 {
		b.grant(users[i%len(users):][:1], nil, t)
	}
}
