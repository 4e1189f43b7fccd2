package bastion

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
)

// writes keeps what is written to it, write by write.
type writes struct{ all [][]byte }

func (w *writes) write(a, b []byte) error {
	w.all = append(w.all, slices.Concat(a, b))
	return nil
}

// merged is what a merger writes of packets that come as the library writes
// them, through its buffer.
func merged(t *testing.T, packets ...[]byte) *writes {
	t.Helper()
	conn := new(writes)
	m := new(merger)
	w := bufio.NewWriter(writerFunc(func(p []byte) (int, error) { return len(p), m.write(conn, p) }))
	for _, p := range packets {
		w.Write(p[:min(4, len(p))])
		w.Write(p[min(4, len(p)):])
		w.Flush()
	}
	if m.held != nil || m.n != 0 {
		t.Errorf("%d bytes are held", m.n)
	}
	return conn
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// packetOf is a packet of so many bytes, all told.
func packetOf(size, tag int, message byte) []byte {
	p := bytes.Repeat([]byte{7}, size)
	binary.BigEndian.PutUint32(p, uint32(size-4-tag))
	p[5] = message
	return p
}

func TestPacketsAreWrittenWholeAndAtOnce(t *testing.T) {
	packets := [][]byte{packetOf(1000, 0, msgKexInit), packetOf(5000, 0, 31), packetOf(16, 0, msgNewKeys)}
	for size := 36; size < 40; size++ {
		packets = append(packets, packetOf(size, gcmTag, msgNewKeys)) // what stands there is a cipher's text
	}
	for _, around := range []int{pieceSize, 2 * pieceSize, 3 * pieceSize, 32 << 10, maxPacket} {
		for d := -20; d <= 20; d++ {
			packets = append(packets, packetOf(around+d, gcmTag, 99))
		}
	}
	conn := new(writes)
	m := new(merger)
	w := bufio.NewWriter(writerFunc(func(p []byte) (int, error) { return len(p), m.write(conn, p) }))
	for i, p := range packets {
		before := len(conn.all)
		w.Write(p[:4])
		w.Write(p[4:])
		w.Flush()
		if m.lost || m.left != 0 || m.n != 0 || m.held != nil {
			t.Fatalf("after packet %d: %+v", i, m)
		}
		if n := len(conn.all) - before; n != 1 {
			t.Errorf("a packet of %d bytes is %d writes", len(p), n)
		}
	}
	if !bytes.Equal(bytes.Join(conn.all, nil), bytes.Join(packets, nil)) {
		t.Error("other bytes are written")
	}
}

func TestWhatDoesNotLookLikePacketsIsPassedThrough(t *testing.T) {
	for _, test := range []struct {
		name    string
		packets [][]byte
	}{
		{"a length of 4 GiB", [][]byte{bytes.Repeat([]byte{0xff}, 10000), []byte("x"), bytes.Repeat([]byte("y"), 4096)}},
		{"a piece of a head", [][]byte{{0, 0}, {1, 2, 3}, bytes.Repeat([]byte("y"), 4096)}},
		{"no packet behind a packet", [][]byte{append(packetOf(100, 0, 20), "x"...), bytes.Repeat([]byte("y"), 5000)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn := merged(t, test.packets...)
			if !bytes.Equal(bytes.Join(conn.all, nil), bytes.Join(test.packets, nil)) {
				t.Error("other bytes are written")
			}
		})
	}
}

// FuzzMerger holds that nothing is lost or changed, and nothing held longer than
// a packet.
func FuzzMerger(f *testing.F) {
	f.Add(append(packetOf(40, 0, msgNewKeys), packetOf(5000, gcmTag, 99)...), uint16(4096))
	f.Add(packetOf(40, 0, 20), uint16(3))
	f.Add(bytes.Repeat([]byte{0, 0, 0, 12}, 100), uint16(9))
	f.Fuzz(func(t *testing.T, p []byte, piece uint16) {
		conn := new(writes)
		m := new(merger)
		for rest := p; len(rest) > 0; {
			n := min(len(rest), int(piece)+1)
			m.write(conn, rest[:n])
			rest = rest[n:]
			if m.n > 0 && (m.left == 0 || m.lost) {
				t.Errorf("%d bytes are held of a packet that is whole", m.n)
			}
		}
		got := bytes.Join(conn.all, nil)
		if m.n > 0 {
			got = append(got, m.held[:m.n]...)
		}
		if !bytes.Equal(got, p) {
			t.Errorf("%x is written as %x", p, got)
		}
	})
}
