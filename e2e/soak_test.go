//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/audit/schematest"
)

// Everything at once, for a while, against the server that people run:
//
//	people    alice, whose forwards must all work: whole, and answered soon
//	faults    targets that refuse, reset, stall, drip and answer nothing; bob,
//	          who is locked, killed and loses his grant in the middle; reloads;
//	          clients that vanish; a log that changes its segment all the time
//	attacks   strangers that are silent, slow, random or wrong; floods of opens
//	          that are never read; bytes one by one to a target that is stuck
//
// Meanwhile memory, goroutines and descriptors stay where they are, and when it
// is over they are back where they began; the log verifies, and every forward
// in it has one end.
func TestAMixedLoadWithFaultsAndAttacksLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	lasts := 10 * time.Second
	if soak {
		lasts = soakTime
	}
	l := newLoad(t)
	before := l.sample()
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), lasts)
	defer cancel()
	l.run(ctx)
	samples := l.watch(ctx, max(lasts/300, 250*time.Millisecond))
	l.working.Wait()
	t.Logf("%v of load: %v", time.Since(began).Round(time.Second), l)
	l.flat(before, samples)
	l.back(before)
	l.drain()
	l.judge()
}

// load is what happens to one server, and what of it is counted.
type load struct {
	t       *testing.T
	b       *bastion
	metrics string
	working sync.WaitGroup

	echoes, resets, stuck, drips *target
	refused, deaf                int // ports

	mu     sync.Mutex
	done   map[string]int
	waits  []time.Duration // of people, from connecting to the first echo
	failed atomic.Int32
	bytes  atomic.Int64 // that came back whole
}

// Each kind of client has addresses of its own, so that what one does is not
// held against another.
const (
	bobsIP     = "127.0.7.1"
	strangerIP = "127.0.9."
	strangers  = 4
)

func newLoad(t *testing.T) *load {
	l := &load{t: t, done: map[string]int{}, metrics: fmt.Sprintf("127.0.0.1:%d", freePort(t, "127.0.0.1"))}
	l.echoes = serve(t, appserverIP, echo)
	l.resets = serve(t, appserverIP, func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 10))
		c.SetLinger(0)
	})
	l.stuck = serve(t, appserverIP, awaitPeerGone)
	l.drips = serve(t, rdsIP, func(c *net.TCPConn) {
		for range 50 {
			if _, err := c.Write([]byte{'.'}); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	l.refused, l.deaf = freePort(t, appserverIP), deafListener(t, deadIP)
	l.b = newBastion(t, setup{
		binary: staticBinary,
		limits: map[string]any{"login_grace": "3s", "dial_timeout": "2s", "half_closed": "5s", "keepalive_interval": "2s"},
		settings: map[string]any{
			"metrics": map[string]any{"listen": l.metrics, "pprof": true},
			"audit":   map[string]any{"segment_size": "256KiB", "progress": "1s"},
		},
	})
	l.b.ssh() // which writes the client's files
	return l
}

// count notes that something was done.
func (l *load) count(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done[what]++
}

func (l *load) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.waits)
	at := func(share float64) time.Duration {
		if len(l.waits) == 0 {
			return 0
		}
		return l.waits[int(share*float64(len(l.waits)-1))].Round(time.Millisecond)
	}
	return fmt.Sprintf("%v; %d MiB came back whole; from connecting to the first echo half waited %v, 99 %% %v, the last one %v",
		l.done, l.bytes.Load()>>20, at(0.5), at(0.99), at(1))
}

// fail tells of something that must not be, if it is not one of many.
func (l *load) fail(format string, args ...any) {
	if l.failed.Add(1) <= 10 {
		l.t.Errorf(format, args...)
	}
}

