package bastion_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// inUse is the memory that the heap and the goroutines' stacks have, once what
// is garbage is collected.
func inUse() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
		time.Sleep(50 * time.Millisecond)
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// perConnection opens n connections and returns what each of them adds. What
// the client has of each is in it, since it is in the same process.
func perConnection(t *testing.T, n int, open func() (done func() bool)) int64 {
	t.Helper()
	open() // what is made once
	before := inUse()
	for range n {
		done := open()
		bastiontest.Eventually(t, "the server has what was sent", done)
	}
	return (inUse() - before) / int64(n)
}

func roomy(l *bastion.Limits) {
	l.MaxStartups, l.MaxStartupsPerSource, l.LoginGrace = 10000, 10000, time.Hour
}

func TestWhatAConnectionCostsBeforeItsLoginIsBounded(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Limits: roomy})
	dialled := func() net.Conn {
		c, err := net.Dial("tcp", b.Addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	largest := largestCertificate(t)
	t.Run("silent", func(t *testing.T) {
		each := perConnection(t, 300, func() func() bool {
			c := dialled()
			bufio.NewReaderSize(c, 16).ReadString('\n')
			return func() bool { return true }
		})
		t.Logf("%d KiB each", each>>10)
		if each > 64<<10 {
			t.Errorf("a silent connection costs %d KiB", each>>10)
		}
	})
	t.Run("after the key exchange", func(t *testing.T) {
		each := perConnection(t, 100, func() func() bool {
			bastiontest.NewRaw(t, b)
			return func() bool { return true }
		})
		t.Logf("%d KiB each", each>>10)
		if each > 128<<10 {
			t.Errorf("a connection after the key exchange costs %d KiB", each>>10)
		}
	})
	t.Run("that offers keys as large as they can be", func(t *testing.T) {
		each := perConnection(t, 30, func() func() bool {
			raw := bastiontest.NewRaw(t, b)
			for range 2 { // a third one is over the bound on what comes before a login
				if raw.Offer("x", largest) {
					t.Fatal("it is accepted")
				}
			}
			return func() bool { return true }
		})
		t.Logf("%d KiB each", each>>10)
		if each > 1<<20 {
			t.Errorf("a connection that offers large keys costs %d KiB", each>>10)
		}
	})
	t.Run("that sends no whole packet", func(t *testing.T) {
		each := perConnection(t, 30, func() func() bool {
			raw := bastiontest.NewRaw(t, b)
			part := binary.BigEndian.AppendUint32(nil, 256<<10-16)
			raw.Conn.Write(append(part, make([]byte, 150<<10)...))
			return func() bool { time.Sleep(10 * time.Millisecond); return true }
		})
		t.Logf("%d KiB each", each>>10)
		if each > 1<<20 {
			t.Errorf("a connection that sends part of a packet costs %d KiB", each>>10)
		}
	})
}

// largestCertificate is one of about 80 KiB that is many times as much once it
// is parsed: it has thousands of principals and options.
func largestCertificate(t *testing.T) ssh.PublicKey {
	t.Helper()
	cert := &ssh.Certificate{
		Key: bastiontest.Key(t).PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity,
		Permissions: ssh.Permissions{Extensions: map[string]string{}},
	}
	cert.ValidPrincipals = slices.Repeat([]string{"x"}, 8000)
	for i := range 4000 {
		cert.Extensions[string(binary.BigEndian.AppendUint32(nil, uint32(i)))] = ""
	}
	if err := cert.SignCert(zeros{}, bastiontest.Key(t)); err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestWhatAConnectionCostsIsBounded(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Dialer: withStuckTarget(t), Limits: func(l *bastion.Limits) { l.KeepaliveInterval = 0 }})
	works := beside(t, b)
	t.Run("logged in, without a forward", func(t *testing.T) {
		each := perConnection(t, 100, func() func() bool {
			logIn(t, b)
			return func() bool { return true }
		})
		t.Logf("%d KiB each", each>>10)
		if each > 160<<10 {
			t.Errorf("a connection that is logged in costs %d KiB", each>>10)
		}
	})
	t.Run("a forward without traffic", func(t *testing.T) {
		raw := logIn(t, b)
		i := uint32(0)
		each := perConnection(t, 100, func() func() bool {
			raw.OpenTarget(i, 1<<20, "target", stuckPort)
			raw.Await(91)
			i++
			return func() bool { return true }
		})
		t.Logf("%d KiB each", each>>10)
		if each > 64<<10 {
			t.Errorf("a forward costs %d KiB", each>>10)
		}
	})
	// All at once: as many forwards as there can be, each full of large
	// packets or tiny ones up to the bound, and as many opens as may wait.
	t.Run("the worst", func(t *testing.T) {
		most := peak(t)
		before := inUse()
		raw := logIn(t, b)
		for i := range uint32(256) {
			raw.OpenTarget(i, 1<<20, "target", stuckPort)
			raw.Await(91)
		}
		flush := inBulk(raw)
		payload, tiny := bytes.Repeat([]byte("x"), 16<<10), []byte("x")
		sent := 0
		for i := 0; ; i++ { // until it is ended
			channel := uint32(i % 256)
			packet := dataPacket(channel, i%2 == 0, tiny)
			if i%(100*256) < 256 {
				packet = dataPacket(channel, false, payload)
			}
			if raw.Send(packet) != nil {
				break
			}
			sent++
		}
		flush()
		bastiontest.Eventually(t, "the connection is ended", func() bool {
			return strings.Contains(b.Lines.String(), "reason=backlog")
		})
		high := int64(most()) - before
		t.Logf("%d MiB at most, after %d packets", high>>20, sent)
		if high > 160<<20 {
			t.Errorf("a connection could make the server hold %d MiB", high>>20)
		}
		works()
	})
}
