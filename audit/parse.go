package audit

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"sekisho/audit/tree"
)

// ParseRecord reads a line that AppendJSON wrote. It is as strict as the
// writer is regular: other fields, another order, white space or another
// spelling of a number, time or address are errors. Types of records that are
// not known here are accepted.
func ParseRecord(line []byte) (Record, error) {
	var r Record
	p := parser{in: line}

	p.want(`{"v":`)
	if v := p.uint(math.MaxInt32); p.err == nil && v != Version {
		return Record{}, fmt.Errorf("version %d of the record is not known, only %d", v, Version)
	}
	r.V = Version
	p.want(`,"seq":`)
	r.Seq = p.uint(math.MaxUint64)
	p.want(`,"time":`)
	r.Time = p.time()

	p.field("bastion", &r.Bastion)
	p.field("run", &r.Run)
	p.field("type", (*string)(&r.Type))
	p.field("conn", &r.Conn)
	p.field("forward", &r.Forward)
	p.field("entrance", &r.Entrance)
	p.field("user", &r.User)
	p.field("login", &r.Login)
	p.field("key", &r.Key)
	if p.has("cert") {
		r.Cert = p.certificate()
	}
	p.field("client", &r.Client)
	p.field("hassh", &r.Hassh)
	if p.has("source") {
		r.Source = p.addrPort()
	}
	if p.has("originator") {
		r.Originator = p.endpoint(`{"ip":`)
	}
	if p.has("target") {
		r.Target = p.endpoint(`{"host":`)
	}
	if p.has("address") {
		r.Address = p.addrPort()
	}
	p.field("grant", &r.Grant)
	p.field("policy", &r.Policy)
	p.field("request", &r.Request)
	if p.has("head") {
		r.Head = p.head()
	}
	if p.has("offered") {
		p.list(func() { r.Offered = append(r.Offered, p.string()) })
	}
	if p.has("dropped") {
		p.list(func() { r.Dropped = append(r.Dropped, p.dropped()) })
	}
	if p.has("bytes_up") {
		r.BytesUp = p.uint(math.MaxUint64)
	}
	if p.has("bytes_down") {
		r.BytesDown = p.uint(math.MaxUint64)
	}
	if p.has("duration_ms") {
		r.Duration = time.Duration(p.uint(math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond
	}
	if p.has("count") {
		r.Count = p.uint(math.MaxUint64)
	}
	if p.has("sources") {
		r.Sources = p.uint(math.MaxUint64)
	}
	p.field("reason", &r.Reason)
	p.field("detail", &r.Detail)
	p.want(`}`)
	if p.err == nil && p.pos < len(p.in) {
		p.fail("the end of the line")
	}
	if p.err != nil {
		return Record{}, p.err
	}
	return r, nil
}

// A parser walks over a line. After the first error its methods do nothing.
type parser struct {
	in  []byte
	pos int
	err error
}

func (p *parser) fail(want string) {
	if p.err != nil {
		return
	}
	rest := p.in[min(p.pos, len(p.in)):]
	if len(rest) == 0 {
		p.err = fmt.Errorf("byte %d: the line ends where %s should be", p.pos+1, want)
		return
	}
	p.err = fmt.Errorf("byte %d: %.24q where %s should be", p.pos+1, rest, want)
}

func (p *parser) skip(s string) bool {
	if p.err != nil || len(p.in)-p.pos < len(s) || string(p.in[p.pos:p.pos+len(s)]) != s {
		return false
	}
	p.pos += len(s)
	return true
}

func (p *parser) want(s string) {
	if !p.skip(s) {
		p.fail(s)
	}
}

// has consumes `,"name":` if it is what comes next.
func (p *parser) has(name string) bool {
	rest := p.in[p.pos:]
	n := len(name) + 4
	if p.err != nil || len(rest) < n || rest[0] != ',' || rest[1] != '"' ||
		string(rest[2:n-2]) != name || rest[n-2] != '"' || rest[n-1] != ':' {
		return false
	}
	p.pos += n
	return true
}

func (p *parser) field(name string, s *string) {
	if p.has(name) {
		*s = p.string()
	}
}

func (p *parser) uint(most uint64) uint64 {
	start := p.pos
	for p.pos < len(p.in) && '0' <= p.in[p.pos] && p.in[p.pos] <= '9' {
		p.pos++
	}
	digits := p.in[start:p.pos]
	n, err := strconv.ParseUint(string(digits), 10, 64)
	if err != nil || n > most || digits[0] == '0' && len(digits) > 1 {
		p.pos = start
		p.fail("a number up to " + strconv.FormatUint(most, 10))
		return 0
	}
	return n
}

func (p *parser) time() time.Time {
	start := p.pos
	s := p.string()
	t, err := time.Parse(timeLayout, s)
	if err != nil || t.Format(timeLayout) != s {
		p.pos = start
		p.fail("a time such as 2026-11-22T01:02:03.123456Z")
	}
	return t
}

func (p *parser) addr() netip.Addr {
	start := p.pos
	s := p.string()
	if s == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Is4In6() || a.Zone() != "" || a.String() != s {
		p.pos = start
		p.fail("an IP address in its usual form")
	}
	return a
}

func (p *parser) addrPort() netip.AddrPort {
	p.want(`{"ip":`)
	a := p.addr()
	p.want(`,"port":`)
	port := p.uint(math.MaxUint16)
	p.want(`}`)
	return netip.AddrPortFrom(a, uint16(port))
}

func (p *parser) certificate() (c Certificate) {
	p.want(`{"authority":`)
	c.Authority = p.string()
	p.want(`,"key_id":`)
	c.KeyID = p.string()
	p.want(`,"serial":`)
	c.Serial = p.uint(math.MaxUint64)
	p.want(`}`)
	return c
}

func (p *parser) head() (h TreeHead) {
	p.want(`{"size":`)
	start := p.pos
	if h.Size = p.uint(tree.MaxSize); p.err == nil && h.Size == 0 {
		p.pos = start
		p.fail("the size of a head")
	}
	p.want(`,"root":`)
	start = p.pos
	s := p.string()
	root, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(root) != len(h.Root) || base64.StdEncoding.EncodeToString(root) != s {
		p.pos = start
		p.fail("a SHA-256 hash in base64")
	}
	copy(h.Root[:], root)
	p.want(`}`)
	return h
}

func (p *parser) endpoint(open string) Endpoint {
	p.want(open)
	host := p.string()
	p.want(`,"port":`)
	port := p.uint(math.MaxUint32)
	p.want(`}`)
	return Endpoint{host, uint32(port)}
}

func (p *parser) dropped() Dropped {
	p.want(`{"ip":`)
	a := p.addr()
	p.want(`,"reason":`)
	reason := p.string()
	p.want(`}`)
	return Dropped{a, reason}
}

func (p *parser) list(entry func()) {
	p.want(`[`)
	for p.err == nil {
		if entry(); !p.skip(`,`) {
			break
		}
	}
	p.want(`]`)
}

func (p *parser) string() string {
	if p.want(`"`); p.err != nil {
		return ""
	}
	start := p.pos
	var b []byte // what stands before the last escape, once there was one
	for {
		plain := p.pos
		for p.pos < len(p.in) && isPlain(p.in[p.pos]) {
			p.pos++
		}
		run := p.in[plain:p.pos]
		if !printed(run) {
			p.pos = start
			p.fail("UTF-8 with nothing in it that should be escaped")
			return ""
		}
		if p.skip(`"`) {
			if b != nil {
				run = append(b, run...)
			}
			return string(run)
		}
		if b = append(b, run...); !p.skip(`\`) {
			p.fail("the rest of a string")
			return ""
		}
		switch {
		case p.skip(`"`):
			b = append(b, '"')
		case p.skip(`\`):
			b = append(b, '\\')
		default:
			r := p.escape()
			if utf16.IsSurrogate(r) {
				p.want(`\`)
				if r = utf16.DecodeRune(r, p.escape()); r == utf8.RuneError {
					p.fail("the other half of a surrogate pair")
				}
			}
			if p.err != nil {
				return ""
			}
			b = utf8.AppendRune(b, r)
		}
	}
}

func isPlain(c byte) bool { return c >= ' ' && c != '"' && c != '\\' && c != 0x7f }

// printed reports whether b can stand in a line as it is: nobody who prints the
// line may be told something else than what is in it.
func printed(b []byte) bool {
	for i := 0; i < len(b); {
		if b[i] < utf8.RuneSelf {
			i++
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 || !unicode.IsPrint(r) {
			return false
		}
		i += n
	}
	return true
}

// escape reads the rest of \uXXXX.
func (p *parser) escape() rune {
	if !p.skip(`u`) || len(p.in)-p.pos < 4 {
		p.fail(`one of \" \\ \uXXXX`)
		return 0
	}
	var r rune
	for _, c := range p.in[p.pos : p.pos+4] {
		d := bytes.IndexByte([]byte("0123456789abcdef"), c)
		if d < 0 {
			p.fail("four lower-case hexadecimal digits")
			return 0
		}
		r = r<<4 | rune(d)
	}
	p.pos += 4
	return r
}
