package authz

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A Policy is a policy file that was read without an error, together with
// what of the server's settings bears on decisions. It never changes, and is
// safe for use by many goroutines. A nil or zero Policy denies everything.
type Policy struct {
	hash     string
	timezone *time.Location
	zones    []string // DNS zones, in normal form
	fence    fence

	users        map[string]*user
	keys         map[string]*user // by the key's wire format
	fingerprints map[string]*user
	targets      []*target
	grants       []*grant
	index        index
}

type user struct {
	id       int32 // his place in the file
	name     string
	groups   []string
	groupIDs []int32
	subjects []*subject // himself, and his groups
}

// A subject is a user or a group as far as grants name it.
type subject struct {
	grants []int32 // in file order
	nets   []int32 // those of grants that have networks or addresses
	ports  portSet // of all those together
	cost   int     // of looking through grants
}

type grant struct {
	name    string
	users   []int32 // sorted
	groups  []int32 // sorted
	targets []*target
	ports   portSet // of its targets that have networks or addresses
}

// covers reports whether the grant is given to the user.
func (g *grant) covers(u *user) bool {
	if _, ok := slices.BinarySearch(g.users, u.id); ok {
		return true
	}
	for _, id := range u.groupIDs {
		if _, ok := slices.BinarySearch(g.groups, id); ok {
			return true
		}
	}
	return false
}

func (p *Policy) user(name string) *user {
	if p == nil {
		return nil
	}
	return p.users[name]
}

// Hash returns "sha256:…" of the file that the policy was read from.
func (p *Policy) Hash() string {
	if p == nil {
		return ""
	}
	return p.hash
}

// Timezone returns the zone that the policy's times are in.
func (p *Policy) Timezone() *time.Location {
	if p == nil || p.timezone == nil {
		return time.UTC
	}
	return p.timezone
}

// WithOwn returns the policy with other addresses of the server itself. It is
// p if they are the same ones, in whatever order.
func (p *Policy) WithOwn(own []netip.Addr) *Policy {
	if p == nil {
		return nil
	}
	set := ownSet(own)
	if maps.Equal(set, p.fence.own) {
		return p
	}
	q := *p
	q.fence.own = set
	return &q
}

// Decide answers a request. It is pure: the same policy and request always
// give the same decision.
func (p *Policy) Decide(r Request) Decision {
	u := p.user(r.User)
	if u == nil {
		return Decision{Reason: UnknownUser, Detail: "the policy has no user " + quote(r.User)}
	}
	if r.Key != AnyKey && p.fingerprints[r.Key] != u {
		return Decision{Reason: KeyRemoved, Policy: p.hash, Detail: fmt.Sprintf("%s has no key %s", u.name, quote(r.Key))}
	}
	host, literal, msg := parseHost(r.Host)
	if msg != "" {
		return Decision{Reason: BadHost, Policy: p.hash, Detail: quote(r.Host) + ": " + msg}
	}
	d := Decision{Host: host, Literal: literal, Policy: p.hash}
	if r.Port < 1 || r.Port > 65535 {
		d.Reason, d.Detail = BadPort, fmt.Sprintf("the port %d is not between 1 and 65535", r.Port)
		return d
	}
	q := query{addr: literal, port: uint16(r.Port)}
	if !literal.IsValid() {
		q.name = host
	}
	if r.Addr != (netip.Addr{}) {
		p.second(u, &q, r.Addr, &d)
	} else {
		p.first(u, &q, &d)
	}
	return d
}

// first answers on host and port alone.
func (p *Policy) first(u *user, q *query, d *Decision) {
	f := p.find(u, q)
	d.Named = f.named
	if q.name != "" {
		// The address is not known yet; it may lie in a network of a grant.
		for _, s := range u.subjects {
			if !s.ports.contains(q.port) {
				continue
			}
			for _, g := range s.nets {
				if g >= f.grant {
					break
				}
				if p.grants[g].ports.contains(q.port) {
					f.grant = g
					break
				}
			}
		}
	}
	if f.grant == none {
		p.noGrant(u, q, f, d)
		return
	}
	d.Effect, d.Reason, d.Grant = Allow, Granted, p.grants[f.grant].name
	d.DNS = q.name != "" && strings.IndexByte(q.name, '.') >= 0 && (f.named || p.inZone(q.name))
}

// second answers for an address that would be dialled.
func (p *Policy) second(u *user, q *query, addr netip.Addr, d *Decision) {
	if q.name == "" && addr.WithZone("").Unmap() != q.addr {
		d.Reason = NoGrant
		d.Detail = fmt.Sprintf("%s is not the address that was asked for, %s", quote(addr.String()), q.addr)
		return
	}
	class := p.fence.check(addr)
	q.addr, q.second = addr.WithZone("").Unmap(), true
	f := p.find(u, q)
	d.Named = f.named
	switch {
	case class != "":
		d.Reason, d.Detail = class, classSentence(addr, class)
	case f.grant != none:
		d.Effect, d.Reason, d.Grant = Allow, Granted, p.grants[f.grant].name
		d.DNS = q.name != "" && strings.IndexByte(q.name, '.') >= 0 && (f.named || p.inZone(q.name))
	case f.outside != none:
		g, t := p.grants[f.outside], f.target
		d.Reason = OutsideWithin
		d.Detail = fmt.Sprintf("%s is outside within of target %q in grant %q", addr, t.name, g.name)
	default:
		p.noGrant(u, q, f, d)
	}
}

