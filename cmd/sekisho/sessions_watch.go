package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// watchTick is how often those who watch ask.
const watchTick = time.Second

// watchSessions shows what runs until the command is ended, or the server.
func watchSessions(cmd *cobra.Command, std stdio, w *where, args []string, asJSON bool) error {
	s, err := w.lenient(cmd, std, args)
	if err != nil {
		return err
	}
	ctx, last := cmd.Context(), "none yet"
	tick := time.NewTicker(watchTick)
	defer tick.Stop()
	for {
		var now sessions
		if err := s.call(ctx, "GET", "/v1/sessions", nil, &now); err != nil {
			if ctx.Err() != nil { // ^C is how this ends
				return nil
			}
			return serverError(err)
		}
		terminal := !asJSON && isTerminalOut(std.out)
		if are := now.who(); terminal || are != last {
			last = are
			if err := now.show(std, terminal, asJSON); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// who tells states apart by which connections and forwards there are, whatever
// bytes they have moved.
func (s *sessions) who() string {
	var all strings.Builder
	for _, c := range s.Connections {
		fmt.Fprintf(&all, "%s\n", c.Conn)
		for _, f := range c.Forwards {
			fmt.Fprintf(&all, "%s %v\n", f.Forward, f.Open)
		}
	}
	return all.String()
}

func (s *sessions) show(std stdio, terminal, asJSON bool) error {
	switch {
	case asJSON:
		return json.NewEncoder(std.out).Encode(struct {
			Time time.Time `json:"time"`
			*sessions
		}{time.Now().UTC(), s})
	case terminal:
		fmt.Fprint(std.out, "\x1b[H\x1b[2J") // to the first line, and clear
	}
	fmt.Fprintln(std.out, when(time.Now()))
	return s.write(std.out)
}
