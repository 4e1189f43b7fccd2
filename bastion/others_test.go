package bastion_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// Buffers are lent, of forwards and of connections, in pieces of every size,
// while keys are renewed: each forward gets its own bytes back, and all.
func TestNoForwardSeesAByteOfAnother(t *testing.T) {
	const most = 600 << 10
	b := bastiontest.Start(t, bastiontest.Options{Config: func(c *bastion.Config) { c.RekeyThreshold = 200 << 10 }})
	port := bastiontest.Target(t, func(c *net.TCPConn) {
		io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
		c.CloseWrite()
	})
	var all sync.WaitGroup
	for k := range 2 {
		client := b.Dial()
		for i := range 6 {
			conn := mustOpen(t, client, target(port))
			mark := byte(k*16 + i + 1)
			all.Go(func() {
				for n := 0; n < most; {
					size := 1 + rand.IntN(3)*511 + rand.IntN(3)*33000
					conn.Write(bytes.Repeat([]byte{mark}, size))
					n += size
				}
				conn.(interface{ CloseWrite() error }).CloseWrite()
			})
			all.Go(func() {
				got, err := io.ReadAll(conn)
				if err != nil || len(got) < most || len(bytes.Trim(got, string(mark))) > 0 {
					t.Errorf("forward %d: %d bytes, of which others are left: %v, %v", mark, len(got), len(bytes.Trim(got, string(mark))) > 0, err)
				}
			})
		}
	}
	all.Wait()
}
