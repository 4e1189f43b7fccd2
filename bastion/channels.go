package bastion

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	gl "github.com/gliderlabs/ssh"
	"golang.org/x/crypto/ssh"

	"sekisho/audit"
)

// directTCPIP answers a channel of type direct-tcpip (RFC 4254 section 7.2):
// what ssh -J, -W, -L and -D open.
func (c *connection) directTCPIP(ch ssh.NewChannel, answered func()) {
	ask, err := parseDirectTCPIP(ch.ExtraData())
	if err != nil {
		c.denyRequest("direct-tcpip", err.Error())
		ch.Reject(ssh.ConnectionFailed, "sekisho: malformed request")
		return
	}
	ask.At = time.Now()
	forwarder := c.server.forwarder
	limit := c.takeForward()
	if limit == nil {
		defer c.forwards.Add(-1)
		limit = c.takeDial()
	} else {
		c.countRefusal()
	}
	if limit != nil {
		ch.Reject(ssh.ResourceShortage, forwarder.refuse(c.ctx, *c.principal(), ask, limit).Message)
		return
	}
	dialled := sync.OnceFunc(func() { <-c.dials })
	defer dialled()

	// The forwarder may leave the accept behind when its client does not read.
	var stream *channelStream
	var asked atomic.Bool
	done := make(chan struct{})
	refusal := forwarder.Forward(c.ctx, *c.principal(), ask, func() (Stream, error) {
		asked.Store(true)
		defer close(done)
		defer c.recovered()
		dialled()
		channel, requests, err := ch.Accept()
		if err != nil {
			go discardUnread(ch)
			return nil, err
		}
		answered()
		stream = newChannelStream(channel, requests, c.refuseRequest, c.traffic)
		return stream, nil
	})
	if !asked.Load() {
		ch.Reject(rejection(refusal.Kind), refusal.Message)
		if refusal.own {
			c.countRefusal()
		}
		return
	}
	if <-done; stream != nil {
		if refusal != nil {
			stream.Close()
		}
		c.awaitClose(stream.Gone())
	}
}

// takeForward counts a forward of this connection and returns nil, or the
// limit that is reached.
func (c *connection) takeForward() *endCause {
	most := c.server.limits.MaxForwardsPerConnection
	if n := c.forwards.Add(1); int(n) > most {
		c.forwards.Add(-1)
		return limitCause("max_forwards_per_connection", most)
	}
	return nil
}

// takeDial takes one of the dials that a connection may have under way, and
// waits for it as long as the client waits for an answer: clients open
// hundreds of channels at once, and most dials are short.
func (c *connection) takeDial() *endCause {
	select {
	case c.dials <- struct{}{}: // even if the client has just left: what it tried is judged
		return nil
	default:
	}
	patience := time.NewTimer(c.server.limits.DialTimeout)
	defer patience.Stop()
	select {
	case c.dials <- struct{}{}:
		return nil
	case <-c.ctx.Done():
		return causeOf(c.ctx, nil)
	case <-patience.C:
		return limitCause("max_pending_dials_per_connection", cap(c.dials))
	}
}

// closeMost is how long a client may take to close a channel that is closed
// here, where limits.half_closed is off.
const closeMost = 10 * time.Minute

// awaitClose waits until the client too has closed a channel that is closed
// here. Until then the channel counts as a forward or session of the
// connection, since it holds memory. A client whose own reader stands still
// may take its time, but not for ever.
func (c *connection) awaitClose(gone <-chan struct{}) {
	if closed(gone) { // as it mostly is
		return
	}
	limit := c.server.limits.HalfClosed
	if limit <= 0 {
		limit = closeMost
	}
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case <-gone:
	case <-late.C:
		c.end(&endCause{reasonNotClosed, fmt.Sprintf("the client did not close a channel within half_closed, %v", limit)})
		<-gone
	}
}

func rejection(kind RefusalKind) ssh.RejectionReason {
	switch kind {
	case ByNetwork:
		return ssh.ConnectionFailed
	case ByResource:
		return ssh.ResourceShortage
	}
	return ssh.Prohibited
}

