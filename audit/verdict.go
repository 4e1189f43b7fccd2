package audit

import (
	"fmt"
	"time"

	"sekisho/audit/tree"
)

// A Kind of harm.
type Kind string

// The kinds of harm that Verify tells apart. Where numbers were put right
// after records had been taken out or put in, only KindChanged can be said.
const (
	KindEdited    Kind = "edited"          // a line is no record, or not one that can stand there
	KindRemoved   Kind = "removed"         // records are missing
	KindInserted  Kind = "inserted"        // a record stands where it never was
	KindReordered Kind = "reordered"       // records stand in another order
	KindChanged   Kind = "changed"         // records are not those that were signed
	KindRewritten Kind = "rewritten"       // the log fits its own heads, but not the one that was kept
	KindTruncated Kind = "truncated"       // the end that a head speaks of is missing
	KindRollback  Kind = "rolled_back"     // the end that the kept head speaks of is missing
	KindMissing   Kind = "missing_segment" // whole segments are missing
	KindSegment   Kind = "forged_segment"  // a segment does not begin as one does
	KindUnpack    Kind = "packed"          // a packed segment does not unpack
	KindForeign   Kind = "foreign_key"     // a head is signed with a key that was not given
	KindSignature Kind = "signature"       // a head names a given key, which has not signed it
	KindHeads     Kind = "heads"           // a signed head stands where the log did not write it
	KindPruned    Kind = "pruned"          // what is kept of records that retention took is not true
	KindForwards  Kind = "forwards"        // a forward has more than one end, or no beginning
	KindIndex     Kind = "index"           // an index is not one that the log has signed
)

// A Harm is something that no crash and no writer of the log does.
type Harm struct {
	Kind Kind   `json:"kind"`
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"` // from 1; 0 if the place is not known so exactly

	// The records that it is in: [From, To). Without a Line at least one of
	// them is not what it was.
	From uint64 `json:"from"`
	To   uint64 `json:"to"`

	Detail string `json:"detail"`
	More   int    `json:"more,omitempty"` // how many others of the kind are in the file
}

// Place is where it is, for people.
func (h Harm) Place() string {
	switch {
	case h.Line > 0:
		return fmt.Sprintf("%s:%d", h.File, h.Line)
	case h.File != "":
		return h.File
	}
	return records(h.From, h.To)
}

// records names those of [from, to).
func records(from, to uint64) string {
	if to <= from+1 {
		return fmt.Sprintf("record %d", from)
	}
	return fmt.Sprintf("records %d to %d", from, to-1)
}

// A Verdict is what Verify found.
type Verdict struct {
	Dir string `json:"dir"`

	// What was read.
	First    uint64    `json:"first"` // seq of the first record: what is before it, retention took
	Next     uint64    `json:"next"`  // seq after the last one
	Segments int       `json:"segments"`
	Bytes    int64     `json:"bytes"` // of records, unpacked
	Begin    time.Time `json:"begin,omitzero"`
	End      time.Time `json:"end,omitzero"`
	Complete bool      `json:"complete"`       // all that is there was read: false if nothing can be said of what comes after a harm
	Torn     int64     `json:"torn,omitempty"` // bytes at the end that a crash left, or that are being written
	Open     int       `json:"open_forwards"`  // that have no end yet; -1 if there were too many to follow
	Seconds  float64   `json:"seconds"`

	// What it was held against.
	Keys       []string   `json:"keys"`
	OldKeys    []string   `json:"old_keys"`
	Heads      int        `json:"heads"`      // that fit
	Signatures int        `json:"signatures"` // of heads, that were verified
	Head       *SignedFor `json:"head,omitempty"`
	Protected  uint64     `json:"protected"` // records below this are those that were signed

	// The heads that were kept elsewhere: how many, the one with the most
	// records, and what came of all. What was changed first is among the
	// records between the newest that fits and the oldest that does not.
	Kept         int        `json:"kept,omitempty"`
	Since        *SignedFor `json:"since,omitempty"`
	SinceSays    SinceSays  `json:"since_says,omitempty"`
	NewestFit    *SignedFor `json:"newest_fit,omitempty"`
	OldestMisfit *SignedFor `json:"oldest_misfit,omitempty"`

	Harms []Harm   `json:"harms"` // the first is that of the first bad record, if there is one
	Gaps  []string `json:"gaps"`  // what could not be checked
	Notes []string `json:"notes"` // what this verdict does not say
}

// A SignedFor is a head without its text.
type SignedFor struct {
	Origin string    `json:"origin"`
	Size   uint64    `json:"size"`
	Root   string    `json:"root"`
	Time   time.Time `json:"time"`
}

func signedFor(h *tree.Head) *SignedFor {
	return &SignedFor{h.Origin, h.Size, h.Root.String(), h.Time}
}

// SinceSays is what came of the heads that were kept elsewhere.
type SinceSays string

const (
	SinceFits     SinceSays = "fits"         // all, but for those of records that retention took
	SinceDiffers  SinceSays = "differs"      // one of them does
	SinceAhead    SinceSays = "ahead"        // the log is shorter
	SincePruned   SinceSays = "pruned"       // retention took records on both sides of each
	SinceNotAsked SinceSays = "not_compared" // harm stands before it
)

// Records is how many were read.
func (v *Verdict) Records() uint64 { return v.Next - v.First }

// Good reports whether nothing is wrong with what was read. If not all could
// be checked, Gaps says so.
func (v *Verdict) Good() bool { return len(v.Harms) == 0 }

// Full reports whether the log is good and nothing was left unchecked.
func (v *Verdict) Full() bool { return v.Good() && len(v.Gaps) == 0 }

// mostHarms bounds the list. Of one kind in one file only the first is told.
const mostHarms = 100

// addHarm adds h to the list.
func addHarm(list []Harm, h Harm) []Harm {
	for i := range list {
		if list[i].Kind == h.Kind && list[i].File == h.File {
			list[i].More++
			return list
		}
	}
	if len(list) < mostHarms {
		list = append(list, h)
	}
	return list
}
