//go:build linux

// Package e2e tests the sekisho command from outside: the binary that an
// administrator runs, the stock clients that people type, and real peers as
// private hosts (OpenSSH's sshd, MariaDB). Nothing of the product is imported
// but package audit, to read the book as an auditor would, with the signed
// heads of its tree, and for one test the server itself, since no setting does
// what that needs.
//
//	ssh, scp, rsync, nc, curl, mariadb          a raw x/crypto/ssh client
//	          │                                           │
//	          └────────────▶  sekisho serve  ◀────────────┘
//	                           │         │
//	       tap ─▶ sshd, mariadbd         └─▶ plain TCP targets in the test
//
// Two binaries are built once. The one with the race detector serves all
// tests but a few, and a report of a race fails the test whose server made
// it; the static one (CGO_ENABLED=0), which is what people run, serves where
// bytes are moved in bulk, where the README's commands are tried and where
// names are resolved:
//
//	static    TestBulkIsTheSameAtTheOtherEndThroughManyRekeys, TestDemo…,
//	          TestTheBookIsCompleteUnderFire…, and sekisho init for all bastions
//	both      TestNamesAreAskedOfDNSOnlyAndOnlyThoseThatMayBe
//	neither   TestBulkIsTheSameWhenBothSidesRenewTheirKeys, whose server runs
//	          in the test process
//	-race     all others
//
// Each test ends by stopping its server and reading its audit log: every
// forward.open must have exactly one end, whatever happened to it.
//
// All listeners are on loopback or in network namespaces that a test made.
// With CI=true in the environment nothing is skipped: a missing peer, or not
// being root, is a failure. Three cases are left out, and silently, where the
// kernel lacks what they need: the tunnel device of
// TestStockClientsAreRefusedEverythingButForwards without /dev/net/tun, the
// address ::1 of TestLoopbackIsReachedOnlyWhereItIsListed without IPv6, and the
// read-only disk of TestALogThatCannotBeWritten… without /dev/loop-control.
// SEKISHO_SOAK=1 moves more bytes, kills the server more often, and has the
// mixed load last for SEKISHO_SOAK_TIME, ten minutes unless it says otherwise.
package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// hang bounds every wait of these tests for something that should happen at
// once. It is wide because the machine may be slow; what must be quick is
// asserted where it matters.
const hang = 30 * time.Second

var (
	raceBinary   string // sekisho, built with -race
	staticBinary string // sekisho, as it is shipped
	soak         bool
	soakTime     = 10 * time.Minute // of the mixed load, then

	shared struct { // stopped by TestMain
		mu    sync.Mutex
		procs []*proc
	}
)

func TestMain(m *testing.M) {
	if mode := os.Getenv("E2E_TARGET"); mode != "" {
		targetMain(mode)
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// A peer's messages are compared: they must be in one language.
	os.Setenv("LC_ALL", "C")
	os.Unsetenv("SSH_AUTH_SOCK")
	os.Unsetenv("DISPLAY")
	soak = os.Getenv("SEKISHO_SOAK") == "1"
	os.Unsetenv("SEKISHO_SOAK") // the server reads variables of such names as settings
	if text := os.Getenv("SEKISHO_SOAK_TIME"); text != "" {
		var err error
		if soakTime, err = time.ParseDuration(text); err != nil || soakTime < 10*time.Second {
			fmt.Fprintf(os.Stderr, "SEKISHO_SOAK_TIME=%s is no time of 10s or more: %v\n", text, err)
			return 1
		}
		os.Unsetenv("SEKISHO_SOAK_TIME")
	}
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")

	if out, err := exec.Command("./peers.sh", "--check").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s", out)
		return 1
	}
	dir, err := os.MkdirTemp("", "sekisho-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	os.Chmod(dir, 0o755) // the database's user passes through
	sharedDir = dir

	raceBinary, staticBinary = filepath.Join(dir, "sekisho-race"), filepath.Join(dir, "sekisho")
	for _, build := range []struct {
		out, cgo string
		flags    []string
	}{
		{raceBinary, "1", []string{"-race"}},
		{staticBinary, "0", []string{"-trimpath"}},
	} {
		cmd := exec.Command("go", append(append([]string{"build", "-o", build.out}, build.flags...), "sekisho/cmd/sekisho")...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+build.cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building %s: %v\n%s", filepath.Base(build.out), err, out)
			return 1
		}
	}
	defer func() {
		shared.mu.Lock()
		defer shared.mu.Unlock()
		for _, p := range shared.procs {
			p.kill()
		}
	}()
	return m.Run()
}

// sharedDir holds what serves all tests.
var sharedDir string

// needRoot skips a test, or in CI fails it, unless it runs as root.
func needRoot(t *testing.T, why string) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("this test needs root (%s), and in CI nothing is skipped", why)
	}
	t.Skipf("this test needs root: %s", why)
}

