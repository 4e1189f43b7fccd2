package authz

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sekisho/authz/strictyaml"
)

// parseConditions reads when and require, of a user or a grant.
func (ps *parser) parseConditions(when, require *strictyaml.Node) *conditions {
	if when == nil && require == nil {
		return nil
	}
	c := &conditions{}
	m := when.Map("from", "except", "until", "after", "hours")
	if when != nil && when.Kind == strictyaml.Mapping && m.Lacks("from", "except", "until", "after", "hours") {
		when.Errorf("when is empty").Hint = "write a condition (from, except, until, after, hours), or leave when out"
	}
	c.from, c.fromText = parseClients(m.Get("from"), "from")
	c.except, c.exceptText = parseClients(m.Get("except"), "except")
	if len(c.from) > 0 && !slices.ContainsFunc(c.from, func(p netip.Prefix) bool { return !covers(c.except, p) }) {
		m.Get("except").Warnf("no client is left: except has all that from has")
	}
	c.after = ps.parseMoment(m.Get("after"), "after")
	c.until = ps.parseMoment(m.Get("until"), "until")
	if c.after.set && c.until.set && !c.after.at.Before(c.until.at) {
		m.Get("until").Errorf("until %s is over before after %s, at line %d, begins", c.until.text, c.after.text, m.Get("after").Line)
	}
	if n := m.Get("hours"); n != nil {
		var windows []window
		for _, item := range nonEmpty(n, "hours") {
			var s string
			if !item.StringOrInt(&s) {
				continue
			}
			w, message, hint := parseWindow(s, ps.Timezone(), ps.zone)
			if message != "" {
				item.Errorf("%s", message).Hint = hint
				continue
			}
			windows = append(windows, w)
		}
		if len(windows) > 0 {
			c.hours = makeHours(windows)
		}
	}
	if require != nil {
		for _, n := range nonEmpty(require, "require") {
			var s string
			c.touch = n.OneOf(&s, "touch") || c.touch
		}
	}
	return c
}

func covers(ns networks, p netip.Prefix) bool {
	return slices.ContainsFunc(ns, func(n netip.Prefix) bool { return n.Bits() <= p.Bits() && n.Contains(p.Addr()) })
}

// parseClients reads addresses and networks of clients.
func parseClients(n *strictyaml.Node, what string) (networks, []string) {
	if n == nil {
		return nil, nil
	}
	ps := parseWithin(nonEmpty(n, what))
	texts := make([]string, len(ps))
	for i, p := range ps {
		if texts[i] = p.String(); p.IsSingleIP() {
			texts[i] = p.Addr().String()
		}
	}
	return makeNetworks(ps), texts
}

// parseGrantEnds reads at_end and limits.
func (ps *parser) parseGrantEnds(atEnd, limits *strictyaml.Node, g *grant) {
	var end string
	if atEnd.OneOf(&end, "close", "keep") {
		g.keep = end == "keep"
		if g.cond == nil || g.cond.hours == nil {
			atEnd.Key().Warnf("at_end says what the end of hours does to forwards that run, and the grant has no hours")
		}
	}
	m := limits.Map("duration", "forwards")
	if limits != nil && limits.Kind == strictyaml.Mapping && m.Lacks("duration", "forwards") {
		limits.Errorf("limits is empty").Hint = "write a limit (duration, forwards), or leave limits out"
	}
	if n := m.Get("duration"); n.Duration(&g.limits.Duration) && g.limits.Duration == 0 {
		n.Errorf("a duration of 0 is not clear").Hint = "leave it out for no limit"
	}
	m.Get("forwards").Int(&g.limits.Forwards, 1, math.MaxInt32)
}

// zone loads a zone once.
func (ps *parser) zone(name string) *time.Location {
	if z, ok := ps.zonesSeen[name]; ok {
		return z
	}
	z, err := time.LoadLocation(name)
	if err != nil || name == "" || name == "Local" {
		z = nil
	}
	ps.zonesSeen[name] = z
	return z
}

const (
	dateForm   = "2006-01-02"
	minuteForm = "2006-01-02 15:04"
	dateHint   = "write a date such as 2027-03-31, or with the time 2027-03-31 18:00"
)

