package authz

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/authz/authkeys"
)

const viewPolicy = `
version: 1
timezone: Asia/Tokyo
users:
  - {name: alice, groups: [dev], keys: [KEY1]}
  - {name: bob, groups: [dba], keys: [KEY2], when: {from: [203.0.113.0/24]}}
  - {name: carol, groups: [dba], keys: ["SKKEY"]}
  - {name: dora, groups: [dev], keys: [KEY3], when: {until: 2027-01-31}}
  - {name: nokey, groups: [dev], keys: []}
authorities:
  - {name: corp, key: KEY5, principals: ["eve", "*@corp.example"], groups: [staff]}
targets:
  - {name: web, hosts: [app, "web-*.corp.example"], ports: [22], within: [10.0.1.0/24]}
  - {name: db, hosts: [rds], ports: [3306]}
  - {name: net, hosts: [10.0.2.0/24], ports: [22, 3306]}
grants:
  - {name: dev-web, groups: [dev], to: [web]}
  - {name: dba-db, groups: [dba], to: [db], when: {hours: ["Mon-Fri 09:00-19:00"]}, require: [touch], limits: {duration: 8h}}
  - {name: eve-net, users: [eve, dora], to: [net, db]}
  - {name: staff-web, groups: [staff], to: [web]}
roles:
  admin: {users: [carol], groups: [staff], require: [touch], certificates: true}
  auditor: {groups: [dba]}
`

func viewsOf(t testing.TB, files ...KeyFile) *Policy {
	p := mustParse(t, strings.ReplaceAll(viewPolicy, "SKKEY", keyLine(skKey())), Options{Networks: prefixes("10.0.0.0/16"), Zones: []string{"corp.example"}})
	p, _ = p.WithKeys(files)
	return p
}

// brief tells a Reacher in a line.
func (r Reacher) brief() string {
	conditions := func(steps []ConditionStep) (s string) {
		for _, c := range steps {
			if !c.Holds {
				s += map[bool]string{true: " ?", false: " -"}[c.Open] + c.Text
			}
		}
		return s
	}
	s := fmt.Sprintf("%s%s %s%s:", r.User, r.Authority, r.Reason, conditions(r.Conditions))
	for _, g := range r.Grants {
		s += " " + g.Grant + conditions(g.Conditions)
	}
	return s
}

