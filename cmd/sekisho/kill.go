package main

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"sekisho/audit"
	"sekisho/authz"
	"sekisho/bastion"
	"sekisho/bastion/admin"
)

func newKill(std stdio) *cobra.Command {
	var w where
	var want wantKill
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "kill ID… | --user USER | --target HOST[:PORT]",
		Short: "End connections and forwards at once",
		Long: `Kill ends a connection (c…) with all that it carries, or a forward (f…), within a
second; sekisho sessions lists their ids. With --user it ends all that a user has,
and with --target all forwards to a host: a name as it was asked for, an address
also where a name led to it.

It keeps nobody from coming back: sekisho lock does. It is recorded before anything
is ended; if that fails, it acts all the same, says so, and the exit status is 1. So
it is if there is nothing to end.`,
		Example: `  sekisho kill f3k5h2q7w4m6n2p5a --why "ticket 4711"
  sekisho kill --target rds:3306`,
		Args: func(cmd *cobra.Command, args []string) error {
			want.IDs = args
			for _, name := range []string{"user", "target"} {
				if f := cmd.Flags().Lookup(name); f.Changed && f.Value.String() == "" { // a variable of a script that is not set
					return usagef("see sekisho kill --help", "what is after --%s is empty", name)
				}
			}
			for _, arg := range args { // other commands take one
				if info, err := os.Stat(arg); err == nil && info.IsDir() {
					return usagef("the folder of a server goes after --config: --config "+shellWord(arg), "%q is a folder, and kill takes ids", arg)
				}
			}
			_, err := want.aims()
			return err
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			var done killed
			if err := w.ask(cmd, std, nil, "POST", "/v1/kill", want, &done); err != nil {
				return err
			}
			if asJSON {
				if err := printJSON(std.out, done); err != nil {
					return err
				}
				if done.well() {
					return nil
				}
				return errTold
			}
			return done.tell(std)
		},
	}
	w.addConfig(cmd)
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "print what was ended as JSON")
	f.StringVar(&want.User, "user", "", "end all connections of this `user` of the policy")
	f.StringVar(&want.Target, "target", "", "end all forwards to this `host`, or host:port")
	f.StringVar(&want.Why, "why", "", "a `reason`, for the record")
	return cmd
}

// mostKilled bounds how many ids one command may name: each has a record.
const mostKilled = 1000

// A wantKill names what is to be ended in one of three ways.
type wantKill struct {
	IDs    []string `json:"ids,omitempty"`
	User   string   `json:"user,omitempty"`
	Target string   `json:"target,omitempty"`
	Why    string   `json:"why,omitempty"`
}

type killed struct {
	Connections int      `json:"connections"`
	Forwards    int      `json:"forwards"`             // on them or not
	Missing     []string `json:"missing,omitempty"`    // what was named, and has nothing open
	Unrecorded  string   `json:"unrecorded,omitempty"` // why it is not in the audit log
}

// well reports whether all that was named is ended, and recorded.
func (k *killed) well() bool { return k.Unrecorded == "" && len(k.Missing) == 0 }

// An aim is one thing that is to be ended, and what its record says of it.
type aim struct {
	what      string
	selection bastion.Selection
	record    audit.Record
}

var idForm = regexp.MustCompile(`^[cf][a-z2-7]{16}$`) // see audit.NewID

// aims reads what is named. An error is one of usage.
func (w wantKill) aims() ([]aim, error) {
	ways := 0
	for _, is := range []bool{len(w.IDs) > 0, w.User != "", w.Target != ""} {
		if is {
			ways++
		}
	}
	switch {
	case ways != 1:
		return nil, usagef("see sekisho kill --help", "kill takes ids, or one --user, or one --target")
	case len(w.IDs) > mostKilled:
		return nil, usagef("name fewer at once", "kill takes at most %d ids", mostKilled)
	case w.User != "":
		return []aim{{"user " + w.User, bastion.Selection{User: w.User}, audit.Record{User: w.User, Request: "kill --user " + w.User}}}, nil
	case w.Target != "":
		selection, err := parseKillTarget(w.Target)
		if err != nil {
			return nil, err
		}
		host := selection.Host
		if selection.Addr.IsValid() {
			host = selection.Addr.String()
		}
		target := audit.Endpoint{Host: host, Port: uint32(selection.Port)}
		return []aim{{"target " + w.Target, selection, audit.Record{Target: target, Request: "kill --target " + w.Target}}}, nil
	}
	var aims []aim
	for i, id := range w.IDs {
		if !idForm.MatchString(id) {
			hint := "sekisho sessions lists them"
			if userForm.MatchString(id) {
				hint += "; for all that a user has: --user " + id
			}
			return nil, usagef(hint, "%q is not the id of a connection (c…) or a forward (f…)", id)
		}
		if slices.Contains(w.IDs[:i], id) {
			continue
		}
		a := aim{id, bastion.Selection{ID: id}, audit.Record{Request: "kill " + id}}
		if id[0] == 'c' {
			a.record.Conn = id
		} else {
			a.record.Forward = id
		}
		aims = append(aims, a)
	}
	return aims, nil
}

