package audit

import (
	"encoding/json"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sekisho/audit/schematest"
	"sekisho/audit/tree"
	"sekisho/docs"
)

// A schemaText is what these tests read of the schema.
type schemaText struct {
	Properties map[string]struct {
		Enum []string
	}
	AllOf []struct {
		If struct {
			Properties struct {
				Type struct{ Const Type }
			}
		}
		Then struct {
			Ref string `json:"$ref"`
		}
	}
	Defs map[string]struct {
		Properties           map[string]json.RawMessage
		Required             []string
		AdditionalProperties *bool
	} `json:"$defs"`
}

func readSchema(t *testing.T) (s schemaText) {
	t.Helper()
	if err := json.Unmarshal(docs.AuditSchema, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// full is a record with every field.
func full(t *testing.T) Record {
	r := opened("f1")
	r.Cert = Certificate{"corp", "alice@corp", 17}
	r.Request, r.Head = "audit", TreeHead{812, tree.Leaf(nil)}
	r.Offered, r.Dropped = []string{"SHA256:abc"}, []Dropped{{netip.MustParseAddr("10.0.0.1"), "outside_within"}}
	r.BytesUp, r.BytesDown, r.Duration, r.Count, r.Sources = 1, 2, time.Second, 3, 4
	r.Reason, r.Detail, r.Hassh = "closed", "a sentence", "92674389fa1e47a27ddd8d9b63ecd42b"
	for i, v := 0, reflect.ValueOf(r); i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Errorf("the field %s has nothing in it", v.Type().Field(i).Name)
		}
	}
	return r
}

func TestTheSchemaHasTheFieldsOfARecord(t *testing.T) {
	var written map[string]any
	if err := json.Unmarshal(full(t).AppendJSON(nil), &written); err != nil {
		t.Fatal(err)
	}
	want := slices.Sorted(maps.Keys(written))
	if got := slices.Sorted(maps.Keys(readSchema(t).Properties)); !slices.Equal(got, want) {
		t.Errorf("the schema has the fields\n%q, a record\n%q", got, want)
	}
}

func TestTheSchemaHasTheTypesOfRecords(t *testing.T) {
	s := readSchema(t)
	want := constants(t, "record.go", "Type")
	if len(want) < 20 {
		t.Fatalf("%d types were found in record.go", len(want))
	}
	if got := s.Properties["type"].Enum; !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
		t.Errorf("the schema has the types\n%q, record.go\n%q", got, want)
	}
	var told []string
	for _, branch := range s.AllOf {
		name := string(branch.If.Properties.Type.Const)
		told = append(told, name)
		def, ok := s.Defs[name]
		if !ok || branch.Then.Ref != "#/$defs/"+name {
			t.Errorf("%s: its branch leads to %s", name, branch.Then.Ref)
			continue
		}
		if def.AdditionalProperties == nil || *def.AdditionalProperties {
			t.Errorf("%s: other fields are allowed", name)
		}
		for _, field := range []string{"v", "seq", "time", "bastion", "run", "type"} {
			if !slices.Contains(def.Required, field) {
				t.Errorf("%s: %s need not be there", name, field)
			}
		}
		for _, field := range append(slices.Collect(maps.Keys(def.Properties)), def.Required...) {
			if _, ok := s.Properties[field]; !ok || def.Properties[field] == nil {
				t.Errorf("%s: there is no field %s", name, field)
			}
		}
	}
	if !slices.Equal(told, s.Properties["type"].Enum) {
		t.Errorf("the schema tells of the types\n%q, and has\n%q", told, s.Properties["type"].Enum)
	}
}

// constants are the values of the constants of a type in a file of Go.
func constants(t *testing.T, name, typ string) (values []string) {
	t.Helper()
	file, err := goparser.ParseFile(token.NewFileSet(), name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); ok && id.Name == typ {
			for _, v := range spec.Values {
				s, err := strconv.Unquote(v.(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				values = append(values, s)
			}
		}
		return true
	})
	return values
}

func TestTheSchemaIsClosed(t *testing.T) {
	good := Record{
		V: 1, Seq: 1<<64 - 1, Time: at, Bastion: "bastion-1", Run: "01KBXXH9A8W9ZK7V4M1C0E2D3F",
		Type: PolicyLoad, Policy: "sha256:" + strings.Repeat("0", 64), Reason: "start", Detail: "1 user",
	}
	tests := []struct {
		name   string
		change func(*Record)
		want   string // part of the error; "": none
	}{
		{"a record as it should be is taken", func(*Record) {}, ""},
		{"a field that the type does not have is not", func(r *Record) { r.User = "alice" }, "additional properties 'user' not allowed"},
		{"a field that is missing is told", func(r *Record) { r.Detail = "" }, "missing property 'detail'"},
		{"a reason of another type is not taken", func(r *Record) { r.Reason = "closed" }, "at '/reason'"},
		{"a type that is not known is not", func(r *Record) { r.Type = "policy.forget" }, "at '/type'"},
		{"a hash of another form is not", func(r *Record) { r.Policy = "sha256:00" }, "at '/policy'"},
		{"another version is not", func(r *Record) { r.V = 2 }, "at '/v'"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := good
			test.change(&r)
			err := schematest.CheckLine(r.AppendJSON(nil))
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}
