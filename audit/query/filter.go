package query

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"sekisho/audit"
)

// Which conditions few records fulfil, the fewest first. Ids are unique; keys
// and addresses say more than names; a type is that of many.
const (
	rankForward = iota
	rankConn
	rankKey
	rankAddress
	rankSource
	rankTarget
	rankUser
	rankLogin
	rankText
	rankGrant
	rankReason
	rankType
	rankAnyHost // a pattern or a network: where the field is, its value is looked at
	rankBytes
	rankDuration
)

func byForward(q Query) (*filter, error) {
	return exact("forward", rankForward, q.Forwards, func(r *audit.Record) string { return r.Forward })
}

func byConn(q Query) (*filter, error) {
	return exact("conn", rankConn, q.Conns, func(r *audit.Record) string { return r.Conn })
}

func byUser(q Query) (*filter, error) {
	return exact("user", rankUser, q.Users, func(r *audit.Record) string { return r.User })
}

func byLogin(q Query) (*filter, error) {
	return exact("login", rankLogin, q.Logins, func(r *audit.Record) string { return r.Login })
}

func byGrant(q Query) (*filter, error) {
	return exact("grant", rankGrant, q.Grants, func(r *audit.Record) string { return r.Grant })
}

func byReason(q Query) (*filter, error) {
	f, err := exact("reason", rankReason, q.Reasons, func(r *audit.Record) string { return r.Reason })
	if f != nil && f.near != nil {
		// An address that was dropped has a reason too, so that the name is in
		// a line more than once.
		f.needles, f.near = nil, nil
	}
	return f, err
}

// exact is for fields that are to have one of the values.
func exact(field string, rank int, values []string, get func(*audit.Record) string) (*filter, error) {
	if len(values) == 0 {
		return nil, nil
	}
	f := &filter{rank: rank}
	raw := make(map[string]bool, len(values))
	for _, v := range values {
		e, err := encode(v, field)
		if err != nil {
			return nil, err
		}
		raw[string(e)] = true
		f.needles = append(f.needles, needle(`"`+field+`":"`+string(e)+`"`))
	}
	if len(values) > mostNeedles {
		f.needles = [][]byte{needle(`"` + field + `":"`)}
		f.near = func(rest []byte) bool { return raw[string(untilQuote(rest))] }
	}
	f.may = mayHave(values, field)
	f.fits = func(r *audit.Record) bool { return slices.Contains(values, get(r)) }
	return f, nil
}

// needle is s, or its begin if it is long: that is in the line, too.
func needle(s string) []byte { return []byte(s[:min(len(s), longestNeedle)]) }

// untilQuote is the text up to the quote that ends it, as it is written.
func untilQuote(rest []byte) []byte {
	for i := 0; i < len(rest); i++ {
		switch rest[i] {
		case '"':
			return rest[:i]
		case '\\':
			i++
		}
	}
	return rest
}

// mayHave asks an index for each of the values, in each of the fields.
func mayHave(values []string, fields ...string) func(Index) bool {
	return func(x Index) bool {
		for _, v := range values {
			for _, f := range fields {
				if x.May(f, v) {
					return true
				}
			}
		}
		return false
	}
}

// byKey takes a fingerprint in the forms in which people have it.
func byKey(q Query) (*filter, error) {
	if len(q.Keys) == 0 {
		return nil, nil
	}
	f := &filter{rank: rankKey}
	var values []string
	for _, v := range q.Keys {
		if !strings.Contains(v, ":") {
			v = "SHA256:" + v
		}
		v = strings.TrimRight(v, "=")
		e, err := encode(v, "key")
		if err != nil {
			return nil, err
		}
		values = append(values, v)
		f.needles = append(f.needles, needle(`"`+string(e)+`"`)) // as key or in the list of those offered
	}
	if len(values) > mostNeedles {
		f.needles = nil
	}
	f.may = mayHave(values, "key", "offered")
	f.fits = func(r *audit.Record) bool {
		return slices.Contains(values, r.Key) ||
			slices.ContainsFunc(r.Offered, func(k string) bool { return slices.Contains(values, k) })
	}
	return f, nil
}

