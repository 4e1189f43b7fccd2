//go:build linux

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestJumpHostRunsACommandOnAHostThatOnlyTheBastionKnows(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		args func(config string) []string
	}{
		{"ssh -J", func(config string) []string { return []string{"ssh", "-F", config, "-J", "bastion"} }},
		{"ProxyCommand with -W", func(config string) []string {
			return []string{"ssh", "-F", config, "-o", "ProxyCommand=ssh -F " + config + " bastion -W %h:%p"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			host := appserver(t)
			b := newBastion(t, setup{})
			got := succeeds(t, append(c.args(b.config(alice(t), host)), "appserver", "echo", "$SSH_CONNECTION; exit 0")...)
			if !strings.Contains(got, appserverIP) {
				t.Errorf("the command on the private host wrote %q, want its own address %s in it", got, appserverIP)
			}
			f := b.forwards(1)[0]
			counts := host.seen(t, 1)[0]
			f.check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP, bytes: &counts, atMostDown: true})
			if !strings.HasPrefix(f.open.Client, "SSH-2.0-OpenSSH") {
				t.Errorf("the client is recorded as %q", f.open.Client)
			}
			if f.end.BytesUp < 1000 || f.end.BytesDown < 1000 {
				t.Errorf("%d bytes up and %d down are too few for an SSH connection", f.end.BytesUp, f.end.BytesDown)
			}
			if n := b.count("auth.ok"); n != 1 {
				t.Errorf("%d records auth.ok, want 1", n)
			}
		})
	}
}

func TestLocalForwardCarriesADatabaseSession(t *testing.T) {
	t.Parallel()
	host := rds(t)
	b := newBastion(t, setup{})
	_, local := b.localForward(host.as("rds"))
	port := local[strings.LastIndexByte(local, ':')+1:]
	query := func(sql string) string {
		t.Helper()
		return succeeds(t, "mariadb", "--no-defaults", "--protocol=TCP", "-h", "127.0.0.1", "-P", port, "-u", "app", "-p"+databasePassword,
			"--batch", "--skip-column-names", "-e", sql, "shop")
	}
	if got := query("SELECT 6*7, @@bind_address"); got != "42\t"+rdsIP+"\n" {
		t.Errorf("the database answered %q", got)
	}
	if got := query("CREATE TABLE t (n INT); INSERT INTO t VALUES (1),(2),(3); SELECT SUM(n) FROM t; DROP TABLE t"); got != "6\n" {
		t.Errorf("the database answered %q", got)
	}
	const rows, width = 20000, 1000
	large := query(fmt.Sprintf("SELECT seq, REPEAT('x', %d) FROM seq_1_to_%d", width, rows))
	lines := strings.Split(strings.TrimSuffix(large, "\n"), "\n")
	if len(lines) != rows {
		t.Fatalf("the large result has %d rows, want %d", len(lines), rows)
	}
	for i, line := range lines {
		if want := fmt.Sprint(i+1, "\t", strings.Repeat("x", width)); line != want {
			t.Fatalf("row %d of the large result is %.40q…", i+1, line)
		}
	}

	counts := host.seen(t, 3)
	for i, f := range b.forwards(3) {
		f.check(t, want{grant: "dba-db", host: "rds", port: host.port, address: rdsIP, reasons: []string{"closed", "client_gone"}, bytes: &counts[i]})
	}
}

func TestDynamicForwardReachesAllowedNamesAndNoOthers(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	page := webPage(t, appserverIP)
	local := fmt.Sprintf("127.0.0.1:%d", freePort(t, "127.0.0.1"))
	args := b.ssh("-v", "-N", "-o", "ExitOnForwardFailure=yes", "-D", local, "bastion")
	client := start(t, exec.Command(args[0], args[1:]...))
	client.says(t, `Entering interactive session`)

	got := succeeds(t, "curl", "-sS", "--noproxy", "", "--socks5-hostname", local, fmt.Sprintf("http://appserver:%d/", page.port))
	if got != pageText {
		t.Errorf("the page is %q, want %q", got, pageText)
	}
	b.forwards(1)[0].check(t, want{grant: "dev-web", host: "appserver", port: page.port, address: appserverIP})

	for i, host := range []string{"payroll", "127.0.0.1", appserverIP} {
		r := command(t, "", "curl", "-sS", "--noproxy", "", "--socks5-hostname", local, fmt.Sprintf("http://%s:%d/", host, page.port))
		if r.code == 0 {
			t.Errorf("curl reached %s: %q", host, r.out)
		}
		d := b.denied(i + 1)[i]
		if d.Target.Host != host || d.Reason != "no_grant" || d.User != "alice" {
			t.Errorf("the record says %s may not reach %s (%s)", d.User, d.Target.Host, d.Reason)
		}
	}
	client.says(t, `alice may not open payroll:\d+ \(no grant\)`)
	if n := page.accepted.Load(); n != 1 {
		t.Errorf("the page was asked %d times, want once", n)
	}
}

