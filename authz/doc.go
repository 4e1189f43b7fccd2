// Package authz decides who may reach what. It reads the policy file and
// answers questions about it; it opens no connection, resolves no name, reads
// no clock and keeps no state, so that a decision can be repeated at any time
// and gives the same answer.
//
// Over the policy lie the users' authorized_keys files ([Policy.WithKeys]) and
// what was taken away by command or revocation list ([Policy.WithLocks]). Both
// only narrow, but for keys and authorities that a file adds to its user.
//
// A login is decided first, a forward then in two questions; the proof is
// judged again each time:
//
//	login, key or    Identify: the key decides the person: ─────────▶ unknown_key, other_user …
//	certificate      whose key it is; or whom one principal names,   unknown_authority, bad_cert,
//	    │            and the authority that signed may vouch for     cert_principals
//	    ▼            HoldsNow, and Decide before anything else
//	proof            user not locked; key, certificate and its ─────▶ locked, revoked,
//	    │            authority not revoked; the file usable; the     key_file, key_removed,
//	    │            key still the user's, or the authority still    authority_removed,
//	    │            vouching; from, expiry-time; source-address,    key_not_from, key_expired …
//	    │            validity                                        cert_not_from, cert_expired …
//	    ▼            Decide(Request{User, Key, Cert, …})
//	lockdown         what does not run yet needs the role admin ────▶ lockdown
//	    │
//	host, port ───▶ ParseHost: one normal form, or bad_host; port, or bad_port
//	    │
//	    ▼           Decide(Request{User, Key, Cert, Host, Port, Source, Time, Touch})
//	first question   a grant of the user names the host ──────────┐
//	    │            a grant of the user has a network, and the   ├─▶ allow: resolve it
//	    │            address may turn out to lie in it ───────────┘   (DNS only if Decision.DNS)
//	    │            neither ─────────────────────────────────────▶ no_grant
//	    ▼           Decide(Request{…, Addr}), for every address
//	second question  fence: inside networks; no loopback, metadata … ▶ outside_networks, loopback …
//	    │            a grant names the host or holds the address ──▶ no_grant
//	    │            the target's within holds the address ────────▶ outside_within
//	    ▼
//	conditions       of the user; permitopen, restrict of the key; ──▶ not_from, excepted,
//	(in both)        then of each grant that came so far: from,        not_yet, expired,
//	    │            except, after, until, hours, touch                outside_hours, needs_touch,
//	    │                                                              key_not_permitted …
//	    ▼
//	allow: dial exactly Addr; Decision.Grant is the first grant in file order whose
//	    │  conditions hold, and Decision.Limits are its limits
//	    ▼           Decide(Request{…, Addr, Running, Grant}), at Decision.Next and at every reload
//	while it lives   deny: close it; another grant: that one carries it now
//
// An allow of the first question is permission to resolve, never to dial.
// Only an allow of the second question is, and only for the address asked
// about.
//
// Whether somebody may be logged in at all, by his proof and his own
// conditions, tells [Policy.HoldsNow]; what he may do beside forwarding,
// [Policy.HasRole]; how a decision came about, [Policy.Explain].
//
// How proofs are meant:
//
//   - A certificate is of one user. An authority vouches only for names that
//     its principals have; somebody whom the list of users does not have is in
//     its groups and those grants that name him, and under no conditions of his
//     own. So to take somebody away where an authority vouches for everybody,
//     lock him: without his line he is such a one.
//   - Who is not quite a user, in upper and lower case, is nobody.
//   - The options of a line in the user's authorized_keys narrow its key, or
//     the certificates of that authority, also where the policy has it. A line
//     that cannot be honoured, or a file that cannot be read, refuses them.
//   - A lock goes before the policy, for what runs, too. A lockdown closes
//     nothing. A serial of an authority is that of its key, by whatever name.
//   - A role comes by certificate only where it says certificates: true. The
//     user's own conditions hold for his roles, too.
//
// How conditions are meant:
//
//   - What is not known of a request, such as the client's address, fails the
//     conditions about it, except too.
//   - A date is in the policy's zone. after is allowed from its first moment
//     on. until is allowed through its last moment; with a time, such as
//     "2027-03-31 18:00", until just before it. A time that clocks skip is the
//     instant at which they do, and one that they show twice is the first.
//   - hours go by what a clock on the wall shows: what it shows twice counts
//     twice, what it skips never comes. A window over midnight belongs to the
//     day on which it begins; its end is no longer in it.
//   - A forward that runs under a grant with at_end: keep outlives the grant's
//     hours, and nothing else; the hours of the user always count.
//   - A user's conditions come before a grant's, and both only where a grant
//     would allow: else the reason is no_grant or outside_within, as without.
//     The proof comes before either.
//   - DNS may be asked for a name that a grant of the user names, also while
//     the conditions of just that grant do not hold, if another one allows.
//
// The types that matter are [Policy], which is immutable and safe for use by
// many goroutines, [Identity], [Request] and [Decision]. Everything that is not
// said in the policy is denied: the zero Decision denies, and a nil or zero
// Policy answers nothing else.
package authz
