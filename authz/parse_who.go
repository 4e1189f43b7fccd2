package authz

import (
	"regexp"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"sekisho/authz/strictyaml"
)

func (ps *parser) parseUsers(items []*strictyaml.Node) {
	folded := map[string]*strictyaml.Node{}
	keys := map[string]*strictyaml.Node{}
	for _, item := range items {
		m := item.Map("name", "groups", "keys", "when", "require")
		u := &user{id: int32(len(ps.userNames))}
		named := false
		n := m.Require("name")
		if u.name, named = name(n, "user"); named {
			fold := strings.ToLower(u.name)
			if other := folded[fold]; other != nil {
				named = false
				if ps.users[u.name] != nil {
					n.Errorf("the user %q is already at line %d", u.name, other.Line)
				} else {
					n.Errorf("the user %q differs from the one at line %d only in upper and lower case", u.name, other.Line)
				}
			} else {
				folded[fold] = n
				ps.users[u.name] = u
				ps.folded[fold] = u.name
				ps.userNames = append(ps.userNames, u.name)
			}
		}
		u.groups, u.groupIDs = ps.parseMembership(m.Get("groups"))
		u.cond = ps.parseConditions(m.Get("when"), m.Get("require"))
		list := m.Get("keys")
		for _, k := range list.Items() {
			ps.parseUserKey(k, u, keys)
		}
		if named && (m.Lacks("keys") || isEmpty(list)) {
			n.Warnf("the user %q has no keys and cannot log in", u.name)
		}
	}
}

func (ps *parser) parseUserKey(n *strictyaml.Node, u *user, seen map[string]*strictyaml.Node) {
	var s string
	if !n.String(&s) {
		return
	}
	key, message, hint := parseKey(s)
	if message != "" {
		n.Errorf("%s", message).Hint = hint
		return
	}
	blob := string(key.Marshal())
	switch c := ps.written.byBlob[blob]; {
	case c == nil:
		seen[blob] = n
		ps.written.add(blob, &credential{key: key, fingerprint: ssh.FingerprintSHA256(key), user: u})
	case c.user == u:
		n.Warnf("the key is already at line %d", seen[blob].Line)
	default:
		n.Errorf("the key of %q at line %d is also the key of %q at line %d", c.user.name, seen[blob].Line, u.name, n.Line).Hint = "a key belongs to one user"
	}
}

// parseMembership reads the groups that somebody is in, each once.
func (ps *parser) parseMembership(list *strictyaml.Node) (groups []string, ids []int32) {
	for _, n := range list.Items() {
		group, ok := name(n, "group")
		if !ok || slices.Contains(groups, group) {
			continue
		}
		id, seen := ps.groups[group]
		if !seen {
			id = int32(len(ps.groupNames))
			ps.groups[group] = id
			ps.groupNames = append(ps.groupNames, group)
		}
		groups, ids = append(groups, group), append(ids, id)
	}
	return groups, ids
}

// parseWhom reads the users and groups that something is given to.
func (ps *parser) parseWhom(users, groups *strictyaml.Node) (userIDs, groupIDs []int32) {
	for _, n := range users.Items() {
		if s, ok := name(n, "user"); ok {
			if u := ps.userOrGuest(n, s); u != nil {
				userIDs = append(userIDs, u.id)
			}
		}
	}
	for _, n := range groups.Items() {
		s, ok := name(n, "group")
		if !ok {
			continue
		}
		if id, ok := ps.groups[s]; ok {
			groupIDs = append(groupIDs, id)
		} else {
			n.Warnf("no user is in the group %q", s).Hint = ps.suggest(s, ps.groupNames)
		}
	}
	slices.Sort(userIDs)
	slices.Sort(groupIDs)
	return slices.Compact(userIDs), slices.Compact(groupIDs)
}

// userOrGuest returns the user of a name that a grant or role has. One who is
// not in the list of users can be somebody whom an authority vouches for.
func (ps *parser) userOrGuest(n *strictyaml.Node, s string) *user {
	if u := ps.named(s); u != nil {
		return u
	}
	vouched := ps.folded[strings.ToLower(s)] == "" && slices.ContainsFunc(ps.authorities, func(a *authority) bool {
		return slices.ContainsFunc(a.principals, func(pattern string) bool { return matchName(pattern, s) })
	})
	hint := ps.suggest(s, ps.userNames)
	switch {
	case !vouched:
		n.Warnf("there is no user %q", s).Hint = hint
		return nil
	case hint != "":
		n.Warnf("there is no user %q: only a certificate could prove to be it", s).Hint = hint
	}
	u := &user{id: int32(len(ps.userNames) + len(ps.guestNames)), name: s}
	ps.guests[s] = u
	ps.guestNames = append(ps.guestNames, s)
	return u
}

var principalForm = regexp.MustCompile(`^[A-Za-z0-9._@+*-]{1,64}$`)

// parseAuthorities reads whose signature makes somebody a user.
func (ps *parser) parseAuthorities(items []*strictyaml.Node) {
	for _, item := range items {
		m := item.Map("name", "key", "principals", "groups")
		a := &authority{}
		n := m.Require("name")
		if s, ok := name(n, "authority"); ok {
			a.name = s
			if slices.ContainsFunc(ps.authorities, func(o *authority) bool { return o.name == s }) {
				n.Errorf("the authority %q stands here twice", s)
			}
		}
		ps.parseAuthorityKey(m.Require("key"), a)
		for _, n := range nonEmpty(m.Require("principals"), "principals") {
			var s string
			if !n.String(&s) {
				continue
			}
			if !principalForm.MatchString(s) {
				n.Errorf("%s is not a name of users", quote(s)).Hint = `write the name of a user, one with "*" in it such as "*@corp.example", or "*" for all`
				continue
			}
			a.principals = append(a.principals, s)
		}
		a.groups, a.groupIDs = ps.parseMembership(m.Get("groups"))
		ps.authorities = append(ps.authorities, a)
		if a.key != nil {
			ps.written.authorities[a.fingerprint] = append(ps.written.authorities[a.fingerprint], a)
		}
	}
}

func (ps *parser) parseAuthorityKey(n *strictyaml.Node, a *authority) {
	var s string
	if !n.String(&s) {
		return
	}
	key, message, hint := parseKey(s)
	if message != "" {
		n.Errorf("%s", message).Hint = hint
		return
	}
	a.key, a.fingerprint = key, ssh.FingerprintSHA256(key)
	if other := ps.written.authorities[a.fingerprint]; len(other) > 0 {
		n.Errorf("the key is that of the authority %q already", other[0].name)
	}
	if c := ps.written.find(key); c != nil {
		n.Errorf("the key of the authority is also a key of the user %q", c.user.name).Hint = "an authority has a key of its own: ssh-keygen -t ed25519 -f user_ca"
	}
}

// parseRoles reads who may do more than forward.
func (ps *parser) parseRoles(n *strictyaml.Node) {
	roles := n.Map(roleNames...)
	for _, s := range roleNames {
		item := roles.Get(s)
		if item == nil {
			continue
		}
		m := item.Map("users", "groups", "require", "certificates")
		users, groups := m.Get("users"), m.Get("groups")
		if m.Lacks("users", "groups") {
			item.Errorf(`the role is given to nobody: "users" and "groups" are missing here`)
		}
		r := &role{cond: ps.parseConditions(nil, m.Get("require"))}
		r.users, r.groups = ps.parseWhom(users, groups)
		m.Get("certificates").Bool(&r.certificates)
		ps.roles[Role(s)] = r
	}
}
