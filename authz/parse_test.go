package authz

import (
	"flag"
	"os"
	"strings"
	"testing"

	"sekisho/authz/strictyaml"
)

var update = flag.Bool("update", false, "rewrite testdata/problems.txt with what Parse says")

func told(ps strictyaml.Problems) string {
	var b strings.Builder
	for _, p := range ps {
		severity := "error: "
		if p.Warning {
			severity = "warning: "
		}
		b.WriteString(severity + p.Error() + "\n")
	}
	return b.String()
}

// testdata/problems.txt holds policies, each after a line "## name", and after
// a line "--" exactly what Parse says to each. KEY1 … stand for public keys,
// and columns count them as 80 characters.
func TestProblemsOfPolicies(t *testing.T) {
	const file = "testdata/problems.txt"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, c := range strings.Split(string(text), "## ")[1:] {
		name, rest, _ := strings.Cut(c, "\n")
		in, want, ok := strings.Cut("\n"+rest, "\n--\n")
		if !ok {
			t.Fatalf("%s: no line --", name)
		}
		in = strings.TrimPrefix(in+"\n", "\n")
		out.WriteString("## " + name + "\n" + in + "--\n")
		t.Run(name, func(t *testing.T) {
			p, ps := Parse(strings.NewReader(fill(in)), "p", Options{Networks: prefixes("10.0.0.0/16")})
			got := told(ps)
			out.WriteString(got)
			if got != want && !*update {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
			if (p == nil) != (ps.Err() != nil) {
				t.Errorf("policy %v with errors %v", p != nil, ps.Err())
			}
		})
	}
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAGoodPolicyHasNoProblems(t *testing.T) {
	p, ps := Parse(strings.NewReader(fill(strings.Replace(testPolicy, "  - {name: dave, groups: [oncall]}\n", "", 1))), "p", testOptions)
	if p == nil || len(ps) > 0 {
		t.Errorf("%v, problems:\n%s", p != nil, told(ps))
	}
	for _, text := range []string{"version: 1\n", "version: 1\nusers: []\ntargets: []\ngrants: []\n", `{"version": 1}`} {
		p, ps := Parse(strings.NewReader(text), "p", Options{})
		if p == nil || len(ps) > 0 {
			t.Errorf("%q: %v, problems:\n%s", text, p != nil, told(ps))
			continue
		}
		if d := p.Decide(Request{User: "alice", Key: AnyKey, Host: "rds", Port: 3306}); d.Effect != Deny || d.Reason != UnknownUser {
			t.Errorf("%q: %+v", text, d)
		}
	}
}

// Taking access away never makes a file that does not load.
func TestTakingAwayOnlyWarns(t *testing.T) {
	for _, line := range strings.Split(strings.TrimSpace(testPolicy), "\n") {
		if !strings.Contains(line, "{name: ") || strings.Contains(line, "hosts:") {
			continue
		}
		less := strings.Replace(testPolicy, line+"\n", "", 1)
		if p, ps := Parse(strings.NewReader(fill(less)), "p", testOptions); p == nil {
			t.Errorf("without %s\n%s", line, told(ps))
		}
	}
}
