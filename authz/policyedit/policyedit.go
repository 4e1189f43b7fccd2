package policyedit

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"sekisho/authz/strictyaml"
)

// A User is an entry of users. What is empty is left out.
type User struct {
	Name   string
	Groups []string
	Keys   []string // lines of authorized_keys, without options
}

// A Grant is an entry of grants. What is empty or zero is left out.
type Grant struct {
	Name          string
	Users, Groups []string
	To            []string
	Require       []string
	When          When
	AtEnd         string
	Duration      time.Duration // limits.duration
	Forwards      int           // limits.forwards
}

// When is what must hold for a grant.
type When struct {
	From, Except, Hours []string
	After, Until        string
}

// AddUser returns the content with the user at the end of users. It is an
// error if there is a user of that name, also if only in other letter case, or
// if one of the keys is a user's already. Errors about the file are
// strictyaml.Problem values, or wrap them; the filename is only for them.
func AddUser(content []byte, filename string, u User) ([]byte, error) {
	p, err := read(content, filename)
	if err != nil {
		return nil, err
	}
	list, err := p.list("users")
	if err != nil {
		return nil, err
	}
	if err := p.free(list, "user", u.Name); err != nil {
		return nil, err
	}
	if err := p.goodNames("group", u.Groups...); err != nil {
		return nil, err
	}
	if err := p.goodKeys(list, u); err != nil {
		return nil, err
	}
	return p.add("users", u.value())
}

// RemoveUser returns the content without the user. The grants that name the
// user stay as they are: Mentions tells them, and they grant nobody anything
// until there is a user of that name again.
func RemoveUser(content []byte, filename, name string) ([]byte, error) {
	p, err := read(content, filename)
	if err != nil {
		return nil, err
	}
	return p.removeNamed("users", name)
}

// AddGrant returns the content with the grant at the end of grants, where it
// counts after all others. It is an error if there is a grant of that name.
func AddGrant(content []byte, filename string, g Grant) ([]byte, error) {
	p, err := read(content, filename)
	if err != nil {
		return nil, err
	}
	list, err := p.list("grants")
	if err != nil {
		return nil, err
	}
	if err := p.free(list, "grant", g.Name); err != nil {
		return nil, err
	}
	if err := p.goodGrant(g); err != nil {
		return nil, err
	}
	return p.add("grants", g.value())
}

// RemoveGrant returns the content without the grant.
func RemoveGrant(content []byte, filename, name string) ([]byte, error) {
	p, err := read(content, filename)
	if err != nil {
		return nil, err
	}
	return p.removeNamed("grants", name)
}

// Mentions returns the places where a grant names the user, as warnings. A file
// that cannot be read has its problems returned, which are no warnings.
func Mentions(content []byte, filename, user string) strictyaml.Problems {
	root, problems := strictyaml.Parse(bytes.NewReader(content), filename)
	if problems.Err() != nil {
		return problems
	}
	var found strictyaml.Problems
	for _, grant := range child(root, "grants").Children() {
		name := child(grant, "name").Text()
		for _, n := range child(grant, "users").Children() {
			if n.Text() == user {
				found = append(found, strictyaml.Problem{File: filename, Line: n.Line, Column: n.Column, Warning: true,
					Message: fmt.Sprintf("the grant %s names the user %s", quote(name), quote(user))})
			}
		}
	}
	return found
}

func (u User) value() value {
	v := mapValue()
	v.add("name", textValue(u.Name))
	v.addList("groups", u.Groups)
	if len(u.Keys) > 0 {
		keys := listValue(u.Keys)
		for i := range keys.items {
			keys.items[i].quoted = true
		}
		v.add("keys", keys)
	}
	return v
}

func (g Grant) value() value {
	v := mapValue()
	v.add("name", textValue(g.Name))
	v.addList("groups", g.Groups)
	v.addList("users", g.Users)
	v.addList("to", g.To)
	when := mapValue()
	when.addList("hours", g.When.Hours)
	when.addList("from", g.When.From)
	when.addList("except", g.When.Except)
	when.addText("after", g.When.After)
	when.addText("until", g.When.Until)
	if len(when.keys) > 0 {
		v.add("when", when)
	}
	v.addText("at_end", g.AtEnd)
	v.addList("require", g.Require)
	limits := mapValue()
	if g.Duration > 0 {
		limits.addText("duration", duration(g.Duration))
	}
	if g.Forwards > 0 {
		limits.add("forwards", value{kind: strictyaml.Int, text: strconv.Itoa(g.Forwards)})
	}
	if len(limits.keys) > 0 {
		v.add("limits", limits)
	}
	return v
}