func TestWhoCan(t *testing.T) {
	weekday := inZone("Asia/Tokyo", "2026-11-24 10:00")
	sunday := inZone("Asia/Tokyo", "2026-11-22 10:00")
	from := netip.MustParseAddr
	lockdown := (&Locks{}).With(Lock{})
	restricted := KeyFile{User: "alice", Name: "keys/alice", File: authkeys.File{Keys: []authkeys.Entry{{Line: 3, Key: testKey(1), Options: authkeys.Options{PermitOpen: []authkeys.Open{{Host: "rds", Port: 3306}}}}}}}
	for _, test := range []struct {
		name  string
		files []KeyFile
		locks *Locks
		r     Request
		want  []string
	}{
		{"by name, of those with a key, by certificate, and not",
			nil, nil, Request{Host: "app", Port: 22, Time: weekday},
			[]string{"alice granted: dev-web", "dora granted: dev-web", "eve granted ?a certificate of corp: eve-net", "nokey unknown_key -a key or certificate: dev-web", "corp granted: staff-web"}},
		{"what is not said is open",
			nil, nil, Request{Host: "rds", Port: 3306, Time: weekday},
			[]string{"bob needs_touch ?from 203.0.113.0/24: dba-db -touch", "carol granted: dba-db ?touch", "dora granted: eve-net", "eve granted ?a certificate of corp: eve-net"}},
		{"what is said is judged",
			nil, nil, Request{Host: "rds", Port: 3306, Time: sunday, Source: from("192.0.2.1")},
			[]string{"bob not_from -from 203.0.113.0/24: dba-db -Mon-Fri 09:00-19:00 Asia/Tokyo -touch", "carol outside_hours: dba-db -Mon-Fri 09:00-19:00 Asia/Tokyo ?touch", "dora granted: eve-net", "eve granted ?a certificate of corp: eve-net"}},
		{"past its time",
			nil, nil, Request{Host: "app", Port: 22, Time: weekday.AddDate(1, 0, 0), Addr: from("10.0.1.9")},
			[]string{"alice granted: dev-web", "dora expired -until 2027-01-31 Asia/Tokyo: dev-web", "nokey unknown_key -a key or certificate: dev-web", "corp granted: staff-web"}},
		{"outside within",
			nil, nil, Request{Host: "app", Port: 22, Time: weekday, Addr: from("10.0.3.9")},
			[]string{"alice outside_within: dev-web", "dora outside_within: dev-web", "nokey unknown_key -a key or certificate: dev-web", "corp outside_within: staff-web"}},
		{"a lock and a revoked authority",
			nil, (&Locks{}).With(Lock{User: "alice"}).With(Lock{Key: fingerprint(3)}).With(Lock{Key: fingerprint(5)}), Request{Host: "app", Port: 22, Time: weekday},
			[]string{"alice locked -not locked: dev-web", "dora revoked -a key or certificate: dev-web", "eve revoked -a key or certificate: eve-net", "nokey unknown_key -a key or certificate: dev-web", "corp revoked -not revoked: staff-web"}},
		{"a lockdown, but for admins",
			nil, lockdown, Request{Host: "rds", Port: 3306, Time: weekday, Source: from("203.0.113.9")},
			[]string{"bob lockdown -no lockdown, or an admin: dba-db -touch", "carol granted ?no lockdown, or an admin: dba-db ?touch", "dora lockdown -no lockdown, or an admin: eve-net", "eve lockdown ?a certificate of corp -no lockdown, or an admin: eve-net"}},
		{"options of a key that refuse the target",
			[]KeyFile{restricted}, nil, Request{Host: "app", Port: 22, Time: weekday, Addr: from("10.0.1.9")},
			[]string{"alice key_not_permitted -a key or certificate: dev-web", "dora granted: dev-web", "nokey unknown_key -a key or certificate: dev-web", "corp granted: staff-web"}},
		{"a file that is unusable",
			[]KeyFile{{User: "alice", Name: "keys/alice", File: authkeys.File{Unusable: "cannot be read"}}}, nil, Request{Host: "web-1.corp.example", Port: 22, Time: weekday, Addr: from("10.0.1.9")},
			[]string{"alice key_file -a file of keys that can be used: dev-web", "dora granted: dev-web", "nokey unknown_key -a key or certificate: dev-web", "corp granted: staff-web"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := viewsOf(t, test.files...).WithLocks(test.locks, nil)
			got := p.WhoCan(test.r)
			var lines []string
			for _, one := range got.All {
				lines = append(lines, one.brief())
			}
			if got.Reason != "" || !slices.Equal(lines, test.want) {
				t.Errorf("%s\ngot\n%s\nwant\n%s", got.Reason, strings.Join(lines, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

func TestNobodyCan(t *testing.T) {
	for _, test := range []struct {
		r    Request
		want Reason
	}{
		{Request{Host: "0x7f.1", Port: 22}, BadHost},
		{Request{Host: "app", Port: 0}, BadPort},
		{Request{Host: "app", Port: 22, Addr: netip.MustParseAddr("127.0.0.1")}, Loopback},
		{Request{Host: "app", Port: 22, Addr: netip.MustParseAddr("11.0.0.1")}, OutsideNetworks},
		{Request{Host: "10.0.2.1", Port: 22, Addr: netip.MustParseAddr("10.0.2.2")}, NoGrant},
		{Request{Host: "nothing.example", Port: 23}, ""},
	} {
		if got := viewsOf(t).WhoCan(test.r); got.Reason != test.want || len(got.All) > 0 || (got.Reason == "") != (got.Detail == "") {
			t.Errorf("%s:%d %s: %+v", test.r.Host, test.r.Port, test.r.Addr, got)
		}
	}
	if got := (*Policy)(nil).WhoCan(Request{Host: "app", Port: 22}); got.Reason == "" {
		t.Error("without a policy somebody can")
	}
}

// Whom DNS may be asked for, is as for Decide.
func TestWhoCanAskDNS(t *testing.T) {
	p := viewsOf(t)
	for _, host := range []string{"web-1.corp.example", "x.corp.example", "x.example", "rds"} {
		for _, one := range p.WhoCan(Request{Host: host, Port: 22, Time: time.Now()}).All {
			if d := p.Decide(Request{User: one.User, Key: AnyKey, Host: host, Port: 22, Time: time.Now()}); one.User != "" && one.User != "eve" && one.Effect == Allow && d.DNS != one.DNS {
				t.Errorf("%s for %s: %t", host, one.User, one.DNS)
			}
		}
	}
}

// randomProofs gives each user of a model keys, of which files narrow some,
// and takes some of it away.
func randomProofs(t *testing.T, rnd *rand.Rand, text string) (p *Policy, keys map[string][]ssh.PublicKey) {
	keys = map[string][]ssh.PublicKey{}
	text += "roles: {admin: {users: [alice], groups: [dev], require: [touch]}}\n"
	pool := []ssh.PublicKey{testKey(1), testKey(2), testKey(3), skKey(), skECDSAKey(), testKey(4)}
	rnd.Shuffle(len(pool), func(i, j int) { pool[i], pool[j] = pool[j], pool[i] })
	for _, u := range modelUsers {
		n := rnd.IntN(3)
		keys[u], pool = pool[:n], pool[n:]
		var lines []string
		for _, k := range keys[u] {
			lines = append(lines, `"`+keyLine(k)+`"`)
		}
		text = strings.Replace(text, "{name: "+u+",", "{name: "+u+", keys: ["+strings.Join(lines, ", ")+"],", 1)
	}
	var files []KeyFile
	locks := &Locks{}
	for _, u := range modelUsers {
		var b strings.Builder
		for _, k := range keys[u] {
			options := []string{"", `from="203.0.113.0/24" `, `expiry-time="20270328" `, "restrict ", `permitopen="rds:3306",permitopen="app:22" `, "verify-required "}
			fmt.Fprintf(&b, "%s%s\n", options[rnd.IntN(len(options))], keyLine(k))
			if rnd.IntN(8) == 0 {
				locks = locks.With(Lock{Key: ssh.FingerprintSHA256(k)})
			}
		}
		if rnd.IntN(2) == 0 {
			f, _ := authkeys.Parse(strings.NewReader(b.String()), "keys/"+u, time.UTC)
			if rnd.IntN(8) == 0 {
				f = authkeys.File{Unusable: "cannot be read"}
			}
			files = append(files, KeyFile{User: u, Name: "keys/" + u, File: f})
		}
		if rnd.IntN(8) == 0 {
			locks = locks.With(Lock{User: u})
		}
	}
	if rnd.IntN(4) == 0 {
		locks = locks.With(Lock{})
	}
	p, _ = mustParse(t, text, modelOptions).WithKeys(files)
	return p.WithLocks(locks, nil), keys
}

// Somebody may, if he may by one of his keys.
func TestWhoCanIsWhomDecideAllows(t *testing.T) {
	rnd := rand.New(rand.NewPCG(21, 21))
	seen := map[Reason]int{}
	for range 150 {
		p, keys := randomProofs(t, rnd, randomConditions(rnd, randomModel(rnd).text(-1)))
		for range 40 {
			r := randomCircumstances(rnd, randomRequest(rnd))
			r.Running, r.Grant, r.Touch = false, "", false
			if r.Time.IsZero() {
				continue
			}
			all := p.WhoCan(r)
			for _, name := range modelUsers {
				i := slices.IndexFunc(all.All, func(o Reacher) bool { return o.User == name })
				got := Reacher{}
				if i >= 0 {
					got = all.All[i]
				}
				sources := []netip.Addr{r.Source}
				if !r.Source.IsValid() {
					for _, s := range []string{"203.0.113.5", "203.0.113.9", "203.0.113.200", "2001:db8::1", "2001:db8:1::1", "10.0.0.5"} {
						sources = append(sources, netip.MustParseAddr(s))
					}
				}
				want, wantDNS := Deny, false
				var why []Decision
				for _, source := range sources {
					for _, k := range keys[name] {
						q := r
						q.User, q.Key, q.Source, q.Touch = name, ssh.FingerprintSHA256(k), source, strings.HasPrefix(k.Type(), "sk-")
						d := p.Decide(q)
						if d.Effect == Allow {
							want, wantDNS = Allow, d.DNS
							if !slices.ContainsFunc(got.Grants, func(g GrantStep) bool { return g.Grant == d.Grant }) && r.Source.IsValid() {
								t.Fatalf("%+v: the grant is %s\n%s", q, d.Grant, got.brief())
							}
						}
						why = append(why, d)
					}
				}
				seen[got.Reason]++
				// What no source of the list can fulfil may still be open.
				if got.Effect != want && (r.Source.IsValid() || want == Allow) || want == Allow && got.DNS != wantDNS {
					t.Fatalf("%s at %+v: %s\n%s\ndecided %+v", name, r, want, got.brief(), why)
				}
			}
		}
	}
	for _, r := range []Reason{Granted, Locked, Lockdown, Revoked, KeyFileUnusable, KeyNoForwarding, KeyNotPermitted, KeyExpired, KeyNotFrom, KeyUnsupported, UnknownKey, OutsideWithin, NeedsTouch, OutsideHours, NotFrom} {
		if seen[r] == 0 {
			t.Errorf("never %s: %v", r, seen)
		}
	}
}

func TestViewUser(t *testing.T) {
	now := inZone("Asia/Tokyo", "2026-11-24 10:00")
	other := testKey(8)
	p := viewsOf(t,
		KeyFile{User: "bob", Name: "keys/bob", File: authkeys.File{
			Keys:    []authkeys.Entry{{Line: 1, Key: testKey(2), Options: authkeys.Options{NoForwarding: true}}, {Line: 2, Key: testKey(1)}, {Line: 3, Key: other}, {Line: 4, Key: testKey(9), Options: authkeys.Options{CertAuthority: true}}},
			Refused: []authkeys.Refusal{{Line: 5, Key: rsaKey(1024), Why: "an RSA key needs at least 2048 bits"}},
		}},
		KeyFile{User: "dora", Name: "keys/dora", File: authkeys.File{Keys: []authkeys.Entry{{Line: 7, Key: other}, {Line: 8, Key: testKey(3)}}}},
	).WithLocks((&Locks{}).With(Lock{Key: fingerprint(3)}).With(Lock{User: "dora", Why: "gone"}), nil)

	view := func(name string) UserView {
		v, ok := p.ViewUser(Request{User: name, Time: now})
		if !ok {
			t.Fatalf("there is no %s", name)
		}
		return v
	}
	bob := view("bob")
	var lines []string
	for _, k := range bob.Keys {
		lines = append(lines, fmt.Sprintf("%s %s %s %s", k.From, k.Type, k.Reason, k.Detail))
	}
	if want := []string{
		"policy ssh-ed25519  ",
		"keys/bob:2 ssh-ed25519 unknown_key it is the key of alice",
		"keys/bob:3 ssh-ed25519 unknown_key it stands in the files of several users",
		"keys/bob:5 ssh-rsa key_unsupported an RSA key needs at least 2048 bits",
	}; !slices.Equal(lines, want) {
		t.Errorf("keys of bob:\n%s", strings.Join(lines, "\n"))
	}
	if c := bob.Keys[0].Conditions; len(c) != 1 || !fails(c[0]) || c[0].Reason != KeyNoForwarding {
		t.Errorf("options of a key: %+v", c)
	}
	if len(bob.Conditions) != 1 || !bob.Conditions[0].Open {
		t.Errorf("conditions of bob: %+v", bob.Conditions)
	}
	if len(bob.Authorities) != 1 || bob.Authorities[0].Name != "keys/bob:4" {
		t.Errorf("authorities of bob: %+v", bob.Authorities)
	}
	if len(bob.Roles) != 1 || bob.Roles[0].Role != Auditor || !bob.Roles[0].Key || bob.Roles[0].Certificates {
		t.Errorf("roles of bob: %+v", bob.Roles)
	}
	g := bob.Grants
	if len(g) != 1 || g[0].Grant != "dba-db" || !g[0].Holds || len(g[0].Conditions) != 2 || !g[0].Conditions[0].Holds || !g[0].Conditions[1].Open || g[0].Limits.Duration != 8*time.Hour {
		t.Errorf("grants of bob: %+v", g)
	}

	dora := view("dora")
	if len(dora.Conditions) != 2 || dora.Conditions[0].Reason != Locked || dora.Conditions[0].Detail != `dora is locked: "gone"` {
		t.Errorf("conditions of dora: %+v", dora.Conditions)
	}
	if len(dora.Keys) != 2 || dora.Keys[0].Reason != Revoked || dora.Keys[1].From != "keys/dora:7" || dora.Keys[1].Reason != UnknownKey {
		t.Errorf("keys of dora: %+v", dora.Keys)
	}
	if w := dora.Grants[0].Targets[0].Within; len(dora.Grants) != 2 || len(w) != 1 || w[0].String() != "10.0.1.0/24" {
		t.Errorf("grants of dora: %+v", dora.Grants)
	}

	eve := view("eve")
	if eve.Listed || len(eve.Keys) != 0 || len(eve.Authorities) != 1 || len(eve.Grants) != 2 || eve.Grants[0].Authorities != nil || !slices.Equal(eve.Grants[1].Authorities, []string{"corp"}) {
		t.Errorf("eve: %+v", eve)
	}
	if len(eve.Roles) != 1 || eve.Roles[0].Role != Admin || eve.Roles[0].Key || !eve.Roles[0].Certificates {
		t.Errorf("roles of eve: %+v", eve.Roles)
	}
	if v := view("x@corp.example"); v.Listed || len(v.Grants) != 1 {
		t.Errorf("whom an authority vouches for: %+v", v)
	}
	for _, name := range []string{"mallory", "", "Alice", "a b@corp.example"} {
		if v, ok := p.ViewUser(Request{User: name, Time: now}); ok || v.User != "" {
			t.Errorf("%q is a user: %+v", name, v)
		}
	}
	if _, ok := (*Policy)(nil).ViewUser(Request{User: "alice"}); ok {
		t.Error("without a policy there is a user")
	}
}

func TestAViewDoesNotReachIntoThePolicy(t *testing.T) {
	p := viewsOf(t)
	ask := Request{User: "dora", Time: time.Now()}
	v, _ := p.ViewUser(ask)
	v.Groups[0], v.Grants[0].Targets[0].Hosts[0], v.Grants[0].Targets[0].Within[0] = "changed", "changed", netip.Prefix{}
	if v, _ = p.ViewUser(ask); v.Groups[0] != "dev" || v.Grants[0].Targets[0].Hosts[0] != "app" || !v.Grants[0].Targets[0].Within[0].IsValid() {
		t.Errorf("%+v", v)
	}
	all := p.WhoCan(Request{Host: "app", Port: 22, Time: time.Now()}).All
	all[len(all)-1].Principals[0] = "changed"
	if all = p.WhoCan(Request{Host: "app", Port: 22, Time: time.Now()}).All; all[len(all)-1].Principals[0] != "eve" {
		t.Errorf("%+v", all)
	}
}

func BenchmarkWhoCan(b *testing.B) {
	p := bigPolicy()
	for name, r := range map[string]Request{
		"name":    {Host: "host65", Port: 22},
		"address": {Host: "host1287", Port: 22, Addr: netip.MustParseAddr("10.3.4.5")},
	} {
		b.Run(name, func(b *testing.B) {
			r.Time = time.Now()
			for b.Loop() {
				if len(p.WhoCan(r).All) == 0 {
					b.Fatal("nobody")
				}
			}
		})
	}
}

func BenchmarkViewUser(b *testing.B) {
	p := bigPolicy()
	for b.Loop() {
		if v, _ := p.ViewUser(Request{User: "user5", Time: time.Now()}); len(v.Grants) == 0 {
			b.Fatal("no grants")
		}
	}
}
