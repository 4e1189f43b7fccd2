package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// warnings are what a server has told.
type warnings struct {
	mu   sync.Mutex
	told []string
}

func (w *warnings) add(text string, fields map[string]any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, fmt.Sprint(text, " ", fields))
}

func (w *warnings) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.told, "\n")
}

// serve runs a server on l until the test ends.
func serve(t *testing.T, l net.Listener, w *warnings, change func(*Server)) *Server {
	t.Helper()
	s := NewServer(nil)
	if w != nil {
		s = NewServer(w.add)
	}
	change(s)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s
}

// started is a server on a socket of its own, and a client of it.
func started(t *testing.T, change func(*Server)) (*Client, *warnings) {
	t.Helper()
	path, w := socketIn(t), new(warnings)
	serve(t, mustListen(t, path), w, change)
	return &Client{Path: path, Timeout: wait}, w
}

func raw(t *testing.T, c *Client) *net.UnixConn {
	t.Helper()
	conn, err := dial(t.Context(), c.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// echo answers with what was asked.
func echo(_ context.Context, _ Peer, body []byte) (any, error) { return json.RawMessage(body), nil }

func TestARequestIsAnsweredToAPeerWhoIsKnown(t *testing.T) {
	c, _ := started(t, func(s *Server) {
		s.Handle("GET /v1/who", who)
		s.Handle("POST /v1/echo", echo)
		s.Handle("POST /v1/nothing", func(_ context.Context, _ Peer, body []byte) (any, error) {
			if len(body) > 0 {
				return nil, errors.New("there is a body")
			}
			return nil, nil
		})
	})
	var said string
	if err := c.Call(t.Context(), "GET", "/v1/who", nil, &said); err != nil || said != fmt.Sprintf("%s (%d)", userName(os.Geteuid()), os.Geteuid()) {
		t.Errorf("%q, %v", said, err)
	}
	type question struct {
		User  string
		Force bool
	}
	asked, got := question{"alice ⁂", true}, question{}
	if err := c.Call(t.Context(), "POST", "/v1/echo", asked, &got); err != nil || got != asked {
		t.Errorf("%+v, %v", got, err)
	}
	if err := c.Call(t.Context(), "POST", "/v1/nothing", nil, nil); err != nil {
		t.Error(err)
	}
}

func TestErrorsTravel(t *testing.T) {
	c, w := started(t, func(s *Server) {
		s.Handle("POST /v1/hint", func(context.Context, Peer, []byte) (any, error) {
			return nil, fmt.Errorf("wrapped: %w", &Error{"policy.yaml:3:7: what?", "say that"})
		})
		s.Handle("POST /v1/plain", func(context.Context, Peer, []byte) (any, error) { return nil, io.ErrUnexpectedEOF })
		s.Handle("POST /v1/panic", func(context.Context, Peer, []byte) (any, error) { panic("oh dear") })
		s.Handle("POST /v1/nil", func(context.Context, Peer, []byte) (any, error) { return nil, (*Error)(nil) })
		s.Handle("POST /v1/unmarshallable", func(context.Context, Peer, []byte) (any, error) { return make(chan int), nil })
		s.Handle("POST /v1/panicking", func(context.Context, Peer, []byte) (any, error) { return panicking{}, nil })
	})
	internal := Error{"internal error", "the server's log tells more"}
	stranger := func(asked string) Error {
		return Error{fmt.Sprintf("the server does not know %q", asked), "the server that runs may be older, or newer, than this command: restart it"}
	}
	for _, test := range []struct {
		method, path string
		want         Error
	}{
		{"POST", "/v1/hint", Error{"policy.yaml:3:7: what?", "say that"}},
		{"POST", "/v1/plain", Error{"unexpected EOF", ""}},
		{"POST", "/v1/panic", internal},
		{"POST", "/v1/nil", internal},
		{"POST", "/v1/unmarshallable", internal},
		{"POST", "/v1/panicking", internal},
		{"GET", "/v1/hint", stranger("GET /v1/hint")},
		{"POST", "/v1/hint/", stranger("POST /v1/hint/")},
		{"POST", "//v1/hint", stranger("POST //v1/hint")},
		{"POST", "/v1/%0a", stranger("POST /v1/\n")},
	} {
		err := c.Call(t.Context(), test.method, test.path, nil, nil)
		var got *Error
		if !errors.As(err, &got) || *got != test.want {
			t.Errorf("%s %s: %v", test.method, test.path, err)
		}
	}
	if told := w.String(); strings.Count(told, "internal error") != 4 || !strings.Contains(told, "oh dear") || !strings.Contains(told, "server_test.go") {
		t.Errorf("told: %s", told)
	}
}

type panicking struct{}

func (panicking) MarshalJSON() ([]byte, error) { panic("in the middle of it") }

func TestPatternsThatCannotBeAreAPanic(t *testing.T) {
	for _, pattern := range []string{"", "/v1/reload", "POST", "POST v1", " /v1", "GET /taken"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%q is taken", pattern)
				}
			}()
			s := NewServer(nil)
			s.Handle("GET /taken", echo)
			s.Handle(pattern, echo)
		}()
	}
}

