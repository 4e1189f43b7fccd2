package query

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
	"unicode/utf8"

	"sekisho/audit"
)

// A Query says which records are wanted. What is empty asks for nothing. All
// conditions are to hold; several values of one are alternatives.
type Query struct {
	Users     []string
	Logins    []string // login names that clients sent
	Keys      []string // fingerprints, of the proven key or of one offered
	Targets   []string // host or host:port as asked; "*" stands for part of one label
	Addresses []string // that were dialled: IP, IP:port or network
	Sources   []string // that clients came from: IP, IP:port or network
	Types     []string // "forward.open", or all that begin so: "forward." or "forward"
	Reasons   []string
	Grants    []string
	Conns     []string // ids of connections
	Forwards  []string // ids of forwards
	Requests  []string // parts of what was requested
	Texts     []string // parts of any text in the record

	Bytes    uint64        // at least so many, up and down together
	Duration time.Duration // at least so long

	From time.Time // not before; zero: from the first record on
	To   time.Time // before; zero: to the last record
}

// An Index knows of a closed segment what cannot be in it.
type Index interface {
	// Span returns the times of its first and its last record.
	Span() (from, to time.Time)

	// May reports whether a record of the segment may have the value in the
	// field, as its line names it: user, login, key, offered, conn, forward,
	// type, grant, reason; and target.host (in lower case and without a final
	// dot), address.ip and source.ip. Of a field it does not know it says yes.
	May(field, value string) bool
}

// Options say how a log is searched. The zero value is good.
type Options struct {
	// Last, if not 0, finds the last so many records only. They are still
	// handed over oldest first.
	Last int

	// Index returns what is known of a segment, or nil. What is found does not
	// depend on it, only how fast.
	Index func(audit.Segment) Index

	// Damage is told what is wrong with the log, at once. The search goes on,
	// and its error wraps ErrDamaged in the end.
	Damage func(error)

	// Progress is told how many bytes of how many have been gone through.
	Progress func(done, all int64)
}

// Check returns what is wrong with the query as a person wrote it, or nil.
func (q Query) Check() error {
	if _, err := q.compile(); err != nil {
		return err
	}
	return q.spelt()
}

// A plan is a query that is ready to be asked.
type plan struct {
	filters  []*filter // the one that is searched for is first
	from, to []byte    // as lines write times; nil: no limit
	q        Query
}

// A filter is one condition of a query.
type filter struct {
	rank int // the lower, the fewer lines are likely to fit

	// A line that fits has one of the needles in it. None: nothing is known of
	// how such a line looks.
	needles [][]byte

	// near reports whether a line may fit by what follows the needle in it. nil:
	// the needle says it all. The needle is not twice in a line then.
	near func(rest []byte) bool

	// may reports whether a segment may have it by its index. nil: unknown.
	may func(Index) bool

	fits func(*audit.Record) bool
}

// mostNeedles are searched for one by one. More are looked up where the name of
// the field stands.
const mostNeedles = 4

// longestNeedle is what the processor can search for fast.
const longestNeedle = 63

func (q Query) compile() (*plan, error) {
	p := &plan{q: q}
	if !q.From.IsZero() {
		p.from = rawTime(q.From)
	}
	if !q.To.IsZero() {
		p.to = rawTime(q.To)
	}
	for _, add := range []func(Query) (*filter, error){
		byForward, byConn, byKey, byAddress, bySource, byTarget, byUser, byLogin,
		byRequest, byText, byGrant, byReason, byType, byBytes, byDuration,
	} {
		f, err := add(q)
		if err != nil {
			return nil, err
		}
		if f != nil {
			p.filters = append(p.filters, f)
		}
	}
	slices.SortStableFunc(p.filters, func(a, b *filter) int { return cmp.Compare(a.cost(), b.cost()) })
	return p, nil
}

// cost orders filters by how fast they find the next line that may fit.
func (f *filter) cost() int {
	if len(f.needles) == 0 {
		return math.MaxInt
	}
	return f.rank
}

