package main

import (
	"bufio"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"sekisho/audit"
	"sekisho/audit/query"
)

func newAuditSearch(std stdio, served *servedLog) *cobra.Command {
	p := logPlace{served: served}
	var f filters
	var last int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "search [DIR]",
		Short: "Find records in the log",
		Long: `Search prints the records that fit, oldest first. It needs no server and no lock.

` + filterHelp + `

` + statusHelp + `

` + damageHelp,
		Example: `  sekisho audit search --user bob --since 2d
  sekisho audit search --target 'web-*.corp.example:443' --type forward --on yesterday
  sekisho audit search --bytes 1GiB --since "last monday" --json | jq`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := f.parse(cmd, time.Now())
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("last") && (last < 1 || last > query.MostLast) {
				return usagef("", "--last takes a number from 1 to %d, not %d", query.MostLast, last)
			}
			log, err := p.find(cmd, args)
			if err != nil {
				return unread(err)
			}
			l := newLooking(std, log)
			l.warns(q, f.zone())
			opts := l.options()
			opts.Last = last
			out := newPrinter(std.out, f.zone(), asJSON)
			err = query.Search(cmd.Context(), log.dir, q, opts, func(line []byte, rec audit.Record) error {
				l.clear()
				return out.add(line, rec)
			})
			return l.found(out, q, f.zone(), err)
		},
	}
	f.addFlags(cmd)
	fl := cmd.Flags()
	fl.IntVar(&last, "last", 0, "only the last `N` that fit")
	fl.BoolVar(&asJSON, "json", false, "print the lines as they stand in the log")
	p.addFlags(cmd)
	return cmd
}

// warns tells what of a query nothing can be found by.
func (l *looking) warns(q query.Query, zone *time.Location) {
	l.unknown("type", q.Types, knownTypes)
	l.unknown("reason", q.Reasons, knownReasons)
	l.begins(q, zone, false)
}

// found ends a command that prints what it finds.
func (l *looking) found(out *printer, q query.Query, zone *time.Location, err error) error {
	if flushed := out.flush(); err == nil {
		err = flushed
	}
	if err = l.end(err); err != nil {
		return err
	}
	if out.n == 0 {
		fmt.Fprintln(l.std.err, "sekisho: nothing in the log fits")
		l.begins(q, zone, true)
		return errTold
	}
	return nil
}

// A printer prints records as a table or as they stand in the log.
type printer struct {
	table *query.Table
	lines *bufio.Writer // nil: the table
	now   bool          // somebody looks on
	n     int
}

func newPrinter(w io.Writer, zone *time.Location, asJSON bool) *printer {
	p := &printer{now: isTerminalOut(w)}
	if asJSON {
		p.lines = bufio.NewWriter(w)
	} else {
		p.table = query.NewTable(w, zone)
		p.table.Widest = terminalWidth(w)
	}
	return p
}

func (p *printer) add(line []byte, rec audit.Record) error {
	p.n++
	var err error
	if p.lines != nil {
		p.lines.Write(line)
		err = p.lines.WriteByte('\n')
	} else {
		err = p.table.Add(rec)
	}
	if err == nil && p.now {
		err = p.flush()
	}
	return err
}

func (p *printer) flush() error {
	if p.lines != nil {
		return p.lines.Flush()
	}
	return p.table.Flush()
}
