package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh/knownhosts"

	"sekisho/audit"
)

func newDemo(std stdio) *cobra.Command {
	var keep, raw bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show it all on this machine: a server, a private web page, and the commands to try",
		Long: `Demo makes a temporary folder with a key of its own, serves a small web page that
only Sekisho knows by name, and the server before it, all on loopback. It prints
commands for another terminal, and then the audit records as they come, until
it is interrupted.`,
		Args: none,
		RunE: func(cmd *cobra.Command, args []string) error {
			return demo(cmd.Context(), std, keep, raw)
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the folder at the end")
	cmd.Flags().BoolVar(&raw, "json", false, "print the records as they are in the log")
	return cmd
}

// demo runs what init makes and serve serves, around a page of its own.
func demo(ctx context.Context, std stdio, keep, raw bool) error {
	// The terminal is closed, or what the output is piped into has ended: the
	// folder is to be removed then, too.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	dir, err := os.MkdirTemp("", "sekisho-demo-")
	if err != nil {
		return err
	}
	if keep {
		defer fmt.Fprintf(std.out, "\nThe folder is kept: %s\n", dir)
	} else {
		defer os.RemoveAll(dir)
	}

	page, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	target := &http.Server{Handler: http.HandlerFunc(demoPage), ReadHeaderTimeout: time.Minute}
	var serving sync.WaitGroup
	defer serving.Wait()
	serving.Go(func() { target.Serve(page) })
	defer target.Close()

	config, err := demoFiles(dir, page.Addr().(*net.TCPAddr).Port)
	if err != nil {
		return err
	}
	s, problems := load(config, flags{"listen": {"127.0.0.1:" + strconv.Itoa(freePort(2222))}}, nil)
	if problems.Err() != nil {
		return &badFiles{problems}
	}
	log, err := newLog(std.err, "error", "text") // the records tell the rest
	if err != nil {
		return err
	}
	svc, err := start(s, log)
	if err != nil {
		return err
	}
	d := demoText{dir: dir, page: page.Addr().(*net.TCPAddr).Port, port: svc.listeners[0].Addr().(*net.TCPAddr).Port}
	if err = d.writeClientFiles(s); err == nil {
		fmt.Fprint(std.out, d.commands())
	}

	showing, shown := context.WithCancel(context.WithoutCancel(ctx))
	var printer sync.WaitGroup
	printer.Go(func() { follow(showing, svc.auditPath(), std.out, raw) })
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err != nil {
		cancel()
	}
	err = errors.Join(err, svc.run(ctx, nil))
	shown()
	printer.Wait()
	return err
}

func demoPage(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, "This page is private: only Sekisho knows its server by name. You came through\nSekisho, and it has written that down.\n")
}

// freePort is the usual port, or where that is taken, any other of loopback.
func freePort(usual int) int {
	for _, port := range []int{usual, 0} {
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			l.Close()
			return l.Addr().(*net.TCPAddr).Port
		}
	}
	return usual
}

const demoUser = "demo"

