package audit

import (
	"bytes"
	"fmt"
)

// What is remembered of forwards is bounded: more of them than a server can have
// open, and more of each than its id is long.
const (
	mostOpen = 100_000
	mostID   = 64 // bytes of an id that tell it from others
)

// openForwards are those that have no end yet, with the record that opened
// them. Each record is looked at once.
type openForwards struct {
	next uint64 // of the record that is looked at next
	from uint64 // the first record of all
	open map[string]uint64
	full bool // there were too many
}

// see takes a record, of which rest is what stands behind the type, and says
// what is wrong with it.
func (o *openForwards) see(kind, rest []byte, seq uint64) string {
	if o.open == nil {
		o.open, o.from = map[string]uint64{}, seq
	}
	o.next = seq + 1
	if o.full || !bytes.HasPrefix(kind, []byte("forward.")) {
		return ""
	}
	opens, ends := string(kind) == string(ForwardOpen), false
	switch string(kind) {
	case string(ForwardClose), string(ForwardFail), string(ForwardLost):
		ends = true
	}
	if !opens && !ends {
		return ""
	}
	id := forwardOf(rest)
	id = id[:min(len(id), mostID)]
	before, known := o.open[string(id)]
	switch {
	case opens && known:
		return fmt.Sprintf("forward %.40q is opened again, which record %d did", id, before)
	case opens && len(o.open) == mostOpen:
		o.full, o.open = true, map[string]uint64{}
	case opens:
		o.open[string(id)] = seq
	case known:
		delete(o.open, string(id))
	case o.from == 0: // else it was opened by a record that is gone
		return fmt.Sprintf("forward %.40q ends and is not open", id)
	}
	return ""
}

// forwardOf returns the id of a forward as it is written. Ids are the server's
// own and have nothing to escape.
func forwardOf(rest []byte) []byte {
	const conn, forward = `,"conn":"`, `,"forward":"`
	if b, ok := bytes.CutPrefix(rest, []byte(conn)); ok {
		if i := bytes.IndexByte(b, '"'); i >= 0 {
			rest = b[i+1:]
		}
	}
	b, ok := bytes.CutPrefix(rest, []byte(forward))
	i := bytes.IndexByte(b, '"')
	if !ok || i < 0 {
		return nil
	}
	return b[:i]
}
