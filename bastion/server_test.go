package bastion_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// TestMain holds the whole package to leaving nothing behind: goroutines and
// sockets are back to where they began when all tests are done.
func TestMain(m *testing.M) {
	goroutines, sockets := runtime.NumGoroutine(), openSockets()
	code := m.Run()
	if fuzz := flag.Lookup("test.fuzz"); fuzz != nil && fuzz.Value.String() != "" {
		os.Exit(code) // the fuzzing engine leaves goroutines of its own
	}
	if code == 0 {
		for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > goroutines || openSockets() > sockets; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				stacks := make([]byte, 1<<20)
				fmt.Printf("left behind: %d goroutines (%d before), %d sockets (%d before)\n%s\n",
					runtime.NumGoroutine(), goroutines, openSockets(), sockets, stacks[:runtime.Stack(stacks, true)])
				code = 1
				break
			}
		}
	}
	os.Exit(code)
}

// openSockets counts the sockets of this process.
func openSockets() int {
	n := 0
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

func target(port int) string { return fmt.Sprintf("target:%d", port) }

func TestForwardIsRecordedFromOpenToClose(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	port := bastiontest.Target(t, bastiontest.Echo)
	config := b.ClientConfig("ec2-user", b.Alice)
	config.ClientVersion = "SSH-2.0-Test_1.0"
	client := b.DialAs(config)
	conn, err := client.Dial("tcp", target(port))
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "hello")
	conn.(interface{ CloseWrite() error }).CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	conn.Close()

	end := b.Book.Await(t, audit.ForwardClose, 1)
	open := b.Book.Records(audit.ForwardOpen)[0]
	login := b.Book.Records(audit.AuthOK)[0]
	address := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))
	for _, rec := range []audit.Record{open, end} {
		if rec.User != "alice" || rec.Login != "ec2-user" || rec.Key != ssh.FingerprintSHA256(b.Alice.PublicKey()) ||
			rec.Client != "SSH-2.0-Test_1.0" || rec.Source != netip.MustParseAddrPort(client.LocalAddr().String()) ||
			rec.Target != (audit.Endpoint{Host: "target", Port: uint32(port)}) || rec.Address != address ||
			rec.Grant != "everything" || rec.Entrance != "ssh" || rec.Conn != login.Conn || rec.Forward != open.Forward ||
			!strings.HasPrefix(rec.Policy, "sha256:") || rec.Originator.Host != "0.0.0.0" {
			t.Errorf("%s", rec.AppendJSON(nil))
		}
	}
	if end.BytesUp != 5 || end.BytesDown != 5 || end.Reason != "closed" || open.Seq > end.Seq || login.Seq > open.Seq {
		t.Errorf("%s", end.AppendJSON(nil))
	}
	client.Close()
	b.Book.Await(t, audit.ConnClose, 1)
	b.Book.Check(t)
}

func TestNothingIsDialledBeforeTheOpenIsDurable(t *testing.T) {
	var dialled atomic.Int32
	b := bastiontest.Start(t, bastiontest.Options{Dialer: dialFunc(func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialled.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	})})
	port := bastiontest.Target(t, bastiontest.Echo)
	client := b.Dial()
	release := b.Book.Hold()
	defer release()
	opened := make(chan error, 1)
	go func() {
		_, err := client.Dial("tcp", target(port))
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Fatalf("answered before the record: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if n := dialled.Load(); n != 0 {
		t.Fatalf("dialled %d times before the record", n)
	}
	release()
	if err := <-opened; err != nil || dialled.Load() != 1 {
		t.Fatalf("%v, dialled %d times", err, dialled.Load())
	}
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

func (f dialFunc) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return f(ctx, network, addr)
}

// openDirect opens a direct-tcpip channel for whatever host, as it stands.
func openDirect(client *ssh.Client, host string, port uint32) (ssh.Channel, <-chan *ssh.Request, error) {
	return client.OpenChannel("direct-tcpip", ssh.Marshal(struct {
		Host           string
		Port           uint32
		OriginatorHost string
		OriginatorPort uint32
	}{host, port, "127.0.0.1", 0}))
}

