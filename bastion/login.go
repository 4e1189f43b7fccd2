package bastion

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/authz"
)

const (
	serverVersion = "SSH-2.0-Sekisho" // must not begin with OpenSSH: clients switch on quirks by it
	entranceSSH   = "ssh"

	// What a client that has not logged in can put into a record; its version
	// string has 255 bytes at most by x/crypto/ssh.
	maxOffered = 8 // refused keys that are named
	maxLogin   = 256
	maxMethod  = 64
	maxDetail  = 512
)

// Reasons of failed logins, beside those of package authz.
const (
	reasonLoginGrace   = "login_grace"
	reasonBadSignature = "bad_signature"
	reasonNotProven    = "not_proven"
	reasonTooMany      = "too_many_tries"
	reasonNoKey        = "no_key_offered"
	reasonMethod       = "method_not_supported"
	reasonSHA1         = "sha1_signature"
	reasonNoAlgorithm  = "no_common_algorithm"
)

// login is what is known of a client while it logs in. Nothing in it is
// proven; it serves the record of a login that fails.
type login struct {
	shaken   func() // counts the handshake; called at the first userauth request
	finished func() // stops the limit on the login
	err      error  // of the handshake

	begun    bool // a userauth request has come
	known    bool // a login or key concerned somebody whom the policy knows
	user     string
	client   string
	accepted string // fingerprint of a key that would have been let in, had it been proven
	last     string // fingerprint of the last key, if it is one of those
	refused  int    // offers
	offered  []offer
	methods  []string  // tried, besides none and publickey
	sha1     bool      // an offer was to be signed with SHA-1
	noRoom   *endCause // why a proven key was turned away
}

// offer is a key or certificate that a client offered and that was refused. It
// is not kept itself: a stranger's certificate may have 256 KiB, and several
// times that once it is parsed.
type offer struct {
	key    string // its fingerprint
	reason string
	detail string
	hint   string
	known  bool // the policy knows it
}

// refuse notes a refused key. The last ones are kept, and rather those that
// the policy knows: many others must not hide them.
func (l *login) refuse(policy *authz.Policy, key ssh.PublicKey, reason authz.Reason, detail string) error {
	l.refused++
	known := knows(policy, key, reason)
	l.known = l.known || known
	if len(l.offered) == maxOffered {
		i := slices.IndexFunc(l.offered, func(o offer) bool { return !o.known })
		i = max(i, 0)
		l.offered = slices.Delete(l.offered, i, i+1)
	}
	detail = bounded(detail, maxDetail)
	l.offered = append(l.offered, offer{ssh.FingerprintSHA256(plainKey(key)), string(reason), detail, offerHint(key, reason), known})
	return errors.New(detail) // the library keeps it until the login is over
}

// knows reports whether the policy knows a key or certificate that is refused.
// A certificate whose signature is not good is anybody's.
func knows(policy *authz.Policy, key ssh.PublicKey, reason authz.Reason) bool {
	switch reason {
	case authz.UnknownKey, authz.UnknownAuthority, authz.BadCert:
		return false
	case authz.KeyUnsupported:
		_, cert := key.(*ssh.Certificate)
		return cert || policy.HasKey(key)
	}
	return true
}

// serverConfig makes the configuration of one handshake.
func (c *connection) serverConfig() *ssh.ServerConfig {
	config := &ssh.ServerConfig{
		Config: ssh.Config{
			KeyExchanges: keyExchanges, Ciphers: c.ciphers, MACs: macs, RekeyThreshold: c.server.rekey,
		},
		PublicKeyAuthAlgorithms: signatures,
		ServerVersion:           serverVersion,
		// The library counts the refused offer that reaches the limit as the
		// end; here that many refusals still leave one more try.
		MaxAuthTries: c.server.limits.MaxAuthTries + 1,
		// gliderlabs/ssh turns NoClientAuth on where none of its own handlers
		// is set, which would let everybody in: method none always fails.
		NoClientAuthCallback: func(ssh.ConnMetadata) (*ssh.Permissions, error) { return nil, ssh.ErrNoAuth },

		PublicKeyCallback:         c.offerKey,
		VerifiedPublicKeyCallback: c.proveKey,
		AuthLogCallback:           c.logAuth,
		PreAuthConnCallback:       c.beginLogin,
	}
	for _, key := range c.hostKeys.used {
		config.AddHostKey(signsAfter(key, c.keyExchange))
	}
	return config
}