const pageText = "a page on a private host\n"

// webPage is a web server as a private host.
func webPage(t *testing.T, ip string) *target {
	t.Helper()
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		io.WriteString(w, pageText)
	})
	return serve(t, ip, serveHTTP(handler))
}

func TestControlMasterCarriesSeveralClientsOverOneConnection(t *testing.T) {
	t.Parallel()
	host := appserver(t)
	b := newBastion(t, setup{})
	config := b.config(alice(t), host)
	socket := filepath.Join(t.TempDir(), "cm") // short: a socket's name has 108 bytes
	mux := []string{"-o", "ControlMaster=auto", "-o", "ControlPath=" + socket}
	master := start(t, exec.Command("ssh", append([]string{"-v", "-F", config, "-N"}, append(mux, "bastion")...)...))
	master.says(t, `Entering interactive session`)

	proxy := "ProxyCommand=ssh -F " + config + " " + strings.Join(mux, " ") + " -W %h:%p bastion"
	const clients = 4
	type answer struct {
		got string
		err error
	}
	answers := make(chan answer)
	for i := range clients {
		go func() {
			out, err := exec.CommandContext(testContext(t), "ssh", "-F", config, "-o", proxy, "appserver", "echo", fmt.Sprint(i)).Output()
			answers <- answer{string(out), err}
		}()
	}
	seen := map[string]bool{}
	for range clients {
		a := receive(t, "a client to end", answers)
		if a.err != nil {
			t.Errorf("a client: %v", a.err)
		}
		seen[a.got] = true
	}
	if len(seen) != clients {
		t.Errorf("the clients wrote %v, want %d different lines", seen, clients)
	}
	// The screen too comes over the master's connection.
	if got := succeeds(t, append([]string{"ssh", "-F", config}, append(mux, "bastion")...)...); !strings.Contains(got, "You are alice") {
		t.Errorf("ssh bastion over the master wrote %q", got)
	}

	forwards := b.forwards(clients)
	for _, f := range forwards {
		f.check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP})
		if f.open.Conn != forwards[0].open.Conn {
			t.Errorf("the forwards are on the connections %s and %s, want one", forwards[0].open.Conn, f.open.Conn)
		}
	}
	if n := b.count("auth.ok"); n != 1 {
		t.Errorf("%d logins, want 1", n)
	}
	succeeds(t, append([]string{"ssh", "-F", config}, append(mux, "-O", "exit", "bastion")...)...)
	b.recorded("conn.close", nil)
}

