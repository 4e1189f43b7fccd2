package query

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sekisho/audit"
	"sekisho/audit/audittest"
)

var at = time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC)

// all parses every line there is.
func all(t testing.TB, dir string) (records []audit.Record) {
	t.Helper()
	if err := audit.Read(dir, func(r audit.Record) error { records = append(records, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return records
}

// naive is what a search has to find.
func naive(t testing.TB, records []audit.Record, q Query, last int) []string {
	t.Helper()
	p, err := q.compile()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, r := range records {
		if p.fits(&r) {
			found = append(found, string(r.AppendJSON(nil)))
		}
	}
	if last > 0 && len(found) > last {
		found = found[len(found)-last:]
	}
	return found
}

func find(t testing.TB, dir string, q Query, opts Options) ([]string, error) {
	t.Helper()
	var found []string
	err := Search(t.Context(), dir, q, opts, func(line []byte, rec audit.Record) error {
		if got := string(rec.AppendJSON(nil)); got != string(line) {
			t.Fatalf("the record\n%s\nis not that of its line\n%s", got, line)
		}
		found = append(found, string(line))
		return nil
	})
	return found, err
}

func sameLines(t testing.TB, q Query, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	for i := range max(len(got), len(want)) {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("%+v: %d lines were found and not %d; line %d is\n%s\nand not\n%s", q, len(got), len(want), i, g, w)
		}
	}
}

// A small world makes queries hit.
var (
	someUsers  = []string{"bob", "alice", "", "bob ", `b"ob`, "日本", "x\x1b[2J\u202ey", `","user":"bob"`}
	someHosts  = []string{"rds", "RDS", "rds.", "web-1.corp.example", "web-22.corp.example", "2001:db8::1", `h"x`, "", `,"bytes_up":99}`}
	someIPs    = []string{"10.0.0.1", "10.0.0.11", "10.0.1.1", "203.0.113.9", "2001:db8::1"}
	someTypes  = []audit.Type{audit.ForwardOpen, audit.ForwardClose, audit.ForwardDeny, audit.AuthOK, audit.AuthFail, "forward", "forwarded.x", audit.ServerStop}
	someReason = []string{"", "closed", "no_grant", "metadata"}
)

func pick[T any](rnd *rand.Rand, all []T) T { return all[rnd.IntN(len(all))] }

func randomRecord(rnd *rand.Rand) audit.Record {
	addr := func() netip.AddrPort {
		if rnd.IntN(3) == 0 {
			return netip.AddrPort{}
		}
		return netip.AddrPortFrom(netip.MustParseAddr(pick(rnd, someIPs)), uint16(rnd.IntN(3)))
	}
	r := audit.Record{
		Type: pick(rnd, someTypes), Conn: fmt.Sprintf("c%d", rnd.IntN(5)), Forward: fmt.Sprintf("f%d", rnd.IntN(20)),
		User: pick(rnd, someUsers), Login: pick(rnd, someUsers), Key: pick(rnd, []string{"", "SHA256:a", "SHA256:b"}),
		Source: addr(), Address: addr(), Target: audit.Endpoint{Host: pick(rnd, someHosts), Port: uint32(rnd.IntN(3))},
		Grant: pick(rnd, someReason), Reason: pick(rnd, someReason), Detail: pick(rnd, someUsers), Request: pick(rnd, someHosts),
		BytesUp: uint64(rnd.IntN(2)) * rnd.Uint64N(2000), BytesDown: uint64(rnd.IntN(2)) * rnd.Uint64N(2000),
		Duration: time.Duration(rnd.IntN(2)*rnd.IntN(2000)) * time.Millisecond,
	}
	if rnd.IntN(4) == 0 {
		r.Offered = []string{"SHA256:a", pick(rnd, []string{"SHA256:b", "SHA256:c"})}
		r.Dropped = []audit.Dropped{{Addr: netip.MustParseAddr(pick(rnd, someIPs)), Reason: pick(rnd, someReason)}}
	}
	if rnd.IntN(300) == 0 {
		r.Detail = strings.Repeat("\x01", 1000)
		for range 30 {
			r.Offered = append(r.Offered, strings.Repeat("\x02", 1000))
		}
	}
	return r
}

func randomQuery(rnd *rand.Rand) Query {
	var q Query
	some := func(to *[]string, from ...string) {
		if rnd.IntN(7) > 0 {
			return
		}
		n := 1 + rnd.IntN(2)
		if rnd.IntN(4) == 0 {
			n = 6
		}
		for range n {
			if s := pick(rnd, from); s != "" {
				*to = append(*to, s)
			}
		}
	}
	some(&q.Users, someUsers...)
	some(&q.Logins, someUsers...)
	some(&q.Keys, "SHA256:a", "b", "SHA256:c", "a=")
	some(&q.Targets, "rds", "rds:1", "RDS", "web-*.corp.example", "*:2", "web-*2.*.example:0", "2001:db8::1", "[2001:db8::1]:1", "*", `h"x`)
	some(&q.Addresses, "10.0.0.1", "10.0.0.1:1", "10.0.0.0/24", "::ffff:10.0.0.11", "2001:db8::/32", "[2001:db8::1]:2")
	some(&q.Sources, "10.0.0.1", "203.0.113.0/24", "0.0.0.0/0", "2001:db8::1")
	some(&q.Types, "forward.", "forward", "forward.open", "auth.ok", "auth", "server.stop", "nothing.like", "a.b")
	some(&q.Reasons, someReason...)
	some(&q.Grants, someReason...)
	some(&q.Conns, "c0", "c1", "c9")
	some(&q.Forwards, "f0", "f1", "f99")
	some(&q.Requests, "rds", "corp", `"`, "up")
	some(&q.Texts, "bo", "10.0.0", "SHA256:c", "\u202e", `"`, "metadata", "forward")
	if rnd.IntN(8) == 0 {
		q.Bytes = rnd.Uint64N(3000)
	}
	if rnd.IntN(8) == 0 {
		q.Duration = time.Duration(rnd.IntN(2000)) * time.Millisecond
	}
	if rnd.IntN(4) == 0 {
		q.From = at.Add(time.Duration(rnd.IntN(4000)) * 500 * time.Microsecond)
	}
	if rnd.IntN(4) == 0 {
		q.To = at.Add(time.Duration(rnd.IntN(4000))*500*time.Microsecond + time.Duration(rnd.IntN(2)))
	}
	return q
}

// randomLog writes segments, some of them packed, some with ends that are void,
// the newest with a line that is not finished.
func randomLog(t testing.TB, rnd *rand.Rand, dir string) {
	t.Helper()
	when, seq := at, uint64(0)
	segments := 1 + rnd.IntN(5)
	for i := range segments {
		first, run := seq, fmt.Sprintf("run%d", i)
		var text bytes.Buffer
		add := func(seq uint64) {
			r := randomRecord(rnd)
			r.V, r.Seq, r.Time, r.Bastion, r.Run = audit.Version, seq, when, "b", run
			text.Write(r.AppendJSON(nil))
			text.WriteByte('\n')
		}
		for range 1 + rnd.IntN(400) {
			if rnd.IntN(3) > 0 {
				when = when.Add(time.Duration(rnd.IntN(3000)) * time.Microsecond)
			}
			add(seq)
			seq++
		}
		path := filepath.Join(dir, audittest.Name(first))
		last := i == segments-1
		void := rnd.IntN(2) == 0
		switch {
		case last && void:
			r := randomRecord(rnd)
			r.V, r.Seq, r.Time = audit.Version, seq, when
			line := r.AppendJSON(nil)
			text.Write(line[:rnd.IntN(len(line))])
		case void:
			for n := range rnd.IntN(4) {
				add(seq + uint64(n))
			}
			if rnd.IntN(2) == 0 {
				text.WriteString(`{"v":1,"seq":7,"user":"bob","forward":"f1","conn":"c1` + strings.Repeat("\x00", rnd.IntN(100)) + "\n{}\n"[:rnd.IntN(5)])
			}
		}
		if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if !void && (!last || rnd.IntN(4) == 0) && rnd.IntN(2) == 0 {
			pack(t, path)
		}
	}
}

// A trueIndex knows of a segment what a good index knows.
type trueIndex struct {
	from, to time.Time
	values   map[string]bool
}

func (x trueIndex) Span() (from, to time.Time)   { return x.from, x.to }
func (x trueIndex) May(field, value string) bool { return x.values[field+"="+value] }

func indexOf(t testing.TB, s audit.Segment) Index {
	f, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(f); err != nil {
		t.Fatal(err)
	}
	x := trueIndex{values: map[string]bool{}}
	for line := range bytes.Lines(text.Bytes()) {
		r, err := audit.ParseRecord(bytes.TrimSuffix(line, newline))
		if err != nil || r.Seq >= s.Limit() {
			break
		}
		if x.from.IsZero() {
			x.from = r.Time
		}
		x.to = r.Time
		for field, value := range map[string]string{
			"user": r.User, "login": r.Login, "key": r.Key, "conn": r.Conn, "forward": r.Forward, "type": string(r.Type),
			"grant": r.Grant, "reason": r.Reason, "target.host": strings.TrimSuffix(strings.ToLower(r.Target.Host), "."),
			"address.ip": r.Address.Addr().String(), "source.ip": r.Source.Addr().String(),
		} {
			x.values[field+"="+value] = true
		}
		for _, k := range r.Offered {
			x.values["offered="+k] = true
		}
	}
	return x
}

func TestASearchFindsWhatFits(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	hits := 0
	for range 15 {
		dir := t.TempDir()
		randomLog(t, rnd, dir)
		records := all(t, dir)
		indexes := map[string]Index{}
		for range 40 {
			q := randomQuery(rnd)
			var opts Options
			if rnd.IntN(3) == 0 {
				opts.Last = 1 + rnd.IntN(50)
			}
			if rnd.IntN(3) == 0 {
				opts.Index = func(s audit.Segment) Index {
					if s.Limit() == noLimit {
						return nil
					}
					if indexes[s.Path()] == nil {
						indexes[s.Path()] = indexOf(t, s)
					}
					return indexes[s.Path()]
				}
			}
			opts.Damage = func(err error) { t.Errorf("%+v: %v", q, err) }
			got, err := find(t, dir, q, opts)
			if err != nil {
				t.Fatalf("%+v: %v", q, err)
			}
			sameLines(t, q, got, naive(t, records, q, opts.Last))
			hits += len(got)
		}
	}
	if hits < 3_000 {
		t.Errorf("only %d records were found: the queries do not test much", hits)
	}
}

func TestASearchOfALargeLog(t *testing.T) {
	dir := t.TempDir()
	if err := audittest.Write(dir, audittest.SegmentSize*5/4, 3); err != nil {
		t.Fatal(err)
	}
	records := all(t, dir)
	queries := []Query{
		{Users: []string{"u7"}}, {Targets: []string{"web-*.corp.example:443"}, Bytes: 1 << 30}, {Types: []string{"auth"}},
		{From: audittest.Begin.Add(time.Hour), To: audittest.Begin.Add(2 * time.Hour)}, {Texts: []string{"\u202e"}},
	}
	for _, form := range []string{"plain", "packed"} {
		if form == "packed" {
			packAll(t, dir)
		}
		for _, q := range queries {
			every := naive(t, records, q, 0)
			for _, last := range []int{0, 1000} {
				got, err := find(t, dir, q, Options{Last: last})
				if err != nil {
					t.Fatal(err)
				}
				if len(got) == 0 {
					t.Errorf("%+v finds nothing", q)
				}
				want := every
				if last > 0 {
					want = every[max(0, len(every)-last):]
				}
				sameLines(t, q, got, want)
			}
		}
	}
}

// text writes a log of one record a line and returns its lines.
func text(t testing.TB, dir string, first uint64, n int, change func(*audit.Record)) (path string, lines []string) {
	t.Helper()
	var b strings.Builder
	for i := range n {
		r := audit.Record{V: audit.Version, Seq: first + uint64(i), Time: at.Add(time.Duration(first+uint64(i)) * time.Second), Bastion: "b", Run: "r", Type: audit.AuthOK, User: "bob"}
		if change != nil {
			change(&r)
		}
		lines = append(lines, string(r.AppendJSON(nil)))
		b.WriteString(lines[i] + "\n")
	}
	path = filepath.Join(dir, audittest.Name(first))
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, lines
}

func TestDamageIsTold(t *testing.T) {
	const noEnd = "<no newline>"
	bob := Query{Users: []string{"bob"}}
	tests := []struct {
		name   string
		harm   func(lines []string) []string // of the first of two segments, of five records each
		packed bool
		want   string
		found  int
	}{
		{"a line that is no record", func(l []string) []string { l[2] = strings.Replace(l[2], `"v":1`, `"v":2`, 1); return l }, false, ":3: version 2 of the record is not known", 9},
		{"a line that is cut", func(l []string) []string { l[2] = l[2][:len(l[2])-1]; return l }, false, ":3: byte ", 9},
		{"a record that is missing", func(l []string) []string { return slices.Delete(l, 2, 3) }, false, ":3: record 3 stands where record 2 should", 9},
		{"a record that comes twice", func(l []string) []string { return slices.Insert(l, 2, l[1]) }, false, ":3: record 1 stands where record 2 should", 11},
		{"the last records are missing", func(l []string) []string { return l[:3] }, false, ": records 3 to 4 are missing after it", 8},
		{"the last records are missing in a packed one", func(l []string) []string { return l[:3] }, true, ": records 3 to 4 are missing after it", 8},
		{"the last line does not end", func(l []string) []string { l[4] = l[4][:len(l[4])-2] + noEnd; return l }, false, ":5: the line does not end", 9},
		{"a line that is too long", func(l []string) []string {
			l[1] = l[1] + strings.Repeat(" ", 3<<20)
			return l
		}, false, "longer than any record", 9},
		{"a line that is too long in a packed one", func(l []string) []string {
			l[1] = l[1] + strings.Repeat(" ", 3<<20)
			return l
		}, true, ":2: the line is longer than any record", 9},
		{"a line that is longer by little", func(l []string) []string {
			l[1] = l[1] + strings.Repeat(" ", 1<<20)
			return l
		}, true, ":2: ", 9},
		{"all of it is gone", func(l []string) []string { return nil }, false, "", 5},
	}
	for _, tt := range tests {
		for _, last := range []int{0, 100} {
			t.Run(fmt.Sprintf("%s, last %d", tt.name, last), func(t *testing.T) {
				dir := t.TempDir()
				path, lines := text(t, dir, 0, 5, nil)
				text(t, dir, 5, 5, nil)
				harmed := strings.Join(append(tt.harm(lines), ""), "\n")
				if err := os.WriteFile(path, []byte(strings.TrimSuffix(harmed, noEnd+"\n")), 0o600); err != nil {
					t.Fatal(err)
				}
				if tt.packed {
					pack(t, path)
				}
				var told []string
				got, err := find(t, dir, bob, Options{Last: last, Damage: func(err error) { told = append(told, err.Error()) }})
				if !errors.Is(err, ErrDamaged) || len(told) == 0 || !strings.Contains(told[0], path) {
					t.Fatalf("%v; told %q", err, told)
				}
				if last == 0 && !strings.Contains(strings.Join(told, "\n"), tt.want) {
					t.Errorf("told %q", told)
				}
				if len(got) != tt.found {
					t.Errorf("%d records were found and not %d", len(got), tt.found)
				}
			})
		}
	}
}

func TestAPackedSegmentThatDoesNotUnpackIsDamage(t *testing.T) {
	dir := t.TempDir()
	path, _ := text(t, dir, 0, 5000, func(r *audit.Record) { r.Detail = fmt.Sprint(r.Seq * 7919) })
	text(t, dir, 5000, 5, nil)
	pack(t, path)
	b, err := os.ReadFile(path + ".zst")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".zst", b[:len(b)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	var told error
	_, err = find(t, dir, Query{Users: []string{"bob"}}, Options{Damage: func(err error) { told = err }})
	if !errors.Is(err, ErrDamaged) || told == nil || !strings.Contains(told.Error(), "does not unpack") {
		t.Errorf("%v; told %v", err, told)
	}
}

func TestMuchDamageIsToldInShort(t *testing.T) {
	dir := t.TempDir()
	path, lines := text(t, dir, 0, 1000, nil)
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(strings.Join(lines, "\n"), `"v":1`, `"v":7`)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	told := 0
	_, err := find(t, dir, Query{}, Options{Damage: func(error) { told++ }})
	if !errors.Is(err, ErrDamaged) || told != mostDamage {
		t.Errorf("told %d times; %v", told, err)
	}
}

// A log lives while it is searched.
func TestSegmentsChangeMeanwhile(t *testing.T) {
	three := func(t *testing.T) (dir string, paths [3]string) {
		dir = t.TempDir()
		for i := range paths {
			paths[i], _ = text(t, dir, uint64(10*i), 10, nil)
		}
		return dir, paths
	}
	for _, last := range []int{0, 30} {
		t.Run("packed", func(t *testing.T) {
			dir, paths := three(t)
			s, err := newSearch(t.Context(), dir, Query{}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			pack(t, paths[0])
			pack(t, paths[1])
			if n, err := drain(s, last); n != 30 || err != nil {
				t.Errorf("%d records, %v", n, err)
			}
		})
		t.Run("pruned", func(t *testing.T) {
			dir, paths := three(t)
			s, err := newSearch(t.Context(), dir, Query{}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			os.Remove(paths[0])
			if n, err := drain(s, last); n != 20 || err != nil {
				t.Errorf("%d records, %v", n, err)
			}
		})
		t.Run("taken out of the middle", func(t *testing.T) {
			dir, paths := three(t)
			s, err := newSearch(t.Context(), dir, Query{}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			os.Remove(paths[1])
			if n, err := drain(s, last); n != 20 || !errors.Is(err, ErrDamaged) {
				t.Errorf("%d records, %v", n, err)
			}
		})
		t.Run("grown", func(t *testing.T) {
			dir, _ := three(t)
			s, err := newSearch(t.Context(), dir, Query{}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			text(t, dir, 30, 10, nil)
			if n, err := drain(s, last); n != 30 || err != nil {
				t.Errorf("%d records, %v", n, err)
			}
		})
	}
}

func drain(s *search, last int) (n int, err error) {
	count := func([]byte, audit.Record) error { n++; return nil }
	if last > 0 {
		err = s.last(last, count)
	} else {
		err = s.forward(count)
	}
	return n, s.result(err)
}

func TestASearchEndsWhenItIsToldTo(t *testing.T) {
	dir := t.TempDir()
	text(t, dir, 0, 10, nil)
	stop := errors.New("enough")
	n := 0
	err := Search(t.Context(), dir, Query{}, Options{}, func([]byte, audit.Record) error { n++; return stop })
	if !errors.Is(err, stop) || n != 1 {
		t.Errorf("%d records, %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, last := range []int{0, 1} {
		if err := Search(ctx, dir, Query{}, Options{Last: last}, func([]byte, audit.Record) error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
}

func TestQueriesThatCannotBeMeant(t *testing.T) {
	long := strings.Repeat("x", 2000)
	for _, q := range []Query{
		{Users: []string{""}}, {Users: []string{long}}, {Texts: []string{"\xff"}}, {Targets: []string{"rds:x"}}, {Targets: []string{":22"}},
		{Addresses: []string{"rds"}}, {Addresses: []string{"10.0.0.0/33"}}, {Sources: []string{"::ffff:0:0/64"}}, {Types: []string{"Forward"}},
		{Types: []string{""}}, {Types: []string{"a\nb"}}, {Duration: -1}, {Keys: []string{long}},
	} {
		if err := q.Check(); err == nil {
			t.Errorf("%+v is taken", q)
		} else if strings.ContainsAny(err.Error(), "\n\xff") || len(err.Error()) > 250 {
			t.Errorf("the message cannot be printed: %q", err)
		}
	}
}

// FuzzSearch searches segments of any bytes: it tells what is no record, and
// finds lines only that are one.
func FuzzSearch(f *testing.F) {
	line := func(seq uint64) string {
		return string(audit.Record{V: 1, Seq: seq, Time: at, Type: audit.ForwardOpen, User: "bob", Target: audit.Endpoint{Host: "rds", Port: 1}}.AppendJSON(nil)) + "\n"
	}
	f.Add([]byte(line(0)+line(1)), []byte(line(2)+line(3)), 2, 0)
	f.Add([]byte(line(0)+line(1)+"{\"user\":\"bob\"\n"), []byte(line(2)), 2, 3)
	f.Add([]byte("\n\n"), []byte(`"target":{"host":"rds`), 1, 1)
	f.Fuzz(func(t *testing.T, a, b []byte, second, last int) {
		dir := t.TempDir()
		second, last = max(1, second&63), last&7
		for first, text := range map[int][]byte{0: a, second: b} {
			if err := os.WriteFile(filepath.Join(dir, audittest.Name(uint64(first))), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		lines := map[string]bool{}
		for _, text := range [][]byte{a, b} {
			for l := range bytes.Lines(text) {
				lines[string(bytes.TrimSuffix(l, newline))] = true
			}
		}
		good := audit.Read(dir, func(r audit.Record) error {
			if !lines[string(r.AppendJSON(nil))] {
				return errors.New("spelt as no writer does")
			}
			return nil
		}) == nil
		for _, q := range []Query{{}, {Users: []string{"bob"}}, {Targets: []string{"r*:1"}}, {Bytes: 1}, {From: at}, {To: at}} {
			told := 0
			got, err := find2(t, dir, q, Options{Last: last, Damage: func(error) { told++ }})
			if (err != nil) != (told > 0) {
				t.Fatalf("%v, told %d times", err, told)
			}
			for _, l := range got {
				if !lines[l] {
					t.Fatalf("a line that is not there: %q", l)
				}
			}
			if !good {
				continue
			}
			if err != nil && b != nil && len(b) > 0 && bytes.HasSuffix(b, newline) {
				t.Fatalf("%+v: %v", q, err)
			}
			if timesGo(t, dir) {
				sameLines(t, q, got, naive(t, all(t, dir), q, last))
			}
		}
	})
}

func find2(t testing.TB, dir string, q Query, opts Options) (found []string, err error) {
	err = Search(t.Context(), dir, q, opts, func(line []byte, _ audit.Record) error {
		found = append(found, string(line))
		return nil
	})
	return found, err
}

// timesGo reports whether time goes forward in the log, as it does in all that
// a writer makes.
func timesGo(t testing.TB, dir string) bool {
	var last time.Time
	forward := true
	err := audit.Read(dir, func(r audit.Record) error {
		forward = forward && !r.Time.Before(last)
		last = r.Time
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return forward
}
