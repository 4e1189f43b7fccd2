package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func must(t testing.TB, l *Log, recs ...Record) {
	t.Helper()
	for _, r := range recs {
		if err := l.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
}

func types(t testing.TB, dir string) string {
	t.Helper()
	var s []string
	for _, r := range read(t, dir) {
		s = append(s, string(r.Type))
	}
	return strings.Join(s, " ")
}

func TestATornTailIsMended(t *testing.T) {
	rec := opened("f1")
	rec.Seq = 3
	whole := string(rec.AppendJSON(nil))
	for name, tail := range map[string]string{
		"half a line":                         whole[:100],
		"one byte":                            "{",
		"a whole line without its newline":    whole,
		"NULs":                                strings.Repeat("\x00", 5000),
		"NULs with a newline":                 strings.Repeat("\x00", 50) + "\n",
		"more NULs than a line may have":      strings.Repeat("\x00", 3*maxLine),
		"half a line, then NULs":              whole[:100] + strings.Repeat("\x00", 400),
		"several lines that are none":         whole[:50] + "\n" + whole[50:] + "\nabc\n",
		"a line with a number out of range":   strings.Replace(whole, `"port":3306`, `"port":70000`, 2) + "\n",
		"a line with a seq out of range":      strings.Replace(whole, `"seq":3`, `"seq":99999999999999999999`, 1) + "\n",
		"an empty line":                       "\n",
		"what looks like the start of a line": `{"v":1,{"v":1,"seq":`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			mustNote(t, open(t, dir, Options{}), "a", "b")
			dir = crash(t, dir)
			before := folder(t, dir)[pieceName(0, 0)]
			tear(t, dir, pieceName(0, 0), tail)

			l := open(t, dir, Options{})
			saved := pieceName(0, 0) + ".torn-" + l.Run()
			same(t, l.Recovered(), Recovery{
				Cut:     int64(len(tail)),
				Segment: filepath.Join(dir, pieceName(0, 0)),
				Saved:   filepath.Join(dir, saved),
			})
			mustNote(t, l, "c")
			same(t, types(t, dir), "server.start policy.load policy.load server.start log.mend policy.load")
			got := folder(t, dir)
			if got[pieceName(0, 0)] != before || got[saved] != tail {
				t.Errorf("the segment or the saved tail is not what it was")
			}
			mend := read(t, dir)[4]
			for _, want := range []string{pieceName(0, 0), fmt.Sprintf("%d bytes", len(tail)), saved} {
				if !strings.Contains(mend.Detail, want) {
					t.Errorf("%q does not say %q", mend.Detail, want)
				}
			}
			if info, err := os.Stat(filepath.Join(dir, saved)); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v, %v", info, err)
			}

			l.Close()
			l = open(t, dir, Options{})
			same(t, l.Recovered(), Recovery{})
		})
	}
}

func TestAnEmptySegmentIsRemoved(t *testing.T) {
	dir := t.TempDir()
	tear(t, dir, pieceName(0, 0), "")
	l := open(t, dir, Options{})
	mustNote(t, l, "a")
	l.Close()
	tear(t, dir, pieceName(2, 0), "")
	tear(t, dir, pieceName(2, 1), "")
	l = open(t, dir, Options{})
	same(t, l.Recovered(), Recovery{})
	same(t, segments(t, dir), []string{pieceName(0, 0), pieceName(2, 0)})
	same(t, types(t, dir), "server.start policy.load server.start")
}

