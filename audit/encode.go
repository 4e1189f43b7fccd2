package audit

import (
	"encoding/base64"
	"net/netip"
	"strconv"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// What a stranger can put into a record is bounded, so that a line is never
// longer than maxLine.
const (
	maxString = 1024 // bytes of a string, with the ellipsis of one that was cut
	maxList   = 32   // entries of a list; further ones are left out
	maxLine   = 1 << 20
)

const (
	ellipsis   = "…"
	timeLayout = "2006-01-02T15:04:05.000000Z"
)

// AppendJSON appends r as one line of JSON, without the newline, to b. The
// line is valid UTF-8 and printable whatever the strings of r hold: invalid
// bytes become U+FFFD, what is not printable is escaped, and what is too long
// is cut. Fields that are zero are left out where that says the same.
func (r Record) AppendJSON(b []byte) []byte {
	return r.appendBody(r.appendHead(b))
}

// appendHead writes the fields that the log fills in, and appendBody those of
// the caller. They are apart because a record is numbered late, by the one
// writer, which should have little else to do.
func (r *Record) appendHead(b []byte) []byte { return r.appendOrigin(r.appendNumber(b)) }

func (r *Record) appendNumber(b []byte) []byte {
	b = append(b, `{"v":`...)
	b = strconv.AppendInt(b, int64(r.V), 10)
	b = append(b, `,"seq":`...)
	return strconv.AppendUint(b, r.Seq, 10)
}

// appendOrigin writes what is the same in all records of a batch.
func (r *Record) appendOrigin(b []byte) []byte {
	b = append(b, `,"time":"`...)
	b = r.Time.UTC().AppendFormat(b, timeLayout)
	b = append(b, '"')
	b = appendField(b, "bastion", r.Bastion)
	return appendField(b, "run", r.Run)
}

func (r *Record) appendBody(b []byte) []byte {
	b = appendField(b, "type", string(r.Type))
	b = appendField(b, "conn", r.Conn)
	b = appendField(b, "forward", r.Forward)
	b = appendField(b, "entrance", r.Entrance)
	b = appendField(b, "user", r.User)
	b = appendField(b, "login", r.Login)
	b = appendField(b, "key", r.Key)
	b = appendCertificate(b, r.Cert)
	b = appendField(b, "client", r.Client)
	b = appendField(b, "hassh", r.Hassh)
	b = appendAddrPort(b, "source", r.Source)
	b = appendEndpoint(b, "originator", "ip", r.Originator)
	b = appendEndpoint(b, "target", "host", r.Target)
	b = appendAddrPort(b, "address", r.Address)
	b = appendField(b, "grant", r.Grant)
	b = appendField(b, "policy", r.Policy)
	b = appendField(b, "request", r.Request)
	b = appendTreeHead(b, r.Head)
	b = appendOffered(b, r.Offered)
	b = appendDropped(b, r.Dropped)

	// A zero says something where it was counted, and nothing elsewhere.
	counted := r.Type == ForwardClose || r.Type == ForwardFail || r.Type == ForwardProgress
	timed := counted || r.Type == ConnClose || r.Type == AuthFlood
	ms := max(r.Duration.Milliseconds(), 0)
	if counted || r.BytesUp != 0 {
		b = strconv.AppendUint(appendName(b, "bytes_up"), r.BytesUp, 10)
	}
	if counted || r.BytesDown != 0 {
		b = strconv.AppendUint(appendName(b, "bytes_down"), r.BytesDown, 10)
	}
	if timed || ms != 0 {
		b = strconv.AppendInt(appendName(b, "duration_ms"), ms, 10)
	}
	if r.Count != 0 {
		b = strconv.AppendUint(appendName(b, "count"), r.Count, 10)
	}
	if r.Sources != 0 {
		b = strconv.AppendUint(appendName(b, "sources"), r.Sources, 10)
	}

	b = appendField(b, "reason", r.Reason)
	b = appendField(b, "detail", r.Detail)
	return append(b, '}')
}

// appendName can always begin with a comma, for "v" stands before every other.
func appendName(b []byte, name string) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	return append(b, '"', ':')
}

func appendField(b []byte, name, s string) []byte {
	if s == "" {
		return b
	}
	return appendString(appendName(b, name), s)
}