// eventually waits until ok, which is asked again and again, is true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	within(t, hang, what, ok)
}

// within is eventually with a limit that is part of what is tested.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain: %s", limit, what)
		}
	}
}

// receive waits for a value.
func receive[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(hang):
		t.Fatalf("waited %v in vain: %s", hang, what)
		panic("unreachable")
	}
}

// output collects what a process writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// proc is a process that a test started, the leader of its own session, so
// that its children go with it and nothing asks on a terminal.
type proc struct {
	cmd    *exec.Cmd
	out    *output
	err    *output
	done   chan struct{}
	status error // of Wait, once done is closed
}

// launch starts cmd. Output that the caller has not directed elsewhere is
// kept.
func launch(cmd *exec.Cmd) (*proc, error) {
	p := &proc{cmd: cmd, out: &output{}, err: &output{}, done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = p.out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = p.err
	}
	// Nothing outlives these tests, however they end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	// A child of the child may hold the pipes open for longer than it lives.
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.status = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// start launches cmd and kills it, with all its children, when the test ends.
func start(t *testing.T, cmd *exec.Cmd) *proc {
	t.Helper()
	p, err := launch(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s\nstdout: %s\nstderr: %s", strings.Join(cmd.Args, " "), tail(p.out.String()), tail(p.err.String()))
		}
	})
	return p
}

func (p *proc) pid() int { return p.cmd.Process.Pid }

func (p *proc) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill ends the process and its children.
func (p *proc) kill() {
	syscall.Kill(-p.pid(), syscall.SIGKILL)
	<-p.done
}

// wait returns how the process ended: its exit status, or -1 if a signal
// ended it.
func (p *proc) wait(t *testing.T) int {
	t.Helper()
	receive(t, p.cmd.Path+" to end", p.done)
	return p.code()
}

func (p *proc) code() int {
	var exit *exec.ExitError
	if p.status != nil && !errors.As(p.status, &exit) && !errors.Is(p.status, exec.ErrWaitDelay) {
		return -1
	}
	return p.cmd.ProcessState.ExitCode()
}

// says waits until the process has written a match on stdout or stderr, and
// returns the match and its groups.
func (p *proc) says(t *testing.T, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(hang); ; time.Sleep(10 * time.Millisecond) {
		ended := p.ended()
		for _, o := range []*output{p.err, p.out} {
			if m := re.FindStringSubmatch(o.String()); m != nil {
				return m
			}
		}
		if ended || time.Now().After(deadline) {
			t.Fatalf("%s did not say %q (ended: %v)\nstdout: %s\nstderr: %s", p.cmd.Path, pattern, ended, p.out, p.err)
		}
	}
}

// result is what a command that has ended gave.
type result struct {
	code     int
	out, err string
	took     time.Duration
}

// command runs a program to its end.
func command(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	return runCommand(t, stdin, nil, args...)
}

func runCommand(t *testing.T, stdin string, env []string, args ...string) result {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	began := time.Now()
	p := start(t, cmd)
	code := p.wait(t)
	return result{code, p.out.String(), p.err.String(), time.Since(began)}
}

// succeeds runs a program and fails the test if it fails; it returns stdout.
func succeeds(t *testing.T, args ...string) string {
	t.Helper()
	r := command(t, "", args...)
	if r.code != 0 {
		t.Fatalf("%s: exit %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

func tail(s string) string {
	const most = 6000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// freePort returns a port that is free on ip now.
func freePort(t *testing.T, ip string) int {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// key is a user's key pair.
type key struct {
	signer      ssh.Signer
	private     ed25519.PrivateKey
	file        string // the private half, in OpenSSH's format; FILE.pub is the other
	public      string // a line of authorized_keys
	fingerprint string
}

func makeKey(dir, name string) (key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return key{}, err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return key{}, err
	}
	block, err := ssh.MarshalPrivateKey(private, name)
	if err != nil {
		return key{}, err
	}
	k := key{
		signer: signer, private: private, file: filepath.Join(dir, name),
		public:      strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))) + " " + name,
		fingerprint: ssh.FingerprintSHA256(signer.PublicKey()),
	}
	if err := os.WriteFile(k.file, pem.EncodeToMemory(block), 0o600); err != nil {
		return key{}, err
	}
	return k, os.WriteFile(k.file+".pub", []byte(k.public+"\n"), 0o644)
}

func newKey(t *testing.T, name string) key {
	t.Helper()
	k, err := makeKey(t.TempDir(), name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// testContext ends with hang.
func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	t.Cleanup(cancel)
	return ctx
}

// writeFile writes a file of a test as an administrator's tools do: to
// another name, then renamed.
func writeFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

func matches(pattern, text string) bool { return regexp.MustCompile(pattern).MatchString(text) }