func openError(t testing.TB, err error) *ssh.OpenChannelError {
	t.Helper()
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) {
		t.Fatalf("not a refused channel: %v", err)
	}
	return refused
}

func TestLogThatCannotBeWrittenRefusesForwardsAndSaysSo(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	port := bastiontest.Target(t, bastiontest.Echo)
	client := b.Dial()
	running, err := client.Dial("tcp", target(port))
	if err != nil {
		t.Fatal(err)
	}
	b.Book.Fail(bastiontest.ErrDiskFull)
	_, err = client.Dial("tcp", target(port))
	if refused := openError(t, err); refused.Reason != ssh.ResourceShortage || !strings.Contains(refused.Message, "audit log cannot be written") {
		t.Errorf("refused with %v", refused)
	}
	// What runs goes on, and its end is recorded once the log is back.
	io.WriteString(running, "on")
	if _, err := io.ReadFull(running, make([]byte, 2)); err != nil {
		t.Errorf("the running forward: %v", err)
	}
	running.Close()
	bastiontest.Eventually(t, "the end is tried", func() bool { return strings.Contains(b.Lines.String(), "not yet recorded") })
	b.Book.Fail(nil)
	b.Book.Await(t, audit.ForwardClose, 1)
	if _, err := client.Dial("tcp", target(port)); err != nil {
		t.Errorf("after the log is back: %v", err)
	}
}

func TestOnFailureCloseEndsWhatRuns(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Config: func(c *bastion.Config) { c.CloseOnLogFailure = true }})
	port := bastiontest.Target(t, bastiontest.Echo)
	client := b.Dial()
	running, err := client.Dial("tcp", target(port))
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(running, "x") // the client is told a moment before the server counts it as open
	io.ReadFull(running, make([]byte, 1))
	b.Book.Fail(bastiontest.ErrDiskFull)
	client.Dial("tcp", target(port))
	if _, err := running.Read(make([]byte, 1)); err == nil {
		t.Error("the running forward goes on")
	}
	b.Book.Fail(nil)
	if end := b.Book.Await(t, audit.ForwardClose, 1); end.Reason != "log_failed" {
		t.Errorf("ended with %q", end.Reason)
	}
}

func TestLogThatHangsRefusesWithinTheDialTimeout(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Limits: func(l *bastion.Limits) { l.DialTimeout = 200 * time.Millisecond }})
	client := b.Dial()
	release := b.Book.Hold()
	defer release()
	_, err := client.Dial("tcp", "target:9")
	if refused := openError(t, err); !strings.Contains(refused.Message, "audit log") {
		t.Errorf("refused with %v", refused)
	}
}

func TestAnOpenInFlightWhenItsWaitEndedGetsItsEnd(t *testing.T) {
	book := bastiontest.NewBook()
	var once sync.Once
	b := bastiontest.Start(t, bastiontest.Options{Recorder: recorderFunc(func(ctx context.Context, rec audit.Record) error {
		err := book.Append(ctx, rec)
		if rec.Type == audit.ForwardOpen {
			once.Do(func() { err = fmt.Errorf("%w: the wait ended", audit.ErrInFlight) })
		}
		return err
	})})
	port := bastiontest.Target(t, bastiontest.Echo)
	client := b.Dial()
	_, err := client.Dial("tcp", target(port))
	openError(t, err)
	if end := book.Await(t, audit.ForwardFail, 1); end.Reason != "log_failed" {
		t.Errorf("ended with %q", end.Reason)
	}
	book.Check(t)
}

type recorderFunc func(ctx context.Context, rec audit.Record) error

func (f recorderFunc) Append(ctx context.Context, rec audit.Record) error { return f(ctx, rec) }

