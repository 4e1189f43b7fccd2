package authkeys

import (
	"cmp"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"sekisho/authz/strictyaml"
)

const (
	minRSA = 2048

	keyHint   = "write one line as in a .pub file: ssh-ed25519 AAAA… comment"
	newHint   = "make a new one: ssh-keygen -t ed25519"
	againHint = "copy the whole line of the .pub file again"
)

// keyTypes are the types of keys that can prove a user.
var keyTypes = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
	ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA,
}

// isKeyType reports whether s is the type of a key, usable or not.
func isKeyType(s string) bool {
	return slices.Contains(keyTypes, s) || s == ssh.InsecureKeyAlgoDSA || isCertType(s)
}

func isCertType(s string) bool {
	return strings.Contains(s, "-cert-v0") && strings.HasSuffix(s, "@openssh.com") && !strings.ContainsAny(s, `"=,`)
}

// isBlob reports whether s looks like a key in base64: it begins with the
// length of a short string, as every key does.
func isBlob(s string) bool { return len(s) >= 16 && strings.HasPrefix(s, "AAAA") }

// typeHint says what may help a key of a type that is not supported.
func typeHint(typ string) string { return cmp.Or(strictyaml.DidYouMean(typ, keyTypes), newHint) }

// parseKey reads a key of a type for which isKeyType is true.
func parseKey(typ, blob string) (key ssh.PublicKey, message, hint string) {
	switch {
	case typ == ssh.InsecureKeyAlgoDSA:
		return nil, "DSA keys are too weak", newHint
	case isCertType(typ):
		return nil, "this is a certificate", "write the line of the key's own .pub file, or that of its authority with cert-authority"
	case blob == "":
		return nil, "it ends after its type", keyHint
	}
	damaged := "it is damaged: what follows " + typ + " is not such a key"
	raw, err := base64.StdEncoding.DecodeString(blob)
	if err != nil {
		return nil, damaged, againHint
	}
	key, err = ssh.ParsePublicKey(raw)
	if err != nil || key.Type() != typ {
		return nil, damaged, againHint
	}
	if typ != ssh.KeyAlgoRSA {
		return key, "", ""
	}
	var pub *rsa.PublicKey
	if c, ok := key.(ssh.CryptoPublicKey); ok {
		pub, _ = c.CryptoPublicKey().(*rsa.PublicKey)
	}
	if pub == nil || pub.N == nil || pub.N.Sign() <= 0 {
		return nil, damaged, againHint
	}
	if n := pub.N.BitLen(); n < minRSA {
		return nil, fmt.Sprintf("an RSA key needs at least %d bits, this one has %d", minRSA, n), newHint
	}
	return key, "", ""
}
