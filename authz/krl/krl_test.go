package krl

import (
	"crypto/ed25519"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// What follows writes KRLs as PROTOCOL.krl describes them.

func u32(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
func u64(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

// str is a string in SSH's wire format, of all parts together.
func str(parts ...string) string {
	s := strings.Join(parts, "")
	return u32(uint32(len(s))) + s
}

func section(kind byte, parts ...string) string { return string([]byte{kind}) + str(parts...) }

func header(version, generated uint64, comment string) string {
	return magic + u32(1) + u64(version) + u64(generated) + u64(0) + str() + str(comment)
}

func list(sections ...string) string {
	return header(7, 1795309323, "") + strings.Join(sections, "")
}

// byAuthority is a certificate section; the authority may be nil.
func byAuthority(key ssh.PublicKey, parts ...string) string {
	ca := ""
	if key != nil {
		ca = string(key.Marshal())
	}
	return section(sectionCertificates, str(ca), str(), strings.Join(parts, ""))
}

// pair makes the same key for the same seed.
func pair(seed byte) ssh.Signer {
	private := ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune('a'+seed%26)), ed25519.SeedSize)))
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		panic(err)
	}
	return s
}

func certify(authority ssh.Signer, key ssh.PublicKey, serial uint64, id string) *ssh.Certificate {
	cert := &ssh.Certificate{Key: key, Serial: serial, KeyId: id, CertType: ssh.UserCert, ValidPrincipals: []string{"alice"}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(zeros{}, authority); err != nil {
		panic(err)
	}
	return cert
}

// zeros is a source of nonces that are always the same.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func mustParse(t testing.TB, file string) *List {
	t.Helper()
	l, err := Parse([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

var (
	corp, other = pair(0), pair(1)
	alice, bob  = pair(2), pair(3)

	sha1Of   = func(k ssh.PublicKey) string { h := sha1.Sum(k.Marshal()); return string(h[:]) }
	sha256Of = func(k ssh.PublicKey) string { h := sha256.Sum256(k.Marshal()); return string(h[:]) }
	blob     = func(k ssh.PublicKey) string { return string(k.Marshal()) }
)

func TestRevoked(t *testing.T) {
	ca := corp.PublicKey()
	plain := alice.PublicKey()
	cert := certify(corp, plain, 17, "alice")
	none := certify(corp, plain, 0, "alice")
	of := " of authority " + ssh.FingerprintSHA256(ca)
	line := string(ssh.MarshalAuthorizedKey(plain))
	for _, test := range []struct {
		name, file string
		key        ssh.PublicKey
		why        string // "" is not revoked
	}{
		{"a list of nothing revokes no key", list(), plain, ""},
		{"a list of nothing revokes no certificate", list(), cert, ""},
		{"an empty file revokes nothing, as for sshd", "", cert, ""},

		{"an explicit key is revoked", list(section(sectionExplicitKey, str(blob(plain)))), plain, "the key itself"},
		{"another key is not", list(section(sectionExplicitKey, str(blob(bob.PublicKey())))), plain, ""},
		{"a certificate of an explicit key is revoked", list(section(sectionExplicitKey, str(blob(plain)))), cert, "the key itself"},
		{"a certificate of an authority that is an explicit key is revoked", list(section(sectionExplicitKey, str(blob(ca)))), cert, "its authority's key"},
		{"a SHA-1 fingerprint revokes a key", list(section(sectionSHA1, str(sha1Of(plain)))), plain, "its SHA-1 fingerprint"},
		{"a SHA-1 fingerprint of the plain key revokes its certificate", list(section(sectionSHA1, str(sha1Of(plain)))), cert, "its SHA-1 fingerprint"},
		{"a SHA-1 fingerprint revokes an authority", list(section(sectionSHA1, str(sha1Of(ca)))), cert, "the SHA-1 fingerprint of its authority's key"},
		{"a SHA-256 fingerprint revokes a key", list(section(sectionSHA256, str(sha256Of(plain)))), plain, "its SHA-256 fingerprint"},
		{"a SHA-256 fingerprint of the plain key revokes its certificate", list(section(sectionSHA256, str(sha256Of(plain)))), cert, "its SHA-256 fingerprint"},
		{"a SHA-256 fingerprint revokes an authority", list(section(sectionSHA256, str(sha256Of(ca)))), cert, "the SHA-256 fingerprint of its authority's key"},
		{"a fingerprint of the whole certificate names nothing", list(section(sectionSHA256, str(sha256Of(cert)))), cert, ""},
		{"fingerprints out of order are found", list(section(sectionSHA256, str(strings.Repeat("\xff", 32)), str(sha256Of(plain)), str(strings.Repeat("\x00", 32)))), plain, "its SHA-256 fingerprint"},

		{"a serial of the authority is revoked", list(byAuthority(ca, section(certSerialList, u64(3), u64(17)))), cert, "serial 17" + of},
		{"the serial of another authority is not", list(byAuthority(other.PublicKey(), section(certSerialList, u64(17)))), cert, ""},
		{"a serial revokes no plain key", list(byAuthority(nil, section(certSerialRange, u64(1), u64(math.MaxUint64)))), plain, ""},
		{"an empty authority is any authority", list(byAuthority(nil, section(certSerialList, u64(17)))), cert, "serial 17 of any authority"},
		{"a key id is revoked", list(byAuthority(ca, section(certKeyID, str("bob"), str("alice")))), cert, `key id "alice"` + of},
		{"a key id of any authority is revoked", list(byAuthority(nil, section(certKeyID, str("alice")))), cert, `key id "alice" of any authority`},
		{"a key id is compared exactly", list(byAuthority(ca, section(certKeyID, str("Alice"), str("alic"), str("alice ")))), cert, ""},
		{"a key id in the list may end in a zero byte", list(byAuthority(ca, section(certKeyID, str("alice\x00")))), cert, `key id "alice"` + of},
		{"a key id in a certificate ends at a zero byte", list(byAuthority(ca, section(certKeyID, str("alice")))), certify(corp, plain, 1, "alice\x00bob"), `key id "alice"` + of},
		{"an empty key id is a key id", list(byAuthority(ca, section(certKeyID, str()))), certify(corp, plain, 1, ""), `key id ""` + of},
		{"a long key id is told in part", list(byAuthority(nil, section(certKeyID, str(strings.Repeat("\x1b", 5000))))), certify(corp, plain, 1, strings.Repeat("\x1b", 5000)),
			`key id "` + strings.Repeat(`\x1b`, 100) + `"… of any authority`},
		{"serial 0 is in no range", list(byAuthority(ca, section(certSerialRange, u64(1), u64(math.MaxUint64)))), none, ""},
		{"a certificate without a serial is revoked by its key id", list(byAuthority(ca, section(certKeyID, str("alice")))), none, `key id "alice"` + of},
		{"sections of one authority add up", list(byAuthority(ca, section(certSerialList, u64(1))), byAuthority(other.PublicKey(), section(certSerialList, u64(2))), byAuthority(ca, section(certSerialList, u64(17)))), cert, "serial 17" + of},
		{"the authority's reserved field is ignored", list(section(sectionCertificates, str(blob(ca)), str("later"), section(certSerialList, u64(17)))), cert, "serial 17" + of},

		{"sections may be empty", list(byAuthority(ca), byAuthority(ca, section(certSerialList), section(certKeyID), section(certSerialBitmap, u64(0), str())), section(sectionExplicitKey), section(sectionSHA1), section(sectionSHA256)), cert, ""},
		{"an extension that is not critical is skipped", list(section(sectionExtension, str("x@example.com"), "\x00", str("y")), section(sectionExplicitKey, str(blob(plain)))), plain, "the key itself"},
		{"an extension of a certificate section that is not critical is skipped", list(byAuthority(ca, section(certExtension, str("x"), "\x00", str()), section(certSerialList, u64(17)))), cert, "serial 17" + of},
		{"signatures are skipped, and what follows is read", list(section(sectionSignature, blob(ca))+str("no signature"), section(sectionExplicitKey, str(blob(plain)))), plain, "the key itself"},
		{"flags and reserved field of the header are ignored", magic + u32(1) + u64(0) + u64(0) + u64(math.MaxUint64) + str("later") + str() + section(sectionExplicitKey, str(blob(plain))), plain, "the key itself"},
		{"a key of a type that nobody knows may be in the list", list(section(sectionExplicitKey, str(str("ssh-new"), "??"), str(blob(plain)))), plain, "the key itself"},

		{"text revokes a key", "# stolen\n\n \t" + line, plain, "the key itself"},
		{"text may lack its last newline", strings.TrimSuffix(line, "\n"), plain, "the key itself"},
		{"text may have been written on Windows", "# stolen\r\n\r\n" + strings.TrimSuffix(line, "\n") + " a comment\r\n", plain, "the key itself"},
		{"text revokes certificates of a key", line, cert, "the key itself"},
		{"text revokes an authority", string(ssh.MarshalAuthorizedKey(ca)), cert, "its authority's key"},
		{"a certificate in text names its plain key", string(ssh.MarshalAuthorizedKey(cert)), plain, "the key itself"},
		{"a certificate in text names nothing of its authority", string(ssh.MarshalAuthorizedKey(cert)), certify(corp, bob.PublicKey(), 17, "alice"), ""},
		{"a key that is commented out is not revoked", "#" + line, plain, ""},

		{"no key is revoked", list(), nil, "there is no key to judge"},
		{"no certificate is revoked", list(), (*ssh.Certificate)(nil), "the certificate is not complete"},
		{"half a certificate is revoked", list(), &ssh.Certificate{Key: plain}, "the certificate is not complete"},
		{"the other half is, too", list(), &ssh.Certificate{SignatureKey: ca}, "the certificate is not complete"},
		{"a certificate of a certificate is revoked", list(), &ssh.Certificate{Key: cert, SignatureKey: ca}, "the certificate has a certificate where its key or its authority's belongs"},
		{"a certificate by a certificate is revoked", list(), &ssh.Certificate{Key: plain, SignatureKey: cert}, "the certificate has a certificate where its key or its authority's belongs"},
		{"a certificate in another wrapping is one", list(byAuthority(ca, section(certSerialList, u64(17)))), wrapped{cert, cert.Marshal()}, "serial 17" + of},
		{"a damaged one in another wrapping is revoked", list(), wrapped{cert, cert.Marshal()[:90]}, "the certificate cannot be read"},
	} {
		t.Run(test.name, func(t *testing.T) {
			why, revoked := mustParse(t, test.file).Revoked(test.key)
			if why != test.why || revoked != (test.why != "") {
				t.Errorf("got %q, %v, want %q", why, revoked, test.why)
			}
		})
	}
}

// wrapped is a key as an agent's client has it.
type wrapped struct {
	ssh.PublicKey
	blob []byte
}

func (w wrapped) Marshal() []byte { return w.blob }

func TestSerials(t *testing.T) {
	const most = math.MaxUint64
	for _, test := range []struct {
		name    string
		parts   []string
		in, out []uint64
	}{
		{"a list, unsorted and with duplicates", []string{section(certSerialList, u64(9), u64(1), u64(9), u64(most))}, []uint64{1, 9, most}, []uint64{0, 2, 8, 10, most - 1}},
		{"serials beside a word's edge", []string{section(certSerialList, u64(63), u64(64), u64(128))}, []uint64{63, 64, 128}, []uint64{62, 65, 127, 129}},
		{"a range with both its ends", []string{section(certSerialRange, u64(5), u64(9))}, []uint64{5, 7, 9}, []uint64{0, 4, 10}},
		{"a range of one", []string{section(certSerialRange, u64(5), u64(5))}, []uint64{5}, []uint64{4, 6}},
		{"a range up to the largest serial", []string{section(certSerialRange, u64(most-2), u64(most))}, []uint64{most - 2, most}, []uint64{1, most - 3}},
		{"every serial there is", []string{section(certSerialRange, u64(1), u64(most)), section(certSerialRange, u64(1), u64(3))}, []uint64{1, 4, most}, []uint64{0}},
		{"ranges that overlap, touch, hold one another, in no order", []string{
			section(certSerialRange, u64(50), u64(60)), section(certSerialRange, u64(10), u64(20)), section(certSerialRange, u64(55), u64(70)),
			section(certSerialRange, u64(21), u64(30)), section(certSerialRange, u64(12), u64(13)), section(certSerialRange, u64(10), u64(20)),
			section(certSerialRange, u64(most), u64(most))},
			[]uint64{10, 20, 21, 30, 50, 60, 61, 70, most}, []uint64{9, 31, 49, 71, most - 1}},
		{"a bitmap from its offset on", []string{section(certSerialBitmap, u64(100), str("\x05"))}, []uint64{100, 102}, []uint64{0, 99, 101, 103}},
		{"a bitmap of several bytes, the last one lowest", []string{section(certSerialBitmap, u64(3), str("\x01\x00\x80"))}, []uint64{10, 19}, []uint64{3, 9, 11, 18, 20}},
		{"a bitmap with a zero byte for its sign", []string{section(certSerialBitmap, u64(1), str("\x00\xff"))}, []uint64{1, 8}, []uint64{0, 9}},
		{"a bitmap from 0 without serial 0", []string{section(certSerialBitmap, u64(0), str("\x02"))}, []uint64{1}, []uint64{0, 2}},
		{"a bitmap whose bytes lie across words", []string{section(certSerialBitmap, u64(61), str("\x7f\xff"))}, []uint64{61, 64, 75}, []uint64{60, 76}},
		{"a bitmap up to the largest serial", []string{section(certSerialBitmap, u64(most-7), str("\x00\x81"))}, []uint64{most - 7, most}, []uint64{0, most - 6, most - 1}},
		{"zeros of a bitmap beyond the largest serial", []string{section(certSerialBitmap, u64(most), str("\x00\x00\x00\x01"))}, []uint64{most}, []uint64{0, 1, most - 1}},
		{"bitmaps that overlap", []string{section(certSerialBitmap, u64(10), str("\x0f")), section(certSerialBitmap, u64(12), str("\x0f"))}, []uint64{10, 15}, []uint64{9, 16}},
		{"a bitmap longer than OpenSSH reads", []string{section(certSerialBitmap, u64(1), str("\x01"+strings.Repeat("\x00", 2500)))}, []uint64{20001}, []uint64{1, 20000, 20002}},
		{"list, range and bitmap together", []string{section(certSerialList, u64(7)), section(certSerialRange, u64(6), u64(8)), section(certSerialBitmap, u64(7), str("\x05"))}, []uint64{6, 7, 8, 9}, []uint64{5, 10}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := mustParse(t, list(byAuthority(corp.PublicKey(), test.parts...)))
			for i, serials := range [][]uint64{test.in, test.out} {
				for _, serial := range serials {
					cert := &ssh.Certificate{Key: alice.PublicKey(), SignatureKey: corp.PublicKey(), Serial: serial}
					if _, revoked := l.Revoked(cert); revoked != (i == 0) {
						t.Errorf("serial %d: %v", serial, revoked)
					}
				}
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	ca := corp.PublicKey()
	cert := certify(corp, alice.PublicKey(), 17, "alice")
	line := string(ssh.MarshalAuthorizedKey(ca))
	damaged := "; the list is cut off or damaged: copy or make it again"
	in := func(parts ...string) string { return list(byAuthority(nil, parts...)) }
	const pub = "; write one line as in a .pub file: ssh-ed25519 AAAA… comment"
	for _, test := range []struct{ name, file, want string }{
		{"a header without its version", magic + "\x00\x00", "byte 8: the format's version: only 2 of 4 bytes are there" + damaged},
		{"another version of the format", magic + u32(2) + list()[12:], "byte 8: version 2 of the format is not known, only 1"},
		{"a header that ends in the list's version", list()[:13], "byte 12: the list's version: only 1 of 8 bytes are there" + damaged},
		{"a header that ends in the date", list()[:20], "byte 20: the date: only 0 of 8 bytes are there" + damaged},
		{"a header that ends in the flags", list()[:30], "byte 28: the flags: only 2 of 8 bytes are there" + damaged},
		{"a header that ends in the reserved field", list()[:36] + u32(9), "byte 40: the reserved field: only 0 of 9 bytes are there" + damaged},
		{"a header without a comment", list()[:40], "byte 40: the length of the comment: only 0 of 4 bytes are there" + damaged},
		{"a comment longer than the file", list()[:40] + u32(math.MaxUint32) + "abc", "byte 44: the comment: only 3 of 4294967295 bytes are there" + damaged},
		{"a comment with a zero byte", header(1, 1, "a\x00b"), "byte 45: the comment has a zero byte in it"},

		{"a section of an unknown type", list(section(6, "x")), "byte 44: sections of type 6 are not known"},
		{"a section of type 0", list(section(0)), "byte 44: sections of type 0 are not known"},
		{"one byte too many at the end", list() + "\x01", "byte 45: the length of a section: only 0 of 4 bytes are there" + damaged},
		{"zeros at the end", list() + "\x00\x00\x00\x00\x00", "byte 44: sections of type 0 are not known"},
		{"a section cut off", list() + "\x01" + u32(40) + "abc", "byte 49: a section: only 3 of 40 bytes are there" + damaged},
		{"a signature without its second string", list(section(sectionSignature, blob(ca))), "byte 100: the length of a signature: only 0 of 4 bytes are there" + damaged},

		{"a critical extension", list(section(sectionExtension, str("new\x1b@example.com"), "\x01", str())), `byte 49: the extension "new\x1b@example.com" is critical and not supported`},
		{"a critical extension with another truth", list(section(sectionExtension, str("x"), "\x02", str())), `byte 49: the extension "x" is critical and not supported`},
		{"an extension with a zero byte in its name", list(section(sectionExtension, str("x\x00y"), "\x00", str())), "byte 54: an extension's name has a zero byte in it"},
		{"an extension without its flag", list(section(sectionExtension, str("x"))), "byte 54: whether an extension is critical: only 0 of 1 bytes are there" + damaged},
		{"an extension without contents", list(section(sectionExtension, str("x"), "\x00")), "byte 55: the length of an extension's contents: only 0 of 4 bytes are there" + damaged},
		{"an extension with too much", list(section(sectionExtension, str("x"), "\x00", str(), "y")), "byte 59: something is left over after an extension"},

		{"a key that is cut off", list(section(sectionExplicitKey, u32(9), "abc")), "byte 53: a key: only 3 of 9 bytes are there" + damaged},
		{"a key that is none", list(section(sectionExplicitKey, str("abc"))), "byte 53: this is not a public key"},
		{"an empty key", list(section(sectionExplicitKey, str())), "byte 53: this is not a public key"},
		{"a key that is a certificate", list(section(sectionExplicitKey, str(blob(cert)))), "byte 53: this is a certificate where a key belongs: it would revoke nothing; certificates are revoked by serial or key id, or by their key"},
		{"a SHA-1 fingerprint of another length", list(section(sectionSHA1, str(strings.Repeat("x", 32)))), "byte 53: a fingerprint has 32 bytes instead of 20"},
		{"a SHA-256 fingerprint of another length", list(section(sectionSHA256, str(strings.Repeat("x", 20)))), "byte 53: a fingerprint has 20 bytes instead of 32"},
		{"an empty fingerprint", list(section(sectionSHA256, str())), "byte 53: a fingerprint has 0 bytes instead of 32"},

		{"a certificate section that is empty", list(section(sectionCertificates)), "byte 49: the length of an authority's key: only 0 of 4 bytes are there" + damaged},
		{"a certificate section without its reserved field", list(section(sectionCertificates, str())), "byte 53: the length of the reserved field of a certificate section: only 0 of 4 bytes are there" + damaged},
		{"an authority that is no key", list(section(sectionCertificates, str("abc"), str())), `byte 53: the authority's key, of type "", cannot be read`},
		{"an authority of an unknown type", list(section(sectionCertificates, str(str("ssh-new"), "??"), str())), `byte 53: the authority's key, of type "ssh-new", cannot be read`},
		{"an authority with too much", list(section(sectionCertificates, str(blob(ca), "x"), str())), `byte 53: the authority's key, of type "ssh-ed25519", cannot be read`},
		{"an authority that is a certificate", list(byAuthority(cert, section(certSerialList, u64(1)))), "byte 53: the authority is given by a certificate, and no certificate is signed by one; give ssh-keygen -s the .pub file of the authority's key"},
		{"a part of an unknown type", in(section(0x24, "x")), "byte 57: parts of type 0x24 of a certificate section are not known"},
		{"a part cut off", in("\x20" + u32(8) + "x"), "byte 62: a part of a certificate section: only 1 of 8 bytes are there" + damaged},
		{"a part that is only a type", in("\x20"), "byte 58: the length of a part of a certificate section: only 0 of 4 bytes are there" + damaged},
		{"a list that ends in a serial", in(section(certSerialList, u64(1), "\x00\x00")), "byte 70: a serial: only 2 of 8 bytes are there" + damaged},
		{"serial 0 in a list", in(section(certSerialList, u64(1), u64(0))), "byte 70: " + errSerialZero.Error()},
		{"a range with one end", in(section(certSerialRange, u64(1))), "byte 70: the last serial of a range: only 0 of 8 bytes are there" + damaged},
		{"a range without ends", in(section(certSerialRange)), "byte 62: the first serial of a range: only 0 of 8 bytes are there" + damaged},
		{"a range with three ends", in(section(certSerialRange, u64(1), u64(2), u64(3))), "byte 78: something is left over after a range of serials"},
		{"a range backwards", in(section(certSerialRange, u64(2), u64(1))), "byte 62: the range of serials ends before it begins"},
		{"a range from 0", in(section(certSerialRange, u64(0), u64(1))), "byte 62: " + errSerialZero.Error()},
		{"a bitmap without its offset", in(section(certSerialBitmap, "abc")), "byte 62: the first serial of a bitmap: only 3 of 8 bytes are there" + damaged},
		{"a bitmap that is cut off", in(section(certSerialBitmap, u64(1), u32(4), "abc")), "byte 74: a bitmap of serials: only 3 of 4 bytes are there" + damaged},
		{"a bitmap with too much", in(section(certSerialBitmap, u64(1), str("\x01"), "x")), "byte 75: something is left over after a bitmap of serials"},
		{"a negative bitmap", in(section(certSerialBitmap, u64(1), str("\x80"))), "byte 74: the bitmap of serials is a negative number"},
		{"serial 0 in a bitmap", in(section(certSerialBitmap, u64(0), str("\x01"))), "byte 62: " + errSerialZero.Error()},
		{"a bitmap over the largest serial", in(section(certSerialBitmap, u64(math.MaxUint64), str("\x02"))), "byte 62: " + errWraps.Error()},
		{"a bitmap far over the largest serial", in(section(certSerialBitmap, u64(math.MaxUint64-70), str("\x01"+strings.Repeat("\x00", 9)))), "byte 62: " + errWraps.Error()},
		{"a key id that is cut off", in(section(certKeyID, u32(4), "abc")), "byte 66: a key id: only 3 of 4 bytes are there" + damaged},
		{"a key id with a zero byte", in(section(certKeyID, str("a\x00b"))), "byte 67: a key id has a zero byte in it"},
		{"a key id with two zero bytes", in(section(certKeyID, str("a\x00\x00"))), "byte 67: a key id has a zero byte in it"},
		{"a critical extension of a certificate section", in(section(certExtension, str("x"), "\x01", str())), `byte 62: the extension "x" is critical and not supported`},

		{"half the magic number", magic[:4], "1:1: this is not a public key" + pub},
		{"a magic number without its zero", "SSHKRL\n", "1:1: this is not a public key" + pub},
		{"a KRL copied as text", strings.ReplaceAll(magic, "\n", "\r\n"), "1:1: this is not a public key" + pub + "\n2:1: control character '\\x00'"},
		{"zero bytes", "\x00\x00\x00", "1:1: control character '\\x00'"},
		{"an escape in a comment", "# \x1b[2J\n", "1:3: control character '\\x1b'"},
		{"a line for ssh-keygen -k", "# all\nserial: 5\n", "2:1: this is not a key but a line for ssh-keygen -k; make a list of it: ssh-keygen -k -f revoked.krl -s ca.pub FILE"},
		{"a line for ssh-keygen -k with a key", "SHA256:" + line, "1:1: this is not a key but a line for ssh-keygen -k; make a list of it: ssh-keygen -k -f revoked.krl -s ca.pub FILE"},
		{"a private key", "-----BEGIN OPENSSH PRIVATE KEY-----\n", "1:1: this is a private key; write the line of its .pub file"},
		{"a word", "  alice\n", "1:3: this is not a public key" + pub},
		{"options before a key", "restrict " + line, `1:1: what follows "restrict" is not such a key` + pub},
		{"a key under another type", "ssh-rsa" + line[len("ssh-ed25519"):], `1:1: what follows "ssh-rsa" is not such a key` + pub},
		{"a key that is cut off", line[:40], `1:1: what follows "ssh-ed25519" is not such a key` + pub},
		{"every line is told", "a b\n" + line + "c\n", `1:1: what follows "a" is not such a key` + pub + "\n3:1: this is not a public key" + pub},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, err := Parse([]byte(test.file))
			var parseErr *ParseError
			if l != nil || !errors.As(err, &parseErr) || len(parseErr.Problems) == 0 {
				t.Fatalf("got %v, %v", l, err)
			}
			if err.Error() != test.want {
				t.Errorf("got\n%s\nwant\n%s", err, test.want)
			}
		})
	}
}

func TestOfManyProblemsTheFirstAreTold(t *testing.T) {
	_, err := Parse([]byte(strings.Repeat("no key\n", 5000)))
	var parseErr *ParseError
	if !errors.As(err, &parseErr) || len(parseErr.Problems) != maxProblems+1 {
		t.Fatal(err)
	}
	if last := parseErr.Problems[maxProblems].Error(); last != "21:1: more than 20 problems: the rest is not looked at" {
		t.Error(last)
	}
}

func TestAFileThatIsTooLargeIsRefused(t *testing.T) {
	if l, err := Parse(make([]byte, MaxSize+1)); l != nil || err == nil || err.Error() != "the file is larger than 128 MiB" {
		t.Error(l, err)
	}
}

// A KRL has no end mark, so that the beginning of one may be a list. It never
// has more in it than the whole, and only between sections it is one.
func TestTheBeginningOfAListIsAnErrorOrLess(t *testing.T) {
	sections := []string{
		byAuthority(corp.PublicKey(), section(certSerialList, u64(1), u64(2)), section(certSerialRange, u64(9), u64(12)), section(certSerialBitmap, u64(90), str("\x55")), section(certKeyID, str("alice"))),
		section(sectionExplicitKey, str(blob(alice.PublicKey())), str(blob(bob.PublicKey()))),
		section(sectionSHA1, str(sha1Of(bob.PublicKey()))),
		section(sectionSHA256, str(sha256Of(bob.PublicKey()))),
	}
	whole := list(sections...)
	ends := map[int]bool{0: true, len(whole): true} // an empty file is text
	for i := range sections {
		ends[len(list(sections[:i]...))] = true
	}
	n := 0
	for i := range len(whole) + 1 {
		l, err := Parse([]byte(whole[:i]))
		if (err == nil) != ends[i] {
			t.Errorf("%d bytes of %d: %v", i, len(whole), err)
		}
		if err == nil && l.Len() < n {
			t.Errorf("%d bytes of %d: %d entries", i, len(whole), l.Len())
		}
		n = max(n, l.Len())
	}
	if n != 2+1+4+1+2+1+1 {
		t.Errorf("%d entries", n)
	}
}

func TestANilListRevokesNothing(t *testing.T) {
	var l *List
	for _, key := range []ssh.PublicKey{nil, alice.PublicKey(), certify(corp, alice.PublicKey(), 1, "")} {
		if why, revoked := l.Revoked(key); why != "" || revoked {
			t.Error(why, revoked)
		}
	}
	if l.Len() != 0 || l.Version() != 0 || !l.Generated().IsZero() || l.Comment() != "" || l.String() != "no list" {
		t.Errorf("%v %v", l, l.Generated())
	}
}

func TestSummary(t *testing.T) {
	ca := corp.PublicKey()
	for _, test := range []struct {
		name, file, want string
		n                int
	}{
		{"an empty file", "", "keys as text: nothing", 0},
		{"text", string(ssh.MarshalAuthorizedKey(ca)) + string(ssh.MarshalAuthorizedKey(ca)), "keys as text: 1 key", 1},
		{"an empty list", list(), "version 7 of 2026-11-22T01:02:03Z: nothing", 0},
		{"a list without a date", header(0, 0, ""), "version 0: nothing", 0},
		{"a date that no calendar has", header(0, math.MaxUint64, ""), "version 0: nothing", 0},
		{"a comment that is not safe to print", header(1, 0, "a\n\x1b[2J"), `version 1 "a\n\x1b[2J": nothing`, 0},
		{"everything", header(1, 1795309323, "all") +
			byAuthority(ca, section(certSerialList, u64(1), u64(1)), section(certSerialRange, u64(5), u64(500)), section(certKeyID, str("a"), str("b"))) +
			byAuthority(nil, section(certSerialBitmap, u64(1), str("\x7f")), section(certSerialRange, u64(1), u64(2)), section(certSerialRange, u64(3), u64(4)), section(certKeyID, str("a"))) +
			section(sectionExplicitKey, str(blob(ca)), str(blob(alice.PublicKey()))) + section(sectionSHA1, str(sha1Of(ca))) + section(sectionSHA256, str(sha256Of(ca))),
			`version 1 of 2026-11-22T01:02:03Z "all": 2 keys, 2 fingerprints, 3 key ids, 8 serials, 2 ranges of serials`, 17},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := mustParse(t, test.file)
			if l.String() != test.want || l.Len() != test.n {
				t.Errorf("got %d, %s\nwant %d, %s", l.Len(), l, test.n, test.want)
			}
		})
	}
	l := mustParse(t, header(1, 1795309323, "all\x00"))
	if want := time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC); l.Version() != 1 || !l.Generated().Equal(want) || l.Comment() != "all" {
		t.Errorf("%d, %v, %q", l.Version(), l.Generated(), l.Comment())
	}
}

// The worst that each part of the format can do to memory.
func TestMemoryIsAFewTimesTheFile(t *testing.T) {
	const n = 50_000
	many := func(entry func(i uint32) string) string {
		var b strings.Builder
		for i := range uint32(n) {
			b.WriteString(entry(i))
		}
		return b.String()
	}
	pad := strings.Repeat("\x00", 28)
	for _, test := range []struct{ name, file string }{
		{"a bitmap of every second serial", list(byAuthority(nil, section(certSerialBitmap, u64(1), str(strings.Repeat("\x55", 8*n)))))},
		{"a bitmap with a bit in each word", list(byAuthority(nil, section(certSerialBitmap, u64(1), str(strings.Repeat("\x01\x00\x00\x00\x00\x00\x00\x00", n)))))},
		{"a long bitmap of nothing", list(byAuthority(nil, section(certSerialBitmap, u64(1), str(strings.Repeat("\x00", 8*n)))))},
		{"many small bitmaps across words", list(byAuthority(nil, many(func(i uint32) string { return section(certSerialBitmap, u64(uint64(i)*128+63), str("\x03")) })))},
		{"serials far apart", list(byAuthority(nil, section(certSerialList, many(func(i uint32) string { return u64(uint64(i+1) << 30) }))))},
		{"ranges far apart", list(byAuthority(nil, many(func(i uint32) string { return section(certSerialRange, u64(uint64(i+1)<<30), u64(math.MaxUint64>>1)) })))},
		{"short key ids", list(byAuthority(nil, section(certKeyID, many(func(i uint32) string { return str(strconv.FormatUint(uint64(i), 36)) }))))},
		{"short keys", list(section(sectionExplicitKey, many(func(i uint32) string { return str(str(strconv.FormatUint(uint64(i), 36))) })))},
		{"SHA-256 fingerprints", list(section(sectionSHA256, many(func(i uint32) string { return str(u32(i), pad) })))},
		{"authorities", list(many(func(i uint32) string {
			return section(sectionCertificates, str(str(ssh.KeyAlgoED25519), str(u32(i), pad)), str(), section(certSerialList, u64(1)))
		}))},
		{"empty sections", list(strings.Repeat(section(sectionSHA1), 10*n))},
		{"blank lines", strings.Repeat("\n", 10*n)},
		{"text without a key", strings.Repeat("a", 10*n)},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := []byte(test.file)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			l, _ := Parse(file)
			runtime.GC()
			runtime.ReadMemStats(&after)
			// Small things beside, such as the runtime's own.
			const beside = 1 << 20
			if total := after.TotalAlloc - before.TotalAlloc; total > 20*uint64(len(file))+beside {
				t.Errorf("%d bytes allocated for a file of %d", total, len(file))
			}
			if kept := int64(after.HeapAlloc) - int64(before.HeapAlloc); kept > 10*int64(len(file))+beside {
				t.Errorf("%d bytes kept for a file of %d", kept, len(file))
			}
			runtime.KeepAlive(l)
			runtime.KeepAlive(file)
		})
	}
}

