package bastion

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"sekisho/audit"
	"sekisho/authz"
)

// A Principal is who acts, as proven at an entrance, and how he came in.
type Principal struct {
	User     string // the user of the policy
	Key      string // fingerprint of the key whose signature proved it
	Login    string // the user name that the client sent; decides nothing
	Entrance string // "ssh"
	Conn     string // id of the connection that carries the forward
	Client   string // the client's version string
	Source   netip.AddrPort
}

// An Ask is what a client asks to be connected to.
type Ask struct {
	Target     audit.Endpoint // host and port as sent
	Originator audit.Endpoint // a claim; recorded, never decided by
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
	reasonGrantChanged  = "grant_changed" // forward.progress: another grant carries it now
)

// An endCause is the cancel cause of a forward or connection: it becomes the
// reason and detail of the record of its end.
type endCause struct{ reason, detail string }

func (e *endCause) Error() string { return e.detail }

// maxAddresses bounds how many addresses of one name are judged and dialled.
const maxAddresses = 16

// A Forwarder carries forwards, from whichever entrance, from request to end.
// Its fields are set once, before the first Forward.
type Forwarder struct {
	Authorizer Authorizer
	Hosts      Resolver // asked first
	DNS        Resolver // asked where the decision allows it
	Dialer     Dialer
	Recorder   Recorder
	Limits     Limits
	Progress   time.Duration // between forward.progress records; 0: none
	// CloseOnLogFailure ends what runs when a record cannot be written.
	// Otherwise only new forwards are refused.
	CloseOnLogFailure bool
	Log               logrus.FieldLogger

	live  live
	ended sync.WaitGroup // ends that are still to be recorded
	// giveUp is closed when the server stops waiting for ends to be recorded.
	giveUp     chan struct{}
	giveUpOnce sync.Once
}

// A forward is the state of one forward from request to end.
type forward struct {
	id        string
	principal Principal
	ask       Ask
	host      string // normal form; empty until decided
	started   time.Time

	ctx    context.Context
	cancel context.CancelCauseFunc // with *endCause

	flow flow

	// recording is held while a progress record or the end is appended, so
	// that no progress follows the end. It is taken before mu.
	recording sync.Mutex

	mu       sync.Mutex // guards what follows, which a later judgement may change
	grant    string
	policy   string
	dropped  []audit.Dropped
	ended    bool
	progress time.Time // when the last progress record was written

	// address is what is about to be dialled, or was. It is set before the
	// last decision on it, so that a change of policy at any moment is met
	// either by that decision or by Rejudge.
	address atomic.Pointer[netip.AddrPort]
}

// Forward carries one forward of p and returns when it has ended; a non-nil
// Refusal means that it was never confirmed to the client. Once the target is
// connected, accept is called to confirm and to get the client's Stream.
// Ending ctx ends the forward; its cause says why.
func (f *Forwarder) Forward(ctx context.Context, p Principal, ask Ask, accept func() (Stream, error)) *Refusal {
	fw := &forward{id: audit.NewID("f"), principal: p, ask: ask, started: time.Now()}
	fw.ctx, fw.cancel = context.WithCancelCause(ctx)
	defer fw.cancel(nil)
	if cause := f.live.add(fw, f.Limits); cause != nil {
		return f.turnAway(fw, cause)
	}
	defer f.live.remove(fw)

	answer, stop := context.WithTimeoutCause(fw.ctx, f.Limits.DialTimeout,
		&endCause{reasonTimeout, fmt.Sprintf("no answer within dial_timeout, %v", f.Limits.DialTimeout)})
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
	stop()

	client, err := accept()
	if err != nil {
		cause := fw.cause(&endCause{reasonClientGone, "the client was gone before the forward was confirmed"})
		abort(target)
		f.end(fw, audit.ForwardFail, cause)
		return &Refusal{ByNetwork, "gone"}
	}
	f.logLine(fw).Info("forward open")
	cause := relay(fw.ctx, client, target, &fw.flow)
	f.end(fw, audit.ForwardClose, cause)
	return nil
}

