package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"sekisho/docs"
)

func TestKnownTypesAndReasonsAreThoseOfTheSchema(t *testing.T) {
	var schema struct {
		Properties struct{ Type struct{ Enum []string } }
		Defs       map[string]any `json:"$defs"`
	}
	if err := json.Unmarshal(docs.AuditSchema, &schema); err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, typ := range knownTypes {
		if strings.Contains(typ, ".") {
			types = append(types, typ)
			if group, _, _ := strings.Cut(typ, "."); !slices.Contains(knownTypes, group) {
				t.Errorf("%s is not among what types have in common", group)
			}
		}
	}
	slices.Sort(types)
	if want := slices.Sorted(slices.Values(schema.Properties.Type.Enum)); !slices.Equal(types, want) {
		t.Errorf("the types are\n%q, want\n%q", types, want)
	}

	reasons := map[string]bool{}
	collectReasons(schema.Defs, schema.Defs, false, reasons)
	for r := range reasons {
		if !slices.Contains(knownReasons, r) {
			t.Errorf("%q is missing", r)
		}
	}
	for _, r := range knownReasons {
		if !reasons[r] {
			t.Errorf("%q is no reason", r)
		}
	}
}

// collectReasons adds what fields of the name reason can be.
func collectReasons(node any, defs map[string]any, within bool, reasons map[string]bool) {
	switch node := node.(type) {
	case map[string]any:
		for key, value := range node {
			ref, isText := value.(string)
			switch {
			case within && (key == "const" || key == "description"):
				if key == "const" {
					reasons[ref] = true
				}
			case within && key == "$ref" && isText:
				collectReasons(defs[strings.TrimPrefix(ref, "#/$defs/")], defs, true, reasons)
			case within && key == "enum":
				for _, code := range value.([]any) {
					reasons[code.(string)] = true
				}
			default:
				collectReasons(value, defs, within || key == "reason", reasons)
			}
		}
	case []any:
		for _, value := range node {
			collectReasons(value, defs, within, reasons)
		}
	}
}