// byType takes whole types, and what several have in common before the dot.
func byType(q Query) (*filter, error) {
	if len(q.Types) == 0 {
		return nil, nil
	}
	f := &filter{rank: rankType, needles: [][]byte{[]byte(`"type":"`)}}
	var whole, begins []string
	for _, t := range q.Types {
		if _, err := encode(t, "type"); err != nil {
			return nil, err
		}
		for _, c := range []byte(t) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
				return nil, fmt.Errorf("%q is no type of records: they are named such as forward.open", abbreviate(t))
			}
		}
		if strings.Contains(strings.TrimSuffix(t, "."), ".") {
			whole = append(whole, t)
			continue
		}
		t = strings.TrimSuffix(t, ".")
		whole = append(whole, t)
		begins = append(begins, t+".")
	}
	is := func(t string) bool {
		return slices.Contains(whole, t) || slices.ContainsFunc(begins, func(b string) bool { return strings.HasPrefix(t, b) })
	}
	f.near = func(rest []byte) bool { return is(string(untilQuote(rest))) }
	if len(begins) == 0 {
		f.may = mayHave(whole, "type")
		if len(whole) <= mostNeedles {
			f.needles, f.near = nil, nil
			for _, t := range whole {
				f.needles = append(f.needles, needle(`"type":"`+t+`"`))
			}
		}
	}
	f.fits = func(r *audit.Record) bool { return is(string(r.Type)) }
	return f, nil
}

// A wantedAddr is an address, perhaps with its port, or a network.
type wantedAddr struct {
	network netip.Prefix
	port    uint16
	anyPort bool
}

func parseWantedAddr(s string) (w wantedAddr, err error) {
	w.anyPort = true
	if p, err := netip.ParsePrefix(s); err == nil {
		if p.Addr().Is4In6() {
			if p.Bits() < 96 {
				return w, fmt.Errorf("%q is a network of IPv4 addresses that are written as IPv6; write it as 10.0.0.0/16", s)
			}
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		w.network = p.Masked()
		return w, nil
	}
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return w, fmt.Errorf("%q is no IP address, IP:port or network", abbreviate(s))
		}
		a, w.port, w.anyPort = ap.Addr(), ap.Port(), false
	}
	a = a.Unmap().WithZone("")
	w.network = netip.PrefixFrom(a, a.BitLen())
	return w, nil
}

func (w wantedAddr) fits(a netip.AddrPort) bool {
	return w.network.Contains(a.Addr().Unmap()) && (w.anyPort || a.Port() == w.port)
}

func byAddress(q Query) (*filter, error) {
	return addresses("address", rankAddress, q.Addresses, func(r *audit.Record) netip.AddrPort { return r.Address })
}

func bySource(q Query) (*filter, error) {
	return addresses("source", rankSource, q.Sources, func(r *audit.Record) netip.AddrPort { return r.Source })
}

func addresses(field string, rank int, values []string, get func(*audit.Record) netip.AddrPort) (*filter, error) {
	if len(values) == 0 {
		return nil, nil
	}
	f := &filter{rank: rank}
	name := `"` + field + `":{"ip":"`
	var wanted []wantedAddr
	var single []string
	for _, v := range values {
		w, err := parseWantedAddr(v)
		if err != nil {
			return nil, fmt.Errorf("the %s %w", field, err)
		}
		wanted = append(wanted, w)
		if w.network.IsSingleIP() {
			ip := w.network.Addr().String()
			single = append(single, ip)
			port := ""
			if !w.anyPort {
				port = `,"port":` + strconv.Itoa(int(w.port)) + `}`
			}
			f.needles = append(f.needles, needle(name+ip+`"`+port))
		}
	}
	if len(single) == len(wanted) {
		f.may = mayHave(single, field+".ip")
	}
	if len(single) < len(wanted) || len(wanted) > mostNeedles {
		f.rank, f.needles = rankAnyHost, [][]byte{[]byte(name)}
		f.near = func(rest []byte) bool {
			a, err := netip.ParseAddr(string(untilQuote(rest)))
			return err != nil || slices.ContainsFunc(wanted, func(w wantedAddr) bool { return w.network.Contains(a) })
		}
	}
	f.fits = func(r *audit.Record) bool {
		a := get(r)
		return slices.ContainsFunc(wanted, func(w wantedAddr) bool { return w.fits(a) })
	}
	return f, nil
}

