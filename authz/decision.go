package authz

import "net/netip"

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

// A Reason is the code of why a decision fell as it did.
type Reason string

const (
	// Who.
	UnknownKey     Reason = "unknown_key"     // the key belongs to no user
	OtherUser      Reason = "other_user"      // the login is the name of another user
	UnknownUser    Reason = "unknown_user"    // the user is not, or no longer, in the policy
	KeyRemoved     Reason = "key_removed"     // the key is not, or no longer, the user's
	KeyUnsupported Reason = "key_unsupported" // a certificate, a DSA key, an RSA key below 2048 bits …

	// What.
	BadHost Reason = "bad_host" // the host is not in normal form
	BadPort Reason = "bad_port" // port 0 or above 65535
	NoGrant Reason = "no_grant" // no grant of the user names the target

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

// AnyKey, as the key of a Request, asks what a user may do whatever his key.
// It is for explaining: nobody has proven such a key, so the answer is never
// permission to dial.
const AnyKey = "*"

// A Request asks whether a principal may reach a target. It is asked twice
// for each forward: first with the zero Addr, on the host and port as the
// client sent them; then, for each address that the host resolved to, with
// Addr set. Only the second answer is permission to dial, and only that
// address. The zero Request is denied.
type Request struct {
	User string // the principal, proven by signature
	Key  string // fingerprint of the key that proved it, "SHA256:…", or AnyKey
	Host string // as asked, not yet in normal form
	Port uint32 // as asked
	Addr netip.Addr
}

// A Decision is the answer to a Request. The zero Decision denies.
type Decision struct {
	Effect Effect
	Reason Reason
	Detail string // a sentence for the administrator; may name what the user may not know

	// Grant is the name of the first grant in file order that allows. In the
	// answer to a first question it is the first that may turn out to.
	Grant string

	// Policy is the hash of the policy that decided.
	Policy string

	// Host is the request's host in normal form, and Literal its address
	// where it is an IP literal. Both are zero for BadHost, and where the
	// user or key already was refused.
	Host    string
	Literal netip.Addr

	// DNS reports whether DNS may be asked for Host. It is false for
	// literals, for single-label names, for names that are neither named by a
	// grant of the user nor inside the DNS zones, and whenever Effect is Deny.
	DNS bool

	// Named reports whether a grant of the user names Host itself, on
	// whatever port, rather than only a network that it might lie in: such a
	// user may be told that the name does not resolve.
	Named bool
}
