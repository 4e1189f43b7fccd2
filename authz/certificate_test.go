package authz

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func TestIdentifyByCertificate(t *testing.T) {
	p := mustParseCerts(t, certPolicy)
	corp, ci := testSigner(corpCA), testSigner(ciCA)
	const certificate = `the certificate "id" (serial 7)`
	cert := func(ca ssh.Signer, principals []string, change ...func(*ssh.Certificate)) *ssh.Certificate {
		return makeCert(t, ca, principals, change...)
	}
	names := func(s ...string) []string { return s }
	damaged := cert(corp, names("alice"))
	damaged.Signature.Blob[3] ^= 1
	moved := cert(corp, names("alice"))
	moved.ValidPrincipals = names("bob")
	pretended := cert(testSigner(strangerCA), names("alice"))
	pretended.SignatureKey = corp.PublicKey()
	chained := cert(corp, names("alice"))
	chained.Key = cert(corp, names("alice"))
	many := make([]string, maxPrincipals+1)
	for i := range many {
		many[i] = fmt.Sprintf("alice%d", i)
	}
	for _, tt := range []struct {
		name   string
		login  string
		cert   *ssh.Certificate
		user   string
		reason Reason
		detail string // "": not looked at
	}{
		{"of a user", "alice", cert(corp, names("alice")), "alice", "", ""},
		{"with a login that a tool has typed in", "ec2-user", cert(corp, names("alice")), "alice", "", ""},
		{"with the login of another user", "bob", cert(corp, names("alice")), "", OtherUser, `the key is alice's, and the login "bob" is another user's name`},
		{"with the login of somebody whom only a grant names", "carol", cert(corp, names("alice")), "", OtherUser, `the key is alice's, and the login "carol" is another user's name`},
		{"with the login of nobody", "zoe", cert(corp, names("alice")), "alice", "", ""},
		{"of somebody whom only a grant names", "carol", cert(corp, names("carol")), "carol", "", ""},
		{"of somebody whom nothing names", "zoe", cert(corp, names("zoe")), "zoe", "", ""},
		{"of somebody, with the login of a user", "alice", cert(corp, names("zoe")), "", OtherUser, `the key is zoe's, and the login "alice" is another user's name`},
		{"of the same user twice", "", cert(corp, names("alice", "alice")), "alice", "", ""},
		{"of a user and of something that is no name", "", cert(corp, names("-x", "alice", "a b", "", "é", "x\n", strings.Repeat("x", 65))), "alice", "", ""},
		{"of two users", "alice", cert(corp, names("alice", "bob")), "", CertPrincipals, certificate + " names several users: alice, bob"},
		{"of a user and somebody", "alice", cert(corp, names("alice", "zoe")), "", CertPrincipals, certificate + " names several users: alice, zoe"},
		{"of ten", "alice", cert(corp, names("a", "b", "c", "d", "e", "f", "g", "h", "i", "j")), "", CertPrincipals, certificate + " names several users: a, b, c, d, e, f, g, h …"},
		{"of a user in another case", "", cert(corp, names("Alice")), "", CertPrincipals, certificate + ` names nobody whom its authority "corp" may vouch for: its principals are "Alice"`},
		{"of a user in another case, whom the policy writes large", "", cert(corp, names("frank")), "", CertPrincipals, ""},
		{"of a user and him in another case", "", cert(corp, names("ALICE", "alice")), "alice", "", ""},
		{"of a user whom the policy writes large", "", cert(corp, names("Frank")), "Frank", "", ""},
		{"of nobody with a name", "", cert(corp, names("a b", "-")), "", CertPrincipals, certificate + ` names nobody whom its authority "corp" may vouch for: its principals are "a b", "-"`},
		{"with an escape as a name", "", cert(corp, names("\x1b[31m")), "", CertPrincipals, certificate + ` names nobody whom its authority "corp" may vouch for: its principals are "\x1b[31m"`},
		{"of a pattern", "", cert(corp, names("*")), "", CertPrincipals, ""},
		{"by a bounded authority, within", "", cert(ci, names("ci-1")), "ci-1", "", ""},
		{"by a bounded authority, as its one name", "", cert(ci, names("deploy")), "deploy", "", ""},
		{"by a bounded authority, outside", "", cert(ci, names("bob")), "", CertPrincipals, certificate + ` names nobody whom its authority "ci" may vouch for: its principals are "bob"`},
		{"by a bounded authority, of two of whom one is outside", "", cert(ci, names("bob", "alice")), "alice", "", ""},
		{"by a bounded authority, longer than its one name", "", cert(ci, names("deploy2")), "", CertPrincipals, ""},
		{"by a bounded authority, before its pattern", "", cert(ci, names("xci-1")), "", CertPrincipals, ""},
		{"by a stranger", "alice", cert(testSigner(strangerCA), names("alice")), "", UnknownAuthority, certificate + " is signed by " + fingerprint(strangerCA) + ", which is no authority of the policy"},
		{"by the key of a user", "alice", cert(testSigner(1), names("alice")), "", UnknownAuthority, ""},
		{"by its own key", "alice", cert(testSigner(50), names("alice")), "", UnknownAuthority, ""},

		{"with a damaged signature", "alice", damaged, "", BadCert, certificate + ": its authority's signature is not good"},
		{"of which a name was changed", "bob", moved, "", BadCert, certificate + ": its authority's signature is not good"},
		{"that pretends to be by another authority", "alice", pretended, "", BadCert, certificate + ": its authority's signature is not good"},
		{"of a certificate", "alice", chained, "", BadCert, certificate + ": a certificate is no key"},
		{"of a host", "alice", cert(corp, names("alice"), func(c *ssh.Certificate) { c.CertType = ssh.HostCert }), "", BadCert, certificate + ": it is not a user certificate"},
		{"of neither user nor host", "alice", cert(corp, names("alice"), func(c *ssh.Certificate) { c.CertType = 0 }), "", BadCert, certificate + ": it is not a user certificate"},
		{"without principals", "alice", cert(corp, nil), "", BadCert, certificate + ": it has no principals, and would be anybody's"},
		{"with too many principals", "", cert(corp, many), "", BadCert, certificate + ": it has more than 256 principals"},
		{"without port forwarding", "alice", cert(corp, names("alice"), func(c *ssh.Certificate) { delete(c.Extensions, "permit-port-forwarding") }), "", BadCert, certificate + ": it does not have permit-port-forwarding"},
		{"without extensions", "alice", cert(corp, names("alice"), func(c *ssh.Certificate) { c.Extensions = nil }), "", BadCert, certificate + ": it does not have permit-port-forwarding"},
		{"with an extension that nobody knows", "alice", cert(corp, names("alice"), func(c *ssh.Certificate) { c.Extensions["x@example.com"] = "y" }), "alice", "", ""},
		{"that demands a PIN", "alice", cert(corp, names("alice"), option("verify-required", "")), "", BadCert, certificate + ": it demands verify-required, a PIN, which cannot be checked here"},
		{"with a critical option that nobody knows", "alice", cert(corp, names("alice"), option("x\n", ""), option("y", ""), option("source-address", "10.0.0.1")), "", BadCert, certificate + `: its critical option "x\n" is not supported`},
		{"with an extension as critical option", "alice", cert(corp, names("alice"), option("permit-pty", "")), "", BadCert, certificate + `: its critical option "permit-pty" is not supported`},
		{"with an option that narrows, as an extension", "alice", cert(corp, names("alice"), func(c *ssh.Certificate) { c.Extensions["source-address"] = "10.0.0.1" }), "alice", "", ""},
		{"of a DSA key", "alice", cert(corp, names("alice"), func(c *ssh.Certificate) { c.Key = dsaKey() }), "", BadCert, certificate + ": DSA keys are too weak"},
		{"of a small RSA key", "alice", cert(corp, names("alice"), func(c *ssh.Certificate) { c.Key = rsaKey(2047) }), "", BadCert, certificate + ": an RSA key needs at least 2048 bits, this one has 2047"},
		{"of a large RSA key", "alice", cert(corp, names("alice"), func(c *ssh.Certificate) { c.Key = rsaKey(2048) }), "alice", "", ""},
		{"of a security key", "alice", cert(corp, names("alice"), func(c *ssh.Certificate) { c.Key = skKey() }), "alice", "", ""},
		{"of alice's own key, naming bob", "", cert(corp, names("bob"), func(c *ssh.Certificate) { c.Key = testKey(1) }), "bob", "", ""},

		{"valid at no time: 0", "alice", cert(corp, names("alice"), valid(0, 0)), "", BadCert, certificate + ": it is valid at no time"},
		{"valid at no time: it ends as it begins", "alice", cert(corp, names("alice"), valid(100, 100)), "", BadCert, certificate + ": it is valid at no time"},
		{"valid at no time: it ends before it begins", "alice", cert(corp, names("alice"), valid(100, 99)), "", BadCert, certificate + ": it is valid at no time"},
		{"valid from a time that no clock has", "alice", cert(corp, names("alice"), valid(math.MaxInt64, math.MaxUint64)), "", BadCert, certificate + ": it is valid at no time"},
		{"valid from a negative time", "alice", cert(corp, names("alice"), valid(1<<63, math.MaxUint64)), "", BadCert, certificate + ": it is valid at no time"},
		{"valid until a negative time", "alice", cert(corp, names("alice"), valid(0, 1<<63)), "", BadCert, certificate + ": the end of its validity is no time"},
		{"valid until just before infinity", "alice", cert(corp, names("alice"), valid(0, math.MaxUint64-1)), "", BadCert, certificate + ": the end of its validity is no time"},
		{"valid until the last second that is positive", "alice", cert(corp, names("alice"), valid(0, math.MaxInt64)), "alice", "", ""},
		{"valid for ever", "alice", cert(corp, names("alice"), valid(0, math.MaxUint64)), "alice", "", ""},
		{"not valid yet: that is for later to judge", "alice", cert(corp, names("alice"), valid(lastSecond, lastSecond+1)), "alice", "", ""},

		{"with an empty source-address", "alice", cert(corp, names("alice"), option("source-address", "")), "", BadCert, certificate + `: its source-address "" cannot be read`},
		{"with a source-address that is a name", "alice", cert(corp, names("alice"), option("source-address", "10.0.0.1,host.example")), "", BadCert, certificate + `: its source-address "10.0.0.1,host.example" cannot be read`},
		{"with a source-address that excepts", "alice", cert(corp, names("alice"), option("source-address", "!10.0.0.1")), "", BadCert, ""},
		{"with a source-address with blanks", "alice", cert(corp, names("alice"), option("source-address", "10.0.0.1, 10.0.0.2")), "", BadCert, ""},
		{"with a source-address with a zone", "alice", cert(corp, names("alice"), option("source-address", "fe80::1%eth0")), "", BadCert, ""},
		{"with a source-address with host bits", "alice", cert(corp, names("alice"), option("source-address", "10.0.0.1/8")), "", BadCert, certificate + `: its source-address "10.0.0.1/8" has bits set beyond the length of a network`},
		{"with a source-address that is signed by nobody", "alice", func() *ssh.Certificate {
			c := cert(corp, names("alice"), option("source-address", "x"))
			c.Signature.Blob[0] ^= 1
			return c
		}(), "", BadCert, certificate + ": its authority's signature is not good"},

		{"without a signature", "alice", &ssh.Certificate{Key: testKey(1), SignatureKey: corp.PublicKey()}, "", BadCert, "the certificate is damaged"},
		{"without a key", "alice", &ssh.Certificate{SignatureKey: corp.PublicKey(), Signature: &ssh.Signature{}}, "", BadCert, "the certificate is damaged"},
		{"without an authority", "alice", &ssh.Certificate{Key: testKey(1), Signature: &ssh.Signature{}}, "", BadCert, "the certificate is damaged"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id, reason, detail := p.Identify(tt.login, tt.cert)
			if id.User != tt.user || reason != tt.reason || tt.detail != "" && detail != tt.detail {
				t.Errorf("%q, %q, %s; want %q, %q, %s", id.User, reason, detail, tt.user, tt.reason, tt.detail)
			}
			if reason != "" && (id != (Identity{}) || detail == "") {
				t.Errorf("refused without a sentence, or with %+v", id)
			}
			if reason == "" && (id.Key != ssh.FingerprintSHA256(tt.cert.Key) || id.Cert == nil || id.Cert.Serial != 7 || id.Cert.KeyID != "id" || id.Cert.AuthorityKey != ssh.FingerprintSHA256(tt.cert.SignatureKey)) {
				t.Errorf("%+v, %+v", id, id.Cert)
			}
			for _, none := range []*Policy{nil, {}} {
				if id, reason, _ := none.Identify(tt.login, tt.cert); id != (Identity{}) || reason == "" {
					t.Errorf("no policy: %+v, %q", id, reason)
				}
			}
		})
	}
}

