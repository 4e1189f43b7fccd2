package authz

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"sekisho/authz/authkeys"
)

// A Change is what somebody gains and loses when one policy takes the place of
// another, in words for an administrator. What is allowed on other terms than
// before is both: lost on the old ones, gained on the new ones.
type Change struct {
	Who     string   `json:"who"`               // a user; or `authority "corp"`, for whomever it vouches for
	Added   bool     `json:"added,omitempty"`   // nobody of that name was there before
	Removed bool     `json:"removed,omitempty"` // nobody of that name is there any more
	Gains   []string `json:"gains,omitempty"`
	Loses   []string `json:"loses,omitempty"`
}

// Compare returns what changes for whom when the policy next takes the place of
// p, by name. Nobody for whom nothing changes is in it. Only what is granted is
// compared, not the order of grants, nor what locks and lists of revoked keys
// take away from all of it.
func (p *Policy) Compare(next *Policy) []Change {
	before, after := p.holdings(), next.holdings()
	names := slices.Collect(maps.Keys(before))
	for name := range after {
		if before[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	texts := newGrantTexts(p, next)
	var changes []Change
	for _, name := range names {
		old, now := before[name], after[name]
		c := Change{Who: name, Added: old == nil, Removed: now == nil}
		if old == nil {
			old = &holding{}
		}
		if now == nil {
			now = &holding{}
		}
		c.Gains, c.Loses = subtract(now.facts, old.facts), subtract(old.facts, now.facts)
		for _, s := range subtract(old.limits, now.limits) {
			if !c.Removed {
				c.Gains = append(c.Gains, "no longer "+s)
			}
		}
		for _, s := range subtract(now.limits, old.limits) {
			if c.Added {
				c.Gains = append(c.Gains, "all of it "+s)
			} else {
				c.Loses = append(c.Loses, "from now on "+s)
			}
		}
		c.Gains = texts.beyond(c.Gains, texts.now, now.subjects, texts.old, old.subjects)
		c.Loses = texts.beyond(c.Loses, texts.old, old.subjects, texts.now, now.subjects)
		if c.Added || c.Removed || len(c.Gains)+len(c.Loses) > 0 {
			changes = append(changes, c)
		}
	}
	return changes
}

// A holding is what somebody has by a policy.
type holding struct {
	facts    []string   // keys, groups, roles
	limits   []string   // his conditions: to lose one is to gain
	subjects []*subject // to which grants are given
}

func (p *Policy) holdings() map[string]*holding {
	all := map[string]*holding{}
	if p == nil {
		return all
	}
	proofs := p.proofs()
	for name, u := range p.users {
		h := &holding{facts: proofs[u], subjects: u.subjects}
		slices.Sort(h.facts)
		if p.shut[name] != "" {
			h.facts = nil // none of his keys is taken
		}
		for _, g := range u.groups {
			h.facts = append(h.facts, "the group "+g)
		}
		h.facts = append(h.facts, p.roleWords(u)...)
		if u.cond != nil {
			for k := range numConditions {
				if u.cond.has(k) {
					h.limits = append(h.limits, u.cond.term(k))
				}
			}
		}
		all[name] = h
	}
	for name, u := range p.guests {
		all[name] = &holding{facts: append([]string{"by certificate alone"}, p.roleWords(u)...), subjects: u.subjects}
	}
	for fingerprint, authorities := range p.written.authorities {
		for _, a := range authorities {
			h := &holding{subjects: a.subjects}
			h.facts = append(h.facts, fmt.Sprintf("the key %s vouches for %s", fingerprint, strings.Join(a.principals, ", ")))
			for _, g := range a.groups {
				h.facts = append(h.facts, "the group "+g)
			}
			all[fmt.Sprintf("authority %q", a.name)] = h
		}
	}
	return all
}

// proofs tell by which keys users log in, and which sign their certificates.
func (p *Policy) proofs() map[*user][]string {
	proofs := make(map[*user][]string, len(p.users))
	only := func(n narrowing) (s string) {
		for _, o := range n {
			s += optionTerms(o)
		}
		return s
	}
	for _, c := range p.keys.byBlob {
		if c.refused == "" {
			proofs[c.user] = append(proofs[c.user], "the key "+c.fingerprint+" ("+c.key.Type()+")"+only(c.options))
		}
	}
	for fingerprint, all := range p.keys.authorities {
		for _, a := range all {
			if a.user != nil {
				proofs[a.user] = append(proofs[a.user], "the key "+fingerprint+" that signs certificates"+only(a.options))
			}
		}
	}
	return proofs
}

func (p *Policy) roleWords(u *user) (words []string) {
	for _, s := range roleNames {
		name := Role(s)
		r := p.roles[name]
		if r == nil || !(&grant{users: r.users, groups: r.groups}).covers(u) {
			continue
		}
		text := "the role " + s
		if r.cond != nil && r.cond.touch {
			text += ", with touch"
		}
		if r.certificates {
			text += ", also by certificate"
		}
		words = append(words, text)
	}
	return words
}

// subtract returns what is in a and not in b, in the order of a.
func subtract(a, b []string) (out []string) {
	if len(a) == 0 || slices.Equal(a, b) {
		return nil
	}
	for _, s := range a {
		if !slices.Contains(b, s) {
			out = append(out, s)
		}
	}
	return out
}

// grantTexts are what the grants of two policies say. Grants of the same text
// have the same number, so that the many grants of many users are compared by
// numbers.
type grantTexts struct {
	texts    []string
	old, now []int32 // numbers of the texts, by the id of the grant

	seen []int32 // by number: the round in which it was seen
	at   int32   // the round
	ids  []int32 // room for those of a round
}

func newGrantTexts(p, next *Policy) *grantTexts {
	t := &grantTexts{}
	numbers := map[string]int32{}
	of := func(p *Policy) []int32 {
		if p == nil {
			return nil
		}
		ids := make([]int32, len(p.grants))
		targets := make(map[*target]string, len(p.targets))
		for _, target := range p.targets {
			targets[target] = target.words()
		}
		for i, g := range p.grants {
			s := g.words(targets)
			n, ok := numbers[s]
			if !ok {
				n = int32(len(t.texts))
				numbers[s] = n
				t.texts = append(t.texts, s)
			}
			ids[i] = n
		}
		return ids
	}
	t.old, t.now = of(p), of(next)
	t.seen = make([]int32, len(t.texts))
	return t
}

// beyond adds to out what the grants of some subjects say and those of others
// do not, in file order. The numbers are those of either policy.
func (t *grantTexts) beyond(out []string, numbers []int32, subjects []*subject, otherNumbers []int32, others []*subject) []string {
	t.at++
	for _, s := range others {
		for _, id := range s.grants {
			t.seen[otherNumbers[id]] = t.at
		}
	}
	t.ids = t.ids[:0]
	for _, s := range subjects {
		for _, id := range s.grants {
			if n := numbers[id]; t.seen[n] != t.at {
				t.seen[n] = t.at
				t.ids = append(t.ids, id)
			}
		}
	}
	slices.Sort(t.ids)
	out = slices.Grow(out, len(t.ids))
	for _, id := range t.ids {
		out = append(out, t.texts[numbers[id]])
	}
	return out
}

// words tell all that a grant gives, and on what terms.
func (g *grant) words(targets map[*target]string) string {
	var b strings.Builder
	b.WriteString("by the grant " + strconv.Quote(g.name) + ": ")
	for i, t := range g.targets {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(targets[t])
	}
	if g.cond != nil {
		for k := range numConditions {
			if g.cond.has(k) {
				b.WriteString(", " + g.cond.term(k))
			}
		}
	}
	if g.keep {
		b.WriteString(", what runs is kept")
	}
	if g.limits.Duration > 0 {
		b.WriteString(", for " + brief(g.limits.Duration))
	}
	if g.limits.Forwards > 0 {
		b.WriteString(", " + strconv.Itoa(g.limits.Forwards) + " at a time")
	}
	return b.String()
}

// brief writes a duration as a person does: 8h, not 8h0m0s.
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// term says a condition in a sentence about what somebody has.
func (c *conditions) term(k condition) string {
	switch k {
	case condExcept:
		return "not from " + strings.Join(c.exceptText, ", ")
	case condFrom:
		return "only from " + strings.Join(c.fromText, ", ")
	case condTouch:
		return "only with touch"
	case condHours:
		windows := make([]string, len(c.hours.windows)) // all of them, where String leaves out the rest of many
		for i, w := range c.hours.windows {
			windows[i] = w.times() + " " + w.zone.String()
		}
		return "only " + strings.Join(windows, ", ")
	}
	return "only " + c.text(k)
}

// optionTerms say what the options of a line in authorized_keys narrow.
func optionTerms(o *authkeys.Options) (s string) {
	if o.From != nil {
		s += ", only from " + o.From.String()
	}
	if !o.Expiry.IsZero() {
		s += ", only until " + o.Expiry.Format("2006-01-02 15:04:05 MST")
	}
	if o.NoForwarding {
		s += ", not for forwarding"
	}
	for _, open := range o.PermitOpen {
		s += fmt.Sprintf(", only to %s port %d", quote(open.Host), open.Port)
	}
	return s
}

func (t *target) words() string {
	s := t.name + " (" + strings.Join(t.hosts, ", ") + " port " + strings.Join(t.portsAsWritten, ", ")
	if len(t.within) > 0 {
		nets := make([]string, len(t.within))
		for i, n := range t.within {
			if nets[i] = n.String(); n.IsSingleIP() {
				nets[i] = n.Addr().String()
			}
		}
		s += ", within " + strings.Join(nets, ", ")
	}
	if t.follow > 0 {
		s += ", follow_dns " + t.follow.String()
	}
	return s + ")"
}
