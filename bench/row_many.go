package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

func manyRow() row {
	return row{name: "many", place: "disk", measure: measureMany, oursOnly: true, metrics: []metric{
		{"many.down", "bulk down through 1,000 forwards beside idle connections, CPU", "s/GB", goal{}, ""},
		{"many.down.one", "the same to that of one forward", "×", goal{bound: 1.1, absolute: true, text: "≤ 1.1 itself"}, ""},
		{"many.up", "bulk up through 1,000 forwards beside idle connections, CPU", "s/GB", goal{}, ""},
		{"many.up.one", "the same to that of one forward", "×", goal{bound: 1.1, absolute: true, text: "≤ 1.1 itself"}, ""},
		{"many.memory", "memory (PSS) meanwhile, at most", "MiB", goal{}, ""},
		{"many.connections", "idle connections", "", goal{}, ""},
	}}
}

// measureMany compares what a byte costs through one forward of a server that
// does nothing else with what it costs through a thousand, of a hundred
// connections, beside thousands that are idle.
func measureMany(ctx context.Context, b *bench) error {
	const connections, each = 100, 10
	ways := []struct {
		name string
		what byte
	}{{"down", sends}, {"up", takes}}
	first, err := b.login(ctx, b.server, "")
	if err != nil {
		return err
	}
	defer first.close()
	one := map[byte]float64{}
	for _, way := range ways {
		if one[way.what], _, err = b.bulk(ctx, first, way.what); err != nil {
			return err
		}
	}
	idle, err := b.logins(ctx, b.manyIdle)
	if err != nil {
		return err
	}
	defer closeAll(idle)
	busy, err := b.logins(ctx, connections)
	if err != nil {
		return err
	}
	defer closeAll(busy)
	b.set("many.connections", float64(len(idle)))
	b.settle(ctx, 0)
	peak := b.watchMemory(ctx)
	for _, way := range ways {
		cost, err := b.bulkOfMany(ctx, busy, each, way.what, limits{onTheWay: onTheWay(connections * each)})
		if err != nil {
			return err
		}
		b.set("many."+way.name, cost)
		b.set("many."+way.name+".one", cost/one[way.what])
	}
	b.set("many.memory", peak()/(1<<20))
	return nil
}

// limits bound bulkOfMany. Zero is none.
type limits struct {
	onTheWay int64         // bytes in each forward
	lasts    time.Duration // of the warm-up and of what is measured, even if that is fewer bytes
}

// onTheWay is how many bytes each of n forwards may have on its way: as many as
// a window of SSH has here, but of all together no more than a quarter of the
// kernel's memory for TCP. Without a limit a thousand forwards took all of it,
// 75,000 segments were sent again, and that was what was measured.
func onTheWay(n int) int64 {
	all := int64(32 << 20)
	if text, err := os.ReadFile("/proc/sys/net/ipv4/tcp_mem"); err == nil {
		if pages := parseTCPMemory(string(text)); pages > 0 {
			all = min(pages*int64(os.Getpagesize())/4, 128<<20)
		}
	}
	return min(2<<20, all/int64(n))
}

// parseTCPMemory finds the pages from which on the kernel is short of memory for
// TCP, the second of three numbers (tcp(7), tcp_mem).
func parseTCPMemory(text string) (pressure int64) {
	var low int64
	fmt.Sscan(text, &low, &pressure)
	return pressure
}

// bulkOfMany moves bytes through many forwards at once, as fast as each can, and
// returns the server's seconds of processor time for 10^9 bytes. What counts is
// what has arrived, between two moments at which all are at it. After an upload, or
// with limited time, the clients are closed: windows full of bytes are on their way, which
// nobody wants, and a slow server would take longer for them than for what counts.
func (b *bench) bulkOfMany(ctx context.Context, clients []*goClient, each int, what byte, l limits) (cost float64, err error) {
	conns, err := openAll(ctx, clients, each)
	var flows []*flow
	closeConns := func() {
		for _, f := range flows {
			f.end()
		}
		if what == takes || l.lasts > 0 {
			closeAll(clients)
		}
		for _, c := range conns {
			c.Close()
		}
	}
	if err != nil {
		closeConns()
		return 0, err
	}
	arrived := &b.target.taken
	if what == sends {
		arrived = new(atomic.Int64)
	}
	failed := make(chan error, len(conns))
	var working sync.WaitGroup
	defer working.Wait()
	defer closeConns()
	for _, conn := range conns {
		request, f := ask(what, 1<<50), (*flow)(nil)
		if l.onTheWay > 0 {
			request, f = b.target.limited(what, l.onTheWay)
			flows = append(flows, f)
		}
		working.Go(func() {
			buf := make([]byte, piece)
			_, err := conn.Write(request)
			for {
				var n int
				if err != nil {
					failed <- err
					return
				}
				if what == sends {
					n, err = conn.Read(buf)
					arrived.Add(int64(n))
					f.arrive(n)
				} else if err = f.mayStart(); err == nil {
					_, err = conn.Write(buf)
				}
			}
		})
	}
	until := func(n int64) error {
		var over <-chan time.Time
		if l.lasts > 0 {
			over = time.After(l.lasts)
		}
		for arrived.Load() < n {
			select {
			case <-over:
				return nil
			case err := <-failed:
				return err
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(2 * time.Millisecond):
			}
		}
		return nil
	}
	// So much that the server's memory has been used before: a page that is new to
	// it costs more than what is written into it.
	if err := until(arrived.Load() + max(warmUp, int64(len(conns))<<20)); err != nil {
		return 0, err
	}
	before, err := b.cpu()
	if err != nil {
		return 0, err
	}
	began := arrived.Load()
	if err := until(began + b.bytes); err != nil {
		return 0, err
	}
	after, err := b.cpu()
	if err != nil {
		return 0, err
	}
	moved := arrived.Load() - began
	if moved == 0 {
		return 0, errors.New("no byte arrives any more")
	}
	return (after - before) / (float64(moved) / 1e9), nil
}

// openAll opens forwards, eight clients at once, each of which opens one after
// another. If one cannot be opened, it returns those that were.
func openAll(ctx context.Context, clients []*goClient, each int) (conns []net.Conn, err error) {
	var mu sync.Mutex
	var working sync.WaitGroup
	next := make(chan *goClient)
	for range 8 {
		working.Go(func() {
			for c := range next {
				for range each {
					conn, e := c.forward(ctx)
					mu.Lock()
					if e != nil {
						err = e
						mu.Unlock()
						break
					}
					conns = append(conns, conn)
					mu.Unlock()
				}
			}
		})
	}
	for _, c := range clients {
		next <- c
	}
	close(next)
	working.Wait()
	return conns, err
}

// watchMemory looks at the server's memory until the function that it returns is
// called, which returns the most.
func (b *bench) watchMemory(ctx context.Context) func() float64 {
	ctx, cancel := context.WithCancel(ctx)
	most := make(chan float64)
	go func() {
		peak := 0.0
		for {
			if n, err := pss(b.server.proc.pid()); err == nil {
				peak = max(peak, float64(n))
			}
			select {
			case <-ctx.Done():
				most <- peak
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	return func() float64 {
		cancel()
		return <-most
	}
}
