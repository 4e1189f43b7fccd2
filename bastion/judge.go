package bastion

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"sekisho/audit"
	"sekisho/authz"
)

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
		if a.Effect == authz.Allow && len(allowed) == maxAddresses {
			fw.dropped = append(fw.dropped, audit.Dropped{Addr: addr, Reason: reasonLimit})
			continue
		}
		if a.Effect == authz.Allow {
			allowed = append(allowed, netip.AddrPortFrom(addr, uint16(fw.ask.Target.Port)))
			continue
		}
		if first.Reason == "" {
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
	fw.takeOver(d)
	return d
}

// takeOver makes d what is decided of the forward. fw.mu must be held.
func (fw *forward) takeOver(d authz.Decision) {
	if d.Host != "" {
		fw.host = d.Host
	}
	fw.policy = d.Policy
	if d.Effect == authz.Allow { // else what carried it so far is what its end tells
		fw.grant, fw.limits, fw.edge, fw.dns = d.Grant, d.Limits, d.Next, d.DNS
		fw.following.Store(int64(d.FollowDNS))
	}
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
	addrs, err := f.lookup(ctx, d.Host, d.DNS)
	if err != nil {
		return nil, f.unresolved(fw, d, err)
	}
	return addrs, nil
}

// lookup returns the addresses of a name, at least one and each once: from the
// hosts file, else, where dns allows it, from DNS.
func (f *Forwarder) lookup(ctx context.Context, host string, dns bool) ([]netip.Addr, error) {
	addrs, err := f.hosts.LookupNetIP(ctx, "ip", host)
	if dns && isNotFound(err) {
		// Absolute: the resolver's search domains must not add to a name.
		addrs, err = f.dns.LookupNetIP(ctx, "ip", host+".")
	}
	if err == nil && len(addrs) == 0 {
		err = &net.DNSError{Err: "no addresses", Name: host, IsNotFound: true}
	}
	if err != nil {
		return nil, err
	}
	unique := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if a = a.Unmap(); !slices.Contains(unique, a) && len(unique) < maxAnswers {
			unique = append(unique, a)
		}
	}
	return unique, nil
}

// unresolved denies a forward whose host has no address.
func (f *Forwarder) unresolved(fw *forward, d authz.Decision, err error) *Refusal {
	if fw.ctx.Err() != nil && !isNotFound(err) { // that is why
		cause := fw.cause(nil)
		kind, said := f.cutWords(fw, cause)
		return f.deny(fw, kind, cause, said)
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

// mayNot is the sentence for a target that the user may not reach.
func (f *Forwarder) mayNot(fw *forward, reason authz.Reason) string {
	return fmt.Sprintf("%s may not open %s (%s); try: ssh bastion explain %[2]s",
		fw.principal.User, fw.target(), reason.Words())
}

// cutWords are those for a client whose forward was ended on its way, and
// whose doing that is. Why, in full, is for the administrator: it may name
// addresses and other people.
func (f *Forwarder) cutWords(fw *forward, cause *endCause) (RefusalKind, string) {
	switch {
	case cause == logFailed:
		return ByResource, logFailedWords
	case cause == draining || cause.byClient():
		return ByPolicy, cause.detail
	case cause.reason == reasonKilled:
		return ByPolicy, "an administrator has ended it"
	}
	return ByPolicy, f.mayNot(fw, authz.Reason(cause.reason))
}

// decided is the cause of a forward that a decision refuses.
func decided(d authz.Decision) *endCause { return &endCause{string(d.Reason), d.Detail} }

// request is the question about fw's target at addr. Once the forward runs,
// fw.mu must be held.
func (fw *forward) request(addr netip.Addr, now time.Time) authz.Request {
	p := fw.principal
	running, grant := fw.relaying(), ""
	if running {
		grant = fw.grant // fw.mu is held
	}
	return authz.Request{
		User: p.User, Key: p.Key, Cert: p.Cert, Touch: p.Touch, Source: p.Source.Addr(), Time: now,
		Host: fw.ask.Target.Host, Port: fw.ask.Target.Port, Addr: addr, Running: running, Grant: grant,
	}
}

func isNotFound(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}
