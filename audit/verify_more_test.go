package audit

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"sekisho/audit/tree"
)

// linesOf are the lines of the records that a reader of the log gets.
func linesOf(dir string) ([]string, error) {
	_, all, err := survey(dir)
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, p := range all {
		if p.void() {
			continue
		}
		e, err := p.scan(func(line []byte, _ Record) error { lines = append(lines, string(line)); return nil })
		if err != nil {
			return nil, err
		}
		if err := p.whole(e); err != nil && p.limit != noLimit {
			return lines, err
		}
	}
	return lines, nil
}

// FuzzVerify edits a log at random. Whatever is done to it: if it verifies as
// good with a head of all its records, then a reader gets all of them as they
// were. And nothing panics.
func FuzzVerify(f *testing.F) {
	private, public, err := note.GenerateKey(nil, "bastion-1")
	try(f, err)
	signer, err := note.NewSigner(private)
	try(f, err)
	verifier, err := note.NewVerifier(public)
	try(f, err)
	log := honest(f, signer)
	lines := log.lines()
	kept := []tree.Head{*log.head(len(lines))}
	opts := VerifyOptions{Keys: []note.Verifier{verifier}, Since: kept}
	folders := []map[string]string{folder(f, log.save(f, false)), folder(f, log.save(f, true))}
	f.Add([]byte{0})
	f.Add([]byte{1})
	for op := range byte(10) {
		for _, file := range []byte{0, 1, 2, 3, 9} {
			f.Add([]byte{file & 1, op, file, 100, 7})
			f.Add([]byte{file & 1, op, file, 3, 1, op, file + 1, 200, 9})
		}
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) == 0 || len(script) > 64 {
			return
		}
		was := folders[script[0]&1]
		files := maps.Clone(was)
		for s := script[1:]; len(s) >= 4; s = s[4:] {
			tamper(files, s[0], int(s[1]), int(s[2]), int(s[3]))
		}
		dir := t.TempDir()
		for name, text := range files {
			try(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		}
		v := verify(t, dir, opts)
		same := maps.Equal(files, was)
		if same && !v.Full() {
			t.Fatalf("harm to an untouched log: %+v", v)
		}
		for _, o := range []VerifyOptions{{}, {Keys: opts.Keys}, {Since: kept}} {
			if w := verify(t, dir, o); same && !w.Good() {
				t.Fatalf("harm to an untouched log: %+v", w)
			}
		}
		if !v.Good() {
			return
		}
		got, err := linesOf(dir)
		if err != nil || len(got) < len(lines) || !slices.Equal(got[:len(lines)], lines) {
			t.Fatalf("%v: good, and not what was written: %+v", err, v)
		}
	})
}

// tamper does something to one of the files.
func tamper(files map[string]string, op byte, file, at, how int) {
	names := slices.Sorted(maps.Keys(files))
	if len(names) == 0 {
		return
	}
	name := names[file%len(names)]
	text := files[name]
	lines := strings.SplitAfter(text, "\n")
	i, j := at%len(lines), how%len(lines)
	switch op % 10 {
	case 0: // a byte
		if text == "" {
			return
		}
		b := []byte(text)
		b[(at*256+how)%len(b)] ^= byte(1 << (how % 8))
		files[name] = string(b)
	case 1:
		files[name] = strings.Join(slices.Delete(lines, i, i+1), "")
	case 2:
		files[name] = strings.Join(slices.Insert(lines, i, lines[j]), "")
	case 3:
		lines[i], lines[j] = lines[j], lines[i]
		files[name] = strings.Join(lines, "")
	case 4:
		files[name] = text[:len(text)*at/256]
	case 5:
		delete(files, name)
	case 6: // another's name
		to := names[how%len(names)]
		files[name], files[to] = files[to], files[name]
	case 7:
		files[name] = text + strings.Repeat(string(rune(at)), how)
	case 8: // an empty or a copied segment in between
		to := stem(uint64(at%60), how%3) + plainEnd
		if how%2 == 0 {
			text = ""
		}
		files[to] = text
	case 9: // a segment under a later number
		files[stem(uint64(at%60), how%2)+[]string{plainEnd, packedEnd, headsEnd}[how%3]] = text
	}
}

