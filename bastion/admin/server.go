package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

// MaxBody is how large the body of a request may be where its path allows no
// more.
const MaxBody = 1 << 20

// limits bound what those who connect may hold, and for how long.
type limits struct {
	conns  int           // at once; the next wait to be accepted
	idle   time.Duration // between two requests
	header time.Duration // to send the header of a request
	body   time.Duration // to send all of a request
	handle time.Duration // until the context of a Handler ends
	answer time.Duration // to take the answer, beside all of these
}

const maxHeader = 16 << 10

// A Peer is who is at the other end of a connection.
type Peer struct {
	UID  int
	User string // the name of UID, or "user 1000" where it has none
	PID  int    // as of when it connected; it may be another's by now
}

type peerKey struct{}

// PeerFrom returns the peer of a Handler's context.
func PeerFrom(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(Peer)
	return p, ok
}

// A Handler answers a request with what can be marshalled as JSON, or with an
// error: an *Error as it stands, of another its text. What is asked is in the
// body, which is empty if the client sent none. The context ends when the
// client leaves, when the request has taken too long, and when the server
// stops waiting for it; a Handler must end then, too.
type Handler func(ctx context.Context, peer Peer, body []byte) (any, error)

type route struct {
	most   int64 // bytes of body
	handle Handler
}

// A Server answers administrators. It is made by NewServer.
type Server struct {
	warn   func(text string, fields map[string]any)
	self   int // whom we run as
	limits limits
	routes map[string]route // by method and path
	http   *http.Server
}

// NewServer makes a server. Warn is told of peers that are not let in and of
// errors of our own; it must not wait. Nil: nobody is told.
func NewServer(warn func(text string, fields map[string]any)) *Server {
	if warn == nil {
		warn = func(string, map[string]any) {}
	}
	return &Server{
		warn: warn, self: os.Geteuid(), routes: map[string]route{}, http: new(http.Server),
		limits: limits{
			conns: 16, idle: 30 * time.Second, header: 5 * time.Second, body: 30 * time.Second,
			handle: time.Minute, answer: 30 * time.Second,
		},
	}
}

// Handle has h answer one method and path, such as "POST /v1/reload", exactly
// as they are written. All are to be there before Serve.
func (s *Server) Handle(pattern string, h Handler) { s.HandleUpTo(MaxBody, pattern, h) }

// HandleUpTo is Handle for requests with bodies of up to most bytes. Each
// connection may make the server hold that much.
func (s *Server) HandleUpTo(most int64, pattern string, h Handler) {
	method, path, ok := strings.Cut(pattern, " ")
	if _, taken := s.routes[pattern]; taken || !ok || method == "" || !strings.HasPrefix(path, "/") || h == nil {
		panic(fmt.Sprintf("admin: bad or repeated pattern %q", pattern))
	}
	s.routes[pattern] = route{most, h}
}

// Serve answers on l until Shutdown, and then returns nil. It closes l, which
// Listen makes: those who connect by other than a unix socket are refused.
func (s *Server) Serve(l net.Listener) error {
	h, limit := s.http, s.limits
	h.Handler = http.HandlerFunc(s.serve)
	h.MaxHeaderBytes = maxHeader
	h.IdleTimeout, h.ReadHeaderTimeout, h.ReadTimeout = limit.idle, limit.header, limit.body
	h.WriteTimeout = limit.body + limit.handle + limit.answer
	h.DisableGeneralOptionsHandler = true
	h.ErrorLog = log.New(lines(func(line string) { s.warn("admin socket", map[string]any{"error": line}) }), "", 0)
	h.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if a, ok := c.(*admitted); ok {
			ctx = context.WithValue(ctx, peerKey{}, a.peer)
		}
		return ctx
	}
	if err := h.Serve(&door{Listener: l, server: s, room: make(chan struct{}, limit.conns), closed: make(chan struct{})}); err != http.ErrServerClosed {
		return fmt.Errorf("serving the admin socket: %w", err)
	}
	return nil
}

// Shutdown stops listening, which removes the socket, and waits for requests
// to be answered until ctx ends; then it ends them and returns ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		s.http.Close()
	}
	return err
}

// A door is a listener through which only root and we ourselves come in, and
// only so many at once.
type door struct {
	net.Listener
	server *Server
	room   chan struct{} // one for each connection

	once   sync.Once
	closed chan struct{}
}

