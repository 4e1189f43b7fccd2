package bastion_test

import (
	"bytes"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// promptly fails the test unless f returns: a refusal must not hang.
func promptly(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(bastiontest.Wait):
		t.Fatalf("%s: no answer", what)
	}
}

func TestEveryOtherChannelIsRefusedAndRecorded(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	client := b.Dial()
	for i, kind := range []string{"x11", "auth-agent@openssh.com", "direct-streamlocal@openssh.com", "tun@openssh.com", "forwarded-tcpip", "no\x1b[31m\nsuch"} {
		promptly(t, kind, func() {
			_, _, err := client.OpenChannel(kind, nil)
			if refused := openError(t, err); refused.Reason != ssh.UnknownChannelType || strings.ContainsAny(refused.Message, "\x1b\n") {
				t.Errorf("%q: %v", kind, refused)
			}
		})
		if rec := b.Book.Await(t, audit.RequestDeny, i+1); rec.Request != "channel "+kind || rec.User != "alice" {
			t.Errorf("%s", rec.AppendJSON(nil))
		}
	}
	promptly(t, "a malformed direct-tcpip", func() {
		_, _, err := client.OpenChannel("direct-tcpip", []byte{0, 0, 0, 9, 'x'})
		openError(t, err)
	})
	if rec := b.Book.Await(t, audit.RequestDeny, 7); rec.Request != "direct-tcpip" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestGlobalRequestsAreAnsweredAtOnce(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	client := b.Dial()
	for _, test := range []struct {
		name     string
		ok       bool
		recorded bool
	}{
		{"keepalive@openssh.com", false, false},
		{"keepalive@jcraft.com", false, false},
		{"keepalive@terraform.io", false, false},
		{"tcpip-forward", false, true},
		{"cancel-tcpip-forward", false, true},
		{"streamlocal-forward@openssh.com", false, true},
		{"hostkeys-prove-00@openssh.com", false, true},
		{"no such request", false, true},
		{"no-more-sessions@openssh.com", true, false},
	} {
		promptly(t, test.name, func() {
			before := len(b.Book.Records(audit.RequestDeny))
			ok, _, err := client.SendRequest(test.name, true, nil)
			if err != nil || ok != test.ok {
				t.Errorf("%s: %v, %v", test.name, ok, err)
			}
			if test.recorded {
				if rec := b.Book.Await(t, audit.RequestDeny, before+1); rec.Request != test.name {
					t.Errorf("%s", rec.AppendJSON(nil))
				}
			}
		})
	}
	_, err := client.NewSession()
	if refused := openError(t, err); refused.Reason != ssh.Prohibited {
		t.Errorf("a session after no-more-sessions: %v", refused)
	}
}

func TestAFloodOfRefusedRequestsIsCountedAndNotAllRecorded(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	client := b.Dial()
	for range 200 {
		client.SendRequest("flood", true, nil)
	}
	client.Close()
	rec := b.Book.Await(t, audit.ConnClose, 1)
	if n := len(b.Book.Records(audit.RequestDeny)); n != 32 || !strings.Contains(rec.Detail, "200 requests were refused") {
		t.Errorf("%d recorded; %s", n, rec.AppendJSON(nil))
	}
}

func TestSessionShowsTheScreenAndNothingElse(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	client := b.DialAs(b.ClientConfig("ec2-user", b.Alice))
	for _, pty := range []bool{false, true} {
		session, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if pty {
			if err := session.RequestPty("xterm", 24, 80, nil); err != nil {
				t.Errorf("pty-req: %v", err)
			}
			if err := session.WindowChange(25, 81); err != nil {
				t.Errorf("window-change: %v", err)
			}
		}
		var out bytes.Buffer
		session.Stdout = &out
		promptly(t, "shell", func() {
			if err := session.Shell(); err != nil {
				t.Errorf("shell: %v", err)
			}
			if err := session.Wait(); err != nil {
				t.Errorf("exit: %v", err)
			}
		})
		for _, want := range []string{"alice", "ec2-user", ssh.FingerprintSHA256(b.Alice.PublicKey()), "127.0.0.1", "target", "1-65535", "ssh -J bastion target"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q is not on the screen:\n%s", want, out.String())
			}
		}
		if bare := strings.Count(out.String(), "\n") - strings.Count(out.String(), "\r\n"); pty && bare != 0 {
			t.Errorf("%d lines without CR on a pty", bare)
		}
	}
	if recs := b.Book.Records(audit.RequestDeny); len(recs) != 0 {
		t.Errorf("recorded as refused: %s", recs[0].AppendJSON(nil))
	}
}

