package bastion

import (
	"fmt"
	"runtime"
	"slices"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"
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

// gcmCiphers are those of ciphers that cost the least where the CPU has
// instructions for AES. A client that offers them is offered no others.
//
// The client's preference wins, and that of OpenSSH is ChaCha20-Poly1305, for
// which this library has no vector instructions: with it a gigabyte costs more
// than twice the CPU time that it costs with AES-GCM. To leave it out is the
// only way to steer. It stays out when keys are renewed: a client that offers
// no AES-GCM then ends its connection, as RFC 4253 section 7.1 has it.
//
// aeadCiphers are those that need no MAC.
var (
	gcmCiphers  = []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM}
	aeadCiphers = append(slices.Clone(gcmCiphers), ssh.CipherChaCha20Poly1305)
)

// fastGCM is whether the CPU has the instructions by which Go computes AES-GCM.
// Without them it is the slowest of all.
var fastGCM = func() bool {
	switch runtime.GOARCH {
	case "amd64":
		return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ && cpu.X86.HasSSE41 && cpu.X86.HasSSSE3
	case "arm64":
		return cpu.ARM64.HasAES && cpu.ARM64.HasPMULL
	case "s390x":
		return cpu.S390X.HasAES && cpu.S390X.HasAESCTR && cpu.S390X.HasGHASH
	case "ppc64le":
		return true // all that Go runs on
	}
	return false
}()

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
