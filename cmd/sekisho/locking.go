package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sekisho/authz"
	"sekisho/authz/strictyaml"
	"sekisho/bastion/admin"
)

// A lockCommand is what commands that change the locks have in common.
type lockCommand struct {
	where
	why string
}

func (c *lockCommand) addFlags(cmd *cobra.Command, why bool) {
	c.addConfig(cmd)
	if why {
		cmd.Flags().StringVar(&c.why, "why", "", "a `reason`, for the record")
	}
}

// sign adds who does it, when and why.
func (c *lockCommand) sign(l authz.Lock) authz.Lock {
	l.At, l.By, l.Why = time.Now().UTC().Truncate(time.Millisecond), whoami(), printable(c.why)
	return l
}

// whoami names who gives a command, also behind sudo.
func whoami() string {
	name := strings.TrimPrefix(userName(os.Geteuid()), "user ")
	if sudo := os.Getenv("SUDO_USER"); sudo != "" && os.Geteuid() == 0 {
		return fmt.Sprintf("%s (sudo by %s)", name, printable(sudo))
	}
	return name
}

// change changes the locks, says what has become of it, and waits until the
// server has taken it over. Edit returns the new locks, or nil if there is
// nothing to do, and what to say.
func (c *lockCommand) change(cmd *cobra.Command, std stdio, edit func(*setup, *authz.Locks) (*authz.Locks, string, error)) error {
	s, err := c.settings(cmd, std)
	if err != nil {
		return err
	}
	path := s.path(s.settings.Locks)
	unlock, err := lockFolder(filepath.Dir(path))
	if err != nil {
		return failf("run it as the user to whom the files belong: sudo sekisho …", "the locks cannot be changed: %v", err)
	}
	defer unlock()
	locks, _, problems := s.readLocks()
	if problems.Err() != nil {
		return &badFiles{problems}
	}
	inForce, unwritten, err := s.locksInForce(cmd.Context())
	if err != nil {
		return err
	}
	if (locks == nil || unwritten) && inForce != nil {
		// What the server keeps must not be given back because its file is
		// gone, or could not be written.
		tell(std.err, strictyaml.Problems{{File: path, Message: "was gone or old, and is written anew with what is in force", Warning: true}})
		locks = inForce
	}
	changed, said, err := edit(s, locks)
	if err != nil {
		return err
	}
	if changed != nil {
		if err := replaceFile(path, changed.Text(), 0o644); err != nil {
			return s.tellUnwritten(cmd.Context(), path, said, changed, err)
		}
		locks = changed
	}
	// Also where nothing has changed: the server may not have taken it over.
	return tellServer(cmd.Context(), std, s, said, locks)
}

// settings are lenient: a mistake in them must not keep anybody from taking
// access away.
func (c *lockCommand) settings(cmd *cobra.Command, std stdio) (*setup, error) {
	return c.lenient(cmd, std, nil)
}

// lenient returns the settings as far as they can be read.
func (w *where) lenient(cmd *cobra.Command, std stdio, args []string) (*setup, error) {
	config, err := w.findConfig(cmd, args)
	if err != nil {
		return nil, err
	}
	s, problems := loadSettings(config, nil, os.Environ())
	if s.content == nil {
		return nil, &badFiles{problems}
	}
	for i := range problems {
		problems[i].Warning = true
	}
	tell(std.err, problems)
	return s, nil
}

// tellUnwritten has the server that runs take over locks that cannot be written,
// on a disk that is full, say, and fails all the same: the next one would not
// know of them.
func (s *setup) tellUnwritten(ctx context.Context, path, said string, locks *authz.Locks, cause error) error {
	var done locking
	if err := s.call(ctx, "POST", "/v1/locks", wantLocks{locks.Text()}, &done); err != nil {
		return failf("run it as the user to whom the files belong: sudo sekisho …", "nothing is changed: writing %s: %v", path, reason(cause))
	}
	return failf("mend that, and give the command again", "%s, %s and %s closed, but only until the server ends: writing %s: %v",
		said, many(done.Forwards, "forward"), many(done.Connections, "connection"), path, reason(cause))
}

// locksInForce returns the locks that the server has, and whether they are not
// in its file. They are nil where none runs.
func (s *setup) locksInForce(ctx context.Context) (locks *authz.Locks, unwritten bool, err error) {
	var state lockState
	err = s.call(ctx, "GET", "/v1/locks", nil, &state)
	switch {
	case errors.Is(err, admin.ErrNotRunning):
		return nil, false, nil
	case err != nil:
		return nil, false, serverError(err)
	case !samePath(state.Path, s.path(s.settings.Locks)):
		return nil, false, failf("name the settings that it runs with: --config",
			"the server that runs has its locks in %s, and these settings name %s", state.Path, s.path(s.settings.Locks))
	}
	locks, problems := authz.ParseLocks(bytes.NewReader(state.Text), state.Path)
	return locks, state.Unwritten, problems.Err()
}

