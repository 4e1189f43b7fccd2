package authz

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// A world is a policy with all that lies over it, told so that one thing can be
// added or taken away.
type world struct {
	users      map[string]map[string]string // to their conditions
	grants     []worldGrant
	principals string // of the authority
	admins     string // the role
	files      map[string][]worldLine
	locks      *Locks
}

type worldGrant struct {
	name, whom, to string
	ends           string // at_end and limits
	conditions     map[string]string
}

// A worldLine is a line of authorized_keys.
type worldLine struct {
	options []string
	key     string
}

var (
	worldConditions = map[string][]string{
		"from":    {"[203.0.113.0/24]", "[203.0.113.5]", `[10.0.0.0/8, "2001:db8::/32"]`},
		"except":  {"[203.0.113.5]", "[203.0.113.128/25, 10.0.0.0/8]"},
		"after":   {"2027-01-10", "2027-01-13 12:00", "2027-01-14"},
		"until":   {"2027-01-12", "2027-01-13", "2027-01-13 12:30", "2027-02-01"},
		"hours":   {`["09:00-17:00"]`, `["Mon-Fri 12:00-13:00"]`, `["22:00-06:00"]`, `["Wed 12:00-12:01 UTC", "Thu 00:00-24:00 Asia/Tokyo"]`},
		"require": {"[touch]"},
	}
	worldOptions = []string{`from="203.0.113.0/24"`, `from="*,!203.0.113.5"`, `from="10.0.0.0/8"`, `expiry-time="20270113123000Z"`, `expiry-time="20270201"`, `expiry-time="20260101"`,
		`permitopen="web:22"`, `permitopen="*:3306"`, `permitopen="10.0.1.5:*"`, "restrict", "no-port-forwarding", `command="x"`, "verify-required", `from="*.example.com"`, "nonsense"}
	worldLocks = []Lock{{User: "alice"}, {User: "bob"}, {User: "zoe"}, {Key: fingerprint(1)}, {Key: fingerprint(2)}, {Key: fingerprint(8)}, {Key: fingerprint(50)}, {Key: fingerprint(corpCA)}, {Key: fingerprint(ciCA)},
		{Serial: 7}, {Serial: 8, Authority: "corp"}, {Serial: 8, Authority: "keys/bob:1"}, {}}
	worldTimes   = []time.Time{noon, noon.Add(-time.Minute), noon.Add(30 * time.Minute), noon.Add(time.Hour), noon.Add(11 * time.Hour), noon.AddDate(0, 0, -2), noon.AddDate(0, 0, 1), noon.AddDate(1, 0, 0), {}}
	worldSources = []string{"203.0.113.5", "203.0.113.200", "10.1.2.3", "2001:db8::1", "::ffff:203.0.113.5"}
)

func one[T any](rnd *rand.Rand, from ...T) T { return from[rnd.IntN(len(from))] }

func conditionsAtRandom(rnd *rand.Rand) map[string]string {
	c := map[string]string{}
	for range rnd.IntN(3) {
		addCondition(rnd, c)
	}
	return c
}

// addCondition reports whether there was room for one more that can hold
// together with the others.
func addCondition(rnd *rand.Rand, c map[string]string) bool {
	kind := one(rnd, slices.Sorted(maps.Keys(worldConditions))...)
	if _, ok := c[kind]; ok {
		return false
	}
	value := one(rnd, worldConditions[kind]...)
	if after, until := c["after"], c["until"]; kind == "after" && until != "" && value >= until || kind == "until" && after != "" && after >= value {
		return false
	}
	c[kind] = value
	return true
}

func writeConditions(c map[string]string) string {
	var when []string
	for _, kind := range slices.Sorted(maps.Keys(c)) {
		if kind != "require" {
			when = append(when, kind+": "+c[kind])
		}
	}
	s := ""
	if len(when) > 0 {
		s = ", when: {" + strings.Join(when, ", ") + "}"
	}
	if c["require"] != "" {
		s += ", require: " + c["require"]
	}
	return s
}

