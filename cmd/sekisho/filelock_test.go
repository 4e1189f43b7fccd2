package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Whoever can look into the configuration folder must not be able to keep an
// administrator from taking access away.
func TestNobodyElseCanHoldUpACommandThatLocks(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	folder, err := os.Open(dir) // as anybody may
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	locked := make(chan error, 1)
	go func() {
		unlock, err := lockFolder(dir)
		if err == nil {
			unlock()
		}
		locked <- err
	}()
	select {
	case err := <-locked:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(5 * time.Second): // of the ten that a command waits
		t.Fatal("it waits for a stranger")
	}
	files, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v %v", name, info, err)
		}
	}
}

func TestOneCommandAtATimeChangesTheFiles(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan struct{})
	go func() {
		defer close(second)
		if again, err := lockFolder(dir); err != nil {
			t.Error(err)
		} else {
			again()
		}
	}()
	select {
	case <-second:
		t.Error("two have it")
	case <-time.After(100 * time.Millisecond):
	}
	unlock()
	<-second

	// A link in its place is not followed.
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if out, err := exec.Command("ln", "-sf", elsewhere, filepath.Join(dir, ".sekisho.lock")).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	if unlock, err := lockFolder(dir); err == nil {
		unlock()
		t.Error("it followed a link")
	}
}
