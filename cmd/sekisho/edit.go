package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sekisho/authz"
	"sekisho/authz/policyedit"
	"sekisho/authz/strictyaml"
	"sekisho/bastion"
	"sekisho/bastion/admin"
	"sekisho/hostsfile"
)

// An editing is what commands that change a file in its place have in common:
// they check before they write, and say what changes before they ask.
type editing struct {
	where
	yes, dryRun, asJSON bool
	reload, force       bool
}

func (e *editing) addFlags(cmd *cobra.Command, policy bool) {
	e.addConfig(cmd)
	f := cmd.Flags()
	f.BoolVar(&e.yes, "yes", false, "write without asking")
	f.BoolVar(&e.dryRun, "dry-run", false, "say what would change, and write nothing")
	f.BoolVar(&e.asJSON, "json", false, "print what changes as JSON")
	if policy {
		f.BoolVar(&e.reload, "reload", false, "have the server take it over at once, as sekisho reload does")
		f.BoolVar(&e.force, "force", false, "with --reload: also if it ends more than half of all forwards")
	}
}

// An edit is what a change of a file comes to.
type edit struct {
	File    string           `json:"file"`
	Changes []authz.Change   `json:"changes,omitempty"` // of the policy
	Names   []renamed        `json:"names,omitempty"`   // of the hosts file
	Server  bool             `json:"server"`            // one answers, and knows what is live
	Live    int              `json:"live,omitempty"`    // forwards
	End     []bastion.Ending `json:"would_end,omitempty"`
	Notes   []problemLine    `json:"notes,omitempty"`
	Written bool             `json:"written"`
}

// renamed is a name with its addresses before and after.
type renamed struct {
	Name   string   `json:"name"`
	Before []string `json:"before"`
	After  []string `json:"after"`
}

// policy edits the policy.
func (e *editing) policy(cmd *cobra.Command, std stdio, change func(content []byte, path string) ([]byte, strictyaml.Problems, error)) error {
	s, err := e.begin(cmd)
	if err != nil {
		return err
	}
	path := s.path(s.settings.Policy)
	unlock, err := lockFolder(filepath.Dir(path))
	if err != nil {
		return notOurs(err)
	}
	defer unlock()
	content, err := readFile(path)
	if err != nil {
		return failf("", "%s cannot be read: %v", path, reason(err))
	}
	before, problems := parsePolicy(content, path, s.settings.Networks, s.settings.DNS.Zones)
	if problems.Err() != nil {
		tell(std.err, problems.Errors())
		return failf("mend it first; to shut somebody out at once: sekisho lock", "%s has errors, and is not edited", path)
	}
	edited, notes, err := change(content, path)
	if err != nil {
		return editFailure(err)
	}
	after, found := parsePolicy(edited, path, s.settings.Networks, s.settings.DNS.Zones)
	if found.Err() != nil {
		tell(std.err, found.Errors())
		return failf("nothing was written", "the policy would have errors")
	}
	notes = append(notes, newWarnings(problems, found)...)
	if bad := s.beside.read(s).Err(); bad == nil { // else the locks and key files that are in force are not known
		before, _ = s.beside.lay(before)
		after, _ = s.beside.lay(after)
	}
	ed := &edit{File: path, Changes: before.Compare(after), Notes: problemLines(notes)}
	var live previewed
	switch err := s.call(cmd.Context(), "POST", "/v1/preview", wantPreview{edited}, &live); {
	case err == nil:
		ed.Server, ed.Live, ed.End = true, live.Live, live.Forwards
	case !errors.Is(err, admin.ErrNotRunning):
		return serverError(err)
	}
	if written, err := e.write(cmd, std, ed, edited); err != nil || !written {
		return err
	}
	if !e.reload {
		if ed.Server && !e.asJSON {
			fmt.Fprintln(std.out, "In force after: sekisho reload")
		}
		return nil
	}
	var done reloaded
	if err := s.call(cmd.Context(), "POST", "/v1/reload", wantReload{e.force}, &done); err != nil {
		return serverError(err)
	}
	return done.tell(std)
}

// hosts edits the hosts file.
func (e *editing) hosts(cmd *cobra.Command, std stdio, name string, change func(content []byte, path string) ([]byte, error)) error {
	s, err := e.begin(cmd)
	if err != nil {
		return err
	}
	path := s.path(s.settings.Hosts)
	unlock, err := lockFolder(filepath.Dir(path))
	if err != nil {
		return notOurs(err)
	}
	defer unlock()
	content, err := readFile(path)
	if err != nil {
		return failf("", "%s cannot be read: %v", path, reason(err))
	}
	before, _ := hostsfile.Parse(bytes.NewReader(content), path)
	edited, err := change(content, path)
	if err != nil {
		return editFailure(err)
	}
	after, _ := hostsfile.Parse(bytes.NewReader(edited), path)
	r := renamed{Name: name, Before: addressesOf(before, name), After: addressesOf(after, name)}
	ed := &edit{File: path, Names: []renamed{r}, Server: true}
	for _, addr := range r.After {
		if !slices.Contains(r.Before, addr) && !inNetworks(s.settings.Networks, addr) {
			ed.Notes = append(ed.Notes, problemLine{File: path, Severity: "warning", Message: addr + " lies outside networks: nothing will be dialled there"})
		}
	}
	if after.Len() == 0 {
		ed.Notes = append(ed.Notes, problemLine{File: path, Severity: "warning", Message: "no name is left, and a server that runs does not take over such a file"})
	}
	_, err = e.write(cmd, std, ed, edited)
	return err
}