// run starts all that happens until ctx ends.
func (l *load) run(ctx context.Context) {
	for i, each := range []struct {
		name  string
		many  int
		pause time.Duration // at most
		do    func(*rand.Rand)
	}{
		{"connections of people", 4, 20 * time.Millisecond, l.person},
		{"stock clients", 1, 100 * time.Millisecond, l.stock},
		{"stock clients that were killed", 1, 2 * time.Second, l.killedStock},
		{"clients that vanished", 1, 500 * time.Millisecond, l.vanish},
		{"faulty targets", 2, 50 * time.Millisecond, l.fault},
		{"connections of bob", 2, 100 * time.Millisecond, l.bob},
		{"policies", 1, 2 * time.Second, l.policy},
		{"orders about bob", 1, 2 * time.Second, l.order},
		{"strangers", 6, 200 * time.Millisecond, l.stranger},
		{"wrong keys", 1, 300 * time.Millisecond, l.wrongKey},
		{"floods of opens", 1, time.Second, l.flood},
		{"bytes one by one", 1, time.Second, l.oneByOne},
	} {
		for j := range each.many {
			random := rand.New(rand.NewPCG(uint64(i), uint64(j)))
			l.working.Go(func() {
				for ctx.Err() == nil {
					each.do(random)
					l.count(each.name)
					select {
					case <-ctx.Done():
					case <-time.After(time.Duration(random.Int64N(int64(each.pause)))):
					}
				}
			})
		}
	}
}

// login is raw.login for goroutines, from an address of this machine, and with
// a limit on all that is done.
func (l *load) login(who key, name, from string) (*ssh.Client, net.Conn, error) {
	conn, err := l.connect(from)
	if err != nil {
		return nil, nil, err
	}
	c, chans, reqs, err := ssh.NewClientConn(conn, l.b.addr, l.b.clientConfig(name, signerAuth(who)))
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return ssh.NewClient(c, chans, reqs), conn, nil
}

func (l *load) connect(from string) (net.Conn, error) {
	d := net.Dialer{Timeout: hang, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.Dial("tcp", l.b.addr)
	if err == nil {
		conn.SetDeadline(time.Now().Add(2 * hang))
	}
	return conn, err
}

// dial opens a forward.
func dialThrough(c *ssh.Client, to string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	return c.DialContext(ctx, "tcp", to)
}

// exchange sends bytes to an echo and looks whether they come back.
func (l *load) exchange(c *ssh.Client, random *rand.Rand) error {
	ch, err := dialThrough(c, l.echoes.as("appserver"))
	if err != nil {
		return err
	}
	defer ch.Close()
	size := random.Int64N(1 << uint(1+random.IntN(19)))
	seed := byte(random.IntN(256))
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(ch, io.LimitReader(newPattern(seed), size))
		if half, ok := ch.(interface{ CloseWrite() error }); err == nil && ok {
			err = half.CloseWrite()
		}
		sent <- err
	}()
	sum, n := hashOf(ch)
	if err := <-sent; err != nil {
		return fmt.Errorf("sending %d bytes: %w", size, err)
	}
	if want := patternSum(seed, size); sum != want || n != size {
		return fmt.Errorf("of %d bytes %d came back, with the hash %s, want %s", size, n, sum, want)
	}
	l.bytes.Add(n)
	return nil
}

// person is alice, who may notice nothing of all this.
func (l *load) person(random *rand.Rand) {
	began := time.Now()
	c, _, err := l.login(alice(l.t), "alice", "127.0.0.1")
	if err != nil {
		l.fail("alice does not get in: %v", err)
		return
	}
	defer c.Close()
	for i := range 1 + random.IntN(20) {
		if err := l.exchange(c, random); err != nil {
			l.fail("a forward of alice: %v", err)
			return
		}
		if i == 0 {
			l.mu.Lock()
			l.waits = append(l.waits, time.Since(began))
			l.mu.Unlock()
		}
		l.count("forwards of people")
	}
}

