package authz

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// A model is a policy told as plainly as can be: what is written, and nothing
// made of it.
type model struct {
	users   map[string][]string // to groups
	targets []modelTarget
	grants  []modelGrant
}

type modelTarget struct {
	hosts, within []string
	ports         [][2]int
}

type modelGrant struct {
	users, groups []string
	to            []int
}

func pick[T any](rnd *rand.Rand, most int, from ...T) (out []T) {
	for range rnd.IntN(most + 1) {
		out = append(out, from[rnd.IntN(len(from))])
	}
	return out
}

var (
	modelUsers  = []string{"alice", "bob", "carol"}
	modelGroups = []string{"dev", "dba", "ops", "nobody"}
	modelHosts  = []string{"rds", "app", "web-1.corp.example", "web-*.corp.example", "*.corp.example", "*-db", "a*.*.example", "git.other.example",
		"10.0.1.5", "10.0.1.0/24", "10.0.0.0/16", "10.0.0.0/8", "fd12::/32", "fd12::7", "127.0.0.1", "169.254.169.254"}
	modelWithin = []string{"10.0.1.0/24", "10.0.1.5", "10.0.0.0/17", "fd12::/64", "127.0.0.1"}
	askHosts    = []string{"rds", "app", "other", "web-1.corp.example", "web-2.corp.example", "x.corp.example", "x.y.corp.example", "corp.example", "main-db", "ab.c.example", "git.other.example", "z.other.example",
		"10.0.1.5", "10.0.1.6", "10.0.2.1", "10.1.0.1", "fd12::7", "fd12:0:0:1::8", "127.0.0.1", "169.254.169.254", "11.0.0.1"}
	askAddrs = []string{"10.0.1.5", "10.0.1.6", "10.0.200.1", "10.0.2.1", "10.1.0.1", "fd12::7", "fd12:0:0:1::8", "127.0.0.1", "127.0.0.2", "169.254.169.254", "10.0.0.1", "11.0.0.1"}
	askPorts = []int{22, 80, 3306, 8000, 8050, 8100, 8101}

	modelOptions = Options{Networks: prefixes("10.0.0.0/16", "fd12::/32", "127.0.0.1/32"), Zones: []string{"corp.example"}, Own: addrs("10.0.0.1")}
)

func randomModel(rnd *rand.Rand) model {
	m := model{users: map[string][]string{}}
	for _, u := range modelUsers {
		m.users[u] = pick(rnd, 2, modelGroups[:3]...)
	}
	size := 1 + rnd.IntN(30)
	for range 1 + rnd.IntN(size) {
		t := modelTarget{hosts: pick(rnd, 3, modelHosts...), ports: pick(rnd, 2, [2]int{22, 22}, [2]int{80, 80}, [2]int{3306, 3306}, [2]int{8000, 8100}, [2]int{1, 65535})}
		if len(t.hosts) == 0 {
			t.hosts = []string{"rds"}
		}
		if len(t.ports) == 0 {
			t.ports = [][2]int{{22, 22}}
		}
		if rnd.IntN(3) == 0 {
			t.within = pick(rnd, 2, modelWithin...)
		}
		m.targets = append(m.targets, t)
	}
	for range rnd.IntN(size) {
		g := modelGrant{users: pick(rnd, 1, modelUsers...), groups: pick(rnd, 2, modelGroups...)}
		for range 1 + rnd.IntN(3) {
			g.to = append(g.to, rnd.IntN(len(m.targets)))
		}
		m.grants = append(m.grants, g)
	}
	return m
}

// text writes the model as a policy, leaving out the grant of the index.
func (m model) text(without int) string {
	var b strings.Builder
	quoted := func(s []string) string {
		if len(s) == 0 {
			return "[]"
		}
		return `["` + strings.Join(s, `", "`) + `"]`
	}
	b.WriteString("version: 1\nusers:\n")
	for _, u := range modelUsers {
		fmt.Fprintf(&b, "  - {name: %s, groups: %s}\n", u, quoted(m.users[u]))
	}
	b.WriteString("targets:\n")
	for i, t := range m.targets {
		var ports []string
		for _, r := range t.ports {
			ports = append(ports, fmt.Sprintf("%d-%d", r[0], r[1]))
		}
		fmt.Fprintf(&b, "  - {name: t%d, hosts: %s, ports: %s", i, quoted(t.hosts), quoted(ports))
		if len(t.within) > 0 {
			fmt.Fprintf(&b, ", within: %s", quoted(t.within))
		}
		b.WriteString("}\n")
	}
	grants := "grants:\n"
	for i, g := range m.grants {
		if i == without {
			continue
		}
		var to []string
		for _, t := range g.to {
			to = append(to, fmt.Sprintf("t%d", t))
		}
		grants += fmt.Sprintf("  - {name: g%d, users: %s, groups: %s, to: %s}\n", i, quoted(g.users), quoted(g.groups), quoted(to))
	}
	if grants != "grants:\n" {
		b.WriteString(grants)
	}
	return b.String()
}

