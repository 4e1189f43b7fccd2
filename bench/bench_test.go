package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMedianIsTheMiddleAndSpreadLeavesOutWhatWasNotMeasured(t *testing.T) {
	for _, c := range []struct {
		name   string
		values []float64
		want   spread
	}{
		{"odd", []float64{3, 1, 2}, spread{2, 1, 3}},
		{"even", []float64{4, 1, 2, 3}, spread{2.5, 1, 4}},
		{"one missing", []float64{math.NaN(), 7}, spread{7, 7, 7}},
	} {
		if got := spreadOf(c.values); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if s := spreadOf([]float64{math.NaN()}); s.known() || s.String() != "–" {
		t.Errorf("nothing measured is %v", s)
	}
}

func TestPercentileIsTheNearestRank(t *testing.T) {
	var times []time.Duration
	for i := range 100 {
		times = append(times, time.Duration(100-i)*time.Millisecond)
	}
	for share, want := range map[float64]float64{0.5: 50, 0.9: 90, 0.99: 99, 1: 100} {
		if got := percentile(times, share); got != want {
			t.Errorf("%v: %v, want %v", share, got, want)
		}
	}
}

func TestJainIsOneForEqualsAndTheShareOfOneWhoHasAll(t *testing.T) {
	for _, c := range []struct {
		shares []float64
		want   float64
	}{{[]float64{5, 5, 5, 5}, 1}, {[]float64{1, 0, 0, 0}, 0.25}} {
		if got := jain(c.shares); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%v: %v, want %v", c.shares, got, c.want)
		}
	}
}

