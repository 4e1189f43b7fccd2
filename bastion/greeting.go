package bastion

import (
	"bytes"
	"encoding/binary"
	"strings"
	"sync"
)

const (
	maxGreeting = 255     // bytes of a line, by RFC 4253 section 4.2
	maxPreamble = 4 << 10 // bytes of lines before the version
	maxLines    = 1024    // of them, with which the library has enough

	// maxKexInit bounds a packet with a KEXINIT: it is what every side has to
	// take (RFC 4253 section 6.1). That of OpenSSH has 1,500 bytes.
	maxKexInit = 35000
)

// A greeting is what a client sends before anything depends on the server, all
// of it in the clear (RFC 4253 sections 4.2, 6 and 7.1):
//
//	lines that mean nothing ▸ its version ▸ a packet with its KEXINIT
//
// It only looks on: the library gets the same bytes and judges them, and
// whatever is not understood here leaves things as if nothing had been seen.
type greeting struct {
	mu      sync.Mutex
	lines   int  // before the version
	next    int  // where the line begins that has not ended yet, or the packet
	over    bool // all is known that will be
	version string
	first   *kexInit // nil: none came, or none that is understood
}

// look is given all that has come so far, each time that it has become more. It
// returns true once it wants to see no more.
func (g *greeting) look(all []byte) (over bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.version == "" && !g.over && g.line(all[g.next:]) {
	}
	if g.version != "" && !g.over {
		g.packet(all[g.next:])
	}
	return g.over
}

// line looks at a line and what follows it. It returns false if more of it is
// wanted. g.mu must be held.
func (g *greeting) line(rest []byte) bool {
	n := bytes.IndexByte(rest, '\n')
	long := n >= maxGreeting || n < 0 && len(rest) >= maxGreeting // the library takes none
	switch {
	case long:
		n, g.over = maxGreeting, true
	case n < 0:
		return false
	}
	g.next += n + 1
	if line := rest[:n]; bytes.HasPrefix(line, []byte("SSH-")) {
		g.version = strings.TrimSuffix(string(line), "\r")
	} else {
		g.lines++
		g.over = g.over || g.lines == maxLines || g.next > maxPreamble
	}
	return true
}

// packet looks at the first packet. g.mu must be held.
func (g *greeting) packet(p []byte) {
	if len(p) < 4 {
		return
	}
	whole := 4 + uint64(binary.BigEndian.Uint32(p))
	if whole > maxKexInit || whole%8 != 0 || len(p) > 5 && p[5] != msgKexInit {
		g.over = true
		return
	}
	if uint64(len(p)) < whole {
		return
	}
	g.over = true
	p = p[4:whole] // the length of the padding, the payload, the padding
	if len(p) == 0 || p[0] < 4 || len(p) <= 1+int(p[0]) {
		return
	}
	g.first = parseKexInit(p[1 : len(p)-int(p[0])])
}

// said is the client's version, "" as long as there is none, and its KEXINIT,
// nil as long as there is none.
func (g *greeting) said() (version string, first *kexInit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.version, g.first
}
