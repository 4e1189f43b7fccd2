package authz

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

var (
	lockedAt = time.Date(2027, 1, 1, 8, 30, 0, 0, time.UTC)
	source5  = netip.MustParseAddr("203.0.113.5")
)

// lock fills in when, by whom and why.
func lock(l Lock) Lock {
	l.At, l.By, l.Why = lockedAt, "root", "laptop stolen"
	return l
}

const since = ` since 2027-01-01 08:30 UTC by "root": "laptop stolen"`

func TestLocksComeBeforeThePolicy(t *testing.T) {
	p, _ := mustParseCerts(t, certPolicy).WithKeys([]KeyFile{keyFile("alice", "cert-authority CORP\nKEY9"), keyFile("Frank", "cert-authority CI"), unusable("bob", "is gone")})
	alice, carol := mustIdentify(t, p, makeCert(t, testSigner(corpCA), []string{"alice"})), mustIdentify(t, p, makeCert(t, testSigner(corpCA), []string{"carol"}))
	frank := mustIdentify(t, p, makeCert(t, testSigner(ciCA), []string{"Frank"}))
	if frank.Cert.Authority != "keys/Frank:1" {
		t.Fatalf("%+v", frank.Cert)
	}
	key := func(user string, n int) Identity { return Identity{User: user, Key: fingerprint(n)} }
	for _, tt := range []struct {
		name   string
		lock   Lock
		id     Identity
		reason Reason // "": as without
		detail string
	}{
		{"a user", Lock{User: "alice"}, key("alice", 1), Locked, "alice is locked" + since},
		{"a user, by another key", Lock{User: "alice"}, key("alice", 9), Locked, ""},
		{"a user, by certificate", Lock{User: "alice"}, alice, Locked, ""},
		{"a user whom only a grant names", Lock{User: "carol"}, carol, Locked, "carol is locked" + since},
		{"a user, as explain asks", Lock{User: "alice"}, Identity{User: "alice", Key: AnyKey}, Locked, ""},
		{"a user, with a key that is not hers", Lock{User: "alice"}, key("alice", 2), Locked, ""},
		{"a user, with a file that cannot be used", Lock{User: "bob"}, key("bob", 2), Locked, ""},
		{"nobody of the policy", Lock{User: "mallory"}, key("mallory", 1), Locked, "mallory is locked" + since},
		{"another user", Lock{User: "bob"}, key("alice", 1), "", ""},
		{"a user in another case", Lock{User: "ALICE"}, key("alice", 1), "", ""},
		{"a key", Lock{Key: fingerprint(1)}, key("alice", 1), Revoked, "the key " + fingerprint(1) + " is revoked" + since},
		{"a key, of a file", Lock{Key: fingerprint(9)}, key("alice", 9), Revoked, ""},
		{"a key, another one of hers", Lock{Key: fingerprint(1)}, key("alice", 9), "", ""},
		{"a key, which is not hers", Lock{Key: fingerprint(2)}, key("alice", 2), Revoked, ""},
		{"a key, with a file that cannot be used", Lock{Key: fingerprint(2)}, key("bob", 2), Revoked, ""},
		{"a key, as explain asks", Lock{Key: fingerprint(1)}, Identity{User: "alice", Key: AnyKey}, "", ""},
		{"the key in a certificate", Lock{Key: fingerprint(50)}, alice, Revoked, "the key " + fingerprint(50) + " is revoked" + since},
		{"the key of an authority", Lock{Key: fingerprint(corpCA)}, alice, Revoked, "the key of the authority corp is revoked" + since},
		{"the key of an authority, for a key", Lock{Key: fingerprint(corpCA)}, key("alice", 1), "", ""},
		{"the key of another authority", Lock{Key: fingerprint(ciCA)}, alice, "", ""},
		{"the key of a line's authority", Lock{Key: fingerprint(ciCA)}, frank, Revoked, "the key of the authority keys/Frank:1 is revoked" + since},
		{"a serial", Lock{Serial: 7}, alice, Revoked, "the certificate with serial 7 is revoked" + since},
		{"a serial of the authority", Lock{Serial: 7, Authority: "corp"}, alice, Revoked, "the certificate with serial 7 is revoked" + since},
		{"a serial of the authority, by the name of a line", Lock{Serial: 7, Authority: "keys/alice:1"}, alice, Revoked, ""},
		{"a serial of the authority, whom a line vouches for", Lock{Serial: 7, Authority: "ci"}, frank, Revoked, ""},
		{"a serial of another authority", Lock{Serial: 7, Authority: "ci"}, alice, "", ""},
		{"another serial", Lock{Serial: 8}, alice, "", ""},
		{"a serial, for a key", Lock{Serial: 7}, key("alice", 1), "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := p.WithLocks((*Locks)(nil).With(lock(Lock{User: "eve"})).With(lock(tt.lock)), nil)
			for _, host := range []string{"web", "wiki", "nowhere", "a b", ""} {
				for _, running := range []bool{false, true} {
					r := tt.id.ask(host, 22, noon)
					r.Running = running
					d, without := q.Decide(r), p.Decide(r)
					if tt.reason == "" {
						if d != without {
							t.Errorf("%+v, without the lock %+v", d, without)
						}
					} else if d.Reason != tt.reason || tt.detail != "" && d.Detail != tt.detail || d.Effect != Deny || !d.Next.IsZero() {
						t.Errorf("%+v", d)
					}
					if tt.id.User != "mallory" && without.Reason != KeyRemoved {
						checkExplanation(t, q, r)
					}
				}
			}
			reason, detail, _ := q.HoldsNow(tt.id, source5, noon)
			if tt.reason != "" && (reason != tt.reason || tt.detail != "" && detail != tt.detail) {
				t.Errorf("holds now: %q, %s", reason, detail)
			}
			// Once it is taken back, it is as before; so is what it was made from.
			for _, p2 := range []*Policy{q.WithLocks(q.Locks().Without(tt.lock), nil), q.WithLocks(nil, nil), p} {
				r := tt.id.ask("web", 22, noon)
				if got, want := p2.Decide(r), p.Decide(r); got != want || got.Reason == tt.reason {
					t.Errorf("taken back: %+v, want %+v", got, want)
				}
			}
			if q2, _ := q.WithKeys(nil); tt.reason == Locked && q2.Decide(tt.id.ask("web", 22, noon)).Reason != Locked {
				t.Error("new files open a lock")
			}
		})
	}
	if (*Policy)(nil).WithLocks(&Locks{}, nil) != nil || (*Policy)(nil).Locks() != nil {
		t.Error("something from nothing")
	}
}