func TestCertificatesOfSSHKeygen(t *testing.T) {
	dir := t.TempDir()
	var authorities []string
	for name, args := range map[string][]string{
		"ca-ed25519": {"-t", "ed25519"}, "ca-p256": {"-t", "ecdsa", "-b", "256"}, "ca-p384": {"-t", "ecdsa", "-b", "384"}, "ca-p521": {"-t", "ecdsa", "-b", "521"},
		"ca-rsa": {"-t", "rsa", "-b", "2048"},
	} {
		keygen(t, dir, append(args, "-N", "", "-C", "", "-f", name)...)
		authorities = append(authorities, fmt.Sprintf("  - {name: %s, key: %q, principals: [alice, bob]}\n", name, keyLine(readKey(t, filepath.Join(dir, name+".pub")))))
	}
	for name, args := range map[string][]string{"ed25519": {"-t", "ed25519"}, "p256": {"-t", "ecdsa"}, "rsa": {"-t", "rsa", "-b", "2048"}, "small": {"-t", "rsa", "-b", "1024"}, "dsa": {"-t", "dsa"}} {
		keygen(t, dir, append(args, "-N", "", "-C", "", "-f", name)...)
	}
	if err := os.WriteFile(filepath.Join(dir, "sk.pub"), []byte(keyLine(skKey())+"\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	p := mustParse(t, "version: 1\nusers: [{name: alice, groups: [dev], keys: []}]\nauthorities:\n"+strings.Join(authorities, "")+
		"targets: [{name: web, hosts: [web], ports: [22]}]\ngrants: [{name: dev-web, groups: [dev], to: [web]}]\n", testOptions)
	valid := func(args ...string) []string {
		return append([]string{"-n", "alice", "-V", "20270113110000:20270113130000", "-z", "42"}, args...)
	}
	for _, tt := range []struct {
		name      string
		ca, key   string
		args      []string
		reason    Reason // of Identify; "": it is alice
		detail    string // a part of it
		noSession bool
		untouched bool
		from      string // the client is at; "": anywhere
		decision  Reason // at noon
	}{
		{name: "as it is", ca: "ca-ed25519", key: "ed25519", args: valid(), decision: Granted},
		{name: "by an authority with a curve of 256 bits", ca: "ca-p256", key: "ed25519", args: valid(), decision: Granted},
		{name: "by an authority with a curve of 384 bits", ca: "ca-p384", key: "p256", args: valid(), decision: Granted},
		{name: "by an authority with a curve of 521 bits", ca: "ca-p521", key: "rsa", args: valid(), decision: Granted},
		{name: "by an RSA authority", ca: "ca-rsa", key: "ed25519", args: valid(), decision: Granted},
		{name: "by an RSA authority with SHA-512", ca: "ca-rsa", key: "ed25519", args: valid("-t", "rsa-sha2-512"), decision: Granted},
		{name: "by an RSA authority with SHA-256", ca: "ca-rsa", key: "ed25519", args: valid("-t", "rsa-sha2-256"), decision: Granted},
		{name: "by an RSA authority with SHA-1", ca: "ca-rsa", key: "ed25519", args: valid("-t", "ssh-rsa"), reason: BadCert, detail: "its authority signed it with SHA-1 (ssh-rsa)"},
		{name: "of a small RSA key", ca: "ca-ed25519", key: "small", args: valid(), reason: BadCert, detail: "an RSA key needs at least 2048 bits, this one has 1024"},
		{name: "of a DSA key", ca: "ca-ed25519", key: "dsa", args: valid(), reason: BadCert, detail: "DSA keys are too weak"},
		{name: "of a security key", ca: "ca-ed25519", key: "sk", args: valid(), decision: Granted},
		{name: "of a security key that need not be touched", ca: "ca-ed25519", key: "sk", args: valid("-O", "no-touch-required"), untouched: true, decision: Granted},
		{name: "of a security key that wants a PIN", ca: "ca-ed25519", key: "sk", args: valid("-O", "verify-required"), reason: BadCert, detail: "it demands verify-required"},
		{name: "for ever", ca: "ca-ed25519", key: "ed25519", args: []string{"-n", "alice", "-z", "42"}, decision: Granted},
		{name: "before it is valid", ca: "ca-ed25519", key: "ed25519", args: []string{"-n", "alice", "-z", "42", "-V", "20270113120001:20270113130000"}, decision: CertNotYet},
		{name: "as it begins", ca: "ca-ed25519", key: "ed25519", args: []string{"-n", "alice", "-z", "42", "-V", "20270113120000:20270113130000"}, decision: Granted},
		{name: "as it ends", ca: "ca-ed25519", key: "ed25519", args: []string{"-n", "alice", "-z", "42", "-V", "20270113110000:20270113120000"}, decision: CertExpired},
		{name: "just before it ends", ca: "ca-ed25519", key: "ed25519", args: []string{"-n", "alice", "-z", "42", "-V", "20270113110000:20270113120001"}, decision: Granted},
		{name: "from an address", ca: "ca-ed25519", key: "ed25519", args: valid("-O", "source-address=203.0.113.0/24,2001:db8::/32"), from: "203.0.113.9", decision: Granted},
		{name: "from another address", ca: "ca-ed25519", key: "ed25519", args: valid("-O", "source-address=203.0.113.0/24,2001:db8::/32"), from: "203.0.114.9", decision: CertNotFrom},
		{name: "with a command of its own", ca: "ca-ed25519", key: "ed25519", args: valid("-O", "force-command=/bin/true"), noSession: true, decision: Granted},
		{name: "not for forwarding", ca: "ca-ed25519", key: "ed25519", args: valid("-O", "no-port-forwarding"), reason: BadCert, detail: "it does not have permit-port-forwarding"},
		{name: "cleared of everything", ca: "ca-ed25519", key: "ed25519", args: valid("-O", "clear"), reason: BadCert, detail: "it does not have permit-port-forwarding"},
		{name: "cleared of everything but forwarding", ca: "ca-ed25519", key: "ed25519", args: valid("-O", "clear", "-O", "permit-port-forwarding"), decision: Granted},
		{name: "with a critical option of somebody", ca: "ca-ed25519", key: "ed25519", args: valid("-O", "critical:x@example.com=1"), reason: BadCert, detail: `its critical option "x@example.com" is not supported`},
		{name: "with an extension of somebody", ca: "ca-ed25519", key: "ed25519", args: valid("-O", "extension:x@example.com=1"), decision: Granted},
		{name: "of a host", ca: "ca-ed25519", key: "ed25519", args: valid("-h"), reason: BadCert, detail: "it is not a user certificate"},
		{name: "of two users", ca: "ca-ed25519", key: "ed25519", args: []string{"-n", "alice,bob", "-z", "42"}, reason: CertPrincipals, detail: "names several users: alice, bob"},
		{name: "of another user", ca: "ca-ed25519", key: "ed25519", args: []string{"-n", "carol", "-z", "42"}, reason: CertPrincipals, detail: `its principals are "carol"`},
		{name: "of nobody", ca: "ca-ed25519", key: "ed25519", args: []string{"-z", "42"}, reason: BadCert, detail: "it has no principals"},
		{name: "by the user's own key", ca: "rsa", key: "ed25519", args: valid(), reason: UnknownAuthority, detail: "which is no authority of the policy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cert := keygenCert(t, dir, tt.ca, tt.key, tt.args...)
			id, reason, detail := p.Identify("alice", cert)
			if reason != tt.reason || !strings.Contains(detail, tt.detail) {
				t.Fatalf("%q, %s", reason, detail)
			}
			if reason != "" {
				return
			}
			if id.User != "alice" || id.Cert.Serial != 42 || id.Cert.KeyID != "laptop of alice" || id.Cert.Authority != tt.ca || id.Cert.Untouched() != tt.untouched || p.NoSessions(id) != tt.noSession {
				t.Errorf("%+v, %+v", id, id.Cert)
			}
			r := id.ask("web", 22, noon)
			if tt.from != "" {
				r.Source = netip.MustParseAddr(tt.from)
			}
			if d := p.Decide(r); d.Reason != tt.decision {
				t.Errorf("%+v", d)
			}
		})
	}
}

