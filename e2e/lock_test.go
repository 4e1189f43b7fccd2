//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
)

func TestLockEndsAUsersForwardsWithinASecondAndNobodyElses(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	gone := make(chan struct{}, 2)
	quiet := serve(t, appserverIP, stalled(gone))
	db := serve(t, rdsIP, echo)
	b.login(alice(t)).mustOpen("appserver", quiet.port)
	_, local := b.localForward(quiet.as("appserver")) // a stock client's, too
	dialLocal(t, local)
	eventually(t, "both forwards", func() bool { return quiet.open.Load() == 2 })
	bobs := b.login(bob(t), "bob").mustOpen("rds", db.port)
	bobs.echoes()

	// No state of the policy keeps anybody in.
	policy := filepath.Join(b.dir, "policy.yaml")
	writeFile(t, policy, "users: [\n")
	r := b.sekisho("lock", "alice", "--why", "laptop stolen")
	returned := time.Now()
	if r.code != 0 || r.out != "user alice is locked; 2 forwards, 2 connections closed\n" {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	for range 2 {
		receive(t, "a target to see the end", gone)
	}
	if took := time.Since(returned); took > time.Second {
		t.Errorf("the targets saw the end %v after the command", took)
	}
	bobs.echoes()
	lock := b.recorded(audit.AdminLock, nil)
	if lock.Request != "lock user alice" || lock.User != "alice" || lock.Login != "root" || lock.Detail != "laptop stolen" || lock.Entrance != "admin" {
		t.Errorf("the record of the lock says %+v", lock)
	}
	for _, f := range b.book() {
		if f.end != nil && (f.end.User != "alice" || f.end.Reason != "locked") {
			t.Errorf("a forward of %s ended for %s", f.end.User, f.end.Reason)
		}
	}
	if rec := b.refusedLogin(alice(t)); rec.Reason != "locked" {
		t.Errorf("a login is refused for %s", rec.Reason)
	}
	bobs.echoes()
	if n := b.count(audit.AdminLock); n != 1 {
		t.Errorf("%d records admin.lock", n)
	}

	// It survives a restart; and what is locked while no server runs is told
	// of by the next one.
	writeFile(t, policy, standardUsers(t)+standardGrants)
	bobs.Close()
	b.stop()
	if r := b.sekisho("lock", "bob"); r.code != 0 || !strings.Contains(r.out, "no server answers here, and the next one begins with it") {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	b.start()
	b.client = ""
	for _, who := range []key{alice(t), bob(t)} {
		if _, err := b.tryLogin(b.clientConfig("root", ssh.PublicKeys(who.signer))); err == nil {
			t.Errorf("after a restart %s is in", who.public)
		}
	}
	later := b.recorded(audit.AdminLock, func(r audit.Record) bool { return r.User == "bob" })
	if later.Run == lock.Run {
		t.Error("the lock of before the start is recorded in the run before it")
	}
	if n := b.count(audit.AdminLock); n != 2 {
		t.Errorf("%d records admin.lock, of two locks", n)
	}

	if r := b.sekisho("unlock", "alice"); r.code != 0 || !strings.Contains(r.out, "user alice is no longer locked") {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	b.login(alice(t)).mustOpen("rds", db.port).echoes()
	if rec := b.recorded(audit.AdminLock, func(r audit.Record) bool { return strings.HasPrefix(r.Request, "unlock ") }); rec.User != "alice" || !strings.HasPrefix(rec.Login, "root") {
		t.Errorf("the record says %q, user %q, by %q", rec.Request, rec.User, rec.Login)
	}
	if r := b.sekisho("lock"); !strings.Contains(r.out, "user bob") || strings.Contains(r.out, "alice") {
		t.Errorf("the list says %q", r.out)
	}
}

func TestALockIsTakenOverWithoutTheCommandThatWroteIt(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	gone := make(chan struct{}, 1)
	db := serve(t, rdsIP, echo)
	b.login(alice(t)).mustOpen("appserver", serve(t, appserverIP, stalled(gone)).port)
	bobs := b.login(bob(t), "bob").mustOpen("rds", db.port)
	writeFile(t, filepath.Join(b.dir, "locks.yaml"), "version: 1\nlocked:\n  - {user: alice, at: \"2026-11-24T08:00:00Z\", by: carol, why: gone}\n")
	began := time.Now()
	receive(t, "the target to see the end", gone)
	if took := time.Since(began); took > time.Second {
		t.Errorf("the target saw the end %v after the file was there", took)
	}
	b.recorded(audit.AdminLock, func(r audit.Record) bool {
		return r.Request == "lock user alice" && r.Login == "carol" && r.Detail == "gone"
	})

	// A file that is gone, or damaged, gives nothing back.
	for _, spoil := range []func(string) error{os.Remove, func(name string) error { return os.WriteFile(name, []byte("locked: ["), 0o600) }} {
		rejects := b.count(audit.PolicyReject)
		if err := spoil(filepath.Join(b.dir, "locks.yaml")); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a record policy.reject", func() bool { return b.count(audit.PolicyReject) > rejects })
		if _, err := b.tryLogin(b.clientConfig("alice", signerAuth(alice(t)))); err == nil {
			t.Error("alice is in again")
		}
	}
	bobs.echoes()
}

func TestALockdownLetsNothingNewBeginButForAdmins(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{policy: standardUsers(t) + standardGrants + "roles:\n  admin: {users: [bob]}\n"})
	web, db := serve(t, appserverIP, echo), serve(t, rdsIP, echo)
	c, admin := b.login(alice(t)), b.login(bob(t), "bob")
	running := c.mustOpen("appserver", web.port)
	running.echoes()
	if r := b.sekisho("lockdown", "on"); r.code != 0 || !strings.Contains(r.out, "0 forwards, 0 connections closed") {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	running.echoes()
	if refusal := c.refused("appserver", web.port); refusal.Reason != ssh.Prohibited || !strings.Contains(refusal.Message, "locked down") {
		t.Errorf("a new forward: %v", refusal)
	}
	again := b.login(alice(t)) // to be told
	again.refused("appserver", web.port)
	admin.mustOpen("rds", db.port).echoes()
	if r := b.sekisho("lockdown", "off"); r.code != 0 {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	again.mustOpen("appserver", web.port).echoes()
	running.echoes()
	for _, what := range []string{"lockdown on", "lockdown off"} {
		b.recorded(audit.AdminLock, func(r audit.Record) bool {
			return r.Request == what && r.User == "" && strings.HasPrefix(r.Login, "root")
		})
	}
	if d := b.denied(2)[0]; d.Reason != "lockdown" || d.User != "alice" {
		t.Errorf("the denial is recorded as %s of %s", d.Reason, d.User)
	}
}

func TestTheAdminSocketIsOnlyForWhoServes(t *testing.T) {
	t.Parallel()
	needRoot(t, "to run a command as somebody else")
	b := newBastion(t, setup{})
	web := serve(t, appserverIP, echo)
	running := b.login(alice(t)).mustOpen("appserver", web.port)
	running.echoes()
	const nobody = 65534
	asNobody := func(args ...string) result {
		cmd := exec.Command(staticBinary, append(args, "--config", b.dir)...)
		cmd.Dir = "/"
		p := startAs(t, cmd, nobody)
		return result{code: p.wait(t), out: p.out.String(), err: p.err.String()}
	}
	for dir := b.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.Chmod(filepath.Join(b.dir, "sekisho.yaml"), 0o644)
	socket := filepath.Join(b.dir, "run", "sekisho.sock")
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the socket is %v (%v)", info, err)
	}
	// First as it is, then with its modes thrown open.
	for _, open := range []bool{false, true} {
		if open {
			os.Chmod(filepath.Dir(socket), 0o777)
			os.Chmod(socket, 0o666)
		}
		before := b.count(audit.PolicyLoad) + b.count(audit.PolicyReject)
		r := asNobody("reload", "--force")
		if r.code != 1 || r.out != "" || !strings.Contains(r.err, "sekisho: error: ") || !strings.Contains(r.err, "root") {
			t.Errorf("modes open %v: exit %d: %s%s", open, r.code, r.out, r.err)
		}
		if n := b.count(audit.PolicyLoad) + b.count(audit.PolicyReject); n != before {
			t.Errorf("modes open %v: the server has read its files", open)
		}
	}
	b.proc.says(t, `admin socket: a connection is refused`)
	if r := asNobody("lock", "alice"); r.code != 1 {
		t.Errorf("somebody else locks: exit %d: %s%s", r.code, r.out, r.err)
	}
	running.echoes()
	if r := b.sekisho("reload"); r.code != 0 {
		t.Errorf("who serves is refused: %s", r.err)
	}

	// What kill -9 leaves behind is taken over.
	b.proc.cmd.Process.Signal(syscall.SIGKILL)
	b.kill()
	os.Chmod(filepath.Dir(socket), 0o700)
	if _, err := os.Stat(socket); err != nil {
		t.Fatal(err)
	}
	if r := b.sekisho("reload"); r.code != 1 || !strings.Contains(r.err, "start it: sekisho serve") {
		t.Errorf("without a server: exit %d: %s%s", r.code, r.out, r.err)
	}
	b.start()
	if r := b.sekisho("reload"); r.code != 0 || !strings.Contains(r.out, "in force, unchanged") {
		t.Errorf("after a kill: exit %d: %s%s", r.code, r.out, r.err)
	}
}

// startAs is start as another user.
func startAs(t *testing.T, cmd *exec.Cmd, uid uint32) *proc {
	t.Helper()
	p := &proc{cmd: cmd, out: &output{}, err: &output{}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.out, p.err
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL, Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.status = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(p.kill)
	return p
}

func TestReloadTellsWhatHasBecomeOfIt(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	web, db := serve(t, appserverIP, echo), serve(t, rdsIP, echo)
	policy := filepath.Join(b.dir, "policy.yaml")
	good := standardUsers(t) + standardGrants
	c := b.login(alice(t))
	first, second := c.mustOpen("appserver", web.port), c.mustOpen("appserver", web.port)
	bobs := b.login(bob(t), "bob").mustOpen("rds", db.port)
	all := []*channel{first, second, bobs}
	echo := func() {
		t.Helper()
		for _, f := range all {
			f.echoes()
		}
	}
	echo()
	ids := func() (ids []string) {
		for _, f := range sortedForwards(b.book()) {
			if f.end == nil && f.open != nil && f.open.Grant == "dev-web" {
				ids = append(ids, f.id)
			}
		}
		return ids
	}

	if r := b.sekisho("reload"); r.code != 0 || r.out != "in force, unchanged: 2 users with 2 keys, 3 targets, 2 grants; 0 forwards, 0 connections closed\n" {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	writeFile(t, policy, strings.Replace(good, "to: [web]", "to: [wbe]", 1))
	if r := b.sekisho("reload"); r.code != 1 || r.out != "" || !matches(`policy.yaml:\d+:\d+: .*wbe`, r.err) || !strings.Contains(r.err, "in force stay") {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	b.recorded(audit.PolicyReject, func(r audit.Record) bool { return r.Reason == "command" && strings.Contains(r.Detail, "wbe") })
	echo()

	// Two of three forwards would end.
	without := standardUsers(t) + strings.Replace(standardGrants, "  - {name: dev-web, groups: [developers], to: [web]}\n", "", 1)
	writeFile(t, policy, without)
	r := b.sekisho("reload")
	if r.code != 1 || r.out != "" || !strings.Contains(r.err, "would end 2 of 3 forwards") || !strings.Contains(r.err, "sekisho reload --force") {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	for _, id := range ids() {
		if !matches(id+`  alice to appserver:\d+ since .*: no_grant`, r.err) {
			t.Errorf("forward %s is not listed: %s", id, r.err)
		}
	}
	echo()
	c.mustOpen("appserver", web.port).Close() // the one before is in force
	b.recorded(audit.PolicyReject, func(r audit.Record) bool { return strings.Contains(r.Detail, "would end 2 of 3 forwards") })

	r = b.sekisho("reload", "--force")
	returned := time.Now()
	if r.code != 0 || !strings.HasPrefix(r.out, "in force: ") || !strings.Contains(r.out, "; 2 forwards, 0 connections closed") {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	first.ends()
	second.ends()
	if took := time.Since(returned); took > time.Second {
		t.Errorf("the forwards ended %v after the command", took)
	}
	bobs.echoes()
	b.recorded(audit.PolicyLoad, func(r audit.Record) bool { return r.Reason == "command" })

	// Who gives the signal has been asked by nobody.
	writeFile(t, policy, good)
	b.reload(audit.PolicyLoad)
	third := c.mustOpen("appserver", web.port)
	fourth := c.mustOpen("appserver", web.port)
	third.echoes()
	fourth.echoes()
	writeFile(t, policy, without)
	if rec := b.reload(audit.PolicyLoad); rec.Reason != "signal" {
		t.Errorf("the load is recorded for %q", rec.Reason)
	}
	third.ends()
	fourth.ends()
	bobs.echoes()
}

func TestAuthorizedKeysNarrowAsSSHDWould(t *testing.T) {
	t.Parallel()
	k := newKey(t, "alice")
	web, other := serve(t, appserverIP, echo), serve(t, appserverIP, echo)
	b := prepareBastion(t, setup{
		policy:   "version: 1\nusers:\n  - {name: alice}\n" + strings.Replace("targets:\n  - {name: web, hosts: [IP], ports: [\"1-65535\"]}\n", "IP", `"`+appserverIP+`"`, 1) + "grants:\n  - {name: all, users: [alice], to: [web]}\n",
		settings: map[string]any{"authorized_keys_dir": "keys"},
	})
	folder := filepath.Join(b.dir, "keys")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(folder, "alice")
	writeFile(t, file, k.public+"\n")
	b.start()
	theirs := sshdWithKeys(t, file)

	// what says whether a client logs in, and reaches web and other.
	type what struct{ in, web, other bool }
	reaches := func(c *ssh.Client, port int) bool {
		conn, err := c.Dial("tcp", fmt.Sprintf("%s:%d", appserverIP, port))
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	try := func(addr string, config *ssh.ClientConfig) (w what) {
		c, err := ssh.Dial("tcp", addr, config)
		if err != nil {
			return w
		}
		defer c.Close()
		return what{true, reaches(c, web.port), reaches(c, other.port)}
	}
	open, shut := fmt.Sprintf(`permitopen="%s:%d"`, appserverIP, web.port), fmt.Sprintf(`permitopen="%s:1"`, appserverIP)
	for _, c := range []struct {
		options string
		want    what
	}{
		{"", what{true, true, true}},
		{`from="127.0.0.1"`, what{true, true, true}},
		{`from="127.0.0.0/8,!127.0.0.9"`, what{true, true, true}},
		{`from="127.0.0.*,!127.0.0.1"`, what{}},
		{`from="10.0.0.0/8"`, what{}},
		{`expiry-time="20200101"`, what{}},
		{`expiry-time="20990101"`, what{true, true, true}},
		{open, what{true, true, false}},
		{open + "," + shut, what{true, true, false}},
		{shut, what{true, false, false}},
		{"restrict", what{true, false, false}},
		{"restrict,port-forwarding", what{true, true, true}},
		{"restrict," + open, what{true, false, false}},
		{"restrict,port-forwarding," + open, what{true, true, false}},
		{"no-port-forwarding", what{true, false, false}},
		{"cert-authority", what{}},
		{"no-such-option", what{}},
	} {
		writeFile(t, file, strings.TrimSpace(c.options+" "+k.public)+"\n")
		if r := b.sekisho("reload"); r.code != 0 {
			t.Errorf("%s: %s", c.options, r.err)
		}
		ours := try(b.addr, b.clientConfig("alice", ssh.PublicKeys(k.signer)))
		if ours != c.want {
			t.Errorf("%q: a client logs in, and reaches two ports: %+v, want %+v", c.options, ours, c.want)
		}
		if theirs := try(theirs.addr, theirs.config(k)); theirs != c.want {
			t.Errorf("%q: with sshd %+v, want %+v", c.options, theirs, c.want)
		}
	}

	// A line that is taken out ends what it had opened, with no command.
	gone := make(chan struct{}, 1)
	writeFile(t, file, k.public+"\n")
	b.sekisho("reload")
	b.login(k).mustOpen(appserverIP, serve(t, appserverIP, stalled(gone)).port)
	loads := b.count(audit.PolicyLoad)
	writeFile(t, file, "# none\n")
	began := time.Now()
	receive(t, "the target to see the end", gone)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v from the change of the file until the forward ended", took)
	}
	b.recorded(audit.ForwardClose, func(r audit.Record) bool { return r.Reason == "key_removed" })
	b.recorded(audit.ConnClose, func(r audit.Record) bool { return r.Reason == "key_removed" })
	eventually(t, "a record of the load", func() bool { return b.count(audit.PolicyLoad) > loads })
	if rec := b.refusedLogin(k); rec.Reason != "unknown_key" {
		t.Errorf("another login is refused for %s", rec.Reason)
	}
}

// On a disk that is full somebody is locked out all the same, while the server
// lives; and nothing that is read anew gives that back.
func TestALockThatCannotBeWrittenHoldsUntilTheServerEnds(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	gone := make(chan struct{}, 1)
	b.login(alice(t)).mustOpen("appserver", serve(t, appserverIP, stalled(gone)).port)
	noRoom := func(args ...string) result {
		script := `ulimit -f 0; exec "$@"`
		return command(t, "", append([]string{"sh", "-c", script, "sh", staticBinary}, append(args, "--config", b.dir)...)...)
	}
	r := noRoom("lock", "alice")
	if r.code != 1 || !strings.Contains(r.err, "user alice is locked, 1 forward and 1 connection closed, but only until the server ends") || !strings.Contains(r.err, "file too large") {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	receive(t, "the target to see the end", gone)
	for _, again := range [][]string{{"reload"}, {"lock"}} {
		b.sekisho(again...)
		if rec := b.refusedLogin(alice(t)); rec.Reason != "locked" {
			t.Errorf("after sekisho %s a login is refused for %s", again, rec.Reason)
		}
	}
	// The next command that can write, writes that, too.
	if r := b.sekisho("lock", "bob"); r.code != 0 {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	b.stop()
	b.start()
	if _, err := b.tryLogin(b.clientConfig("root", ssh.PublicKeys(alice(t).signer))); err == nil {
		t.Error("after a restart alice is in")
	}
}