func TestRefusalsSayWhatTheUserMayKnow(t *testing.T) {
	const policy = `version: 1
users:
  - {name: alice, keys: ["{alice}"]}
  - {name: bob, keys: ["{bob}"]}
targets:
  - {name: named, hosts: [target, nowhere, dead.corp.example, outside, inside-out], ports: ["1-65535"], within: [127.0.0.1]}
  - {name: secret, hosts: [secret], ports: ["1-65535"]}
  - {name: net, hosts: [127.0.0.0/24], ports: ["1-65535"]}
grants:
  - {name: named, users: [alice], to: [named]}
  - {name: secret, users: [alice], to: [secret]}
  - {name: net, users: [bob], to: [net]}
`
	b := bastiontest.Start(t, bastiontest.Options{
		Policy:   policy,
		Networks: []string{"127.0.0.1/32", "127.0.0.2/32", "10.0.0.0/8"},
		Hosts: bastiontest.Hosts{
			"target": {"127.0.0.1"}, "outside": {"192.0.2.7"}, "inside-out": {"127.0.0.2"},
			"secret": {"10.1.2.3"}, "elsewhere": {"127.0.0.2"},
		},
		DNS: resolverFunc(func(host string) ([]netip.Addr, error) {
			return nil, &net.DNSError{Err: "server misbehaving on 10.9.9.9:53", Name: host, IsTemporary: true}
		}),
	})
	closed := bastiontest.Target(t, func(*net.TCPConn) {})
	alice := b.DialAs(b.ClientConfig("alice", b.Alice))
	bob := b.DialAs(b.ClientConfig("bob", b.Bob))
	for _, test := range []struct {
		name   string
		client *ssh.Client
		host   string
		kind   ssh.RejectionReason
		says   string // in the client's message
		reason string // in the record
		mute   string // must not be in the client's message
	}{
		{"a target of nobody's", alice, "db", ssh.Prohibited, "alice may not open db:%d (no grant)", "no_grant", ""},
		{"a target of somebody else's looks as one of nobody's", bob, "secret", ssh.Prohibited, "bob may not open secret:%d (no grant)", "no_grant", "10.1.2.3"},
		{"a name for which only a network could stand looks the same when it exists", bob, "target2", ssh.Prohibited, "bob may not open target2:%d (no grant)", "no_such_name", "address"},
		{"an allowed name without an address says so", alice, "nowhere", ssh.Prohibited, "has no address", "no_such_name", ""},
		{"an allowed name that DNS cannot answer names no resolver", alice, "dead.corp.example", ssh.ConnectionFailed, "cannot be resolved now", "resolve_failed", "10.9.9.9"},
		{"an allowed name that leads outside the fence names no address", alice, "outside", ssh.Prohibited, "(outside networks)", "outside_networks", "192.0.2.7"},
		{"an allowed name that leads outside within names no address", alice, "inside-out", ssh.Prohibited, "(outside within)", "outside_within", "127.0.0.2"},
		{"a number for an address", alice, "2130706433", ssh.Prohibited, "(bad host)", "bad_host", ""},
		{"control characters come back harmless", alice, "a\x1b[31m\nb", ssh.Prohibited, "(bad host)", "bad_host", "\x1b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := len(b.Book.Records(audit.ForwardDeny))
			_, _, err := openDirect(test.client, test.host, uint32(closed))
			refused := openError(t, err)
			if strings.Contains(test.says, "%d") {
				test.says = fmt.Sprintf(test.says, closed)
			}
			rec := b.Book.Await(t, audit.ForwardDeny, before+1)
			if refused.Reason != test.kind || !strings.Contains(refused.Message, test.says) || !strings.HasSuffix(refused.Message, "["+rec.Forward+"]") {
				t.Errorf("refused with %v: %q", refused.Reason, refused.Message)
			}
			if test.mute != "" && strings.Contains(refused.Message, test.mute) {
				t.Errorf("%q tells %q", refused.Message, test.mute)
			}
			if rec.Reason != test.reason {
				t.Errorf("recorded as %q, want %q (%s)", rec.Reason, test.reason, rec.Detail)
			}
		})
	}
	b.Book.Check(t)
}

type resolverFunc func(host string) ([]netip.Addr, error)

func (f resolverFunc) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	return f(host)
}