func TestSHA1OfAnAuthorityIsRefused(t *testing.T) {
	dir := t.TempDir()
	keygen(t, dir, "-t", "rsa", "-b", "2048", "-N", "", "-C", "", "-f", "ca", "-m", "PEM")
	text, err := os.ReadFile(filepath.Join(dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	p := mustParse(t, fmt.Sprintf("version: 1\nauthorities: [{name: old, key: %q, principals: [alice]}]\n", keyLine(signer.PublicKey())), testOptions)
	c := makeCert(t, signer, []string{"alice"})
	if _, reason, detail := p.Identify("", c); reason != "" {
		t.Fatal(detail)
	}
	// The same certificate, its signature made by hand.
	signed := c.Marshal()
	unsigned := signed[:len(signed)-4-len(ssh.Marshal(c.Signature))]
	c.Signature, err = signer.(ssh.AlgorithmSigner).SignWithAlgorithm(rand.Reader, unsigned, ssh.KeyAlgoRSA)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SignatureKey.Verify(unsigned, c.Signature); err != nil {
		t.Fatalf("the signature is not what it should be: %v", err)
	}
	c = wired(t, c)
	if id, reason, detail := p.Identify("", c); reason != BadCert || id.User != "" || !strings.HasSuffix(detail, "its authority signed it with SHA-1 (ssh-rsa)") {
		t.Errorf("%+v, %s, %s", id, reason, detail)
	}
	c.Signature.Format = "ssh-\n"
	if _, reason, detail := p.Identify("", c); reason != BadCert || !strings.HasSuffix(detail, `its authority signed it with "ssh-\n"`) {
		t.Errorf("%s, %s", reason, detail)
	}
}

func TestDecideByCertificate(t *testing.T) {
	p := mustParseCerts(t, certPolicy)
	for _, tt := range []struct {
		name    string
		ca      int
		user    string
		options map[string]string
		change  func(*Request)
		host    string
		port    uint32
		reason  Reason
		grant   string
		detail  string
	}{
		{"a user in her own groups", corpCA, "alice", nil, nil, "web", 22, Granted, "dev-web", ""},
		{"a user in the groups of the authority", corpCA, "alice", nil, nil, "wiki", 443, Granted, "staff-wiki", ""},
		{"a user not in the groups of another authority", ciCA, "alice", nil, nil, "wiki", 443, NoGrant, "", "no grant of alice reaches wiki with port 443"},
		{"a user in her own groups by another authority", ciCA, "alice", nil, nil, "web", 22, Granted, "dev-web", ""},
		{"a user's conditions hold by certificate, too", corpCA, "bob", nil, func(r *Request) { r.Source = netip.MustParseAddr("10.0.0.9") }, "db", 3306, NotFrom, "", "bob is allowed from 203.0.113.0/24; the client is at 10.0.0.9"},
		{"a user from where he may be", corpCA, "bob", nil, nil, "db", 3306, Granted, "dba-db", ""},
		{"somebody whom only a grant names", corpCA, "carol", nil, nil, "db", 3306, Granted, "dba-db", ""},
		{"somebody whom only a grant names, in the groups of the authority", corpCA, "carol", nil, nil, "wiki", 443, Granted, "staff-wiki", ""},
		{"somebody whom only a grant names, by a key of hers", 0, "carol", nil, func(r *Request) { r.Key, r.Cert = AnyKey, nil }, "db", 3306, UnknownUser, "", `the policy has no user "carol"`},
		{"somebody whom nothing names", corpCA, "zoe", nil, nil, "wiki", 443, Granted, "staff-wiki", ""},
		{"somebody whom nothing names, beyond the groups of the authority", corpCA, "zoe", nil, nil, "web", 22, NoGrant, "", "no grant of zoe reaches web with port 22"},
		{"somebody whom an authority without groups vouches for", ciCA, "ci-2", nil, nil, "build", 22, NoGrant, "", "no grant of ci-2 reaches build with port 22"},
		{"the one whom a grant names", ciCA, "ci-1", nil, nil, "build", 22, Granted, "ci-build", ""},
		{"another user with the certificate", corpCA, "alice", nil, func(r *Request) { r.User = "bob" }, "db", 3306, AuthorityRemoved, "", "no authority with the key " + fingerprint(corpCA) + ` vouches for "bob"`},
		{"nobody with the certificate", corpCA, "alice", nil, func(r *Request) { r.User = "" }, "db", 3306, AuthorityRemoved, "", ""},
		{"another key with the certificate", corpCA, "alice", nil, func(r *Request) { r.Key = fingerprint(1) }, "web", 22, KeyRemoved, "", `the certificate is not of the key "` + fingerprint(1) + `"`},
		{"any key with the certificate", corpCA, "alice", nil, func(r *Request) { r.Key = AnyKey }, "web", 22, KeyRemoved, "", ""},
		{"no key with the certificate", corpCA, "alice", nil, func(r *Request) { r.Key = "" }, "web", 22, KeyRemoved, "", ""},
		{"a certificate that nobody has judged", corpCA, "alice", nil, func(r *Request) { r.Key, r.Cert = "", &Cert{AuthorityKey: fingerprint(corpCA)} }, "web", 22, AuthorityRemoved, "", ""},
		{"the key of the certificate without it", corpCA, "alice", nil, func(r *Request) { r.Cert = nil }, "web", 22, KeyRemoved, "", "alice has no key \"" + fingerprint(50) + `"`},
		{"a bad host, once the certificate has ended", corpCA, "alice", nil, func(r *Request) { r.Time = noon.Add(2 * time.Hour) }, "a b", 22, CertExpired, "", ""},

		{"from a network of source-address", corpCA, "alice", map[string]string{"source-address": "203.0.113.0/24"}, nil, "web", 22, Granted, "dev-web", ""},
		{"from an address of source-address", corpCA, "alice", map[string]string{"source-address": "10.0.0.1,203.0.113.5"}, nil, "web", 22, Granted, "dev-web", ""},
		{"from the same, mapped", corpCA, "alice", map[string]string{"source-address": "203.0.113.5"}, func(r *Request) { r.Source = netip.MustParseAddr("::ffff:203.0.113.5") }, "web", 22, Granted, "dev-web", ""},
		{"from an address that source-address writes mapped", corpCA, "alice", map[string]string{"source-address": "::ffff:203.0.113.5"}, nil, "web", 22, Granted, "dev-web", ""},
		{"from a network in IPv6", corpCA, "alice", map[string]string{"source-address": "2001:db8::/32"}, func(r *Request) { r.Source = netip.MustParseAddr("2001:db8::1") }, "web", 22, Granted, "dev-web", ""},
		{"from a link in IPv6", corpCA, "alice", map[string]string{"source-address": "fe80::/10"}, func(r *Request) { r.Source = netip.MustParseAddr("fe80::1%eth0") }, "web", 22, Granted, "dev-web", ""},
		{"from the other family", corpCA, "alice", map[string]string{"source-address": "::/0"}, nil, "web", 22, CertNotFrom, "", "the certificate is for clients at ::/0; the client is at 203.0.113.5"},
		{"from beside source-address", corpCA, "alice", map[string]string{"source-address": "203.0.113.4,203.0.113.6/31"}, nil, "web", 22, CertNotFrom, "", "the certificate is for clients at 203.0.113.4, 203.0.113.6/31; the client is at 203.0.113.5"},
		{"from nowhere", corpCA, "alice", map[string]string{"source-address": "0.0.0.0/0"}, func(r *Request) { r.Source = netip.Addr{} }, "web", 22, CertNotFrom, "", "the certificate is for clients at 0.0.0.0/0; the address of the client is not known"},
		{"from nowhere, without source-address", corpCA, "alice", nil, func(r *Request) { r.Source = netip.Addr{} }, "web", 22, Granted, "dev-web", ""},
		{"from one of too many to tell", corpCA, "alice", map[string]string{"source-address": strings.Repeat("10.0.0.1,", 10) + "10.0.0.2"}, nil, "web", 22, CertNotFrom, "", "the certificate is for clients at " + strings.Repeat("10.0.0.1, ", 7) + "10.0.0.1 …; the client is at 203.0.113.5"},
		{"source-address comes before the validity", corpCA, "alice", map[string]string{"source-address": "10.0.0.1"}, func(r *Request) { r.Time = time.Time{} }, "web", 22, CertNotFrom, "", ""},
		{"at a time that is not known", corpCA, "alice", nil, func(r *Request) { r.Time = time.Time{} }, "web", 22, CertNotYet, "", "the certificate is valid from 2027-01-13 11:00:00 UTC on"},
		{"with a command of its own", corpCA, "alice", map[string]string{"force-command": "x"}, nil, "web", 22, Granted, "dev-web", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := Request{User: tt.user, Host: tt.host, Port: tt.port}
			if tt.ca != 0 {
				cert := makeCert(t, testSigner(tt.ca), []string{tt.user}, func(c *ssh.Certificate) { c.CriticalOptions = tt.options })
				r = mustIdentify(t, p, cert).ask(tt.host, tt.port, noon)
			}
			if tt.change != nil {
				tt.change(&r)
			}
			d := p.Decide(r)
			if d.Reason != tt.reason || d.Grant != tt.grant || tt.detail != "" && d.Detail != tt.detail {
				t.Errorf("%+v", d)
			}
			if (d.Effect == Allow) != (tt.reason == Granted) || d.Effect == Deny && d.Detail == "" {
				t.Errorf("%+v", d)
			}
			checkExplanation(t, p, r)
			for _, none := range []*Policy{nil, {}} {
				if d := none.Decide(r); d.Effect != Deny || d.Reason == "" {
					t.Errorf("no policy: %+v", d)
				}
			}
		})
	}
}

// The edges of a certificate's validity are to the second, the same at every
// question, and told beforehand.
func TestValidityOfCertificates(t *testing.T) {
	p := mustParseCerts(t, certPolicy)
	after, before := uint64(noon.Unix()), uint64(noon.Unix()+10)
	for _, tt := range []struct {
		name          string
		after, before uint64
		at            time.Time
		reason        Reason // "": it holds
		next          time.Time
	}{
		{"just before it begins", after, before, noon.Add(-1), CertNotYet, noon},
		{"as it begins", after, before, noon, "", noon.Add(10 * time.Second)},
		{"just before it ends", after, before, noon.Add(10*time.Second - 1), "", noon.Add(10 * time.Second)},
		{"as it ends", after, before, noon.Add(10 * time.Second), CertExpired, time.Time{}},
		{"long after", after, before, noon.AddDate(90, 0, 0), CertExpired, time.Time{}},
		{"at no time", after, before, time.Time{}, CertNotYet, time.Time{}},
		{"for ever", 0, math.MaxUint64, noon, "", time.Time{}},
		{"until the last second of dates", 0, lastSecond, noon, "", time.Unix(lastSecond, 0)},
		{"until after the last second of dates", 0, lastSecond + 1, noon, "", time.Time{}},
		{"until a time that overflows", 0, math.MaxInt64 - 1000, noon, "", time.Time{}},
		{"from long ago", 0, before, noon, "", noon.Add(10 * time.Second)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := mustIdentify(t, p, makeCert(t, testSigner(corpCA), []string{"alice"}, valid(tt.after, tt.before)))
			want := tt.reason
			if want == "" {
				want = Granted
			}
			for _, host := range []string{"web", "nowhere", "a b"} {
				r := id.ask(host, 22, tt.at)
				d := p.Decide(r)
				if host == "web" && d.Reason != want || (d.Reason == tt.reason) != (tt.reason != "") || !d.Next.Equal(tt.next) {
					t.Errorf("%s: %+v", host, d)
				}
				r.Port = 0
				if d := p.Decide(r); (d.Reason == tt.reason) != (tt.reason != "") || !d.Next.Equal(tt.next) {
					t.Errorf("%s: %+v", host, d)
				}
			}
			reason, detail, next := p.HoldsNow(id, netip.MustParseAddr("203.0.113.5"), tt.at)
			if reason != tt.reason || !next.Equal(tt.next) || (detail == "") != (reason == "") {
				t.Errorf("holds now: %q, %q, %v", reason, detail, next)
			}
			r := id.ask("web", 22, tt.at)
			r.Running, r.Grant = true, "dev-web"
			if d := p.Decide(r); d.Reason != want || !d.Next.Equal(tt.next) {
				t.Errorf("running: %+v", d)
			}
		})
	}
	// The user's own end, where it is earlier or later.
	for _, tt := range []struct{ before, next time.Time }{
		{time.Date(2027, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(2027, 12, 31, 23, 59, 59, 0, time.UTC)},
		{time.Date(2028, 1, 1, 0, 0, 1, 0, time.UTC), time.Date(2028, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		id := mustIdentify(t, p, makeCert(t, testSigner(corpCA), []string{"bob"}, valid(0, uint64(tt.before.Unix()))))
		if d := p.Decide(id.ask("db", 3306, noon)); d.Reason != Granted || !d.Next.Equal(tt.next) {
			t.Errorf("%+v", d)
		}
		if _, _, next := p.HoldsNow(id, netip.MustParseAddr("203.0.113.5"), noon); !next.Equal(tt.next) {
			t.Errorf("%v, want %v", next, tt.next)
		}
	}
}

// A certificate that was taken is judged again by a policy that came later.
func TestCertificatesUnderALaterPolicy(t *testing.T) {
	before := mustParseCerts(t, certPolicy)
	for _, tt := range []struct {
		name     string
		user     string
		old, new string
		reason   Reason
		detail   string
	}{
		{"the same", "zoe", "", "", Granted, ""},
		{"an authority taken away", "alice", "  - {name: corp, key: CORP, principals: [\"*\"], groups: [staff]}\n", "", AuthorityRemoved, "no authority with the key " + fingerprint(corpCA) + ` vouches for "alice"`},
		{"an authority narrowed to others", "alice", `principals: ["*"]`, `principals: ["b*"]`, AuthorityRemoved, ""},
		{"an authority narrowed, with the user still in", "alice", `principals: ["*"]`, `principals: ["al*e"]`, Granted, ""},
		{"an authority renamed", "alice", "name: corp,", "name: company,", Granted, ""},
		{"an authority with another key", "alice", "key: CORP", `key: "KEY5"`, AuthorityRemoved, ""},
		{"an authority without groups", "alice", ", groups: [staff]}", "}", NoGrant, ""},
		{"a user added of whose name it was in another case", "zoe", "users:\n", "users:\n  - {name: Zoe, keys: []}\n", AuthorityRemoved, `"zoe" differs from a user only in upper and lower case`},
		{"a user added of that name, with conditions", "zoe", "users:\n", "users:\n  - {name: zoe, keys: [], when: {until: 2026-12-31}}\n", Expired, ""},
		{"a user taken away is one whom the authority alone vouches for", "alice", "  - {name: alice, groups: [dev], keys: [KEY1]}\n", "", Granted, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := mustIdentify(t, before, makeCert(t, testSigner(corpCA), []string{tt.user}))
			text := certPolicy
			if tt.old != "" {
				if !strings.Contains(text, tt.old) {
					t.Fatal("nothing to change")
				}
				text = strings.Replace(text, tt.old, tt.new, 1)
			}
			p := mustParseCerts(t, text)
			r := id.ask("wiki", 443, noon)
			r.Running, r.Grant = true, "staff-wiki"
			d := p.Decide(r)
			if d.Reason != tt.reason || tt.detail != "" && d.Detail != tt.detail {
				t.Errorf("%+v", d)
			}
			reason, _, _ := p.HoldsNow(id, r.Source, noon)
			if holds := d.Reason == Granted || d.Reason == NoGrant; holds != (reason == "") || reason != "" && reason != d.Reason {
				t.Errorf("holds now: %q", reason)
			}
			checkExplanation(t, p, r)
		})
	}
}

// A certificate that named one user when it was taken names two, once its
// authority may vouch for the other, too.
func TestACertificateThatComesToNameTwoUsersIsNobodys(t *testing.T) {
	wide := mustParseCerts(t, certPolicy)
	narrow := mustParseCerts(t, strings.Replace(certPolicy, `principals: ["*"]`, `principals: ["al*e"]`, 1))
	id := mustIdentify(t, narrow, makeCert(t, testSigner(corpCA), []string{"alice", "bob"}))
	if reason, _, _ := narrow.HoldsNow(id, netip.Addr{}, noon); reason != "" {
		t.Errorf("while it names one: %q", reason)
	}
	if reason, detail, _ := wide.HoldsNow(id, netip.Addr{}, noon); reason != CertPrincipals || detail != "the certificate names several users now: alice, bob" {
		t.Errorf("%q, %q", reason, detail)
	}
	r := id.ask("wiki", 443, noon)
	r.Running = true
	if d := wide.Decide(r); d.Reason != CertPrincipals {
		t.Errorf("%+v", d)
	}
}

func TestMatchName(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"alice", "alice", true}, {"alice", "alice2", false}, {"alice", "Alice", false}, {"alice", "", false},
		{"*", "alice", true}, {"*", "", true}, {"**", "a", true},
		{"ci-*", "ci-1", true}, {"ci-*", "ci-", true}, {"ci-*", "ci", false}, {"ci-*", "xci-1", false},
		{"*@corp.example", "a@corp.example", true}, {"*@corp.example", "a@corp.example.evil", false}, {"*@corp.example", "a@corpxexample", false},
		{"a*a", "a", false}, {"a*a", "aa", true}, {"a*b*c", "abc", true}, {"a*b*c", "acb", false}, {"a*b*c", "axbxbxc", true}, {"a*bc*c", "abc", false},
	} {
		if got := matchName(tt.pattern, tt.name); got != tt.want {
			t.Errorf("%q, %q: %v", tt.pattern, tt.name, got)
		}
	}
}

