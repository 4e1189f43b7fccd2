package query

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"sekisho/audit"
	"sekisho/audit/audittest"
)

// searchEnv tells the process that BenchmarkSearch starts what to search.
const searchEnv = "SEKISHO_BENCHMARK_SEARCH"

// benchQueries are those of which the speed is measured.
var benchQueries = []struct {
	name string
	q    Query
}{
	{"a forward", Query{Forwards: []string{"fabcdefghijklmnop"}}},
	{"a user", Query{Users: []string{"u390"}}},
	{"a busy user", Query{Users: []string{"u0"}}},
	{"a target", Query{Targets: []string{"rds116:3306"}}},
	{"a pattern", Query{Targets: []string{"web-11*.corp.example"}}},
	{"an address", Query{Addresses: []string{"10.0.4.126"}}},
	{"a network", Query{Addresses: []string{"10.0.15.0/24"}}},
	{"a type", Query{Types: []string{"request.deny"}}},
	{"bytes", Query{Bytes: 3 << 29}},
	{"a duration", Query{Duration: 1000 * time.Hour}},
	{"a time", Query{From: audittest.Begin.Add(1000 * 24 * time.Hour)}},
	{"everything", Query{}},
}

// BenchmarkSearch searches in a process that does nothing else and reports, for
// the text of the log as it is unpacked, the bytes in a second of one
// processor, and the most memory that was resident (VmHWM of proc(5)).
func BenchmarkSearch(b *testing.B) {
	if what := os.Getenv(searchEnv); what != "" {
		searchAlone(b, what)
		return
	}
	const size = 256 << 20
	plain, packed := b.TempDir(), b.TempDir()
	if err := audittest.Write(plain, size, 1); err != nil {
		b.Fatal(err)
	}
	if err := audittest.Write(packed, size, 1); err != nil {
		b.Fatal(err)
	}
	packAll(b, packed)
	for _, dir := range []string{plain, packed} {
		form := map[string]string{plain: "plain", packed: "packed"}[dir]
		for i, bq := range benchQueries {
			b.Run(form+"/"+bq.name, func(b *testing.B) {
				var cpu, peak, found float64
				n := 0
				for b.Loop() {
					cmd := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkSearch$", "-test.benchtime=1x")
					cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", searchEnv, i, dir), "GOMAXPROCS=1")
					out, err := cmd.CombinedOutput()
					if err != nil {
						b.Fatalf("%v: %s", err, out)
					}
					_, line, _ := strings.Cut(string(out), "searched: ")
					var one [3]float64
					if _, err := fmt.Sscan(line, &one[0], &one[1], &one[2]); err != nil {
						b.Fatalf("%v: %s", err, out)
					}
					cpu, peak, found, n = cpu+one[0], max(peak, one[1]), one[2], n+1
				}
				b.ReportMetric(size/1e6*float64(n)/cpu, "MB/cpu-s")
				b.ReportMetric(peak, "peak-MB")
				b.ReportMetric(found, "found")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

func searchAlone(b *testing.B, what string) {
	number, dir, _ := strings.Cut(what, " ")
	var i int
	if _, err := fmt.Sscan(number, &i); err != nil {
		b.Fatal(err)
	}
	var before, after syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	found := 0
	err := Search(b.Context(), dir, benchQueries[i].q, Options{}, func([]byte, audit.Record) error { found++; return nil })
	if err != nil {
		b.Fatal(err)
	}
	syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	var kB float64
	if _, err := fmt.Sscan(peak, &kB); err != nil {
		b.Fatal(err)
	}
	cpu := float64(after.Utime.Nano()+after.Stime.Nano()-before.Utime.Nano()-before.Stime.Nano()) / 1e9
	fmt.Printf("searched: %f %f %d\n", cpu, kB/1024, found)
	os.Exit(0)
}

// packAll packs all segments but the newest, as the log does.
func packAll(t testing.TB, dir string) {
	t.Helper()
	segments, err := audit.Segments(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range segments[:len(segments)-1] {
		pack(t, s.Path())
	}
}

// pack compresses a segment and removes it.
func pack(t testing.TB, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	to := filepath.Join(filepath.Dir(path), filepath.Base(path)+".zst")
	if err := os.WriteFile(to, z.EncodeAll(text, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
