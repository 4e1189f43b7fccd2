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
	Touch    bool   // the signature shows that somebody touched the key
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
	reasonInternal      = "internal_error"
	reasonDuration      = "duration"      // limits.duration of the grant
	reasonGrantChanged  = "grant_changed" // forward.progress: another grant carries it now
)

// An endCause is the cancel cause of a forward or connection: it becomes the
// reason and detail of the record of its end.
type endCause struct{ reason, detail string }

func (e *endCause) Error() string { return e.detail }

const (
	// maxAddresses bounds how many addresses of one name are judged and dialled.
	maxAddresses = 16

	// recordWait is how long an answer or an end waits for its record. The
	// record is written all the same, but a disk that hangs holds nobody up.
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
	progress   time.Duration // between forward.progress records; 0: none
	// closeOnLogFailure ends what runs when a record cannot be written.
	// Otherwise only new forwards are refused.
	closeOnLogFailure bool
	log               logrus.FieldLogger
	now               func() time.Time // for the policy's conditions

	live    live
	writing atomic.Int64 // records that are still to be written
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
	told     string       // the grant of the last record
	opened   bool         // forward.open is, or may be, in the log
	ended    bool         // so is the end, or it is about to be
	progress int64        // when the last progress record was written: see clock

	// address is what is about to be dialled, or was. It is set before the
	// last decision on it, so that a change of policy at any moment is met
	// either by that decision or by Rejudge.
	address atomic.Pointer[netip.AddrPort]
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
	defer f.endPanicked(fw)

	answer, stop := context.WithDeadlineCause(fw.ctx, ask.At.Add(f.limits.DialTimeout),
		&endCause{reasonTimeout, fmt.Sprintf("no answer within dial_timeout, %v", f.limits.DialTimeout)})
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
	client, refusal := f.confirm(answer, fw, target, accept)
	if refusal != nil {
		return refusal
	}
	stop()

	f.logLine(fw).Info("forward open")
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
func (f *Forwarder) confirm(ctx context.Context, fw *forward, target net.Conn, accept func() (Stream, error)) (Stream, *Refusal) {
	type accepted struct {
		stream Stream
		err    error
	}
	done := make(chan accepted, 1)
	go func() {
		stream, err := accept()
		done <- accepted{stream, err}
	}()
	select {
	case a := <-done:
		if a.err == nil {
			return a.stream, nil
		}
	case <-ctx.Done():
	}
	abort(target)
	cause := causeOf(ctx, &endCause{reasonClientGone, "the client was gone before the forward was confirmed"})
	if cause.reason == reasonTimeout {
		cause = &endCause{reasonClientGone, "the client did not read that the forward is open"}
	}
	f.end(fw, audit.ForwardFail, cause)
	return nil, &Refusal{ByNetwork, fw.sentence("not confirmed")}
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

// turnAway denies a forward for which there is no room.
func (f *Forwarder) turnAway(fw *forward, cause *endCause) *Refusal {
	said := cause.detail
	if cause.reason == reasonLimit {
		said = "too many forwards at once: " + said
	}
	return f.deny(fw, ByResource, cause, said)
}

// judge decides on the name, resolves it, and judges each address. What it
// returns may be dialled.
func (f *Forwarder) judge(ctx context.Context, fw *forward) ([]netip.AddrPort, *Refusal) {
	d := f.decide(fw, netip.Addr{})
	if d.Effect != authz.Allow {
		return nil, f.deny(fw, ByPolicy, decided(d), f.mayNot(fw, d.Reason))
	}
	addrs, refusal := f.resolve(ctx, fw, d)
	if refusal != nil {
		return nil, refusal
	}

	var allowed []netip.AddrPort
	var first authz.Decision // on the first address refused: its reason is the forward's if all are
	for _, addr := range addrs {
		a := f.authorizer.Decide(fw.request(addr, f.now()))
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
		return nil, f.deny(fw, ByPolicy, decided(first), f.mayNot(fw, said))
	}
	return allowed, nil
}

// decide asks about fw's target at addr and takes over what is decided. The
// two are one step, so that of two decisions the later one stays.
func (f *Forwarder) decide(fw *forward, addr netip.Addr) authz.Decision {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	d := f.authorizer.Decide(fw.request(addr, f.now()))
	if d.Host != "" {
		fw.host = d.Host
	}
	fw.policy = d.Policy
	if d.Effect == authz.Allow { // else what carried it so far is what its end tells
		fw.grant, fw.limits, fw.edge = d.Grant, d.Limits, d.Next
	}
	return d
}

// resolve finds the addresses of a host on which d allows going on. It has
// half of what is left for the answer: the rest is for the record and the
// dial.
func (f *Forwarder) resolve(ctx context.Context, fw *forward, d authz.Decision) ([]netip.Addr, *Refusal) {
	if d.Literal.IsValid() {
		return []netip.Addr{d.Literal}, nil
	}
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	addrs, err := f.hosts.LookupNetIP(ctx, "ip", d.Host)
	if d.DNS && isNotFound(err) {
		// Absolute: the resolver's search domains must not add to a name.
		addrs, err = f.dns.LookupNetIP(ctx, "ip", d.Host+".")
	}
	if err == nil && len(addrs) == 0 {
		err = &net.DNSError{Err: "no addresses", Name: d.Host, IsNotFound: true}
	}
	if err != nil {
		return nil, f.unresolved(fw, d, err)
	}
	unique := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if a = a.Unmap(); !slices.Contains(unique, a) && len(unique) < maxAddresses {
			unique = append(unique, a)
		}
	}
	return unique, nil
}

// unresolved denies a forward whose host has no address.
func (f *Forwarder) unresolved(fw *forward, d authz.Decision, err error) *Refusal {
	if fw.ctx.Err() != nil && !isNotFound(err) { // that is why
		cause := fw.cause(nil)
		return f.deny(fw, ByPolicy, cause, cause.detail)
	}
	reason, kind := reasonResolveFailed, ByNetwork
	said := fmt.Sprintf("%s cannot be resolved now", fw.target())
	if isNotFound(err) {
		reason, kind, said = reasonNoSuchName, ByPolicy, fmt.Sprintf("%s is allowed, but has no address here", fw.target())
	}
	if !d.Named {
		// "No such name" and "not allowed" must look the same to somebody to
		// whom no grant names the host.
		kind, said = ByPolicy, f.mayNot(fw, authz.NoGrant)
	}
	return f.deny(fw, kind, &endCause{reason, err.Error()}, said)
}

// connect dials the addresses in turn, each named by a durable record before
// a packet leaves for it: the first by forward.open, the others by
// forward.retry.
func (f *Forwarder) connect(ctx context.Context, fw *forward, addrs []netip.AddrPort) (net.Conn, *Refusal) {
	var failed error
	for i, addr := range addrs {
		fw.address.Store(&addr)
		if d := f.decide(fw, addr.Addr()); d.Effect != authz.Allow { // the policy has changed
			if i == 0 {
				return nil, f.deny(fw, ByPolicy, decided(d), f.mayNot(fw, d.Reason))
			}
			f.end(fw, audit.ForwardFail, decided(d))
			return nil, &Refusal{ByPolicy, fw.sentence(f.mayNot(fw, d.Reason))}
		}
		if cause := f.live.carriedBy(fw); cause != nil {
			if i == 0 {
				return nil, f.turnAway(fw, cause)
			}
			f.end(fw, audit.ForwardFail, cause)
			return nil, &Refusal{ByResource, fw.sentence("too many forwards at once: " + cause.detail)}
		}
		if refusal := f.recordDial(ctx, fw, i == 0, failed); refusal != nil {
			return nil, refusal
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
	if fw.cutting.Err() != nil {
		return nil, &Refusal{ByPolicy, fw.sentence(f.mayNot(fw, authz.Reason(cause.reason)))}
	}
	return nil, &Refusal{ByNetwork, fw.sentence(dialWords(fw, cause.reason))}
}

// recordDial records that fw's address is about to be dialled: the first one,
// or the next because another failed.
func (f *Forwarder) recordDial(ctx context.Context, fw *forward, first bool, failed error) *Refusal {
	rec := fw.record(audit.ForwardOpen)
	if !first {
		rec = fw.record(audit.ForwardRetry)
		rec.Reason, rec.Detail = dialReason(failed), failed.Error()
	}
	fw.mu.Lock()
	fw.opened, fw.told = true, rec.Grant
	fw.mu.Unlock()
	err := f.recorder.Append(ctx, rec)
	if err == nil {
		return nil
	}
	left := fw.ctx.Err() != nil // then the log is not to blame
	cause := fw.cause(&endCause{reasonLogFailed, err.Error()})
	if !first && !left && ctx.Err() != nil {
		cause = causeOf(ctx, cause) // dialling the others took all the time
		left = true
	}
	if first && !errors.Is(err, audit.ErrInFlight) {
		fw.mu.Lock()
		fw.opened = false
		fw.mu.Unlock()
		if left {
			return f.deny(fw, ByPolicy, cause, cause.detail)
		}
	} else {
		// An open that is, or may yet be, in the log must get its end.
		f.end(fw, audit.ForwardFail, cause)
		if left {
			return &Refusal{ByNetwork, fw.sentence(dialWords(fw, cause.reason))}
		}
	}
	f.logLine(fw).WithError(err).Error("forward refused: the audit log cannot be written")
	f.recordFailed()
	return &Refusal{ByResource, fw.sentence("the audit log cannot be written, so no forward is opened")}
}

// dial connects to addr with this address's share of what is left of ctx, so
// that a dead first address leaves time for the others.
func (f *Forwarder) dial(ctx context.Context, addr netip.AddrPort, left int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		defer cancel()
	}
	return f.dialer.DialContext(ctx, "tcp", addr.String())
}

// deny records that a forward is refused and returns the words for the
// client, who gets them whether or not the record can be written.
func (f *Forwarder) deny(fw *forward, kind RefusalKind, cause *endCause, said string) *Refusal {
	fw.mu.Lock()
	fw.grant = "" // one that might have allowed it did not
	fw.mu.Unlock()
	rec := fw.record(audit.ForwardDeny)
	rec.Reason, rec.Detail = cause.reason, cause.detail
	line := f.logLine(fw).WithFields(logrus.Fields{fieldReason: rec.Reason, fieldDetail: printable(rec.Detail)})
	line.Warn("forward denied")
	f.write(func() {
		ctx, cancel := context.WithTimeout(f.giveUp, f.limits.DialTimeout)
		defer cancel()
		if err := f.recorder.Append(ctx, rec); err != nil {
			line.WithError(err).Error("a denied forward is not recorded")
			f.recordFailed()
		}
	})
	return &Refusal{kind, fw.sentence(said)}
}

func (f *Forwarder) recordFailed() {
	if f.closeOnLogFailure {
		f.live.cutAll(&endCause{reasonLogFailed, "the audit log cannot be written (audit.on_failure: close)"})
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
	f.live.remove(fw)
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
	f.write(func() {
		fw.recording.Lock()
		defer fw.recording.Unlock()
		for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
			err := f.recorder.Append(f.giveUp, rec)
			if err == nil {
				return
			}
			line.WithError(err).Error("the end of a forward is not yet recorded")
			f.recordFailed()
			select {
			case <-time.After(wait):
			case <-f.giveUp.Done():
				return
			}
		}
	})
}

// write runs what writes a record, and waits for it, so that the records of a
// connection come in the order of their events and an answer after its
// record; but no longer than recordWait.
func (f *Forwarder) write(record func()) {
	f.writing.Add(1)
	done := make(chan struct{})
	go func() {
		defer f.writing.Add(-1)
		defer close(done)
		record()
	}()
	patience := time.NewTimer(recordWait)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
	}
}

// waitRecords waits until every record is written, or until ctx ends; then it
// gives up those that are not.
func (f *Forwarder) waitRecords(ctx context.Context) {
	for f.writing.Load() > 0 && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	f.stopTrying()
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

// decided is the cause of a forward that a decision refuses.
func decided(d authz.Decision) *endCause { return &endCause{string(d.Reason), d.Detail} }

// byClient reports whether it was the client who ended.
func (e *endCause) byClient() bool {
	return e.reason == reasonClientGone || e.reason == reasonClientLost
}

// request is the question about fw's target at addr.
func (fw *forward) request(addr netip.Addr, now time.Time) authz.Request {
	p := fw.principal
	return authz.Request{
		User: p.User, Key: p.Key, Touch: p.Touch, Source: p.Source.Addr(), Time: now,
		Host: fw.ask.Target.Host, Port: fw.ask.Target.Port, Addr: addr, Running: fw.relaying(),
	}
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
