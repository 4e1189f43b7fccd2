package authz

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/authz/krl"
	"sekisho/authz/strictyaml"
)

// Locks are what was taken away by command: beside the policy, and whatever
// that says. They have a file of their own, which commands write. A nil Locks
// takes nothing away.
type Locks struct {
	Lockdown *Lock // nothing begins, but for admins
	All      []Lock

	// Undone are the last of those that were taken off: At and By are when, and
	// by whom. They are kept so that a server that did not run can tell.
	Undone []Lock
}

// A Lock takes away one thing: a user, a key, or the certificates with a
// serial. The lockdown has none of these.
type Lock struct {
	User      string // locked
	Key       string // revoked: fingerprint of a key, or of an authority's key, "SHA256:…"
	Serial    uint64 // revoked: of certificates; 0: none
	Authority string // whose serial it is; "": that of every authority

	At  time.Time // when it was taken away
	By  string    // who did
	Why string    // may be empty
}

// Same reports whether two locks take away the same thing.
func (l Lock) Same(o Lock) bool {
	return l.User == o.User && l.Key == o.Key && l.Serial == o.Serial && l.Authority == o.Authority
}

// IsLockdown reports whether it is the lockdown.
func (l Lock) IsLockdown() bool { return l.Same(Lock{}) }

// String names what is taken away.
func (l Lock) String() string {
	switch {
	case l.User != "":
		return "user " + l.User
	case l.Key != "":
		return "key " + l.Key
	case l.Authority != "":
		return fmt.Sprintf("certificate %d of authority %s", l.Serial, l.Authority)
	case l.Serial != 0:
		return fmt.Sprintf("certificate %d of every authority", l.Serial)
	}
	return "lockdown"
}

// since says when and by whom, for the end of a sentence.
func (l *Lock) since() string { return string(words(nil).since(l)) }

// since adds what Lock.since says.
func (w words) since(l *Lock) words {
	if !l.At.IsZero() {
		w = w.s(" since ").time(l.At.UTC(), "2006-01-02 15:04 MST")
	}
	if l.By != "" {
		w = w.s(" by ").q(l.By)
	}
	if l.Why != "" {
		w = w.s(": ").q(l.Why)
	}
	return w
}

// List returns all locks, the lockdown first.
func (l *Locks) List() []Lock {
	switch {
	case l == nil:
		return nil
	case l.Lockdown != nil:
		return append([]Lock{*l.Lockdown}, l.All...)
	}
	return l.All
}

// Has returns the lock that takes away the same thing, or nil.
func (l *Locks) Has(what Lock) *Lock {
	switch {
	case l == nil:
		return nil
	case what.IsLockdown():
		return l.Lockdown
	}
	for i := range l.All {
		if l.All[i].Same(what) {
			return &l.All[i]
		}
	}
	return nil
}

// With returns the locks with one more.
func (l *Locks) With(lock Lock) *Locks {
	out := l.clone()
	if lock.IsLockdown() {
		out.Lockdown = &lock
	} else if l.Has(lock) == nil {
		out.All = append(out.All, lock)
	}
	out.Undone = slices.DeleteFunc(out.Undone, lock.Same)
	return out
}

// WasUndone returns when, and by whom, a lock was taken off, or nil if that is
// not known.
func (l *Locks) WasUndone(what Lock) *Lock {
	if l == nil {
		return nil
	}
	for i := range l.Undone {
		if l.Undone[i].Same(what) {
			return &l.Undone[i]
		}
	}
	return nil
}

// mostUndone is how many locks that were taken off are kept.
const mostUndone = 100

// Without returns the locks with one less. Lock says when it is taken off, and
// by whom.
func (l *Locks) Without(lock Lock) *Locks {
	out := l.clone()
	if l.Has(lock) == nil {
		return out
	}
	if lock.IsLockdown() {
		out.Lockdown = nil
	}
	out.All = slices.DeleteFunc(out.All, lock.Same)
	out.Undone = append(slices.DeleteFunc(out.Undone, lock.Same), lock)
	out.Undone = out.Undone[max(len(out.Undone)-mostUndone, 0):]
	return out
}

func (l *Locks) clone() *Locks {
	if l == nil {
		return &Locks{}
	}
	return &Locks{Lockdown: l.Lockdown, All: slices.Clone(l.All), Undone: slices.Clone(l.Undone)}
}

// A RevocationList is a list of OpenSSH's (PROTOCOL.krl), with the name of its
// file for messages.
type RevocationList struct {
	Name string
	List *krl.List
}

// WithLocks returns the policy with what was taken away by command, and by
// revocation lists, in place of what an earlier WithLocks took away.
func (p *Policy) WithLocks(l *Locks, lists []RevocationList) *Policy {
	if p == nil {
		return nil
	}
	q := *p
	q.locks, q.lists, q.locked = l, lists, map[Lock]*Lock{}
	if l != nil {
		for i := range l.All {
			q.locked[l.All[i].what()] = &l.All[i]
		}
	}
	q.revoke()
	return &q
}

