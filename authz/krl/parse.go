package krl

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// MaxSize is the largest file in bytes that Parse takes. It is OpenSSH's bound.
const MaxSize = 128 << 20

// PROTOCOL.krl, section 1.
const (
	magic         = "SSHKRL\n\x00"
	formatVersion = 1

	sectionCertificates = 1
	sectionExplicitKey  = 2
	sectionSHA1         = 3
	sectionSignature    = 4
	sectionSHA256       = 5
	sectionExtension    = 255
)

// PROTOCOL.krl, section 2: what a certificate section consists of.
const (
	certSerialList   = 0x20
	certSerialRange  = 0x21
	certSerialBitmap = 0x22
	certKeyID        = 0x23
	certExtension    = 0x39
)

// A Problem is one thing that is wrong in a file.
type Problem struct {
	Line, Column int    // from 1, the column in bytes; 0 in a KRL, whose messages tell the byte
	Message      string // safe to print
	Hint         string // what was meant, or what to do instead; may be empty
}

// Error returns "line:column: message; hint".
func (p Problem) Error() string {
	s := p.Message
	if p.Line > 0 {
		s = fmt.Sprintf("%d:%d: %s", p.Line, p.Column, s)
	}
	if p.Hint != "" {
		s += "; " + p.Hint
	}
	return s
}

// A ParseError is why a file is not a list. In a KRL nothing after the first
// problem means anything, so there is one; of text all are told, up to a bound.
type ParseError struct {
	Problems []Problem // in file order
}

// Error gives the problems one a line.
func (e *ParseError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Parse reads a KRL, or a list of public keys as text if the file does not
// begin as a KRL does. An error is a *ParseError, and then there is no list:
// half of one would leave keys in use that are revoked. Nothing of data is kept.
func Parse(data []byte) (*List, error) {
	if len(data) > MaxSize {
		return nil, &ParseError{[]Problem{{Message: fmt.Sprintf("the file is larger than %d MiB", MaxSize>>20)}}}
	}
	if !bytes.HasPrefix(data, []byte(magic)) {
		l, problems := parseText(data)
		if len(problems) > 0 {
			return nil, &ParseError{problems}
		}
		return l, nil
	}
	l := newList()
	r := reader{rest: data[len(magic):], at: len(magic)}
	if problem := l.read(&r); problem != nil {
		return nil, &ParseError{[]Problem{*problem}}
	}
	for _, c := range l.certs {
		c.serials.merge()
	}
	return l, nil
}

// A reader goes through the file, or through one string of it.
type reader struct {
	rest []byte
	at   int // where in the file rest begins
}

// problem is about a place at or before the reader's own.
func problem(at int, format string, args ...any) *Problem {
	return &Problem{Message: fmt.Sprintf("byte %d: ", at) + fmt.Sprintf(format, args...)}
}

// take returns the next n bytes.
func (r *reader) take(n uint64, what string) ([]byte, *Problem) {
	if n > uint64(len(r.rest)) {
		p := problem(r.at, "%s: only %d of %d bytes are there", what, len(r.rest), n)
		p.Hint = "the list is cut off or damaged: copy or make it again"
		return nil, p
	}
	b := r.rest[:n:n]
	r.rest, r.at = r.rest[n:], r.at+int(n)
	return b, nil
}

func (r *reader) uint8(what string) (byte, *Problem) {
	b, p := r.take(1, what)
	if p != nil {
		return 0, p
	}
	return b[0], nil
}

func (r *reader) uint32(what string) (uint32, *Problem) {
	b, p := r.take(4, what)
	if p != nil {
		return 0, p
	}
	return binary.BigEndian.Uint32(b), nil
}

func (r *reader) uint64(what string) (uint64, *Problem) {
	b, p := r.take(8, what)
	if p != nil {
		return 0, p
	}
	return binary.BigEndian.Uint64(b), nil
}

// string reads a string (RFC 4251, section 5) and returns a reader of it.
func (r *reader) string(what string) (*reader, *Problem) {
	n, p := r.uint32("the length of " + what)
	if p != nil {
		return nil, p
	}
	at := r.at
	b, p := r.take(uint64(n), what)
	return &reader{b, at}, p
}

// text reads a string that C can hold: a zero byte may be its last only, and
// is not part of it.
func (r *reader) text(what string) (string, *Problem) {
	s, p := r.string(what)
	if p != nil {
		return "", p
	}
	b := bytes.TrimSuffix(s.rest, []byte{0})
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return "", problem(s.at+i, "%s has a zero byte in it", what)
	}
	return string(b), nil
}

