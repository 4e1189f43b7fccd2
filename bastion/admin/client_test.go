package admin

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWithoutAServerTheClientSaysSo(t *testing.T) {
	left := socketIn(t)
	leftOver(t, left)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	closed := socketIn(t)
	mustListen(t, closed).Close()
	for name, test := range map[string]struct{ path, text string }{
		"no folder":                  {socketIn(t), "there is no socket"},
		"no socket":                  {filepath.Join(t.TempDir(), "sekisho.sock"), "there is no socket"},
		"a file for a folder":        {filepath.Join(file, "sekisho.sock"), "there is no socket"},
		"a socket that is left over": {left, "nobody listens on"},
		"a server that has stopped":  {closed, "there is no socket"},
	} {
		err := (&Client{Path: test.path}).Call(t.Context(), "GET", "/v1/who", nil, nil)
		if !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), test.text+" ") || !strings.Contains(err.Error(), test.path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAServerThatDoesNotAnswerInTime(t *testing.T) {
	silent := socketIn(t)
	mustListen(t, silent)
	full := filepath.Join(t.TempDir(), "full.sock")
	fullQueue(t, full)
	for _, path := range []string{silent, full} {
		err := (&Client{Path: path, Timeout: 50 * time.Millisecond}).Call(t.Context(), "POST", "/v1/reload", strings.Repeat("x", 1<<20), nil)
		if !errors.Is(err, ErrTimeout) || !strings.Contains(err.Error(), path+" within 50ms") {
			t.Errorf("%v", err)
		}
		cause := errors.New("interrupted")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, cause)
		if err := (&Client{Path: path}).Call(ctx, "POST", "/v1/reload", nil, nil); err != cause {
			t.Errorf("%v", err)
		}
		cancel()
	}
}

func TestAnswersThatMakeNoSense(t *testing.T) {
	for name, test := range map[string]struct {
		answer, text string
		answered     bool
	}{
		"none":                       {"", "EOF", false},
		"not HTTP":                   {"SSH-2.0-OpenSSH_9.2\r\n", "malformed HTTP", false},
		"not JSON":                   {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", "makes no sense", false},
		"an answer of another kind":  {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1", "makes no sense", false},
		"half of one":                {"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{", "unexpected EOF", false},
		"a refusal that is not JSON": {"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno", "the server answered 400 Bad Request", true},
		"a refusal without a word":   {"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\n{}", "the server answered 500", true},
		"one that leads elsewhere":   {"HTTP/1.1 307 Temporary Redirect\r\nLocation: /v1/kill\r\nContent-Length: 0\r\n\r\n", "the server answered 307", true},
		"one without end":            {"HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 100_001), "larger than 100000 bytes", false},
		"a header without end":       {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20), "", false},
	} {
		path := socketIn(t)
		l := mustListen(t, path)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			conn.Read(make([]byte, 1024))
			io.WriteString(conn, test.answer)
			conn.(*net.UnixConn).CloseWrite()
		}()
		var out string
		err := (&Client{Path: path, Timeout: wait, most: 100_000}).Call(t.Context(), "GET", "/v1/who", nil, &out)
		var refused *Error
		if err == nil || !strings.Contains(err.Error(), test.text) || errors.As(err, &refused) != test.answered ||
			errors.Is(err, ErrNotRunning) || errors.Is(err, ErrTimeout) || errors.Is(err, ErrNotPermitted) {
			t.Errorf("%s: %v", name, err)
		}
		l.Close()
	}
}

func TestARequestThatCannotBeMade(t *testing.T) {
	c, _ := started(t, func(*Server) {})
	for _, err := range []error{
		c.Call(t.Context(), "GET", "/v1/who", make(chan int), nil),
		c.Call(t.Context(), "GE T", "/v1/who", nil, nil),
		c.Call(t.Context(), "GET", "/v1/\n", nil, nil),
	} {
		var refused *Error
		if err == nil || errors.As(err, &refused) || !strings.Contains(err.Error(), "making the request") {
			t.Errorf("%v", err)
		}
	}
}