// hassh is that of the client's first KEXINIT, or "".
func (c *connection) hassh() string {
	if _, first := c.wire.before.greeting.said(); first != nil {
		return first.hassh
	}
	return ""
}

// beginLogin is called once a client may send requests to log in.
func (c *connection) beginLogin(conn ssh.ServerPreAuthConn) {
	packets := packetsOf(conn)
	c.packets.Store(&packets)
	close(c.wire.begun)
}

// offerKey answers whether a key might log in. The client has not proven that
// it holds the key, so nothing is decided here; and the user name is not
// looked at, or whoever knows one public key could find out who the others
// are.
func (c *connection) offerKey(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	policy := c.server.policies.get()
	c.login.saw(meta, policy)
	c.login.last = ""
	if _, reason, detail := policy.Identify("", key); reason != "" {
		return nil, c.login.refuse(policy, key, reason, detail)
	}
	c.login.known = true
	c.login.last = ssh.FingerprintSHA256(plainKey(key))
	c.login.accepted = c.login.last
	return new(ssh.Permissions), nil
}

// proveKey decides: the client has signed with key. Nothing that was offered
// before counts, and the user name is the one of this very request.
func (c *connection) proveKey(meta ssh.ConnMetadata, key ssh.PublicKey, _ *ssh.Permissions, algorithm string) (*ssh.Permissions, error) {
	c.login.accepted = "" // it is proven
	policy := c.server.policies.get()
	id, reason, detail := policy.Identify(meta.User(), key)
	if reason != "" {
		return nil, c.login.refuse(policy, key, reason, detail)
	}
	principal := &Principal{
		User: id.User, Key: id.Key, Cert: id.Cert, Login: meta.User(), Entrance: entranceSSH,
		Conn: c.id, Client: string(meta.ClientVersion()), Source: c.source,
		// x/crypto/ssh takes a signature of a security key only with its flag
		// of a touch, unless the certificate says that none is needed.
		Touch: strings.HasPrefix(key.Type(), "sk-") && !id.Cert.Untouched(),
	}
	if reason, detail, err := c.admit(principal); err != nil {
		return nil, err
	} else if reason != "" {
		return nil, c.login.refuse(policy, key, reason, detail)
	}
	c.recordLogin(principal, algorithm)
	return new(ssh.Permissions), nil
}

// plainKey is the key that a certificate is of, or the key itself.
func plainKey(key ssh.PublicKey) ssh.PublicKey {
	if cert, ok := key.(*ssh.Certificate); ok {
		return cert.Key
	}
	return key
}

// admit makes the connection p's, if he may come in now and there is room.
func (c *connection) admit(p *Principal) (reason authz.Reason, detail string, err error) {
	cause := limitCause("refusals at once", refusalBurst)
	if !c.server.refusals.isAway(p.User, time.Now()) {
		cause = c.server.gate.login(p.User)
	}
	if cause != nil {
		c.login.noRoom = cause
		return "", "", &ssh.BannerError{Message: "sekisho: not now: " + cause.detail + "\r\n"}
	}
	c.proven.Store(p)
	// SetPolicy ends the connections that it can see. One that it has not
	// seen must see the policy.
	if reason, detail = c.holds(p); reason != "" {
		c.proven.Store(nil)
		c.server.gate.logout(p.User)
		return reason, detail, nil
	}
	c.server.gate.leave(sourceOf(c.source.Addr()))
	return "", "", nil
}

// holds asks whether the policy in force lets p, whose connection it is, be
// here, and notes until when that is sure.
func (c *connection) holds(p *Principal) (authz.Reason, string) {
	c.judging.Lock() // or an edge by an older policy could be noted last
	defer c.judging.Unlock()
	reason, detail, edge := c.holdsBy(c.server.policies.get(), p)
	c.edge.Store(&edge)
	return reason, detail
}

