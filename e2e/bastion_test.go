//go:build linux

package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/note"

	"sekisho/audit"
	"sekisho/audit/schematest"
)

// The private hosts of these tests. Their names are only in the bastion's
// hosts file, and the fence lists their addresses one by one: it admits
// loopback in no other way.
const (
	appserverIP = "127.0.0.2"
	rdsIP       = "127.0.0.3"
	deadIP      = "127.0.0.4"

	standardHosts = appserverIP + " appserver\n" + rdsIP + " rds\n" + deadIP + " dead\n" +
		deadIP + " half-dead\n" + appserverIP + " half-dead\n"

	standardGrants = `
targets:
  - {name: web, hosts: [appserver, half-dead, dead], ports: ["1-65535"]}
  - {name: db, hosts: [rds], ports: ["1-65535"]}
  - {name: secret, hosts: [vault], ports: ["1-65535"]}
grants:
  - {name: dev-web, groups: [developers], to: [web]}
  - {name: dba-db, users: [alice], groups: [dba], to: [db]}
`
)

// people are the users of the standard policy. Making keys takes time, so
// that all tests share them.
var people = sync.OnceValues(func() (p struct{ alice, bob key }, err error) {
	dir := filepath.Join(sharedDir, "people")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return p, err
	}
	if p.alice, err = makeKey(dir, "alice"); err != nil {
		return p, err
	}
	p.bob, err = makeKey(dir, "bob")
	return p, err
})

func alice(t *testing.T) key { return person(t, "alice") }
func bob(t *testing.T) key   { return person(t, "bob") }

func person(t *testing.T, name string) key {
	t.Helper()
	p, err := people()
	if err != nil {
		t.Fatal(err)
	}
	if name == "bob" {
		return p.bob
	}
	return p.alice
}

func standardUsers(t *testing.T) string {
	return fmt.Sprintf("version: 1\nusers:\n  - {name: alice, groups: [developers], keys: [%q]}\n  - {name: bob, groups: [dba], keys: [%q]}\n",
		alice(t).public, bob(t).public)
}

// setup says how a bastion differs from the standard one.
type setup struct {
	binary   string         // default the one with the race detector
	policy   string         // default standardUsers and standardGrants
	hosts    string         // default standardHosts
	networks []string       // default the private hosts, one by one
	limits   map[string]any // of sekisho.yaml
	settings map[string]any // its other top-level keys
	listen   string         // default 127.0.0.1:0
	wrap     []string       // a command that runs the server's
	mayFail  bool           // the exit status is not asserted when it stops
}

// bastion is a sekisho server that runs in a folder of its own.
type bastion struct {
	t       *testing.T
	setup   setup
	dir     string
	auditAt string // where the log is seen from here
	addr    string
	host    string
	port    int
	proc    *proc
	hostKey []ssh.PublicKey
	client  string // ssh_config(5) of alice, made by config
	stopped bool
}

// newBastion makes a bastion as an administrator does, with sekisho init, and
// starts it. When the test ends, it is stopped and its book is judged.
func newBastion(t *testing.T, s setup) *bastion {
	t.Helper()
	b := prepareBastion(t, s)
	b.start()
	return b
}

// prepareBastion makes the folder only.
func prepareBastion(t *testing.T, s setup) *bastion {
	t.Helper()
	s.binary = cmp.Or(s.binary, raceBinary)
	b := &bastion{t: t, setup: s, dir: filepath.Join(t.TempDir(), "sekisho")}
	b.auditAt = filepath.Join(b.dir, "audit")
	made, err := initialized()
	if err != nil {
		t.Fatal(err)
	}
	copyTree(t, made, b.dir)

	if s.policy == "" {
		s.policy = standardUsers(t) + standardGrants
	}
	writeFile(t, filepath.Join(b.dir, "policy.yaml"), s.policy)
	writeFile(t, filepath.Join(b.dir, "hosts"), cmp.Or(s.hosts, standardHosts))

	settings := map[string]any{
		"name":     "bastion-e2e",
		"listen":   []string{cmp.Or(s.listen, "127.0.0.1:0")},
		"networks": []string{appserverIP + "/32", rdsIP + "/32", deadIP + "/32"},
	}
	if s.networks != nil {
		settings["networks"] = s.networks
	}
	maps.Copy(settings, s.settings)
	if s.limits != nil {
		settings["limits"] = s.limits
	}
	adapt(t, filepath.Join(b.dir, "sekisho.yaml"), settings)

	keys, err := filepath.Glob(filepath.Join(b.dir, "ssh_host_*_key"))
	if err != nil || len(keys) != 3 {
		t.Fatalf("sekisho init made the host keys %v (%v), want three", keys, err)
	}
	for _, name := range keys {
		pem, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := ssh.ParsePrivateKey(pem)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		b.hostKey = append(b.hostKey, signer.PublicKey())
	}
	return b
}

