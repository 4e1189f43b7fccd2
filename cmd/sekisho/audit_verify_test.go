package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"sekisho/audit"
	"sekisho/audit/audittest"
)

// A person at a terminal is shown how far a command is, on one line that is gone
// before anything else is printed.
func TestProgressAtATerminal(t *testing.T) {
	dir := t.TempDir()
	if err := audittest.Write(dir, 8<<20, 1); err != nil {
		t.Fatal(err)
	}
	was := showAfter
	t.Cleanup(func() { showAfter = was })
	const erase = "\r\x1b[K"
	for _, test := range []struct {
		name  string
		after time.Duration
		args  []string
		shown string // "": nothing is
	}{
		{"verify that takes long", 0, []string{"audit", "verify", "--log", dir}, `read \d+ records, \d MiB`},
		{"verify that takes a moment", time.Hour, []string{"audit", "verify", "--log", dir}, ""},
		{"a search that takes long", 0, []string{"audit", "search", "--log", dir, "--text", "is nowhere"}, `searched \d of \d MiB`},
	} {
		showAfter = test.after
		master, terminal := openPTY(t)
		seen := make(chan string)
		go func() {
			b, _ := io.ReadAll(master) // EIO once the terminal has no user
			seen <- string(b)
		}()
		var out bytes.Buffer
		run(t.Context(), test.args, stdio{strings.NewReader(""), &out, terminal})
		terminal.Close()
		screen := <-seen
		if test.shown == "" {
			if strings.Contains(screen, "\x1b") {
				t.Errorf("%s: %q", test.name, screen)
			}
			continue
		}
		if !regexp.MustCompile("^(\r\x1b\\[K" + test.shown + ")").MatchString(screen) {
			t.Errorf("%s: %q", test.name, screen)
		}
		if rest := screen[strings.LastIndex(screen, erase)+len(erase):]; strings.Contains(rest, "MiB") {
			t.Errorf("%s: it is still there: %q", test.name, screen)
		}
		if strings.Contains(out.String(), "\x1b") {
			t.Errorf("%s: it is among what is printed: %q", test.name, out.String())
		}
	}
}

// scriptWriteLog adds a run with so many records to a log, signed with a key,
// and keeps the head of them: writelog KEY DIR N HEAD.
func scriptWriteLog(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: writelog KEY DIR N HEAD")
	}
	signer, verifier, problems := readLogKey(ts.MkAbs(args[0]))
	ts.Check(problems.Err())
	log, err := audit.Open(ts.MkAbs(args[1]), audit.Options{Bastion: "edge", Signer: signer, Verifier: verifier})
	ts.Check(err)
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	for i := range n {
		ts.Check(log.Append(context.Background(), audit.Record{Type: audit.PolicyLoad, Detail: fmt.Sprint("record ", i)}))
	}
	head, err := log.Head()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[3]), head, 0o644))
	ts.Check(log.Close())
}
