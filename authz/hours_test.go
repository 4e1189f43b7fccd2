package authz

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var zonesLoaded sync.Map

func loadZone(name string) *time.Location {
	if z, ok := zonesLoaded.Load(name); ok {
		return z.(*time.Location)
	}
	z, err := time.LoadLocation(name)
	if err != nil || name == "" || name == "Local" {
		return nil
	}
	zonesLoaded.Store(name, z)
	return z
}

func mustHours(t testing.TB, zone string, texts ...string) *hours {
	t.Helper()
	var windows []window
	for _, s := range texts {
		w, message, hint := parseWindow(s, loadZone(zone), loadZone)
		if message != "" {
			t.Fatal(s, message, hint)
		}
		windows = append(windows, w)
	}
	return makeHours(windows)
}

// naively judges one entry of hours by the letters that a clock shows.
func naively(text, zone string, at time.Time) bool {
	fields := strings.Fields(text)
	days := "Mon,Tue,Wed,Thu,Fri,Sat,Sun"
	if fields[0][0] >= 'A' {
		days, fields = fields[0], fields[1:]
	}
	if len(fields) == 2 {
		zone = fields[1]
	}
	at = at.In(loadZone(zone))
	const order = "MonTueWedThuFriSatSunMonTueWedThuFriSatSun"
	on := func(day string) bool {
		for _, d := range strings.Split(days, ",") {
			first, last, _ := strings.Cut(d, "-")
			if last == "" {
				last = first
			}
			i := strings.Index(order, first)
			j := i + strings.Index(order[i:], last)
			if strings.Contains(order[i:j+3], day) {
				return true
			}
		}
		return false
	}
	today := at.Format("Mon")
	yesterday := order[strings.LastIndex(order, today)-3:][:3]
	start, end, _ := strings.Cut(fields[0], "-")
	now := at.Format("15:04")
	if end == "00:00" {
		end = "24:00"
	}
	if start < end {
		return on(today) && start <= now && now < end
	}
	return on(today) && start <= now || on(yesterday) && now < end
}

