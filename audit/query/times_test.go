package query

import (
	"strings"
	"testing"
	"time"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestParseTime(t *testing.T) {
	tokyo, havana, saoPaulo := zone(t, "Asia/Tokyo"), zone(t, "America/Havana"), zone(t, "America/Sao_Paulo")
	now := time.Date(2026, 11, 24, 15, 30, 0, 0, tokyo) // a Tuesday
	const none = ""
	tests := []struct {
		name, in string
		now      time.Time
		from, to string
	}{
		{"an instant with its offset", "2026-11-17T09:00:00+02:00", now, "2026-11-17T09:00:00+02:00", none},
		{"an instant in UTC, in lower case", "2026-11-17t09:00:00.5z", now, "2026-11-17T09:00:00.5Z", none},
		{"a date and time in the zone of now", "2026-11-17 09:00", now, "2026-11-17T09:00:00+09:00", none},
		{"with seconds", "2026-11-17  09:00:30", now, "2026-11-17T09:00:30+09:00", none},
		{"with a T", "2026-11-17T09:00", now, "2026-11-17T09:00:00+09:00", none},
		{"a day", "2026-11-17", now, "2026-11-17T00:00:00+09:00", "2026-11-18T00:00:00+09:00"},
		{"a day at the end of a month", "2026-02-28", now, "2026-02-28T00:00:00+09:00", "2026-03-01T00:00:00+09:00"},
		{"now", "now", now, "2026-11-24T15:30:00+09:00", none},
		{"today", "Today", now, "2026-11-24T00:00:00+09:00", "2026-11-25T00:00:00+09:00"},
		{"yesterday", " yesterday ", now, "2026-11-23T00:00:00+09:00", "2026-11-24T00:00:00+09:00"},
		{"minutes ago", "90m", now, "2026-11-24T14:00:00+09:00", none},
		{"hours ago", "3h", now, "2026-11-24T12:30:00+09:00", none},
		{"both", "1h30m", now, "2026-11-24T14:00:00+09:00", none},
		{"days ago", "2d", now, "2026-11-22T15:30:00+09:00", none},
		{"weeks ago", "1w", now, "2026-11-17T15:30:00+09:00", none},
		{"very many days ago", "4294967295d", now, "1926-09-10T15:30:00+09:00", none},
		{"a weekday that is today", "tuesday", now, "2026-11-24T00:00:00+09:00", "2026-11-25T00:00:00+09:00"},
		{"the last one before today", "last tuesday", now, "2026-11-17T00:00:00+09:00", "2026-11-18T00:00:00+09:00"},
		{"a weekday", "Mon", now, "2026-11-23T00:00:00+09:00", "2026-11-24T00:00:00+09:00"},
		{"the last one", "last monday", now, "2026-11-23T00:00:00+09:00", "2026-11-24T00:00:00+09:00"},
		{"a weekday that is to come in this week", "wednesday", now, "2026-11-18T00:00:00+09:00", "2026-11-19T00:00:00+09:00"},
		{"a day on which clocks show midnight twice", "2026-11-01", now.In(havana), "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00"},
		{"a day on which clocks skip midnight", "2018-11-04", now.In(saoPaulo), "2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00"},
		{"the day before it", "2018-11-03", now.In(saoPaulo), "2018-11-03T00:00:00-03:00", "2018-11-04T01:00:00-02:00"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			from, to, err := ParseTime(tt.in, tt.now)
			if err != nil {
				t.Fatal(err)
			}
			if tt.to == none {
				tt.to = tt.from
			}
			for got, want := range map[time.Time]string{from: tt.from, to: tt.to} {
				w, err := time.Parse(time.RFC3339Nano, want)
				if err != nil {
					t.Fatal(err)
				}
				if !got.Equal(w) {
					t.Errorf("%v and not %v", got, w)
				}
			}
		})
	}
	for _, bad := range []string{"", " ", "2026-13-01", "2026-11-31", "2026-11-17 25:00", "17.11.2026", "-3h", "+3h", "3", "d", "-2d", "2.5d", "tomorrow", "last", "last week", "last 2026-11-17", "next tuesday", "3h ago\x1b"} {
		if from, _, err := ParseTime(bad, now); err == nil {
			t.Errorf("%q is read as %v", bad, from)
		} else if strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("the message cannot be printed: %q", err)
		}
	}
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"2026-11-17", "2d", "1h30m", "last tuesday", "2026-11-17T09:00:00+09:00", "9999999w"} {
		f.Add(s, int64(1_800_000_000), "America/Havana")
	}
	f.Fuzz(func(t *testing.T, s string, at int64, name string) {
		z, err := time.LoadLocation(name)
		if err != nil {
			z = time.UTC
		}
		now := time.Unix(at%(1<<40), 0).In(z)
		from, to, err := ParseTime(s, now)
		switch {
		case err != nil:
			if len(err.Error()) > 600 {
				t.Errorf("a long message: %q", err)
			}
		case to.Before(from):
			t.Errorf("%q ends before it begins: %v, %v", s, from, to)
		case !to.Equal(from) && (to.Sub(from) < 20*time.Hour || to.Sub(from) > 50*time.Hour):
			t.Errorf("%q is no day: %v, %v", s, from, to)
		}
	})
}

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]uint64{
		"0": 0, "4096": 4096, "12B": 12, "500KB": 500_000, "500kB": 500_000, "1KiB": 1024, "10 MiB": 10 << 20, "3GB": 3e9, "2TiB": 2 << 40,
		"18446744073709551615": 1<<64 - 1,
	} {
		if got, err := ParseBytes(in); err != nil || got != want {
			t.Errorf("%q is %d, %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "B", "-1", "1.5GB", "10M", "10K", "18446744073709551616", "99999999999TiB", "1 2", "KiB1", "0x10"} {
		if got, err := ParseBytes(bad); err == nil {
			t.Errorf("%q is read as %d", bad, got)
		}
	}
}

func FuzzParseBytes(f *testing.F) {
	f.Add("10MiB")
	f.Fuzz(func(t *testing.T, s string) {
		ParseBytes(s)
		ParseDuration(s)
	})
}

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{"90s": 90 * time.Second, "1h30m": 90 * time.Minute, "2d": 48 * time.Hour, "500ms": 500 * time.Millisecond} {
		if got, err := ParseDuration(in); err != nil || got != want {
			t.Errorf("%q is %v, %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "90", "-1s", "d", "99999999d", "1y"} {
		if got, err := ParseDuration(bad); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
}

// FuzzQuery takes filters as somebody types them: those that are good judge any
// record, and what a line that fits looks like is never wrong.
func FuzzQuery(f *testing.F) {
	f.Add("bob", "web-*.corp.example:443", "10.0.0.0/8", "forward.", "a", "web-1.corp.example", uint32(443))
	f.Add("b\"", "[::1]:22", "10.0.0.1:3306", "auth", "\\", "::1", uint32(22))
	f.Add("x", "RDS.", "::ffff:1.2.3.4", "a.b", "\u202e", "rds", uint32(0))
	f.Fuzz(func(t *testing.T, user, target, addr, typ, text, host string, port uint32) {
		for _, q := range []Query{{Users: []string{user}}, {Targets: []string{target}}, {Addresses: []string{addr}}, {Types: []string{typ}}, {Texts: []string{text}}, {Keys: []string{user}}} {
			p, err := q.compile()
			if err != nil {
				continue
			}
			for _, raw := range []string{host, user, target, text} {
				line := auditLine(raw, typ, host, port)
				rec := parse(t, line)
				if p.fits(&rec) && !p.filters[0].mayBe(line) {
					t.Fatalf("%+v fits and is not found in %s", q, line)
				}
			}
		}
	})
}
