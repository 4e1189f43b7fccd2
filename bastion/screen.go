package bastion

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"sekisho/authz"
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
	show := func(w io.Writer, text string, status uint32) {
		shown = true
		text = strings.ReplaceAll(text, "\n", newline)
		go func() {
			defer channel.Close()
			io.WriteString(w, text)
			channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
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
			show(channel, c.welcome(), 0)
		case req.Type == "exec":
			var cmd struct{ Command string }
			if err := ssh.Unmarshal(req.Payload, &cmd); err != nil {
				req.Reply(false, nil)
				continue
			}
			req.Reply(true, nil)
			c.denyRequest("exec "+cmd.Command, "")
			show(channel.Stderr(), fmt.Sprintf("sekisho: error: %q: no commands are run here\n", printable(cmd.Command))+
				"sekisho: hint: this bastion forwards TCP (ssh -J, -W, -L, -D); \"ssh bastion\" alone tells what you may reach\n", 1)
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

// welcome is the screen: who you are, what you may reach, how.
func (c *connection) welcome() string {
	var b strings.Builder
	p := c.principal()
	fmt.Fprintf(&b, "This is Sekisho on %s. It forwards TCP and gives no shell.\n\n", c.server.name)
	fmt.Fprintf(&b, "You are %s", p.User)
	if p.Login != p.User {
		fmt.Fprintf(&b, " (login %s)", printable(p.Login))
	}
	fmt.Fprintf(&b, ", by key %s, from %s.\n", p.Key, p.Source.Addr())

	grants := c.server.policies.get().Reach(p.User)
	if len(grants) == 0 {
		b.WriteString("You may reach nothing: no grant names you or a group of yours.\n")
		return b.String()
	}
	b.WriteString("\nYou may reach:\n")
	for _, g := range grants {
		for _, t := range g.Targets {
			fmt.Fprintf(&b, "  %-12s %s   port %s\n", t.Name, strings.Join(t.Hosts, ", "), strings.Join(t.Ports, ", "))
		}
	}
	b.WriteString("\nHow, with this bastion as \"bastion\" in your ~/.ssh/config:\n")
	shell, tunnel := examples(grants)
	if shell != "" {
		fmt.Fprintf(&b, "  ssh -J bastion %s\n", shell)
	}
	if tunnel != "" {
		fmt.Fprintf(&b, "  ssh -N -L %s bastion\n", tunnel)
	}
	return b.String()
}

// examples makes of grants a host to ssh to, and a -L tunnel to something
// else, that can be typed as they are wherever the grants name hosts. Either
// is empty if nothing of its kind is granted.
func examples(grants []authz.GrantView) (shell, tunnel string) {
	for _, g := range grants {
		for _, t := range g.Targets {
			host := "HOST"
			if i := slices.IndexFunc(t.Hosts, func(h string) bool { return !strings.ContainsAny(h, "*/") }); i >= 0 {
				host = t.Hosts[i]
			}
			for _, ports := range t.Ports {
				first, last, ranged := strings.Cut(ports, "-")
				low, _ := strconv.Atoi(first)
				high := low
				if ranged {
					high, _ = strconv.Atoi(last)
				}
				switch {
				case low <= 22 && 22 <= high:
					if shell == "" {
						shell = host
					}
				case tunnel == "":
					local := 10000 + low%10000
					if local == low { // where the bastion is this very machine, it is taken
						local += 10000
					}
					tunnel = fmt.Sprintf("%d:%s:%d", local, bracketed(host), low)
				}
			}
		}
	}
	return shell, tunnel
}

// bracketed is host as -L wants it.
func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}