func TestHours(t *testing.T) {
	// 2027-01-13 is a Wednesday.
	for _, tt := range []struct {
		hours, zone, at string
		want            bool
		next            string
	}{
		{"Mon-Fri 09:00-19:00", "Asia/Tokyo", "2027-01-15 18:59:59", true, "2027-01-15 19:00"},
		{"Mon-Fri 09:00-19:00", "Asia/Tokyo", "2027-01-15 19:00", false, "2027-01-18 09:00"},
		{"22:00-06:00", "Asia/Tokyo", "2027-01-15 23:00", true, "2027-01-16 06:00"},
		{"22:00-06:00", "Asia/Tokyo", "2027-01-16 05:59", true, "2027-01-16 06:00"},
		{"22:00-06:00", "Asia/Tokyo", "2027-01-16 06:00", false, "2027-01-16 22:00"},
		{"Fri 22:00-06:00", "Asia/Tokyo", "2027-01-16 03:00", true, "2027-01-16 06:00"},
		{"Fri 22:00-06:00", "Asia/Tokyo", "2027-01-15 03:00", false, "2027-01-15 22:00"},
		{"Sun 22:00-06:00", "Asia/Tokyo", "2027-01-17 23:00", true, "2027-01-18 06:00"},
		{"Sun 22:00-06:00", "Asia/Tokyo", "2027-01-18 05:59:59", true, "2027-01-18 06:00"},
		{"Sun 22:00-06:00", "Asia/Tokyo", "2027-01-18 06:00", false, "2027-01-24 22:00"},
		{"Mon,Wed-Thu 12:00-24:00", "Asia/Tokyo", "2027-01-13 23:59:59", true, "2027-01-14 00:00"},
		{"Mon,Wed-Thu 12:00-24:00", "Asia/Tokyo", "2027-01-14 00:00", false, "2027-01-14 12:00"},
		{"Mon 00:00-24:00", "Asia/Tokyo", "2027-01-13 00:00", false, "2027-01-18 00:00"},
		{"00:00-24:00", "Asia/Tokyo", "2027-01-13 00:00", true, ""},
		{"Sat-Mon 10:00-12:00", "Asia/Tokyo", "2027-01-17 11:00", true, "2027-01-17 12:00"},
		{"Sat-Mon 10:00-12:00", "Asia/Tokyo", "2027-01-18 12:00", false, "2027-01-23 10:00"},
		{"Fri 22:00-06:00 Europe/Berlin", "Asia/Tokyo", "2027-01-16 06:30", true, "2027-01-16 14:00"}, // Fri 22:30 there

		// Clocks in Berlin skip from 02:00 to 03:00 on 28 March 2027 …
		{"01:00-02:30", "Europe/Berlin", "2027-03-28 01:59:59", true, "2027-03-28 03:00"},
		{"01:00-02:30", "Europe/Berlin", "2027-03-28 03:00", false, "2027-03-29 01:00"},
		{"02:15-05:00", "Europe/Berlin", "2027-03-28 01:59:59", false, "2027-03-28 03:00"},
		{"02:15-05:00", "Europe/Berlin", "2027-03-28 03:00", true, "2027-03-28 05:00"},
		{"02:15-02:45", "Europe/Berlin", "2027-03-28 01:59:59", false, "2027-03-29 02:15"},
		{"Sat 22:00-02:30", "Europe/Berlin", "2027-03-28 01:30", true, "2027-03-28 03:00"},
		{"01:00-05:00", "Europe/Berlin", "2027-03-28 01:30", true, "2027-03-28 05:00"},
		// … and show 02:00 to 03:00 twice on 31 October.
		{"02:15-02:45", "Europe/Berlin", "2027-10-31 02:20 CEST", true, "2027-10-31 02:45 CEST"},
		{"02:15-02:45", "Europe/Berlin", "2027-10-31 02:50 CEST", false, "2027-10-31 02:15 CET"},
		{"02:15-02:45", "Europe/Berlin", "2027-10-31 02:20 CET", true, "2027-10-31 02:45 CET"},
		{"01:00-02:30", "Europe/Berlin", "2027-10-31 01:30", true, "2027-10-31 02:30 CEST"},
		{"01:00-02:30", "Europe/Berlin", "2027-10-31 02:45 CEST", false, "2027-10-31 02:00 CET"},
		{"02:30-05:00", "Europe/Berlin", "2027-10-31 02:45 CEST", true, "2027-10-31 02:00 CET"},
		{"02:30-05:00", "Europe/Berlin", "2027-10-31 02:00 CET", false, "2027-10-31 02:30 CET"},
		{"01:00-05:00", "Europe/Berlin", "2027-10-31 01:30", true, "2027-10-31 05:00"},

		// New York: 02:00 to 03:00 is skipped on 14 March, 01:00 to 02:00 twice on 7 November 2027.
		{"Sun 02:30-04:00", "America/New_York", "2027-03-14 01:59", false, "2027-03-14 03:00"},
		{"Sat 22:00-02:30", "America/New_York", "2027-03-14 00:30", true, "2027-03-14 03:00"},
		{"Sun 01:30-04:00", "America/New_York", "2027-11-07 00:30", false, "2027-11-07 01:30 EDT"},
		{"Sun 01:30-04:00", "America/New_York", "2027-11-07 01:45 EDT", true, "2027-11-07 01:00 EST"},
		{"Sun 01:30-04:00", "America/New_York", "2027-11-07 01:15 EST", false, "2027-11-07 01:30 EST"},

		// Lord Howe: 02:00 to 02:30 is skipped on 3 October, 01:30 to 02:00 twice on 4 April 2027.
		{"02:15-02:45", "Australia/Lord_Howe", "2027-10-03 01:59", false, "2027-10-03 02:30"},
		{"01:00-02:15", "Australia/Lord_Howe", "2027-10-03 01:59", true, "2027-10-03 02:30"},
		{"01:45-03:00", "Australia/Lord_Howe", "2027-04-04 01:50 +11", true, "2027-04-04 01:30 +1030"},
		{"01:45-03:00", "Australia/Lord_Howe", "2027-04-04 01:35 +1030", false, "2027-04-04 01:45 +1030"},
	} {
		read := func(s string) time.Time {
			parts := strings.Fields(s)
			if len(parts) == 2 {
				return inZone(tt.zone, s)
			}
			// Of the two, the one whose clock says it is that zone's time.
			at := inZone(tt.zone, parts[0]+" "+parts[1])
			for _, d := range []time.Duration{0, time.Hour, -time.Hour, time.Hour / 2, -time.Hour / 2} {
				if try := at.Add(d); try.Format("2006-01-02 15:04 MST") == s {
					return try
				}
			}
			t.Fatal("no such time:", s)
			return at
		}
		h, now := mustHours(t, tt.zone, tt.hours), read(tt.at)
		if got := h.contain(now.Unix()); got != tt.want {
			t.Errorf("%s at %s: %v", tt.hours, tt.at, got)
		}
		var next time.Time
		if tt.next != "" {
			next = read(tt.next)
		}
		if got := h.next(now.Unix()); !got.Equal(next) {
			t.Errorf("%s at %s: next %v, want %s", tt.hours, tt.at, got.In(now.Location()), tt.next)
		}
	}
}

