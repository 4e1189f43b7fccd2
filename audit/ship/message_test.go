package ship

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"sekisho/audit"
)

var moment = time.Date(2026, 11, 22, 1, 2, 3, 123456000, time.UTC)

func record() audit.Record {
	return audit.Record{V: 1, Seq: 812, Time: moment, Bastion: "bastion-1", Run: "01J", Type: audit.ForwardDeny, User: "bob"}
}

func TestMessage(t *testing.T) {
	rec := record()
	line := rec.AppendJSON(nil)
	text := `<108>1 2026-11-22T01:02:03.123456Z bastion-1 sekisho 01J forward.deny [meta sequenceId="813"] ` + string(line)
	for name, c := range map[string]struct {
		f    format
		want string
	}{
		"over TCP and TLS has its length before it":  {octets, fmt.Sprintf("%d %s", len(text), text)},
		"over a unix stream has a newline after it":  {lines, text + "\n"},
		"to /dev/log is what syslog(3) writes there": {local, fmt.Sprintf("<108>%s sekisho[%d]: %s", moment.Local().Format(time.Stamp), os.Getpid(), line)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := string(c.f.appendMessage([]byte("before"), 13, line, rec)); got != "before"+c.want {
				t.Errorf("got  %s\nwant before%s", got, c.want)
			}
		})
	}
}

func TestHeaderFields(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*audit.Record)
		want   string
	}{
		"that are empty are a hyphen":             {func(r *audit.Record) { r.Bastion, r.Run, r.Type = "", "", "" }, `<110>1 2026-11-22T01:02:03.123456Z - sekisho - - [`},
		"are visible ASCII":                       {func(r *audit.Record) { r.Bastion = "a b\n関" }, `<108>1 2026-11-22T01:02:03.123456Z a?b???? sekisho 01J forward.deny [`},
		"are no longer than they may be":          {func(r *audit.Record) { r.Type = audit.Type(strings.Repeat("x", 40)) }, ` 01J ` + strings.Repeat("x", 32) + ` [`},
		"count from 1 again after the last":       {func(r *audit.Record) { r.Seq = 1<<31 - 1 }, `sequenceId="1"]`},
		"count to the largest number there is":    {func(r *audit.Record) { r.Seq = 1<<31 - 2 }, `sequenceId="2147483647"]`},
		"tell failures by their severity":         {func(r *audit.Record) { r.Type = audit.AuthFail }, `<108>1`},
		"tell what is lost":                       {func(r *audit.Record) { r.Type = audit.ForwardLost }, `<108>1`},
		"tell damage":                             {func(r *audit.Record) { r.Type = audit.LogMend }, `<107>1`},
		"tell all else":                           {func(r *audit.Record) { r.Type = audit.ForwardOpen }, `<110>1`},
		"tell types that are not known by theirs": {func(r *audit.Record) { r.Type = "site.reject" }, `<108>1`},
	} {
		t.Run(name, func(t *testing.T) {
			rec := record()
			c.change(&rec)
			if got := string(lines.appendMessage(nil, 13, []byte("{}"), rec)); !strings.Contains(got, c.want) {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestShortened(t *testing.T) {
	rec := record()
	rec.Detail = strings.Repeat("x", 1000)
	short := shorten(make([]byte, 70000), rec)
	got, err := audit.ParseRecord(short)
	if err != nil || got.Seq != 812 || got.User != "bob" || got.Detail != "this record of 70000 bytes was too long to be sent: the log has it whole" {
		t.Errorf("%s: %v", short, err)
	}
}

var header = regexp.MustCompile(`^<\d{1,3}>1 [^ ]{27} [!-~]{1,255} sekisho [!-~]{1,128} [!-~]{1,32} \[meta sequenceId="\d{1,10}"\] `)

func FuzzMessage(f *testing.F) {
	f.Add("bastion", "01J", "auth.ok", "detail", uint64(7))
	f.Add("", "\x00", " ", "\n", uint64(1<<63))
	f.Fuzz(func(t *testing.T, bastion, run, kind, detail string, seq uint64) {
		rec := audit.Record{V: 1, Seq: seq, Time: moment, Bastion: bastion, Run: run, Type: audit.Type(kind), Detail: detail}
		line := rec.AppendJSON(nil)
		m := octets.appendMessage(nil, 13, line, rec)
		length, text, _ := bytes.Cut(m, []byte(" "))
		if n, err := strconv.Atoi(string(length)); err != nil || n != len(text) {
			t.Fatalf("%q before %d bytes", length, len(text))
		}
		h := header.Find(text)
		if h == nil || !bytes.Equal(text[len(h):], line) {
			t.Fatalf("%q", text)
		}
		if bytes.ContainsAny(text, "\n\r\x00") {
			t.Fatalf("it does not stay on its line: %q", text)
		}
	})
}

func TestAddress(t *testing.T) {
	for s, want := range map[string]string{
		"tcp://siem.example:514":            "",
		"tls://siem.example:6514":           "",
		"tls://192.0.2.1:6514":              "",
		"tls://[2001:db8::1]:6514":          "",
		"unix:/dev/log":                     "",
		"siem.example:514":                  "it begins with none of tcp://, tls:// and unix:",
		"udp://siem.example:514":            "it begins with none of tcp://, tls:// and unix:",
		"tcp://siem.example":                "it is not a host and a port with a colon between them",
		"tcp://siem.example:0":              "its port is not a number from 1 to 65535",
		"tcp://siem.example:syslog":         "its port is not a number from 1 to 65535",
		"tcp://siem.example:0514":           "its port is not a number from 1 to 65535",
		"tcp://:514":                        "its host is neither a name nor an IP address",
		"tls://a b:514":                     "its host is neither a name nor an IP address",
		"tls://user@siem:514":               "its host is neither a name nor an IP address",
		"unix:log":                          "the path of the socket does not begin with a slash",
		"unix:/" + strings.Repeat("x", 107): "the path of the socket is longer than 107 bytes",
	} {
		a, err := ParseAddress(s)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want || err == nil && a.String() != s {
			t.Errorf("%s: %v, %q", s, a, got)
		}
	}
}

func FuzzAddress(f *testing.F) {
	f.Add("tls://siem.example:6514")
	f.Add("unix:/dev/log")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if b, err := ParseAddress(a.String()); err != nil || a != b {
			t.Errorf("%q: %v, %v, %v", s, a, b, err)
		}
	})
}

func TestCursor(t *testing.T) {
	path := t.TempDir() + "/cursor.syslog"
	if c, err := readCursor(path); err != nil || c != (cursor{}) {
		t.Errorf("none: %v, %v", c, err)
	}
	want := cursor{812, hash([]byte("x"))}
	for range 2 {
		if err := want.write(path); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := readCursor(path); err != nil || c != want {
		t.Errorf("%v, %v", c, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	for text, good := range map[string]bool{`{"next":7}`: true, ``: false, `{}`: false, `{"next":-1}`: false, `7`: false, `{"nxt":7}`: false} {
		os.WriteFile(path, []byte(text), 0o600)
		if _, err := readCursor(path); (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzCursor(f *testing.F) {
	f.Add([]byte(`{"next":7,"last":"00"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := t.TempDir() + "/c"
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		readCursor(path)
	})
}
