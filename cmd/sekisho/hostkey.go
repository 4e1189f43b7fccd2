package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"sekisho/authz/policyedit"
)

func newHostKey(std stdio) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hostkey rotate",
		Short: "Change the host keys without frightening clients",
		Long: `A host key is changed in three steps, between which clients learn the next key; none
of them meets a stranger. sekisho fingerprint shows which keys there are.`,
		RunE: needsCommand,
	}
	cmd.AddCommand(newHostKeyRotate(std))
	return cmd
}

func newHostKeyRotate(std stdio) *cobra.Command {
	r := rotation{std: std}
	cmd := &cobra.Command{
		Use:   "rotate [--finish | --retire]",
		Short: "Change a host key, in three steps",
		Long: `Rotate changes the host key of a type, and says at each step what is next:

  sekisho hostkey rotate           makes the next key and has it announced, not used
  sekisho hostkey rotate --finish  has it used; the one before is still announced
  sekisho hostkey rotate --retire  takes the one before out of host_keys

Each edits host_keys in sekisho.yaml, in force after a reload. Between the first two,
wait until everybody has logged in once: OpenSSH clients from 8.5 on, and older ones
with UpdateHostKeys yes, then know the next key. Others are told it:
sekisho fingerprint. A key that somebody has stolen is not rotated but replaced.`,
		Example: `  sudo sekisho hostkey rotate --type rsa
  sekisho hostkey rotate --finish --dry-run`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error { return r.run(cmd) },
	}
	r.addConfig(cmd)
	f := cmd.Flags()
	f.StringVar(&r.kind, "type", "ed25519", "which key: ed25519, ecdsa or rsa")
	f.BoolVar(&r.finish, "finish", false, "have the next key used")
	f.BoolVar(&r.retire, "retire", false, "take the keys that are not used out of host_keys")
	f.BoolVar(&r.yes, "yes", false, "write without asking")
	f.BoolVar(&r.dryRun, "dry-run", false, "say what would be done, and write nothing")
	return cmd
}

// A rotation is one run of hostkey rotate.
type rotation struct {
	where
	std            stdio
	kind           string
	finish, retire bool
	yes, dryRun    bool

	s      *setup
	names  []string // host_keys
	keys   []ssh.Signer
	at     []int  // which of them are of the type; the first is used
	edited []byte // sekisho.yaml as it is to be
}

func (r *rotation) run(cmd *cobra.Command) error {
	if r.finish && r.retire {
		return usagef("they are two steps", "--finish and --retire do not go together")
	}
	if err := r.look(cmd); err != nil {
		return err
	}
	switch {
	case r.finish:
		return r.useNext(cmd)
	case r.retire:
		return r.dropOld(cmd)
	case len(r.at) > 1:
		return r.underWay()
	}
	return r.begin(cmd)
}

// look reads the keys as they are.
func (r *rotation) look(cmd *cobra.Command) error {
	if !slices.Contains([]string{"ed25519", "ecdsa", "rsa"}, r.kind) {
		return usagef("the types are ed25519, ecdsa and rsa", "%q is not a type of host keys", r.kind)
	}
	config, err := r.findConfig(cmd, nil)
	if err != nil {
		return err
	}
	if os.Getenv("SEKISHO_HOST_KEYS") != "" {
		return failf("change that variable, where the server gets it from", "SEKISHO_HOST_KEYS goes before the file, which would change nothing")
	}
	s, problems := loadSettings(config, nil, os.Environ())
	if problems.Err() == nil {
		problems = append(problems, s.readHostKeys()...)
	}
	if problems.Err() != nil {
		return &badFiles{problems}
	}
	r.s, r.names, r.keys = s, s.settings.HostKeys, s.hostKeys
	for i, key := range r.keys {
		kind, _, _ := strings.Cut(keyType(key.PublicKey()), "-")
		if kind == r.kind && (len(r.at) == 0 || r.keys[r.at[0]].PublicKey().Type() == key.PublicKey().Type()) {
			r.at = append(r.at, i)
		}
	}
	if len(r.at) == 0 {
		return failf("add a key of another type by hand: ssh-keygen -t "+r.kind+" -N '' -f FILE", "host_keys has no %s key to rotate", r.kind)
	}
	return nil
}