func randomWorld(rnd *rand.Rand) *world {
	w := &world{users: map[string]map[string]string{}, files: map[string][]worldLine{}, principals: `["*"]`}
	for _, u := range []string{"alice", "bob"} {
		w.users[u] = map[string]string{}
		if rnd.IntN(3) == 0 {
			w.users[u] = conditionsAtRandom(rnd)
		}
		for range rnd.IntN(3) {
			l := worldLine{key: one(rnd, "KEY1", "KEY2", "KEY4", "CORP", "CI")}
			if rnd.IntN(3) > 0 {
				l.options = append(l.options, one(rnd, worldOptions...))
			}
			if l.key[0] == 'C' {
				l.options = append(l.options, "cert-authority")
			}
			w.files[u] = append(w.files[u], l)
		}
	}
	for i := range 1 + rnd.IntN(5) {
		g := worldGrant{
			name:       fmt.Sprintf("g%d", i),
			whom:       one(rnd, "groups: [dev]", "groups: [staff]", "users: [alice]", "users: [bob, zoe]", "users: [alice, zoe], groups: [dev]"),
			to:         one(rnd, "web", "db", "net", "web, db", "narrow"),
			conditions: conditionsAtRandom(rnd),
		}
		if rnd.IntN(3) > 0 {
			clear(g.conditions)
		}
		if rnd.IntN(3) == 0 {
			g.ends = ", limits: {forwards: 5}"
		}
		if rnd.IntN(2) == 0 {
			g.ends += ", at_end: keep"
		}
		w.grants = append(w.grants, g)
	}
	if rnd.IntN(2) == 0 {
		w.admins = one(rnd, "{users: [alice]}", "{groups: [staff], certificates: true}", "{groups: [dev], require: [touch]}", "{users: [zoe], certificates: true, require: [touch]}")
	}
	for range rnd.IntN(6) - 3 {
		w.locks = w.locks.With(one(rnd, worldLocks...))
	}
	return w
}

func (w *world) clone() *world {
	c := *w
	c.users, c.files, c.grants = map[string]map[string]string{}, map[string][]worldLine{}, slices.Clone(w.grants)
	for u, conditions := range w.users {
		c.users[u] = maps.Clone(conditions)
	}
	for u, lines := range w.files {
		for _, l := range lines {
			c.files[u] = append(c.files[u], worldLine{slices.Clone(l.options), l.key})
		}
	}
	for i := range c.grants {
		c.grants[i].conditions = maps.Clone(c.grants[i].conditions)
	}
	return &c
}

func (w *world) String() string {
	var b strings.Builder
	b.WriteString("version: 1\nusers:\n")
	for i, u := range []string{"alice", "bob"} {
		fmt.Fprintf(&b, "  - {name: %s, groups: [dev], keys: [KEY%d]%s}\n", u, i+1, writeConditions(w.users[u]))
	}
	fmt.Fprintf(&b, `authorities:
  - {name: corp, key: CORP, principals: %s, groups: [staff]}
targets:
  - {name: web, hosts: [web], ports: [22]}
  - {name: db, hosts: [db, "*.corp.example"], ports: [3306]}
  - {name: net, hosts: [10.0.1.0/24], ports: [22]}
  - {name: narrow, hosts: [web, db], ports: [1-65535], within: [10.0.1.5]}
grants:
`, w.principals)
	for _, g := range w.grants {
		fmt.Fprintf(&b, "  - {name: %s, %s, to: [%s]%s%s}\n", g.name, g.whom, g.to, g.ends, writeConditions(g.conditions))
	}
	if w.admins != "" {
		b.WriteString("roles: {admin: " + w.admins + "}\n")
	}
	return b.String()
}

// policy makes the policy of the world.
func (w *world) policy(t *testing.T) *Policy {
	t.Helper()
	var files []KeyFile
	for _, u := range slices.Sorted(maps.Keys(w.files)) {
		text := ""
		for _, l := range w.files[u] {
			text += strings.TrimSpace(strings.Join(l.options, ",")+" "+l.key) + "\n"
		}
		files = append(files, keyFile(u, text))
	}
	text := w.String()
	if len(w.grants) == 0 {
		text = strings.Replace(text, "grants:\n", "", 1)
	}
	p, _ := mustParseCerts(t, text).WithKeys(files)
	return p.WithLocks(w.locks, nil)
}

// worldIdentities are all who could ask, as they were identified when nothing
// was in the way.
func worldIdentities(t *testing.T) (out []Identity) {
	p, _ := mustParseCerts(t, certPolicy).WithKeys([]KeyFile{keyFile("bob", "cert-authority CI")})
	for _, user := range []string{"alice", "bob", "alice", "bob", "zoe", "mallory"} {
		for _, n := range []int{1, 2, 4} {
			out = append(out, Identity{User: user, Key: fingerprint(n)})
		}
		out = append(out, Identity{User: user, Key: AnyKey})
		for i, change := range []func(*ssh.Certificate){
			func(c *ssh.Certificate) {}, func(c *ssh.Certificate) { c.Serial = 8 }, option("source-address", "203.0.113.5,10.0.0.0/8"), valid(0, math.MaxUint64),
			valid(uint64(noon.Unix()), uint64(noon.Unix()+1800)), func(c *ssh.Certificate) { c.Key = testKey(8) },
		} {
			out = append(out, mustIdentify(t, p, makeCert(t, testSigner(corpCA), []string{user}, change)))
			if user == "bob" && i < 2 {
				out = append(out, mustIdentify(t, p, makeCert(t, testSigner(ciCA), []string{user}, change)))
			}
		}
	}
	return out
}

