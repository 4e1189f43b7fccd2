package authz

import (
	"net/netip"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/authz/authkeys"
)

// An Identity is a user together with how he proved to be it.
type Identity struct {
	User string
	Key  string // fingerprint of the key that signed, "SHA256:…"
	Cert *Cert  // the certificate that the key came in; nil: none
}

// Identify returns the user whom a key, or the certificate that it comes in,
// belongs to. The key decides: any login is accepted unless it is, letter for
// letter, the name of another user. The reason is "" if the user is
// identified; otherwise the Identity is zero and the detail says in a sentence
// for the administrator why not.
//
// Identify proves nothing: the caller must have checked a signature by the
// key, over this connection, before acting on the answer. Nor does it judge
// what time, source or a command may change, which [Policy.HoldsNow] does.
func (p *Policy) Identify(login string, key ssh.PublicKey) (id Identity, reason Reason, detail string) {
	if key == nil {
		return Identity{}, KeyUnsupported, "there is no key"
	}
	if cert, ok := key.(*ssh.Certificate); ok {
		id, reason, detail = p.identifyCert(cert)
	} else {
		id, reason, detail = p.identifyKey(key)
	}
	if reason != "" {
		return Identity{}, reason, detail
	}
	if login != id.User && p.named(login) != nil {
		var room wordsRoom
		return Identity{}, OtherUser, string(words(room[:0]).s("the key is ").s(id.User).s("'s, and the login ").q(login).s(" is another user's name"))
	}
	return id, "", ""
}

// HasKey reports whether a key is somebody's by the policy, though it may be
// one that is refused.
func (p *Policy) HasKey(key ssh.PublicKey) bool { return p.keyring().find(key) != nil }

func (p *Policy) identifyKey(key ssh.PublicKey) (id Identity, reason Reason, detail string) {
	var wire [1024]byte // for RSA keys of up to 8,000 bits
	t := key.Type()
	blob := appendWire(wire[:0], key, t)
	c := p.keyring().byBlob[string(blob)]
	if c == nil {
		if why := unsupportedOf(key, t); why != "" {
			return Identity{}, KeyUnsupported, why
		}
		var room wordsRoom
		return Identity{}, UnknownKey, string(words(room[:0]).s("the key ").fingerprint(blob).s(" is nobody's"))
	}
	if c.refused != "" {
		return Identity{}, KeyUnsupported, c.refused
	}
	return Identity{User: c.user.name, Key: c.fingerprint}, "", ""
}

// HoldsNow says whether somebody may be logged in, by the locks, by his key or
// certificate and by the user's own conditions, except for require: the reason
// is "" if he may. Next is the earliest instant after at when the reason could
// be another for no cause but time; zero: never.
func (p *Policy) HoldsNow(id Identity, source netip.Addr, at time.Time) (reason Reason, detail string, next time.Time) {
	r := Request{User: id.User, Key: id.Key, Cert: id.Cert, Source: source, Time: at, Touch: true}
	u, s := p.standing(&r)
	if s.reason != "" {
		return s.reason, s.detail, s.next
	}
	if k := u.cond.failing(&r, false); k != numConditions {
		reason, detail = conditionReasons[k], u.cond.sentence(k, u.name, true, &r)
	}
	return reason, detail, earlier(s.next, u.cond.next(&r, false))
}

// NoSessions reports whether the key or certificate is for forwards only: it
// has a command of its own that a session would be given to, and none is run
// here.
func (p *Policy) NoSessions(id Identity) bool {
	if id.Cert != nil && id.Cert.noSessions {
		return true
	}
	_, s := p.standing(&Request{User: id.User, Key: id.Key, Cert: id.Cert})
	return s.options.any(func(o *authkeys.Options) bool { return o.NoSessions })
}

// A standing is what is known of the principal of a request before it is asked
// what he wants.
type standing struct {
	reason  Reason // "": he may be here
	detail  string
	next    time.Time // when time alone may change that; zero: never
	options narrowing // what his key, or his certificate's authority, allows
}

