package bastion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	gl "github.com/gliderlabs/ssh"
	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/authz"
)

const (
	// maxUnanswered bounds the channel opens of a connection that wait for
	// their answer, and the requests of its forwards that do. A client that
	// asks and never reads would otherwise pile up goroutines without end.
	maxUnanswered = 1024

	// maxName bounds the name of a type of channel. RFC 4251 section 6 allows
	// 64 bytes; the library, a packet full.
	maxName = 1024

	// maxSessions bounds the session channels of a connection, as sshd's
	// MaxSessions does.
	maxSessions = 10

	// maxDenials bounds the request.deny records of one connection; beyond
	// it requests are still refused, and counted in conn.close.
	maxDenials = 32

	// keepaliveRequest is what sshd asks, too (OpenSSH's PROTOCOL has no word
	// on it; every client answers it, with a failure as RFC 4254 section 4
	// wants for what it does not know).
	keepaliveRequest = "keepalive@openssh.com"
)

// Reasons of the ends of connections, beside those of forwards.
const (
	reasonKeepalive = "keepalive"      // limits.keepalive_max_missed
	reasonFlood     = "flood"          // more unanswered channel opens and requests than maxUnanswered
	reasonNotClosed = "never_closed"   // a channel that is closed here
	reasonProtocol  = "protocol_error" // the client broke the SSH protocol
)

// connection is one SSH connection from accept to end. The same goroutine
// runs it from the handshake to its record; every channel has its own.
type connection struct {
	server  *Server
	id      string
	wire    *wire
	backlog *backlog
	traffic *traffic
	source  netip.AddrPort
	started time.Time

	ctx    context.Context
	cancel context.CancelCauseFunc // with *endCause

	hostKeys  *hostKeys     // by which the client knows the server, as they were when it came
	announced atomic.Bool   // to the client, or about to be
	told      chan struct{} // closed once they are
	proofs    atomic.Int32  // that it has asked for
	proving   sync.Mutex    // held until one is answered
	lingered  atomic.Bool   // see lingerForProof

	ciphers []string // that the client is offered

	login login // before the login is finished; only the handshake's goroutine uses it

	proven  atomic.Pointer[Principal] // set by the login, before any channel exists
	judging sync.Mutex                // held while the policy is asked and edge is set
	edge    atomic.Pointer[time.Time] // when time alone may end the principal's being here; zero: never
	gl      gl.Context                // holds the *ssh.ServerConn a moment after the login

	unanswered atomic.Int32  // channel opens, and requests of forwards
	forwards   atomic.Int32  // from being asked for until the client closes the channel
	dials      chan struct{} // one for each forward that is not yet answered
	sessions   atomic.Int32
	noSessions atomic.Bool  // no-more-sessions@openssh.com
	denials    atomic.Int32 // requests refused
	busy       atomic.Int64 // when a channel was last open: see clock
	pings      int          // keepalives sent since the client was last heard; tend's
	closing    atomic.Bool  // the wire is closed, or about to be

	exchanges int                           // of keys; like waited, of the library's goroutine that makes them
	waited    bool                          // a renewal of keys has
	packets   atomic.Pointer[<-chan []byte] // that have come: see packetsOf
	served    chan struct{}                 // closed when the library is done with the connection

	mu       sync.Mutex
	over     bool           // no handler begins any more
	handlers sync.WaitGroup // what runs for this connection
}