// A name that rotate has given a key ends in its number.
var numbered = regexp.MustCompile(`^(.*)_([1-9][0-9]{0,8})$`)

// generation parts the name of a key's file from its number, which is 1 if it
// has none.
func generation(name string) (base string, n int) {
	if m := numbered.FindStringSubmatch(name); m != nil {
		n, _ = strconv.Atoi(m[2])
		return m[1], n
	}
	return name, 1
}

// nextName is a name that no file has.
func (r *rotation) nextName() string {
	base, n := generation(r.names[r.at[0]])
	for n++; ; n++ {
		name := fmt.Sprintf("%s_%d", base, n)
		if isNotExist(r.s.path(name)) && isNotExist(r.s.path(name)+".pub") && isNotExist(r.s.path(name)+"-cert.pub") {
			return name
		}
	}
}

// begin makes the next key, and has it announced.
func (r *rotation) begin(cmd *cobra.Command) error {
	used, name := r.names[r.at[0]], r.nextName()
	if err := r.edit(slices.Insert(slices.Clone(r.names), r.at[0]+1, name), nil); err != nil {
		return err
	}
	fmt.Fprintf(r.std.out, "%s (%s) is used now.\nNext key: %s, to be made and announced.\n", used, ssh.FingerprintSHA256(r.keys[r.at[0]].PublicKey()), name)
	if ok, err := r.mayWrite(cmd); !ok {
		return err
	}
	pair, err := makeHostKey(r.keys[r.at[0]].PublicKey().Type(), "sekisho@"+r.s.settings.Name)
	if err != nil {
		return err
	}
	if err := r.writeKey(pair, r.s.path(used), r.s.path(name)); err != nil {
		return err
	}
	r.tellBegun(pair, used, name)
	return nil
}

// writeKey writes the next key and the settings that name it: both, or nothing
// that counts.
func (r *rotation) writeKey(pair keyPair, used, path string) error {
	unlock, err := lockFolder(filepath.Dir(r.s.config))
	if err != nil {
		return notOurs("%s cannot be changed: %v", r.s.config, err)
	}
	defer unlock()
	file := filepath.Base(path)
	if err := writeNew(filepath.Dir(path), []newFile{{file, pair.private, 0o600}, {file + ".pub", []byte(pair.line() + "\n"), 0o644}}); err != nil {
		return failf("nothing was left behind", "the key cannot be written: %w", err)
	}
	if err = giveTo(used, path, path+".pub"); err != nil {
		err = notOurs("the new key cannot be given to the owner of %s: %v", used, err)
	} else {
		err = r.write()
	}
	if err != nil {
		os.Remove(path)
		os.Remove(path + ".pub")
	}
	return err
}

// giveTo gives files to the owner of another one, who serves with it.
func giveTo(like string, paths ...string) error {
	info, err := os.Stat(like)
	if err != nil {
		return err
	}
	for _, path := range paths {
		own, err := os.Stat(path)
		if err != nil {
			return err
		}
		if ownerOf(own) == ownerOf(info) {
			continue
		}
		if err := os.Chown(path, ownerOf(info), groupOf(info)); err != nil {
			return err
		}
	}
	return nil
}

func (r *rotation) tellBegun(pair keyPair, used, name string) {
	config := ""
	if r.config != "" {
		config = " --config " + shellWord(r.config)
	}
	kind := ""
	if r.kind != "ed25519" {
		kind = " --type " + r.kind
	}
	fmt.Fprintf(r.std.out, `Made:    %s %s
Written: %s

1. Now: sekisho reload%s
   The server goes on with %s, and announces the new key.
2. Wait until everybody has logged in once, some weeks: OpenSSH from 8.5 on learns the
   key by that. Give all others this line for known_hosts, and put the key where else
   the old one is written down, such as in SSHFP records (sekisho fingerprint):
   %s
3. Then: sekisho hostkey rotate%s%s --finish
`, r.s.path(name), ssh.FingerprintSHA256(pair.public), r.s.config, config, used,
		knownHosts([]string{defaultName()}, r.s.port())+" "+strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pair.public))), kind, config)
	r.tellCertificate(r.at[0], r.s.path(name))
}

