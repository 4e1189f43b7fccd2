package krl

import (
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// A List is what is revoked. It never changes; nil is a list of nothing.
type List struct {
	text      bool // a list of keys as text, without a header
	version   uint64
	generated time.Time
	comment   string

	// Plain keys, in SSH's wire format, and hashes of that.
	keys    map[string]struct{}
	sha1s   map[[sha1.Size]byte]struct{}
	sha256s map[[sha256.Size]byte]struct{}

	// By the authority's key in wire format; anyAuthority is for all.
	certs map[string]*certificates
}

const anyAuthority = ""

// certificates is what is revoked of one authority's.
type certificates struct {
	serials serials
	ids     map[string]struct{}
}

func newList() *List {
	return &List{
		keys:    make(map[string]struct{}),
		sha1s:   make(map[[sha1.Size]byte]struct{}),
		sha256s: make(map[[sha256.Size]byte]struct{}),
		certs:   make(map[string]*certificates),
	}
}

// of returns what is revoked of an authority's, to add to it.
func (l *List) of(authority string) *certificates {
	c := l.certs[authority]
	if c == nil {
		c = new(certificates)
		l.certs[authority] = c
	}
	return c
}

// Version is the number that whoever made the list gave to it; 0 if none, and
// for a list of keys as text.
func (l *List) Version() uint64 {
	if l == nil {
		return 0
	}
	return l.version
}

// Generated is when the list was made, in UTC. It is zero for a list of keys as
// text, and for a time that no calendar has.
func (l *List) Generated() time.Time {
	if l == nil {
		return time.Time{}
	}
	return l.generated
}

// Comment is what whoever made the list wrote into it, as it stands there:
// quote it before it is printed.
func (l *List) Comment() string {
	if l == nil {
		return ""
	}
	return l.comment
}

// Len is the number of entries: keys, fingerprints, key ids and serials. A
// range of serials is one.
func (l *List) Len() int {
	n := l.counts()
	return n.keys + n.fingerprints + n.ids + n.serials + n.ranges
}

type counts struct{ keys, fingerprints, ids, serials, ranges int }

func (l *List) counts() (n counts) {
	if l == nil {
		return n
	}
	n.keys, n.fingerprints = len(l.keys), len(l.sha1s)+len(l.sha256s)
	for _, c := range l.certs {
		serials, ranges := c.serials.count()
		n.ids, n.serials, n.ranges = n.ids+len(c.ids), n.serials+serials, n.ranges+ranges
	}
	return n
}

// String is a summary for a line in a log, safe to print:
//
//	version 7 of 2026-11-22T01:02:03Z "stolen laptops": 2 keys, 14 serials
func (l *List) String() string {
	var b strings.Builder
	switch {
	case l == nil:
		return "no list"
	case l.text:
		b.WriteString("keys as text")
	default:
		fmt.Fprintf(&b, "version %d", l.version)
		if !l.generated.IsZero() {
			b.WriteString(" of " + l.generated.Format(time.RFC3339))
		}
		if l.comment != "" {
			b.WriteString(" " + quote(l.comment))
		}
	}
	n, parts := l.counts(), []string(nil)
	for _, c := range []struct {
		n         int
		one, many string
	}{
		{n.keys, "key", "keys"},
		{n.fingerprints, "fingerprint", "fingerprints"},
		{n.ids, "key id", "key ids"},
		{n.serials, "serial", "serials"},
		{n.ranges, "range of serials", "ranges of serials"},
	} {
		switch c.n {
		case 0:
		case 1:
			parts = append(parts, "1 "+c.one)
		default:
			parts = append(parts, fmt.Sprintf("%d %s", c.n, c.many))
		}
	}
	if parts == nil {
		parts = []string{"nothing"}
	}
	return b.String() + ": " + strings.Join(parts, ", ")
}

// Revoked reports whether the key is revoked; of a certificate, whether the
// certificate, its key, or the authority that signed it is. The reason is a
// short phrase for an administrator, safe to print: it tells what is in the
// list, which a stranger need not know.
//
// What cannot be judged is revoked: no key, half a certificate. Nothing else of
// a certificate is checked, neither its signature nor its times.
func (l *List) Revoked(key ssh.PublicKey) (why string, revoked bool) {
	if l == nil {
		return "", false
	}
	if key == nil {
		return "there is no key to judge", true
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		blob := key.Marshal()
		if !isCertificate(keyType(blob)) {
			why = l.byKey(blob, "the key itself", "its %s fingerprint")
			return why, why != ""
		}
		// A certificate in another wrapping, such as an agent's.
		parsed, err := ssh.ParsePublicKey(blob)
		if cert, ok = parsed.(*ssh.Certificate); err != nil || !ok {
			return "the certificate cannot be read", true
		}
	}
	why = l.byCertificate(cert)
	return why, why != ""
}

// byCertificate returns why a certificate is revoked, or "".
func (l *List) byCertificate(cert *ssh.Certificate) string {
	if cert == nil || cert.Key == nil || cert.SignatureKey == nil {
		return "the certificate is not complete"
	}
	key, authority := cert.Key.Marshal(), cert.SignatureKey.Marshal()
	if isCertificate(keyType(key)) || isCertificate(keyType(authority)) {
		return "the certificate has a certificate where its key or its authority's belongs"
	}
	if why := l.byKey(key, "the key itself", "its %s fingerprint"); why != "" {
		return why
	}
	if why := l.certs[string(authority)].has(cert); why != "" {
		return why + " of authority " + ssh.FingerprintSHA256(cert.SignatureKey)
	}
	if why := l.certs[anyAuthority].has(cert); why != "" {
		return why + " of any authority"
	}
	return l.byKey(authority, "its authority's key", "the %s fingerprint of its authority's key")
}

// byKey returns why a plain key is revoked, or "". The reason is one of the two
// phrases.
func (l *List) byKey(blob []byte, byItself, byHash string) string {
	if len(l.sha1s) > 0 {
		// Not for its strength: it is what the list has.
		if _, ok := l.sha1s[sha1.Sum(blob)]; ok {
			return fmt.Sprintf(byHash, "SHA-1")
		}
	}
	if len(l.sha256s) > 0 {
		if _, ok := l.sha256s[sha256.Sum256(blob)]; ok {
			return fmt.Sprintf(byHash, "SHA-256")
		}
	}
	if _, ok := l.keys[string(blob)]; ok {
		return byItself
	}
	return ""
}

// has returns what revokes a certificate of the authority, or "".
func (c *certificates) has(cert *ssh.Certificate) string {
	if c == nil {
		return ""
	}
	id, _, _ := strings.Cut(cert.KeyId, "\x00")
	if _, ok := c.ids[id]; ok {
		return "key id " + quote(id)
	}
	if cert.Serial != 0 && c.serials.has(cert.Serial) {
		return fmt.Sprintf("serial %d", cert.Serial)
	}
	return ""
}

// quote makes what others wrote safe to print, and short enough.
func quote(s string) string {
	const most = 100
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}
