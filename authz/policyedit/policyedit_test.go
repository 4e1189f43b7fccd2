package policyedit

import (
	"bytes"
	"crypto/ed25519"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/authz"
)

var update = flag.Bool("update", false, "rewrite testdata/edits.txt with what the edits make")

// testKey returns the line of a .pub file, each number's its own.
func testKey(n int) string {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = byte(n)
	key, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(seed).Public())
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// fill puts keys in the place of KEY1 to KEY9, unfill the other way round.
func fill(s string) string {
	for i := 1; i < 10; i++ {
		s = strings.ReplaceAll(s, fmt.Sprintf("KEY%d", i), testKey(i))
	}
	return s
}

func unfill(s string) string {
	for i := 1; i < 10; i++ {
		s = strings.ReplaceAll(s, testKey(i), fmt.Sprintf("KEY%d", i))
	}
	return s
}

var (
	zoe   = User{Name: "zoe", Groups: []string{"developers", "dba"}, Keys: []string{testKey(8) + " zoe@laptop"}}
	yuki  = User{Name: "yuki", Keys: []string{testKey(8), testKey(9) + ` "yuki" \ 関所`}}
	guest = User{Name: "007"}
	open  = Grant{Name: "open", Groups: []string{"developers"}, To: []string{"web"}}
	night = Grant{Name: "night", Groups: []string{"dba"}, Users: []string{"zoe", "true"}, To: []string{"web", "db"}, Require: []string{"touch"},
		When:  When{From: []string{"203.0.113.0/24", "2001:db8::/32"}, Except: []string{"203.0.113.9"}, Hours: []string{"Fri 22:00-06:00", "12:00-13:00 Europe/Berlin"}, After: "2027-03-31", Until: "2027-04-30 18:00"},
		AtEnd: "close", Duration: 90 * time.Minute, Forwards: 20}
)

type operation func(content []byte, filename string) ([]byte, error)

func addUser(u User) operation {
	return func(content []byte, filename string) ([]byte, error) { return AddUser(content, filename, u) }
}

func addGrant(g Grant) operation {
	return func(content []byte, filename string) ([]byte, error) { return AddGrant(content, filename, g) }
}

// operations are what the cases in testdata/edits.txt may ask for.
var operations = map[string]operation{
	"add user zoe":    addUser(zoe),
	"add user yuki":   addUser(yuki),
	"add user 007":    addUser(guest),
	"add grant open":  addGrant(open),
	"add grant night": addGrant(night),
}

func operationOf(command string) operation {
	if name, ok := strings.CutPrefix(command, "remove user "); ok {
		return func(content []byte, filename string) ([]byte, error) { return RemoveUser(content, filename, name) }
	}
	if name, ok := strings.CutPrefix(command, "remove grant "); ok {
		return func(content []byte, filename string) ([]byte, error) { return RemoveGrant(content, filename, name) }
	}
	return operations[command]
}

// variants are ways to write the same file, which an edit keeps.
var variants = []struct {
	name string
	of   func(string) string
}{
	{"as it is", func(s string) string { return s }},
	{"with CRLF", func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }},
	{"without a final newline", func(s string) string { return strings.TrimSuffix(s, "\n") }},
	{"with CRLF, without the final one", func(s string) string { return strings.ReplaceAll(strings.TrimSuffix(s, "\n"), "\n", "\r\n") }},
	{"with a byte order mark", func(s string) string { return "\ufeff" + s }},
}

