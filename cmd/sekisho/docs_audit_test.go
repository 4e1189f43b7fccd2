package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sekisho/audit/schematest"
	"sekisho/docs"
)

// The commands of the documentation of the audit log are run on a log of a real
// server, of which its examples are lines.
func TestExamplesOfTheAuditDocumentation(t *testing.T) {
	example, err := os.ReadFile(exampleLog)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(example)) {
		if err := schematest.CheckLine([]byte(strings.TrimSuffix(line, "\n"))); err != nil {
			t.Errorf("%s: %v", exampleLog, err)
		}
		var rec struct{ Seq int }
		if err := json.Unmarshal([]byte(line), &rec); err != nil || rec.Seq != n {
			t.Errorf("record %d stands where %d should (%v)", rec.Seq, n, err)
		}
		n++
	}

	text, err := os.ReadFile(auditDoc)
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, m := range docBlock.FindAllSubmatch(text, -1) {
		if string(m[1]) != "json" {
			continue
		}
		for line := range strings.Lines(string(m[2])) {
			if err := schematest.CheckLine([]byte(strings.TrimSuffix(line, "\n"))); err != nil {
				t.Errorf("%s: %v", auditDoc, err)
			}
			var rec struct{ Type string }
			if err := json.Unmarshal([]byte(line), &rec); err != nil {
				t.Error(err)
			}
			types = append(types, rec.Type)
			// Retention works on more than an example has.
			if rec.Type != "log.prune" && !strings.Contains(string(example), line) {
				t.Errorf("%s has a line that is not in %s: %s", auditDoc, exampleLog, line)
			}
		}
	}
	var schema struct {
		Properties struct{ Type struct{ Enum []string } }
	}
	if err := json.Unmarshal(docs.AuditSchema, &schema); err != nil {
		t.Fatal(err)
	}
	slices.Sort(types)
	if want := slices.Sorted(slices.Values(schema.Properties.Type.Enum)); !slices.Equal(types, want) {
		t.Errorf("%s has examples of\n%q, want one of each type\n%q", auditDoc, types, want)
	}

	dir := t.TempDir()
	write(t, dir, "00000000000000000000.jsonl", string(example))
	yaml := func(string) {}
	if commands := runDoc(t, auditDoc, yaml, "--log", dir); commands < 4 {
		t.Errorf("%d commands were found", commands)
	}
}

// Lines that a SIEM has, in any order and some twice, become a log again by the
// commands of the documentation.
func TestLinesOfASIEMBecomeALog(t *testing.T) {
	text, err := os.ReadFile(auditDoc)
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```sh\n([^`]*from-siem\\.jsonl)\n```").FindSubmatch(text)
	example, err := os.ReadFile(exampleLog)
	if err != nil || block == nil {
		t.Fatal(err, " the commands are not found")
	}
	lines := slices.Collect(strings.Lines(string(example)))
	mixed := append(slices.Clone(lines), lines[3:40]...)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
	dir := t.TempDir()
	rebuild := func(lines []string) (got, verdict string, code int) {
		os.RemoveAll(filepath.Join(dir, "copy"))
		write(t, dir, "siem.jsonl", strings.Join(lines, ""))
		cmd := exec.Command("sh", "-ec", string(block[1]))
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		files, _ := filepath.Glob(filepath.Join(dir, "copy", "*.jsonl"))
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got += string(b)
		}
		var out bytes.Buffer
		code = run(t.Context(), []string{"audit", "verify", "--log", filepath.Join(dir, "copy")}, stdio{strings.NewReader(""), &out, &out})
		return got, out.String(), code
	}
	if got, verdict, code := rebuild(mixed); got != string(example) || code != 1 || !strings.Contains(verdict, "Nothing is wrong with ") {
		t.Errorf("%d\n%s", code, verdict)
	}
	if _, verdict, code := rebuild(append(mixed, strings.Replace(lines[50], `"type":"`, `"type":"x`, 1))); code != exitAlarm || !strings.Contains(verdict, "HARM: inserted record: ") {
		t.Errorf("%d\n%s", code, verdict)
	}
}

// Every field, type and reason is in the documentation, and every setting.
func TestEverythingOfTheSchemaIsDocumented(t *testing.T) {
	text, err := os.ReadFile(auditDoc)
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Properties map[string]any
		Defs       map[string]any `json:"$defs"`
	}
	if err := json.Unmarshal(docs.AuditSchema, &schema); err != nil {
		t.Fatal(err)
	}
	words := map[string]bool{}
	for field := range schema.Properties {
		words[field] = true
	}
	collectCodes(schema.Properties, words)
	collectCodes(schema.Defs, words)
	for _, s := range settings {
		if name, ok := strings.CutPrefix(s.key, "audit."); ok {
			words[strings.TrimPrefix(name, "syslog.")] = true
		}
	}
	for word := range words {
		told := func(form string) bool { return strings.Contains(string(text), fmt.Sprintf(form, word)) }
		if !told("`%s`") && !told("\n### %s\n") && !told("    %s: ") && !told("`audit.syslog.%s`") {
			t.Errorf("%q is not in %s", word, auditDoc)
		}
	}
}
