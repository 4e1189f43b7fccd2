package authz

import (
	"net/netip"
	"strings"
	"time"
)

// An Effect is what a decision comes to. Its zero value denies.
type Effect uint8

const (
	Deny Effect = iota
	Allow
)

func (e Effect) String() string {
	if e == Allow {
		return "allow"
	}
	return "deny"
}

// MarshalText makes the effect a word in JSON.
func (e Effect) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// A Reason is the code of why a decision fell as it did.
type Reason string

const (
	// Who.
	UnknownKey     Reason = "unknown_key"     // the key belongs to no user
	OtherUser      Reason = "other_user"      // the login is the name of another user
	UnknownUser    Reason = "unknown_user"    // the user is not, or no longer, in the policy
	KeyRemoved     Reason = "key_removed"     // the key is not, or no longer, the user's
	KeyUnsupported Reason = "key_unsupported" // a DSA key, an RSA key below 2048 bits …

	// By certificate.
	BadCert          Reason = "bad_cert"          // it is not one that is taken here, whoever it is of
	UnknownAuthority Reason = "unknown_authority" // it is signed by no authority of the policy
	CertPrincipals   Reason = "cert_principals"   // it names no user whom its authority may vouch for, or several
	AuthorityRemoved Reason = "authority_removed" // its authority is not, or no longer, one that vouches for the user
	CertNotYet       Reason = "cert_not_yet"
	CertExpired      Reason = "cert_expired"
	CertNotFrom      Reason = "cert_not_from" // the client is at no address of its source-address

	// By the options of a key in authorized_keys.
	KeyExpired      Reason = "key_expired"       // past expiry-time
	KeyNotFrom      Reason = "key_not_from"      // the client is at no address of from
	KeyNoForwarding Reason = "key_no_forwarding" // restrict, or no-port-forwarding
	KeyNotPermitted Reason = "key_not_permitted" // permitopen does not name the target
	KeyFileUnusable Reason = "key_file"          // the file cannot be read or trusted, and may narrow every key of its user

	// Taken away by command.
	Locked   Reason = "locked"   // the user is
	Revoked  Reason = "revoked"  // the key or certificate is, or its authority's key
	Lockdown Reason = "lockdown" // nothing begins, but for admins

	// What.
	BadHost Reason = "bad_host" // the host is not in normal form
	BadPort Reason = "bad_port" // port 0 or above 65535
	NoGrant Reason = "no_grant" // no grant of the user names the target

	// On what conditions: a grant would allow, but for the first of these, of
	// the user or of itself, that does not hold.
	NotFrom      Reason = "not_from"      // the client is at no address of from
	Excepted     Reason = "excepted"      // the client is at an address of except
	NotYet       Reason = "not_yet"       // before after
	Expired      Reason = "expired"       // past until
	OutsideHours Reason = "outside_hours" // in none of hours
	NeedsTouch   Reason = "needs_touch"   // the signature shows no touch of the key

	// Where: why the fence, or the target's within, refuses an address.
	OutsideNetworks Reason = "outside_networks"
	OutsideWithin   Reason = "outside_within"
	OwnAddress      Reason = "own_address"
	Loopback        Reason = "loopback"
	LinkLocal       Reason = "link_local"
	Multicast       Reason = "multicast" // broadcast too
	Unspecified     Reason = "unspecified"
	Metadata        Reason = "metadata"

	Granted Reason = "granted"
)

// Words are the reason for people, for "may not open TARGET (…)".
func (r Reason) Words() string {
	switch r {
	case NotFrom:
		return "not from your address"
	case Excepted:
		return "your address is excepted"
	case Expired:
		return "no longer"
	case NeedsTouch:
		return "needs a security key that is touched"
	case Locked:
		return "you are locked"
	case Lockdown:
		return "locked down: nothing new begins"
	case Revoked:
		return "your key or certificate is revoked"
	case KeyNoForwarding:
		return "your key is not for forwarding"
	case KeyNotPermitted:
		return "permitopen of your key does not name it"
	}
	return strings.ReplaceAll(string(r), "_", " ")
}

// AnyKey, as the key of a Request, asks what a user may do whatever his key.
// It is for explaining: nobody has proven such a key, so the answer is never
// permission to dial.
const AnyKey = "*"

// A Request asks whether a principal may reach a target. It is asked twice
// for each forward: first with the zero Addr, on the host and port as the
// client sent them; then, for each address that the host resolved to, with
// Addr set. Only the second answer is permission to dial, and only that
// address. The zero Request is denied.
//
// What the caller does not know stays zero, and fails every condition that is
// about it.
type Request struct {
	User string // the principal, proven by signature
	Key  string // fingerprint of the key that proved it, "SHA256:…", or AnyKey
	Cert *Cert  // the certificate that the key came in; nil: none
	Host string // as asked, not yet in normal form
	Port uint32 // as asked
	Addr netip.Addr

	Source netip.Addr // of the client, as the server itself sees it
	Time   time.Time  // now
	Touch  bool       // the signature shows that its owner touched the key, at this login

	// Running says that the forward was allowed once and runs: the hours of
	// a grant with at_end: keep no longer count. Everything else does. Set it
	// for no other forward, as it opens one outside the hours.
	Running bool

	// Grant, while Running, is the name of the grant that carries the
	// forward, as Decision.Grant told it last: only its hours no longer
	// count. Where it is empty those of no grant with at_end: keep do, and
	// the forward may go over to one at whose hours it was never allowed.
	Grant string
}

// A Decision is the answer to a Request. The zero Decision denies.
type Decision struct {
	Effect Effect `json:"effect"`
	Reason Reason `json:"reason"`
	Detail string `json:"detail,omitempty"` // a sentence for the administrator; may name what the user may not know

	// Grant is the name of the first grant in file order that allows. In the
	// answer to a first question it is the first that may turn out to.
	Grant string `json:"grant,omitempty"`

	// Limits are those of the grant.
	Limits Limits `json:"limits,omitzero"`

	// FollowDNS is how long the name of the host may lead elsewhere before a
	// forward that runs is to be closed, as the target of the grant has it. 0:
	// it is not asked again where the name leads.
	FollowDNS time.Duration `json:"follow_dns,omitempty"` // in JSON in nanoseconds

	// Next is the earliest instant after the request's Time at which Effect,
	// Reason, Grant, Limits or FollowDNS could be others for no cause but time, whether
	// they allow or deny. It is zero if there is none.
	Next time.Time `json:"next,omitzero"`

	// Policy is the hash of the policy that decided.
	Policy string `json:"policy,omitempty"`

	// Host is the request's host in normal form, and Literal its address
	// where it is an IP literal. Both are zero for BadHost, and where the
	// user or key already was refused.
	Host    string     `json:"host,omitempty"`
	Literal netip.Addr `json:"literal,omitzero"`

	// DNS reports whether DNS may be asked for Host. It is false for
	// literals, for single-label names, for names that are neither named by a
	// grant of the user nor inside the DNS zones, and whenever Effect is Deny.
	DNS bool `json:"dns"`

	// Named reports whether a grant of the user names Host itself, on
	// whatever port and conditions, rather than only a network that it might
	// lie in: such a user may be told that the name does not resolve.
	Named bool `json:"named"`
}

// Limits bound each forward, or the forwards, of a grant. Zero is no limit.
type Limits struct {
	Duration time.Duration `json:"duration,omitempty"` // of a forward; in JSON in nanoseconds
	Forwards int           `json:"forwards,omitempty"` // of a user at a time
}
