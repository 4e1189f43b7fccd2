package authz

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// An Explanation is the path to a decision. It is for administrators: it
// names grants, targets and addresses that the user may not know.
type Explanation struct {
	// Decision is what Decide answers to the same request.
	Decision Decision `json:"decision"`

	// Proof is what is asked of the key or certificate before anything else:
	// locks and revocations, the options of a line in authorized_keys, what
	// the certificate says. All must hold.
	Proof []ConditionStep `json:"proof,omitempty"`

	// User are the user's own conditions, in the order in which they are
	// judged. All must hold.
	User []ConditionStep `json:"user,omitempty"`

	// Fence is what the fence says to the address of the second question, or
	// to the literal of the first, which is not judged yet then.
	Fence *FenceStep `json:"fence,omitempty"`

	// Grants are all grants of the user, in file order. The first that fits
	// and holds allows, if the user's conditions hold and the fence admits
	// the address.
	Grants []GrantStep `json:"grants,omitempty"`
}

// A FenceStep is what the fence says to an address.
type FenceStep struct {
	Addr   netip.Addr `json:"addr"`
	Reason Reason     `json:"reason,omitempty"` // "": it may be dialled
	Detail string     `json:"detail,omitempty"`
}

// A GrantStep is a grant that was considered.
type GrantStep struct {
	Grant      string          `json:"grant"`
	Fits       bool            `json:"fits"`  // one of its targets does
	Holds      bool            `json:"holds"` // all its conditions do
	Failed     Reason          `json:"failed,omitempty"`
	Detail     string          `json:"detail,omitempty"` // why it does not fit, or else not hold
	Targets    []TargetStep    `json:"targets"`
	Conditions []ConditionStep `json:"conditions,omitempty"`
}

// A TargetStep is a target of a grant that was considered. Host and Port are
// its entries that matched, or "".
type TargetStep struct {
	Target string `json:"target"`
	Fits   bool   `json:"fits"`
	Host   string `json:"host,omitempty"`
	Port   string `json:"port,omitempty"`
	Open   bool   `json:"open,omitempty"` // the address is not known yet, and may turn out to lie in Host
	Miss   string `json:"miss,omitempty"` // what does not fit first: "host", "port" or "within"
}

// A ConditionStep is a condition that was considered.
type ConditionStep struct {
	Reason Reason `json:"reason"` // that it gives where it fails
	Text   string `json:"text"`   // what it asks for
	Holds  bool   `json:"holds"`
	Waived bool   `json:"waived,omitempty"` // hours that no longer count for a forward that runs
	Open   bool   `json:"open,omitempty"`   // in views: it hangs on what was not said, and may hold
	Detail string `json:"detail,omitempty"` // why it fails
}

// Explain tells how Decide comes to its answer.
func (p *Policy) Explain(r Request) Explanation {
	e := Explanation{Decision: p.Decide(r)}
	u, s := p.standing(&r)
	if u == nil || s.reason == KeyRemoved || s.reason == AuthorityRemoved {
		return e
	}
	host, literal, msg := parseHost(r.Host)
	e.Proof = p.proofSteps(u, &r, s, host)
	e.User, _ = u.cond.steps(u.name, true, false, &r)
	if msg != "" || r.Port < 1 || r.Port > 65535 {
		return e
	}
	q := query{Request: r, addr: literal, port: uint16(r.Port)}
	if !literal.IsValid() {
		q.name = host
	}
	judged := literal
	if r.Addr != (netip.Addr{}) {
		judged = r.Addr
		q.addr, q.second = r.Addr.WithZone("").Unmap(), true
		if literal.IsValid() && literal != q.addr {
			return e
		}
	}
	if judged.IsValid() {
		e.Fence = &FenceStep{Addr: judged, Reason: p.fence.check(judged)}
		if e.Fence.Reason != "" {
			e.Fence.Detail = classSentence(judged, e.Fence.Reason)
		}
	}
	var ids []int32
	for _, s := range u.subjects {
		ids = append(ids, s.grants...)
	}
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		e.Grants = append(e.Grants, p.grants[id].step(&q))
	}
	return e
}

