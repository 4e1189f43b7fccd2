package authz

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Reachers is who may reach a target, as far as one question goes.
type Reachers struct {
	// Reason says why nobody can, whoever it is: the host, the port or the
	// fence. "": it is for each of All to say.
	Reason Reason `json:"reason,omitempty"`
	Detail string `json:"detail,omitempty"`

	Host    string     `json:"host,omitempty"` // in normal form
	Literal netip.Addr `json:"literal,omitzero"`

	// All are the users by name, then the authorities.
	All []Reacher `json:"all"`
}

// A Reacher is somebody to whom a grant gives a target: a user, or whoever an
// authority vouches for, as far as its own groups go.
type Reacher struct {
	User       string   `json:"user,omitempty"`
	Authority  string   `json:"authority,omitempty"`
	Principals []string `json:"principals,omitempty"` // names that the authority vouches for, as written

	// Effect is Allow if no condition fails: whether he may hangs only on
	// those that are open. Otherwise Reason and Detail are of the first that
	// fails.
	Effect Effect `json:"effect"`
	Reason Reason `json:"reason"`
	Detail string `json:"detail,omitempty"`

	// Conditions are those of the user: locks, how he can prove to be it, and
	// what the policy asks of him.
	Conditions []ConditionStep `json:"conditions,omitempty"`

	// Grants are those that allow, in file order, up to the first that has
	// no open condition: none after it can be the one that counts. If none
	// allows, they are all that would but for their conditions or within.
	// Of their targets they have those that fit.
	Grants []GrantStep `json:"grants"`

	// DNS reports whether DNS may be asked for the host on his behalf, as
	// Decision.DNS.
	DNS bool `json:"dns"`
}

// WhoCan asks the question of a request for everybody; its User, Key and Cert
// say nothing. As with Decide, only an answer about an address is about what
// would be dialled. What the request does not say, such as the source, is not
// judged: conditions that hang on it are open. A touch is open to whoever can
// prove himself by a security key. Time must be given.
//
// It is for administrators, and takes time in proportion to the policy.
func (p *Policy) WhoCan(r Request) Reachers {
	r.User, r.Key, r.Cert, r.Running, r.Grant = "", "", nil, false, ""
	host, literal, msg := parseHost(r.Host)
	switch {
	case p == nil:
		return Reachers{Reason: NoGrant, Detail: "there is no policy"}
	case msg != "":
		return Reachers{Reason: BadHost, Detail: quote(r.Host) + ": " + msg}
	case r.Port < 1 || r.Port > 65535:
		return Reachers{Reason: BadPort, Detail: fmt.Sprintf("the port %d is not between 1 and 65535", r.Port)}
	}
	out := Reachers{Host: host, Literal: literal}
	q := query{Request: r, addr: literal, port: uint16(r.Port)}
	if !literal.IsValid() {
		q.name = host
	}
	if r.Addr != (netip.Addr{}) {
		q.addr, q.second = r.Addr.WithZone("").Unmap(), true
		if literal.IsValid() && literal != q.addr {
			out.Reason, out.Detail = NoGrant, fmt.Sprintf("%s is not the address that was asked for, %s", quote(r.Addr.String()), literal)
			return out
		}
		if class := p.fence.check(r.Addr); class != "" {
			out.Reason, out.Detail = class, classSentence(r.Addr, class)
			return out
		}
	}
	s := p.survey(&q, host)
	for _, u := range s.everybody() {
		if one, ok := s.user(u); ok {
			out.All = append(out.All, one)
		}
	}
	for _, a := range s.authorities {
		if one, ok := s.authority(a); ok {
			out.All = append(out.All, one)
		}
	}
	return out
}

// A survey is a question put for many users, with what is the same for all.
type survey struct {
	p           *Policy
	q           *query
	host        string
	says        []answers // by the id of the grant
	steps       map[int32]*GrantStep
	keys        map[*user][]*credential
	authorities []*authority           // of the policy, by name
	lines       map[*user][]*authority // of authorized_keys
	revoked     map[*authority]string  // why; of those that have been asked about
}

// answers are what a grant says to a question, whoever asks.
type answers uint8

const (
	saysNamed   answers = 1 << iota // it names the host, on whatever port
	saysFits                        // it would allow, but for its conditions
	saysOutside                     // it would, but for within
)

