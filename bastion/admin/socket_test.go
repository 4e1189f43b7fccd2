package admin

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// leftOver makes a socket that nobody listens on.
func leftOver(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestTheSocketIsAtNoMomentOpenToOthers(t *testing.T) {
	was := syscall.Umask(0)
	defer syscall.Umask(was)
	path := socketIn(t)
	var over atomic.Bool
	var looking sync.WaitGroup
	seen := 0
	looking.Go(func() {
		for !over.Load() {
			if info, err := os.Lstat(path); err == nil {
				seen++
				if info.Mode() != os.ModeSocket|0o600 {
					t.Errorf("it is %v", info.Mode())
				}
			}
		}
	})
	defer func() { over.Store(true); looking.Wait() }()
	for range 300 {
		mustListen(t, path).Close()
	}
	l := mustListen(t, path)
	for range 100 {
		os.Lstat(path)
	}
	over.Store(true)
	looking.Wait()
	l.Close()
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode() != os.ModeDir|0o700 {
		t.Errorf("the folder: %v, %v", info.Mode(), err)
	}
	if exists(path) {
		t.Error("the socket is left over")
	}
	if seen == 0 {
		t.Error("it was never seen")
	}
}

func TestFoldersThatAreRefused(t *testing.T) {
	chmod := func(perm os.FileMode) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, perm)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		name    string
		make    func(t *testing.T, dir string)
		message string // empty: it is taken
	}{
		{"one that only its owner enters", chmod(0o700), ""},
		{"one whose names others may read, but not enter", chmod(0o744), ""},
		{"one that everybody may enter", chmod(0o711), "can be entered or written by others than its owner (mode 0711)"},
		{"one that the group may enter", chmod(0o750), "can be entered or written"},
		{"one that the group may write", chmod(0o720), "can be entered or written"},
		{"one that everybody may write, as /tmp is", chmod(0o777 | os.ModeSticky), "can be entered or written by others than its owner (mode 1777)"},
		{"one of somebody else", func(t *testing.T, dir string) {
			chmod(0o700)(t, dir)
			if err := os.Chown(dir, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}, "belongs to nobody"},
		{"a file", func(t *testing.T, dir string) {
			if err := os.WriteFile(dir, nil, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "is not a folder"},
		{"a link, even to a good one", func(t *testing.T, dir string) {
			chmod(0o700)(t, dir+".real")
			if err := os.Symlink(dir+".real", dir); err != nil {
				t.Fatal(err)
			}
		}, "is not a folder, or is a link"},
		{"one whose parent is missing", func(*testing.T, string) {}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run")
			test.make(t, dir)
			path := filepath.Join(dir, "sekisho.sock")
			if test.name == "one whose parent is missing" {
				path, test.message = filepath.Join(dir, "deeper", "sekisho.sock"), "its parent does not exist"
			}
			l, err := Listen(path)
			if test.message == "" {
				if err != nil {
					t.Fatal(err)
				}
				l.Close()
				return
			}
			if err == nil {
				l.Close()
				t.Fatal("it is taken")
			}
			var refused *Error
			if !errors.As(err, &refused) || !strings.Contains(refused.Message, test.message) || refused.Hint == "" {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestWhatStandsInTheWay(t *testing.T) {
	for _, test := range []struct {
		name    string
		make    func(t *testing.T, path string) io.Closer
		message string // empty: it is removed
	}{
		{"nothing", func(*testing.T, string) io.Closer { return nil }, ""},
		{"a socket of a server that is no more", func(t *testing.T, path string) io.Closer {
			leftOver(t, path)
			return nil
		}, ""},
		{"a server", func(t *testing.T, path string) io.Closer { return mustListen(t, path) }, "somebody listens on"},
		{"a server that takes no more connections", func(t *testing.T, path string) io.Closer { return fullQueue(t, path) }, "somebody listens on"},
		{"a socket of another kind", func(t *testing.T, path string) io.Closer {
			c, err := net.ListenPacket("unixgram", path)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}, "somebody listens on"},
		{"a file", func(t *testing.T, path string) io.Closer {
			os.WriteFile(path, []byte("precious"), 0o600)
			return nil
		}, "is not a socket"},
		{"a link to a socket that is left over", func(t *testing.T, path string) io.Closer {
			leftOver(t, path+".real")
			os.Symlink(path+".real", path)
			return nil
		}, "is not a socket"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := socketIn(t)
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if c := test.make(t, path); c != nil {
				defer c.Close()
			}
			l, err := Listen(path)
			if test.message == "" {
				if err != nil {
					t.Fatal(err)
				}
				l.Close()
				return
			}
			var refused *Error
			if !errors.As(err, &refused) || !strings.Contains(refused.Message, test.message) || refused.Hint == "" {
				t.Errorf("%v", err)
			}
			if !exists(path) {
				t.Error("it is removed")
			}
		})
	}
}

// fullQueue is a socket that somebody listens on who accepts nobody any more.
func fullQueue(t *testing.T, path string) io.Closer {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	t.Cleanup(func() { f.Close() })
	for {
		c, err := net.Dial("unix", path)
		if err != nil {
			return f
		}
		t.Cleanup(func() { c.Close() })
	}
}

func TestOfManyWhoListenAtOnceOneDoes(t *testing.T) {
	path := socketIn(t)
	for range 300 {
		leftOver(t, path)
		var wg sync.WaitGroup
		var mu sync.Mutex
		var won []net.Listener
		for range 8 {
			wg.Go(func() {
				if l, err := Listen(path); err == nil {
					mu.Lock()
					won = append(won, l)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if len(won) != 1 || !exists(path) {
			t.Fatalf("%d listen", len(won))
		}
		won[0].Close()
	}
}

func TestCloseRemovesItsOwnSocketOnly(t *testing.T) {
	path := socketIn(t)
	first := mustListen(t, path)
	if first.Addr().String() != path {
		t.Errorf("it listens on %s", first.Addr())
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second := mustListen(t, path)
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if !exists(path) {
		t.Fatal("it has removed another's")
	}
	if err := errors.Join(second.Close(), second.Close()); err != nil || exists(path) {
		t.Errorf("its own: %v, there: %v", err, exists(path))
	}
	third := mustListen(t, path)
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := third.Close(); err != nil {
		t.Errorf("one that is gone with its folder: %v", err)
	}
}

func TestPathsLongerThanSunPath(t *testing.T) {
	dir := t.TempDir()
	for range 6 {
		dir = filepath.Join(dir, strings.Repeat("d", 100))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "run", strings.Repeat("s", maxName))
	l := mustListen(t, path)
	serve(t, l, nil, func(s *Server) { s.Handle("GET /v1/who", who) })
	var said string
	if err := (&Client{Path: path}).Call(t.Context(), "GET", "/v1/who", nil, &said); err != nil || said == "" {
		t.Error(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "somebody listens") {
		t.Errorf("%v", err)
	}
	for _, name := range []string{strings.Repeat("s", maxName+1), "..", "."} {
		if l, err := Listen(dir + "/" + name); err == nil {
			l.Close()
			t.Errorf("%q is taken", name)
		}
	}
	if err := (&Client{Path: path + "s"}).Call(t.Context(), "GET", "/v1/who", nil, nil); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("%v", err)
	}
}

func TestAServerOfAnotherUserIsOpenToRootAndHim(t *testing.T) {
	home := openDir(t, 0o755)
	if err := os.Chown(home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(home, "run", "sekisho.sock")
	cmd := asNobody(t, "serve", path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	var said string
	if err := (&Client{Path: path}).Call(context.Background(), "GET", "/v1/who", nil, &said); err != nil || said != "root (0)" {
		t.Errorf("root: %q, %v", said, err)
	}
	if pid, err := (&Client{Path: path}).PID(context.Background()); err != nil || pid != cmd.Process.Pid {
		t.Errorf("its process is %d, %v, and not %d", pid, err, cmd.Process.Pid)
	}
	if out := outputAsNobody(t, "call", path); !strings.HasPrefix(out, "nobody (65534) ") {
		t.Errorf("he: %s", out)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil || exists(path) {
		t.Errorf("%v; the socket is there: %v", err, exists(path))
	}
}