// Whoever knows an authority's public key can make an offer that seems to be
// signed by it. It costs no more than to look at its signature.
func TestAnOfferThatNobodySignedCostsLittle(t *testing.T) {
	p := mustParseCerts(t, certPolicy)
	forge := func(change func(*ssh.Certificate)) *ssh.Certificate {
		c := makeCert(t, testSigner(corpCA), []string{"alice"}, change)
		c.Signature.Blob[0] ^= 1
		return wired(t, c)
	}
	addresses := forge(option("source-address", strings.Repeat("10.0.0.1,", 25_000)+"10.0.0.2"))
	options := forge(func(c *ssh.Certificate) {
		for i := range 20_000 {
			c.CriticalOptions[fmt.Sprintf("o%05d", i)] = ""
		}
	})
	names := forge(func(c *ssh.Certificate) {
		c.ValidPrincipals = nil
		for i := range 25_000 {
			c.ValidPrincipals = append(c.ValidPrincipals, fmt.Sprintf("u%05d", i))
		}
	})
	for name, c := range map[string]*ssh.Certificate{"addresses": addresses, "options": options, "principals": names} {
		if n := testing.AllocsPerRun(1, func() { p.Identify("", c) }); n > 100 {
			t.Errorf("%s: %v allocations", name, n)
		}
		if id, reason, detail := p.Identify("", c); reason != BadCert || id.User != "" || len(detail) > 500 {
			t.Errorf("%s: %q, %d bytes", name, reason, len(detail))
		}
	}
	stranger := makeCert(t, testSigner(strangerCA), slices.Repeat([]string{"alice"}, 25_000))
	if n := testing.AllocsPerRun(1, func() { p.Identify("", stranger) }); n > 100 {
		t.Errorf("by a stranger: %v allocations", n)
	}
}