func newConnection(s *Server, conn net.Conn) *connection {
	c := &connection{server: s, id: audit.NewID("c"), source: addrPort(conn.RemoteAddr()), started: time.Now(), served: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	seat := s.turns.seat(sourceOf(c.source.Addr()), c.ctx.Done())
	tune(conn, &s.limits)
	c.wire = newWire(conn, seat, func(err error) { c.cancel(lostCause(err)) }, c.took)
	c.backlog = newBacklog(s.limits)
	c.traffic = newTraffic(c.ctx.Done(), c.ask, func() (time.Duration, float64) { return tcpPath(conn) }, &c.wire.out.mixed)
	c.hostKeys, c.told = s.hostKeys.Load(), make(chan struct{})
	c.dials = make(chan struct{}, s.limits.MaxPendingDialsPerConnection)
	c.busy.Store(clock())
	return c
}

// serve runs the connection until it ends, and records that.
func (c *connection) serve() {
	defer c.recovered()
	c.handshakeAndServe()
	close(c.served)
	c.discardPackets()

	// The client is gone or was sent away. Forwards that still run learn it,
	// record their ends, and then this connection's follows.
	c.cancel(c.endOfMux())
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	c.handlers.Wait()

	cause := causeOf(c.ctx, nil)
	if c.principal() == nil {
		c.login.finish(c, cause)
		return
	}
	rec := c.record(audit.ConnClose)
	rec.Duration = time.Since(c.started)
	rec.Reason, rec.Detail = cause.reason, cause.detail
	c.server.forwarder.counts.ended("close", cause.reason)
	if n := c.denials.Load(); n > maxDenials {
		rec.Detail += fmt.Sprintf("; %d requests were refused, of which %d are recorded", n, maxDenials)
	}
	c.server.forwarder.write(&rec, c.server.limits.DialTimeout, func(err error) { c.appended(rec.Type, err) })
	c.line().WithFields(logrus.Fields{fieldReason: rec.Reason, fieldDetail: printable(rec.Detail)}).Info("connection closed")
}

// endOfMux is why the SSH connection is over, if nothing else has said so.
func (c *connection) endOfMux() *endCause {
	conn := c.ssh()
	if conn == nil {
		return &endCause{reasonClientGone, "the client left before it had logged in"}
	}
	err := conn.Wait()
	if err == nil || err == io.EOF || errors.Is(err, net.ErrClosed) || strings.HasPrefix(err.Error(), "ssh: disconnect") {
		return &endCause{reasonClientGone, "the client ended the connection"}
	}
	return &endCause{reasonProtocol, err.Error()}
}

// ssh returns the connection once the login is finished, else nil.
func (c *connection) ssh() *ssh.ServerConn {
	if c.gl == nil {
		return nil
	}
	conn, _ := c.gl.Value(gl.ContextKeyConn).(*ssh.ServerConn)
	return conn
}

// handshakeAndServe returns when the connection is over. It uses one small
// gliderlabs/ssh server for this connection, so that every callback holds the
// connection's own state: that library's context keeps what a client offered
// and never proved, so nothing is read from it.
func (c *connection) handshakeAndServe() {
	grace := time.AfterFunc(c.server.limits.LoginGrace, func() {
		c.end(&endCause{reasonLoginGrace, fmt.Sprintf("not logged in within login_grace, %v", c.server.limits.LoginGrace)})
	})
	defer grace.Stop()
	c.login.finished = func() { grace.Stop(); c.wire.loggedIn() }
	defer c.wire.loggedIn() // or it never was: its turn is given back too
	c.login.shaken = func() { c.server.forwarder.counts.handshake(time.Since(c.started), true) }

	server := &gl.Server{
		ConnCallback: func(ctx gl.Context, conn net.Conn) net.Conn {
			c.gl = ctx
			return conn
		},
		ServerConfigCallback:     func(gl.Context) *ssh.ServerConfig { return c.serverConfig() },
		ConnectionFailedCallback: func(_ net.Conn, err error) { c.login.err = err },
		ChannelHandlers: map[string]gl.ChannelHandler{
			"direct-tcpip": c.channel((*connection).directTCPIP),
			"session":      c.channel((*connection).session),
			"default":      c.channel((*connection).unknownChannel),
		},
		RequestHandlers: map[string]gl.RequestHandler{"default": c.globalRequest},
	}
	c.wire.greet(serverVersion+"\r\n", c.server.greetingWait)
	c.chooseCiphers()
	server.HandleConn(c.wire)
	if !c.login.begun {
		// The library tells it only of a client that goes on to log in, and it
		// is wanted most of one that cannot.
		c.login.client, _ = c.wire.before.greeting.said()
	}
}

// chooseCiphers is called when the client has been greeted.
func (c *connection) chooseCiphers() {
	c.ciphers = ciphers
	if _, first := c.wire.before.greeting.said(); c.server.greetingWait > 0 && first != nil && first.gcm {
		c.ciphers = gcmCiphers
		c.wire.merger = new(merger)
	}
}

// channel makes a handler of gliderlabs/ssh of one of ours. That library
// starts a goroutine for each channel; here each is counted and awaited.
func (c *connection) channel(handle func(*connection, ssh.NewChannel, func())) gl.ChannelHandler {
	return func(_ *gl.Server, _ *ssh.ServerConn, ch ssh.NewChannel, _ gl.Context) {
		defer c.recovered()
		if !c.begin() {
			c.tooLate(ch)
			return
		}
		defer c.handlers.Done()
		if n := len(ch.ChannelType()); n > maxName {
			// The channel holds it until its refusal is read.
			c.end(&endCause{reasonProtocol, fmt.Sprintf("a type of channel of %d bytes", n)})
			return
		}
		c.announceHostKeys()
		c.backlog.add(ch)
		defer c.backlog.remove(ch)
		c.owesAnswer()
		answered := sync.OnceFunc(func() { c.unanswered.Add(-1) })
		defer answered()
		handle(c, ch, answered)
		c.busy.Store(clock())
	}
}

// owesAnswer counts an answer that the client waits for, or does not read.
func (c *connection) owesAnswer() {
	if c.unanswered.Add(1) > maxUnanswered {
		c.end(&endCause{reasonFlood, fmt.Sprintf("more than %d channel opens and requests waited for their answers to be read", maxUnanswered)})
	}
}

// tooLate judges and records what a client asked for that was gone before it
// was looked at: who leaves at once must not hide what he tried.
func (c *connection) tooLate(ch ssh.NewChannel) {
	if ask, err := parseDirectTCPIP(ch.ExtraData()); ch.ChannelType() == "direct-tcpip" && err == nil {
		ask.At = time.Now()
		c.server.forwarder.tooLate(c.ctx, *c.principal(), ask)
		c.countRefusal()
	}
}

// begin counts a handler, unless the connection is over.
func (c *connection) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false
	}
	c.handlers.Add(1)
	return true
}