// Minute by minute around every change of the clocks, and by quarters of an
// hour over the fortnight around it, since all these hours are in quarters: the
// hours hold when a person would say so, and next is exactly when they change.
func TestHoursMinuteByMinute(t *testing.T) {
	texts := [][]string{
		{"Mon-Fri 09:00-19:00"}, {"22:00-06:00"}, {"Sun 02:15-02:45"}, {"Sat 22:00-02:30", "Sun 02:30-05:00"}, {"01:00-02:30"},
		{"Sun 01:45-02:15", "00:00-01:00 UTC"}, {"Sun,Mon 23:30-00:30 Asia/Tokyo", "Wed-Sun 12:00-24:00"}, {"00:00-12:00", "12:00-24:00"},
		{"00:00-24:00 UTC", "09:00-10:00"}, {"Sun 22:00-06:00", "Mon 06:00-07:00"},
	}
	for _, c := range []struct{ zone, days string }{
		{"Europe/Berlin", "2027-03-28"}, {"Europe/Berlin", "2027-10-31"}, {"America/New_York", "2027-03-14"}, {"America/New_York", "2027-11-07"},
		{"Australia/Lord_Howe", "2027-04-04"}, {"Australia/Lord_Howe", "2027-10-03"}, {"Atlantic/Azores", "2027-10-31"}, {"America/Santiago", "2027-04-04"}, {"Africa/Cairo", "2027-04-30"},
	} {
		t.Run(c.zone+" "+c.days, func(t *testing.T) {
			t.Parallel()
			middle := inZone(c.zone, c.days+" 06:00")
			for _, text := range texts {
				h := mustHours(t, c.zone, text...)
				from, to := middle.AddDate(0, 0, -7), middle.AddDate(0, 0, 7)
				before := h.contain(from.Unix())
				expect := h.next(from.Unix())
				for at := from; at.Before(to); {
					want := false
					for _, s := range text {
						want = want || naively(s, c.zone, at)
					}
					got := h.contain(at.Unix())
					if got != want {
						t.Fatalf("%q at %v: %v", text, at, got)
					}
					if (got != before) != at.Equal(expect) {
						t.Fatalf("%q at %v: was %v, is %v, but next was %v", text, at, before, got, expect)
					}
					if next := h.next(at.Unix()); got == before && !next.Equal(expect) {
						t.Fatalf("%q at %v: next %v, was %v", text, at, next, expect)
					} else {
						before, expect = got, next
					}
					if d := at.Sub(middle).Abs(); d < 12*time.Hour {
						at = at.Add(time.Minute)
					} else {
						at = at.Add(15 * time.Minute)
					}
				}
			}
		})
	}
}

