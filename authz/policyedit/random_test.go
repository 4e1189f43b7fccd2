package policyedit

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"sekisho/authz"
	"sekisho/authz/strictyaml"
)

// A writer writes a policy in a style that nobody would, but that is read.
type writer struct {
	*rand.Rand
	strings.Builder
}

func (w *writer) pick(from ...string) string { return from[w.IntN(len(from))] }

func (w *writer) blanks(most int) string { return strings.Repeat(" ", w.IntN(most+1)) }

// noise writes lines that mean nothing, at any indentation up to in.
func (w *writer) noise(in int) {
	for w.IntN(3) == 0 {
		w.WriteString(w.pick("\n", strings.Repeat(" ", w.IntN(in+1))+w.pick("# - {name: x}", "#", `# "`, "# [{", "# é: '")+"\n"))
	}
}

func (w *writer) lineEnd() { w.WriteString(w.pick("", "", "", " ", "   # it's", " #")) }

func (w *writer) scalar(s string) string {
	if plain(s) && w.IntN(2) == 0 {
		return s
	}
	if !strings.ContainsAny(s, `'`) && w.IntN(3) == 0 {
		return "'" + s + "'"
	}
	return fmt.Sprintf("%q", s)
}

// flow returns a value in flow style; over several lines, if a line is given
// to be begun with.
func (w *writer) flow(v value, begin string) string {
	gap := func() string {
		if begin != "" && w.IntN(5) == 0 {
			return w.pick("", " ", "  # ]} '", " #,") + "\n" + begin + w.blanks(3)
		}
		return w.pick("", "", " ", "  ")
	}
	var parts []string
	for i, item := range v.items {
		text := w.flow(item, begin)
		if v.kind == strictyaml.Mapping {
			text = w.scalar(v.keys[i]) + ": " + text
		}
		parts = append(parts, gap()+text+gap())
	}
	comma := ""
	if len(parts) > 0 && w.IntN(6) == 0 {
		comma = "," + gap()
	}
	switch v.kind {
	case strictyaml.List:
		return "[" + strings.Join(parts, ",") + comma + "]"
	case strictyaml.Mapping:
		return "{" + strings.Join(parts, ",") + comma + "}"
	}
	if v.kind == strictyaml.Int {
		return v.text
	}
	return w.scalar(v.text)
}

// value writes what follows a key or a dash, up to the end of the line.
func (w *writer) value(v value, column, style int) {
	if len(v.items) == 0 || style == 0 || style == 1 && w.IntN(2) == 0 {
		begin := ""
		if w.IntN(2) == 0 {
			begin = strings.Repeat(" ", column+1)
		}
		w.WriteString(" " + w.blanks(1) + w.flow(v, begin))
		w.lineEnd()
		w.WriteString("\n")
		return
	}
	w.lineEnd()
	w.WriteString("\n")
	in := column + 1 + w.IntN(4)
	if v.kind == strictyaml.List {
		in = column + w.IntN(4)
	}
	w.block(v, in, style)
}

// block writes a list or a mapping in block style.
func (w *writer) block(v value, in, style int) {
	indent := strings.Repeat(" ", in)
	for i, item := range v.items {
		w.noise(in + 4)
		w.WriteString(indent)
		switch {
		case v.kind == strictyaml.Mapping:
			w.WriteString(w.scalar(v.keys[i]) + w.pick("", "", " ") + ":")
			w.value(item, in, style)
		case item.kind == strictyaml.Mapping && style > 0 && w.IntN(4) > 0:
			gap := 2 + w.IntN(3)
			w.WriteString("-")
			if w.IntN(4) == 0 {
				w.lineEnd()
				w.WriteString("\n")
				w.block(item, in+gap, style)
				continue
			}
			// The first key is on the line of the dash.
			inner := writer{Rand: w.Rand}
			for inner.Len() == 0 || strings.TrimSpace(strings.SplitN(inner.String(), "\n", 2)[0]) == "" || strings.HasPrefix(strings.TrimSpace(inner.String()), "#") {
				inner.Reset()
				inner.block(item, in+gap, style)
			}
			w.WriteString(inner.String()[in+1:])
		default:
			w.WriteString("-")
			w.value(item, in, 0)
		}
	}
}

