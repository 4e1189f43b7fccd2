package authkeys

import (
	"net/netip"
	"strings"
)

// Sources are the addresses from which a key may be used.
type Sources struct {
	text        string
	allow, deny []source
}

// A source is one entry of from: a network, or a pattern where the network is
// not valid.
type source struct {
	network netip.Prefix
	pattern string // in lower case
}

// Match reports whether a client with this address may use the key. IPv4 in
// IPv6 is IPv4, and a zone does not count. An address that is not known never
// matches. Nil Sources match everything, the zero Sources nothing.
func (s *Sources) Match(a netip.Addr) bool {
	if s == nil {
		return true
	}
	if !a.IsValid() {
		return false
	}
	a = a.WithZone("").Unmap()
	var buf [64]byte // Match is asked for every forward, and allocates nothing
	text := a.AppendTo(buf[:0])
	return !anyMatch(s.deny, a, text) && anyMatch(s.allow, a, text)
}

// String returns the list as it is written in the file. It is ASCII that is
// safe to print.
func (s *Sources) String() string {
	if s == nil {
		return ""
	}
	return s.text
}

func anyMatch(list []source, a netip.Addr, text []byte) bool {
	for _, s := range list {
		if s.network.IsValid() && s.network.Contains(a) || !s.network.IsValid() && like(s.pattern, text) {
			return true
		}
	}
	return false
}

const fromHint = "write addresses, networks such as 203.0.113.0/24, or patterns such as 203.0.113.*"

// parseSources reads the value of from.
func parseSources(s string) (from *Sources, why, hint string) {
	from = &Sources{text: s}
	for entry := range strings.SplitSeq(s, ",") {
		list := &from.allow
		entry, not := strings.CutPrefix(entry, "!")
		if not {
			list = &from.deny
		}
		src, why, hint := parseSource(entry)
		if why != "" {
			return nil, why, hint
		}
		*list = append(*list, src)
	}
	if len(from.allow) == 0 {
		return nil, "it has only exceptions, and so allows nobody", `for all but these write "*" too`
	}
	return from, "", ""
}

// parseSource reads one entry of from, without "!".
func parseSource(s string) (src source, why, hint string) {
	const longest = 64 // far longer than an address
	switch {
	case s == "":
		return source{}, "an entry is empty", fromHint
	case len(s) > longest:
		return source{}, quote(s) + " is too long for an address", fromHint
	case s != strings.Trim(s, " \t"):
		return source{}, "the blank in " + quote(s) + " would belong to the pattern", "write the list without blanks"
	case strings.Contains(s, "/"):
		return parseNetwork(s)
	}
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return source{}, quote(s) + " has a zone, which means something on one machine only", fromHint
		}
		a = a.Unmap()
		return source{network: netip.PrefixFrom(a, a.BitLen())}, "", ""
	}
	if pattern := strings.ToLower(s); isPattern(pattern) {
		return source{pattern: pattern}, "", ""
	}
	if isName(s) {
		return source{}, quote(s) + " is about the client's name, which is never looked up", fromHint
	}
	return source{}, quote(s) + " is neither an address nor a pattern of one", fromHint
}

func parseNetwork(s string) (src source, why, hint string) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return source{}, quote(s) + " is not a network", fromHint
	}
	if p != p.Masked() {
		return source{}, quote(s) + " has bits set beyond its length", `did you mean "` + p.Masked().String() + `"?`
	}
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return source{network: p}, "", ""
}

// isPattern reports whether s, in lower case, has wildcards and otherwise what
// the text of one IPv4 or one IPv6 address has. "*.de" is not such a pattern.
func isPattern(s string) bool {
	rest := strings.Trim(s, "*?.:0123456789abcdef")
	dot, colon, letter := strings.Contains(s, "."), strings.Contains(s, ":"), strings.ContainsAny(s, "abcdef")
	return rest == "" && strings.ContainsAny(s, "*?") && !(dot && colon) && (!letter || colon)
}

// isName reports whether s has a letter as no address has it.
func isName(s string) bool {
	for _, r := range strings.ToLower(s) {
		if 'g' <= r && r <= 'z' || r == '-' || r == '_' || 'a' <= r && r <= 'f' && !strings.Contains(s, ":") {
			return true
		}
	}
	return false
}

// like reports whether text is as the pattern, in which "*" is any text and
// "?" any one character. It looks back to the last "*" only, and so takes no
// more steps than the product of both lengths.
func like(pattern string, text []byte) bool {
	p, t := 0, 0
	star, from := -1, 0 // the last "*", and where in the text what follows it was tried
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			from++
			p, t = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
