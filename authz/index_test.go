package authz

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// several returns some of from, each once.
func several[T any](rnd *rand.Rand, most int, from []T) (out []T) {
	for _, i := range rnd.Perm(len(from))[:rnd.IntN(min(most, len(from))+1)] {
		out = append(out, from[i])
	}
	return out
}

func TestBothWaysOfSearchingFindTheSame(t *testing.T) {
	rnd := rand.New(rand.NewPCG(12, 12))
	var hosts, groups []string
	for i := range 40 {
		hosts = append(hosts, fmt.Sprintf("host%d", i%8), fmt.Sprintf("web%d-*.corp.example", i%4), fmt.Sprintf("*-%d.corp.example", i%4),
			fmt.Sprintf("w*%d.corp.example", i%4), fmt.Sprintf("*.web%d-*.corp.example", i%4), fmt.Sprintf("%c*", 'a'+i%20), fmt.Sprintf("10.0.%d.0/24", i%4), fmt.Sprintf("10.0.%d.7", i%4))
		groups = append(groups, fmt.Sprintf("g%d", i))
	}
	asked := []string{"host1", "host9", "web1-x.corp.example", "x.web1-y.corp.example", "web2-.corp.example", "a-1.corp.example", "web1-2.corp.example",
		"corp.example", "-1.corp.example", "w3.corp.example", "w.corp.example", "b", "abc", "10.0.1.7", "10.0.1.8", "10.0.9.1"}
	ports := []portRange{{22, 22}, {80, 80}, {1000, 2000}, {1, 65535}}
	broad, many, denied, conditional := 0, 0, 0, 0
	for range 60 {
		b := newBuild()
		var users []*user
		var targets []*target
		for i := range 30 {
			users = append(users, b.user(fmt.Sprintf("user%d", i), several(rnd, 1+rnd.IntN(30), groups)...))
		}
		for range 1 + rnd.IntN(30) {
			tg := b.target(append(several(rnd, 2, ports), ports[rnd.IntN(4)]), several(rnd, 12, hosts)...)
			if rnd.IntN(4) == 0 {
				tg.within = makeNetworks(prefixes("10.0.1.0/25"))
			}
			targets = append(targets, tg)
		}
		for range rnd.IntN(60) {
			most := 1 + rnd.IntN(2)*30
			g := b.grant(several(rnd, most, users), several(rnd, most, groups), several(rnd, most, targets)...)
			if rnd.IntN(4) == 0 {
				g.cond = &conditions{touch: true}
			}
		}
		p := b.finish()
		for _, tg := range targets {
			broad += len(tg.broad)
		}
		for range 200 {
			u := users[rnd.IntN(len(users))]
			r := Request{User: u.name, Key: AnyKey, Host: asked[rnd.IntN(len(asked))], Port: []uint32{22, 80, 1500, 9999}[rnd.IntN(4)], Touch: rnd.IntN(2) == 0}
			if rnd.IntN(2) == 0 {
				r.Addr = netip.MustParseAddr([]string{"10.0.1.7", "10.0.1.200", "10.0.8.8"}[rnd.IntN(3)])
			}
			name, literal, _ := parseHost(r.Host)
			q := query{Request: r, addr: literal, port: uint16(r.Port)}
			if !literal.IsValid() {
				q.name = name
			}
			if r.Addr.IsValid() {
				q.addr, q.second = r.Addr, true
			}
			byTargets, ok := p.searchTargets(u, &q, math.MaxInt)
			byGrants := p.searchGrants(u, &q)
			if !ok || byTargets.grant != byGrants.grant || byTargets.blocked != byGrants.blocked && byGrants.grant == none ||
				byTargets.named != byGrants.named || byTargets.outside != byGrants.outside && byGrants.grant == none {
				t.Fatalf("%+v: through targets %+v, through grants %+v", r, byTargets, byGrants)
			}
			many += len(u.subjects) / 10
			if byGrants.conditional > 0 {
				conditional++
			}
			if byGrants.grant == none {
				denied++
			}
		}
	}
	if broad == 0 || many == 0 || denied == 0 || conditional == 0 {
		t.Errorf("never tried: broad %d, many groups %d, denied %d, conditional %d", broad, many, denied, conditional)
	}
}

func TestTheFirstWithAPortIsAsGoingThroughThemTells(t *testing.T) {
	rnd := rand.New(rand.NewPCG(13, 13))
	for range 300 {
		most := 1 << (1 + rnd.IntN(16))
		var fs firstPorts
		var sets []portSet
		for n := range rnd.IntN(12) {
			var ranges []portRange
			for range rnd.IntN(4) {
				low := rnd.IntN(most)
				ranges = append(ranges, portRange{uint16(low), uint16(min(low+rnd.IntN(1+most/2), most-1))})
			}
			sets = append(sets, makePorts(ranges))
			fs.add(sets[n], n)
		}
		for range 200 {
			port := uint16(rnd.IntN(most))
			want := slices.IndexFunc(sets, func(ps portSet) bool { return ps.contains(port) })
			if got, ok := fs.find(port); ok != (want >= 0) || ok && got != want {
				t.Fatalf("port %d is first in %d, %t, want %d: %v, made %v", port, got, ok, want, sets, fs)
			}
		}
		for i := 1; i < len(fs); i++ {
			if fs[i].low <= fs[i-1].high {
				t.Fatalf("not disjoint: %v", fs)
			}
		}
	}
}

func TestEveryMatchingPatternIsFound(t *testing.T) {
	rnd := rand.New(rand.NewPCG(14, 14))
	text := func(most int, from string) string {
		b := make([]byte, 1+rnd.IntN(most))
		for i := range b {
			b[i] = from[rnd.IntN(len(from))]
		}
		return string(b)
	}
	found := 0
	for range 100 {
		b := newBuild()
		u := b.user("u")
		stars := map[*target]pattern{}
		for range 60 {
			s := text(6, "ab.*")
			if rnd.IntN(2) == 0 {
				s += ".example"
			}
			p, message, _ := parsePattern(s)
			if message != "" {
				continue
			}
			tg := b.target([]portRange{{22, 22}}, p.text)
			b.grant([]*user{u}, nil, tg)
			stars[tg] = p
		}
		p := b.finish()
		for range 200 {
			name, _, msg := parseHost(text(6, "ab.") + []string{"", ".example"}[rnd.IntN(2)])
			if msg != "" {
				continue
			}
			got := map[*target]bool{}
			p.index.visit(&query{name: name}, func(t *target, named bool) bool { got[t] = named; return true })
			for tg, star := range stars {
				if got[tg] != star.match(name) {
					t.Fatalf("%q and %q: found %t", name, star.text, got[tg])
				}
			}
			found += len(got)
		}
	}
	if found < 1000 {
		t.Errorf("only %d were found", found)
	}
}
