package bastion

import (
	"fmt"
	"io"
	"strings"

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
	channel, requests, err := ch.Accept()
	if err != nil {
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
	newline := "\n"
	shown := false
	show := func(a answer) {
		shown = true
		out, err := strings.ReplaceAll(a.out, "\n", newline), strings.ReplaceAll(a.err, "\n", newline)
		go func() {
			defer channel.Close()
			io.WriteString(channel, out)
			io.WriteString(channel.Stderr(), err)
			channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{a.status}))
			channel.CloseWrite()
		}()
	}
	for req := range requests {
		switch {
		case shown: // one session, one answer
			req.Reply(false, nil)
		case req.Type == "pty-req":
			newline = "\r\n"
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
