package authz

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

type zeroRand struct{}

func (zeroRand) Read(p []byte) (int, error) { clear(p); return len(p), nil }

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
	p := new(big.Int).SetBit(big.NewInt(1), 1023, 1)
	q := new(big.Int).SetBit(big.NewInt(1), 159, 1)
	return wire(struct {
		Type       string
		P, Q, G, Y *big.Int
	}{"ssh-dss", p, q, big.NewInt(2), big.NewInt(4)})
}

func skKey() ssh.PublicKey {
	pub := ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey)
	return wire(struct {
		Type string
		Key  []byte
		App  string
	}{"sk-ssh-ed25519@openssh.com", pub, "ssh:"})
}

func skECDSAKey() ssh.PublicKey {
	key := ecdsaKey(elliptic.P256())
	pub := key.(ssh.CryptoPublicKey).CryptoPublicKey().(*ecdsa.PublicKey)
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

func TestKeysOfThePolicy(t *testing.T) {
	for _, key := range []ssh.PublicKey{
		testKey(1), skKey(), skECDSAKey(), ecdsaKey(elliptic.P256()), ecdsaKey(elliptic.P384()), ecdsaKey(elliptic.P521()), rsaKey(2048), rsaKey(4096),
	} {
		for _, line := range []string{keyLine(key), "  " + keyLine(key) + " alice at home "} {
			got, msg, _ := parseKey(line)
			if msg != "" || string(got.Marshal()) != string(key.Marshal()) {
				t.Errorf("%s: %s", key.Type(), msg)
			}
		}
	}

	const (
		line  = "write one line as in a .pub file: ssh-ed25519 AAAA… comment"
		again = "copy the whole line of the .pub file again"
		newer = "make a new one: ssh-keygen -t ed25519"
		priv  = "write the line of its .pub file, and treat the private key as known to others"
	)
	ed := keyLine(testKey(1))
	blob := strings.Fields(ed)[1]
	signer, _ := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(make([]byte, 32)))
	cert := &ssh.Certificate{Key: testKey(1), CertType: ssh.UserCert}
	if err := cert.SignCert(zeroRand{}, signer); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, in, message, hint string }{
		{"nothing", "", "the key is empty", line},
		{"spaces", "   ", "the key is empty", line},
		{"a comment", "# alice", "this is a comment, not a key", line},
		{"two lines", ed + "\n" + ed, "a key is one line", line},
		{"a bad line before a good one", "garbage\n" + ed, "a key is one line", line},
		{"an end of line", ed + "\n", "a key is one line", line},
		{"a carriage return", ed + "\r", "a key is one line", line},
		{"an option", `restrict ` + ed, "options before a key are not supported here", "begin with the key's type: ssh-ed25519"},
		{"options with spaces", `from="10.0.0.0/8, 11.0.0.0/8",no-pty ` + ed, "options before a key are not supported here", "begin with the key's type: ssh-ed25519"},
		{"a certificate authority", `cert-authority ` + ed, "options before a key are not supported here", "begin with the key's type: ssh-ed25519"},
		{"an empty option", ", " + ed, "options before a key are not supported here", "begin with the key's type: ssh-ed25519"},
		{"words", "my key", "this is not a public key of a supported type", line},
		{"a type alone", "ssh-ed25519", "the key ends after its type", line},
		{"a blob alone", blob, "this is not a public key of a supported type", line},
		{"a cut blob", "ssh-ed25519 " + blob[:len(blob)-8], "the key is damaged: what follows ssh-ed25519 is not such a key", again},
		{"no base64", "ssh-ed25519 !!!!", "the key is damaged: what follows ssh-ed25519 is not such a key", again},
		{"a blob of another type", "ssh-rsa " + blob, "the key is damaged: what follows ssh-rsa is not such a key", again},
		{"something between type and key", "ssh-ed25519 ssh-ed25519 " + blob, "the key is damaged: what follows ssh-ed25519 is not such a key", again},
		{"a blob with more behind it", "ssh-ed25519 " + base64.StdEncoding.EncodeToString(append(testKey(1).Marshal(), 0)), "the key is damaged: what follows ssh-ed25519 is not such a key", again},
		{"DSA", keyLine(dsaKey()), "DSA keys are too weak", newer},
		{"a small RSA key", keyLine(rsaKey(2047)), "an RSA key needs at least 2048 bits, this one has 2047", newer},
		{"a certificate", keyLine(cert), "this is a certificate, not a key", "write the line of the key's own .pub file, or under authorities the key that signs such certificates"},
		{"a private key", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "this is a private key", priv},
		{"a private key folded by YAML", "-----BEGIN OPENSSH PRIVATE KEY----- AAAA", "this is a private key", priv},
		{"PEM", "-----BEGIN PUBLIC KEY----- AAAA", "this is a PEM block, not a key in OpenSSH's format", line},
		{"SSH2 format", "---- BEGIN SSH2 PUBLIC KEY ----", "this is not a public key of a supported type", line},
	} {
		key, message, hint := parseKey(tt.in)
		if key != nil || message != tt.message || hint != tt.hint {
			t.Errorf("%s:\n got %v, %q, %q\nwant %q, %q", tt.name, key, message, hint, tt.message, tt.hint)
		}
	}
}