// A wantedTarget is a host as people ask for it, perhaps with its port.
type wantedTarget struct {
	labels  []string // of the host in its normal form
	port    uint32
	anyPort bool
}

// normalHost is how names compare: a client may have asked for RDS.
func normalHost(host string) string {
	for i := range len(host) {
		if 'A' <= host[i] && host[i] <= 'Z' || i == len(host)-1 && host[i] == '.' {
			return strings.TrimSuffix(lower(host), ".")
		}
	}
	return host
}

// lower is for ASCII only: names are.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

func parseWantedTarget(s string) (w wantedTarget, err error) {
	host := s
	w.anyPort = true
	if i := strings.LastIndexByte(s, ':'); i >= 0 && (strings.Count(s, ":") == 1 || strings.HasPrefix(s, "[") && s[i-1] == ']') {
		port, err := strconv.ParseUint(s[i+1:], 10, 32)
		if err != nil {
			return w, fmt.Errorf("the target %q has no number as its port; write it as rds:3306", abbreviate(s))
		}
		host, w.port, w.anyPort = s[:i], uint32(port), false
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(inner, "]")
	}
	if _, err := encode(host, "host of a target"); err != nil {
		return w, err
	}
	w.labels = strings.Split(normalHost(host), ".")
	return w, nil
}

func (w *wantedTarget) host() string { return strings.Join(w.labels, ".") }

func (w *wantedTarget) fits(host string) bool {
	for i, l := range w.labels {
		label, rest, more := strings.Cut(host, ".")
		if more != (i < len(w.labels)-1) || !glob(l, label) {
			return false
		}
		host = rest
	}
	return true
}

// glob matches a label with a pattern, in which "*" stands for anything.
func glob(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	last := len(parts) - 1
	if last == 0 {
		return pattern == s
	}
	s, ok := strings.CutPrefix(s, parts[0])
	if !ok {
		return false
	}
	for _, part := range parts[1:last] {
		// The first place is the best one: it leaves the most.
		if _, s, ok = strings.Cut(s, part); !ok {
			return false
		}
	}
	return strings.HasSuffix(s, parts[last])
}

func byTarget(q Query) (*filter, error) {
	if len(q.Targets) == 0 {
		return nil, nil
	}
	f := &filter{rank: rankTarget, needles: [][]byte{[]byte(`"target":{"host":"`)}}
	var wanted []*wantedTarget
	var hosts []string
	for _, v := range q.Targets {
		w, err := parseWantedTarget(v)
		if err != nil {
			return nil, err
		}
		wanted = append(wanted, &w)
		if h := w.host(); !strings.Contains(h, "*") {
			hosts = append(hosts, h)
		}
	}
	if len(hosts) == len(wanted) {
		f.may = mayHave(hosts, "target.host")
	} else {
		f.rank = rankAnyHost
	}
	fits := func(host string) bool {
		host = normalHost(host)
		return slices.ContainsFunc(wanted, func(w *wantedTarget) bool { return w.fits(host) })
	}
	f.near = func(rest []byte) bool {
		host := untilQuote(rest)
		return bytes.IndexByte(host, '\\') >= 0 || fits(string(host))
	}
	f.fits = func(r *audit.Record) bool {
		if r.Target == (audit.Endpoint{}) {
			return false
		}
		host := normalHost(r.Target.Host)
		return slices.ContainsFunc(wanted, func(w *wantedTarget) bool {
			return (w.anyPort || w.port == r.Target.Port) && w.fits(host)
		})
	}
	return f, nil
}

func byRequest(q Query) (*filter, error) {
	return texts("request", q.Requests, func(r *audit.Record, has func(string) bool) bool { return has(r.Request) })
}

