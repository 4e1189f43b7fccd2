package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"sekisho/bastion"
)

func newStatus(std stdio) *cobra.Command {
	var w where
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [DIR]",
		Short: "Say how the server that runs is",
		Long: `Status asks the server that runs what it has in force, what it carries, and how its
audit log is. The exit status is 0 if it is well, and 1 if the log cannot be written,
if the last attempt to take files over has failed, or if no server runs.`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			var s status
			if err := w.ask(cmd, std, args, "GET", "/v1/status", nil, &s); err != nil {
				return err
			}
			if asJSON {
				if err := printJSON(std.out, s); err != nil {
					return err
				}
			} else if err := s.write(std.out); err != nil {
				return err
			}
			if s.Well {
				return nil
			}
			if !asJSON {
				for _, problem := range s.Problems {
					report(std.err, fmt.Errorf("%s", printable(problem)))
				}
			}
			return errTold
		},
	}
	w.addConfig(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}

// A status is how a server is.
type status struct {
	Well     bool     `json:"well"`
	Problems []string `json:"problems"` // why not

	Version string    `json:"version"`
	Go      string    `json:"go"` // the version that it is built with, and for what
	Name    string    `json:"name"`
	PID     int       `json:"pid"`
	Run     string    `json:"run"`
	Since   time.Time `json:"up_since"`
	Config  string    `json:"config"`
	Listen  []string  `json:"listen"`
	Metrics string    `json:"metrics,omitempty"` // where they are to be had
	Profile bool      `json:"pprof,omitempty"`   // are profiles, too

	Files []fileStatus `json:"files"` // in force

	Drain *drained `json:"drain,omitempty"` // nil: the server is not about to end

	Policy struct {
		File    string  `json:"file"`
		Hash    string  `json:"hash"`
		Summary string  `json:"summary"`
		Loaded  attempt `json:"loaded"`
	} `json:"policy"`
	Hosts struct {
		File  string `json:"file"`
		Names int    `json:"names"`
	} `json:"hosts"`
	Reload struct {
		Last   attempt   `json:"last"`
		Failed []attempt `json:"failed"` // after which no other of its kind was better
	} `json:"reload"`

	Locks          []string `json:"locks"`    // and revocations
	Lockdown       bool     `json:"lockdown"` // is one of them
	LocksUnwritten bool     `json:"locks_unwritten,omitempty"`

	Connections int                `json:"connections"`  // that are logged in
	BeforeLogin int                `json:"before_login"` // others
	Forwards    int                `json:"forwards"`
	Penalised   int                `json:"penalised"` // sources that are refused now
	Limits      []bastion.LimitUse `json:"limits"`    // where each of them stands
	NearLimit   []bastion.LimitUse `json:"near_limit"`

	Log    logStatus     `json:"log"`
	Syslog *syslogStatus `json:"syslog,omitempty"` // nil: the log is sent nowhere
}

// near reports whether a limit is at its edge.
func near(use bastion.LimitUse) bool { return use.Used*5 >= use.Most*4 }

// status is how the server is now.
func (svc *service) status(ctx context.Context) *status {
	st := &status{
		Version: version(), Go: fmt.Sprintf("%s %s/%s", runtime.Version(), runtime.GOOS, runtime.GOARCH), Name: svc.setup.settings.Name, PID: os.Getpid(), Run: svc.book.Run(), Since: svc.started, Config: svc.setup.config,
		Problems: []string{}, Listen: []string{}, Locks: []string{}, NearLimit: []bastion.LimitUse{},
	}
	for _, l := range svc.listeners {
		st.Listen = append(st.Listen, l.Addr().String())
	}
	if svc.metrics != nil {
		st.Metrics, st.Profile = svc.metrics.listener.Addr().String(), svc.setup.settings.Metrics.Pprof
	}
	if svc.drain.begun() {
		d := svc.drained()
		st.Drain = &d
	}

	svc.reloading.Lock()
	s := svc.setup
	st.Policy.File, st.Policy.Hash, st.Policy.Summary = s.path(s.settings.Policy), s.policy.Hash(), s.counts.String()
	st.Hosts.File, st.Hosts.Names = s.path(s.settings.Hosts), s.hosts.Table().Len()
	locks := s.beside.locks.List()
	st.LocksUnwritten, st.Files = svc.unwritten, svc.files()
	svc.reloading.Unlock()
	for _, l := range locks {
		st.Lockdown = st.Lockdown || l.IsLockdown()
		st.Locks = append(st.Locks, l.String())
	}
	st.Policy.Loaded, st.Reload.Last, st.Reload.Failed = svc.attempts.now()

	st.Connections, st.BeforeLogin = svc.server.LoggedIn()
	st.Forwards, st.Penalised = svc.server.Forwards(), svc.server.Penalised()
	st.Limits = svc.server.LimitsInUse()
	for _, use := range st.Limits {
		if near(use) {
			st.NearLimit = append(st.NearLimit, use)
		}
	}
	st.Log, st.Syslog = svc.logStatusNow(ctx), svc.syslogNow()

	for _, trouble := range []string{st.Log.trouble(), st.Syslog.trouble()} {
		if trouble != "" {
			st.Problems = append(st.Problems, trouble)
		}
	}
	for _, f := range st.Reload.Failed {
		st.Problems = append(st.Problems, fmt.Sprintf("what was to be taken over at %s (%s) was refused: %s", when(f.At), f.By, f.Error))
	}
	st.Well = len(st.Problems) == 0
	return st
}

