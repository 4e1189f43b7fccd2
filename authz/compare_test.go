package authz

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

const comparedPolicy = `
version: 1
timezone: Asia/Tokyo
users:
  - {name: alice, groups: [dev, ops], keys: [KEY1]}
  - {name: bob, groups: [dba], keys: [KEY2], when: {until: 2027-03-31}}
  - {name: carol, groups: [dev], keys: [KEY3]}
authorities:
  - {name: corp, key: "KEY5", principals: [dave, erin], groups: [dev]}
targets:
  - {name: web, hosts: [appserver], ports: ["22", "80"]}
  - {name: db, hosts: [rds], ports: ["3306"], within: [10.0.11.0/24, 10.0.12.7]}
grants:
  - {name: dev-web, groups: [dev], to: [web]}
  - {name: dba-db, groups: [dba], users: [dave], to: [db], when: {hours: ["Mon-Fri 09:00-19:00"], from: [203.0.113.0/24]}, require: [touch], at_end: keep, limits: {duration: 8h, forwards: 20}}
roles:
  admin: {groups: [ops], require: [touch]}
`

func TestCompare(t *testing.T) {
	key := func(n int) string { return "the key " + fingerprint(n) + " (ssh-ed25519)" }
	const (
		web  = `by the grant "dev-web": web (appserver port 22, 80)`
		db   = `by the grant "dba-db": db (rds port 3306, within 10.0.11.0/24, 10.0.12.7)`
		when = `, only from 203.0.113.0/24, only Mon-Fri 09:00-19:00 Asia/Tokyo, only with touch, what runs is kept, for 8h, 20 at a time`
	)
	tests := []struct {
		name     string
		old, new string // pairs of text are replaced
		want     []Change
	}{
		{"nothing", "", "", nil},
		{"a comment changes nothing", "users:", "users: # all of them", nil},
		{"a user more",
			"users:", "users:\n  - {name: zoe, groups: [dba], keys: [KEY4]}",
			[]Change{{Who: "zoe", Added: true, Gains: []string{key(4), "the group dba", db + when}}}},
		{"a user more who gets nothing",
			"users:", "users:\n  - {name: zoe}",
			[]Change{{Who: "zoe", Added: true}}},
		{"a user more with conditions",
			"users:", "users:\n  - {name: zoe, keys: [KEY4], when: {until: 2027-01-31}}",
			[]Change{{Who: "zoe", Added: true, Gains: []string{key(4), "all of it only until 2027-01-31 Asia/Tokyo"}}}},
		{"a user less, with conditions that he does not gain from losing",
			"  - {name: bob, groups: [dba], keys: [KEY2], when: {until: 2027-03-31}}\n", "",
			[]Change{{Who: "bob", Removed: true, Loses: []string{key(2), "the group dba", db + when}}}},
		{"a key less",
			"keys: [KEY3]", "keys: []",
			[]Change{{Who: "carol", Loses: []string{key(3)}}}},
		{"another key",
			"keys: [KEY3]", "keys: [KEY4]",
			[]Change{{Who: "carol", Gains: []string{key(4)}, Loses: []string{key(3)}}}},
		{"a key that becomes another's",
			"{name: bob, groups: [dba], keys: [KEY2]", "{name: robert, groups: [dba], keys: [KEY2]",
			[]Change{
				{Who: "bob", Removed: true, Loses: []string{key(2), "the group dba", db + when}},
				{Who: "robert", Added: true, Gains: []string{key(2), "the group dba", "all of it only until 2027-03-31 Asia/Tokyo", db + when}}}},
		{"a condition less is gained",
			", when: {until: 2027-03-31}", "",
			[]Change{{Who: "bob", Gains: []string{"no longer only until 2027-03-31 Asia/Tokyo"}}}},
		{"an address less is lost",
			"when: {until: 2027-03-31}", "when: {until: 2027-03-31, except: [203.0.113.9, 192.0.2.0/24]}",
			[]Change{{Who: "bob", Loses: []string{"from now on not from 203.0.113.9, 192.0.2.0/24"}}}},
		{"a later end is both",
			"until: 2027-03-31", "until: 2027-12-31",
			[]Change{{Who: "bob", Gains: []string{"no longer only until 2027-03-31 Asia/Tokyo"}, Loses: []string{"from now on only until 2027-12-31 Asia/Tokyo"}}}},
		{"another group gives its grants and roles",
			"{name: alice, groups: [dev, ops]", "{name: alice, groups: [dba]",
			[]Change{{Who: "alice", Gains: []string{"the group dba", db + when}, Loses: []string{"the group dev", "the group ops", "the role admin, with touch", web}}}},
		{"a target changes for all whom its grants are given to",
			`hosts: [appserver], ports: ["22", "80"]`, `hosts: [appserver, "web-*"], ports: ["22"]`,
			[]Change{
				{Who: "alice", Gains: []string{`by the grant "dev-web": web (appserver, web-* port 22)`}, Loses: []string{web}},
				{Who: `authority "corp"`, Gains: []string{`by the grant "dev-web": web (appserver, web-* port 22)`}, Loses: []string{web}},
				{Who: "carol", Gains: []string{`by the grant "dev-web": web (appserver, web-* port 22)`}, Loses: []string{web}}}},
		{"a zone changes what hours mean",
			"timezone: Asia/Tokyo", "timezone: UTC",
			[]Change{
				{Who: "bob", Gains: []string{"no longer only until 2027-03-31 Asia/Tokyo", strings.ReplaceAll(db+when, "Asia/Tokyo", "UTC")}, Loses: []string{"from now on only until 2027-03-31 UTC", db + when}},
				{Who: "dave", Gains: []string{strings.ReplaceAll(db+when, "Asia/Tokyo", "UTC")}, Loses: []string{db + when}}}},
		{"a limit changes",
			"forwards: 20", "forwards: 21",
			[]Change{
				{Who: "bob", Gains: []string{db + strings.ReplaceAll(when, "20 at", "21 at")}, Loses: []string{db + when}},
				{Who: "dave", Gains: []string{db + strings.ReplaceAll(when, "20 at", "21 at")}, Loses: []string{db + when}}}},
		{"a grant that is given twice to somebody is there once",
			"{name: dev-web, groups: [dev], to", "{name: dev-web, groups: [dev, ops], users: [alice], to", nil},
		{"an authority less takes along whom only it proves",
			`  - {name: corp, key: "KEY5", principals: [dave, erin], groups: [dev]}`, "",
			[]Change{
				{Who: `authority "corp"`, Removed: true, Loses: []string{"the key " + fingerprint(5) + " vouches for dave, erin", "the group dev", web}},
				{Who: "dave", Removed: true, Loses: []string{"by certificate alone", db + when}}}},
	}
	p := mustParse(t, comparedPolicy, testOptions)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text := strings.Replace(comparedPolicy, test.old, test.new, 1)
			if text == comparedPolicy && test.old != test.new {
				t.Fatal("nothing was replaced")
			}
			if test.name == "an authority less takes along whom only it proves" {
				text = strings.Replace(text, "authorities:", "authorities: []", 1)
			}
			q := mustParse(t, text, testOptions)
			if got := p.Compare(q); !reflect.DeepEqual(got, test.want) {
				t.Errorf("\n got %+v\nwant %+v", got, test.want)
			}
			back := q.Compare(p)
			if len(back) != len(test.want) {
				t.Errorf("and back %+v", back)
			}
			for i, c := range back {
				if c.Who != test.want[i].Who || c.Added != test.want[i].Removed || c.Removed != test.want[i].Added {
					t.Errorf("and back %+v", c)
				}
			}
		})
	}
	if got := (*Policy)(nil).Compare(p); len(got) != 5 || !got[0].Added {
		t.Errorf("with no policy before: %+v", got)
	}
	if got := p.Compare(nil); len(got) != 5 || !got[0].Removed {
		t.Errorf("with no policy after: %+v", got)
	}
}

