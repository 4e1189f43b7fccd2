package query

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

var weekdays = map[string]time.Weekday{
	"sunday": time.Sunday, "monday": time.Monday, "tuesday": time.Tuesday, "wednesday": time.Wednesday,
	"thursday": time.Thursday, "friday": time.Friday, "saturday": time.Saturday,
	"sun": time.Sunday, "mon": time.Monday, "tue": time.Tuesday, "wed": time.Wednesday,
	"thu": time.Thursday, "fri": time.Friday, "sat": time.Saturday,
}

// ParseTime reads a time as people write it, in the zone of now: an instant,
// for which the two times are the same, or a whole day, from its begin to that
// of the next one.
//
//	2026-11-17T09:00:00+09:00   an instant (RFC 3339)
//	2026-11-17 09:00[:30]       one in the zone of now
//	2026-11-17                  a day
//	3h  90m  1h30m              that long before now
//	2d  1w                      so many days before now, at the same time of day
//	now  today  yesterday
//	tuesday                     the last one that has begun: today, if it is one
//	last tuesday                the last one before today
func ParseTime(s string, now time.Time) (from, to time.Time, err error) {
	text := strings.ToLower(strings.Join(strings.Fields(s), " "))
	zone := now.Location()
	if text == "" {
		return from, to, errors.New("the time is empty")
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02T15:04:05"} {
		if t, err := time.ParseInLocation(layout, strings.ToUpper(text), zone); err == nil {
			return t, t, nil
		}
	}
	if t, err := time.Parse("2006-01-02", text); err == nil {
		from, to = day(t, 0, zone)
		return from, to, nil
	}
	today := now // as a date
	switch text {
	case "now":
		return now, now, nil
	case "today":
		from, to = day(today, 0, zone)
		return from, to, nil
	case "yesterday":
		from, to = day(today, -1, zone)
		return from, to, nil
	}
	name, last := strings.CutPrefix(text, "last ")
	if weekday, ok := weekdays[name]; ok {
		back := (int(now.Weekday()) - int(weekday) + 7) % 7
		if last && back == 0 {
			back = 7
		}
		from, to = day(today, -back, zone)
		return from, to, nil
	}
	if t, ok := ago(text, now); ok {
		return t, t, nil
	}
	return from, to, fmt.Errorf("%q is no time; write it as 2026-11-17, \"2026-11-17 09:00\", 2d, 3h, today, yesterday or tuesday", abbreviate(s))
}

// day returns the begin of the day that is days after that of t, and the begin
// of the next one. Not every day begins at midnight, and not every one has 24
// hours.
func day(t time.Time, days int, zone *time.Location) (from, to time.Time) {
	y, m, d := t.Date()
	return begin(y, m, d+days, zone), begin(y, m, d+days+1, zone)
}

// begin is the first instant of a day.
func begin(y int, m time.Month, d int, zone *time.Location) time.Time {
	_, _, want := time.Date(y, m, d, 12, 0, 0, 0, time.UTC).Date()
	t := time.Date(y, m, d, 0, 0, 0, 0, zone)
	if t.Day() != want { // clocks skip midnight: the day begins with what they show after it
		if _, end := t.ZoneBounds(); !end.IsZero() {
			return end
		}
	}
	// Clocks that go back to midnight show it twice.
	if e := t.Add(-time.Hour); e.Day() == want {
		return e
	}
	return t
}

// ago reads how long before now, as "2d" or "1h30m".
func ago(s string, now time.Time) (time.Time, bool) {
	const most = 100 * 366 // days; what lies before is before any log
	if n, ok := strings.CutSuffix(s, "d"); ok {
		days, err := strconv.ParseUint(n, 10, 32)
		return now.AddDate(0, 0, -int(min(days, most))), err == nil
	}
	if n, ok := strings.CutSuffix(s, "w"); ok {
		weeks, err := strconv.ParseUint(n, 10, 32)
		return now.AddDate(0, 0, -int(min(7*weeks, most))), err == nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || s[0] < '0' || s[0] > '9' {
		return time.Time{}, false
	}
	return now.Add(-d), true
}

var units = []struct {
	name string
	size uint64
}{
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12}, {"b", 1}, {"", 1},
}

// ParseBytes reads a number of bytes, such as 4096, 10MiB or 1GB.
func ParseBytes(s string) (uint64, error) {
	text := strings.ToLower(strings.TrimSpace(s))
	number := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyz ")
	for _, u := range units {
		if u.name != strings.TrimSpace(text[len(number):]) {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 64)
		switch {
		case errors.Is(err, strconv.ErrRange) || err == nil && n > math.MaxUint64/u.size:
			return 0, fmt.Errorf("%q are more bytes than can be counted", abbreviate(s))
		case err == nil:
			return n * u.size, nil
		}
	}
	return 0, fmt.Errorf("%q is no number of bytes; write it as 4096, 500KB or 10MiB", abbreviate(s))
}

// ParseDuration reads how long something lasted, such as 90s, 1h30m or 2d.
func ParseDuration(s string) (time.Duration, error) {
	text := strings.ToLower(strings.TrimSpace(s))
	if n, ok := strings.CutSuffix(text, "d"); ok {
		if days, err := strconv.ParseUint(n, 10, 16); err == nil {
			return time.Duration(days) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is no duration; write it as 90s, 1h30m or 2d", abbreviate(s))
	}
	return d, nil
}
