package authz

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A target is a set of hosts and ports, as a policy declares it.
type target struct {
	name   string
	names  []string  // spelt out; sorted
	stars  []pattern // with "*"
	nets   networks  // addresses and networks
	ports  portSet
	within networks      // nil: not narrowed
	follow time.Duration // follow_dns; 0: names are not followed

	hosts, portsAsWritten []string // for Reach

	// The grants that lead here: under each to whom they are given, sorted by
	// that and then in file order, but for those that are given to many and
	// lead to many at once.
	given []given
	broad []int32 // those, in file order
}

// given is a grant under one of those to whom it is given: a user has twice
// his id here, a group twice its id plus 1.
type given struct{ who, grant int32 }

func userWho(id int32) int32  { return 2 * id }
func groupWho(id int32) int32 { return 2*id + 1 }

// A query is one of the two questions of a Request, in normal form.
type query struct {
	Request

	name string     // "" for an IP literal
	addr netip.Addr // invalid in the first question about a name
	port uint16

	// second is set in the second question: addr is what would be dialled,
	// and within decides.
	second bool
}

// open reports whether the address is not known yet: it may lie in any network.
func (q *query) open() bool { return q.name != "" && !q.second }

// judge reports whether the target names the query's host, whether it fits
// host and port as far as they are known, and whether within allows it too.
func (t *target) judge(q *query) (named, fits, inside bool) {
	named = q.name != "" && t.namesHost(q.name)
	if named || q.addr.IsValid() && t.nets.contains(q.addr) {
		fits, inside = t.admits(q)
	}
	return named, fits, inside
}

// admits is judge for a target that has the query's host or address.
func (t *target) admits(q *query) (fits, inside bool) {
	fits = t.ports.contains(q.port)
	inside = fits && (!q.second || len(t.within) == 0 || t.within.contains(q.addr))
	return fits, inside
}

// cost tells about how much judge has to do.
func (t *target) cost() int { return 1 + len(t.stars)/4 }

func (t *target) namesHost(name string) bool {
	if _, ok := slices.BinarySearch(t.names, name); ok {
		return true
	}
	for i := range t.stars {
		if t.stars[i].match(name) {
			return true
		}
	}
	return false
}

// A pattern is a name with "*" in it. A "*" stands for any part of one label,
// also for none of it, and never for a dot.
type pattern struct {
	text string
	tail string // the labels at the end that have no "*": "corp.example"; may be ""
}

// parsePattern checks a pattern. The message says what is wrong, the hint how
// it is spelt rightly.
func parsePattern(s string) (p pattern, message, hint string) {
	normal := strings.ToLower(strings.TrimSuffix(s, "."))
	for strings.Contains(normal, "**") {
		normal = strings.ReplaceAll(normal, "**", "*")
	}
	switch {
	case strings.Trim(s, "*.") == "":
		return p, "the pattern " + quote(s) + " matches everything", "name the hosts, or write a network such as 10.0.1.0/24"
	case strings.ContainsAny(s, ":/") || strings.Trim(s, "0123456789.*") == "":
		return p, "a pattern stands for names, and " + quote(s) + " looks like addresses", networkFor(s)
	}
	if len(normal) > maxHost {
		return p, quote(s) + ": a host has at most 253 bytes", ""
	}
	if msg := checkLabels(normal, "*"); msg != "" {
		return p, quote(s) + ": " + msg, ""
	}
	if normal != s {
		return p, "the pattern " + quote(s) + " is not in normal form", didYouMean(normal)
	}
	if last := s[strings.LastIndexByte(s, '.')+1:]; numeric(last) {
		return p, "the pattern " + quote(s) + " matches no name: no name ends in a number", ""
	}
	star := strings.LastIndexByte(s, '*')
	if star < 0 {
		return p, quote(s) + " is a name and not a pattern", ""
	}
	p.text = s
	_, p.tail, _ = strings.Cut(s[star:], ".")
	return p, "", ""
}

// networkFor returns the hint for 10.0.1.* and the like.
func networkFor(s string) string {
	const general = "write a network such as 10.0.1.0/24"
	parts := strings.Split(s, ".")
	if len(parts) != 4 {
		return general
	}
	bits := 0
	for i, part := range parts {
		if part == "*" {
			parts[i] = "0"
		} else if bits == 8*i {
			bits += 8
		} else {
			return general
		}
	}
	p, err := netip.ParsePrefix(strings.Join(parts, ".") + "/" + strconv.Itoa(bits))
	if err != nil {
		return general
	}
	return "write the network " + p.String()
}

func didYouMean(s string) string { return `did you mean "` + s + `"?` }

// match reports whether the pattern stands for a name in normal form.
func (p *pattern) match(name string) bool {
	// The usual walk with one place to go back to: the last "*" seen. Going
	// back across a dot is never of use, as each "*" ends at its label.
	s := p.text
	i, j := 0, 0           // in s, in name
	star, resume := -1, -1 // the last "*" in s, and where in name it ends for now
	for j < len(name) {
		switch {
		case i < len(s) && s[i] == '*':
			star, resume = i, j
			i++
		case i < len(s) && s[i] == name[j]:
			if s[i] == '.' {
				star = -1
			}
			i, j = i+1, j+1
		case star >= 0 && name[resume] != '.':
			resume++
			i, j = star+1, resume
		default:
			return false
		}
	}
	for i < len(s) && s[i] == '*' {
		i++
	}
	return i == len(s)
}