// tellCertificate says that a key's certificate is not that of the next.
func (r *rotation) tellCertificate(i int, next string) {
	for _, cert := range r.s.hostCerts {
		if bytes.Equal(cert.Key.Marshal(), r.keys[i].PublicKey().Marshal()) {
			fmt.Fprintf(r.std.err, "sekisho: warning: the key that is used has a host certificate, and %s has none\n", next)
			fmt.Fprintf(r.std.err, "sekisho: hint: before --finish, have it signed and list it in host_certificates: ssh-keygen -s CA -h -I %s -n %s %s.pub\n",
				shellWord(printable(cert.KeyId)), shellWord(printable(strings.Join(cert.ValidPrincipals, ","))), shellWord(next))
		}
	}
}

// newest returns which of the keys of the kind is the newest by its name, or -1
// if the names do not tell.
func (r *rotation) newest() int {
	first, newest, most := "", -1, 0
	for n, i := range r.at {
		base, number := generation(r.names[i])
		if n == 0 {
			first = base
		}
		if base != first || number == most {
			return -1
		}
		if number > most {
			newest, most = i, number
		}
	}
	return newest
}

// underWay says where a rotation stands that has begun.
func (r *rotation) underWay() error {
	fmt.Fprintf(r.std.out, "%s is used; announced beside it: %s.\n", r.names[r.at[0]], and(r.others()))
	switch newest := r.newest(); {
	case newest < 0:
		fmt.Fprintf(r.std.out, "Which of them is the next, their names do not tell: put it first in host_keys of %s.\n", r.s.config)
	case newest != r.at[0]:
		fmt.Fprintf(r.std.out, "Once everybody has logged in since: sekisho hostkey rotate --type %s --finish\n", r.kind)
	default:
		fmt.Fprintf(r.std.out, "Once nobody wants to go back: sekisho hostkey rotate --type %s --retire\n", r.kind)
	}
	return nil
}

func (r *rotation) others() (names []string) {
	for _, i := range r.at[1:] {
		names = append(names, r.names[i])
	}
	return names
}

// useNext puts the newest key first.
func (r *rotation) useNext(cmd *cobra.Command) error {
	newest := r.newest()
	switch {
	case len(r.at) == 1:
		return failf("sekisho hostkey rotate makes the next", "there is no next %s key: host_keys has only %s", r.kind, r.names[r.at[0]])
	case newest < 0:
		return failf("put it first in host_keys by hand", "which of %s is the next key, their names do not tell", and(append([]string{r.names[r.at[0]]}, r.others()...)))
	case newest == r.at[0]:
		return failf("sekisho hostkey rotate --retire takes the others out", "%s, the newest key, is used already", r.names[newest])
	}
	names := slices.Delete(slices.Clone(r.names), newest, newest+1)
	if err := r.edit(slices.Insert(names, r.at[0], r.names[newest]), nil); err != nil {
		return err
	}
	fmt.Fprintf(r.std.out, "%s (%s) is to be used, and %s still announced.\n", r.names[newest], ssh.FingerprintSHA256(r.keys[newest].PublicKey()), r.names[r.at[0]])
	hasCert := slices.ContainsFunc(r.s.hostCerts, func(c *ssh.Certificate) bool {
		return bytes.Equal(c.Key.Marshal(), r.keys[newest].PublicKey().Marshal())
	})
	if !hasCert {
		r.tellCertificate(r.at[0], r.s.path(r.names[newest]))
	}
	if ok, err := r.mayWrite(cmd); !ok {
		return err
	}
	if err := r.lockAndWrite(); err != nil {
		return err
	}
	fmt.Fprintf(r.std.out, `Written: %s; in force after: sekisho reload

A client that has not learnt the key now says that the host identification has changed:
give it the line of sekisho fingerprint. To go back, put %s first in host_keys.
Then: sekisho hostkey rotate --type %s --retire
`, r.s.config, r.names[r.at[0]], r.kind)
	return nil
}