// parseDirectTCPIP reads the payload of a direct-tcpip open. Everything in it
// is a stranger's word; what the host and port mean is for the policy to say.
func parseDirectTCPIP(payload []byte) (Ask, error) {
	var msg struct {
		Host           string
		Port           uint32
		OriginatorHost string
		OriginatorPort uint32
	}
	if err := ssh.Unmarshal(payload, &msg); err != nil {
		return Ask{}, fmt.Errorf("reading a direct-tcpip request: %w", err)
	}
	return Ask{
		Target:     audit.Endpoint{Host: msg.Host, Port: msg.Port},
		Originator: audit.Endpoint{Host: msg.OriginatorHost, Port: msg.OriginatorPort},
	}, nil
}

// channelStream is the Stream of an SSH channel. Its Read, Write and Close are
// in latency.go.
type channelStream struct {
	ssh.Channel
	lane   *lane
	gone   chan struct{}
	unread *unreadBuffer // nil: not known
}

// newChannelStream has the channel's requests refused: an unread one would
// stall the whole connection. Their end is the sign that the client has closed
// the channel.
func newChannelStream(ch ssh.Channel, requests <-chan *ssh.Request, refuse func(*ssh.Request), traffic *traffic) *channelStream {
	s := &channelStream{Channel: ch, lane: &lane{traffic: traffic}, gone: make(chan struct{}), unread: unreadData(ch)}
	go func() {
		defer close(s.gone)
		for req := range requests {
			refuse(req)
		}
	}()
	return s
}

// refuseRequest answers a request of a forward's channel, PuTTY's winadj among
// them, with a failure. A client that does not read can hold the answer for as
// long as it likes, so it is given beside: in the channel's queue requests of
// 256 KiB would wait for it.
func (c *connection) refuseRequest(req *ssh.Request) {
	if !req.WantReply || !c.begin() {
		return
	}
	req.Payload, req.Type = nil, "" // each may be as long as a packet
	c.owesAnswer()
	go func() {
		defer c.handlers.Done()
		defer c.recovered()
		defer c.unanswered.Add(-1)
		req.Reply(false, nil)
	}()
}

func (s *channelStream) Gone() <-chan struct{} { return s.gone }

// Ready reports whether bytes are there to read.
func (s *channelStream) Ready() bool { return s.unread != nil && s.unread.ready() }

// unknownChannel refuses every other type of channel: x11, agent,
// direct-streamlocal@openssh.com, tun@openssh.com …
func (c *connection) unknownChannel(ch ssh.NewChannel, answered func()) {
	c.denyRequest("channel "+ch.ChannelType(), "")
	ch.Reject(ssh.UnknownChannelType, fmt.Sprintf("sekisho: %s is not served here", printable(ch.ChannelType())))
}

// globalRequest answers a global request (RFC 4254 section 4). They come one
// after another, so nothing here may wait.
func (c *connection) globalRequest(_ gl.Context, _ *gl.Server, req *ssh.Request) (bool, []byte) {
	defer c.recovered()
	c.announceHostKeys()
	switch {
	case req.Type == proveRequest:
		c.answerProof(req)
	case strings.HasPrefix(req.Type, "keepalive@"):
		// A failure is what a sign of life gets; it is one too.
	case req.Type == "no-more-sessions@openssh.com":
		c.noSessions.Store(true)
		return true, nil
	default:
		c.denyRequest(req.Type, "")
	}
	return false, nil
}

// denyRequest records that a request was refused. It does not wait for the
// record, and writes at most maxDenials of them for one connection.
func (c *connection) denyRequest(what, detail string) {
	if c.denials.Add(1) > maxDenials || !c.begin() {
		return
	}
	c.countRefusal()
	rec := c.record(audit.RequestDeny)
	rec.Request, rec.Detail, rec.Reason = what, detail, "not_served"
	go func() {
		defer c.handlers.Done()
		defer c.recovered()
		c.append(rec)
		c.line().WithField("request", printable(what)).Warn("request refused")
	}()
}
