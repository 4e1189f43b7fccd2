package authz

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// A UserView is all that the policy says of a user.
type UserView struct {
	User   string   `json:"user"`
	Listed bool     `json:"listed"` // among the users; else only a certificate can prove to be it
	Groups []string `json:"groups,omitempty"`

	// Conditions are locks and his own conditions. Those that hang on what
	// was not said are open, here and below.
	Conditions []ConditionStep `json:"conditions,omitempty"`

	Keys        []KeyView       `json:"keys,omitempty"`
	Authorities []AuthorityView `json:"authorities,omitempty"` // that vouch for him
	Roles       []RoleView      `json:"roles,omitempty"`
	Grants      []UserGrant     `json:"grants,omitempty"` // in file order
}

// A KeyView is a key that the policy, or a file, has of a user.
type KeyView struct {
	Fingerprint string          `json:"fingerprint"`
	Type        string          `json:"type"`
	From        string          `json:"from"`             // "policy", or the file and line
	Reason      Reason          `json:"reason,omitempty"` // why it proves nothing; "": it is taken
	Detail      string          `json:"detail,omitempty"`
	Conditions  []ConditionStep `json:"conditions,omitempty"` // options of its line in authorized_keys
}

// An AuthorityView is an authority that vouches for a user.
type AuthorityView struct {
	Name        string          `json:"name"` // or the file and line
	Fingerprint string          `json:"fingerprint"`
	Groups      []string        `json:"groups,omitempty"` // that its certificates add
	Reason      Reason          `json:"reason,omitempty"` // why none of its certificates is taken; "": they are
	Detail      string          `json:"detail,omitempty"`
	Conditions  []ConditionStep `json:"conditions,omitempty"`
}

// A RoleView is a role that a user has.
type RoleView struct {
	Role         Role            `json:"role"`
	Key          bool            `json:"key"`         // by key
	Certificates bool            `json:"certificate"` // by certificate
	Conditions   []ConditionStep `json:"conditions,omitempty"`
}

// A UserGrant is a grant of a user.
type UserGrant struct {
	Grant       string          `json:"grant"`
	Authorities []string        `json:"authorities,omitempty"` // only by certificate of one of these
	Holds       bool            `json:"holds"`                 // no condition of it fails
	Conditions  []ConditionStep `json:"conditions,omitempty"`
	Keep        bool            `json:"keep,omitempty"` // at_end: keep
	Limits      Limits          `json:"limits,omitzero"`
	Targets     []UserTarget    `json:"targets"`
}

// A UserTarget is a target of a grant.
type UserTarget struct {
	Name   string         `json:"name"`
	Hosts  []string       `json:"hosts"`
	Ports  []string       `json:"ports"`
	Within []netip.Prefix `json:"within,omitempty"`
	Follow time.Duration  `json:"follow_dns,omitempty"` // in JSON in nanoseconds
}

// ViewUser tells all that the policy says of the user of a request, at its
// time and for its source, if it is given. It reports false if there is no
// such user, and no authority of the policy could vouch for one.
func (p *Policy) ViewUser(r Request) (v UserView, ok bool) {
	if p == nil {
		return v, false
	}
	r.Running, r.Touch = false, false
	s := p.survey(&query{Request: r}, "")
	u := p.named(r.User)
	v = UserView{User: r.User, Listed: p.users[r.User] != nil}
	if u == nil {
		u = &user{id: noUser, name: r.User}
	}
	other := p.folded[strings.ToLower(r.User)]
	almost := other != "" && other != r.User // who is not quite a user is nobody
	var by []*authority
	for _, a := range slices.Concat(s.lines[u], s.authorities) {
		if !almost && vouchesFor(a, r.User) {
			by = append(by, a)
		}
	}
	if u.id == noUser && (len(by) == 0 || !nameForm.MatchString(r.User)) {
		return UserView{}, false
	}
	v.Groups = slices.Clone(u.groups)
	if l := p.locked[Lock{User: u.name}]; l != nil {
		v.Conditions = append(v.Conditions, lockStep(u, l))
	}
	v.Conditions = append(v.Conditions, s.lockdownOf(u, v.Listed, by)...)
	own, _ := u.cond.steps(u.name, true, false, &r)
	v.Conditions = append(v.Conditions, leaveOpen(own, &r, true)...)
	v.Keys = s.viewKeys(u)
	shut := p.shut[u.name]
	for _, a := range by {
		av := AuthorityView{Name: a.name, Fingerprint: a.fingerprint, Groups: slices.Clone(a.groups), Conditions: s.optionSteps(a.options)}
		if why := s.revocationOf(a); why != "" {
			av.Reason, av.Detail = Revoked, why
		} else if shut != "" {
			av.Reason, av.Detail = KeyFileUnusable, shut
		}
		v.Authorities = append(v.Authorities, av)
	}
	v.Roles = s.viewRoles(u, v.Listed, by)
	v.Grants = s.viewGrants(u, by)
	return v, true
}