func (p *Policy) survey(q *query, host string) *survey {
	s := &survey{
		p: p, q: q, host: host,
		says: make([]answers, len(p.grants)), steps: map[int32]*GrantStep{},
		keys: map[*user][]*credential{}, lines: map[*user][]*authority{}, revoked: map[*authority]string{},
	}
	for id, g := range p.grants {
		for _, t := range g.targets {
			named, fits, inside := t.judge(q)
			if named {
				s.says[id] |= saysNamed
			}
			if inside {
				s.says[id] |= saysFits
			} else if fits {
				s.says[id] |= saysOutside
			}
		}
		if q.open() && g.ports.contains(q.port) {
			s.says[id] |= saysFits
		}
	}
	for _, c := range p.keys.byBlob {
		s.keys[c.user] = append(s.keys[c.user], c)
	}
	for _, all := range s.keys {
		slices.SortFunc(all, func(a, b *credential) int { return strings.Compare(a.fingerprint, b.fingerprint) })
	}
	for _, all := range p.keys.authorities {
		for _, a := range all {
			if a.user != nil {
				s.lines[a.user] = append(s.lines[a.user], a)
			} else {
				s.authorities = append(s.authorities, a)
			}
		}
	}
	byName := func(a, b *authority) int { return strings.Compare(a.name, b.name) }
	slices.SortFunc(s.authorities, byName)
	for _, all := range s.lines {
		slices.SortFunc(all, byName)
	}
	return s
}

// everybody returns the users, and those whom only grants name.
func (s *survey) everybody() []*user {
	all := slices.Collect(maps.Values(s.p.users))
	all = slices.AppendSeq(all, maps.Values(s.p.guests))
	slices.SortFunc(all, func(a, b *user) int { return strings.Compare(a.name, b.name) })
	return all
}

func (s *survey) user(u *user) (Reacher, bool) {
	r := Reacher{User: u.name}
	ids, named := s.grantsOf(u.subjects)
	if len(ids) == 0 {
		return r, false
	}
	proof, byKey, touch := s.proof(u)
	if l := s.p.locked[Lock{User: u.name}]; l != nil {
		r.Conditions = append(r.Conditions, lockStep(u, l))
	}
	r.Conditions = append(r.Conditions, proof...)
	r.Conditions = append(r.Conditions, s.lockdown(u, byKey, touch)...)
	own, _ := u.cond.steps(u.name, true, false, &s.q.Request)
	r.Conditions = append(r.Conditions, leaveOpen(own, &s.q.Request, touch)...)
	s.conclude(&r, ids, named, touch)
	return r, true
}

// authority answers for whoever an authority vouches for, by its groups.
func (s *survey) authority(a *authority) (Reacher, bool) {
	r := Reacher{Authority: a.name, Principals: slices.Clone(a.principals)}
	ids, named := s.grantsOf(a.subjects)
	if len(ids) == 0 {
		return r, false
	}
	if why := s.revocationOf(a); why != "" {
		r.Conditions = append(r.Conditions, ConditionStep{Reason: Revoked, Text: "not revoked", Detail: why})
	}
	r.Conditions = append(r.Conditions, s.lockdown(&user{id: noUser, groupIDs: a.groupIDs}, false, true)...)
	s.conclude(&r, ids, named, true)
	return r, true
}

