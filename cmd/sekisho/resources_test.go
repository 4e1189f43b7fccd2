package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"sekisho/bastion"
)

func TestTheMemoryLimitIsThatOfTheNearestBound(t *testing.T) {
	const machine = "MemTotal:       1000000 kB\nMemFree:         500000 kB\n"
	for _, test := range []struct {
		name  string
		files map[string]string
		want  int64
		from  string
	}{
		{"nothing is known", nil, 0, ""},
		{"a machine without groups", map[string]string{"proc/meminfo": machine}, 768000000, "machine"},
		{"version 2", map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "0::/system.slice/sekisho.service\n",
			"sys/fs/cgroup/system.slice/sekisho.service/memory.max": "100000000\n",
		}, 90000000, "sys/fs/cgroup/system.slice/sekisho.service/memory.max"},
		{"version 2, without a limit", map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "0::/system.slice/sekisho.service\n",
			"sys/fs/cgroup/system.slice/sekisho.service/memory.max": "max\n",
		}, 768000000, "machine"},
		{"version 2, a group above has less", map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "0::/system.slice/sekisho.service\n",
			"sys/fs/cgroup/system.slice/sekisho.service/memory.max": "200000000\n",
			"sys/fs/cgroup/system.slice/memory.max":                 "100000000\n",
		}, 90000000, "sys/fs/cgroup/system.slice/memory.max"},
		{"version 2, in a container", map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "100000000",
		}, 90000000, "sys/fs/cgroup/memory.max"},
		{"version 1", map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/a/b\n1:name=systemd:/\n0::/\n",
			"sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "100000000\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":     "9223372036854771712\n",
		}, 90000000, "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes"},
		{"version 1, in a container that does not see its path", map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "4:memory:/docker/0123\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "100000000\n",
		}, 90000000, "sys/fs/cgroup/memory/memory.limit_in_bytes"},
		{"more than the machine has", map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "100000000000",
		}, 768000000, "machine"},
		{"nonsense", map[string]string{
			"proc/meminfo": "MemTotal: many kB\n", "proc/self/cgroup": "0::/../../etc\n::\n\n0:\n", "sys/fs/cgroup/memory.max": "-5",
		}, 0, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			for name, content := range test.files {
				file := filepath.Join(root, name)
				os.MkdirAll(filepath.Dir(file), 0o700)
				if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			limit, from := memoryLimit(root)
			from = strings.TrimPrefix(from, root+"/")
			if limit != test.want || from != test.from {
				t.Errorf("%d from %q, want %d from %q", limit, from, test.want, test.from)
			}
		})
	}
}

func TestTheDefaultLimitsNeedTheirDescriptors(t *testing.T) {
	if n := neededDescriptors(bastion.DefaultLimits(), 10); n != 10+64+200+10000+20000 {
		t.Errorf("%d", n)
	}
}

// serveWithFiles runs a server in a process that may open so many files, and
// returns it with its folder, address and log.
func serveWithFiles(t *testing.T, files string, settings ...string) (cmd *exec.Cmd, dir, addr string, log *lockedBuffer) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "s")
	if out, err := exec.Command("sekisho", "init", dir, "--user", "alice", "--generate-key").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	log = &lockedBuffer{}
	cmd = exec.Command("sh", "-c", `ulimit -S -n 20 && ulimit -H -n "$0" && exec sekisho serve "$1" --listen 127.0.0.1:0`, files, dir)
	cmd.Env = append(os.Environ(), settings...)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for line := range strings.Lines(log.String()) {
			if _, after, ok := strings.Cut(line, "msg=listening address=\""); ok {
				addr, _, _ = strings.Cut(after, `"`)
				return cmd, dir, addr, log
			}
		}
		if strings.Contains(log.String(), "sekisho: hint:") {
			break
		}
	}
	return cmd, dir, "", log
}

func TestAServerWithFewDescriptorsSaysSoAndKeepsSomeForItself(t *testing.T) {
	_, dir, addr, log := serveWithFiles(t, "180",
		"SEKISHO_LIMITS_MAX_STARTUPS=1000", "SEKISHO_LIMITS_MAX_STARTUPS_PER_SOURCE=1000", "SEKISHO_LIMITS_LOGIN_GRACE=3s",
		"SEKISHO_PENALTIES_EXEMPT=127.0.0.0/8")
	if addr == "" {
		t.Fatal("it does not listen")
	}
	// The runtime raises the soft limit of 20, some versions to one less than
	// the hard one.
	if s := log.String(); !strings.Contains(s, "fewer files than the limits allow") || !regexp.MustCompile(`may_open=1(79|80) `).MatchString(s) || !strings.Contains(s, "LimitNOFILE=") {
		t.Error("nothing says that the descriptors do not suffice")
	}
	var conns []net.Conn
	for range 300 {
		if c, err := net.Dial("tcp", addr); err == nil {
			defer c.Close()
			conns = append(conns, c)
		}
	}
	waitUntil(t, "connections are refused for want of descriptors", func() bool {
		return strings.Contains(log.String(), `detail="descriptors, `)
	})
	// While it is full, it answers commands and writes its log.
	out, err := exec.Command("sekisho", "status", dir).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "the number of descriptors for clients and targets is ") {
		t.Errorf("status: %v\n%s", err, out)
	}
	if out, err := exec.Command("sekisho", "lock", "alice", "--config", dir).CombinedOutput(); err != nil {
		t.Errorf("lock: %v\n%s", err, out)
	}
	if out, err := exec.Command("sekisho", "audit", "search", dir, "--type", "admin.lock").CombinedOutput(); err != nil || !strings.Contains(string(out), "alice") {
		t.Errorf("the log: %v\n%s", err, out)
	}
	if s := log.String(); strings.Contains(s, "too many open files") {
		t.Error("it ran out of descriptors all the same")
	}
	waitUntil(t, "a connection is taken in again", func() bool {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, _ := c.Read(make([]byte, 3))
		return n == 3
	})
}

func TestTooFewDescriptorsStopTheStart(t *testing.T) {
	_, _, addr, log := serveWithFiles(t, "100")
	if s := log.String(); addr != "" || !regexp.MustCompile(`the process may open (99|100) files \(RLIMIT_NOFILE\)`).MatchString(s) || !strings.Contains(s, "sekisho: hint: raise it") {
		t.Errorf("it serves, or says nothing:\n%s", s)
	}
}

func waitUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came that %s", what)
		}
	}
}