// Parse keeps nothing of its input, which the caller may use again.
func TestTheInputMayBeUsedAgain(t *testing.T) {
	file := []byte(list(byAuthority(nil, section(certKeyID, str("alice"))), section(sectionExplicitKey, str(blob(bob.PublicKey()))), section(sectionSHA256, str(sha256Of(other.PublicKey())))))
	l, err := Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	clear(file)
	for _, key := range []ssh.PublicKey{bob.PublicKey(), other.PublicKey(), certify(corp, alice.PublicKey(), 1, "alice")} {
		if _, revoked := l.Revoked(key); !revoked {
			t.Errorf("%v is not revoked any more", key)
		}
	}
}

func FuzzParse(f *testing.F) {
	ca := corp.PublicKey()
	keys := []ssh.PublicKey{alice.PublicKey(), certify(corp, alice.PublicKey(), 17, "alice"), certify(other, bob.PublicKey(), math.MaxUint64, ""), certify(corp, bob.PublicKey(), 0, "a\x00b")}
	for _, seed := range []string{
		"", "# c\r\n" + string(ssh.MarshalAuthorizedKey(ca)), string(ssh.MarshalAuthorizedKey(keys[1])), "serial: 1\n", "a b c\n\x00", list(),
		list(byAuthority(ca, section(certSerialList, u64(17)), section(certSerialRange, u64(9), u64(12)), section(certSerialBitmap, u64(90), str("\x55")), section(certKeyID, str("alice")), section(certExtension, str("x"), "\x00", str()))),
		list(byAuthority(nil, section(certSerialBitmap, u64(math.MaxUint64-9), str("\x01\x00")))),
		list(section(sectionExplicitKey, str(blob(alice.PublicKey())), str(blob(bob.PublicKey()))), section(sectionSHA1, str(sha1Of(ca))), section(sectionSHA256, str(sha256Of(ca)))),
		list(section(sectionExtension, str("x"), "\x00", str("y")), section(sectionSignature, blob(ca))+str("s")),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		l, err := Parse(file)
		if (err == nil) != (l != nil) {
			t.Fatalf("%v with %v", l, err)
		}
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if strings.IndexFunc(line, isControl) >= 0 {
					t.Errorf("not safe to print: %q", line)
				}
			}
		}
		if l.Len() > 8*len(file) || strings.IndexFunc(l.String(), isControl) >= 0 {
			t.Errorf("%d entries: %q", l.Len(), l)
		}
		for _, key := range keys {
			why, revoked := l.Revoked(key)
			if revoked != (why != "") || strings.IndexFunc(why, isControl) >= 0 {
				t.Errorf("%q, %v", why, revoked)
			}
			if revoked && l.Len() == 0 {
				t.Errorf("nothing revokes by %s", why)
			}
		}
	})
}

