package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// A contender is a program that is measured.
type contender struct {
	name string
	kind string // sshd, stock or ours
	path string // of the program
}

// server is a contender that runs, for one measurement.
type server struct {
	contender
	addr    string
	user    string
	hostKey ssh.PublicKey
	proc    *process
	output  string   // a file
	dirs    []string // gone when it is
}

// workshop is what all measurements share.
type workshop struct {
	dir      string // gone at the end
	servers  launcher
	load     launcher
	target   *target
	user     key // of the client
	host     key // of the servers
	sshdUser string
	prepared map[string]string // by the name of one of ours, its folder as init made it
	places   []*place
	serial   int
}

// key is a key pair in a file of OpenSSH's format and FILE.pub.
type key struct {
	signer ssh.Signer
	file   string
	public string // a line of authorized_keys
}

func makeKey(file string) (key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return key{}, err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return key{}, err
	}
	block, err := ssh.MarshalPrivateKey(private, "bench")
	if err != nil {
		return key{}, err
	}
	k := key{signer, file, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		return key{}, err
	}
	return k, os.WriteFile(file+".pub", []byte(k.public+"\n"), 0o644)
}

// sshdAccount is whom clients of sshd log in as: if it runs as root, somebody
// else, as the users of a bastion are, so that privileges are separated.
func sshdAccount() (string, error) {
	me, err := user.Current()
	if err != nil {
		return "", err
	}
	if me.Uid != "0" {
		return me.Username, nil
	}
	_, err = user.Lookup("nobody")
	return "nobody", err
}

// start runs a contender, freshly, with its log in the place. A port that was free
// may be taken before the server has it, so that it tries some.
func (w *workshop) start(ctx context.Context, c contender, p *place) (s *server, err error) {
	for range 5 {
		if s, err = w.startOnce(ctx, c, p); err == nil || ctx.Err() != nil {
			return s, err
		}
	}
	return s, err
}

