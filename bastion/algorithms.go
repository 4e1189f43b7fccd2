package bastion

import (
	"fmt"
	"slices"

	"golang.org/x/crypto/ssh"
)

// The algorithms that the server offers, set explicitly because the library's
// defaults still hold SHA-1. The client's preference wins among them
// (RFC 4253 section 7.1). Plain hmac-sha2-256 and ECDH are for older JSch.
var (
	keyExchanges = []string{
		ssh.KeyExchangeMLKEM768X25519,
		ssh.KeyExchangeCurve25519,
		ssh.KeyExchangeECDHP256, ssh.KeyExchangeECDHP384, ssh.KeyExchangeECDHP521,
		ssh.KeyExchangeDH14SHA256, ssh.KeyExchangeDH16SHA512,
	}
	ciphers = []string{
		ssh.CipherAES128GCM, ssh.CipherAES256GCM,
		ssh.CipherChaCha20Poly1305,
		ssh.CipherAES128CTR, ssh.CipherAES192CTR, ssh.CipherAES256CTR,
	}
	macs = []string{
		ssh.HMACSHA256ETM, ssh.HMACSHA512ETM,
		ssh.HMACSHA256, ssh.HMACSHA512,
	}
	// signatures are those by which users may prove a key, also one that
	// comes in a certificate: no SHA-1.
	signatures = []string{
		ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519,
		ssh.KeyAlgoECDSA256, ssh.KeyAlgoSKECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512,
	}
)

// checkAlgorithms fails for a name that the library does not implement: it
// would drop such a name silently, and the list would be shorter than it says.
func checkAlgorithms() error {
	supported := ssh.SupportedAlgorithms()
	for _, list := range []struct {
		what         string
		ours, theirs []string
	}{
		{"key exchange", keyExchanges, supported.KeyExchanges},
		{"cipher", ciphers, supported.Ciphers},
		{"MAC", macs, supported.MACs},
		{"signature", signatures, supported.PublicKeyAuths},
	} {
		for _, name := range list.ours {
			if !slices.Contains(list.theirs, name) {
				return fmt.Errorf("the SSH library does not implement the %s algorithm %q", list.what, name)
			}
		}
	}
	return nil
}

// hostSigner limits what a host key signs with: an RSA key never with SHA-1.
func hostSigner(key ssh.Signer) (ssh.Signer, error) {
	if key.PublicKey().Type() != ssh.KeyAlgoRSA {
		return key, nil
	}
	rsa, ok := key.(ssh.AlgorithmSigner)
	if !ok {
		return nil, fmt.Errorf("the RSA host key cannot sign with SHA-2")
	}
	return ssh.NewSignerWithAlgorithms(rsa, []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256})
}