// write prints it for people.
func (st *status) write(w io.Writer) error {
	up := brief(time.Since(st.Since).Truncate(time.Second))
	t := table{
		{"server", fmt.Sprintf("%s, pid %d, sekisho %s, %s", st.Name, st.PID, st.Version, st.Go)},
		{"up since", fmt.Sprintf("%s, %s; run %s", when(st.Since), up, st.Run)},
		{"settings", st.Config},
	}
	add := func(name string, values ...string) {
		for i, v := range values {
			if i > 0 {
				name = ""
			}
			t = append(t, []string{name, v})
		}
	}
	if d := st.Drain; d != nil {
		add("draining", fmt.Sprintf("since %s (%s); %s may end by themselves until %s", when(d.Since), d.By, many(d.Forwards, "forward"), when(d.Until)))
	}
	add("listens on", st.Listen...)
	switch {
	case st.Metrics != "" && st.Profile:
		add("metrics", st.Metrics+", and profiles")
	case st.Metrics != "":
		add("metrics", st.Metrics)
	}
	add("policy", st.Policy.File+", "+st.Policy.Hash, fmt.Sprintf("%s; since %s, by %s", st.Policy.Summary, when(st.Policy.Loaded.At), st.Policy.Loaded.By))
	add("hosts", fmt.Sprintf("%s, %s", st.Hosts.File, many(st.Hosts.Names, "name")))
	var files []string
	for _, f := range st.Files {
		files = append(files, fmt.Sprintf("%s %s, %s", f.What, f.File, f.Hash))
	}
	add("in force", files...)
	outcome := "taken over"
	if st.Reload.Last.Error != "" {
		outcome = "REFUSED: " + st.Reload.Last.Error
	}
	add("last load", fmt.Sprintf("%s, by %s: %s", when(st.Reload.Last.At), st.Reload.Last.By, outcome))
	if st.LocksUnwritten {
		add("locks", append([]string{"they are NOT IN THEIR FILE, and hold until the server ends"}, st.Locks...)...)
	} else {
		add("locks", st.Locks...)
	}
	add("carries", fmt.Sprintf("%s and %s; %s not logged in yet", many(st.Connections, "connection"), many(st.Forwards, "forward"), many(st.BeforeLogin, "connection")))
	if st.Penalised > 0 {
		add("penalties", fmt.Sprintf("%s refused for what was done there before a login", many(st.Penalised, "source")))
	}
	for _, use := range st.NearLimit {
		name := "limits." + use.Name
		if use.Name == "descriptors" {
			name = "the number of descriptors for clients and targets"
		}
		line := fmt.Sprintf("%s is %d, and %d are used", name, use.Most, use.Used)
		if use.By != "" {
			line += " by " + use.By
		}
		add("near limit", line)
	}
	var limits []string
	for _, use := range st.Limits {
		line := fmt.Sprintf("%s %d of %d", use.Name, use.Used, use.Most)
		if use.By != "" {
			line += ", by " + use.By
		}
		limits = append(limits, line)
	}
	add("limits", limits...)
	t = append(t, st.Log.rows()...)
	t = append(t, st.Syslog.rows()...)
	b := bufio.NewWriter(w)
	t.write(b)
	return b.Flush()
}