// TestHistoriesVerify makes logs on a disk that fails, with crashes, and none of
// that is harm.
func TestHistoriesVerify(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		opts := withKey(t)
		key := VerifyOptions{Keys: []note.Verifier{opts.Verifier}}
		dir := t.TempDir()
		var kept []*tree.Head
		for range 6 {
			d := &testDisk{}
			o := opts
			o.Bastion, o.SegmentSize, o.disk, o.now, o.still = "b", 2000, d, ticking(), true
			l, err := Open(dir, o)
			try(t, err)
			var mu sync.Mutex
			fails, chance := rnd.IntN(3) == 0, rand.New(rand.NewPCG(seed, rnd.Uint64()))
			d.failing(func(op, _ string) error {
				mu.Lock()
				defer mu.Unlock()
				if fails && chance.IntN(6) == 0 {
					return syscall.EIO
				}
				return nil
			})
			for range 1 + rnd.IntN(30) {
				id := NewID("f")
				if l.Append(t.Context(), opened(id)) == nil && rnd.IntN(3) > 0 {
					l.Append(t.Context(), Record{Type: ForwardClose, Forward: id})
				}
			}
			text, err := l.Head()
			try(t, err)
			h, err := tree.OpenHead(text, opts.Verifier)
			try(t, err)
			kept = append(kept, &h)
			if rnd.IntN(2) == 0 { // the machine stops
				to := crash(t, dir)
				l.Close()
				dir = to
				all := must2(list(dir))
				if rnd.IntN(2) == 0 {
					tear(t, dir, filepath.Base(all[len(all)-1].path), `{"v":1,"se`[:rnd.IntN(11)])
				}
			} else {
				l.Close()
			}
			for _, p := range must2(list(dir)) {
				if p.limit != noLimit && !p.void() && !p.packed && rnd.IntN(3) == 0 {
					pack(t, p)
				}
			}
			for _, h := range append(kept, nil) {
				if key.Since = nil; h != nil {
					key.Since = []tree.Head{*h}
				}
				if v := verify(t, dir, key); !v.Good() || h != nil && v.SinceSays != SinceFits {
					t.Fatalf("seed %d: %+v", seed, v)
				}
			}
			if v := verify(t, dir, VerifyOptions{}); !v.Good() {
				t.Fatalf("seed %d: %+v", seed, v)
			}
		}
	}
}

// pack packs a closed segment as the log does: its records and nothing else.
func pack(t testing.TB, p piece) {
	t.Helper()
	var b bytes.Buffer
	_, err := p.scan(func(line []byte, _ Record) error { b.Write(line); return b.WriteByte('\n') })
	try(t, err)
	to := strings.TrimSuffix(p.path, plainEnd) + packedEnd
	try(t, os.WriteFile(to+".new", zip(b.Bytes()), 0o600), os.Rename(to+".new", to), os.Remove(p.path))
}

func TestVerifyOfALogThatIsWritten(t *testing.T) {
	dir, opts := t.TempDir(), withKey(t)
	opts.SegmentSize = 20000
	l := open(t, dir, opts)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					mustNote(t, l, "a")
				}
			}
		})
	}
	wg.Go(func() { // and packed
		for {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
			for _, p := range must2(list(dir)) {
				if p.limit != noLimit && !p.packed && !p.void() {
					pack(t, p)
					break
				}
			}
		}
	})
	key := VerifyOptions{Keys: []note.Verifier{opts.Verifier}}
	for i := range 60 {
		text, err := l.Head()
		try(t, err)
		h, err := tree.OpenHead(text, opts.Verifier)
		try(t, err)
		key.Since = []tree.Head{h}
		if v := verify(t, dir, key); !v.Good() || v.SinceSays != SinceFits {
			t.Errorf("%d: %+v", i, v)
			break
		}
	}
	close(done)
	wg.Wait()
}