// end ends the connection and every forward on it, with cause. It waits for
// nothing, as whoever ends thousands in a row must not: closing a socket waits
// for those who are reading and writing it.
func (c *connection) end(cause *endCause) {
	c.cancel(cause)
	if c.closing.CompareAndSwap(false, true) {
		go func() {
			if cause.reason == reasonKeepalive {
				c.wire.abort() // nobody is there to take what is left to send
			} else {
				c.wire.Close()
			}
			c.unwedge()
		}()
	}
}

// recovered turns a panic into the end of this connection only.
func (c *connection) recovered() {
	if p := recover(); p != nil {
		c.line().WithFields(logrus.Fields{"panic": p, "stack": string(debug.Stack())}).Error("internal error; the connection is closed")
		c.end(&endCause{reasonInternal, "internal error"})
	}
}

// principal is who has logged in, or nil.
func (c *connection) principal() *Principal { return c.proven.Load() }

// idle reports whether nothing runs on a connection that is logged in.
func (c *connection) idle() bool {
	return c.forwards.Load() == 0 && c.sessions.Load() == 0
}

// tend looks after the connection's limits; it is called about once a second.
func (c *connection) tend() {
	limits := c.server.limits
	c.announceHostKeys()
	if edge := c.edge.Load(); edge != nil && !edge.IsZero() && !c.server.now().Before(*edge) && !c.judgeAgain() {
		return
	}
	if quiet := time.Duration(clock() - c.busy.Load()); limits.IdleConnection > 0 && c.idle() && quiet >= limits.IdleConnection {
		c.end(&endCause{reasonIdle, fmt.Sprintf("no channel for idle_connection, %v", limits.IdleConnection)})
		return
	}
	interval := limits.KeepaliveInterval
	if interval <= 0 {
		return
	}
	silence := c.wire.silence()
	due := int(silence / interval)
	switch {
	case silence >= limits.silence():
		c.end(&endCause{reasonKeepalive, fmt.Sprintf("not heard for %v (keepalive_max_missed, %d)", silence.Round(time.Millisecond), limits.KeepaliveMaxMissed)})
	case due > c.pings:
		c.ping()
	}
	c.pings = due
}