// lockdownOf is the lockdown for a user by key, or by certificate.
func (s *survey) lockdownOf(u *user, byKey bool, by []*authority) []ConditionStep {
	steps := s.lockdown(u, byKey, true)
	for _, a := range by {
		if slices.ContainsFunc(steps, fails) {
			steps = s.lockdown(withGroups(u, a), false, true)
		}
	}
	return steps
}

// withGroups is a user with the groups that an authority adds.
func withGroups(u *user, a *authority) *user {
	return &user{id: u.id, name: u.name, groupIDs: slices.Concat(u.groupIDs, a.groupIDs)}
}

// viewKeys are the keys of the policy, then those of files in their order.
func (s *survey) viewKeys(u *user) (views []KeyView) {
	p := s.p
	seen := map[string]bool{}
	add := func(key ssh.PublicKey, from string, reason Reason, detail string) {
		fingerprint := ssh.FingerprintSHA256(key)
		if seen[fingerprint] {
			return
		}
		seen[fingerprint] = true
		v := KeyView{Fingerprint: fingerprint, Type: key.Type(), From: from, Reason: reason, Detail: detail}
		if c := p.keys.find(key); reason == "" && c != nil {
			v.Reason, v.Detail = p.keyRefused(c)
			v.Conditions = s.optionSteps(c.options)
		}
		if why := p.shut[u.name]; why != "" && v.Reason == "" {
			v.Reason, v.Detail = KeyFileUnusable, why
		}
		views = append(views, v)
	}
	for _, c := range p.written.byBlob {
		if c.user == u {
			add(c.key, "policy", "", "")
		}
	}
	slices.SortFunc(views, func(a, b KeyView) int {
		return cmp.Or(strings.Compare(a.Type, b.Type), strings.Compare(a.Fingerprint, b.Fingerprint))
	})
	for _, f := range p.files {
		if f.User != u.name || p.users[u.name] == nil {
			continue
		}
		for i := range f.Keys {
			e := &f.Keys[i]
			if e.Options.CertAuthority {
				continue
			}
			reason, detail := Reason(""), ""
			if c := p.keys.find(e.Key); c == nil {
				reason, detail = UnknownKey, "it stands in the files of several users"
			} else if c.user != u {
				reason, detail = UnknownKey, "it is the key of "+c.user.name
			}
			add(e.Key, fmt.Sprintf("%s:%d", f.Name, e.Line), reason, detail)
		}
		for _, r := range f.Refused {
			add(r.Key, fmt.Sprintf("%s:%d", f.Name, r.Line), KeyUnsupported, r.Why)
		}
	}
	return views
}

func (s *survey) viewRoles(u *user, listed bool, by []*authority) (views []RoleView) {
	for _, name := range roleNames {
		role := s.p.roles[Role(name)]
		if role == nil {
			continue
		}
		given := grant{users: role.users, groups: role.groups}
		v := RoleView{Role: Role(name), Key: listed && given.covers(u)}
		v.Certificates = role.certificates && slices.ContainsFunc(by, func(a *authority) bool { return given.covers(withGroups(u, a)) })
		if !v.Key && !v.Certificates {
			continue
		}
		asks, _ := role.cond.steps("the role "+name, false, false, &s.q.Request)
		v.Conditions = leaveOpen(asks, &s.q.Request, true)
		views = append(views, v)
	}
	return views
}

func (s *survey) viewGrants(u *user, by []*authority) (views []UserGrant) {
	of := map[int32][]string{} // to the authorities that a grant takes; none: it is his own
	for _, a := range by {
		for _, sub := range a.subjects {
			for _, id := range sub.grants {
				if !slices.Contains(of[id], a.name) {
					of[id] = append(of[id], a.name)
				}
			}
		}
	}
	for _, sub := range u.subjects {
		for _, id := range sub.grants {
			of[id] = nil
		}
	}
	for _, id := range slices.Sorted(maps.Keys(of)) {
		g := s.p.grants[id]
		v := UserGrant{Grant: g.name, Authorities: of[id], Keep: g.keep, Limits: g.limits}
		asks, _ := g.cond.steps(g.name, false, false, &s.q.Request)
		v.Conditions = leaveOpen(asks, &s.q.Request, true)
		v.Holds = !slices.ContainsFunc(v.Conditions, fails)
		for _, t := range g.targets {
			v.Targets = append(v.Targets, UserTarget{t.name, slices.Clone(t.hosts), slices.Clone(t.portsAsWritten), slices.Clone(t.within), t.follow})
		}
		views = append(views, v)
	}
	return views
}
