package authz

import (
	"crypto/sha256"
	"encoding/base64"
	"net/netip"
	"strconv"
	"time"
)

// words is a sentence in the making: in room on the stack of whoever makes it,
// so that the whole of it costs one allocation. Whoever is denied may ask again
// as often as he likes.
type words []byte

// wordsRoom is as long as nearly every sentence.
type wordsRoom [384]byte

func (w words) s(text string) words { return append(w, text...) }

func (w words) u(n uint64) words { return strconv.AppendUint(w, n, 10) }

// q adds text of unknown origin as quote makes it.
func (w words) q(text string) words {
	if len(text) > mostQuoted {
		return append(strconv.AppendQuote(w, text[:mostQuoted]), "…"...)
	}
	return strconv.AppendQuote(w, text)
}

func (w words) addr(a netip.Addr) words { return a.AppendTo(w) }

// quotedAddr adds an address whose zone is of unknown origin.
func (w words) quotedAddr(a netip.Addr) words {
	var room [128]byte
	return w.q(string(a.AppendTo(room[:0])))
}

func (w words) time(t time.Time, layout string) words { return t.AppendFormat(w, layout) }

// some adds texts with commas between, and leaves out the rest of many.
func (w words) some(texts []string) words {
	for i, s := range texts {
		switch {
		case i == mostTexts:
			return w.s(" …")
		case i > 0:
			w = w.s(", ")
		}
		w = w.s(s)
	}
	return w
}

// client adds where a client is.
func (w words) client(source netip.Addr) words {
	if !source.IsValid() {
		return w.s("the address of the client is not known")
	}
	return w.s("the client is at ").addr(source)
}

// fingerprint adds that of a key in wire format, as ssh.FingerprintSHA256 has it.
func (w words) fingerprint(blob []byte) words {
	sum := sha256.Sum256(blob)
	return base64.RawStdEncoding.AppendEncode(w.s("SHA256:"), sum[:])
}

func (w words) certTime(t time.Time) words { return w.time(t.UTC(), "2006-01-02 15:04:05 MST") }
