package bastion

import (
	"bytes"
	"net"
	"strings"
	"sync"
)

// A greeting is a connection that keeps the line with which the client begins,
// its version (RFC 4253 section 4.2). The library tells it only of a client
// that goes on to log in, and it is wanted most of one that cannot.
type greeting struct {
	net.Conn

	mu   sync.Mutex
	line []byte
	over bool // the line has ended, or was too long
}

const maxGreeting = 255 // bytes, by the RFC

func (g *greeting) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.over {
		g.note(p[:n])
	}
	return n, err
}

// note is called with g.mu held.
func (g *greeting) note(p []byte) {
	end := bytes.IndexByte(p, '\n')
	g.over = end >= 0 || len(g.line)+len(p) > maxGreeting
	if end >= 0 {
		p = p[:end]
	}
	g.line = append(g.line, p[:min(len(p), maxGreeting-len(g.line))]...)
}

// version is the client's version, or "" as long as there is none.
func (g *greeting) version() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	line := strings.TrimRight(string(g.line), "\r")
	if !g.over || !strings.HasPrefix(line, "SSH-") {
		return ""
	}
	return line
}