func TestMoments(t *testing.T) {
	for _, tt := range []struct {
		text, zone, want string // in UTC
		end              bool
	}{
		{"2027-03-31", "Asia/Tokyo", "2027-03-30 15:00", false},
		{"2027-03-31", "Asia/Tokyo", "2027-03-31 15:00", true},
		{"2027-03-31 18:00", "Asia/Tokyo", "2027-03-31 09:00", false},
		{"2027-03-31 18:00", "Asia/Tokyo", "2027-03-31 09:00", true},
		{"2027-03-31T18:00", "Asia/Tokyo", "2027-03-31 09:00", true},
		{"2027-03-31 18:00:30", "Asia/Tokyo", "2027-03-31 09:00:30", true},
		{"2027-12-31", "UTC", "2028-01-01 00:00", true},
		{"2027-03-28 02:30", "Europe/Berlin", "2027-03-28 01:00", false}, // skipped: when clocks skip it
		{"2027-03-28 02:30", "Europe/Berlin", "2027-03-28 01:00", true},
		{"2027-10-31 02:30", "Europe/Berlin", "2027-10-31 00:30", false}, // twice: the first
		{"2027-10-31 02:30", "Europe/Berlin", "2027-10-31 00:30", true},
		{"2027-10-31", "Europe/Berlin", "2027-10-31 23:00", true},
		{"2027-10-03 02:15", "Australia/Lord_Howe", "2027-10-02 15:30", false},
		{"2027-04-04 01:45", "Australia/Lord_Howe", "2027-04-03 14:45", false},
		{"2027-04-30", "Africa/Cairo", "2027-04-29 22:00", false}, // midnight is skipped
		{"2027-04-29", "Africa/Cairo", "2027-04-29 22:00", true},
		{"2027-04-03", "America/Santiago", "2027-04-04 04:00", true},  // 23:00 to 24:00 twice
		{"2027-10-30", "Atlantic/Azores", "2027-10-31 00:00", true},   // midnight twice: the first
		{"2007-11-03", "America/St_Johns", "2007-11-04 03:30", true},  // back from 00:01 to 23:01: the day comes again
		{"2007-11-04", "America/St_Johns", "2007-11-04 02:30", false}, // and the next one first began before
		{"2011-12-30", "Pacific/Apia", "2011-12-30 10:00", false},     // a day that never was
		{"2011-12-30", "Pacific/Apia", "2011-12-30 10:00", true},
	} {
		m, message, hint := parseMoment(tt.text, loadZone(tt.zone), tt.end)
		want, err := time.Parse(minuteForm, tt.want)
		if err != nil {
			want, _ = time.Parse(time.DateTime, tt.want)
		}
		if message != "" || !m.at.Equal(want) {
			t.Errorf("%s in %s, end %v: %v %s %s, want %s", tt.text, tt.zone, tt.end, m.at, message, hint, tt.want)
		}
	}
}

func FuzzHours(f *testing.F) {
	for i, s := range []string{
		"Mon-Fri 09:00-19:00", "Sat 10:00-12:00", "22:00-06:00", "Fri 22:00-06:00 Europe/Berlin", "Mon,Wed-Fri 00:00-24:00", "Sat-Mon,Wed 22:00-00:00 UTC",
		"9:00-19:00", "Mo-Fr 9-17", "weekdays 09:00-19:00", "daily 1-2", "09:00-19:00 Mon", "Mon-Mon 1-2", "Mon", "09:00", "00:00-00:00", "24:00-06:00", "09:00-19:00 america/new york", "Sunn 09:00-10:00", "Mon 09:00-09:00", "\x00", "–",
	} {
		f.Add(s, int64(1774659600+i*977))
	}
	f.Fuzz(func(t *testing.T, s string, sec int64) {
		const zone = "Australia/Lord_Howe"
		w, message, hint := parseWindow(s, loadZone(zone), loadZone)
		if message != "" {
			if strings.ContainsAny(message+hint, "\n\r\x1b") {
				t.Fatalf("%q: %q, %q", s, message, hint)
			}
			if meant, ok := strings.CutPrefix(hint, "did you mean "); ok {
				meant, err := strconv.Unquote(strings.TrimSuffix(meant, "?"))
				if _, again, _ := parseWindow(meant, loadZone(zone), loadZone); err != nil || again != "" && loadZone(meant) == nil && !strings.Contains("Mon Tue Wed Thu Fri Sat Sun", meant) {
					t.Fatalf("%q: the hint %q is no better: %s", s, hint, again)
				}
			}
			return
		}
		if again, message, _ := parseWindow(w.String(), loadZone(zone), loadZone); message != "" || fmt.Sprint(again) != fmt.Sprint(w) {
			t.Fatalf("%q is written %q: %v, then %v (%s)", s, w.String(), w, again, message)
		}
		if sec < -1<<40 || sec > 1<<40 {
			return
		}
		h := makeHours([]window{w})
		now := h.contain(sec)
		if at := time.Unix(sec, 0); at.Year() > 1920 && at.Year() < 9999 && now != naively(s, zone, at) {
			t.Fatalf("%q at %v: %v", s, at, now)
		}
		next := h.next(sec)
		if next.IsZero() {
			next = time.Unix(sec+14*daySeconds, 0)
		} else if h.contain(next.Unix()) == now {
			t.Fatalf("%q at %d: nothing changes at %v", s, sec, next)
		}
		for i := int64(1); i < 50; i++ {
			if between := sec + (next.Unix()-1-sec)*i/49; h.contain(between) != now {
				t.Fatalf("%q at %d: it changes before %v", s, sec, next)
			}
		}
	})
}
