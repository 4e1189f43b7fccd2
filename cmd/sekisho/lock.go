package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"sekisho/authz"
	"sekisho/authz/strictyaml"
	"sekisho/bastion/admin"
)

func newLock(std stdio) *cobra.Command {
	var c lockCommand
	var anyway, asJSON bool
	cmd := &cobra.Command{
		Use:   "lock [USER]",
		Short: "Shut a user out at once",
		Long: `Lock ends what a user has open and lets him in no more, within a second and
whatever the policy says, until unlock. It works while the policy has errors, and
survives a restart. Without a user it lists what is locked and revoked.

It writes the file that the setting "locks" names; that the server takes it over is
waited for.`,
		Example: `  sekisho lock alice --why "laptop stolen"
  sekisho lock`,
		Args: atMostOneWord("user"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.list(cmd, std, asJSON)
			}
			return c.change(cmd, std, func(s *setup, locks *authz.Locks) (*authz.Locks, string, error) {
				what := authz.Lock{User: args[0]}
				if l := locks.Has(what); l != nil {
					return nil, "user " + args[0] + " is locked already", nil
				}
				if !userForm.MatchString(args[0]) {
					return nil, "", failf("", "%q is not a name that a user can have", args[0])
				}
				if !anyway {
					if err := s.known(cmd.Context(), wantKnown{User: args[0]}); err != nil {
						return nil, "", err
					}
				}
				return locks.With(c.sign(what)), "user " + args[0] + " is locked", nil
			})
		},
	}
	c.addFlags(cmd, true)
	cmd.Flags().BoolVar(&anyway, "anyway", false, "lock a name that the policy does not have")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the list as JSON")
	return cmd
}

func newUnlock(std stdio) *cobra.Command {
	var c lockCommand
	cmd := &cobra.Command{
		Use:   "unlock USER",
		Short: "Let a locked user in again",
		Args:  oneWord("user"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.change(cmd, std, func(_ *setup, locks *authz.Locks) (*authz.Locks, string, error) {
				what := authz.Lock{User: args[0]}
				if locks.Has(what) == nil {
					return nil, "", failf(lockedHint(locks), "user %s is not locked", args[0])
				}
				return locks.Without(c.sign(what)), "user " + args[0] + " is no longer locked", nil
			})
		},
	}
	c.addFlags(cmd, false)
	return cmd
}

// lockedHint names the users that are locked.
func lockedHint(locks *authz.Locks) string {
	var names []string
	for _, l := range locks.List() {
		if l.User != "" {
			names = append(names, l.User)
		}
	}
	if len(names) == 0 {
		return "nobody is"
	}
	return "locked are " + and(names)
}

func newRevoke(std stdio) *cobra.Command {
	var c lockCommand
	var authority, file string
	var undo, anyway bool
	cmd := &cobra.Command{
		Use:   "revoke FINGERPRINT|SERIAL",
		Short: "Let a key or certificate in no more, at once",
		Long: `Revoke ends what was opened by a key or certificate and takes it no more, within a
second and whatever the policy says: a key, or an authority's key with all its
certificates, by its fingerprint, or a certificate by its serial. It works while
the policy has errors, and survives a restart.

ssh-keygen -lf FILE prints a fingerprint, and ssh-keygen -Lf FILE a serial. Lists
that ssh-keygen -k makes are read, too: see the setting "revoked_keys".`,
		Example: `  sekisho revoke SHA256:uNiVztksCsDhcc0u9e8BrrJdhrOPZi9nGJ5Hb0vMx0s
  sekisho revoke 17 --authority corp --why "laptop stolen"
  sekisho revoke --key alice.pub`,
		Args: atMostOneWord("fingerprint or serial"),
		RunE: func(cmd *cobra.Command, args []string) error {
			what, err := whatToRevoke(args, file, authority, std.in)
			if err != nil {
				return err
			}
			return c.change(cmd, std, func(s *setup, locks *authz.Locks) (*authz.Locks, string, error) {
				switch has := locks.Has(what) != nil; {
				case undo && !has:
					return nil, "", failf("sekisho lock lists what is", "%s is not revoked", what)
				case undo:
					return locks.Without(c.sign(what)), what.String() + " is no longer revoked", nil
				case has:
					return nil, what.String() + " is revoked already", nil
				}
				if !anyway && what.Authority != "" {
					if err := s.known(cmd.Context(), wantKnown{Authority: what.Authority}); err != nil {
						return nil, "", err
					}
				}
				return locks.With(c.sign(what)), what.String() + " is revoked", nil
			})
		},
	}
	c.addFlags(cmd, true)
	f := cmd.Flags()
	f.StringVar(&authority, "authority", "", "the `name` of the authority whose serial it is (default: every authority)")
	f.StringVar(&file, "key", "", "the `file` with the public key, in place of its fingerprint")
	f.BoolVar(&undo, "undo", false, "take the revocation back")
	f.BoolVar(&anyway, "anyway", false, "also for an authority that the policy does not have")
	return cmd
}

