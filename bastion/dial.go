package bastion

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"sekisho/audit"
	"sekisho/authz"
)

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
			return nil, &Refusal{Kind: ByPolicy, Message: fw.sentence(f.mayNot(fw, d.Reason))}
		}
		if cause := f.live.carriedBy(fw); cause != nil {
			if i == 0 {
				return nil, f.turnAway(fw, cause)
			}
			f.end(fw, audit.ForwardFail, cause)
			return nil, &Refusal{Kind: ByResource, Message: fw.sentence("too many forwards at once: " + cause.detail)}
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
		kind, said := f.cutWords(fw, cause)
		return nil, &Refusal{Kind: kind, Message: fw.sentence(said)}
	}
	return nil, &Refusal{Kind: ByNetwork, Message: fw.sentence(dialWords(fw, cause.reason))}
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
	cause := fw.cause(&endCause{reasonLogFailed, err.Error()})
	left := fw.ctx.Err() != nil && cause != logFailed // then the log is not to blame
	if !first && !left && ctx.Err() != nil {
		cause = causeOf(ctx, cause) // dialling the others took all the time
		left = true
	}
	if first && !errors.Is(err, audit.ErrInFlight) {
		fw.mu.Lock()
		fw.opened = false
		fw.mu.Unlock()
		if left {
			kind, said := f.cutWords(fw, cause)
			return f.deny(fw, kind, cause, said)
		}
	} else {
		// An open that is, or may yet be, in the log must get its end.
		f.end(fw, audit.ForwardFail, cause)
		if left {
			return &Refusal{Kind: ByNetwork, Message: fw.sentence(dialWords(fw, cause.reason))}
		}
	}
	f.logLine(fw).WithError(err).Error("forward refused: the audit log cannot be written")
	f.recordFailed()
	return &Refusal{Kind: ByResource, Message: fw.sentence(logFailedWords)}
}

// dial connects to addr with this address's share of what is left of ctx, so
// that a dead first address leaves time for the others.
func (f *Forwarder) dial(ctx context.Context, addr netip.AddrPort, left int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		defer cancel()
	}
	began := time.Now()
	conn, err := f.dialer.DialContext(ctx, "tcp", addr.String())
	f.counts.dial(time.Since(began), err)
	return conn, err
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

// dialReason is the code of a failed dial.
func dialReason(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return reasonRefused
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT),
		errors.As(err, &timeout) && timeout.Timeout():
		return reasonTimeout
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTDOWN):
		return reasonUnreachable
	}
	return reasonDialFailed
}
