package bastion_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/net/dns/dnsmessage"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// rounds is how often each fault is injected; with SEKISHO_SOAK=1 a thousand
// times, some of them at a time.
func rounds() (n, atATime int) {
	if os.Getenv("SEKISHO_SOAK") == "1" {
		return 1000, 50
	}
	return 2, 2
}

// faulty is a bastion whose targets and DNS fail in every way, by their names.
type faulty struct {
	*bastiontest.Bastion
	t      *testing.T
	client *ssh.Client
}

// blackHole is where packets go to and nothing comes back from.
var blackHole = netip.MustParsePrefix("10.0.9.0/24")

// holes is a Dialer of a network with a black hole in it.
type holes struct{ bastion.Dialer }

func (h holes) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if blackHole.Contains(netip.MustParseAddrPort(addr).Addr()) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return h.Dialer.DialContext(ctx, network, addr)
}

func startFaulty(t *testing.T) *faulty {
	f := &faulty{t: t}
	f.Bastion = bastiontest.Start(t, bastiontest.Options{
		Policy: `version: 1
users:
  - {name: alice, keys: ["{alice}"]}
targets:
  - {name: all, hosts: [target, "*.corp.example"], ports: ["1-65535"]}
grants:
  - {name: everything, users: [alice], to: [all]}
`,
		Networks: []string{"127.0.0.1/32", "10.0.0.0/16"},
		DNS:      faultyDNS(t),
		Dialer:   holes{bastion.NewDialer()},
		Limits: func(l *bastion.Limits) {
			l.DialTimeout = 3 * time.Second
			l.MaxStartupsPerSource, l.MaxForwardsPerConnection = 100, 1000 // those owed to a target that stalls count for 2 s
			l.MaxBacklogPerConnection = 1 << 30                            // and so do their bytes
		},
	})
	f.client = f.Dial()
	return f
}

// faultyDNS runs a DNS server whose answers to a name are what its first label
// says, and returns a resolver that asks only it.
func faultyDNS(t *testing.T) *net.Resolver {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		asked := 0
		buf := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var msg dnsmessage.Message
			if msg.Unpack(buf[:n]) != nil || len(msg.Questions) != 1 {
				continue
			}
			q := msg.Questions[0]
			kind, _, _ := strings.Cut(strings.ToLower(q.Name.String()), ".")
			msg.Response, msg.RecursionAvailable, msg.Additionals = true, true, nil
			var addrs []string
			wait := time.Duration(0)
			switch kind {
			case "good":
				addrs = []string{"127.0.0.1"}
			case "slow":
				addrs, wait = []string{"127.0.0.1"}, 200*time.Millisecond
			case "silent":
				continue
			case "empty":
			case "none":
				msg.RCode = dnsmessage.RCodeNameError
			case "broken":
				msg.RCode = dnsmessage.RCodeServerFailure
			case "noise":
				conn.WriteTo([]byte("no DNS at all, whatever the header may say of it"), from)
				continue
			case "outside":
				addrs = []string{"192.0.2.9", "198.51.100.7"}
			case "loopback":
				addrs = []string{"127.0.0.2"}
			case "metadata":
				addrs = []string{"169.254.169.254"}
			case "mixed":
				addrs = []string{"169.254.169.254", "127.0.0.53", "127.0.0.1"}
			case "hole":
				addrs = []string{"10.0.9.9"}
			case "changing": // between the lookup and a second one, if there were one
				if asked++; asked%2 == 1 || q.Type != dnsmessage.TypeA {
					addrs = []string{"127.0.0.1"}
				} else {
					addrs = []string{"169.254.169.254"}
				}
			}
			if q.Type == dnsmessage.TypeA {
				for _, a := range addrs {
					msg.Answers = append(msg.Answers, dnsmessage.Resource{
						Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
						Body:   &dnsmessage.AResource{A: netip.MustParseAddr(a).As4()},
					})
				}
			}
			if out, err := msg.Pack(); err == nil {
				running.Go(func() { time.Sleep(wait); conn.WriteTo(out, from) })
			}
		}
	})
	t.Cleanup(func() { conn.Close(); running.Wait() })
	return &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
		},
	}
}

// A fault is one that a forward meets.
type fault struct {
	name   string
	host   string
	target func(*net.TCPConn) // what the target does; nil: there is none
	meet   func(*faulty, string) error
	want   []end
}

// An end is how the records may tell of it.
type end struct {
	typ    audit.Type
	reason string
}

var errNotRefused = errors.New("it was opened")

// refused is what a client does whose forward must not be opened.
func refused(f *faulty, addr string) error {
	conn, err := f.client.Dial("tcp", addr)
	if err == nil {
		conn.Close()
		return errNotRefused
	}
	var refusal *ssh.OpenChannelError
	if !errors.As(err, &refusal) {
		return err
	}
	for _, secret := range []string{"169.254.169.254", "127.0.0.2", "192.0.2.9", "10.0.9.9", "i/o timeout", "lookup"} {
		if strings.Contains(refusal.Message, secret) {
			return fmt.Errorf("the client is told %q", refusal.Message)
		}
	}
	return nil
}

