package authz

import (
	"crypto/rsa"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

const minRSA = 2048

var keyTypes = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
	ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA,
}

// unsupported says why a key cannot prove a user, or returns "".
func unsupported(key ssh.PublicKey) string {
	if key == nil {
		return "there is no key"
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return "a certificate is no key"
	}
	return unsupportedOf(key, key.Type())
}

// unsupportedOf is unsupported for a key of a type. To ask one of ECDSA for its
// type allocates, so that who needs it often asks once.
func unsupportedOf(key ssh.PublicKey, t string) string {
	switch {
	case strings.Contains(t, "-cert-v0"):
		return "a certificate is no key"
	case t == ssh.InsecureKeyAlgoDSA:
		return "DSA keys are too weak"
	case !slices.Contains(keyTypes, t):
		return "keys of the type " + quote(t) + " are not supported"
	case t == ssh.KeyAlgoRSA:
		var pub *rsa.PublicKey
		if c, ok := key.(ssh.CryptoPublicKey); ok {
			pub, _ = c.CryptoPublicKey().(*rsa.PublicKey)
		}
		if pub == nil || pub.N == nil || pub.N.Sign() <= 0 {
			return "the RSA key cannot be read"
		}
		if n := pub.N.BitLen(); n < minRSA {
			var room wordsRoom
			return string(words(room[:0]).s("an RSA key needs at least ").u(minRSA).s(" bits, this one has ").u(uint64(n)))
		}
	}
	return ""
}

// parseKey reads one line as in authorized_keys, without options.
func parseKey(s string) (key ssh.PublicKey, message, hint string) {
	const line = "write one line as in a .pub file: ssh-ed25519 AAAA… comment"
	if strings.ContainsAny(s, "\r\n") {
		if strings.Contains(s, "PRIVATE KEY-----") {
			return nil, "this is a private key", "write the line of its .pub file, and treat the private key as known to others"
		}
		return nil, "a key is one line", line
	}
	fields := strings.Fields(s)
	if len(fields) == 0 {
		return nil, "the key is empty", line
	}
	switch t := fields[0]; {
	case strings.HasPrefix(t, "#"):
		return nil, "this is a comment, not a key", line
	case strings.HasPrefix(t, "-----BEGIN"):
		if strings.Contains(s, "PRIVATE KEY-----") {
			return nil, "this is a private key", "write the line of its .pub file, and treat the private key as known to others"
		}
		return nil, "this is a PEM block, not a key in OpenSSH's format", line
	case t == ssh.InsecureKeyAlgoDSA:
		return nil, "DSA keys are too weak", "make a new one: ssh-keygen -t ed25519"
	case strings.Contains(t, "-cert-v0"):
		return nil, "this is a certificate, not a key", "write the line of the key's own .pub file, or under authorities the key that signs such certificates"
	case !slices.Contains(keyTypes, t):
		for _, f := range fields[1:] {
			if slices.Contains(keyTypes, f) || f == ssh.InsecureKeyAlgoDSA || strings.Contains(f, "-cert-v0") {
				return nil, "options before a key are not supported here", "begin with the key's type: " + f
			}
		}
		return nil, "this is not a public key of a supported type", line
	case len(fields) == 1:
		return nil, "the key ends after its type", line
	}
	// One line a call: ParseAuthorizedKey skips lines that it does not understand.
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(s))
	if err != nil || len(options) > 0 || len(rest) > 0 || key.Type() != fields[0] {
		return nil, "the key is damaged: what follows " + fields[0] + " is not such a key", "copy the whole line of the .pub file again"
	}
	if why := unsupported(key); why != "" {
		return nil, why, "make a new one: ssh-keygen -t ed25519"
	}
	return key, "", ""
}
