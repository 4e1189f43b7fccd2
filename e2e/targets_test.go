//go:build linux

package e2e

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// target is a plain TCP server of a test, standing for a private host.
type target struct {
	net.Listener
	ip   string
	port int

	accepted atomic.Int64
	open     atomic.Int64 // connections whose handler has not returned
	mu       sync.Mutex
	conns    map[*net.TCPConn]struct{}
}

// serve starts a target on a free port of ip.
func serve(t *testing.T, ip string, handle func(*net.TCPConn)) *target {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, handle)
}

func serveOn(t *testing.T, l net.Listener, handle func(*net.TCPConn)) *target {
	s := &target{Listener: l, conns: map[*net.TCPConn]struct{}{}}
	addr := l.Addr().(*net.TCPAddr)
	s.ip, s.port = addr.IP.String(), addr.Port
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conn := c.(*net.TCPConn)
			s.accepted.Add(1)
			s.open.Add(1)
			s.mu.Lock()
			s.conns[conn] = struct{}{}
			s.mu.Unlock()
			running.Go(func() {
				defer func() {
					conn.Close()
					s.mu.Lock()
					delete(s.conns, conn)
					s.mu.Unlock()
					s.open.Add(-1)
				}()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		running.Wait()
	})
	return s
}

// addr is host:port with another host, as a client names it.
func (s *target) as(host string) string { return fmt.Sprintf("%s:%d", host, s.port) }

// echo sends back what comes, and ends when the other side does.
func echo(c *net.TCPConn) {
	io.Copy(c, c)
	c.CloseWrite()
}

// greet speaks first, as a database does, and then echoes.
func greet(c *net.TCPConn) {
	io.WriteString(c, greeting)
	echo(c)
}

const greeting = "5.5.5-hello, this whole line is the greeting\n"

// answerAfterEnd reads to the end, and only then answers, at length.
func answerAfterEnd(c *net.TCPConn) {
	sum, n := hashOf(c)
	fmt.Fprintf(c, "%d bytes, sha256 %s\n", n, sum)
	io.CopyN(c, newPattern(7), answerSize)
	c.CloseWrite()
}

const answerSize = 3 << 20

// stalled reads nothing and says nothing until its peer has gone.
func stalled(gone chan<- struct{}) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		awaitPeerGone(c)
		gone <- struct{}{}
	}
}

// sleeper reads nothing until it is woken; then it reads to the end and tells
// how much it got.
func sleeper(wake <-chan struct{}, got chan<- int64) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		<-wake
		n, _ := io.Copy(io.Discard, struct{ io.Reader }{c})
		got <- n
	}
}