// duration returns a duration without the units that are zero: 8h, not 8h0m0s.
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// list returns the list that a key of the file has, or nil if the key is not
// there. Each entry of it is a mapping.
func (p *policy) list(key string) (*strictyaml.Node, error) {
	list := child(p.root, key)
	for _, item := range list.Items() {
		if item.Kind != strictyaml.Mapping {
			item.Map() // says what is wanted
		}
	}
	return list, p.root.Problems().Err()
}

// free says why an entry of a name cannot be added to a list.
func (p *policy) free(list *strictyaml.Node, what, name string) error {
	if err := p.goodNames(what, name); err != nil {
		return err
	}
	texts, nodes := names(list)
	for i, other := range texts {
		if other == name {
			return p.alreadyAt(nodes[i], what, name, nodes[i].Line)
		}
	}
	for i, other := range texts {
		if what == "user" && strings.EqualFold(other, name) {
			return p.problemAt(nodes[i], fmt.Sprintf("the user %s differs from the new one, %s, only in upper and lower case", quote(other), quote(name)), "")
		}
	}
	return nil
}

func (p *policy) alreadyAt(n *strictyaml.Node, what, name string, line int) error {
	return p.problemAt(n, fmt.Sprintf("the %s %s is already at line %d", what, quote(name), line), "")
}

// nameForm is that of authz. What it lets pass can be written in any style.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$`)

func (p *policy) goodNames(what string, names ...string) error {
	for _, s := range names {
		if !nameForm.MatchString(s) {
			return p.problem(0, 0, quote(s)+" is not a name of a "+what,
				`a name has 1 to 64 letters, digits and ". _ @ + -", and begins with a letter or digit`)
		}
	}
	return nil
}

// goodKeys says which of the user's keys is none, or somebody's already.
func (p *policy) goodKeys(users *strictyaml.Node, u User) error {
	owners := map[string]*strictyaml.Node{}
	names := map[string]string{}
	for _, user := range users.Children() {
		for _, n := range child(user, "keys").Children() {
			if blob, ok := parseKey(n.Text()); ok && owners[blob] == nil {
				owners[blob], names[blob] = n, child(user, "name").Text()
			}
		}
	}
	seen := map[string]bool{}
	for _, line := range u.Keys {
		blob, ok := parseKey(line)
		switch {
		case !ok:
			return p.problem(0, 0, quote(line)+" is not a public key", "a key is one line as in a .pub file: ssh-ed25519 AAAA… comment")
		case owners[blob] != nil:
			return p.problemAt(owners[blob], fmt.Sprintf("the key %s is already that of %s", fingerprint(blob), quote(names[blob])), "a key belongs to one user")
		case seen[blob]:
			return p.problem(0, 0, fmt.Sprintf("the key %s is given twice", fingerprint(blob)), "")
		}
		seen[blob] = true
	}
	return nil
}

// parseKey reads a line of authorized_keys without options, and returns the key
// in the wire's form.
func parseKey(s string) (blob string, ok bool) {
	fields := strings.Fields(s)
	if len(fields) < 2 || !printable(s) {
		return "", false
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(s))
	if err != nil || len(options) > 0 || len(rest) > 0 || key.Type() != fields[0] {
		return "", false
	}
	return string(key.Marshal()), true
}

func fingerprint(blob string) string {
	key, err := ssh.ParsePublicKey([]byte(blob))
	if err != nil {
		return "?"
	}
	return ssh.FingerprintSHA256(key)
}

// goodGrant says what about a grant cannot be written, or would be lost.
func (p *policy) goodGrant(g Grant) error {
	if err := p.goodNames("user", g.Users...); err != nil {
		return err
	}
	if err := p.goodNames("group", g.Groups...); err != nil {
		return err
	}
	if err := p.goodNames("target", g.To...); err != nil {
		return err
	}
	texts := slices.Concat(g.Require, g.When.From, g.When.Except, g.When.Hours, []string{g.When.After, g.When.Until, g.AtEnd})
	for _, s := range texts {
		if !printable(s) {
			return p.problem(0, 0, quote(s)+" has characters that do not show", "")
		}
	}
	switch {
	case len(g.Users)+len(g.Groups) == 0:
		return p.problem(0, 0, "the grant is given to nobody", "name users or groups")
	case len(g.To) == 0:
		return p.problem(0, 0, "the grant is to nothing", "name targets")
	case g.Duration < 0:
		return p.problem(0, 0, "the duration "+g.Duration.String()+" is negative", "")
	case g.Forwards < 0:
		return p.problem(0, 0, "the number of forwards "+strconv.Itoa(g.Forwards)+" is negative", "")
	}
	return nil
}

// printable reports whether a text can stand in quotes on a line as it is.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// quote makes a name of unknown origin fit for a message.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
