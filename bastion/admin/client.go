package admin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Why a Call got no answer.
var (
	ErrNotRunning   = errors.New("sekisho is not running")
	ErrNotPermitted = errors.New("not permitted")
	ErrTimeout      = errors.New("sekisho does not answer")
)

const (
	// DefaultTimeout is longer than a server lets a Handler take.
	DefaultTimeout = 90 * time.Second

	maxAnswer = 64 << 20 // more than a list of all forwards

	// From largeBody on a client asks whether its request is welcome before
	// it sends the body (RFC 9110 section 10.1.1).
	largeBody    = 64 << 10
	continueWait = 5 * time.Second
)

// A Client asks the server behind a socket.
type Client struct {
	Path    string
	Timeout time.Duration // of a call, all in all; 0: DefaultTimeout

	most int64 // bytes of an answer; 0: maxAnswer
}

// Call sends in, unless it is nil, as JSON to a method and path, such as POST
// and /v1/reload, and puts the answer into out, unless that is nil. Each call
// has a connection of its own. Its errors tell apart:
//
//	*Error           the server answered, with this
//	ErrNotRunning    there is no socket, or nobody listens on it
//	ErrNotPermitted  it is not for this user; the text says for whom
//	ErrTimeout       there was no whole answer within Timeout
//
// If ctx ends before, its cause is the error.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("making the request %s %s: %w", method, path, err)
		}
	}
	timeout := cmp.Or(c.Timeout, DefaultTimeout)
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	status, text, err := c.ask(limited, method, path, body)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil && limited.Err() != nil:
		return fmt.Errorf("%w: nothing came from %s within %v", ErrTimeout, c.Path, timeout)
	case err != nil:
		return err
	case status/100 != 2:
		return answered(status, text)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("the answer to %s %s makes no sense: %w", method, path, err)
	}
	return nil
}

// PID is the process that listens on the socket, as the kernel tells it; 0 if
// it cannot be seen from here.
func (c *Client) PID(ctx context.Context) (int, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	server, err := credentials(conn)
	if err != nil {
		return 0, fmt.Errorf("finding out who listens on %s: %w", c.Path, err)
	}
	return int(server.Pid), nil
}

// answered makes an Error of the answer to a request that was refused.
func answered(status int, text []byte) *Error {
	e := new(Error)
	if err := json.Unmarshal(text, e); err != nil || e.Message == "" {
		return &Error{Message: fmt.Sprintf("the server answered %d %s", status, http.StatusText(status))}
	}
	return e
}

// ask returns the answer as it came.
func (c *Client) ask(ctx context.Context, method, path string, body []byte) (status int, text []byte, err error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return 0, nil, err
	}
	defer conn.Close()
	transport := &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		DisableKeepAlives: true, DisableCompression: true,
		ExpectContinueTimeout: continueWait, MaxResponseHeaderBytes: maxHeader,
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, method, "http://sekisho"+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, fmt.Errorf("making the request %s %s: %w", method, path, err)
	}
	request.Header.Set("Content-Type", "application/json")
	if len(body) >= largeBody {
		request.Header.Set("Expect", "100-continue")
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, nil, fmt.Errorf("asking %s: %w", c.Path, err)
	}
	defer response.Body.Close()
	most := cmp.Or(c.most, maxAnswer)
	text, err = io.ReadAll(io.LimitReader(response.Body, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("it is larger than %d bytes", most)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("reading the answer of %s: %w", c.Path, err)
	}
	return response.StatusCode, text, nil
}

// connect connects to the server, unless that would not listen to us.
func (c *Client) connect(ctx context.Context) (net.Conn, error) {
	conn, err := dial(ctx, c.Path)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return nil, fmt.Errorf("%w: there is no socket %s", ErrNotRunning, c.Path)
	case errors.Is(err, unix.ECONNREFUSED):
		return nil, fmt.Errorf("%w: nobody listens on %s", ErrNotRunning, c.Path)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, c.notPermitted(c.owner())
	case err != nil:
		return nil, fmt.Errorf("connecting to %s: %w", c.Path, err)
	}
	server, err := credentials(conn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("finding out who listens on %s: %w", c.Path, err)
	}
	if self := os.Geteuid(); self != 0 && self != int(server.Uid) {
		conn.Close()
		return nil, c.notPermitted(int(server.Uid))
	}
	return conn, nil
}

func (c *Client) notPermitted(owner int) error {
	who := "root"
	if owner != 0 {
		who += " or " + userName(owner)
	}
	return fmt.Errorf("%w: %s is not for %s: run this as %s", ErrNotPermitted, c.Path, userName(os.Geteuid()), who)
}

// owner is whose the socket is, or else its folder; root's where neither can
// be seen.
func (c *Client) owner() int {
	for _, path := range []string{c.Path, filepath.Dir(c.Path)} {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			return int(st.Uid)
		}
	}
	return 0
}
