package query

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"sekisho/audit"
)

// ErrNothing is returned where nothing in the log is of an id.
var ErrNothing = errors.New("nothing in the log is of it")

// What a story holds at most: of all records, and of those that only say how
// far a forward has come.
const (
	mostTold     = 10_000
	mostProgress = 100
)

// A Story is all that the log has of one forward or connection.
type Story struct {
	ID      string
	Records []audit.Record // oldest first; of a forward, the login before it is the first
	Lines   [][]byte       // as they stand in the log
	Left    int            // how many more there are

	login bool // the login is there
	begun bool // the beginning is: of a forward its open or refusal, of a connection its login
	ended bool
}

// Show finds the story of a forward or a connection by its id. Nothing follows
// the end of one and nothing is before its beginning, so that the log is read
// from its end to there, by the id alone. With an error that is Partial there
// is a story nevertheless, of all that is left.
func Show(ctx context.Context, dir, id string, opts Options) (*Story, error) {
	s := &Story{ID: id}
	var err error
	switch {
	case strings.HasPrefix(id, "f"):
		err = s.forward(ctx, dir, opts)
	case strings.HasPrefix(id, "c"):
		err = s.collect(ctx, dir, Query{Conns: []string{id}}, opts, func(t audit.Type) bool {
			return t == audit.AuthOK || t == audit.AuthFail
		})
		s.login = s.begun
	default:
		return nil, fmt.Errorf("%q is no id: that of a forward begins with f, that of a connection with c", abbreviate(id))
	}
	switch {
	case err != nil && !Partial(err):
		return nil, err
	case len(s.Records) == 0:
		return nil, cmp.Or(err, ErrNothing)
	}
	slices.Reverse(s.Records)
	slices.Reverse(s.Lines)
	return s, err
}

func (s *Story) forward(ctx context.Context, dir string, opts Options) error {
	err := s.collect(ctx, dir, Query{Forwards: []string{s.ID}}, opts, func(t audit.Type) bool {
		return t == audit.ForwardOpen || t == audit.ForwardDeny
	})
	if err != nil && !Partial(err) || len(s.Records) == 0 {
		return err
	}
	harm := err
	first := s.Records[len(s.Records)-1]
	if first.Conn == "" {
		return harm
	}
	q := Query{Conns: []string{first.Conn}, Types: []string{string(audit.AuthOK)}, To: first.Time.Add(time.Microsecond)}
	begun, ended := s.begun, s.ended
	err = s.collect(ctx, dir, q, opts, func(audit.Type) bool { return true })
	s.login, s.begun, s.ended = s.Records[len(s.Records)-1].Type == audit.AuthOK, begun, ended
	if harm != nil && (err == nil || Partial(err)) {
		err = harm
	}
	return err
}

// collect adds the records that fit, newest first, up to the one that begins.
func (s *Story) collect(ctx context.Context, dir string, q Query, opts Options, begins func(audit.Type) bool) error {
	opts.Last = 0
	search, err := newSearch(ctx, dir, q, opts)
	if err != nil {
		return err
	}
	progress := 0
	err = search.backward(0, func(line []byte, rec audit.Record) error {
		s.ended = s.ended || s.ends(rec.Type)
		first := begins(rec.Type)
		if rec.Type == audit.ForwardProgress {
			progress++
		}
		if !first && (len(s.Records) >= mostTold || rec.Type == audit.ForwardProgress && progress > mostProgress) {
			s.Left++
			return nil
		}
		s.Records, s.Lines = append(s.Records, rec), append(s.Lines, slices.Clone(line))
		if first {
			s.begun = true
			return errStop
		}
		return nil
	})
	return search.result(err)
}

func (s *Story) ends(t audit.Type) bool {
	if strings.HasPrefix(s.ID, "f") {
		return t.Ends() || t == audit.ForwardDeny
	}
	return t == audit.ConnClose || t == audit.AuthFail
}

// Older reports whether what the story begins with is not there: it stood
// before what is left of the log.
func (s *Story) Older() bool {
	return !s.begun || strings.HasPrefix(s.ID, "f") && !s.login && s.Records[0].Conn != ""
}

