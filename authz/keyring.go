package authz

import (
	"fmt"
	"slices"

	"golang.org/x/crypto/ssh"

	"sekisho/authz/authkeys"
	"sekisho/authz/strictyaml"
)

// A keyring tells whose a key is, and which authorities sign certificates.
type keyring struct {
	byBlob        map[string]*credential // by the key's wire format
	byFingerprint map[string]*credential
	authorities   map[string][]*authority // by the fingerprint of their key
}

// A credential is a key of a user.
type credential struct {
	key         ssh.PublicKey
	fingerprint string
	user        *user
	options     narrowing // of the line in the user's authorized_keys
	refused     string    // why that line cannot be honoured, and so the key proves nothing
}

// narrowing is what one line or several of authorized_keys allow; all of them
// must. None allows everything.
type narrowing []*authkeys.Options

func (n narrowing) any(has func(*authkeys.Options) bool) bool {
	return slices.ContainsFunc(n, has)
}

func newKeyring() keyring {
	return keyring{byBlob: map[string]*credential{}, byFingerprint: map[string]*credential{}, authorities: map[string][]*authority{}}
}

// keyring returns the keys in force. It is empty for a nil Policy.
func (p *Policy) keyring() *keyring {
	if p == nil {
		return new(keyring)
	}
	return &p.keys
}

// find returns the credential of a key, or nil.
func (k *keyring) find(key ssh.PublicKey) *credential {
	return k.byBlob[string(key.Marshal())]
}

func (k *keyring) add(blob string, c *credential) {
	k.byBlob[blob] = c
	k.byFingerprint[c.fingerprint] = c
}

// refuse makes a key prove nothing and vouch for nothing as far as the user is
// concerned, wherever else it stands: a line that cannot be honoured might
// narrow it.
func (k *keyring) refuse(key ssh.PublicKey, u *user, why string) {
	if c := k.find(key); c != nil && c.user == u && c.refused == "" {
		both := *c // it may be the policy's, which stays as it is
		both.refused = why
		k.add(string(key.Marshal()), &both)
	}
	fingerprint := ssh.FingerprintSHA256(key)
	if all := k.authorities[fingerprint]; len(all) > 0 {
		k.authorities[fingerprint] = append(all, &authority{name: all[0].name, key: key, fingerprint: fingerprint, user: u, refused: why})
	}
}

// clone returns a copy that can be added to.
func (k *keyring) clone() keyring {
	out := keyring{
		byBlob:        make(map[string]*credential, len(k.byBlob)),
		byFingerprint: make(map[string]*credential, len(k.byFingerprint)),
		authorities:   make(map[string][]*authority, len(k.authorities)),
	}
	for blob, c := range k.byBlob {
		out.add(blob, c)
	}
	for fingerprint, all := range k.authorities {
		out.authorities[fingerprint] = slices.Clone(all)
	}
	return out
}

// A KeyFile is what a user's authorized_keys file holds.
type KeyFile struct {
	User string // after whom the file is named
	Name string // of the file, for messages

	// What it says. If it is unusable, so is every key of the user, since it
	// may narrow each of them.
	authkeys.File
}

// Narrows reports whether the file takes anything away from the keys that it
// names, which the policy may have, too.
func (f *KeyFile) Narrows() bool {
	return f.Unusable != "" || len(f.Refused) > 0 || slices.ContainsFunc(f.Keys, func(e authkeys.Entry) bool {
		o := e.Options
		return o.From != nil || !o.Expiry.IsZero() || len(o.PermitOpen) > 0 || o.NoForwarding || o.NoSessions
	})
}