func TestTamperingIsRefused(t *testing.T) {
	edit := func(name, old, new string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			b, err := os.ReadFile(path)
			if err != nil || !strings.Contains(string(b), old) {
				t.Fatalf("%v, %s", err, b)
			}
			os.WriteFile(path, []byte(strings.Replace(string(b), old, new, 1)), 0o600)
		}
	}
	drop := func(name string, line int, instead string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			b, _ := os.ReadFile(path)
			lines := strings.SplitAfter(string(b), "\n")
			lines[line-1] = instead
			os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600)
		}
	}
	first, last := pieceName(0, 0), pieceName(4, 0)
	for _, tt := range []struct {
		name string
		do   func(t *testing.T, dir string)
		want string
	}{
		{"a line that is none before a record", edit(last, `"detail":"d"`, `"detail":d`), last + ":2:"},
		{"NULs over a record and its newline", drop(last, 2, strings.Repeat("\x00", 100)), last + ":2:"},
		{"a record that was taken out", drop(last, 2, ""), last + ":2: record 6 stands where record 5 should"},
		{"a last record with another number", edit(last, `"seq":7`, `"seq":8`), last + ":4: record 8"},
		{"the last record written twice", edit(last, `"seq":7`, `"seq":6`), last + ":4: record 6"},
		{"a first record taken out", drop(last, 1, ""), last + ":1: record 5"},
		{"a record of another run", edit(last, `"run":"`, `"run":"X`), last + ":2: a record of run"},
		{"an earlier segment that is cut off", drop(first, 4, ""), first + ": records 3 to 3 are missing"},
		{"an earlier segment with a torn line", drop(first, 4, "{"), first + ":4:"},
		{"an earlier segment with a bad line", drop(first, 2, "x\n"), first + ":2:"},
		{"an earlier segment that is empty", func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, first), 0) }, first + ": records 0 to 3"},
		{"an earlier segment that is gone", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, first)) }, last + ": records 0 to 3 are missing before it"},
		{"a segment with a later name and nothing in it", func(t *testing.T, dir string) { tear(t, dir, pieceName(9, 0), "") }, last + ": records 8 to 8 are missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, dir, Options{SegmentSize: 650})
			mustNote(t, l, "a", "b", "c", "c4", "d", "e", "f")
			l.Close()
			same(t, segments(t, dir), []string{first, last})
			tt.do(t, dir)
			before := folder(t, dir)

			if err := Read(dir, func(Record) error { return nil }); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Read says %v, not %q", err, tt.want)
			}
			if strings.HasSuffix(tt.want, "before it") {
				return // Open does not read what is settled
			}
			_, err := Open(dir, Options{})
			if err == nil {
				t.Fatal("Open mends it")
			}
			for _, want := range []string{tt.want, "no crash does this", "move " + dir + " away and keep it as evidence"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not say %q", err, want)
				}
			}
			same(t, folder(t, dir), before)
		})
	}
}

func TestForwardsOfADeadRunAreLost(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	certified := opened("f1")
	certified.Cert = Certificate{"corp", "bob@corp", 17}
	must(t, l,
		certified, opened("f2"), opened("f3"), opened("f4"), opened("f5"),
		Record{Type: ForwardRetry, Forward: "f2", Address: netip.MustParseAddrPort("10.0.11.148:3306")},
		Record{Type: ForwardProgress, Forward: "f2", BytesUp: 5, BytesDown: 6},
		Record{Type: ForwardProgress, Forward: "f2", BytesUp: 7, BytesDown: 8, Grant: "night", Policy: "sha256:0123"},
		Record{Type: ForwardClose, Forward: "f3"},
		Record{Type: ForwardFail, Forward: "f4"},
		Record{Type: ForwardDeny, Forward: "f6"},
		Record{Type: ForwardProgress, Forward: "f7", BytesUp: 7},
	)
	dir = crash(t, dir)
	l = open(t, dir, Options{})
	same(t, l.Recovered(), Recovery{Lost: 3})

	all := read(t, dir)
	lost := all[len(all)-3:]
	for i, id := range []string{"f1", "f2", "f5"} {
		want := opened(id)
		want.Seq, want.Time, want.Bastion, want.Run = uint64(len(all)-3+i), lost[i].Time, "b", l.Run()
		want.Type, want.Reason, want.Detail = ForwardLost, "crash", lost[i].Detail
		switch id {
		case "f1":
			want.Cert = certified.Cert
		case "f2":
			want.Address = netip.MustParseAddrPort("10.0.11.148:3306")
			want.BytesUp, want.BytesDown = 7, 8
			want.Grant, want.Policy = "night", "sha256:0123"
		}
		same(t, lost[i], want)
		if lost[i].Detail == "" {
			t.Error("no detail")
		}
	}
	same(t, all[len(all)-4].Type, ServerStart)
}

