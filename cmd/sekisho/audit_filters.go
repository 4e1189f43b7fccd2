package main

import (
	"time"

	"github.com/spf13/cobra"

	"sekisho/audit/query"
)

// filterHelp tells what the filters of a command take.
const filterHelp = `Several filters have all to hold; several values of one, which is then given
several times, are alternatives.

A time is 2026-11-17, "2026-11-17 09:00", 2026-11-17T09:00:00+09:00, 3h or 2d (ago),
today, yesterday or tuesday. A day after --until is included. Days and times
without an offset are those of this machine, or with --utc of UTC.`

// statusHelp tells how a command ends that finds something or not.
const statusHelp = `The exit status is 0 if something was found, 1 if not, and 4 if the log could not
be read: then it is not known.`

// damageHelp tells what reading a log does not find.
const damageHelp = `What is damaged and in the way is told on standard error, and the exit status is 3.
But lines are looked at only where they can be wanted: it is sekisho audit verify
that finds damage.`

// filters are those of a query, as flags give them.
type filters struct {
	query.Query
	bytes, duration  string
	since, until, on string
	utc              bool
}

// addBroad adds the filters that a report takes, too.
func (f *filters) addBroad(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringArrayVar(&f.Users, "user", nil, "the `name` of a user")
	fl.StringArrayVar(&f.Logins, "login", nil, "the login `name` that the client sent")
	fl.StringArrayVar(&f.Keys, "key", nil, "the `fingerprint` of a key, SHA256:…, proven or offered")
	fl.StringArrayVar(&f.Targets, "target", nil, "a `host` or host:port as it was asked for; * stands for part of one label")
	fl.StringArrayVar(&f.Addresses, "address", nil, "the `IP`, IP:port or network that was dialled")
	fl.StringArrayVar(&f.Sources, "source", nil, "the `IP` or network that the client came from")
	fl.StringArrayVar(&f.Grants, "grant", nil, "the `name` of the grant that allowed it")
	fl.StringVar(&f.since, "since", "", "from this `time` on")
	fl.StringVar(&f.until, "until", "", "up to this `time`")
	fl.StringVar(&f.on, "on", "", "on this `day`")
	fl.BoolVar(&f.utc, "utc", false, "read and print times in UTC")
}

func (f *filters) addFlags(cmd *cobra.Command) {
	f.addBroad(cmd)
	fl := cmd.Flags()
	fl.StringSliceVar(&f.Types, "type", nil, "the `type` of a record, forward.open, or all that begin so: forward")
	fl.StringArrayVar(&f.Reasons, "reason", nil, "the `code` of a reason")
	fl.StringArrayVar(&f.Conns, "conn", nil, "the `id` of a connection")
	fl.StringArrayVar(&f.Forwards, "forward", nil, "the `id` of a forward")
	fl.StringArrayVar(&f.Requests, "request", nil, "part of the `text` of a request")
	fl.StringArrayVar(&f.Texts, "text", nil, "part of any `text` in the record")
	fl.StringVar(&f.bytes, "bytes", "", "at least so many bytes, up and down: a `size`, 4096, 500KB or 10MiB")
	fl.StringVar(&f.duration, "duration", "", "it lasted at least this `duration`, 90s or 2h")
	fl.SortFlags = false
}

// zone is that of times that say none.
func (f *filters) zone() *time.Location {
	if f.utc {
		return time.UTC
	}
	return time.Local
}

// parse makes a query of what the flags say.
func (f *filters) parse(cmd *cobra.Command, now time.Time) (query.Query, error) {
	q := f.Query
	for name, value := range map[string]string{"since": f.since, "until": f.until, "on": f.on, "bytes": f.bytes, "duration": f.duration} {
		if value == "" && cmd.Flags().Changed(name) { // a variable of a script that is not set, most likely
			return q, usagef("leave --"+name+" away for no condition", "the value of --%s is empty", name)
		}
	}
	now = now.In(f.zone())
	var err error
	if f.on != "" {
		if f.since != "" || f.until != "" {
			return q, usagef("give --on alone, or --since and --until", "--on is a day, and --since or --until say another time")
		}
		if q.From, q.To, err = query.ParseTime(f.on, now); err != nil {
			return q, usagef("", "%w", err)
		}
		if q.From.Equal(q.To) {
			return q, usagef("write it as 2026-11-17, today, yesterday or tuesday", "%q is no day", f.on)
		}
	}
	if f.since != "" {
		if q.From, _, err = query.ParseTime(f.since, now); err != nil {
			return q, usagef("", "--since: %w", err)
		}
	}
	if f.until != "" {
		if _, q.To, err = query.ParseTime(f.until, now); err != nil {
			return q, usagef("", "--until: %w", err)
		}
	}
	if !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To) {
		return q, usagef("", "--until is not after --since: %s and %s", q.To.Format(query.TimeLayout), q.From.Format(query.TimeLayout))
	}
	if f.bytes != "" {
		if q.Bytes, err = query.ParseBytes(f.bytes); err != nil {
			return q, usagef("", "--bytes: %w", err)
		}
	}
	if f.duration != "" {
		if q.Duration, err = query.ParseDuration(f.duration); err != nil {
			return q, usagef("", "--duration: %w", err)
		}
	}
	if err := q.Check(); err != nil {
		return q, usagef("", "%w", err)
	}
	return q, nil
}