// holdsBy asks a policy, and changes nothing.
func (c *connection) holdsBy(policy *authz.Policy, p *Principal) (reason authz.Reason, detail string, edge time.Time) {
	return policy.HoldsNow(p.identity(), c.source.Addr(), c.server.now())
}

func (c *connection) recordLogin(p *Principal, algorithm string) {
	rec := c.record(audit.AuthOK)
	rec.Hassh, rec.Detail = c.hassh(), "signed with "+algorithm
	c.server.forwarder.counts.login("ok", "")
	// A login reaches nothing: no disk holds it up.
	c.server.forwarder.write(&rec, c.server.limits.DialTimeout, func(err error) { c.appended(rec.Type, err) })
	fields := c.fields()
	fields[fieldLogin], fields[fieldKey], fields[fieldClient] = printable(p.Login), p.Key, printable(p.Client)
	if rec.Hassh != "" {
		fields[fieldHassh] = rec.Hassh
	}
	if p.Cert != nil {
		fields["authority"], fields["key_id"], fields["serial"] = p.Cert.Authority, printable(p.Cert.KeyID), p.Cert.Serial
	}
	c.server.log.WithFields(fields).Info("login")
}

// logAuth sees every attempt. It is the only place that sees other methods,
// and keys whose signature algorithm is not accepted.
func (c *connection) logAuth(meta ssh.ConnMetadata, method string, err error) {
	l := &c.login
	if err == nil {
		l.finished()
		return
	}
	l.saw(meta, c.server.policies.get())
	switch method {
	case "none":
	case "publickey":
		if strings.Contains(err.Error(), `"ssh-rsa" not accepted`) || strings.Contains(err.Error(), `"ssh-rsa-cert-v01@openssh.com" not accepted`) {
			l.sha1 = true
		}
	default:
		method = bounded(method, maxMethod)
		if len(l.methods) < 8 && !slices.Contains(l.methods, method) {
			l.methods = append(l.methods, method)
		}
	}
}

// saw notes what comes with a request. That the login is the name of somebody
// says nothing about who sent it.
func (l *login) saw(meta ssh.ConnMetadata, policy *authz.Policy) {
	if !l.begun {
		l.shaken()
	}
	l.begun, l.user, l.client = true, bounded(meta.User(), maxLogin), string(meta.ClientVersion())
	l.known = l.known || policy.Named(meta.User())
}