// otherDates are forms whose meaning is clear, but which are not the one.
var otherDates = []string{"2006-1-2", "2006/1/2", "2006.1.2", "20060102", "2.1.2006", "2 Jan 2006", "2 January 2006", "Jan 2, 2006", "January 2, 2006"}

// parseMoment reads until or after.
func (ps *parser) parseMoment(n *strictyaml.Node, what string) moment {
	var s string
	if !n.StringOrInt(&s) {
		return moment{}
	}
	zone := ps.Timezone()
	m, message, hint := parseMoment(s, zone, what == "until")
	if message != "" {
		n.Errorf("%s: %s", what, message).Hint = hint
	}
	return m
}

// parseMoment reads a date, or a date and a time, as clocks in the zone show
// them. If end is set, a date without a time is the end of that day.
func parseMoment(s string, zone *time.Location, end bool) (m moment, message, hint string) {
	m = moment{set: true, text: s + " " + zone.String(), zone: zone}
	day, err := time.Parse(dateForm, s)
	if err == nil {
		if m.at = firstShown(day, zone, time.Time{}); end {
			m.at = dayEnd(day, zone)
		}
		return m, "", ""
	}
	if strings.Contains(err.Error(), "day out of range") {
		return moment{}, "there is no day " + quote(s), ""
	}
	for _, form := range []string{minuteForm, "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02T15:04:05"} {
		t, err := time.Parse(form, s)
		if err == nil && t.Nanosecond() == 0 && len(s) == len(form) {
			m.at = firstShown(t, zone, time.Time{})
			return m, "", ""
		}
		if err != nil && strings.Contains(err.Error(), "day out of range") {
			return moment{}, "there is no day " + quote(s[:len(dateForm)]), ""
		}
	}
	if t, err := time.Parse(time.RFC3339, strings.Replace(s, " ", "T", 1)); err == nil {
		form := minuteForm
		if t.Second() != 0 {
			form += ":05"
		}
		return moment{}, quote(s) + " has a zone of its own, and a date is in the policy's", didYouMean(t.In(zone).Format(form))
	}
	if t, err := time.Parse("2006-1-2 15:4", s); err == nil {
		return moment{}, quote(s) + " is not a date and time in this form", didYouMean(t.Format(minuteForm))
	}
	for _, form := range otherDates {
		if t, err := time.Parse(form, s); err == nil {
			return moment{}, quote(s) + " is not a date in this form", didYouMean(t.Format(dateForm))
		}
	}
	return moment{}, quote(s) + " is not a date", dateHint
}

const hoursHint = `write hours such as "Mon-Fri 09:00-19:00" or "22:00-06:00 Europe/Berlin"`

var (
	aroundDash  = regexp.MustCompile(`\s*[-–—]\s*`)
	aroundComma = regexp.MustCompile(`\s*,\s*`)
	withSeconds = regexp.MustCompile(`[0-9]:[0-9]+:`)
	clockForm   = regexp.MustCompile(`[0-9]:[0-9]`)
	timeForm    = regexp.MustCompile(`^([0-9]{1,2})(?:[:.h]([0-9]{2}))?$`)
)