// An authority that got another name has the same certificates.
func TestSerialsOfARenamedAuthority(t *testing.T) {
	p := mustParseCerts(t, certPolicy)
	id := mustIdentify(t, p, makeCert(t, testSigner(corpCA), []string{"alice"}))
	renamed := mustParseCerts(t, strings.Replace(certPolicy, "name: corp,", "name: company,", 1))
	for _, name := range []string{"corp", "company"} {
		q := renamed.WithLocks((*Locks)(nil).With(Lock{Serial: 7, Authority: name}), nil)
		if d := q.Decide(id.ask("web", 22, noon)); d.Reason != Revoked {
			t.Errorf("by the name of %s: %+v", name, d)
		}
	}
}

func TestSerialZeroIsNoSerial(t *testing.T) {
	p := mustParseCerts(t, certPolicy)
	id := mustIdentify(t, p, makeCert(t, testSigner(corpCA), []string{"alice"}))
	id.Cert.Serial = 0
	for _, l := range []*Locks{{All: []Lock{{}}}, {All: []Lock{{Authority: "corp"}}}} {
		if d := p.WithLocks(l, nil).Decide(id.ask("web", 22, noon)); d.Effect != Allow {
			t.Errorf("%+v", d)
		}
	}
}

const lockdownPolicy = certPolicy + `
roles:
  admin: {users: [bob, carol], groups: [ops], require: [touch]}
`

