package authkeys

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"sekisho/authz/strictyaml"
)

// Options are what narrows a key. The zero value narrows nothing.
type Options struct {
	CertAuthority bool      // the key vouches for certificates, and proves nobody itself
	Principals    []string  // with CertAuthority: those it may vouch for; nil: the user's own name
	From          *Sources  // nil: from anywhere
	Expiry        time.Time // refused from this instant on; zero: never
	PermitOpen    []Open    // nil: whatever the grants say
	NoForwarding  bool      // nothing is forwarded, whatever PermitOpen says
	NoSessions    bool      // sessions are refused, forwarding is not
}

// Open is one target that permitopen names.
type Open struct {
	Host string // as written, without brackets; not in normal form, perhaps no host at all; "*" is any
	Port uint16 // 0 is any
}

// flags and settings are the options known, as sshd(8) spells them: those
// that stand alone and those with a value.
var (
	flags = []string{
		"agent-forwarding", "no-agent-forwarding", "cert-authority", "port-forwarding", "no-port-forwarding", "pty", "no-pty",
		"restrict", "touch-required", "no-touch-required", "user-rc", "no-user-rc", "verify-required", "no-verify-required",
		"X11-forwarding", "no-X11-forwarding",
	}
	settings = []string{"command", "environment", "expiry-time", "from", "permitlisten", "permitopen", "principals", "tunnel"}
	known    = slices.Concat(flags, settings)
)

// optionReader reads the options of one line.
type optionReader struct {
	*parser
	Options
	seen map[string]int // where each option stood last
}

// parseOptions reads the options s, which begin at a place in the line.
// Nothing between two commas is no option, as for sshd.
func (p *parser) parseOptions(at int, s string) Options {
	r := optionReader{parser: p, seen: make(map[string]int)}
	for s != "" {
		n, _ := scan(s, ",")
		if n > 0 {
			r.read(at, s[:n])
		}
		n = min(n+1, len(s))
		at, s = at+n, s[n:]
	}
	r.finish()
	return r.Options
}

// read reads one option at a place in the line.
func (r *optionReader) read(at int, s string) {
	written, value, hasValue := strings.Cut(s, "=")
	i := slices.IndexFunc(known, func(k string) bool { return equalFold(k, written) })
	if i < 0 {
		r.refuse(at, "unknown option "+quote(written), strictyaml.DidYouMean(written, known))
		return
	}
	name := known[i]
	if i < len(flags) {
		if hasValue {
			r.refuse(at, name+" takes no value", "")
			return
		}
		r.flag(at, name)
		return
	}
	value, ok := unquote(value)
	if !ok {
		r.refuse(at, name+" wants one value in double quotes", "write "+name+`="…"`)
		return
	}
	_, again := r.seen[name]
	if again && slices.Contains([]string{"command", "from", "principals"}, name) {
		r.refuse(at, "a second "+name, "")
		return
	}
	r.seen[name] = at
	if why, hint := r.set(at, name, value); why != "" {
		r.refuse(at, name+": "+why, hint)
	}
}

func (r *optionReader) flag(at int, name string) {
	switch name {
	case "cert-authority":
		r.CertAuthority = true
	case "restrict", "no-port-forwarding":
		r.NoForwarding = true
	case "port-forwarding":
		r.NoForwarding = false
	case "no-touch-required":
		r.warn(at, "no-touch-required is ignored: a touch is always asked for", "")
	case "no-verify-required":
		delete(r.seen, "verify-required")
	case "verify-required":
		r.seen[name] = at
	}
}

func (r *optionReader) set(at int, name, value string) (why, hint string) {
	switch name {
	case "command":
		r.NoSessions = true
	case "environment":
		r.warn(at, "environment is ignored: nothing is run here that could have one", "")
	case "expiry-time":
		var t time.Time
		t, why, hint = parseExpiry(value, r.zone)
		if why == "" && (r.Expiry.IsZero() || t.Before(r.Expiry)) {
			r.Expiry = t
		}
	case "from":
		r.From, why, hint = parseSources(value)
	case "permitopen":
		var o Open
		o, why, hint = parseOpen(value)
		r.PermitOpen = append(r.PermitOpen, o)
	case "principals":
		r.Principals, why, hint = parsePrincipals(value)
	}
	return why, hint
}

// finish judges what depends on more than one option.
func (r *optionReader) finish() {
	if at, ok := r.seen["verify-required"]; ok {
		r.refuse(at, "verify-required cannot be kept: whether a PIN was asked for is not known here", "")
	}
	if at, ok := r.seen["principals"]; ok && !r.CertAuthority {
		r.refuse(at, "principals without cert-authority", "write cert-authority too, or leave principals out")
	}
	if at, ok := r.seen["permitopen"]; ok && r.NoForwarding {
		r.warn(at, "permitopen is ignored: the key may forward nothing", "to allow just this, write port-forwarding after restrict")
	}
}

func parsePrincipals(s string) (names []string, why, hint string) {
	for name := range strings.SplitSeq(s, ",") {
		switch {
		case name == "":
			return nil, "an empty name", `write principals="alice,bob"`
		case name != strings.Trim(name, " \t"):
			return nil, "the blank in " + quote(name) + " would belong to the name", "write the names without blanks between them"
		}
		names = append(names, name)
	}
	return names, "", ""
}

// parseOpen reads "host:port" or "[host]:port". The host is not judged but for
// what would be mistaken for a pattern.
func parseOpen(s string) (o Open, why, hint string) {
	const write = `write permitopen="host:port" or "[IPv6]:port"; the port may be *`
	host, port, ok := strings.Cut(s, ":")
	if strings.HasPrefix(s, "[") {
		host, port, ok = strings.Cut(s[1:], "]:")
	}
	switch {
	case strings.Contains(port, ":"):
		return Open{}, quote(s) + " has more than one colon", "an IPv6 address is written in brackets: [2001:db8::1]:22"
	case !ok || host == "" || port == "":
		return Open{}, quote(s) + " is not a host and a port", write
	case host != "*" && strings.ContainsAny(host, "*?"):
		return Open{}, "the host " + quote(host) + " is a pattern, and would be taken literally", "write each host, or * for any"
	case strings.ContainsAny(host, " \t/[]"):
		return Open{}, quote(host) + " is not a host", write
	}
	if port == "*" {
		return Open{host, 0}, "", ""
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || port != strconv.FormatUint(n, 10) {
		return Open{}, quote(port) + " is not a port", "write a number from 1 to 65535, or * for any"
	}
	return Open{host, uint16(n)}, "", ""
}

// unquote returns what stands between double quotes, in which \" is a quote
// and nothing else is special.
func unquote(s string) (value string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		return "", false
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case strings.HasPrefix(s[i:], `\"`):
			i++
			b.WriteByte('"')
		case s[i] == '"':
			return b.String(), i == len(s)-1
		default:
			b.WriteByte(s[i])
		}
	}
	return "", false
}

// equalFold is strings.EqualFold for ASCII alone: Unicode has letters that
// fold to an ASCII one.
func equalFold(ascii, s string) bool { return len(ascii) == len(s) && strings.EqualFold(ascii, s) }