func TestDNSIsAskedAbsolutelyAndOnlyWhereItMay(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	b := bastiontest.Start(t, bastiontest.Options{
		Policy: `version: 1
users:
  - {name: alice, keys: ["{alice}"]}
targets:
  - {name: named, hosts: [db.corp.example, "web-*.corp.example", single], ports: ["1-65535"]}
  - {name: net, hosts: [127.0.0.1], ports: ["1-65535"]}
grants:
  - {name: all, users: [alice], to: [named, net]}
`,
		Zones: []string{"zone.example"},
		Hosts: bastiontest.Hosts{"single2": {"127.0.0.1"}},
		DNS: resolverFunc(func(host string) ([]netip.Addr, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, host)
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		}),
	})
	port := bastiontest.Target(t, bastiontest.Echo)
	client := b.Dial()
	for host, want := range map[string]bool{
		"db.corp.example": true, "web-7.corp.example": true, "db.corp.example.": true, "x.zone.example": true,
		"single": false, "other.corp.example": false, "web-7.x.corp.example": false, "zone.example.org": false, "notzone.example": false,
	} {
		mu.Lock()
		asked = nil
		mu.Unlock()
		_, err := client.Dial("tcp", fmt.Sprintf("%s:%d", host, port))
		if (err == nil) != want {
			t.Errorf("%s: %v", host, err)
		}
		mu.Lock()
		switch {
		case want && (len(asked) != 1 || asked[0] != strings.TrimSuffix(host, ".")+"."):
			t.Errorf("%s: DNS was asked for %q", host, asked)
		case !want && len(asked) != 0:
			t.Errorf("%s: DNS was asked for %q", host, asked)
		}
		mu.Unlock()
	}
	if _, err := client.Dial("tcp", fmt.Sprintf("single2:%d", port)); err != nil {
		t.Errorf("a name of the hosts file within a network grant: %v", err)
	}
}

