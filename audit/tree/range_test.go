package tree

import (
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

func rangeOf(d []string, first, next int) Range {
	r := NewRange(uint64(first))
	for _, line := range d[first:next] {
		r.Append(Leaf([]byte(line)))
	}
	return r
}

func text(t *testing.T, r Range) string {
	t.Helper()
	b, err := r.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The leaves and roots are those of Certificate Transparency's own tests.
func TestRootsKnownFromElsewhere(t *testing.T) {
	leaves := []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"}
	roots := []string{
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
		"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
		"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
		"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	}
	var r Range
	for n, want := range roots {
		got, err := r.Root()
		if err != nil || hex.EncodeToString(got[:]) != want {
			t.Errorf("the root of %d leaves is %x, %v; want %s", n, got, err, want)
		}
		if n < len(leaves) {
			line, _ := hex.DecodeString(leaves[n])
			r.Append(Leaf(line))
		}
	}
}

func TestLeafOfLinesOfAllLengths(t *testing.T) {
	for _, n := range []int{0, 1, 500, 1022, 1023, 1024, 1025, 5000, 1 << 20} {
		line := strings.Repeat("x", n)
		if got := Leaf([]byte(line)); got != mth([]string{line}) {
			t.Errorf("the leaf of %d bytes is %v", n, got)
		}
	}
}

func TestRangeIsThatOfTheRFC(t *testing.T) {
	const most = 70
	d := records(most)
	for first := range most + 1 {
		for next := first; next <= most; next++ {
			r := rangeOf(d, first, next)
			if r.First() != uint64(first) || r.Next() != uint64(next) {
				t.Fatalf("[%d,%d) is [%d,%d)", first, next, r.First(), r.Next())
			}
			got, err := r.Root()
			if first == 0 && (err != nil || got != mth(d[:next])) || first != 0 && err == nil {
				t.Fatalf("the root of [%d,%d) is %v, %v", first, next, got, err)
			}
			checkNodes(t, r, d)
			parsed, err := ParseRange([]byte(text(t, r)))
			if err != nil || text(t, parsed) != text(t, r) {
				t.Fatalf("%s is read as %s, %v", text(t, r), text(t, parsed), err)
			}
		}
	}
}

// checkNodes asks for every subtree there can be: the range has those that lie
// in it and whose parent does not.
func checkNodes(t *testing.T, r Range, d []string) {
	t.Helper()
	in := func(level, n int) bool {
		return uint64(n<<level) >= r.First() && uint64((n+1)<<level) <= r.Next()
	}
	for level := range 8 {
		for n := range len(d)>>level + 2 {
			got, ok := r.Node(level, uint64(n))
			if want := in(level, n) && !in(level+1, n>>1); ok != want {
				t.Fatalf("[%d,%d): node %d of level %d is there: %t", r.First(), r.Next(), n, level, ok)
			}
			if ok && got != mth(d[n<<level:(n+1)<<level]) {
				t.Fatalf("[%d,%d): node %d of level %d is wrong", r.First(), r.Next(), n, level)
			}
		}
	}
}

func TestJoinIsTheSameAsAppend(t *testing.T) {
	const most = 40
	d := records(most)
	for a := range most + 1 {
		for b := a; b <= most; b++ {
			for c := b; c <= most; c++ {
				r := rangeOf(d, a, b)
				if err := r.Join(rangeOf(d, b, c)); err != nil {
					t.Fatal(err)
				}
				if want := rangeOf(d, a, c); text(t, r) != text(t, want) {
					t.Fatalf("[%d,%d)+[%d,%d) is %s, want %s", a, b, b, c, text(t, r), text(t, want))
				}
			}
		}
	}
}

func TestJoinOfManyRandomPieces(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		d := records(1 + rnd.IntN(3000))
		var r Range
		for at := 0; at < len(d); {
			next := min(len(d), at+1+rnd.IntN(700))
			if err := r.Join(rangeOf(d, at, next)); err != nil {
				t.Fatal(err)
			}
			at = next
		}
		if got, err := r.Root(); err != nil || got != mth(d) {
			t.Fatalf("the root of %d records in pieces is %v, %v", len(d), got, err)
		}
	}
}

func TestJoinRefusesAGap(t *testing.T) {
	d := records(10)
	for _, next := range []Range{rangeOf(d, 6, 8), rangeOf(d, 4, 8), NewRange(0), NewRange(9)} {
		r := rangeOf(d, 0, 5)
		before := text(t, r)
		if err := r.Join(next); err == nil || text(t, r) != before {
			t.Errorf("[0,5)+[%d,%d): %v", next.First(), next.Next(), err)
		}
	}
}

func TestCloneSharesNothing(t *testing.T) {
	d := records(12)
	r := rangeOf(d, 0, 7)
	c := r.Clone()
	for _, line := range d[7:] {
		r.Append(Leaf([]byte(line)))
	}
	c.Append(Leaf([]byte("other")))
	if got, _ := r.Root(); got != mth(d) {
		t.Error("the clone changed the range")
	}
	if got, _ := c.Root(); got != mth(append(d[:7:7], "other")) {
		t.Error("the range changed the clone")
	}
}

func TestParseRangeIsStrict(t *testing.T) {
	h := mth([]string{"x"}).String()
	for name, text := range map[string]string{
		"nothing":                       "",
		"one number":                    "0",
		"a leading zero":                "0 01 " + h,
		"a sign":                        "+0 1 " + h,
		"two spaces":                    "0  1 " + h,
		"a space at the end":            "0 1 " + h + " ",
		"a newline at the end":          "0 1 " + h + "\n",
		"too few hashes":                "0 3 " + h,
		"too many hashes":               "0 1 " + h + " " + h,
		"a hash of none":                "5 5 " + h,
		"an end before the beginning":   "3 2",
		"a size beyond all":             "0 1152921504606846977 " + h,
		"a number beyond 64 bits":       "0 18446744073709551616 " + h,
		"a hash that is cut":            "0 1 " + h[:43],
		"a hash with other last bits":   "0 1 " + h[:42] + string(h[42]+1) + "=",
		"a hash in URL-safe base64":     "0 1 " + strings.Repeat("_", 43) + "=",
		"a hash with a carriage return": "0 1 " + h[:43] + "\r",
		"endless":                       "0 1 " + strings.Repeat(h+" ", 1000),
	} {
		if _, err := ParseRange([]byte(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var r Range
	if err := r.UnmarshalText([]byte("7 7")); err != nil || r.First() != 7 || r.Next() != 7 {
		t.Errorf("the empty range at 7: %v, %v", r, err)
	}
}

func FuzzParseRange(f *testing.F) {
	d := records(100)
	for _, n := range []int{0, 1, 7, 100} {
		b, _ := rangeOf(d, n/3, n).MarshalText()
		f.Add(string(b))
	}
	f.Add("0 1152921504606846976")
	f.Fuzz(func(t *testing.T, in string) {
		r, err := ParseRange([]byte(in))
		if err != nil {
			return
		}
		if got := text(t, r); got != in {
			t.Fatalf("%q is written %q", in, got)
		}
		r.Append(Leaf(nil))
		r.Root()
		r.Node(3, 4)
	})
}

func TestLeafAndAppendAllocateNothing(t *testing.T) {
	short, long := make([]byte, 600), make([]byte, 5000)
	r := NewRange(0)
	for range 1 << 12 {
		r.Append(Leaf(short))
	}
	if n := testing.AllocsPerRun(1000, func() { r.Append(Leaf(short)) }); n != 0 {
		t.Errorf("a short line allocates %v times", n)
	}
	if n := testing.AllocsPerRun(1000, func() { Leaf(long) }); n >= 1 {
		t.Errorf("a long line allocates %v times", n)
	}
}

func BenchmarkLeafAppend(b *testing.B) {
	for _, size := range []int{300, 600, 2000} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			line := make([]byte, size)
			var r Range
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				r.Append(Leaf(line))
			}
		})
	}
}

func BenchmarkLeaf(b *testing.B) {
	line := make([]byte, 600)
	b.ReportAllocs()
	for b.Loop() {
		Leaf(line)
	}
}

func TestPartsOfARange(t *testing.T) {
	const n = 45
	d := make([]string, n)
	for i := range d {
		d[i] = strconv.Itoa(i)
	}
	for first := range n {
		for next := first; next <= n; next++ {
			whole := rangeOf(d, first, next)
			for a := first; a <= next; a++ {
				for b := a; b <= next; b++ {
					part, ok := whole.Part(uint64(a), uint64(b))
					if ok && text(t, part) != text(t, rangeOf(d, a, b)) {
						t.Fatalf("of %d to %d, the part %d to %d is %s", first, next, a, b, text(t, part))
					}
				}
			}
			if _, ok := whole.Part(uint64(first), uint64(next)); !ok {
				t.Fatalf("%d to %d is no part of itself", first, next)
			}
			if _, ok := whole.Part(uint64(next), uint64(next+1)); ok {
				t.Fatalf("%d to %d has a part that ends after it", first, next)
			}
			// A subtree that lies partly in the range.
			for level := range 7 {
				for at := 0; at < 64; at += 1 << level {
					a, b := max(at, first), min(at+1<<level, next)
					if a >= b || first <= at && at+1<<level <= next {
						continue
					}
					if _, ok := whole.Part(uint64(a), uint64(b)); !ok {
						t.Fatalf("of %d to %d, the part of the subtree %d to %d is not known", first, next, at, at+1<<level)
					}
				}
			}
		}
	}
}