func (p *Policy) noGrant(u *user, q *query, f found, d *Decision) {
	d.Reason = NoGrant
	switch {
	case f.named:
		d.Detail = fmt.Sprintf("grants of %s name %s, but not on port %d", u.name, d.Host, q.port)
	case q.second && q.name != "":
		d.Detail = fmt.Sprintf("no grant of %s names %s or has %s, with port %d", u.name, d.Host, q.addr, q.port)
	default:
		d.Detail = fmt.Sprintf("no grant of %s reaches %s with port %d", u.name, d.Host, q.port)
	}
}

// inZone reports whether the name is in one of the DNS zones.
func (p *Policy) inZone(name string) bool {
	for _, z := range p.zones {
		if rest, ok := strings.CutSuffix(name, z); ok && (rest == "" || rest[len(rest)-1] == '.') {
			return true
		}
	}
	return false
}

// none is no grant, and later in file order than any.
const none = int32(1<<31 - 1)

// found is what the grants of a user say to a query.
type found struct {
	grant   int32 // the first that allows
	outside int32 // the first that would but for within of target
	target  *target
	named   bool // some grant names the host, on whatever port
}

// find looks for the first grant in file order: through the grants of the
// user, or through the targets that have the host, whichever are fewer.
func (p *Policy) find(u *user, q *query) found {
	f := found{grant: none, outside: none}
	byGrants, byTargets := 0, 0
	for _, s := range u.subjects {
		byGrants += s.cost
	}
	if byGrants > 16 { // below that, looking is quicker than counting
		p.index.visit(q, func(t *target) { byTargets += 1 + len(t.grants) })
	}
	if byGrants <= 16 || byGrants <= byTargets {
		for _, s := range u.subjects {
			for _, g := range s.grants {
				if g > f.grant && f.named {
					break // nothing more to learn
				}
				for _, t := range p.grants[g].targets {
					f.add(g, t, q)
				}
			}
		}
		return f
	}
	p.index.visit(q, func(t *target) {
		for _, g := range t.grants {
			if p.grants[g].covers(u) {
				f.add(g, t, q)
				break // a later one cannot be the first
			}
		}
	})
	return f
}

// add takes note of what the target says, reached by the grant.
func (f *found) add(g int32, t *target, q *query) {
	named, fits, inside := t.judge(q)
	f.named = f.named || named
	if inside {
		f.grant = min(f.grant, g)
	} else if fits && g < f.outside {
		f.outside, f.target = g, t
	}
}

// An index finds the targets that have a host or an address.
type index struct {
	names map[string][]*target
	stars map[string][]starred // by the pattern's tail
	nets  map[netip.Prefix][]*target
	bits4 []int // the lengths of the prefixes in nets
	bits6 []int
}

type starred struct {
	pattern pattern
	target  *target
}

func makeIndex(targets []*target) index {
	x := index{names: map[string][]*target{}, stars: map[string][]starred{}, nets: map[netip.Prefix][]*target{}}
	var seen4, seen6 [129]bool
	for _, t := range targets {
		if len(t.grants) == 0 {
			continue
		}
		for _, n := range t.names {
			x.names[n] = append(x.names[n], t)
		}
		for _, s := range t.stars {
			x.stars[s.tail] = append(x.stars[s.tail], starred{s, t})
		}
		for _, n := range t.nets {
			x.nets[n] = append(x.nets[n], t)
			if n.Addr().Is4() {
				seen4[n.Bits()] = true
			} else {
				seen6[n.Bits()] = true
			}
		}
	}
	for b := range seen4 {
		if seen4[b] {
			x.bits4 = append(x.bits4, b)
		}
		if seen6[b] {
			x.bits6 = append(x.bits6, b)
		}
	}
	return x
}

// visit calls fn for every target that has the name or the address of a
// query, whatever the ports; for some perhaps twice.
func (x *index) visit(q *query, fn func(*target)) {
	if q.name != "" {
		for _, t := range x.names[q.name] {
			fn(t)
		}
		for tail := q.name; len(x.stars) > 0; {
			for i := range x.stars[tail] {
				if s := &x.stars[tail][i]; s.pattern.match(q.name) {
					fn(s.target)
				}
			}
			if tail == "" {
				break
			}
			_, tail, _ = strings.Cut(tail, ".")
		}
	}
	if q.addr.IsValid() {
		bits := x.bits4
		if q.addr.Is6() {
			bits = x.bits6
		}
		for _, b := range bits {
			prefix, _ := q.addr.Prefix(b)
			for _, t := range x.nets[prefix] {
				fn(t)
			}
		}
	}
}

// Groups returns the groups of a user, as the policy lists them.
func (p *Policy) Groups(user string) []string {
	u := p.user(user)
	if u == nil {
		return nil
	}
	return slices.Clone(u.groups)
}

// A GrantView is a grant as its user may see it.
type GrantView struct {
	Name    string
	Targets []TargetView
}

// A TargetView is a target of a grant, its hosts and ports as written.
type TargetView struct {
	Name  string
	Hosts []string
	Ports []string
}

// Reach returns what the policy grants a user, in file order.
func (p *Policy) Reach(user string) []GrantView {
	u := p.user(user)
	if u == nil {
		return nil
	}
	var ids []int32
	for _, s := range u.subjects {
		ids = append(ids, s.grants...)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	views := make([]GrantView, len(ids))
	for i, id := range ids {
		g := p.grants[id]
		views[i].Name = g.name
		for _, t := range g.targets {
			views[i].Targets = append(views[i].Targets, TargetView{
				Name:  t.name,
				Hosts: slices.Clone(t.hosts),
				Ports: slices.Clone(t.portsAsWritten),
			})
		}
	}
	return views
}
