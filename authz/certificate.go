package authz

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// A Cert is a user certificate (OpenSSH's PROTOCOL.certkeys) as an authority
// of the policy has signed it. Only [Policy.Identify] makes one.
type Cert struct {
	Authority    string // name of the authority
	AuthorityKey string // fingerprint of its key
	KeyID        string
	Serial       uint64

	cert          *ssh.Certificate
	key           string   // fingerprint of the key that it is of
	names         []string // principals
	from          networks // source-address; empty: from anywhere
	fromText      []string
	after, before time.Time // before is zero for a certificate without end
	noSessions    bool      // force-command
	untouched     bool      // no-touch-required: a signature need not show a touch
}

// Untouched reports whether the certificate lets a security key sign without
// being touched, so that a signature does not show that somebody was there.
func (c *Cert) Untouched() bool { return c != nil && c.untouched }

// An authority signs certificates that say who somebody is.
type authority struct {
	name        string // in the policy; or the file and line
	key         ssh.PublicKey
	fingerprint string
	principals  []string // patterns of the names that it may vouch for
	groups      []string // that they are in, besides their own
	groupIDs    []int32
	reach

	// Of a cert-authority line in authorized_keys: it vouches for this user
	// and for nobody else.
	user    *user
	options narrowing
	refused string // why the line cannot be honoured, and so no certificate of the key proves him
}

// vouchesFor reports whether a certificate of the authority with these
// principals is the user's.
func (a *authority) vouchesFor(name string, principals []string) bool {
	if a.refused != "" {
		return false
	}
	if a.user != nil {
		if a.user.name != name {
			return false
		}
		accepted := []string{name}
		if own := a.options[0].Principals; len(own) > 0 {
			accepted = own
		}
		return slices.ContainsFunc(accepted, func(s string) bool { return slices.Contains(principals, s) })
	}
	return slices.Contains(principals, name) && slices.ContainsFunc(a.principals, func(pattern string) bool { return matchName(pattern, name) })
}

// matchName reports whether a pattern, in which "*" stands for any text,
// matches the whole name of a user.
func matchName(pattern, name string) bool {
	part, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == name
	}
	name, ok := strings.CutPrefix(name, part)
	for ok {
		if part, rest, star = strings.Cut(rest, "*"); !star {
			return strings.HasSuffix(name, part)
		}
		_, name, ok = strings.Cut(name, part) // the first is as good as any
	}
	return false
}

// caSignatures are those by which an authority may sign. SHA-1 is not among
// them, whatever the client's own signature is.
var caSignatures = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519,
	ssh.KeyAlgoECDSA256, ssh.KeyAlgoSKECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
	ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512,
}

// identifyCert finds out whose a certificate is: the one user whom one of its
// principals names and whom the authority that signed it may vouch for.
func (p *Policy) identifyCert(cert *ssh.Certificate) (id Identity, reason Reason, detail string) {
	if cert.SignatureKey == nil || cert.Key == nil || cert.Signature == nil {
		return Identity{}, BadCert, "the certificate is damaged"
	}
	signer := ssh.FingerprintSHA256(cert.SignatureKey)
	all := p.keyring().authorities[signer]
	if len(all) == 0 {
		return Identity{}, UnknownAuthority, fmt.Sprintf("the certificate %s is signed by %s, which is no authority of the policy", certWords(cert), signer)
	}
	c, why := readCert(cert)
	if why != "" {
		return Identity{}, BadCert, fmt.Sprintf("the certificate %s: %s", certWords(cert), why)
	}
	names, by := p.certNames(all, cert.ValidPrincipals)
	switch len(names) {
	case 0:
		return Identity{}, CertPrincipals, fmt.Sprintf("the certificate %s names nobody whom its authority %s may vouch for: its principals are %s", certWords(cert), quote(all[0].name), principalWords(cert))
	case 1:
	default:
		return Identity{}, CertPrincipals, fmt.Sprintf("the certificate %s names several users: %s", certWords(cert), some(names))
	}
	if why := refusedFor(names[0], all); why != "" {
		return Identity{}, KeyUnsupported, why
	}
	c.Authority, c.AuthorityKey = by.name, signer
	return Identity{User: names[0], Key: c.key, Cert: c}, "", ""
}

