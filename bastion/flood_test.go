package bastion

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/authz"
)

// floodBook is a Recorder that keeps the records of a flood.
type floodBook struct {
	mu   sync.Mutex
	recs []audit.Record
	fail func(n int) error // of the nth record that was tried, from 1
	n    int
}

func (b *floodBook) Append(_ context.Context, rec audit.Record) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n++
	if b.fail != nil {
		if err := b.fail(b.n); err != nil {
			return err
		}
	}
	b.recs = append(b.recs, rec)
	return nil
}

// told are the records since the last call, and the sum of their counts.
func (b *floodBook) told() (recs []audit.Record, sum uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	recs, b.recs = b.recs, nil
	for _, rec := range recs {
		sum += rec.Count
	}
	return recs, sum
}

// inFlood runs a test of a flood on a clock that jumps.
func inFlood(t *testing.T, test func(t *testing.T, f *flood, book *floodBook, lines *strings.Builder)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var lines strings.Builder
		log := logrus.New()
		log.SetOutput(&lines)
		book := new(floodBook)
		f := newFlood(book, 10*time.Second, log, func() {})
		test(t, f, book, &lines)
		f.close(t.Context())
	})
}

// fails lets n logins of a source fail and returns how many of them are to be
// recorded by themselves.
func (f *flood) fails(n int, addr string, known bool, reason string) (singles int) {
	of := failure{sourceOf(netip.MustParseAddr(addr)), known, reason}
	for range n {
		if f.single(of) {
			singles++
		}
	}
	return singles
}

// pass lets the clock go on, and what is due then be done.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestFailuresOfOneSourceAreCountedAfterTheFifth(t *testing.T) {
	inFlood(t, func(t *testing.T, f *flood, book *floodBook, _ *strings.Builder) {
		if n := f.fails(1_000_000, "203.0.113.9", false, "unknown_key"); n != 5 {
			t.Errorf("%d are recorded one by one, want 5", n)
		}
		f.fails(2, "203.0.113.9", false, "no_key_offered")
		pass(floodWindow)
		recs, sum := book.told()
		if len(recs) != 1 || sum != 1_000_000-5+2 {
			t.Fatalf("%d records of %d failures", len(recs), sum)
		}
		want := `"type":"auth.flood","entrance":"ssh","source":{"ip":"203.0.113.9","port":0},"duration_ms":60000,"count":999997,"reason":"no_key_offered",` +
			`"detail":"failed logins from 203.0.113.9/32, beside those recorded one by one: unknown_key 999995, no_key_offered 2"}`
		if got := string(recs[0].AppendJSON(nil)); !strings.HasSuffix(got, want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		pass(time.Hour)
		if recs, _ := book.told(); len(recs) != 0 {
			t.Errorf("%d records of nothing", len(recs))
		}
	})
}

func TestWhatASourceIs(t *testing.T) {
	for _, tt := range []struct {
		name, first, second string
		same                bool
	}{
		{"two IPv4 addresses are two", "203.0.113.9", "203.0.113.10", false},
		{"an IPv4 address in IPv6 is that address", "203.0.113.9", "::ffff:203.0.113.9", true},
		{"addresses of one /64 are one", "2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true},
		{"addresses of two /64 are two", "2001:db8::1", "2001:db8:0:1::1", false},
		{"a zone makes no difference", "fe80::1%eth0", "fe80::1%eth1", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inFlood(t, func(t *testing.T, f *flood, book *floodBook, _ *strings.Builder) {
				f.fails(5, tt.first, false, "x")
				if n := f.fails(6, tt.second, false, "x"); (n == 0) != tt.same {
					t.Errorf("%d of the second are recorded one by one", n)
				}
				pass(floodWindow)
				recs, _ := book.told()
				first := sourceOf(netip.MustParseAddr(tt.second))
				if len(recs) != 1 || recs[0].Source != netip.AddrPortFrom(first.Addr(), 0) || !strings.Contains(recs[0].Detail, "from "+first.String()) {
					t.Errorf("%+v", recs)
				}
			})
		})
	}
}