func (w *world) ask(rnd *rand.Rand, ids []Identity) Request {
	id := one(rnd, ids...)
	for rnd.IntN(3) > 0 && (id.User == "mallory" || id.Cert == nil && id.Key != fingerprint(map[string]int{"alice": 1, "bob": 2}[id.User])) {
		id = one(rnd, ids...) // most who ask are somebody
	}
	r := Request{User: id.User, Key: id.Key, Cert: id.Cert, Time: noon, Touch: rnd.IntN(2) == 0}
	if rnd.IntN(3) == 0 {
		r.Time = one(rnd, worldTimes...)
	}
	r.Host, r.Port = one(rnd, "web", "web", "10.0.1.5"), 22
	switch rnd.IntN(6) {
	case 0, 1:
		r.Host, r.Port = one(rnd, "db", "a.corp.example"), 3306
	case 2:
		r.Host, r.Port = one(rnd, "web", "other", "a b"), one[uint32](rnd, 22, 3306, 0)
	}
	if r.Source = source5; rnd.IntN(3) == 0 {
		r.Source = netip.Addr{}
	} else if rnd.IntN(2) == 0 {
		r.Source = netip.MustParseAddr(one(rnd, worldSources...))
	}
	if rnd.IntN(2) == 0 {
		r.Addr = netip.MustParseAddr(one(rnd, "10.0.1.5", "10.0.1.5", "10.0.1.6", "10.0.2.1", "127.0.0.2"))
	}
	if rnd.IntN(3) == 0 {
		r.Running, r.Grant = true, one(rnd, "g0", "g1", "g2", "")
	}
	return r
}

// narrower takes something away, and says what; "" if it could not.
func (w *world) narrower(rnd *rand.Rand) (*world, string) {
	w = w.clone()
	user := one(rnd, "alice", "bob")
	switch rnd.IntN(9) {
	case 0:
		i := rnd.IntN(len(w.grants))
		w.grants = slices.Delete(w.grants, i, i+1)
		return w, "without a grant"
	case 1:
		if addCondition(rnd, w.grants[rnd.IntN(len(w.grants))].conditions) {
			return w, "with a condition of a grant"
		}
	case 2:
		if addCondition(rnd, w.users[user]) {
			return w, "with a condition of " + user
		}
	case 3, 4:
		if lines := w.files[user]; len(lines) > 0 {
			l, o := &lines[rnd.IntN(len(lines))], one(rnd, worldOptions...)
			again := func(has string) bool {
				return strings.HasPrefix(has, "permitopen") && strings.HasPrefix(o, "permitopen")
			}
			if !slices.ContainsFunc(l.options, again) { // several add up
				l.options = append(l.options, o)
				return w, "with an option " + o
			}
		}
	case 5:
		l := worldLine{key: map[string]string{"alice": "KEY1", "bob": "KEY2"}[user], options: []string{one(rnd, worldOptions...)}}
		w.files[user] = append(w.files[user], l)
		return w, "with a line for the key of " + user
	case 6:
		l := one(rnd, worldLocks...)
		w.locks = w.locks.With(l)
		return w, "with a lock: " + l.String()
	case 7:
		if w.admins != "" {
			w.admins = ""
			return w, "without any admins"
		}
	case 8:
		w.principals = one(rnd, "[alice]", `["b*", zoe]`, "[nobody]")
		return w, "with a narrower authority"
	}
	return nil, ""
}

func TestTakingAnythingAwayNeverAllowsMore(t *testing.T) {
	rnd := rand.New(rand.NewPCG(21, 21))
	ids := worldIdentities(t)
	allowed, less := 0, map[string]int{}
	for range 400 {
		w := randomWorld(rnd)
		n, what := w.narrower(rnd)
		if n == nil {
			continue
		}
		wide, narrow := w.policy(t), n.policy(t)
		for range 60 {
			r := w.ask(rnd, ids)
			before, after := wide.Decide(r), narrow.Decide(r)
			if after.Effect == Allow && before.Effect != Allow || after.DNS && !before.DNS {
				t.Fatalf("%s: %+v\nbefore %+v\nafter  %+v\n%s%+v\n%s%+v", what, r, before, after, w, w.files, n, n.files)
			}
			if before.Effect == Allow {
				if allowed++; after.Effect != Allow {
					less[strings.Fields(what)[2]]++
				}
			}
			if narrow.HasRole(r, Admin) && !wide.HasRole(r, Admin) {
				t.Fatalf("%s: %+v is an admin now", what, r)
			}
			id := Identity{User: r.User, Key: r.Key, Cert: r.Cert}
			was, _, _ := wide.HoldsNow(id, r.Source, r.Time)
			if is, _, _ := narrow.HoldsNow(id, r.Source, r.Time); is == "" && was != "" {
				t.Fatalf("%s: %+v may be here now, and might not for %s", what, r, was)
			}
		}
	}
	if allowed < 1000 || len(less) < 6 {
		t.Errorf("hardly anything was allowed (%d) or taken away (%v)", allowed, less)
	}
}

