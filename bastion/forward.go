package bastion

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"sekisho/audit"
	"sekisho/authz"
)

// A Principal is who acts, as proven at an entrance, and how he came in.
type Principal struct {
	User     string      // the user of the policy
	Key      string      // fingerprint of the key whose signature proved it
	Cert     *authz.Cert // the certificate that the key came in; nil: none
	Touch    bool        // the signature shows that somebody touched the key
	Login    string      // the user name that the client sent; decides nothing
	Entrance string      // "ssh"
	Conn     string      // id of the connection that carries the forward
	Client   string      // the client's version string
	Source   netip.AddrPort
}

// identity is who it is and how that was proven.
func (p *Principal) identity() authz.Identity {
	return authz.Identity{User: p.User, Key: p.Key, Cert: p.Cert}
}

// certificate is what records tell of the principal's certificate.
func (p *Principal) certificate() audit.Certificate {
	if p.Cert == nil {
		return audit.Certificate{}
	}
	return audit.Certificate{Authority: p.Cert.Authority, KeyID: p.Cert.KeyID, Serial: p.Cert.Serial}
}

// An Ask is what a client asks to be connected to.
type Ask struct {
	Target     audit.Endpoint // host and port as sent
	Originator audit.Endpoint // a claim; recorded, never decided by
	At         time.Time      // when it was asked; the limit on the answer counts from here
}

// A Stream is the client's end of a forward.
type Stream interface {
	Read(p []byte) (int, error) // io.EOF once the client has sent its last byte
	Write(p []byte) (int, error)
	CloseWrite() error // tells the client that no byte follows; only after the last Write
	Close() error

	// Gone is closed when the client has closed its end altogether, or is
	// lost. What it sent before can still be read.
	Gone() <-chan struct{}
}

// A Refusal says why a forward was not opened, in words for the client: they
// name only what that user may know.
type Refusal struct {
	Kind    RefusalKind
	Message string

	own bool // what the user asks for is to blame, not a network or others who use the server
}

// RefusalKind says whose refusal it is.
type RefusalKind int

const (
	ByPolicy   RefusalKind = iota // the policy does not allow it
	ByNetwork                     // allowed, but the target cannot be reached
	ByResource                    // a limit is reached, or no record can be written
)

// Reasons of ends and denials, beside those of package authz. They are codes
// in the log and stable.
const (
	reasonClosed        = "closed"         // both directions ended in order
	reasonClientGone    = "client_gone"    // the client closed its end, or its connection
	reasonClientLost    = "client_lost"    // the connection broke
	reasonTargetReset   = "target_reset"   // the target broke the connection
	reasonDNSMoved      = "dns_moved"      // follow_dns of the target
	reasonIdle          = "idle"           // limits.idle_forward
	reasonHalfClosed    = "half_closed"    // limits.half_closed
	reasonDrain         = "drain"          // the server stops
	reasonLogFailed     = "log_failed"     // the audit log cannot be written
	reasonLimit         = "limit"          // one of limits.max_…
	reasonNoSuchName    = "no_such_name"   // in no hosts file, and in DNS (where asked) neither
	reasonResolveFailed = "resolve_failed" // DNS did not answer
	reasonRefused       = "connect_refused"
	reasonTimeout       = "connect_timeout"
	reasonUnreachable   = "unreachable"
	reasonDialFailed    = "dial_failed"
	reasonInternal      = "internal_error"
	reasonKilled        = "killed"        // by command
	reasonDuration      = "duration"      // limits.duration of the grant
	reasonGrantChanged  = "grant_changed" // forward.progress: another grant carries it now
)

// An endCause is the cancel cause of a forward or connection: it becomes the
// reason and detail of the record of its end.
type endCause struct{ reason, detail string }

func (e *endCause) Error() string { return e.detail }

const (
	// maxAddresses bounds how many addresses of one name are dialled, and
	// maxAnswers how many are judged.
	maxAddresses = 16
	maxAnswers   = 256

	// recordWait is how long an answer, an end or a login waits for its
	// record. It is written all the same, but a disk that hangs holds nobody
	// up.
	recordWait = time.Second
)

// A Forwarder carries forwards, from whichever entrance, from request to end.
// It is part of a Server, which New makes.
type Forwarder struct {
	authorizer Authorizer
	hosts      Resolver // asked first
	dns        Resolver // asked where the decision allows it
	dialer     Dialer
	recorder   Recorder
	limits     Limits
	noAnswer   *endCause     // of a forward that is not answered within dial_timeout
	progress   time.Duration // between forward.progress records; 0: none
	// closeOnLogFailure ends what runs when a record cannot be written.
	// Otherwise only new forwards are refused.
	closeOnLogFailure bool
	log               *logrus.Logger
	now               func() time.Time // for the policy's conditions

	live        live
	follower    follower
	counts      counts
	descriptors descriptors // of connections too
	pace        pace
	writing     atomic.Int64 // records that are still to be written
	// giveUp ends when the server no longer waits for ends to be recorded.
	giveUp     context.Context
	stopTrying context.CancelFunc
}