// testdata/edits.txt holds edits, each after a line "## sentence": what to do,
// the file before, a line "--", and the file after, or the error. KEY1 … stand
// for public keys.
func TestEdits(t *testing.T) {
	const file = "testdata/edits.txt"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, c := range strings.Split(string(text), "## ")[1:] {
		name, rest, _ := strings.Cut(c, "\n")
		command, rest, _ := strings.Cut(rest, "\n")
		before, want, ok := strings.Cut(rest, "--\n")
		op := operationOf(command)
		if !ok || op == nil {
			t.Fatalf("%s: no line --, or %q is not known", name, command)
		}
		t.Run(name, func(t *testing.T) {
			for _, v := range variants {
				if !strings.Contains(strings.TrimSuffix(before, "\n"), "\n") && strings.HasPrefix(v.name, "with CRLF, ") {
					continue // there is no line break left to tell how they are
				}
				after, err := op([]byte(v.of(fill(before))), "p")
				got, expected := string(after), v.of(fill(want))
				if err != nil {
					got, expected = "error: "+err.Error()+"\n", want
				}
				if v.name == variants[0].name {
					fmt.Fprintf(&out, "## %s\n%s\n%s--\n%s", name, command, before, unfill(got))
					if *update {
						want = unfill(got)
						continue
					}
				}
				if got != expected {
					t.Errorf("%s, got:\n%swant:\n%s", v.name, got, expected)
				}
				if name, ok := strings.CutPrefix(command, "add "); ok && err == nil && strings.Contains(before, strings.Fields(name)[0]+"s:") {
					again, err := operationOf("remove "+name)(after, "p")
					if err != nil || string(again) != v.of(fill(before)) {
						t.Errorf("%s, removed again: %v\n%s", v.name, err, again)
					}
				}
			}
		})
	}
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// examples returns policies that people are shown: what init writes, and the
// README's.
func examples(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, readme, ok := strings.Cut(string(text), "    # policy.yaml\n")
	readme, _, ok2 := strings.Cut(readme, "\n    # hosts\n")
	if !ok || !ok2 {
		t.Fatal("the example is not found in the README")
	}
	readme = strings.ReplaceAll("\n"+readme, "\n    ", "\n")[1:]
	for i := 1; strings.Contains(readme, "ssh-ed25519 AAAA…"); i++ {
		readme = strings.Replace(readme, "ssh-ed25519 AAAA…", testKey(i), 1)
	}
	type target struct {
		Name         string
		Hosts, Ports []string
	}
	list := func(words []string) string { return fmt.Sprintf("%q", words) }
	tmpl := template.Must(template.New("policy.yaml.tmpl").Funcs(template.FuncMap{"quote": strconv.QuoteToASCII, "list": func(words []string) string {
		return strings.ReplaceAll(list(words), `" "`, `", "`)
	}}).ParseFiles("../../cmd/sekisho/template/policy.yaml.tmpl"))
	var b bytes.Buffer
	err = tmpl.Execute(&b, struct {
		User    string
		Keys    []string
		Targets []target
		Grant   string
	}{"admin", []string{testKey(1), testKey(2)}, []target{{"ssh-servers", []string{"10.0.0.0/16", "fd00::/64"}, []string{"22"}}}, "admins-ssh"})
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"README": readme, "init": b.String()}
}

func mustParse(t testing.TB, text string) *authz.Policy {
	t.Helper()
	p, problems := authz.Parse(strings.NewReader(text), "p", authz.Options{})
	if p == nil {
		t.Fatalf("%v\n%s", problems.Err(), text)
	}
	return p
}

// facts returns all that a policy says of users, and who has the keys.
func facts(p *authz.Policy, users []string, keys int) map[string]string {
	told := map[string]string{}
	for _, u := range users {
		told["groups of "+u] = fmt.Sprintf("%+v", p.Groups(u))
		told["grants of "+u] = fmt.Sprintf("%+v", p.Reach(u))
	}
	for i := 1; i <= keys; i++ {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(testKey(i)))
		if err != nil {
			panic(err)
		}
		user, reason, _ := p.Identify("ec2-user", key)
		told[fmt.Sprintf("KEY%d", i)] = user.User + " " + string(reason)
	}
	return told
}

