package main

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

func loginRows(place string) []row {
	name := "login-" + place
	return []row{{name: name, place: place, measure: measureLogin(name), metrics: []metric{
		{name + ".rate", "connect, login, first forward, 4 at once, log on " + place, "/s", ratioAtLeast(15, "15"), ""},
		{name + ".cpu", "CPU of each, log on " + place, "ms", ratioAtMost(1.0/18, "1/18"), "1.2 ms"},
	}}}
}

func measureLogin(name string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		one := func(ctx context.Context) error {
			c, err := b.login(ctx, b.server, "")
			if err != nil {
				return err
			}
			defer c.close()
			conn, err := c.forward(ctx)
			if err != nil {
				return err
			}
			defer conn.Close()
			return echoOnce(conn, true)
		}
		n, took, cost, err := b.again(ctx, 4, one)
		if err != nil {
			return err
		}
		b.set(name+".rate", float64(n)/took)
		b.set(name+".cpu", cost/float64(n)*1e3)
		return nil
	}
}

func forwardRows(place string, one, many goal) []row {
	name := "forwards-" + place
	stretch := ""
	if place == "tmpfs" {
		stretch = "≤ 1.3"
	}
	return []row{{name: name, place: place, measure: measureForwards(name), metrics: []metric{
		{name + ".rate", "forwards, one after another, log on " + place, "/s", one, ""},
		{name + ".cpu", "CPU of each, log on " + place, "µs", goal{}, stretch},
		{name + ".rate16", "forwards, 16 at once, log on " + place, "/s", many, ""},
		{name + ".cpu16", "CPU of each, log on " + place, "µs", goal{}, stretch},
		{name + ".rate.greeted", "forwards to a target that speaks first, one after another, log on " + place, "/s", one, ""},
		{name + ".cpu.greeted", "CPU of each, log on " + place, "µs", goal{}, stretch},
		{name + ".rate16.greeted", "forwards to a target that speaks first, 16 at once, log on " + place, "/s", many, ""},
		{name + ".cpu16.greeted", "CPU of each, log on " + place, "µs", goal{}, stretch},
	}}}
}

func measureForwards(name string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		c, err := b.login(ctx, b.server, "")
		if err != nil {
			return err
		}
		defer c.close()
		one := func(ctx context.Context) error {
			conn, err := c.forward(ctx)
			if err != nil {
				return err
			}
			defer conn.Close()
			return echoOnce(conn, true)
		}
		greeted := func(ctx context.Context) error {
			conn, err := c.ssh.DialContext(ctx, "tcp", b.target.greeter)
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = io.ReadFull(conn, make([]byte, 1))
			return err
		}
		for _, at := range []struct {
			suffix string
			once   int
			do     func(context.Context) error
		}{{"", 1, one}, {"16", 16, one}, {".greeted", 1, greeted}, {"16.greeted", 16, greeted}} {
			n, took, cost, err := b.again(ctx, at.once, at.do)
			if err != nil {
				return err
			}
			b.set(name+".rate"+at.suffix, float64(n)/took)
			b.set(name+".cpu"+at.suffix, cost/float64(n)*1e6)
		}
		return nil
	}
}

// again does something again and again for a while, so many at once, after some
// that do not count. It returns how often, the seconds that it took, and the
// seconds of the server's processor time.
func (b *bench) again(ctx context.Context, atOnce int, do func(context.Context) error) (n int64, took, cost float64, err error) {
	if _, err := b.during(ctx, min(b.lasts/5, 500*time.Millisecond), atOnce, do); err != nil {
		return 0, 0, 0, err
	}
	b.settle(ctx, 0)
	tree, err := processTree(b.server.proc.pid())
	if err != nil {
		return 0, 0, 0, err
	}
	before, err := b.cpu()
	if err != nil {
		return 0, 0, 0, err
	}
	began := time.Now()
	n, err = b.during(ctx, b.lasts, atOnce, do)
	took = time.Since(began).Seconds()
	if err != nil {
		return 0, 0, 0, err
	}
	b.settle(ctx, len(tree)) // what it still does for them counts, too
	after, err := b.cpu()
	return n, took, after - before, err
}

func (b *bench) during(ctx context.Context, lasts time.Duration, atOnce int, do func(context.Context) error) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var n atomic.Int64
	var working sync.WaitGroup
	end := time.Now().Add(lasts)
	for range atOnce {
		working.Go(func() {
			for time.Now().Before(end) && ctx.Err() == nil {
				if err := do(ctx); err != nil {
					cancel(err)
					return
				}
				n.Add(1)
			}
		})
	}
	working.Wait()
	return n.Load(), context.Cause(ctx)
}

// echoOnce sends a byte there and back, the first time with what it wants.
func echoOnce(conn net.Conn, first bool) error {
	msg := []byte{1}
	if first {
		msg = append(ask(echoes, 0), 1)
	}
	if _, err := conn.Write(msg); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, msg[:1])
	return err
}
