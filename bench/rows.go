package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A row is one measurement of a server that runs for it alone.
type row struct {
	name     string
	place    string // of the log
	metrics  []metric
	measure  func(context.Context, *bench) error
	oursOnly bool // the others are not measured
}

// A metric is one figure that a row gives.
type metric struct {
	key  string
	what string // in the table
	unit string
	goal goal
	// stretch is what would be better still, in words; "": none.
	stretch string
}

// A goal is a bound: of the ratio to the first server in a round, or of the
// figure itself. The zero goal is none.
type goal struct {
	bound    float64
	atLeast  bool // else at most
	absolute bool
	text     string
}

func ratioAtMost(bound float64, text string) goal {
	return goal{bound: bound, text: "≤ " + text}
}

func ratioAtLeast(bound float64, text string) goal {
	return goal{bound: bound, atLeast: true, text: "≥ " + text}
}

func (g goal) reached(x float64) bool {
	if g.atLeast {
		return x >= g.bound
	}
	return x <= g.bound
}

// options are how much is done.
type options struct {
	bytes    int64         // of a bulk transfer
	lasts    time.Duration // each timed part of a row
	idle     int           // connections of the memory row
	manyIdle int           // those beside the 1,000 forwards
	sshdMost int           // connections that sshd gets at most
}

// bench is one measurement that runs.
type bench struct {
	*workshop
	options
	server *server
	values map[string]float64
}

func (b *bench) set(key string, value float64) { b.values[key] = value }

// cpu is the processor time that the server has used so far, in seconds.
func (b *bench) cpu() (float64, error) {
	d, err := cpuTime(b.server.proc.pid())
	return d.Seconds(), err
}

// settle waits until the server does nothing any more: its processes are as many
// as given, unless that is 0, and use no time; or until some seconds are over.
func (b *bench) settle(ctx context.Context, processes int) {
	deadline := time.Now().Add(5 * time.Second)
	last := time.Duration(-1)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		tree, err := processTree(b.server.proc.pid())
		if err != nil {
			return
		}
		var now time.Duration
		for _, s := range tree {
			now += s.own + s.reaped
		}
		if now == last && (processes == 0 || len(tree) <= processes) {
			return
		}
		last = now
		time.Sleep(100 * time.Millisecond)
	}
}

// rows are all, in the order of the table.
func rows() []row {
	return slices.Concat([]row{
		{name: "bulk", place: "disk", measure: measureBulk, metrics: []metric{
			{"bulk.down", "bulk down, AES-128-GCM, CPU", "s/GB", ratioAtMost(0.65, "0.65"), "0.60"},
			{"bulk.up", "bulk up, AES-128-GCM, CPU", "s/GB", ratioAtMost(1.1, "1.1"), "0.95"},
			{"bulk.down.rate", "bulk down, rate", "MB/s", goal{}, ""},
			{"bulk.up.rate", "bulk up, rate", "MB/s", goal{}, ""},
		}},
		{name: "ssh", place: "disk", measure: measureSSH, metrics: []metric{
			{"ssh.down", "bulk down, `ssh -N -L` at its defaults, CPU", "s/GB", ratioAtMost(0.6, "0.6"), "0.5"},
			{"ssh.up", "bulk up, `ssh -N -L` at its defaults, CPU", "s/GB", ratioAtMost(0.75, "0.75"), "0.6"},
			{"ssh.down.rate", "bulk down, `ssh -N -L`, rate", "MB/s", goal{}, ""},
			{"ssh.up.rate", "bulk up, `ssh -N -L`, rate", "MB/s", goal{}, ""},
		}},
	},
		loginRows("tmpfs"), loginRows("disk"),
		forwardRows("tmpfs", ratioAtLeast(5, "5"), ratioAtLeast(0.8, "0.8")), forwardRows("disk", goal{}, goal{}),
		[]row{
			{name: "memory", place: "disk", measure: measureMemory, metrics: []metric{
				{"memory.idle", "memory (PSS) of an idle connection", "KiB", ratioAtMost(1.0/25, "1/25"), "45 KiB"},
				{"memory.forward", "memory (PSS) of a connection with one idle forward", "KiB", ratioAtMost(1.0/20, "1/20"), "60 KiB"},
			}},
			{name: "busy", place: "disk", measure: measureBusy, metrics: []metric{
				{"busy.p50", "1-byte echo beside bulk down, p50", "ms", goal{}, ""},
				{"busy.p90", "1-byte echo beside bulk down, p90", "ms", ratioAtMost(1.0, "1.0"), "0.5"},
				{"busy.p99", "1-byte echo beside bulk down, p99", "ms", goal{}, ""},
				{"busy.rate", "the bulk meanwhile", "MB/s", goal{}, ""},
			}},
			{name: "busy-ssh", place: "disk", measure: measureBusySSH, metrics: []metric{
				{"busy-ssh.p50", "1-byte echo beside bulk down, `ssh -N -L`, p50", "ms", goal{}, ""},
				{"busy-ssh.p90", "1-byte echo beside bulk down, `ssh -N -L`, p90", "ms", ratioAtMost(1.0, "1.0"), "0.5"},
				{"busy-ssh.p99", "1-byte echo beside bulk down, `ssh -N -L`, p99", "ms", goal{}, ""},
				{"busy-ssh.rate", "the bulk meanwhile", "MB/s", goal{}, ""},
			}},
			{name: "echo", place: "disk", measure: measureEcho, metrics: []metric{
				{"echo.p50", "1-byte echo, p50", "ms", ratioAtMost(1.0, "1.0"), "0.8"},
				{"echo.p99", "1-byte echo, p99", "ms", goal{}, ""},
				{"echo-ssh.p50", "1-byte echo, `ssh -N -L`, p50", "ms", ratioAtMost(1.0, "1.0"), "0.8"},
			}},
			{name: "requests", place: "disk", measure: measureRequests, metrics: []metric{
				{"requests.rate", "4 KiB requests, 200 forwards of 10 connections", "/s", ratioAtLeast(1.2, "1.2"), "1.5"},
				{"requests.jain", "fairness among them (Jain)", "", goal{bound: 0.99, atLeast: true, absolute: true, text: "≥ 0.99 itself"}, ""},
				{"requests.cpu", "CPU of a request", "µs", goal{}, ""},
			}},
			manyRow(),
		})
}

// chosenRows are those whose name, or its part before "-", is in the list; all
// if the list is empty, and none if it is "none".
func chosenRows(list string) ([]row, error) {
	all := rows()
	switch list {
	case "":
		return all, nil
	case "none":
		return nil, nil
	}
	var chosen []row
	for _, name := range strings.Split(list, ",") {
		n := len(chosen)
		for _, r := range all {
			if r.name == name || strings.HasPrefix(r.name, name+"-") {
				chosen = append(chosen, r)
			}
		}
		if len(chosen) == n {
			var names []string
			for _, r := range all {
				names = append(names, r.name)
			}
			return nil, fmt.Errorf("there is no row %q; there are %s", name, strings.Join(names, ", "))
		}
	}
	return chosen, nil
}