// An explanation is what was decided, and its steps lead there.
func TestExplanationsLeadToTheDecision(t *testing.T) {
	rnd := rand.New(rand.NewPCG(22, 22))
	ids := worldIdentities(t)
	seen := map[Reason]int{}
	for range 300 {
		w := randomWorld(rnd)
		p := w.policy(t)
		for range 60 {
			r := w.ask(rnd, ids)
			seen[p.Decide(r).Reason]++
			if p.Decide(r).Reason == Locked && p.named(r.User) == nil || !p.isOf(r) {
				continue // nobody's steps
			}
			checkExplanation(t, p, r)
			e := p.Explain(r)
			fits := slices.ContainsFunc(e.Grants, func(g GrantStep) bool { return g.Fits && g.Holds })
			all := fits && !slices.ContainsFunc(slices.Concat(e.Proof, e.User), failed) && (!r.Addr.IsValid() || e.Fence.Reason == "")
			if all != (e.Decision.Effect == Allow) {
				t.Fatalf("%+v\n%+v", r, e)
			}
		}
	}
	for _, reason := range []Reason{Granted, UnknownUser, KeyRemoved, KeyUnsupported, AuthorityRemoved, CertNotYet, CertExpired, CertNotFrom, KeyExpired, KeyNotFrom, KeyNoForwarding, KeyNotPermitted,
		Locked, Revoked, Lockdown, BadHost, BadPort, NoGrant, NotFrom, Excepted, NotYet, Expired, OutsideHours, NeedsTouch, OutsideWithin} {
		if seen[reason] == 0 {
			t.Errorf("never %s: %v", reason, seen)
		}
	}
}

// isOf reports whether the proof of a request is the user's at all.
func (p *Policy) isOf(r Request) bool {
	_, _, reason, _ := p.holder(&r)
	return reason == "" || reason == KeyUnsupported
}

// Nothing but Next, and what changes the policy, changes a decision.
func TestDecisionsOnlyChangeAtNext(t *testing.T) {
	rnd := rand.New(rand.NewPCG(23, 23))
	ids := worldIdentities(t)
	edges, silent := 0, 0
	for range 300 {
		w := randomWorld(rnd)
		p := w.policy(t)
		for range 30 {
			r := w.ask(rnd, ids)
			if r.Time.IsZero() {
				if d := p.Decide(r); !d.Next.IsZero() {
					t.Fatalf("%+v: %+v", r, d)
				}
				continue
			}
			r.Time = r.Time.Add(time.Duration(rnd.Int64N(int64(one(rnd, time.Minute, time.Hour, 72*time.Hour)))))
			first := p.Decide(r)
			id := Identity{User: r.User, Key: r.Key, Cert: r.Cert}
			holds, _, until := p.HoldsNow(id, r.Source, r.Time)
			same := func(at time.Time) {
				later := r
				later.Time = at
				if d := p.Decide(later); (first.Next.IsZero() || at.Before(first.Next)) && (d.Reason != first.Reason || d.Grant != first.Grant || d.Limits != first.Limits) {
					t.Fatalf("%+v: %+v\nat %v, before Next: %+v\n%s", r, first, at, d, w)
				}
				if reason, _, _ := p.HoldsNow(id, r.Source, at); (until.IsZero() || at.Before(until)) && reason != holds {
					t.Fatalf("%+v holds: %q until %v\nat %v: %q\n%s", r, holds, until, at, reason, w)
				}
			}
			for _, next := range []time.Time{first.Next, until} {
				if next.IsZero() {
					if silent++; rnd.IntN(2) == 0 {
						same(r.Time.AddDate(0, 0, rnd.IntN(400)).Add(time.Duration(rnd.Int64N(int64(24 * time.Hour)))))
					}
					continue
				}
				if edges++; !next.After(r.Time) {
					t.Fatalf("%+v: %v is not later", r, next)
				}
				same(next.Add(-1))
				same(r.Time.Add(time.Duration(rnd.Int64N(int64(next.Sub(r.Time))))))
			}
		}
	}
	if edges < 1000 || silent < 1000 {
		t.Errorf("%d edges, %d without", edges, silent)
	}
}
