package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sekisho/audit"
)

// lockedBuffer may be written by a logger and read by a test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// startTest starts a service in a folder as the demo's, which no one follows
// yet.
func startTest(t *testing.T) (*service, string, *lockedBuffer) {
	t.Helper()
	dir := t.TempDir()
	config, err := demoFiles(dir, 80)
	if err != nil {
		t.Fatal(err)
	}
	s, problems := load(config, flags{"listen": {"127.0.0.1:0"}}, nil)
	if problems.Err() != nil {
		t.Fatal(problems)
	}
	out := &lockedBuffer{}
	log, err := newLog(out, "info", "text")
	if err != nil {
		t.Fatal(err)
	}
	svc, err := start(s, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		svc.server.Shutdown(context.Background())
		for _, l := range svc.listeners {
			l.Close()
		}
		svc.book.Close()
	})
	return svc, dir, out
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func records(t *testing.T, dir string) (all []audit.Record) {
	t.Helper()
	if err := audit.Read(filepath.Join(dir, "audit"), func(r audit.Record) error { all = append(all, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestReloadTakesOverBothOrNeither(t *testing.T) {
	const goodPolicy, badPolicy = "version: 1\n", "version: 1\nuser: []\n"
	const goodHosts, badHosts = "10.0.0.1 db\n", "10.0.0.1\n"
	for _, test := range []struct {
		name, policy, hosts string
		taken               bool
		said                []string
	}{
		{"both good", goodPolicy, goodHosts, true, nil},
		{"bad policy", badPolicy, goodHosts, false, []string{`policy.yaml:2:1: unknown key`}},
		{"bad hosts", goodPolicy, badHosts, false, []string{"hosts:1:1: address 10.0.0.1 has no name"}},
		{"both bad", badPolicy, badHosts, false, []string{"policy.yaml:2:1:", "hosts:1:1:"}},
		{"hosts that are empty", goodPolicy, "", false, []string{"taken as cut off"}},
		{"hosts that are cut off", goodPolicy, "10.0.0.1 d", false, []string{"no newline at the end: taken as cut off"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			svc, dir, out := startTest(t)
			before := svc.setup.policy.Hash()
			write(t, dir, "policy.yaml", test.policy)
			write(t, dir, "hosts", test.hosts)
			svc.reload(bySignal, true)
			names := strings.Join(svc.setup.hosts.Table().Names(), " ")
			last := records(t, dir)
			end := last[len(last)-1]
			if test.taken {
				if svc.setup.policy.Hash() == before || names != "db" || end.Type != audit.PolicyLoad || end.Policy != svc.setup.policy.Hash() {
					t.Errorf("policy %s, hosts %q, record %+v", svc.setup.policy.Hash(), names, end)
				}
				return
			}
			if svc.setup.policy.Hash() != before || names != "web" || end.Type != audit.PolicyReject || end.Policy != before {
				t.Errorf("policy %s, hosts %q, record %+v", svc.setup.policy.Hash(), names, end)
			}
			for _, said := range test.said {
				if !strings.Contains(end.Detail, said) || !strings.Contains(out.String(), said) {
					t.Errorf("%q is not said: %q\n%s", said, end.Detail, out)
				}
			}
			// Good again, it is taken over.
			write(t, dir, "policy.yaml", goodPolicy)
			write(t, dir, "hosts", goodHosts)
			svc.reload(bySignal, true)
			if names := strings.Join(svc.setup.hosts.Table().Names(), " "); names != "db" || svc.setup.policy.Hash() == before {
				t.Errorf("a good reload is not taken over: %q", names)
			}
		})
	}
}

func TestReloadWithoutALogTakesAccessAwayAllTheSame(t *testing.T) {
	svc, dir, out := startTest(t)
	before := svc.setup.policy.Hash()
	svc.book.Close()
	write(t, dir, "policy.yaml", "version: 1\n")
	began := time.Now()
	svc.reload(bySignal, true)
	if svc.setup.policy.Hash() == before || time.Since(began) > time.Second {
		t.Errorf("the policy is not taken over in time: %v", time.Since(began))
	}
	if !strings.Contains(out.String(), "the policy is in force, but its load is not in the audit log") {
		t.Errorf("it is not said:\n%s", out)
	}
	write(t, dir, "policy.yaml", "version: 2\n")
	svc.reload(bySignal, true)
	if !strings.Contains(out.String(), "that the files were refused is not in the audit log") {
		t.Errorf("it is not said:\n%s", out)
	}
}

func TestReloadOfFilesThatAreGone(t *testing.T) {
	svc, dir, out := startTest(t)
	before := svc.setup.policy.Hash()
	os.Remove(filepath.Join(dir, "policy.yaml"))
	os.Remove(filepath.Join(dir, "hosts"))
	svc.reload(bySignal, true)
	svc.reloadHosts()
	svc.reloadPolicy()
	if svc.setup.policy.Hash() != before || svc.setup.hosts.Table().Len() != 1 {
		t.Error("something was taken over")
	}
	for _, said := range []string{"policy.yaml: cannot be read: no such file", "hosts: cannot be read: no such file"} {
		if !strings.Contains(out.String(), said) {
			t.Errorf("%q is not said:\n%s", said, out)
		}
	}
}

func TestFilesThatCannotBeReadAreTriedAgain(t *testing.T) {
	svc, dir, out := startTest(t)
	for name, again := range map[string]func() bool{"policy.yaml": svc.reloadPolicy, "hosts": svc.reloadHosts} {
		path := filepath.Join(dir, name)
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		if !again() || !again() {
			t.Errorf("%s is not to be tried again", name)
		}
		if n := strings.Count(out.String(), name+": cannot be read"); n != 1 {
			t.Errorf("that %s cannot be read is told %d times:\n%s", name, n, out)
		}
		write(t, dir, name, "no good\n")
		if again() {
			t.Errorf("%s is to be tried again for its content", name)
		}
	}
}

func TestChangesOfNamesAreRecorded(t *testing.T) {
	svc, dir, out := startTest(t)
	last := func() (audit.Record, int) {
		all := records(t, dir)
		return all[len(all)-1], len(all)
	}
	write(t, dir, "hosts", "10.0.0.1 db web\n")
	svc.reloadHosts()
	rec, _ := last()
	sum := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("10.0.0.1 db web\n")))
	if rec.Type != audit.PolicyLoad || rec.Reason != "hosts" || rec.Policy != svc.setup.policy.Hash() || rec.Detail != "hosts: 2 names, "+sum {
		t.Errorf("the record is %+v", rec)
	}
	_, before := last()
	for _, content := range []string{"10.0.0.1\n", "10.0.0.1\n", "10.0.0.1\n\n"} {
		write(t, dir, "hosts", content)
		svc.reloadHosts()
	}
	rec, after := last()
	if rec.Type != audit.PolicyReject || rec.Reason != "hosts" || !strings.Contains(rec.Detail, "hosts:1:1: address 10.0.0.1 has no name") || after != before+2 {
		t.Errorf("%d records, the last is %+v", after-before, rec)
	}
	if n := strings.Count(out.String(), "the hosts file is not taken over"); n != 2 {
		t.Errorf("told %d times:\n%s", n, out)
	}
	// A signal takes over names and policy, and records both.
	write(t, dir, "hosts", "10.0.0.1 db\n")
	write(t, dir, "policy.yaml", "version: 1\n")
	svc.reload(bySignal, true)
	all := records(t, dir)
	names, policy := all[len(all)-2], all[len(all)-1]
	if names.Reason != "hosts" || policy.Reason != "signal" || names.Policy != policy.Policy {
		t.Errorf("the records are %+v and %+v", names, policy)
	}
}

func TestARefusalSaysWhatIsFollowedAllTheSame(t *testing.T) {
	const badPolicy, badHosts = "version: 2\n", "10.0.0.1\n"
	for _, test := range []struct {
		policy, hosts string
		watch         bool
		said          string
	}{
		{badPolicy, "10.0.0.1 db\n", false, "SIGHUP: the policy that was in force stays; the hosts file is followed on its own"},
		{"version: 1\n", badHosts, false, "SIGHUP: nothing is taken over: the policy and hosts that were in force stay"},
		{"version: 1\n", badHosts, true, "SIGHUP: the hosts that were in force stay; the policy is followed on its own"},
		{badPolicy, badHosts, true, "SIGHUP: nothing is taken over: the policy and hosts that were in force stay"},
	} {
		svc, dir, out := startTest(t)
		svc.setup.settings.Watch = test.watch
		write(t, dir, "policy.yaml", test.policy)
		write(t, dir, "hosts", test.hosts)
		svc.reload(bySignal, true)
		if !strings.Contains(out.String(), test.said) {
			t.Errorf("%q is not said:\n%s", test.said, out)
		}
	}
}
