// Package authz decides who may reach what. It reads the policy file and
// answers questions about it; it opens no connection, resolves no name, reads
// no clock and keeps no state, so that a decision can be repeated at any time
// and gives the same answer.
//
// A forward is decided in two questions:
//
//	user, key        Identify: the key decides the person
//	    │
//	host, port ───▶ ParseHost: one normal form, or bad_host; port, or bad_port
//	    │
//	    ▼           Decide(Request{User, Key, Host, Port})
//	first question   a grant of the user names the host ──────────┐
//	    │            a grant of the user has a network, and the   ├─▶ allow: resolve it
//	    │            address may turn out to lie in it ───────────┘   (DNS only if Decision.DNS)
//	    │            neither ─────────────────────────────────────▶ no_grant
//	    ▼           Decide(Request{User, Key, Host, Port, Addr}), for every address
//	second question  fence: inside networks; no loopback, metadata … ▶ outside_networks, loopback …
//	    │            a grant names the host or holds the address ──▶ no_grant
//	    │            the target's within holds the address ────────▶ outside_within
//	    ▼
//	allow: dial exactly Addr; Decision.Grant is the first grant in file order
//
// An allow of the first question is permission to resolve, never to dial.
// Only an allow of the second question is, and only for the address asked
// about.
//
// The types that matter are [Policy], which is immutable and safe for use by
// many goroutines, [Request] and [Decision]. Everything that is not said in
// the policy is denied: the zero Decision denies, and a nil or zero Policy
// answers nothing else.
package authz