func TestExecRunsNothingAndExitsOne(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	session, err := b.Dial().NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	session.Stdout, session.Stderr = &out, &errs
	promptly(t, "exec", func() {
		err = session.Run("python3 -c 'evil\x1b'")
	})
	exit, ok := err.(*ssh.ExitError)
	if !ok || exit.ExitStatus() != 1 || out.Len() != 0 || !strings.Contains(errs.String(), "no commands are run here") || strings.Contains(errs.String(), "\x1b") {
		t.Errorf("%v, stdout %q, stderr %q", err, out.String(), errs.String())
	}
	if rec := b.Book.Await(t, audit.RequestDeny, 1); !strings.HasPrefix(rec.Request, "exec python3") {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestSessionRequestsThatAreRefused(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	client := b.Dial()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	for i, test := range []struct {
		kind    string
		payload []byte
		want    string
	}{
		{"subsystem", ssh.Marshal(struct{ Name string }{"sftp"}), "subsystem sftp"},
		{"auth-agent-req@openssh.com", nil, "auth-agent-req@openssh.com"},
		{"x11-req", []byte("anything"), "x11-req"},
		{"break", nil, "break"},
	} {
		promptly(t, test.kind, func() {
			if ok, err := session.SendRequest(test.kind, true, test.payload); ok || err != nil {
				t.Errorf("%s: %v, %v", test.kind, ok, err)
			}
		})
		if rec := b.Book.Await(t, audit.RequestDeny, i+1); rec.Request != test.want {
			t.Errorf("%s", rec.AppendJSON(nil))
		}
	}
	// The session still serves: a refused agent must not cost the screen.
	if err := session.Shell(); err != nil {
		t.Errorf("shell: %v", err)
	}
}

func TestRequestsOnAForwardAreAnswered(t *testing.T) {
	// PuTTY's winadj wants an answer, and an unread request would stall the
	// whole connection.
	b := bastiontest.Start(t, bastiontest.Options{})
	port := bastiontest.Target(t, bastiontest.Echo)
	channel, requests, err := openDirect(b.Dial(), "target", uint32(port))
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(requests)
	promptly(t, "winadj", func() {
		for range 100 {
			if ok, err := channel.SendRequest("winadj@putty.projects.tartarus.org", true, nil); ok || err != nil {
				t.Errorf("%v, %v", ok, err)
				return
			}
		}
	})
	io.WriteString(channel, "still")
	if _, err := io.ReadFull(channel, make([]byte, 5)); err != nil {
		t.Error(err)
	}
}

func TestAChannelOpenFloodThatIsNeverReadEndsTheConnection(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Limits: func(l *bastion.Limits) { l.LoginGrace = time.Minute }})
	raw := bastiontest.NewRaw(t, b)
	if !raw.Prove("alice", b.Alice) {
		t.Fatal("login")
	}
	victim := b.Dial() // a bystander
	port := bastiontest.Target(t, bastiontest.Echo)
	sent := 0
	for ; sent < 2_000_000; sent++ {
		if raw.Open(strings.Repeat("y", 200), uint32(sent), 1<<20, nil) != nil {
			break
		}
	}
	if rec := b.Book.Await(t, audit.ConnClose, 1); rec.Reason != "flood" {
		t.Errorf("after %d opens: %s", sent, rec.AppendJSON(nil))
	}
	mustOpen(t, victim, target(port))
}

