package main

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

func newSessions(std stdio) *cobra.Command {
	var w where
	var asJSON, watch bool
	cmd := &cobra.Command{
		Use:   "sessions [DIR]",
		Short: "List who is connected, and what they have open",
		Long: `Sessions lists the connections that are logged in, the oldest first, and below each
its forwards: target as asked, address that is dialled, the grant that carries it,
and the bytes so far, up (client to target) and down. sekisho kill ends them.

With --watch it goes on until ^C: on a terminal it shows them anew each second, and
elsewhere, or with --json as lines, whenever anybody or anything has come or gone.`,
		Example: `  sekisho sessions --watch
  sekisho sessions --json | jq -r '.connections[] | select(.user=="bob") | .forwards[].target'`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			if watch {
				return watchSessions(cmd, std, &w, args, asJSON)
			}
			var s sessions
			if err := w.ask(cmd, std, args, "GET", "/v1/sessions", nil, &s); err != nil {
				return err
			}
			if asJSON {
				return printJSON(std.out, s)
			}
			return s.write(std.out)
		},
	}
	w.addConfig(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the list as JSON")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again as it changes")
	return cmd
}

const timeForm = "2006-01-02 15:04:05 MST"

func when(t time.Time) string { return t.UTC().Format(timeForm) }

// write prints a table for people.
func (s *sessions) write(w io.Writer) error {
	t := table{{"ID", "USER", "LOGIN/TARGET", "SOURCE/ADDRESS", "SINCE", "UP", "DOWN", "KEY/GRANT"}}
	forwards := 0
	for _, c := range s.Connections {
		key := c.Key
		if c.Authority != "" {
			key += fmt.Sprintf(" (certificate %d of %s, %q)", c.Serial, c.Authority, c.KeyID)
		}
		t = append(t, []string{c.Conn, c.User, c.Login, c.Source.String(), when(c.Started), "", "", key})
		for _, f := range c.Forwards {
			forwards++
			address := "-" // it has none yet
			if f.Address.IsValid() {
				address = f.Address.String()
			}
			carried := f.Grant
			if !f.Open {
				carried += " (being opened)"
			}
			t = append(t, []string{"  " + f.Forward, "", f.Target, address, when(f.Started), strconv.FormatUint(f.Up, 10), strconv.FormatUint(f.Down, 10), carried})
		}
	}
	b := bufio.NewWriter(w)
	if len(t) > 1 {
		t.write(b)
	}
	fmt.Fprintf(b, "%s, %s", many(len(s.Connections), "connection"), many(forwards, "forward"))
	if s.BeforeLogin > 0 {
		fmt.Fprintf(b, "; %s not logged in yet", many(s.BeforeLogin, "connection"))
	}
	fmt.Fprintln(b)
	return b.Flush()
}

// A table is rows of cells, of which no one is cut off. What is in them is
// made safe to print.
type table [][]string

func (t table) write(w io.Writer) {
	var widths []int
	for _, row := range t {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			row[i] = printable(cell)
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range t {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}