func appendCertificate(b []byte, c Certificate) []byte {
	if c == (Certificate{}) {
		return b
	}
	b = appendString(append(appendName(b, "cert"), `{"authority":`...), c.Authority)
	b = appendString(append(b, `,"key_id":`...), c.KeyID)
	b = append(b, `,"serial":`...)
	b = strconv.AppendUint(b, c.Serial, 10)
	return append(b, '}')
}

func appendTreeHead(b []byte, h TreeHead) []byte {
	if h.Size == 0 {
		return b
	}
	b = strconv.AppendUint(append(appendName(b, "head"), `{"size":`...), h.Size, 10)
	b = base64.StdEncoding.AppendEncode(append(b, `,"root":"`...), h.Root[:])
	return append(b, `"}`...)
}

func appendEndpoint(b []byte, name, host string, e Endpoint) []byte {
	if e == (Endpoint{}) {
		return b
	}
	b = append(appendName(b, name), `{"`...)
	b = append(b, host...)
	b = appendString(append(b, `":`...), e.Host)
	b = append(b, `,"port":`...)
	b = strconv.AppendUint(b, uint64(e.Port), 10)
	return append(b, '}')
}

func appendAddrPort(b []byte, name string, a netip.AddrPort) []byte {
	if a == (netip.AddrPort{}) {
		return b
	}
	b = append(appendName(b, name), `{"ip":`...)
	b = appendAddr(b, a.Addr())
	b = append(b, `,"port":`...)
	b = strconv.AppendUint(b, uint64(a.Port()), 10)
	return append(b, '}')
}

// appendAddr writes one address in one way: an IPv4 address carried in IPv6 is
// IPv4, and a zone, which means something on one machine only, is dropped.
func appendAddr(b []byte, a netip.Addr) []byte {
	b = append(b, '"')
	if a.IsValid() {
		b = a.Unmap().WithZone("").AppendTo(b)
	}
	return append(b, '"')
}

func appendOffered(b []byte, list []string) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(appendName(b, "offered"), '[')
	for i, s := range list[:min(len(list), maxList)] {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, s)
	}
	return append(b, ']')
}

func appendDropped(b []byte, list []Dropped) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(appendName(b, "dropped"), '[')
	for i, d := range list[:min(len(list), maxList)] {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendAddr(append(b, `{"ip":`...), d.Addr)
		b = appendString(append(b, `,"reason":`...), d.Reason)
		b = append(b, '}')
	}
	return append(b, ']')
}

// appendString counts the bytes of the string as a reader will get it, so that
// a string which was cut once is not cut again.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	if plain(s) {
		return append(append(b, s...), '"')
	}
	size, keep := 0, len(b) // keep: up to where b may stay if the string is cut
	for i := 0; i < len(s); {
		r, n := rune(s[i]), 1
		if r >= utf8.RuneSelf {
			r, n = utf8.DecodeRuneInString(s[i:]) // RuneError, 1 for an invalid byte
		}
		w := utf8.RuneLen(r)
		if size+w > maxString {
			b = append(b[:keep], ellipsis...)
			break
		}
		b = appendRune(b, r)
		i, size = i+n, size+w
		if size <= maxString-len(ellipsis) {
			keep = len(b)
		}
	}
	return append(b, '"')
}

// plain reports whether s is written as it is, as most strings are.
func plain(s string) bool {
	if len(s) > maxString {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func appendRune(b []byte, r rune) []byte {
	switch {
	case r == '"' || r == '\\':
		return append(b, '\\', byte(r))
	case ' ' <= r && r <= '~':
		return append(b, byte(r))
	case Visible(r):
		return utf8.AppendRune(b, r)
	case r > 0xffff:
		hi, lo := utf16.EncodeRune(r)
		return appendEscape(appendEscape(b, hi), lo)
	}
	return appendEscape(b, r)
}

// Visible reports whether r is printed, and as something that can be seen.
// What Unicode lets a display ignore (UAX #44, Default_Ignorable_Code_Point)
// counts as printable with some, and the blank of Braille with all.
func Visible(r rune) bool {
	return unicode.IsPrint(r) && r != '\u2800' && !unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

func appendEscape(b []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	return append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
}

// stamp is t as a record can hold it.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }
