//go:build linux

package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/net/proxy"

	"sekisho/audit"
)

// A shot is one forward under fire. It has a listener of its own, which nobody
// else is ever told of: a connection that comes is that forward's, and has to
// stand in the book under exactly this address and port.
type shot struct {
	*net.TCPListener
	host string
	at   netip.AddrPort
	came int // connections; only once it is over
	over chan struct{}
}

// fireHosts is how many hosts are fired at. Each has two names, of which the
// second one has a dead address before its own. One alone would have too few
// ports.
const fireHosts = 16

func fireIP(i int) string { return fmt.Sprintf("127.0.1.%d", i) }

// shots are those of all rounds. No address and port is used twice.
type shots struct {
	mu   sync.Mutex
	all  []*shot
	used map[netip.AddrPort]bool
	held []net.Conn // the targets' ends
}

// next makes a shot at a host, or at one with a dead address first. The target
// echoes, and waits for its client to go.
func (s *shots) next(halfDead bool) (*shot, error) {
	for {
		i := rand.IntN(fireHosts)
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.ParseIP(fireIP(i))})
		if err != nil {
			return nil, err
		}
		host := fmt.Sprintf("fire-%d", i)
		if halfDead {
			host = fmt.Sprintf("half-%d", i)
		}
		to := &shot{l, host, l.Addr().(*net.TCPAddr).AddrPort(), 0, make(chan struct{})}
		s.mu.Lock()
		used := s.used[to.at]
		if !used {
			s.used[to.at] = true
			s.all = append(s.all, to)
		}
		s.mu.Unlock()
		if used {
			l.Close()
			continue
		}
		go func() {
			defer close(to.over)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				to.came++
				s.mu.Lock()
				s.held = append(s.held, c)
				s.mu.Unlock()
				go func() { defer c.Close(); io.Copy(c, c) }()
			}
		}()
		return to, nil
	}
}

func (s *shots) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// settle is called when the server is dead: what it has dialled has arrived.
func (s *shots) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, to := range s.all {
		to.SetDeadline(time.Now().Add(50 * time.Millisecond)) // an Accept finds what waits for it before that
	}
	for _, to := range s.all {
		s.mu.Unlock()
		<-to.over
		s.mu.Lock()
		to.Close()
	}
	for _, c := range s.held {
		c.Close()
	}
	s.held = s.held[:0]
}

// fireAt opens one forward after another with dial, until the server is gone.
// Of those that are opened some are closed at once and some are held.
func (s *shots) fireAt(ctx context.Context, t *testing.T, dial func(host string, port int) (io.ReadWriteCloser, error)) {
	const most = 12 // that are held
	held := 0
	for n := 0; ctx.Err() == nil; n++ {
		to, err := s.next(n%4 == 3)
		if err != nil {
			t.Errorf("a target: %v", err)
			return
		}
		ch, err := dial(to.host, int(to.at.Port()))
		if err != nil {
			return // the server is gone, or going
		}
		if n%3 == 0 && held < most {
			held++
			go io.Copy(io.Discard, ch)
			continue
		}
		io.WriteString(ch, "x")
		ch.Read(make([]byte, 1))
		ch.Close()
	}
}