func TestTheEdgesOfAWindow(t *testing.T) {
	inFlood(t, func(t *testing.T, f *flood, book *floodBook, _ *strings.Builder) {
		const a = "203.0.113.9"
		singles := func(what string, n, want int) {
			t.Helper()
			if got := f.fails(n, a, false, "x"); got != want {
				t.Errorf("%s: %d are recorded one by one, want %d", what, got, want)
			}
		}
		singles("the first", 3, 3)
		pass(floodWindow - time.Nanosecond)
		singles("just before the end", 2, 2)
		pass(time.Nanosecond)
		singles("at the end, with nothing counted", 5, 5)
		pass(floodWindow - time.Nanosecond)
		singles("too many, just before the end", 2, 0)
		if recs, _ := book.told(); len(recs) != 0 {
			t.Error("it is told before the end")
		}
		pass(time.Nanosecond)
		if recs, sum := book.told(); len(recs) != 1 || sum != 2 || recs[0].Duration != floodWindow {
			t.Errorf("%+v", recs)
		}
		singles("at the end, with some counted", 5, 5)
	})
}

func TestAMillionSources(t *testing.T) {
	for _, tt := range []struct {
		name string
		at   func(i uint32) netip.Addr
	}{
		{"IPv4", func(i uint32) netip.Addr {
			return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 0x0b000000+i)))
		}},
		{"IPv6", func(i uint32) netip.Addr {
			var a [16]byte
			binary.BigEndian.PutUint32(a[:], 0x20010db8)
			binary.BigEndian.PutUint32(a[4:], i)
			return netip.AddrFrom16(a)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inFlood(t, func(t *testing.T, f *flood, book *floodBook, lines *strings.Builder) {
				const all = 1_000_000
				singles, minutes := 0, 0
				for i := range uint32(all) {
					if f.single(failure{sourceOf(tt.at(i)), i%10 == 0, "unknown_key"}) {
						singles++
					}
					if i%100_000 == 99_999 {
						pass(floodWindow)
						minutes++
					}
				}
				recs, sum := book.told()
				if sum+uint64(singles) != all {
					t.Errorf("%d are recorded one by one and %d counted, of %d", singles, sum, all)
				}
				if most := 2 * (bucketSize + minutes*int(floodWindow/bucketEvery)); singles > most {
					t.Errorf("%d are recorded one by one, want at most %d", singles, most)
				}
				bytes := 0
				for _, rec := range recs {
					bytes += len(rec.AppendJSON(nil)) + 1
				}
				if len(recs) != minutes*(maxFloods+1) || bytes > len(recs)*maxFloodBytes {
					t.Errorf("%d records with %d bytes", len(recs), bytes)
				}
				last := recs[len(recs)-1]
				if last.Source.IsValid() || last.Sources < 2*maxSources-100 || last.Sources >= 2*maxSources || !strings.Contains(last.Detail, "from other sources (at least ") {
					t.Errorf("%s", last.AppendJSON(nil))
				}
				if n := strings.Count(lines.String(), "\n"); n != minutes {
					t.Errorf("%d operational lines in %d minutes", n, minutes)
				}
			})
		})
	}
}

// The most bytes of a line, with its newline.
const (
	maxFailBytes  = 7 << 10
	maxFloodBytes = 1 << 10
)

func TestWhatFailedLoginsCost(t *testing.T) {
	// What the log adds: seq, time, the server's name and the run.
	head := func(rec audit.Record) audit.Record {
		rec.V, rec.Seq, rec.Time = audit.Version, math.MaxUint64, time.Now()
		rec.Bastion, rec.Run = strings.Repeat("b", 64), strings.Repeat("R", 26)
		return rec
	}
	source := netip.MustParseAddrPort("[2001:db8:1111:2222:3333:4444:5555:6666]:65535")
	fingerprint := "SHA256:" + strings.Repeat("x", 43)
	fail := head(audit.Record{Type: audit.AuthFail, Conn: audit.NewID("c"), Entrance: entranceSSH, Source: source, Key: fingerprint,
		Login: bounded(strings.Repeat("\x00", 1<<18), maxLogin), Client: strings.Repeat("\x00", 255), Reason: strings.Repeat("r", 24),
		Detail: bounded(strings.Repeat("\x00", 1<<18), maxDetail) + "; 100 offers were refused, of which 8 are named"})
	for range maxOffered {
		fail.Offered = append(fail.Offered, fingerprint)
	}
	failBytes := len(fail.AppendJSON(nil)) + 1
	if failBytes > maxFailBytes {
		t.Errorf("an auth.fail can have %d bytes", failBytes)
	}

	c := &count{n: math.MaxUint64, known: math.MaxUint64, last: strings.Repeat("r", 24), unsure: true}
	for i := range 2 * maxReasons {
		c.addReason(strings.Repeat("r", 22)+fmt.Sprint(10+i), math.MaxUint64/100)
	}
	floodBytes := 0
	for _, h := range []heap{
		{prefix: netip.MustParsePrefix("2001:db8:1111:2222::/64"), count: c},
		{others: make([]netip.Prefix, 2*maxSources), rest: true, count: c},
	} {
		rec := head(h.record())
		rec.Duration = 24 * time.Hour
		if floodBytes = max(floodBytes, len(rec.AppendJSON(nil))+1); floodBytes > maxFloodBytes {
			t.Errorf("an auth.flood can have %d bytes", floodBytes)
		}
	}
	const day = 24 * time.Hour
	later := failBytes*2*int(day/bucketEvery) + floodBytes*(maxFloods+1)*int(day/floodWindow)
	first := later + failBytes*2*bucketSize
	if first > 283e6 || later > 269e6 {
		t.Errorf("a day can cost %d bytes, and each further one %d", first, later)
	}
	t.Logf("an auth.fail has up to %d bytes and an auth.flood %d: %d on the first day, then %d", failBytes, floodBytes, first, later)
}

