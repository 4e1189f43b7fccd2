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

// terminalWidth is that of a terminal, or 0 if it is none.
func terminalWidth(w io.Writer) int {
	if f, ok := w.(*os.File); ok && isTerminalOut(w) {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			return width
		}
	}
	return 0
}

func (l *looking) options() query.Options {
	o := query.Options{Damage: func(err error) {
		l.clear()
		kind := "damage: "
		if errors.Is(err, query.ErrUnread) {
			kind = ""
		}
		fmt.Fprintf(l.std.err, "sekisho: error: %s%s\n", kind, query.Printable(err.Error()))
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

// showAfter is how long a command takes before it shows how far it is.
var showAfter = time.Second

// show tells a person at a terminal how far the command is.
func (l *looking) show(format string, args ...any) {
	now := time.Now()
	if !l.bar || now.Sub(l.begun) < showAfter || now.Sub(l.last) < 100*time.Millisecond {
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

// begins tells where the log begins, if what the query is about lies before
// that. Without times it is told once nothing is found.
func (l *looking) begins(q query.Query, zone *time.Location, nothing bool) {
	if timed := !q.From.IsZero() || !q.To.IsZero(); timed == nothing {
		return
	}
	if b := query.Begins(l.log.dir); b != nil && q.From.Before(b.Time) {
		fmt.Fprintf(l.std.err, "sekisho: %s\n", b.Say(zone))
	}
}

// end gives an error its exit status. What is damaged is told already.
func (l *looking) end(err error) error {
	l.clear()
	switch {
	case errors.Is(err, query.ErrDamaged), errors.Is(err, audit.ErrDamaged):
		return &graveError{failure{err, "sekisho audit verify finds all that is wrong with a log"}, exitAlarm}
	case errors.Is(err, context.Canceled):
		err = errors.New("interrupted")
	}
	return unread(err)
}

// unread is an error by which it is not known what the log has. Its exit status
// is not the one of having found nothing.
func unread(err error) error {
	var usage *usageError
	if err == nil || errors.As(err, &usage) {
		return err
	}
	var fail *failure
	hint := ""
	if errors.As(err, &fail) {
		hint = fail.hint
	}
	return &graveError{failure{err, hint}, exitUnasked}
}