// unlessRefused is err, unless it is that a forward was refused.
func unlessRefused(err error) error {
	var refusal *ssh.OpenChannelError
	if errors.As(err, &refusal) {
		return nil
	}
	return err
}

// echoed is what a client does whose forward is as good as any.
func echoed(f *faulty, addr string) error {
	conn, err := f.client.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "ping"); err != nil {
		return err
	}
	conn.(interface{ CloseWrite() error }).CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "ping" || err != nil {
		return fmt.Errorf("the echo is %q, %v", got, err)
	}
	return nil
}

// readAll reads what a target sends.
func readAll(least int64) func(*faulty, string) error {
	return func(f *faulty, addr string) error {
		conn, err := f.client.Dial("tcp", addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		if n, _ := io.Copy(io.Discard, conn); n < least {
			return fmt.Errorf("%d bytes came, want at least %d", n, least)
		}
		return nil
	}
}

func reset(after int) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		c.Write(make([]byte, after))
		if after > 0 {
			c.Read(make([]byte, 1)) // the client has it all
		}
		c.SetLinger(0)
	}
}

var closedInOrder = []end{{audit.ForwardClose, "closed"}}

var faults = []fault{
	{"the target refuses", "target", nil, refused, []end{{audit.ForwardFail, "connect_refused"}}},
	{"the target resets at once", "target", reset(0), func(f *faulty, addr string) error {
		return unlessRefused(readAll(0)(f, addr)) // it may be so quick that it never was open
	}, []end{{audit.ForwardClose, "target_reset"}, {audit.ForwardFail, "dial_failed"}}},
	{"the target resets in the middle", "target", reset(100_000), func(f *faulty, addr string) error {
		conn, err := f.client.Dial("tcp", addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := io.CopyN(io.Discard, conn, 100_000); err != nil {
			return err
		}
		conn.Write([]byte{1})
		if n, _ := io.Copy(io.Discard, conn); n != 0 {
			return fmt.Errorf("%d more bytes came", n)
		}
		return nil
	}, []end{{audit.ForwardClose, "target_reset"}}},
	{"the target is a black hole", "hole.corp.example", nil, refused, []end{{audit.ForwardFail, "connect_timeout"}}},
	{"the target accepts and stalls", "target", func(c *net.TCPConn) {
		time.Sleep(3 * time.Second) // longer than what is owed to it is kept
		io.Copy(io.Discard, c)
	}, func(f *faulty, addr string) error {
		conn, err := f.client.Dial("tcp", addr)
		if err != nil {
			return err
		}
		written := make(chan struct{})
		go func() {
			conn.Write(make([]byte, 16<<20))
			close(written)
		}()
		time.Sleep(300 * time.Millisecond)
		conn.Close()
		<-written
		return nil
	}, []end{{audit.ForwardClose, "client_gone"}}},
	{"the target sends a byte at a time", "target", func(c *net.TCPConn) {
		for range 5 {
			time.Sleep(50 * time.Millisecond)
			c.Write([]byte{'.'})
		}
	}, readAll(5), closedInOrder},
	{"the target ends its bytes and goes on reading", "target", func(c *net.TCPConn) {
		c.CloseWrite()
		io.Copy(io.Discard, c)
	}, readAll(0), []end{{audit.ForwardClose, "closed"}, {audit.ForwardClose, "client_gone"}}},

	{"DNS is slow", "slow.corp.example", bastiontest.Echo, echoed, closedInOrder},
	{"DNS is silent", "silent.corp.example", bastiontest.Echo, refused, []end{{audit.ForwardDeny, "resolve_failed"}}},
	{"DNS answers with nothing", "empty.corp.example", bastiontest.Echo, refused, []end{{audit.ForwardDeny, "no_such_name"}}},
	{"DNS knows no such name", "none.corp.example", bastiontest.Echo, refused, []end{{audit.ForwardDeny, "no_such_name"}}},
	{"DNS fails", "broken.corp.example", bastiontest.Echo, refused, []end{{audit.ForwardDeny, "resolve_failed"}}},
	{"DNS answers with noise", "noise.corp.example", bastiontest.Echo, refused, []end{{audit.ForwardDeny, "resolve_failed"}}},
	{"DNS lies, with addresses outside of the fence", "outside.corp.example", bastiontest.Echo, refused, []end{{audit.ForwardDeny, "outside_networks"}}},
	{"DNS lies, with loopback", "loopback.corp.example", bastiontest.Echo, refused, []end{{audit.ForwardDeny, "loopback"}}},
	{"DNS lies, with the metadata service", "metadata.corp.example", bastiontest.Echo, refused, []end{{audit.ForwardDeny, "metadata"}}},
	{"DNS lies and tells the truth", "mixed.corp.example", bastiontest.Echo, echoed, closedInOrder},
	{"DNS changes from one lookup to the next", "changing.corp.example", bastiontest.Echo, func(f *faulty, addr string) error {
		return unlessRefused(echoed(f, addr))
	}, []end{{audit.ForwardClose, "closed"}, {audit.ForwardDeny, "metadata"}, {audit.ForwardDeny, "link_local"}}},

	{"the client's connection is reset", "target", pour, func(f *faulty, addr string) error {
		tcp, err := net.Dial("tcp", f.Addr)
		if err != nil {
			return err
		}
		defer tcp.Close()
		c, chans, reqs, err := ssh.NewClientConn(tcp, "bastion", f.ClientConfig("alice", f.Alice))
		if err != nil {
			return err
		}
		client := ssh.NewClient(c, chans, reqs)
		defer client.Close()
		conn, err := client.Dial("tcp", addr)
		if err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, conn, 1000); err != nil {
			return err
		}
		tcp.(*net.TCPConn).SetLinger(0)
		return tcp.Close()
	}, []end{{audit.ForwardClose, "client_lost"}, {audit.ForwardClose, "client_gone"}}},
	{"the client closes its channel in the middle", "target", pour, func(f *faulty, addr string) error {
		conn, err := f.client.Dial("tcp", addr)
		if err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, conn, 1000); err != nil {
			return err
		}
		return conn.Close()
	}, []end{{audit.ForwardClose, "client_gone"}}},
}

