package main

import (
	"os"

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
}

// A servedLog is the one that a server writes.
type servedLog struct {
	dir  string
	key  note.Verifier
	book *audit.Log
}

func (p *logPlace) addFlags(cmd *cobra.Command) {
	if p.served != nil {
		return
	}
	p.where.addConfig(cmd)
	f := cmd.Flags()
	f.StringVar(&p.log, "log", "", "the `folder` of a log alone, such as a copy on another machine; no settings are read")
	f.StringArrayVar(&p.keys, "key", nil, "a public log `key`, or a file with one (default: that of the settings); may be given several times")
}

// A foundLog is what a logPlace has led to.
type foundLog struct {
	dir  string
	keys []note.Verifier
	own  bool   // the keys are those that lie beside the log
	s    *setup // nil if no settings were read
}

// find finds the log. An argument is the folder of the settings.
func (p *logPlace) find(cmd *cobra.Command, args []string) (foundLog, error) {
	if p.served != nil {
		if len(args) > 0 {
			return foundLog{}, usagef("it is the log of this server that is read", "%s takes no folder here: %q", cmd.Name(), args[0])
		}
		return foundLog{dir: p.served.dir, keys: []note.Verifier{p.served.key}, own: true}, nil
	}
	var keys []note.Verifier
	if len(p.keys) > 0 {
		var err error
		if keys, err = readPublicKeys(p.keys); err != nil {
			return foundLog{}, err
		}
	}
	if p.log != "" || cmd.Flags().Changed("log") {
		if len(args) > 0 || p.where.config != "" {
			return foundLog{}, usagef("give one of the two", "--log %s and the settings name two places", p.log)
		}
		return foundLog{dir: p.log, keys: keys}, isLog(p.log, "")
	}
	config, err := p.where.findConfig(cmd, args)
	if err != nil {
		return foundLog{}, err
	}
	s, problems := loadSettings(config, nil, os.Environ())
	if problems.Err() != nil {
		return foundLog{}, &badFiles{problems}
	}
	found := foundLog{dir: s.path(s.settings.Audit.Dir), keys: keys, s: s}
	if err := isLog(found.dir, config); err != nil {
		return found, err
	}
	if len(keys) == 0 {
		text, err := s.publicLogKey()
		if err != nil {
			return found, err
		}
		key, err := note.NewVerifier(text)
		if err != nil {
			return found, failf("", "the public log key: %w", err)
		}
		found.keys, found.own = []note.Verifier{key}, true
	}
	return found, nil
}

// isLog makes sure that a log can be in the folder.
func isLog(dir, config string) error {
	hint := "name the folder that has the log's .jsonl files"
	if config != "" {
		hint = "audit.dir in " + config + " is where the log is; sekisho serve makes it"
	}
	info, err := os.Stat(dir)
	switch {
	case dir == "":
		return failf(hint, "the name of the folder is empty")
	case os.IsPermission(err):
		return failf("the log is for the user who serves alone: sudo sekisho …", "%w", err)
	case err != nil:
		return failf(hint, "%w", err)
	case !info.IsDir():
		return failf(hint, "%s is not a folder", dir)
	}
	return nil
}