// what is the lock without its circumstances, as a key to find it by.
func (l Lock) what() Lock {
	return Lock{User: l.User, Key: l.Key, Serial: l.Serial, Authority: l.Authority}
}

// Locks returns what is taken away by command. It may be nil.
func (p *Policy) Locks() *Locks {
	if p == nil {
		return nil
	}
	return p.locks
}

// revoke looks every key up in the revocation lists, so that no decision has
// to. Certificates, of which the policy does not know, are looked up as they
// come.
func (p *Policy) revoke() {
	p.revoked = nil
	if len(p.lists) == 0 {
		return
	}
	p.revoked = map[string]string{}
	for _, c := range p.keys.byBlob {
		if why := p.listed(c.key); why != "" {
			p.revoked[c.fingerprint] = why
		}
	}
}

// listed says by which list a key or certificate is revoked, or returns "".
func (p *Policy) listed(key ssh.PublicKey) string {
	for _, l := range p.lists {
		if why, ok := l.List.Revoked(key); ok {
			return fmt.Sprintf("%s revokes %s", l.Name, why)
		}
	}
	return ""
}

// revocation says why the key or certificate of a request is revoked, or
// returns "".
func (p *Policy) revocation(r *Request) string {
	if len(p.locked) == 0 && len(p.lists) == 0 {
		return ""
	}
	if why, ok := p.revoked[r.Key]; ok {
		return why
	}
	var room wordsRoom
	w := words(room[:0])
	if l := p.locked[Lock{Key: r.Key}]; l != nil {
		return string(w.s("the key ").s(r.Key).s(" is revoked").since(l))
	}
	c := r.Cert
	if c == nil {
		return ""
	}
	if l := p.locked[Lock{Key: c.AuthorityKey}]; l != nil {
		return string(w.s("the key of the authority ").s(c.Authority).s(" is revoked").since(l))
	}
	if l := p.lockOfSerial(c); l != nil {
		return string(w.s("the certificate with serial ").u(c.Serial).s(" is revoked").since(l))
	}
	return p.listed(c.cert)
}

// lockOfSerial returns the lock of a certificate's serial, or nil. One key may
// have several names: that of the authority, those of lines in authorized_keys,
// and the one that it had at the login.
func (p *Policy) lockOfSerial(c *Cert) *Lock {
	if c.Serial == 0 {
		return nil
	}
	for _, of := range [...]string{"", c.Authority} {
		if l := p.locked[Lock{Serial: c.Serial, Authority: of}]; l != nil {
			return l
		}
	}
	for _, a := range p.keys.authorities[c.AuthorityKey] {
		if l := p.locked[Lock{Serial: c.Serial, Authority: a.name}]; l != nil {
			return l
		}
	}
	return nil
}

// lockedDown says why nothing may begin, or returns "". What runs goes on.
func (p *Policy) lockedDown(u *user, r *Request) (Reason, string) {
	if p.locks == nil || p.locks.Lockdown == nil || r.Running || p.holds(u, r, Admin) {
		return "", ""
	}
	var room wordsRoom
	return Lockdown, string(words(room[:0]).s("there is a lockdown").since(p.locks.Lockdown))
}

const locksHead = "# What was taken away by command: sekisho lock, revoke, lockdown. It goes before the policy.\nversion: 1\n"

// Text returns the locks as a file that ParseLocks reads.
func (l *Locks) Text() []byte {
	var b bytes.Buffer
	b.WriteString(locksHead)
	if l == nil {
		return b.Bytes()
	}
	if l.Lockdown != nil {
		fmt.Fprintf(&b, "lockdown: {%s}\n", strings.Join(l.Lockdown.circumstances(), ", "))
	}
	for _, section := range []struct {
		name string
		of   []Lock
		has  func(Lock) bool
	}{
		{"locked", l.All, func(l Lock) bool { return l.User != "" }},
		{"revoked", l.All, func(l Lock) bool { return l.User == "" }},
		{"undone", l.Undone, func(Lock) bool { return true }},
	} {
		heading := section.name + ":\n"
		for _, lock := range section.of {
			if section.has(lock) {
				fmt.Fprintf(&b, "%s  - {%s}\n", heading, strings.Join(lock.fields(), ", "))
				heading = ""
			}
		}
	}
	return b.Bytes()
}

func (l *Lock) fields() []string {
	var fields []string
	switch {
	case l.User != "":
		fields = append(fields, "user: "+strconv.QuoteToASCII(l.User))
	case l.Key != "":
		fields = append(fields, "key: "+strconv.QuoteToASCII(l.Key))
	case l.IsLockdown():
		fields = append(fields, "lockdown: true")
	default:
		fields = append(fields, `serial: "`+strconv.FormatUint(l.Serial, 10)+`"`)
		if l.Authority != "" {
			fields = append(fields, "authority: "+strconv.QuoteToASCII(l.Authority))
		}
	}
	return append(fields, l.circumstances()...)
}