// proofSteps tells what is asked of the proof of a request, as far as there is
// anything to ask, in the order in which it is judged.
func (p *Policy) proofSteps(u *user, r *Request, s standing, host string) (steps []ConditionStep) {
	step := func(reason Reason, holds bool, detail, text string, args ...any) {
		if holds {
			detail = ""
		}
		steps = append(steps, ConditionStep{Reason: reason, Text: fmt.Sprintf(text, args...), Holds: holds, Detail: detail})
	}
	if l := p.locked[Lock{User: r.User}]; l != nil {
		step(Locked, false, s.detail, "not locked")
	}
	if why := p.revocation(r); why != "" {
		step(Revoked, false, why, "not revoked")
	}
	if why := p.shut[r.User]; why != "" {
		step(KeyFileUnusable, false, why, "a file of keys that can be used")
	}
	if s.reason == KeyUnsupported {
		step(KeyUnsupported, false, s.detail, "a line of authorized_keys that can be honoured")
	}
	for _, o := range s.options {
		if o.From != nil {
			step(KeyNotFrom, o.From.Match(sourceOf(r)), clientOf(r), "key from %s", o.From)
		}
		if !o.Expiry.IsZero() {
			step(KeyExpired, before(r, o.Expiry), ifTimed(r, "it has expired"), "key until %s", o.Expiry.Format("2006-01-02 15:04:05 MST"))
		}
	}
	if c := r.Cert; c != nil {
		if len(c.from) > 0 {
			step(CertNotFrom, c.from.contains(sourceOf(r)), clientOf(r), "certificate for clients at %s", some(c.fromText))
		}
		step(CertNotYet, !r.Time.IsZero() && !r.Time.Before(c.after), ifTimed(r, "it is not valid yet"), "certificate from %s on", certTime(c.after))
		if !c.before.IsZero() {
			step(CertExpired, before(r, c.before), ifTimed(r, "it has expired"), "certificate until %s", certTime(c.before))
		}
	}
	if p.locks != nil && p.locks.Lockdown != nil {
		reason, detail := p.lockedDown(u, r)
		step(Lockdown, reason == "", detail, "no lockdown, or an admin")
	}
	for _, o := range s.options {
		if o.NoForwarding {
			_, detail := narrowing{o}.refuses(host, r.Port)
			step(KeyNoForwarding, false, detail, "key for forwarding")
		} else if len(o.PermitOpen) > 0 {
			reason, detail := narrowing{o}.refuses(host, r.Port)
			step(KeyNotPermitted, reason == "", detail, "permitopen of the key")
		}
	}
	return steps
}

// ifTimed is what to say of a time that is known.
func ifTimed(r *Request, detail string) string {
	if r.Time.IsZero() {
		return "the time is not known"
	}
	return detail
}

// steps judges every condition, not only up to the first that fails, and
// returns the place of that one, or -1.
func (c *conditions) steps(who string, person, free bool, r *Request) (steps []ConditionStep, failed int) {
	failed = -1
	if c == nil {
		return nil, failed
	}
	for k := range numConditions {
		if !c.has(k) {
			continue
		}
		s := ConditionStep{Reason: conditionReasons[k], Text: c.text(k), Holds: c.holds(k, r)}
		s.Waived = !s.Holds && k == condHours && free
		if !s.Holds && !s.Waived {
			s.Detail = c.sentence(k, who, person, r)
			if failed < 0 {
				failed = len(steps)
			}
		}
		steps = append(steps, s)
	}
	return steps, failed
}

func (g *grant) step(q *query) GrantStep {
	s := GrantStep{Grant: g.name}
	missed := TargetStep{}
	for i, t := range g.targets {
		ts := t.step(q)
		s.Targets = append(s.Targets, ts)
		s.Fits = s.Fits || ts.Fits
		if i == 0 || nearness[ts.Miss] > nearness[missed.Miss] {
			missed = ts
		}
	}
	var failed int
	s.Conditions, failed = g.cond.steps(g.name, false, g.free(&q.Request), &q.Request)
	s.Holds = failed < 0
	if !s.Holds {
		s.Failed, s.Detail = s.Conditions[failed].Reason, s.Conditions[failed].Detail
	}
	if !s.Fits {
		switch asked := q.asked(); missed.Miss {
		case "within":
			s.Detail = fmt.Sprintf("%s is outside within of target %q", q.addr, missed.Target)
		case "port":
			s.Detail = fmt.Sprintf("target %q has %s, but not port %d", missed.Target, asked, q.port)
		default:
			s.Detail = fmt.Sprintf("no target has %s", asked)
		}
	}
	return s
}

// nearness tells which of several misses was the nearest.
var nearness = map[string]int{"host": 0, "port": 1, "within": 2}

func (q *query) asked() string {
	if q.name != "" && q.addr.IsValid() {
		return q.name + " or " + q.addr.String()
	} else if q.name != "" {
		return q.name
	}
	return q.addr.String()
}

func (t *target) step(q *query) TargetStep {
	s := TargetStep{Target: t.name, Miss: "host"}
	for _, h := range t.hosts {
		names, network := entry(h, q)
		if names || network {
			s.Host, s.Open = h, false
			break
		}
		if s.Host == "" && q.open() && isAddress(h) {
			s.Host, s.Open = h, true
		}
	}
	for _, r := range t.portsAsWritten {
		low, high, isRange := strings.Cut(r, "-")
		if !isRange {
			high = low
		}
		l, _ := strconv.Atoi(low)
		h, _ := strconv.Atoi(high)
		if int(q.port) >= l && int(q.port) <= h {
			s.Port = r
			break
		}
	}
	switch {
	case s.Host == "":
	case s.Port == "":
		s.Miss = "port"
	case q.second && len(t.within) > 0 && !t.within.contains(q.addr):
		s.Miss = "within"
	default:
		s.Fits, s.Miss = true, ""
	}
	return s
}

// entry reports whether one of the hosts of a target names the host of the
// query, or holds its address.
func entry(h string, q *query) (names, network bool) {
	if strings.Contains(h, "*") {
		p, _, _ := parsePattern(h)
		return q.name != "" && p.match(q.name), false
	}
	if p, ok := prefixOf(h); ok {
		return false, q.addr.IsValid() && p.Contains(q.addr)
	}
	return h == q.name, false
}

func isAddress(h string) bool {
	_, ok := prefixOf(h)
	return ok
}

// prefixOf reads an entry of hosts that is an address or a network.
func prefixOf(h string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(h); err == nil {
		return p, true
	}
	a, err := netip.ParseAddr(h)
	return netip.PrefixFrom(a, a.BitLen()), err == nil
}