// refuse records that an entrance itself refuses a forward, for one of its
// own limits, and returns the words for the client.
func (f *Forwarder) refuse(ctx context.Context, p Principal, ask Ask, limit *endCause) *Refusal {
	return f.turnAway(&forward{id: audit.NewID("f"), principal: p, ask: ask, started: time.Now(), ctx: ctx}, limit)
}

// turnAway denies a forward for which there is no room.
func (f *Forwarder) turnAway(fw *forward, cause *endCause) *Refusal {
	said := cause.detail
	if cause.reason == reasonLimit {
		said = "too many forwards at once: " + said
	}
	return f.deny(fw, ByResource, cause.reason, cause.detail, said)
}

// judge decides on the name, resolves it, and judges each address. What it
// returns may be dialled.
func (f *Forwarder) judge(ctx context.Context, fw *forward) ([]netip.AddrPort, *Refusal) {
	d := f.Authorizer.Decide(fw.request(netip.Addr{}))
	fw.decided(d)
	if d.Effect != authz.Allow {
		return nil, f.deny(fw, ByPolicy, string(d.Reason), d.Detail, f.mayNot(fw, d.Reason))
	}
	addrs, refusal := f.resolve(ctx, fw, d)
	if refusal != nil {
		return nil, refusal
	}

	var allowed []netip.AddrPort
	var first authz.Decision // on the first address refused: its reason is the forward's if all are
	for _, addr := range addrs {
		a := f.Authorizer.Decide(fw.request(addr))
		if a.Effect == authz.Allow {
			allowed = append(allowed, netip.AddrPortFrom(addr, uint16(fw.ask.Target.Port)))
			continue
		}
		if len(fw.dropped) == 0 {
			first = a
		}
		fw.dropped = append(fw.dropped, audit.Dropped{Addr: addr, Reason: string(a.Reason)})
	}
	if len(allowed) == 0 {
		said := first.Reason
		if !d.Named && !d.Literal.IsValid() {
			// Only a network might have allowed this name. Whoever may not
			// reach where it leads must not learn that it leads anywhere.
			said = authz.NoGrant
		}
		return nil, f.deny(fw, ByPolicy, string(first.Reason), first.Detail, f.mayNot(fw, said))
	}
	return allowed, nil
}

// resolve finds the addresses of a host on which d allows going on.
func (f *Forwarder) resolve(ctx context.Context, fw *forward, d authz.Decision) ([]netip.Addr, *Refusal) {
	if d.Literal.IsValid() {
		return []netip.Addr{d.Literal}, nil
	}
	addrs, err := f.Hosts.LookupNetIP(ctx, "ip", d.Host)
	if d.DNS && isNotFound(err) {
		// Absolute: the resolver's search domains must not add to a name.
		addrs, err = f.DNS.LookupNetIP(ctx, "ip", d.Host+".")
	}
	if err == nil && len(addrs) == 0 {
		err = &net.DNSError{Err: "no addresses", Name: d.Host, IsNotFound: true}
	}
	if err != nil {
		reason, kind := reasonResolveFailed, ByNetwork
		said := fmt.Sprintf("%s cannot be resolved now", fw.target())
		if isNotFound(err) {
			reason, kind, said = reasonNoSuchName, ByPolicy, fmt.Sprintf("%s is allowed, but has no address here", fw.target())
		}
		if !d.Named {
			// "No such name" and "not allowed" must look the same to somebody
			// to whom no grant names the host.
			kind, said = ByPolicy, f.mayNot(fw, authz.NoGrant)
		}
		return nil, f.deny(fw, kind, reason, err.Error(), said)
	}
	unique := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if a = a.Unmap(); !slices.Contains(unique, a) && len(unique) < maxAddresses {
			unique = append(unique, a)
		}
	}
	return unique, nil
}

