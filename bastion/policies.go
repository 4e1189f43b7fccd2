package bastion

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"sekisho/authz"
)

// ownAge is how old the list of the server's own addresses may be when it is
// decided by: a box can be given another address while it runs.
const ownAge = time.Second

// policies holds the policy in force, as the Authorizer of every forward.
type policies struct {
	own func() ([]netip.Addr, error) // the server's own addresses
	log logrus.FieldLogger

	current atomic.Pointer[authz.Policy]
	asked   atomic.Int64 // when own was last asked: see clock

	mu    sync.Mutex   // held to replace current
	known []netip.Addr // what own last said
}

// Decide asks the policy in force.
func (p *policies) Decide(r authz.Request) authz.Decision {
	return p.get().Decide(r)
}

// get returns the policy in force, with own addresses that are of now.
func (p *policies) get() *authz.Policy {
	if clock()-p.asked.Load() >= int64(ownAge) && p.mu.TryLock() {
		// Out of descriptors, say, nothing is learnt: what was known stays,
		// since a fence without the own addresses would let through to them.
		if err := p.ask(); err != nil {
			p.log.WithError(err).Error("the server's own addresses are those of before")
		}
		p.current.Store(p.current.Load().WithOwn(p.known))
		p.mu.Unlock()
	}
	return p.current.Load()
}

// set puts a policy in force. It fails only if the own addresses have never
// been known.
func (p *policies) set(policy *authz.Policy) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ask(); err != nil && p.known == nil {
		return err
	}
	p.current.Store(policy.WithOwn(p.known))
	return nil
}

// would returns the policy as set would put it in force now. It changes
// nothing.
func (p *policies) would(policy *authz.Policy) *authz.Policy {
	own, err := p.own()
	if err != nil {
		p.mu.Lock()
		own = p.known
		p.mu.Unlock()
	}
	return policy.WithOwn(own)
}

// ask is called with mu held.
func (p *policies) ask() error {
	p.asked.Store(clock())
	own, err := p.own()
	if err != nil {
		return fmt.Errorf("asking for the addresses of this machine: %w", err)
	}
	p.known = append([]netip.Addr{}, own...)
	return nil
}

// OwnAddrs returns the addresses of this machine's interfaces.
func OwnAddrs() ([]netip.Addr, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var own []netip.Addr
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				own = append(own, ip.Unmap())
			}
		}
	}
	return own, nil
}