// awaitPeerGone waits, without reading, until the kernel knows that c's peer
// has closed or reset it.
func awaitPeerGone(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	for {
		state := byte(1)
		err := raw.Control(func(fd uintptr) {
			state, err = tcpState(int(fd))
		})
		if err != nil || state != tcpEstablished {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// pattern is a stream of bytes that look random and are the same for a seed.
type pattern struct{ src *rand.ChaCha8 }

func newPattern(seed byte) io.Reader {
	return pattern{rand.NewChaCha8([32]byte{seed})}
}

func (p pattern) Read(b []byte) (int, error) { return p.src.Read(b) }

// patternSum is the hash of the first n bytes of a pattern.
func patternSum(seed byte, n int64) string {
	sum, _ := hashOf(io.LimitReader(newPattern(seed), n))
	return sum
}

func hashOf(r io.Reader) (sum string, n int64) {
	h := sha256.New()
	n, _ = io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{r}, make([]byte, 256<<10))
	return hexSum(h), n
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// tap stands before a real peer and counts what passes, so that the numbers
// in the log can be compared with something.
type tap struct {
	*target
	mu     sync.Mutex
	counts []tapped
}

type tapped struct{ up, down uint64 }

func newTap(t *testing.T, ip, backend string) *tap {
	t.Helper()
	tp := &tap{}
	tp.target = serve(t, ip, func(c *net.TCPConn) {
		b, err := net.Dial("tcp", backend)
		if err != nil {
			return
		}
		back := b.(*net.TCPConn)
		defer back.Close()
		var n tapped
		var both sync.WaitGroup
		both.Go(func() {
			up, err := io.Copy(back, c)
			n.up = uint64(up)
			back.CloseWrite()
			if err != nil {
				back.Close()
			}
		})
		both.Go(func() {
			down, err := io.Copy(c, back)
			n.down = uint64(down)
			c.CloseWrite()
			if err != nil {
				c.Close()
			}
		})
		both.Wait()
		tp.mu.Lock()
		tp.counts = append(tp.counts, n)
		tp.mu.Unlock()
	})
	return tp
}

// seen returns the counts of n connections, once that many have ended.
func (tp *tap) seen(t *testing.T, n int) []tapped {
	t.Helper()
	var counts []tapped
	eventually(t, fmt.Sprintf("the connections of the private host to end; want %d", n), func() bool {
		tp.mu.Lock()
		defer tp.mu.Unlock()
		counts = append(counts[:0], tp.counts...)
		return len(counts) == n && tp.open.Load() == 0
	})
	return counts
}

// targetMain is what this test binary does when it is started as a target
// process of its own, so that it can be killed: it listens on the given
// address, says where, and serves.
func targetMain(mode string) {
	l, err := net.Listen("tcp", os.Getenv("E2E_ADDR"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("listening on %s\n", l.Addr())
	go func() { // end with the test
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		switch mode {
		case "duplex": // sends for ever and takes what comes
			go io.Copy(struct{ io.Writer }{c}, newPattern(1))
			go io.Copy(io.Discard, struct{ io.Reader }{c})
		}
	}
}

// startTarget runs a target as a process.
func startTarget(t *testing.T, mode, ip string) (p *proc, port int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "E2E_TARGET="+mode, "E2E_ADDR="+ip+":0")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	p = start(t, cmd)
	m := p.says(t, `listening on \S+:(\d+)`)
	fmt.Sscan(m[1], &port)
	return p, port
}

// deafListener returns an address at which connecting gets no answer at all:
// a listener whose queue is full, so that Linux drops what else comes.
func deafListener(t *testing.T, ip string) (port int) {
	t.Helper()
	return deafListenerOn(t, ip, 0)
}

func deafListenerOn(t *testing.T, ip string, port int) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	sa := syscall.SockaddrInet4{Port: port}
	copy(sa.Addr[:], net.ParseIP(ip).To4())
	if err := syscall.Bind(fd, &sa); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port = bound.(*syscall.SockaddrInet4).Port
	addr := net.JoinHostPort(ip, strconv.Itoa(port))
	for range 8 {
		c, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
		if err != nil {
			var timeout net.Error
			if !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Fatal(err)
			}
			return port
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatalf("%s still takes connections", addr)
	return 0
}

// readLine reads a line and not a byte more, with a limit on the wait.
func readLine(t *testing.T, r io.Reader) string {
	t.Helper()
	line := make(chan string, 1)
	go func() {
		var s []byte
		for b := make([]byte, 1); ; {
			if _, err := io.ReadFull(r, b); err != nil {
				line <- fmt.Sprintf("%s (%v)", s, err)
				return
			}
			if b[0] == '\n' {
				line <- string(s)
				return
			}
			s = append(s, b[0])
		}
	}()
	return receive(t, "a line", line)
}

// serveHTTP makes a target of an HTTP handler.
func serveHTTP(h http.Handler) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, req)
		r := answer.Result()
		r.ContentLength, r.Close = int64(answer.Body.Len()), true
		r.Write(c)
	}
}

// dialFor connects with a limit on all that is then done.
func dialFor(addr string, limit time.Duration) (*net.TCPConn, error) {
	c, err := net.DialTimeout("tcp", addr, hang)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(limit))
	return c.(*net.TCPConn), nil
}
