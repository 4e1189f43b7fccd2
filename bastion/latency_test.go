package bastion_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// pourDialer connects to targets in memory: on port 22 to one that echoes, on
// others to one that sends without end.
type pourDialer struct{ echoDialer }

func (d pourDialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	to := netip.MustParseAddrPort(addr)
	if to.Port() == 22 {
		return d.echoDialer.DialContext(ctx, network, addr)
	}
	return &pouring{closed: make(chan struct{})}, nil
}

// pouring is a connection from which bytes come without end.
type pouring struct {
	closed chan struct{}
	once   atomic.Bool
}

func (p *pouring) Read(b []byte) (int, error) {
	select {
	case <-p.closed:
		return 0, net.ErrClosed
	default:
		return len(b), nil
	}
}

func (p *pouring) Close() error {
	if p.once.CompareAndSwap(false, true) {
		close(p.closed)
	}
	return nil
}

func (p *pouring) Write(b []byte) (int, error)      { return len(b), nil }
func (p *pouring) CloseWrite() error                { return nil }
func (p *pouring) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (p *pouring) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (p *pouring) SetDeadline(time.Time) error      { return nil }
func (p *pouring) SetReadDeadline(time.Time) error  { return nil }
func (p *pouring) SetWriteDeadline(time.Time) error { return nil }

// disturbed is a client that has small forwards beside bulk ones. Its clock
// stands still unless somebody waits for a time.
type disturbed struct {
	*ssh.Client
	b       *bastiontest.Bastion
	t       *testing.T
	wire    *unplugged
	markers atomic.Int32 // keepalives that want an answer
	owed    atomic.Int32 // of them, those that wait for theirs
	most    atomic.Int32 // at once
	silent  atomic.Bool  // answers none
	delay   atomic.Int64 // of an answer, a time.Duration
}

func inTraffic(t *testing.T, test func(*testing.T, *disturbed)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		network := bastiontest.NewNetwork()
		b := bastiontest.Start(t, bastiontest.Options{Listener: network, Dialer: pourDialer{}})
		pipe, err := network.Dial(netip.MustParseAddrPort("203.0.113.9:50000"))
		if err != nil {
			t.Fatal(err)
		}
		d := &disturbed{b: b, t: t, wire: &unplugged{Conn: pipe, closed: make(chan struct{})}}
		c, chans, reqs, err := ssh.NewClientConn(d.wire, "bastion", b.ClientConfig("alice", b.Alice))
		if err != nil {
			t.Fatal(err)
		}
		mine := make(chan *ssh.Request)
		d.Client = ssh.NewClient(c, chans, mine)
		go func() {
			defer close(mine)
			for req := range reqs {
				d.answer(req)
			}
		}()
		defer time.Sleep(time.Second) // until what types has ended
		defer d.wire.Close()
		test(t, d)
	})
}

func (d *disturbed) answer(req *ssh.Request) {
	if !req.WantReply || !strings.HasPrefix(req.Type, "keepalive@") {
		return
	}
	d.markers.Add(1)
	d.most.Store(max(d.most.Load(), d.owed.Add(1)))
	if d.silent.Load() {
		return
	}
	time.Sleep(time.Duration(d.delay.Load()))
	d.owed.Add(-1)
	req.Reply(false, nil)
}

func (d *disturbed) open(port string) net.Conn {
	d.t.Helper()
	conn, err := d.Dial("tcp", "target:"+port)
	if err != nil {
		d.t.Fatal(err)
	}
	return conn
}

// take reads n bytes and returns how long that took.
func (d *disturbed) take(conn net.Conn, n int64) time.Duration {
	d.t.Helper()
	began := time.Now()
	if _, err := io.CopyN(io.Discard, conn, n); err != nil {
		d.t.Fatalf("reading bulk: %v", err)
	}
	return time.Since(began)
}

// types has a byte echoed, now and four times a second until the test ends.
func (d *disturbed) types() {
	d.t.Helper()
	conn := d.open("22")
	once := func() error {
		if _, err := conn.Write([]byte{1}); err != nil {
			return err
		}
		_, err := conn.Read(make([]byte, 1))
		return err
	}
	if err := once(); err != nil {
		d.t.Fatal(err)
	}
	go func() {
		for once() == nil {
			time.Sleep(250 * time.Millisecond)
		}
	}()
}

func TestBulkThatDisturbsNobodyNeverWaits(t *testing.T) {
	for _, c := range []struct {
		name string
		bulk int
	}{{"one by itself", 1}, {"three beside each other", 3}} {
		t.Run(c.name, func(t *testing.T) {
			inTraffic(t, func(t *testing.T, d *disturbed) {
				d.silent.Store(true) // a wait would end only with time
				var bulk []net.Conn
				for range c.bulk {
					bulk = append(bulk, d.open("80"))
				}
				for _, conn := range bulk {
					d.take(conn, 1<<20) // until each is known to be bulk
				}
				time.Sleep(time.Second)
				for range 4 {
					for _, conn := range bulk {
						if took := d.take(conn, 1<<20); took != 0 {
							t.Fatalf("it waited %v", took)
						}
					}
				}
				if n := d.markers.Load(); n != 0 && c.bulk == 1 {
					t.Errorf("the client was asked %d times", n)
				}
			})
		})
	}
}

