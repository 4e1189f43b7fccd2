package main

import (
	"time"

	"github.com/spf13/cobra"

	"sekisho/audit/query"
)

func newAuditReport(std stdio, served *servedLog) *cobra.Command {
	p := logPlace{served: served}
	var f filters
	var format string
	cmd := &cobra.Command{
		Use:   "report [DIR]",
		Short: "Sum up who reached what, and who was refused",
		Long: `Report sums up the log or a part of it: refusals first, then failed logins by where
they came from, then for each user the targets: how often, when first and last, how
much went up and down, and what failed, was lost in a crash or is open still.

` + filterHelp + `

The exit status is 0 also if there is nothing to tell, and 4 if the log could not
be read.

` + damageHelp + `
A report of such a log says so in itself.`,
		Example: `  sekisho audit report --since "last monday"
  sekisho audit report --on yesterday --format csv > yesterday.csv`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "text" && format != "csv" && format != "json" {
				return usagef("the formats are text, csv and json", "there is no format %q", format)
			}
			q, err := f.parse(cmd, time.Now())
			if err != nil {
				return err
			}
			log, err := p.find(cmd, args)
			if err != nil {
				return unread(err)
			}
			l := newLooking(std, log)
			report, err := query.NewReport(cmd.Context(), log.dir, q, l.options())
			l.clear()
			if report == nil {
				return l.end(err)
			}
			write := func() error { return report.WriteText(std.out, f.zone()) }
			switch format {
			case "csv":
				write = func() error { return report.WriteCSV(std.out) }
			case "json":
				write = func() error { return report.WriteJSON(std.out) }
			}
			if failed := write(); failed != nil {
				return failed
			}
			return l.end(err)
		},
	}
	f.addBroad(cmd)
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringVar(&format, "format", "text", "`text`, csv or json")
	p.addFlags(cmd)
	return cmd
}
