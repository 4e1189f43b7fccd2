package authz

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/crypto/ssh"
)

// Identify returns the user whom a key belongs to. The key decides: any login
// is accepted unless it is, letter for letter, the name of another user. The
// reason is "" if the user is identified; otherwise user is "" and the detail
// says in a sentence for the administrator why not.
//
// Identify proves nothing: the caller must have checked a signature by the
// key, over this connection, before acting on the answer.
func (p *Policy) Identify(login string, key ssh.PublicKey) (user string, reason Reason, detail string) {
	if key == nil {
		return "", KeyUnsupported, "there is no key"
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return "", KeyUnsupported, "certificates are not supported"
	}
	u := p.owner(key.Marshal())
	if u == nil {
		if why := unsupported(key); why != "" {
			return "", KeyUnsupported, why
		}
		return "", UnknownKey, fmt.Sprintf("the key %s is nobody's", ssh.FingerprintSHA256(key))
	}
	if login != u.name {
		if _, taken := p.users[login]; taken {
			return "", OtherUser, fmt.Sprintf("the key is %s's, and the login %s is another user's name", u.name, quote(login))
		}
	}
	return u.name, "", ""
}

func (p *Policy) owner(blob []byte) *user {
	if p == nil {
		return nil
	}
	return p.keys[string(blob)]
}

// Holds returns "" while the user is in the policy and the key with this
// fingerprint ("SHA256:…") is his, and otherwise UnknownUser or KeyRemoved.
func (p *Policy) Holds(user, fingerprint string) Reason {
	u := p.user(user)
	switch {
	case u == nil:
		return UnknownUser
	case p.fingerprints[fingerprint] != u:
		return KeyRemoved
	}
	return ""
}

// HoldsNow is Holds that also judges the user's own conditions, except for
// require: it returns why somebody may not, or no longer, be logged in. The
// reason is "" if he may. Next is the earliest instant after at when the
// reason could be another for no cause but time; zero: never.
func (p *Policy) HoldsNow(user, key string, source netip.Addr, at time.Time) (reason Reason, detail string, next time.Time) {
	switch reason = p.Holds(user, key); reason {
	case UnknownUser:
		return reason, "the policy has no user " + quote(user), time.Time{}
	case KeyRemoved:
		return reason, fmt.Sprintf("%s has no key %s", user, quote(key)), time.Time{}
	}
	r := Request{Source: source, Time: at, Touch: true}
	u := p.user(user)
	if k := u.cond.failing(&r, false); k != numConditions {
		reason, detail = conditionReasons[k], u.cond.sentence(k, u.name, true, &r)
	}
	return reason, detail, u.cond.next(&r, false)
}
