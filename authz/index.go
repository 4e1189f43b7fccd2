package authz

import (
	"net/netip"
	"slices"
	"strings"
)

// An index finds the targets that have a host or an address. With it a decision
// costs, however many users, targets and grants there are:
//
//   - one look-up of the host; for patterns one for each label of it, and one
//     for each length of text that more than a few patterns with the same tail
//     begin or end with; for an address one for each length of prefix that the
//     policy has, at most 33 or 129;
//   - for each target found so, one search among the grants that lead there
//     for the user and for each of his groups, or the other way round, which
//     is logarithmic in them;
//   - in the first question about a name, one search for each of his groups
//     that has networks, logarithmic in their ports.
//
// What costs more, and is legal all the same:
//
//   - A host that many targets have: each is looked at, but never more than it
//     costs to look through the grants of the user. So one that 100,000
//     targets have is dear only to him who has many grants.
//   - Patterns with nothing before or behind the stars, as "*a1*.corp.example",
//     and the same tail: each is tried.
//   - Grants that are each given to many and lead to many: those that lead to
//     the target are gone through, or those of the user. Under each of them
//     apart they would take the product of the two in memory.
//   - Grants that would allow, but whose conditions do not hold: each is
//     judged, up to the first that allows.
type index struct {
	names map[string][]*target
	stars map[string]*tailed // by the pattern's tail
	nets  map[netip.Prefix][]*target
	bits4 []int // the lengths of the prefixes in nets
	bits6 []int
}

// tailed are the patterns with the same tail.
type tailed struct {
	all []starred // in no order, if they are few

	// Else each is filed under the longer one of its head and its end.
	heads, ends filed
}

type starred struct {
	pattern *pattern
	target  *target
}

// filed are patterns by a text, and the lengths of these texts, sorted.
type filed struct {
	by      map[string][]starred
	lengths []int
}