// judgeAgain reports whether the connection's principal, if there is one yet,
// may still be here, and ends it if not.
func (c *connection) judgeAgain() bool {
	p := c.principal()
	if p == nil || c.ctx.Err() != nil {
		return true // it is judged at its login; it is ending already
	}
	cause := notAdmitted(c.holds(p))
	if cause != nil {
		c.end(cause)
	}
	return cause == nil
}

// preview is judgeAgain by another policy, and ends nothing.
func (c *connection) preview(policy *authz.Policy) (e Ending, ends bool) {
	p := c.principal()
	if p == nil || c.ctx.Err() != nil {
		return e, false
	}
	reason, detail, _ := c.holdsBy(policy, p)
	cause := notAdmitted(reason, detail)
	if cause == nil {
		return e, false
	}
	return Ending{p.view(c.started), cause.reason, cause.detail}, true
}

// notAdmitted is why a connection is ended whose principal no longer holds;
// nil if he does.
func notAdmitted(reason authz.Reason, detail string) *endCause {
	if reason == "" {
		return nil
	}
	return &endCause{string(reason), "the policy no longer admits it: " + detail}
}

// ping asks the client for a sign of life. Any answer is one, a failure too:
// what counts is that bytes come. While one ping waits for its answer, others
// are sent that want none: the answer to each would have to be awaited.
func (c *connection) ping() {
	if conn := c.ssh(); conn != nil && !c.ask() {
		go func() {
			defer c.recovered()
			conn.SendRequest(keepaliveRequest, false, nil)
		}()
	}
}

// ask sends a keepalive that wants an answer, and goes on while the traffic
// wants more of them. It reports false if one waits for its answer already: the
// library would hold a second one back until then.
func (c *connection) ask() bool {
	conn := c.ssh()
	if conn == nil || !c.traffic.beginAsking(clock()) {
		return false
	}
	go func() {
		defer c.recovered()
		for again := true; again; {
			sent := c.traffic.sent.Load()
			if _, _, err := conn.SendRequest(keepaliveRequest, true, nil); err != nil {
				return // the connection is over
			}
			again = c.traffic.answered(sent, clock())
		}
	}()
	return true
}

// record is a record about this connection.
func (c *connection) record(t audit.Type) audit.Record {
	rec := audit.Record{Type: t, Conn: c.id, Entrance: entranceSSH, Source: c.source}
	if p := c.principal(); p != nil {
		rec.User, rec.Login, rec.Key, rec.Cert, rec.Client = p.User, p.Login, p.Key, p.certificate(), p.Client
	}
	return rec
}

// append writes a record that nothing waits for; that it failed is said.
func (c *connection) append(rec audit.Record) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.server.limits.DialTimeout)
	defer cancel()
	err := c.server.forwarder.recorder.Append(ctx, rec)
	c.appended(rec.Type, err)
	return err
}

// appended says if a record could not be written.
func (c *connection) appended(t audit.Type, err error) {
	if err != nil {
		c.line().WithError(err).Errorf("%s is not recorded", t)
		c.server.forwarder.recordFailed()
	}
}

// line is the start of an operational line about this connection.
func (c *connection) line() *logrus.Entry { return c.server.log.WithFields(c.fields()) }

func (c *connection) fields() logrus.Fields {
	fields := logrus.Fields{fieldConn: c.id, fieldSource: c.source}
	if p := c.principal(); p != nil {
		fields[fieldUser] = p.User
	}
	return fields
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
