package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/note"

	"sekisho/authz"
	"sekisho/authz/strictyaml"
	"sekisho/bastion"
	"sekisho/hostsfile"
)

// A setup is everything that serve runs with and check looks at.
type setup struct {
	config     string // path of sekisho.yaml
	content    []byte // of it
	settings   Settings
	given      flags // of the command line
	environ    []string
	hostKeys   []ssh.Signer // the first of a type is used
	hostCerts  []*ssh.Certificate
	logKey     note.Signer
	logPub     note.Verifier
	policy     *authz.Policy // with beside laid over it
	counts     counts        // of the policy
	policyText []byte        // what policy was read from, until it is kept: see takeText
	beside     beside
	hosts      *hostsfile.File
	serving    bool           // others' bytes move meanwhile
	passed     []net.Listener // in place of those that settings name
}

// load reads and judges all files, and returns every problem in them, sorted
// by file and line. The setup can be served only if none of them is an error.
// The environment is a list as os.Environ returns it.
func load(config string, given flags, environ []string) (*setup, strictyaml.Problems) {
	s, problems := loadSettings(config, given, environ)
	if s.content == nil {
		return s, problems
	}
	var found strictyaml.Problems
	problems = append(problems, s.readHostKeys()...)
	s.logKey, s.logPub, found = readLogKey(s.logKeyPath())
	problems = append(problems, found...)
	s.policy, s.counts, found = s.readPolicy()
	problems = append(problems, found...)
	problems = append(problems, s.beside.read(s)...)
	s.policy, found = s.beside.lay(s.policy)
	problems = append(problems, found...)
	s.hosts, found = openHosts(s.path(s.settings.Hosts))
	problems = append(problems, found...)

	problems = append(problems, s.checkSyslog()...)
	problems = append(problems, s.checkModes()...)
	problems.Sort()
	return s, problems
}

// loadSettings reads the settings and no other file.
func loadSettings(config string, given flags, environ []string) (*setup, strictyaml.Problems) {
	s := &setup{config: config, given: given, environ: environ}
	content, err := readFile(config)
	if err != nil {
		hint := ""
		if errors.Is(err, os.ErrNotExist) {
			hint = "make one with its files beside it: sekisho init " + shellWord(filepath.Dir(config))
		}
		return s, strictyaml.Problems{{File: config, Message: fmt.Sprintf("cannot be read: %v", reason(err)), Hint: hint}}
	}
	var problems strictyaml.Problems
	s.content = content
	s.settings, problems = readSettings(config, content, environ, given)
	return s, problems
}

// checkModes looks at who could change the files.
func (s *setup) checkModes() strictyaml.Problems {
	auditDir := s.path(s.settings.Audit.Dir)
	m := newModes(filepath.Dir(s.config), auditDir, os.Geteuid())
	m.decides(s.config)
	m.decides(s.path(s.settings.Policy))
	m.decides(s.path(s.settings.Hosts))
	s.hostKeyModes(m)
	m.secret(s.logKeyPath())
	s.syslogModes(m)
	m.audit(auditDir)
	return m.problems
}

// checkModesOf looks at who could change one file, as the settings name it.
func (s *setup) checkModesOf(file string) strictyaml.Problems {
	m := newModes(filepath.Dir(s.config), s.path(s.settings.Audit.Dir), os.Geteuid())
	m.decides(s.path(file))
	return m.problems
}

// path returns a path of the settings as seen from here.
func (s *setup) path(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(filepath.Dir(s.config), p)
}

// readHostKeys reads the host keys and their certificates.
func (s *setup) readHostKeys() strictyaml.Problems {
	var problems, found strictyaml.Problems
	s.hostKeys, problems = readHostKeys(s.paths(s.settings.HostKeys))
	if problems.Err() == nil { // or certificates would seem to be of no key
		s.hostCerts, found = readHostCertificates(s.paths(s.settings.HostCertificates), s.hostKeys, time.Now())
		if found.Err() == nil {
			found = append(found, uncertified(s.paths(s.settings.HostKeys), s.hostKeys, s.hostCerts)...)
		}
	}
	return append(problems, found...)
}

// hostKeyModes looks at who could read the host keys, or change them or their
// certificates.
func (s *setup) hostKeyModes(m *modes) {
	for _, path := range s.paths(s.settings.HostKeys) {
		m.secret(path)
	}
	for _, path := range s.paths(s.settings.HostCertificates) {
		m.serving(path)
	}
}

func (s *setup) paths(names []string) []string {
	paths := make([]string, len(names))
	for i, p := range names {
		paths[i] = s.path(p)
	}
	return paths
}

// readPolicy reads the policy as it is now.
func (s *setup) readPolicy() (*authz.Policy, counts, strictyaml.Problems) {
	policy, counts, _, problems := s.tryPolicy()
	return policy, counts, problems
}

