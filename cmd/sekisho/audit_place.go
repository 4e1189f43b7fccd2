package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"sekisho/audit"
)

// A logPlace is where a command that reads the audit log finds it, and the
// public log keys to check it with.
//
// Over SSH it is that of the server, and no flag names another one: what an
// auditor says must not make the server open a file.
type logPlace struct {
	served *servedLog
	where  where
	log    string   // --log
	keys   []string // --key

	policies bool // it is enough that policies are kept there
}

// A servedLog is the one that a server writes.
type servedLog struct {
	dir  string
	key  note.Verifier
	book *audit.Log
}

// addFlags adds the flags that say where the log is.
func (p *logPlace) addFlags(cmd *cobra.Command) {
	if p.served != nil {
		return
	}
	p.where.addConfig(cmd)
	cmd.Flags().StringVar(&p.log, "log", "", "read the log in this `folder`, without any settings: a copy of one, say")
}

// addKeyed adds the flag that names the public log key, too, for commands that
// cannot do without it.
func (p *logPlace) addKeyed(cmd *cobra.Command) {
	if p.addFlags(cmd); p.served == nil {
		cmd.Flags().StringArrayVar(&p.keys, "key", nil, "the public log `key`, or a file with it (default: that of the settings); may be given several times")
	}
}

// A foundLog is what a logPlace has led to.
type foundLog struct {
	dir  string
	keys []note.Verifier // may be none
	own  bool            // they are what the server itself has, and no more than that
	file string          // of the log key, if they are
}

// find finds the log. An argument is the folder of the settings. That there is
// no key is no error.
func (p *logPlace) find(cmd *cobra.Command, args []string) (foundLog, error) {
	log, _, err := p.look(cmd, args)
	return log, err
}

// findKeyed is find for a command that needs the public log key.
func (p *logPlace) findKeyed(cmd *cobra.Command, args []string) (foundLog, error) {
	log, noKey, err := p.look(cmd, args)
	switch {
	case err != nil || len(log.keys) > 0:
	case noKey != nil:
		err = noKey
	default:
		err = usagef("give the public log key, which sekisho audit key prints on the server", "--log needs --key")
	}
	return log, err
}

// look finds the log and its keys, or else why there is none.
func (p *logPlace) look(cmd *cobra.Command, args []string) (log foundLog, noKey, err error) {
	log, noKey, err = p.beside(cmd, args)
	if err == nil && len(p.keys) > 0 {
		log.own, noKey = false, nil
		log.keys, err = readPublicKeys(p.keys)
	}
	return log, noKey, err
}

// beside finds the log, and the key beside its settings.
func (p *logPlace) beside(cmd *cobra.Command, args []string) (log foundLog, noKey, err error) {
	if p.served != nil {
		if len(args) > 0 {
			return log, nil, usagef("it is the log of this server that is read", "%s takes no folder here: %q", cmd.Name(), args[0])
		}
		return foundLog{dir: p.served.dir, keys: []note.Verifier{p.served.key}, own: true}, nil, nil
	}
	if cmd.Flags().Changed("log") {
		switch {
		case p.log == "":
			return log, nil, usagef("name the folder, or leave --log away", "the name after --log is empty")
		case len(args) > 0:
			return log, nil, usagef("give one of the two", "the folder %s and --log %s name two places", args[0], p.log)
		case p.where.config != "":
			return log, nil, usagef("give one of the two", "--config %s and --log %s name two places", p.where.config, p.log)
		}
		return foundLog{dir: p.log}, nil, p.isLog(p.log, "")
	}
	config, err := p.where.findConfig(cmd, args)
	if err != nil {
		return log, nil, err
	}
	s, problems := loadSettings(config, nil, os.Environ())
	if problems.Err() != nil {
		return log, nil, &badFiles{problems}
	}
	log = foundLog{dir: s.path(s.settings.Audit.Dir), own: true, file: s.logKeyPath()}
	text, noKey := s.publicLogKey()
	if noKey == nil {
		var key note.Verifier
		if key, noKey = note.NewVerifier(text); noKey == nil {
			log.keys = []note.Verifier{key}
		}
	}
	return log, noKey, p.isLog(log.dir, config)
}

// ofLog are names of files that only the folder of a log has.
var ofLog = regexp.MustCompile(`^([0-9]{20}\S*\.(jsonl|jsonl\.zst|heads)|pruned)$`)

// isLog makes sure that there is a log in the folder: of another one every
// answer would be that nothing is wrong and nobody was there.
func (p *logPlace) isLog(dir, config string) error {
	err := p.hasLog(dir)
	if err == nil {
		return nil
	}
	return noLog(dir, config, err, p.hasLog(filepath.Join(dir, "audit")) == nil)
}

var errNoRecords = errors.New("it has no records, and nothing of any")

func (p *logPlace) hasLog(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if ofLog.MatchString(e.Name()) || p.policies && e.Name() == "policies" {
			return nil
		}
	}
	return errNoRecords
}

// noLog tells why there is none, or that it cannot be seen.
func noLog(dir, config string, err error, below bool) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return failf("the log is for the user that sekisho serves as: run this as that user or as root, or over SSH as a user with the role auditor",
			"the log in %s cannot be read: %w", dir, reason(err))
	case below:
		return failf("it is in the folder below: "+filepath.Join(dir, "audit"), "there is no log in %s: %w", dir, reason(err))
	case config != "":
		return failf("audit.dir in "+config+" is where the log is; sekisho serve makes it", "there is no log in %s: %w", dir, reason(err))
	}
	return failf("name the folder that has the log's .jsonl files", "there is no log in %s: %w", dir, reason(err))
}