func TestLockdown(t *testing.T) {
	p := mustParseCerts(t, lockdownPolicy)
	down := p.WithLocks((*Locks)(nil).With(lock(Lock{})), nil)
	withCerts := mustParseCerts(t, strings.Replace(lockdownPolicy, "require: [touch]", "require: [touch], certificates: true", 1)).WithLocks(down.Locks(), nil)
	alice, bob := Identity{User: "alice", Key: fingerprint(1)}, Identity{User: "bob", Key: fingerprint(2)}
	bobCert := mustIdentify(t, p, makeCert(t, testSigner(corpCA), []string{"bob"}))
	for _, tt := range []struct {
		name    string
		p       *Policy
		id      Identity
		host    string
		port    uint32
		touch   bool
		running bool
		reason  Reason
	}{
		{"somebody", down, alice, "web", 22, true, false, Lockdown},
		{"what somebody has running", down, alice, "web", 22, false, true, Granted},
		{"what somebody has running and may no more", down, alice, "db", 3306, false, true, NoGrant},
		{"somebody, a host that is none", down, alice, "a b", 22, true, false, Lockdown},
		{"an admin", down, bob, "db", 3306, true, false, Granted},
		{"an admin without a touch", down, bob, "db", 3306, false, false, Lockdown},
		{"what an admin without a touch has running", down, bob, "db", 3306, false, true, Granted},
		{"an admin, beyond his grants", down, bob, "web", 22, true, false, NoGrant},
		{"an admin by certificate", down, bobCert, "db", 3306, true, false, Lockdown},
		{"an admin by certificate, where roles come by it", withCerts, bobCert, "db", 3306, true, false, Granted},
		{"an admin by certificate without a touch, where roles come by it", withCerts, bobCert, "db", 3306, false, false, Lockdown},
		{"an admin whom only a grant and the role name", withCerts, mustIdentify(t, p, makeCert(t, testSigner(corpCA), []string{"carol"})), "db", 3306, true, false, Granted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.id.ask(tt.host, tt.port, noon)
			r.Touch, r.Running = tt.touch, tt.running
			d := tt.p.Decide(r)
			if d.Reason != tt.reason || d.Effect == Allow != (tt.reason == Granted) {
				t.Errorf("%+v", d)
			}
			if tt.reason == Lockdown && d.Detail != "there is a lockdown"+since {
				t.Error(d.Detail)
			}
			if tt.id.Cert != nil && d.Next.IsZero() {
				t.Error("the end of the certificate is not told")
			}
			checkExplanation(t, tt.p, r)
			// Whoever may be here may stay: it is only that nothing begins.
			if reason, detail, _ := tt.p.HoldsNow(tt.id, source5, noon); reason != "" {
				t.Errorf("%q, %s", reason, detail)
			}
			if d := tt.p.WithLocks(nil, nil).Decide(r); d.Reason == Lockdown {
				t.Error("the lockdown is over")
			}
		})
	}
	// What comes before it.
	for want, p := range map[Reason]*Policy{
		Locked:  p.WithLocks(down.Locks().With(Lock{User: "alice"}), nil),
		Revoked: p.WithLocks(down.Locks().With(Lock{Key: fingerprint(1)}), nil),
	} {
		if d := p.Decide(alice.ask("web", 22, noon)); d.Reason != want {
			t.Errorf("%+v", d)
		}
	}
	r := bob.ask("db", 3306, noon)
	r.Touch = true
	if d := p.WithLocks(down.Locks().With(Lock{User: "bob"}), nil).Decide(r); d.Reason != Locked {
		t.Errorf("a locked admin: %+v", d)
	}
}

