package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// atTerminal runs a command at a terminal, and calls asked each time that the
// screen ends in the question. It returns what was to be seen.
func atTerminal(t *testing.T, question string, asked func() (answer string), args ...string) (screen string, err error) {
	t.Helper()
	master, terminal := openPTY(t)
	cmd := exec.Command("sekisho", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	late := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	defer late.Stop()
	var seen bytes.Buffer
	buf := make([]byte, 4096)
	for {
		n, err := master.Read(buf) // EIO once the terminal has no user
		seen.Write(buf[:n])
		if n > 0 && strings.HasSuffix(seen.String(), question) {
			io.WriteString(master, asked())
		}
		if err != nil {
			break
		}
	}
	return seen.String(), cmd.Wait()
}

// newFolder makes a folder with settings and a policy, in which alice is.
func newFolder(t *testing.T) (dir, key string) {
	t.Helper()
	dir, other := filepath.Join(t.TempDir(), "d"), filepath.Join(t.TempDir(), "o")
	for user, dir := range map[string]string{"alice": dir, "bob": other} {
		if out, err := exec.Command("sekisho", "init", dir, "--user", user, "--generate-key").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return dir, filepath.Join(other, "bob_ed25519.pub")
}

func TestEditAsksAtATerminal(t *testing.T) {
	dir, key := newFolder(t)
	path := filepath.Join(dir, "policy.yaml")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, answer string
		written      bool
	}{
		{"enter is no", "\n", false},
		{"no", "n\n", false},
		{"something else", "maybe\n", false},
		{"the end of input", "\x04", false},
		{"an interrupt", "\x03", false},
		{"yes", "y\n", true},
		{"yes in a word", " YES \n", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := os.WriteFile(path, before, 0o644); err != nil {
				t.Fatal(err)
			}
			screen, err := atTerminal(t, "Write it? [y/N] ", func() string {
				if now, _ := os.ReadFile(path); !bytes.Equal(now, before) {
					t.Error("it was written before the answer")
				}
				return test.answer
			}, "user", "add", "bob", "--key", key, "--config", dir)
			now, _ := os.ReadFile(path)
			if (err == nil) != test.written || !bytes.Equal(now, before) != test.written {
				t.Errorf("%v:\n%s\n%s", err, screen, now)
			}
			if !strings.Contains(screen, "bob is new") || !strings.Contains(screen, "  gains the key SHA256:") {
				t.Errorf("it does not say what changes:\n%s", screen)
			}
			if !test.written && !strings.Contains(screen, "sekisho: error: nothing was written") {
				t.Errorf("it does not say that nothing was written:\n%s", screen)
			}
		})
	}
}

// While a person thinks, nobody waits; and what is written then is what the
// person was told about, or nothing.
func TestEditHoldsNothingWhileItAsks(t *testing.T) {
	dir, key := newFolder(t)
	path := filepath.Join(dir, "policy.yaml")
	screen, err := atTerminal(t, "Write it? [y/N] ", func() string {
		if out, err := exec.Command("sekisho", "lock", "alice", "--config", dir).CombinedOutput(); err != nil {
			t.Errorf("lock, meanwhile: %v: %s", err, out)
		}
		return "y\n"
	}, "user", "add", "bob", "--key", key, "--config", dir)
	if err != nil {
		t.Fatalf("%v:\n%s", err, screen)
	}
	var other []byte
	screen, err = atTerminal(t, "Write it? [y/N] ", func() string {
		now, _ := os.ReadFile(path)
		other = append(now, "# changed\n"...)
		if err := os.WriteFile(path, other, 0o644); err != nil {
			t.Error(err)
		}
		return "y\n"
	}, "user", "remove", "bob", "--config", dir)
	if err == nil || !strings.Contains(screen, "has changed meanwhile") {
		t.Errorf("%v:\n%s", err, screen)
	}
	if now, _ := os.ReadFile(path); !bytes.Equal(now, other) {
		t.Errorf("the other change is gone:\n%s", now)
	}
}
