package bastion

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/ssh"

	"sekisho/authz"
)

// Config is what a Server is made of. All fields are needed unless they say
// otherwise.
type Config struct {
	Name     string       // of this server, on the screen
	HostKeys []ssh.Signer // see SetHostKeys
	Policy   *authz.Policy
	Hosts    Resolver
	DNS      Resolver // nil: names are in the hosts file only
	Dialer   Dialer   // nil: NewDialer. The TCP keepalive of what it dials is set in any case
	Recorder Recorder
	Limits   Limits
	Log      *logrus.Logger

	Penalties Penalties // the zero one has none

	HostCertificates []*ssh.Certificate // of host keys; see SetHostKeys

	Progress          time.Duration // between forward.progress records; 0: none
	CloseOnLogFailure bool

	// Audit reads the audit log for auditors; nil: nobody does over SSH.
	Audit AuditCommand

	// OwnAddrs returns the server's own addresses, which the fence refuses.
	// nil: OwnAddrs, those of the machine's interfaces.
	OwnAddrs func() ([]netip.Addr, error)

	// Now is the time by which the policy's conditions are judged; nil:
	// time.Now.
	Now func() time.Time

	// MaxBacklog is how many bytes of memory all connections together may make
	// the server hold of what they sent and no target has taken; 0: a quarter
	// of the memory limit of the process (GOMEMLIMIT), if it has one.
	MaxBacklog int64

	// Descriptors is how many sockets of clients and targets may be open at
	// once: what the process may open, less what it needs for itself; 0: no
	// bound.
	Descriptors int

	// CipherByClient leaves the cipher to the client's preference. Without it a
	// client that offers AES-GCM gets that, where the CPU has instructions for
	// it: with what most clients prefer, a gigabyte costs twice the CPU time.
	CipherByClient bool

	// RekeyThreshold is after how many bytes the server renews the keys of a
	// connection; 0: as the cipher wants it.
	RekeyThreshold uint64
}

// A Server accepts SSH connections and serves them. It is made by New.
type Server struct {
	name      string
	limits    Limits
	hostKeys  atomic.Pointer[hostKeys]
	log       *logrus.Logger
	policies  policies
	gate      *gate
	penalised *penalised
	turns     *turns
	forwarder *Forwarder
	flood     *flood
	now       func() time.Time // Config.Now
	rekey     uint64           // Config.RekeyThreshold

	greetingWait time.Duration // 0: the client chooses the cipher

	renewals allowance // of keys: see rekey.go
	refusals refusals
	audit    AuditCommand  // Config.Audit
	readers  chan struct{} // has one in it for each who reads the log

	maxBacklog  int64 // Config.MaxBacklog
	acceptLines throttle

	gateLines, penaltyLines throttle // of what strangers do and no record tells

	tending context.CancelFunc
	tended  sync.WaitGroup

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[*connection]struct{}
	stopping  bool
	serving   sync.WaitGroup // connections
}

// New makes a server; Serve starts it and Shutdown ends it.
func New(c Config) (*Server, error) {
	if err := checkAlgorithms(); err != nil {
		return nil, err
	}
	if err := findUnread(); err != nil {
		return nil, err
	}
	if c.Policy == nil || c.Hosts == nil || c.Recorder == nil || c.Log == nil {
		return nil, errors.New("a server needs a policy, a hosts resolver, a recorder and a log")
	}
	s := &Server{
		name: c.Name, limits: c.Limits, log: c.Log,
		gate:        newGate(c.Limits),
		listeners:   map[net.Listener]struct{}{},
		conns:       map[*connection]struct{}{},
		acceptLines: throttle{every: time.Second},
		gateLines:   throttle{every: floodWindow}, penaltyLines: throttle{every: floodWindow},
		penalised: newPenalised(c.Penalties),
		renewals:  newAllowance(renewalEvery, renewalBurst),
		refusals:  refusals{allowance: newAllowance(refusalEvery, refusalBurst), away: map[string]time.Time{}},
		rekey:     c.RekeyThreshold, maxBacklog: cmp.Or(c.MaxBacklog, maxBacklog()),
		now:   c.Now,
		audit: c.Audit, readers: make(chan struct{}, maxReaders),
	}
	if !c.CipherByClient && fastGCM {
		s.greetingWait = greetingWait
	}
	if err := s.SetHostKeys(c.HostKeys, c.HostCertificates); err != nil {
		return nil, err
	}
	s.policies.own, s.policies.log = c.OwnAddrs, c.Log
	if s.policies.own == nil {
		s.policies.own = OwnAddrs
	}
	if err := s.policies.set(c.Policy); err != nil {
		return nil, err
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.forwarder = &Forwarder{
		now:        s.now,
		authorizer: &s.policies, hosts: c.Hosts, dns: c.DNS, dialer: c.Dialer, recorder: c.Recorder,
		limits: c.Limits, progress: c.Progress, closeOnLogFailure: c.CloseOnLogFailure, log: c.Log,
		noAnswer: &endCause{reasonTimeout, fmt.Sprintf("no answer within dial_timeout, %v", c.Limits.DialTimeout)},
	}
	s.turns = newTurns(s.forwarder.pace.busy.Load)
	s.forwarder.descriptors.most = c.Descriptors
	s.forwarder.giveUp, s.forwarder.stopTrying = context.WithCancel(context.Background())
	s.flood = newFlood(c.Recorder, c.Limits.DialTimeout, c.Log, s.forwarder.recordFailed)
	if c.DNS == nil {
		s.forwarder.dns = noNames{}
	}
	if c.Dialer == nil {
		s.forwarder.dialer = NewDialer()
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.tending = cancel
	s.tended.Add(2)
	go func() { defer s.tended.Done(); s.forwarder.tend(ctx) }()
	go func() { defer s.tended.Done(); s.tend(ctx) }()
	return s, nil
}

// Serve accepts connections on l until Shutdown, and then returns nil. It
// closes l.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return nil
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()

	var kept spare
	defer kept.close()
	wait := time.Duration(0)
	for {
		kept.keep()
		conn, err := l.Accept()
		if err == nil {
			wait = 0
			s.accept(conn)
			continue
		}
		if s.isStopping() {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accepting on %s: %w", l.Addr(), err)
		}
		// Out of descriptors, or a connection that was gone before it was
		// taken: neither is a reason to stop, the former one to wait.
		if n, ok := s.acceptLines.take(time.Now()); ok {
			s.log.WithError(err).WithField("times", n).Error("accepting a connection failed")
		}
		if outOfDescriptors(err) && kept.turnAway(l, time.Second) {
			continue
		}
		wait = min(max(2*wait, 5*time.Millisecond), time.Second)
		time.Sleep(wait)
	}
}

// accept serves a connection, unless a penalty or a limit refuses it.
func (s *Server) accept(conn net.Conn) {
	addr := addrPort(conn.RemoteAddr())
	source := sourceOf(addr.Addr())
	cause := s.penalised.refusal(addr.Addr(), time.Now())
	if cause == nil {
		cause = s.enter(source)
	}
	if cause != nil {
		s.forwarder.counts.refused(cause.reason) // before its client can know
		conn.Close()
		if n, ok := s.gateLines.take(time.Now()); ok {
			s.log.WithFields(logrus.Fields{fieldSource: addr, fieldReason: cause.reason, fieldDetail: cause.detail, "times": n}).Warn("connection refused")
		}
		return
	}
	c := newConnection(s, conn)
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		conn.Close()
		s.forwarder.descriptors.give(1)
		return
	}
	s.conns[c] = struct{}{}
	s.forwarder.counts.connection()
	s.serving.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.serving.Done()
		defer func() {
			conn.Close()
			s.forwarder.descriptors.give(1)
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			if p := c.principal(); p != nil {
				s.gate.logout(p.User)
			} else {
				s.gate.leave(source)
			}
		}()
		c.serve()
	}()
}

