package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// measureMemory looks at what a connection holds that does nothing.
func measureMemory(ctx context.Context, b *bench) error {
	base, err := b.memory(ctx)
	if err != nil {
		return err
	}
	n := b.idle
	if b.server.kind == "sshd" {
		n = min(n, b.sshdMost)
	}
	clients, err := b.logins(ctx, n)
	if err != nil {
		return err
	}
	defer closeAll(clients)
	idle, err := b.memory(ctx)
	if err != nil {
		return err
	}
	b.set("memory.idle", (idle-base)/float64(n)/1024)
	conns, err := openAll(ctx, clients, 1)
	if err != nil {
		return err
	}
	for _, conn := range conns {
		if err := echoOnce(conn, true); err != nil {
			return err
		}
	}
	with, err := b.memory(ctx)
	b.set("memory.forward", (with-base)/float64(n)/1024)
	return err
}

// memory is what the server holds once it has come to rest, in bytes.
func (b *bench) memory(ctx context.Context) (float64, error) {
	b.settle(ctx, 0)
	select {
	case <-time.After(3 * time.Second):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	n, err := pss(b.server.proc.pid())
	return float64(n), err
}

// logins makes connections, eight at once, from many addresses.
func (b *bench) logins(ctx context.Context, n int) ([]*goClient, error) {
	clients := make([]*goClient, n)
	ctxOne, cancel := context.WithCancelCause(ctx)
	var working sync.WaitGroup
	next := make(chan int)
	for range 8 {
		working.Go(func() {
			for i := range next {
				// The connections live as long as ctx, not as the others' logins.
				c, err := b.login(ctx, b.server, fmt.Sprintf("127.0.1.%d", 1+i%250))
				if err != nil {
					cancel(err)
					continue
				}
				clients[i] = c
			}
		})
	}
	for i := 0; i < n && ctxOne.Err() == nil; i++ {
		next <- i
	}
	close(next)
	working.Wait()
	err := context.Cause(ctxOne)
	cancel(nil)
	if err != nil {
		closeAll(clients)
		return nil, err
	}
	return clients, nil
}

func closeAll(clients []*goClient) {
	for _, c := range clients {
		if c != nil {
			c.close()
		}
	}
}
