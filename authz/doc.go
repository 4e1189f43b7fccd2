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
//	    ▼           Decide(Request{User, Key, Host, Port, Source, Time, Touch})
//	first question   a grant of the user names the host ──────────┐
//	    │            a grant of the user has a network, and the   ├─▶ allow: resolve it
//	    │            address may turn out to lie in it ───────────┘   (DNS only if Decision.DNS)
//	    │            neither ─────────────────────────────────────▶ no_grant
//	    ▼           Decide(Request{…, Addr}), for every address
//	second question  fence: inside networks; no loopback, metadata … ▶ outside_networks, loopback …
//	    │            a grant names the host or holds the address ──▶ no_grant
//	    │            the target's within holds the address ────────▶ outside_within
//	    ▼
//	conditions       of the user, then of each grant that came so far: ▶ not_from, excepted,
//	(in both)        from, except, after, until, hours, touch            not_yet, expired,
//	    │                                                                outside_hours, needs_touch
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
// Whether somebody may be logged in at all, by his own conditions, tells
// [Policy.HoldsNow]; how a decision came about, [Policy.Explain].
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
//   - DNS may be asked for a name that a grant of the user names, also while
//     the conditions of just that grant do not hold, if another one allows.
//
// The types that matter are [Policy], which is immutable and safe for use by
// many goroutines, [Request] and [Decision]. Everything that is not said in
// the policy is denied: the zero Decision denies, and a nil or zero Policy
// answers nothing else.
package authz