func TestBodiesAtTheirEdge(t *testing.T) {
	const large = MaxBody + 1<<16
	c, _ := started(t, func(s *Server) {
		length := func(_ context.Context, _ Peer, body []byte) (any, error) { return len(body), nil }
		s.Handle("POST /v1/small", length)
		s.HandleUpTo(large, "POST /v1/large", length)
	})
	for _, test := range []struct {
		path string
		size int
		ok   bool
	}{
		{"/v1/small", 1, true}, {"/v1/small", MaxBody, true}, {"/v1/small", MaxBody + 1, false},
		{"/v1/large", MaxBody + 1, true}, {"/v1/large", large, true}, {"/v1/large", large + 1, false},
	} {
		var got int
		err := c.Call(t.Context(), "POST", test.path, json.RawMessage(strings.Repeat("1", test.size)), &got)
		var refused *Error
		switch {
		case test.ok && (err != nil || got != test.size):
			t.Errorf("%s with %d bytes: %d, %v", test.path, test.size, got, err)
		case !test.ok && (!errors.As(err, &refused) || !strings.HasPrefix(refused.Message, "the request is larger than")):
			t.Errorf("%s with %d bytes: %v", test.path, test.size, err)
		}
	}
	// One that does not say how long it is.
	conn := raw(t, c)
	go func() {
		io.WriteString(conn, "POST /v1/small HTTP/1.1\r\nHost: sekisho\r\nTransfer-Encoding: chunked\r\n\r\n")
		for chunk := []byte("1000\r\n" + strings.Repeat("x", 0x1000) + "\r\n"); ; {
			if _, err := conn.Write(chunk); err != nil {
				return
			}
		}
	}()
	if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("%v, %v", response, err)
	}
}

func TestSlowAndSilentClientsAreCutAndHoldNobodyUp(t *testing.T) {
	c, _ := started(t, func(s *Server) {
		s.limits = limits{conns: 5, idle: 50 * time.Millisecond, header: 50 * time.Millisecond, body: 100 * time.Millisecond, handle: 50 * time.Millisecond, answer: 50 * time.Millisecond}
		s.Handle("POST /v1/echo", echo)
		s.Handle("POST /v1/slow", func(ctx context.Context, _ Peer, _ []byte) (any, error) {
			<-ctx.Done()
			return nil, &Error{Message: context.Cause(ctx).Error()}
		})
		s.Handle("POST /v1/much", func(context.Context, Peer, []byte) (any, error) { return strings.Repeat("x", 2<<20), nil })
	})
	for name, sent := range map[string]string{
		"one that says nothing":            "",
		"one that stops in a header":       "POST /v1/echo HTTP/1.1\r\nHost: sek",
		"one that stops in a body":         "POST /v1/echo HTTP/1.1\r\nHost: sekisho\r\nContent-Length: 100\r\n\r\n{",
		"one that has been answered":       "POST /v1/echo HTTP/1.1\r\nHost: sekisho\r\nContent-Length: 2\r\n\r\n{}",
		"one that does not speak HTTP":     "SSH-2.0-OpenSSH_9.2\r\n",
		"one with a header that is large":  "POST /v1/echo HTTP/1.1\r\nHost: sekisho\r\nX: " + strings.Repeat("x", 2*maxHeader) + "\r\n\r\n",
		"one whose request takes too long": "POST /v1/slow HTTP/1.1\r\nHost: sekisho\r\nContent-Length: 0\r\n\r\n",
	} {
		conn := raw(t, c)
		go io.WriteString(conn, sent)
		conn.SetReadDeadline(time.Now().Add(wait))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s is not cut", name)
		}
	}
	// As many as may come in do not read what they asked for.
	for range 5 {
		conn := raw(t, c)
		io.WriteString(conn, "POST /v1/much HTTP/1.1\r\nHost: sekisho\r\nContent-Length: 0\r\n\r\n")
	}
	if err := c.Call(t.Context(), "POST", "/v1/echo", 1, nil); err != nil {
		t.Error(err)
	}
	var refused *Error
	if err := c.Call(t.Context(), "POST", "/v1/slow", nil, nil); !errors.As(err, &refused) || refused.Message != context.DeadlineExceeded.Error() {
		t.Errorf("%v", err)
	}
}