// A forward is the state of one forward from request to end.
type forward struct {
	id        string
	principal Principal
	ask       Ask
	host      string // normal form; empty until decided
	started   time.Time
	dropped   []audit.Dropped

	// ctx ends with the client's connection, and when the forward is cut. It
	// governs what comes before the relay.
	ctx    context.Context
	cancel context.CancelCauseFunc // with *endCause
	// cutting ends when the forward is to end whatever the client still has
	// to say: by policy, a limit, the end of the server. It governs the relay.
	cutting    context.Context
	cutTheFlow context.CancelCauseFunc // with *endCause

	flow flow

	// recording is held while a progress record or the end is appended, so
	// that no progress follows the end. It is taken before mu.
	recording sync.Mutex

	mu       sync.Mutex // guards what follows, which a later judgement may change
	grant    string
	policy   string
	limits   authz.Limits // of the grant
	edge     time.Time    // when time alone may change the decision; zero: never
	dns      bool         // DNS may be asked for host
	told     string       // the grant of the last record
	opened   bool         // forward.open is, or may be, in the log
	ended    bool         // so is the end, or it is about to be
	progress int64        // when the last progress record was written: see clock

	// address is what is about to be dialled, or was. It is set before the
	// last decision on it, so that a change of policy at any moment is met
	// either by that decision or by rejudge.
	address atomic.Pointer[netip.AddrPort]

	// following is follow_dns of the target, a time.Duration; 0: its name is
	// not looked up again. It is set with limits.
	following atomic.Int64
	away      absence  // only the follower uses it
	dialled   net.Conn // set before the relay begins
	tuned     bool     // dialled is, see tuneTarget; only tend uses it
	looked    int64    // when it was last asked whether dialled has vanished: see clock; only tend uses it
}

// newForward begins a forward. Its contexts live until finished is called.
func newForward(ctx context.Context, p Principal, ask Ask) (fw *forward, finished func()) {
	fw = &forward{id: audit.NewID("f"), principal: p, ask: ask, started: ask.At}
	fw.ctx, fw.cancel = context.WithCancelCause(ctx)
	fw.cutting, fw.cutTheFlow = context.WithCancelCause(context.Background())
	// An end of the connection that the server decided cuts; one by the
	// client is told by its Stream, after all that it had sent.
	stop := context.AfterFunc(ctx, func() {
		if cause := causeOf(ctx, &endCause{reason: reasonClientGone}); !cause.byClient() {
			fw.cutTheFlow(cause)
		}
	})
	return fw, func() { stop(); fw.cancel(nil); fw.cutTheFlow(nil) }
}

// cut ends the forward, wherever it stands.
func (fw *forward) cut(cause *endCause) {
	fw.cutTheFlow(cause)
	fw.cancel(cause)
}

// Forward carries one forward of p and returns when it has ended; a non-nil
// Refusal means that it was never confirmed to the client. Once the target is
// connected, accept is called to confirm and to get the client's Stream.
// Ending ctx ends the forward; its cause says why.
//
// An accept that has not returned within the limit on the answer is left
// behind: the entrance must then close the Stream that it gets.
func (f *Forwarder) Forward(ctx context.Context, p Principal, ask Ask, accept func() (Stream, error)) *Refusal {
	fw, finished := newForward(ctx, p, ask)
	defer finished()
	if cause := f.live.add(fw, f.limits); cause != nil {
		return f.turnAway(fw, cause)
	}
	defer f.live.remove(fw)
	if cause := f.descriptors.take(pendingDescriptors); cause != nil {
		return f.turnAway(fw, cause)
	}
	holds := pendingDescriptors
	defer func() { f.descriptors.give(holds) }()
	defer f.endPanicked(fw)

	answer, stop := context.WithDeadlineCause(fw.ctx, ask.At.Add(f.limits.DialTimeout), f.noAnswer)
	defer stop()
	addrs, refusal := f.judge(answer, fw)
	if refusal != nil {
		return refusal
	}
	target, refusal := f.connect(answer, fw, addrs)
	if refusal != nil {
		return refusal
	}
	defer target.Close()
	f.descriptors.give(holds - 1)
	holds = 1
	client, refusal := f.confirm(fw, target, accept)
	if refusal != nil {
		return refusal
	}
	stop()

	f.logLine(fw).Info("forward open")
	fw.dialled = target
	fw.flow.touch()
	if fw.regranted() { // while it was dialled
		go f.recordProgress(fw, reasonGrantChanged, "another grant carries it since it was opened")
	}
	f.end(fw, audit.ForwardClose, relay(fw.ctx, fw.cutting, client, target, &fw.flow))
	return nil
}