// fits judges a record by every condition.
func (p *plan) fits(r *audit.Record) bool {
	if !p.q.From.IsZero() && r.Time.Before(p.q.From) || !p.q.To.IsZero() && !r.Time.Before(p.q.To) {
		return false
	}
	for _, f := range p.filters {
		if !f.fits(r) {
			return false
		}
	}
	return true
}

// needle is the filter by which lines are found, or nil.
func (p *plan) needle() *filter {
	if len(p.filters) == 0 || len(p.filters[0].needles) == 0 {
		return nil
	}
	return p.filters[0]
}

// may reports whether a line that has the needle may fit, by what can be seen
// without parsing it.
func (p *plan) may(line []byte) bool {
	if len(p.filters) < 2 {
		return true
	}
	for _, f := range p.filters[1:] {
		if len(f.needles) > 0 && !f.mayBe(line) {
			return false
		}
	}
	return true
}

func (f *filter) mayBe(line []byte) bool {
	for _, n := range f.needles {
		if i := bytes.Index(line, n); i >= 0 && (f.near == nil || f.near(line[i+len(n):])) {
			return true
		}
	}
	return false
}

// helps reports whether the index says that the segment may hold what is
// wanted.
func (p *plan) helps(i Index) bool {
	from, to := i.Span()
	if !p.q.From.IsZero() && to.Before(p.q.From) || !p.q.To.IsZero() && !from.Before(p.q.To) {
		return false
	}
	for _, f := range p.filters {
		if f.may != nil && !f.may(i) {
			return false
		}
	}
	return true
}

const timeLayout = "2006-01-02T15:04:05.000000Z" // as records write it

// rawTime is t as records write it, so that times compare as texts do. The
// records have microseconds: what lies between two is the later one.
func rawTime(t time.Time) []byte {
	t = t.UTC()
	if cut := t.Truncate(time.Microsecond); cut.Before(t) {
		t = cut.Add(time.Microsecond)
	}
	switch {
	case t.Year() < 0:
		t = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	case t.Year() > 9999:
		return []byte("~") // after all that can be written
	}
	return t.AppendFormat(nil, timeLayout)
}

// A head is what every line begins with.
type head struct {
	seq  uint64
	time []byte // as it is written; not judged
}

const (
	headSeq  = `{"v":1,"seq":`
	headTime = `,"time":"`
)

// readHead reads it. If it is not there the line is no record.
func readHead(line []byte) (h head, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte(headSeq))
	if !ok {
		return h, false
	}
	i := 0
	for ; i < len(rest) && '0' <= rest[i] && rest[i] <= '9'; i++ {
		d := uint64(rest[i] - '0')
		if h.seq > (math.MaxUint64-d)/10 {
			return h, false
		}
		h.seq = h.seq*10 + d
	}
	rest, ok = bytes.CutPrefix(rest[i:], []byte(headTime))
	if i == 0 || !ok || len(rest) < len(timeLayout) {
		return h, false
	}
	h.time = rest[:len(timeLayout)]
	return h, true
}

// early and late report whether a line lies outside the times that are wanted.
func (p *plan) early(h head) bool { return p.from != nil && bytes.Compare(h.time, p.from) < 0 }
func (p *plan) late(h head) bool  { return p.to != nil && bytes.Compare(h.time, p.to) >= 0 }

// encode writes s as it stands between quotes in a line. What a line cannot
// hold is an error.
func encode(s, what string) ([]byte, error) {
	const before, after = `,"user":"`, `"}`
	b := audit.Record{User: s}.AppendJSON(nil)
	i := bytes.Index(b, []byte(before))
	if i < 0 {
		return nil, fmt.Errorf("the %s is empty", what)
	}
	b = b[i+len(before) : len(b)-len(after)]
	back, err := audit.ParseRecord(audit.Record{V: audit.Version, User: s}.AppendJSON(nil))
	if err != nil || back.User != s {
		return nil, fmt.Errorf("no record can have the %s %q: it is too long or no valid text", what, abbreviate(s))
	}
	return b, nil
}

// abbreviate keeps messages short. What it cuts stays text.
func abbreviate(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	n := most
	for n > most-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
