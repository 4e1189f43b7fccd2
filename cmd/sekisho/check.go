package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"sekisho/audit/query"
	"sekisho/authz/strictyaml"
)

func newCheck(std stdio) *cobra.Command {
	var w where
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check [DIR]",
		Short: "Say everything that is wrong with the files",
		Long: `Check reads all files as serve does, changes nothing, and tells every problem
with its file, line and column. What it calls an error, serve does not start with.`,
		Example: `  sekisho check /etc/sekisho
  sekisho check --json | jq`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			config, given, err := w.find(cmd, args)
			if err != nil {
				return err
			}
			s, problems := load(config, given, os.Environ())
			if asJSON {
				if err := problemsJSON(std.out, problems); err != nil {
					return err
				}
			}
			if problems.Err() != nil {
				if asJSON {
					return &badFiles{} // told already
				}
				return &badFiles{problems}
			}
			if !asJSON {
				tell(std.err, problems)
				fmt.Fprint(std.out, s.summary())
			}
			return nil
		},
	}
	w.addFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the problems as a JSON array on standard output")
	return cmd
}

// summary says what a good setup holds.
func (s *setup) summary() string {
	text := fmt.Sprintf("%s is good: %s, %s in %s.\n",
		s.config, s.counts, many(s.hosts.Table().Len(), "name"), s.settings.Hosts)
	text += fmt.Sprintf("Listens on %s; reaches %s.\n", and(s.settings.Listen), and(words(s.settings.Networks)))
	text += "Policy " + s.policy.Hash() + "\n"
	return text + fingerprints(s.hostKeys)
}

func words[T fmt.Stringer](values []T) []string {
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = v.String()
	}
	return all
}

// A problemLine is a problem as programs read it.
type problemLine struct {
	File     string `json:"file"`
	Line     int    `json:"line,omitempty"`
	Column   int    `json:"column,omitempty"`
	Severity string `json:"severity"`
	Message  string `json:"message"`
	Hint     string `json:"hint,omitempty"`
}

func problemLines(problems strictyaml.Problems) []problemLine {
	all := make([]problemLine, len(problems))
	for i, p := range problems {
		all[i] = problemLine{p.File, p.Line, p.Column, "error", p.Message, p.Hint}
		if p.Warning {
			all[i].Severity = "warning"
		}
	}
	return all
}

// fromLines are the problems that were made lines.
func fromLines(lines []problemLine) strictyaml.Problems {
	all := make(strictyaml.Problems, len(lines))
	for i, l := range lines {
		all[i] = strictyaml.Problem{File: l.File, Line: l.Line, Column: l.Column, Message: l.Message, Hint: l.Hint, Warning: l.Severity == "warning"}
	}
	return all
}

// problemsJSON prints problems for programs.
func problemsJSON(w io.Writer, problems strictyaml.Problems) error {
	return printJSON(w, problemLines(problems))
}

// printJSON prints a value for programs, and harmless for a terminal.
func printJSON(w io.Writer, value any) error { return query.WriteJSON(w, value) }