// stock is alice with ssh -W.
func (l *load) stock(random *rand.Rand) {
	size, seed := random.Int64N(256<<10), byte(random.IntN(256))
	ctx, cancel := context.WithTimeout(context.Background(), 2*hang)
	defer cancel()
	args := l.b.ssh("-W", l.echoes.as("appserver"), "bastion")
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var said bytes.Buffer
	sum := sha256.New()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = io.LimitReader(newPattern(seed), size), sum, &said
	if err := cmd.Run(); err != nil {
		l.fail("ssh -W: %v: %s", err, said.String())
	} else if got := hexSum(sum); got != patternSum(seed, size) {
		l.fail("ssh -W gave back something else than the %d bytes it was given", size)
	}
}

// killedStock is one that is killed while bytes move.
func (l *load) killedStock(random *rand.Rand) {
	args := l.b.ssh("-W", l.echoes.as("appserver"), "bastion")
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(200+random.IntN(800))*time.Millisecond)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.WaitDelay = newPattern(1), io.Discard, time.Second
	cmd.Run()
}

// vanish is alice, whose connection is gone while her forwards run.
func (l *load) vanish(random *rand.Rand) {
	c, conn, err := l.login(alice(l.t), "alice", "127.0.0.1")
	if err != nil {
		l.fail("alice does not get in: %v", err)
		return
	}
	defer c.Close()
	for range random.IntN(8) {
		ch, err := dialThrough(c, l.echoes.as("appserver"))
		if err != nil {
			l.fail("a forward of alice: %v", err)
			return
		}
		go io.Copy(ch, io.LimitReader(newPattern(2), 1<<20))
	}
	time.Sleep(time.Duration(random.IntN(50)) * time.Millisecond)
	conn.(*net.TCPConn).SetLinger(random.IntN(2) - 1) // with a FIN, or a RST
	conn.Close()
}

// fault is alice at targets that do not do what they should.
func (l *load) fault(random *rand.Rand) {
	c, _, err := l.login(alice(l.t), "alice", "127.0.0.1")
	if err != nil {
		l.fail("alice does not get in: %v", err)
		return
	}
	defer c.Close()
	for _, to := range []string{
		l.resets.as("appserver"), l.stuck.as("appserver"), l.drips.as("rds"),
		fmt.Sprintf("appserver:%d", l.refused), fmt.Sprintf("dead:%d", l.deaf), "vault:22", "rds.\x00:1", "no-such-name:1",
	} {
		if strings.HasPrefix(to, "dead:") && random.IntN(5) > 0 {
			continue // each takes all of dial_timeout
		}
		ch, err := dialThrough(c, to)
		if err != nil {
			if refusal := (*ssh.OpenChannelError)(nil); !errors.As(err, &refusal) {
				l.fail("opening %q: %v", to, err)
				return
			}
			l.count("forwards that were refused or failed")
			continue
		}
		late := time.AfterFunc(time.Duration(random.IntN(300))*time.Millisecond, func() { ch.Close() })
		io.Copy(ch, io.LimitReader(newPattern(3), 3<<20)) // more than a window
		io.Copy(io.Discard, ch)
		late.Stop()
		ch.Close()
	}
}

// bob never knows how long he may.
func (l *load) bob(random *rand.Rand) {
	c, _, err := l.login(bob(l.t), "bob", bobsIP)
	if err != nil {
		return
	}
	defer c.Close()
	for range 1 + random.IntN(10) {
		ch, err := dialThrough(c, l.drips.as("rds"))
		if err != nil {
			return
		}
		l.count("forwards of bob")
		io.Copy(io.Discard, ch)
		ch.Close()
	}
}