// lostOnce proves that every forward that was opened has ended exactly once.
func lostOnce(t testing.TB, dir string) {
	t.Helper()
	ends := map[string]int{}
	for _, r := range read(t, dir) {
		if r.Type == ForwardOpen {
			ends[r.Forward] += 0
		}
		if r.Type.Ends() {
			ends[r.Forward]++
		}
	}
	for id, n := range ends {
		if n != 1 {
			t.Errorf("%s has %d ends", id, n)
		}
	}
}

func TestLostExactlyOnceOverManyCrashes(t *testing.T) {
	dir := t.TempDir()
	total := 0
	for run := range 6 {
		l := open(t, dir, Options{SegmentSize: 900})
		if want := min(run, 1) * 2; l.Recovered().Lost != want && run != 4 {
			t.Errorf("run %d: %d lost", run, l.Recovered().Lost)
		}
		if run != 3 { // the fourth writes nothing of its own
			must(t, l, opened(NewID("f")), opened("closed"+l.Run()), Record{Type: ForwardClose, Forward: "closed" + l.Run()}, opened(NewID("f")))
			total += 3
		}
		dir = crash(t, dir)
	}
	open(t, dir, Options{})
	lostOnce(t, dir)
	n := 0
	for _, r := range read(t, dir) {
		if r.Type == ForwardOpen {
			n++
		}
	}
	same(t, n, total)
}

// TestACrashAtAnyByteOfARecovery cuts the batch of a recovery everywhere, and
// then the recovery from that again.
func TestACrashAtAnyByteOfARecovery(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, Options{})
	must(t, l, opened("f1"), opened("f2"), Record{Type: ForwardClose, Forward: "f1"}, opened("f3"))
	dir = crash(t, dir)
	old := pieceName(0, 0)
	tear(t, dir, old, `{"v":1,"seq":`)
	before := folder(t, dir)

	// after returns the names and contents once the crashed folder was opened,
	// and proves that all is well.
	after := func(t *testing.T, files map[string]string) map[string]string {
		t.Helper()
		dir := t.TempDir()
		for name, content := range files {
			tear(t, dir, name, content)
		}
		l, err := Open(dir, Options{Bastion: "b", still: true})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		got := folder(t, dir)
		if got[old] != strings.TrimSuffix(before[old], `{"v":1,"seq":`) {
			t.Fatalf("the old segment has become %q", got[old])
		}
		lostOnce(t, dir)
		mends := map[string]bool{}
		for _, r := range read(t, dir) {
			if r.Type == LogMend {
				name, _, _ := strings.Cut(r.Detail, ":")
				if mends[name] {
					t.Fatalf("%s is mended twice", name)
				}
				mends[name] = true
			}
		}
		if !mends[old] {
			t.Fatalf("nobody tells that %s was mended", old)
		}
		return got
	}
	torn := func(files map[string]string, name, content string, n int) map[string]string {
		files = maps.Clone(files)
		files[name] = content[:n]
		return files
	}

	whole := after(t, before)
	next := pieceName(5, 0)
	for n := 0; n <= len(whole[next]); n++ {
		// Everywhere near the ends of lines, and here and there within them.
		if near := whole[next][max(n-2, 0):min(n+2, len(whole[next]))]; n%29 > 0 && !strings.Contains(near, "\n") {
			continue
		}
		once := torn(before, next, whole[next], n)
		got := after(t, once)
		if n%3 > 0 {
			continue
		}
		// And again: the second recovery is cut.
		for name, content := range got {
			if once[name] == "" && strings.HasSuffix(name, ".jsonl") {
				for m := 0; m < len(content); m += 151 {
					after(t, torn(once, name, content, m))
				}
			}
		}
	}
}

func TestRecoveryReadsOnlyWhatIsNotSettled(t *testing.T) {
	dir := t.TempDir()
	for range 3 {
		l := open(t, dir, Options{})
		mustNote(t, l, "a")
		must(t, l, opened(NewID("f")))
		dir = crash(t, dir)
	}
	// The oldest is settled, so that only its leaves matter.
	l := open(t, dir, Options{})
	same(t, l.Recovered().Lost, 1)

	// Runs that wrote nothing of their own prove nothing about older ones.
	dir = crash(t, dir)
	same(t, open(t, dir, Options{}).Recovered().Lost, 0)
	names := segments(t, dir)
	same(t, len(names), 5)
	start, err := settled(must2(list(dir)))
	same(t, err, nil)
	same(t, start, 2)
}