func TestConnectionsAtTheirLimitWaitForTheNext(t *testing.T) {
	var in atomic.Int32
	release := make(chan struct{})
	c, _ := started(t, func(s *Server) {
		s.limits.conns = 2
		s.Handle("POST /v1/hold", func(context.Context, Peer, []byte) (any, error) {
			in.Add(1)
			<-release
			return nil, nil
		})
	})
	errs := make(chan error, 5)
	for range cap(errs) {
		go func() { errs <- c.Call(context.Background(), "POST", "/v1/hold", nil, nil) }()
	}
	eventually(t, "two are served", func() bool { return in.Load() == 2 })
	short := &Client{Path: c.Path, Timeout: 100 * time.Millisecond}
	if err := short.Call(t.Context(), "POST", "/v1/hold", nil, nil); !errors.Is(err, ErrTimeout) || in.Load() != 2 {
		t.Errorf("%d are served at once: %v", in.Load(), err)
	}
	close(release)
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestAHandlerLearnsThatItsClientHasLeft(t *testing.T) {
	in, left := make(chan struct{}), make(chan error)
	c, _ := started(t, func(s *Server) {
		s.Handle("POST /v1/hold", func(ctx context.Context, _ Peer, _ []byte) (any, error) {
			close(in)
			<-ctx.Done()
			left <- ctx.Err()
			return nil, nil
		})
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { <-in; cancel(errors.New("interrupted")) }()
	if err := c.Call(ctx, "POST", "/v1/hold", nil, nil); err == nil || err.Error() != "interrupted" {
		t.Errorf("%v", err)
	}
	if err := <-left; err != context.Canceled {
		t.Errorf("%v", err)
	}
}

func TestCallsAtOnceAreEachAnsweredTheirOwn(t *testing.T) {
	c, w := started(t, func(s *Server) { s.HandleUpTo(1<<20, "POST /v1/echo", echo) })
	var calls sync.WaitGroup
	for i := range 100 {
		calls.Go(func() {
			asked, got := strings.Repeat(fmt.Sprint(i, " "), 1+i*100), ""
			if err := c.Call(t.Context(), "POST", "/v1/echo", asked, &got); err != nil || got != asked {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	calls.Wait()
	if told := w.String(); told != "" {
		t.Error(told)
	}
}

func TestShutdownLetsARequestEndAndCutsOneThatDoesNot(t *testing.T) {
	for _, patient := range []bool{true, false} {
		path := socketIn(t)
		l := mustListen(t, path)
		in, release, over := make(chan struct{}), make(chan struct{}), make(chan struct{})
		s := NewServer(nil)
		s.Handle("POST /v1/hold", func(ctx context.Context, _ Peer, _ []byte) (any, error) {
			defer close(over)
			close(in)
			select {
			case <-release:
			case <-ctx.Done():
			}
			return "done", nil
		})
		served, called := make(chan error, 1), make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		go func() {
			called <- (&Client{Path: path}).Call(context.Background(), "POST", "/v1/hold", nil, nil)
		}()
		<-in
		ctx, cancel := context.WithCancel(context.Background())
		stopped := make(chan error, 1)
		go func() { stopped <- s.Shutdown(ctx) }()
		eventually(t, "the socket is removed", func() bool { return !exists(path) })
		if err := <-served; err != nil {
			t.Error(err)
		}
		if patient {
			close(release)
			if err := errors.Join(<-stopped, <-called); err != nil {
				t.Error(err)
			}
		} else {
			cancel()
			if err := <-stopped; err != context.Canceled {
				t.Error(err)
			}
			if err := <-called; err == nil {
				t.Error("a request that was cut is answered")
			}
		}
		<-over
		cancel()
	}
}

func TestShutdownBeforeServeAndWithTheHouseFull(t *testing.T) {
	path := socketIn(t)
	s := NewServer(nil)
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Serve(mustListen(t, path)); err != nil || exists(path) {
		t.Errorf("%v; the socket is there: %v", err, exists(path))
	}

	l := mustListen(t, path)
	full := NewServer(nil)
	full.limits.conns = 1
	served := make(chan error)
	go func() { served <- full.Serve(l) }()
	for range 3 {
		conn := raw(t, &Client{Path: path})
		io.WriteString(conn, "POST")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	full.Shutdown(ctx)
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestAnotherUserIsClosedAtOnceWhateverTheModesSay(t *testing.T) {
	dir := openDir(t, 0o755)
	path := filepath.Join(dir, "run", "sekisho.sock")
	l := mustListen(t, path)
	w := new(warnings)
	serve(t, l, w, func(s *Server) { s.Handle("GET /v1/who", who) })
	if out := outputAsNobody(t, "call", path); !strings.Contains(out, "ErrNotPermitted: true") || !strings.Contains(out, "not for nobody: run this as root\n") {
		t.Errorf("the modes: %s", out)
	}
	if err := errors.Join(os.Chmod(path, 0o666), os.Chmod(filepath.Dir(path), 0o711)); err != nil {
		t.Fatal(err)
	}
	if out := outputAsNobody(t, "knock", path); out != "answered \"\"\n" {
		t.Errorf("he is answered: %s", out)
	}
	if told := w.String(); !strings.Contains(told, "a connection is refused: only root") || !strings.Contains(told, "uid:65534") {
		t.Errorf("told: %s", told)
	}
	// The client sees by itself that it would not be listened to.
	if out := outputAsNobody(t, "call", path); !strings.Contains(out, "ErrNotPermitted: true") || !strings.Contains(out, "run this as root\n") {
		t.Errorf("%s", out)
	}
	if err := (&Client{Path: path}).Call(t.Context(), "GET", "/v1/who", nil, nil); err != nil {
		t.Error(err)
	}
}

func TestWhoComesByAnotherWayThanAUnixSocketIsRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := new(warnings)
	serve(t, l, w, func(s *Server) { s.Handle("GET /v1/who", who) })
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /v1/who HTTP/1.1\r\nHost: sekisho\r\n\r\n")
	if answer, _ := io.ReadAll(conn); len(answer) > 0 {
		t.Errorf("%q", answer)
	}
	if !strings.Contains(w.String(), "who it is cannot be told") {
		t.Errorf("told: %s", w)
	}
}

func FuzzServe(f *testing.F) {
	s := NewServer(nil)
	s.Handle("POST /v1/echo", echo)
	ctx := context.WithValue(context.Background(), peerKey{}, Peer{UID: 0})
	for _, seed := range []string{
		"POST /v1/echo HTTP/1.1\r\nHost: sekisho\r\nContent-Length: 2\r\n\r\n{}",
		"POST /v1/echo HTTP/1.1\r\nHost: sekisho\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"POST /v1/echo HTTP/1.1\r\nHost: sekisho\r\nContent-Length: 9\r\n\r\nnot JSON!",
		"GET /v1/%ff HTTP/1.1\r\nHost: sekisho\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(sent)))
		if err != nil {
			return
		}
		w := &recorder{header: http.Header{}}
		s.serve(w, r.WithContext(ctx))
		if !json.Valid(w.body.Bytes()) {
			t.Errorf("%d %q", w.status, w.body.Bytes())
		}
		if w.status != http.StatusOK && answered(w.status, w.body.Bytes()).Message == "" {
			t.Errorf("%d without a word", w.status)
		}
	})
}

// recorder keeps an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