// busy writes a log of about so many bytes, with a head after every thousandth
// record.
func busy(t testing.TB, dir string, size, segment int, zst bool, key note.Signer) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	var r tree.Range
	var text, heads, line []byte
	first, now := uint64(0), at
	flush := func() {
		if len(text) == 0 {
			return
		}
		end := plainEnd
		if zst {
			end, text = packedEnd, zip(text)
		}
		try(t, os.WriteFile(filepath.Join(dir, stem(first, 0)+end), text, 0o600), os.WriteFile(filepath.Join(dir, stem(first, 0)+headsEnd), heads, 0o600))
		first, text, heads = r.Next(), text[:0], nil
	}
	put := func(rec Record) {
		now = now.Add(time.Duration(rnd.IntN(2000)) * time.Microsecond)
		rec.V, rec.Seq, rec.Time, rec.Bastion, rec.Run = Version, r.Next(), now, "bastion-1", "01K9XQJ0Z8ABCDEFGHJKMNPQRS"
		line = rec.AppendJSON(line[:0])
		r.Append(tree.Leaf(line))
		text = append(append(text, line...), '\n')
		if size -= len(line); r.Next()%1000 == 0 || len(text) > segment || size <= 0 {
			root, err := r.Root()
			try(t, err)
			head, err := tree.Head{Size: r.Next(), Root: root, Time: now}.Sign(key)
			try(t, err)
			heads = append(append(heads, '\n'), head...)
		}
		if len(text) > segment {
			flush()
		}
	}
	put(Record{Type: ServerStart})
	var open []Record
	for size > 0 {
		rec := opened(NewID("f"))
		rec.Conn, rec.User = NewID("c"), fmt.Sprint("user", rnd.IntN(400))
		rec.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(rnd.Uint32())}), uint16(rnd.Uint32()))
		switch n := rnd.IntN(10); {
		case n < 4:
			open = append(open, rec)
			put(rec)
		case n < 8 && len(open) > 0:
			i := rnd.IntN(len(open))
			rec, open[i] = open[i], open[len(open)-1]
			open = open[:len(open)-1]
			rec.Type, rec.BytesUp, rec.BytesDown, rec.Duration, rec.Reason = ForwardClose, rnd.Uint64N(1<<30), rnd.Uint64N(1<<30), time.Duration(rnd.IntN(1e9)), "client"
			put(rec)
		case n < 9:
			put(Record{Type: AuthOK, Conn: rec.Conn, User: rec.User, Login: rec.User, Key: rec.Key, Client: rec.Client, Source: rec.Source, Entrance: "ssh"})
		default:
			put(Record{Type: ConnClose, Conn: rec.Conn, User: rec.User, Source: rec.Source, Duration: time.Second, Reason: "client"})
		}
	}
	flush()
}

// verifyEnv tells the process that BenchmarkVerify starts what to verify.
const verifyEnv = "SEKISHO_BENCHMARK_VERIFY"

// BenchmarkVerify verifies in a process that does nothing else, and reports for
// the text of the log as it is unpacked the bytes in a second, and in a second
// of one processor, and the most memory that was resident (VmHWM of proc(5)).
func BenchmarkVerify(b *testing.B) {
	if what := os.Getenv(verifyEnv); what != "" {
		verifyAlone(b, what)
		return
	}
	const size = 256 << 20
	private, public, err := note.GenerateKey(nil, "bastion-1")
	try(b, err)
	plain, packed := b.TempDir(), b.TempDir()
	signer := must2(note.NewSigner(private))
	busy(b, plain, size, 16<<20, false, signer)
	busy(b, packed, size, 16<<20, true, signer)
	for _, bb := range []struct{ name, dir, key string }{
		{"plain", plain, public},
		{"packed", packed, public},
		{"plain, without a key", plain, ""},
	} {
		b.Run(bb.name, func(b *testing.B) {
			var wall, cpu, peak, bytes float64
			for b.Loop() {
				cmd := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkVerify$", "-test.benchtime=1x")
				cmd.Env = append(os.Environ(), verifyEnv+"="+bb.key+" "+bb.dir)
				out, err := cmd.CombinedOutput()
				if err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				_, line, _ := strings.Cut(string(out), "verified: ")
				var one [4]float64
				if _, err := fmt.Sscan(line, &one[0], &one[1], &one[2], &one[3]); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				wall, cpu, peak, bytes = wall+one[0], cpu+one[1], max(peak, one[2]), bytes+one[3]
			}
			b.ReportMetric(bytes/1e6/wall, "MB/s")
			b.ReportMetric(bytes/1e6/cpu, "MB/cpu-s")
			b.ReportMetric(peak, "peak-MB")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func verifyAlone(b *testing.B, what string) {
	key, dir, _ := strings.Cut(what, " ")
	var opts VerifyOptions
	if key != "" {
		opts.Keys = []note.Verifier{must2(note.NewVerifier(key))}
	}
	began := cpu()
	v := verify(b, dir, opts)
	if !v.Good() {
		b.Fatalf("%+v", v.Harms)
	}
	used := cpu() - began
	status, err := os.ReadFile("/proc/self/status")
	try(b, err)
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	var kB float64
	_, err = fmt.Sscan(peak, &kB)
	try(b, err)
	fmt.Printf("verified: %f %f %f %d\n", v.Seconds, used.Seconds(), kB/1024, v.Bytes)
	os.Exit(0)
}
