package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	syscall.Umask(0o022) // what the tests make is not to be writable by others
	// A program with the race detector sleeps a second before it exits.
	os.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0"))
	testscript.Main(m, map[string]func(){"sekisho": main})
}

// TestScript drives the real program, a script for each of its commands.
func TestScript(t *testing.T) { runScripts(t, "testdata/script") }

// TestUserScript runs scripts about permissions as a user whom they bind:
// root may read and write everything.
func TestUserScript(t *testing.T) {
	if os.Geteuid() != 0 {
		runScripts(t, "testdata/user")
		return
	}
	asNobody(t, "^TestUserScript$")
}

func runScripts(t *testing.T, dir string) {
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TMPDIR", env.WorkDir)
			env.Setenv("GORACE", os.Getenv("GORACE"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waitfor":  waitFor,
			"sendsig":  sendSignal,
			"chmodx":   chmodAny,
			"capture":  capture,
			"notexist": notExist,
			"answer":   scriptAnswer,
			"proof":    scriptProof,
			"writelog": scriptWriteLog,
		},
		RequireExplicitExec: true,
	})
}

// waitFor waits until a file has a line that matches: waitfor FILE REGEXP.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: waitfor FILE REGEXP")
	}
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	var content []byte
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		content, _ = os.ReadFile(ts.MkAbs(args[0]))
		if re.Match(content) {
			return
		}
	}
	ts.Fatalf("%s has nothing that matches %s:\n%s", args[0], args[1], content)
}

// sendSignal sends a signal to the process whose number a file has:
// sendsig TERM FILE.
func sendSignal(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL}
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[1])))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, signals[args[0]]))
}

// chmodAny is chmod with octal modes for folders and their special bits.
func chmodAny(ts *testscript.TestScript, neg bool, args []string) {
	perm, err := strconv.ParseUint(args[0], 8, 32)
	ts.Check(err)
	for _, path := range args[1:] {
		ts.Check(syscall.Chmod(ts.MkAbs(path), uint32(perm)))
	}
}

// capture sets a variable to what a group of a regexp matches in a file:
// capture NAME FILE REGEXP.
func capture(ts *testscript.TestScript, neg bool, args []string) {
	m := regexp.MustCompile("(?m)" + args[2]).FindStringSubmatch(ts.ReadFile(args[1]))
	if m == nil {
		ts.Fatalf("%s has nothing that matches %s", args[1], args[2])
	}
	ts.Setenv(args[0], m[1])
}

// notExist fails if anything matches the pattern.
func notExist(ts *testscript.TestScript, neg bool, args []string) {
	found, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(found) > 0 {
		ts.Fatalf("there is %s", strings.Join(found, ", "))
	}
}

// asNobody runs tests of this binary as a user without rights.
func asNobody(t *testing.T, pattern string) {
	dir, err := os.MkdirTemp("", "sekisho-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, home := filepath.Join(dir, "sekisho.test"), filepath.Join(dir, "home")
	if err := copyFile(binary, self, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "testdata"), os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	for _, path := range []string{home, filepath.Join(home, "tmp")} {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(binary, "-test.run="+pattern, fmt.Sprintf("-test.v=%v", testing.Verbose()))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+filepath.Join(home, "tmp"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as nobody: %v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("%s", out)
	}
}

func copyFile(to, from string, perm os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}