func TestCompareSeesThePartOfALongListThatMessagesLeaveOut(t *testing.T) {
	var nets, spans []string
	for i := range 20 {
		nets, spans = append(nets, fmt.Sprintf("203.0.113.%d", i*2)), append(spans, fmt.Sprintf("%q", fmt.Sprintf("%02d:00-%02d:30", i, i)))
	}
	text := func(nets, spans []string) string {
		return "version: 1\nusers: [{name: alice, keys: [KEY1]}]\ntargets: [{name: t, hosts: [a], ports: [22]}]\ngrants:\n" +
			"  - {name: g, users: [alice], to: [t], when: {from: [" + strings.Join(nets, ", ") + "], hours: [" + strings.Join(spans, ", ") + "]}}\n"
	}
	p := mustParse(t, text(nets, spans), testOptions)
	for name, q := range map[string]*Policy{"from": mustParse(t, text(nets[:19], spans), testOptions), "hours": mustParse(t, text(nets, spans[:19]), testOptions)} {
		if got := p.Compare(q); len(got) != 1 || len(got[0].Gains) != 1 || len(got[0].Loses) != 1 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// What nobody gains or loses is decided as before; and whoever may do what he
// could not, or the other way round, is told of.
func TestCompareLeavesOutNoChangeOfADecision(t *testing.T) {
	rnd := rand.New(rand.NewPCG(41, 42))
	at := time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)
	told, changed := 0, 0
	for range 400 {
		m := randomModel(rnd)
		p := mustParse(t, m.text(-1), modelOptions)
		q := mustParse(t, m.text(rnd.IntN(len(m.grants)+1)), modelOptions)
		changes := map[string]Change{}
		for _, c := range p.Compare(q) {
			changes[c.Who] = c
			told++
		}
		for range 100 {
			r := Request{User: modelUsers[rnd.IntN(len(modelUsers))], Key: AnyKey, Host: askHosts[rnd.IntN(len(askHosts))], Port: uint32(askPorts[rnd.IntN(len(askPorts))]), Time: at}
			if rnd.IntN(2) == 0 {
				r.Addr = addrs(askAddrs[rnd.IntN(len(askAddrs))])[0]
			}
			before, after := p.Decide(r), q.Decide(r)
			if before.Effect == after.Effect && before.Grant == after.Grant {
				continue
			}
			changed++
			c := changes[r.User]
			if before.Effect == Allow && len(c.Loses) == 0 || before.Effect == Deny && len(c.Gains) == 0 {
				t.Fatalf("%+v: %+v, then %+v, and %+v", r, before, after, c)
			}
		}
	}
	if told < 100 || changed < 100 {
		t.Errorf("only %d changes were told and %d decisions changed", told, changed)
	}
}

func TestCompareTellsOfAuthorizedKeys(t *testing.T) {
	p := mustParse(t, comparedPolicy, testOptions)
	q, _ := p.WithKeys([]KeyFile{keyFile("carol", `from="10.0.0.0/8",permitopen="rds:3306" KEY4`+"\nfrobnicate KEY3\ncert-authority KEY2\n")})
	want := []Change{{
		Who:   "carol",
		Gains: []string{"the key " + fingerprint(4) + " (ssh-ed25519), only from 10.0.0.0/8, only to \"rds\" port 3306", "the key " + fingerprint(2) + " that signs certificates"},
		Loses: []string{"the key " + fingerprint(3) + " (ssh-ed25519)"},
	}}
	got := p.Compare(q)
	if len(got) == 1 && len(got[0].Gains) == 2 && strings.Contains(got[0].Gains[0], "signs") { // they are sorted by fingerprint
		got[0].Gains[0], got[0].Gains[1] = got[0].Gains[1], got[0].Gains[0]
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
}

func BenchmarkCompare(b *testing.B) {
	p, text := bigPolicy(), bigText()
	for _, bm := range []struct{ name, old, new string }{
		{"a-user-less", "  - {name: user7, ", "  - {name: user-7, "},
		{"a-target-of-many", "ports: [22, 8000-8100]", "ports: [22]"}, // of all targets
	} {
		n := 1
		if bm.name == "a-target-of-many" {
			n = -1
		}
		q, ps := Parse(strings.NewReader(strings.Replace(string(text), bm.old, bm.new, n)), "policy.yaml", Options{})
		if q == nil {
			b.Fatal(ps.Err())
		}
		b.Run(bm.name, func(b *testing.B) {
			for b.Loop() {
				if len(p.Compare(q)) == 0 {
					b.Fatal("nothing")
				}
			}
		})
	}
}