// standing finds the user of a request, and judges the proof: the locks, then
// whether the key or certificate is his, then whether it is good here and now.
// The user is nil if there is no such user.
func (p *Policy) standing(r *Request) (*user, standing) {
	if p == nil {
		return nil, standing{reason: UnknownUser, detail: noUserNamed(r.User)}
	}
	u, options, reason, detail := p.holder(r)
	s := standing{reason: reason, detail: detail, options: options}
	if lock := p.locked[Lock{User: r.User}]; lock != nil {
		var room wordsRoom
		s.reason, s.detail = Locked, string(words(room[:0]).s(r.User).s(" is locked").since(lock))
	} else if why := p.revocation(r); why != "" {
		s.reason, s.detail = Revoked, why
	} else if why := p.shut[r.User]; why != "" {
		s.reason, s.detail = KeyFileUnusable, why
	} else if s.reason == "" {
		s.judge(r)
	}
	return u, s
}

// judge looks at what the key's options and the certificate say of time and
// source.
func (s *standing) judge(r *Request) {
	var room wordsRoom
	w := words(room[:0])
	for _, o := range s.options {
		switch {
		case o.From != nil && !o.From.Match(sourceOf(r)):
			s.refuse(KeyNotFrom, w.s("the key is allowed from ").s(o.From.String()).s("; ").client(sourceOf(r)))
		case !o.Expiry.IsZero() && !before(r, o.Expiry):
			s.refuse(KeyExpired, w.s("the key is allowed until ").time(o.Expiry, "2006-01-02 15:04:05 MST"))
		case !o.Expiry.IsZero():
			s.next = earlier(s.next, o.Expiry)
		}
	}
	if c := r.Cert; c != nil {
		switch {
		case len(c.from) > 0 && !c.from.contains(sourceOf(r)):
			s.refuse(CertNotFrom, w.s("the certificate is for clients at ").some(c.fromText).s("; ").client(sourceOf(r)))
		case r.Time.IsZero() || r.Time.Before(c.after):
			s.refuse(CertNotYet, w.s("the certificate is valid from ").certTime(c.after).s(" on"))
			if !r.Time.IsZero() {
				s.next = earlier(s.next, c.after)
			}
		case !c.before.IsZero() && !r.Time.Before(c.before):
			s.refuse(CertExpired, w.s("the certificate was valid until ").certTime(c.before))
		default:
			s.next = earlier(s.next, c.before)
		}
	}
}

// refuse keeps the first refusal.
func (s *standing) refuse(reason Reason, detail words) {
	if s.reason == "" {
		s.reason, s.detail = reason, string(detail)
	}
}

func noUserNamed(name string) string {
	var room wordsRoom
	return string(words(room[:0]).s("the policy has no user ").q(name))
}

// before reports whether the request's time is known and before t.
func before(r *Request, t time.Time) bool { return !r.Time.IsZero() && r.Time.Before(t) }

// clientOf says where the client is.
func clientOf(r *Request) string {
	return string(words(nil).client(sourceOf(r)))
}

// holder returns the user of a request as his proof makes him, with what
// narrows that, and why the proof is not his.
func (p *Policy) holder(r *Request) (u *user, options narrowing, reason Reason, detail string) {
	u = p.users[r.User]
	if r.Cert != nil {
		return p.certHolder(r)
	}
	if u == nil {
		return nil, nil, UnknownUser, noUserNamed(r.User)
	}
	if r.Key == AnyKey {
		return u, nil, "", ""
	}
	c := p.keyring().byFingerprint[r.Key]
	if c == nil || c.user != u {
		var room wordsRoom
		return u, nil, KeyRemoved, string(words(room[:0]).s(u.name).s(" has no key ").q(r.Key))
	}
	if c.refused != "" {
		return u, nil, KeyUnsupported, c.refused
	}
	return u, c.options, "", ""
}