// differing returns the facts that differ.
func differing(a, b map[string]string) []string {
	var keys []string
	for k := range a {
		if a[k] != b[k] {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

func TestExamplesCanBeEdited(t *testing.T) {
	for name, text := range examples(t) {
		t.Run(name, func(t *testing.T) {
			users, entry := []string{"admin", "alice", "bob", "zoe"}, zoe
			entry.Groups = []string{"admins", "developers"}
			before := facts(mustParse(t, text), users, 9)
			for _, v := range variants {
				text := v.of(text)
				added, err := AddUser([]byte(text), "p", entry)
				if err != nil {
					t.Fatal(err)
				}
				after := mustParse(t, string(added))
				if got := differing(before, facts(after, users, 9)); !slices.Equal(got, []string{"KEY8", "grants of zoe", "groups of zoe"}) {
					t.Errorf("%s: %v", v.name, got)
				}
				if got := after.Reach("zoe"); len(got) != 1 {
					t.Errorf("%s: zoe's grants are %+v", v.name, got)
				}
				removed, err := RemoveUser(added, "p", "zoe")
				if err != nil || string(removed) != text {
					t.Errorf("%s, removed again: %v\n%s", v.name, err, removed)
				}
			}
			for user := range strings.FieldsSeq("admin alice bob") {
				if before["groups of "+user] == "[]" {
					continue
				}
				less, err := RemoveUser([]byte(text), "p", user)
				if err != nil {
					t.Fatal(err)
				}
				for _, k := range differing(before, facts(mustParse(t, string(less)), users, 9)) {
					if !strings.HasSuffix(k, " of "+user) && !strings.HasPrefix(before[k], user+" ") {
						t.Errorf("without %s, %s is another", user, k)
					}
				}
			}
		})
	}
}

func TestWhatIsGivenIsLookedAt(t *testing.T) {
	const file = "version: 1\nusers: []\ngrants: []\n"
	few := func(change func(*Grant)) Grant {
		g := open
		change(&g)
		return g
	}
	const badName = `; a name has 1 to 64 letters, digits and ". _ @ + -", and begins with a letter or digit`
	const badKey = ` is not a public key; a key is one line as in a .pub file: ssh-ed25519 AAAA… comment`
	for _, tt := range []struct {
		name string
		op   operation
		want string
	}{
		{"a user without a name", addUser(User{}), `p: "" is not a name of a user` + badName},
		{"a name with a line break", addUser(User{Name: "zoe\n"}), `p: "zoe\n" is not a name of a user` + badName},
		{"a name that is too long", addUser(User{Name: strings.Repeat("z", 99)}), `p: "` + strings.Repeat("z", 80) + `"… is not a name of a user` + badName},
		{"a group with a comma", addUser(User{Name: "zoe", Groups: []string{"a,b"}}), `p: "a,b" is not a name of a group` + badName},
		{"an empty key", addUser(User{Name: "zoe", Keys: []string{""}}), `p: ""` + badKey},
		{"a comment for a key", addUser(User{Name: "zoe", Keys: []string{"# none"}}), `p: "# none"` + badKey},
		{"a key with options", addUser(User{Name: "zoe", Keys: []string{"restrict ssh-ed25519"}}), `p: "restrict ssh-ed25519"` + badKey},
		{"a key that is not UTF-8", addUser(User{Name: "zoe", Keys: []string{testKey(1)[:70] + "\xff"}}), `p: "` + testKey(1)[:70] + `\xff"` + badKey},
		{"a key twice", addUser(User{Name: "zoe", Keys: []string{testKey(8), testKey(8) + " again"}}),
			`p: the key SHA256:u/Qx4eVsCNe1ci93KHHSJ6ea5A773ljk/Z6euByCr1s is given twice`},
		{"a grant to nobody", addGrant(few(func(g *Grant) { g.Groups = nil })), `p: the grant is given to nobody; name users or groups`},
		{"a grant to nothing", addGrant(few(func(g *Grant) { g.To = nil })), `p: the grant is to nothing; name targets`},
		{"a user of a grant that is none", addGrant(few(func(g *Grant) { g.Users = []string{"*"} })), `p: "*" is not a name of a user` + badName},
		{"a target of a grant that is none", addGrant(few(func(g *Grant) { g.To = []string{"rds:3306"} })), `p: "rds:3306" is not a name of a target` + badName},
		{"hours with a line break", addGrant(few(func(g *Grant) { g.When.Hours = []string{"a\nb"} })), `p: "a\nb" has characters that do not show`},
		{"a negative duration", addGrant(few(func(g *Grant) { g.Duration = -time.Second })), `p: the duration -1s is negative`},
		{"a negative number of forwards", addGrant(few(func(g *Grant) { g.Forwards = -1 })), `p: the number of forwards -1 is negative`},
		{"the removal of no name", operationOf("remove user "), `p:2:1: there is no user ""`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := tt.op([]byte(file), "p")
			if out != nil || err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s\n%s", err, tt.want, out)
			}
		})
	}
}

func TestMentions(t *testing.T) {
	const text = `version: 1
users: [{name: bob}]
grants:
  - {name: a, users: [bob, alice], to: [x]}
  - name: b
    groups: [bob]
    users:
      - "bob"
  - {name: c, users: [alice]}
`
	var got strings.Builder
	for _, p := range Mentions([]byte(text), "p", "bob") {
		fmt.Fprintln(&got, p.Warning, p)
	}
	const want = `true p:4:23: the grant "a" names the user "bob"
true p:8:9: the grant "b" names the user "bob"
`
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", &got, want)
	}
	if ps := Mentions([]byte(text), "p", "carol"); len(ps) > 0 {
		t.Errorf("carol: %v", ps)
	}
	if ps := Mentions([]byte("a: ["), "p", "bob"); ps.Err() == nil {
		t.Error("a file that cannot be read has no mentions, it seems")
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		8 * time.Hour: "8h", 90 * time.Minute: "1h30m", 10 * time.Minute: "10m", 100 * time.Second: "1m40s",
		time.Hour + 10*time.Second: "1h0m10s", 10 * time.Hour: "10h", 1500 * time.Millisecond: "1.5s",
	} {
		got := duration(d)
		if back, err := time.ParseDuration(got); got != want || err != nil || back != d {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}
