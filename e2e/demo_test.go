//go:build linux

package e2e

import (
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestDemoCommandsWorkAsPrinted runs what make run runs, and types, as it
// were, every command that it prints.
func TestDemoCommandsWorkAsPrinted(t *testing.T) {
	tmp := t.TempDir()
	cmd := exec.Command(staticBinary, "demo")
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	demo := start(t, cmd)
	demo.says(t, `(?m)^The audit records, as they come.*$`)
	listens := demo.says(t, `listens on (127\.0\.0\.1:\d+)`)[1]

	const page = "This page is private"
	answers := map[string]string{ // what a command is known by, and what it gives
		`ssh_config bastion$`: "You are demo",
		` -L `:                "",
		`curl http://127`:     page,
		`printf `:             page,
		` -D `:                "",
		`curl --socks5`:       page,
		`-W web:22 `:          "administratively prohibited: sekisho: demo may not open web:22",
	}
	tried := 0
	for _, line := range regexp.MustCompile(`(?m)^ +\$ (.*)$`).FindAllStringSubmatch(demo.out.String(), -1) {
		typed, _, _ := strings.Cut(line[1], "  #") // what the demo says about it
		typed = strings.TrimSpace(typed)
		var expected string
		known := false
		for pattern, answer := range answers {
			if matches(pattern, typed) {
				expected, known = answer, true
			}
		}
		if !known {
			t.Errorf("this test does not know the command %q", typed)
			continue
		}
		tried++
		if port := regexp.MustCompile(` -N -[LD] (\d+)`).FindStringSubmatch(typed); port != nil {
			stays := start(t, exec.Command("sh", "-c", typed))
			eventually(t, typed+" to listen", func() bool {
				if stays.ended() {
					t.Fatalf("%s: %s", typed, stays.err)
				}
				c, err := net.Dial("tcp", "127.0.0.1:"+port[1])
				if err == nil {
					c.Close()
				}
				return err == nil
			})
			continue
		}
		r := runCommand(t, "", []string{"http_proxy=", "all_proxy="}, "sh", "-c", typed)
		if refused := strings.Contains(expected, "prohibited"); refused != (r.code != 0) || !strings.Contains(r.out+r.err, expected) {
			t.Errorf("%s: exit %d, and it said %q and %q, want %q", typed, r.code, r.out, r.err, expected)
		}
	}
	if tried != len(answers) {
		t.Errorf("the demo prints %d commands, want %d:\n%s", tried, len(answers), demo.out)
	}
	for _, record := range []string{`server\.start`, `auth\.ok +demo`, `forward\.open +demo +web:\d+ → 127\.0\.0\.1:\d+`, `forward\.close +demo +web:\d+ .* bytes up`, `forward\.deny +demo +web:22 .*no_grant`} {
		demo.says(t, `(?m)^\d\d:\d\d:\d\d +`+record)
	}

	syscall.Kill(-demo.pid(), syscall.SIGINT) // as ^C does
	if code := demo.wait(t); code != 0 {
		t.Errorf("after ^C the demo ended with exit status %d: %s", code, demo.err)
	}
	if !matches(`(?m)^\d\d:\d\d:\d\d +server\.stop`, demo.out.String()) {
		t.Error("the last record is not shown")
	}
	if left, err := os.ReadDir(tmp); len(left) != 0 || err != nil {
		t.Errorf("the demo left %v behind (%v)", left, err)
	}
	if c, err := net.Dial("tcp", listens); err == nil {
		c.Close()
		t.Errorf("%s still listens", listens)
	}
}

func TestDemoEndsAsWellWhenItsTerminalIsClosed(t *testing.T) {
	tmp := t.TempDir()
	cmd := exec.Command(staticBinary, "demo")
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	demo := start(t, cmd)
	demo.says(t, `(?m)^The audit records, as they come.*$`)
	demo.cmd.Process.Signal(syscall.SIGHUP)
	demo.wait(t)
	if left, err := os.ReadDir(tmp); len(left) != 0 || err != nil {
		t.Errorf("the demo left %v behind (%v)", left, err)
	}
}
