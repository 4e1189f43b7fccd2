package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

func newAuditKey(std stdio) *cobra.Command {
	var w where
	var create bool
	cmd := &cobra.Command{
		Use:   "key [DIR]",
		Short: "Print the public log key, or make the key",
		Long: `Key prints the public half of the key that signs the audit log: one line, for
--key of those who check the log. They are to have it from somewhere else than
the server whose log they check.

With --new it makes the key of a folder that has none yet, with the name that the
server has now. It writes over nothing. If there was another key, keep its public half
as KEY.….pub, such as log_key.2026.pub: verify needs it for the heads of that time.`,
		Example: `  sekisho audit key /etc/sekisho
  sudo sekisho audit key --new`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := w.findConfig(cmd, args)
			if err != nil {
				return err
			}
			s, problems := loadSettings(config, nil, os.Environ())
			if problems.Err() != nil {
				return &badFiles{problems}
			}
			if create {
				if err := s.newLogKey(std); err != nil {
					return err
				}
			}
			public, err := s.publicLogKey()
			if err != nil {
				return err
			}
			fmt.Fprintln(std.out, public)
			return nil
		},
	}
	w.addConfig(cmd)
	cmd.Flags().BoolVar(&create, "new", false, "make the key that is missing")
	return cmd
}

// newLogKey makes the log key where there is none.
func (s *setup) newLogKey(std stdio) error {
	path := s.logKeyPath()
	for _, p := range []string{path, path + ".pub"} {
		if !isNotExist(p) {
			return failf("nothing was changed; heads that were signed with a key can only be checked with that key",
				"%s exists, and audit key --new writes over nothing", p)
		}
	}
	key, err := makeLogKey(s.settings.Name)
	if err != nil {
		return err
	}
	if err := writeNew(filepath.Dir(path), key.files(filepath.Base(path))); err != nil {
		return failf("nothing was left behind", "%w", err)
	}
	if self := newModes(filepath.Dir(s.config), s.path(s.settings.Audit.Dir), os.Geteuid()).self; self != os.Geteuid() {
		fmt.Fprintf(std.err, "sekisho: hint: the user who serves must be able to read it: chown %s %s\n", shellWord(strings.TrimPrefix(userName(self), "user ")), shellWord(path))
	}
	return nil
}

// publicLogKey is the text of the public log key. Who may not read the private
// one has to take the word of the file beside it.
func (s *setup) publicLogKey() (string, error) {
	path := s.logKeyPath()
	content, err := readFile(path)
	if errors.Is(err, os.ErrPermission) && !isNotExist(path+".pub") {
		if _, err := readPublicKey(path + ".pub"); err != nil {
			return "", err
		}
		content, err = readFile(path + ".pub")
		return strings.TrimSpace(string(content)), err
	}
	if _, _, problems := readLogKey(path); problems.Err() != nil {
		return "", &badFiles{problems}
	}
	return publicHalf(strings.TrimSpace(string(content)))
}
