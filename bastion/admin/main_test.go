package admin

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// wait is how long anything in a test may take before it has failed.
const wait = 30 * time.Second

// childEnv makes the test binary do one thing on a socket, for a test that
// needs another user: "call", "knock" or "serve", and the path.
const childEnv = "SEKISHO_ADMIN_TEST_CHILD"

// TestMain holds the package to leaving nothing behind.
func TestMain(m *testing.M) {
	if what, path, ok := strings.Cut(os.Getenv(childEnv), " "); ok {
		if err := child(what, path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goroutines, descriptors := runtime.NumGoroutine(), openDescriptors()
	code := m.Run()
	if fuzz := flag.Lookup("test.fuzz"); fuzz != nil && fuzz.Value.String() != "" {
		os.Exit(code) // the fuzzing engine leaves goroutines of its own
	}
	if code == 0 {
		for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > goroutines || openDescriptors() > descriptors; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				stacks := make([]byte, 1<<20)
				fmt.Printf("left behind: %d goroutines (%d before), %d descriptors (%d before)\n%s\n",
					runtime.NumGoroutine(), goroutines, openDescriptors(), descriptors, stacks[:runtime.Stack(stacks, true)])
				code = 1
				break
			}
		}
	}
	os.Exit(code)
}

// openDescriptors counts sockets and folders, which is what is opened here.
func openDescriptors() (n int) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		to, _ := os.Readlink("/proc/self/fd/" + e.Name())
		if strings.HasPrefix(to, "socket:") || strings.HasPrefix(to, os.TempDir()) {
			n++
		}
	}
	return n
}

func child(what, path string) error {
	switch what {
	case "call":
		var said string
		err := (&Client{Path: path, Timeout: wait}).Call(context.Background(), "GET", "/v1/who", nil, &said)
		fmt.Println(said, "ErrNotPermitted:", errors.Is(err, ErrNotPermitted), err)
	case "knock": // without looking who listens, as Client does
		conn, err := dial(context.Background(), path)
		if err != nil {
			return err
		}
		io.WriteString(conn, "GET /v1/who HTTP/1.1\r\nHost: sekisho\r\nConnection: close\r\n\r\n")
		answer, _ := io.ReadAll(conn)
		fmt.Printf("answered %q\n", answer)
	case "serve":
		l, err := Listen(path)
		if err != nil {
			return err
		}
		s := NewServer(nil)
		s.Handle("GET /v1/who", who)
		served := make(chan error)
		go func() { served <- s.Serve(l) }()
		fmt.Println("ready")
		io.Copy(io.Discard, os.Stdin)
		s.Shutdown(context.Background())
		return <-served
	}
	return nil
}

// who answers who asks, as its argument and its context have it.
func who(ctx context.Context, peer Peer, _ []byte) (any, error) {
	if p, ok := PeerFrom(ctx); !ok || p != peer || p.PID == 0 {
		return nil, fmt.Errorf("the context has %v, not %v", p, peer)
	}
	return fmt.Sprintf("%s (%d)", peer.User, peer.UID), nil
}

const nobody = 65534

// asNobody is this binary, to be run as a user without rights.
func asNobody(t *testing.T, what, path string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("to become another user this test must run as root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(openDir(t, 0o755), "admin.test") // where it is, others may not come
	if err := os.WriteFile(binary, content, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), childEnv+"="+what+" "+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return cmd
}

func outputAsNobody(t *testing.T, what, path string) string {
	t.Helper()
	out, err := asNobody(t, what, path).CombinedOutput()
	if err != nil {
		t.Fatalf("as nobody: %v\n%s", err, out)
	}
	return string(out)
}

// openDir makes a folder to which, unlike t.TempDir, others may come.
func openDir(t *testing.T, perm os.FileMode) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sekisho-admin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, perm); err != nil {
		t.Fatal(err)
	}
	return dir
}

// socketIn is a path for a socket whose folder is yet to be made.
func socketIn(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "run", "sekisho.sock")
}

func mustListen(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(wait); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}
