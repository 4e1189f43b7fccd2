package authz

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

const (
	maxHost  = 253
	maxLabel = 63
)

// ParseHost returns the normal form of a host as a client sent it or a policy
// spells it: a name in lower case without its trailing dot, or an IP literal
// in canonical form, IPv4-mapped IPv6 counted as IPv4. The address is valid
// only for a literal. Whatever some resolver might take for an address, but
// is not one in canonical form, is refused, never guessed at. The error's text
// is safe to print.
func ParseHost(s string) (name string, addr netip.Addr, err error) {
	name, addr, msg := parseHost(s)
	if msg == "" {
		return name, addr, nil
	}
	if s == "" {
		return "", netip.Addr{}, errors.New(msg)
	}
	return "", netip.Addr{}, fmt.Errorf("%s: %s", quote(s), msg)
}

// parseHost is ParseHost that does not yet make an error of what is wrong.
func parseHost(s string) (name string, addr netip.Addr, msg string) {
	switch {
	case s == "":
		return "", netip.Addr{}, "the host is empty"
	case len(s) > maxHost+1:
		return "", netip.Addr{}, "a host has at most 253 bytes"
	case strings.IndexByte(s, ':') >= 0:
		return parseIPv6(s)
	}
	name = s
	if name[len(name)-1] == '.' {
		name = name[:len(name)-1]
	}
	if len(name) > maxHost {
		return "", netip.Addr{}, "a host has at most 253 bytes"
	}
	if msg := checkLabels(name, ""); msg != "" {
		return "", netip.Addr{}, msg
	}
	if !numeric(name[strings.LastIndexByte(name, '.')+1:]) {
		return strings.ToLower(name), netip.Addr{}, "" // ASCII by now; allocates only if it changes
	}
	addr, err := netip.ParseAddr(s) // not name: a literal has no trailing dot
	if err != nil || !addr.Is4() {
		return "", netip.Addr{}, "neither a name nor an IPv4 address of four decimal numbers from 0 to 255"
	}
	return name, addr, "" // of digits and dots
}

func parseIPv6(s string) (string, netip.Addr, string) {
	if strings.IndexByte(s, '%') >= 0 {
		return "", netip.Addr{}, "an address with a zone is not allowed"
	}
	if s[0] == '[' {
		return "", netip.Addr{}, "an IPv6 address is written without brackets"
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return "", netip.Addr{}, "not an IPv6 address, and a name has no colon"
	}
	var buf [64]byte
	canonical := addr.AppendTo(buf[:0])
	if !sameLower(s, canonical) {
		return "", netip.Addr{}, "not the canonical form of the address, which is " + string(canonical)
	} else if !addr.Is4In6() {
		return strings.ToLower(s), addr, ""
	}
	addr = addr.Unmap()
	return addr.String(), addr, ""
}

// sameLower reports whether s, with its ASCII letters in lower case, is lower.
func sameLower(s string, lower []byte) bool {
	if len(s) != len(lower) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// notAllowed says of each ASCII character that no host has it.
var notAllowed = func() (says [0x80]string) {
	for c := range says {
		says[c] = fmt.Sprintf("the character %q is not allowed", rune(c))
	}
	return says
}()

// checkLabels says what is wrong with the labels of a name, or returns "".
// Upper case is not wrong. The characters of also are allowed besides.
func checkLabels(name, also string) string {
	label := 0 // where the label begins
	for i := 0; ; i++ {
		if i < len(name) && name[i] != '.' {
			c := name[i]
			switch {
			case 'a' <= c && c <= 'z', '0' <= c && c <= '9', 'A' <= c && c <= 'Z', c == '-', c == '_':
			case strings.IndexByte(also, c) >= 0:
			case c >= 0x80:
				return "a name is ASCII; an international one is written as xn--…"
			case c < ' ' || c == 0x7f:
				return "a control character is not allowed"
			case c == ' ':
				return "a space is not allowed"
			default:
				return notAllowed[c]
			}
			continue
		}
		switch n := i - label; {
		case n == 0:
			return "a label (the part between dots) is empty"
		case n > maxLabel:
			return "a label (the part between dots) has at most 63 bytes"
		case name[label] == '-' || name[i-1] == '-':
			return `a label (the part between dots) neither begins nor ends with "-"`
		}
		if i == len(name) {
			return ""
		}
		label = i + 1
	}
}

// numeric reports whether a resolver may take a name with this last label for
// an IPv4 address: all digits, or hexadecimal.
func numeric(label string) bool {
	digits := "0123456789"
	if strings.HasPrefix(label, "0x") || strings.HasPrefix(label, "0X") {
		label, digits = label[2:], "0123456789abcdefABCDEF"
	}
	return strings.Trim(label, digits) == ""
}

// mostQuoted is how much of a text is quoted.
const mostQuoted = 80

// quote makes text of unknown origin short and safe to print.
func quote(s string) string {
	if len(s) > mostQuoted {
		return fmt.Sprintf("%q…", s[:mostQuoted])
	}
	return fmt.Sprintf("%q", s)
}
