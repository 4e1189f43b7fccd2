//go:build linux

package e2e

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
)

// duplex is a target that sends for ever and reads what comes; ended gets a
// value when its peer has gone.
func duplex(ended chan<- struct{}) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		sent := make(chan struct{})
		go func() {
			io.Copy(struct{ io.Writer }{c}, newPattern(1))
			close(sent)
		}()
		io.Copy(io.Discard, struct{ io.Reader }{c})
		c.Close()
		<-sent
		ended <- struct{}{}
	}
}

// moving waits until bytes have come down a forward.
func moving(t *testing.T, r io.Reader) {
	t.Helper()
	got := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, struct{ io.Reader }{r}, 1<<20)
		got <- err
	}()
	if err := receive(t, "bytes to come", got); err != nil {
		t.Fatal(err)
	}
}

func TestATargetThatIsKilledEndsItsForwardOnly(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	other := serve(t, appserverIP, echo)
	c := b.login(alice(t))
	living := c.mustOpen("appserver", other.port)
	before := b.descriptors()
	target, port := startTarget(t, "duplex", rdsIP)

	ch := c.mustOpen("rds", port)
	go io.Copy(ch, newPattern(2)) // bytes that it has not read make the kernel reset
	moving(t, ch)
	target.kill()
	_, took := ch.ends()
	if took > promptly {
		t.Errorf("the client learnt of it after %v", took)
	}
	ch.Close()
	living.echoes()
	b.settles(before)
	living.Close()
	f := b.forwards(2)[1]
	f.check(t, want{grant: "dba-db", host: "rds", port: port, address: rdsIP, reasons: []string{"target_reset"}})
	if f.end.BytesDown < 1<<20 || f.end.BytesUp == 0 {
		t.Errorf("the record says %d bytes down and %d up", f.end.BytesDown, f.end.BytesUp)
	}
}

func TestATargetThatResetsEndsTheStockClientsForward(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	host := serve(t, appserverIP, func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 4))
		io.CopyN(struct{ io.Writer }{c}, newPattern(1), 1000)
		io.ReadFull(c, make([]byte, 4)) // the client has it all
		c.SetLinger(0)
	})
	_, local := b.localForward(host.as("appserver"))
	conn := dialLocal(t, local)
	io.WriteString(conn, "ping")
	if _, err := io.CopyN(io.Discard, conn, 1000); err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "pong")
	if n, _ := io.Copy(io.Discard, conn); n != 0 {
		t.Errorf("%d more bytes came", n)
	}
	b.forwards(1)[0].check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP,
		reasons: []string{"target_reset"}, bytes: &tapped{8, 1000}})
}

func TestAClientThatIsKilledLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	t.Run("while bytes move both ways", func(t *testing.T) {
		b := newBastion(t, setup{})
		before := b.descriptors()
		ended := make(chan struct{}, 1)
		host := serve(t, appserverIP, duplex(ended))
		client, local := b.localForward(host.as("appserver"))
		conn := dialLocal(t, local)
		go io.Copy(struct{ io.Writer }{conn}, newPattern(3))
		moving(t, conn)
		client.kill()
		receive(t, "the target to see the end", ended)
		b.clientWentAway(host)
		b.settles(before)
	})
	t.Run("while the target reads nothing", func(t *testing.T) {
		b := newBastion(t, setup{})
		before := b.descriptors()
		wake, got := make(chan struct{}), make(chan int64, 1)
		host := serve(t, appserverIP, sleeper(wake, got))
		wakeUp := sync.OnceFunc(func() { close(wake) })
		t.Cleanup(wakeUp) // or a failure before would hang
		client, local := b.localForward(host.as("appserver"))
		conn := dialLocal(t, local)
		go io.Copy(struct{ io.Writer }{conn}, newPattern(3))
		eventually(t, "the target's buffers to be full", stillness(b))
		client.kill()
		f := b.clientWentAway(host)
		b.settles(before)
		wakeUp()
		if n := receive(t, "the target to see the end", got); uint64(n) != f.end.BytesUp {
			t.Errorf("the record says %d bytes up, the target got %d", f.end.BytesUp, n)
		}
	})
}

// clientWentAway checks the records of the one forward of a client that ended
// without a word.
func (b *bastion) clientWentAway(host *target) *forwarded {
	b.t.Helper()
	f := b.forwards(1)[0]
	f.check(b.t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP, reasons: []string{"client_gone", "client_lost"}})
	b.recorded(audit.ConnClose, func(r audit.Record) bool { return r.Reason == "client_gone" || r.Reason == "client_lost" })
	return f
}