func TestLocks(t *testing.T) {
	var none *Locks
	a, b, down := lock(Lock{User: "alice"}), lock(Lock{Serial: 7, Authority: "corp"}), lock(Lock{})
	if none.List() != nil || none.Has(a) != nil || none.Has(down) != nil || len(none.Without(a).List()) != 0 {
		t.Error("nothing has something")
	}
	l := none.With(a)
	l2 := l.With(b).With(down).With(Lock{User: "alice", By: "another"})
	if len(l.List()) != 1 || !reflect.DeepEqual(l2.List(), []Lock{down, a, b}) {
		t.Errorf("%+v, %+v", l.List(), l2.List())
	}
	if got := l2.Has(Lock{User: "alice"}); got == nil || got.By != "root" {
		t.Errorf("%+v", got)
	}
	for _, other := range []Lock{{User: "bob"}, {Serial: 7}, {Serial: 7, Authority: "ci"}, {Serial: 8, Authority: "corp"}, {Key: "alice"}} {
		if l2.Has(other) != nil || !reflect.DeepEqual(l2.Without(other), l2) {
			t.Errorf("%+v is taken for another", other)
		}
	}
	if got := l2.Without(Lock{}).Without(a).List(); !reflect.DeepEqual(got, []Lock{b}) || len(l2.List()) != 3 {
		t.Errorf("%+v", got)
	}
	for want, l := range map[string]Lock{
		"user alice": a, "key SHA256:x": {Key: "SHA256:x"}, "certificate 7 of authority corp": b, "certificate 7 of every authority": {Serial: 7}, "lockdown": down,
	} {
		if got := l.String(); got != want || l.IsLockdown() != (want == "lockdown") {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestLocksAsText(t *testing.T) {
	full := (*Locks)(nil).With(lock(Lock{})).With(lock(Lock{User: "alice"})).With(lock(Lock{Key: fingerprint(1)})).
		With(lock(Lock{Serial: 7, Authority: "corp"})).With(Lock{Serial: math.MaxUint64, At: lockedAt}).With(Lock{User: "x@corp.example", By: "a\n\x00\x1b\"'\\{}\u2028é\U0001f600\xff", At: lockedAt})
	want := locksHead + `lockdown: {at: "2027-01-01T08:30:00Z", by: "root", why: "laptop stolen"}
locked:
  - {user: "alice", at: "2027-01-01T08:30:00Z", by: "root", why: "laptop stolen"}
  - {user: "x@corp.example", at: "2027-01-01T08:30:00Z", by: "a\n\x00\x1b\"'\\{}\u2028\u00e9\U0001f600\xff"}
revoked:
  - {key: "` + fingerprint(1) + `", at: "2027-01-01T08:30:00Z", by: "root", why: "laptop stolen"}
  - {serial: "7", authority: "corp", at: "2027-01-01T08:30:00Z", by: "root", why: "laptop stolen"}
  - {serial: "18446744073709551615", at: "2027-01-01T08:30:00Z", by: ""}
`
	if got := string(full.Text()); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
	for _, l := range []*Locks{full, {}, nil, {Lockdown: &Lock{}}, {All: []Lock{{User: "a"}}}, full.Without(Lock{At: lockedAt}).Without(Lock{User: "alice", At: lockedAt, By: "ops"}).Without(Lock{Key: fingerprint(1)}).Without(Lock{Serial: 7, Authority: "corp"})} {
		text := l.Text()
		back, problems := ParseLocks(bytes.NewReader(text), "locks")
		if back == nil || len(problems) > 0 {
			t.Fatalf("%s\n%v", text, problems)
		}
		if again := back.Text(); !bytes.Equal(bytes.ReplaceAll(text, []byte(`\xff`), []byte(`\u00ff`)), again) {
			t.Errorf("got:\n%swant:\n%s", again, text)
		}
		for _, lock := range l.List() {
			if got := back.Has(lock); got == nil || !got.At.Equal(lock.At) || got.Why != lock.Why {
				t.Errorf("%+v is now %+v", lock, got)
			}
		}
		if len(back.List()) != len(l.List()) {
			t.Errorf("%+v", back)
		}
	}
}

func TestProblemsOfLocks(t *testing.T) {
	fp := fingerprint(1)
	for _, tt := range []struct {
		name, text string
		problems   string
	}{
		{"all there is", "lockdown: {}\nlocked: [{user: alice}]\nrevoked: [{key: \"" + fp + "\"}, {serial: 7}, {serial: \"7\", authority: corp}]", ""},
		{"nothing", "", ""},
		{"empty lists", "locked: []\nrevoked: []", ""},
		{"a misspelt section", "lock: [{user: alice}]", `locks:2:1: unknown key "lock"; known here: version, lockdown, locked, revoked, undone`},
		{"a section of nothing", "locked:", "locks:2:8: locked wants a list, not nothing; write [] for none"},
		{"a lockdown of nothing", "lockdown:", "locks:2:10: lockdown wants a mapping (key: value), not nothing"},
		{"a lockdown that is off", "lockdown: false", "locks:2:11: lockdown wants a mapping (key: value), not false"},
		{"a lockdown of a user", "lockdown: {user: alice}", `locks:2:12: unknown key "user"; known here: at, by, why`},
		{"two lockdowns", "lockdown: {}\nlockdown: {}", `locks:3:1: the key "lockdown" is already at line 2`},
		{"a user who is only a name", "locked: [alice]", `locks:2:10: locked wants a mapping (key: value), not "alice"`},
		{"a lock without a user", "locked: [{by: root}]", `locks:2:10: "user" is missing here`},
		{"a user whose name is none", "locked: [{user: \"a b\"}]", `locks:2:17: "a b" is not a name of a user; a name has 1 to 64 letters, digits and ". _ @ + -", and begins with a letter or digit`},
		{"a key among the users", "locked: [{user: alice, key: x}]", `locks:2:24: unknown key "key"; known here: user, at, by, why`},
		{"a user among the keys", "revoked: [{user: alice}]", "locks:2:11: what is revoked is either a key or a serial\n" + `locks:2:12: unknown key "user"; known here: key, serial, authority, at, by, why`},
		{"neither key nor serial", "revoked: [{by: root}]", "locks:2:11: what is revoked is either a key or a serial"},
		{"both key and serial", "revoked: [{key: \"" + fp + "\", serial: 7}]", "locks:2:11: what is revoked is either a key or a serial"},
		{"an authority alone", "revoked: [{authority: corp}]", "locks:2:11: what is revoked is either a key or a serial"},
		{"a key of an authority", "revoked: [{key: \"" + fp + "\", authority: corp}]", "locks:2:71: authority is about a serial, and this is a key; leave it out: a key is revoked whoever has signed it"},
		{"a fingerprint without its kind", "revoked: [{key: \"" + fp[7:] + "\"}]", fmt.Sprintf("locks:2:17: %q is not a fingerprint; ssh-keygen -lf FILE prints it: SHA256:…", fp[7:])},
		{"a cut fingerprint", "revoked: [{key: \"SHA256:abc\"}]", `locks:2:17: "SHA256:abc" is not a fingerprint; ssh-keygen -lf FILE prints it: SHA256:…`},
		{"an old fingerprint", "revoked: [{key: \"MD5:00:11\"}]", `locks:2:17: "MD5:00:11" is not a fingerprint; ssh-keygen -lf FILE prints it: SHA256:…`},
		{"a padded fingerprint", "revoked: [{key: \"" + fp + "=\"}]", fmt.Sprintf("locks:2:17: %q is not a fingerprint; ssh-keygen -lf FILE prints it: SHA256:…", fp+"=")},
		{"a fingerprint with an end of line in it", "revoked: [{key: \"" + fp + `\n"}]`, fmt.Sprintf("locks:2:17: %q is not a fingerprint; ssh-keygen -lf FILE prints it: SHA256:…", fp+"\n")},
		{"a fingerprint whose last bits are none", "revoked: [{key: \"SHA256:" + strings.Repeat("A", 42) + "B\"}]", `locks:2:17: "SHA256:` + strings.Repeat("A", 42) + `B" is not a fingerprint; ssh-keygen -lf FILE prints it: SHA256:…`},
		{"serial 0", "revoked: [{serial: 0}]", `locks:2:20: "0" is not the serial of a certificate; it is a number from 1 on; ssh-keygen -Lf FILE prints it`},
		{"a negative serial", "revoked: [{serial: -7}]", `locks:2:20: "-7" is not the serial of a certificate; it is a number from 1 on; ssh-keygen -Lf FILE prints it`},
		{"a serial with a sign", "revoked: [{serial: \"+7\"}]", `locks:2:20: "+7" is not the serial of a certificate; it is a number from 1 on; ssh-keygen -Lf FILE prints it`},
		{"a serial beyond 64 bits", "revoked: [{serial: \"18446744073709551616\"}]", `locks:2:20: "18446744073709551616" is not the serial of a certificate; it is a number from 1 on; ssh-keygen -Lf FILE prints it`},
		{"a range of serials", "revoked: [{serial: 7-9}]", `locks:2:20: "7-9" is not the serial of a certificate; it is a number from 1 on; ssh-keygen -Lf FILE prints it`},
		{"a serial in hexadecimal", "revoked: [{serial: 0x7}]", "locks:2:20: serial wants text or a whole number, not 0x7"},
		{"a time that is none", "locked: [{user: alice, at: \"yesterday\"}]", `locks:2:28: "yesterday" is not a time; write it as "2027-03-31T18:00:00Z"`},
		{"a list of whys", "locked: [{user: alice, why: [a]}]", "locks:2:29: why wants text, not a list"},
		{"another version", "version: 2", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := "version: 1\n" + tt.text + "\n"
			if strings.HasPrefix(tt.text, "version") {
				text = tt.text + "\n"
				tt.problems = "locks:1:10: version 2 is not supported by this version; write version: 1"
			}
			l, problems := ParseLocks(strings.NewReader(text), "locks")
			if got := strings.Join(messages(problems), "\n"); got != tt.problems {
				t.Errorf("\ngot  %s\nwant %s", got, tt.problems)
			}
			if (l == nil) != (tt.problems != "") {
				t.Errorf("%+v", l)
			}
		})
	}
	for _, text := range []string{"", "# nothing", "locked: []", "[]", "version: 1\n---\nversion: 1\n", "\x00"} {
		if l, problems := ParseLocks(strings.NewReader(text), "locks"); l != nil || problems.Err() == nil {
			t.Errorf("%q: %+v", text, l)
		}
	}
}

func FuzzParseLocks(f *testing.F) {
	f.Add([]byte(locksHead))
	f.Add((*Locks)(nil).With(lock(Lock{})).With(lock(Lock{User: "alice"})).With(lock(Lock{Key: fingerprint(1)})).With(lock(Lock{Serial: 7, Authority: "corp"})).Text())
	f.Add([]byte("version: 1\nrevoked: [{serial: 07, authority: \"\"}, {key: SHA256:}]\nlockdown: {at: 2027-01-01T00:00:00+09:00}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, problems := ParseLocks(bytes.NewReader(text), "locks")
		if (l == nil) != (problems.Err() != nil) {
			t.Fatalf("%+v with %v", l, problems)
		}
		for _, p := range problems {
			if p.Message == "" || strings.ContainsAny(p.Error(), "\n\r\t\x1b") {
				t.Fatalf("unsafe text %q", p.Error())
			}
		}
		if l == nil {
			return
		}
		back, problems := ParseLocks(bytes.NewReader(l.Text()), "locks")
		if back == nil || len(problems) > 0 {
			t.Fatalf("%s\n%v", l.Text(), problems)
		}
		if !bytes.Equal(back.Text(), l.Text()) {
			t.Fatalf("%s\nis now\n%s", l.Text(), back.Text())
		}
		for _, lock := range l.List() {
			if back.Has(lock) == nil {
				t.Fatalf("%s is lost", lock)
			}
			if strings.ContainsAny(lock.since(), "\n\r\x1b") {
				t.Fatalf("unsafe text %q", lock.since())
			}
		}
	})
}
