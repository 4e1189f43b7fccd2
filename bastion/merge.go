package bastion

import (
	"encoding/binary"
	"sync"
)

const (
	msgNewKeys = 21 // SSH_MSG_NEWKEYS, RFC 4250 section 4.1.2
	gcmTag     = 16 // bytes behind a packet, RFC 5647 section 6.3

	// pieceSize is the size of the library's buffer: a packet that is longer
	// comes in pieces of that size and a rest.
	pieceSize = 4 << 10
)

// A merger makes one write of the pieces in which the library writes a packet,
// two or three of one with 32 KiB of payload, which costs a download a tenth to a
// sixth less CPU time. It can tell where a packet ends,
// because with AES-GCM its length is in the clear (RFC 5647 section 7.3), as it
// is before any keys (RFC 4253 section 6). A piece is held only as long as the
// rest of its packet is sure to come, which the library writes at once.
//
// Its zero value follows a connection from the first packet on. What does not
// look like packets is passed through.
type merger struct {
	lost    bool // where packets end is not known
	left    int  // bytes of the packet that are still to come
	newKeys bool // the packet is the first NEWKEYS
	tag     int  // bytes behind a packet
	held    *[pieceSize]byte
	n       int // bytes in held
}

var pieces = sync.Pool{New: func() any { return new([pieceSize]byte) }}

// A packetWriter writes a, then b, which are a packet together.
type packetWriter interface{ write(a, b []byte) error }

// write writes p, or holds it until the rest of the packet comes.
func (m *merger) write(out packetWriter, p []byte) error {
	ends := m.follow(p)
	switch {
	case !ends && !m.lost && m.n+len(p) <= pieceSize:
		if m.held == nil {
			m.held = pieces.Get().(*[pieceSize]byte)
		}
		m.n += copy(m.held[m.n:], p)
		return nil
	case m.n == 0:
		return out.write(p, nil)
	}
	err := out.write(m.held[:m.n], p)
	pieces.Put(m.held)
	m.held, m.n = nil, 0
	return err
}

// follow notes what p brings, and reports whether a packet ends with it.
func (m *merger) follow(p []byte) (ends bool) {
	for len(p) > 0 && !m.lost {
		if m.left == 0 {
			if len(p) < 6 { // the library writes at least the head of a packet at once
				m.lost = true
				break
			}
			length := binary.BigEndian.Uint32(p)
			m.lost = length > maxPacket
			m.left = 4 + int(length) + m.tag
			m.newKeys = m.tag == 0 && p[5] == msgNewKeys
		}
		n := min(len(p), m.left)
		p, m.left = p[n:], m.left-n
		if m.left == 0 && m.newKeys {
			m.tag, m.newKeys = gcmTag, false
		}
	}
	return m.left == 0
}