// stillness reports whether the bytes that the server has read and written
// have stopped growing.
func stillness(b *bastion) func() bool {
	last, since := "", time.Now()
	return func() bool {
		if now := b.moved(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond
	}
}

func TestAClientThatClosesOnlyItsChannelFreesAStalledForward(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	wake, got := make(chan struct{}), make(chan int64, 1)
	host := serve(t, appserverIP, sleeper(wake, got))
	wakeUp := sync.OnceFunc(func() { close(wake) })
	t.Cleanup(wakeUp) // or a failure before would hang
	c := b.login(alice(t))
	before := b.descriptors()
	ch := c.mustOpen("appserver", host.port)
	go io.Copy(ch, newPattern(3))
	eventually(t, "the target's buffers to be full", stillness(b))
	ch.Close()
	f := b.forwards(1)[0]
	f.check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP, reasons: []string{"client_gone"}})
	b.settles(before)
	wakeUp()
	if n := receive(t, "the target to see the end", got); uint64(n) != f.end.BytesUp {
		t.Errorf("the record says %d bytes up, the target got %d", f.end.BytesUp, n)
	}
	// The connection is as good as before.
	live := serve(t, appserverIP, echo)
	c.mustOpen("appserver", live.port).echoes()
}

func TestAClientWhoseNetworkIsGoneIsFoundOut(t *testing.T) {
	t.Parallel()
	needRoot(t, "it cuts the wire between two network namespaces")
	away, here := newWire(t)
	const interval, missed = 1 * time.Second, 2
	b := newBastion(t, setup{
		listen: here.ip + ":0", wrap: here.run(),
		limits: map[string]any{"keepalive_interval": interval.String(), "keepalive_max_missed": missed},
	})
	before := b.descriptors()
	ended, silent := make(chan struct{}, 1), make(chan struct{}, 1)
	host := serveOn(t, here.listen(t, appserverIP+":0"), duplex(ended))
	quiet := serveOn(t, here.listen(t, rdsIP+":0"), stalled(silent))

	args := append(away.run(), b.ssh("-v", "-o", "ServerAliveInterval=0", "-o", "ExitOnForwardFailure=yes",
		"-L", "127.0.0.1:9001:"+host.as("appserver"), "-L", "127.0.0.1:9002:"+quiet.as("rds"), "-N", "bastion")...)
	client := start(t, exec.Command(args[0], args[1:]...))
	client.says(t, `Entering interactive session`)
	conn := away.dial(t, "127.0.0.1:9001")
	go io.Copy(struct{ io.Writer }{conn}, newPattern(3))
	moving(t, conn)
	go io.Copy(io.Discard, conn)
	away.dial(t, "127.0.0.1:9002")
	eventually(t, "both forwards", func() bool { return b.count(audit.ForwardOpen) == 2 })

	cut := time.Now()
	away.cut(t)
	receive(t, "the busy target to see the end", ended)
	receive(t, "the quiet target to see the end", silent)
	took := time.Since(cut)
	if least, most := interval, interval*missed+10*time.Second; took < least || took > most {
		t.Errorf("the targets saw the end %v after the cut, want between %v and %v", took, least, most)
	}
	for _, f := range b.forwards(2) {
		grant, ip, port := "dev-web", appserverIP, host.port
		if f.open.Target.Host == "rds" {
			grant, ip, port = "dba-db", rdsIP, quiet.port
		}
		f.check(t, want{grant: grant, host: f.open.Target.Host, port: port, address: ip, reasons: []string{"keepalive"}})
	}
	b.recorded(audit.ConnClose, func(r audit.Record) bool { return r.Reason == "keepalive" })
	b.settles(before)
	// Nor does the kernel keep one of the sockets, for what the client has not
	// acknowledged: tcp_orphan_retries would be for minutes.
	within(t, promptly, "the sockets to be gone", func() bool { return len(here.connections(t)) == 0 })
	if took := time.Since(cut); took > interval*missed+12*time.Second {
		t.Errorf("the sockets were gone %v after the cut", took)
	}
}