// parseKillTarget reads a host with or without a port.
func parseKillTarget(s string) (sel bastion.Selection, err error) {
	host := s
	if _, err := netip.ParseAddr(s); err != nil && strings.Contains(s, ":") {
		var port uint32
		if host, port, err = splitTarget(s); err != nil {
			return sel, err
		}
		if port < 1 || port > 65535 {
			return sel, usagef("without a port it is every port", "%d is not a port", port)
		}
		sel.Port = int(port)
	}
	name, addr, err := authz.ParseHost(host)
	if err != nil {
		return sel, usagef("", "no forward can go there: %v", err)
	}
	if sel.Addr = addr; !addr.IsValid() {
		sel.Host = name
	}
	return sel, nil
}

// killWait is how long what is to be ended lives on for its record.
const killWait = 500 * time.Millisecond

// kill ends what is named, by order of a peer, once that is recorded; or, so
// that a disk that is full or hangs keeps nothing alive, without.
func (svc *service) kill(want wantKill, by string) (done killed, err error) {
	aims, err := want.aims()
	if err != nil {
		return done, &admin.Error{Message: err.Error()}
	}
	var records []audit.Record
	var selections []bastion.Selection
	for _, a := range aims {
		conns, forwards := svc.server.Selected(a.selection)
		if conns+forwards == 0 {
			done.Missing = append(done.Missing, a.what)
			continue
		}
		rec := a.record
		rec.Type, rec.Entrance, rec.Login = audit.AdminKill, "admin", by
		rec.Detail = fmt.Sprintf("ends %s, %s", many(conns, "connection"), many(forwards, "forward"))
		if want.Why != "" {
			rec.Detail = want.Why + "; " + rec.Detail
		}
		records, selections = append(records, rec), append(selections, a.selection)
	}
	if len(records) == 0 {
		return done, nil
	}

	detail := "by command of " + by
	if want.Why != "" {
		detail += ": " + want.Why
	}
	failed, late := afterRecord(svc.recordAll(records), func() {
		done.Connections, done.Forwards = svc.server.Kill(detail, selections...)
	})
	for _, rec := range records {
		svc.log.WithFields(logrus.Fields{"by": printable(by), "detail": printable(rec.Detail)}).Warn(printable(rec.Request))
	}
	if late {
		svc.log.Error("what was killed was ended before that was in the audit log, which did not answer in time")
	}
	if failed != nil {
		svc.log.WithError(failed).Error("what was killed is ended, but that is not in the audit log")
		done.Unrecorded = failed.Error()
	}
	return done, nil
}

// afterRecord acts once something is recorded, or could not be, but at the
// latest after killWait. It returns what has become of the record in the end.
func afterRecord(recorded <-chan error, act func()) (failed error, late bool) {
	select {
	case failed = <-recorded:
		act()
		return failed, false
	case <-time.After(killWait):
		act()
		return <-recorded, true
	}
}

// recordAll appends records, which so share an fsync, and tells the first
// failure, or nil, within recordTime.
func (svc *service) recordAll(records []audit.Record) <-chan error {
	errs := make([]error, len(records))
	var appending sync.WaitGroup
	for i, rec := range records {
		appending.Go(func() { errs[i] = svc.record(rec) })
	}
	done := make(chan error, 1)
	go func() {
		appending.Wait()
		for _, err := range errs {
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	return done
}

// tell prints what was ended, and fails if that is not all that is to be said.
func (k *killed) tell(std stdio) error {
	var problems []error
	if k.Unrecorded != "" {
		problems = append(problems, failf("note down what was ended, and see what the log has: sekisho status", "IT IS NOT RECORDED: the audit log could not be written: %s", k.Unrecorded))
	}
	for _, what := range k.Missing {
		text := "nothing is open of " + what
		if idForm.MatchString(what) {
			text = "there is no connection or forward " + what
		}
		problems = append(problems, failf("sekisho sessions lists what runs", "%s", text))
	}
	if k.Connections+k.Forwards > 0 || len(k.Missing) == 0 {
		fmt.Fprintf(std.out, "%s, %s ended\n", many(k.Connections, "connection"), many(k.Forwards, "forward"))
	}
	if len(problems) == 0 {
		return nil
	}
	for _, err := range problems {
		report(std.err, err)
	}
	return errTold
}