// TestFaultsAreRecordedAndLeaveNothingBehind meets each fault again and again:
// each time the record says what it was, another forward of the same
// connection is none the worse for it, and at the end all descriptors and
// goroutines are as they were after the first time.
func TestFaultsAreRecordedAndLeaveNothingBehind(t *testing.T) {
	for _, c := range faults {
		t.Run(c.name, func(t *testing.T) {
			f := startFaulty(t)
			port := closedPort(t)
			if c.target != nil {
				port = bastiontest.Target(t, c.target)
			}
			addr := fmt.Sprintf("%s:%d", c.host, port)
			bystander := fmt.Sprintf("good.corp.example:%d", bastiontest.Target(t, bastiontest.Echo))
			meet := func() {
				if err := c.meet(f, addr); err != nil {
					t.Error(err)
				}
			}
			meet()
			if err := echoed(f, bystander); err != nil {
				t.Errorf("another forward: %v", err)
			}
			f.settles()
			goroutines, descriptors := runtime.NumGoroutine(), openDescriptors()

			n, atATime := rounds()
			var left atomic.Int32
			left.Store(int32(n))
			var running sync.WaitGroup
			for range atATime {
				running.Go(func() {
					for left.Add(-1) >= 0 {
						meet()
					}
				})
			}
			running.Wait()
			if err := echoed(f, bystander); err != nil {
				t.Errorf("another forward: %v", err)
			}
			f.settles()
			bastiontest.Eventually(t, "goroutines and descriptors to be as before", func() bool {
				return runtime.NumGoroutine() <= goroutines && openDescriptors() <= descriptors
			})
			f.Book.Check(t)
			f.check(c, port, n+1)
		})
	}
}

// settles waits until every forward has ended and is recorded.
func (f *faulty) settles() {
	f.t.Helper()
	bastiontest.Eventually(f.t, "every forward is over and recorded", func() bool {
		return f.Server.Forwards() == 0 && f.Server.Connections() == 1 && bastiontest.CheckForwards(f.Book.Records()) == nil
	})
}

// check looks at what is recorded of a fault that was met n times.
func (f *faulty) check(c fault, port, n int) {
	f.t.Helper()
	met := 0
	for _, rec := range f.Book.Records() {
		if rec.Target.Host != c.host || rec.Target.Port != uint32(port) {
			continue
		}
		switch {
		case rec.Type == audit.ForwardOpen && rec.Address.Addr() != netip.MustParseAddr("127.0.0.1") && !blackHole.Contains(rec.Address.Addr()):
			f.t.Errorf("dialled: %s", rec.AppendJSON(nil))
		case rec.Type.Ends() || rec.Type == audit.ForwardDeny:
			met++
			if !slices.Contains(c.want, end{rec.Type, rec.Reason}) {
				f.t.Errorf("recorded %s, want one of %v", rec.AppendJSON(nil), c.want)
			}
		}
	}
	if met < n {
		f.t.Errorf("%d are recorded of %d", met, n)
	}
}

// closedPort is one on which nobody listens.
func closedPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// openDescriptors counts those of this process but for pipes: io.Copy between
// sockets, which is what targets here do, keeps some for the next time.
func openDescriptors() int {
	n := 0
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); !strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}
