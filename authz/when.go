package authz

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// conditions narrow a user or a grant: all of them must hold. A nil one is
// none at all.
type conditions struct {
	from, except networks
	fromText     []string
	exceptText   []string
	after        moment // allowed from then on
	until        moment // refused from then on
	hours        *hours
	touch        bool
}

// A moment is an instant as the policy writes it.
type moment struct {
	set  bool
	at   time.Time
	text string // with its zone
	zone *time.Location
}

// A condition is one of conditions, in the order in which they are judged:
// what no time changes comes before what time does.
type condition uint8

const (
	condFrom condition = iota
	condExcept
	condAfter
	condUntil
	condHours
	condTouch
	numConditions
)

var conditionReasons = [numConditions]Reason{NotFrom, Excepted, NotYet, Expired, OutsideHours, NeedsTouch}

// has reports whether the condition is written.
func (c *conditions) has(k condition) bool {
	switch k {
	case condFrom:
		return len(c.from) > 0
	case condExcept:
		return len(c.except) > 0
	case condAfter:
		return c.after.set
	case condUntil:
		return c.until.set
	case condHours:
		return c.hours != nil
	}
	return c.touch
}

// holds reports whether a condition that is written holds. What is not known
// of the request holds nothing.
func (c *conditions) holds(k condition, r *Request) bool {
	switch k {
	case condFrom:
		a := sourceOf(r)
		return a.IsValid() && c.from.contains(a)
	case condExcept:
		a := sourceOf(r)
		return a.IsValid() && !c.except.contains(a)
	case condTouch:
		return r.Touch
	}
	if r.Time.IsZero() {
		return false
	}
	switch k {
	case condAfter:
		return !r.Time.Before(c.after.at)
	case condUntil:
		return r.Time.Before(c.until.at)
	case condHours:
		return c.hours.contain(r.Time.Unix())
	}
	return false
}

// sourceOf returns the client's address as networks count it. Its zone only
// tells on which link the client is.
func sourceOf(r *Request) netip.Addr { return r.Source.WithZone("").Unmap() }

// failing returns the first condition that does not hold; numConditions if
// all do. If free is set, hours do not count.
func (c *conditions) failing(r *Request, free bool) condition {
	if c == nil {
		return numConditions
	}
	for k := range numConditions {
		if c.has(k) && !(k == condHours && free) && !c.holds(k, r) {
			return k
		}
	}
	return numConditions
}

// next returns the earliest instant after the request's at which failing
// gives another answer, or the zero time if it never does.
func (c *conditions) next(r *Request, free bool) time.Time {
	switch {
	case c == nil || r.Time.IsZero():
		return time.Time{}
	case c.has(condFrom) && !c.holds(condFrom, r) || c.has(condExcept) && !c.holds(condExcept, r):
		return time.Time{}
	case c.after.set && r.Time.Before(c.after.at):
		return c.after.at
	case c.until.set && !r.Time.Before(c.until.at):
		return time.Time{}
	}
	var next time.Time
	if c.hours != nil && !free {
		next = c.hours.next(r.Time.Unix())
	}
	if c.until.set {
		next = earlier(next, c.until.at)
	}
	return next
}

// earlier returns the earlier of two instants, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// text returns what a condition asks for, about as it is written.
func (c *conditions) text(k condition) string {
	switch k {
	case condFrom:
		return "from " + some(c.fromText)
	case condExcept:
		return "except " + some(c.exceptText)
	case condAfter:
		return "after " + c.after.text
	case condUntil:
		return "until " + c.until.text
	case condHours:
		return c.hours.String()
	}
	return "touch"
}

// sentence says why a condition fails: of a user of that name if person is set,
// of a grant otherwise.
func (c *conditions) sentence(k condition, name string, person bool, r *Request) string {
	var room wordsRoom
	w := words(room[:0])
	if person {
		w = w.s(name)
	} else {
		w = w.s("grant ").q(name)
	}
	switch {
	case k == condTouch:
		return string(w.s(" needs a key whose signature shows that it was touched"))
	case person:
		w = w.s(" is allowed ")
	default:
		w = w.s(" allows ")
	}
	switch k {
	case condFrom:
		w = w.s("from ").some(c.fromText).s("; ").client(sourceOf(r))
	case condExcept:
		w = w.s("nothing from ").some(c.exceptText).s("; ").client(sourceOf(r))
	case condAfter:
		w = w.s("from ").s(c.after.text).s(" on; ").clock(r, c.after.zone)
	case condUntil:
		w = w.s("until ").s(c.until.text).s("; ").clock(r, c.until.zone)
	case condHours:
		w = w.s(c.hours.text).s("; ").clocks(c.hours, r.Time)
	}
	return string(w)
}