// refusedFor says why a line of the user's authorized_keys lets none of these
// authorities vouch for him, or returns "".
func refusedFor(name string, all []*authority) string {
	for _, a := range all {
		if a.refused != "" && a.user.name == name {
			return a.refused
		}
	}
	return ""
}

// certNames returns the users whom a certificate with these principals is of,
// and the authority that vouches for the first.
func (p *Policy) certNames(all []*authority, principals []string) (names []string, by *authority) {
	for _, a := range all {
		candidates := principals
		if a.user != nil {
			candidates = []string{a.user.name}
		}
		for _, name := range candidates {
			if !nameForm.MatchString(name) || !a.vouchesFor(name, principals) || slices.Contains(names, name) {
				continue
			}
			if p.isAlmostUser(name) {
				continue
			}
			if names = append(names, name); by == nil {
				by = a
			}
		}
	}
	return names, by
}

// isAlmostUser reports whether a name differs from a user's only in upper and
// lower case. Who is not quite a user is nobody.
func (p *Policy) isAlmostUser(name string) bool {
	if p.users[name] != nil {
		return false
	}
	var buf [64]byte // as long as names are
	lower := buf[:0]
	for i := range len(name) {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		lower = append(lower, c)
	}
	return p.folded[string(lower)] != ""
}

const (
	maxPrincipals = 256          // as many as OpenSSH takes in a certificate
	lastSecond    = 253402300799 // of the year 9999: what is later has no form as a date
)

// readCert judges what a certificate says of itself, whoever it names: all
// that no time changes. Whoever knows an authority's public key can make a
// certificate that seems to be signed by it, so nothing that takes long is
// done before its signature is known to be good.
func readCert(cert *ssh.Certificate) (c *Cert, why string) {
	c = &Cert{KeyID: cert.KeyId, Serial: cert.Serial, cert: cert, names: cert.ValidPrincipals}
	if cert.CertType != ssh.UserCert {
		return nil, "it is not a user certificate"
	}
	if why := unsupported(cert.Key); why != "" {
		return nil, why
	}
	if !slices.Contains(caSignatures, cert.Signature.Format) {
		if cert.Signature.Format == ssh.KeyAlgoRSA {
			return nil, "its authority signed it with SHA-1 (ssh-rsa)"
		}
		return nil, "its authority signed it with " + quote(cert.Signature.Format)
	}
	switch n := len(cert.ValidPrincipals); {
	case n == 0:
		return nil, "it has no principals, and would be anybody's"
	case n > maxPrincipals:
		return nil, fmt.Sprintf("it has more than %d principals", maxPrincipals)
	}
	if why := unknownOption(cert); why != "" {
		return nil, why
	}
	if _, ok := cert.Extensions["permit-port-forwarding"]; !ok {
		return nil, "it does not have permit-port-forwarding"
	}
	if why := c.readValidity(cert); why != "" {
		return nil, why
	}
	// All but the signature is judged above, and stricter.
	checker := ssh.CertChecker{
		SupportedCriticalOptions: certOptions,
		Clock:                    func() time.Time { return c.after },
	}
	if err := checker.CheckCert(cert.ValidPrincipals[0], cert); err != nil {
		return nil, "its authority's signature is not good"
	}
	if addresses, ok := cert.CriticalOptions["source-address"]; ok {
		if c.from, c.fromText, why = parseSourceAddress(addresses); why != "" {
			return nil, why
		}
	}
	_, c.noSessions = cert.CriticalOptions["force-command"]
	_, c.untouched = cert.Extensions["no-touch-required"]
	c.key = ssh.FingerprintSHA256(cert.Key)
	return c, ""
}

// certOptions are the critical options that are honoured.
var certOptions = []string{"source-address", "force-command"}

// unknownOption says which critical option is not honoured, or returns "".
func unknownOption(cert *ssh.Certificate) string {
	first := ""
	for option := range cert.CriticalOptions {
		if !slices.Contains(certOptions, option) && (first == "" || option < first) {
			first = option
		}
	}
	switch {
	case first == "verify-required":
		return "it demands verify-required, a PIN, which cannot be checked here"
	case first != "":
		return "its critical option " + quote(first) + " is not supported"
	}
	return ""
}

