package bastion_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

const auditors = `version: 1
users:
  - {name: alice, groups: [audit], keys: ["{alice}"]}
  - {name: bob, keys: ["{bob}"]}
roles:
  auditor: {groups: [audit]}
  admin: {groups: [ops]}
`

// reads starts a bastion where the log is read by f.
func reads(t *testing.T, f bastion.AuditCommand) *bastiontest.Bastion {
	return bastiontest.Start(t, bastiontest.Options{
		Policy: auditors,
		Config: func(c *bastion.Config) { c.Audit = f },
	})
}

func TestTheAuditorReadsTheLog(t *testing.T) {
	t.Run("and that is a record before he sees anything", func(t *testing.T) {
		var b *bastiontest.Bastion
		var known atomic.Int64
		b = reads(t, func(_ context.Context, words []string, stdout, stderr io.Writer) int {
			known.Store(int64(len(b.Book.Records(audit.AdminRead))))
			fmt.Fprintf(stdout, "out %q\n", words)
			fmt.Fprintf(stderr, "err\n")
			return 3
		})
		out, errs, status := run(t, b.Dial(), "audit search --user bob \x1b[2J")
		if out != `out ["search" "--user" "bob" "\x1b[2J"]`+"\n" || errs != "err\n" || status != 3 {
			t.Errorf("%q, %q, %d", out, errs, status)
		}
		rec := b.Book.Await(t, audit.AdminRead, 1)
		if known.Load() != 1 || rec.User != "alice" || rec.Request != "audit search --user bob \x1b[2J" || rec.Key == "" || rec.Conn == "" || !rec.Source.IsValid() {
			t.Errorf("%d, %s", known.Load(), rec.AppendJSON(nil))
		}
	})
	t.Run("with words that are quoted as for a shell", func(t *testing.T) {
		b := reads(t, func(_ context.Context, words []string, stdout, _ io.Writer) int {
			fmt.Fprintf(stdout, "%q", words)
			return 0
		})
		client := b.Dial()
		for line, want := range map[string]string{
			`audit search --since "last monday"`: `["search" "--since" "last monday"]`,
			`audit  search --text 'a  b'`:        `["search" "--text" "a  b"]`,
			`audit search --user=a\ b`:           `["search" "--user=a b"]`,
			`audit`:                              `[]`,
		} {
			if out, errs, status := run(t, client, line); out != want || status != 0 {
				t.Errorf("%s: %s%s, %d", line, out, errs, status)
			}
		}
		if out, errs, status := run(t, client, `audit search "a`); status != 2 || out != "" || !strings.Contains(errs, "not quoted as it should be") {
			t.Errorf("%q, %q, %d", out, errs, status)
		}
	})
	t.Run("until he types ^C at his terminal", func(t *testing.T) {
		b := reads(t, func(ctx context.Context, _ []string, stdout, _ io.Writer) int {
			io.WriteString(stdout, "a\n")
			<-ctx.Done()
			return 0
		})
		session, err := b.Dial().NewSession()
		if err != nil {
			t.Fatal(err)
		}
		typed, err := session.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(session.RequestPty("xterm", 24, 80, nil), session.Start("audit tail -f")); err != nil {
			t.Fatal(err)
		}
		io.WriteString(typed, "x\x03")
		promptly(t, "a command that is interrupted", func() {
			if err := session.Wait(); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("and is told that he may", func(t *testing.T) {
		b := reads(t, func(context.Context, []string, io.Writer, io.Writer) int { return 0 })
		for _, who := range []struct {
			client *ssh.Client
			told   bool
		}{{b.Dial(), true}, {b.DialAs(b.ClientConfig("bob", b.Bob)), false}} {
			session, err := who.client.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			session.Stdout = &out
			if err := session.Shell(); err != nil {
				t.Fatal(err)
			}
			session.Wait()
			if strings.Contains(out.String(), "audit --help") != who.told {
				t.Errorf("told %v: %s", who.told, &out)
			}
		}
	})
	t.Run("with the line ends of his terminal", func(t *testing.T) {
		b := reads(t, func(_ context.Context, _ []string, stdout, _ io.Writer) int {
			io.WriteString(stdout, "a\nb\n")
			return 0
		})
		session, err := b.Dial().NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if err := session.RequestPty("xterm", 24, 80, nil); err != nil {
			t.Fatal(err)
		}
		if out, err := session.Output("audit tail"); string(out) != "a\r\nb\r\n" || err != nil {
			t.Errorf("%q, %v", out, err)
		}
	})
	t.Run("unless the log cannot be written", func(t *testing.T) {
		b := reads(t, func(context.Context, []string, io.Writer, io.Writer) int { t.Error("it was read"); return 0 })
		client := b.Dial()
		b.Book.Fail(errors.New("disk full"))
		out, errs, status := run(t, client, "audit tail")
		if out != "" || !strings.Contains(errs, "cannot be written") || status != 1 {
			t.Errorf("%q, %q, %d", out, errs, status)
		}
	})
	t.Run("until he goes", func(t *testing.T) {
		started, ended := make(chan struct{}), make(chan struct{})
		b := reads(t, func(ctx context.Context, _ []string, stdout, _ io.Writer) int {
			close(started)
			<-ctx.Done()
			close(ended)
			return 0
		})
		session, err := b.Dial().NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if err := session.Start("audit tail -f"); err != nil {
			t.Fatal(err)
		}
		<-started
		session.Close()
		promptly(t, "the command of a session that is closed", func() { <-ended })
	})
	t.Run("until he loses the role", func(t *testing.T) {
		next := make(chan struct{})
		failed := make(chan error, 1)
		b := reads(t, func(ctx context.Context, _ []string, stdout, _ io.Writer) int {
			io.WriteString(stdout, "a\n")
			<-next
			_, err := io.WriteString(stdout, "b\n")
			<-ctx.Done()
			failed <- err
			return 0
		})
		session, err := b.Dial().NewSession()
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		session.Stdout = &out
		if err := session.Start("audit tail -f"); err != nil {
			t.Fatal(err)
		}
		b.Book.Await(t, audit.AdminRead, 1)
		b.Server.SetPolicy(b.Parse(strings.Replace(auditors, "groups: [audit]}", "groups: [other]}", 1)))
		close(next)
		promptly(t, "a reader without a role", func() {
			if err := <-failed; err == nil {
				t.Error("he read on")
			}
		})
		session.Wait()
		if strings.Contains(out.String(), "b") {
			t.Errorf("he got %q", out.String())
		}
	})
	t.Run("with a few others at most", func(t *testing.T) {
		release := make(chan struct{})
		var running sync.WaitGroup
		running.Add(4)
		b := reads(t, func(_ context.Context, words []string, _, _ io.Writer) int {
			running.Done()
			<-release
			return 0
		})
		client := b.Dial()
		var sessions []*ssh.Session
		for range 4 {
			s, err := client.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Start("audit verify"); err != nil {
				t.Fatal(err)
			}
			sessions = append(sessions, s)
		}
		running.Wait()
		if _, errs, status := run(t, client, "audit head"); status != 1 || !strings.Contains(errs, "4 others read the log") {
			t.Errorf("%q, %d", errs, status)
		}
		close(release)
		for _, s := range sessions {
			if err := s.Wait(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestNobodyElseReadsTheLog(t *testing.T) {
	b := reads(t, func(context.Context, []string, io.Writer, io.Writer) int { t.Error("it was read"); return 0 })
	bob := b.DialAs(b.ClientConfig("bob", b.Bob))
	out, errs, status := run(t, bob, "audit head")
	if out != "" || !strings.Contains(errs, "wants the role auditor") || status != 1 {
		t.Errorf("%q, %q, %d", out, errs, status)
	}
	rec := b.Book.Await(t, audit.RequestDeny, 1)
	if rec.User != "bob" || rec.Request != "exec audit head" || rec.Detail != "the role auditor is needed" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
	if got := b.Book.Records(audit.AdminRead); len(got) > 0 {
		t.Errorf("%d records of reading", len(got))
	}
	for _, command := range []string{"auditor", "audit-head", "Audit head"} {
		if _, errs, status := run(t, bob, command); status != 1 || !strings.Contains(errs, "no commands are run here") {
			t.Errorf("%q: %q, %d", command, errs, status)
		}
	}
	bastiontest.Eventually(t, "a record of a command that is none", func() bool {
		return slices.ContainsFunc(b.Book.Records(audit.RequestDeny), func(r audit.Record) bool { return r.Request == "exec Audit head" })
	})
}
