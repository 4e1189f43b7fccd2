package krl

import (
	"cmp"
	"errors"
	"math"
	"math/bits"
	"slices"
)

// serials is a set of serial numbers, without 0. It takes a few times the bytes
// that it was read from, whatever they are: were bitmaps turned into ranges,
// each byte of one could become four of them.
type serials struct {
	words  map[uint64]uint64 // bit s%64 of words[s/64] is serial s, of lists and bitmaps
	ranges []span            // in order and disjoint, once merged
}

// A span is the serials from lo to hi, both among them.
type span struct{ lo, hi uint64 }

var (
	errSerialZero = errors.New("serial 0 cannot be revoked: it is what certificates without a serial have")
	errBackwards  = errors.New("the range of serials ends before it begins")
	errWraps      = errors.New("the bitmap of serials goes beyond the largest serial")
)

func (s *serials) add(serial uint64) error {
	if serial == 0 {
		return errSerialZero
	}
	s.set(serial/64, 1<<(serial%64))
	return nil
}

func (s *serials) addRange(lo, hi uint64) error {
	switch {
	case lo > hi:
		return errBackwards
	case lo == 0:
		return errSerialZero
	}
	s.ranges = append(s.ranges, span{lo, hi})
	return nil
}

// addBitmap adds offset+n for each bit n of a big-endian number.
func (s *serials) addBitmap(offset uint64, bitmap []byte) error {
	for i := range bitmap {
		b := bitmap[len(bitmap)-1-i]
		if b == 0 {
			continue
		}
		n := 8 * uint64(i) // of the byte's lowest bit
		if last := n + uint64(bits.Len8(b)) - 1; last > math.MaxUint64-offset {
			return errWraps
		}
		if offset+n == 0 && b&1 != 0 {
			return errSerialZero
		}
		// The byte may lie across two words.
		word, shift := (offset+n)/64, (offset+n)%64
		s.set(word, uint64(b)<<shift)
		s.set(word+1, uint64(b)>>(64-shift))
	}
	return nil
}

func (s *serials) set(word, mask uint64) {
	if mask == 0 {
		return
	}
	if s.words == nil {
		s.words = make(map[uint64]uint64)
	}
	s.words[word] |= mask
}

// merge puts the ranges in order, once all are there.
func (s *serials) merge() {
	slices.SortFunc(s.ranges, func(a, b span) int { return cmp.Compare(a.lo, b.lo) })
	out := s.ranges[:0]
	for _, r := range s.ranges {
		// No range begins at 0, so that r.lo-1 is a serial or 0.
		if last := len(out) - 1; last >= 0 && r.lo-1 <= out[last].hi {
			out[last].hi = max(out[last].hi, r.hi)
			continue
		}
		out = append(out, r)
	}
	s.ranges = slices.Clip(out)
}

func (s *serials) has(serial uint64) bool {
	if s.words[serial/64]&(1<<(serial%64)) != 0 {
		return true
	}
	_, found := slices.BinarySearchFunc(s.ranges, serial, func(r span, serial uint64) int {
		switch {
		case r.hi < serial:
			return -1
		case r.lo > serial:
			return 1
		}
		return 0
	})
	return found
}

func (s *serials) count() (single, ranges int) {
	for _, w := range s.words {
		single += bits.OnesCount64(w)
	}
	return single, len(s.ranges)
}
