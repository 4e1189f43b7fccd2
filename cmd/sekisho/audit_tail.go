package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"sekisho/audit"
	"sekisho/audit/query"
)

func newAuditTail(std stdio, served *servedLog) *cobra.Command {
	p := logPlace{served: served}
	var f filters
	var n int
	var follow, asJSON bool
	cmd := &cobra.Command{
		Use:   "tail [DIR]",
		Short: "Print the last records, and those that come",
		Long: `Tail prints the last records that fit, and with -f then those that are written,
until it is interrupted.

` + filterHelp + `

` + statusHelp,
		Example: `  sekisho audit tail -f
  sekisho audit tail -n 50 --type forward.deny,auth.fail`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := f.parse(cmd, time.Now())
			if err != nil {
				return err
			}
			if n < 0 || n > query.MostLast || n == 0 && !follow {
				return usagef("", "-n takes a number from 1 to %d, not %d", query.MostLast, n)
			}
			log, err := p.find(cmd, args)
			if err != nil {
				return unread(err)
			}
			l := newLooking(std, log)
			l.warns(q, f.zone())
			out := newPrinter(std.out, f.zone(), asJSON)
			var following *audit.FollowOptions
			if follow {
				following, out.now = &audit.FollowOptions{}, true
				if served != nil {
					following.Durable = served.book.Durable
				}
			}
			err = query.Tail(cmd.Context(), log.dir, q, n, l.options(), following, func(line []byte, rec audit.Record) error {
				l.clear()
				return out.add(line, rec)
			})
			if follow && errors.Is(err, context.Canceled) {
				return out.flush() // that is how it ends
			}
			return l.found(out, q, f.zone(), err)
		},
	}
	fl := cmd.Flags()
	fl.BoolVarP(&follow, "follow", "f", false, "go on with what is written, until interrupted")
	fl.IntVarP(&n, "lines", "n", 10, "the last `N` of them")
	f.addFlags(cmd)
	fl.BoolVar(&asJSON, "json", false, "print the lines as they stand in the log")
	p.addFlags(cmd)
	return cmd
}