// grantsOf returns the grants that say something of the target, in file
// order, and whether one names the host.
func (s *survey) grantsOf(subjects []*subject) (ids []int32, named bool) {
	for _, sub := range subjects {
		for _, id := range sub.grants {
			named = named || s.says[id]&saysNamed != 0
			if s.says[id]&(saysFits|saysOutside) != 0 {
				ids = append(ids, id)
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), named
}

// conclude makes the answer of the conditions and the grants of somebody.
func (s *survey) conclude(r *Reacher, ids []int32, named, touch bool) {
	var allow, deny []GrantStep
	for _, id := range ids {
		g := *s.step(id)
		if !touch {
			g = untouchable(g, &s.q.Request)
		}
		if !g.Fits || !g.Holds {
			deny = append(deny, g)
			continue
		}
		allow = append(allow, g)
		if !slices.ContainsFunc(g.Conditions, isOpen) {
			break
		}
	}
	r.Grants = allow
	if len(allow) == 0 {
		r.Grants = deny
		r.Reason, r.Detail = deny[0].Failed, deny[0].Detail
		for _, g := range deny { // as Decide: within only where nothing else is the matter
			if g.Fits {
				r.Reason, r.Detail = g.Failed, g.Detail
				break
			}
		}
	}
	if i := slices.IndexFunc(r.Conditions, fails); i >= 0 {
		r.Reason, r.Detail = r.Conditions[i].Reason, r.Conditions[i].Detail
	}
	if r.Reason == "" {
		r.Effect, r.Reason = Allow, Granted
		r.DNS = s.q.name != "" && strings.Contains(s.q.name, ".") && (named || s.p.inZone(s.q.name))
	}
}

// step tells of a grant, with what is not known left open. It is the same
// for all whose key can be touched.
func (s *survey) step(id int32) *GrantStep {
	if known := s.steps[id]; known != nil {
		return known
	}
	g := s.p.grants[id].step(s.q)
	g.Conditions = leaveOpen(g.Conditions, &s.q.Request, true)
	g.judge()
	if s.says[id]&saysFits == 0 {
		g.Failed = OutsideWithin
	} else {
		g.Targets = slices.DeleteFunc(g.Targets, func(t TargetStep) bool { return !t.Fits })
	}
	s.steps[id] = &g
	return &g
}

// judge says anew whether the conditions of a grant hold, where no open one
// counts against it.
func (g *GrantStep) judge() {
	g.Holds, g.Failed = true, ""
	if g.Fits {
		g.Detail = ""
	}
	if i := slices.IndexFunc(g.Conditions, fails); i >= 0 {
		g.Holds, g.Failed = false, g.Conditions[i].Reason
		if g.Fits {
			g.Detail = g.Conditions[i].Detail
		}
	}
}

// untouchable is a grant as it is for somebody none of whose keys can be
// touched.
func untouchable(g GrantStep, r *Request) GrantStep {
	if r.Touch || !slices.ContainsFunc(g.Conditions, func(c ConditionStep) bool { return c.Reason == NeedsTouch }) {
		return g
	}
	g.Conditions = slices.Clone(g.Conditions)
	for i := range g.Conditions {
		if c := &g.Conditions[i]; c.Reason == NeedsTouch {
			c.Open, c.Detail = false, (&conditions{}).sentence(condTouch, g.Grant, false, r)
		}
	}
	failed := g.Failed
	if g.judge(); !g.Fits {
		g.Failed = failed
	}
	return g
}

// leaveOpen marks the conditions that hang on what the request does not say.
func leaveOpen(steps []ConditionStep, r *Request, touch bool) []ConditionStep {
	for i := range steps {
		s := &steps[i]
		said := true
		switch s.Reason {
		case NotFrom, Excepted, KeyNotFrom:
			said = sourceOf(r).IsValid()
		case NeedsTouch:
			said = !touch // that no key can be touched is known
		}
		if !said && !s.Holds {
			s.Open, s.Detail = true, ""
		}
	}
	return steps
}

func isOpen(c ConditionStep) bool { return c.Open }

func fails(c ConditionStep) bool { return !c.Holds && !c.Waived && !c.Open }

func lockStep(u *user, l *Lock) ConditionStep {
	return ConditionStep{Reason: Locked, Text: "not locked", Detail: fmt.Sprintf("%s is locked%s", u.name, l.since())}
}

// lockdown is what a lockdown asks of somebody, if there is one.
func (s *survey) lockdown(u *user, byKey, touch bool) []ConditionStep {
	if s.p.locks == nil || s.p.locks.Lockdown == nil {
		return nil
	}
	step := ConditionStep{Reason: Lockdown, Text: "no lockdown, or an admin", Detail: "there is a lockdown" + s.p.locks.Lockdown.since()}
	if role := s.p.roles[Admin]; role != nil && (byKey || role.certificates) && (&grant{users: role.users, groups: role.groups}).covers(u) {
		asks, _ := role.cond.steps("the role", false, false, &s.q.Request)
		asks = leaveOpen(asks, &s.q.Request, touch)
		step.Holds = !slices.ContainsFunc(asks, func(c ConditionStep) bool { return !c.Holds })
		step.Open = !step.Holds && !slices.ContainsFunc(asks, fails)
		if step.Holds || step.Open {
			step.Detail = ""
		}
	}
	return []ConditionStep{step}
}

// proof tells how a user can prove to be it: nothing if he has a key that
// opens the target from anywhere; else one condition, open if there is a way
// at all. It tells too whether a key is among the ways, and whether one of
// them can show a touch.
func (s *survey) proof(u *user) (steps []ConditionStep, byKey, touch bool) {
	if why := s.p.shut[u.name]; why != "" {
		return []ConditionStep{{Reason: KeyFileUnusable, Text: "a file of keys that can be used", Detail: why}}, false, false
	}
	var ways []string
	free := false
	first := ConditionStep{Reason: UnknownKey, Text: "a key or certificate", Detail: u.name + " has no key, and no authority vouches for him"}
	try := func(way string, asks []ConditionStep, key bool) bool {
		if i := slices.IndexFunc(asks, fails); i >= 0 {
			if first.Reason == UnknownKey {
				first.Reason, first.Detail = asks[i].Reason, asks[i].Detail
			}
			return false
		}
		for _, c := range asks {
			if c.Open {
				way = strings.TrimPrefix(way+" and "+c.Text, " and ")
			}
		}
		free = free || way == ""
		byKey = byKey || key
		if !slices.Contains(ways, way) {
			ways = append(ways, way)
		}
		return true
	}
	for _, c := range s.keys[u] {
		if try("", s.keySteps(c), true) && strings.HasPrefix(c.key.Type(), "sk-") {
			touch = true
		}
	}
	for _, a := range slices.Concat(s.lines[u], s.authorities) {
		if vouchesFor(a, u.name) && try("a certificate of "+a.name, s.authoritySteps(a), false) {
			touch = true
		}
	}
	switch {
	case free:
		return nil, byKey, touch
	case len(ways) > 0:
		return []ConditionStep{{Reason: UnknownKey, Text: some(slices.Compact(ways)), Open: true}}, byKey, touch
	}
	return []ConditionStep{first}, false, false
}

// keySteps are what is asked of a key: first whether it is taken at all.
func (s *survey) keySteps(c *credential) []ConditionStep {
	if reason, why := s.p.keyRefused(c); reason != "" {
		return []ConditionStep{{Reason: reason, Text: "a key that is taken", Detail: why}}
	}
	return s.optionSteps(c.options)
}

func (s *survey) authoritySteps(a *authority) []ConditionStep {
	if why := s.revocationOf(a); why != "" {
		return []ConditionStep{{Reason: Revoked, Text: "not revoked", Detail: why}}
	}
	return s.optionSteps(a.options)
}

// optionSteps judges the options of lines in authorized_keys, for a target if
// there is one.
func (s *survey) optionSteps(options narrowing) (steps []ConditionStep) {
	r := &s.q.Request
	step := func(reason Reason, holds bool, text, detail string) {
		if holds {
			detail = ""
		}
		steps = append(steps, ConditionStep{Reason: reason, Text: text, Holds: holds, Detail: detail})
	}
	for _, o := range options {
		if o.From != nil {
			step(KeyNotFrom, o.From.Match(sourceOf(r)), "key from "+o.From.String(), fmt.Sprintf("the key is allowed from %s; %s", o.From, clientOf(r)))
		}
		if !o.Expiry.IsZero() {
			at := o.Expiry.Format("2006-01-02 15:04:05 MST")
			step(KeyExpired, before(r, o.Expiry), "key until "+at, "the key is allowed until "+at)
		}
		switch {
		case o.NoForwarding:
			step(KeyNoForwarding, false, "key for forwarding", "the key is not for forwarding (restrict or no-port-forwarding in authorized_keys)")
		case len(o.PermitOpen) > 0:
			var opens []string
			for _, open := range o.PermitOpen {
				port := "any port"
				if open.Port != 0 {
					port = fmt.Sprintf("port %d", open.Port)
				}
				opens = append(opens, quote(open.Host)+" "+port)
			}
			reason, why := Reason(""), ""
			if s.host != "" {
				reason, why = narrowing{o}.refuses(s.host, r.Port)
			}
			step(KeyNotPermitted, reason == "", "permitopen "+some(opens), why)
		}
	}
	return leaveOpen(steps, r, true)
}

// keyRefused says why a key proves nothing, or returns "".
func (p *Policy) keyRefused(c *credential) (Reason, string) {
	if why := p.revocation(&Request{Key: c.fingerprint}); why != "" {
		return Revoked, why
	}
	if c.refused != "" {
		return KeyUnsupported, c.refused
	}
	return "", ""
}

// revocationOf says why every certificate of an authority is revoked, or
// returns "".
func (s *survey) revocationOf(a *authority) string {
	if why, known := s.revoked[a]; known {
		return why
	}
	why := s.p.listed(a.key)
	if l := s.p.locked[Lock{Key: a.fingerprint}]; l != nil {
		why = fmt.Sprintf("the key of the authority %s is revoked%s", a.name, l.since())
	}
	s.revoked[a] = why
	return why
}

// vouchesFor reports whether some certificate of the authority could be the
// user's.
func vouchesFor(a *authority, name string) bool {
	principals := []string{name}
	for _, o := range a.options {
		principals = append(principals, o.Principals...)
	}
	return a.vouchesFor(name, principals)
}