func randomPolicy(rnd *rand.Rand) (text string, users []string) {
	w := &writer{Rand: rnd}
	var people, grants []value
	key := 1
	for _, name := range []string{"alice", "bob", "carol", "1e3", "dave@corp.example"}[:rnd.IntN(6)] {
		u := User{Name: name}
		for range rnd.IntN(3) {
			u.Groups = append(u.Groups, w.pick("developers", "dba", "no"))
		}
		for ; key < 8 && rnd.IntN(2) == 0; key++ {
			u.Keys = append(u.Keys, testKey(key)+w.pick("", " laptop", ` "it's" # {mine]`, " 関所"))
		}
		people, users = append(people, u.value()), append(users, name)
	}
	for i := range rnd.IntN(3) {
		g := Grant{Name: fmt.Sprint("g", i), Groups: []string{"developers"}, Users: slices.Clone(users[:rnd.IntN(len(users)+1)]), To: []string{"web"}}
		if rnd.IntN(2) == 0 {
			g.When, g.Forwards = night.When, 3
		}
		grants = append(grants, g.value())
	}
	root := mapValue()
	root.add("version", value{kind: strictyaml.Int, text: "1"})
	lists := map[string]value{"users": {kind: strictyaml.List, items: people}, "grants": {kind: strictyaml.List, items: grants}}
	target := mapValue()
	target.addText("name", "web")
	target.addList("hosts", []string{"appserver", "web-*.corp.example"})
	target.addList("ports", []string{"22"})
	lists["targets"] = value{kind: strictyaml.List, items: []value{target}}
	for name := range lists {
		if len(lists[name].items) > 0 || rnd.IntN(2) == 0 {
			root.add(name, lists[name])
		}
	}
	rnd.Shuffle(len(root.keys), func(i, j int) {
		root.keys[i], root.keys[j] = root.keys[j], root.keys[i]
		root.items[i], root.items[j] = root.items[j], root.items[i]
	})
	if rnd.IntN(10) == 0 {
		w.WriteString("---\n")
	}
	if rnd.IntN(10) == 0 {
		w.WriteString(w.flow(root, " ") + "\n")
	} else {
		w.block(root, 0, rnd.IntN(3))
	}
	w.noise(4)
	return w.String(), users
}

// isSubsequence reports whether less has nothing but bytes of more, in order.
func isSubsequence(less, more string) bool {
	for i := 0; i < len(more) && less != ""; i++ {
		if more[i] == less[0] {
			less = less[1:]
		}
	}
	return less == ""
}

func TestRandomPolicies(t *testing.T) {
	edited, refused := map[string]int{}, map[string]int{}
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		text, users := randomPolicy(rnd)
		text = variants[rnd.IntN(len(variants))].of(text)
		policy, problems := authz.Parse(strings.NewReader(text), "p", authz.Options{})
		if policy == nil {
			t.Fatalf("seed %d: %v\n%s", seed, problems.Err(), text)
		}
		all := append([]string{"zoe"}, users...)
		before := facts(policy, all, 9)
		look := func(what string, out []byte, err error) *authz.Policy {
			if err != nil {
				refused[what]++
				return nil
			}
			edited[what]++
			p, problems := authz.Parse(strings.NewReader(string(out)), "p", authz.Options{})
			if p == nil {
				t.Fatalf("seed %d, %s: %v\n%s\n%s", seed, what, problems.Err(), text, out)
			}
			return p
		}

		out, err := AddUser([]byte(text), "p", zoe)
		if p := look("add user", out, err); p != nil {
			for _, k := range differing(before, facts(p, all, 9)) {
				if k != "KEY8" && !strings.HasSuffix(k, " of zoe") {
					t.Errorf("seed %d: with zoe, %s is another", seed, k)
				}
			}
			if got := fmt.Sprint(p.Groups("zoe")); got != "[developers dba]" {
				t.Errorf("seed %d: zoe is in %s", seed, got)
			}
			checkRoundTrip(t, text, out, "users", "zoe")
		}

		out, err = AddGrant([]byte(text), "p", open)
		if p := look("add grant", out, err); p != nil {
			for _, u := range users {
				was, is := policy.Reach(u), p.Reach(u)
				if slices.Contains(p.Groups(u), "developers") {
					if len(is) == 0 || is[len(is)-1].Name != "open" {
						t.Errorf("seed %d: %s has not got the grant", seed, u)
						continue
					}
					is = is[:len(is)-1]
				}
				if fmt.Sprint(was) != fmt.Sprint(is) {
					t.Errorf("seed %d: %s has other grants", seed, u)
				}
			}
			checkRoundTrip(t, text, out, "grants", "open")
		}

		if len(users) == 0 {
			continue
		}
		gone := users[rnd.IntN(len(users))]
		out, err = RemoveUser([]byte(text), "p", gone)
		if p := look("remove user", out, err); p != nil {
			for _, k := range differing(before, facts(p, all, 9)) {
				if !strings.HasSuffix(k, " of "+gone) && !strings.HasPrefix(before[k], gone+" ") {
					t.Errorf("seed %d: without %s, %s is another", seed, gone, k)
				}
			}
			if got := p.Reach(gone); len(got) > 0 {
				t.Errorf("seed %d: %s still has grants", seed, gone)
			}
			if !isSubsequence(string(out), text) && len(users) > 1 {
				t.Errorf("seed %d: more than a removal:\n%s\n%s", seed, text, out)
			}
		}
	}
	t.Log("edited", edited, "refused", refused)
	for what, n := range edited {
		if r := refused[what]; r*10 > n {
			t.Errorf("%s: %d edited, %d refused", what, n, r)
		}
	}
}