// bounded is s, cut if it is long.
func bounded(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

// finish tells, once the connection has ended, of a login that was not
// finished. A client that left before it tried to log in, as one does that
// meets an unknown host key, is no failure. Whatever else comes from somebody
// who has not logged in ends here too, and is recorded and logged within the
// bounds of the server's flood.
func (l *login) finish(c *connection, ended *endCause) {
	line := c.line()
	if l.err != nil && mismatchOf(l.err) == nil { // whose text can be long, and is in the detail
		line = line.WithField("error", printable(l.err.Error()))
	}
	if unproven(l.err) {
		l.accepted = l.last // and no key that was offered before it
	}
	c.server.penalise(c.source, l.offence(&c.wire.before, ended))
	reason, detail, hint := l.why(ended)
	counts := &c.server.forwarder.counts
	if !l.begun {
		counts.handshake(time.Since(c.started), false)
	}
	if !l.begun && ended.byClient() && reason != reasonNoAlgorithm {
		counts.ended("fail", ended.reason)
		line.Debug("connection ended before a login")
		return
	}
	counts.ended("fail", reason)
	counts.login("fail", reason)

	failed := failure{sourceOf(c.source.Addr()), l.known, reason}
	if !c.server.flood.single(failed) {
		return
	}
	detail = bounded(detail, maxDetail)
	if l.refused > len(l.offered) {
		detail += fmt.Sprintf("; %d offers were refused, of which %d are named", l.refused, len(l.offered))
	}
	rec := c.record(audit.AuthFail)
	rec.Login, rec.Client, rec.Hassh, rec.Reason, rec.Detail = l.user, l.client, c.hassh(), reason, detail
	line = line.WithFields(logrus.Fields{fieldLogin: printable(l.user), fieldClient: printable(l.client), fieldReason: reason, fieldDetail: printable(detail)})
	if rec.Hassh != "" {
		line = line.WithField(fieldHassh, rec.Hassh)
	}
	for _, o := range l.offered {
		rec.Key = o.key
		rec.Offered = append(rec.Offered, rec.Key)
	}
	if l.accepted != "" {
		rec.Key = l.accepted
	}
	if rec.Key != "" {
		line = line.WithField(fieldKey, rec.Key)
	}
	if len(rec.Offered) > 0 {
		line = line.WithField("offered", strings.Join(rec.Offered, " "))
	}
	if err := c.append(rec); err != nil {
		c.server.flood.unwritten(failed, errors.Is(err, audit.ErrInFlight))
	}
	line.WithField("hint", hint).Warn("login refused")
}

// why says why a login was not finished, and what an administrator can do.
func (l *login) why(ended *endCause) (reason, detail, hint string) {
	switch {
	case ended.reason == reasonLoginGrace:
		return ended.reason, ended.detail, "nothing to do, unless people are slow to touch or unlock their keys: then raise limits.login_grace"
	case !ended.byClient(): // drain, an error of ours
		return ended.reason, ended.detail, "nothing to do: the client may try again"
	case mismatchOf(l.err) != nil:
		return reasonNoAlgorithm, mismatchDetail(mismatchOf(l.err)), "the client is too old, or set to what is weak: it must be newer, or offer one of the server's"
	case l.noRoom != nil:
		return l.noRoom.reason, l.noRoom.detail, "raise the limit, or find out why there are so many"
	case l.accepted != "" && unproven(l.err):
		return reasonBadSignature, fmt.Sprintf("%s was offered and not proven: %v", l.accepted, l.err), "the client does not hold the key that it offered, or a security key was not touched"
	case l.sha1 && l.refused == 0:
		return reasonSHA1, "the client can only sign with SHA-1 (ssh-rsa), which is refused", "the client must be newer, or use an ed25519 or ecdsa key"
	case l.accepted != "":
		return reasonNotProven, fmt.Sprintf("%s was offered and accepted; the client left before it had signed with it", l.accepted), "nothing to do: it was not unlocked or touched, or the client only asked"
	case l.exhausted() && l.refused > 0 && len(l.methods) == 0:
		return reasonTooMany, fmt.Sprintf("%d keys were refused", l.refused), "the client's agent holds too many keys: IdentitiesOnly=yes with the right IdentityFile on the client, or raise limits.max_auth_tries"
	case len(l.offered) > 0:
		last := l.offered[len(l.offered)-1]
		return last.reason, last.detail, last.hint
	case len(l.methods) > 0:
		return reasonMethod, "the client tried " + printable(strings.Join(l.methods, ", ")), "only public keys log in: the client needs a key of a user of the policy"
	}
	return reasonNoKey, "the client offered no key", "the client has no key to offer, or was not told which: ssh -i FILE"
}

// exhausted reports whether the client used all its tries up.
func (l *login) exhausted() bool {
	var auth *ssh.ServerAuthError
	return errors.As(l.err, &auth) && len(auth.Errors) > 0 && strings.Contains(auth.Errors[len(auth.Errors)-1].Error(), "too many authentication")
}

// offence is what the client's source is to be penalised for. Refused offers
// are none, nor a key that was never proven: agents offer all they hold, and
// people do not always touch their token. Nor is what the server brought about.
func (l *login) offence(wire *beforeLogin, ended *endCause) offence {
	switch {
	case ended.reason == reasonLoginGrace:
		if wire.seat.waitedInVain() {
			return noOffence // it was not the client who was slow
		}
		return graceExceeded
	case !ended.byClient() || l.noRoom != nil:
		return noOffence
	case l.begun && unproven(l.err) && l.accepted != "", l.exhausted(), len(l.methods) > 0:
		return authFail
	case mismatchOf(l.err) != nil:
		return noOffence // an old client; or ssh-keyscan, which asks for each type of host key
	case unproven(l.err) && !left(l.err) && ended.reason != reasonClientLost:
		return badBytes
	case wire.spoke.Load() && !wire.shownHostKey():
		return noAuth
	}
	return noOffence
}

// left reports whether err, of a handshake, is that of a client that was gone
// in the middle of a packet.
func left(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }

// mismatchOf returns the error of a client and a server that have no algorithm in
// common, or nil.
func mismatchOf(err error) *ssh.AlgorithmNegotiationError {
	var mismatch *ssh.AlgorithmNegotiationError
	errors.As(err, &mismatch)
	return mismatch
}

// mismatchDetail says for what there is no common algorithm, and what both
// sides offer for it. The client's offer may be long, and is a stranger's.
func mismatchDetail(e *ssh.AlgorithmNegotiationError) string {
	theirs := "nothing"
	if len(e.RequestedAlgorithms) > 0 {
		theirs = offerOf(e.RequestedAlgorithms)
	}
	return fmt.Sprintf("no %s in common; the client offers %s; the server %s", e.What, theirs, offerOf(e.SupportedAlgorithms))
}

// offerOf names algorithms, as many as there is room for.
func offerOf(algorithms []string) string {
	const most = 200 // so that both sides have room within maxDetail
	var b strings.Builder
	for i, name := range algorithms {
		if i > 0 {
			b.WriteString(", ")
		}
		name = printable(name)
		if b.Len()+len(name) > most {
			fmt.Fprintf(&b, "and %d more", len(algorithms)-i)
			break
		}
		b.WriteString(name)
	}
	return b.String()
}

// unproven reports whether err, of a handshake, is that of a signature: the
// library returns it as it is and closes the connection.
func unproven(err error) bool {
	var auth *ssh.ServerAuthError
	var network net.Error
	return err != nil && !errors.As(err, &auth) && !errors.As(err, &network) && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) &&
		!strings.HasPrefix(err.Error(), "ssh: disconnect")
}