// connect dials the addresses in turn, each named by a durable record before
// a packet leaves for it: the first by forward.open, the others by
// forward.retry.
func (f *Forwarder) connect(ctx context.Context, fw *forward, addrs []netip.AddrPort) (net.Conn, *Refusal) {
	var failed error
	for i, addr := range addrs {
		fw.address.Store(&addr)
		d := f.Authorizer.Decide(fw.request(addr.Addr()))
		if d.Effect != authz.Allow {
			cause := &endCause{string(d.Reason), d.Detail}
			if i == 0 {
				return nil, f.deny(fw, ByPolicy, cause.reason, cause.detail, f.mayNot(fw, d.Reason))
			}
			f.end(fw, audit.ForwardFail, cause)
			return nil, &Refusal{ByPolicy, fw.sentence(f.mayNot(fw, d.Reason))}
		}
		fw.decided(d)

		rec := fw.record(audit.ForwardOpen)
		if i > 0 {
			rec = fw.record(audit.ForwardRetry)
			rec.Reason, rec.Detail = dialReason(failed), failed.Error()
		}
		if err := f.Recorder.Append(ctx, rec); err != nil {
			cause := fw.cause(&endCause{reasonLogFailed, err.Error()})
			if i > 0 || errors.Is(err, audit.ErrInFlight) {
				// An open that is, or may yet be, in the log must get its end.
				f.end(fw, audit.ForwardFail, cause)
			} else if fw.ctx.Err() != nil { // not the log's fault
				return nil, f.deny(fw, ByPolicy, cause.reason, cause.detail, "ended: "+cause.detail)
			}
			return nil, f.logFailure(fw, err)
		}

		conn, err := f.dial(ctx, addr, len(addrs)-i)
		if err == nil {
			return conn, nil
		}
		failed = err
		if ctx.Err() != nil {
			break
		}
	}
	cause := &endCause{dialReason(failed), failed.Error()}
	if ctx.Err() != nil {
		cause = causeOf(ctx, cause)
	}
	f.end(fw, audit.ForwardFail, cause)
	return nil, &Refusal{ByNetwork, fw.sentence(dialWords(fw, cause.reason))}
}

// dial connects to addr with this address's share of what is left of ctx, so
// that a dead first address leaves time for the others.
func (f *Forwarder) dial(ctx context.Context, addr netip.AddrPort, left int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		defer cancel()
	}
	return f.Dialer.DialContext(ctx, "tcp", addr.String())
}

// deny records that a forward is refused and returns the words for the
// client, who gets them whether or not the record can be written.
func (f *Forwarder) deny(fw *forward, kind RefusalKind, reason, detail, said string) *Refusal {
	if fw.ctx.Err() != nil { // ended while it was being decided
		cause := fw.cause(&endCause{reason, detail})
		reason, detail = cause.reason, cause.detail
	}
	fw.mu.Lock()
	fw.grant = "" // one that might have allowed it did not
	fw.mu.Unlock()
	rec := fw.record(audit.ForwardDeny)
	rec.Reason, rec.Detail = reason, detail
	ctx, cancel := context.WithTimeout(context.WithoutCancel(fw.ctx), f.Limits.DialTimeout)
	defer cancel()
	line := f.logLine(fw).WithFields(logrus.Fields{fieldReason: reason, fieldDetail: printable(detail)})
	if err := f.Recorder.Append(ctx, rec); err != nil {
		line = line.WithError(err)
		f.recordFailed()
	}
	line.Warn("forward denied")
	return &Refusal{kind, fw.sentence(said)}
}

// logFailure is the refusal of a forward that cannot be recorded.
func (f *Forwarder) logFailure(fw *forward, err error) *Refusal {
	f.logLine(fw).WithError(err).Error("forward refused: the audit log cannot be written")
	if fw.ctx.Err() == nil {
		f.recordFailed()
	}
	return &Refusal{ByResource, fw.sentence("the audit log cannot be written, so no forward is opened")}
}

func (f *Forwarder) recordFailed() {
	if f.CloseOnLogFailure {
		f.live.endAll(&endCause{reasonLogFailed, "the audit log cannot be written (audit.on_failure: close)"})
	}
}

