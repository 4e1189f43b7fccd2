//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sekisho/audit"
)

// unprivileged is who the service runs as in these tests.
const unprivileged = 65534

// A manager does what systemd does for a service: it opens its sockets, starts
// it as its user, and listens to what it says of itself.
type manager struct {
	socket *net.UnixConn
	at     string
	mu     sync.Mutex
	said   []string
}

func newManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{at: filepath.Join(t.TempDir(), "notify")}
	var err error
	if m.socket, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.at, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.socket.Close() })
	if err := os.Chmod(m.at, 0o666); err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := m.socket.Read(buf)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.said = append(m.said, strings.Split(string(buf[:n]), "\n")...)
			m.mu.Unlock()
		}
	}()
	return m
}

// heard is how often the service has said something that matches.
func (m *manager) heard(pattern string) (n int) {
	re := regexp.MustCompile("^(?:" + pattern + ")$")
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.said {
		if re.MatchString(s) {
			n++
		}
	}
	return n
}

// environment tells the service of the manager and of its sockets. The process
// that starts it becomes it, and so has its number.
func (m *manager) environment(watchdog time.Duration, sockets int) []string {
	return append(os.Environ(), "GORACE=halt_on_error=0 atexit_sleep_ms=0", "NOTIFY_SOCKET="+m.at,
		"WATCHDOG_USEC="+strconv.FormatInt(watchdog.Microseconds(), 10), "LISTEN_FDS="+strconv.Itoa(sockets), "LISTEN_FDNAMES=ssh")
}

const becomes = `export LISTEN_PID=$$ WATCHDOG_PID=$$; exec "$@"`

