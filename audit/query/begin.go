package query

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"sekisho/audit"
)

// A Begin is the first record that is left of a log.
type Begin struct {
	Record uint64    `json:"record"`
	Time   time.Time `json:"time"`
	Pruned bool      `json:"pruned"` // the folder has what retention says of those before it; whether it is true, verification finds
}

// Begins returns where the log in dir begins, if that is not with its first
// record. It returns nil, too, if that cannot be told.
func Begins(dir string) *Begin {
	segments, err := audit.Segments(dir)
	if err != nil || len(segments) == 0 || segments[0].First() == 0 {
		return nil
	}
	s := &search{dir: dir}
	h, ok := s.first(segments[0])
	if !ok {
		return nil
	}
	t, err := time.Parse(timeLayout, string(h.time))
	if err != nil {
		return nil
	}
	_, err = os.Stat(filepath.Join(dir, "pruned"))
	return &Begin{Record: h.seq, Time: t, Pruned: err == nil}
}

// Say tells it in a sentence, with times of the zone.
func (b *Begin) Say(zone *time.Location) string {
	before := "what was before is not there, and retention says nothing of it"
	if b.Pruned {
		before = "retention took what was before"
	}
	return fmt.Sprintf("the log begins with record %d of %s: %s", b.Record, b.Time.In(zone).Format(TimeLayout), before)
}
