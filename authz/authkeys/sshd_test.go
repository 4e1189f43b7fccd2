package authkeys

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// What the real sshd lets a client at 127.0.0.1 do with a key is what we read
// of its options.
func TestAsSSHDDecides(t *testing.T) {
	s := newSSHD(t)
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	port := target.Addr().(*net.TCPAddr).Port
	for _, options := range []string{
		``,
		`from="127.0.0.1"`, `from="127.0.0.2"`, `from="127.0.0.0/8"`, `from="127.*"`, `from="128.*"`, `from="127.?.0.?"`, `from="127.?"`, `from="*"`, `from="*:*"`,
		`from="127.0.0.0/8,!127.0.0.1"`, `from="!127.0.0.1,127.0.0.0/8"`, `from="!127.0.0.2,127.0.0.0/8"`, `from="*,!127.*"`, `from="!127.0.0.2"`, `from="::/0"`, `from="0.0.0.0/0"`,
		`from="127.0.0.1/8"`, `from="127.0.0.1,"`, `from=""`, `from="127.0.0.1",from="127.0.0.1"`, `from="10.0.0.1, 127.0.0.1"`, `from=127.0.0.1`,
		`expiry-time="20200101Z"`, `expiry-time="99990101Z"`, `expiry-time="99990101",expiry-time="20200101"`, `expiry-time="202001011200"`, `expiry-time="99990101120000Z"`, `expiry-time="2020-01-01"`,
		fmt.Sprintf(`permitopen="127.0.0.1:%d"`, port), `permitopen="127.0.0.1:*"`, `permitopen="127.0.0.1:1"`, `permitopen="127.0.0.2:*"`, `permitopen="*:*"`, fmt.Sprintf(`permitopen="*:%d"`, port),
		fmt.Sprintf(`permitopen="a:1",permitopen="[127.0.0.1]:%d"`, port), `permitopen="127.0.0.1"`, `permitopen="127.0.0.1:0"`, `permitopen="::1:22"`,
		`restrict`, `restrict,port-forwarding`, `port-forwarding,restrict`, `no-port-forwarding`, `no-port-forwarding,port-forwarding`, `restrict,permitopen="127.0.0.1:*"`, `restrict,pty`,
		`RESTRICT,Port-Forwarding`, `,,restrict,`, `no-restrict`, `restrict=""`, `foo`, `cert-authority`, `principals="a"`, `command="a\"b, c"`, `command="a",command="a"`, `verify-required,no-verify-required`,
		`no-pty,no-X11-forwarding,no-agent-forwarding,no-user-rc,permitlisten="8080",tunnel="0",environment="A=b"`, `restrict, pty`, `command="\"`, `command="x`,
	} {
		line := options + " " + keyLine(s.user.PublicKey())
		login, forward := s.try(t, line, port)
		entries, ps := parse(line)
		want := len(entries) == 1 && !entries[0].Options.CertAuthority
		open := want
		if want {
			o := entries[0].Options
			want = o.From.Match(netip.MustParseAddr("127.0.0.1")) && (o.Expiry.IsZero() || time.Now().Before(o.Expiry))
			open = want && !o.NoForwarding && o.PermitOpen == nil
			for _, p := range o.PermitOpen {
				open = open || want && !o.NoForwarding && (p.Host == "*" || p.Host == "127.0.0.1") && (p.Port == 0 || int(p.Port) == port)
			}
		}
		if login != want || forward != open {
			t.Errorf("%s: sshd says login %v, forward %v; we say %v, %v %q", options, login, forward, want, open, ps)
		}
	}
}

// Where sshd passes over what it cannot make sense of, or carries on with a
// guess, we refuse the key.
func TestStricterThanSSHD(t *testing.T) {
	s := newSSHD(t)
	for _, options := range []string{
		`from="127.0.0.1, 127.0.0.2"`, `from="127.0.0.1,laptop.example"`, `from="127.0.0.1,!*.example"`, `from="127.1"`, `from="127.0.0.0/08"`,
		`expiry-time="99990231Z"`, `permitopen="*.corp:22"`, `permitopen="rds/22"`, `permitopen="rds:022"`, `permitopen=":22"`,
	} {
		line := options + " " + keyLine(s.user.PublicKey())
		login, _ := s.try(t, line, 1)
		if entries, _ := parse(line); !login || entries != nil {
			t.Errorf("%s: sshd says login %v; we give %+v", options, login, entries)
		}
	}
}

// sshd is the real server, started once for each connection.
type sshd struct {
	path, name, host, keys string
	user                   ssh.Signer
	listener               *net.TCPListener
}

func newSSHD(t *testing.T) *sshd {
	t.Helper()
	s := &sshd{user: testSigner(1)}
	var err error
	if s.path, err = exec.LookPath("/usr/sbin/sshd"); err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 { // of the privilege separation
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	s.name, s.host, s.keys = me.Username, filepath.Join(dir, "host"), filepath.Join(dir, "keys")
	block, err := ssh.MarshalPrivateKey(privateKey(2), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.host, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	if s.listener, err = net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.listener.Close() })
	return s
}

// try connects to an sshd of its own with a file of one line, and reports
// whether the key is taken, and whether it may forward to a port here.
func (s *sshd) try(t *testing.T, line string, port int) (login, forward bool) {
	t.Helper()
	if err := os.WriteFile(s.keys, []byte(line+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := s.listener.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	file, err := server.File()
	server.Close()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(s.path, "-i", "-e", "-f", "/dev/null", "-h", s.host, "-o", "AuthorizedKeysFile "+s.keys,
		"-o", "StrictModes no", "-o", "UsePAM no", "-o", "UseDNS no", "-o", "PermitRootLogin prohibit-password", "-o", "PasswordAuthentication no", "-o", "KbdInteractiveAuthentication no")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = file, file, &log
	err = cmd.Start()
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer client.Close()
	conn, chans, reqs, err := ssh.NewClientConn(client, "sshd", &ssh.ClientConfig{
		User: s.name, Auth: []ssh.AuthMethod{ssh.PublicKeys(s.user)}, HostKeyCallback: ssh.FixedHostKey(testKey(2)),
	})
	if err != nil {
		if !strings.Contains(err.Error(), "unable to authenticate") {
			client.Close()
			cmd.Wait()
			t.Fatalf("%v\n%s", err, log.String())
		}
		return false, false
	}
	c := ssh.NewClient(conn, chans, reqs)
	defer c.Close()
	ch, err := c.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return true, false
	}
	ch.Close()
	return true, true
}