// asService lays the bastion's files as they are for the systemd service: what
// decides is root's, the keys are the user's, and so are two folders elsewhere.
func (b *bastion) asService() {
	t := b.t
	t.Helper()
	state, run := filepath.Join(filepath.Dir(b.dir), "state"), filepath.Join(filepath.Dir(b.dir), "run")
	b.auditAt = filepath.Join(state, "audit")
	adapt(t, filepath.Join(b.dir, "sekisho.yaml"), map[string]any{
		"audit":   map[string]any{"dir": b.auditAt, "segment_age": "1s", "segment_size": "64KiB"},
		"admin":   map[string]any{"socket": filepath.Join(run, "sekisho.sock")},
		"confine": "require",
	})
	if err := os.Chmod(filepath.Dir(filepath.Dir(b.dir)), 0o755); err != nil { // the test's own
		t.Fatal(err)
	}
	for _, dir := range []string{state, run} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, unprivileged, unprivileged); err != nil {
			t.Fatal(err)
		}
	}
	keys, _ := filepath.Glob(filepath.Join(b.dir, "*_key"))
	for _, key := range keys {
		if err := os.Chown(key, unprivileged, unprivileged); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"sekisho.yaml", "policy.yaml", "hosts"} {
		if err := os.Chmod(filepath.Join(b.dir, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// put is writeFile for what the service's user is to read.
func put(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name+".put", []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".put", name); err != nil {
		t.Fatal(err)
	}
}

// TestAServiceThatMayDoNothingElseDoesAllItIsFor runs the server as systemd
// would: as a user without rights, on a socket that was opened for it, confined
// to its folders, with somebody who listens for signs of life. All that needs
// files once it runs, is tried then.
func TestAServiceThatMayDoNothingElseDoesAllItIsFor(t *testing.T) {
	t.Parallel()
	needRoot(t, "it runs the server as another user")
	policy := standardUsers(t) + standardGrants + "roles:\n  auditor: {users: [bob]}\n"
	b := prepareBastion(t, setup{policy: policy, settings: map[string]any{"listen": []string{"192.0.2.1:22"}}})
	b.asService()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()

	m := newManager(t)
	cmd := exec.Command("sh", "-c", becomes, "sh", b.setup.binary, "serve", b.dir)
	cmd.Env = m.environment(900*time.Millisecond, 1)
	cmd.ExtraFiles = []*os.File{socket}
	b.proc = startAs(t, cmd, unprivileged)
	t.Cleanup(func() {
		if !b.stopped {
			b.stop()
		}
		if t.Failed() {
			t.Logf("the server said: %s\nto its manager: %q", tail(b.proc.err.String()), m.said)
		}
	})
	eventually(t, "the service to be ready", func() bool { return m.heard("READY=1") == 1 })
	b.proc.says(t, `msg="the service manager has opened the sockets: listen is not used"`)
	if at := b.proc.says(t, listening); net.JoinHostPort(at[1], at[2]) != l.Addr().String() {
		t.Errorf("it listens on %s:%s, not on %v", at[1], at[2], l.Addr())
	}
	b.proc.says(t, `level=info msg="confined: .* landlock=\d+ reads=".*`+regexp.QuoteMeta(b.dir)+`.*" .*writes=`+regexp.QuoteMeta(b.auditAt))
	if strings.Contains(b.proc.err.String(), "runs as root") {
		t.Error("it says that it runs as root")
	}
	b.addr, b.host, b.port = l.Addr().String(), "127.0.0.1", l.Addr().(*net.TCPAddr).Port

	// It holds no right, and gains none.
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.proc.pid()))
	if err != nil || !bytes.Contains(status, []byte("NoNewPrivs:\t1\n")) || !bytes.Contains(status, []byte("CapEff:\t0000000000000000\n")) {
		t.Errorf("%v\n%s", err, status)
	}

	web, db := serve(t, appserverIP, echo), serve(t, rdsIP, echo)
	ch := b.login(alice(t)).mustOpen("appserver", web.port)
	ch.echoes()

	// A policy and a hosts file that are renamed into their places, and the time
	// zone of one.
	put(t, filepath.Join(b.dir, "policy.yaml"), strings.Replace(policy, "users: [alice], groups: [dba], to: [db]}",
		`users: [alice], groups: [dba], to: [db], when: {hours: ["Mon-Sun 00:00-24:00 Asia/Tokyo"]}}`, 1))
	b.reload(audit.PolicyLoad)
	put(t, filepath.Join(b.dir, "hosts"), standardHosts+appserverIP+" extra\n")
	b.recorded(audit.PolicyLoad, func(r audit.Record) bool { return r.Reason == "hosts" })
	other := b.login(bob(t), "bob")
	other.mustOpen("rds", db.port).echoes()
	other.Close()

	// A link out of the folder: what it leads to may be read by this user, by
	// the rights of the file.
	outside := filepath.Join(t.TempDir(), "policy.yaml")
	put(t, outside, policy)
	link := filepath.Join(b.dir, "policy.yaml")
	if err := os.Rename(link, link+".kept"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	if r := b.reload(audit.PolicyReject); !strings.Contains(r.Detail, "permission denied") {
		t.Errorf("a policy outside of its folders is refused for %q", r.Detail)
	}
	if err := os.Rename(link+".kept", link); err != nil {
		t.Fatal(err)
	}
	b.reload(audit.PolicyLoad)

	// The log: segments are closed, packed, and read by an auditor.
	eventually(t, "a segment to be packed", func() bool {
		packed, _ := filepath.Glob(filepath.Join(b.auditAt, "*.zst"))
		if len(packed) > 0 {
			return true
		}
		b.login(alice(t)).Close()
		time.Sleep(300 * time.Millisecond)
		return false
	})
	r := command(t, "", append(append([]string{"ssh"}, b.sshAs(bob(t), "bob")...), "bastion", "audit", "search", "--type", "forward.open", "--json")...)
	if r.code != 0 || strings.Count(r.out, `"type":"forward.open"`) != 2 {
		t.Errorf("audit over SSH: exit %d\n%s%s", r.code, r.out, r.err)
	}

	// Commands of root's find it, and take access away.
	if r := b.sekisho("status"); r.code != 0 || !strings.Contains(r.out, l.Addr().String()) {
		t.Errorf("status: exit %d\n%s%s", r.code, r.out, r.err)
	}
	if r := b.sekisho("lock", "alice"); r.code != 0 || !strings.Contains(r.out, "1 forward") {
		t.Errorf("lock: exit %d\n%s%s", r.code, r.out, r.err)
	}
	b.recorded(audit.ForwardClose, func(r audit.Record) bool { return r.User == "alice" })

	// It lives, says so, and says when it stops.
	lives := m.heard("WATCHDOG=1")
	eventually(t, "more signs of life", func() bool { return m.heard("WATCHDOG=1") > lives+1 })
	if m.heard(`STATUS=\d+ connections?, \d+ of them logged in; \d+ forwards?`) == 0 || m.heard("STOPPING=1") != 0 {
		t.Errorf("it has told its manager %q", m.said)
	}
	b.stop()
	if m.heard("STOPPING=1") != 1 || m.heard("EXTEND_TIMEOUT_USEC=30000000") == 0 || m.heard("READY=1") != 1 {
		t.Errorf("it has told its manager %q", m.said)
	}
	if _, err := os.Lstat(filepath.Join(filepath.Dir(b.dir), "run", "sekisho.sock")); err == nil {
		t.Error("the admin socket is left behind")
	}
}

// TestAServerThatDoesNotAnswerGivesNoSignOfLife: that one is stopped as a whole
// here is all that can be done to it from outside.
func TestAServerThatDoesNotAnswerGivesNoSignOfLife(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	b := prepareBastion(t, setup{})
	cmd := exec.Command("sh", "-c", becomes, "sh", b.setup.binary, "serve", b.dir)
	cmd.Env = m.environment(600*time.Millisecond, 0)
	b.proc = start(t, cmd)
	t.Cleanup(func() {
		if !b.stopped {
			b.stop()
		}
	})
	at := b.proc.says(t, listening)
	b.host, b.addr = at[1], net.JoinHostPort(at[1], at[2])
	eventually(t, "a sign of life", func() bool { return m.heard("WATCHDOG=1") > 1 })

	// A log that cannot be written is no reason to be restarted.
	gone := b.auditAt + ".gone"
	if err := os.Rename(b.auditAt, gone); err != nil {
		t.Fatal(err)
	}
	b.tryLogin(b.clientConfig("alice", signerAuth(alice(t))))
	eventually(t, "a status that tells of the log", func() bool {
		return m.heard("STATUS=.*; the audit log cannot be written: no new forwards") > 0
	})
	lives := m.heard("WATCHDOG=1")
	eventually(t, "signs of life all the same", func() bool { return m.heard("WATCHDOG=1") > lives+1 })
	if err := os.Rename(gone, b.auditAt); err != nil {
		t.Fatal(err)
	}

	syscall.Kill(b.proc.pid(), syscall.SIGSTOP)
	time.Sleep(300 * time.Millisecond) // what was under way
	lives = m.heard("WATCHDOG=1")
	time.Sleep(time.Second)
	if n := m.heard("WATCHDOG=1"); n != lives {
		t.Errorf("%d signs of life of one that is stopped", n-lives)
	}
	syscall.Kill(b.proc.pid(), syscall.SIGCONT)
	eventually(t, "signs of life again", func() bool { return m.heard("WATCHDOG=1") > lives })
}

func TestSocketsThatAreNotToListenOnAreRefused(t *testing.T) {
	t.Parallel()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	local := os.NewFile(uintptr(pair[0]), "local")
	defer local.Close()
	defer unix.Close(pair[1])
	datagrams, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	udp, err := datagrams.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	connected, err := client.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer connected.Close()
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()

	for _, c := range []struct {
		what   string
		passed *os.File
		want   string
	}{
		{"a unix socket", local, "it is of no internet protocol"},
		{"a socket of datagrams", udp, "it is not TCP's"},
		{"a connection", connected, "it does not listen"},
		{"a file", file, "socket operation on non-socket"},
	} {
		t.Run(c.what, func(t *testing.T) {
			b := prepareBastion(t, setup{})
			cmd := exec.Command("sh", "-c", becomes, "sh", b.setup.binary, "serve", b.dir)
			cmd.Env = append(os.Environ(), "LISTEN_FDS=1")
			cmd.ExtraFiles = []*os.File{c.passed}
			p := start(t, cmd)
			if code := p.wait(t); code != 1 || !strings.Contains(p.err.String(), "sekisho: error: the socket passed as descriptor 3: "+c.want) {
				t.Errorf("exit %d: %s", code, p.err)
			}
		})
	}
}
