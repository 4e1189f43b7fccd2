package authz

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"sekisho/authz/strictyaml"
)

// Options are those of the server's settings that bear on decisions.
type Options struct {
	// Networks is the fence: no address outside is ever allowed. With no
	// networks nothing is. A network of a single address admits it even if
	// it is a loopback, metadata, own … address; a wider one never does.
	Networks []netip.Prefix

	// Zones are the DNS zones. For a name that only a network grant could
	// cover, DNS may be asked if it is in one of them.
	Zones []string

	// Own are the server's own addresses.
	Own []netip.Addr
}

// Parse reads a policy. It returns every problem of it, warnings too, as the
// text runs. The Policy is nil if there is any that is not a warning.
func Parse(r io.Reader, filename string, opts Options) (*Policy, strictyaml.Problems) {
	sum := sha256.New()
	root, problems := strictyaml.Parse(io.TeeReader(r, sum), filename)
	if root == nil {
		return nil, problems
	}
	ps := newParser(opts)
	ps.parse(root)
	problems = root.Problems()
	if problems.Err() != nil {
		return nil, problems
	}
	ps.hash = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	return ps.finish(), problems
}

// normalZones leaves out what is no name: such a zone contains none.
func normalZones(zones []string) []string {
	var out []string
	for _, z := range zones {
		if name, addr, err := ParseHost(z); err == nil && !addr.IsValid() {
			out = append(out, name)
		}
	}
	return out
}

type parser struct {
	*Policy
	groups      map[string]int32 // ids of the groups that users are in
	groupNames  []string
	userNames   []string
	guestNames  []string
	authorities []*authority
	targetSeen  map[string]*declared
	targetNames []string
	zonesSeen   map[string]*time.Location // nil for those that are not known
	hints       int                       // how many have been looked for
}

func newParser(opts Options) *parser {
	return &parser{
		Policy: &Policy{
			fence:   newFence(opts.Networks, opts.Own),
			zones:   normalZones(opts.Zones),
			users:   map[string]*user{},
			guests:  map[string]*user{},
			folded:  map[string]string{},
			roles:   map[Role]*role{},
			written: newKeyring(),
		},
		groups:     map[string]int32{},
		targetSeen: map[string]*declared{},
		zonesSeen:  map[string]*time.Location{},
	}
}

// declared is a target with its place.
type declared struct {
	target *target
	node   *strictyaml.Node
	used   bool
	shut   bool // lies wholly outside the fence
}

func (ps *parser) parse(root *strictyaml.Node) {
	m := root.Map("version", "timezone", "users", "authorities", "targets", "grants", "roles")
	var version int
	if n := m.Require("version"); n.Int(&version, 1, math.MaxInt) && version != 1 {
		n.Errorf("version %d is not supported by this version", version).Hint = "write version: 1"
	}
	ps.parseTimezone(m.Get("timezone"))
	ps.parseUsers(m.Get("users").Items())
	ps.parseAuthorities(m.Get("authorities").Items())
	ps.parseTargets(m.Get("targets").Items())
	ps.parseGrants(m.Get("grants").Items())
	ps.parseRoles(m.Get("roles"))
	if root.Problems().Err() != nil {
		return // what is wrong may be just where the target is used
	}
	for _, name := range ps.targetNames {
		if d := ps.targetSeen[name]; !d.used {
			d.node.Warnf("no grant uses the target %q", name)
		}
	}
}

