//go:build unix

package hostsfile

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A busy bastion may be out of descriptors just when the file changes. Not
// parallel, since other tests would be out of them too.
func TestFollowRetriesWhatCouldNotBeRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	write(t, path, "10.0.0.1 a\n")
	f := follow(t, path, WithPoll(settle))
	write(t, path, "10.0.1.1 a\n")
	f.takes("10.0.1.1") // it has begun, and has its descriptors

	other := filepath.Join(filepath.Dir(path), "other")
	write(t, other, "10.0.1.2 a\n")
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	restore := func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) }
	t.Cleanup(restore)
	if err := syscall.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	if e := f.next(); !errors.Is(e.err, syscall.EMFILE) {
		t.Errorf("got %v, %v, want that no descriptor is left", e.changed, e.err)
	}
	time.Sleep(quiet)
	restore()
	if e := f.next(); !e.changed || answer(f, "a") != "10.0.1.2" {
		t.Errorf("got %v, %v", e.changed, e.err)
	}
}