func TestATargetWhoseNetworkIsGoneIsFoundOutThoughBytesAreOnTheirWayToIt(t *testing.T) {
	t.Parallel()
	needRoot(t, "it cuts the wire between two network namespaces")
	away, here := newWire(t)
	b := newBastion(t, setup{
		wrap: here.run(), hosts: away.ip + " appserver\n" + rdsIP + " rds\n", networks: []string{away.ip + "/32", rdsIP + "/32"},
		limits: map[string]any{"keepalive_interval": "1s", "keepalive_max_missed": 3},
	})
	wake, got := make(chan struct{}), make(chan int64, 1)
	host := serveOn(t, away.listen(t, away.ip+":0"), func(c *net.TCPConn) { io.Copy(io.Discard, struct{ io.Reader }{c}) })
	stalls := serveOn(t, here.listen(t, rdsIP+":0"), sleeper(wake, got))
	wakeUp := sync.OnceFunc(func() { close(wake) })
	t.Cleanup(wakeUp) // or a failure before would hang

	args := append(here.run(), b.ssh("-v", "-o", "ExitOnForwardFailure=yes",
		"-L", "127.0.0.1:9001:"+host.as("appserver"), "-L", "127.0.0.1:9002:"+stalls.as("rds"), "-N", "bastion")...)
	client := start(t, exec.Command(args[0], args[1:]...))
	client.says(t, `Entering interactive session`)
	for _, local := range []string{"127.0.0.1:9001", "127.0.0.1:9002"} {
		conn := here.dial(t, local)
		go io.Copy(struct{ io.Writer }{conn}, newPattern(3))
	}
	time.Sleep(6 * time.Second) // one that only has no room is not one that is gone
	if n := b.count(audit.ForwardClose); n != 0 {
		t.Fatalf("%d forwards are closed while their targets are there", n)
	}
	cut := time.Now()
	away.cut(t)
	end := b.recorded(audit.ForwardClose, nil)
	if took := time.Since(cut); took < 3*time.Second || took > 12*time.Second {
		t.Errorf("it is found out after %v", took)
	}
	if end.Target.Host != "appserver" || end.Reason != "target_reset" || !strings.Contains(end.Detail, "vanished") {
		t.Errorf("the end is recorded as %s, %q, of %s", end.Reason, end.Detail, end.Target.Host)
	}
	time.Sleep(2 * time.Second)
	if n := b.count(audit.ForwardClose); n != 1 {
		t.Errorf("%d forwards are closed, want that to the target that is gone", n)
	}
	wakeUp()
	client.kill()
	b.forwards(2)
}

func TestADeadTargetDelaysNobodyElse(t *testing.T) {
	t.Parallel()
	const limit = 6 * time.Second
	b := newBastion(t, setup{limits: map[string]any{"dial_timeout": limit.String()}})
	dead := deafListener(t, deadIP)
	host := serve(t, appserverIP, greet)
	c := b.login(alice(t))
	already := c.mustOpen("appserver", host.port)
	readLine(t, already)

	type outcome struct {
		err  error
		took time.Duration
	}
	const many = 5
	outcomes := make(chan outcome, many)
	began := time.Now()
	for range many {
		go func() {
			_, err := c.open("dead", dead)
			outcomes <- outcome{err, time.Since(began)}
		}()
	}
	eventually(t, "the dials to be under way", func() bool { return b.count(audit.ForwardOpen) == many+1 })
	// Half of the limit is far more than this takes, and less than anything
	// that waits for the dead target.
	live := time.Now()
	already.echoes()
	fresh := c.mustOpen("appserver", host.port)
	readLine(t, fresh)
	fresh.echoes()
	b.login(bob(t), "bob").Close()
	if took := time.Since(live); took >= limit/2 {
		t.Errorf("the live target and a login took %v while a dead one was dialled, want less than %v", took, limit/2)
	}
	if n := b.count(audit.ForwardFail) + len(outcomes); n != 0 {
		t.Error("the dead target was answered about before the live one")
	}
	for range many {
		o := receive(t, "the answer about the dead target", outcomes)
		refusal, ok := o.err.(*ssh.OpenChannelError)
		if !ok || refusal.Reason != ssh.ConnectionFailed || !strings.Contains(refusal.Message, fmt.Sprintf("sekisho: dead:%d did not answer in time [f", dead)) {
			t.Errorf("the answer about the dead target is %v", o.err)
		}
		if o.took < limit || o.took > limit+promptly {
			t.Errorf("it came after %v, want %v", o.took, limit)
		}
	}
	already.echoes()
	fresh.Close()
	already.Close()
	for _, f := range b.forwards(many + 2) {
		if f.open.Target.Host == "dead" {
			f.check(t, want{grant: "dev-web", host: "dead", port: dead, address: deadIP, typ: audit.ForwardFail, reasons: []string{"connect_timeout"}, bytes: &tapped{}})
		}
	}
}

