//go:build linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshd is the real OpenSSH server as the private host "appserver", behind a
// tap.
type sshd struct {
	*tap
	port    int
	user    string
	userKey key
	hostKey ssh.PublicKey
}

// realSSHD runs one sshd for all tests.
var realSSHD = sync.OnceValues(func() (s sshd, err error) {
	dir := filepath.Join(sharedDir, "sshd")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return s, err
	}
	host, err := makeKey(dir, "host")
	if err != nil {
		return s, err
	}
	if s.userKey, err = makeKey(dir, "user"); err != nil {
		return s, err
	}
	s.hostKey = host.signer.PublicKey()
	me, err := user.Current()
	if err != nil {
		return s, err
	}
	s.user = me.Username
	if os.Getuid() == 0 { // of the privilege separation
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return s, err
		}
	}
	l, err := net.Listen("tcp", appserverIP+":0")
	if err != nil {
		return s, err
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	config := filepath.Join(dir, "sshd_config")
	err = os.WriteFile(config, fmt.Appendf(nil, `ListenAddress %s:%d
HostKey %s
AuthorizedKeysFile %s
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PrintMotd no
PrintLastLog no
MaxStartups 200
Subsystem sftp internal-sftp
`, appserverIP, s.port, host.file, s.userKey.file+".pub"), 0o644)
	if err != nil {
		return s, err
	}
	sshd, err := exec.LookPath("sshd") // sshd wants to be called by its whole path
	if err != nil {
		return s, err
	}
	p, err := launch(exec.Command(sshd, "-D", "-e", "-f", config))
	if err != nil {
		return s, err
	}
	shared.mu.Lock()
	shared.procs = append(shared.procs, p)
	shared.mu.Unlock()
	return s, awaitPort(p, fmt.Sprintf("%s:%d", appserverIP, s.port))
})

// awaitPort waits until a process that was launched takes connections.
func awaitPort(p *proc, addr string) error {
	for deadline := time.Now().Add(hang); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			return c.Close()
		}
		if p.ended() || time.Now().After(deadline) {
			return fmt.Errorf("%v does not listen on %s: %s%s", p.cmd.Args, addr, p.out, p.err)
		}
	}
}

// appserver is the private host appserver, with a tap of this test's own.
func appserver(t *testing.T) *sshd {
	t.Helper()
	s, err := realSSHD()
	if err != nil {
		t.Fatal(err)
	}
	s.tap = newTap(t, appserverIP, fmt.Sprintf("%s:%d", appserverIP, s.port))
	s.port = s.tap.port
	return &s
}

// keyedSSHD is an OpenSSH server of one test, whose keys are in one file.
type keyedSSHD struct {
	addr, user string
	hostKey    ssh.PublicKey
}

func sshdWithKeys(t *testing.T, authorizedKeys string) *keyedSSHD {
	t.Helper()
	shared, err := realSSHD() // it has made what sshd needs
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	host, err := makeKey(dir, "host")
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t, "127.0.0.1")
	config := filepath.Join(dir, "sshd_config")
	writeFile(t, config, fmt.Sprintf(`ListenAddress 127.0.0.1:%d
HostKey %s
AuthorizedKeysFile %s
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 200
`, port, host.file, authorizedKeys))
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		t.Fatal(err)
	}
	s := &keyedSSHD{fmt.Sprintf("127.0.0.1:%d", port), shared.user, host.signer.PublicKey()}
	if err := awaitPort(start(t, exec.Command(sshd, "-D", "-e", "-f", config)), s.addr); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *keyedSSHD) config(who key) *ssh.ClientConfig {
	return &ssh.ClientConfig{
		User: s.user, Auth: []ssh.AuthMethod{ssh.PublicKeys(who.signer)}, HostKeyCallback: ssh.FixedHostKey(s.hostKey), Timeout: hang,
	}
}
