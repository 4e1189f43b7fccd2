package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"sekisho/authz/strictyaml"
)

const leastRSA = 2048 // bits

// A keyPair is a private key as OpenSSH's ssh-keygen writes it.
type keyPair struct {
	private []byte // PEM
	public  ssh.PublicKey
	comment string
}

// line is the content of its .pub file.
func (k keyPair) line() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.public))) + " " + k.comment
}

// makeHostKeys makes one key for each of the names that init writes.
func makeHostKeys(comment string) (map[string]keyPair, error) {
	pairs := map[string]keyPair{}
	for name, algorithm := range map[string]string{
		"ssh_host_ed25519_key": ssh.KeyAlgoED25519, "ssh_host_ecdsa_key": ssh.KeyAlgoECDSA256, "ssh_host_rsa_key": ssh.KeyAlgoRSA,
	} {
		var err error
		if pairs[name], err = makeHostKey(algorithm, comment); err != nil {
			return nil, err
		}
	}
	return pairs, nil
}

// makeHostKey makes a key of an algorithm.
func makeHostKey(algorithm, comment string) (keyPair, error) {
	var key crypto.PrivateKey
	var err error
	switch algorithm {
	case ssh.KeyAlgoED25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case ssh.KeyAlgoECDSA256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ssh.KeyAlgoECDSA384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case ssh.KeyAlgoECDSA521:
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case ssh.KeyAlgoRSA:
		key, err = rsa.GenerateKey(rand.Reader, 3072)
	default:
		err = fmt.Errorf("host keys of the type %s are not supported", algorithm)
	}
	if err != nil {
		return keyPair{}, err
	}
	return newKeyPair(key, comment)
}

// makeUserKey makes a key for a person.
func makeUserKey(comment string) (keyPair, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return keyPair{}, err
	}
	return newKeyPair(key, comment)
}

func newKeyPair(key crypto.PrivateKey, comment string) (keyPair, error) {
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return keyPair{}, err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return keyPair{}, err
	}
	return keyPair{pem.EncodeToMemory(block), signer.PublicKey(), comment}, nil
}

// readHostKeys reads the private host keys. Every problem is told; the keys
// are good only if none is an error.
func readHostKeys(paths []string) ([]ssh.Signer, strictyaml.Problems) {
	var keys []ssh.Signer
	var problems strictyaml.Problems
	files := map[string]string{} // by the public key
	for _, path := range paths {
		bad := func(hint, format string, args ...any) {
			problems = append(problems, strictyaml.Problem{File: path, Message: fmt.Sprintf(format, args...), Hint: hint})
		}
		content, err := readFile(path)
		if err != nil {
			hint := ""
			switch {
			case errors.Is(err, os.ErrNotExist):
				hint = "sekisho init makes host keys in a new folder; ssh-keygen -t ed25519 -N '' -f " + shellWord(path) + " makes one"
			case errors.Is(err, os.ErrPermission):
				hint = "the host keys are for the user that sekisho serves as: chown them, or run this as that user or root"
			}
			bad(hint, "the host key cannot be read: %v", reason(err))
			continue
		}
		key, err := ssh.ParsePrivateKey(content)
		var encrypted *ssh.PassphraseMissingError
		switch {
		case errors.As(err, &encrypted):
			bad("ssh-keygen -p -N '' -f "+shellWord(path)+" takes the passphrase off", "the host key is encrypted, and nobody is there to type its passphrase")
			continue
		case err != nil && isPublicKey(content):
			bad("name the file without .pub", "this is a public key")
			continue
		case err != nil:
			bad("", "this is not a private key: %v", err)
			continue
		}
		blob := string(key.PublicKey().Marshal())
		if other := files[blob]; other != "" {
			bad("take one of the two out of host_keys", "%s has the same host key", other)
			continue
		}
		files[blob] = path
		if why := weakHostKey(key.PublicKey()); why != "" {
			bad("make a new one: ssh-keygen -t rsa -b 3072", "%s", why)
			continue
		}
		keys = append(keys, key)
	}
	return keys, problems
}

// weakHostKey says why a key is none for a server, or returns "".
func weakHostKey(key ssh.PublicKey) string {
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return ""
	case ssh.KeyAlgoRSA:
		if n := keyBits(key); n < leastRSA {
			return fmt.Sprintf("an RSA host key needs at least %d bits, this one has %d", leastRSA, n)
		}
		return ""
	case ssh.InsecureKeyAlgoDSA:
		return "DSA keys are too weak"
	}
	return "host keys of the type " + key.Type() + " are not supported"
}

func isPublicKey(content []byte) bool {
	_, _, _, _, err := ssh.ParseAuthorizedKey(content)
	return err == nil
}

// keyBits is the size of an RSA key, and 0 for all others.
func keyBits(key ssh.PublicKey) int {
	if c, ok := key.(ssh.CryptoPublicKey); ok {
		if pub, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok {
			return pub.N.BitLen()
		}
	}
	return 0
}

// keyType names a key's type to people: ed25519, ecdsa, rsa-3072, sk-ed25519.
func keyType(key ssh.PublicKey) string {
	switch t := key.Type(); t {
	case ssh.KeyAlgoRSA:
		return fmt.Sprintf("rsa-%d", keyBits(key))
	case ssh.KeyAlgoSKED25519:
		return "sk-ed25519"
	case ssh.KeyAlgoSKECDSA256:
		return "sk-ecdsa"
	case ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return "ecdsa-" + t[len(t)-3:]
	default:
		return strings.TrimPrefix(t, "ssh-")
	}
}

// fingerprints lists host keys, one a line, as a client shows them at its
// first login.
func fingerprints(keys []ssh.Signer) string {
	var b strings.Builder
	for i, key := range keys {
		note := ""
		if !usedKey(keys, i) {
			note = "  (announced; the first of a type is used)"
		}
		fmt.Fprintf(&b, "  %-9s  %s%s\n", keyType(key.PublicKey()), ssh.FingerprintSHA256(key.PublicKey()), note)
	}
	return "Host keys:\n" + b.String()
}

// usedKey reports whether handshakes use a key: the first of its type.
func usedKey(keys []ssh.Signer, i int) bool {
	t := keys[i].PublicKey().Type()
	return !slices.ContainsFunc(keys[:i], func(k ssh.Signer) bool { return k.PublicKey().Type() == t })
}
