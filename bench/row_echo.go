package main

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"
)

func measureEcho(ctx context.Context, b *bench) error {
	c, err := b.login(ctx, b.server, "")
	if err != nil {
		return err
	}
	defer c.close()
	times, err := b.echo(ctx, c, 0)
	if err != nil {
		return err
	}
	b.set("echo.p50", percentile(times, 0.5))
	b.set("echo.p99", percentile(times, 0.99))
	stock, err := b.sshLocal(ctx, b.server)
	if err != nil {
		return err
	}
	defer stock.close()
	if times, err = b.echo(ctx, stock, 0); err != nil {
		return err
	}
	b.set("echo-ssh.p50", percentile(times, 0.5))
	return nil
}

func measureBusy(ctx context.Context, b *bench) error {
	c, err := b.login(ctx, b.server, "")
	if err != nil {
		return err
	}
	defer c.close()
	return b.busy(ctx, c, "busy")
}

func measureBusySSH(ctx context.Context, b *bench) error {
	c, err := b.sshLocal(ctx, b.server)
	if err != nil {
		return err
	}
	defer c.close()
	return b.busy(ctx, c, "busy-ssh")
}

// busy measures the echo of a forward beside one that loads as fast as it can.
func (b *bench) busy(ctx context.Context, c client, name string) error {
	bulk, err := c.forward(ctx)
	if err != nil {
		return err
	}
	defer bulk.Close()
	stop := context.AfterFunc(ctx, func() { bulk.Close() })
	defer stop()
	if _, err := bulk.Write(ask(sends, 1<<50)); err != nil {
		return err
	}
	var moved atomic.Int64
	warm := make(chan error, 2)
	go func() {
		buf := make([]byte, 256<<10)
		for {
			n, err := bulk.Read(buf)
			if err != nil {
				warm <- err
				return
			}
			if before := moved.Add(int64(n)) - int64(n); before < warmUp && before+int64(n) >= warmUp {
				warm <- nil
			}
		}
	}()
	if err := <-warm; err != nil {
		return err
	}
	began, before := time.Now(), moved.Load()
	times, err := b.echo(ctx, c, 5*time.Millisecond)
	if err != nil {
		return err
	}
	b.set(name+".rate", float64(moved.Load()-before)/1e6/time.Since(began).Seconds())
	for suffix, share := range map[string]float64{".p50": 0.5, ".p90": 0.9, ".p99": 0.99} {
		b.set(name+suffix, percentile(times, share))
	}
	return nil
}

// echo opens a forward and sends bytes there and back, one by one, with a pause
// between them of what is given more or less. It returns how long each took.
func (b *bench) echo(ctx context.Context, c client, pause time.Duration) ([]time.Duration, error) {
	conn, err := c.forward(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	for i := range 20 {
		if err := echoOnce(conn, i == 0); err != nil {
			return nil, err
		}
	}
	var times []time.Duration
	for end := time.Now().Add(b.lasts); time.Now().Before(end); {
		began := time.Now()
		if err := echoOnce(conn, false); err != nil {
			return nil, err
		}
		times = append(times, time.Since(began))
		if pause > 0 {
			time.Sleep(pause/2 + rand.N(pause))
		}
	}
	return times, nil
}

func measureRequests(ctx context.Context, b *bench) error {
	const connections, each, size = 10, 20, 4 << 10
	var conns []net.Conn
	for range connections {
		c, err := b.login(ctx, b.server, "")
		if err != nil {
			return err
		}
		defer c.close()
		for range each {
			conn, err := c.forward(ctx)
			if err != nil {
				return err
			}
			if _, err := conn.Write(ask(serves, size)); err != nil {
				return err
			}
			conns = append(conns, conn)
		}
	}
	counts := make([]atomic.Int64, len(conns))
	failed := make(chan error, len(conns))
	for i, conn := range conns {
		go func() {
			buf := make([]byte, size)
			for {
				_, err := conn.Write(buf)
				if err == nil {
					_, err = io.ReadFull(conn, buf)
				}
				if err != nil {
					failed <- err
					return
				}
				counts[i].Add(1)
			}
		}()
	}
	wait := func(d time.Duration) error {
		select {
		case err := <-failed:
			return err
		case <-time.After(d):
			return nil
		}
	}
	if err := wait(time.Second); err != nil {
		return err
	}
	cpu, err := b.cpu()
	if err != nil {
		return err
	}
	began, before := time.Now(), make([]int64, len(conns))
	for i := range counts {
		before[i] = counts[i].Load()
	}
	if err := wait(b.lasts); err != nil {
		return err
	}
	shares, sum := make([]float64, len(conns)), 0.0
	for i := range counts {
		shares[i] = float64(counts[i].Load() - before[i])
		sum += shares[i]
	}
	took := time.Since(began).Seconds()
	after, err := b.cpu()
	b.set("requests.rate", sum/took)
	b.set("requests.jain", jain(shares))
	b.set("requests.cpu", (after-cpu)/sum*1e6)
	return err
}