// clients opens fire with clients of x/crypto/ssh, and a stock one with many
// local connections, until the server is gone or ctx ends. It returns when
// all have stopped.
func (b *bastion) clients(ctx context.Context, s *shots) {
	var firing sync.WaitGroup
	defer firing.Wait()
	for range 3 {
		firing.Go(func() {
			conn, err := net.Dial("tcp", b.addr)
			if err != nil {
				return
			}
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			defer conn.Close()
			client, chans, reqs, err := ssh.NewClientConn(conn, b.addr, b.clientConfig("alice", ssh.PublicKeys(alice(b.t).signer)))
			if err != nil {
				return
			}
			c := ssh.NewClient(client, chans, reqs)
			var each sync.WaitGroup
			for range 4 {
				each.Go(func() {
					s.fireAt(ctx, b.t, func(host string, port int) (io.ReadWriteCloser, error) {
						// Without the context it may wait for ever: x/crypto/ssh forgets a
						// channel that is asked for while the connection breaks.
						return c.DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", host, port))
					})
				})
			}
			each.Wait()
		})
	}
	firing.Go(func() {
		local := fmt.Sprintf("127.0.0.1:%d", freePort(b.t, "127.0.0.1"))
		args := b.ssh("-N", "-D", local, "bastion")
		stock, err := launch(exec.Command(args[0], args[1:]...))
		if err != nil {
			b.t.Error(err)
			return
		}
		defer stock.kill()
		ctx, gone := context.WithCancel(ctx)
		defer gone()
		context.AfterFunc(ctx, stock.kill)
		go func() { <-stock.done; gone() }()
		for ctx.Err() == nil {
			if c, err := net.Dial("tcp", local); err == nil {
				c.Close()
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		dialer, err := proxy.SOCKS5("tcp", local, nil, proxy.Direct)
		if err != nil {
			b.t.Error(err)
			return
		}
		var each sync.WaitGroup
		for range 4 {
			each.Go(func() {
				s.fireAt(ctx, b.t, func(host string, port int) (io.ReadWriteCloser, error) {
					return dialer.(proxy.ContextDialer).DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", host, port))
				})
			})
		}
		each.Wait()
	})
}

// serveUnderFire starts the server and kills it at a random moment: while it
// starts, of which took is how long that takes, or after some forwards. It
// reports whether it was fired at.
func (b *bastion) serveUnderFire(s *shots, random *rand.Rand, took *time.Duration) (fired bool) {
	t := b.t
	t.Helper()
	p, err := launch(exec.Command(b.setup.binary, "serve", b.dir))
	if err != nil {
		t.Fatal(err)
	}
	defer s.settle()
	defer p.kill()
	began := time.Now()
	early, moment := random.IntN(3) == 0, time.Duration(random.Int64N(int64(*took)))
	for !matches(listening, p.err.String()) {
		switch since := time.Since(began); {
		case p.ended():
			t.Fatalf("the server does not start again: %s", p.err)
		case early && since >= moment:
			return false
		case since > hang:
			t.Fatalf("the server does not come to listening: %s", p.err)
		}
		time.Sleep(time.Millisecond)
	}
	*took = time.Since(began)

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ceased := make(chan struct{})
	go func() { defer close(ceased); b.clients(ctx, s) }()
	enough := s.count() + 30 + random.IntN(120)
	for late := time.Now().Add(2 * time.Second); s.count() < enough && time.Now().Before(late); time.Sleep(time.Millisecond) {
	}
	if p.ended() {
		t.Fatalf("the server had ended before it was killed: %s", p.err)
	}
	p.kill()
	stop()
	select {
	case <-ceased:
	case <-time.After(hang):
		stacks := make([]byte, 1<<20)
		t.Fatalf("the clients do not cease:\n%s", stacks[:runtime.Stack(stacks, true)])
	}
	return true
}

func TestTheBookIsCompleteUnderFireHoweverOftenTheServerIsKilled(t *testing.T) {
	t.Parallel()
	rounds := 5
	if soak {
		rounds = 200
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	hosts, networks := standardHosts, []string{deadIP + "/32"}
	for i := range fireHosts {
		hosts += fmt.Sprintf("%[2]s fire-%[1]d\n%[3]s half-%[1]d\n%[2]s half-%[1]d\n", i, fireIP(i), deadIP)
		networks = append(networks, fireIP(i)+"/32")
	}
	b := prepareBastion(t, setup{
		hosts: hosts, networks: networks,
		policy: standardUsers(t) + strings.Replace(standardGrants, "hosts: [appserver,", `hosts: ["fire-*", "half-*", appserver,`, 1),
		binary: staticBinary, listen: fmt.Sprintf("127.0.0.1:%d", freePort(t, "127.0.0.1")),
		settings: map[string]any{"audit": map[string]any{"segment_size": "64KiB"}},
	})
	began := time.Now()
	b.start() // to know where it listens, and to be killed for the first time
	took := time.Since(began)
	b.ssh()
	b.kill()
	s := &shots{used: map[netip.AddrPort]bool{}}
	fired := 0
	for round := 0; round < rounds || fired <= rounds/2; round++ {
		if b.serveUnderFire(s, random, &took) {
			fired++
		}
	}
	b.start()
	s.judge(t, b)
	b.checkLog()
	b.stop()
	b.checkLog()
}

// judge holds what the targets saw against the book, when all has ended.
func (s *shots) judge(t *testing.T, b *bastion) {
	t.Helper()
	records := b.records()
	named := map[netip.AddrPort][]audit.Record{} // after which an address may be dialled, by that
	kinds := map[audit.Type]int{}
	runs := map[string]bool{}
	for _, r := range records {
		kinds[r.Type]++
		runs[r.Run] = true
		if r.Type == audit.ForwardOpen || r.Type == audit.ForwardRetry {
			named[r.Address] = append(named[r.Address], r)
		}
	}
	for _, f := range forwardsOf(records) {
		if f.open != nil && (f.opens != 1 || f.ends != 1 || f.end.Seq < f.open.Seq) || f.open == nil && f.ends != 0 {
			t.Errorf("forward %s has %d opens and %d ends", f.id, f.opens, f.ends)
		}
	}
	reached := 0
	for _, to := range s.all {
		reached += to.came
		if to.came > 1 {
			t.Errorf("%s at %v was asked for once and reached %d times", to.host, to.at, to.came)
		}
		here := named[to.at]
		if len(here) > 1 || to.came > len(here) || len(here) == 1 && here[0].Target.Host != to.host {
			t.Errorf("%s at %v was reached %d times, and these records name it: %+v", to.host, to.at, to.came, here)
		}
	}
	t.Logf("%d forwards asked for, %d reached their targets; %d runs, %d records: %v", len(s.all), reached, len(runs), len(records), kinds)
	for _, kind := range []audit.Type{audit.ForwardOpen, audit.ForwardRetry, audit.ForwardClose, audit.ForwardLost} {
		if kinds[kind] == 0 {
			t.Errorf("the fire was too weak: no %s", kind)
		}
	}
	if segments, err := audit.Segments(b.auditAt); err != nil || len(segments) <= len(runs) {
		t.Errorf("no segment was closed under fire: %d segments of %d runs, %v", len(segments), len(runs), err)
	}
	if reached == 0 {
		t.Error("the fire was too weak: no target was reached")
	}
}