// initialized is a folder made by sekisho init; each bastion gets a copy,
// because making host keys takes a while.
var initialized = sync.OnceValues(func() (string, error) {
	p, err := people()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(sharedDir, "initialized")
	out, err := exec.Command(staticBinary, "init", dir, "--user", "alice", "--key", p.alice.file+".pub").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("sekisho init: %v\n%s", err, out)
	}
	return dir, nil
})

// adapt sets keys of a YAML file and leaves the rest of it alone; a value
// that is a map is merged into what is there.
func adapt(t *testing.T, name string, settings map[string]any) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	merge(t, doc.Content[0], settings)
	var out bytes.Buffer
	if err := yaml.NewEncoder(&out).Encode(&doc); err != nil {
		t.Fatal(err)
	}
	writeFile(t, name, out.String())
}

func merge(t *testing.T, into *yaml.Node, settings map[string]any) {
	t.Helper()
	for name, value := range settings {
		i := slices.IndexFunc(into.Content, func(n *yaml.Node) bool { return n.Value == name })
		if i < 0 || i%2 != 0 {
			t.Fatalf("sekisho.yaml, as init made it, has no key %q", name)
		}
		if m, ok := value.(map[string]any); ok {
			merge(t, into.Content[i+1], m)
			continue
		}
		if err := into.Content[i+1].Encode(value); err != nil {
			t.Fatal(err)
		}
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := filepath.Join(to, strings.TrimPrefix(path, from))
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Mkdir(name, info.Mode().Perm())
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(name, content, info.Mode().Perm())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// listening is the line by which a server says where it listens.
const listening = `(?m)listening.*?((?:\d+\.){3}\d+):(\d+)`

// start runs the server and waits until it listens.
func (b *bastion) start() {
	t := b.t
	t.Helper()
	args := append(slices.Clone(b.setup.wrap), b.setup.binary, "serve", b.dir)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "GORACE=halt_on_error=0 atexit_sleep_ms=0")
	p, err := launch(cmd)
	if err != nil {
		t.Fatal(err)
	}
	b.proc, b.stopped = p, false
	t.Cleanup(func() {
		if b.proc == p && !b.stopped {
			b.stop()
		}
		p.kill()
		if t.Failed() {
			t.Logf("the server said: %s%s\nits records:\n%s", p.out, tail(p.err.String()), tail(b.text()))
		}
	})
	m := p.says(t, listening)
	b.host = m[1]
	fmt.Sscan(m[2], &b.port)
	b.addr = net.JoinHostPort(b.host, m[2])
	// It listens a moment before it follows its files, the hosts and the locks
	// at least: descriptors that are counted in between would be too few.
	eventually(t, "the server to follow its files", func() bool {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.pid()))
		followed := 0
		for _, link := range links {
			if to, _ := os.Readlink(link); to == "anon_inode:inotify" {
				followed++
			}
		}
		return followed >= 2
	})
}

// kill ends the server as a power cut would.
func (b *bastion) kill() {
	b.proc.kill()
	b.stopped = true
}

// stop ends the server as an administrator does, and judges what it leaves.
func (b *bastion) stop() {
	t := b.t
	t.Helper()
	b.stopped = true
	if b.proc.ended() {
		t.Errorf("the server had ended by itself: %v", b.proc.status)
	}
	b.proc.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-b.proc.done:
	case <-time.After(2 * hang):
		t.Errorf("the server did not end within %v of SIGTERM", 2*hang)
		b.proc.cmd.Process.Signal(syscall.SIGQUIT) // its goroutines into the log
		select {
		case <-b.proc.done:
		case <-time.After(hang):
		}
		return
	}
	if code := b.proc.code(); code != 0 && !b.setup.mayFail {
		t.Errorf("the server ended with exit status %d", code)
	}
	b.judge()
}

// judge looks at what a server that has ended leaves behind.
func (b *bastion) judge() {
	t := b.t
	t.Helper()
	said := b.proc.err.String() + b.proc.out.String()
	for _, bad := range []string{"DATA RACE", "panic:", "internal error", "fatal error:"} {
		if strings.Contains(said, bad) {
			t.Errorf("the server said %q", bad)
		}
	}
	records := b.records()
	var schema schematest.Check
	for _, r := range records {
		schema.Line(r.AppendJSON(nil))
	}
	if err := schema.Err(); err != nil {
		t.Error(err)
	}
	b.judgeLog()
	for _, f := range sortedForwards(forwardsOf(records)) {
		if f.open == nil {
			if f.end != nil || f.deny == nil {
				t.Errorf("forward %s has an end and no open", f.id)
			}
			continue
		}
		switch {
		case f.end == nil:
			t.Errorf("forward %s to %v was opened and has no end", f.id, f.open.Target)
		case f.ends > 1:
			t.Errorf("forward %s has %d ends", f.id, f.ends)
		case f.end.Seq < f.open.Seq:
			t.Errorf("forward %s ended before it was opened", f.id)
		case f.deny != nil:
			t.Errorf("forward %s is both opened and denied", f.id)
		case f.opens > 1:
			t.Errorf("forward %s was opened %d times", f.id, f.opens)
		}
	}
}

