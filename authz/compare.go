package authz

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Change is what somebody gains and loses when one policy takes the place of
// another, in words for an administrator. What is allowed on other terms than
// before is both: lost on the old ones, gained on the new ones.
type Change struct {
	Who   string   `json:"who"` // a user; or `authority "corp"`, for whomever it vouches for
	Gains []string `json:"gains,omitempty"`
	Loses []string `json:"loses,omitempty"`
}

// Compare returns what changes for whom when the policy next takes the place of
// p, by name. Nobody for whom nothing changes is in it.
func (p *Policy) Compare(next *Policy) []Change {
	before, after := p.holdings(), next.holdings()
	names := slices.Collect(maps.Keys(before))
	for name := range after {
		if _, ok := before[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var changes []Change
	words := [2]map[int32]string{{}, {}} // of grants, made when they are needed
	for _, name := range names {
		c := Change{Who: name}
		c.Gains, c.Loses = differences(before[name], after[name], p, next, words)
		if len(c.Gains)+len(c.Loses) > 0 {
			changes = append(changes, c)
		}
	}
	return changes
}

// holdings are what somebody has by a policy.
type holdings struct {
	facts  []string // keys, roles, that he may log in
	limits []string // his conditions: to lose one is to gain
	grants []int32
}

func (p *Policy) holdings() map[string]holdings {
	all := map[string]holdings{}
	if p == nil {
		return all
	}
	keys := map[*user][]string{}
	for _, c := range p.keys.byBlob {
		if c.refused == "" {
			keys[c.user] = append(keys[c.user], "the key "+c.fingerprint+" ("+c.key.Type()+")")
		}
	}
	for name, u := range p.users {
		h := holdings{facts: keys[u], grants: grantIDs(u.subjects)}
		h.facts = append(h.facts, p.roleWords(u)...)
		if u.cond != nil {
			for k := range numConditions {
				if u.cond.has(k) {
					h.limits = append(h.limits, u.cond.text(k))
				}
			}
		}
		slices.Sort(h.facts)
		all[name] = h
	}
	for name, u := range p.guests {
		h := all[name]
		h.facts = append(h.facts, p.roleWords(u)...)
		h.grants = grantIDs(u.subjects)
		all[name] = h
	}
	for fingerprint, authorities := range p.written.authorities {
		for _, a := range authorities {
			name := fmt.Sprintf("authority %q", a.name)
			all[name] = holdings{
				facts:  []string{fmt.Sprintf("the key %s vouches for %s", fingerprint, strings.Join(a.principals, ", "))},
				grants: grantIDs(a.subjects),
			}
		}
	}
	return all
}

func (p *Policy) roleWords(u *user) (words []string) {
	for _, name := range roleNames {
		if r := p.roles[Role(name)]; r != nil {
			if given := (&grant{users: r.users, groups: r.groups}); given.covers(u) {
				text := "the role " + name
				if r.cond != nil && r.cond.touch {
					text += ", with touch"
				}
				words = append(words, text)
			}
		}
	}
	return words
}

// grantIDs returns the grants of subjects, in file order, each once.
func grantIDs(subjects []*subject) []int32 {
	var ids []int32
	for _, s := range subjects {
		ids = append(ids, s.grants...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// differences says what is gained and lost between two holdings.
func differences(before, after holdings, p, next *Policy, words [2]map[int32]string) (gains, loses []string) {
	gains, loses = subtract(after.facts, before.facts), subtract(before.facts, after.facts)
	for _, s := range subtract(before.limits, after.limits) {
		gains = append(gains, "no longer only "+s)
	}
	for _, s := range subtract(after.limits, before.limits) {
		loses = append(loses, "from now on only "+s)
	}
	told := func(p *Policy, known map[int32]string, ids []int32) []string {
		texts := make([]string, len(ids))
		for i, id := range ids {
			if known[id] == "" {
				known[id] = p.grants[id].words()
			}
			texts[i] = known[id]
		}
		return texts
	}
	old, now := told(p, words[0], before.grants), told(next, words[1], after.grants)
	if slices.Equal(old, now) {
		return gains, loses
	}
	return append(gains, subtract(now, old)...), append(loses, subtract(old, now)...)
}

// subtract returns what is in a and not in b, in the order of a.
func subtract(a, b []string) (out []string) {
	if len(a) == 0 || slices.Equal(a, b) {
		return nil
	}
	in := make(map[string]bool, len(b))
	for _, s := range b {
		in[s] = true
	}
	for _, s := range a {
		if !in[s] {
			out = append(out, s)
		}
	}
	return out
}

// words tell all that a grant gives, and on what terms.
func (g *grant) words() string {
	targets := make([]string, len(g.targets))
	for i, t := range g.targets {
		targets[i] = t.words()
	}
	s := fmt.Sprintf("by the grant %q: %s", g.name, strings.Join(targets, "; "))
	if g.cond != nil {
		for k := range numConditions {
			if g.cond.has(k) {
				s += ", only " + g.cond.text(k)
			}
		}
	}
	if g.keep {
		s += ", what runs is kept"
	}
	if g.limits.Duration > 0 {
		s += fmt.Sprintf(", for %v", g.limits.Duration)
	}
	if g.limits.Forwards > 0 {
		s += fmt.Sprintf(", %d at a time", g.limits.Forwards)
	}
	return s
}

func (t *target) words() string {
	s := fmt.Sprintf("%s (%s port %s", t.name, strings.Join(t.hosts, ", "), strings.Join(t.portsAsWritten, ", "))
	for i, w := range t.within {
		if i == 0 {
			s += ", within "
		} else {
			s += ", "
		}
		s += w.String()
	}
	return s + ")"
}
