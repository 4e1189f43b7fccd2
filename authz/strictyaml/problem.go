package strictyaml

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// A Problem is one thing that is wrong, or doubtful, in a file.
type Problem struct {
	File    string
	Line    int // from 1; 0 where the problem has no place in the text
	Column  int // from 1, counted in characters
	Message string
	Hint    string // what was meant, or what to write instead; may be empty
	Warning bool   // the file still means something: say it and go on
}

// Error returns "file:line:column: message; hint", without a word for the
// severity, which is the printer's.
func (p Problem) Error() string {
	s := p.File
	if p.Line > 0 {
		s = fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
	}
	s += ": " + p.Message
	if p.Hint != "" {
		s += "; " + p.Hint
	}
	return s
}

// Problems is all that was found in a file.
type Problems []Problem

// Err returns nil if nothing but warnings was found, and otherwise an error
// that wraps every Problem that is not a warning, one a line.
func (ps Problems) Err() error {
	var errs []error
	for _, p := range ps {
		if !p.Warning {
			errs = append(errs, p)
		}
	}
	return errors.Join(errs...)
}

// Errors returns the problems that are not warnings.
func (ps Problems) Errors() Problems { return ps.filter(false) }

// Warnings returns the problems that are warnings.
func (ps Problems) Warnings() Problems { return ps.filter(true) }

func (ps Problems) filter(warning bool) Problems {
	var out Problems
	for _, p := range ps {
		if p.Warning == warning {
			out = append(out, p)
		}
	}
	return out
}

// Sort orders the problems as the text runs.
func (ps Problems) Sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}