// FuzzMembership writes a list with an encoder of its own, notes on the way what
// is in it, and asks for everything beside the edges.
func FuzzMembership(f *testing.F) {
	f.Add([]byte("\x00\x01\x05\x01\x02\x03\x02\x41\xff"), uint64(1))
	f.Add([]byte("\x03\x00\x00\x02\xff\x55\x01\xff\xff\x00\x40\x00\x02\x01\x80"), uint64(60))
	f.Add([]byte("\x02\xff\xff\x01\xf0\xff\x00\x00\x10\x04\x03\x03"), uint64(math.MaxUint64-300))
	f.Fuzz(func(t *testing.T, ops []byte, base uint64) {
		if len(ops) > 3*200 {
			return
		}
		authorities := []ssh.PublicKey{nil, corp.PublicKey(), other.PublicKey()}
		type entry struct {
			authority int // 0 is any
			lo, hi    uint64
			id        string
		}
		var (
			model    []entry
			sections []string
			ask      = []uint64{0, 1, math.MaxUint64}
		)
		for ; len(ops) >= 3; ops = ops[3:] {
			n := int(ops[0]>>4) % len(authorities)
			authority := authorities[n]
			serial := max(base+uint64(ops[1]), 1)
			switch ops[0] % 4 {
			case 0:
				next := max(serial+uint64(ops[2]), 1)
				model = append(model, entry{n, serial, serial, ""}, entry{n, next, next, ""})
				sections = append(sections, byAuthority(authority, section(certSerialList, u64(serial), u64(next))))
				ask = append(ask, next-1, next, next+1)
			case 1:
				hi := serial + uint64(ops[2])
				if hi < serial {
					hi = math.MaxUint64
				}
				model = append(model, entry{n, serial, hi, ""})
				sections = append(sections, byAuthority(authority, section(certSerialRange, u64(serial), u64(hi))))
				ask = append(ask, hi-1, hi, hi+1)
			case 2:
				bitmap := []byte{0, ops[2], ops[1]} // big-endian, with a sign
				for bit := range uint64(16) {
					if bitmap[2-bit/8]>>(bit%8)&1 == 0 {
						continue
					}
					if bit > math.MaxUint64-serial {
						bitmap[2-bit/8] &^= 1 << (bit % 8)
						continue
					}
					model = append(model, entry{n, serial + bit, serial + bit, ""})
				}
				for bit := range uint64(18) {
					ask = append(ask, serial+bit)
				}
				sections = append(sections, byAuthority(authority, section(certSerialBitmap, u64(serial), str(string(bitmap)))))
			case 3:
				id := "id" + strconv.Itoa(int(ops[1]%8))
				model = append(model, entry{authority: n, id: id})
				sections = append(sections, byAuthority(authority, section(certKeyID, str(id))))
			}
			ask = append(ask, serial-1, serial, serial+1)
		}
		l := mustParse(t, list(sections...))
		check := func(authority int, cert *ssh.Certificate) {
			cert.Key, cert.SignatureKey = alice.PublicKey(), authorities[authority]
			want := false
			for _, e := range model {
				hit := e.id != "" && e.id == cert.KeyId || e.id == "" && cert.Serial != 0 && e.lo <= cert.Serial && cert.Serial <= e.hi
				want = want || hit && (e.authority == 0 || e.authority == authority)
			}
			if why, got := l.Revoked(cert); got != want {
				t.Errorf("serial %d, id %q: %v (%s), want %v", cert.Serial, cert.KeyId, got, why, want)
			}
		}
		for authority := 1; authority < len(authorities); authority++ {
			for _, serial := range ask {
				check(authority, &ssh.Certificate{Serial: serial, KeyId: "none"})
			}
			for i := range 9 {
				check(authority, &ssh.Certificate{KeyId: "id" + strconv.Itoa(i)})
			}
		}
	})
}

func BenchmarkRevoked(b *testing.B) {
	var serials, hashes strings.Builder
	for i := range uint32(100_000) {
		serials.WriteString(section(certSerialRange, u64(uint64(i+1)*4), u64(uint64(i+1)*4+1)))
		hashes.WriteString(str(u32(i), strings.Repeat("\x00", 28)))
	}
	l := mustParse(b, list(byAuthority(corp.PublicKey(), serials.String()), section(sectionSHA256, hashes.String())))
	cert := certify(corp, alice.PublicKey(), 200_002, "alice")
	b.ReportAllocs()
	for b.Loop() {
		if why, revoked := l.Revoked(cert); revoked {
			b.Fatal(why)
		}
	}
}
