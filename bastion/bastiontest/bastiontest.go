// Package bastiontest runs a bastion.Server for a test, on loopback and with
// a log in memory, as net/http/httptest does for HTTP.
package bastiontest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/audit/schematest"
	"sekisho/authz"
	"sekisho/bastion"
)

// Wait is how long anything in a test may take before it has failed. It is
// long because it is only met by failures.
const Wait = 30 * time.Second

// Hosts is a Resolver of fixed names.
type Hosts map[string][]string

// LookupNetIP returns the addresses of host in order.
func (h Hosts) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	addrs, ok := h[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	var ips []netip.Addr
	for _, a := range addrs {
		ips = append(ips, netip.MustParseAddr(a))
	}
	return ips, nil
}

// Options are what a test sets; the zero value serves.
type Options struct {
	// Policy is a policy.yaml; {alice} in it stands for alice's public key,
	// {bob} for bob's. Empty: alice may reach 127.0.0.1 on every port, by
	// address or as "target".
	Policy   string
	Networks []string // empty: 127.0.0.1/32
	Zones    []string
	Hosts    bastion.Resolver // nil: target is 127.0.0.1
	DNS      bastion.Resolver
	Dialer   bastion.Dialer
	Recorder bastion.Recorder // nil: a Book
	Listener net.Listener     // nil: on loopback
	Limits   func(*bastion.Limits)
	Config   func(*bastion.Config)
}

// A Bastion is a running server.
type Bastion struct {
	Server  *bastion.Server
	Addr    string
	HostKey ssh.PublicKey
	Book    *Book // nil if Options.Recorder was set
	Lines   *Lines

	Alice, Bob ssh.Signer
	AliceKey   ed25519.PrivateKey // the key of Alice

	t    testing.TB
	opts Options
}

const defaultPolicy = `version: 1
users:
  - {name: alice, keys: ["{alice}"]}
targets:
  - {name: all, hosts: [target, 127.0.0.1], ports: ["1-65535"]}
grants:
  - {name: everything, users: [alice], to: [all]}
`

// Start runs a server until the test ends.
func Start(t testing.TB, opts Options) *Bastion {
	t.Helper()
	b := &Bastion{t: t, opts: opts, Bob: Key(t), Lines: new(Lines)}
	b.Alice, b.AliceKey = newKey(t)
	host := Key(t)
	b.HostKey = host.PublicKey()
	if opts.Recorder == nil {
		b.Book = NewBook()
		opts.Recorder = b.Book
	}
	if opts.Hosts == nil {
		opts.Hosts = Hosts{"target": {"127.0.0.1"}}
	}
	limits := bastion.DefaultLimits()
	limits.DrainTimeout = 200 * time.Millisecond
	if opts.Limits != nil {
		opts.Limits(&limits)
	}
	log := logrus.New()
	log.SetOutput(b.Lines)
	log.SetLevel(logrus.DebugLevel)
	config := bastion.Config{
		Name: "test", HostKeys: []ssh.Signer{host}, Policy: b.Parse(opts.Policy),
		Hosts: opts.Hosts, DNS: opts.DNS, Dialer: opts.Dialer, Recorder: opts.Recorder,
		Limits: limits, Log: log,
		OwnAddrs: func() ([]netip.Addr, error) { return nil, nil },
	}
	if opts.Config != nil {
		opts.Config(&config)
	}
	server, err := bastion.New(config)
	if err != nil {
		t.Fatal(err)
	}
	b.Server = server
	l := opts.Listener
	if l == nil {
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	b.Addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Shutdown(context.Background())
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if book, ok := opts.Recorder.(*Book); ok {
			if err := CheckSchema(book.Records()); err != nil {
				t.Error(err)
			}
		}
		if t.Failed() {
			t.Logf("operational log:\n%s", b.Lines)
			if b.Book != nil {
				for _, rec := range b.Book.Records() {
					t.Logf("%s", rec.AppendJSON(nil))
				}
			}
		}
	})
	return b
}

// Parse reads a policy as Start does.
func (b *Bastion) Parse(policy string) *authz.Policy {
	b.t.Helper()
	if policy == "" {
		policy = defaultPolicy
	}
	policy = strings.NewReplacer("{alice}", Line(b.Alice), "{bob}", Line(b.Bob)).Replace(policy)
	networks := b.opts.Networks
	if networks == nil {
		networks = []string{"127.0.0.1/32"}
	}
	opts := authz.Options{Zones: b.opts.Zones}
	for _, n := range networks {
		opts.Networks = append(opts.Networks, netip.MustParsePrefix(n))
	}
	p, problems := authz.Parse(strings.NewReader(policy), "policy.yaml", opts)
	if p == nil {
		b.t.Fatalf("policy: %v", problems.Err())
	}
	return p
}

// Key makes an ed25519 key.
func Key(t testing.TB) ssh.Signer {
	t.Helper()
	signer, _ := newKey(t)
	return signer
}

func newKey(t testing.TB) (ssh.Signer, ed25519.PrivateKey) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer, private
}

// Line is the authorized_keys line of a key.
func Line(key ssh.Signer) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey())))
}