func (e *editing) begin(cmd *cobra.Command) (*setup, error) {
	config, err := e.findConfig(cmd, nil)
	if err != nil {
		return nil, err
	}
	s, problems := loadSettings(config, nil, os.Environ())
	if problems.Err() != nil {
		return nil, &badFiles{problems}
	}
	return s, nil
}

// write says what changes, asks, and writes the file.
func (e *editing) write(cmd *cobra.Command, std stdio, ed *edit, content []byte) (written bool, err error) {
	if !e.asJSON {
		ed.print(std)
	}
	switch {
	case e.dryRun:
	case e.yes:
		written = true
	case e.asJSON || !isTerminal(std.in):
		return false, failf("--yes writes it, --dry-run only says what would change", "nothing was written: there is nobody to ask")
	default:
		if written, err = confirm(cmd, std); err != nil || !written {
			fmt.Fprintln(std.out, "Nothing was written.")
			return false, err
		}
	}
	if written {
		if err := replaceFile(ed.File, content, 0o644); err != nil {
			return false, notOurs(err)
		}
	}
	ed.Written = written
	if e.asJSON {
		return written, printJSON(std.out, ed)
	}
	if written {
		fmt.Fprintf(std.out, "Written: %s\n", ed.File)
	}
	return written, nil
}

// print says what changes, for whom, and what would end.
func (ed *edit) print(std stdio) {
	for _, n := range ed.Names {
		fmt.Fprintf(std.out, "%s: %s, and was %s\n", n.Name, orNothing(n.After), orNothing(n.Before))
	}
	const most = 50
	for _, c := range ed.Changes[:min(len(ed.Changes), most)] {
		fmt.Fprintln(std.out, c.Who)
		for _, s := range c.Gains {
			fmt.Fprintf(std.out, "  gains %s\n", s)
		}
		for _, s := range c.Loses {
			fmt.Fprintf(std.out, "  loses %s\n", s)
		}
	}
	if n := len(ed.Changes) - most; n > 0 {
		fmt.Fprintf(std.out, "and %s more; --json tells all\n", many(n, "user"))
	}
	if len(ed.Names) == 0 {
		switch {
		case len(ed.Changes) == 0:
			fmt.Fprintln(std.out, "Nobody gains or loses anything.")
		case !ed.Server:
			fmt.Fprintln(std.out, "No server answers here, so that what is live is not known.")
		case len(ed.End) == 0:
			fmt.Fprintf(std.out, "Of %s, none would end.\n", many(ed.Live, "live forward"))
		default:
			writeEndings(std.out, ed.End)
		}
	}
	tell(std.err, fromLines(ed.Notes))
}

// confirm asks a person at a terminal.
func confirm(cmd *cobra.Command, std stdio) (bool, error) {
	fmt.Fprint(std.err, "Write it? [y/N] ")
	select {
	case <-cmd.Context().Done():
		fmt.Fprintln(std.err)
		return false, nil
	case answer := <-lines(std.in):
		answer = strings.ToLower(strings.TrimSpace(answer))
		return answer == "y" || answer == "yes", nil
	}
}

func notOurs(err error) error {
	return failf("run it as the user to whom the files belong: sudo sekisho …", "the file cannot be changed: %v", reason(err))
}

// editFailure is an error of an editor, with the hint that it may hold.
func editFailure(err error) error {
	var p strictyaml.Problem
	if errors.As(err, &p) {
		hint := p.Hint
		p.Hint = ""
		return failf(hint, "%v", p)
	}
	return failf("", "%v", err)
}

// newWarnings are those of after that before has not, by what they say.
func newWarnings(before, after strictyaml.Problems) (out strictyaml.Problems) {
	for _, p := range after.Warnings() {
		if !slices.ContainsFunc(before, func(o strictyaml.Problem) bool { return o.Message == p.Message }) {
			out = append(out, p)
		}
	}
	return out
}

// mentions are the grants that name a user who is no more.
func mentions(content []byte, path, user string) (notes strictyaml.Problems) {
	for _, p := range policyedit.Mentions(content, path, user).Warnings() {
		p.Hint = "whoever is given this name later would have it: take it out"
		notes = append(notes, p)
	}
	return notes
}

func orNothing(words []string) string {
	if len(words) == 0 {
		return "nothing"
	}
	return strings.Join(words, ", ")
}