// parseWindow reads one entry of hours. Zone is the policy's, load finds
// others. The message says what is wrong, the hint what to write.
func parseWindow(s string, zone *time.Location, load func(string) *time.Location) (w window, message, hint string) {
	if len(s) > 200 {
		return w, quote(s) + " is too long", hoursHint
	}
	// Read all that can only mean one thing, and take only what is as it
	// would be written back.
	fields := strings.Fields(aroundComma.ReplaceAllString(aroundDash.ReplaceAllString(s, "-"), ","))
	at := slices.IndexFunc(fields, func(f string) bool { return f != "" && '0' <= f[0] && f[0] <= '9' })
	if at < 0 {
		if len(fields) == 1 {
			if _, days, odd, _ := parseDays(fields[0]); odd == "" {
				return w, quote(s) + " has no times", "for the whole day write " + fmt.Sprintf("%q", days+" 00:00-24:00")
			}
		}
		return w, quote(s) + " are not hours", hoursHint
	}
	if withSeconds.MatchString(s) {
		return w, quote(s) + " has seconds, and hours are told in minutes", hoursHint
	}
	if len(clockForm.FindAllString(s, 3)) > 2 {
		return w, quote(s) + " has more than one span of time", "write each as an entry of its own"
	}
	days, rest := fields[:at], fields[at+1:]
	if len(days) == 0 && len(rest) > 0 { // the other way round?
		if _, _, odd, meant := parseDays(strings.Join(rest, ",")); odd == "" || meant {
			days, rest = rest, nil
		}
	}
	var normal, odd string // as it should be; the first thing that is not
	w.days = 1<<7 - 1
	if len(days) > 0 {
		var text, o string
		var meant bool
		if w.days, text, o, meant = parseDays(strings.Join(days, ",")); o != "" {
			odd = o
			if !meant {
				if day := daySuggested(days[0]); len(days) == 1 && day != "" {
					return window{}, odd, didYouMean(day)
				}
				return window{}, odd, "days are Mon, Tue, Wed, Thu, Fri, Sat, Sun, as in \"Mon-Fri\" or \"Mon,Wed\""
			}
		}
		if text != "" {
			normal = text + " "
		}
	}
	start, end, ok := strings.Cut(fields[at], "-")
	if !ok {
		return window{}, quote(fields[at]) + " has no end", hoursHint
	}
	for _, t := range []struct {
		text string
		dst  *uint16
		sep  string
	}{{start, &w.start, "-"}, {end, &w.end, ""}} {
		minutes, ok := parseClock(t.text)
		if !ok {
			return window{}, quote(t.text) + " is not a time from 00:00 to 24:00", hoursHint
		}
		*t.dst = minutes
		form := fmt.Sprintf("%02d:%02d", minutes/60, minutes%60)
		if normal += form + t.sep; form != t.text && odd == "" {
			odd = "the time " + quote(t.text) + " is not written " + form
		}
	}
	switch {
	case w.start == w.end || w.start == 24*60 && w.end == 0:
		return window{}, quote(fields[at]) + " begins when it ends", `for the whole day write "` + strings.Replace(normal, normal[len(normal)-11:], "00:00-24:00", 1) + `"`
	case w.start == 24*60:
		return window{}, quote(fields[at]) + " begins at 24:00, which is only an end", "write 00:00, and the day after"
	case w.end == 0:
		w.end = 24 * 60
	}
	w.zone = zone
	if len(rest) > 0 {
		name := strings.Join(rest, " ")
		if w.zone, w.own = load(name), true; w.zone == nil {
			hint := "write its name in the tz database, such as Asia/Tokyo or UTC"
			if meant := zoneMeant(name, load); meant != "" {
				hint = didYouMean(meant)
			}
			return window{}, "the timezone " + quote(name) + " is not known", hint
		}
		normal += " " + name
	}
	if odd == "" && normal != s {
		odd = "the hours " + quote(s) + " are not in normal form"
	}
	if odd != "" {
		return window{}, odd, didYouMean(normal)
	}
	return w, "", ""
}

// parseClock reads "09:00", and also "9" and the like.
func parseClock(s string) (minutes uint16, ok bool) {
	m := timeForm.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	hour, _ := strconv.Atoi(m[1])
	minute, _ := strconv.Atoi(m[2]) // 0 where there are none
	if minute > 59 || hour*60+minute > 24*60 {
		return 0, false
	}
	return uint16(hour*60 + minute), true
}

// parseDays reads "Mon,Wed-Fri". The text is how it is written rightly. What
// is odd about it otherwise is said, and whether it is yet clear what is meant.
func parseDays(s string) (mask uint8, text, odd string, meant bool) {
	var parts []string
	meant = true
	note := func(what string) {
		if odd == "" {
			odd = what
		}
	}
	for _, part := range strings.Split(s, ",") {
		if mean, ok := dayWords[strings.ToLower(part)]; ok {
			note(quote(part) + " is not a day")
			if mean == "" {
				return 1<<7 - 1, "", odd, true
			}
			part = mean
		}
		a, b, isRange := strings.Cut(part, "-")
		first, ok := dayOf(a)
		if !ok {
			return 0, "", quote(a) + " is not a day", false
		}
		if dayNames[first] != a {
			note(quote(a) + " is not a day")
		}
		last := first
		if isRange {
			if last, ok = dayOf(b); !ok {
				return 0, "", quote(b) + " is not a day", false
			}
			if dayNames[last] != b {
				note(quote(b) + " is not a day")
			}
			if first == last {
				return 0, "", "the days " + quote(part) + " begin and end with the same one", false
			}
		}
		for d := first; ; d = (d + 1) % 7 {
			mask |= 1 << d
			if d == last {
				break
			}
		}
		if parts = append(parts, dayNames[first]); isRange {
			parts[len(parts)-1] += "-" + dayNames[last]
		}
	}
	return mask, strings.Join(parts, ","), odd, meant
}