// WithKeys returns the policy with the keys of authorized_keys files, in place
// of those that an earlier WithKeys has added. They grant nothing and make
// nobody a user; the options of a key narrow it, also one that the policy has.
// What cannot be taken is refused, each with a warning that says so:
//
//   - a file of somebody who is no user of the policy;
//   - every key of a user whose file is unusable, and a key of a line that
//     cannot be honoured, also where the policy has it;
//   - a key of another user, in the policy or in another file. A key that
//     stands in the files of two users is nobody's.
func (p *Policy) WithKeys(files []KeyFile) (*Policy, strictyaml.Problems) {
	if p == nil {
		return nil, nil
	}
	var problems strictyaml.Problems
	warn := func(f KeyFile, line int, format string, args ...any) {
		problems = append(problems, strictyaml.Problem{File: f.Name, Line: line, Column: min(line, 1), Message: fmt.Sprintf(format, args...), Warning: true})
	}
	q := *p
	q.files, q.keys, q.shut = files, p.written.clone(), nil
	added := map[string]KeyFile{} // by blob, where a key that is not the policy's was found
	shared := map[string]bool{}
	for _, f := range files {
		u := p.users[f.User]
		if u == nil {
			warn(f, 0, "the file is not used: the policy has no user %s", quote(f.User))
			continue
		}
		if f.Unusable != "" {
			if q.shut == nil {
				q.shut = map[string]string{}
			}
			q.shut[u.name] = fmt.Sprintf("the keys of %s are refused: %s %s", u.name, f.Name, f.Unusable)
			continue
		}
		for i := range f.Keys {
			e := &f.Keys[i]
			if e.Options.CertAuthority {
				a := &authority{name: fmt.Sprintf("%s:%d", f.Name, e.Line), key: e.Key, fingerprint: ssh.FingerprintSHA256(e.Key), user: u, options: narrowing{&e.Options}}
				q.keys.authorities[a.fingerprint] = append(q.keys.authorities[a.fingerprint], a)
				continue
			}
			blob := string(e.Key.Marshal())
			c := q.keys.byBlob[blob]
			switch {
			case shared[blob]:
				warn(f, e.Line, "the key is refused: it stands in the files of several users")
			case c == nil:
				q.keys.add(blob, &credential{key: e.Key, fingerprint: ssh.FingerprintSHA256(e.Key), user: u, options: narrowing{&e.Options}})
				added[blob] = f
			case c.user == u:
				if _, ok := added[blob]; ok {
					continue // the first line counts, and its reader has said so
				}
				both := *c // it is the policy's, which stays as it is
				both.options = narrowing{&e.Options}
				q.keys.add(blob, &both)
				added[blob] = f
			default:
				if first, ok := added[blob]; ok && p.written.byBlob[blob] == nil {
					warn(f, e.Line, "the key is refused, here and in %s: it stands in the files of two users", first.Name)
					delete(q.keys.byBlob, blob)
					delete(q.keys.byFingerprint, c.fingerprint)
					shared[blob] = true
					continue
				}
				warn(f, e.Line, "the key is refused: it is the key of %s", c.user.name)
			}
		}
		for _, r := range f.Refused {
			q.keys.refuse(r.Key, u, fmt.Sprintf("the key is refused at %s:%d: %s", f.Name, r.Line, r.Why))
		}
	}
	q.revoke()
	return &q, problems
}

// refuses says why the options do not allow a target, or returns "". They
// compare the host as it was asked for with the host as it is written, as
// OpenSSH's permitopen does, both in normal form.
func (n narrowing) refuses(host string, port uint32) (Reason, string) {
	for _, o := range n {
		if o.NoForwarding {
			return KeyNoForwarding, "the key is not for forwarding (restrict or no-port-forwarding in authorized_keys)"
		}
		if len(o.PermitOpen) == 0 {
			continue
		}
		if !slices.ContainsFunc(o.PermitOpen, func(open authkeys.Open) bool {
			if open.Port != 0 && uint32(open.Port) != port {
				return false
			}
			name, _, msg := parseHost(open.Host)
			return open.Host == "*" || msg == "" && name == host
		}) {
			var room wordsRoom
			return KeyNotPermitted, string(words(room[:0]).s("permitopen of the key does not name ").s(host).s(", port ").u(uint64(port)))
		}
	}
	return "", ""
}