func TestBulkBesideASmallForwardWaitsForTheClientToHaveReadIt(t *testing.T) {
	inTraffic(t, func(t *testing.T, d *disturbed) {
		bulk := d.open("80")
		d.take(bulk, 4<<20)
		d.types()
		d.take(bulk, 4<<20)
		if took := d.take(bulk, 6<<20); took != 0 {
			t.Errorf("it waited %v although every marker was answered at once", took)
		}
		if d.markers.Load() == 0 {
			t.Error("the client was never asked")
		}
		const delay = 100 * time.Millisecond
		d.delay.Store(int64(delay))
		d.take(bulk, 4<<20)
		n := d.markers.Load()
		took := d.take(bulk, 4<<20)
		// No more than a limit and what is being written goes with one answer.
		if answers := d.markers.Load() - n; answers < 4<<20/(192<<10) || took < time.Duration(answers-1)*delay {
			t.Errorf("4 MiB came in %v with %d answers", took, answers)
		}
	})
}

func TestAClientThatAnswersNothingIsNotLimitedForLong(t *testing.T) {
	inTraffic(t, func(t *testing.T, d *disturbed) {
		d.silent.Store(true)
		bulk := d.open("80")
		d.take(bulk, 4<<20)
		d.types()
		d.take(bulk, 2<<20) // what was on its way
		if took := d.take(bulk, 1<<20); took == 0 || took > 10*time.Second {
			t.Errorf("a megabyte took %v while answers were waited for", took)
		}
		time.Sleep(30 * time.Second)
		d.take(bulk, 4<<20)
		if took := d.take(bulk, 6<<20); took != 0 {
			t.Errorf("it still waited, %v for 6 MiB, after 30 s", took)
		}
		if n := d.most.Load(); n != 1 {
			t.Errorf("%d markers waited for their answers at once", n)
		}
	})
}

func TestWhoeverWaitsForAnAnswerIsFreedAtOnce(t *testing.T) {
	for _, c := range []struct {
		name   string
		end    func(d *disturbed, id string)
		reason string
	}{
		{"by the end of the connection", func(d *disturbed, _ string) { d.wire.Close() }, "client_"}, // gone or lost
		{"by a kill", func(d *disturbed, id string) { d.b.Server.Kill("by a test", bastion.Selection{ID: id}) }, "killed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inTraffic(t, func(t *testing.T, d *disturbed) {
				d.silent.Store(true)
				bulk := d.open("80")
				d.take(bulk, 4<<20)
				d.types()
				go io.Copy(io.Discard, bulk)
				time.Sleep(10*time.Second + time.Millisecond) // now it waits
				began, id := time.Now(), d.b.Book.Records(audit.ForwardOpen)[0].Forward
				c.end(d, id)
				var ended audit.Record
				bastiontest.Eventually(t, "the end of the forward", func() bool {
					for _, rec := range d.b.Book.Records(audit.ForwardClose) {
						if rec.Forward == id {
							ended = rec
						}
					}
					return ended.Forward != ""
				})
				if took := ended.Time.Sub(began); !strings.HasPrefix(ended.Reason, c.reason) || strings.Contains(ended.Detail, "was not reading") || took > bastion.BulkWait/10 {
					t.Errorf("after %v: %s", took, ended.AppendJSON(nil))
				}
			})
		})
	}
}

func TestAForwardWhoseReaderStandsStillHoldsNoOther(t *testing.T) {
	inTraffic(t, func(t *testing.T, d *disturbed) {
		for range 8 { // nobody reads these: each stands in a write
			d.open("80")
		}
		bulk := d.open("80")
		d.take(bulk, 4<<20)
		d.types()
		d.take(bulk, 4<<20)
		if took := d.take(bulk, 6<<20); took != 0 {
			t.Errorf("6 MiB waited %v", took)
		}
	})
}

func TestMarkersAndKeepalivesNeverOverlapAndFindDeadClients(t *testing.T) {
	inTraffic(t, func(t *testing.T, d *disturbed) {
		d.delay.Store(int64(10 * time.Millisecond))
		bulk := d.open("80")
		d.take(bulk, 4<<20)
		d.types()
		for range 20 { // and times at which only keepalives are sent
			d.take(bulk, 256<<10)
			time.Sleep(10 * time.Second)
		}
		if n := d.most.Load(); n != 1 {
			t.Errorf("%d waited for their answers at once", n)
		}
		go io.Copy(io.Discard, bulk)
		time.Sleep(5*time.Second + time.Millisecond)
		if got := d.b.Server.Connections(); got != 1 {
			t.Fatalf("%d connections", got)
		}
		d.wire.gone.Store(true) // in the middle of a marker
		time.Sleep(100 * time.Second)
		if rec := d.b.Book.Await(t, audit.ConnClose, 1); rec.Reason != "keepalive" {
			t.Errorf("%s", rec.AppendJSON(nil))
		}
	})
}
