package krl

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// keygen runs ssh-keygen in a folder. It returns what it printed, and whether
// it succeeded.
func keygen(t testing.TB, dir string, args ...string) (string, bool) {
	t.Helper()
	cmd := exec.Command("ssh-keygen", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatal(err)
	}
	return string(out), err == nil
}

func mustKeygen(t testing.TB, dir string, args ...string) {
	t.Helper()
	if out, ok := keygen(t, dir, args...); !ok {
		t.Fatalf("ssh-keygen %s: %s", strings.Join(args, " "), out)
	}
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A crowd is a folder of keys and certificates, made by ssh-keygen but for the
// token's key and the many certificates that differ in their serials only.
type crowd struct {
	dir         string
	authorities []string // ca-….pub
	plain       []string // NAME.pub
	certs       []string // NAME.CA.pub
	all         []string
	keys        map[string]ssh.PublicKey // by file
}

// serialsAsked are those of certificates by ca-ed25519.pub and ca-ecdsa.pub.
func serialsAsked() (serials []uint64) {
	for n := range uint64(25) {
		serials = append(serials, n)
	}
	for _, edge := range []uint64{64, 72, 128, 16384, 65536, 1 << 32, 1 << 63, math.MaxUint64} {
		serials = append(serials, edge-2, edge-1, edge)
	}
	return serials
}

func newCrowd(t testing.TB) *crowd {
	t.Helper()
	c := &crowd{dir: t.TempDir(), keys: make(map[string]ssh.PublicKey)}
	types := map[string][]string{
		"ed25519": {"-t", "ed25519"},
		"ecdsa":   {"-t", "ecdsa", "-b", "256"},
		"p521":    {"-t", "ecdsa", "-b", "521"},
		"rsa":     {"-t", "rsa", "-b", "2048"},
	}
	make := func(name, kind string) string {
		mustKeygen(t, c.dir, append([]string{"-q", "-N", "", "-C", name, "-f", name}, types[kind]...)...)
		return name + ".pub"
	}
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		c.authorities = append(c.authorities, make("ca-"+kind, kind))
	}
	for _, kind := range []string{"ed25519", "ecdsa", "p521", "rsa"} {
		c.plain = append(c.plain, make("alice-"+kind, kind), make("bob-"+kind, kind))
	}
	token := str(ssh.KeyAlgoSKED25519) + str(strings.Repeat("k", 32)) + str("ssh:")
	write(t, c.dir, "token.pub", ssh.KeyAlgoSKED25519+" "+base64.StdEncoding.EncodeToString([]byte(token))+" token\n")
	c.plain = append(c.plain, "token.pub")

	// Every key by every authority.
	sign := func(authority, key, id string, serial uint64) {
		ca, name := strings.TrimSuffix(authority, ".pub"), strings.TrimSuffix(key, ".pub")
		mustKeygen(t, c.dir, "-q", "-s", ca, "-I", id, "-n", "alice", "-z", strconv.FormatUint(serial, 10), key)
		file := fmt.Sprintf("%s.%s.%d-cert.pub", name, ca, serial)
		if err := os.Rename(filepath.Join(c.dir, name+"-cert.pub"), filepath.Join(c.dir, file)); err != nil {
			t.Fatal(err)
		}
		c.certs = append(c.certs, file)
	}
	for i, authority := range c.authorities {
		for j, key := range c.plain {
			id, _, _ := strings.Cut(key, "-")
			sign(authority, key, id, uint64(j*(i+1)))
		}
	}
	// Two authorities with many serials.
	for _, name := range []string{"ca-ed25519", "ca-ecdsa"} {
		authority, err := ssh.ParsePrivateKey(read(t, c.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, serial := range serialsAsked() {
			file := fmt.Sprintf("many.%s.%d-cert.pub", name, serial)
			cert := certify(authority, bob.PublicKey(), serial, fmt.Sprint("n", serial))
			write(t, c.dir, file, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(cert)))+" many\n")
			c.certs = append(c.certs, file)
		}
	}
	write(t, c.dir, "many.pub", strings.TrimSpace(string(ssh.MarshalAuthorizedKey(bob.PublicKey())))+" many\n")
	c.all = slices.Concat(c.authorities, c.plain, []string{"many.pub"}, c.certs)
	for _, file := range c.all {
		key, _, _, _, err := ssh.ParseAuthorizedKey(read(t, c.dir, file))
		if err != nil {
			t.Fatal(err)
		}
		c.keys[file] = key
	}
	return c
}

