package authz

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A build makes a policy without a text. It takes what it is given as it is.
type build struct{ *parser }

func newBuild() build {
	return build{newParser(Options{Networks: prefixes("10.0.0.0/8", "fd00::/8"), Own: addrs("10.0.0.1")})}
}

func (b build) user(name string, groups ...string) *user {
	u := &user{id: int32(len(b.userNames)), name: name, groups: groups}
	for _, g := range groups {
		u.groupIDs = append(u.groupIDs, b.group(g))
	}
	b.users[name] = u
	b.userNames = append(b.userNames, name)
	return u
}

func (b build) group(name string) int32 {
	id, ok := b.groups[name]
	if !ok {
		id = int32(len(b.groupNames))
		b.groups[name] = id
		b.groupNames = append(b.groupNames, name)
	}
	return id
}

func (b build) target(ports []portRange, hosts ...string) *target {
	t := &target{name: fmt.Sprintf("t%d", len(b.targets)), ports: makePorts(ports)}
	var nets []netip.Prefix
	for _, h := range hosts {
		if p, ok := prefixOf(h); ok {
			nets = append(nets, p)
		} else if strings.Contains(h, "*") {
			p, message, _ := parsePattern(h)
			if message != "" {
				panic(message)
			}
			t.stars = append(t.stars, p)
		} else {
			t.names = append(t.names, h)
		}
	}
	slices.Sort(t.names)
	t.nets = makeNetworks(nets)
	b.targets = append(b.targets, t)
	return t
}

func (b build) grant(users []*user, groups []string, to ...*target) *grant {
	g := &grant{name: fmt.Sprintf("g%d", len(b.grants)), targets: to}
	for _, u := range users {
		g.users = append(g.users, u.id)
	}
	for _, name := range groups {
		g.groups = append(g.groups, b.group(name))
	}
	slices.Sort(g.users)
	slices.Sort(g.groups)
	b.grants = append(b.grants, g)
	return g
}