func (w *workshop) startOnce(ctx context.Context, c contender, p *place) (*server, error) {
	w.serial++
	name := fmt.Sprintf("%s-%d", c.name, w.serial)
	dir, log := filepath.Join(w.dir, name), filepath.Join(p.dir, name)
	for _, d := range []string{dir, log} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	s := &server{contender: c, addr: l.Addr().String(), user: "bench", hostKey: w.host.signer.PublicKey(), output: filepath.Join(log, "output")}
	var cmd *exec.Cmd
	switch c.kind {
	case "sshd":
		s.user = w.sshdUser
		cmd, err = w.sshdCommand(c, dir, port)
	case "stock":
		cmd = exec.Command(c.path, s.addr, w.host.file, w.user.file+".pub")
	default:
		cmd, err = w.oursCommand(c, dir, log, port)
	}
	if err != nil {
		return nil, err
	}
	out, err := os.OpenFile(s.output, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, dir
	if s.proc, err = w.servers.start(cmd); err != nil {
		return nil, err
	}
	s.dirs = []string{dir, log}
	if err := s.await(ctx); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// stop ends the server and takes away what it wrote.
func (s *server) stop() {
	s.proc.stop()
	for _, dir := range s.dirs {
		os.RemoveAll(dir)
	}
}

// await waits until the server greets.
func (s *server) await(ctx context.Context) error {
	deadline := time.Now().Add(30 * time.Second)
	for ; ; time.Sleep(10 * time.Millisecond) {
		greeting := make([]byte, 4)
		if conn, err := net.DialTimeout("tcp", s.addr, time.Second); err == nil {
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			n, _ := conn.Read(greeting)
			conn.Close()
			if string(greeting[:n]) == "SSH-" {
				return nil
			}
		}
		if s.proc.ended() || time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("%s does not serve: %s", s.name, s.said())
		}
	}
}

// said is the end of what the server wrote.
func (s *server) said() string {
	text, _ := os.ReadFile(s.output)
	return string(text[max(0, len(text)-2000):])
}

// sshdCommand is Debian's sshd with nothing in its way: no limit that the load
// meets, no PAM, which would only cost it more, and its usual log.
func (w *workshop) sshdCommand(c contender, dir string, port int) (*exec.Cmd, error) {
	text := fmt.Sprintf(`ListenAddress 127.0.0.1:%d
HostKey %s
AuthorizedKeysFile %s
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
PrintMotd no
PrintLastLog no
LogLevel INFO
LoginGraceTime 120
MaxStartups 20000
MaxSessions 20000
PerSourceMaxStartups none
`, port, w.host.file, w.user.file+".pub")
	config := filepath.Join(dir, "sshd_config")
	// Newer ones penalize sources; older ones do not know the word.
	for _, more := range []string{"PerSourcePenalties no\n", ""} {
		if err := os.WriteFile(config, []byte(text+more), 0o644); err != nil {
			return nil, err
		}
		out, err := exec.Command(c.path, "-t", "-f", config).CombinedOutput()
		if err == nil {
			break
		}
		if more == "" {
			return nil, fmt.Errorf("sshd -t: %w: %s", err, out)
		}
	}
	return exec.Command(c.path, "-D", "-e", "-f", config), nil
}

// oursCommand is sekisho as init makes it, with the limits wide enough for the
// load and the audit log in the given folder.
func (w *workshop) oursCommand(c contender, dir, log string, port int) (*exec.Cmd, error) {
	made, ok := w.prepared[c.name]
	if !ok {
		made = filepath.Join(w.dir, c.name+"-init")
		out, err := exec.Command(c.path, "init", made, "--user", "bench", "--key", w.user.file+".pub").CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("%s init: %w: %s", c.path, err, out)
		}
		host, err := os.ReadFile(w.host.file)
		if err != nil {
			return nil, err
		}
		for name, content := range map[string]string{
			"ssh_host_ed25519_key":     string(host),
			"ssh_host_ed25519_key.pub": w.host.public + "\n",
			"hosts":                    "127.0.0.1 target\n",
			"policy.yaml": fmt.Sprintf(`version: 1
users: [{name: bench, keys: [%q]}]
targets: [{name: all, hosts: [target, 127.0.0.1], ports: ["1-65535"]}]
grants: [{name: all, users: [bench], to: [all]}]
`, w.user.public),
		} {
			if err := os.WriteFile(filepath.Join(made, name), []byte(content), 0o600); err != nil {
				return nil, err
			}
		}
		w.prepared[c.name] = made
	}
	if err := copyFiles(made, dir); err != nil {
		return nil, err
	}
	settings := fmt.Sprintf(`version: 1
name: bench
listen: ["127.0.0.1:%d"]
networks: [127.0.0.1/32]
audit: {dir: %q}
limits:
  max_startups: 20000
  max_startups_per_source: 20000
  max_connections: 20000
  max_connections_per_user: 20000
  max_forwards: 50000
  max_forwards_per_connection: 20000
  max_forwards_per_user: 50000
  max_pending_dials_per_connection: 1000
penalties: {auth_fail: 0s, no_auth: 0s, grace_exceeded: 0s, bad_bytes: 0s}
`, port, filepath.Join(log, "audit"))
	if err := os.WriteFile(filepath.Join(dir, "sekisho.yaml"), []byte(settings), 0o600); err != nil {
		return nil, err
	}
	return exec.Command(c.path, "serve", dir), nil
}

// copyFiles copies the files of a folder.
func copyFiles(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		content, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, e.Name()), content, info.Mode().Perm()); err != nil {
			return err
		}
	}
	return nil
}

// buildOwn builds sekisho as it is shipped, and the stock server.
func buildOwn(ctx context.Context, dir, pkg string) (string, error) {
	path := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w: %s", pkg, err, bytes.TrimSpace(out))
	}
	return path, nil
}