func holds(entries []string, a netip.Addr) bool {
	for _, e := range entries {
		if p, err := netip.ParsePrefix(e); err == nil && p.Contains(a) {
			return true
		}
		if b, err := netip.ParseAddr(e); err == nil && a == b {
			return true
		}
	}
	return false
}

// decide answers as the documentation reads, grant by grant.
func (m model) decide(r Request) (d Decision) {
	literal, _ := netip.ParseAddr(r.Host)
	f := newFence(modelOptions.Networks, modelOptions.Own)
	outside := false
	d.Reason = NoGrant
	if r.Addr.IsValid() {
		if literal.IsValid() && literal != r.Addr {
			return d
		}
		if c := f.check(r.Addr); c != "" {
			d.Reason = c
		}
	}
	for i, g := range m.grants {
		given := slices.Contains(g.users, r.User)
		for _, group := range m.users[r.User] {
			given = given || slices.Contains(g.groups, group)
		}
		if !given {
			continue
		}
		for _, ti := range g.to {
			t := m.targets[ti]
			named := false
			nets := false
			for _, h := range t.hosts {
				_, perr := netip.ParsePrefix(h)
				_, aerr := netip.ParseAddr(h)
				if perr == nil || aerr == nil {
					nets = true
				} else if !literal.IsValid() && naive(h, r.Host) {
					named = true
				}
			}
			d.Named = d.Named || named
			port := false
			for _, p := range t.ports {
				port = port || int(r.Port) >= p[0] && int(r.Port) <= p[1]
			}
			fits := false
			switch {
			case r.Addr.IsValid():
				fits = named || holds(t.hosts, r.Addr)
			case literal.IsValid():
				fits = holds(t.hosts, literal)
			default:
				fits = named || nets // the address is still to come
			}
			if !fits || !port {
				continue
			}
			if r.Addr.IsValid() && len(t.within) > 0 && !holds(t.within, r.Addr) {
				outside = true
				continue
			}
			if d.Effect == Deny && d.Reason == NoGrant {
				d.Effect, d.Reason, d.Grant = Allow, Granted, fmt.Sprintf("g%d", i)
			}
		}
	}
	if d.Reason == NoGrant && outside {
		d.Reason = OutsideWithin
	}
	inZone := r.Host == "corp.example" || strings.HasSuffix(r.Host, ".corp.example")
	d.DNS = d.Effect == Allow && !literal.IsValid() && strings.Contains(r.Host, ".") && (d.Named || inZone)
	return d
}

func randomRequest(rnd *rand.Rand) Request {
	r := Request{User: modelUsers[rnd.IntN(len(modelUsers))], Key: AnyKey, Host: askHosts[rnd.IntN(len(askHosts))], Port: uint32(askPorts[rnd.IntN(len(askPorts))])}
	if rnd.IntN(3) > 0 {
		r.Addr = netip.MustParseAddr(askAddrs[rnd.IntN(len(askAddrs))])
		if lit, err := netip.ParseAddr(r.Host); err == nil && rnd.IntN(4) > 0 {
			r.Addr = lit
		}
	}
	return r
}

func TestRandomPoliciesDecideAsTheModelDoes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	allowed, denied := 0, map[Reason]int{}
	for range 150 {
		m := randomModel(rnd)
		p := mustParse(t, m.text(-1), modelOptions)
		for range 200 {
			r := randomRequest(rnd)
			got, want := p.Decide(r), m.decide(r)
			if got.Effect != want.Effect || got.Reason != want.Reason || got.Grant != want.Grant || got.DNS != want.DNS || got.Named != want.Named {
				t.Fatalf("%+v\n got %+v\nwant %+v\n%s", r, got, want, m.text(-1))
			}
			if denied[got.Reason]++; got.Effect == Allow {
				allowed++
			}
		}
	}
	for _, r := range []Reason{Granted, NoGrant, OutsideNetworks, OutsideWithin, OwnAddress, Loopback, Metadata} {
		if denied[r] == 0 {
			t.Errorf("never %s: %v", r, denied)
		}
	}
}