func (ps *parser) parseTimezone(n *strictyaml.Node) {
	var name string
	if !n.String(&name) {
		return
	}
	zone, err := time.LoadLocation(name)
	if err != nil || name == "" || name == "Local" {
		n.Errorf("the timezone %s is not known", quote(name)).Hint = "write its name in the tz database, such as Asia/Tokyo or UTC"
		return
	}
	ps.timezone = zone
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$`)

// name reads the name of a user, group, authority, target or grant.
func name(n *strictyaml.Node, what string) (string, bool) {
	var s string
	if !n.String(&s) {
		return "", false
	}
	if !nameForm.MatchString(s) {
		article := "a"
		if what == "authority" {
			article = "an"
		}
		n.Errorf("%s is not a name of %s %s", quote(s), article, what).Hint =
			`a name has 1 to 64 letters, digits and ". _ @ + -", and begins with a letter or digit`
		return "", false
	}
	return s, true
}

// suggest is DidYouMean for the first few: in a file where thousands of names
// are wrong, all for the same cause, it would take long and help nobody.
func (ps *parser) suggest(word string, candidates []string) string {
	if ps.hints++; ps.hints > 50 {
		return ""
	}
	return strictyaml.DidYouMean(word, candidates)
}

func (ps *parser) parseTargets(items []*strictyaml.Node) {
	for _, item := range items {
		m := item.Map("name", "hosts", "ports", "within", "follow_dns")
		t := &target{}
		d := &declared{target: t, node: item}
		n := m.Require("name")
		if s, ok := name(n, "target"); ok {
			t.name, d.node = s, n
			if other := ps.targetSeen[s]; other != nil {
				n.Errorf("the target %q is already at line %d", s, other.node.Line)
			} else {
				ps.targetSeen[s] = d
				ps.targetNames = append(ps.targetNames, s)
				ps.targets = append(ps.targets, t)
			}
		}
		parseHosts(nonEmpty(m.Require("hosts"), "hosts"), t)
		parsePortList(nonEmpty(m.Require("ports"), "ports"), t)
		var within []netip.Prefix
		if n := m.Get("within"); n != nil {
			// An empty one would read as "nowhere" to some, as "anywhere" to others.
			within = parseWithin(nonEmpty(n, "within"))
		}
		t.within = makeNetworks(within)
		parseFollow(m.Get("follow_dns"), t)
		d.shut = ps.isShut(t)
	}
}

// nonEmpty returns the items of a list that must have some.
func nonEmpty(n *strictyaml.Node, what string) []*strictyaml.Node {
	if isEmpty(n) {
		n.Errorf("%s is empty", what)
	}
	return n.Items()
}

// isEmpty reports whether n is a list with nothing in it.
func isEmpty(n *strictyaml.Node) bool {
	return n != nil && n.Kind == strictyaml.List && len(n.Items()) == 0
}

func parseHosts(items []*strictyaml.Node, t *target) {
	var nets []netip.Prefix
	for _, n := range items {
		var s, message, hint string
		if !n.String(&s) {
			continue
		}
		switch {
		case strings.Contains(s, "*"):
			var p pattern
			if p, message, hint = parsePattern(s); message == "" {
				t.stars = append(t.stars, p)
			}
		case strings.Contains(s, "/"):
			var p netip.Prefix
			if p, message, hint = parseNetwork(s); message == "" {
				nets = append(nets, p)
			}
		default:
			host, addr, msg := parseHost(s)
			switch {
			case msg != "":
				message = quote(s) + ": " + msg
			case host != s:
				message, hint = "the host "+quote(s)+" is not in normal form", didYouMean(host)
			case addr.IsValid():
				nets = append(nets, netip.PrefixFrom(addr, addr.BitLen()))
			default:
				t.names = append(t.names, host)
			}
		}
		if message != "" {
			n.Errorf("%s", message).Hint = hint
			continue
		}
		t.hosts = append(t.hosts, s)
	}
	slices.Sort(t.names)
	t.names = slices.Compact(t.names)
	t.nets = makeNetworks(nets)
}

func parsePortList(items []*strictyaml.Node, t *target) {
	var ranges []portRange
	for _, n := range items {
		var s string
		if !n.StringOrInt(&s) {
			continue
		}
		r, message, hint := parsePorts(s)
		if message != "" {
			n.Errorf("%s", message).Hint = hint
			continue
		}
		ranges = append(ranges, r)
		t.portsAsWritten = append(t.portsAsWritten, s)
	}
	t.ports = makePorts(ranges)
}

func parseWithin(items []*strictyaml.Node) (within []netip.Prefix) {
	for _, n := range items {
		var s string
		if !n.String(&s) {
			continue
		}
		parse := parseAddress
		if strings.Contains(s, "/") {
			parse = parseNetwork
		}
		p, message, hint := parse(s)
		if message != "" {
			n.Errorf("%s", message).Hint = hint
			continue
		}
		within = append(within, p)
	}
	return within
}

// leastFollow is the shortest follow_dns. Names are looked up several times in
// that time, and one late answer must not look like a move.
const leastFollow = 5 * time.Second

// parseFollow reads follow_dns, once the hosts of the target are known.
func parseFollow(n *strictyaml.Node, t *target) {
	if !n.Duration(&t.follow) {
		return
	}
	switch {
	case t.follow == 0:
		n.Errorf("follow_dns of 0 is not clear").Hint = "leave it out, and names are not followed"
	case t.follow < leastFollow:
		n.Errorf("follow_dns is shorter than %v", leastFollow).Hint = "write how long a name must have led elsewhere before its forwards are closed, such as 30s"
	case len(t.names)+len(t.stars) == 0 && len(t.hosts) > 0:
		n.Key().Warnf("follow_dns is about names, and the target has none")
	}
}

// isShut reports whether the fence refuses every address that the target
// could lead to.
func (ps *parser) isShut(t *target) bool {
	if len(ps.fence.networks) == 0 {
		return false // every target would be: that is the settings' mistake
	}
	open := func(p netip.Prefix) bool {
		if p.IsSingleIP() {
			r := ps.fence.check(p.Addr())
			return r == "" || r == OwnAddress // which may change while the policy is in force
		}
		return slices.ContainsFunc(ps.fence.networks, p.Overlaps)
	}
	if len(t.names)+len(t.stars) > 0 {
		return len(t.within) > 0 && !slices.ContainsFunc(t.within, open)
	}
	for _, p := range t.nets {
		if len(t.within) == 0 && open(p) {
			return false
		}
		for _, w := range t.within {
			if both, ok := overlap(p, w); ok && open(both) {
				return false
			}
		}
	}
	return len(t.nets) > 0
}

func (ps *parser) parseGrants(items []*strictyaml.Node) {
	seen := map[string]int{}
	for _, item := range items {
		m := item.Map("name", "groups", "users", "to", "when", "at_end", "require", "limits")
		g := &grant{}
		n := m.Require("name")
		if s, ok := name(n, "grant"); ok {
			g.name = s
			if line, ok := seen[s]; ok {
				n.Errorf("the grant %q is already at line %d", s, line)
			} else {
				seen[s] = n.Line
			}
		}
		users, groups := m.Get("users"), m.Get("groups")
		switch {
		case m.Lacks("users", "groups"):
			item.Errorf(`the grant is given to nobody: "users" and "groups" are missing here`)
		case (users != nil || groups != nil) && (users == nil || isEmpty(users)) && (groups == nil || isEmpty(groups)):
			item.Warnf("the grant is given to nobody")
		}
		g.users, g.groups = ps.parseWhom(users, groups)
		for _, n := range nonEmpty(m.Require("to"), "to") {
			s, ok := name(n, "target")
			if !ok {
				continue
			}
			d := ps.targetSeen[s]
			if d == nil {
				n.Errorf("there is no target %q", s).Hint = ps.suggest(s, ps.targetNames)
				continue
			}
			d.used = true
			if d.shut {
				n.Warnf("the grant can never allow the target %q: it lies wholly outside networks", s)
			}
			if !slices.Contains(g.targets, d.target) {
				g.targets = append(g.targets, d.target)
				g.follows = g.follows || d.target.follow > 0
			}
		}
		g.cond = ps.parseConditions(m.Get("when"), m.Get("require"))
		ps.parseGrantEnds(m.Get("at_end"), m.Get("limits"), g)
		ps.grants = append(ps.grants, g)
	}
}