// demoFiles makes the folder as init does, with the page as the one target.
func demoFiles(dir string, page int) (config string, err error) {
	key, err := makeUserKey(demoUser)
	if err != nil {
		return "", err
	}
	hostKeys, err := makeHostKeys("sekisho-demo")
	if err != nil {
		return "", err
	}
	logKey, err := makeLogKey(demoUser)
	if err != nil {
		return "", err
	}
	p := newPlan(demoUser, []string{key.line()}, []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")})
	p.Name, p.NetworksFound = "demo", false
	p.Grant, p.Targets = "admins-web", []planTarget{{"web", []string{"web"}, []string{strconv.Itoa(page)}}}
	p.Hosts = []string{"127.0.0.1 web"}
	files, err := p.files(hostKeys)
	if err != nil {
		return "", err
	}
	files = append(files, logKey.files(defaultSettings().Audit.Key)...)
	files = append(files, newFile{"demo_key", key.private, 0o600}, newFile{"demo_key.pub", []byte(key.line() + "\n"), 0o644})
	return filepath.Join(dir, "sekisho.yaml"), writeNew(dir, files)
}

// A demoText is what the demo tells its user.
type demoText struct {
	dir        string
	page, port int
}

// writeClientFiles writes what ssh needs so that nothing is asked: the
// server's host keys, and a configuration.
func (d demoText) writeClientFiles(s *setup) error {
	var known strings.Builder
	for _, key := range s.hostKeys {
		fmt.Fprintln(&known, knownhosts.Line([]string{net.JoinHostPort("127.0.0.1", strconv.Itoa(d.port))}, key.PublicKey()))
	}
	quoted := func(name string) string { return `"` + filepath.Join(d.dir, name) + `"` }
	config := fmt.Sprintf(`Host bastion
  HostName 127.0.0.1
  Port %d
  User %s
  IdentityFile %s
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile %s
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
`, d.port, demoUser, quoted("demo_key"), quoted("known_hosts"))
	return writeNew(d.dir, []newFile{
		{"known_hosts", []byte(known.String()), 0o644},
		{"ssh_config", []byte(config), 0o644},
	})
}

// commands are those to type in another terminal; each stands on a line of
// its own after "$ ".
func (d demoText) commands() string {
	ssh := "ssh -F " + shellWord(filepath.Join(d.dir, "ssh_config"))
	web := "web:" + strconv.Itoa(d.page)
	return fmt.Sprintf(`Sekisho listens on 127.0.0.1:%[1]d. Behind it is a web page at %[2]s, a name that
only Sekisho knows. In another terminal, try:

  who you are, and what you may reach
    $ %[3]s bastion

  a local port that leads to the page (^C ends it)
    $ %[3]s -N -L %[5]d:%[2]s bastion
    $ curl http://127.0.0.1:%[5]d/    # in a third terminal

  the page through standard input and output, as ProxyCommand does it
    $ printf 'GET / HTTP/1.0\r\nHost: web\r\n\r\n' | %[3]s -W %[2]s bastion

  a SOCKS proxy, so that names are looked up by Sekisho (^C ends it)
    $ %[3]s -N -D %[6]d bastion
    $ curl --socks5-hostname 127.0.0.1:%[6]d http://%[2]s/    # in a third terminal

  what the policy does not allow
    $ %[3]s -W web:22 bastion

The settings, the policy and the audit log are in %[4]s.
The audit records, as they come (^C ends the demo):

`, d.port, web, ssh, d.dir, freePort(18080), freePort(11080))
}

// follow prints the records of a log as they are written, until ctx ends and
// all of them are printed.
func follow(ctx context.Context, dir string, w io.Writer, raw bool) {
	var next uint64
	var size int64
	for ended := false; !ended; {
		select {
		case <-ctx.Done():
			ended = true
		case <-time.After(100 * time.Millisecond):
		}
		now := folderSize(dir)
		if now == size {
			continue
		}
		size = now
		audit.Read(dir, func(rec audit.Record) error {
			if rec.Seq >= next {
				next = rec.Seq + 1
				printRecord(w, rec, raw)
			}
			return nil
		})
	}
}

func folderSize(dir string) (size int64) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			size += info.Size()
		}
	}
	return size
}

// printRecord prints a record on one line: as it is, or for people.
func printRecord(w io.Writer, rec audit.Record, raw bool) {
	if raw {
		w.Write(append(rec.AppendJSON(nil), '\n'))
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %-16s", rec.Time.Local().Format("15:04:05"), rec.Type)
	add := func(format string, args ...any) { fmt.Fprintf(&b, "  "+format, args...) }
	if rec.User != "" {
		add("%s", rec.User)
	} else if rec.Login != "" {
		add("%s?", rec.Login)
	}
	if rec.Target.Host != "" {
		target := net.JoinHostPort(rec.Target.Host, strconv.FormatUint(uint64(rec.Target.Port), 10))
		if rec.Address.IsValid() {
			target += " → " + rec.Address.String()
		}
		add("%s", target)
	} else if rec.Source.IsValid() {
		add("from %s", rec.Source)
	}
	if rec.Request != "" {
		add("%s", rec.Request)
	}
	if rec.Grant != "" {
		add("grant %s", rec.Grant)
	}
	if rec.Type.Ends() {
		add("%d bytes up, %d down, %v", rec.BytesUp, rec.BytesDown, rec.Duration)
	}
	if rec.Reason != "" {
		add("%s", rec.Reason)
	}
	if rec.Detail != "" && rec.Detail != rec.Reason {
		add("(%s)", rec.Detail)
	}
	fmt.Fprintln(w, printable(b.String()))
}