func TestTakingAGrantAwayNeverAllowsMore(t *testing.T) {
	rnd := rand.New(rand.NewPCG(8, 8))
	for range 60 {
		m := randomModel(rnd)
		if len(m.grants) == 0 {
			continue
		}
		full := mustParse(t, m.text(-1), modelOptions)
		less := mustParse(t, m.text(rnd.IntN(len(m.grants))), modelOptions)
		for range 100 {
			r := randomRequest(rnd)
			before, after := full.Decide(r), less.Decide(r)
			if after.Effect == Allow && before.Effect != Allow || after.DNS && !before.DNS || after.Named && !before.Named {
				t.Fatalf("%+v\nwith the grant    %+v\nwithout the grant %+v", r, before, after)
			}
		}
	}
}

// What the second question allows, the first must have allowed too: nothing
// would be resolved otherwise.
func TestTheSecondQuestionNeverAllowsMoreThanTheFirst(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 9))
	for range 60 {
		p := mustParse(t, randomModel(rnd).text(-1), modelOptions)
		for range 100 {
			r := randomRequest(rnd)
			second := p.Decide(r)
			r.Addr = netip.Addr{}
			if first := p.Decide(r); second.Effect == Allow && first.Effect != Allow {
				t.Fatalf("%+v: %+v, then %+v", r, first, second)
			}
		}
	}
}

func TestTheZeroRequestIsDenied(t *testing.T) {
	rnd := rand.New(rand.NewPCG(10, 10))
	for range 20 {
		p := mustParse(t, randomModel(rnd).text(-1), modelOptions)
		if d := p.Decide(Request{}); d.Effect != Deny || d.Reason == "" {
			t.Fatalf("%+v", d)
		}
		if d := p.Decide(Request{Host: "rds", Port: 22, Addr: netip.MustParseAddr("10.0.1.5")}); d.Effect != Deny {
			t.Fatalf("nobody: %+v", d)
		}
	}
	if d := (Decision{}); d.Effect != Deny || d.Effect.String() != "deny" {
		t.Error("the zero decision allows")
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(fill(testPolicy)))
	f.Add([]byte(fill(whenPolicy)))
	rnd := rand.New(rand.NewPCG(11, 11))
	for range 5 {
		f.Add([]byte(randomModel(rnd).text(-1)))
	}
	for _, s := range []string{
		"", "version: 1", "version: 1\nusers: [{name: a}]\n", "version: 1\ntargets: [{name: t, hosts: ['*.a'], ports: [1-2]}]\n",
		"version: 1\nusers: [{name: a, when: {}}]\n", "version: 1\ngrants: [{name: g, users: [a], to: [t]}]\n", "users: &a [*a]", "version: 1\ntimezone: UTC\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, ps := Parse(strings.NewReader(string(text)), "p", modelOptions)
		if (p == nil) != (ps.Err() != nil) {
			t.Fatalf("policy %v with %v", p != nil, ps)
		}
		again, ps2 := Parse(strings.NewReader(string(text)), "p", modelOptions)
		if !slices.Equal(ps, ps2) || again.Hash() != p.Hash() {
			t.Fatal("read again, it is another policy")
		}
		for _, pr := range ps {
			if pr.Message == "" || strings.ContainsAny(pr.Error(), "\n\r\t\x1b") {
				t.Fatalf("unsafe text %q", pr.Error())
			}
		}
		if d := p.Decide(Request{}); d.Effect != Deny {
			t.Fatal("the zero request is allowed")
		}
		if p == nil {
			return
		}
		for name := range p.users {
			p.Groups(name)
			for _, g := range p.Reach(name) {
				for _, tv := range g.Targets {
					for _, h := range tv.Hosts {
						for _, r := range []Request{{User: name, Key: AnyKey, Host: h, Port: 22}, {User: name, Key: AnyKey, Host: h, Port: 22, Addr: netip.MustParseAddr("10.0.1.5")}, {User: name, Key: AnyKey, Host: h, Port: 22, Addr: netip.MustParseAddr("8.8.8.8")}} {
							if d := p.Decide(r); r.Addr.IsValid() && d.Effect == Allow && r.Addr.String() != "10.0.1.5" {
								t.Fatalf("outside the fence: %+v", d)
							}
							checkExplanation(t, p, r)
							r.Time = time.Date(2027, 3, 28, 1, 30, 0, 0, time.UTC)
							checkExplanation(t, p, r)
						}
					}
				}
			}
		}
	})
}
