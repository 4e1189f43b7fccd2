package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sekisho/authz/strictyaml"
)

// Exit statuses.
const (
	exitOK      = 0
	exitError   = 1 // it failed, or what it was given is not good
	exitUsage   = 2 // the command line is not understood
	exitAlarm   = 3 // the audit log is not what it was
	exitUnasked = 4 // nobody could be asked, or the log not be read
)

// A failure is an error together with what to do about it.
type failure struct {
	err  error
	hint string // may be empty
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// failf returns a failure. The hint may be empty.
func failf(hint, format string, args ...any) error {
	return &failure{fmt.Errorf(format, args...), hint}
}

// A graveError is a failure with an exit status of its own, by which a program
// that has given the command tells it from others.
type graveError struct {
	failure
	status int
}

// A usageError is a failure to understand the command line.
type usageError struct{ failure }

func usagef(hint, format string, args ...any) error {
	return &usageError{failure{fmt.Errorf(format, args...), hint}}
}

// badFiles is the error of files that are not good. It is told problem by
// problem.
type badFiles struct{ problems strictyaml.Problems }

func (b *badFiles) Error() string { return many(len(b.problems.Errors()), "problem") + " in the files" }

// report tells an error to a person and returns the exit status for it.
func report(w io.Writer, err error) int {
	var usage *usageError
	var fail *failure
	var bad *badFiles
	status := exitError
	var grave *graveError
	if errors.As(err, &grave) {
		status = grave.status
	}
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errTold):
		return exitError
	case errors.As(err, &bad):
		tell(w, bad.problems)
		return status
	case errors.As(err, &usage):
		fail, status = &usage.failure, exitUsage
	case grave != nil:
		fail = &grave.failure
	case errors.As(err, &fail):
	}
	fmt.Fprintf(w, "sekisho: error: %v\n", err)
	if fail != nil && fail.hint != "" {
		fmt.Fprintf(w, "sekisho: hint: %s\n", fail.hint)
	}
	return status
}

// tell prints problems, each with its hint.
func tell(w io.Writer, problems strictyaml.Problems) {
	for _, p := range problems {
		severity := "error"
		if p.Warning {
			severity = "warning"
		}
		hint := p.Hint
		p.Hint = ""
		fmt.Fprintf(w, "sekisho: %s: %v\n", severity, p)
		if hint != "" {
			fmt.Fprintf(w, "sekisho: hint: %s\n", hint)
		}
	}
}

func newRoot(std stdio) *cobra.Command {
	root := &cobra.Command{
		Use:   "sekisho",
		Short: "An SSH bastion that forwards TCP, gives no shell, and writes every forward down",
		Long: `Sekisho lets people through to the private hosts that a policy allows them,
with the SSH clients they have, and writes every forward into a log.

See it work:      sekisho demo
Set up a server:  sekisho init DIR, then sekisho check DIR, then sekisho serve DIR`,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return cmd.Help()
		},
	}
	noCommand := func(word string) error {
		var names []string
		for _, c := range root.Commands() {
			if c.IsAvailableCommand() {
				names = append(names, c.Name())
			}
		}
		hint := strictyaml.DidYouMean(word, names)
		if hint == "" {
			hint = "the commands are " + strings.Join(names, ", ") + "; see sekisho --help"
		}
		return usagef(hint, "there is no command %q", word)
	}
	root.Args = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return noCommand(args[0])
	}
	root.SetHelpCommand(newHelp(root, noCommand))
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	root.CompletionOptions.HiddenDefaultCmd = true
	cobra.EnableCommandSorting = false // their order is that of use
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(newInit(std), newCheck(std), newServe(std), newReload(std), newStatus(std), newSessions(std), newKill(std), newDrainCommand(std), newExplain(std),
		newWhoCan(std), newCan(std), newUser(std), newGrant(std), newHost(std), newFingerprint(std), newHostKey(std),
		newLock(std), newUnlock(std), newRevoke(std), newLockdown(std), newAudit(std), newDemo(std), newVersion(std))
	return root
}

// newHelp is the help command. Cobra's own forgives every word.
func newHelp(root *cobra.Command, noCommand func(word string) error) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Say more about a command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			switch {
			case err != nil || len(rest) > 0 && cmd == root:
				return noCommand(args[0])
			case len(rest) > 0:
				return usagef("see "+cmd.CommandPath()+" --help", "%s has no command %q", cmd.CommandPath(), rest[0])
			}
			cmd.InitDefaultHelpFlag() // so that it is listed
			return cmd.Help()
		},
	}
}

// flagError says of a flag that is not understood what was meant.
func flagError(cmd *cobra.Command, err error) error {
	hint := "see " + cmd.CommandPath() + " --help"
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if name := strictyaml.Suggest(unknown.GetSpecifiedName(), names); name != "" {
			hint = "did you mean --" + name + "?"
		}
	}
	return usagef(hint, "%v", err)
}

// atMostOne is for commands that take one argument or none.
func atMostOne(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("see "+cmd.CommandPath()+" --help", "%s takes one folder, not %d arguments", cmd.Name(), len(args))
	}
	if len(args) == 1 && args[0] == "" { // a variable of a script that is not set, most likely
		return usagef("name a folder, such as . for this one", "the name of the folder is empty")
	}
	return nil
}

// none is for commands that take no argument.
func none(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("see "+cmd.CommandPath()+" --help", "%s takes no argument: %q", cmd.Name(), args[0])
	}
	return nil
}

// oneWord is for commands that take one argument, and atMostOneWord for those
// that can do without.
func oneWord(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 || args[0] == "" {
			return usagef("see "+cmd.CommandPath()+" --help", "%s takes one %s", cmd.Name(), what)
		}
		return nil
	}
}

func atMostOneWord(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 || slices.Contains(args, "") {
			return usagef("see "+cmd.CommandPath()+" --help", "%s takes one %s", cmd.Name(), what)
		}
		return nil
	}
}