// penalise adds to the penalties of a source.
func (s *Server) penalise(source netip.AddrPort, o offence) {
	now := time.Now()
	left, refused := s.penalised.add(source.Addr(), o, now)
	if !refused {
		return
	}
	if n, ok := s.penaltyLines.take(now); ok {
		s.log.WithFields(logrus.Fields{
			fieldSource: sourceOf(source.Addr()), "offence": string(o), "for": roundUp(left), "times": n,
			"hint": "if others come from there too, as from a load balancer or an office, list it in penalties.exempt",
		}).Warn("a source is refused, for what it did before logging in")
	}
}

// Penalised is how many sources are refused now for their penalties.
func (s *Server) Penalised() int { return s.penalised.count(time.Now()) }

// enter counts a connection that is accepted and its descriptor, and returns
// nil, or why there is no room for it.
func (s *Server) enter(source netip.Prefix) *endCause {
	if cause := s.forwarder.descriptors.take(1); cause != nil {
		return cause
	}
	cause := s.gate.enter(source)
	if cause != nil {
		s.forwarder.descriptors.give(1)
	}
	return cause
}

// SetPolicy puts another policy in force: at once for what begins, and for
// what runs. It ends the forwards and connections that the policy no longer
// allows and returns how many of each.
func (s *Server) SetPolicy(p *authz.Policy) (forwards, conns int) {
	if err := s.policies.set(p); err != nil {
		s.log.WithError(err).Error("the server's own addresses are not known anew")
	}
	forwards = s.forwarder.rejudge()
	for _, c := range s.connections() {
		if !c.judgeAgain() {
			conns++
		}
	}
	return forwards, conns
}

// Forwards is the number of forwards that are open or being opened.
func (s *Server) Forwards() int { return s.forwarder.live.count() }

// Connections is the number of connections, those before login among them.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// tend looks after the connections' limits until ctx ends.
func (s *Server) tend(ctx context.Context) {
	tick := time.NewTicker(tendEvery(s.limits.IdleConnection, s.limits.KeepaliveInterval))
	defer tick.Stop()
	wall := newClockWatch(s.now())
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.renewals.forget(time.Now())
			s.refusals.forget(time.Now())
			set := wall.step(s.now()) != 0
			conns := s.connections()
			for _, c := range conns {
				if c.principal() != nil && (!set || c.judgeAgain()) {
					c.tend()
				}
			}
			s.tendBacklog(conns)
		}
	}
}

func (s *Server) connections() []*connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*connection, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	return all
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// noNames is the DNS of a server that has none.
type noNames struct{}

func (noNames) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// throttle lets one event through in a time and counts the others, so that
// strangers cannot fill a log.
type throttle struct {
	every time.Duration

	mu     sync.Mutex
	next   time.Time
	missed int
}

// take reports whether an event is let through, and for how many it stands.
func (t *throttle) take(now time.Time) (n int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.missed++
	if now.Before(t.next) {
		return 0, false
	}
	n, t.missed, t.next = t.missed, 0, now.Add(t.every)
	return n, true
}