var dayWords = map[string]string{
	"weekdays": "Mon-Fri", "weekday": "Mon-Fri", "workdays": "Mon-Fri", "weekend": "Sat,Sun", "weekends": "Sat,Sun",
	"daily": "", "everyday": "", "always": "", "*": "",
}

// dayOf returns the day that a word means, from two letters on, in English or
// as a German or Dutch calendar shortens it.
func dayOf(s string) (int, bool) {
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if len(s) < 2 {
		return 0, false
	}
	for i, name := range [7]string{"monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"} {
		if strings.HasPrefix(name, s) || strings.HasPrefix(name+"s", s) {
			return i, true
		}
	}
	i, ok := map[string]int{"weds": 2, "thurs": 3, "di": 1, "mi": 2, "do": 3, "so": 6}[s]
	return i, ok
}

// daySuggested returns the day that a single word is a misspelling of, or "".
func daySuggested(word string) string { return strictyaml.Suggest(word, dayNames[:]) }

// zoneMeant returns the zone that a name is a misspelling of, or "".
func zoneMeant(name string, load func(string) *time.Location) string {
	parts := strings.Split(strings.ReplaceAll(name, " ", "_"), "/")
	for i, p := range parts {
		words := strings.Split(strings.ToLower(p), "_")
		for j, w := range words {
			if w != "" {
				words[j] = strings.ToUpper(w[:1]) + w[1:]
			}
		}
		parts[i] = strings.Join(words, "_")
	}
	for _, try := range []string{strings.Join(parts, "/"), strings.ToUpper(name)} {
		if try != name && load(try) != nil {
			return try
		}
	}
	return strictyaml.Suggest(name, commonZones)
}

var commonZones = []string{
	"UTC", "Africa/Cairo", "Africa/Johannesburg", "Africa/Lagos", "Africa/Nairobi", "America/Anchorage", "America/Bogota", "America/Buenos_Aires",
	"America/Chicago", "America/Denver", "America/Halifax", "America/Los_Angeles", "America/Mexico_City", "America/New_York", "America/Phoenix",
	"America/Sao_Paulo", "America/Toronto", "Asia/Bangkok", "Asia/Dhaka", "Asia/Dubai", "Asia/Ho_Chi_Minh", "Asia/Hong_Kong", "Asia/Jakarta",
	"Asia/Jerusalem", "Asia/Karachi", "Asia/Kolkata", "Asia/Kuala_Lumpur", "Asia/Manila", "Asia/Riyadh", "Asia/Seoul", "Asia/Shanghai",
	"Asia/Singapore", "Asia/Taipei", "Asia/Tokyo", "Australia/Adelaide", "Australia/Brisbane", "Australia/Lord_Howe", "Australia/Melbourne",
	"Australia/Perth", "Australia/Sydney", "Europe/Amsterdam", "Europe/Athens", "Europe/Berlin", "Europe/Brussels", "Europe/Budapest",
	"Europe/Copenhagen", "Europe/Dublin", "Europe/Helsinki", "Europe/Istanbul", "Europe/Kyiv", "Europe/Lisbon", "Europe/London", "Europe/Madrid",
	"Europe/Moscow", "Europe/Oslo", "Europe/Paris", "Europe/Prague", "Europe/Rome", "Europe/Stockholm", "Europe/Vienna", "Europe/Warsaw",
	"Europe/Zurich", "Pacific/Auckland", "Pacific/Honolulu",
}
