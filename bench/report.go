package main

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
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

func (r *results) add(row row, c contender, values map[string]float64) {
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
		if b[i] != 0 { // as the time of what takes less than a tick is
			ratios = append(ratios, a[i]/b[i])
		}
	}
	return spreadOf(ratios)
}

// pairs are whose ratios are told: of each to the first, and of each other
// sekisho to the first one.
func (r *results) pairs() (all [][2]string) {
	first := r.contenders[0]
	for _, c := range r.contenders[1:] {
		all = append(all, [2]string{c.name, first.name})
	}
	if own := r.ours(); len(own) > 1 && own[0] != first {
		for _, c := range own[1:] {
			all = append(all, [2]string{c.name, own[0].name})
		}
	}
	return all
}

func (r *results) ours() (own []contender) {
	for _, c := range r.contenders {
		if c.kind == "ours" {
			own = append(own, c)
		}
	}
	return own
}

// print shows one row on a terminal: of each server the median, least and most,
// and the ratios.
func (r *results) print(w io.Writer, row row) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintf(t, "\n%s", row.name)
	for _, c := range r.contenders {
		fmt.Fprintf(t, "\t%s", c.name)
	}
	for _, p := range r.pairs() {
		fmt.Fprintf(t, "\t%s/%s", p[0], p[1])
	}
	fmt.Fprintln(t, "\tgoal")
	for _, m := range row.metrics {
		fmt.Fprintf(t, "%s %s", m.key, m.unit)
		for _, c := range r.contenders {
			fmt.Fprintf(t, "\t%s", r.of(m.key, c.name))
		}
		for _, p := range r.pairs() {
			fmt.Fprintf(t, "\t%s", r.ratio(m.key, p[0], p[1]))
		}
		fmt.Fprintf(t, "\t%s\n", m.goalText())
	}
}

// table is all rows in Markdown, of the first sekisho beside the others. Each
// figure is a median, with the least and the most.
func (r *results) table(rows []row) string {
	own := r.ours()[0]
	shown := slices.DeleteFunc(slices.Clone(r.contenders), func(c contender) bool { return c.kind == "ours" && c != own })
	base := shown[0].name
	var b strings.Builder
	b.WriteString("| what | unit |")
	for _, c := range shown {
		fmt.Fprintf(&b, " %s |", title(c))
	}
	fmt.Fprintf(&b, " Sekisho to %s | goal | reached |\n", title(shown[0]))
	b.WriteString("| --- | --- |" + strings.Repeat(" --- |", len(shown)+3) + "\n")
	for _, row := range rows {
		for _, m := range row.metrics {
			fmt.Fprintf(&b, "| %s | %s |", m.what, m.unit)
			for _, c := range shown {
				fmt.Fprintf(&b, " %s |", r.of(m.key, c.name))
			}
			ratio := r.ratio(m.key, own.name, base)
			fmt.Fprintf(&b, " %s | %s | %s |\n", ratio, m.goalText(), verdict(m.goal, r.of(m.key, own.name), ratio))
		}
	}
	return b.String()
}

func (m metric) goalText() string {
	var parts []string
	if m.goal.text != "" {
		parts = append(parts, m.goal.text)
	}
	if m.stretch != "" {
		parts = append(parts, "stretch "+m.stretch)
	}
	return strings.Join(parts, "; ")
}

func title(c contender) string {
	switch c.kind {
	case "ours":
		return "Sekisho"
	case "stock":
		return "stock handler"
	}
	return c.name
}

// verdict says whether a goal is reached by the medians.
func verdict(g goal, own, ratio spread) string {
	judged := ratio
	if g.absolute {
		judged = own
	}
	switch {
	case g.text == "" || !judged.known():
		return ""
	case g.reached(judged.median):
		return "yes"
	}
	return "**no**"
}

func (s spread) String() string {
	if !s.known() {
		return "–"
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.median), number(s.least), number(s.most))
}

// The lines between which a document is written by this program.
const (
	beginMark = "<!-- bench: begin -->\n"
	endMark   = "<!-- bench: end -->\n"
)

// between replaces what stands between the marks.
func between(doc, text string) (string, error) {
	before, rest, ok := strings.Cut(doc, beginMark)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 || strings.Contains(after, beginMark) {
		return "", fmt.Errorf("it has not one line %s and, after it, one line %s", strings.TrimSpace(beginMark), strings.TrimSpace(endMark))
	}
	return before + beginMark + text + endMark + after, nil
}

// write puts the text between the marks of a file.
func write(file, text string) error {
	doc, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	changed, err := between(string(doc), text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := os.WriteFile(file+".new", []byte(changed), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
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
