package query

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"sekisho/audit"
	"sekisho/audit/audittest"
	"sekisho/audit/tree"
)

func auditLine(user, typ, host string, port uint32) []byte {
	return audit.Record{
		V: audit.Version, Time: at, Type: audit.Type(typ), User: user, Target: audit.Endpoint{Host: host, Port: port},
		Address: netip.MustParseAddrPort("10.0.0.1:3306"), Key: "SHA256:" + user, Detail: host,
	}.AppendJSON(nil)
}

func parse(t testing.TB, line []byte) audit.Record {
	t.Helper()
	rec, err := audit.ParseRecord(line)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return rec
}

func TestTextIsHarmless(t *testing.T) {
	for in, want := range map[string]string{
		"":                    "-",
		"bob":                 "bob",
		"-":                   `"-"`,
		"日本":                  "日本",
		"a b":                 `"a b"`,
		`a"b\`:                `"a\"b\\"`,
		"x\x1b[2J\n":          `"x\u001b[2J\u000a"`,
		"\u202ebob\u2066":     `"\u202ebob\u2066"`,
		"\U000e0041":          `"\udb40\udc41"`,
		"rds:3306 → 10.0.0.1": `"rds:3306 → 10.0.0.1"`,
	} {
		if got := word(in); got != want {
			t.Errorf("%q is written as %s", in, got)
		}
	}
	if got := Printable("a \"b\" \\ \x00\u200b"); got != `a "b" \ \u0000\u200b` {
		t.Errorf("%s", got)
	}
}

func TestSizesAndTimesForPeople(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1<<20 - 1: "1.0 MiB", 3 << 30: "3.0 GiB", 1<<64 - 1: "16.0 EiB"} {
		if got := size(n); got != want {
			t.Errorf("%d is %s", n, got)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 12 * time.Millisecond: "12ms", 1234 * time.Millisecond: "1.2s", 90 * time.Second: "1m30s", 50 * time.Hour: "2d2h0m0s"} {
		if got := lasted(d); got != want {
			t.Errorf("%v is %s", d, got)
		}
	}
}

// life is a log in which much happens. Of its records, those from first on are
// written.
func life(t testing.TB, first int) string {
	t.Helper()
	dir := t.TempDir()
	var b bytes.Buffer
	n := 0
	put := func(r audit.Record) {
		r.V, r.Seq, r.Time, r.Bastion, r.Run = audit.Version, uint64(n), at.Add(time.Duration(n)*time.Minute), "b", "r"
		if n >= first {
			b.Write(r.AppendJSON(nil))
			b.WriteByte('\n')
		}
		n++
	}
	bob := audit.Record{
		Conn: "cbob", Entrance: "ssh", User: "bob", Login: "ec2-user", Key: "SHA256:k", Client: "SSH-2.0-x\x1b[2J", Source: netip.MustParseAddrPort("203.0.113.9:51234"),
		Cert: audit.Certificate{Authority: "corp", KeyID: "bob@corp", Serial: 7},
	}
	as := func(t audit.Type, change func(*audit.Record)) {
		r := bob
		r.Type = t
		change(&r)
		put(r)
	}
	put(audit.Record{Type: audit.ServerStart})
	put(audit.Record{Type: audit.AuthFail, Conn: "cbad", Login: "=cmd", Source: netip.MustParseAddrPort("198.51.100.7:1"), Offered: []string{"SHA256:z"}, Reason: "unknown_key", Detail: "the key is nobody's"})
	as(audit.AuthOK, func(r *audit.Record) { r.Detail = "signed with ssh-ed25519" })
	forward := func(id string) func(t audit.Type, change func(*audit.Record)) {
		return func(t audit.Type, change func(*audit.Record)) {
			as(t, func(r *audit.Record) {
				r.Forward, r.Target, r.Address = id, audit.Endpoint{Host: "rds", Port: 3306}, netip.MustParseAddrPort("10.0.11.147:3306")
				r.Grant, r.Policy, r.Originator = "dba-db", "sha256:p", audit.Endpoint{Host: "127.0.0.1", Port: 5}
				change(r)
			})
		}
	}
	one, two, three := forward("fone"), forward("ftwo"), forward("fthree")
	one(audit.ForwardOpen, func(r *audit.Record) {
		r.Dropped = []audit.Dropped{{Addr: netip.MustParseAddr("169.254.169.254"), Reason: "metadata"}}
	})
	one(audit.ForwardRetry, func(r *audit.Record) {
		r.Address, r.Reason, r.Detail = netip.MustParseAddrPort("10.0.11.148:3306"), "connect_refused", "connection refused"
	})
	one(audit.ForwardProgress, func(r *audit.Record) { r.BytesUp, r.BytesDown, r.Duration = 10, 20, time.Minute })
	two(audit.ForwardOpen, func(r *audit.Record) { r.Target.Host = "RDS." })
	two(audit.ForwardProgress, func(r *audit.Record) { r.BytesUp, r.BytesDown, r.Target.Host = 7, 8, "RDS." })
	one(audit.ForwardClose, func(r *audit.Record) {
		r.BytesUp, r.BytesDown, r.Duration, r.Reason, r.Detail = 1024, 3<<20, 2*time.Minute, "closed", "both directions ended in order"
	})
	three(audit.ForwardDeny, func(r *audit.Record) {
		r.Grant, r.Address, r.Reason, r.Detail = "", netip.AddrPort{}, "no_grant", "no grant of the user names the target"
	})
	as(audit.RequestDeny, func(r *audit.Record) {
		r.Request, r.Reason, r.Detail = "shell", "not_served", "no shell"
	})
	if err := os.WriteFile(filepath.Join(dir, audittest.Name(uint64(first))), b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestShow(t *testing.T) {
	tests := []struct {
		name  string
		first int
		id    string
		want  string
	}{
		{"a forward that has ended", 0, "fone", `Forward fone of connection cbob

2026-11-22 01:04:03.000Z  login of bob as ec2-user from 203.0.113.9:51234
    by certificate bob@corp, serial 7, of the authority corp
    with key SHA256:k, signed with ssh-ed25519
    client "SSH-2.0-x\u001b[2J"
2026-11-22 01:05:03.000Z  opened to rds:3306 for bob (ec2-user)
    allowed by grant dba-db of policy sha256:p
    originator, as the client says: 127.0.0.1:5
    not dialled: 169.254.169.254 (metadata)
    dialling 10.0.11.147:3306
2026-11-22 01:06:03.000Z  the next address
    because: connect_refused: connection refused
    dialling 10.0.11.148:3306
2026-11-22 01:07:03.000Z  so far 10 B up, 20 B down in 1m0s
2026-11-22 01:10:03.000Z  closed
    because: closed: both directions ended in order
    1.0 KiB (1024 bytes) up, 3.0 MiB (3145728 bytes) down
    lasted 2m0s, 25.6 KiB/s
`},
		{"a forward that is open, whose login is gone", 6, "ftwo", `Forward ftwo of connection cbob

The login of its connection is not in what is left of the log.
2026-11-22 01:08:03.000Z  opened to RDS.:3306 for bob (ec2-user)
    allowed by grant dba-db of policy sha256:p
    originator, as the client says: 127.0.0.1:5
    dialling 10.0.11.147:3306
2026-11-22 01:09:03.000Z  so far 7 B up, 8 B down

It has no end yet: the forward is still open, unless the server was cut off and has not started since.
`},
		{"a forward whose beginning is gone", 6, "fone", `Forward fone of connection cbob

Its beginning is not in what is left of the log.
2026-11-22 01:10:03.000Z  closed
    because: closed: both directions ended in order
    1.0 KiB (1024 bytes) up, 3.0 MiB (3145728 bytes) down
    lasted 2m0s, 25.6 KiB/s
`},
		{"a forward that was refused", 3, "fthree", `Forward fthree of connection cbob

The login of its connection is not in what is left of the log.
2026-11-22 01:11:03.000Z  refused: bob (ec2-user) to rds:3306 from 203.0.113.9:51234
    because: no_grant: no grant of the user names the target
    by policy sha256:p
`},
		{"a login that failed", 0, "cbad", `Connection cbad

2026-11-22 01:03:03.000Z  login failed: (=cmd) from 198.51.100.7:1
    offered key SHA256:z
    because: unknown_key: the key is nobody's

0 forwards opened
`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := life(t, tt.first)
			s, err := Show(t.Context(), dir, tt.id, Options{})
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			if err := s.WriteText(&b, time.UTC); err != nil {
				t.Fatal(err)
			}
			if b.String() != tt.want {
				t.Errorf("it says\n%s\nand not\n%s", b.String(), tt.want)
			}
			b.Reset()
			if err := s.WriteJSON(&b); err != nil || strings.Count(b.String(), "\n") != len(s.Records) {
				t.Errorf("%v\n%s", err, b.String())
			}
		})
	}
	t.Run("a connection", func(t *testing.T) {
		s, err := Show(t.Context(), life(t, 0), "cbob", Options{})
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		s.WriteText(&b, time.UTC)
		for _, want := range []string{"Z  fone opened to rds:3306", "Z  request refused: shell\n", "\n2 forwards opened, 1 closed, 1 refused, 1 without an end\n", "the connection is still open"} {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%q is not in\n%s", want, b.String())
			}
		}
	})
	t.Run("nothing", func(t *testing.T) {
		if s, err := Show(t.Context(), life(t, 0), "fnone", Options{}); s != nil || !errors.Is(err, ErrNothing) {
			t.Errorf("%v, %v", s, err)
		}
		if _, err := Show(t.Context(), life(t, 0), "", Options{}); err == nil {
			t.Error("no id is taken for one")
		}
	})
}

// Damage elsewhere in the log takes no story away.
func TestShowOfADamagedLog(t *testing.T) {
	dir := life(t, 0)
	path := filepath.Join(dir, audittest.Name(0))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte(`"type":"forward.retry"`), []byte(`"type":"forward.retry",,`), 1)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for id, records := range map[string]int{"fone": 4, "cbob": 8} {
		s, err := Show(t.Context(), dir, id, Options{})
		if s == nil || !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %+v, %v", id, s, err)
		} else if len(s.Records) != records {
			t.Errorf("of %s there are %d records", id, len(s.Records))
		}
	}
	if s, err := Show(t.Context(), dir, "fnone", Options{}); s != nil || err == nil {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestReport(t *testing.T) {
	dir := life(t, 0)
	r, err := NewReport(t.Context(), dir, Query{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := r.WriteText(&b, time.UTC); err != nil {
		t.Fatal(err)
	}
	const want = `Report of the audit log, from its begin to its end
Made of 8 records between 2026-11-22 01:03:03Z and 2026-11-22 01:12:03Z

Refused: 2

  TIMES  WHO  WHAT           REASON      FIRST                 LAST
      1  bob  rds:3306       no_grant    2026-11-22 01:11:03Z  2026-11-22 01:11:03Z
      1  bob  request shell  not_served  2026-11-22 01:12:03Z  2026-11-22 01:12:03Z

Failed logins: 1

  TIMES  SOURCE        LOGINS TRIED  FIRST                 LAST
      1  198.51.100.7  =cmd          2026-11-22 01:03:03Z  2026-11-22 01:03:03Z

Forwards: 2

  WHO  TARGET    FORWARDS       UP     DOWN  FAILED  LOST  OPEN  FIRST                 LAST
  bob  rds:3306         2  1.0 KiB  3.0 MiB       0     0     1  2026-11-22 01:05:03Z  2026-11-22 01:10:03Z
Still open at the end: 1.
`
	if b.String() != want {
		t.Errorf("it says\n%s\nand not\n%s", &b, want)
	}

	b.Reset()
	if err := r.WriteCSV(&b); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil || len(rows) != 5 {
		t.Fatalf("%q, %v", rows, err)
	}
	if rows[3][6] != "'=cmd" {
		t.Errorf("a formula is in %q", rows[3])
	}
	if got := rows[4]; !slices.Equal(got, []string{"reached", "bob", "rds:3306", "", "", "", "", "2", "2026-11-22T01:05:03Z", "2026-11-22T01:10:03Z", "1031", "3145736", "0", "1", "0", "0", "1", ""}) {
		t.Errorf("%q", got)
	}

	b.Reset()
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var back Report
	d := json.NewDecoder(&b)
	d.DisallowUnknownFields()
	if err := d.Decode(&back); err != nil || back.Reached[0].BytesUp != 1031 || back.FailedLogins[0].Logins[0] != "=cmd" {
		t.Errorf("%v: %+v", err, back)
	}

	t.Run("of a part, in which a forward ends that began before", func(t *testing.T) {
		r, err := NewReport(t.Context(), dir, Query{From: at.Add(6 * time.Minute)}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		x := *r.Reached[0]
		if len(r.Reached) != 1 || x.Forwards != 1 || x.Earlier != 1 || x.Closed != 1 || x.Open != 1 {
			t.Errorf("%+v", x)
		}
	})
	t.Run("of nothing", func(t *testing.T) {
		r, err := NewReport(t.Context(), dir, Query{Users: []string{"carol"}}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if r.WriteText(&b, time.UTC); !strings.Contains(b.String(), "There is nothing in that time.") {
			t.Errorf("%s", &b)
		}
		b.Reset()
		if r.WriteJSON(&b); strings.Contains(b.String(), "null") {
			t.Errorf("%s", &b)
		}
	})
	t.Run("of a log whose beginning is gone says so", func(t *testing.T) {
		dir := life(t, 3)
		for _, retention := range []string{"retention says nothing of it", "retention took what was before"} {
			r, err := NewReport(t.Context(), dir, Query{}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			want := "the log begins with record 3 of 2026-11-22 01:05:03Z: "
			for format, text := range written(t, r) {
				if format != "JSON" && (!strings.Contains(text, want) || !strings.Contains(text, retention)) ||
					format == "JSON" && !strings.Contains(text, `"record": 3,`) {
					t.Errorf("the %s does not: %s", format, text)
				}
			}
			writePruned(t, dir, 3)
		}
		if r, err := NewReport(t.Context(), dir, Query{From: at.Add(3 * time.Minute)}, Options{}); err != nil || r.Begins != nil {
			t.Errorf("of a time that is all there it says %+v, %v", r.Begins, err)
		}
	})
	t.Run("of a damaged log says so in itself", func(t *testing.T) {
		dir := life(t, 0)
		path := filepath.Join(dir, audittest.Name(0))
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.Replace(text, []byte(`"type":"forward.open"`), []byte(`"type":"forward.open",,`), 1)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := NewReport(t.Context(), dir, Query{}, Options{})
		if r == nil || !errors.Is(err, ErrDamaged) || r.Complete || len(r.Damage) == 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		got := written(t, r)
		for format, want := range map[string]string{
			"JSON": `"complete": false`, "text": "\nNOT COMPLETE: the log is damaged, or not all of it could be read.\n- " + path + ":4: ",
			"CSV": "open,detail\ndamage,,,,,,,,,,,,,,,,,\"" + path + ":4: ",
		} {
			if !strings.Contains(got[format], want) {
				t.Errorf("%q is not in the %s:\n%s", want, format, got[format])
			}
		}
		if whole, _ := NewReport(t.Context(), life(t, 0), Query{}, Options{}); !strings.Contains(written(t, whole)["JSON"], `"complete": true`) {
			t.Error("one that is whole is not complete")
		}
	})
	t.Run("tells a host from a request", func(t *testing.T) {
		s := newSumming(Query{})
		s.see(&audit.Record{Time: at, Type: audit.ForwardDeny, User: "bob", Target: audit.Endpoint{Host: "request exec LS", Port: 22}})
		s.see(&audit.Record{Time: at, Type: audit.RequestDeny, User: "bob", Request: "exec ls"})
		r := s.finish()
		if d := r.Denials; len(d) != 2 || d[0].Target != "request exec LS:22" || d[0].Request != "" || d[1].Request != "exec ls" || d[1].Target != "" {
			t.Errorf("%+v, %+v", d[0], d[1])
		}
		for format, want := range map[string][]string{
			"text": {`bob  "request exec LS:22" `, `bob  request "exec ls" `},
			"CSV":  {"denied,bob,request exec LS:22,,", "denied,bob,,exec ls,"},
		} {
			for _, w := range want {
				if text := written(t, r)[format]; !strings.Contains(text, w) {
					t.Errorf("%q is not in the %s:\n%s", w, format, text)
				}
			}
		}
	})
	t.Run("of single records is none", func(t *testing.T) {
		if _, err := NewReport(t.Context(), dir, Query{Types: []string{"auth"}}, Options{}); err == nil {
			t.Error("it is made")
		}
	})
}

// written is the report in each of its forms.
func written(t testing.TB, r *Report) map[string]string {
	t.Helper()
	forms := map[string]string{}
	for format, write := range map[string]func(io.Writer) error{
		"JSON": r.WriteJSON, "CSV": r.WriteCSV, "text": func(w io.Writer) error { return r.WriteText(w, time.UTC) },
	} {
		var b strings.Builder
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		forms[format] = b.String()
	}
	return forms
}

// What one user asks for in vain hides nothing of what others do.
func TestNobodyPushesOthersOutOfAReport(t *testing.T) {
	s := newSumming(Query{})
	for i := range 2 * mostDenied {
		r := audit.Record{Time: at, Type: audit.ForwardDeny, User: "mallory", Target: audit.Endpoint{Host: fmt.Sprint("junk-", i), Port: 1}, Reason: "no_grant"}
		for range 2 {
			if err := s.see(&r); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.see(&audit.Record{Time: at, Type: audit.ForwardDeny, User: "bob", Target: audit.Endpoint{Host: "rds", Port: 3306}, Reason: "no_grant"})
	r := s.finish()
	if len(r.Denials) != mostDeniedOf+2 {
		t.Fatalf("there are %d rows", len(r.Denials))
	}
	if d := r.Denials[len(r.Denials)-1]; !d.Others || d.User != "mallory" || d.Count != 2*(2*mostDenied-mostDeniedOf) {
		t.Errorf("%+v", d)
	}
	text := written(t, r)["text"]
	for _, want := range []string{"1  bob      rds:3306", "\n  and 191 more of mallory; --format csv has them all\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

// A report counts every forward as naive counting does.
func TestAReportOfALargeLog(t *testing.T) {
	dir := t.TempDir()
	if err := audittest.Write(dir, 4<<20, 5); err != nil {
		t.Fatal(err)
	}
	var opened, ended, denied, failed, down uint64
	err := audit.Read(dir, func(r audit.Record) error {
		switch {
		case r.Type == audit.ForwardOpen:
			opened++
		case r.Type.Ends():
			ended++
		case r.Type == audit.ForwardDeny || r.Type == audit.RequestDeny:
			denied++
		case r.Type == audit.AuthFail:
			failed++
		}
		if r.Type == audit.ForwardClose {
			down += r.BytesDown
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewReport(t.Context(), dir, Query{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got [5]uint64
	for _, x := range r.Reached {
		got[0] += x.Forwards
		got[1] += x.Closed + x.Failed + x.Lost
		got[4] += x.Open
	}
	for _, d := range r.Denials {
		got[2] += d.Count
	}
	for _, f := range r.FailedLogins {
		got[3] += f.Count
	}
	if want := [5]uint64{opened, ended, denied, failed, opened - ended}; got != want || down == 0 {
		t.Errorf("%v and not %v", got, want)
	}
}

func TestAReportIsBounded(t *testing.T) {
	s := newSumming(Query{})
	const n = mostRows + 1000
	for i := range n {
		r := audit.Record{Time: at, User: fmt.Sprint(i), Target: audit.Endpoint{Host: "h", Port: 1}, Forward: fmt.Sprint(i), Login: fmt.Sprint(i), Source: netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 1}), 1)}
		for _, r.Type = range []audit.Type{audit.ForwardOpen, audit.ForwardClose, audit.ForwardDeny, audit.AuthFail} {
			if err := s.see(&r); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := s.finish()
	x, d, f := r.Reached[len(r.Reached)-1], r.Denials[len(r.Denials)-1], r.FailedLogins[len(r.FailedLogins)-1]
	if !x.Others || x.Forwards != n-mostRows || !d.Others || d.Count != n-mostDenied || !f.Others || f.Count != n-mostDenied {
		t.Errorf("%+v, %+v, %+v", x, d, f)
	}
	for i := range mostOpen + 1 {
		err := s.see(&audit.Record{Type: audit.ForwardOpen, User: "bob", Forward: fmt.Sprint("f", i)})
		if (err != nil) != (i == mostOpen) {
			t.Fatalf("%d: %v", i, err)
		}
	}
}

func TestWideCellsAreCutWhereThatIsWanted(t *testing.T) {
	r := audit.Record{Time: at, Type: audit.ForwardDeny, User: "bob", Detail: strings.Repeat("日", 300)}
	for widest, want := range map[int]int{0: 300, 80: 79} {
		var b strings.Builder
		table := NewTable(&b, time.UTC)
		table.Widest = widest
		if err := errors.Join(table.Add(r), table.Flush()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(b.String(), "日"); got != want {
			t.Errorf("of at most %d there are %d", widest, got)
		}
	}
	s := newSumming(Query{})
	s.see(&audit.Record{Time: at, Type: audit.RequestDeny, User: "bob", Request: strings.Repeat("日", 300)})
	forms := written(t, s.finish())
	if got := strings.Count(forms["text"], "日"); got != mostWide-utf8.RuneCountInString("request …") {
		t.Errorf("the text of the report has %d", got)
	}
	if got := strings.Count(forms["CSV"], "日"); got != 300 {
		t.Errorf("the CSV has %d", got)
	}
}

func TestTheTableIsHarmless(t *testing.T) {
	var b bytes.Buffer
	table := NewTable(&b, time.UTC)
	evil := "x\x1b[2J\u202e\n→ y"
	r := audit.Record{
		Time: at, Type: audit.Type(evil), User: evil, Login: evil + "2", Target: audit.Endpoint{Host: evil, Port: 1}, Address: netip.MustParseAddrPort("10.0.0.1:1"),
		Conn: evil, Request: evil, Reason: evil, Detail: evil, Dropped: []audit.Dropped{{Reason: evil}}, Source: netip.MustParseAddrPort("[2001:db8::1]:5"),
	}
	for range 2 {
		if err := table.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := table.Flush(); err != nil {
		t.Fatal(err)
	}
	if bytes.Count(b.Bytes(), newline) != 3 {
		t.Errorf("%s", &b)
	}
	for _, c := range strings.ReplaceAll(b.String(), "\n", "") {
		if !unicode.IsPrint(c) {
			t.Errorf("%q is printed", c)
		}
	}
	title, lines := tellRecord(&r)
	for _, c := range title + strings.Join(lines, "") {
		if !unicode.IsPrint(c) {
			t.Errorf("%q is told", c)
		}
	}
}

// nasty are texts that clients may have sent.
var nasty = []string{
	"\u009b2J", "\u202erds", "\u200bbob", "\ufeffbob", "\U000e0041", "\x7f", "\x1b[2J\n", "\x00", "\xff\xfe", "a\u2028b", "a\u00a0b", "=1+1", "<&>\"\\", "日本",
	strings.Repeat("日", 100), "x" + strings.Repeat("日", 100), strings.Repeat("é", 41) + "\xc3",
}

func TestAReportIsHarmless(t *testing.T) {
	s := newSumming(Query{})
	for i, n := range nasty {
		r := audit.Record{
			Time: at, User: n, Login: n, Key: n, Reason: n, Request: n, Detail: n, Forward: fmt.Sprint("f", i),
			Target: audit.Endpoint{Host: n, Port: 22}, Source: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 1),
		}
		for _, r.Type = range []audit.Type{audit.ForwardOpen, audit.ForwardDeny, audit.RequestDeny, audit.AuthFail} {
			if err := s.see(&r); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := s.finish()
	for format, text := range written(t, r) {
		if !utf8.ValidString(text) {
			t.Errorf("the %s is not UTF-8: %q", format, text)
		}
		for _, c := range text {
			if c != '\n' && !unicode.IsPrint(c) {
				t.Errorf("%q is in the %s", c, format)
			}
		}
		if !strings.Contains(text, "日本") {
			t.Errorf("what can be read is not in the %s", format)
		}
	}

	var b bytes.Buffer
	r.WriteJSON(&b)
	var back Report
	if err := json.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	for _, n := range nasty {
		if n = strings.ToValidUTF8(n, "\ufffd"); !slices.ContainsFunc(back.Reached, func(x *Reached) bool { return strings.Contains(x.User, strings.TrimRight(n, "\ufffd")) }) {
			t.Errorf("%q does not come back of the JSON", n)
		}
	}
}

func TestWhatIsShortenedStaysText(t *testing.T) {
	for _, s := range nasty {
		got := abbreviate(s)
		if utf8.ValidString(s) && !utf8.ValidString(got) || len(got) > 80+len("…") {
			t.Errorf("%q is shortened to %q", s, got)
		}
		if p := Printable(s); !utf8.ValidString(p) {
			t.Errorf("%q is written as %q", s, p)
		}
		if w := word(s); !utf8.ValidString(w) {
			t.Errorf("%q is written as the word %q", s, w)
		}
	}
}

// writePruned says that retention took the records before one.
func writePruned(t testing.TB, dir string, first int) {
	t.Helper()
	r := tree.NewRange(0)
	for i := range first {
		r.Append(tree.Leaf(fmt.Append(nil, i)))
	}
	text, err := r.MarshalText()
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "pruned"), append(text, '\n'), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
