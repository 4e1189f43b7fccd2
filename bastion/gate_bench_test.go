package bastion_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// BenchmarkForwardsUnderAFloodOfHandshakes measures in one run, side by side,
// what forwards move while nothing else happens, while handshakes flood the
// server, and while the same flood meets a listener that only accepts and
// closes: what is lost there is lost to the machine's network and to the flood
// itself, which here shares the CPUs. Client, server, target and flood are one
// process, and its CPUs are always full: so what forwards move in a second of CPU
// time tells what share of it is theirs, whatever else the machine does.
//
//	go test ./bastion -run '^$' -bench AFloodOfHandshakes -benchtime 5x
func BenchmarkForwardsUnderAFloodOfHandshakes(b *testing.B) {
	for _, sources := range []int{1, 60} {
		for _, turns := range []bool{true, false} {
			name := fmt.Sprintf("from %d", sources)
			if !turns {
				name += " without turns"
			}
			b.Run(name, func(b *testing.B) { benchmarkFlood(b, sources, turns) })
		}
	}
}

func benchmarkFlood(b *testing.B, sources int, turns bool) {
	server := bastiontest.Start(b, bastiontest.Options{})
	if !turns {
		bastion.FreeTurns(server.Server)
	}
	port := bastiontest.Target(b, pour)
	var moved atomic.Int64
	for range 2 {
		conn, err := server.Dial().Dial("tcp", target(port))
		if err != nil {
			b.Fatal(err)
		}
		go func() {
			buf := make([]byte, 64<<10)
			for {
				n, err := conn.Read(buf)
				moved.Add(int64(n))
				if err != nil {
					return
				}
			}
		}()
	}
	closes := acceptAndClose(b)

	var calm, flooded, control speed
	const window = time.Second
	var logins, answers float64
	measure := func(s *speed) {
		time.Sleep(window / 2) // until it has settled
		before, began, cpu := moved.Load(), time.Now(), bastion.ProcessTime()
		time.Sleep(window)
		s.bytes += float64(moved.Load() - before)
		s.time += time.Since(began).Seconds()
		s.cpuTime += (bastion.ProcessTime() - cpu).Seconds()
	}
	rounds := 0.0
	for b.Loop() {
		rounds++
		measure(&calm)
		flood := newPacedFlood(server.Addr, sources)
		measure(&flooded)
		began := time.Now()
		if err := dial(server, server.ClientConfig("alice", server.Alice)); err != nil {
			b.Fatal(err)
		}
		logins += float64(time.Since(began).Milliseconds())
		answers += float64(flood.stop())
		flood = newPacedFlood(closes, sources)
		measure(&control)
		flood.stop()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(calm.bytes/calm.time/1e6, "MB/s-calm")
	b.ReportMetric(flooded.bytes/flooded.time/1e6, "MB/s-flooded")
	b.ReportMetric(control.bytes/control.time/1e6, "MB/s-control")
	b.ReportMetric(100*flooded.share()/calm.share(), "%share-of-calm")
	b.ReportMetric(100*control.share()/calm.share(), "%share-control-of-calm")
	b.ReportMetric(logins/rounds, "ms/login-flooded")
	b.ReportMetric(answers/rounds, "answers-a-round")
}

type speed struct{ bytes, time, cpuTime float64 }

func (s speed) share() float64 { return s.bytes / s.cpuTime }

func acceptAndClose(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	return l.Addr().String()
}

// A pacedFlood begins floodRate connections a second, of which no more than
// floodAtOnce wait: the same work for the machine whoever it meets, or less
// where it is made to wait.
type pacedFlood struct {
	cancel   context.CancelFunc
	done     sync.WaitGroup
	answered atomic.Int64
}

const (
	floodRate   = 1000
	floodAtOnce = 60
)

func newPacedFlood(addr string, sources int) *pacedFlood {
	ctx, cancel := context.WithCancel(context.Background())
	f := &pacedFlood{cancel: cancel}
	begin := make(chan struct{})
	f.done.Go(func() {
		const every = 5 * time.Millisecond
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for range int(floodRate * every / time.Second) {
				select {
				case begin <- struct{}{}:
				default: // all wait
				}
			}
		}
	})
	for i := range floodAtOnce {
		source := netip.AddrFrom4([4]byte{127, 0, 0, byte(2 + i%sources)})
		dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))}
		f.done.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-begin:
				}
				f.one(ctx, &dialer, addr)
			}
		})
	}
	return f
}

func (f *pacedFlood) one(ctx context.Context, dialer *net.Dialer, addr string) {
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	conn.(*net.TCPConn).SetLinger(0) // no port stays behind
	defer conn.Close()
	if bastiontest.HalfHandshake(conn) == nil {
		f.answered.Add(1)
	}
}

func (f *pacedFlood) stop() int64 {
	f.cancel()
	f.done.Wait()
	return f.answered.Load()
}
