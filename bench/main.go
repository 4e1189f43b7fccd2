// Command bench measures sekisho beside Debian's sshd and the forwarding handler
// that its library brings along, on this machine, in turns.
//
//	load and targets (this process, ssh -N -L)  ◀──▶  sshd | stock | sekisho
//
// Each figure is taken from a server that was started for it, in each of several
// rounds, with the servers in turn; a ratio is of figures of one round. What a
// server costs is read from /proc: the processor time of its processes, dead
// ones too, and their proportional memory. All listens on loopback and ends with
// this process.
//
//	go run ./bench -doc docs/performance.md -plots docs/performance     all, which make bench does
//	go run ./bench -rows bulk,login -rounds 3                           some, to the terminal
//	go run ./bench -servers ours -ours old=/tmp/a -ours new=/tmp/b      two builds, side by side
//	go run ./bench -rows none -plots /tmp/p -curves forwards,decisions  some curves and no table
//
// It is for Linux. It wants sshd and ssh to be there, which e2e/peers.sh --openssh
// sees to.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// settings are what the command line says.
type settings struct {
	rows    string
	servers string
	ours    []string
	rounds  int
	disk    string
	tmpfs   string
	pin     bool
	doc     string
	plots   string
	curves  string
	options
}

func parseFlags(args []string) (s settings, err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&s.rows, "rows", "", "measure only these rows, parted by commas, or none")
	f.StringVar(&s.servers, "servers", "sshd,stock,ours", "measure only these; ratios are to the first")
	f.Func("ours", "[NAME=]PATH of a sekisho to measure instead of one that is built; may be given again", func(v string) error {
		s.ours = append(s.ours, v)
		return nil
	})
	f.IntVar(&s.rounds, "rounds", 5, "rounds")
	f.StringVar(&s.disk, "disk", "", "folder on a disk, for logs (default the temporary one)")
	f.StringVar(&s.tmpfs, "tmpfs", "/dev/shm", "folder on a tmpfs, for logs")
	f.StringVar(&s.doc, "doc", "", "write the table into this document, between its marks; wants all rows")
	f.StringVar(&s.plots, "plots", "", "measure curves, too, and draw them into this folder")
	f.StringVar(&s.curves, "curves", "", "measure only these curves, parted by commas")
	f.BoolVar(&s.pin, "pin", true, "give the servers one half of the processors and the load the other")
	f.Int64Var(&s.bytes, "bytes", 1e9, "bytes of a bulk transfer")
	f.DurationVar(&s.lasts, "lasts", 3*time.Second, "how long each part of the other rows lasts")
	f.IntVar(&s.idle, "idle", 500, "connections of the memory row")
	f.IntVar(&s.manyIdle, "many-idle", 5000, "idle connections beside a thousand forwards")
	f.IntVar(&s.sshdMost, "sshd-connections", 500, "most connections to sshd, which has two processes for each")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	if f.NArg() > 0 {
		return s, fmt.Errorf("%q is no flag", f.Arg(0))
	}
	if s.rounds < 1 || s.bytes < 1 || s.lasts < 10*time.Millisecond || s.idle < 1 || s.manyIdle < 0 || s.sshdMost < 1 {
		return s, errors.New("rounds, bytes, times and counts are above zero")
	}
	if s.doc != "" && (s.rows != "" || !strings.HasPrefix(s.servers, "sshd") || !strings.Contains(s.servers, "ours")) {
		return s, errors.New("-doc wants all rows, and sshd and ours among the servers")
	}
	if s.curves != "" && s.plots == "" {
		return s, errors.New("-curves wants -plots, the folder to draw them into")
	}
	_, err = chosenCurves(s.curves)
	return s, err
}

func run(ctx context.Context, args []string) (err error) {
	s, err := parseFlags(args)
	if err != nil {
		return err
	}
	chosen, err := chosenRows(s.rows)
	if err != nil {
		return err
	}
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	os.Setenv("LC_ALL", "C")
	os.Unsetenv("SSH_AUTH_SOCK")
	if err := moreFiles(); err != nil {
		return err
	}
	w, err := newWorkshop(s)
	if w != nil {
		defer w.close()
	}
	if err != nil {
		return err
	}
	contenders, err := w.contenders(ctx, s)
	if err != nil {
		return err
	}
	split, pinned, err := splitCPUs(s.pin)
	if err != nil {
		return err
	}
	w.servers, w.load = newLauncher(split.servers), newLauncher(split.load)
	if err := stayOn(&split.load); err != nil {
		return err
	}
	conditions := []string{machine(), pinned}
	for _, p := range w.places {
		conditions = append(conditions, p.String())
	}
	fmt.Println(strings.Join(conditions, "\n"))
	results := newResults(contenders)
	for _, r := range chosen {
		for round := range s.rounds {
			for i := range contenders {
				c := contenders[(i+round)%len(contenders)]
				var values map[string]float64 // none, if it is not measured
				if !r.oursOnly || c.kind == "ours" {
					if values, err = w.oneOrAgain(ctx, s, r, c); err != nil {
						return fmt.Errorf("%s, %s: %w", r.name, c.name, err)
					}
				}
				results.add(r, c, values)
			}
		}
		results.print(os.Stdout, r)
	}
	if s.doc != "" {
		text := fmt.Sprintf("Medians of %d rounds, with the least and the most. %s.\n\n%s", s.rounds, strings.Join(conditions, "; "), results.table(chosen))
		if err := write(s.doc, text); err != nil {
			return err
		}
	}
	if s.plots != "" {
		return w.plot(ctx, s, contenders, conditions[0])
	}
	return nil
}