// end is a problem if something is left.
func (r *reader) end(what string) *Problem {
	if len(r.rest) > 0 {
		return problem(r.at, "something is left over after %s", what)
	}
	return nil
}

// read reads what follows the magic number.
func (l *List) read(r *reader) *Problem {
	if p := l.readHeader(r); p != nil {
		return p
	}
	for len(r.rest) > 0 {
		at := r.at
		kind, p := r.uint8("the type of a section")
		if p != nil {
			return p
		}
		body, p := r.string("a section")
		if p != nil {
			return p
		}
		switch kind {
		case sectionCertificates:
			p = l.readCertificates(body)
		case sectionExplicitKey:
			p = l.readKeys(body)
		case sectionSHA1:
			p = readHashes(body, sha1.Size, func(h []byte) { l.sha1s[[sha1.Size]byte(h)] = struct{}{} })
		case sectionSHA256:
			p = readHashes(body, sha256.Size, func(h []byte) { l.sha256s[[sha256.Size]byte(h)] = struct{}{} })
		case sectionExtension:
			p = readExtension(body)
		case sectionSignature:
			// The one section of two strings: body is the key that signed.
			_, p = r.string("a signature")
		default:
			p = problem(at, "sections of type %d are not known", kind)
		}
		if p != nil {
			return p
		}
	}
	return nil
}

func (l *List) readHeader(r *reader) *Problem {
	at := r.at
	format, p := r.uint32("the format's version")
	if p != nil {
		return p
	}
	if format != formatVersion {
		return problem(at, "version %d of the format is not known, only %d", format, formatVersion)
	}
	if l.version, p = r.uint64("the list's version"); p != nil {
		return p
	}
	generated, p := r.uint64("the date")
	if p != nil {
		return p
	}
	const year10000 = 253402300800 // seconds since 1970
	if 0 < generated && generated < year10000 {
		l.generated = time.Unix(int64(generated), 0).UTC()
	}
	if _, p = r.uint64("the flags"); p != nil {
		return p
	}
	if _, p = r.string("the reserved field"); p != nil {
		return p
	}
	l.comment, p = r.text("the comment")
	return p
}

// readCertificates reads a section about certificates (PROTOCOL.krl, section 2).
func (l *List) readCertificates(r *reader) *Problem {
	authority, p := readAuthority(r)
	if p != nil {
		return p
	}
	if _, p = r.string("the reserved field of a certificate section"); p != nil {
		return p
	}
	for len(r.rest) > 0 {
		at := r.at
		kind, p := r.uint8("the type of a part of a certificate section")
		if p != nil {
			return p
		}
		body, p := r.string("a part of a certificate section")
		if p != nil {
			return p
		}
		c := l.of(authority)
		switch kind {
		case certSerialList:
			p = c.serials.readList(body)
		case certSerialRange:
			p = c.serials.readRange(body)
		case certSerialBitmap:
			p = c.serials.readBitmap(body)
		case certKeyID:
			p = c.readIDs(body)
		case certExtension:
			p = readExtension(body)
		default:
			p = problem(at, "parts of type %#x of a certificate section are not known", kind)
		}
		if p != nil {
			return p
		}
	}
	return nil
}

// readAuthority reads the key that a certificate section is about, and returns
// it as the List's certs have it.
func readAuthority(r *reader) (string, *Problem) {
	s, p := r.string("an authority's key")
	if p != nil || len(s.rest) == 0 {
		return anyAuthority, p
	}
	if isCertificate(keyType(s.rest)) {
		p := problem(s.at, "the authority is given by a certificate, and no certificate is signed by one")
		p.Hint = "give ssh-keygen -s the .pub file of the authority's key"
		return "", p
	}
	key, err := ssh.ParsePublicKey(s.rest)
	if err != nil {
		return "", problem(s.at, "the authority's key, of type %s, cannot be read", quote(keyType(s.rest)))
	}
	return string(key.Marshal()), nil
}

