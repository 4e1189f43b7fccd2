package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sekisho/audit"
)

// TestConfined confines a server in a process of its own, since nothing takes
// that back, and tries there what nobody who takes it over is to do.
func TestConfined(t *testing.T) {
	for _, kernel := range []string{"as it is", "without Landlock"} {
		t.Run("a kernel "+kernel, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestInsideTheConfinedServer$", "-test.v")
			cmd.Env = append(os.Environ(), "CONFINED_KERNEL="+kernel, "CONFINED_DIR="+t.TempDir(), "TMPDIR="+t.TempDir())
			// Its exit status tells only that it may not tidy up.
			out, err := cmd.CombinedOutput()
			if !bytes.Contains(out, []byte("--- PASS: TestInsideTheConfinedServer")) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestInsideTheConfinedServer is run by TestConfined only.
func TestInsideTheConfinedServer(t *testing.T) {
	kernel, work := os.Getenv("CONFINED_KERNEL"), os.Getenv("CONFINED_DIR")
	if kernel == "" {
		return
	}
	landlocked := kernel == "as it is" && landlockVersion() > 0
	dir, outside := filepath.Join(work, "d"), filepath.Join(work, "outside")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	if code := run(t.Context(), []string{"init", dir, "--user", "alice", "--generate-key"}, stdio{strings.NewReader(""), &said, &said}); code != 0 {
		t.Fatalf("%s", &said)
	}
	if kernel != "as it is" {
		unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err := forbidCalls(unix.ENOSYS, unix.SYS_LANDLOCK_CREATE_RULESET); err != nil {
			t.Fatal(err)
		}
	}
	s, problems := load(filepath.Join(dir, "sekisho.yaml"), flags{"listen": {"127.0.0.1:0"}}, nil)
	if problems.Err() != nil {
		t.Fatal(problems)
	}
	log, err := newLog(&said, "info", "text")
	if err != nil {
		t.Fatal(err)
	}
	svc, err := start(s, log)
	if err != nil {
		t.Fatal(err)
	}
	s.settings.Confine = confineRequire
	if kernel != "as it is" {
		if err := svc.confine(); err == nil || !strings.Contains(err.Error(), "this kernel has no Landlock") {
			t.Errorf("with confine: require it is confined on a kernel that cannot: %v", err)
		}
		s.settings.Confine = confineAuto
	}
	said.Reset()
	if err := svc.confine(); err != nil {
		t.Fatal(err)
	}
	want := `level=info msg="confined: it can open no file elsewhere, .*" landlock=\d+ reads=".*` + regexp.QuoteMeta(dir) + `.*" .* writes=` + regexp.QuoteMeta(dir) + `/audit\n`
	if !landlocked {
		want = `level=warning msg="the server is not confined as it could be" reason="this kernel has no Landlock, .*"\n`
	}
	if !regexp.MustCompile(want).Match(said.Bytes()) {
		t.Errorf("it said\n%s, want %s", &said, want)
	}
	if os.Geteuid() == 0 && !strings.Contains(said.String(), "sekisho runs as root") {
		t.Errorf("it says nothing of root:\n%s", &said)
	}

	// For good, and on every thread, those that are made later among them.
	threads, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(threads) < 2 {
		t.Errorf("threads: %v, %v", threads, err)
	}
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if !bytes.Contains(status, []byte("NoNewPrivs:\t1\n")) || !bytes.Contains(status, []byte("Seccomp:\t2\n")) {
			t.Errorf("%s: %v\n%s", thread, err, status)
		}
	}
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil || core.Cur != 0 || core.Max != 0 {
		t.Errorf("cores of %d bytes may be dumped (%v)", core.Max, err)
	}
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 0 {
		t.Errorf("dumpable: %d, %v", dumpable, err)
	}
	for _, program := range []string{"/bin/true", os.Args[0]} {
		if err := exec.Command(program).Run(); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s is executed: %v", program, err)
		}
	}

	write := func(name string) error { return os.WriteFile(name, []byte("x"), 0o600) }
	read := func(name string) error { _, err := os.ReadFile(name); return err }
	list := func(name string) error { _, err := os.ReadDir(name); return err }
	inside := func(name string) string { return filepath.Join(dir, name) }
	for what, err := range map[string]error{
		"reading a file outside":          read(outside),
		"reading what root only may":      read("/etc/shadow"),
		"reading another's memory":        read(fmt.Sprintf("/proc/%d/environ", os.Getppid())),
		"writing a file outside":          write(outside),
		"making a file outside":           write(outside + "2"),
		"cutting a file off":              os.Truncate(inside("policy.yaml"), 0),
		"writing the policy":              write(inside("policy.yaml")),
		"replacing the policy":            os.Rename(inside("hosts"), inside("policy.yaml")),
		"making a file beside the policy": write(inside("new")),
		"removing a host key":             os.Remove(inside("ssh_host_ed25519_key")),
		"making a socket for commands":    write(inside("run/new")),
		"a link out of the log":           os.Link(outside, inside("audit/outside")),
		"listing a folder outside":        list("/"),
	} {
		if landlocked && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EXDEV) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, network := range []string{"tcp", "unix"} {
		address := map[string]string{"tcp": "127.0.0.1:0", "unix": "@sekisho-test-" + strconv.Itoa(os.Getpid())}[network]
		if l, err := net.Listen(network, address); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("it listens on %v (%v)", l.Addr(), err)
		}
	}
	if landlocked {
		_, errno := unix.Open(inside("policy.yaml"), unix.O_RDWR, 0)
		if errno != unix.EACCES {
			t.Errorf("opening the policy to write it: %v", errno)
		}
	}

	// And what it is to do, goes on.
	for what, err := range map[string]error{
		"reading the policy": read(inside("policy.yaml")),
		"its own numbers":    read("/proc/self/stat"),
		"its descriptors":    list("/proc/self/fd"),
		"the name servers":   read("/etc/resolv.conf"),
		"a record":           svc.record(audit.Record{Type: audit.PolicyLoad, Policy: s.policy.Hash(), Reason: "signal"}),
		"the log's folder":   write(inside("audit/x")),
		"removing from it":   os.Remove(inside("audit/x")),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := time.LoadLocation("Asia/Tokyo"); err != nil {
		t.Error(err)
	}
	conn, err := net.Dial("tcp", svc.listeners[0].Addr().String())
	if err != nil {
		t.Errorf("no connection can be opened: %v", err)
	} else {
		conn.Close()
	}
	svc.socket.Close()
	if _, err := os.Lstat(inside("run/sekisho.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the admin socket is left behind: %v", err)
	}
	if err := svc.book.Close(); err != nil {
		t.Error(err)
	}
}

func TestPlaces(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"d", "d/audit", "d/run", "d/keys", "elsewhere", "krl", "cursor", "tls"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "elsewhere", "hosts"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../elsewhere/hosts", filepath.Join(dir, "d", "hosts")); err != nil {
		t.Fatal(err)
	}
	s := &setup{config: filepath.Join(dir, "d", "sekisho.yaml"), settings: defaultSettings()}
	s.settings.RevokedKeys = []string{"../krl/list"}
	s.settings.AuthorizedKeysDir = "keys"
	s.settings.Audit.Syslog.Cursor = filepath.Join(dir, "cursor", "at")
	s.settings.Audit.Syslog.CA = "../tls/ca.pem"
	s.settings.Metrics.Listen = "127.0.0.1:9122"
	p := s.places(false)
	under := func(paths []string) (ours []string) {
		for _, path := range paths {
			if rest, ok := strings.CutPrefix(path, dir+"/"); ok {
				ours = append(ours, rest)
			}
		}
		return ours
	}
	for _, c := range []struct {
		what      string
		got, want []string
	}{
		{"reads", under(p.reads), []string{"d", "d/keys", "elsewhere", "krl", "tls"}},
		{"writes", under(p.writes), []string{"cursor", "d/audit"}},
		{"removes", under(p.clears), []string{"d/run"}},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s %q, want %q", c.what, c.got, c.want)
		}
	}
	if !slices.Contains(p.reads, "/etc") {
		t.Errorf("a user reads %q, and not /etc", p.reads)
	}
	if root := s.places(true); slices.Contains(root.reads, "/etc") || !slices.Contains(root.reads, "/etc/passwd") {
		t.Errorf("root reads %q", root.reads)
	}
}

// TestNothingIsExecuted: the packages that a server is made of start no program.
// Of the commands one does: witness asks by ssh, on the auditor's machine.
func TestNothingIsExecuted(t *testing.T) {
	starts := regexp.MustCompile(`"os/exec"|\b(?:syscall|unix)\.(?:Exec|ForkExec|StartProcess|SYS_EXECVE\w*)\b|\bos\.StartProcess\b`)
	files := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path == "../../bench" { // of nothing that is installed
			return fs.SkipDir
		}
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		found := starts.FindAllString(strings.ReplaceAll(string(content), "unix.SYS_EXECVE, unix.SYS_EXECVEAT, ", ""), -1)
		if name := filepath.Base(path); len(found) > 0 && name != "audit_witness.go" && !strings.HasSuffix(filepath.Dir(path), "test") {
			t.Errorf("%s has %q", path, found)
		}
		return nil
	})
	if err != nil || files < 100 {
		t.Errorf("%d files: %v", files, err)
	}
}
