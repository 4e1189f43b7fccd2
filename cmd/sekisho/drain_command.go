package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sekisho/bastion/admin"
)

func newDrainCommand(std stdio) *cobra.Command {
	var w where
	var want wantDrain
	var timeout time.Duration
	var noWait, asJSON bool
	cmd := &cobra.Command{
		Use:   "drain [DIR]",
		Short: "Stop the server once what runs has ended",
		Long: `Drain has the server that runs stop as SIGTERM does: at once nobody is let in, no
forward begins, readyz fails, and connections that carry nothing are closed. Forwards
that run may end by themselves until the time is over; the rest is ended and recorded
with the reason drain, and the server ends.

It tells who is still connected, and returns when the server has ended. ^C ends the
command only: the drain goes on. Given again, it shows how far it is; with --timeout
it changes how long what is left may take, 0s being no longer at all, as a signal does.

The exit status is 0 once the server has ended, also if forwards had to be, and 1 if
the audit log could not be written then.`,
		Example: `  sekisho drain --timeout 10m --why "kernel update"
  sekisho drain --timeout 0s`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("timeout") {
				if timeout < 0 {
					return usagef("write a duration such as 5m", "%v is not a time to wait for", timeout)
				}
				want.Timeout = timeout.String()
			}
			want.Watch = !noWait
			s, err := w.lenient(cmd, std, args)
			if err != nil {
				return err
			}
			d := &drainCommand{setup: s, std: std, asJSON: asJSON}
			return d.run(cmd.Context(), want)
		},
	}
	w.addConfig(cmd)
	f := cmd.Flags()
	f.DurationVar(&timeout, "timeout", 0, "the `time` after which what still runs is ended (default: limits.drain_timeout)")
	f.StringVar(&want.Why, "why", "", "a `reason`, for the record")
	f.BoolVar(&noWait, "no-wait", false, "return once the drain has begun")
	f.BoolVar(&asJSON, "json", false, "print each state as a line of JSON")
	return cmd
}

// A drainCommand orders a drain and tells how it goes.
type drainCommand struct {
	setup  *setup
	std    stdio
	asJSON bool

	last    drained   // that was told
	shown   time.Time // when
	started bool
}

// drainTell is how often a drain is told of of which nothing changes.
const drainTell = 30 * time.Second

// exitWait is how long the process may take to end after all else: to close
// the log, and to send the syslog receiver the rest.
const exitWait = 30 * time.Second

func (d *drainCommand) run(ctx context.Context, want wantDrain) error {
	process := d.process(ctx)
	defer process.close()
	var p drained
	if err := d.setup.call(ctx, "POST", "/v1/drain", want, &p); err != nil {
		return serverError(err)
	}
	if err := d.tell(p); err != nil || !want.Watch {
		return err
	}
	for !p.Done {
		var next drained
		err := d.setup.call(ctx, "GET", "/v1/drain", nil, &next)
		switch {
		case ctx.Err() != nil:
			return interrupted(ctx)
		case errors.Is(err, admin.ErrNotRunning): // it was over before it could be told
			return d.await(ctx, process, "stopped")
		case err != nil:
			return serverError(err)
		}
		p = next
		if err := d.tell(p); err != nil {
			return err
		}
	}
	ended := "stopped; nothing had to be ended"
	if p.Ended > 0 {
		ended = fmt.Sprintf("stopped; %s had to be ended", many(p.Ended, "forward"))
	}
	if err := d.await(ctx, process, ended); err != nil || p.Unrecorded == "" {
		return err
	}
	return failf("the next start records the forwards that ended as lost", "IT IS NOT RECORDED: the audit log could not be written: %s", printable(p.Unrecorded))
}

func interrupted(ctx context.Context) error {
	return failf("sekisho drain shows it again; sekisho drain --timeout 0s ends what is left at once",
		"%v: the drain goes on", context.Cause(ctx))
}

// tell prints a state, if there is anything new in it.
func (d *drainCommand) tell(p drained) error {
	same := d.started && p.Until.Equal(d.last.Until) && p.Forwards == d.last.Forwards && p.Done == d.last.Done
	if same && time.Since(d.shown) < drainTell {
		return nil
	}
	first := !d.started
	d.started, d.last, d.shown = true, p, time.Now()
	switch {
	case d.asJSON:
		return json.NewEncoder(d.std.out).Encode(p)
	case first:
		return p.write(d.std.out)
	case p.Done:
		return nil
	}
	_, err := fmt.Fprintf(d.std.out, "%s: %s of %s left, until %s", when(d.shown), many(p.Forwards, "forward"), many(p.Connections, "connection"), when(p.Until))
	if who := named(p.Left); who != "" {
		fmt.Fprintf(d.std.out, ": %s", printable(who))
	}
	fmt.Fprintln(d.std.out)
	return err
}

// write prints who is connected as the drain begins.
func (p *drained) write(w io.Writer) error {
	_, err := fmt.Fprintf(w, "draining since %s (%s): nothing new begins; %s may end by themselves until %s\n",
		when(p.Since), printable(p.By), many(p.Forwards, "forward"), when(p.Until))
	if len(p.Left) == 0 {
		return err
	}
	t := table{{"FORWARD", "USER", "TARGET", "SOURCE", "SINCE", "UP", "DOWN"}}
	for _, f := range p.Left {
		t = append(t, []string{f.Forward, f.User, f.Target, f.Source.String(), when(f.Started), fmt.Sprint(f.Up), fmt.Sprint(f.Down)})
	}
	t.write(w)
	if n := p.Forwards - len(p.Left); n > 0 {
		fmt.Fprintf(w, "and %d more\n", n)
	}
	return err
}

// await waits for the process to end, so that another may be started after it.
func (d *drainCommand) await(ctx context.Context, process process, ended string) error {
	if !process.ends(ctx, exitWait) {
		if ctx.Err() != nil {
			return interrupted(ctx)
		}
		return failf("the disk of the audit log may hang; see the server's operational log", "nothing runs any more, but the server, process %d, has not ended within %s", process.pid, brief(exitWait))
	}
	if !d.asJSON {
		fmt.Fprintln(d.std.out, ended)
	}
	return nil
}

// A process is one that is awaited by a descriptor of it, which is never
// another's (pidfd_open(2)). The zero one has ended.
type process struct{ pid, fd int }

// process is that of the server; the zero one where it cannot be seen from here.
func (d *drainCommand) process(ctx context.Context) process {
	client := admin.Client{Path: d.setup.path(d.setup.settings.Admin.Socket)}
	pid, err := client.PID(ctx)
	if err != nil || pid <= 0 {
		return process{}
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return process{}
	}
	return process{pid, fd}
}

func (p process) close() {
	if p.pid != 0 {
		unix.Close(p.fd)
	}
}

// ends reports whether the process ends within limit and before ctx.
func (p process) ends(ctx context.Context, limit time.Duration) bool {
	if p.pid == 0 {
		return true
	}
	for late := time.Now().Add(limit); ctx.Err() == nil && time.Now().Before(late); {
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 100); err == nil && n > 0 {
			return true
		}
	}
	return false
}