// run gives a command of Sekisho's own.
func run(t *testing.T, client *ssh.Client, command string) (out, errs string, status int) {
	t.Helper()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var o, e bytes.Buffer
	session.Stdout, session.Stderr = &o, &e
	promptly(t, command, func() { err = session.Run(command) })
	if exit, ok := err.(*ssh.ExitError); ok {
		status = exit.ExitStatus()
	} else if err != nil {
		t.Fatal(err)
	}
	return o.String(), e.String(), status
}

func TestAUserIsToldHisOwnGrantsAndNothingElse(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{
		Networks: []string{"127.0.0.1/32", "10.0.0.0/8"},
		Config: func(c *bastion.Config) {
			c.OwnAddrs = func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil }
		},
		Hosts: bastiontest.Hosts{"rds": {"10.0.11.147"}, "vault": {"10.0.12.9"}, "lost": {"192.0.2.77"}},
		Policy: `version: 1
users:
  - {name: alice, groups: [dba], keys: ["{alice}"]}
  - {name: bob, keys: ["{bob}"]}
targets:
  - {name: db, hosts: [rds, lost], ports: ["3306"]}
  - {name: secret, hosts: [vault], ports: ["8200"]}
grants:
  - {name: dba-db, groups: [dba], to: [db]}
  - {name: dba-late, groups: [dba], to: [db], require: [touch]}
  - {name: bob-vault, users: [bob], to: [secret]}
`})
	client := b.Dial()
	for _, c := range []struct {
		command string
		status  int
		wants   []string
	}{
		{"targets", 0, []string{"You may reach:", "db", "rds, lost", "port 3306"}},
		{"explain rds:3306", 0, []string{"rds:3306: you may open it, by the grant dba-db.", "+ dba-db", `- dba-late: grant "dba-late" needs a key whose signature shows that it was touched`}},
		{"explain rds:5432", 1, []string{"rds:5432: you may not open it: no grant.", `- dba-db: target "db" has rds, but not port 5432`}},
		{"explain vault:8200", 1, []string{"vault:8200: you may not open it: no grant."}},
		{"explain lost:3306", 0, []string{"Where the name leads is judged when it is opened."}},
		{"explain 169.254.169.254:80", 1, []string{"you may not open it: no grant"}}, // not what it is of this machine
		{"explain 10.0.0.1:22", 1, []string{"you may not open it: no grant"}},
		{"explain \x1bc:80", 1, []string{"you may not open it: bad host"}},
	} {
		out, errs, status := run(t, client, c.command)
		if status != c.status || errs != "" {
			t.Errorf("%q: status %d, stderr %q", c.command, status, errs)
		}
		for _, want := range c.wants {
			if !strings.Contains(out, want) {
				t.Errorf("%q does not say %q:\n%s", c.command, want, out)
			}
		}
		for _, not := range []string{"bob", "secret", "10.0.1", "192.0.2", "own address", "\x1b"} {
			if strings.Contains(out, not) {
				t.Errorf("%q tells %q:\n%s", c.command, not, out)
			}
		}
	}
	for command, status := range map[string]int{"explain": 2, "explain rds": 2, "explain rds:x": 2, "explain a:1 b:2": 2, "targets all": 1} {
		if out, errs, got := run(t, client, command); got != status || out != "" || !strings.HasPrefix(errs, "sekisho: error: ") {
			t.Errorf("%q: status %d, stdout %q, stderr %q", command, got, out, errs)
		}
	}
	// What he is told when he is refused names the command that says more.
	_, err := client.Dial("tcp", "rds:5432")
	if refused := openError(t, err); !strings.Contains(refused.Message, "sekisho: alice may not open rds:5432 (no grant); try: ssh bastion explain rds:5432 [f") {
		t.Errorf("refused with %v", refused)
	}
}
