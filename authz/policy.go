package authz

import (
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

	users   map[string]*user
	guests  map[string]*user  // whom grants name and only certificates can prove
	folded  map[string]string // names of users by their lower case
	roles   map[Role]*role
	written keyring // the keys and authorities that the file has
	targets []*target
	grants  []*grant
	index   index

	files []KeyFile         // of authorized_keys
	keys  keyring           // in force: written, and those of files
	shut  map[string]string // users whose file is unusable: why

	locks   *Locks
	locked  map[Lock]*Lock // those of locks, by what they take away
	lists   []RevocationList
	revoked map[string]string // why, by the fingerprints of keys that the lists revoke
}

// noUser is the id of a user whom neither the list of users nor a grant names.
const noUser int32 = -1

type user struct {
	id       int32 // his place in the file
	name     string
	groups   []string
	groupIDs []int32
	reach
	cond *conditions
}

// A reach is of whose grants somebody has the use: his own, and those of his
// groups.
type reach struct {
	whos     []int32    // as given has them; sorted
	subjects []*subject // the same ones, in no order
	cost     int        // of looking through all their grants
}

// A subject is a user or a group as far as grants name it.
type subject struct {
	grants []int32    // in file order
	nets   []int32    // those of grants that have networks or addresses
	ports  firstPorts // the places in nets of the first that have a port
	cost   int        // of looking through grants
}

type grant struct {
	name    string
	users   []int32 // sorted
	groups  []int32 // sorted
	targets []*target
	ports   portSet // of its targets that have networks or addresses
	cond    *conditions
	keep    bool // at_end: keep
	limits  Limits
	follows bool // some of its targets have follow_dns
}

