// Package bastion is the server: it takes TCP connections, proves by public
// key who is there, and forwards byte streams to the targets that the policy
// allows, recording each forward before anything is dialled.
//
//	listener ─▶ gate ─▶ connection ─▶ login ─▶ channels ─▶ Forwarder ─▶ relay
//	          (penalty, (one SSH      (by      (direct-     │
//	           count)    connection)   turns)   tcpip …)    ├─ Authorizer  may they?
//	                                                        ├─ Resolver    which addresses?
//	                                                        ├─ Recorder    in the book, durable
//	                                                        └─ Dialer      exactly that address
//
// A Server owns the listeners and the connections. A Forwarder owns what
// happens to one forward from request to end, and knows nothing of SSH: every
// entrance ends in Forwarder.Forward with a Principal, an Ask and a way to
// get the client's Stream, so that none can skip a decision or a record.
//
// The life of a forward:
//
//	request → decide (the host and port as asked) → resolve → fence (each
//	address judged) → record forward.open → dial → confirm to the client →
//	relay → record its one end
//
// What goes wrong before the open is a forward.deny, which never follows an
// open; what goes wrong between open and confirm is a forward.fail.
//
// The way of the bytes of a forward, where all but the SSH library is ours:
//
//	client ─ readAhead ─▶ library ─▶ channelStream ─ clientReader ─▶ relay ─ socketWriter ─▶ target
//	client ◀─ outgoing ◀─ merger ◀─ library ◀─ channelStream ◀─ relay ◀─ targetReader ─ target
//
// A channelStream lets small answers pass bulk (traffic, lane). What each is worth
// is in docs/performance.md.
//
// Who has not logged in can write nothing but auth.fail records, and of those
// no more than a flood lets through; it counts the others and tells of them in
// auth.flood records, so that every failure is in the log and the log stays
// small.
package bastion

import (
	"context"
	"net"
	"net/netip"

	"sekisho/audit"
	"sekisho/authz"
)

// An Authorizer decides whether a principal may reach a target. It is asked
// with the zero Addr first and again for each address; see authz.Request.
type Authorizer interface {
	Decide(authz.Request) authz.Decision
}

// A Resolver turns a name into addresses, in the order in which they are to
// be tried; *hostsfile.File and *net.Resolver are Resolvers. A name that does
// not exist is a *net.DNSError with IsNotFound.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// A Dialer opens a TCP connection to an address; it is only ever given an IP
// address and a port. *net.Dialer and *ssh.Client are Dialers.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// A Recorder writes a record and returns nil once it is on stable storage;
// *audit.Log is the Recorder. An error that is audit.ErrInFlight means that
// the record may yet be written, any other that it never will be.
type Recorder interface {
	Append(ctx context.Context, rec audit.Record) error
}