func TestAFloodOfStrangersHidesNoAttackOnSomebody(t *testing.T) {
	inFlood(t, func(t *testing.T, f *flood, book *floodBook, _ *strings.Builder) {
		for i := range 100_000 {
			f.single(failure{sourceOf(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})), false, "unknown_key"})
		}
		for range 10 { // these have more failures than whoever attacks alice
			for i := range 20 {
				f.fails(100, fmt.Sprintf("10.0.0.%d", i), false, "unknown_key")
			}
		}
		if n := f.fails(9, "203.0.113.9", true, "not_proven"); n != 5 {
			t.Errorf("%d on alice are recorded one by one, want 5", n)
		}
		pass(floodWindow)
		recs, _ := book.told()
		for _, rec := range recs {
			if rec.Source.Addr() == netip.MustParseAddr("203.0.113.9") {
				if rec.Count != 4 || !strings.HasSuffix(rec.Detail, "; 4 with a login, key or certificate that the policy knows") {
					t.Errorf("%s", rec.AppendJSON(nil))
				}
				return
			}
		}
		t.Errorf("of %d records none is of the source", len(recs))
	})
}

func TestAFloodOnSomebodyHidesNoStranger(t *testing.T) {
	inFlood(t, func(t *testing.T, f *flood, book *floodBook, _ *strings.Builder) {
		for i := range 100_000 {
			f.single(failure{sourceOf(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})), true, "not_proven"})
		}
		f.fails(100_000, "10.0.0.1", true, "not_proven")
		if n := f.fails(9, "10.0.0.1", false, "unknown_key"); n != 5 {
			t.Errorf("%d of a stranger are recorded one by one, want 5", n)
		}
	})
}

func TestTheBucketFillsAgain(t *testing.T) {
	var b bucket
	now := time.Now()
	took := func() (n int) {
		for b.take(now) {
			n++
		}
		return n
	}
	for _, tt := range []struct {
		after time.Duration
		want  int
	}{{0, 1000}, {0, 0}, {5*time.Second - 1, 0}, {1, 1}, {time.Minute, 12}, {time.Hour, 720}, {100 * time.Hour, 1000}, {-time.Hour, 0}} {
		now = now.Add(tt.after)
		if n := took(); n != tt.want {
			t.Errorf("%v later there are %d, want %d", tt.after, n, tt.want)
		}
	}
}

func TestALogThatFailsLosesNoCount(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		only int // the record that fails; 0: all
	}{
		{"at the first record", errors.New("disk full"), 1},
		{"at a later record", errors.New("disk full"), 7},
		{"at the record of all others", errors.New("disk full"), 17},
		{"at every record", errors.New("disk full"), 0},
		{"so that it is not known what is written", fmt.Errorf("disk hangs: %w", audit.ErrInFlight), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inFlood(t, func(t *testing.T, f *flood, book *floodBook, lines *strings.Builder) {
				book.fail = func(n int) error {
					if tt.only == 0 || n == tt.only {
						return tt.err
					}
					return nil
				}
				want := uint64(0)
				for i := range 40 {
					f.fails(5+1+i, fmt.Sprintf("203.0.113.%d", i), i%2 == 0, "unknown_key")
					want += uint64(1 + i)
				}
				pass(floodWindow)
				_, first := book.told()
				for range 3 {
					if f.fails(5+10, "203.0.113.39", false, "expired") != 5 {
						t.Error("a new window does not begin")
					}
					want += 10
					pass(floodWindow)
				}
				book.mu.Lock()
				book.fail = nil
				book.mu.Unlock()
				pass(floodWindow)
				recs, sum := book.told()
				if first+sum != want {
					t.Errorf("%d and %d are told, of %d", first, sum, want)
				}
				for _, rec := range recs {
					unsure := errors.Is(tt.err, audit.ErrInFlight)
					if strings.Contains(rec.Detail, "was not confirmed") && !unsure {
						t.Errorf("%s", rec.AppendJSON(nil))
					}
				}
				if tt.only == 0 && (recs[0].Duration != 5*floodWindow || strings.Count(lines.String(), "not yet recorded") != 4) {
					t.Errorf("%v, %s", recs[0].Duration, lines)
				}
				if !f.left.empty() {
					t.Error("something is left")
				}
			})
		})
	}
}