// policy has another policy and hosts file taken over, or one that is not good.
func (l *load) policy(random *rand.Rand) {
	policy, hosts := standardUsers(l.t)+standardGrants, standardHosts
	switch random.IntN(4) {
	case 0: // without bob
		policy = strings.Replace(policy, "groups: [dba], to: [db]", "to: [db]", 1)
	case 1:
		policy += "nonsense\n"
	case 2:
		hosts += appserverIP + " another\n"
	}
	for name, content := range map[string]string{"policy.yaml": policy, "hosts": hosts} {
		name = filepath.Join(l.b.dir, name)
		if err := errors.Join(os.WriteFile(name+".new", []byte(content), 0o600), os.Rename(name+".new", name)); err != nil {
			l.fail("%v", err)
		}
	}
	if random.IntN(2) == 0 {
		l.b.proc.cmd.Process.Signal(syscall.SIGHUP)
	} else {
		l.sekisho("reload", "--force")
	}
}

// order takes something from bob, and gives it back.
func (l *load) order(random *rand.Rand) {
	switch random.IntN(3) {
	case 0:
		l.sekisho("kill", "--user", "bob")
	case 1:
		l.sekisho("kill", "--target", "rds")
	default:
		l.sekisho("lock", "bob", "--why", "a drill")
		time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond)
		if r := l.sekisho("unlock", "bob"); r != nil {
			l.fail("bob stays locked: %v", r)
		}
	}
	l.sekisho("sessions")
}