// TestANameThatChangesItsAnswerIsAskedOnce holds that what is dialled is the
// address that was judged: the second answer would lead out of the fence.
func TestANameThatChangesItsAnswerIsAskedOnce(t *testing.T) {
	port := bastiontest.Target(t, bastiontest.Echo)
	witness, err := net.Listen("tcp", fmt.Sprintf("127.0.0.2:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer witness.Close()
	dns := bastiontest.ServeDNS(t, func(name string, n int) []string {
		if n == 0 {
			return []string{"127.0.0.1"}
		}
		return []string{"127.0.0.2"}
	})
	b := bastiontest.Start(t, bastiontest.Options{
		Policy: `version: 1
users:
  - {name: alice, keys: ["{alice}"]}
targets:
  - {name: named, hosts: [rebind.example], ports: ["1-65535"]}
grants:
  - {name: all, users: [alice], to: [named]}
`, DNS: dns,
	})
	client := b.Dial()
	if _, err := client.Dial("tcp", fmt.Sprintf("rebind.example:%d", port)); err != nil {
		t.Fatal(err)
	}
	if rec := b.Book.Await(t, audit.ForwardOpen, 1); rec.Address.Addr().String() != "127.0.0.1" {
		t.Errorf("dialled %s", rec.Address)
	}
	_, err = client.Dial("tcp", fmt.Sprintf("rebind.example:%d", port))
	openError(t, err)
	rec := b.Book.Await(t, audit.ForwardDeny, 1)
	if rec.Reason != "loopback" && rec.Reason != "outside_networks" || len(rec.Dropped) != 1 {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
	witness.(*net.TCPListener).SetDeadline(time.Now().Add(50 * time.Millisecond))
	if c, err := witness.Accept(); err == nil {
		c.Close()
		t.Error("the forbidden address was dialled")
	}
}

func TestAddressesAreTriedInTurnEachRecordedFirst(t *testing.T) {
	port := bastiontest.Target(t, bastiontest.Echo)
	b := bastiontest.Start(t, bastiontest.Options{
		Policy: `version: 1
users:
  - {name: alice, keys: ["{alice}"]}
targets:
  - {name: pair, hosts: [pair], ports: ["1-65535"]}
grants:
  - {name: all, users: [alice], to: [pair]}
`,
		Networks: []string{"127.0.0.1/32", "127.0.0.3/32"},
		Hosts:    bastiontest.Hosts{"pair": {"192.0.2.1", "127.0.0.3", "127.0.0.3", "127.0.0.1"}},
	})
	conn, err := b.Dial().Dial("tcp", fmt.Sprintf("pair:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	end := b.Book.Await(t, audit.ForwardClose, 1)
	open, retry := b.Book.Records(audit.ForwardOpen)[0], b.Book.Records(audit.ForwardRetry)
	if open.Address.Addr().String() != "127.0.0.3" || len(open.Dropped) != 1 || open.Dropped[0].Addr.String() != "192.0.2.1" {
		t.Errorf("%s", open.AppendJSON(nil))
	}
	if len(retry) != 1 || retry[0].Address.Addr().String() != "127.0.0.1" || retry[0].Reason != "connect_refused" || end.Address != retry[0].Address {
		t.Errorf("%d retries, end at %s", len(retry), end.Address)
	}
	b.Book.Check(t)
}

func TestOfManyAddressesAllAreJudgedAndSomeAreTried(t *testing.T) {
	var addrs, networks []string
	for i := range 20 {
		addrs = append(addrs, fmt.Sprintf("127.0.1.%d", i+1))
		networks = append(networks, addrs[i]+"/32")
	}
	b := bastiontest.Start(t, bastiontest.Options{
		Policy:   strings.Replace(twoUsers, "hosts: [target]", "hosts: [many]", 1),
		Networks: networks[3:], // the first ones are refused
		Hosts:    bastiontest.Hosts{"many": addrs},
		Dialer: dialFunc(func(context.Context, string, string) (net.Conn, error) {
			return nil, syscall.ECONNREFUSED
		}),
	})
	_, err := b.Dial().Dial("tcp", "many:1")
	openError(t, err)
	b.Book.Await(t, audit.ForwardFail, 1)
	open, retries := b.Book.Records(audit.ForwardOpen)[0], b.Book.Records(audit.ForwardRetry)
	if open.Address.Addr().String() != "127.0.1.4" || len(retries) != 15 || len(open.Dropped) != 4 || open.Dropped[3].Reason != "limit" {
		t.Errorf("%d retries; %s", len(retries), open.AppendJSON(nil))
	}
}

func TestADeadTargetDelaysNobodyAndIsAnsweredInTime(t *testing.T) {
	port := bastiontest.Target(t, bastiontest.Echo)
	b := bastiontest.Start(t, bastiontest.Options{
		Hosts:  bastiontest.Hosts{"target": {"127.0.0.1"}},
		Limits: func(l *bastion.Limits) { l.DialTimeout = 500 * time.Millisecond },
		Dialer: dialFunc(func(ctx context.Context, network, addr string) (net.Conn, error) {
			if strings.HasSuffix(addr, ":1") {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		}),
	})
	client := b.Dial()
	dead := make(chan error, 1)
	began := time.Now()
	go func() {
		_, err := client.Dial("tcp", "target:1")
		dead <- err
	}()
	for range 20 {
		conn, err := client.Dial("tcp", target(port))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	select {
	case err := <-dead:
		t.Fatalf("the dead target was answered before the live ones: %v", err)
	default:
	}
	refused := openError(t, <-dead)
	if refused.Reason != ssh.ConnectionFailed || !strings.Contains(refused.Message, "did not answer in time") {
		t.Errorf("refused with %v", refused)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("answered after %v", took)
	}
	if end := b.Book.Await(t, audit.ForwardFail, 1); end.Reason != "connect_timeout" {
		t.Errorf("ended with %q", end.Reason)
	}
}

func TestAClientThatLeavesWhileItsTargetIsDialledEndsTheDial(t *testing.T) {
	dialling, ended := make(chan struct{}), make(chan struct{})
	b := bastiontest.Start(t, bastiontest.Options{
		Dialer: dialFunc(func(ctx context.Context, _, _ string) (net.Conn, error) {
			close(dialling)
			<-ctx.Done()
			close(ended)
			return nil, ctx.Err()
		}),
	})
	client := dialAnnounced(t, b)
	go client.Dial("tcp", "target:1")
	<-dialling
	client.Close()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("the dial goes on")
	}
	if end := b.Book.Await(t, audit.ForwardFail, 1); end.Reason != "client_gone" {
		t.Errorf("ended with %q", end.Reason)
	}
	b.Book.Await(t, audit.ConnClose, 1)
	b.Book.Check(t)
}

// dialAnnounced connects alice, and returns once the server has announced its
// host keys: a client that leaves with something unread resets its connection,
// and is then lost rather than gone.
func dialAnnounced(t *testing.T, b *bastiontest.Bastion) *ssh.Client {
	t.Helper()
	tcp, err := net.Dial("tcp", b.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close() })
	conn, chans, requests, err := ssh.NewClientConn(tcp, b.Addr, b.ClientConfig("alice", b.Alice))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case req := <-requests:
		if req == nil || req.Type != "hostkeys-00@openssh.com" {
			t.Fatalf("instead of host keys came %v", req)
		}
	case <-time.After(bastiontest.Wait):
		t.Fatal("no host keys are announced")
	}
	return ssh.NewClient(conn, chans, requests)
}

func TestPolicyThatTakesAwayEndsWhatRunsAndLeavesTheRest(t *testing.T) {
	const before = `version: 1
users:
  - {name: alice, keys: ["{alice}"], groups: [dev]}
  - {name: bob, keys: ["{bob}"], groups: [dev]}
targets:
  - {name: a, hosts: [target], ports: ["1-65535"]}
  - {name: b, hosts: [other], ports: ["1-65535"]}
grants:
  - {name: first, users: [alice], to: [a]}
  - {name: second, groups: [dev], to: [b]}
`
	port := bastiontest.Target(t, bastiontest.Echo)
	b := bastiontest.Start(t, bastiontest.Options{Policy: before, Hosts: bastiontest.Hosts{"target": {"127.0.0.1"}, "other": {"127.0.0.1"}}})
	alice, bob := b.Dial(), b.DialAs(b.ClientConfig("bob", b.Bob))
	open := func(client *ssh.Client, host string) net.Conn {
		t.Helper()
		conn, err := client.Dial("tcp", fmt.Sprintf("%s:%d", host, port))
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	byName, byOther, bobs := open(alice, "target"), open(alice, "other"), open(bob, "other")

	alive := func(c net.Conn) bool {
		c.Write([]byte("x"))
		_, err := io.ReadFull(c, make([]byte, 1))
		return err == nil
	}
	// What an ended forward had already read may still come back: that it is
	// ended shows when nothing comes any more.
	over := func(c net.Conn) bool {
		for began := time.Now(); time.Since(began) < bastiontest.Wait; {
			if !alive(c) {
				return true
			}
		}
		return false
	}
	forwards, conns := b.Server.SetPolicy(b.Parse(strings.Replace(before, "  - {name: first, users: [alice], to: [a]}\n", "", 1)))
	if forwards != 1 || conns != 0 {
		t.Errorf("ended %d forwards, %d connections", forwards, conns)
	}
	if !over(byName) || !alive(byOther) || !alive(bobs) {
		t.Error("another forward was ended than the one that lost its grant")
	}
	if end := b.Book.Await(t, audit.ForwardClose, 1); end.Reason != "no_grant" || end.User != "alice" {
		t.Errorf("%s", end.AppendJSON(nil))
	}

	// Removing bob ends his connection; alice does not blink.
	without := strings.Replace(before, `  - {name: bob, keys: ["{bob}"], groups: [dev]}`+"\n", "", 1)
	if forwards, conns = b.Server.SetPolicy(b.Parse(without)); forwards != 1 || conns != 1 {
		t.Errorf("ended %d forwards, %d connections", forwards, conns)
	}
	if !over(bobs) || !alive(byOther) {
		t.Error("bob is still there, or alice is not")
	}
	if end := b.Book.Await(t, audit.ConnClose, 1); end.Reason != "unknown_user" || end.User != "bob" {
		t.Errorf("%s", end.AppendJSON(nil))
	}

	// When another grant takes over, the forward goes on, and that is told.
	again := strings.Replace(without, "groups: [dev], to: [b]}", "users: [nobody], to: [b]}", 1)
	again += "  - {name: third, users: [alice], to: [b]}\n"
	if forwards, _ = b.Server.SetPolicy(b.Parse(again)); forwards != 0 || !alive(byOther) {
		t.Errorf("ended %d forwards", forwards)
	}
	if rec := b.Book.Await(t, audit.ForwardProgress, 1); rec.Grant != "third" || rec.Reason != "grant_changed" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestPreviewTellsTheEndsThatAPolicyThenRecords(t *testing.T) {
	const before = `version: 1
users:
  - {name: alice, keys: ["{alice}"]}
  - {name: bob, keys: ["{bob}"]}
targets:
  - {name: a, hosts: [target], ports: ["1-65535"]}
  - {name: b, hosts: [other], ports: ["1-65535"]}
grants:
  - {name: both, users: [alice, bob], to: [a, b]}
`
	port := bastiontest.Target(t, bastiontest.Echo)
	b := bastiontest.Start(t, bastiontest.Options{Policy: before, Hosts: bastiontest.Hosts{"target": {"127.0.0.1"}, "other": {"127.0.0.1"}}})
	alice, bob := b.Dial(), b.DialAs(b.ClientConfig("bob", b.Bob))
	goesOn := mustOpen(t, alice, target(port))
	for _, conn := range []net.Conn{goesOn, mustOpen(t, alice, fmt.Sprintf("OTHER.:%d", port)), mustOpen(t, bob, target(port))} {
		io.WriteString(conn, "x") // the client is told a moment before the server counts it as open
		io.ReadFull(conn, make([]byte, 1))
	}
	live := b.Server.LiveForwards()
	if len(live) != 3 || live[0].User != "alice" || live[0].Target != target(port) || live[0].Grant != "both" || !live[0].Open ||
		live[0].Address.String() != fmt.Sprintf("127.0.0.1:%d", port) || live[1].Target != fmt.Sprintf("other:%d", port) || live[2].Key != ssh.FingerprintSHA256(b.Bob.PublicKey()) {
		t.Errorf("%+v", live)
	}

	after := b.Parse(strings.NewReplacer("  - {name: bob, keys: [\"{bob}\"]}\n", "", ", to: [a, b]", ", to: [a]").Replace(before))
	forwards, conns := b.Server.Preview(after)
	if len(forwards) != 2 || len(conns) != 1 || b.Server.Forwards() != 3 {
		t.Fatalf("%+v %+v", forwards, conns)
	}
	b.Server.SetPolicy(after)
	b.Book.Await(t, audit.ForwardClose, 2)
	b.Book.Await(t, audit.ConnClose, 1)
	ends := map[string]audit.Record{}
	for _, rec := range b.Book.Records(audit.ForwardClose, audit.ConnClose) {
		ends[rec.Forward+" of "+rec.Conn] = rec
	}
	for _, e := range append(forwards, conns...) {
		rec, ok := ends[e.Forward+" of "+e.Conn]
		if !ok || rec.Reason != e.Reason || rec.Detail != e.Detail || rec.User != e.User || rec.Address != e.Address || rec.Grant != e.Grant {
			t.Errorf("previewed %+v, recorded %s", e, rec.AppendJSON(nil))
		}
	}
	io.WriteString(goesOn, "x")
	if _, err := io.ReadFull(goesOn, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func TestShutdownLetsForwardsEndAndCutsTheRest(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Limits: func(l *bastion.Limits) { l.DrainTimeout = 700 * time.Millisecond }})
	port := bastiontest.Target(t, bastiontest.Echo)
	idle, one, two := b.Dial(), b.Dial(), b.Dial()
	ends, stays := mustOpen(t, one, target(port)), mustOpen(t, two, target(port))
	done := make(chan int)
	go func() { done <- b.Server.Shutdown(context.Background()) }()
	if err := idle.Wait(); err == nil {
		t.Error("the idle connection ended without an error")
	}
	_, err := two.Dial("tcp", target(port))
	if refused := openError(t, err); !strings.Contains(refused.Message, "stopping") {
		t.Errorf("refused with %v", refused)
	}
	if _, err := net.Dial("tcp", b.Addr); err == nil {
		t.Error("still listening")
	}
	io.WriteString(ends, "last")
	ends.(interface{ CloseWrite() error }).CloseWrite()
	if got, _ := io.ReadAll(ends); string(got) != "last" {
		t.Errorf("the forward that may finish got %q", got)
	}
	ends.Close()
	if cut := <-done; cut != 1 {
		t.Errorf("cut %d forwards", cut)
	}
	if _, err := stays.Read(make([]byte, 1)); err == nil {
		t.Error("the forward that stayed was not ended")
	}
	reasons := map[string]int{}
	for _, rec := range b.Book.Records(audit.ForwardClose) {
		reasons[rec.Reason]++
	}
	if reasons["closed"] != 1 || reasons["drain"] != 1 {
		t.Errorf("reasons %v", reasons)
	}
	if n := len(b.Book.Records(audit.ConnClose)); n != 3 {
		t.Errorf("%d connections recorded as closed", n)
	}
	b.Book.Check(t)
}

func mustOpen(t testing.TB, client *ssh.Client, addr string) net.Conn {
	t.Helper()
	conn, err := client.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestTwoHundredForwardsAtOnce(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Limits: func(l *bastion.Limits) { l.MaxPendingDialsPerConnection = 256 }})
	port := bastiontest.Target(t, bastiontest.Echo)
	client := b.Dial()
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			conn, err := client.Dial("tcp", target(port))
			if err != nil {
				t.Error(err)
				return
			}
			text := strings.Repeat(fmt.Sprint(i, " "), 1000)
			go func() {
				io.WriteString(conn, text)
				conn.(interface{ CloseWrite() error }).CloseWrite()
			}()
			if got, err := io.ReadAll(conn); string(got) != text || err != nil {
				t.Errorf("forward %d: %d of %d bytes, %v", i, len(got), len(text), err)
			}
			conn.Close()
		}()
	}
	wg.Wait()
	client.Close()
	b.Book.Await(t, audit.ForwardClose, 200)
	b.Book.Await(t, audit.ConnClose, 1)
	b.Book.Check(t)
	if n := b.Server.Forwards(); n != 0 {
		t.Errorf("%d forwards left", n)
	}
}

func TestAPanicEndsItsConnectionOnly(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{
		Dialer: dialFunc(func(ctx context.Context, network, addr string) (net.Conn, error) {
			if strings.HasSuffix(addr, ":1") {
				panic("a bug")
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		}),
	})
	port := bastiontest.Target(t, bastiontest.Echo)
	victim, bystander := b.Dial(), b.Dial()
	victim.Dial("tcp", "target:1")
	victim.Wait()
	mustOpen(t, bystander, target(port))
	if rec := b.Book.Await(t, audit.ConnClose, 1); rec.Reason != "internal_error" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
	if rec := b.Book.Await(t, audit.ForwardFail, 1); rec.Reason != "internal_error" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestAForwardThatIsCutOnItsWayTellsNoAddress(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	port := bastiontest.Target(t, bastiontest.Echo)
	client := b.Dial()
	release := b.Book.Hold()
	defer release()
	refused := make(chan error, 1)
	go func() {
		_, err := client.Dial("tcp", target(port))
		refused <- err
	}()
	bastiontest.Eventually(t, "the open waits for the log", func() bool {
		live := b.Server.LiveForwards()
		return len(live) == 1 && live[0].Address.IsValid()
	})
	b.Server.SetPolicy(b.Parse(`version: 1
users:
  - {name: alice, keys: ["{alice}"]}
targets:
  - {name: other, hosts: [target], ports: ["9"]}
grants:
  - {name: other, users: [alice], to: [other]}
`))
	if e := openError(t, <-refused); strings.Contains(e.Message, "127.0.0.1") || !strings.Contains(e.Message, "alice may not open target") {
		t.Errorf("refused with %v", e)
	}
}