// follow is follow_dns of the target that carries a forward by this grant: the
// first that names its host, as the grant lists them. It is 0 where only an
// address is granted, wherever names lead.
func (g *grant) follow(q *query) time.Duration {
	if !g.follows || q.name == "" {
		return 0
	}
	for _, t := range g.targets {
		if named, _, inside := t.judge(q); named && inside {
			return t.follow
		}
	}
	return 0
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

// Counts are how many of each there are in a policy.
type Counts struct{ Users, Keys, Targets, Grants int }

// Counts counts what the policy has, without the keys of authorized_keys files.
func (p *Policy) Counts() Counts {
	if p == nil {
		return Counts{}
	}
	return Counts{Users: len(p.users), Keys: len(p.written.byBlob), Targets: len(p.targets), Grants: len(p.grants)}
}

func (p *Policy) user(name string) *user {
	if p == nil {
		return nil
	}
	return p.users[name]
}

// named returns a user whom the policy names, if only in a grant.
func (p *Policy) named(name string) *user {
	u := p.user(name)
	if u == nil && p != nil {
		u = p.guests[name]
	}
	return u
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
	u, s := p.standing(&r)
	if s.reason != "" {
		return Decision{Reason: s.reason, Detail: s.detail, Next: s.next, Policy: p.Hash()}
	}
	if reason, detail := p.lockedDown(u, &r); reason != "" {
		return Decision{Reason: reason, Detail: detail, Next: s.next, Policy: p.hash}
	}
	host, literal, msg := parseHost(r.Host)
	if msg != "" {
		var room wordsRoom
		return Decision{Reason: BadHost, Detail: string(words(room[:0]).q(r.Host).s(": ").s(msg)), Next: s.next, Policy: p.hash}
	}
	d := Decision{Host: host, Literal: literal, Policy: p.hash}
	if r.Port < 1 || r.Port > 65535 {
		var room wordsRoom
		d.Reason, d.Detail, d.Next = BadPort, string(words(room[:0]).s("the port ").u(uint64(r.Port)).s(" is not between 1 and 65535")), s.next
		return d
	}
	q := query{Request: r, addr: literal, port: uint16(r.Port)}
	if !literal.IsValid() {
		q.name = host
	}
	f := p.find(u, &q, &d)
	d.Named = f.named
	if d.Reason == "" {
		p.conclude(u, s.options, &q, f, &d)
	}
	d.Next = earlier(d.Next, s.next)
	return d
}

// find looks for the grants that answer a query. It sets the reason where no
// grant could change the answer.
func (p *Policy) find(u *user, q *query, d *Decision) found {
	if q.Addr == (netip.Addr{}) {
		// First question: on host and port alone.
		f := p.search(u, q)
		if q.open() {
			p.searchNetworks(u, q, &f)
		}
		return f
	}
	// Second question: for an address that would be dialled.
	addr := q.Addr.WithZone("").Unmap()
	if q.name == "" && addr != q.addr {
		d.Reason = NoGrant
		var room wordsRoom
		d.Detail = string(words(room[:0]).quotedAddr(q.Addr).s(" is not the address that was asked for, ").addr(q.addr))
		return found{}
	}
	q.addr, q.second = addr, true
	f := p.search(u, q)
	if class := p.fence.check(q.Addr); class != "" {
		d.Reason, d.Detail = class, classSentence(q.Addr, class)
	}
	return f
}

// conclude makes the answer of what was found. The conditions of the user
// come before what his key is for and before those of a grant, and all only
// where a grant would allow.
func (p *Policy) conclude(u *user, options narrowing, q *query, f found, d *Decision) {
	if f.grant == none && f.blocked == none {
		if f.outside == none {
			p.noGrant(u, q, f, d)
			return
		}
		g, t := p.grants[f.outside], f.target
		d.Reason = OutsideWithin
		var room wordsRoom
		d.Detail = string(words(room[:0]).addr(q.Addr).s(" is outside within of target ").q(t.name).s(" in grant ").q(g.name))
		return
	}
	d.Next = u.cond.next(&q.Request, false)
	if k := u.cond.failing(&q.Request, false); k != numConditions {
		d.Reason, d.Detail = conditionReasons[k], u.cond.sentence(k, u.name, true, &q.Request)
		return // whatever the grants say at another time, to him it is the same
	}
	if reason, detail := options.refuses(d.Host, q.Port); reason != "" {
		d.Reason, d.Detail = reason, detail
		return
	}
	if f.conditional > 0 {
		d.Next = earlier(d.Next, p.nextOf(u, q, f))
	}
	if f.grant == none {
		g := p.grants[f.blocked]
		k := g.failing(&q.Request)
		d.Reason, d.Detail = conditionReasons[k], g.cond.sentence(k, g.name, false, &q.Request)
		return
	}
	g := p.grants[f.grant]
	d.Effect, d.Reason, d.Grant, d.Limits = Allow, Granted, g.name, g.limits
	d.FollowDNS = g.follow(q)
	d.DNS = q.name != "" && strings.IndexByte(q.name, '.') >= 0 && (f.named || p.inZone(q.name))
}

// nextOf returns when the conditions of the grants that were found, up to the
// last one that matters, next change what they say.
func (p *Policy) nextOf(u *user, q *query, f found) (next time.Time) {
	look := func(id int32) {
		if g := p.grants[id]; id <= f.grant && g.cond != nil {
			next = earlier(next, g.cond.next(&q.Request, g.free(&q.Request)))
		}
	}
	if f.conditional <= len(f.some) {
		for _, id := range f.some[:f.conditional] {
			look(id)
		}
		return next
	}
	for _, s := range u.subjects {
		for _, id := range s.grants {
			if id > f.grant {
				break
			}
			if g := p.grants[id]; g.cond != nil && g.fits(q) {
				look(id)
			}
		}
	}
	return next
}

// fits reports whether the grant would allow but for its conditions.
func (g *grant) fits(q *query) bool {
	for _, t := range g.targets {
		if _, _, inside := t.judge(q); inside {
			return true
		}
	}
	return q.open() && g.ports.contains(q.port)
}

func (p *Policy) noGrant(u *user, q *query, f found, d *Decision) {
	var room wordsRoom
	w := words(room[:0])
	d.Reason = NoGrant
	switch {
	case f.named:
		w = w.s("grants of ").s(u.name).s(" name ").s(d.Host).s(", but not on port ")
	case q.second && q.name != "":
		w = w.s("no grant of ").s(u.name).s(" names ").s(d.Host).s(" or has ").addr(q.addr).s(", with port ")
	default:
		w = w.s("no grant of ").s(u.name).s(" reaches ").s(d.Host).s(" with port ")
	}
	d.Detail = string(w.u(uint64(q.port)))
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
	blocked int32 // the first that would but for its conditions
	outside int32 // the first that would but for within of target
	target  *target
	named   bool // some grant names the host, on whatever port

	some        [8]int32 // the first few that have conditions and would allow but for them
	conditional int      // how many there are; some perhaps counted twice, or later than grant
}

var noneFound = found{grant: none, blocked: none, outside: none}

// search looks for the first grant in file order: through the targets that have
// the host and the grants that lead there, or through the grants of the user,
// whichever are fewer.
func (p *Policy) search(u *user, q *query) found {
	if u.cost > fewGrants {
		if f, ok := p.searchTargets(u, q, u.cost); ok {
			return f
		}
	}
	return p.searchGrants(u, q)
}

// fewGrants is the cost of grants up to which looking through them is quicker
// than asking the index.
const fewGrants = 16

// searchTargets is search through the targets. It gives up where that costs
// more than most.
func (p *Policy) searchTargets(u *user, q *query, most int) (f found, ok bool) {
	f = noneFound
	cost := 0
	p.index.visit(q, func(t *target, named bool) bool {
		cost += 1 + len(t.broad) + min(len(t.given), len(u.whos))
		if cost > most {
			return false
		}
		fits, inside := t.admits(q)
		if named || fits {
			p.leading(t, u, func(g int32) (more bool) {
				f.named = f.named || named
				return f.add(p, g, t, q, fits, inside)
			})
		}
		return true
	})
	return f, cost <= most
}

// searchGrants is search through the grants of the user.
func (p *Policy) searchGrants(u *user, q *query) found {
	f := noneFound
	for _, s := range u.subjects {
		for _, g := range s.grants {
			if g > f.grant && f.named {
				break // nothing more to learn
			}
			for _, t := range p.grants[g].targets {
				if named, fits, inside := t.judge(q); named || fits {
					f.named = f.named || named
					f.add(p, g, t, q, fits, inside)
				}
			}
		}
	}
	return f
}

// searchNetworks looks for the grants in whose networks the address of a name
// may turn out to lie.
func (p *Policy) searchNetworks(u *user, q *query, f *found) {
	for _, s := range u.subjects {
		first, ok := s.ports.find(q.port)
		if !ok {
			continue
		}
		for _, g := range s.nets[first:] {
			if g >= f.grant {
				break
			}
			if p.grants[g].ports.contains(q.port) && !f.allow(p, g, q) {
				break
			}
		}
	}
}

// add takes note of what the target says, reached by the grant. It reports
// whether a later grant to the same target could say more.
func (f *found) add(p *Policy, g int32, t *target, q *query, fits, inside bool) (more bool) {
	if inside {
		return f.allow(p, g, q)
	}
	if fits && g < f.outside {
		f.outside, f.target = g, t
	}
	return false
}

// allow takes note of a grant that allows if its conditions hold. It reports
// whether they do not, and so a later grant may be the first.
func (f *found) allow(p *Policy, id int32, q *query) (more bool) {
	if id > f.grant {
		return false
	}
	g := p.grants[id]
	if g.cond != nil {
		if f.conditional < len(f.some) {
			f.some[f.conditional] = id
		}
		f.conditional++
		if g.failing(&q.Request) != numConditions {
			f.blocked = min(f.blocked, id)
			return true
		}
	}
	f.grant = min(f.grant, id)
	return false
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

// Reach returns what the policy grants a user, in file order. What comes with
// a certificate, by the groups of its authority, only ReachOf tells.
func (p *Policy) Reach(user string) []GrantView {
	return p.reach(p.named(user))
}

// ReachOf returns what the policy grants somebody who has proven who he is, in
// file order. It is nil if his proof is no longer good.
func (p *Policy) ReachOf(id Identity) []GrantView {
	if p == nil {
		return nil
	}
	u, _, reason, _ := p.holder(&Request{User: id.User, Key: id.Key, Cert: id.Cert})
	if reason != "" {
		return nil
	}
	return p.reach(u)
}

func (p *Policy) reach(u *user) []GrantView {
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

// Users returns the names of all users, sorted.
func (p *Policy) Users() []string {
	if p == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(p.users))
}

// Named reports whether the policy has a user of this very name, if only in a
// grant.
func (p *Policy) Named(name string) bool { return p.named(name) != nil }

// Authorities returns the names of the policy's authorities, sorted.
func (p *Policy) Authorities() (names []string) {
	if p == nil {
		return nil
	}
	for _, all := range p.written.authorities {
		for _, a := range all {
			names = append(names, a.name)
		}
	}
	slices.Sort(names)
	return names
}

// CouldBe reports whether somebody could come as the user of a name: one that
// the policy has, or whom one of its authorities could vouch for.
func (p *Policy) CouldBe(name string) bool {
	if p == nil || p.named(name) != nil {
		return p != nil
	}
	if p.isAlmostUser(name) {
		return false
	}
	for _, all := range p.written.authorities {
		if slices.ContainsFunc(all, func(a *authority) bool {
			return slices.ContainsFunc(a.principals, func(pattern string) bool { return matchName(pattern, name) })
		}) {
			return true
		}
	}
	return false
}
