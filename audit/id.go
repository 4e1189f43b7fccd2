package audit

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"strings"
	"time"
)

// NewID returns prefix and 16 characters of 80 random bits, which is enough
// never to meet the same id twice in a log. By custom "c" stands before the id
// of a connection and "f" before that of a forward.
func NewID(prefix string) string {
	var b [10]byte
	rand.Read(b[:]) // never fails
	return prefix + strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}

// newRun returns a ULID: 48 bits of milliseconds and 80 random ones, so that
// runs sort by their start.
func newRun(t time.Time) string {
	const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	var b [16]byte
	rand.Read(b[6:])
	hi := uint64(t.UnixMilli())<<16 | uint64(binary.BigEndian.Uint16(b[6:]))
	lo := binary.BigEndian.Uint64(b[8:])
	var s [26]byte
	for i := len(s) - 1; i >= 0; i-- {
		s[i] = alphabet[lo&31]
		lo, hi = lo>>5|hi<<59, hi>>5
	}
	return string(s[:])
}
