package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"sekisho/audit/query"
)

func newAuditShow(std stdio, served *servedLog) *cobra.Command {
	p := logPlace{served: served}
	var utc, asJSON bool
	cmd := &cobra.Command{
		Use:   "show ID [DIR]",
		Short: "Tell the story of a forward or a connection",
		Long: `Show tells in order and in words what the log has of one forward, f…, or of one
connection with all of its forwards, c…: the login, the policy and the grant, the
addresses that were tried, and the end. The id is in every sentence by which a
client was refused.

The exit status is 0 if something is of the id, 1 if nothing is, and 4 if the log
could not be read.

` + damageHelp,
		Example: `  sekisho audit show f5kq2mzx7c3w4n6p`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || args[0] == "" {
				return usagef("see sekisho audit show --help", "show takes the id of a forward or a connection")
			}
			return atMostOne(cmd, args[1:])
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			id := args[0]
			if !query.IsID(id) {
				return usagef("that of a forward is f and 16 of the characters a-z and 2-7, that of a connection is c and 16 of them", "%q is no id", id)
			}
			log, err := p.find(cmd, args[1:])
			if err != nil {
				return unread(err)
			}
			l := newLooking(std, log)
			zone := time.Local
			if utc {
				zone = time.UTC
			}
			story, err := query.Show(cmd.Context(), log.dir, id, l.options())
			l.clear()
			if errors.Is(err, query.ErrNothing) {
				hint := "sekisho audit search finds others"
				if b := query.Begins(log.dir); b != nil {
					hint = b.Say(zone)
				}
				return failf(hint, "nothing in the log is of %s", id)
			}
			if story == nil {
				return l.end(err)
			}
			if b := query.Begins(log.dir); b != nil && story.Older() {
				fmt.Fprintf(std.err, "sekisho: %s\n", b.Say(zone))
			}
			write := func() error { return story.WriteText(std.out, zone) }
			if asJSON {
				write = func() error { return story.WriteJSON(std.out) }
			}
			if failed := write(); failed != nil {
				return failed
			}
			return l.end(err)
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&utc, "utc", false, "print times in UTC")
	fl.BoolVar(&asJSON, "json", false, "print the records as they stand in the log")
	p.addFlags(cmd)
	return cmd
}