// judgeLog makes sure that the log is what was written, and nobody else's to
// read.
func (b *bastion) judgeLog() {
	t := b.t
	t.Helper()
	public, err := os.ReadFile(filepath.Join(b.dir, "log_key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := note.NewVerifier(strings.TrimSpace(string(public)))
	if err != nil {
		t.Fatal(err)
	}
	verdict, err := audit.Verify(context.Background(), b.auditAt, audit.VerifyOptions{Keys: []note.Verifier{key}})
	if err != nil || !verdict.Full() {
		t.Errorf("the log does not verify: %v, %+v", err, verdict)
	}
	filepath.WalkDir(b.auditAt+"/.", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			t.Error(err)
			return nil
		}
		info, err := d.Info()
		if err != nil {
			t.Error(err)
			return nil
		}
		want := fs.FileMode(0o600)
		switch {
		case d.Type() == fs.ModeSymlink && d.Name() == "current.jsonl", d.Name() == "filler":
			return nil
		case d.IsDir():
			want = 0o700 | fs.ModeDir
		}
		if info.Mode() != want {
			t.Errorf("%s has the mode %v, not %v", path, info.Mode(), want)
		}
		return nil
	})
}

// records reads the log as it is now.
func (b *bastion) records() []audit.Record {
	b.t.Helper()
	all, err := readBook(b.auditAt)
	if err != nil {
		b.t.Errorf("reading the audit log: %v", err)
	}
	return all
}

func readBook(dir string) (all []audit.Record, err error) {
	err = audit.Read(dir, func(r audit.Record) error {
		all = append(all, r)
		return nil
	})
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return all, err
}

// text is the log as it stands on the disk.
func (b *bastion) text() string {
	var text strings.Builder
	segments, _ := audit.Segments(b.auditAt)
	for _, s := range segments {
		r, err := s.Open()
		if err != nil { // it was packed in this moment
			return b.text()
		}
		io.Copy(&text, r)
		r.Close()
	}
	return text.String()
}

// recorded waits for a record of a type that ok, if not nil, accepts.
func (b *bastion) recorded(what audit.Type, ok func(audit.Record) bool) audit.Record {
	b.t.Helper()
	var found audit.Record
	eventually(b.t, fmt.Sprintf("a record %s", what), func() bool {
		for _, r := range b.records() {
			if r.Type == what && (ok == nil || ok(r)) {
				found = r
				return true
			}
		}
		return false
	})
	return found
}

// count is how many records of a type there are.
func (b *bastion) count(what audit.Type) int {
	n := 0
	for _, r := range b.records() {
		if r.Type == what {
			n++
		}
	}
	return n
}

// forwarded is what the book tells of one forward.
type forwarded struct {
	id               string
	open, end, deny  *audit.Record
	opens, ends      int
	retries, between []audit.Record
	first            uint64
}

// book is the log by forward.
func (b *bastion) book() map[string]*forwarded {
	b.t.Helper()
	return forwardsOf(b.records())
}

func forwardsOf(records []audit.Record) map[string]*forwarded {
	all := map[string]*forwarded{}
	for _, r := range records {
		if r.Forward == "" {
			continue
		}
		f := all[r.Forward]
		if f == nil {
			f = &forwarded{id: r.Forward, first: r.Seq}
			all[r.Forward] = f
		}
		switch {
		case r.Type == audit.ForwardOpen:
			f.open = &r
			f.opens++
		case r.Type.Ends():
			f.end = &r
			f.ends++
		case r.Type == audit.ForwardDeny:
			f.deny = &r
		case r.Type == audit.ForwardRetry:
			f.retries = append(f.retries, r)
		default:
			f.between = append(f.between, r)
		}
	}
	return all
}

func sortedForwards(all map[string]*forwarded) []*forwarded {
	return slices.SortedFunc(maps.Values(all), func(x, y *forwarded) int { return cmp.Compare(x.first, y.first) })
}

