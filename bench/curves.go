package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// How cost grows: each line of a curve is of one server, which gets more and more
// connections, or forwards, until it has all, or cannot take more in reasonable
// time. There its line ends, and the plot says so.

// A curve is measured at points, in this order.
type curve struct {
	name       string
	counts     string // what its horizontal axis counts
	cost, echo string // titles
	points     []int
	most       func(*bench) int // no more are asked of the server
	measure    func(*bench, context.Context, *held, int) (sample, error)
}

// curves are those of servers; besides them there is the one of decisions.
var curves = []curve{
	{"connections", "connections, all but one idle", "Bulk down through one forward", "1-byte echo on one connection",
		[]int{1, 10, 100, 1000, 5000}, (*bench).most, (*bench).atConnections},
	{"forwards", fmt.Sprintf("forwards, %d on a connection", perConnection), "Bulk down through all forwards at once", "1-byte echo beside idle forwards",
		[]int{1, 10, 100, 500, 1000, 2000}, func(b *bench) int { return b.most() * perConnection }, (*bench).atForwards},
}

const decisions = "decisions"

// chosenCurves are the names of those in the list; all if it is empty.
func chosenCurves(list string) ([]string, error) {
	var all []string
	for _, c := range curves {
		all = append(all, c.name)
	}
	all = append(all, decisions)
	if list == "" {
		return all, nil
	}
	chosen := strings.Split(list, ",")
	for _, name := range chosen {
		if !slices.Contains(all, name) {
			return nil, fmt.Errorf("there is no curve %q; there are %s", name, strings.Join(all, ", "))
		}
	}
	return chosen, nil
}

// What one point takes. A curve has many, so that they are smaller than rows.
const (
	curveRounds = 3 // enough for medians that a disturbance does not bend
	curveBytes  = 300_000_000
	curveLasts  = 2 * time.Second // of the echo
	bulkLasts   = 4 * time.Second // of many forwards, if the bytes take longer
	pointTime   = 90 * time.Second

	perConnection = 20 // forwards, on the curve of forwards
)

// A sample is what is measured at one point of a curve.
type sample struct {
	cost     float64 // of bulk down, in seconds of processor time for 10^9 bytes
	memory   float64 // PSS of all, in MiB
	p50, p99 float64 // of a 1-byte echo, in milliseconds
}

// A line is what was measured of one server in one round.
type line struct {
	samples map[int]sample
	end     string // why it ends before the last point; "": it does not
	err     error  // of the point that could not be taken
}

// plot measures the chosen curves, the servers in turns, and draws them.
func (w *workshop) plot(ctx context.Context, s settings, contenders []contender, machine string) error {
	chosen, err := chosenCurves(s.curves)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.plots, 0o755); err != nil {
		return err
	}
	s.bytes, s.lasts, s.rounds = min(s.bytes, curveBytes), min(s.lasts, curveLasts), min(s.rounds, curveRounds)
	var shown []contender // one sekisho
	for _, c := range contenders {
		if !slices.ContainsFunc(shown, func(o contender) bool { return o.kind == c.kind }) {
			shown = append(shown, c)
		}
	}
	for _, c := range curves {
		if !slices.Contains(chosen, c.name) {
			continue
		}
		lines := map[string][]line{}
		for round := range s.rounds {
			for i := range shown {
				of := shown[(i+round)%len(shown)]
				fmt.Printf("curve of %s, %s, round %d:", c.name, of.name, round+1)
				l, err := w.line(ctx, s, of, c)
				fmt.Println()
				if err != nil {
					return fmt.Errorf("curve of %s, %s: %w", c.name, of.name, err)
				}
				lines[of.name] = append(lines[of.name], l)
			}
		}
		if err := c.draw(s.plots, shown, lines, roundsNote(s.rounds, machine)); err != nil {
			return err
		}
	}
	if slices.Contains(chosen, decisions) {
		lines, err := decisionsCurve(ctx)
		if err != nil {
			return err
		}
		c := chart{"One decision", "grants in the policy", "nanoseconds", lines, []string{decisionsNote, machine}}
		return c.write(s.plots, decisions)
	}
	return nil
}

func roundsNote(rounds int, machine string) []string {
	if rounds == 1 {
		return []string{"One round.", machine}
	}
	return []string{fmt.Sprintf("Medians of %d rounds.", rounds), machine}
}

// line starts a server and takes it from point to point.
func (w *workshop) line(ctx context.Context, s settings, of contender, c curve) (l line, err error) {
	_, err = w.one(ctx, s, row{place: "disk", measure: func(ctx context.Context, b *bench) error {
		h := &held{}
		defer func() { closeAll(h.clients) }()
		l = takePoints(ctx, c.points, c.most(b), pointTime, func(ctx context.Context, n int) (sample, error) {
			s, err := c.measure(b, ctx, h, n)
			if err == nil {
				fmt.Printf(" %d", n)
			}
			return s, err
		})
		return ctx.Err()
	}}, of)
	switch {
	case l.err != nil:
		fmt.Printf(" (%s: %v)", l.end, l.err)
	case l.end != "":
		fmt.Printf(" (%s)", l.end)
	}
	return l, err
}

var errSlow = errors.New("it took too long")

