package audit

import "fmt"

// mostPolicies bounds how many are remembered.
const mostPolicies = 100_000

// namedPolicies are the hashes of those that records say were loaded.
type namedPolicies struct {
	named map[string]bool // nil: the log keeps none
	order []string
	full  bool // there were too many
}

// see takes a record.
func (p *namedPolicies) see(kind, line []byte) {
	if p.named == nil || string(kind) != string(PolicyLoad) {
		return
	}
	rec, err := ParseRecord(line)
	if err != nil || rec.Policy == "" {
		return
	}
	hash := rec.Policy[:min(len(rec.Policy), 80)] // longer than a hash is
	switch {
	case p.named[hash]:
	case len(p.named) == mostPolicies:
		p.full = true
	default:
		p.named[hash] = true
		p.order = append(p.order, hash)
	}
}

// missing returns how many of them have no text, or another's, and the first of
// these.
func (p *namedPolicies) missing(dir string) (n int, first string) {
	for _, hash := range p.order {
		if _, err := Policy(dir, hash); err != nil {
			if n++; n == 1 {
				first = hash
			}
		}
	}
	return n, first
}

func policiesOf(n int) string {
	if n == 1 {
		return "1 policy"
	}
	return fmt.Sprintf("%d policies", n)
}
