package audit

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// usual is a forward.open with strings as long as they mostly are.
func usual() Record {
	rec := opened(NewID("f"))
	rec.Conn = NewID("c")
	rec.Key = "SHA256:" + strings.Repeat("k", 43)
	rec.Policy = "sha256:" + strings.Repeat("0", 64)
	return rec
}

// benchPlaces are where logs are written in benchmarks: a folder on the disk, or
// what TMPDIR names, and where there is one a folder in memory, each by the
// name of its file system.
func benchPlaces(b *testing.B) map[string]string {
	all := map[string]string{"disk/" + fileSystem(b, b.TempDir()): b.TempDir()}
	if memory, err := os.MkdirTemp("/dev/shm", "audit"); err == nil {
		b.Cleanup(func() { os.RemoveAll(memory) })
		all["memory/"+fileSystem(b, memory)] = memory
	}
	return all
}

func fileSystem(b *testing.B, dir string) string {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		b.Fatal(err)
	}
	names := map[uint32]string{0xef53: "ext4", 0x58465342: "xfs", 0x9123683e: "btrfs", 0x01021994: "tmpfs", 0x794c7630: "overlayfs", 0x2fc12fc1: "zfs"}
	if name := names[uint32(stat.Type)]; name != "" {
		return name
	}
	return fmt.Sprintf("%#x", uint32(stat.Type))
}

// cpu is the processor time that this process has used, in the kernel too.
func cpu() time.Duration {
	var use syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &use)
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// BenchmarkAppend is of durable records, so many at once. How long an fsync
// takes in that folder stands beside it: nothing here is faster.
func BenchmarkAppend(b *testing.B) {
	for name, at := range benchPlaces(b) {
		for _, n := range []int{1, 16, 256, 4096} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				dir, err := os.MkdirTemp(at, "")
				if err != nil {
					b.Fatal(err)
				}
				l := open(b, dir, Options{still: true})
				rec := usual()
				before := l.Stats().Fsync
				var left atomic.Int64
				left.Store(int64(b.N))
				var wg sync.WaitGroup
				b.ReportAllocs()
				b.ResetTimer()
				used := cpu()
				for range n {
					wg.Go(func() {
						for left.Add(-1) >= 0 {
							if err := l.Append(context.Background(), rec); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				used = cpu() - used
				after := l.Stats().Fsync
				syncs := float64(after.Count() - before.Count())
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
				b.ReportMetric(float64(b.N)/syncs, "records/fsync")
				b.ReportMetric(float64((after.Sum-before.Sum).Microseconds())/syncs, "µs/fsync")
				b.ReportMetric(float64(used.Nanoseconds())/1000/float64(b.N), "cpu-µs/record")
				b.ReportMetric(0, "ns/op") // says the same as records/s
			})
		}
	}
}

// BenchmarkRecord is the work on one record without anybody who waits: it is
// encoded, numbered, hashed, and written with others.
func BenchmarkRecord(b *testing.B) {
	at := "/dev/shm"
	if _, err := os.Stat(at); err != nil {
		at = b.TempDir()
	}
	dir, err := os.MkdirTemp(at, "audit")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	l := open(b, dir, Options{still: true})
	s, _, err := create(osDisk{}, dir, 1<<40, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	l.Close() // its writer would be in the way
	rec := usual()
	var body []byte
	b.ReportAllocs()
	used := cpu()
	for b.Loop() {
		l.begin()
		for i := range uint64(256) {
			body = rec.appendBody(body[:0])
			l.add(i, body)
		}
		if _, err := s.Write(l.buf); err != nil {
			b.Fatal(err)
		}
		for _, leaf := range l.leaves {
			l.grown.tree.Append(leaf)
		}
		if err := s.Truncate(0); err != nil { // or it would fill the memory
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpu()-used).Nanoseconds())/1000/float64(256*b.N), "cpu-µs/record")
	b.ReportMetric(0, "ns/op")
}
