package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"

	"sekisho/audit"
	"sekisho/audit/query"
)

// A looking is how a command looks into a log: what is told meanwhile goes to
// standard error.
type looking struct {
	std   stdio
	log   foundLog
	bar   bool // progress is to be shown
	shown bool // and is
	begun time.Time
	last  time.Time
}

func newLooking(std stdio, log foundLog) *looking {
	return &looking{std: std, log: log, bar: isTerminalOut(std.err), begun: time.Now()}
}

func isTerminalOut(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (l *looking) options() query.Options {
	o := query.Options{Damage: func(err error) {
		l.clear()
		fmt.Fprintf(l.std.err, "sekisho: error: damage: %s\n", query.Printable(err.Error()))
	}}
	if l.bar {
		o.Progress = l.progress
	}
	// An index that is not signed with the log key could hide records. Without
	// one the segment is read, which takes longer and finds the same.
	o.Index = func(s audit.Segment) query.Index {
		if x, err := s.Index(l.log.keys...); err == nil && x != nil {
			return x
		}
		return nil
	}
	return o
}

// progress shows how far a search is that takes longer than a moment.
func (l *looking) progress(done, all int64) {
	if all > 0 {
		l.show("searched %d of %d MiB", done>>20, all>>20)
	}
}

// show tells a person at a terminal how far the command is.
func (l *looking) show(format string, args ...any) {
	now := time.Now()
	if !l.bar || now.Sub(l.begun) < time.Second || now.Sub(l.last) < 100*time.Millisecond {
		return
	}
	l.last, l.shown = now, true
	fmt.Fprintf(l.std.err, "\r\x1b[K"+format, args...)
}

// clear takes the progress away before anything else is printed.
func (l *looking) clear() {
	if l.shown {
		l.shown = false
		io.WriteString(l.std.err, "\r\x1b[K")
	}
}

// end tells an error as a command does. Damage is told already.
func (l *looking) end(err error) error {
	l.clear()
	switch {
	case errors.Is(err, query.ErrDamaged):
		fmt.Fprintln(l.std.err, "sekisho: hint: sekisho audit verify finds all that is wrong with a log")
		return errTold
	case errors.Is(err, context.Canceled):
		return failf("", "interrupted")
	}
	return err
}
