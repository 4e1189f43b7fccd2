package bastiontest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// halfHandshake is what a client sends up to its part of the key exchange. It
// is always the same and so costs nothing; the answer costs the server a key
// agreement and a signature.
var halfHandshake = func() []byte {
	var b bytes.Buffer
	b.WriteString(RawVersion + "\r\n")
	packet := func(payload []byte) {
		pad := 8 - (5+len(payload))%8
		if pad < 4 {
			pad += 8
		}
		b.Write(binary.BigEndian.AppendUint32(nil, uint32(1+len(payload)+pad)))
		b.WriteByte(byte(pad))
		b.Write(payload)
		b.Write(make([]byte, pad))
	}
	packet(rawKexInit("curve25519-sha256"))
	init := bytes.NewBuffer([]byte{msgKexECDHInit})
	writeString(init, append([]byte{9}, make([]byte, 31)...)) // the base point, which is a public key too
	packet(init.Bytes())
	return b.Bytes()
}()

// HalfHandshake goes as far as the answer to the key exchange.
func HalfHandshake(conn net.Conn) error {
	if _, err := conn.Write(halfHandshake); err != nil {
		return err
	}
	in := bufio.NewReader(conn)
	if _, err := in.ReadSlice('\n'); err != nil {
		return err
	}
	for {
		var head [6]byte // the length, that of the padding, the number
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(head[:])
		if n < 2 || n > 1<<16 {
			return fmt.Errorf("a packet of %d bytes", n)
		}
		if _, err := in.Discard(int(n) - 2); err != nil {
			return err
		}
		if head[5] == msgKexECDHReply {
			return nil
		}
	}
}

// A HandshakeFlood makes half handshakes, as many at a time as it has sources.
type HandshakeFlood struct {
	Answered, Refused atomic.Int64

	stop    chan struct{}
	clients sync.WaitGroup
}

// Flood floods what dial connects to, from each of the sources at once and
// again and again, until Stop.
func Flood(dial func(netip.AddrPort) (net.Conn, error), sources []netip.Addr) *HandshakeFlood {
	f := &HandshakeFlood{stop: make(chan struct{})}
	for i, source := range sources {
		f.clients.Go(func() {
			for {
				select {
				case <-f.stop:
					return
				default:
				}
				f.one(dial, netip.AddrPortFrom(source, uint16(1024+i)))
			}
		})
	}
	return f
}

func (f *HandshakeFlood) one(dial func(netip.AddrPort) (net.Conn, error), source netip.AddrPort) {
	conn, err := dial(source)
	if err != nil {
		return
	}
	defer conn.Close()
	done := make(chan struct{})
	defer close(done)
	go func() { // so that the end of the flood need not wait for its answer
		select {
		case <-f.stop:
			conn.Close()
		case <-done:
		}
	}()
	if HalfHandshake(conn) == nil {
		f.Answered.Add(1)
	} else {
		f.Refused.Add(1)
	}
}

// Stop ends the flood.
func (f *HandshakeFlood) Stop() {
	close(f.stop)
	f.clients.Wait()
}