// head returns the text before the first "*".
func (p *pattern) head() string {
	head, _, _ := strings.Cut(p.text, "*")
	return head
}

// end returns the text between the last "*" and the dot before the tail.
func (p *pattern) end() string {
	end := p.text[strings.LastIndexByte(p.text, '*')+1:]
	end, _, _ = strings.Cut(end, ".")
	return end
}

// A portSet is a set of ports: disjoint ranges in order.
type portSet []portRange

type portRange struct{ low, high uint16 }

func makePorts(ranges []portRange) portSet {
	rs := slices.Clone(ranges)
	slices.SortFunc(rs, func(a, b portRange) int { return int(a.low) - int(b.low) })
	out := rs[:0]
	for _, r := range rs {
		if n := len(out); n > 0 && int(r.low) <= int(out[n-1].high)+1 {
			out[n-1].high = max(out[n-1].high, r.high)
		} else {
			out = append(out, r)
		}
	}
	return slices.Clip(out)
}

func (ps portSet) contains(port uint16) bool {
	lo, hi := 0, len(ps)
	for lo < hi {
		mid := (lo + hi) / 2
		if ps[mid].low <= port {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo > 0 && port <= ps[lo-1].high
}

// firstPorts tells, for each port, which of several sets of ports is the first
// that has it: disjoint ranges in order.
type firstPorts []firstRange

type firstRange struct {
	portRange
	first int
}

// add adds the next set, which is number n.
func (fs *firstPorts) add(ps portSet, n int) {
	for _, r := range ps {
		i, _ := slices.BinarySearchFunc(*fs, r.low, func(f firstRange, low uint16) int { return int(f.high) - int(low) })
		for low := int(r.low); low <= int(r.high); i++ { // what is not in a range yet
			high := int(r.high)
			if i < len(*fs) && int((*fs)[i].low) <= high {
				if int((*fs)[i].low) <= low {
					low = int((*fs)[i].high) + 1
					continue
				}
				high = int((*fs)[i].low) - 1
			}
			*fs = slices.Insert(*fs, i, firstRange{portRange{uint16(low), uint16(high)}, n})
			low = high + 1
		}
	}
}

// find returns the number of the first set that has a port.
func (fs firstPorts) find(port uint16) (n int, ok bool) {
	i, _ := slices.BinarySearchFunc(fs, port, func(f firstRange, port uint16) int { return int(f.high) - int(port) })
	if i == len(fs) || fs[i].low > port {
		return 0, false
	}
	return fs[i].first, true
}

// parsePorts reads "22" or "8000-8100". The message says what is wrong, the
// hint what to write.
func parsePorts(s string) (r portRange, message, hint string) {
	if s == "*" {
		return r, `"*" is not a port`, `for all ports write "1-65535"`
	}
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	if r.low, message, hint = parsePort(low, s); message != "" {
		return r, message, hint
	}
	if r.high, message, hint = parsePort(high, s); message != "" {
		return r, message, hint
	}
	if r.low > r.high {
		return r, "the range of ports " + quote(s) + " is reversed", didYouMean(high + "-" + low)
	}
	return r, "", ""
}

func parsePort(s, whole string) (port uint16, message, hint string) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, quote(whole) + " is not a port", `write a number such as "22" or a range such as "8000-8100"`
	}
	if n := strings.TrimLeft(s, "0"); n != s && n != "" {
		return 0, "the port " + quote(s) + " has leading zeros", didYouMean(n)
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, "the port " + quote(s) + " is not between 1 and 65535", ""
	}
	return uint16(n), "", ""
}

// parseNetwork reads "10.0.1.0/24" in canonical form.
func parseNetwork(s string) (p netip.Prefix, message, hint string) {
	p, err := netip.ParsePrefix(strings.ToLower(s))
	if err != nil {
		return p, quote(s) + " is not a network", "write it as 10.0.1.0/24 or fd12:3456::/48"
	}
	if p.Bits() == 0 {
		return p, "the network " + quote(s) + " matches everything", "write the networks that are meant"
	}
	if m := unmapPrefix(p); m.String() != s {
		hint := didYouMean(m.String())
		if m.Bits() == 0 {
			hint = ""
		}
		if m.Addr() != p.Addr().Unmap() {
			return p, "the network " + quote(s) + " has bits set beyond its length", hint
		}
		return p, "the network " + quote(s) + " is not in canonical form", hint
	}
	return p, "", ""
}

// parseAddress reads an address in canonical form, as the network of it alone.
func parseAddress(s string) (p netip.Prefix, message, hint string) {
	name, addr, msg := parseHost(s)
	switch {
	case msg != "":
		return p, quote(s) + ": " + msg, ""
	case !addr.IsValid():
		return p, quote(s) + " is not an address or network", "write it as 10.0.1.5 or 10.0.1.0/24"
	case name != s:
		return p, "the address " + quote(s) + " is not in normal form", didYouMean(name)
	}
	return netip.PrefixFrom(addr, addr.BitLen()), "", ""
}
