package main

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// results are the figures of all rounds.
type results struct {
	contenders []contender
	rounds     map[string]map[string][]float64 // by metric and contender, one for each round
}

func newResults(contenders []contender) *results {
	return &results{contenders, map[string]map[string][]float64{}}
}

func (r *results) add(row row, round int, c contender, values map[string]float64) {
	for _, m := range row.metrics {
		v, ok := values[m.key]
		if !ok {
			v = math.NaN()
		}
		if r.rounds[m.key] == nil {
			r.rounds[m.key] = map[string][]float64{}
		}
		r.rounds[m.key][c.name] = append(r.rounds[m.key][c.name], v)
	}
}

// of is what a contender came to.
func (r *results) of(key, name string) spread { return spreadOf(r.rounds[key][name]) }

// ratio is of the figures of one contender to those of another in the same round.
func (r *results) ratio(key, name, to string) spread {
	a, b := r.rounds[key][name], r.rounds[key][to]
	var ratios []float64
	for i := range min(len(a), len(b)) {
		ratios = append(ratios, a[i]/b[i])
	}
	return spreadOf(ratios)
}

// print shows one row on a terminal: of each server the median, least and most,
// and the ratios to the first.
func (r *results) print(w io.Writer, row row) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintf(t, "\n%s", row.name)
	for _, c := range r.contenders {
		fmt.Fprintf(t, "\t%s", c.name)
	}
	for _, c := range r.contenders[1:] {
		fmt.Fprintf(t, "\t%s/%s", c.name, r.contenders[0].name)
	}
	fmt.Fprintln(t, "\tgoal")
	for _, m := range row.metrics {
		fmt.Fprintf(t, "%s %s", m.key, m.unit)
		for _, c := range r.contenders {
			fmt.Fprintf(t, "\t%s", r.of(m.key, c.name))
		}
		for _, c := range r.contenders[1:] {
			fmt.Fprintf(t, "\t%s", r.ratio(m.key, c.name, r.contenders[0].name))
		}
		fmt.Fprintf(t, "\t%s\n", m.goal.text)
	}
}

func (s spread) String() string {
	if !s.known() {
		return "–"
	}
	return fmt.Sprintf("%s [%s–%s]", number(s.median), number(s.least), number(s.most))
}

// number writes three significant digits.
func number(x float64) string {
	if x == 0 {
		return "0"
	}
	digits := 2 - int(math.Floor(math.Log10(math.Abs(x))))
	return fmt.Sprintf("%.*f", min(max(digits, 0), 5), x)
}

// machine says what was measured on.
func machine() string {
	model := "processor unknown"
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel := "kernel unknown"
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	version, _ := exec.Command("ssh", "-V").CombinedOutput()
	openssh, _, _ := strings.Cut(strings.TrimSpace(string(version)), ",")
	return fmt.Sprintf("%s, %d processors, %s, %s, %s", model, runtime.NumCPU(), kernel, runtime.Version(), openssh)
}
