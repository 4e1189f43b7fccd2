package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sekisho/authz"
	"sekisho/authz/policyedit"
	"sekisho/authz/strictyaml"
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
	File    string         `json:"file"`
	Changes []authz.Change `json:"changes,omitempty"` // of the policy
	Names   []renamed      `json:"names,omitempty"`   // of the hosts file
	Live    *previewed     `json:"live,omitempty"`    // what would end, if a server knows
	Unasked string         `json:"unasked,omitempty"` // why no server has told
	Notes   []problemLine  `json:"notes,omitempty"`
	Written bool           `json:"written"`
	Outcome *reloaded      `json:"reloaded,omitempty"` // of --reload

	before, after []byte
}

// renamed is a name with its addresses before and after.
type renamed struct {
	Name   string   `json:"name"`
	Before []string `json:"before"`
	After  []string `json:"after"`
}

// policy edits the policy. Change returns the new content, and what there is to
// say of it; named is the user whom it is about, or "".
func (e *editing) policy(cmd *cobra.Command, std stdio, named string, change func(content []byte, path string) ([]byte, strictyaml.Problems, error)) error {
	s, err := e.begin(cmd)
	if err != nil {
		return err
	}
	path := s.path(s.settings.Policy)
	content, err := readFile(path)
	if err != nil {
		return notOurs("%s cannot be read: %v", path, err)
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
	notes = append(notes, newWarnings(problems, found, notes)...)
	if beside := s.beside.read(s); beside.Err() == nil {
		before, _ = s.beside.lay(before)
		after, _ = s.beside.lay(after)
	} else {
		notes = append(notes, strictyaml.Problem{File: path, Warning: true,
			Message: "the files beside the policy have errors, so that what they take away is not counted: " + texts(beside), Hint: "sekisho check tells more"})
	}
	ed := &edit{File: path, Changes: before.Compare(after), before: content, after: edited}
	ed.Notes = problemLines(append(notes, standing(after, path, named)...))
	ed.askServer(cmd, s)
	if written, err := e.write(cmd, std, ed); err != nil || !written {
		return err
	}
	return e.takeOver(cmd, std, s, ed)
}

// standing are warnings about a user who will have no use of what he is given.
func standing(p *authz.Policy, path, user string) (notes strictyaml.Problems) {
	if user == "" {
		return nil
	}
	warn := func(message, hint string) {
		notes = append(notes, strictyaml.Problem{File: path, Message: message, Hint: hint, Warning: true})
	}
	v, ok := p.ViewUser(authz.Request{User: user, Key: authz.AnyKey, Time: time.Now()})
	if !ok {
		return nil
	}
	if !v.Listed { // he was removed
		warn(fmt.Sprintf("%q can still come by certificate, in the groups that its authority gives and without the conditions that stood here", user), "sekisho lock "+user)
		return notes
	}
	if len(v.Grants) == 0 {
		warn(fmt.Sprintf("no grant reaches the user %q", user), "sekisho grant add gives one; --group puts the user into a group that has some")
	}
	for _, c := range v.Conditions {
		if !c.Holds && !c.Open && c.Detail != "" {
			hint := ""
			if c.Reason == authz.Locked {
				hint = "sekisho unlock " + user
			}
			warn(c.Detail, hint)
		}
	}
	for _, k := range v.Keys {
		if k.Reason != "" {
			warn(fmt.Sprintf("the key %s is not taken: %s", k.Fingerprint, k.Detail), "")
		}
	}
	return notes
}

// askServer asks the server that runs, if one does, what would end.
func (ed *edit) askServer(cmd *cobra.Command, s *setup) {
	var live previewed
	switch err := s.call(cmd.Context(), "POST", "/v1/preview", wantPreview{ed.after}, &live); {
	case err == nil:
		ed.Live = &live
	case errors.Is(err, admin.ErrNotRunning):
		ed.Unasked = "no server answers here"
	default: // which must not keep anybody from taking access away
		ed.Unasked = fmt.Sprintf("the server does not tell: %v", err)
	}
}

// takeOver says what comes after a policy is written, or has the server take it
// over.
func (e *editing) takeOver(cmd *cobra.Command, std stdio, s *setup, ed *edit) error {
	if !e.reload {
		next := "in force after: sekisho reload"
		if s.settings.Watch {
			next = "in force at once: the server follows the policy"
		}
		return e.done(std, ed, next)
	}
	var outcome reloaded
	if err := s.call(cmd.Context(), "POST", "/v1/reload", wantReload{e.force}, &outcome); err != nil {
		if e.asJSON {
			printJSON(std.out, ed)
		}
		return serverError(err)
	}
	ed.Outcome = &outcome
	if err := e.done(std, ed, ""); err != nil || !e.asJSON {
		return errors.Join(err, outcome.tell(std))
	}
	if outcome.Refused != "" {
		return errTold
	}
	return nil
}

// done says that a file is written.
func (e *editing) done(std stdio, ed *edit, next string) error {
	if e.asJSON {
		return printJSON(std.out, ed)
	}
	if next != "" {
		next = "; " + next
	}
	fmt.Fprintf(std.out, "Written: %s%s\n", ed.File, next)
	return nil
}

// hosts edits the hosts file.
func (e *editing) hosts(cmd *cobra.Command, std stdio, name string, change func(content []byte, path string) ([]byte, error)) error {
	s, err := e.begin(cmd)
	if err != nil {
		return err
	}
	path := s.path(s.settings.Hosts)
	content, err := readFile(path)
	if err != nil {
		return notOurs("%s cannot be read: %v", path, err)
	}
	before, _ := hostsfile.Parse(bytes.NewReader(content), path)
	edited, err := change(content, path)
	if err != nil {
		return editFailure(err)
	}
	after, _ := hostsfile.Parse(bytes.NewReader(edited), path)
	r := renamed{Name: name, Before: addressesOf(before, name), After: addressesOf(after, name)}
	ed := &edit{File: path, Names: []renamed{r}, before: content, after: edited}
	warn := func(message string) {
		ed.Notes = append(ed.Notes, problemLine{File: path, Severity: "warning", Message: message})
	}
	fence, _ := parsePolicy([]byte("version: 1\n"), "", s.settings.Networks, nil) // whatever state the policy is in
	for _, addr := range r.After {
		if reason, why := fence.Fence(netip.MustParseAddr(addr)); reason != "" {
			warn(why + ": nothing is dialled there")
		}
	}
	if after.Len() == 0 {
		warn("no name is left, and a server that runs does not take over such a file")
	}
	if written, err := e.write(cmd, std, ed); err != nil || !written {
		return err
	}
	return e.done(std, ed, "a server that runs follows it")
}

func (e *editing) begin(cmd *cobra.Command) (*setup, error) {
	if e.force && !e.reload {
		return nil, usagef("add --reload, or leave it away", "--force is about --reload")
	}
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

// write says what changes, asks, and writes the file. Nothing keeps other
// commands waiting while a person thinks, sekisho lock least of all: the file
// must then still be what the person was told about.
func (e *editing) write(cmd *cobra.Command, std stdio, ed *edit) (written bool, err error) {
	if !e.asJSON {
		ed.print(std)
	}
	switch {
	case e.dryRun:
		if e.asJSON {
			err = printJSON(std.out, ed)
		}
		return false, err
	case e.yes:
	case e.asJSON || !isTerminal(std.in):
		return false, failf("--yes writes it, --dry-run only says what would change", "nothing was written: there is nobody to ask")
	default:
		if !confirm(cmd, std) {
			return false, failf("", "nothing was written")
		}
	}
	unlock, err := lockFolder(filepath.Dir(ed.File))
	if err != nil {
		return false, notOurs("%s cannot be changed: %v", ed.File, err)
	}
	defer unlock()
	if content, err := readFile(ed.File); err != nil || !bytes.Equal(content, ed.before) {
		return false, failf("give the command again", "nothing was written: %s has changed meanwhile", ed.File)
	}
	if err := replaceFile(ed.File, ed.after, 0o644); err != nil {
		return false, notOurs("%s cannot be changed: %v", ed.File, err)
	}
	ed.Written = true
	return true, nil
}

// print says what changes, for whom, and what would end.
func (ed *edit) print(std stdio) {
	for _, n := range ed.Names {
		fmt.Fprintf(std.out, "%s has %s; before: %s\n", n.Name, addressWords(n.After), addressWords(n.Before))
	}
	const most = 50
	for _, c := range ed.Changes[:min(len(ed.Changes), most)] {
		state := ""
		switch {
		case c.Added:
			state = " is new"
		case c.Removed:
			state = " is no more"
		}
		fmt.Fprintf(std.out, "%s%s\n", c.Who, state)
		writeFirst(std.out, "  gains ", c.Gains)
		writeFirst(std.out, "  loses ", c.Loses)
	}
	if n := len(ed.Changes) - most; n > 0 {
		fmt.Fprintf(std.out, "and %s more; --json tells all\n", many(n, "change"))
	}
	if len(ed.Names) == 0 {
		if len(ed.Changes) == 0 {
			fmt.Fprintln(std.out, "Nobody gains or loses anything.")
		}
		ed.printLive(std.out)
	}
	tell(std.err, fromLines(ed.Notes))
}

// writeFirst prints the first of many lines.
func writeFirst(w io.Writer, prefix string, all []string) {
	const most = 50
	for _, s := range all[:min(len(all), most)] {
		fmt.Fprintf(w, "%s%s\n", prefix, s)
	}
	if n := len(all) - most; n > 0 {
		fmt.Fprintf(w, "%s%d more; --json tells all\n", prefix, n)
	}
}

func (ed *edit) printLive(w io.Writer) {
	switch {
	case ed.Live == nil:
		fmt.Fprintf(w, "What would end of what runs is not known: %s.\n", ed.Unasked)
	case len(ed.Live.Forwards)+len(ed.Live.Connections) == 0:
		fmt.Fprintf(w, "Of %s, none would end.\n", many(ed.Live.Live, "live forward"))
	default:
		if len(ed.Live.Forwards) > 0 {
			writeEndings(w, ed.Live.Forwards)
		}
		fmt.Fprintf(w, "Of %s, %d would end, and %s.\n", many(ed.Live.Live, "live forward"), len(ed.Live.Forwards), many(len(ed.Live.Connections), "connection"))
	}
}

// confirm asks a person at a terminal.
func confirm(cmd *cobra.Command, std stdio) bool {
	fmt.Fprint(std.err, "Write it? [y/N] ")
	select {
	case <-cmd.Context().Done():
		fmt.Fprintln(std.err)
		return false
	case answer, ok := <-lines(std.in):
		if !ok {
			fmt.Fprintln(std.err)
		}
		answer = strings.ToLower(strings.TrimSpace(answer))
		return answer == "y" || answer == "yes"
	}
}

// notOurs is a failure to read or write a file that may be somebody else's.
func notOurs(format, path string, err error) error {
	hint := ""
	if errors.Is(err, os.ErrPermission) {
		hint = "run it as the user to whom the files belong: sudo sekisho …"
	}
	return failf(hint, format, path, reason(err))
}

// editFailure is an error of an editor, with the hint that it may hold.
func editFailure(err error) error {
	var p strictyaml.Problem
	var parse *hostsfile.ParseError
	switch {
	case errors.As(err, &parse):
		return &badFiles{fromHosts(parse.Problems)}
	case errors.As(err, &p):
		return &badFiles{strictyaml.Problems{p}}
	}
	return failf("", "%v", err)
}

// newWarnings are those of after that before has not, by what they say, and
// that are not about a place of which something is told already.
func newWarnings(before, after, told strictyaml.Problems) (out strictyaml.Problems) {
	for _, p := range after.Warnings() {
		same := func(o strictyaml.Problem) bool { return o.Message == p.Message }
		there := func(o strictyaml.Problem) bool { return o.Line == p.Line && o.Column == p.Column }
		if !slices.ContainsFunc(before, same) && !slices.ContainsFunc(told, there) {
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

func addressWords(addrs []string) string {
	if len(addrs) == 0 {
		return "no address"
	}
	return and(addrs)
}
