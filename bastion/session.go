package bastion

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"golang.org/x/crypto/ssh"
)

// session answers a session channel (RFC 4254 section 6). There is no shell
// and no pty: what a user meets is Sekisho's own screen. A pty request is
// taken as a fact about his terminal, in which lines then end in CR LF.
func (c *connection) session(ch ssh.NewChannel, answered func()) {
	if c.noSessions.Load() {
		c.denyRequest("session", "after no-more-sessions@openssh.com")
		ch.Reject(ssh.Prohibited, "sekisho: you asked for no more sessions")
		return
	}
	if c.server.policies.get().NoSessions(c.principal().identity()) {
		c.denyRequest("session", "the key has a command of its own, and none is run here")
		ch.Reject(ssh.Prohibited, "sekisho: your key is for forwarding only")
		return
	}
	defer c.sessions.Add(-1)
	if n := c.sessions.Add(1); n > maxSessions {
		c.denyRequest("session", fmt.Sprintf("more than %d at once", maxSessions))
		ch.Reject(ssh.ResourceShortage, fmt.Sprintf("sekisho: more than %d sessions on one connection", maxSessions))
		return
	}
	select {
	case <-c.told: // first, so that what the client then asks for comes before its command
	case <-c.ctx.Done():
	}
	channel, requests, err := ch.Accept()
	if err != nil {
		discardUnread(ch)
		return
	}
	answered()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		defer c.recovered()
		c.answerSession(channel, requests)
	}()
	c.awaitClose(gone)
}

// answerSession answers requests until the client closes the channel. What it
// shows is written beside: a client that takes no byte of it must not keep its
// requests from being read, since that would stall the whole connection.
func (c *connection) answerSession(channel ssh.Channel, requests <-chan *ssh.Request) {
	ctx, gone := context.WithCancel(c.ctx)
	defer gone()
	terminal := false
	shown := false
	show := func(a answer) {
		shown = true
		out, err := lineEnds(terminal, channel), lineEnds(terminal, channel.Stderr())
		go func() {
			defer c.recovered()
			defer channel.Close()
			io.WriteString(out, a.out)
			io.WriteString(err, a.err)
			status := a.status
			if a.run != nil {
				if terminal {
					go c.interruptible(channel, gone)
				}
				status = uint32(a.run(ctx, out, err))
			}
			c.lingerForProof()
			channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
			channel.CloseWrite()
		}()
	}
	for req := range requests {
		switch {
		case shown: // one session, one answer
			req.Reply(false, nil)
		case req.Type == "pty-req":
			terminal = true
			req.Reply(true, nil)
		case req.Type == "window-change":
			req.Reply(true, nil)
		case req.Type == "env", req.Type == "signal": // clients send these by habit
			req.Reply(false, nil)
		case req.Type == "shell":
			req.Reply(true, nil)
			show(answer{out: c.welcome()})
		case req.Type == "exec":
			var cmd struct{ Command string }
			if err := ssh.Unmarshal(req.Payload, &cmd); err != nil {
				req.Reply(false, nil)
				continue
			}
			req.Reply(true, nil)
			answer := c.answerCommand(cmd.Command)
			if answer.refused {
				c.denyRequest("exec "+cmd.Command, "")
			}
			show(answer)
		default:
			c.denyRequest(sessionRequest(req), "")
			req.Reply(false, nil)
		}
	}
}

// interruptible ends a command when somebody types ^C. His terminal is in raw
// mode and sends it as a byte, and there is no pty here that would make a
// signal of it.
func (c *connection) interruptible(typed io.Reader, interrupt func()) {
	defer c.recovered()
	b := make([]byte, 256)
	for {
		n, err := typed.Read(b)
		if bytes.IndexByte(b[:n], 0x03) >= 0 {
			interrupt()
			return
		}
		if err != nil {
			return
		}
	}
}

// lineEnds is w for text that ends its lines as a terminal wants it. The
// client's is in raw mode, and there is no pty here that would see to it.
func lineEnds(terminal bool, w io.Writer) io.Writer {
	if !terminal {
		return w
	}
	return crlf{w}
}

type crlf struct{ io.Writer }

func (w crlf) Write(b []byte) (int, error) {
	if _, err := w.Writer.Write(bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// sessionRequest names a refused request of a session for the record.
func sessionRequest(req *ssh.Request) string {
	if req.Type == "subsystem" {
		var sub struct{ Name string }
		if ssh.Unmarshal(req.Payload, &sub) == nil {
			return "subsystem " + sub.Name
		}
	}
	return req.Type
}