func must2[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestReadOfALogThatIsWritten(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{SegmentSize: 5000})
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				mustNote(t, l, "a")
			}
		}
	})
	for range 50 {
		read(t, dir)
	}
	close(done)
	wg.Wait()
}

func TestReadStopsWhenToldTo(t *testing.T) {
	dir := t.TempDir()
	mustNote(t, open(t, dir, Options{}), "a", "b")
	n := 0
	err := Read(dir, func(Record) error { n++; return errNoMore })
	if err != errNoMore || n != 1 {
		t.Errorf("%d records, %v", n, err)
	}
}

// TestMain is also the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("AUDIT_TEST_WRITER"); dir != "" {
		writeUntilKilled(dir)
	}
	os.Exit(m.Run())
}

// writeUntilKilled prints the id of each forward whose open is acknowledged.
func writeUntilKilled(dir string) {
	l, err := Open(dir, Options{Bastion: "b", SegmentSize: 20000})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	for range 16 {
		go func() {
			for {
				id := NewID("f")
				if err := l.Append(context.Background(), opened(id)); err != nil {
					fmt.Println("error:", err)
					os.Exit(1)
				}
				os.Stdout.WriteString(id + "\n")
			}
		}()
	}
	select {}
}

func child(t testing.TB, dir string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "AUDIT_TEST_WRITER="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd, bufio.NewReader(out)
}

func TestKill(t *testing.T) {
	dir := t.TempDir()
	var said []string
	for round := range 5 {
		cmd, out := child(t, dir)
		before := len(said)
		for {
			s, err := out.ReadString('\n')
			if err != nil {
				break
			}
			if len(said) == before {
				time.AfterFunc(time.Duration(50+round*37)*time.Millisecond, func() { cmd.Process.Kill() })
			}
			if s = strings.TrimSpace(s); !strings.HasPrefix(s, "f") {
				t.Fatal(s)
			}
			said = append(said, s)
		}
		cmd.Wait()
		if len(said) == before {
			t.Errorf("round %d: nothing was written", round)
		}
	}
	l := open(t, dir, Options{})
	l.Close()
	var got []string
	for _, r := range read(t, dir) {
		if r.Type == ForwardOpen {
			got = append(got, r.Forward)
		}
	}
	slices.Sort(got)
	for _, id := range said {
		if _, ok := slices.BinarySearch(got, id); !ok {
			t.Errorf("%s was acknowledged and is not in the log", id)
		}
	}
	lostOnce(t, dir)
	t.Logf("%d acknowledged, %d in the log", len(said), len(got))
}

// A disk that is full of a log whose oldest segments could go keeps it from
// starting, and so from letting them go: the room that is kept is for that, too.
func TestAStartOnAFullDiskTakesTheReserve(t *testing.T) {
	for _, torn := range []string{"", `{"v":1,"se`} {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		mustNote(t, l, "a")
		try(t, l.Close())
		tear(t, dir, pieceName(0, 0), torn)
		d := &testDisk{}
		full := true
		d.failing(func(op, name string) error {
			if op == "remove" && name == reserveFile {
				full = false
			}
			if op == "write" && full {
				return syscall.ENOSPC
			}
			return nil
		})
		before := folder(t, dir)
		opts := Options{Bastion: "b", disk: d, still: true}
		if _, err := Open(dir, opts); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("without a reserve: %v", err)
		}
		same(t, folder(t, dir), before)

		full = true
		try(t, os.WriteFile(filepath.Join(dir, reserveFile), make([]byte, reserveSize), 0o600))
		l, err := Open(dir, opts)
		try(t, err)
		d.failing(nil)
		mustNote(t, l, "b")
		same(t, l.Recovered().Cut, int64(len(torn)))
		try(t, l.Close())
		same(t, notes(t, dir), []string{"a", "b"})
	}
}