// WriteJSON writes the records as they stand in the log.
func (s *Story) WriteJSON(w io.Writer) error {
	for _, l := range s.Lines {
		if _, err := w.Write(append(l, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// WriteText tells the story in words, with times of the zone.
func (s *Story) WriteText(w io.Writer, zone *time.Location) error {
	var b bytes.Buffer
	first := s.Records[0]
	isForward := strings.HasPrefix(s.ID, "f")
	if isForward {
		fmt.Fprintf(&b, "Forward %s of connection %s\n\n", word(s.ID), word(first.Conn))
	} else {
		fmt.Fprintf(&b, "Connection %s\n\n", word(s.ID))
	}
	switch {
	case !s.begun:
		b.WriteString("Its beginning is not in what is left of the log.\n")
	case isForward && !s.login && first.Conn != "":
		b.WriteString("The login of its connection is not in what is left of the log.\n")
	}
	seen := map[string]int{}
	for i := range s.Records {
		r := &s.Records[i]
		title, lines := tellRecord(r)
		if r.Forward != "" && !isForward {
			title = word(r.Forward) + " " + title
		}
		fmt.Fprintf(&b, "%s  %s\n", r.Time.In(zone).Format("2006-01-02 15:04:05.000Z07:00"), title)
		for _, l := range lines {
			fmt.Fprintf(&b, "    %s\n", l)
		}
		seen[string(r.Type)]++
	}
	if s.Left > 0 {
		fmt.Fprintf(&b, "\n%s between are left out; find them with search --%s %s\n",
			count(s.Left, "record"), map[bool]string{true: "forward", false: "conn"}[isForward], word(s.ID))
	}
	if !isForward {
		s.sumUp(&b, seen)
	}
	if !s.ended {
		fmt.Fprintf(&b, "\nIt has no end yet: %s still open, unless the server was cut off and has not started since.\n",
			map[bool]string{true: "the forward is", false: "the connection is"}[isForward])
	}
	_, err := w.Write(b.Bytes())
	return err
}

// sumUp counts the forwards of a connection.
func (s *Story) sumUp(w io.Writer, seen map[string]int) {
	opened := seen[string(audit.ForwardOpen)]
	ended := seen[string(audit.ForwardClose)] + seen[string(audit.ForwardFail)] + seen[string(audit.ForwardLost)]
	parts := []string{count(opened, "forward") + " opened"}
	for _, t := range []struct {
		t    audit.Type
		word string
	}{{audit.ForwardClose, "closed"}, {audit.ForwardFail, "failed"}, {audit.ForwardLost, "lost"}, {audit.ForwardDeny, "refused"}} {
		if n := seen[string(t.t)]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, t.word))
		}
	}
	if opened > ended && s.Left == 0 {
		parts = append(parts, fmt.Sprintf("%d without an end", opened-ended))
	}
	fmt.Fprintf(w, "\n%s\n", strings.Join(parts, ", "))
}

// tellRecord says in words what a record says.
func tellRecord(r *audit.Record) (title string, lines []string) {
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	because := func() {
		if r.Reason != "" || r.Detail != "" {
			add("because: %s", Printable(strings.Trim(r.Reason+": "+r.Detail, ": ")))
		}
	}
	switch r.Type {
	case audit.AuthOK:
		title = "login of " + word(r.User)
		if r.Login != r.User {
			title += " as " + word(r.Login)
		}
		title += fromWhere(r)
		if r.Cert != (audit.Certificate{}) {
			add("by certificate %s, serial %d, of the authority %s", word(r.Cert.KeyID), r.Cert.Serial, word(r.Cert.Authority))
		}
		add("with key %s%s", word(r.Key), ifAny(", ", Printable(r.Detail)))
		if r.Client != "" {
			add("client %s", word(r.Client))
		}
		if r.Hassh != "" {
			add("hassh %s", word(r.Hassh))
		}
	case audit.AuthFail:
		title = "login failed: " + who(r) + fromWhere(r)
		if r.Hassh != "" {
			add("hassh %s", word(r.Hassh))
		}
		for _, k := range r.Offered {
			add("offered key %s", word(k))
		}
		because()
	case audit.ForwardOpen:
		title = "opened to " + word(hostPort(r.Target)) + " for " + who(r)
		add("allowed by grant %s of policy %s", word(r.Grant), word(r.Policy))
		if r.Originator != (audit.Endpoint{}) {
			add("originator, as the client says: %s", word(hostPort(r.Originator)))
		}
		addDropped(r, add)
		add("dialling %s", r.Address)
	case audit.ForwardRetry:
		title = "the next address"
		because()
		add("dialling %s", r.Address)
	case audit.ForwardProgress:
		title = fmt.Sprintf("so far %s up, %s down", size(r.BytesUp), size(r.BytesDown))
		if r.Duration > 0 {
			title += " in " + lasted(r.Duration)
		}
		if r.Reason != "" {
			because()
			add("allowed by grant %s of policy %s", word(r.Grant), word(r.Policy))
		}
	case audit.ForwardClose, audit.ForwardFail, audit.ForwardLost:
		title = map[audit.Type]string{audit.ForwardClose: "closed", audit.ForwardFail: "failed", audit.ForwardLost: "lost"}[r.Type]
		because()
		add("%s (%d bytes) up, %s (%d bytes) down", size(r.BytesUp), r.BytesUp, size(r.BytesDown), r.BytesDown)
		if r.Duration > 0 {
			add("lasted %s, %s/s", lasted(r.Duration), size(uint64(float64(sum(r.BytesUp, r.BytesDown))/r.Duration.Seconds())))
		}
	case audit.ForwardDeny:
		title = "refused: " + who(r) + " to " + word(hostPort(r.Target)) + fromWhere(r)
		because()
		addDropped(r, add)
		add("by policy %s", word(r.Policy))
	case audit.RequestDeny:
		title = "request refused: " + word(r.Request)
		because()
	case audit.ConnClose:
		title = "connection closed"
		because()
		if r.Duration > 0 {
			add("lasted %s", lasted(r.Duration))
		}
	default:
		title = word(string(r.Type))
		if w := why(r); w != "" {
			add("%s", w)
		}
	}
	return title, lines
}

func addDropped(r *audit.Record, add func(string, ...any)) {
	for _, d := range r.Dropped {
		add("not dialled: %s (%s)", d.Addr, Printable(d.Reason))
	}
}

func fromWhere(r *audit.Record) string {
	if !r.Source.Addr().IsValid() {
		return ""
	}
	return " from " + r.Source.String()
}

func ifAny(before, s string) string {
	if s == "" {
		return ""
	}
	return before + s
}