func byText(q Query) (*filter, error) { return texts("text", q.Texts, anyString) }

// texts is for parts of strings. What a string holds is written rune by rune,
// so that what a part of it looks like is a part of the line.
func texts(what string, values []string, in func(r *audit.Record, has func(string) bool) bool) (*filter, error) {
	if len(values) == 0 {
		return nil, nil
	}
	f := &filter{rank: rankText}
	for _, v := range values {
		e, err := encode(v, what)
		if err != nil {
			return nil, err
		}
		f.needles = append(f.needles, needle(string(e)))
	}
	if len(values) > mostNeedles {
		f.needles = nil
	}
	f.fits = func(r *audit.Record) bool {
		return in(r, func(s string) bool {
			return slices.ContainsFunc(values, func(v string) bool { return strings.Contains(s, v) })
		})
	}
	return f, nil
}

// anyString reports whether a text of the record, an address among them, has
// what is wanted.
func anyString(r *audit.Record, has func(string) bool) bool {
	for _, s := range []string{
		r.Bastion, r.Run, string(r.Type), r.Conn, r.Forward, r.Entrance, r.User, r.Login, r.Key, r.Cert.Authority, r.Cert.KeyID,
		r.Client, r.Hassh, r.Originator.Host, r.Target.Host, r.Grant, r.Policy, r.Request, r.Reason, r.Detail,
	} {
		if has(s) {
			return true
		}
	}
	for _, a := range []netip.AddrPort{r.Source, r.Address} {
		if a.Addr().IsValid() && has(a.Addr().String()) {
			return true
		}
	}
	for _, d := range r.Dropped {
		if d.Addr.IsValid() && has(d.Addr.String()) || has(d.Reason) {
			return true
		}
	}
	return slices.ContainsFunc(r.Offered, has)
}

func byBytes(q Query) (*filter, error) {
	if q.Bytes == 0 {
		return nil, nil
	}
	return &filter{
		rank:    rankBytes,
		needles: [][]byte{[]byte(`,"bytes_`)},
		// The other count follows, if there is one.
		near: func(rest []byte) bool {
			rest, isUp := bytes.CutPrefix(rest, []byte(`up":`))
			var up, down uint64
			if isUp {
				up, rest = digits(rest)
				rest = bytes.TrimPrefix(rest, []byte(`,"bytes_`))
			}
			if rest, isDown := bytes.CutPrefix(rest, []byte(`down":`)); isDown {
				down, _ = digits(rest)
			}
			return sum(up, down) >= q.Bytes
		},
		fits: func(r *audit.Record) bool { return sum(r.BytesUp, r.BytesDown) >= q.Bytes },
	}, nil
}

func byDuration(q Query) (*filter, error) {
	if q.Duration <= 0 {
		if q.Duration < 0 {
			return nil, errors.New("no duration is negative")
		}
		return nil, nil
	}
	return &filter{
		rank:    rankDuration,
		needles: [][]byte{[]byte(`,"duration_ms":`)},
		near: func(rest []byte) bool {
			ms, _ := digits(rest)
			return ms >= uint64(q.Duration.Milliseconds())
		},
		fits: func(r *audit.Record) bool { return r.Duration >= q.Duration },
	}, nil
}

// digits reads a number. One that is too large for a record counts as the
// largest, so that it is looked at.
func digits(b []byte) (n uint64, rest []byte) {
	i := 0
	for ; i < len(b) && '0' <= b[i] && b[i] <= '9'; i++ {
		d := uint64(b[i] - '0')
		if n > (math.MaxUint64-d)/10 {
			n = math.MaxUint64
			continue
		}
		n = n*10 + d
	}
	return n, b[i:]
}

// sum does not overflow.
func sum(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}

// hostPort is a target as people write it.
func hostPort(e audit.Endpoint) string {
	if strings.Contains(e.Host, ":") {
		return "[" + e.Host + "]:" + strconv.FormatUint(uint64(e.Port), 10)
	}
	return cmp.Or(e.Host, "?") + ":" + strconv.FormatUint(uint64(e.Port), 10)
}
