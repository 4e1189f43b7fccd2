package strictyaml

import (
	"fmt"
	"strings"
	"testing"
)

func TestOfManyProblemsTheFirstAreToldAndTheRestCounted(t *testing.T) {
	var text strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&text, "key%d: 007\n", i)
	}
	_, problems := Parse(strings.NewReader(text.String()), "f.yaml")
	if len(problems) != maxProblems+1 || problems[0].Line != 1 || problems[maxProblems-1].Line != maxProblems {
		t.Fatalf("%d problems", len(problems))
	}
	if last := problems[maxProblems]; last.Error() != "f.yaml: and 2000 more problems" || last.Warning {
		t.Errorf("the last is %v", last)
	}
}

func TestWarningsNeverHideAnError(t *testing.T) {
	var ps Problems
	for i := range 2000 {
		ps = append(ps, Problem{File: "f", Line: i + 1, Warning: true})
	}
	ps = append(ps, Problem{File: "f", Line: 5000, Message: "the one error"})
	if kept := ps.most(10); len(kept) != 11 || len(kept.Errors()) != 1 || kept.Err() == nil {
		t.Errorf("%v", kept)
	}
}