func TestStatIsReadWhateverTheProgramIsCalled(t *testing.T) {
	const rest = " S 7 4242 4242 0 -1 4194560 1 2 3 4 150 50 1000 200 20 0 1 0 98765 1 2"
	for _, name := range []string{"sshd", "a b", ") S 1 (", "(", "x) R 1 1 1 1"} {
		s, err := parseStat([]byte("4242 (" + name + ")" + rest + "\n"))
		want := stat{4242, 7, 'S', 2 * time.Second, 12 * time.Second, 98765}
		if err != nil || s != want {
			t.Errorf("%q: %+v, %v, want %+v", name, s, err, want)
		}
	}
	for _, bad := range []string{"", "1", "1 (x", "1 (x)", "1 (x) S 1", "y (x)" + rest} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func TestThisProcessHasTimeAndMemory(t *testing.T) {
	tree, err := processTree(os.Getpid())
	if err != nil || tree[0].pid != os.Getpid() || tree[0].parent != os.Getppid() {
		t.Errorf("%+v, %v", tree, err)
	}
	if _, err := cpuTime(os.Getpid()); err != nil {
		t.Error(err)
	}
	if n, err := pss(os.Getpid()); err != nil || n < 1<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := parsePSS("Rss: 1 kB\n"); err == nil {
		t.Error("no Pss is no error")
	}
}

func TestARatioIsOfFiguresOfOneRound(t *testing.T) {
	sshd, own := contender{name: "sshd", kind: "sshd"}, contender{name: "ours", kind: "ours"}
	r := newResults([]contender{sshd, own})
	one := []row{{metrics: []metric{{"x", "a thing", "s", ratioAtMost(0.6, "0.6"), "0.5"}, {"y", "another", "", goal{}, ""}}}}
	for _, round := range [][2]float64{{1, 0.5}, {100, 70}, {10, 4}} {
		r.add(one[0], sshd, map[string]float64{"x": round[0]})
		r.add(one[0], own, map[string]float64{"x": round[1]})
	}
	if got, want := r.ratio("x", "ours", "sshd"), (spread{0.5, 0.4, 0.7}); got != want {
		t.Errorf("%v, want %v", got, want)
	}
	want := "| what | unit | sshd | Sekisho | Sekisho to sshd | goal | reached |\n" +
		"| --- | --- | --- | --- | --- | --- | --- |\n" +
		"| a thing | s | 10.0 (1.00–100) | 4.00 (0.500–70.0) | 0.500 (0.400–0.700) | ≤ 0.6; stretch 0.5 | yes |\n" +
		"| another |  | – | – | – |  |  |\n"
	if got := r.table(one); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestGoalsAreJudgedByTheMedians(t *testing.T) {
	at := func(x float64) spread { return spread{x, x, x} }
	jain := goal{bound: 0.99, atLeast: true, absolute: true, text: "≥ 0.99"}
	for _, c := range []struct {
		goal       goal
		own, ratio float64
		want       string
	}{
		{ratioAtMost(0.65, "0.65"), 9, 0.65, "yes"},
		{ratioAtMost(0.65, "0.65"), 0, 0.66, "**no**"},
		{ratioAtLeast(15, "15"), 0, 16, "yes"},
		{ratioAtLeast(15, "15"), 99, 14, "**no**"},
		{jain, 0.995, 0.5, "yes"},
		{jain, 0.98, 2, "**no**"},
		{goal{}, 1, 1, ""},
		{ratioAtMost(1, "1"), 1, math.NaN(), ""},
	} {
		if got := verdict(c.goal, at(c.own), at(c.ratio)); got != c.want {
			t.Errorf("%+v of %v and %v: %q, want %q", c.goal, c.own, c.ratio, got, c.want)
		}
	}
}

func TestOnlyWhatStandsBetweenTheMarksIsReplaced(t *testing.T) {
	got, err := between("before\n"+beginMark+"old\n"+endMark+"after\n", "new\n")
	if want := "before\n" + beginMark + "new\n" + endMark + "after\n"; err != nil || got != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	for _, bad := range []string{"", beginMark, endMark + beginMark, beginMark + endMark + beginMark} {
		if _, err := between(bad, "new\n"); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestAChartIsXMLWhateverItsWordsAre(t *testing.T) {
	c := chart{`a <b> & "c"`, "x & y", "<z>", []series{
		{"one & <two>", false, 0, []point{{1, 0.02}, {5000, 7}, {0, 1}, {10, math.NaN()}}},
		{"none", true, 1, nil},
	}}
	d := xml.NewDecoder(strings.NewReader(c.svg()))
	var texts []string
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := token.(xml.CharData); ok {
			texts = append(texts, string(text))
		}
	}
	for _, want := range []string{`a <b> & "c"`, "x & y", "<z>", "one & <two>", "1,000", "0.1"} {
		if !slices.Contains(texts, want) {
			t.Errorf("the chart does not say %q: %q", want, texts)
		}
	}
	if strings.Contains(c.svg(), "NaN") || strings.Contains(c.svg(), "Inf") {
		t.Error("a point without a place is drawn")
	}
}

func TestAxesBeginAndEndAtSteps(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   []float64
	}{
		{[]float64{1.3, 2.4}, []float64{1, 2, 5}},
		{[]float64{1, 5000}, []float64{1, 10, 100, 1000}},
		{[]float64{3}, []float64{2, 5}},
		{[]float64{0.03, 0.3}, []float64{0.02, 0.05, 0.1, 0.2, 0.5}},
	} {
		got := newAxis(c.values).ticks()
		if !slices.EqualFunc(got, c.want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9*b }) {
			t.Errorf("%v: %v, want %v", c.values, got, c.want)
		}
	}
}

func TestNumbersHaveThreeDigits(t *testing.T) {
	for x, want := range map[float64]string{0: "0", 0.0371: "0.0371", 1.234: "1.23", 45.67: "45.7", 1535: "1535", 12: "12.0"} {
		if got := number(x); got != want {
			t.Errorf("%v: %q, want %q", x, got, want)
		}
	}
}

func TestFiguresOfTheBenchmarkOfDecisionsAreFound(t *testing.T) {
	lines := parseDecisions("goos: linux\nBenchmarkDecideBySize/name/grants=10-2   \t 2316040\t       519.8 ns/op\t 0 B/op\nBenchmarkDecideBySize/name/grants=100\t 20\t 728 ns/op\nBenchmarkDecideBySize/no-grant/grants=10-2 5 7 ns/op\nPASS\n")
	if len(lines) != 2 || lines[0].name != "name" || !slices.Equal(lines[0].points, []point{{10, 519.8}, {100, 728}}) || lines[1].colour != 1 {
		t.Errorf("%+v", lines)
	}
}

func TestRowsAreChosenByNameOrByItsFirstPart(t *testing.T) {
	for list, want := range map[string]int{"": len(rows()), "none": 0, "bulk": 1, "login": 2, "login-disk,echo": 2} {
		if got, err := chosenRows(list); err != nil || len(got) != want {
			t.Errorf("%q: %d rows, %v, want %d", list, len(got), err, want)
		}
	}
	if _, err := chosenRows("bulk,nonsense"); err == nil || !strings.Contains(err.Error(), "forwards-tmpfs") {
		t.Errorf("a row that is not there: %v", err)
	}
	keys := map[string]bool{}
	for _, r := range rows() {
		for _, m := range r.metrics {
			if keys[m.key] {
				t.Errorf("two metrics are called %s", m.key)
			}
			keys[m.key] = true
		}
	}
}

func TestTheCommandLineIsRefusedWhereItMakesNoSense(t *testing.T) {
	for _, args := range [][]string{{"-rounds", "0"}, {"bulk"}, {"-doc", "x", "-rows", "bulk"}, {"-doc", "x", "-servers", "ours"}, {"-lasts", "0s"}} {
		if _, err := parseFlags(args); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
	if s, err := parseFlags([]string{"-ours", "a=/x", "-ours", "b=/y"}); err != nil || len(s.ours) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
}
