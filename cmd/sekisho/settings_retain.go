package main

import (
	"fmt"
	"time"

	"sekisho/authz/strictyaml"
)

// leastRetained is how long records must be kept, if not for ever.
const leastRetained = time.Hour

func readRetainAge(n *strictyaml.Node, s *Settings) {
	var age time.Duration
	if !n.Duration(&age) {
		return
	}
	if age != 0 && age < leastRetained {
		n.Errorf("a log that keeps its records for %s proves little", brief(age)).Hint =
			"write at least " + brief(leastRetained) + ", or 0s to keep all"
		return
	}
	s.Audit.RetainAge = age
}

// retention are the problems of what is kept of the log that show only when
// all settings are known, wherever they were written.
func (a *AuditSettings) retention(file string) strictyaml.Problems {
	var problems strictyaml.Problems
	if a.RetainSize != 0 && a.RetainSize/2 < a.SegmentSize {
		problems = append(problems, strictyaml.Problem{
			File:    file,
			Message: fmt.Sprintf("audit.retain_size is %d bytes, and that is less than two segments of audit.segment_size", a.RetainSize),
			Hint:    fmt.Sprintf("write at least %d, or a smaller segment_size, or 0 to keep all", 2*a.SegmentSize),
		})
	}
	if (a.RetainSize != 0 || a.RetainAge != 0) && a.Progress == 0 {
		problems = append(problems, strictyaml.Problem{
			File:    file,
			Message: "with audit.progress at 0s nothing that is older than the oldest forward that runs is taken from the log, however long that runs",
			Hint:    "write a progress such as 5m, which tells again what the records said that go",
			Warning: true,
		})
	}
	return problems
}
