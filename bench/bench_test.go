package main

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"net"
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
	}, []string{"a note & <more>"}}
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
	for _, want := range []string{`a <b> & "c"`, "x & y", "<z>", "one & <two>", "a note & <more>", "1,000", "0.1"} {
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
		{[]float64{1, 5000}, []float64{1, 10, 100, 1000, 5000}},
		{[]float64{0.03, 30}, []float64{0.02, 0.1, 1, 10, 50}},
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

func TestTheLegendHasARowForDashedLinesAndOneMoreWhereItIsWide(t *testing.T) {
	var c chart
	for _, name := range []string{"sshd, p50", "stock handler, p50", "Sekisho, p50", "sshd, p99", "stock handler, p99", "Sekisho, p99"} {
		c.series = append(c.series, series{name: name, dashed: strings.HasSuffix(name, "p99")})
	}
	entries, top := c.legend()
	for i, e := range entries {
		if e.x < left || e.x > left+width-34 || e.y > float64(top-10) {
			t.Errorf("entry %d is at %v, the axes begin at %d", i, e, top)
		}
		if (e.y > entries[0].y) != (i >= 3) {
			t.Errorf("entry %d is in the wrong row: %v", i, entries)
		}
	}
	c.series = slices.Repeat([]series{{name: "a line with a long name"}}, 8)
	if entries, _ := c.legend(); entries[7].x > left+width-200 || entries[7].y == entries[0].y {
		t.Errorf("many entries are at %v", entries)
	}
}

func TestALineEndsWhereAPointCannotBeTaken(t *testing.T) {
	stall := func(ctx context.Context, n int) (sample, error) {
		if n == 100 {
			<-ctx.Done()
			return sample{}, ctx.Err()
		}
		return sample{cost: float64(n)}, nil
	}
	fail := func(_ context.Context, n int) (sample, error) {
		if n == 100 {
			return sample{}, errors.New("full")
		}
		return sample{cost: float64(n)}, nil
	}
	for _, c := range []struct {
		name    string
		most    int
		limit   time.Duration
		measure func(context.Context, int) (sample, error)
		end     string
	}{
		{"no more are asked of the server", 50, time.Minute, fail, "no more than 50 were asked of it"},
		{"a point stalls", 5000, 30 * time.Millisecond, stall, "100 took more than 30ms"},
		{"a point fails", 5000, time.Minute, fail, "100 could not be measured"},
	} {
		l := takePoints(t.Context(), []int{1, 10, 100, 1000}, c.most, c.limit, c.measure)
		if len(l.samples) != 2 || l.samples[10].cost != 10 || l.end != c.end {
			t.Errorf("%s: %+v", c.name, l)
		}
	}
	if l := takePoints(t.Context(), []int{1, 10}, 10, time.Minute, fail); len(l.samples) != 2 || l.end != "" {
		t.Errorf("a line that has all points: %+v", l)
	}
}

func TestAPointIsTheMedianOfTheRoundsThatHaveIt(t *testing.T) {
	got := medians([]line{
		{samples: map[int]sample{10: {cost: 1}, 1: {cost: 5}}},
		{samples: map[int]sample{1: {cost: 7}}},
		{samples: map[int]sample{}},
	}, func(s sample) float64 { return s.cost })
	if want := []point{{1, 6}, {10, 1}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestNoMoreThanTheLimitIsOnTheWay(t *testing.T) {
	target, err := newTarget()
	if err != nil {
		t.Fatal(err)
	}
	defer target.close()
	const limit = 2 * piece
	dial := func(what byte) (net.Conn, *flow) {
		conn, err := net.Dial("tcp", target.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		request, f := target.limited(what, limit)
		if _, err := conn.Write(request); err != nil {
			t.Fatal(err)
		}
		return conn, f
	}

	conn, f := dial(sends)
	buf := make([]byte, limit)
	for range 20 {
		if _, err := io.ReadFull(conn, buf); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(2 * time.Millisecond))
		if n, err := conn.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("down: %d bytes more than the limit, %v", n, err)
		}
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		f.arrive(limit - 1)
		f.arrive(1)
	}
	f.end()
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("down: the flow does not end: %v", err)
	}

	conn, f = dial(takes)
	for i := range 20 {
		if err := f.mayStart(); err != nil {
			t.Fatal(err)
		}
		if sent, taken := int64(i)*piece, target.taken.Load(); sent-taken > limit-piece {
			t.Errorf("up: %d bytes are sent and %d taken, and one more piece may start", sent, taken)
		}
		if _, err := conn.Write(buf[:piece]); err != nil {
			t.Fatal(err)
		}
	}
	f.end()
	f.end()
	if f.mayStart() == nil {
		t.Error("up: the flow does not end")
	}
}

func TestForwardsTakeNoMoreThanAShareOfTheKernelsMemory(t *testing.T) {
	for text, want := range map[string]int64{"287898\t383865\t575796\n": 383865, "": 0, "x": 0} {
		if got := parseTCPMemory(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
	for _, n := range []int{1, 100, 2000} {
		if each := onTheWay(n); each < 1 || each > 2<<20 || each*int64(n) > 128<<20 {
			t.Errorf("%d forwards have %d bytes each", n, each)
		}
	}
}

func TestPoliciesOfAnySizeAnswerTheQuestions(t *testing.T) {
	for _, grants := range []int{policySizes[0], 1000} {
		p, err := newSizedPolicy(grants)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range questions {
			if ns, err := p.time(q, time.Microsecond); err != nil || ns <= 0 {
				t.Errorf("%s, %d grants: %v ns, %v", q.name, grants, ns, err)
			}
		}
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
	for _, args := range [][]string{{"-rounds", "0"}, {"bulk"}, {"-curves", "forwards"}, {"-plots", "x", "-curves", "forwards,nonsense"}, {"-doc", "x", "-rows", "bulk"}, {"-doc", "x", "-servers", "ours"}, {"-lasts", "0s"}} {
		if _, err := parseFlags(args); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
	if s, err := parseFlags([]string{"-ours", "a=/x", "-ours", "b=/y"}); err != nil || len(s.ours) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
}
