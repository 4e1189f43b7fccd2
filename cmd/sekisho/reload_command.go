package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"sekisho/bastion"
	"sekisho/bastion/admin"
)

func newReload(std stdio) *cobra.Command {
	var w where
	var force, asJSON bool
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the server take over changed files",
		Long: `Reload has the server that runs read policy, hosts, host keys and what is beside them
again, and says what has become of it. Policy and hosts are taken over together or not at
all. What they no longer allow is closed within a second; a change that would end
more than half of all forwards is refused unless --force says that it is meant.

The exit status is 0 if they are in force, and 1 if not.`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := w.findConfig(cmd, nil)
			if err != nil {
				return err
			}
			s, problems := loadSettings(config, nil, os.Environ())
			if problems.Err() != nil {
				return &badFiles{problems}
			}
			var done reloaded
			if err := s.call(cmd.Context(), "POST", "/v1/reload", wantReload{force}, &done); err != nil {
				return serverError(err)
			}
			if asJSON {
				if err := printJSON(std.out, done); err != nil {
					return err
				}
				if done.Refused != "" {
					return errTold
				}
				return nil
			}
			return done.tell(std)
		},
	}
	w.addConfig(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "also if it ends more than half of all forwards")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the outcome as JSON")
	return cmd
}

// tell prints the outcome of a reload.
func (r *reloaded) tell(std stdio) error {
	tell(std.err, r.problemsOf())
	if len(r.WouldEnd) > 0 {
		writeEndings(std.err, r.WouldEnd)
		return failf("if that is meant: sekisho reload --force", "not taken over: %s", r.Refused)
	}
	if r.Refused != "" {
		return failf("", "%s", r.Refused)
	}
	state := "in force"
	if r.Unchanged {
		state = "in force, unchanged"
	}
	fmt.Fprintf(std.out, "%s: %s; %s, %s closed\n", state, r.Summary, many(r.Forwards, "forward"), many(r.Connections, "connection"))
	return nil
}

// writeEndings lists forwards that would end.
func writeEndings(w interface{ Write([]byte) (int, error) }, endings []bastion.Ending) {
	const most = 20
	fmt.Fprintln(w, "It would end:")
	for _, e := range endings[:min(len(endings), most)] {
		fmt.Fprintf(w, "  %s  %s to %s since %s: %s\n", e.Forward, e.User, printable(e.Target), e.Started.UTC().Format("2006-01-02 15:04 MST"), printable(e.Reason))
	}
	if len(endings) > most {
		fmt.Fprintf(w, "  and %d more\n", len(endings)-most)
	}
}

// serverError says what to do about a server that did not do what it was asked.
func serverError(err error) error {
	var answered *admin.Error
	switch {
	case errors.Is(err, admin.ErrNotRunning):
		return failf("start it: sekisho serve; or name its settings with --config", "%v", err)
	case errors.As(err, &answered):
		return failf(answered.Hint, "%s", answered.Message)
	}
	return err
}
