package tree

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// What follows is RFC 6962 section 2.1 word for word, with D[a:b] as slices.

func mth(d []string) Hash {
	switch n := len(d); n {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return sha256.Sum256([]byte("\x00" + d[0]))
	default:
		k := split(n)
		l, r := mth(d[:k]), mth(d[k:])
		return sha256.Sum256([]byte("\x01" + string(l[:]) + string(r[:])))
	}
}

// split returns the largest power of two smaller than n.
func split(n int) int {
	k := 1
	for 2*k < n {
		k *= 2
	}
	return k
}

func path(m int, d []string) []Hash {
	n := len(d)
	if n == 1 {
		return nil
	}
	k := split(n)
	if m < k {
		return append(path(m, d[:k]), mth(d[k:]))
	}
	return append(path(m-k, d[k:]), mth(d[:k]))
}

func proof(m int, d []string) []Hash { return subproof(m, d, true) }

func subproof(m int, d []string, b bool) []Hash {
	n := len(d)
	if m == n {
		if b {
			return nil
		}
		return []Hash{mth(d)}
	}
	k := split(n)
	if m <= k {
		return append(subproof(m, d[:k], b), mth(d[k:]))
	}
	return append(subproof(m-k, d[k:], false), mth(d[:k]))
}

// reader reads the nodes of the tree over d.
func reader(d []string) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]Hash, error) {
		var out []Hash
		for _, i := range indexes {
			level, n := tlog.SplitStoredHashIndex(i)
			if (n+1)<<level > int64(len(d)) {
				return nil, fmt.Errorf("node %d of level %d is not in the tree", n, level)
			}
			out = append(out, mth(d[n<<level:(n+1)<<level]))
		}
		return out, nil
	})
}

// records returns n lines.
func records(n int) []string {
	d := make([]string, n)
	for i := range d {
		d[i] = fmt.Sprintf(`{"v":1,"seq":%d,"time":"2026-11-22T01:02:03.123456Z","type":"forward.open"}`, i)
	}
	return d
}

func newKey(t testing.TB, name string) (note.Signer, note.Verifier) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(strings.NewReader(strings.Repeat(name+" ", 100)), name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func signHead(t testing.TB, s note.Signer, d []string) []byte {
	t.Helper()
	text, err := Head{Size: uint64(len(d)), Root: mth(d), Time: noon}.Sign(s)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
