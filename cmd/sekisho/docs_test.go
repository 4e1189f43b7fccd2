package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sekisho/authz"
	"sekisho/authz/strictyaml"
)

var update = flag.Bool("update", false, "write what the commands in the documentation print into it")

const (
	policyDoc  = "../../docs/policy.md"
	auditDoc   = "../../docs/audit.md"
	exampleLog = "../../docs/audit.example.jsonl"
)

var docBlock = regexp.MustCompile("(?ms)^```(yaml|json|console)\n(.*?)^```\n")

// Every policy in the documentation is good, and every command in it prints
// what it says.
func TestExamplesOfTheDocumentation(t *testing.T) {
	text, err := os.ReadFile(policyDoc)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if code := run(t.Context(), []string{"init", dir, "--user", "alice", "--generate-key"}, stdio{strings.NewReader(""), new(bytes.Buffer), new(bytes.Buffer)}); code != 0 {
		t.Fatal("init")
	}
	settings := filepath.Join(dir, "sekisho.yaml")
	content, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "sekisho.yaml", regexp.MustCompile(`(?m)^networks:.*$`).ReplaceAllString(string(content), "networks: [10.0.0.0/16]"))
	write(t, dir, "hosts", "10.0.0.115 appserver\n10.0.11.147 rds\n")

	policies := 0
	for _, m := range docBlock.FindAllSubmatch(text, -1) {
		if string(m[1]) == "yaml" {
			policies++
		}
	}
	commands := runDoc(t, policyDoc, func(policy string) {
		write(t, dir, "policy.yaml", policy)
		var out, errs bytes.Buffer
		if code := run(t.Context(), []string{"check", dir}, stdio{strings.NewReader(""), &out, &errs}); code != 0 {
			t.Errorf("%s\n%s", policy, &errs)
		}
	}, "--config", settings)
	if policies < 4 || commands < 4 {
		t.Errorf("%d policies and %d commands were found", policies, commands)
	}
}

// runDoc runs the commands of a document, each with more arguments, and holds
// what they print against what it says. It hands out the blocks of YAML as they
// come.
func runDoc(t *testing.T, name string, yaml func(string), more ...string) (commands int) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	printed := docBlock.ReplaceAllFunc(text, func(block []byte) []byte {
		m := docBlock.FindSubmatch(block)
		switch string(m[1]) {
		case "yaml":
			yaml(string(m[2]))
			return block
		case "json":
			return block
		}
		var b strings.Builder
		b.WriteString("```console\n")
		for line := range strings.Lines(string(m[2])) {
			command, ok := strings.CutPrefix(line, "$ sekisho ")
			if !ok {
				continue // what it printed
			}
			commands++
			b.WriteString(line)
			var out bytes.Buffer
			run(context.Background(), append(shellWords(strings.TrimSpace(command)), more...), stdio{strings.NewReader(""), &out, &out})
			b.Write(out.Bytes())
		}
		b.WriteString("```\n")
		return []byte(b.String())
	})
	if bytes.Equal(printed, text) {
		return commands
	}
	if *update {
		if err := os.WriteFile(name, printed, 0o644); err != nil {
			t.Fatal(err)
		}
		return commands
	}
	t.Errorf("%s says otherwise than the commands print; go test -run Documentation -update writes it anew:\n%s", name, printed)
	return commands
}

// shellWords parts a command line, in which words can be in double quotes.
func shellWords(line string) (words []string) {
	for _, m := range regexp.MustCompile(`"([^"]*)"|(\S+)`).FindAllStringSubmatch(line, -1) {
		words = append(words, m[1]+m[2])
	}
	return words
}

// Every key that a policy can have is in the documentation. Which they are, the
// hint about an unknown key tells.
func TestEveryKeyOfThePolicyIsDocumented(t *testing.T) {
	text, err := os.ReadFile(policyDoc)
	if err != nil {
		t.Fatal(err)
	}
	_, problems := authz.Parse(strings.NewReader(`qqqqqqqqq: 1
version: 1
users: [{qqqqqqqqq: 1, name: alice, when: {qqqqqqqqq: 1}}]
authorities: [{qqqqqqqqq: 1, name: corp}]
targets: [{qqqqqqqqq: 1, name: web}]
grants: [{qqqqqqqqq: 1, name: dev, limits: {qqqqqqqqq: 1}}]
roles: {qqqqqqqqq: 1, admin: {qqqqqqqqq: 1}}
`), "policy.yaml", authz.Options{})
	levels := 0
	for _, p := range problems {
		known, ok := strings.CutPrefix(p.Hint, "known here: ")
		if !ok {
			continue
		}
		levels++
		for _, key := range strings.Split(known, ", ") {
			if !strings.Contains(string(text), "`"+key+"`") {
				t.Errorf("%q is not in %s", key, policyDoc)
			}
		}
	}
	if levels != 9 {
		t.Errorf("%d levels of keys were found: %v", levels, strictyaml.Problems(problems))
	}
}

var docLink = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

func TestWhatTheDocumentationLeadsToIsThere(t *testing.T) {
	const root = "../.."
	docs, err := filepath.Glob(root + "/docs/*.md")
	if err != nil || len(docs) == 0 {
		t.Fatal(docs, err)
	}
	links := 0
	for _, doc := range append(docs, root+"/README.md") {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range docLink.FindAllSubmatch(text, -1) {
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(doc), string(link[1]))); err != nil {
				t.Errorf("%s leads to %s, which is not there", doc, link[1])
			}
		}
	}
	if links == 0 {
		t.Error("there are no links")
	}
}