// longest bounds each measurement.
const longest = 10 * time.Minute

// oneOrAgain tries twice: one mishap does not cost what was measured before.
func (w *workshop) oneOrAgain(ctx context.Context, s settings, r row, c contender) (map[string]float64, error) {
	values, err := w.one(ctx, s, r, c)
	if err == nil || ctx.Err() != nil {
		return values, err
	}
	fmt.Fprintf(os.Stderr, "bench: %s, %s, once more: %v\n", r.name, c.name, err)
	return w.one(ctx, s, r, c)
}

// one starts a server, measures a row, and stops the server.
func (w *workshop) one(outer context.Context, s settings, r row, c contender) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(outer, longest)
	defer cancel()
	i := slices.IndexFunc(w.places, func(p *place) bool { return p.name == r.place })
	running, err := w.start(ctx, c, w.places[i])
	if err != nil {
		return nil, err
	}
	defer running.stop()
	defer cancel() // the clients go first
	b := &bench{w, s.options, running, map[string]float64{}}
	if err := r.measure(ctx, b); err != nil {
		if outer.Err() != nil {
			return nil, context.Cause(outer)
		}
		return nil, fmt.Errorf("%w; it said: %s", cmp.Or(context.Cause(ctx), err), running.said())
	}
	return b.values, nil
}

func newWorkshop(s settings) (*workshop, error) {
	dir, err := os.MkdirTemp("", "sekisho-bench-")
	if err != nil {
		return nil, err
	}
	w := &workshop{dir: dir, prepared: map[string]string{}}
	if err := os.Chmod(dir, 0o755); err != nil { // sshd reads keys as its user
		return w, err
	}
	if w.user, err = makeKey(filepath.Join(dir, "user")); err != nil {
		return w, err
	}
	if w.host, err = makeKey(filepath.Join(dir, "host")); err != nil {
		return w, err
	}
	if w.sshdUser, err = sshdAccount(); err != nil {
		return w, err
	}
	for _, in := range [][2]string{{"tmpfs", s.tmpfs}, {"disk", s.disk}} {
		p, err := newPlace(in[0], in[1])
		if p != nil {
			w.places = append(w.places, p)
		}
		if err != nil {
			return w, err
		}
	}
	w.target, err = newTarget()
	return w, err
}

func (w *workshop) close() {
	if w.target != nil {
		w.target.close()
	}
	for _, p := range w.places {
		os.RemoveAll(p.dir)
	}
	os.RemoveAll(w.dir)
}

// contenders are the programs to measure, built where that is needed.
func (w *workshop) contenders(ctx context.Context, s settings) (all []contender, err error) {
	for _, kind := range strings.Split(s.servers, ",") {
		switch kind {
		case "sshd":
			path, err := exec.LookPath("sshd") // it wants to be called by its whole path
			if err != nil {
				return nil, fmt.Errorf("%w; as root on Debian: make peers", err)
			}
			if os.Getuid() == 0 { // of its privilege separation
				if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
					return nil, err
				}
			}
			all = append(all, contender{"sshd", "sshd", path})
		case "stock":
			path, err := buildOwn(ctx, w.dir, "sekisho/bench/stock")
			if err != nil {
				return nil, err
			}
			all = append(all, contender{"stock", "stock", path})
		case "ours":
			for i, v := range s.ours {
				name, path, named := strings.Cut(v, "=")
				if !named {
					path, name = v, "ours"
					if i > 0 {
						name = fmt.Sprintf("ours%d", i+1)
					}
				}
				if path, err = filepath.Abs(path); err != nil {
					return nil, err
				}
				all = append(all, contender{name, "ours", path})
			}
			if len(s.ours) == 0 {
				path, err := buildOwn(ctx, w.dir, "sekisho/cmd/sekisho")
				if err != nil {
					return nil, err
				}
				all = append(all, contender{"ours", "ours", path})
			}
		default:
			return nil, fmt.Errorf("there is no server %q; there are sshd, stock and ours", kind)
		}
	}
	return all, nil
}

// moreFiles raises the number of files that this process and its children may
// have open, as far as it can be raised.
func moreFiles() error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	if want := (syscall.Rlimit{Cur: 200_000, Max: 200_000}); l.Max < want.Max && syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want) == nil {
		return nil
	}
	l.Cur = l.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
}