// takePoints measures one point after another until one is above the most, takes
// longer than the given time or cannot be measured. The connections of all points
// live as long as the context that measure gets, so that a point which stalls ends
// with them.
func takePoints(ctx context.Context, points []int, most int, limit time.Duration, measure func(context.Context, int) (sample, error)) line {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l := line{samples: map[int]sample{}}
	for _, n := range points {
		if n > most {
			l.end = fmt.Sprintf("no more than %s were asked of it", thousands(most))
			return l
		}
		slow := time.AfterFunc(limit, func() { cancel(errSlow) })
		s, err := measure(ctx, n)
		slow.Stop()
		switch {
		case context.Cause(ctx) == errSlow:
			err = cmp.Or(err, errSlow) // it may have come to its end just then
			l.end = fmt.Sprintf("%s took more than %v", thousands(n), limit)
		case err != nil:
			l.end = fmt.Sprintf("%s could not be measured", thousands(n))
		default:
			l.samples[n] = s
			continue
		}
		l.err = err
		return l
	}
	return l
}

// draw writes the charts of a curve.
func (c curve) draw(dir string, shown []contender, lines map[string][]line, notes []string) error {
	var ends []string
	var cost, memory, p50, p99 []series
	for _, of := range shown {
		ls, colour := lines[of.name], colours[of.kind]
		at := func(value func(sample) float64) []point { return medians(ls, value) }
		cost = append(cost, series{title(of), false, colour, at(func(s sample) float64 { return s.cost })})
		memory = append(memory, series{title(of), false, colour, at(func(s sample) float64 { return s.memory })})
		p50 = append(p50, series{title(of) + ", p50", false, colour, at(func(s sample) float64 { return s.p50 })})
		p99 = append(p99, series{title(of) + ", p99", true, colour, at(func(s sample) float64 { return s.p99 })})
		for _, l := range ls {
			text := fmt.Sprintf("No further points of %s: %s.", title(of), l.end)
			if of.kind == "sshd" {
				text += " It has two processes for each connection."
			}
			if l.end != "" && !slices.Contains(ends, text) {
				ends = append(ends, text)
			}
		}
	}
	notes = append(ends, notes...)
	for name, chart := range map[string]chart{
		"cpu-" + c.name:     {c.cost, c.counts, "CPU seconds for 10⁹ bytes", cost, notes},
		"memory-" + c.name:  {"Memory of the server at rest", c.counts, "MiB (PSS)", memory, notes},
		"latency-" + c.name: {c.echo, c.counts, "milliseconds", slices.Concat(p50, p99), notes},
	} {
		if err := chart.write(dir, name); err != nil {
			return err
		}
	}
	return nil
}

// colours are the same on all charts.
var colours = map[string]int{"sshd": 0, "ours": 1, "stock": 2}

func (c chart) write(dir, name string) error {
	return os.WriteFile(filepath.Join(dir, name+".svg"), []byte(c.svg()), 0o644)
}

// medians are those of all rounds that have the point.
func medians(rounds []line, of func(sample) float64) (drawn []point) {
	values := map[int][]float64{}
	for _, r := range rounds {
		for n, s := range r.samples {
			values[n] = append(values[n], of(s))
		}
	}
	for _, n := range slices.Sorted(maps.Keys(values)) {
		drawn = append(drawn, point{float64(n), spreadOf(values[n]).median})
	}
	return drawn
}

// most is how many connections the server gets at most.
func (b *bench) most() int {
	if b.server.kind == "sshd" {
		return b.sshdMost
	}
	return b.manyIdle
}

// held are the connections of a line on which they become more from point to point.
type held struct{ clients []*goClient }

func (h *held) become(ctx context.Context, b *bench, n int) error {
	more, err := b.logins(ctx, n-len(h.clients))
	h.clients = append(h.clients, more...)
	return err
}

func (b *bench) atConnections(ctx context.Context, h *held, n int) (s sample, err error) {
	if err := h.become(ctx, b, n); err != nil {
		return s, err
	}
	if s, err = b.sample(ctx, h.clients[0]); err != nil {
		return s, err
	}
	s.cost, _, err = b.bulk(ctx, h.clients[0], sends)
	return s, err
}

func (b *bench) atForwards(ctx context.Context, _ *held, n int) (s sample, err error) {
	clients, err := b.logins(ctx, max(n/perConnection, 1))
	if err != nil {
		return s, err
	}
	defer closeAll(clients)
	each := min(n, perConnection)
	if s, err = b.besideForwards(ctx, clients, each); err != nil {
		return s, err
	}
	s.cost, err = b.bulkOfMany(ctx, clients, each, sends, limits{onTheWay(n), bulkLasts})
	return s, err
}

// besideForwards takes a sample while each client has so many forwards that do
// nothing.
func (b *bench) besideForwards(ctx context.Context, clients []*goClient, each int) (sample, error) {
	conns, err := openAll(ctx, clients, each)
	for _, conn := range conns {
		defer conn.Close()
	}
	if err != nil {
		return sample{}, err
	}
	for _, conn := range conns {
		if err := echoOnce(conn, true); err != nil {
			return sample{}, err
		}
	}
	return b.sample(ctx, clients[0])
}

// sample takes all but the cost.
func (b *bench) sample(ctx context.Context, c *goClient) (s sample, err error) {
	bytes, err := b.memory(ctx)
	if err != nil {
		return s, err
	}
	times, err := b.echo(ctx, c, 0)
	return sample{memory: bytes / (1 << 20), p50: percentile(times, 0.5), p99: percentile(times, 0.99)}, err
}
