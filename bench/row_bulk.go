package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"
)

// warmUp is moved before what is measured.
const warmUp = 64 << 20

func measureBulk(ctx context.Context, b *bench) error {
	c, err := b.login(ctx, b.server, "")
	if err != nil {
		return err
	}
	defer c.close()
	return b.bulkBothWays(ctx, c, "bulk")
}

func measureSSH(ctx context.Context, b *bench) error {
	c, err := b.sshLocal(ctx, b.server)
	if err != nil {
		return err
	}
	defer c.close()
	return b.bulkBothWays(ctx, c, "ssh")
}

func (b *bench) bulkBothWays(ctx context.Context, c client, name string) error {
	for _, way := range []struct {
		name string
		what byte
	}{{"down", sends}, {"up", takes}} {
		cost, rate, err := b.bulk(ctx, c, way.what)
		if err != nil {
			return fmt.Errorf("%s: %w", way.name, err)
		}
		b.set(name+"."+way.name, cost)
		b.set(name+"."+way.name+".rate", rate)
	}
	return nil
}

// bulk moves bytes through one forward. It returns the server's seconds of
// processor time for 10^9 bytes, and the rate in 10^6 bytes a second.
func (b *bench) bulk(ctx context.Context, c client, what byte) (cost, rate float64, err error) {
	conn, err := c.forward(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := conn.Write(ask(what, warmUp+b.bytes)); err != nil {
		return 0, 0, err
	}
	buf := make([]byte, 256<<10)
	if err := move(conn, what, warmUp, buf); err != nil {
		return 0, 0, err
	}
	before, err := b.cpu()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := move(conn, what, b.bytes, buf); err != nil {
		return 0, 0, err
	}
	if what == takes {
		if _, err := io.ReadFull(conn, buf[:1]); err != nil {
			return 0, 0, err
		}
	}
	took := time.Since(began).Seconds()
	after, err := b.cpu()
	return (after - before) / (float64(b.bytes) / 1e9), float64(b.bytes) / 1e6 / took, err
}

// move reads or writes n bytes.
func move(conn net.Conn, what byte, n int64, buf []byte) error {
	for n > 0 {
		part := buf[:min(n, int64(len(buf)))]
		var m int
		var err error
		if what == sends {
			m, err = conn.Read(part)
		} else {
			m, err = conn.Write(part)
		}
		if err != nil {
			return err
		}
		n -= int64(m)
	}
	return nil
}