// readValidity reads from when until when a certificate is valid.
func (c *Cert) readValidity(cert *ssh.Certificate) (why string) {
	switch {
	case cert.ValidAfter > lastSecond || cert.ValidBefore <= cert.ValidAfter:
		return "it is valid at no time"
	case cert.ValidBefore > math.MaxInt64 && cert.ValidBefore != ssh.CertTimeInfinity:
		return "the end of its validity is no time"
	}
	c.after = time.Unix(int64(cert.ValidAfter), 0)
	if cert.ValidBefore <= lastSecond { // what is later is for ever
		c.before = time.Unix(int64(cert.ValidBefore), 0)
	}
	return ""
}

func certTime(t time.Time) string { return string(words(nil).certTime(t)) }

// parseSourceAddress reads the value of source-address: addresses and networks
// parted by commas.
func parseSourceAddress(s string) (nets networks, texts []string, why string) {
	var all []netip.Prefix
	for _, word := range strings.Split(s, ",") {
		prefix, err := netip.ParsePrefix(word)
		if err != nil {
			addr, err := netip.ParseAddr(word)
			if err != nil || addr.Zone() != "" {
				return nil, nil, "its source-address " + quote(s) + " cannot be read"
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		} else if prefix != prefix.Masked() { // sshd refuses such a list, too
			return nil, nil, "its source-address " + quote(s) + " has bits set beyond the length of a network"
		}
		all, texts = append(all, prefix), append(texts, word)
	}
	return makeNetworks(all), texts, ""
}

// certWords name a certificate for an administrator.
func certWords(cert *ssh.Certificate) string {
	return fmt.Sprintf("%s (serial %d)", quote(cert.KeyId), cert.Serial)
}

func principalWords(cert *ssh.Certificate) string {
	words := make([]string, len(cert.ValidPrincipals))
	for i, s := range cert.ValidPrincipals {
		words[i] = quote(s)
	}
	return some(words)
}

// vouched is a user as an authority vouches for him: in its groups, too. The
// room for them is part of it, so that few need another allocation.
type vouched struct {
	user
	subjectRoom [8]*subject
	groupRoom   [8]int32
	whoRoom     [8]int32
}

// certHolder is holder for a request with a certificate. The policy may have
// changed since the login: the authority must still vouch for him.
func (p *Policy) certHolder(r *Request) (u *user, options narrowing, reason Reason, detail string) {
	u = p.named(r.User)
	all := p.keys.authorities[r.Cert.AuthorityKey]
	if r.Key != r.Cert.key {
		return u, nil, KeyRemoved, fmt.Sprintf("the certificate is not of the key %s", quote(r.Key))
	}
	if why := refusedFor(r.User, all); why != "" {
		return u, nil, KeyUnsupported, why
	}
	if p.isAlmostUser(r.User) {
		return u, nil, AuthorityRemoved, fmt.Sprintf("%s differs from a user only in upper and lower case", quote(r.User))
	}
	var by *authority
	for _, a := range all {
		if !a.vouchesFor(r.User, r.Cert.names) {
			continue
		}
		if by == nil {
			by = a
		}
		if options == nil {
			options = a.options
		} else {
			options = slices.Concat(options, a.options)
		}
	}
	if by == nil {
		return u, nil, AuthorityRemoved, fmt.Sprintf("no authority with the key %s vouches for %s", r.Cert.AuthorityKey, quote(r.User))
	}
	if len(r.Cert.names) > 1 || len(all) > 1 {
		if names, _ := p.certNames(all, r.Cert.names); len(names) > 1 {
			return u, nil, CertPrincipals, "the certificate names several users now: " + some(names)
		}
	}
	if u != nil && len(by.groupIDs) == 0 {
		return u, options, "", ""
	}
	v := new(vouched)
	if u != nil {
		v.user = *u
	} else {
		v.id, v.name = noUser, r.User
	}
	v.subjects = append(append(v.subjectRoom[:0], v.subjects...), by.subjects...)
	v.groupIDs = append(append(v.groupRoom[:0], v.groupIDs...), by.groupIDs...)
	v.whos = append(append(v.whoRoom[:0], v.whos...), by.whos...)
	slices.Sort(v.whos)
	v.whos = slices.Compact(v.whos)
	v.cost += by.cost
	return &v.user, options, "", ""
}