func (s *serials) readList(r *reader) *Problem {
	for len(r.rest) > 0 {
		at := r.at
		serial, p := r.uint64("a serial")
		if p != nil {
			return p
		}
		if err := s.add(serial); err != nil {
			return problem(at, "%v", err)
		}
	}
	return nil
}

func (s *serials) readRange(r *reader) *Problem {
	at := r.at
	lo, p := r.uint64("the first serial of a range")
	if p != nil {
		return p
	}
	hi, p := r.uint64("the last serial of a range")
	if p != nil {
		return p
	}
	if err := s.addRange(lo, hi); err != nil {
		return problem(at, "%v", err)
	}
	return r.end("a range of serials")
}

func (s *serials) readBitmap(r *reader) *Problem {
	at := r.at
	offset, p := r.uint64("the first serial of a bitmap")
	if p != nil {
		return p
	}
	bitmap, p := r.string("a bitmap of serials")
	if p != nil {
		return p
	}
	// It is an mpint (RFC 4251, section 5), which begins with its sign.
	if len(bitmap.rest) > 0 && bitmap.rest[0] >= 0x80 {
		return problem(bitmap.at, "the bitmap of serials is a negative number")
	}
	if err := s.addBitmap(offset, bitmap.rest); err != nil {
		return problem(at, "%v", err)
	}
	return r.end("a bitmap of serials")
}

func (c *certificates) readIDs(r *reader) *Problem {
	for len(r.rest) > 0 {
		id, p := r.text("a key id")
		if p != nil {
			return p
		}
		if c.ids == nil {
			c.ids = make(map[string]struct{})
		}
		c.ids[id] = struct{}{}
	}
	return nil
}

// readKeys reads plain keys (PROTOCOL.krl, section 3). They are compared as they
// stand, so that they may be of types that nobody here knows.
func (l *List) readKeys(r *reader) *Problem {
	for len(r.rest) > 0 {
		key, p := r.string("a key")
		if p != nil {
			return p
		}
		switch t := keyType(key.rest); {
		case t == "":
			return problem(key.at, "this is not a public key")
		case isCertificate(t):
			p := problem(key.at, "this is a certificate where a key belongs: it would revoke nothing")
			p.Hint = "certificates are revoked by serial or key id, or by their key"
			return p
		}
		l.keys[string(key.rest)] = struct{}{}
	}
	return nil
}

// readHashes reads fingerprints (PROTOCOL.krl, section 4). Their order, which
// only a reader that searches in the file would need, is not looked at.
func readHashes(r *reader, size int, add func([]byte)) *Problem {
	for len(r.rest) > 0 {
		hash, p := r.string("a fingerprint")
		if p != nil {
			return p
		}
		if len(hash.rest) != size {
			return problem(hash.at, "a fingerprint has %d bytes instead of %d", len(hash.rest), size)
		}
		add(hash.rest)
	}
	return nil
}

// readExtension reads an extension, of the list or of a certificate section.
// None is known, so it must be one that may be ignored.
func readExtension(r *reader) *Problem {
	at := r.at
	name, p := r.text("an extension's name")
	if p != nil {
		return p
	}
	critical, p := r.uint8("whether an extension is critical")
	if p != nil {
		return p
	}
	if _, p = r.string("an extension's contents"); p != nil {
		return p
	}
	if p = r.end("an extension"); p != nil {
		return p
	}
	if critical != 0 {
		return problem(at, "the extension %s is critical and not supported", quote(name))
	}
	return nil
}

// keyType returns the type that a key in wire format begins with, or "".
func keyType(blob []byte) string {
	r := reader{rest: blob}
	t, p := r.text("")
	if p != nil {
		return ""
	}
	return t
}

func isCertificate(keyType string) bool { return strings.Contains(keyType, "-cert-v0") }