func TestARecordThatCouldNotBeWrittenIsCounted(t *testing.T) {
	inFlood(t, func(t *testing.T, f *flood, book *floodBook, _ *strings.Builder) {
		of := failure{sourceOf(netip.MustParseAddr("203.0.113.9")), true, "unknown_key"}
		for i := range 2 {
			if !f.single(of) {
				t.Fatal("it is counted")
			}
			f.unwritten(of, i == 1)
		}
		pass(floodWindow)
		recs, sum := book.told()
		if sum != 2 || !strings.HasSuffix(recs[0].Detail, "; some may be in an earlier record too, which was not confirmed") {
			t.Errorf("%+v", recs)
		}
	})
}

func TestTheStopTellsWhatIsCounted(t *testing.T) {
	inFlood(t, func(t *testing.T, f *flood, book *floodBook, _ *strings.Builder) {
		f.fails(5+3, "203.0.113.9", false, "x")
		pass(7 * time.Second)
		f.close(t.Context())
		if recs, sum := book.told(); sum != 3 || recs[0].Duration != 7*time.Second {
			t.Errorf("%+v", recs)
		}
		f.fails(5+3, "203.0.113.9", false, "x")
		pass(time.Hour)
		if recs, _ := book.told(); len(recs) != 0 {
			t.Errorf("%+v after the stop", recs)
		}
	})
}

func TestALogThatHangsHoldsNoStopOfAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logrus.New()
		log.SetOutput(io.Discard)
		f := newFlood(hangs{}, 10*time.Second, log, func() {})
		f.fails(9, "203.0.113.9", false, "x")
		pass(floodWindow + time.Second) // it is writing
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		f.close(ctx)
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

type hangs struct{}

func (hangs) Append(ctx context.Context, _ audit.Record) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestWhatThePolicyKnows(t *testing.T) {
	signer := func() ssh.Signer {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ssh.NewSignerFromKey(private)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	alice, other := signer(), signer().PublicKey()
	text := fmt.Sprintf("version: 1\nusers:\n  - {name: alice, keys: [%q]}\n", strings.TrimSpace(string(ssh.MarshalAuthorizedKey(alice.PublicKey()))))
	policy, problems := authz.Parse(strings.NewReader(text), "policy.yaml", authz.Options{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	if policy == nil {
		t.Fatal(problems.Err())
	}
	for _, tt := range []struct {
		name   string
		key    ssh.PublicKey
		reason authz.Reason
		want   bool
	}{
		{"a key of nobody", other, authz.UnknownKey, false},
		{"a certificate of no authority", &ssh.Certificate{Key: alice.PublicKey()}, authz.UnknownAuthority, false},
		{"a certificate that anybody can have made", &ssh.Certificate{Key: alice.PublicKey()}, authz.BadCert, false},
		{"a key of a kind that is not taken", other, authz.KeyUnsupported, false},
		{"a key of somebody that is not taken", alice.PublicKey(), authz.KeyUnsupported, true},
		{"a certificate for somebody whose file narrows it away", &ssh.Certificate{Key: other}, authz.KeyUnsupported, true},
		{"a certificate that names nobody", &ssh.Certificate{Key: other}, authz.CertPrincipals, true},
		{"a key with another's login", alice.PublicKey(), authz.OtherUser, true},
		{"a key of somebody who is locked", alice.PublicKey(), authz.Locked, true},
	} {
		if got := knows(policy, tt.key, tt.reason); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func BenchmarkFailure(b *testing.B) {
	f := newFlood(new(floodBook), time.Second, logrus.New(), func() {})
	i := uint32(0)
	b.ReportAllocs()
	for b.Loop() {
		i++
		f.single(failure{sourceOf(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, i)))), false, "unknown_key"})
	}
}