// line is a file without its newline.
func (c *crowd) line(t testing.TB, file string) string {
	return strings.TrimSpace(string(read(t, c.dir, file)))
}

// compare asks ssh-keygen and this package about everybody. It returns how many
// are revoked.
func (c *crowd) compare(t testing.TB, list string) int {
	t.Helper()
	l, err := Parse(read(t, c.dir, list))
	if err != nil {
		t.Fatal(err)
	}
	out, _ := keygen(t, c.dir, append([]string{"-Q", "-f", list}, c.all...)...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != len(c.all) {
		t.Fatalf("ssh-keygen -Q: %s", out)
	}
	n := 0
	for i, file := range c.all {
		rest, ours := strings.CutPrefix(lines[i], file+" (")
		theirs := strings.HasSuffix(rest, ": REVOKED")
		if !ours || !theirs && !strings.HasSuffix(rest, ": ok") {
			t.Fatalf("ssh-keygen -Q: %s", lines[i])
		}
		why, revoked := l.Revoked(c.keys[file])
		if revoked != theirs {
			t.Errorf("%s: revoked is %v (%s), ssh-keygen says %s", file, revoked, why, lines[i])
		}
		if revoked {
			n++
		}
	}
	return n
}

// parts counts the parts of the certificate sections by their type.
func parts(t testing.TB, file []byte) map[byte]int {
	t.Helper()
	n := make(map[byte]int)
	r := reader{rest: file[len(magic):], at: len(magic)}
	if p := newList().readHeader(&r); p != nil {
		t.Fatal(p)
	}
	for len(r.rest) > 0 {
		kind, _ := r.uint8("")
		body, p := r.string("")
		if p != nil {
			t.Fatal(p)
		}
		if kind != sectionCertificates {
			continue
		}
		body.string("")
		body.string("")
		for len(body.rest) > 0 {
			kind, _ := body.uint8("")
			if _, p := body.string(""); p != nil {
				t.Fatal(p)
			}
			n[kind]++
		}
	}
	return n
}

func TestAnswersAreThoseOfSSHKeygen(t *testing.T) {
	c := newCrowd(t)
	sum := sha256.Sum256(c.keys["alice-rsa.pub"].Marshal())
	hash := "hash: SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
	line := func(file string) string { return c.line(t, file) }

	scattered := rand.New(rand.NewPCG(1, 2))
	var many strings.Builder
	for serial := uint64(1); serial < 70_000; serial += 2 + scattered.Uint64N(8) {
		fmt.Fprintf(&many, "serial: %d\n", serial)
		switch scattered.IntN(8) {
		case 0:
			serial += 150 + scattered.Uint64N(2000)
		case 1:
			fmt.Fprintf(&many, "serial: %d-%d\n", serial, serial+1+scattered.Uint64N(20))
		}
	}

	type step struct {
		args []string // besides -k -f FILE; an update adds -u
		spec string
	}
	corp, other, wild := []string{"-s", "ca-ed25519.pub"}, []string{"-s", "ca-ecdsa.pub"}, []string{"-s", "none"}
	for _, test := range []struct {
		name  string
		steps []step
		parts []byte // that must be in the file
		least int    // so many are revoked, at least
	}{
		{"nothing", []step{{nil, "# nothing yet\n"}}, nil, 0},
		{"one serial", []step{{corp, "serial: 5\n"}}, []byte{certSerialList}, 1},
		{"a range", []step{{corp, "serial: 1-1000\n"}}, []byte{certSerialRange}, 30},
		{"serials far apart", []step{{corp, "serial: 3\nserial: 0x10000\nserial: 9223372036854775808\n"}}, []byte{certSerialList}, 3},
		{"the largest serials", []step{{corp, "serial: 18446744073709551614-18446744073709551615\nserial: 1\n"}}, nil, 3},
		{"every serial", []step{{corp, "serial: 1-18446744073709551615\n"}}, []byte{certSerialRange}, 50},
		{"a bitmap", []step{{corp, "serial: 60\nserial: 62\nserial: 64\nserial: 66-67\nserial: 71\nserial: 100\nserial: 127-128\n"}}, []byte{certSerialBitmap}, 5},
		{"scattered serials", []step{{corp, many.String()}}, []byte{certSerialList, certSerialBitmap}, 2},
		{"scattered serials and long ranges", []step{{corp, many.String() + "serial: 65000-70000\nserial: 4294967290-9223372036854775807\n"}}, []byte{certSerialList, certSerialBitmap, certSerialRange}, 10},
		{"key ids", []step{{corp, "id: alice\nid: n7\nid: Bob\nid: nobody\n"}}, []byte{certKeyID}, 5},
		{"key ids of every authority", []step{{wild, "id: alice\nid: n7\n"}}, []byte{certKeyID}, 14},
		{"serials of every authority", []step{{wild, "serial: 5-8\n"}}, nil, 8},
		{"one authority and every authority", []step{{wild, "serial: 5-8\n"}, {corp, "serial: 7-12\nid: n20\n"}}, nil, 10},
		{"serials and ids of two authorities", []step{{corp, "serial: 5-8\nid: bob\n"}, {other, "serial: 100-200\nid: token\n"}}, []byte{certKeyID}, 12},
		{"keys as they are", []step{{nil, line("many.pub") + "\n" + line("bob-rsa.pub") + " # left\n"}}, nil, 95},
		{"an explicit key", []step{{nil, "key: " + line("bob-ecdsa.pub") + "\n"}}, nil, 4},
		{"an explicit certificate, which names its key", []step{{nil, "key: " + line("bob-p521.ca-rsa.15-cert.pub") + "\n"}}, nil, 4},
		{"a certificate, which names its serial", []step{{nil, line("bob-p521.ca-rsa.15-cert.pub") + "\n"}}, nil, 1},
		{"a certificate without a serial, which names its key id", []step{{nil, line("alice-ed25519.ca-rsa.0-cert.pub") + "\n"}}, []byte{certKeyID}, 4},
		{"SHA-1 fingerprints", []step{{nil, "sha1: " + line("alice-p521.pub") + "\nsha1: " + line("token.pub") + "\n"}}, nil, 8},
		{"SHA-256 fingerprints", []step{{nil, "sha256: " + line("alice-p521.pub") + "\nsha256: " + line("bob-rsa.ca-rsa.21-cert.pub") + "\n"}}, nil, 8},
		{"a hash", []step{{nil, hash + "\n"}}, nil, 4},
		{"the key of a token", []step{{nil, line("token.pub") + "\n"}}, nil, 4},
		{"authorities' keys", []step{{nil, line("ca-rsa.pub") + "\nsha1: " + line("ca-ecdsa.pub") + "\n"}}, nil, 60},
		{"an authority's SHA-256 fingerprint", []step{{nil, "sha256: " + line("ca-ed25519.pub") + "\n"}}, nil, 50},
		{"everything, in updates", []step{{corp, many.String()}, {other, "id: alice\n" + many.String()}, {nil, "sha1: " + line("bob-rsa.pub") + "\n" + hash + "\n"},
			{wild, "id: bob\nserial: 16384\n"}, {corp, "serial: 2\nid: token\n"}, {nil, line("ca-rsa.pub")}}, []byte{certSerialList, certSerialBitmap, certKeyID}, 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			for i, step := range test.steps {
				write(t, c.dir, "spec", step.spec)
				args := append([]string{"-q", "-k", "-f", "list", "-z", strconv.Itoa(i + 3)}, step.args...)
				if i > 0 {
					args = append(args, "-u")
				}
				mustKeygen(t, c.dir, append(args, "spec")...)
				if n := c.compare(t, "list"); i == len(test.steps)-1 && n < test.least {
					t.Errorf("%d are revoked, want %d", n, test.least)
				}
			}
			file := read(t, c.dir, "list")
			got := parts(t, file)
			for _, kind := range test.parts {
				if got[kind] == 0 {
					t.Errorf("no part of type %#x in the file, but %v", kind, got)
				}
			}
			l := mustParse(t, string(file))
			if l.Version() != uint64(len(test.steps)+2) || l.Generated().IsZero() || l.Comment() != "" {
				t.Errorf("%v", l)
			}
		})
	}

	t.Run("random lists", func(t *testing.T) {
		random := rand.New(rand.NewPCG(3, 4))
		asked := serialsAsked()
		for range 15 {
			for step := range 1 + random.IntN(4) {
				var spec strings.Builder
				for range 1 + random.IntN(30) {
					serial := asked[1+random.IntN(len(asked)-1)]
					switch random.IntN(12) {
					default:
						fmt.Fprintf(&spec, "serial: %d\n", serial)
					case 0, 1:
						if to := serial + 1 + random.Uint64N(9); to > serial {
							fmt.Fprintf(&spec, "serial: %d-%d\n", serial, to)
						}
					case 2, 3:
						fmt.Fprintf(&spec, "id: n%d\n", serial)
					case 4:
						key := c.plain[random.IntN(len(c.plain))]
						spec.WriteString([]string{"", "key: ", "sha1: ", "sha256: "}[random.IntN(4)] + line(key) + "\n")
					case 5:
						spec.WriteString(line(c.certs[random.IntN(len(c.certs))]) + "\n")
					}
				}
				write(t, c.dir, "spec", spec.String())
				args := []string{"-q", "-k", "-f", "list", "-s", []string{"none", "ca-ed25519.pub", "ca-ecdsa.pub", "ca-rsa.pub"}[random.IntN(4)]}
				if step > 0 {
					args = append(args, "-u")
				}
				mustKeygen(t, c.dir, append(args, "spec")...)
			}
			c.compare(t, "list")
		}
	})
}