// clock adds what a clock of a zone shows.
func (w words) clock(r *Request, zone *time.Location) words {
	if r.Time.IsZero() {
		return w.s("the time is not known")
	}
	return w.s("it is ").time(r.Time.In(zone), "2006-01-02 15:04").s(" there")
}

// clocks adds what the clocks of the zones of hours show.
func (w words) clocks(h *hours, at time.Time) words {
	switch {
	case at.IsZero():
		return w.s("the time is not known")
	case len(h.zones) == 1:
		return w.s("it is ").time(at.In(h.zones[0].zone), "Mon 15:04").s(" there")
	}
	w = w.s("it is ")
	for i, z := range h.zones[:min(len(h.zones), mostTexts)] {
		if i > 0 {
			w = w.s(", ")
		}
		w = w.time(at.In(z.zone), "Mon 15:04").s(" in ").s(z.zone.String())
	}
	if len(h.zones) > mostTexts {
		w = w.s(" …")
	}
	return w
}

// mostTexts is how many of many texts are told.
const mostTexts = 8

// some joins texts, and leaves out the rest of many.
func some(texts []string) string {
	if len(texts) > mostTexts {
		return strings.Join(texts[:mostTexts], ", ") + " …"
	}
	return strings.Join(texts, ", ")
}

// failing returns the first condition of the grant that does not hold. To a
// forward that it carries, a grant with at_end: keep stays open past its hours.
func (g *grant) failing(r *Request) condition { return g.cond.failing(r, g.free(r)) }

func (g *grant) free(r *Request) bool {
	return g.keep && r.Running && (r.Grant == "" || r.Grant == g.name)
}

// hours are spans of the week on the clocks of some zones: what a clock on
// the wall there shows counts. An hour that it shows twice, when clocks are
// set back, counts twice; what it skips, when they are set forward, never
// comes: what would open or close meanwhile does so at that instant.
type hours struct {
	windows []window // as written
	zones   []zoneHours
	text    string // of the windows, as String gives it
}

// A window is one entry of hours.
type window struct {
	days  uint8  // bit 0 is Monday
	start uint16 // in minutes of the day
	end   uint16 // up to 1440; below start: on the next day
	zone  *time.Location
	own   bool // the zone is written, and not the policy's
}

// zoneHours are the windows of one zone put together.
type zoneHours struct {
	zone  *time.Location
	spans []span // disjoint, not even touching, in order
}

// A span is from low to just before high, in seconds of a week from Monday.
type span struct{ low, high int32 }

const (
	daySeconds  = 24 * 60 * 60
	weekSeconds = 7 * daySeconds
)

func makeHours(windows []window) *hours {
	h := &hours{windows: windows}
	for _, w := range windows {
		i := slices.IndexFunc(h.zones, func(z zoneHours) bool { return z.zone.String() == w.zone.String() })
		if i < 0 {
			i = len(h.zones)
			h.zones = append(h.zones, zoneHours{zone: w.zone})
		}
		z := &h.zones[i]
		for day := range int32(7) {
			if w.days>>day&1 == 0 {
				continue
			}
			low, high := day*daySeconds+int32(w.start)*60, day*daySeconds+int32(w.end)*60
			if w.end <= w.start {
				high += daySeconds
			}
			z.spans = append(z.spans, span{low, min(high, weekSeconds)})
			if high > weekSeconds {
				z.spans = append(z.spans, span{0, high - weekSeconds})
			}
		}
	}
	for i := range h.zones {
		h.zones[i].spans = join(h.zones[i].spans)
	}
	h.text = h.String()
	return h
}

func join(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return int(a.low - b.low) })
	out := spans[:0]
	for _, s := range spans {
		if n := len(out); n > 0 && s.low <= out[n-1].high {
			out[n-1].high = max(out[n-1].high, s.high)
		} else {
			out = append(out, s)
		}
	}
	return slices.Clip(out)
}

// contain reports whether a second of Unix time lies in the hours.
func (h *hours) contain(sec int64) bool {
	for i := range h.zones {
		if h.zones[i].contain(sec) {
			return true
		}
	}
	return false
}