// whatToRevoke reads the fingerprint or serial of a command line.
func whatToRevoke(args []string, file, authority string, in io.Reader) (authz.Lock, error) {
	const hint = "give a fingerprint, SHA256:…, as ssh-keygen -lf prints it, or the number of a serial"
	if (len(args) == 0) == (file == "") {
		return authz.Lock{}, usagef(hint, "what is to be revoked is one fingerprint or serial, or one --key")
	}
	if file != "" {
		text, err := readKeyText(file, in)
		if err != nil {
			return authz.Lock{}, err
		}
		if cert, _ := parseCert(text); cert != nil {
			hint := fmt.Sprintf("revoke %d, with --authority NAME if serials are not unique, or the key itself, %s", cert.Serial, ssh.FingerprintSHA256(cert.Key))
			if cert.Serial == 0 {
				hint = "it has no serial; revoke the key itself, " + ssh.FingerprintSHA256(cert.Key)
			}
			return authz.Lock{}, failf(hint, "%s is a certificate, and --key takes a key", file)
		}
		if file == "-" {
			in = bytes.NewReader(text)
		}
		keys, err := readUserKeys(file, in)
		if err != nil {
			return authz.Lock{}, err
		}
		if len(keys) != 1 {
			return authz.Lock{}, failf("give a file with that one key", "%s has %s", file, many(len(keys), "key"))
		}
		return authz.Lock{Key: ssh.FingerprintSHA256(keys[0].key)}, nil
	}
	if serial, err := strconv.ParseUint(args[0], 10, 64); err == nil {
		if serial == 0 {
			return authz.Lock{}, failf("revoke the key, or lock the user", "0 is the serial of every certificate that was given none")
		}
		return authz.Lock{Serial: serial, Authority: authority}, nil
	}
	if authority != "" {
		return authz.Lock{}, usagef("leave --authority away, or give a serial", "--authority is about a serial, and %q is none", args[0])
	}
	digest := strings.TrimRight(strings.TrimPrefix(args[0], "SHA256:"), "=")
	sum, err := base64.RawStdEncoding.DecodeString(digest)
	if err != nil || len(sum) != 32 {
		return authz.Lock{}, usagef(hint, "%q is neither a fingerprint nor a serial", args[0])
	}
	return authz.Lock{Key: "SHA256:" + base64.RawStdEncoding.EncodeToString(sum)}, nil // in the one form that keys are compared in
}

func newLockdown(std stdio) *cobra.Command {
	var c lockCommand
	cmd := &cobra.Command{
		Use:   "lockdown on|off",
		Short: "Let nothing new begin, but for admins",
		Long: `During a lockdown no forward begins, unless the principal has the role "admin" in
the policy. What runs goes on: sekisho lock ends what a user has open.`,
		Args: oneWord("on or off"),
		RunE: func(cmd *cobra.Command, args []string) error {
			on := args[0] == "on"
			if !on && args[0] != "off" {
				return usagef("write sekisho lockdown on, or off", "lockdown is on or off, not %q", args[0])
			}
			return c.change(cmd, std, func(_ *setup, locks *authz.Locks) (*authz.Locks, string, error) {
				switch is := locks.Has(authz.Lock{}) != nil; {
				case is && on:
					return nil, "there is a lockdown already", nil
				case !is && !on:
					return nil, "", failf("", "there is no lockdown")
				case on:
					return locks.With(c.sign(authz.Lock{})), "lockdown: nothing new begins, but for admins", nil
				}
				return locks.Without(c.sign(authz.Lock{})), "the lockdown is over", nil
			})
		},
	}
	c.addFlags(cmd, true)
	return cmd
}

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
	inForce, err := s.locksInForce(cmd.Context())
	if err != nil {
		return err
	}
	if locks == nil && inForce != nil {
		// What the server keeps must not be given back because its file is gone.
		tell(std.err, strictyaml.Problems{{File: path, Message: "was gone, and is written anew with what is in force", Warning: true}})
		locks = inForce
	}
	changed, said, err := edit(s, locks)
	if err != nil {
		return err
	}
	if changed != nil {
		if err := replaceFile(path, changed.Text(), 0o644); err != nil {
			return failf("run it as the user to whom the files belong: sudo sekisho …", "writing %s: %v", path, reason(err))
		}
		locks = changed
	}
	// Also where nothing has changed: the server may not have taken it over.
	return tellServer(cmd.Context(), std, s, said, locks)
}

// settings returns the settings as far as they can be read: a mistake in them
// must not keep anybody from taking access away.
func (c *lockCommand) settings(cmd *cobra.Command, std stdio) (*setup, error) {
	config, err := c.findConfig(cmd, nil)
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

// locksInForce returns the locks that the server has, or nil where none runs.
func (s *setup) locksInForce(ctx context.Context) (*authz.Locks, error) {
	var state lockState
	err := s.call(ctx, "GET", "/v1/locks", nil, &state)
	switch {
	case errors.Is(err, admin.ErrNotRunning):
		return nil, nil
	case err != nil:
		return nil, serverError(err)
	case !samePath(state.Path, s.path(s.settings.Locks)):
		return nil, failf("name the settings that it runs with: --config",
			"the server that runs has its locks in %s, and these settings name %s", state.Path, s.path(s.settings.Locks))
	}
	locks, problems := authz.ParseLocks(bytes.NewReader(state.Text), state.Path)
	return locks, problems.Err()
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
	err := s.call(ctx, "POST", "/v1/locks", nil, &done)
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

// lockFolder keeps other commands from changing files in a folder meanwhile.
func lockFolder(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			f.Close()
			return nil, fmt.Errorf("another command holds %s: %w", dir, err)
		}
	}
}

// replaceFile writes a file in the place of what may be there, durably and in
// one step. The one that is there keeps its mode and owner.
func replaceFile(path string, content []byte, perm fs.FileMode) (err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // a link stays one
	}
	info, err := os.Stat(path)
	if err == nil {
		perm = info.Mode().Perm()
	}
	temporary, err := writeTemporary(filepath.Dir(path), newFile{filepath.Base(path), content, perm})
	if err == nil && info != nil && (ownerOf(info) != os.Geteuid() || groupOf(info) != os.Getegid()) {
		err = os.Chown(temporary, ownerOf(info), groupOf(info))
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		if temporary != "" {
			os.Remove(temporary)
		}
		return err
	}
	return syncFolder(filepath.Dir(path))
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
