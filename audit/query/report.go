package query

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sekisho/audit"
)

// What a report holds at most. What comes beyond is counted together.
const (
	mostRows     = 50_000  // of those who reached something
	mostDenied   = 10_000  // refusals, and as many sources of failed logins
	mostDeniedOf = 200     // refusals of one user
	mostOpen     = 200_000 // forwards that are open at one time
	mostLogins   = 5       // login names of one source
	mostHarms    = 100     // texts of what was wrong with the log
)

// A Report sums up a log, or a part of it.
type Report struct {
	From    time.Time `json:"from,omitzero"` // as asked
	To      time.Time `json:"to,omitzero"`
	First   time.Time `json:"first,omitzero"` // of what was found
	Last    time.Time `json:"last,omitzero"`
	Records uint64    `json:"records"` // that it is made of

	// Complete is that nothing was met that is damaged or could not be read.
	Complete bool     `json:"complete"`
	Damage   []string `json:"damage,omitempty"` // what was, up to some bound
	Begins   *Begin   `json:"log_begins,omitempty"`

	Denials      []*Denial      `json:"denials"`       // most often first
	FailedLogins []*FailedLogin `json:"failed_logins"` // most often first
	Reached      []*Reached     `json:"reached"`       // by user and target
}

// A Denial is a refusal, and how often it was given.
type Denial struct {
	User    string    `json:"user"`
	Target  string    `json:"target,omitempty"`  // as it was asked for
	Request string    `json:"request,omitempty"` // if it was no target that was asked for
	Reason  string    `json:"reason"`
	Count   uint64    `json:"count"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Others  bool      `json:"others,omitempty"` // all that were too many to be named: of the user, if there is one
}

// A FailedLogin is the failures that came from one address.
type FailedLogin struct {
	Source     netip.Addr `json:"source,omitzero"`
	Count      uint64     `json:"count"`
	Logins     []string   `json:"logins"`      // some of the names that were tried
	MoreLogins bool       `json:"more_logins"` // there were others, or may have been
	First      time.Time  `json:"first"`
	Last       time.Time  `json:"last"`
	Others     bool       `json:"others,omitempty"`
}

// Reached is what one user did at one target. A forward that began before the
// time of the report counts as earlier, and its bytes and its end count.
type Reached struct {
	User      string    `json:"user"`
	Target    string    `json:"target"`
	Forwards  uint64    `json:"forwards"` // that were opened
	Earlier   uint64    `json:"earlier"`  // that were open before
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	BytesUp   uint64    `json:"bytes_up"`
	BytesDown uint64    `json:"bytes_down"`
	Closed    uint64    `json:"closed"`
	Failed    uint64    `json:"failed"`
	Lost      uint64    `json:"lost"` // in a crash of the server
	Open      uint64    `json:"open"` // at the end
	Others    bool      `json:"others,omitempty"`
}

// reported are the types of records that a report is made of.
var reported = []string{
	string(audit.ForwardOpen), string(audit.ForwardDeny), string(audit.ForwardProgress), string(audit.ForwardClose),
	string(audit.ForwardFail), string(audit.ForwardLost), string(audit.AuthFail), string(audit.AuthFlood), string(audit.RequestDeny),
}

// NewReport makes the report of the records that fit. The query must leave all types
// of records, and all ends of a forward.
func NewReport(ctx context.Context, dir string, q Query, opts Options) (*Report, error) {
	if len(q.Types)+len(q.Reasons)+len(q.Forwards)+len(q.Texts)+len(q.Requests) > 0 || q.Bytes > 0 || q.Duration > 0 || opts.Last > 0 {
		return nil, errors.New("a report is made of users, targets, addresses and times, and not of single records")
	}
	q.Types = reported
	s := newSumming(q)
	if b := Begins(dir); b != nil && q.From.Before(b.Time) {
		s.report.Begins = b
	}
	damage := opts.Damage
	opts.Damage = func(err error) {
		if len(s.report.Damage) < mostHarms {
			s.report.Damage = append(s.report.Damage, err.Error())
		}
		if damage != nil {
			damage(err)
		}
	}
	err := Search(ctx, dir, q, opts, func(_ []byte, rec audit.Record) error { return s.see(&rec) })
	if err != nil && !Partial(err) {
		return nil, err
	}
	s.report.Complete = err == nil
	return s.finish(), err
}

type pair struct{ user, target string }

type deniedKey struct {
	user, target, request, reason string
	others                        bool
}

// An openForward is one that has not ended yet, and how far it has come.
type openForward struct {
	row      *Reached
	up, down uint64
}

type summing struct {
	report  *Report
	denials map[deniedKey]*Denial
	denied  map[string]int // how many of them each user has
	failed  map[netip.Addr]*FailedLogin
	reached map[pair]*Reached
	open    map[string]*openForward
}

func newSumming(q Query) *summing {
	return &summing{
		report:  &Report{From: q.From, To: q.To, Denials: []*Denial{}, FailedLogins: []*FailedLogin{}, Reached: []*Reached{}},
		denials: map[deniedKey]*Denial{}, denied: map[string]int{}, failed: map[netip.Addr]*FailedLogin{}, reached: map[pair]*Reached{}, open: map[string]*openForward{},
	}
}

func (s *summing) see(r *audit.Record) error {
	s.report.Records++
	if s.report.First.IsZero() {
		s.report.First = r.Time
	}
	s.report.Last = r.Time
	switch r.Type {
	case audit.ForwardDeny:
		s.deny(r, deniedKey{user: r.User, target: hostPort(r.Target), reason: r.Reason})
	case audit.RequestDeny:
		s.deny(r, deniedKey{user: r.User, request: r.Request, reason: r.Reason})
	case audit.AuthFail, audit.AuthFlood:
		s.fail(r)
	default:
		return s.forward(r)
	}
	return nil
}

// deny counts a refusal. Whoever asks for ever other things gets a row of his
// own for the rest of them, and leaves the room for others to them.
func (s *summing) deny(r *audit.Record, key deniedKey) {
	d := s.denials[key]
	if d == nil && s.denied[r.User] >= mostDeniedOf {
		key = deniedKey{user: r.User, others: true}
		d = s.denials[key]
	}
	if d == nil && len(s.denials) >= mostDenied {
		key = deniedKey{others: true}
		d = s.denials[key]
	}
	if d == nil {
		d = &Denial{User: key.user, Target: key.target, Request: key.request, Reason: key.reason, First: r.Time, Others: key.others}
		s.denials[key] = d
		s.denied[key.user]++
	}
	d.Count++
	d.Last = r.Time
}

// fail counts a failed login, or a flood of them. A flood names a source or
// is what came from all others.
func (s *summing) fail(r *audit.Record) {
	const others = "::" // nobody comes from there
	key, first, count := r.Source.Addr(), r.Time, uint64(1)
	if r.Type == audit.AuthFlood {
		first, count = r.Time.Add(-r.Duration), r.Count
	}
	f := s.failed[key]
	if f == nil && (len(s.failed) >= mostDenied || !key.IsValid()) {
		key = netip.MustParseAddr(others)
		f = s.failed[key]
	}
	if f == nil {
		f = &FailedLogin{Source: key, First: first, Logins: []string{}}
		if f.Others = key == netip.MustParseAddr(others); f.Others {
			f.Source = netip.Addr{}
		}
		s.failed[key] = f
	}
	f.Count += count
	f.Last = r.Time
	if r.Type == audit.AuthFlood {
		f.MoreLogins = true // their names are not recorded
		return
	}
	login := abbreviate(r.Login)
	switch {
	case slices.Contains(f.Logins, login):
	case len(f.Logins) < mostLogins:
		f.Logins = append(f.Logins, strings.Clone(login))
	default:
		f.MoreLogins = true
	}
}

func (s *summing) row(r *audit.Record) *Reached {
	key := pair{r.User, hostPort(audit.Endpoint{Host: normalHost(r.Target.Host), Port: r.Target.Port})}
	row := s.reached[key]
	if row != nil {
		return row
	}
	row = &Reached{User: key.user, Target: key.target, First: r.Time}
	if len(s.reached) >= mostRows {
		key = pair{}
		row = &Reached{Others: true, First: r.Time}
		if others := s.reached[key]; others != nil {
			return others
		}
	}
	s.reached[key] = row
	return row
}

func (s *summing) forward(r *audit.Record) error {
	f := s.open[r.Forward]
	if f == nil {
		f = &openForward{row: s.row(r)}
		if r.Type == audit.ForwardOpen {
			f.row.Forwards++
		} else {
			f.row.Earlier++
		}
		if len(s.open) >= mostOpen {
			return fmt.Errorf("more than %d forwards are open at one time; make the report of less time, or of some users", mostOpen)
		}
		s.open[r.Forward] = f
	}
	f.row.Last = r.Time
	f.up, f.down = max(f.up, r.BytesUp), max(f.down, r.BytesDown)
	switch r.Type {
	case audit.ForwardClose:
		f.row.Closed++
	case audit.ForwardFail:
		f.row.Failed++
	case audit.ForwardLost:
		f.row.Lost++
	default:
		return nil
	}
	f.add()
	delete(s.open, r.Forward)
	return nil
}

// add adds what went through the forward.
func (f *openForward) add() {
	f.row.BytesUp, f.row.BytesDown = sum(f.row.BytesUp, f.up), sum(f.row.BytesDown, f.down)
}

// finish puts everything into an order that is always the same.
func (s *summing) finish() *Report {
	for _, f := range s.open {
		f.row.Open++
		f.add()
	}
	r := s.report
	for _, d := range s.denials {
		r.Denials = append(r.Denials, d)
	}
	slices.SortFunc(r.Denials, func(a, b *Denial) int {
		return cmp.Or(
			othersLast(a.Others, b.Others), cmp.Compare(b.Count, a.Count), cmp.Compare(a.User, b.User),
			cmp.Compare(a.Request, b.Request), cmp.Compare(a.Target, b.Target), cmp.Compare(a.Reason, b.Reason),
		)
	})
	for _, f := range s.failed {
		r.FailedLogins = append(r.FailedLogins, f)
	}
	slices.SortFunc(r.FailedLogins, func(a, b *FailedLogin) int {
		return cmp.Or(othersLast(a.Others, b.Others), cmp.Compare(b.Count, a.Count), a.Source.Compare(b.Source))
	})
	for _, row := range s.reached {
		r.Reached = append(r.Reached, row)
	}
	slices.SortFunc(r.Reached, func(a, b *Reached) int {
		return cmp.Or(othersLast(a.Others, b.Others), cmp.Compare(a.User, b.User), cmp.Compare(a.Target, b.Target))
	})
	return r
}

func othersLast(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