// confirm tells the client that its target is connected. A client that has
// stopped reading can hold that for as long as it likes, so it is not waited
// for beyond the limit on the answer, nor when the forward is cut.
func (f *Forwarder) confirm(fw *forward, target net.Conn, accept func() (Stream, error)) (Stream, *Refusal) {
	type accepted struct {
		stream Stream
		err    error
	}
	done := make(chan accepted, 1)
	go func() {
		stream, err := accept()
		done <- accepted{stream, err}
	}()
	late := time.NewTimer(time.Until(fw.started.Add(f.limits.DialTimeout)))
	defer late.Stop()
	end, cause := audit.ForwardFail, (*endCause)(nil)
	select {
	case a := <-done:
		// A client may have sent all it had and be gone by now: that is still
		// to be given to the target.
		if a.err == nil {
			return a.stream, nil
		}
		abort(target)
		cause = fw.cause(&endCause{reasonClientGone, "the client was gone before the forward was confirmed"})
	case <-fw.cutting.Done():
		abort(target)
		cause = causeOf(fw.cutting, draining)
		// The client may have been told in this very moment, and then it was
		// open, however briefly.
		settle := time.NewTimer(writeSettle)
		defer settle.Stop()
		select {
		case a := <-done:
			if a.err == nil {
				end = audit.ForwardClose
			}
		case <-settle.C:
		}
	case <-late.C:
		abort(target)
		cause = &endCause{reasonClientGone, "the client did not read that the forward is open"}
	}
	f.end(fw, end, cause)
	return nil, &Refusal{Kind: ByNetwork, Message: fw.sentence("not confirmed")}
}

// endPanicked gives a forward that a panic carries off its end.
func (f *Forwarder) endPanicked(fw *forward) {
	p := recover()
	if p == nil {
		return
	}
	fw.mu.Lock()
	owed := fw.opened && !fw.ended
	fw.mu.Unlock()
	if owed {
		f.end(fw, audit.ForwardFail, &endCause{reasonInternal, "internal error"})
	}
	panic(p)
}

// refuse records that an entrance itself refuses a forward, for one of its
// own limits, and returns the words for the client.
func (f *Forwarder) refuse(ctx context.Context, p Principal, ask Ask, limit *endCause) *Refusal {
	fw, finished := newForward(ctx, p, ask)
	defer finished()
	return f.turnAway(fw, limit)
}

// tooLate records a forward that was asked for by a client who had gone: as
// denied where it would have been.
func (f *Forwarder) tooLate(ctx context.Context, p Principal, ask Ask) {
	fw, finished := newForward(ctx, p, ask)
	defer finished()
	cause := fw.cause(draining)
	if d := f.decide(fw, netip.Addr{}); d.Effect != authz.Allow {
		cause = decided(d)
	}
	f.deny(fw, ByPolicy, cause, cause.detail)
}

// turnAway denies a forward for which there is no room.
func (f *Forwarder) turnAway(fw *forward, cause *endCause) *Refusal {
	said := cause.detail
	if cause.reason == reasonLimit {
		said = "too many forwards at once: " + said
	}
	refusal := f.deny(fw, ByResource, cause, said)
	refusal.own = cause.reason == reasonLimit && !isServers(cause)
	return refusal
}

// byClient reports whether it was the client who ended.
func (e *endCause) byClient() bool {
	return e.reason == reasonClientGone || e.reason == reasonClientLost
}

// regranted reports whether another grant carries the forward than the one
// that was last recorded, and counts it as recorded.
func (fw *forward) regranted() bool {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	changed := fw.told != fw.grant
	fw.told = fw.grant
	return changed
}

// target names the target to the client: its own words, made safe.
func (fw *forward) target() string {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	return fw.targetLocked()
}

func (fw *forward) targetLocked() string {
	host := cmp.Or(fw.host, printable(fw.ask.Target.Host))
	return net.JoinHostPort(host, strconv.FormatUint(uint64(fw.ask.Target.Port), 10))
}

// sentence is what the client is told; the id finds the record.
func (fw *forward) sentence(said string) string {
	return "sekisho: " + said + " [" + fw.id + "]"
}

// cause is why the forward was ended from outside, or otherwise.
func (fw *forward) cause(otherwise *endCause) *endCause {
	return causeOf(fw.ctx, otherwise)
}

func causeOf(ctx context.Context, otherwise *endCause) *endCause {
	var cause *endCause
	if errors.As(context.Cause(ctx), &cause) {
		return cause
	}
	return otherwise
}