func (d *door) Accept() (net.Conn, error) {
	select {
	case d.room <- struct{}{}:
	case <-d.closed:
		return nil, net.ErrClosed
	}
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			<-d.room
			return nil, err
		}
		if peer, ok := d.server.admits(c); ok {
			return &admitted{UnixConn: c.(*net.UnixConn), peer: peer, left: sync.OnceFunc(func() { <-d.room })}, nil
		}
		c.Close()
	}
}

func (d *door) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.Listener.Close()
}

// admits reports whether the peer may talk to us. Its name is not yet looked
// up, which may take a while.
func (s *Server) admits(c net.Conn) (Peer, bool) {
	cred, err := credentials(c)
	if err != nil {
		s.warn("admin socket: a connection is refused: who it is cannot be told", map[string]any{"error": err.Error()})
		return Peer{}, false
	}
	peer := Peer{UID: int(cred.Uid), PID: int(cred.Pid)}
	if peer.UID != 0 && peer.UID != s.self {
		s.warn("admin socket: a connection is refused: only root and the user that serves may use it", map[string]any{"uid": peer.UID, "pid": peer.PID})
		return Peer{}, false
	}
	return peer, true
}

// admitted is a connection of a known peer.
type admitted struct {
	*net.UnixConn
	peer Peer
	left func()
}

func (a *admitted) Close() error {
	defer a.left()
	return a.UnixConn.Close()
}

// serve answers one request.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	peer, ok := PeerFrom(r.Context())
	if !ok { // it did not come through the door
		refuse(w, http.StatusForbidden, &Error{Message: "not permitted"})
		return
	}
	peer.User = userName(peer.UID)
	asked := r.Method + " " + r.URL.Path
	route, ok := s.routes[asked]
	if !ok {
		refuse(w, http.StatusNotFound, errorf("the server that runs may be older, or newer, than this command: restart it", "the server does not know %q", asked))
		return
	}
	body, status, err := route.read(w, r)
	if err != nil {
		refuse(w, status, err)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), peerKey{}, peer), s.limits.handle)
	defer cancel()
	text, status, err := s.run(ctx, route.handle, peer, asked, body)
	if err != nil {
		refuse(w, status, err)
		return
	}
	answer(w, status, text)
}

// read reads the body of a request. Where it is too large and says so, it is
// not even asked for: see Client.Call.
func (rt *route) read(w http.ResponseWriter, r *http.Request) (body []byte, status int, failure *Error) {
	tooLarge := errorf("", "the request is larger than %d bytes", rt.most)
	if r.ContentLength > rt.most {
		return nil, http.StatusRequestEntityTooLarge, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, rt.most))
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, http.StatusRequestEntityTooLarge, tooLarge
	case err != nil:
		return nil, http.StatusRequestTimeout, errorf("", "the request did not come whole: %v", err)
	}
	return body, http.StatusOK, nil
}

// run has h answer, and makes JSON of it. A panic of either is an error of
// this request only.
func (s *Server) run(ctx context.Context, h Handler, peer Peer, asked string, body []byte) (text []byte, status int, failure *Error) {
	internal := &Error{"internal error", "the server's log tells more"}
	defer func() {
		if p := recover(); p != nil {
			s.warn("admin socket: internal error", map[string]any{"request": asked, "panic": p, "stack": string(debug.Stack())})
			text, status, failure = nil, http.StatusInternalServerError, internal
		}
	}()
	result, err := h(ctx, peer, body)
	if err != nil {
		if e, ok := errors.AsType[*Error](err); ok && e != nil {
			return nil, http.StatusBadRequest, e
		}
		return nil, http.StatusInternalServerError, &Error{Message: err.Error()}
	}
	if text, err = json.Marshal(result); err != nil {
		s.warn("admin socket: internal error", map[string]any{"request": asked, "error": err.Error()})
		return nil, http.StatusInternalServerError, internal
	}
	return text, http.StatusOK, nil
}

func refuse(w http.ResponseWriter, status int, e *Error) {
	text, _ := json.Marshal(e) // two strings can always be marshalled
	answer(w, status, text)
}

func answer(w http.ResponseWriter, status int, text []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(text)
}

// lines is a writer of whole lines.
type lines func(line string)

func (l lines) Write(p []byte) (int, error) {
	l(string(bytes.TrimSpace(p)))
	return len(p), nil
}
