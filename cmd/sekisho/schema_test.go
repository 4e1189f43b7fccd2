package main

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sekisho/audit"
	"sekisho/audit/audittest"
	"sekisho/audit/schematest"
	"sekisho/docs"
)

// Every reason that a record can have is a code of the schema.
func TestTheSchemaHasTheReasonsOfRecords(t *testing.T) {
	var schema struct {
		Defs map[string]any `json:"$defs"`
	}
	if err := json.Unmarshal(docs.AuditSchema, &schema); err != nil {
		t.Fatal(err)
	}
	codes := map[string]bool{}
	collectCodes(schema.Defs, codes)

	reasons := map[string]string{} // and where they are from
	for _, pattern := range []string{"../../authz/decision.go", "../../bastion/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, name := range files {
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				spec, ok := n.(*ast.ValueSpec)
				if !ok || len(spec.Values) != 1 {
					return true
				}
				typ, _ := spec.Type.(*ast.Ident)
				text, isText := spec.Values[0].(*ast.BasicLit)
				if isText && text.Kind == token.STRING && (typ != nil && typ.Name == "Reason" || strings.HasPrefix(spec.Names[0].Name, "reason")) {
					code, err := strconv.Unquote(text.Value)
					if err != nil {
						t.Fatal(err)
					}
					reasons[code] = name
				}
				return true
			})
		}
	}
	delete(reasons, "granted") // of no record: it is why a decision allows
	if len(reasons) < 60 {
		t.Fatalf("%d reasons were found", len(reasons))
	}
	for code, from := range reasons {
		if !codes[code] {
			t.Errorf("%q of %s is not in the schema", code, from)
		}
	}
}

// collectCodes adds the strings of every enum.
func collectCodes(node any, codes map[string]bool) {
	switch node := node.(type) {
	case map[string]any:
		for key, value := range node {
			list, _ := value.([]any)
			for _, code := range list {
				if s, ok := code.(string); ok && key == "enum" {
					codes[s] = true
				}
			}
			collectCodes(value, codes)
		}
	case []any:
		for _, value := range node {
			collectCodes(value, codes)
		}
	}
}

// A log that other tests are made with is one that a server could have written.
func TestTheLogsOfTestsAreAsTheSchemaHasIt(t *testing.T) {
	dir := t.TempDir()
	if err := audittest.Write(dir, 1<<20, 1); err != nil {
		t.Fatal(err)
	}
	var check schematest.Check
	if err := audit.Read(dir, func(r audit.Record) error {
		check.Line(r.AppendJSON(nil))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := check.Err(); err != nil {
		t.Error(err)
	}
}

// What tests need is not in the program.
func TestTheProgramHasNothingOfTheTests(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "sekisho/cmd/sekisho").Output()
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range strings.Lines(string(out)) {
		for _, not := range []string{"github.com/santhosh-tekuri/", "sekisho/docs", "sekisho/audit/audittest", "sekisho/audit/schematest", "sekisho/bastion/bastiontest", "testing"} {
			if pkg = strings.TrimSpace(pkg); pkg == not || strings.HasPrefix(pkg, not) && strings.HasSuffix(not, "/") {
				t.Errorf("the program has %s in it", pkg)
			}
		}
	}
}