func TestADeadFirstAddressLeavesTimeForTheNext(t *testing.T) {
	t.Parallel()
	const limit = 3 * time.Second
	b := newBastion(t, setup{limits: map[string]any{"dial_timeout": limit.String()}})
	host := serve(t, appserverIP, greet)
	deafListenerOn(t, deadIP, host.port)
	got := command(t, "", b.ssh("-W", host.as("half-dead"), "bastion")...)
	if got.out != greeting {
		t.Fatalf("the client read %q, and heard %q", got.out, got.err)
	}
	f := b.forwards(1)[0]
	if f.open.Address.Addr().String() != deadIP || len(f.retries) != 1 || f.retries[0].Address.Addr().String() != appserverIP || f.retries[0].Reason != "connect_timeout" {
		t.Errorf("the records tell of %v, then of %+v", f.open.Address, f.retries)
	}
	if f.end.Type != audit.ForwardClose || f.end.Address.Addr().String() != appserverIP {
		t.Errorf("the end is %s at %v", f.end.Type, f.end.Address)
	}
}

func TestATargetThatRefusesIsSaidToTheStockClient(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	port := freePort(t, appserverIP)
	r := command(t, "", b.ssh("-W", fmt.Sprintf("appserver:%d", port), "bastion")...)
	if r.code != 255 || !matches(`open failed: connect failed: sekisho: appserver:\d+ refused the connection \[f\w+\]`, r.err) {
		t.Errorf("exit %d: %s", r.code, r.err)
	}
	b.forwards(1)[0].check(t, want{grant: "dev-web", host: "appserver", port: port, address: appserverIP, typ: audit.ForwardFail, reasons: []string{"connect_refused"}, bytes: &tapped{}})

	r = command(t, "", b.ssh("-W", "vault:22", "bastion")...)
	if r.code != 255 || !matches(`open failed: administratively prohibited: sekisho: alice may not open vault:22 \(no grant\).*\[f\w+\]`, r.err) {
		t.Errorf("exit %d: %s", r.code, r.err)
	}
	if d := b.denied(1)[0]; d.Reason != "no_grant" || d.User != "alice" || d.Target.Host != "vault" || d.Target.Port != 22 || d.Address.IsValid() {
		t.Errorf("the denial is recorded as %+v", d)
	}
	if r.took > promptly {
		t.Errorf("it took %v", r.took)
	}
}

func TestADeadServerLeavesItsForwardsToTheNextOneToEnd(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	ended := make(chan struct{}, 8)
	host := serve(t, appserverIP, duplex(ended))
	db := serve(t, rdsIP, echo)
	_, local := b.localForward(host.as("appserver"))
	moving(t, dialLocal(t, local))
	c := b.login(alice(t))
	finished := c.mustOpen("rds", db.port)
	finished.echoes()
	finished.CloseWrite()
	finished.ends()
	finished.Close()
	b.recorded(audit.ForwardClose, nil)
	for range 3 {
		ch := c.mustOpen("appserver", host.port)
		moving(t, ch)
		go io.Copy(io.Discard, ch)
	}
	c.mustOpen("rds", db.port).echoes()
	const running = 5
	eventually(t, "the forwards", func() bool { return b.count(audit.ForwardOpen) == running+1 })
	firstRun := b.records()[0].Run

	b.proc.cmd.Process.Signal(syscall.SIGKILL)
	b.kill()
	for range running - 1 { // the echo is not told of
		receive(t, "a target to see the end", ended)
	}
	b.start()
	b.proc.says(t, `recorded as lost`)
	lost := 0
	for _, f := range b.forwards(running + 1) {
		if f.ends != 1 {
			t.Errorf("forward %s has %d ends", f.id, f.ends)
		}
		if f.end.Type != audit.ForwardLost {
			continue
		}
		lost++
		if f.open.Run != firstRun || f.end.Run == firstRun {
			t.Errorf("forward %s was opened in run %s and is lost in run %s", f.id, f.open.Run, f.end.Run)
		}
		if f.end.User != "alice" || f.end.Conn != f.open.Conn || f.end.Target != f.open.Target {
			t.Errorf("the record of the loss says less than the open: %+v", *f.end)
		}
	}
	if lost != running {
		t.Errorf("%d forwards are recorded as lost, want %d", lost, running)
	}
	// It serves as before, and another start finds nothing more.
	b.client = ""
	live := b.login(alice(t)).mustOpen("rds", db.port)
	live.echoes()
	live.Close()
	b.forwards(running + 2)
	b.stop()
	b.start()
	if n := b.count(audit.ForwardLost); n != running {
		t.Errorf("after a stop in order %d forwards are recorded as lost, want still %d", n, running)
	}
}