func makeIndex(targets []*target) index {
	var names, nets int
	for _, t := range targets {
		names += len(t.names)
		nets += len(t.nets)
	}
	x := index{names: make(map[string][]*target, names), stars: map[string]*tailed{}, nets: make(map[netip.Prefix][]*target, nets)}
	var seen4, seen6 [129]bool
	for _, t := range targets {
		if len(t.given)+len(t.broad) == 0 {
			continue
		}
		for _, n := range t.names {
			x.names[n] = append(x.names[n], t)
		}
		for i := range t.stars {
			p := &t.stars[i]
			s := x.stars[p.tail]
			if s == nil {
				s = &tailed{}
				x.stars[p.tail] = s
			}
			s.all = append(s.all, starred{p, t})
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
	for _, s := range x.stars {
		s.file()
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

func (s *tailed) file() {
	const few = 8
	if len(s.all) <= few {
		return
	}
	for _, one := range s.all {
		if head, end := one.pattern.head(), one.pattern.end(); len(head) >= len(end) {
			s.heads.add(head, one)
		} else {
			s.ends.add(end, one)
		}
	}
	s.all = nil
}

func (f *filed) add(text string, s starred) {
	if f.by == nil {
		f.by = map[string][]starred{}
	}
	f.by[text] = append(f.by[text], s)
	if i, ok := slices.BinarySearch(f.lengths, len(text)); !ok {
		f.lengths = slices.Insert(f.lengths, i, len(text))
	}
}

// visit calls fn for every target that has the name or the address of a query,
// whatever the ports; for some perhaps several times, each with whether it was
// found by the name. It stops once fn returns false.
func (x *index) visit(q *query, fn func(t *target, named bool) bool) {
	if q.name != "" {
		for _, t := range x.names[q.name] {
			if !fn(t, true) {
				return
			}
		}
		if !x.visitStars(q.name, fn) {
			return
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
				if !fn(t, false) {
					return
				}
			}
		}
	}
}

func (x *index) visitStars(name string, fn func(t *target, named bool) bool) (more bool) {
	if len(x.stars) == 0 {
		return true
	}
	try := func(all []starred) bool {
		for i := range all {
			if all[i].pattern.match(name) && !fn(all[i].target, true) {
				return false
			}
		}
		return true
	}
	for rest := name; ; {
		_, tail, dot := strings.Cut(rest, ".")
		if s := x.stars[tail]; s != nil {
			before := name
			if dot {
				before = name[:len(name)-len(tail)-1]
			}
			if !try(s.all) {
				return false
			}
			for _, n := range s.heads.lengths {
				if n <= len(before) && !try(s.heads.by[before[:n]]) {
					return false
				}
			}
			for _, n := range s.ends.lengths {
				if n <= len(before) && !try(s.ends.by[before[len(before)-n:]]) {
					return false
				}
			}
		}
		if !dot {
			return true
		}
		rest = tail
	}
}

// leading calls fn for the grants that lead to a target and are given to the
// user: for those given to the same one in file order, for as long as fn
// returns true.
func (p *Policy) leading(t *target, u *user, fn func(grant int32) (more bool)) {
	if len(u.whos) <= len(t.given) {
		for _, who := range u.whos {
			i, _ := slices.BinarySearchFunc(t.given, who, func(g given, who int32) int { return int(g.who) - int(who) })
			for ; i < len(t.given) && t.given[i].who == who && fn(t.given[i].grant); i++ {
			}
		}
	} else {
		for i := 0; i < len(t.given); {
			who := t.given[i].who
			_, more := slices.BinarySearch(u.whos, who)
			for ; i < len(t.given) && t.given[i].who == who; i++ {
				more = more && fn(t.given[i].grant)
			}
		}
	}
	for _, g := range t.broad {
		if p.grants[g].covers(u) && !fn(g) {
			return
		}
	}
}

// finish makes of what was read what Decide looks things up in.
func (ps *parser) finish() *Policy {
	byUser := make([]subject, len(ps.userNames)+len(ps.guestNames))
	byGroup := make([]subject, len(ps.groupNames))
	for i, g := range ps.grants {
		g.ports = g.netPorts()
		ps.lead(int32(i), g)
		for _, u := range g.users {
			byUser[u].give(int32(i), g)
		}
		for _, u := range g.groups {
			byGroup[u].give(int32(i), g)
		}
	}
	for _, t := range ps.targets {
		slices.SortFunc(t.given, func(a, b given) int {
			if a.who != b.who {
				return int(a.who) - int(b.who)
			}
			return int(a.grant) - int(b.grant)
		})
		t.given = slices.Clip(t.given)
	}
	for _, all := range []map[string]*user{ps.users, ps.guests} {
		for _, u := range all {
			u.reach.add(userWho(u.id), &byUser[u.id])
			u.reach.addGroups(u.groupIDs, byGroup)
		}
	}
	for _, a := range ps.authorities {
		a.reach.addGroups(a.groupIDs, byGroup)
	}
	ps.index = makeIndex(ps.targets)
	ps.keys = ps.written
	return ps.Policy
}

// netPorts returns the ports of the targets that have networks or addresses.
func (g *grant) netPorts() portSet {
	var first portSet
	var ranges []portRange // of all, if they are several
	for _, t := range g.targets {
		switch {
		case len(t.nets) == 0:
		case first == nil:
			first = t.ports
		default:
			if ranges == nil {
				ranges = slices.Clone(first)
			}
			ranges = append(ranges, t.ports...)
		}
	}
	if ranges == nil {
		return first
	}
	return makePorts(ranges)
}

// lead enters a grant at its targets. It is entered under each to whom it is
// given where that is no more, within a small factor, than the names of both
// in the file.
func (ps *parser) lead(id int32, g *grant) {
	whos, targets := len(g.users)+len(g.groups), len(g.targets)
	narrow := whos*targets <= 4*(whos+targets)
	for _, t := range g.targets {
		if !narrow {
			t.broad = append(t.broad, id)
			continue
		}
		for _, u := range g.users {
			t.given = append(t.given, given{userWho(u), id})
		}
		for _, u := range g.groups {
			t.given = append(t.given, given{groupWho(u), id})
		}
	}
}

// give adds the next grant.
func (s *subject) give(id int32, g *grant) {
	s.grants = append(s.grants, id)
	for _, t := range g.targets {
		s.cost += t.cost()
	}
	if len(g.ports) > 0 {
		s.ports.add(g.ports, len(s.nets))
		s.nets = append(s.nets, id)
	}
}

func (r *reach) add(who int32, s *subject) {
	if len(s.grants) == 0 {
		return
	}
	i, _ := slices.BinarySearch(r.whos, who)
	r.whos = slices.Insert(r.whos, i, who)
	r.subjects = append(r.subjects, s)
	r.cost += s.cost
}

func (r *reach) addGroups(ids []int32, byGroup []subject) {
	for _, id := range ids {
		r.add(groupWho(id), &byGroup[id])
	}
}