// samePath reports whether two paths of files, of which there need be none, are
// the same.
func samePath(a, b string) bool {
	whole := func(path string) string {
		dir, err := filepath.Abs(filepath.Dir(path))
		if err != nil {
			return path
		}
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dir = real
		}
		return filepath.Join(dir, filepath.Base(path))
	}
	return whole(a) == whole(b)
}

// tellServer has the server take the locks over, and makes sure that it has.
func tellServer(ctx context.Context, std stdio, s *setup, said string, want *authz.Locks) error {
	var done locking
	err := s.call(ctx, "POST", "/v1/locks", wantLocks{}, &done)
	switch {
	case errors.Is(err, admin.ErrNotRunning):
		if s.settings.Admin.Socket == "" {
			fmt.Fprintf(std.out, "%s; a server that runs follows the file, and has no admin.socket to say so\n", said)
			return nil
		}
		fmt.Fprintf(std.out, "%s; no server answers here, and the next one begins with it\n", said)
		return nil
	case err != nil:
		return failf("the server follows the file; see what its log says of it", "%s in %s, but the server has not said that it has taken it over: %v", said, s.path(s.settings.Locks), err)
	}
	has, problems := authz.ParseLocks(bytes.NewReader(done.Text), "")
	if problems.Err() != nil || !sameLocks(has, want) {
		return failf("give the command again, and see the server's log", "%s in %s, but the server has other locks in force", said, s.path(s.settings.Locks))
	}
	fmt.Fprintf(std.out, "%s; %s, %s closed\n", said, many(done.Forwards, "forward"), many(done.Connections, "connection"))
	return nil
}

func sameLocks(a, b *authz.Locks) bool {
	missing := func(a, b *authz.Locks) bool {
		return slices.ContainsFunc(a.List(), func(l authz.Lock) bool { return b.Has(l) == nil })
	}
	return !missing(a, b) && !missing(b, a)
}

// list prints what is locked and revoked.
func (c *lockCommand) list(cmd *cobra.Command, std stdio, asJSON bool) error {
	s, err := c.settings(cmd, std)
	if err != nil {
		return err
	}
	locks, _, problems := s.readLocks()
	if problems.Err() != nil {
		return &badFiles{problems}
	}
	if asJSON {
		type line struct {
			What string    `json:"what"`
			At   time.Time `json:"at"`
			By   string    `json:"by"`
			Why  string    `json:"why,omitempty"`
		}
		lines := []line{}
		for _, l := range locks.List() {
			lines = append(lines, line{l.String(), l.At, l.By, l.Why})
		}
		return printJSON(std.out, lines)
	}
	if len(locks.List()) == 0 {
		fmt.Fprintln(std.out, "nothing is locked or revoked")
	}
	for _, l := range locks.List() {
		fmt.Fprintf(std.out, "%-60s  %s by %s", l, l.At.UTC().Format("2006-01-02 15:04 MST"), printable(l.By))
		if l.Why != "" {
			fmt.Fprintf(std.out, ": %s", printable(l.Why))
		}
		fmt.Fprintln(std.out)
	}
	return nil
}

// known asks whether a policy has what is to be locked or revoked: what is
// misspelt must not look taken away. A server that runs knows; else the file is
// read, and where that has errors nothing is known and nothing stands against
// it.
func (s *setup) known(ctx context.Context, what wantKnown) error {
	var answer knownAnswer
	err := s.call(ctx, "POST", "/v1/known", what, &answer)
	if errors.Is(err, admin.ErrNotRunning) {
		policy, _, problems := s.readPolicy()
		if problems.Err() != nil {
			return nil
		}
		answer = what.ask(policy)
	} else if err != nil {
		return serverError(err)
	}
	if answer.Unknown == "" {
		return nil
	}
	return failf(cmp.Or(answer.Hint, "--anyway does it all the same"), "%s", answer.Unknown)
}

// A wantKnown is a user or an authority whose name is in question.
type wantKnown struct {
	User      string `json:"user,omitempty"`
	Authority string `json:"authority,omitempty"`
}

type knownAnswer struct {
	Unknown string `json:"unknown,omitempty"` // why the name is nobody's
	Hint    string `json:"hint,omitempty"`
}

func (w wantKnown) ask(policy *authz.Policy) (a knownAnswer) {
	if w.Authority != "" && !slices.Contains(policy.Authorities(), w.Authority) {
		a = knownAnswer{fmt.Sprintf("the policy has no authority %q", w.Authority), strictyaml.DidYouMean(w.Authority, policy.Authorities())}
	}
	if w.User == "" || policy.Named(w.User) {
		return a
	}
	hint := strictyaml.DidYouMean(w.User, policy.Users())
	switch {
	case !policy.CouldBe(w.User):
		return knownAnswer{fmt.Sprintf("the policy has no user %q", w.User), hint}
	case hint != "":
		return knownAnswer{fmt.Sprintf("the policy has no user %q, and only a certificate could prove to be it", w.User), hint + " If not: --anyway"}
	}
	return a
}
