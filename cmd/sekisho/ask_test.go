package main

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"sekisho/authz"
)

// openPTY returns the two ends of a new terminal.
func openPTY(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return master, terminal
}

// askAtTerminal runs init at a terminal, types the answers there, each once
// the question has been asked, and returns what was to be seen.
func askAtTerminal(t *testing.T, dir string, environ []string, answers ...string) (screen string, err error) {
	t.Helper()
	master, terminal := openPTY(t)
	cmd := exec.Command("sekisho", "init", dir, "--user", "alice")
	cmd.Env = append(os.Environ(), environ...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	var seen bytes.Buffer
	buf := make([]byte, 4096)
	asked := 0
	for {
		n, err := master.Read(buf) // EIO once the terminal has no user
		seen.Write(buf[:n])
		if now := strings.Count(seen.String(), "? [1] "); now > asked && asked < len(answers) {
			io.WriteString(master, answers[asked])
			asked++
		}
		if err != nil {
			break
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-time.After(10 * time.Second):
		cmd.Process.Kill()
		t.Fatalf("init does not end:\n%s", seen.String())
	}
	return seen.String(), err
}

// homeWithKeys makes a home folder with keys in it and runs an agent that
// holds another one. It returns the environment and the fingerprints of the
// agent's key and the two in the folder.
func homeWithKeys(t *testing.T) (environ []string, prints []string) {
	t.Helper()
	home := t.TempDir()
	for _, key := range []string{"agent", "id_a", "id_b"} {
		path := filepath.Join(home, ".ssh", key)
		os.MkdirAll(filepath.Dir(path), 0o700)
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key+"@laptop", "-f", path).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		line, err := os.ReadFile(path + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		public, _, _, _, err := ssh.ParseAuthorizedKey(line)
		if err != nil {
			t.Fatal(err)
		}
		prints = append(prints, ssh.FingerprintSHA256(public))
	}
	os.WriteFile(filepath.Join(home, ".ssh", "notes.pub"), []byte("no key\n"), 0o600)

	socket := filepath.Join(home, "agent.sock")
	agent := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Process.Kill(); agent.Wait() })
	environ = []string{"HOME=" + home, "SSH_AUTH_SOCK=" + socket, "SUDO_USER="}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		add := exec.Command("ssh-add", "-q", filepath.Join(home, ".ssh", "agent"))
		add.Env = append(os.Environ(), environ...)
		if add.Run() == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the agent does not answer")
		}
	}
	if err := os.Remove(filepath.Join(home, ".ssh", "agent.pub")); err != nil {
		t.Fatal(err)
	}
	return environ, prints
}

func TestInitAsksAtATerminal(t *testing.T) {
	environ, prints := homeWithKeys(t)
	for _, test := range []struct {
		name    string
		answers []string
		want    []int
	}{
		{"enter takes the first, the agent's", []string{"\n"}, []int{0}},
		{"one", []string{"2\n"}, []int{1}},
		{"several", []string{"3, 1\n"}, []int{2, 0}},
		{"wrong answers are asked again", []string{"4\n", "0\n", "x\n", "2\n"}, []int{1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			screen, err := askAtTerminal(t, dir, environ, test.answers...)
			if err != nil {
				t.Fatalf("%v:\n%s", err, screen)
			}
			for i, name := range []string{"agent@laptop  (agent)", "id_a@laptop  (", "id_b@laptop  ("} {
				want := fmt.Sprintf("  %d  ed25519     %s  %s", i+1, prints[i], name)
				if !strings.Contains(screen, want) {
					t.Errorf("%q is not to be seen:\n%s", want, screen)
				}
			}
			if got := strings.Count(screen, "is not a number from 1 to 3."); got != len(test.answers)-1 {
				t.Errorf("%d answers were refused, not %d", got, len(test.answers)-1)
			}
			s, problems := load(filepath.Join(dir, "sekisho.yaml"), nil, nil)
			if problems.Err() != nil {
				t.Fatal(problems)
			}
			for i, print := range prints {
				reason, _, _ := s.policy.HoldsNow(authz.Identity{User: "alice", Key: print}, netip.Addr{}, time.Now())
				in := reason == ""
				want := false
				for _, w := range test.want {
					want = want || w == i
				}
				if in != want {
					t.Errorf("key %d gets in: %v, want %v", i+1, in, want)
				}
			}
		})
	}
}

func TestInitWithoutAnAnswerWritesNothing(t *testing.T) {
	environ, _ := homeWithKeys(t)
	for name, answer := range map[string]string{"end of input": "\x04", "interrupt": "\x03"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			screen, err := askAtTerminal(t, dir, environ, answer)
			if err == nil || !strings.Contains(screen, "sekisho: error: no key was chosen; nothing was written") {
				t.Errorf("%v:\n%s", err, screen)
			}
			if !isNotExist(dir) {
				t.Error("the folder was made")
			}
		})
	}
}

func TestInitWithNoKeysToAskAbout(t *testing.T) {
	home := t.TempDir()
	screen, err := askAtTerminal(t, filepath.Join(home, "d"), []string{"HOME=" + home, "SSH_AUTH_SOCK=" + home + "/none", "SUDO_USER="})
	if err == nil || !strings.Contains(screen, "neither the ssh agent nor "+home+"/.ssh has a key") || !strings.Contains(screen, "--generate-key makes a new key") {
		t.Errorf("%v:\n%s", err, screen)
	}
}

func TestChoose(t *testing.T) {
	found := []userKey{{comment: "a"}, {comment: "b"}, {comment: "c"}}
	for _, test := range []struct{ answer, want, wrong string }{
		{"", "a", ""},
		{"  ", "a", ""},
		{"2", "b", ""},
		{"3,1", "c a", ""},
		{"1, 2 , 2", "a b", ""},
		{"1 3", "a c", ""},
		{"4", "", `"4" is not a number from 1 to 3.`},
		{"1,x", "", `"x" is not a number from 1 to 3.`},
		{"-1", "", `"-1" is not a number from 1 to 3.`},
		{"\x1b[2J", "", `"` + "\uFFFD" + `[2J" is not a number from 1 to 3.`},
	} {
		chosen, wrong := choose(test.answer, found)
		var got []string
		for _, k := range chosen {
			got = append(got, k.comment)
		}
		if wrong != test.wrong || wrong == "" && strings.Join(got, " ") != test.want {
			t.Errorf("%q: %v, %q", test.answer, got, wrong)
		}
	}
}

func TestValidUser(t *testing.T) {
	for account, want := range map[string]string{
		"alice": "alice", "root": "root", "a.b@corp": "a.b@corp", `CORP\alice`: "alice", "_svc": "svc",
		"jörg": "j-rg", "a b": "a-b", "": "admin", "--": "admin", strings.Repeat("x", 80): strings.Repeat("x", 64),
	} {
		got := validUser(account)
		if got != want {
			t.Errorf("%q: %q, want %q", account, got, want)
		}
		if !userForm.MatchString(got) {
			t.Errorf("%q becomes %q, which is no name", account, got)
		}
	}
}

func TestComments(t *testing.T) {
	for comment, want := range map[string]string{
		"alice@laptop": "alice@laptop", `a"b\c`: "a?b?c", "a\x1b[2Jb": "a?[2Jb", "jörg": "j?rg", strings.Repeat("x", 200): strings.Repeat("x", 100),
	} {
		if got := plainComment(comment); got != want {
			t.Errorf("%q: %q, want %q", comment, got, want)
		}
	}
}