// tryPolicy is readPolicy, and tells a file that could not be read from one
// that is not good.
func (s *setup) tryPolicy() (_ *authz.Policy, _ counts, unread bool, _ strictyaml.Problems) {
	path := s.path(s.settings.Policy)
	content, err := readFile(path)
	if err != nil {
		return nil, counts{}, true, strictyaml.Problems{{File: path, Message: fmt.Sprintf("cannot be read: %v", reason(err))}}
	}
	policy, problems := s.parse(content, path)
	s.policyText = content
	return policy, counts(policy.Counts()), false, problems
}

// parse reads the text of a policy: beside forwards that run, if there are any.
func (s *setup) parse(content []byte, path string) (policy *authz.Policy, problems strictyaml.Problems) {
	parse := func() {
		policy, problems = parsePolicy(content, path, s.settings.Networks, s.settings.DNS.Zones)
	}
	if s.serving && len(content) >= quietFrom {
		quiet(parse)
	} else {
		parse()
	}
	return policy, problems
}

func parsePolicy(content []byte, path string, networks []netip.Prefix, zones []string) (*authz.Policy, strictyaml.Problems) {
	own, _ := bastion.OwnAddrs() // the server asks again, and does not start without an answer
	return authz.Parse(bytes.NewReader(content), path, authz.Options{Networks: networks, Zones: zones, Own: own})
}

// openHosts opens the hosts file.
func openHosts(path string) (*hostsfile.File, strictyaml.Problems) {
	file, err := hostsfile.Open(path)
	if err != nil {
		return nil, hostsProblems(path, err)
	}
	return file, fromHosts(file.Warnings())
}

// hostsProblems are the problems that an error of package hostsfile tells of.
func hostsProblems(path string, err error) strictyaml.Problems {
	var parse *hostsfile.ParseError
	if errors.As(err, &parse) {
		return fromHosts(parse.Problems)
	}
	return strictyaml.Problems{{File: path, Message: fmt.Sprintf("cannot be read: %v", reason(err))}}
}

func fromHosts(problems []hostsfile.Problem) strictyaml.Problems {
	var all strictyaml.Problems
	for _, p := range problems {
		all = append(all, strictyaml.Problem{File: p.File, Line: p.Line, Column: p.Column, Message: p.Message, Warning: p.Warning})
	}
	return all
}

// counts are what a policy holds.
type counts authz.Counts

func (c counts) String() string {
	return fmt.Sprintf("%s with %s, %s, %s", many(c.Users, "user"), many(c.Keys, "key"), many(c.Targets, "target"), many(c.Grants, "grant"))
}

// A where is what the command line of check and serve says about the files and
// the settings.
type where struct {
	config string
	listen []string
	name   string
}

func (w *where) addFlags(cmd *cobra.Command) {
	w.addConfig(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&w.listen, "listen", nil, "an `address` to listen on, in place of those in the file; may be given several times")
	f.StringVar(&w.name, "name", "", "the `name` of this server in the records")
}

// addConfig adds the flag that finds the files, for commands that need nothing
// else of the settings.
func (w *where) addConfig(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&w.config, "config", "c", "", "the `file` with the settings (default: ./sekisho.yaml, else /etc/sekisho/sekisho.yaml)")
}

// find returns the path of sekisho.yaml and the settings that flags give.
func (w *where) find(cmd *cobra.Command, args []string) (string, flags, error) {
	given := flags{}
	if cmd.Flags().Changed("listen") {
		given["listen"] = w.listen
	}
	if cmd.Flags().Changed("name") {
		given["name"] = []string{w.name}
	}
	config, err := w.findConfig(cmd, args)
	return config, given, err
}

// findConfig returns the path of sekisho.yaml.
func (w *where) findConfig(cmd *cobra.Command, args []string) (string, error) {
	const file = "sekisho.yaml"
	if w.config == "" && cmd.Flags().Changed("config") {
		return "", usagef("name the file, or leave --config away", "the name after --config is empty")
	}
	config := cmp.Or(w.config, os.Getenv("SEKISHO_CONFIG"))
	switch {
	case len(args) > 0 && w.config != "":
		return "", usagef("give one of the two", "the folder %s and --config %s name two places", args[0], w.config)
	case len(args) > 0:
		if info, err := os.Stat(args[0]); err == nil && !info.IsDir() {
			return "", failf("name the folder, or the file with --config", "%s is not a folder", args[0])
		}
		return filepath.Join(args[0], file), nil
	case config != "":
		if info, err := os.Stat(config); err == nil && info.IsDir() {
			config = filepath.Join(config, file)
		}
		return config, nil
	}
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	const system = "/etc/sekisho/" + file
	if _, err := os.Stat(system); err == nil {
		return system, nil
	}
	return "", failf("name the folder that sekisho init has made, or make one: sekisho init", "there is no %s here, nor %s", file, system)
}