// dropOld takes the keys that are not used out of the settings, and their
// certificates with them.
func (r *rotation) dropOld(cmd *cobra.Command) error {
	newest := r.newest()
	switch {
	case len(r.at) == 1:
		return failf("", "there is nothing to retire: host_keys has only the %s key %s", r.kind, r.names[r.at[0]])
	case newest >= 0 && newest != r.at[0]:
		return failf("first: sekisho hostkey rotate --finish", "%s is the next key, and not used yet", r.names[newest])
	}
	retired := r.others()
	names := slices.DeleteFunc(slices.Clone(r.names), func(name string) bool { return slices.Contains(retired, name) })
	var certs []string
	for i, name := range r.s.settings.HostCertificates {
		ofRetired := func(at int) bool {
			return bytes.Equal(r.s.hostCerts[i].Key.Marshal(), r.keys[at].PublicKey().Marshal())
		}
		if !slices.ContainsFunc(r.at[1:], ofRetired) {
			certs = append(certs, name)
		}
	}
	if err := r.edit(names, certs); err != nil {
		return err
	}
	fmt.Fprintf(r.std.out, "%s is used; to be taken out of host_keys: %s.\n", r.names[r.at[0]], and(retired))
	if ok, err := r.mayWrite(cmd); !ok {
		return err
	}
	if err := r.lockAndWrite(); err != nil {
		return err
	}
	fmt.Fprintf(r.std.out, "Written: %s; in force after: sekisho reload\n\nClients forget the old key when they next log in. Delete its files when no backup needs\nthem: %s\n",
		r.s.config, and(r.s.paths(retired)))
	return nil
}

// edit makes the new text of the settings, and sees that it says what is meant.
func (r *rotation) edit(names, certs []string) error {
	edited, err := policyedit.SetTexts(r.s.content, r.s.config, "host_keys", names)
	if err == nil && len(certs) < len(r.s.settings.HostCertificates) && r.retire {
		edited, err = policyedit.SetTexts(edited, r.s.config, "host_certificates", certs)
	}
	if err != nil {
		return editFailure(err)
	}
	after, problems := readSettings(r.s.config, edited, os.Environ(), nil)
	if problems.Err() != nil {
		return &badFiles{problems}
	}
	if !slices.Equal(after.HostKeys, names) {
		return failf("edit it by hand", "host_keys in %s cannot be edited in place", r.s.config)
	}
	r.edited = edited
	return nil
}

// mayWrite asks, unless the command line has the answer.
func (r *rotation) mayWrite(cmd *cobra.Command) (bool, error) {
	switch {
	case r.dryRun:
		return false, nil
	case r.yes:
		return true, nil
	case !isTerminal(r.std.in):
		return false, failf("--yes writes it, --dry-run only says what would be done", "nothing was written: there is nobody to ask")
	case !confirm(cmd, r.std):
		return false, failf("", "nothing was written")
	}
	return true, nil
}

func (r *rotation) lockAndWrite() error {
	unlock, err := lockFolder(filepath.Dir(r.s.config))
	if err != nil {
		return notOurs("%s cannot be changed: %v", r.s.config, err)
	}
	defer unlock()
	return r.write()
}

// write replaces the settings, if they are still what was looked at. The folder
// is locked.
func (r *rotation) write() error {
	if content, err := readFile(r.s.config); err != nil || !bytes.Equal(content, r.s.content) {
		return failf("give the command again", "nothing was written: %s has changed meanwhile", r.s.config)
	}
	if err := replaceFile(r.s.config, r.edited, 0o644); err != nil {
		return notOurs("%s cannot be changed: %v", r.s.config, err)
	}
	return nil
}
