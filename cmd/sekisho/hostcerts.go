package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/authz/strictyaml"
)

// certSoon is how long before its end a host certificate is warned of.
const certSoon = 14 * 24 * time.Hour

// readHostCertificates reads certificates of the host keys. Every problem is
// told; the certificates are good only if none is an error.
func readHostCertificates(paths []string, keys []ssh.Signer, now time.Time) ([]*ssh.Certificate, strictyaml.Problems) {
	var certs []*ssh.Certificate
	var problems strictyaml.Problems
	for _, path := range paths {
		tell := func(warning bool, hint, format string, args ...any) {
			problems = append(problems, strictyaml.Problem{File: path, Message: fmt.Sprintf(format, args...), Hint: hint, Warning: warning})
		}
		content, err := readFile(path)
		if err != nil {
			hint := ""
			if errors.Is(err, os.ErrNotExist) {
				hint = "ssh-keygen -s CA -h -I NAME -n HOST FILE.pub makes one; or take it out of host_certificates"
			}
			tell(false, hint, "the host certificate cannot be read: %v", reason(err))
			continue
		}
		cert, message, hint := parseHostCertificate(content, keys)
		if message != "" {
			tell(false, hint, "%s", message)
			continue
		}
		same := func(o *ssh.Certificate) bool { return bytes.Equal(o.Key.Marshal(), cert.Key.Marshal()) }
		if slices.ContainsFunc(certs, same) {
			tell(false, "keep one certificate of each host key", "another certificate in host_certificates is of the same key")
			continue
		}
		for _, warning := range certWarnings(cert, now) {
			tell(true, "ssh-keygen -Lf "+shellWord(path)+" shows what it says; have it signed anew, and reload", "%s", warning)
		}
		certs = append(certs, cert)
	}
	return certs, problems
}

// uncertified warns of keys that are used and have no certificate where others
// have. By its defaults, a client that knows only such a key asks for certificates
// of all types first, and gets that of a key that it does not know.
func uncertified(paths []string, keys []ssh.Signer, certs []*ssh.Certificate) (problems strictyaml.Problems) {
	for i, key := range keys {
		certified := func(c *ssh.Certificate) bool { return bytes.Equal(c.Key.Marshal(), key.PublicKey().Marshal()) }
		if len(certs) > 0 && usedKey(keys, i) && !slices.ContainsFunc(certs, certified) {
			problems = append(problems, strictyaml.Problem{File: paths[i], Warning: true,
				Message: "the host key has no certificate, and others have: a client that knows only this key may be shown one of another key, and refuse it",
				Hint:    "have it signed, too, and list it in host_certificates"})
		}
	}
	return problems
}

// parseHostCertificate reads a file that ssh-keygen -s has written.
func parseHostCertificate(content []byte, keys []ssh.Signer) (cert *ssh.Certificate, message, hint string) {
	key, _, _, _, err := ssh.ParseAuthorizedKey(content)
	if err != nil {
		return nil, "this is not a certificate: " + err.Error(), "name the file that ends in -cert.pub"
	}
	cert, ok := key.(*ssh.Certificate)
	switch {
	case !ok:
		return nil, "this is a public key and not a certificate", "name the file that ends in -cert.pub"
	case cert.CertType != ssh.HostCert:
		return nil, "this is a certificate of a user and not of a host", "sign it with ssh-keygen -s CA -h"
	case !slices.ContainsFunc(keys, func(k ssh.Signer) bool { return bytes.Equal(k.PublicKey().Marshal(), cert.Key.Marshal()) }):
		return nil, fmt.Sprintf("this certificate is of none of the host keys: it is of %s", ssh.FingerprintSHA256(cert.Key)), "list its key in host_keys, or take it out of host_certificates"
	case cert.Signature.Format == ssh.KeyAlgoRSA:
		return nil, "its authority has signed it with SHA-1, which clients refuse", "sign it with ssh-keygen -t rsa-sha2-512 -s CA -h"
	}
	if err := checkSignature(cert); err != nil {
		return nil, "this certificate is not good: " + err.Error(), ""
	}
	return cert, "", ""
}

// checkSignature checks that the authority has signed the certificate, and
// nothing else of it.
func checkSignature(cert *ssh.Certificate) error {
	plain := *cert
	plain.Signature = nil
	signed := plain.Marshal()
	// Marshal ends in the signature, of which there is none: an empty string.
	return cert.SignatureKey.Verify(signed[:len(signed)-4], cert.Signature)
}

// certWarnings are why clients will not take a certificate, or not for long.
func certWarnings(cert *ssh.Certificate, now time.Time) []string {
	var all []string
	at := uint64(max(now.Unix(), 0))
	switch {
	case cert.ValidBefore != ssh.CertTimeInfinity && cert.ValidBefore <= at:
		all = append(all, fmt.Sprintf("the host certificate expired at %s: clients that trust its authority refuse it", certTime(cert.ValidBefore)))
	case cert.ValidAfter > at:
		all = append(all, fmt.Sprintf("the host certificate is not valid before %s: clients that trust its authority refuse it until then", certTime(cert.ValidAfter)))
	case cert.ValidBefore != ssh.CertTimeInfinity && cert.ValidBefore <= at+uint64(certSoon/time.Second):
		all = append(all, fmt.Sprintf("the host certificate expires at %s", certTime(cert.ValidBefore)))
	}
	if len(cert.ValidPrincipals) == 0 {
		all = append(all, "the host certificate names no host, so that clients refuse it")
	}
	if len(cert.CriticalOptions) > 0 {
		all = append(all, "the host certificate has critical options, which no client knows for a host")
	}
	return all
}

func certTime(seconds uint64) string {
	const last = 253402300799 // of the year 9999
	return time.Unix(int64(min(seconds, last)), 0).UTC().Format("2006-01-02 15:04:05 UTC")
}

// certNames are the hosts that a certificate is for.
func certNames(cert *ssh.Certificate) string {
	return printable(strings.Join(cert.ValidPrincipals, ", "))
}
