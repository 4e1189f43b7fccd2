package audit

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
)

// An order is what the next record has to follow on.
type order struct {
	seq     []byte // the number that is next, in digits
	last    []byte // the time of the last record, as it was written
	run     string // of the last record; "" before the first
	start   bool   // the next line is the first of a segment
	stopped bool   // the run has ended with its server.stop
	shape   []byte // what stands in every line of the segment between time and type

	headless uint64 // seq of the newest server.start that has no head, as of a version that knew none
	headed   bool   // one before has a head
	dropped  bool   // one before the headless one has

	kind, rest []byte // of the line that was looked at: its type, and what is behind
}

func newOrder(next uint64) order { return order{seq: strconv.AppendUint(nil, next, 10)} }

func (o order) clone() order {
	o.seq, o.last, o.shape = bytes.Clone(o.seq), bytes.Clone(o.last), bytes.Clone(o.shape)
	o.kind, o.rest = nil, nil
	return o
}

// enter begins a segment.
func (o *order) enter() { o.start, o.shape = true, nil }

const (
	lineBegin = `{"v":1,"seq":` // as long as Version is 1
	lineTime  = `,"time":"`
)

// fast reports whether a line follows on, if it is one that the log has
// written. It is false for lines that have to be read, too.
func (o *order) fast(line []byte) bool {
	if o.shape == nil || o.stopped {
		return false
	}
	rest, ok := bytes.CutPrefix(line, []byte(lineBegin))
	if !ok {
		return false
	}
	if rest, ok = bytes.CutPrefix(rest, o.seq); !ok {
		return false
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(lineTime)); !ok || len(rest) < len(timeLayout) {
		return false
	}
	at := rest[:len(timeLayout)] // of one width, so that the text sorts as the time
	if bytes.Compare(at, o.last) < 0 {
		return false
	}
	if rest, ok = bytes.CutPrefix(rest[len(timeLayout):], o.shape); !ok {
		return false
	}
	end := bytes.IndexByte(rest, '"')
	if end < 0 {
		return false
	}
	switch string(rest[:end]) {
	case string(ServerStart), string(ServerStop), string(LogPrune):
		return false
	}
	o.kind, o.rest = rest[:end], rest[end+1:]
	o.last = append(o.last[:0], at...)
	o.count()
	return true
}

// count adds one to the number.
func (o *order) count() {
	for i, c := range slices.Backward(o.seq) {
		if c < '9' {
			o.seq[i]++
			return
		}
		o.seq[i] = '0'
	}
	o.seq = append([]byte{'1'}, o.seq...)
}

// check says why a record, whose number is right, cannot stand where it does.
// If a run begins with it, before is the head of all records before it.
func (o *order) check(r *Record, line []byte, before TreeHead) (kind Kind, why string) {
	at, starts := r.Time.Format(timeLayout), r.Type == ServerStart
	switch {
	case !o.start && starts:
		return KindSegment, "a run begins within a segment"
	case !o.start && r.Run != o.run:
		return KindInserted, fmt.Sprintf("a record of run %q in a segment of run %q", r.Run, o.run)
	case starts && r.Run == o.run:
		return KindSegment, fmt.Sprintf("run %q begins again", r.Run)
	case o.start && !starts && r.Run != o.run && (o.run != "" || r.Seq == 0):
		return KindSegment, fmt.Sprintf("run %q does not begin with %s", r.Run, ServerStart)
	case o.stopped && r.Run == o.run && r.Type != LogPrune: // retention may be at work until the log is closed
		return KindInserted, fmt.Sprintf("it stands after the %s of its run", ServerStop)
	case at < string(o.last):
		return KindEdited, fmt.Sprintf("its time is %s, and that of the record before it %s", at, o.last)
	case starts && r.Head != before && r.Head != (TreeHead{}):
		return KindChanged, fmt.Sprintf("record %d, with which a run begins, has the head of other records before it", r.Seq)
	}
	o.last = append(o.last[:0], at...)
	switch {
	case starts && r.Head != before:
		o.headless, o.dropped = r.Seq, o.headed
	case starts && r.Seq > 0:
		o.headed = true
	}
	o.stopped = r.Type == ServerStop || o.stopped && r.Run == o.run
	o.run, o.start = r.Run, false
	o.take(r, line)
	o.count()
	return "", ""
}

// take takes from the first line of a segment what all have in common, and
// from each its type.
func (o *order) take(r *Record, line []byte) {
	if o.kind, o.rest = nil, nil; r.Type == "" {
		return
	}
	begin := len(lineBegin) + len(o.seq) + len(lineTime) + len(timeLayout)
	if o.shape == nil {
		head := Record{V: r.V, Seq: r.Seq, Time: r.Time, Bastion: r.Bastion, Run: r.Run}
		o.shape = append(appendName(head.appendHead(nil), "type"), '"')[begin:]
	}
	rest, ok := bytes.CutPrefix(line[begin:], o.shape)
	if !ok {
		return
	}
	if end := bytes.IndexByte(rest, '"'); end >= 0 {
		o.kind, o.rest = rest[:end], rest[end+1:]
	}
}
