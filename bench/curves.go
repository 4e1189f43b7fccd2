package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// How cost grows: each curve is of one server, which gets more and more
// connections, or forwards.

// curvePoints are how many connections and forwards there are.
var (
	connectionPoints = []int{1, 10, 100, 500, 1000, 2000, 5000}
	forwardPoints    = []int{1, 10, 20, 100, 200, 1000, 2000}
)

// perConnection is how many forwards a connection has, on the curve of forwards.
const perConnection = 20

// A sample is what is measured at one point of a curve.
type sample struct {
	cost     float64 // of bulk down, in seconds of processor time for 10^9 bytes
	memory   float64 // PSS of all, in MiB
	p50, p99 float64 // of a 1-byte echo, in milliseconds
}

// curveRounds is enough for medians that a disturbance does not bend.
const curveRounds = 3

// plot measures the curves of sshd and of the first sekisho, in turns, and draws
// them.
func (w *workshop) plot(ctx context.Context, s settings, contenders []contender) error {
	if err := os.MkdirAll(s.plots, 0o755); err != nil {
		return err
	}
	var shown []contender
	for _, c := range contenders {
		if c.kind != "stock" && !slices.ContainsFunc(shown, func(o contender) bool { return o.kind == c.kind }) {
			shown = append(shown, c)
		}
	}
	for _, curve := range []struct {
		name, counts string
		cost, echo   string // titles
		measure      func(*bench, context.Context) (map[int]sample, error)
	}{
		{"connections", "connections, all but one idle", "Bulk down through one forward", "1-byte echo on one connection", (*bench).connectionsCurve},
		{"forwards", "forwards, 20 on a connection", "Bulk down through all forwards at once", "1-byte echo beside idle forwards", (*bench).forwardsCurve},
	} {
		measured := map[string][]map[int]sample{}
		for round := range min(s.rounds, curveRounds) {
			for i := range shown {
				c := shown[(i+round)%len(shown)]
				samples, err := w.oneCurve(ctx, s, c, curve.measure)
				if err != nil {
					return fmt.Errorf("curve of %s, %s: %w", curve.name, c.name, err)
				}
				measured[c.name] = append(measured[c.name], samples)
				fmt.Printf("curve of %s, %s, round %d\n", curve.name, c.name, round+1)
			}
		}
		var cost, memory, echo []series
		for i, c := range shown {
			at := func(of func(sample) float64) []point { return medians(measured[c.name], of) }
			cost = append(cost, series{title(c), false, i, at(func(s sample) float64 { return s.cost })})
			memory = append(memory, series{title(c), false, i, at(func(s sample) float64 { return s.memory })})
			echo = append(echo, series{title(c) + ", p50", false, i, at(func(s sample) float64 { return s.p50 })},
				series{title(c) + ", p99", true, i, at(func(s sample) float64 { return s.p99 })})
		}
		for name, c := range map[string]chart{
			"cpu-" + curve.name:     {curve.cost, curve.counts, "CPU seconds for 10⁹ bytes", cost},
			"memory-" + curve.name:  {"Memory of the server", curve.counts, "MiB (PSS)", memory},
			"latency-" + curve.name: {curve.echo, curve.counts, "milliseconds", echo},
		} {
			if err := c.write(s.plots, name); err != nil {
				return err
			}
		}
	}
	decisions, err := decisionsCurve(ctx)
	if err != nil {
		return err
	}
	return chart{"One decision", "grants in the policy", "nanoseconds", decisions}.write(s.plots, "decisions")
}

func (c chart) write(dir, name string) error {
	return os.WriteFile(filepath.Join(dir, name+".svg"), []byte(c.svg()), 0o644)
}

// medians are those of all rounds, point by point.
func medians(rounds []map[int]sample, of func(sample) float64) (line []point) {
	for _, n := range slices.Sorted(maps.Keys(rounds[0])) {
		var values []float64
		for _, r := range rounds {
			values = append(values, of(r[n]))
		}
		line = append(line, point{float64(n), spreadOf(values).median})
	}
	return line
}

func (w *workshop) oneCurve(ctx context.Context, s settings, c contender, measure func(*bench, context.Context) (map[int]sample, error)) (samples map[int]sample, err error) {
	_, err = w.one(ctx, s, row{place: "disk", measure: func(ctx context.Context, b *bench) error {
		samples, err = measure(b, ctx)
		return err
	}}, c)
	return samples, err
}

// most is how many connections the server gets at most.
func (b *bench) most() int {
	if b.server.kind == "sshd" {
		return b.sshdMost
	}
	return b.manyIdle
}

func (b *bench) connectionsCurve(ctx context.Context) (map[int]sample, error) {
	samples := map[int]sample{}
	var clients []*goClient
	defer func() { closeAll(clients) }()
	for _, n := range connectionPoints {
		if n > b.most() {
			break
		}
		more, err := b.logins(ctx, n-len(clients))
		if err != nil {
			return nil, err
		}
		clients = append(clients, more...)
		s, err := b.sample(ctx, clients[0])
		if err != nil {
			return nil, err
		}
		if s.cost, _, err = b.bulk(ctx, clients[0], sends); err != nil {
			return nil, err
		}
		samples[n] = s
	}
	return samples, nil
}

func (b *bench) forwardsCurve(ctx context.Context) (map[int]sample, error) {
	samples := map[int]sample{}
	var clients []*goClient
	defer func() { closeAll(clients) }()
	for _, n := range forwardPoints {
		if n/perConnection > b.most() {
			break
		}
		more, err := b.logins(ctx, max(n/perConnection, 1)-len(clients))
		if err != nil {
			return nil, err
		}
		clients = append(clients, more...)
		each := min(n, perConnection)
		s, err := b.besideForwards(ctx, clients, each)
		if err != nil {
			return nil, err
		}
		if s.cost, err = b.bulkOfMany(ctx, clients, each, sends); err != nil {
			return nil, err
		}
		samples[n] = s
	}
	return samples, nil
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
	held, err := b.memory(ctx)
	if err != nil {
		return s, err
	}
	times, err := b.echo(ctx, c, 0)
	return sample{memory: held / (1 << 20), p50: percentile(times, 0.5), p99: percentile(times, 0.99)}, err
}

// decisionsCurve runs the benchmark of package authz that decides with policies of
// many sizes.
func decisionsCurve(ctx context.Context) ([]series, error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkDecideBySize$", "sekisho/authz")
	cmd.WaitDelay = 2 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	lines := parseDecisions(string(out))
	if len(lines) == 0 {
		return nil, fmt.Errorf("no figures of BenchmarkDecideBySize: %s", out)
	}
	return lines, nil
}

var decisionLine = regexp.MustCompile(`(?m)^BenchmarkDecideBySize/([^/\s]+)/grants=(\d+)\S*\s+\d+\s+([\d.]+) ns/op`)

// parseDecisions reads what the benchmark prints.
func parseDecisions(out string) (lines []series) {
	for _, m := range decisionLine.FindAllStringSubmatch(out, -1) {
		grants, _ := strconv.ParseFloat(m[2], 64)
		ns, _ := strconv.ParseFloat(m[3], 64)
		i := slices.IndexFunc(lines, func(s series) bool { return s.name == m[1] })
		if i < 0 {
			i = len(lines)
			lines = append(lines, series{name: m[1], colour: i})
		}
		lines[i].points = append(lines[i].points, point{grants, ns})
	}
	return lines
}