// What ssh-keygen's own reader refuses is refused, and what it takes is taken,
// of all that the version at hand may know: extensions are later than some.
func TestErrorsAreThoseOfSSHKeygen(t *testing.T) {
	dir := t.TempDir()
	ca := corp.PublicKey()
	write(t, dir, "key.pub", string(ssh.MarshalAuthorizedKey(ca)))
	for _, test := range []struct {
		name, file string
		ok         bool
	}{
		{"a list of nothing", list(), true},
		{"empty sections", list(byAuthority(ca), byAuthority(nil, section(certSerialList), section(certKeyID), section(certSerialBitmap, u64(0), str())), section(sectionExplicitKey), section(sectionSHA1), section(sectionSHA256)), true},
		{"unordered fingerprints", list(section(sectionSHA256, str(strings.Repeat("b", 32)), str(strings.Repeat("a", 32)))), true},
		{"sections in another order", list(section(sectionSHA256, str(strings.Repeat("b", 32))), byAuthority(ca, section(certKeyID, str("a")), section(certSerialList, u64(9), u64(1), u64(9)))), true},
		{"flags and reserved fields", magic + u32(1) + u64(0) + u64(0) + u64(math.MaxUint64) + str("later") + str() + section(sectionCertificates, str(), str("later")), true},
		{"a key id with a zero byte at its end", list(byAuthority(nil, section(certKeyID, str("a\x00")))), true},
		{"a bitmap up to the largest serial", list(byAuthority(nil, section(certSerialBitmap, u64(math.MaxUint64-7), str("\x00\x81")))), true},
		{"a bitmap with many zeros in front", list(byAuthority(nil, section(certSerialBitmap, u64(math.MaxUint64), str("\x00\x00\x00\x01")))), true},
		{"a bitmap from 0 without serial 0", list(byAuthority(nil, section(certSerialBitmap, u64(0), str("\x02")))), true},

		{"another version of the format", magic + u32(2) + list()[12:], false},
		{"a comment with a zero byte", header(1, 1, "a\x00b"), false},
		{"no comment", list()[:40], false},
		{"an unknown section", list(section(6)), false},
		{"an unknown part", list(byAuthority(nil, section(0x24))), false},
		{"one byte too many", list() + "\x01", false},
		{"a section cut off", list() + "\x03" + u32(9) + "abc", false},
		{"serial 0 in a list", list(byAuthority(nil, section(certSerialList, u64(0)))), false},
		{"a range from 0", list(byAuthority(nil, section(certSerialRange, u64(0), u64(3)))), false},
		{"a range backwards", list(byAuthority(nil, section(certSerialRange, u64(4), u64(3)))), false},
		{"a range with too much", list(byAuthority(nil, section(certSerialRange, u64(4), u64(5), "x"))), false},
		{"serial 0 in a bitmap", list(byAuthority(nil, section(certSerialBitmap, u64(0), str("\x01")))), false},
		{"a negative bitmap", list(byAuthority(nil, section(certSerialBitmap, u64(1), str("\x80")))), false},
		{"a bitmap over the largest serial", list(byAuthority(nil, section(certSerialBitmap, u64(math.MaxUint64), str("\x02")))), false},
		{"a key id with a zero byte", list(byAuthority(nil, section(certKeyID, str("a\x00b")))), false},
		{"a fingerprint of another length", list(section(sectionSHA1, str(strings.Repeat("x", 32)))), false},
		{"an authority that is no key", list(section(sectionCertificates, str("abc"), str())), false},
		{"an authority with too much", list(section(sectionCertificates, str(blob(ca), "x"), str())), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			write(t, dir, "list", test.file)
			out, theirs := keygen(t, dir, "-Q", "-f", "list", "key.pub")
			if theirs != test.ok {
				t.Errorf("ssh-keygen says %s", out)
			}
			if _, err := Parse([]byte(test.file)); (err == nil) != test.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

// ssh-keygen -k writes bitmaps that its own reader then refuses. They are read
// here: what is in them is certain.
func TestALongBitmapOfSSHKeygenIsRead(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "ca.pub", string(ssh.MarshalAuthorizedKey(corp.PublicKey())))
	var spec strings.Builder
	for serial := 1; serial < 60_000; serial += 2 {
		fmt.Fprintf(&spec, "serial: %d\n", serial)
	}
	write(t, dir, "spec", spec.String())
	mustKeygen(t, dir, "-q", "-k", "-f", "list", "-s", "ca.pub", "spec")
	file := read(t, dir, "list")
	if n := parts(t, file); n[certSerialBitmap] != 1 || len(n) != 1 {
		t.Fatalf("the file has %v", n)
	}
	l := mustParse(t, string(file))
	for serial := range uint64(60_010) {
		cert := &ssh.Certificate{Key: alice.PublicKey(), SignatureKey: corp.PublicKey(), Serial: serial}
		if _, revoked := l.Revoked(cert); revoked != (serial%2 == 1 && serial < 60_000) {
			t.Fatalf("serial %d: %v", serial, revoked)
		}
	}
}

// A list as text is read by what checks signatures, as by sshd.
func TestTextIsReadAsOpenSSHDoes(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"ca", "alice", "bob"} {
		mustKeygen(t, dir, "-q", "-N", "", "-C", name, "-t", "ed25519", "-f", name)
	}
	mustKeygen(t, dir, "-q", "-s", "ca", "-I", "alice", "-n", "alice", "-z", "7", "alice.pub")
	write(t, dir, "message", "hello")
	line := func(file string) string { return string(read(t, dir, file)) }
	write(t, dir, "allowed", "* "+line("alice.pub")+"* "+line("bob.pub")+"* cert-authority "+line("ca.pub"))
	verify := func(signature []byte, args ...string) bool {
		write(t, dir, "signature", string(signature))
		cmd := exec.Command("ssh-keygen", append([]string{"-Y", "verify", "-f", "allowed", "-I", "alice", "-n", "test", "-s", "signature"}, args...)...)
		cmd.Dir = dir
		cmd.Stdin = strings.NewReader("hello")
		_, err := cmd.Output()
		if _, exited := err.(*exec.ExitError); err != nil && !exited {
			t.Fatal(err)
		}
		return err == nil
	}
	signatures := make(map[string][]byte)
	for _, signer := range []string{"alice.pub", "alice-cert.pub", "bob.pub"} {
		mustKeygen(t, dir, "-q", "-Y", "sign", "-n", "test", "-f", signer, "message")
		signatures[signer] = read(t, dir, "message.sig")
		if err := os.Remove(filepath.Join(dir, "message.sig")); err != nil {
			t.Fatal(err)
		}
		if !verify(signatures[signer]) {
			t.Fatalf("%s is not good even without a list", signer)
		}
	}
	for _, test := range []struct {
		name, file string
		revoked    string // of alice.pub, alice-cert.pub, bob.pub
	}{
		{"an empty file", "", ""},
		{"comments and blank lines", "# nothing\n\n \t \n\t# yet\n", ""},
		{"a key", "# stolen\n  " + line("alice.pub"), "alice.pub alice-cert.pub"},
		{"an authority", line("ca.pub"), "alice-cert.pub"},
		{"a certificate", line("alice-cert.pub"), "alice.pub alice-cert.pub"},
		{"a key without a comment or a newline", strings.Join(strings.Fields(line("bob.pub"))[:2], " "), "bob.pub"},
		{"several keys", line("ca.pub") + "\n" + line("bob.pub"), "alice-cert.pub bob.pub"},
		{"lines of Windows", strings.ReplaceAll("# stolen\n"+line("bob.pub"), "\n", "\r\n"), "bob.pub"},
	} {
		t.Run(test.name, func(t *testing.T) {
			write(t, dir, "revoked", test.file)
			l := mustParse(t, test.file)
			for signer, signature := range signatures {
				theirs := !verify(signature, "-r", "revoked")
				key, _, _, _, err := ssh.ParseAuthorizedKey(read(t, dir, signer))
				if err != nil {
					t.Fatal(err)
				}
				why, ours := l.Revoked(key)
				if want := slices.Contains(strings.Fields(test.revoked), signer); ours != want || theirs != want {
					t.Errorf("%s: revoked is %v (%s), ssh-keygen says %v", signer, ours, why, theirs)
				}
			}
		})
	}
}

// A list that was damaged in one byte is an error, or another list.
func TestADamagedByteIsNoPanic(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "ca.pub", string(ssh.MarshalAuthorizedKey(corp.PublicKey())))
	write(t, dir, "spec", "serial: 5\nserial: 70-99\nserial: 4000-9000\nid: alice\nsha1: "+string(ssh.MarshalAuthorizedKey(alice.PublicKey()))+string(ssh.MarshalAuthorizedKey(bob.PublicKey())))
	mustKeygen(t, dir, "-q", "-k", "-f", "list", "-s", "ca.pub", "spec")
	file := read(t, dir, "list")
	cert := certify(corp, alice.PublicKey(), binary.BigEndian.Uint64([]byte("12345678")), "alice")
	for i := range file {
		for _, flip := range []byte{1, 0x80, 0xff} {
			file[i] ^= flip
			if l, err := Parse(file); err == nil {
				l.Revoked(cert)
			}
			file[i] ^= flip
		}
	}
}