// forwards waits until n forwards have been opened and have ended, fails if
// there are more, and returns them in the order of their opening.
func (b *bastion) forwards(n int) []*forwarded {
	b.t.Helper()
	var got []*forwarded
	deadline := time.Now().Add(hang)
	for {
		got = got[:0]
		ended := 0
		for _, f := range sortedForwards(b.book()) {
			if f.open != nil {
				got = append(got, f)
				if f.end != nil {
					ended++
				}
			}
		}
		if ended == n && len(got) == n {
			return got
		}
		if time.Now().After(deadline) || len(got) > n {
			b.t.Fatalf("%d forwards were opened and %d of them have ended, want %d", len(got), ended, n)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// denied waits until n forwards have been denied and returns them.
func (b *bastion) denied(n int) []audit.Record {
	b.t.Helper()
	var got []audit.Record
	eventually(b.t, fmt.Sprintf("%d records forward.deny", n), func() bool {
		got = got[:0]
		for _, r := range b.records() {
			if r.Type == audit.ForwardDeny {
				got = append(got, r)
			}
		}
		return len(got) >= n
	})
	if len(got) != n {
		b.t.Fatalf("%d forwards were denied, want %d", len(got), n)
	}
	return got
}

// want is what the records of a forward should say. The zero values of user,
// typ and reasons mean alice, forward.close and anything.
type want struct {
	user, login string
	key         string
	grant       string
	host        string
	port        int
	address     string
	typ         audit.Type
	reasons     []string
	bytes       *tapped // nil: not known
	atMostDown  bool    // the client left before it read all
}

// check compares the open and the end of a forward.
func (f *forwarded) check(t *testing.T, w want) {
	t.Helper()
	w.user = cmp.Or(w.user, "alice")
	w.login = cmp.Or(w.login, w.user)
	if w.key == "" {
		w.key = person(t, w.user).fingerprint
	}
	w.typ = cmp.Or(w.typ, audit.ForwardClose)
	for _, r := range []*audit.Record{f.open, f.end} {
		got := fmt.Sprintf("user %s, login %s, key %s, grant %s, target %s %d, address %s, entrance %s",
			r.User, r.Login, r.Key, r.Grant, r.Target.Host, r.Target.Port, r.Address, r.Entrance)
		expected := fmt.Sprintf("user %s, login %s, key %s, grant %s, target %s %d, address %s:%d, entrance ssh",
			w.user, w.login, w.key, w.grant, w.host, w.port, w.address, w.port)
		if got != expected {
			t.Errorf("%s says\n\t%s, want\n\t%s", r.Type, got, expected)
		}
		if r.Conn == "" || r.Run == "" || r.Bastion != "bastion-e2e" || r.Client == "" || !r.Source.IsValid() || !strings.HasPrefix(r.Policy, "sha256:") {
			t.Errorf("%s leaves something out: %+v", r.Type, *r)
		}
	}
	if f.end.Type != w.typ {
		t.Errorf("the forward ended with %s (%s, %s), want %s", f.end.Type, f.end.Reason, f.end.Detail, w.typ)
	}
	if w.reasons != nil && !slices.Contains(w.reasons, f.end.Reason) {
		t.Errorf("the forward ended for %q (%s), want one of %q", f.end.Reason, f.end.Detail, w.reasons)
	}
	if w.bytes != nil {
		if f.end.BytesUp != w.bytes.up {
			t.Errorf("the record says %d bytes up, the private host got %d", f.end.BytesUp, w.bytes.up)
		}
		if f.end.BytesDown != w.bytes.down && (!w.atMostDown || f.end.BytesDown > w.bytes.down) {
			t.Errorf("the record says %d bytes down, the private host sent %d", f.end.BytesDown, w.bytes.down)
		}
	}
}

// descriptors is how many files and sockets the server holds.
func (b *bastion) descriptors() int {
	b.t.Helper()
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.proc.pid()))
	if err != nil {
		b.t.Fatal(err)
	}
	return len(names)
}

// settles waits until the server holds no more descriptors than it did.
func (b *bastion) settles(before int) {
	b.t.Helper()
	eventually(b.t, fmt.Sprintf("the server to be back at %d descriptors", before), func() bool { return b.descriptors() <= before })
}

var reloaded = regexp.MustCompile(`policy (reloaded|read again)|hosts file reloaded`)

// reload tells the server to read its files again and waits until the book
// says what came of it.
func (b *bastion) reload(outcome audit.Type) audit.Record {
	b.t.Helper()
	// The record comes before what it tells of, and the line after it.
	said := func() int { return len(reloaded.FindAllString(b.proc.err.String(), -1)) }
	before, lines := b.count(outcome), said()
	b.proc.cmd.Process.Signal(syscall.SIGHUP)
	eventually(b.t, "a record "+string(outcome), func() bool { return b.count(outcome) > before && (outcome != audit.PolicyLoad || said() > lines) })
	var last audit.Record
	for _, r := range b.records() {
		if r.Type == outcome {
			last = r
		}
	}
	return last
}

// moved is what the kernel says that the server has read and written, in
// bytes, on files and sockets alike.
func (b *bastion) moved() string {
	b.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", b.proc.pid()))
	if err != nil {
		b.t.Fatal(err)
	}
	chars, _, _ := strings.Cut(string(text), "syscr")
	return chars
}