func offerHint(key ssh.PublicKey, reason authz.Reason) string {
	switch reason {
	case authz.UnknownKey:
		return "to let this key in, add it to a user in the policy and reload: " + authorizedLine(key)
	case authz.NotFrom, authz.Excepted, authz.NotYet, authz.Expired, authz.OutsideHours:
		return "the user's \"when\" in the policy does not hold; change it if it should"
	case authz.UnknownAuthority:
		cert, _ := key.(*ssh.Certificate)
		return "to trust this authority, add it to authorities in the policy and reload: " + authorizedLine(cert.SignatureKey)
	case authz.CertPrincipals:
		return "the certificate needs one principal: the name of a user that the authority's principals match"
	case authz.BadCert, authz.CertNotYet, authz.CertExpired, authz.CertNotFrom:
		return "the user needs another certificate: ssh-keygen -Lf FILE shows what one says"
	case authz.KeyExpired, authz.KeyNotFrom:
		return "the options of the key in the user's authorized_keys file do not hold; change them if they should"
	case authz.KeyFileUnusable:
		return "mend the user's authorized_keys file; sekisho check tells what is wrong with it"
	case authz.Locked:
		return "sekisho unlock lets the user in again"
	case authz.Revoked:
		return "give the user another key or certificate; sekisho revoke --undo takes a revocation back"
	case authz.OtherUser:
		return "the key belongs to somebody else than the login says: log in without a user name, or with the key's own"
	}
	return "give the user another key"
}

// authorizedLine is the line of authorized_keys for a key, or its fingerprint if that
// would be longer than the keys that people have: the application of a
// security key can have any length.
func authorizedLine(key ssh.PublicKey) string {
	const most = 2 << 10 // bytes; an RSA key of 8,192 bits has half of it
	if len(key.Marshal()) > most {
		return ssh.FingerprintSHA256(key)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}
