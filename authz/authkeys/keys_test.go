package authkeys

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// testKey makes the public key of a seed.
func testKey(seed byte) ssh.PublicKey { return testSigner(seed).PublicKey() }

func privateKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(append(make([]byte, ed25519.SeedSize-1), seed))
}

func testSigner(seed byte) ssh.Signer {
	signer, err := ssh.NewSignerFromKey(privateKey(seed))
	if err != nil {
		panic(err)
	}
	return signer
}

func keyLine(key ssh.PublicKey) string {
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(key)), "\n")
}

// rsaKey makes a public key of this size. Nobody could sign with it.
func rsaKey(bits int) ssh.PublicKey {
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
	n.Add(n, big.NewInt(1))
	return wire(struct {
		Type string
		E, N *big.Int
	}{"ssh-rsa", big.NewInt(65537), n})
}

func dsaKey() ssh.PublicKey {
	return wire(struct {
		Type       string
		P, Q, G, Y *big.Int
	}{"ssh-dss", new(big.Int).SetBit(big.NewInt(1), 1023, 1), new(big.Int).SetBit(big.NewInt(1), 159, 1), big.NewInt(2), big.NewInt(4)})
}

func skKey() ssh.PublicKey {
	return wire(struct {
		Type string
		Key  []byte
		App  string
	}{"sk-ssh-ed25519@openssh.com", make([]byte, ed25519.PublicKeySize), "ssh:"})
}

func skECDSAKey() ssh.PublicKey {
	pub := ecdsaKey(elliptic.P256()).(ssh.CryptoPublicKey).CryptoPublicKey().(*ecdsa.PublicKey)
	point, err := pub.Bytes()
	if err != nil {
		panic(err)
	}
	return wire(struct {
		Type, Curve string
		Key         []byte
		App         string
	}{"sk-ecdsa-sha2-nistp256@openssh.com", "nistp256", point, "ssh:"})
}

func ecdsaKey(curve elliptic.Curve) ssh.PublicKey {
	priv, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		panic(err)
	}
	key, err := ssh.NewPublicKey(&priv.PublicKey)
	if err != nil {
		panic(err)
	}
	return key
}

func wire(v any) ssh.PublicKey {
	key, err := ssh.ParsePublicKey(ssh.Marshal(v))
	if err != nil {
		panic(err)
	}
	return key
}

func TestKeysThatCanBeUsed(t *testing.T) {
	for _, key := range []ssh.PublicKey{
		testKey(1), skKey(), skECDSAKey(), ecdsaKey(elliptic.P256()), ecdsaKey(elliptic.P384()), ecdsaKey(elliptic.P521()), rsaKey(2048), rsaKey(16384),
	} {
		fields := strings.Fields(keyLine(key))
		for _, tt := range []struct{ line, comment string }{
			{keyLine(key), ""},
			{" \t" + keyLine(key) + " alice at  home \t", "alice at  home"},
			{fields[0] + " \t " + fields[1] + "\t# no comment of the file", "# no comment of the file"},
			{"restrict \t" + keyLine(key) + " 山田@laptop", "山田@laptop"},
			{"cert-authority " + keyLine(key) + " caf\xe9", "caf\ufffd"},
		} {
			entries, ps := parse(tt.line)
			if len(entries) != 1 || ps != nil || string(entries[0].Key.Marshal()) != string(key.Marshal()) || entries[0].Comment != tt.comment {
				t.Errorf("%.100q: %+v %q", tt.line, entries, ps)
			}
		}
	}
}

