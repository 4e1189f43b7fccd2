package authkeys

import (
	"strings"
	"time"
)

// parseExpiry reads YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, in the zone or,
// with Z or UTC at the end, in UTC. A day or an hour that does not exist is
// not carried over to the next, as sshd does, but refused.
func parseExpiry(s string, zone *time.Location) (t time.Time, why, hint string) {
	hint = "write YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, and Z at the end for UTC"
	digits := strings.ToUpper(s)
	if d, ok := strings.CutSuffix(digits, "Z"); ok {
		digits, zone = d, time.UTC
	} else if d, ok := strings.CutSuffix(digits, "UTC"); ok {
		digits, zone = d, time.UTC
	}
	const form = "20060102150405"
	if n := len(digits); strings.Trim(digits, "0123456789") != "" || n != 8 && n != 12 && n != 14 {
		return time.Time{}, quote(s) + " is not a time", hint
	}
	shown, err := time.Parse(form[:len(digits)], digits)
	if err != nil {
		return time.Time{}, "there is no time " + quote(s), hint
	}
	if shown.Year() < 1970 {
		return time.Time{}, quote(s) + " is before the year 1970", hint
	}
	return firstShown(shown, zone), "", ""
}

// firstShown returns the first instant at which a clock in the zone shows a
// time, given as if in UTC, or has skipped it.
func firstShown(shown time.Time, zone *time.Location) time.Time {
	from := shown.Add(-48 * time.Hour)
	for {
		t := from.In(zone)
		_, offset := t.Zone()
		_, change := t.ZoneBounds()
		at := max(from.Unix(), shown.Unix()-int64(offset))
		if change.IsZero() || at < change.Unix() {
			return time.Unix(at, 0).UTC()
		}
		from = change
	}
}
