//go:build linux

package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sekisho/audit"
)

// withAuditors is the standard policy with bob as auditor.
func withAuditors(t *testing.T) string {
	return standardUsers(t) + standardGrants + "roles:\n  auditor: {groups: [dba]}\n"
}

// sshAs are the arguments of ssh for somebody's own login at the bastion as it
// listens now.
func (b *bastion) sshAs(who key, name string) []string {
	return []string{"-F", b.config(who), "-l", name}
}

// The auditor has nothing but the public log key, an account with the role, and
// stock ssh. He reads, proves, and watches the log from his own machine.
func TestAnAuditorReadsAndWatchesTheLogOverSSH(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{policy: withAuditors(t)})
	host := serve(t, appserverIP, echo)
	c := b.login(alice(t))
	ch := c.mustOpen("appserver", host.port)
	ch.echoes()
	ch.CloseWrite()
	ch.ends()
	forward := b.recorded(audit.ForwardClose, nil).Forward

	key := filepath.Join(t.TempDir(), "log_key.pub")
	public, err := os.ReadFile(filepath.Join(b.dir, "log_key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, key, string(public))
	ask := func(name string, words ...string) result {
		return command(t, "", slices.Concat([]string{"ssh"}, b.sshAs(person(t, name), name), []string{"bastion", "audit"}, words)...)
	}

	// What he reads is a record before he reads it, so that he finds himself.
	r := ask("bob", "search", "--forward", forward, "--json")
	if r.code != 0 || strings.Count(r.out, `"forward":"`+forward+`"`) != 2 {
		t.Errorf("search: exit %d\n%s%s", r.code, r.out, r.err)
	}
	r = ask("bob", "search", "--type", "admin.read")
	if r.code != 0 || !strings.Contains(r.out, "audit search --type admin.read") {
		t.Errorf("reading the log is no record in it: exit %d\n%s%s", r.code, r.out, r.err)
	}
	r = ask("bob", "show", forward)
	if r.code != 0 || !strings.Contains(r.out, "alice") || !strings.Contains(r.out, "dev-web") {
		t.Errorf("show: exit %d\n%s%s", r.code, r.out, r.err)
	}

	// A proof that he takes along is checked without the server.
	r = ask("bob", "prove", forward)
	if r.code != 0 {
		t.Fatalf("prove: exit %d\n%s", r.code, r.err)
	}
	proof := filepath.Join(t.TempDir(), "proof")
	writeFile(t, proof, r.out)
	if out := succeeds(t, staticBinary, "audit", "check-proof", "--key", key, proof); !strings.Contains(out, forward) {
		t.Errorf("check-proof says %s", out)
	}
	writeFile(t, proof, strings.Replace(r.out, `"user":"alice"`, `"user":"bobby"`, 1))
	if r := command(t, "", staticBinary, "audit", "check-proof", "--key", key, proof); r.code != 1 {
		t.Errorf("check-proof of a changed record: exit %d\n%s%s", r.code, r.out, r.err)
	}

	// Somebody without the role reads nothing, and that he tried is a record.
	r = ask("alice", "search")
	if r.code != 1 || r.out != "" || !strings.Contains(r.err, "wants the role auditor") {
		t.Errorf("alice got exit %d\n%s%s", r.code, r.out, r.err)
	}
	b.recorded(audit.RequestDeny, func(rec audit.Record) bool { return rec.User == "alice" && rec.Request == "exec audit search" })
	// Nor does an auditor have the server open other files, or write any.
	for _, words := range [][]string{{"search", "--log", "/etc"}, {"search", "/etc"}, {"head", "--key", "/etc/passwd"}, {"tail", "--config", "/etc"}, {"key"}, {"witness"}, {"verify"}} {
		if r := ask("bob", words...); r.code == 0 || strings.Contains(r.out, "root:") {
			t.Errorf("audit %v: exit %d\n%s%s", words, r.code, r.out, r.err)
		}
	}

	// The witness: all is well as long as the log only grows, over restarts too.
	state := filepath.Join(t.TempDir(), "head")
	witness := func() result {
		return command(t, "", slices.Concat([]string{staticBinary, "audit", "witness", "--key", key, "--state", state, "--max-age", "1m", "bastion", "--"}, b.sshAs(bob(t), "bob"))...)
	}
	good := func(what string) {
		t.Helper()
		if r := witness(); r.code != 0 {
			t.Fatalf("%s: exit %d\n%s%s", what, r.code, r.out, r.err)
		}
	}
	good("the first head")
	older := filepath.Join(t.TempDir(), "older")
	if err := os.CopyFS(older, os.DirFS(b.auditAt)); err != nil {
		t.Fatal(err)
	}
	c.mustOpen("appserver", host.port).Close()
	good("a log that has grown")
	c.Close()
	b.proc.cmd.Process.Signal(os.Interrupt)
	b.proc.wait(t)
	b.start()
	good("a log that was closed and opened")

	kept, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}

	// Somebody with the server and the log key puts an older copy back. It is
	// whole and signed, but for him who has seen more.
	b.kill()
	replaceLog(t, b, older)
	b.start()
	for range 3 { // it may even have come to be longer
		r = witness()
		if r.code != 3 || !strings.Contains(r.err, "sekisho: error: ") {
			t.Fatalf("an older log put back: exit %d\n%s%s", r.code, r.out, r.err)
		}
		for range 12 {
			b.login(alice(t)).Close()
		}
	}
	if after, err := os.ReadFile(state); err != nil || string(after) != string(kept) {
		t.Errorf("the kept head %q became %q, %v", kept, after, err)
	}
	if alarms, _ := filepath.Glob(state + ".alarm-*"); len(alarms) == 0 {
		t.Error("what was offered is not kept as evidence")
	}
}

// replaceLog puts another log in the place of a bastion's.
func replaceLog(t *testing.T, b *bastion, from string) {
	t.Helper()
	if err := os.RemoveAll(b.auditAt); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(b.auditAt, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(b.auditAt, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return os.Chmod(path, 0o700)
		case d.Type().IsRegular():
			return os.Chmod(path, 0o600)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
