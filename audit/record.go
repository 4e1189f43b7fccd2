package audit

import (
	"net/netip"
	"time"

	"sekisho/audit/tree"
)

// Version is the schema version that every record carries in "v".
const Version = 1

// A Type names the event that a record tells of.
type Type string

// The types of records. What each means and which fields it carries is told
// where the server writes it; the names are stable.
const (
	ServerStart Type = "server.start"
	ServerStop  Type = "server.stop"

	PolicyLoad   Type = "policy.load"
	PolicyReject Type = "policy.reject"

	AuthOK    Type = "auth.ok"
	AuthFail  Type = "auth.fail"
	AuthFlood Type = "auth.flood"
	ConnClose Type = "conn.close"

	RequestDeny Type = "request.deny"

	ForwardOpen     Type = "forward.open"
	ForwardRetry    Type = "forward.retry"
	ForwardProgress Type = "forward.progress"
	ForwardClose    Type = "forward.close"
	ForwardFail     Type = "forward.fail"
	ForwardLost     Type = "forward.lost"
	ForwardDeny     Type = "forward.deny"

	AdminKill   Type = "admin.kill"
	AdminLock   Type = "admin.lock"
	AdminRevoke Type = "admin.revoke"
	AdminRead   Type = "admin.read"

	LogMend   Type = "log.mend"
	LogPrune  Type = "log.prune"
	LogResume Type = "log.resume"
)

// Ends reports whether t is the end of an opened forward: every forward.open
// is followed by exactly one record of such a type.
func (t Type) Ends() bool {
	return t == ForwardClose || t == ForwardFail || t == ForwardLost
}

// A Record is one event. The fields up to Run are filled in by Log.Append;
// the others are the caller's. Strings may hold any bytes a client sent: the
// encoding makes them valid, bounded and harmless to print.
type Record struct {
	V       int       // schema version
	Seq     uint64    // index in the log, from 0, without gaps, over all runs
	Time    time.Time // UTC, microseconds
	Bastion string    // name of the server
	Run     string    // one life of the server process, a ULID

	Type    Type
	Conn    string // id of the SSH connection, "c…"
	Forward string // id of the forward, "f…"

	Entrance string // how the principal came in: "ssh", or "admin" for a command on the machine itself
	User     string // the principal
	Login    string // the user name that the client sent
	Key      string // fingerprint of the proven key; in auth.fail of the last one offered
	Cert     Certificate
	Client   string // the client's version string
	Hassh    string // MD5 of what the client offers in its first KEXINIT; in auth.ok and auth.fail

	Source     netip.AddrPort // the peer of the TCP connection
	Originator Endpoint       // what the client claims; never decided by
	Target     Endpoint       // as asked
	Address    netip.AddrPort // what is dialled

	Grant   string // the grant that allows
	Policy  string // hash of the policy in force, "sha256:…"
	Request string // what was asked for, in request.deny and of commands

	Head    TreeHead  // in server.start of all records before it; in log.prune of those that went
	Offered []string  // fingerprints offered and refused, in auth.fail
	Dropped []Dropped // addresses that the fence refused

	BytesUp   uint64        // client to target
	BytesDown uint64        // target to client
	Duration  time.Duration // written as whole milliseconds

	Count   uint64 // failures that are told together, in auth.flood
	Sources uint64 // of how many sources, if of several; detail tells if there were more

	Reason string // a code
	Detail string // a sentence
}

// A Certificate is the one that the proven key came in, as its authority has
// signed it. The zero one is none.
type Certificate struct {
	Authority string // name in the policy
	KeyID     string
	Serial    uint64
}

// A TreeHead is the tree over the first Size records of the log (package
// tree). The zero one is that of no records, and left out.
type TreeHead struct {
	Size uint64
	Root tree.Hash
}

// An Endpoint is a host and port as somebody wrote them: nothing about it is
// checked. The port is 32 bits wide because that is what the SSH message
// carries (RFC 4254 section 7.2).
type Endpoint struct {
	Host string
	Port uint32
}

// Dropped is an address that a name resolved to and that was not dialled.
type Dropped struct {
	Addr   netip.Addr
	Reason string
}
