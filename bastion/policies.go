package bastion

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"sekisho/authz"
)

// ownAge is how old the list of the server's own addresses may be when it is
// decided by: a box can be given another address while it runs.
const ownAge = time.Second

// policies holds the policy in force, as the Authorizer of every forward.
type policies struct {
	own func() []netip.Addr // the server's own addresses

	current   atomic.Pointer[authz.Policy]
	refreshed atomic.Int64 // when own was last asked, Unix ns

	mu sync.Mutex // held to replace current
}

// Decide asks the policy in force.
func (p *policies) Decide(r authz.Request) authz.Decision {
	return p.get().Decide(r)
}

// get returns the policy in force, with own addresses that are of now.
func (p *policies) get() *authz.Policy {
	if time.Since(time.Unix(0, p.refreshed.Load())) >= ownAge && p.mu.TryLock() {
		p.store(p.current.Load())
		p.mu.Unlock()
	}
	return p.current.Load()
}

func (p *policies) set(policy *authz.Policy) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.store(policy)
}

// store is called with mu held.
func (p *policies) store(policy *authz.Policy) {
	p.current.Store(policy.WithOwn(p.own()))
	p.refreshed.Store(time.Now().UnixNano())
}

// OwnAddrs returns the addresses of this machine's interfaces.
func OwnAddrs() []netip.Addr {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var own []netip.Addr
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				own = append(own, ip.Unmap())
			}
		}
	}
	return own
}