func TestFilesCopiedThroughTheJumpHostAreTheSame(t *testing.T) {
	t.Parallel()
	host := appserver(t)
	b := newBastion(t, setup{})
	config := b.config(alice(t), host)
	from := t.TempDir()
	makeTree(t, from)
	expected := treeSums(t, from)
	jump := "ssh -F " + config + " -J bastion"

	for _, c := range []struct {
		name string
		copy func(t *testing.T, there, back string)
	}{
		{"scp", func(t *testing.T, there, back string) {
			scp := []string{"scp", "-q", "-r", "-F", config, "-J", "bastion"}
			succeeds(t, append(scp, from, "appserver:"+there)...)
			succeeds(t, append(scp, "appserver:"+there, back)...)
		}},
		{"scp with the old protocol", func(t *testing.T, there, back string) {
			scp := []string{"scp", "-O", "-q", "-r", "-F", config, "-J", "bastion"}
			succeeds(t, append(scp, from, "appserver:"+there)...)
			succeeds(t, append(scp, "appserver:"+there, back)...)
		}},
		{"sftp", func(t *testing.T, there, back string) {
			script := fmt.Sprintf("mkdir %s\nput -R %s/. %s\nget -R %s/. %s\n", there, from, there, there, back)
			if err := os.Mkdir(back, 0o700); err != nil {
				t.Fatal(err)
			}
			r := command(t, script, "sftp", "-q", "-b", "-", "-F", config, "-J", "bastion", "appserver")
			if r.code != 0 {
				t.Fatalf("sftp: exit %d: %s%s", r.code, r.out, r.err)
			}
		}},
		{"rsync", func(t *testing.T, there, back string) {
			succeeds(t, "rsync", "-a", "-e", jump, from+"/", "appserver:"+there+"/")
			succeeds(t, "rsync", "-a", "-e", jump, "appserver:"+there+"/", back+"/")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			there, back := filepath.Join(dir, "there"), filepath.Join(dir, "back")
			c.copy(t, there, back)
			for where, dir := range map[string]string{"on the private host": there, "copied back": back} {
				got := treeSums(t, dir)
				for name, sum := range expected {
					if got[name] != sum {
						t.Errorf("%s, %s is another file or missing", where, name)
					}
				}
				if len(got) != len(expected) {
					t.Errorf("%s, there are %d files, want %d", where, len(got), len(expected))
				}
			}
		})
	}
	const forwards = 7 // sftp needs one, the others one each way
	counts := host.seen(t, forwards)
	var up, down uint64
	for i, f := range b.forwards(forwards) {
		f.check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP})
		up, down = up+counts[i].up, down+counts[i].down
	}
	for _, f := range b.forwards(forwards) {
		up, down = up-f.end.BytesUp, down-f.end.BytesDown
	}
	if up != 0 || int64(down) < 0 {
		t.Errorf("the records and the private host differ by %d bytes up and %d down", int64(up), int64(down))
	}
}

// makeTree makes files of many sizes, those around the sizes of packets and
// windows among them.
func makeTree(t *testing.T, dir string) {
	t.Helper()
	sizes := []int64{0, 1, 32<<10 - 1, 32 << 10, 32<<10 + 1, 2 << 20, 2<<20 + 1, 5 << 20}
	for i := range int64(40) {
		sizes = append(sizes, i*997)
	}
	for i, size := range sizes {
		sub := filepath.Join(dir, fmt.Sprintf("d%d", i%5))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(filepath.Join(sub, fmt.Sprintf("file %d", i)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(f, newPattern(byte(i)), size); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
}

func treeSums(t *testing.T, dir string) map[string]string {
	t.Helper()
	sums := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		sum, n := hashOf(f)
		sums[strings.TrimPrefix(path, dir)] = fmt.Sprint(n, " ", sum)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sums
}

func TestManyForwardsAtOnceOverOneConnectionAndOverSeveral(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name               string
		clients, forwarded int
	}{
		{"200 over one connection", 1, 200},
		{"25 over each of 8 connections", 8, 25},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBastion(t, setup{})
			host := serve(t, appserverIP, greet)
			before := b.descriptors()
			var clients []*proc
			total := c.clients * c.forwarded
			lines := make(chan error, total)
			release := make(chan struct{})
			for range c.clients {
				p, local := b.localForward(host.as("appserver"))
				clients = append(clients, p)
				for range c.forwarded {
					conn := make(chan error, 1)
					go func() {
						err := greeted(local, conn)
						lines <- err
						if err == nil {
							<-release
							conn <- nil
						}
					}()
				}
			}
			for range total {
				if err := receive(t, "a forward to open", lines); err != nil {
					t.Fatal(err)
				}
			}
			if n := host.open.Load(); int(n) != total {
				t.Errorf("%d forwards are open at once, want %d", n, total)
			}
			close(release)
			for i, f := range b.forwards(total) {
				f.check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP, bytes: &tapped{up: 5, down: uint64(len(greeting)) + 5}})
				if t.Failed() {
					t.Fatalf("forward %d", i)
				}
			}
			for _, p := range clients {
				p.kill()
			}
			b.settles(before)
		})
	}
}

// greeted connects, exchanges a few bytes, reports, and holds the connection
// until told.
func greeted(local string, release <-chan error) error {
	c, err := dialFor(local, 2*time.Minute)
	if err != nil {
		return err
	}
	fail := func(err error) error { c.Close(); return err }
	if _, err := io.WriteString(c, "ping\n"); err != nil {
		return fail(err)
	}
	want := greeting + "ping\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		return fail(fmt.Errorf("%w after %q", err, got))
	}
	if string(got) != want {
		return fail(fmt.Errorf("the target said %q", got))
	}
	go func() {
		<-release
		c.CloseWrite()
		io.Copy(io.Discard, c)
		c.Close()
	}()
	return nil
}