// next returns the earliest instant after a second at which contain gives
// another answer. Where that is far off, it may be an earlier one.
func (h *hours) next(sec int64) time.Time {
	for i := range h.zones {
		if h.zones[i].always() {
			return time.Time{}
		}
	}
	now := h.contain(sec)
	for tries := 0; ; tries++ {
		edge, any := int64(0), false
		for i := range h.zones {
			if e, ok := h.zones[i].edge(sec); ok && (!any || e < edge) {
				edge, any = e, true
			}
		}
		switch {
		case !any:
			return time.Time{}
		case tries == 50 || h.contain(edge) != now:
			return time.Unix(edge, 0).UTC()
		}
		sec = edge
	}
}

func (z *zoneHours) contain(sec int64) bool {
	_, offset := time.Unix(sec, 0).In(z.zone).Zone()
	s := weekSecond(sec + int64(offset))
	for _, sp := range z.spans {
		if s < sp.high {
			return s >= sp.low
		}
	}
	return false
}

func (z *zoneHours) always() bool { return z.spans[0] == span{0, weekSeconds} }

// weekSecond returns the second of the week, from Monday, that a clock shows.
func weekSecond(wall int64) int32 {
	s := (wall + 3*daySeconds) % weekSeconds // 1 January 1970 was a Thursday
	if s < 0 {
		s += weekSeconds
	}
	return int32(s)
}

// edge returns the next second after sec at which contain may give another
// answer, if there is any: where spans begin or end, or the clocks are set.
func (z *zoneHours) edge(sec int64) (int64, bool) {
	if z.always() {
		return 0, false
	}
	t := time.Unix(sec, 0).In(z.zone)
	_, offset := t.Zone()
	_, change := t.ZoneBounds()
	edge := sec + int64(z.lasts(weekSecond(sec+int64(offset))))
	if !change.IsZero() && change.Unix() < edge {
		edge = change.Unix()
	}
	return edge, true
}

// lasts returns how many seconds it is, on a clock that nobody sets, until
// spans begin or end.
func (z *zoneHours) lasts(s int32) int32 {
	for _, sp := range z.spans {
		switch {
		case s < sp.low:
			return sp.low - s
		case s < sp.high:
			return sp.high - s
		}
	}
	return weekSeconds + z.spans[0].low - s
}

// String returns the hours about as they are written, each with its zone or
// all with the one zone that they are in.
func (h *hours) String() string {
	texts := make([]string, len(h.windows))
	for i, w := range h.windows {
		texts[i] = w.times()
		if len(h.zones) > 1 {
			texts[i] += " " + w.zone.String()
		}
	}
	if s := some(texts); len(h.zones) > 1 {
		return s
	} else {
		return s + " " + h.zones[0].zone.String()
	}
}

var dayNames = [7]string{"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"}

// String returns the window as it is written in normal form.
func (w window) String() string {
	if w.own {
		return w.times() + " " + w.zone.String()
	}
	return w.times()
}

func (w window) times() string {
	times := fmt.Sprintf("%02d:%02d-%02d:%02d", w.start/60, w.start%60, w.end/60, w.end%60)
	if w.days == 1<<7-1 {
		return times
	}
	var days []string
	for i := 0; i < 7; i++ {
		if w.days>>i&1 == 0 {
			continue
		}
		last := i
		for last < 6 && w.days>>(last+1)&1 == 1 {
			last++
		}
		if last-i >= 2 {
			days = append(days, dayNames[i]+"-"+dayNames[last])
			i = last
		} else {
			days = append(days, dayNames[i])
		}
	}
	return strings.Join(days, ",") + " " + times
}

// firstShown returns the first instant from a day or two before on, or from
// the given one, at which clocks in the zone show a time or a later one. For
// a time that they skip it is the instant at which they do, and for one that
// they show twice the first of the two. The time shown is given as if in UTC.
func firstShown(shown time.Time, zone *time.Location, from time.Time) time.Time {
	if from.IsZero() {
		from = shown.Add(-48 * time.Hour)
	}
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

// dayEnd returns the instant at which a day, given as if in UTC, is over in
// the zone for good.
func dayEnd(day time.Time, zone *time.Location) time.Time {
	end := firstShown(day.AddDate(0, 0, 1), zone, time.Time{})
	if _, change := end.In(zone).ZoneBounds(); !change.IsZero() && change.Sub(end) < 24*time.Hour {
		y, m, d := change.In(zone).Date()
		if y2, m2, d2 := day.Date(); y == y2 && m == m2 && d == d2 {
			return firstShown(day.AddDate(0, 0, 1), zone, change) // clocks are set back across midnight
		}
	}
	return end
}
