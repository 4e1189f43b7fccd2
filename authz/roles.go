package authz

// A Role is what somebody may do beside forwarding. Nobody has one unless the
// policy gives it.
type Role string

const (
	Admin   Role = "admin"   // opens forwards during a lockdown
	Auditor Role = "auditor" // reads the audit log over SSH
)

// roleNames are the roles that a policy can give.
var roleNames = []string{string(Admin), string(Auditor)}

// A role is who has one, and on what conditions.
type role struct {
	users        []int32 // sorted
	groups       []int32 // sorted
	certificates bool    // also by certificate, and in the groups of its authority
	cond         *conditions
}

// HasRole reports whether the principal of a request has a role now: his own
// conditions and those of the role must hold. Of the request, Host, Port and
// Addr say nothing to it.
func (p *Policy) HasRole(r Request, name Role) bool {
	u, s := p.standing(&r)
	return u != nil && s.reason == "" && u.cond.failing(&r, false) == numConditions && p.holds(u, &r, name)
}

// holds reports whether a user has a role, as far as the role itself asks for
// something.
func (p *Policy) holds(u *user, r *Request, name Role) bool {
	role := p.roles[name]
	if role == nil || r.Cert != nil && !role.certificates {
		return false
	}
	given := grant{users: role.users, groups: role.groups}
	return given.covers(u) && role.cond.failing(r, false) == numConditions
}
