package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"sekisho/authz/strictyaml"
	"sekisho/bastion"
)

func newInit(std stdio) *cobra.Command {
	var in initializer
	cmd := &cobra.Command{
		Use:   "init [DIR]",
		Short: "Make a folder with all that a server needs",
		Long: `Init makes sekisho.yaml, policy.yaml, hosts, three host keys and the key of the
audit log, and lets one person in. It writes over nothing. Without --key and --generate-key it asks, at
a terminal, which of the keys in your agent and ~/.ssh it is to be.`,
		Example: `  sudo sekisho init /etc/sekisho
  sekisho init test --user alice --key ~/.ssh/id_ed25519.pub
  ssh-add -L | sekisho init test --key -
  sekisho init test --generate-key`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			in.dir = "."
			if len(args) > 0 {
				in.dir = args[0]
			}
			return in.run(cmd.Context(), std)
		},
	}
	f := cmd.Flags()
	f.StringVar(&in.user, "user", "", "the `name` of the person who gets in (default: you)")
	f.StringArrayVar(&in.keyFiles, "key", nil, "a `file` with public keys of the person, or - for standard input; may be given several times")
	f.BoolVar(&in.generate, "generate-key", false, "make a key for the person, beside the other files")
	return cmd
}

// An initializer is one run of init.
type initializer struct {
	dir      string
	user     string
	keyFiles []string
	generate bool
}