// sekisho gives a command, which may well find that there is nothing to do.
func (l *load) sekisho(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*hang)
	defer cancel()
	out, err := exec.CommandContext(ctx, staticBinary, append(args, "--config", l.b.dir)...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		l.fail("sekisho %v: %v: %s", args, err, out)
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// stranger connects and never comes to a login.
func (l *load) stranger(random *rand.Rand) {
	conn, err := l.connect(fmt.Sprint(strangerIP, 1+random.IntN(strangers)))
	if err != nil {
		return
	}
	defer conn.Close()
	const hello = "SSH-2.0-OpenSSH_9.2p1\r\n"
	switch random.IntN(6) {
	case 0: // says nothing, until it is sent away
		io.Copy(io.Discard, conn)
	case 1: // says what is no SSH
		io.Copy(conn, io.LimitReader(newPattern(byte(random.IntN(256))), random.Int64N(64<<10)))
	case 2: // stops in the middle of the handshake
		io.WriteString(conn, hello)
		io.CopyN(conn, newPattern(byte(random.IntN(256))), random.Int64N(200))
		io.Copy(io.Discard, conn)
	case 3: // takes its time
		for i := range hello {
			if _, err := io.WriteString(conn, hello[i:i+1]); err != nil {
				return
			}
			time.Sleep(200 * time.Millisecond)
		}
	case 4: // says who it is, and then what is no SSH
		io.WriteString(conn, hello)
		io.Copy(conn, io.LimitReader(newPattern(byte(random.IntN(256))), 64<<10))
	case 5: // is gone at once
		conn.(*net.TCPConn).SetLinger(random.IntN(2) - 1)
	}
}

// wrongKey is one whom nobody knows.
func (l *load) wrongKey(random *rand.Rand) {
	name := []string{"alice", "bob", "root", "x\x1b[2J\n"}[random.IntN(4)]
	if c, _, err := l.login(mallory(), name, fmt.Sprint(strangerIP, 1+random.IntN(strangers))); err == nil {
		c.Close()
		l.fail("mallory is in, as %q", name)
	}
}

var mallory = sync.OnceValue(func() key {
	k, err := makeKey(sharedDir, "mallory")
	if err != nil {
		panic(err)
	}
	return k
})

// flood is bob, who opens channels and reads no answer.
func (l *load) flood(random *rand.Rand) {
	c, conn, err := l.login(bob(l.t), "bob", bobsIP)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var asking sync.WaitGroup
	defer asking.Wait()
	defer c.Close()
	defer conn.Close()
	for i := range 500 {
		asking.Go(func() {
			to := []string{"vault:22", l.drips.as("rds"), fmt.Sprintf("rds:%d", 1+i)}[i%3]
			if ch, err := c.DialContext(ctx, "tcp", to); err == nil {
				<-ctx.Done()
				ch.Close()
			}
		})
	}
	time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
}

// oneByOne is bob, who sends bytes in packets of their own to a target that is
// slow, and requests that nobody serves.
func (l *load) oneByOne(random *rand.Rand) {
	c, conn, err := l.login(bob(l.t), "bob", bobsIP)
	if err != nil {
		return
	}
	defer c.Close()
	ch, err := dialThrough(c, l.drips.as("rds"))
	if err != nil {
		return
	}
	late := time.AfterFunc(time.Second, func() { conn.Close() })
	defer late.Stop()
	for {
		if _, err := ch.Write([]byte{0}); err != nil {
			return
		}
		if random.IntN(100) == 0 {
			c.SendRequest("tcpip-forward", false, []byte("nonsense"))
		}
	}
}

// A sample is what the server holds at a moment.
type sample struct{ kilobytes, goroutines, descriptors int }

func (s sample) String() string {
	return fmt.Sprintf("%d MiB, %d goroutines, %d descriptors", s.kilobytes>>10, s.goroutines, s.descriptors)
}

var (
	rssLine       = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB$`)
	goroutineLine = regexp.MustCompile(`(?m)^go_goroutines (\d+)$`)
)

func (l *load) sample() (s sample) {
	l.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", l.b.proc.pid()))
	if err != nil {
		l.t.Fatal(err)
	}
	s.kilobytes = number(l.t, rssLine, status)
	s.descriptors = l.b.descriptors()
	s.goroutines = number(l.t, goroutineLine, l.get("/metrics"))
	return s
}

// get asks where the metrics are, on a connection that is then gone.
func (l *load) get(path string) []byte {
	l.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: hang}
	resp, err := client.Get("http://" + l.metrics + path)
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return text
}

func number(t *testing.T, line *regexp.Regexp, text []byte) int {
	t.Helper()
	m := line.FindSubmatch(text)
	if m == nil {
		t.Fatalf("there is no line %s in\n%s", line, text)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// watch samples until ctx ends.
func (l *load) watch(ctx context.Context, every time.Duration) (all []sample) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return all
		case <-tick.C:
			all = append(all, l.sample())
		}
	}
}

// flat compares what the server held in the second quarter of the time, when
// all had begun, and in the last one.
func (l *load) flat(before sample, all []sample) {
	if len(all) < 20 {
		l.t.Fatalf("%d samples", len(all))
	}
	quarter := len(all) / 4
	early, late := mean(all[quarter:2*quarter]), mean(all[len(all)-quarter:])
	l.t.Logf("at the start %v; in the second quarter %v; in the last %v; at the most %v", before, early, late, highest(all))
	if !soak {
		return // it has not yet come to rest
	}
	if late.kilobytes > early.kilobytes*5/4+16<<10 {
		l.t.Errorf("memory grows: %d MiB, and then %d MiB", early.kilobytes>>10, late.kilobytes>>10)
	}
	if late.goroutines > early.goroutines*3/2+100 {
		l.t.Errorf("goroutines pile up: %d, and then %d", early.goroutines, late.goroutines)
	}
	if late.descriptors > early.descriptors*3/2+50 {
		l.t.Errorf("descriptors pile up: %d, and then %d", early.descriptors, late.descriptors)
	}
}

func mean(all []sample) (s sample) {
	for _, x := range all {
		s.kilobytes, s.goroutines, s.descriptors = s.kilobytes+x.kilobytes, s.goroutines+x.goroutines, s.descriptors+x.descriptors
	}
	return sample{s.kilobytes / len(all), s.goroutines / len(all), s.descriptors / len(all)}
}

func highest(all []sample) (s sample) {
	for _, x := range all {
		s.kilobytes, s.goroutines, s.descriptors = max(s.kilobytes, x.kilobytes), max(s.goroutines, x.goroutines), max(s.descriptors, x.descriptors)
	}
	return s
}

// back waits until the server holds no more than it did at the start.
func (l *load) back(before sample) {
	var now sample
	for deadline := time.Now().Add(2 * hang); ; time.Sleep(200 * time.Millisecond) {
		if now = l.sample(); now.goroutines <= before.goroutines && now.descriptors <= before.descriptors {
			break
		}
		if time.Now().After(deadline) {
			sessions, _ := exec.Command(staticBinary, "sessions", l.b.dir).CombinedOutput()
			l.t.Errorf("what is left: %v; at the start: %v\n%s%s", now, before, sessions, tail(string(l.get("/debug/pprof/goroutine?debug=1"))))
			return
		}
	}
	l.t.Logf("afterwards %v", now)
}

// drain ends the server as an administrator does who waits for nobody.
func (l *load) drain() {
	t := l.t
	c, _, err := l.login(alice(t), "alice", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 {
		if _, err := dialThrough(c, l.stuck.as("appserver")); err != nil {
			t.Fatal(err)
		}
	}
	l.b.stopped = true
	r := l.b.sekisho("drain", "--timeout", "1s")
	if r.code != 0 || !strings.Contains(r.out, "2 forwards may end by themselves") || !strings.HasSuffix(r.out, "\nstopped; 2 forwards had to be ended\n") {
		t.Errorf("drain: exit %d: %s%s", r.code, r.out, r.err)
	}
	if code := l.b.proc.wait(t); code != 0 {
		t.Errorf("the server ended with exit status %d", code)
	}
	for _, bad := range []string{"panic:", "internal error", "fatal error:", "level=error msg=\"the end"} {
		if strings.Contains(l.b.proc.err.String(), bad) {
			t.Errorf("the server said %q", bad)
		}
	}
}

// judge reads the log once, whatever its size.
func (l *load) judge() {
	t := l.t
	if r := l.b.sekisho("audit", "verify"); r.code != 0 {
		t.Errorf("sekisho audit verify: exit %d\n%s%s", r.code, r.out, r.err)
	}
	open := map[string]bool{}
	kinds, reasons := map[audit.Type]int{}, map[string]int{}
	var schema schematest.Check
	next := uint64(0)
	err := audit.Read(l.b.auditAt, func(r audit.Record) error {
		if r.Seq != next {
			return fmt.Errorf("record %d follows %d", r.Seq, next)
		}
		next++
		kinds[r.Type]++
		if r.Seq%16 == 0 {
			schema.Line(r.AppendJSON(nil))
		}
		switch {
		case r.Type == audit.ForwardOpen && open[r.Forward]:
			l.fail("forward %s is opened twice", r.Forward)
		case r.Type == audit.ForwardOpen:
			open[r.Forward] = true
		case r.Type == audit.ForwardDeny && open[r.Forward]:
			l.fail("forward %s is both opened and denied", r.Forward)
		case r.Type.Ends() && !open[r.Forward]:
			l.fail("forward %s has an end and no open, or two", r.Forward)
		case r.Type.Ends():
			delete(open, r.Forward)
			reasons[r.Reason]++
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := schema.Err(); err != nil {
		t.Error(err)
	}
	if len(open) > 0 {
		t.Errorf("%d forwards have no end", len(open))
	}
	segments, err := audit.Segments(l.b.auditAt)
	if err != nil || len(segments) < 2 {
		t.Errorf("%d segments, %v", len(segments), err)
	}
	t.Logf("%d records in %d segments: %v; ends: %v", next, len(segments), kinds, reasons)
	wanted := []string{"closed", "drain"}
	if soak { // for these there must be time
		wanted = append(wanted, "target_reset", "connect_refused", "connect_timeout", "killed", "locked", "no_grant")
		if kinds[audit.PolicyReject] == 0 || kinds[audit.AuthFail] == 0 || kinds[audit.ForwardDeny] == 0 {
			t.Errorf("the load was too weak: %v", kinds)
		}
	}
	for _, reason := range wanted {
		if reasons[reason] == 0 {
			t.Errorf("the load was too weak: no forward ended for %s", reason)
		}
	}
}