// ClientConfig is that of a client that logs in as user with keys.
func (b *Bastion) ClientConfig(user string, keys ...ssh.Signer) *ssh.ClientConfig {
	return &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(keys...)},
		HostKeyCallback: ssh.FixedHostKey(b.HostKey), Timeout: Wait,
	}
}

// Dial logs in as alice, for the rest of the test.
func (b *Bastion) Dial() *ssh.Client {
	b.t.Helper()
	return b.DialAs(b.ClientConfig("alice", b.Alice))
}

// DialAs logs in with config, for the rest of the test.
func (b *Bastion) DialAs(config *ssh.ClientConfig) *ssh.Client {
	b.t.Helper()
	client, err := ssh.Dial("tcp", b.Addr, config)
	if err != nil {
		b.t.Fatalf("login: %v", err)
	}
	b.t.Cleanup(func() { client.Close() })
	return client
}

// Target listens on 127.0.0.1 and serves every connection with serve, in a
// goroutine of its own, until the test ends. It returns the port.
func Target(t testing.TB, serve func(*net.TCPConn)) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]struct{}{}
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = struct{}{}
			mu.Unlock()
			conns.Add(1)
			go func() {
				defer conns.Done()
				defer func() {
					c.Close()
					mu.Lock()
					delete(open, c)
					mu.Unlock()
				}()
				serve(c.(*net.TCPConn))
			}()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-accepted
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		conns.Wait()
	})
	return l.Addr().(*net.TCPAddr).Port
}

// Echo is a Target that sends back what it gets, and ends when that ends.
func Echo(c *net.TCPConn) {
	io.Copy(c, c)
	c.CloseWrite()
}

// Eventually fails the test unless ok becomes true.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Wait); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// A Book is a Recorder in memory.
type Book struct {
	mu      sync.Mutex
	records []audit.Record
	fail    error
	hold    chan struct{}
}

// NewBook returns an empty Book.
func NewBook() *Book { return new(Book) }

// Append keeps the record, or fails as Fail says.
func (b *Book) Append(ctx context.Context, rec audit.Record) error {
	b.mu.Lock()
	hold := b.hold
	b.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the log: %w", context.Cause(ctx))
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return b.fail
	}
	rec.Seq = uint64(len(b.records))
	rec.Time = time.Now()
	b.records = append(b.records, rec)
	return nil
}

// Fail makes every Append fail with err, until it is nil again.
func (b *Book) Fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = err
}

// Hold makes every Append wait until release is called.
func (b *Book) Hold() (release func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	hold := make(chan struct{})
	b.hold = hold
	return sync.OnceFunc(func() {
		b.mu.Lock()
		b.hold = nil
		b.mu.Unlock()
		close(hold)
	})
}

// Records returns the records of the given types, or all.
func (b *Book) Records(types ...audit.Type) []audit.Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	var some []audit.Record
	for _, rec := range b.records {
		if len(types) == 0 {
			some = append(some, rec)
		}
		for _, t := range types {
			if rec.Type == t {
				some = append(some, rec)
			}
		}
	}
	return some
}

// Await waits for the nth record, from 1, of a type and returns it.
func (b *Book) Await(t testing.TB, typ audit.Type, n int) audit.Record {
	t.Helper()
	Eventually(t, fmt.Sprintf("%d records of %s", n, typ), func() bool { return len(b.Records(typ)) >= n })
	return b.Records(typ)[n-1]
}

// Check fails the test unless every open has exactly one end after it, no end
// or progress stands elsewhere, and every record is as the schema has it.
func (b *Book) Check(t testing.TB) {
	t.Helper()
	if err := errors.Join(CheckForwards(b.Records()), CheckSchema(b.Records())); err != nil {
		t.Error(err)
	}
}

// CheckSchema reports what of records is not as the schema of the log has it.
func CheckSchema(records []audit.Record) error {
	var check schematest.Check
	for _, rec := range records {
		// What audit.Log fills in.
		rec.V, rec.Bastion, rec.Run = audit.Version, "test", "01KBXXH9A8W9ZK7V4M1C0E2D3F"
		check.Line(rec.AppendJSON(nil))
	}
	return check.Err()
}

// CheckForwards reports the first forward whose records do not tell a whole
// story: an open, then what happened, then one end.
func CheckForwards(records []audit.Record) error {
	state := map[string]audit.Type{}
	for _, rec := range records {
		was := state[rec.Forward]
		switch {
		case rec.Forward == "":
			continue
		case rec.Type == audit.ForwardOpen && was != "",
			rec.Type == audit.ForwardDeny && was != "":
			return fmt.Errorf("forward %s: %s after %s", rec.Forward, rec.Type, was)
		case rec.Type.Ends() && (was == "" || was.Ends() || was == audit.ForwardDeny),
			(rec.Type == audit.ForwardRetry || rec.Type == audit.ForwardProgress) && (was == "" || was.Ends()):
			return fmt.Errorf("forward %s: %s after %q", rec.Forward, rec.Type, was)
		}
		state[rec.Forward] = rec.Type
	}
	for id, last := range state {
		if !last.Ends() && last != audit.ForwardDeny {
			return fmt.Errorf("forward %s: no end after %s", id, last)
		}
	}
	return nil
}

// Lines is an operational log in memory.
type Lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *Lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *Lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// ErrDiskFull is what a Book may Fail with.
var ErrDiskFull = errors.New("writing the log: no space left on device")