var (
	userForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$`)
	notInUser = regexp.MustCompile(`[^A-Za-z0-9._@+-]+`)
)

func (in *initializer) run(ctx context.Context, std stdio) error {
	account, home := whoAsks()
	if in.user == "" {
		in.user = validUser(account)
	}
	if !userForm.MatchString(in.user) {
		return failf(`a name has 1 to 64 letters, digits and ". _ @ + -", and begins with a letter or digit`, "%q is not a name of a user", in.user)
	}
	if err := in.refuseFolder(); err != nil {
		return err
	}
	keys, err := in.keys(ctx, std, home)
	if err != nil {
		return err
	}

	var files []newFile
	own := "" // the file of a key made here
	if in.generate {
		own = in.keyFile()
		pair, err := makeUserKey(in.user + "@sekisho")
		if err != nil {
			return err
		}
		files = append(files, newFile{own, pair.private, 0o600}, newFile{own + ".pub", []byte(pair.line() + "\n"), 0o644})
		keys = append(keys, userKey{pair.public, pair.comment, own})
	}
	lines := make([]string, len(keys))
	for i, k := range keys {
		lines[i] = k.line()
	}
	p := newPlan(in.user, lines, machineNetworks())
	hostKeys, err := makeHostKeys("sekisho@" + p.Name)
	if err != nil {
		return err
	}
	logKey, err := makeLogKey(p.Name)
	if err != nil {
		return err
	}
	files = append(files, logKey.files(defaultSettings().Audit.Key)...)
	rest, err := p.files(hostKeys)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return failf("", "interrupted; nothing was written")
	}
	if err := writeNew(in.dir, append(files, rest...)); err != nil {
		return failf("nothing was left behind", "%w", err)
	}
	in.tell(std.out, p, keys, own, logKey)
	return nil
}

func (in *initializer) keyFile() string { return in.user + "_ed25519" }

// refuseFolder finds what stands against making the files, before anything is
// asked or written.
func (in *initializer) refuseFolder() error {
	if info, err := os.Stat(in.dir); err == nil && !info.IsDir() {
		return failf("name a folder", "%s is not a folder", in.dir)
	}
	names := []string{"sekisho.yaml", "policy.yaml", "hosts"}
	for _, k := range defaultSettings().HostKeys {
		names = append(names, k, k+".pub")
	}
	names = append(names, defaultSettings().Audit.Key, defaultSettings().Audit.Key+".pub")
	if in.generate {
		names = append(names, in.keyFile(), in.keyFile()+".pub")
	}
	for _, name := range names {
		if path := filepath.Join(in.dir, name); !isNotExist(path) {
			return failf("nothing was changed; name another folder, or move what is there away", "%s exists, and init writes over nothing", path)
		}
	}
	// A folder that check would refuse, would be a folder that does not run.
	m := newModes(in.dir, "", os.Geteuid())
	if m.folder == "" { // to be made, and then one's own
		m.owners = append(m.owners, os.Geteuid())
	}
	m.decides(in.dir)
	if m.problems.Err() != nil {
		return &badFiles{append(m.problems, strictyaml.Problem{File: in.dir, Message: "others could change what decides here: nothing was written",
			Hint: "repair that, or name another folder, such as /etc/sekisho"})}
	}
	return nil
}

// keys finds out who gets in.
func (in *initializer) keys(ctx context.Context, std stdio, home string) ([]userKey, error) {
	var keys []userKey
	for _, path := range in.keyFiles {
		more, err := readUserKeys(path, std.in)
		if err != nil {
			return nil, err
		}
		keys = append(keys, more...)
	}
	if len(keys) > 0 || in.generate {
		return unique(keys), nil
	}
	const give = "--key FILE lets a person in by a public key, such as ~/.ssh/id_ed25519.pub; --generate-key makes a new key"
	if !isTerminal(std.in) {
		return nil, failf(give, "nobody is there to say who gets in")
	}
	found := findUserKeys(os.Getenv("SSH_AUTH_SOCK"), home)
	if len(found) == 0 {
		return nil, failf(give, "neither the ssh agent nor %s has a key", filepath.Join(home, ".ssh"))
	}
	chosen, err := ask(ctx, std, in.user, found)
	if errors.Is(err, errNoAnswer) {
		return nil, failf(give, "no key was chosen; nothing was written")
	}
	return chosen, err
}

func unique(keys []userKey) []userKey {
	var once []userKey
	for _, k := range keys {
		if !slices.ContainsFunc(once, func(o userKey) bool { return string(o.key.Marshal()) == string(k.key.Marshal()) }) {
			once = append(once, k)
		}
	}
	return once
}

func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// whoAsks returns the account name and home folder of the person, who under
// sudo is not root.
func whoAsks() (account, home string) {
	if name := os.Getenv("SUDO_USER"); name != "" && os.Geteuid() == 0 {
		if u, err := user.Lookup(name); err == nil {
			return u.Username, u.HomeDir
		}
	}
	home, _ = os.UserHomeDir()
	if u, err := user.Current(); err == nil {
		return u.Username, home
	}
	return os.Getenv("USER"), home
}

// validUser makes an account name one of the policy.
func validUser(account string) string {
	account = account[strings.LastIndexByte(account, '\\')+1:]
	name := strings.TrimLeft(notInUser.ReplaceAllString(account, "-"), "._@+-")
	if name == "" {
		return "admin"
	}
	return name[:min(len(name), 64)]
}

// tell says what was made and what comes next.
func (in *initializer) tell(w io.Writer, p plan, keys []userKey, own string, logKey logKey) {
	fmt.Fprintf(w, "Made in %s: sekisho.yaml, policy.yaml, hosts, three host keys, and the log key.\n\n", in.dir)
	fmt.Fprintf(w, "%s gets in with:\n", in.user)
	for _, k := range keys {
		fmt.Fprintf(w, "  %s\n", k)
	}
	if own != "" {
		fmt.Fprintf(w, "The last of them is new: give %s to %s and to nobody else.\n", filepath.Join(in.dir, own), in.user)
	}
	fmt.Fprintf(w, "\nPort 22 of %s may be reached", and(p.Networks))
	if p.NetworksGuessed {
		fmt.Fprintf(w, ":\nthis machine has no network of its own, so narrow \"networks\" in sekisho.yaml and\n\"targets\" in policy.yaml to yours.\n")
	} else {
		fmt.Fprintf(w, ", which this machine is in;\nsay more in policy.yaml.\n")
	}
	var signers []ssh.Signer
	for _, name := range defaultSettings().HostKeys {
		if key, err := os.ReadFile(filepath.Join(in.dir, name)); err == nil {
			if signer, err := ssh.ParsePrivateKey(key); err == nil {
				signers = append(signers, signer)
			}
		}
	}
	fmt.Fprintf(w, "\n%s", fingerprints(signers))
	fmt.Fprintf(w, "\nPublic log key, which whoever checks the audit log is to keep elsewhere than here:\n  %s\n", logKey.public)

	dir, identity := "", ""
	if filepath.Clean(in.dir) != "." {
		dir = " " + shellWord(in.dir)
	}
	if own != "" {
		identity = " -i " + shellWord(filepath.Join(in.dir, own))
	}
	host := thisHost()
	fmt.Fprintf(w, "\nNext:\n  sekisho check%s\n  sekisho serve%s\n", dir, dir)
	fmt.Fprintf(w, "  ssh -p 2222%s %s@%s    # tells who you are and what you may reach\n", identity, in.user, host)
	fmt.Fprintf(w, "\nIn ~/.ssh/config of those who connect, for ssh -J bastion HOST:\n")
	fmt.Fprintf(w, "  Host bastion\n    HostName %s\n    Port 2222\n    User %s\n", host, in.user)
	if own != "" {
		path, err := filepath.Abs(filepath.Join(in.dir, own))
		if err == nil {
			fmt.Fprintf(w, "    IdentityFile %q\n", path)
		}
	}
}

// thisHost is where others may find this machine.
func thisHost() string {
	var six netip.Addr
	own, _ := bastion.OwnAddrs() // without any, the text says so
	for _, a := range own {
		switch {
		case a.IsLoopback() || a.IsLinkLocalUnicast():
		case a.Is4():
			return a.String()
		case !six.IsValid():
			six = a
		}
	}
	if six.IsValid() {
		return six.String()
	}
	return "localhost"
}