// end records the one end of an opened forward. The record must not be lost
// while this process lives, so where the log fails it is tried again beside
// everything else; if the process ends first, the next start records the
// forward as lost.
func (f *Forwarder) end(fw *forward, t audit.Type, cause *endCause) {
	fw.mu.Lock()
	fw.ended = true
	rec := fw.recordLocked(t)
	fw.mu.Unlock()
	rec.Reason, rec.Detail = cause.reason, cause.detail
	rec.BytesUp, rec.BytesDown = fw.flow.up.Load(), fw.flow.down.Load()
	rec.Duration = time.Since(fw.started)
	line := f.logLine(fw).WithFields(logrus.Fields{
		fieldReason: rec.Reason, fieldDetail: printable(rec.Detail),
		"bytes_up": rec.BytesUp, "bytes_down": rec.BytesDown, "duration_ms": rec.Duration.Milliseconds(),
	})
	if t == audit.ForwardFail {
		line.Warn("forward failed")
	} else {
		line.Info("forward closed")
	}

	f.live.remove(fw)
	f.ended.Add(1)
	recorded := make(chan struct{})
	go func() {
		defer f.ended.Done()
		defer close(recorded)
		fw.recording.Lock()
		defer fw.recording.Unlock()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			select {
			case <-f.giveUp:
				cancel()
			case <-ctx.Done():
			}
		}()
		for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
			err := f.Recorder.Append(ctx, rec)
			if err == nil {
				return
			}
			line.WithError(err).Error("the end of a forward is not yet recorded")
			f.recordFailed()
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
		}
	}()
	// Wait, so that the records of a connection come in the order of their
	// events; but not for a disk that hangs.
	select {
	case <-recorded:
	case <-time.After(f.Limits.DialTimeout):
	}
}

// waitEnds waits until every end is recorded, or until ctx ends; then it
// gives up those that are not.
func (f *Forwarder) waitEnds(ctx context.Context) {
	done := make(chan struct{})
	go func() { f.ended.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		f.giveUpOnce.Do(func() { close(f.giveUp) })
	}
}

// mayNot is the sentence for a target that the user may not reach.
func (f *Forwarder) mayNot(fw *forward, reason authz.Reason) string {
	return fmt.Sprintf("%s may not open %s (%s); what you may reach: ssh bastion",
		fw.principal.User, fw.target(), strings.ReplaceAll(string(reason), "_", " "))
}

func dialWords(fw *forward, reason string) string {
	switch reason {
	case reasonRefused:
		return fw.target() + " refused the connection"
	case reasonTimeout:
		return fw.target() + " did not answer in time"
	case reasonUnreachable:
		return fw.target() + " cannot be reached"
	}
	return fw.target() + " could not be connected"
}

// request is the question about fw's target at addr.
func (fw *forward) request(addr netip.Addr) authz.Request {
	return authz.Request{
		User: fw.principal.User, Key: fw.principal.Key,
		Host: fw.ask.Target.Host, Port: fw.ask.Target.Port, Addr: addr,
	}
}

// decided takes over what a decision says of the forward.
func (fw *forward) decided(d authz.Decision) {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	fw.host, fw.grant, fw.policy = d.Host, d.Grant, d.Policy
}

// target names the target to the client: its own words, made safe.
func (fw *forward) target() string {
	host := cmp.Or(fw.host, printable(fw.ask.Target.Host))
	return net.JoinHostPort(host, fmt.Sprint(fw.ask.Target.Port))
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

func (fw *forward) record(t audit.Type) audit.Record {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	return fw.recordLocked(t)
}

func (fw *forward) recordLocked(t audit.Type) audit.Record {
	p := fw.principal
	rec := audit.Record{
		Type: t, Conn: p.Conn, Forward: fw.id, Entrance: p.Entrance,
		User: p.User, Login: p.Login, Key: p.Key, Client: p.Client, Source: p.Source,
		Originator: fw.ask.Originator, Target: fw.ask.Target,
		Grant: fw.grant, Policy: fw.policy,
	}
	if addr := fw.address.Load(); addr != nil {
		rec.Address = *addr
	}
	if t == audit.ForwardOpen || t == audit.ForwardDeny {
		rec.Dropped = fw.dropped
	}
	return rec
}

func isNotFound(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}