func (l *Lock) circumstances() []string {
	fields := []string{`at: "` + l.At.UTC().Format(time.RFC3339Nano) + `"`, "by: " + strconv.QuoteToASCII(l.By)}
	if l.Why != "" {
		fields = append(fields, "why: "+strconv.QuoteToASCII(l.Why))
	}
	return fields
}

// ParseLocks reads the file that Text writes. The Locks are nil if there is any
// problem that is not a warning.
func ParseLocks(r io.Reader, filename string) (*Locks, strictyaml.Problems) {
	root, problems := strictyaml.Parse(r, filename)
	if root == nil {
		return nil, problems
	}
	l := &Locks{}
	m := root.Map("version", "lockdown", "locked", "revoked", "undone")
	var version int
	if n := m.Require("version"); n.Int(&version, 1, math.MaxInt32) && version != 1 {
		n.Errorf("version %d is not supported by this version", version).Hint = "write version: 1"
	}
	if n := m.Get("lockdown"); n != nil {
		l.Lockdown = &Lock{}
		l.Lockdown.parseCircumstances(n.Map("at", "by", "why"))
	}
	for _, n := range m.Get("locked").Items() {
		m := n.Map("user", "at", "by", "why")
		var lock Lock
		if s, ok := name(m.Require("user"), "user"); ok {
			lock.User = s
			lock.parseCircumstances(m)
			l.All = append(l.All, lock)
		}
	}
	for _, n := range m.Get("revoked").Items() {
		if lock, ok := parseRevoked(n, n.Map("key", "serial", "authority", "at", "by", "why")); ok {
			l.All = append(l.All, lock)
		}
	}
	for _, n := range m.Get("undone").Items() {
		if lock, ok := parseUndone(n); ok {
			l.Undone = append(l.Undone, lock)
		}
	}
	problems = root.Problems()
	if problems.Err() != nil {
		return nil, problems
	}
	return l, problems
}

// parseUndone reads a lock of any kind that was taken off.
func parseUndone(n *strictyaml.Node) (lock Lock, ok bool) {
	m := n.Map("user", "lockdown", "key", "serial", "authority", "at", "by", "why")
	user, lockdown := m.Get("user"), m.Get("lockdown")
	if user == nil && lockdown == nil {
		return parseRevoked(n, m)
	}
	lock.parseCircumstances(m)
	var is bool
	switch {
	case user != nil:
		lock.User, ok = name(user, "user")
		return lock, ok
	case lockdown.Bool(&is) && !is:
		lockdown.Errorf("a lockdown that was taken off is written: lockdown: true")
	}
	return lock, is
}

// parseRevoked reads a key or a serial.
func parseRevoked(n *strictyaml.Node, m strictyaml.Map) (lock Lock, ok bool) {
	lock.parseCircumstances(m)
	switch key, serial := m.Get("key"), m.Get("serial"); {
	case (key == nil) == (serial == nil):
		n.Errorf("what is revoked is either a key or a serial")
		return lock, false
	case key != nil:
		if key.String(&lock.Key) && !isFingerprint(lock.Key) {
			key.Errorf("%s is not a fingerprint", quote(lock.Key)).Hint = "ssh-keygen -lf FILE prints it: SHA256:…"
		}
		if n := m.Get("authority"); n != nil {
			n.Key().Errorf("authority is about a serial, and this is a key").Hint = "leave it out: a key is revoked whoever has signed it"
		}
	default:
		var s string
		if serial.StringOrInt(&s) {
			var err error
			if lock.Serial, err = strconv.ParseUint(s, 10, 64); err != nil || lock.Serial == 0 {
				serial.Errorf("%s is not the serial of a certificate", quote(s)).Hint = "it is a number from 1 on; ssh-keygen -Lf FILE prints it"
			}
		}
		m.Get("authority").String(&lock.Authority)
	}
	return lock, true
}

func (l *Lock) parseCircumstances(m strictyaml.Map) {
	var at string
	if n := m.Get("at"); n.String(&at) {
		var err error
		if l.At, err = time.Parse(time.RFC3339, at); err != nil {
			n.Errorf("%s is not a time", quote(at)).Hint = `write it as "2027-03-31T18:00:00Z"`
		}
	}
	m.Get("by").String(&l.By)
	m.Get("why").String(&l.Why)
}

// isFingerprint reports whether s is a fingerprint as ssh-keygen prints it.
func isFingerprint(s string) bool {
	digest, ok := strings.CutPrefix(s, "SHA256:")
	sum, err := base64.RawStdEncoding.DecodeString(digest)
	// One digest can be written in several ways, and keys are found by this one.
	return ok && err == nil && len(sum) == sha256.Size && base64.RawStdEncoding.EncodeToString(sum) == digest
}