func TestDecideAllocatesAtMostOnceForACertificate(t *testing.T) {
	p := mustParseCerts(t, certPolicy+"roles: {admin: {groups: [staff], certificates: true}}\n")
	locked := p.WithLocks(&Locks{Lockdown: &Lock{}, All: []Lock{{User: "mallory"}, {Serial: 8}, {Key: fingerprint(9)}}}, nil)
	for user, target := range map[string]string{"alice": "web", "bob": "db", "carol": "db", "zoe": "wiki", "Zoe": "wiki"} {
		id := mustIdentify(t, p, makeCert(t, testSigner(corpCA), []string{user}, option("source-address", "203.0.113.0/24")))
		r := id.ask(target, map[string]uint32{"web": 22, "db": 3306, "wiki": 443}[target], noon)
		r.Addr = netip.MustParseAddr("10.0.1.5")
		for _, p := range []*Policy{p, locked} {
			if d := p.Decide(r); d.Effect != Allow {
				t.Fatalf("%+v", d)
			}
			if n := testing.AllocsPerRun(100, func() { p.Decide(r) }); n > 1 {
				t.Errorf("%s: %v allocations", user, n)
			}
		}
	}
}

func FuzzIdentifyCert(f *testing.F) {
	p := mustParseCerts(f, certPolicy)
	dir := f.TempDir()
	for _, name := range []string{"ca", "alice"} {
		keygen(f, dir, "-t", "ed25519", "-N", "", "-C", "", "-f", name)
	}
	corp := testSigner(corpCA)
	good := makeCert(f, corp, []string{"alice"})
	f.Add(good.Marshal())
	f.Add(keygenCert(f, dir, "ca", "alice", "-n", "alice", "-O", "source-address=10.0.0.0/8", "-O", "force-command=x").Marshal())
	f.Add(keygenCert(f, dir, "ca", "alice", "-h", "-n", "host").Marshal())
	for _, key := range []ssh.PublicKey{testKey(1), testKey(9), rsaKey(2048), dsaKey(), skKey(), skECDSAKey()} {
		f.Add(key.Marshal())
		c := makeCert(f, corp, []string{"bob"}, func(c *ssh.Certificate) { c.Key = key })
		f.Add(c.Marshal())
		c.Signature.Blob[5] ^= 1
		f.Add(c.Marshal())
		c.SignatureKey = key
		f.Add(c.Marshal())
	}
	f.Fuzz(func(t *testing.T, blob []byte) {
		key, err := ssh.ParsePublicKey(blob)
		if err != nil {
			return
		}
		id, reason, detail := p.Identify("", key)
		if (reason == "") != (id.User != "") || (reason == "") != (detail == "") || strings.ContainsAny(detail, "\n\r\x1b") {
			t.Fatalf("%+v, %q, %q", id, reason, detail)
		}
		cert, ok := key.(*ssh.Certificate)
		if !ok {
			if reason == "" && !bytes.Equal(blob, testKey(1).Marshal()) && !bytes.Equal(blob, testKey(2).Marshal()) {
				t.Fatalf("a stranger is %s", id.User)
			}
			return
		}
		p.Decide(id.ask("web", 22, noon))
		if reason == "" {
			all := cert.Marshal()
			unsigned := all[:len(all)-4-len(ssh.Marshal(cert.Signature))]
			if corp.PublicKey().Verify(unsigned, cert.Signature) != nil && testKey(ciCA).Verify(unsigned, cert.Signature) != nil {
				t.Fatalf("a certificate that no authority has signed is %s's", id.User)
			}
			if !slices.Contains(cert.ValidPrincipals, id.User) {
				t.Fatalf("a certificate that does not name %s is his", id.User)
			}
		}
	})
}