func TestLinesWithoutAKeyThatCanBeUsed(t *testing.T) {
	ed := keyLine(testKey(1))
	blob := strings.Fields(ed)[1]
	cert := &ssh.Certificate{Key: testKey(1), CertType: ssh.UserCert}
	if err := cert.SignCert(rand.Reader, testSigner(2)); err != nil {
		t.Fatal(err)
	}
	const (
		damaged = "the key is refused: it is damaged: what follows ssh-ed25519 is not such a key; copy the whole line of the .pub file again"
		newer   = "; make a new one: ssh-keygen -t ed25519"
		isCert  = "the key is refused: this is a certificate; write the line of the key's own .pub file, or that of its authority with cert-authority"
		noKey   = "the line gives no key: there is no key in it; write one line as in a .pub file: ssh-ed25519 AAAA… comment"
		noType  = "the line gives no key: the type of a key is expected here; options have no blanks, but within double quotes"
	)
	for _, tt := range []struct{ name, line, problem string }{
		{"a DSA key", keyLine(dsaKey()), "f:1:1: the key is refused: DSA keys are too weak" + newer},
		{"a DSA key after options", "restrict " + keyLine(dsaKey()), "f:1:10: the key is refused: DSA keys are too weak" + newer},
		{"a small RSA key", keyLine(rsaKey(2047)), "f:1:1: the key is refused: an RSA key needs at least 2048 bits, this one has 2047" + newer},
		{"a small RSA key as authority", "cert-authority " + keyLine(rsaKey(1024)), "f:1:16: the key is refused: an RSA key needs at least 2048 bits, this one has 1024" + newer},
		{"a certificate", keyLine(cert), "f:1:1: " + isCert},
		{"a certificate after options", "cert-authority " + keyLine(cert), "f:1:16: " + isCert},
		{"a type that is not known", "ssh-mldsa44-ed25519@openssh.com " + blob, `f:1:1: the key is refused: keys of the type "ssh-mldsa44-ed25519@openssh.com" are not supported` + newer},
		{"a type that is not known, after options", "restrict ssh-foo " + blob, `f:1:10: the key is refused: keys of the type "ssh-foo" are not supported` + newer},
		{"a misspelt type", "ssh-ed25591 " + blob, `f:1:1: the key is refused: keys of the type "ssh-ed25591" are not supported; did you mean "ssh-ed25519"?`},
		{"a type in capitals", "SSH-ED25519 " + blob, `f:1:1: the key is refused: keys of the type "SSH-ED25519" are not supported; did you mean "ssh-ed25519"?`},
		{"a type alone", "ssh-ed25519", "f:1:1: the key is refused: it ends after its type; write one line as in a .pub file: ssh-ed25519 AAAA… comment"},
		{"a cut blob", "ssh-ed25519 " + blob[:len(blob)-8], "f:1:1: " + damaged},
		{"no base64", "ssh-ed25519 !!!!", "f:1:1: " + damaged},
		{"a blob of another type", "ssh-ed25519 " + strings.Fields(keyLine(rsaKey(2048)))[1], "f:1:1: " + damaged},
		{"a certificate under a key's type", "ssh-ed25519 " + strings.Fields(keyLine(cert))[1], "f:1:1: " + damaged},
		{"a blob with more behind it", "ssh-ed25519 " + base64.StdEncoding.EncodeToString(append(testKey(1).Marshal(), 0)), "f:1:1: " + damaged},
		{"a blob cut in two by a blank", "ssh-ed25519 " + blob[:20] + " " + blob[20:], "f:1:1: " + damaged},
		{"a blob alone", blob, "f:1:1: " + noKey},
		{"options alone", `restrict,from="10.0.0.1"`, "f:1:1: " + noKey},
		{"a word", "hello", "f:1:1: " + noKey},
		{"words", "hello to you all", "f:1:7: " + noType},
		{"a blank after a comma", "restrict, no-pty " + ed, "f:1:11: " + noType},
		{"a blank around an equals sign", `from = "10.0.0.1" ` + ed, "f:1:6: " + noType},
		{"a blank in a value without quotes", `command=ls -l ` + ed, "f:1:12: " + noType},
		{"a quote that is not closed", `from="10.0.0.1 ` + ed, `f:1:1: the line gives no key: a quote in its options is not closed; write \" for a quote within quotes`},
		{"a quote that only looks closed", `command="a\" ` + ed, `f:1:1: the line gives no key: a quote in its options is not closed; write \" for a quote within quotes`},
		{"a NUL", "ssh-ed25519 " + blob + " a\x00b", "f:1:83: the line gives no key: it has the control character U+0000"},
		{"a NUL in an option", "from=\"10.0.0.1\x00\" " + ed, "f:1:15: the line gives no key: it has the control character U+0000"},
		{"a carriage return within the line", "# no comment\r" + ed, ""},
		{"a carriage return that hides an option", "restrict\r" + ed, "f:1:9: the line gives no key: it has the control character U+000D"},
		{"an escape", ed + " \x1b[2J", "f:1:82: the line gives no key: it has the control character U+001B"},
		{"a control character beyond ASCII", ed + " é\u0085", "f:1:83: the line gives no key: it has the control character U+0085"},
		{"a line too long", "ssh-ed25519 " + blob + strings.Repeat("x", maxLine), "f:1:1: the line gives no key: it is longer than 8192 bytes"},
		{"a private key", "-----BEGIN OPENSSH PRIVATE KEY-----", "f:1:1: the line gives no key: this is a private key; write the line of its .pub file, and treat the private key as known to others"},
		{"PEM", "-----BEGIN PUBLIC KEY-----", "f:1:1: the line gives no key: this is PEM, not a key in OpenSSH's format; write one line as in a .pub file: ssh-ed25519 AAAA… comment"},
		{"SSH2 format", "---- BEGIN SSH2 PUBLIC KEY ----", "f:1:6: " + noType},
	} {
		entries, ps := parse(tt.line)
		if got := strings.Join(ps, "\n"); entries != nil || got != tt.problem {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.problem)
		}
		// Whatever the line is, it does not touch its neighbours.
		entries, _ = parse(keyLine(testKey(7)) + "\n" + tt.line + "\n" + keyLine(testKey(8)))
		if len(entries) != 2 || entries[0].Line != 1 || entries[1].Line != 3 {
			t.Errorf("%s: its neighbours give %+v", tt.name, entries)
		}
	}
}

func TestAPrivateKeyIsNotShown(t *testing.T) {
	const secret = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW"
	_, ps := parse("-----BEGIN OPENSSH PRIVATE KEY-----\n" + secret + "\n-----END OPENSSH PRIVATE KEY-----\nPrivate-Lines: 1\n" + secret + "\n")
	if len(ps) != 5 || strings.Contains(strings.Join(ps, "\n"), secret[:8]) {
		t.Errorf("%q", ps)
	}
}