// checkRoundTrip checks that what was added to a text can be removed, and that
// this gives back the text.
func checkRoundTrip(t *testing.T, text string, added []byte, key, name string) {
	t.Helper()
	remove := RemoveUser
	if key == "grants" {
		remove = RemoveGrant
	}
	back, err := remove(added, "p", name)
	if err != nil {
		t.Fatalf("removed again: %v\n%s\n%s", err, text, added)
	}
	root, _ := strictyaml.Parse(strings.NewReader(text), "p")
	if child(root, key) != nil {
		if string(back) != text {
			t.Fatalf("added and removed again:\n%q\n%q\n%q", text, added, back)
		}
		return
	}
	// Where there was no list, there is an empty one now.
	again, _ := strictyaml.Parse(strings.NewReader(string(back)), "p")
	want := valueOf(root)
	want.add(key, value{kind: strictyaml.List})
	if again == nil || !valueOf(again).equal(want) || !strings.HasPrefix(string(back), text) {
		t.Fatalf("added and removed again:\n%q\n%q\n%q", text, added, back)
	}
}

func FuzzAddUser(f *testing.F) {
	for seed := range uint64(40) {
		text, _ := randomPolicy(rand.New(rand.NewPCG(seed, 2)))
		f.Add([]byte(unfill(text)), "zoe", "developers", "zoe@laptop") // short texts are fuzzed better
	}
	f.Add([]byte("users: [{a: [b, 'c' # d\n]} ,\n]\r\n"), "true", "1e3", `"# \`)
	f.Add([]byte("? users\n: - {name: a}\ngrants:\n- - b\n...\n"), "a", "b", "c")
	f.Fuzz(func(t *testing.T, content []byte, name, group, comment string) {
		u := User{Name: name, Groups: []string{group}, Keys: []string{strings.TrimSpace(testKey(8) + " " + comment)}}
		if out, err := AddUser(content, "p", u); err == nil {
			if got, _ := strictyaml.Parse(strings.NewReader(string(out)), "p"); !valueOf(got).equal(withEntry(content, "users", u.value())) {
				t.Fatalf("%q became %q", content, out)
			}
			checkRoundTrip(t, string(content), out, "users", name)
		}
		g := Grant{Name: name, Users: []string{group}, To: []string{group}, When: When{Until: comment}}
		if out, err := AddGrant(content, "p", g); err == nil {
			if got, _ := strictyaml.Parse(strings.NewReader(string(out)), "p"); !valueOf(got).equal(withEntry(content, "grants", g.value())) {
				t.Fatalf("%q became %q", content, out)
			}
			checkRoundTrip(t, string(content), out, "grants", name)
		}
		root, problems := strictyaml.Parse(strings.NewReader(string(content)), "p")
		if problems.Err() != nil {
			return
		}
		for i, n := range child(root, "users").Children() {
			who := child(n, "name").Text()
			out, err := RemoveUser(content, "p", who)
			if err != nil {
				continue
			}
			want := valueOf(root)
			for j, k := range want.keys {
				if k == "users" {
					want.items[j].items = slices.Delete(want.items[j].items, i, i+1)
				}
			}
			if got, _ := strictyaml.Parse(strings.NewReader(string(out)), "p"); !valueOf(got).equal(want) {
				t.Fatalf("without %q, %q became %q", who, content, out)
			}
		}
		Mentions(content, "p", name)
	})
}

// withEntry returns what a file says, with an entry more.
func withEntry(content []byte, key string, entry value) value {
	root, _ := strictyaml.Parse(strings.NewReader(string(content)), "p")
	v := valueOf(root)
	i := slices.Index(v.keys, key)
	if i < 0 {
		v.add(key, value{kind: strictyaml.List})
		i = len(v.keys) - 1
	}
	v.items[i].items = append(v.items[i].items, entry)
	return v
}
