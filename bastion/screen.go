package bastion

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"

	"sekisho/authz"
)

// An answer is what a command of Sekisho's own gives.
type answer struct {
	out, err string // for standard output and for standard error
	status   uint32
	refused  bool // there is no such command

	// run, if it is not nil, does the rest and returns the status.
	run func(ctx context.Context, stdout, stderr io.Writer) int
}

// answerCommand runs one of Sekisho's own commands, which are all that exec can
// reach.
func (c *connection) answerCommand(line string) answer {
	words := strings.Fields(line)
	switch {
	case len(words) == 1 && words[0] == "targets":
		return answer{out: c.targets()}
	case len(words) > 0 && words[0] == "audit":
		return c.readLog(line)
	case len(words) == 2 && words[0] == "explain":
		return c.explain(words[1])
	case len(words) > 0 && words[0] == "explain":
		return answer{err: "sekisho: error: explain takes one target\nsekisho: hint: ssh bastion explain rds:3306\n", status: 2}
	}
	return answer{
		err: fmt.Sprintf("sekisho: error: %q: no commands are run here\n", printable(line)) +
			"sekisho: hint: this bastion forwards TCP (ssh -J, -W, -L, -D); \"ssh bastion targets\" tells what you may reach, and \"ssh bastion explain HOST:PORT\" why not\n",
		status: 1, refused: true,
	}
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

	if cert := p.certificate(); p.Cert != nil {
		fmt.Fprintf(&b, "Your certificate is %q of the authority %s, serial %d.\n", printable(cert.KeyID), printable(cert.Authority), cert.Serial)
	}
	if c.server.audit != nil && c.isAuditor() {
		b.WriteString("You may read the audit log: \"ssh bastion audit --help\" tells how.\n")
	}
	grants := c.server.policies.get().ReachOf(p.identity())
	if len(grants) == 0 {
		return b.String() + c.targets()
	}
	b.WriteString("\n" + c.targets())
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

// targets is what the user's grants let him reach, if their conditions hold.
func (c *connection) targets() string {
	var b strings.Builder
	grants := c.server.policies.get().ReachOf(c.principal().identity())
	if len(grants) == 0 {
		return "You may reach nothing: no grant names you or a group of yours.\n"
	}
	b.WriteString("You may reach:\n")
	for _, g := range grants {
		for _, t := range g.Targets {
			fmt.Fprintf(&b, "  %-12s %s   port %s\n", t.Name, strings.Join(t.Hosts, ", "), strings.Join(t.Ports, ", "))
		}
	}
	return b.String()
}

// explain tells a user why he may open a target or not, as far as it is about
// his own grants: not where a name leads, nor who has locked what and why.
func (c *connection) explain(target string) answer {
	host, text, err := net.SplitHostPort(target)
	port, bad := strconv.ParseUint(text, 10, 32)
	if err != nil || bad != nil {
		return answer{err: fmt.Sprintf("sekisho: error: %q is not a host and a port\nsekisho: hint: write it as rds:3306 or [2001:db8::1]:22\n", printable(target)), status: 2}
	}
	p := c.principal()
	r := authz.Request{
		User: p.User, Key: p.Key, Cert: p.Cert, Touch: p.Touch, Source: p.Source.Addr(), Time: c.server.now(),
		Host: host, Port: uint32(port),
	}
	policy := c.server.policies.get()
	e := policy.Explain(r)
	// An address leads where it says. Of one that no grant names, not even the
	// fence is told: which addresses are this machine's, say.
	if r.Addr = e.Decision.Literal; r.Addr.IsValid() && e.Decision.Effect == authz.Allow {
		e = policy.Explain(r)
	}
	var b strings.Builder
	status := uint32(0)
	if d := e.Decision; d.Effect == authz.Allow {
		fmt.Fprintf(&b, "%s: you may open it, by the grant %s.\n", printable(target), d.Grant)
		if !r.Addr.IsValid() {
			b.WriteString("Where the name leads is judged when it is opened.\n")
		}
	} else {
		status = 1
		fmt.Fprintf(&b, "%s: you may not open it: %s.\n", printable(target), d.Reason.Words())
	}
	steps := func(heading string, steps []authz.ConditionStep) {
		for i, s := range steps {
			if i == 0 {
				b.WriteString(heading)
			}
			detail := s.Detail
			if s.Reason == authz.Lockdown || s.Reason == authz.Locked {
				detail = ""
			}
			fmt.Fprintf(&b, "  %s %s%s\n", sign(s.Holds || s.Waived), s.Text, after(detail))
		}
	}
	steps("\nYour key:\n", e.Proof)
	steps("\nYour conditions:\n", e.User)
	for i, g := range e.Grants {
		if i == 0 {
			b.WriteString("\nYour grants, in their order:\n")
		}
		fmt.Fprintf(&b, "  %s %s%s\n", sign(g.Fits && g.Holds), g.Grant, after(g.Detail))
	}
	if len(e.Grants) == 0 {
		b.WriteString("\nNo grant names you or a group of yours.\n")
	}
	return answer{out: b.String(), status: status}
}

func sign(good bool) string {
	if good {
		return "+"
	}
	return "-"
}

func after(detail string) string {
	if detail == "" {
		return ""
	}
	return ": " + detail
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
