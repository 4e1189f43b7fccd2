package audit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestPoliciesAreKept(t *testing.T) {
	text := []byte("version: 1\n")
	hash := hashOf(text)
	file := func(dir string) string {
		return filepath.Join(dir, policiesDir, strings.TrimPrefix(hash, "sha256:")+".yaml")
	}
	t.Run("as their hash covers them, for their owner alone", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		same(t, must2(Policies(dir)), nil)
		try(t, l.Keep(hash, text))
		same(t, string(must2(Policy(dir, hash))), string(text))
		same(t, must2(os.Stat(filepath.Dir(file(dir)))).Mode().Perm(), 0o700)
		same(t, must2(os.Stat(file(dir))).Mode().Perm(), 0o600)
		all := must2(Policies(dir))
		if len(all) != 1 || all[0].Hash != hash || all[0].Bytes != int64(len(text)) || all[0].First.IsZero() {
			t.Error(all)
		}
	})
	t.Run("once", func(t *testing.T) {
		dir, d := t.TempDir(), &testDisk{}
		l := open(t, dir, Options{disk: d})
		try(t, l.Keep(hash, text))
		writes := d.writes.Load()
		try(t, l.Keep(hash, text))
		same(t, d.writes.Load(), writes)
	})
	t.Run("again if what is there is not the same", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		try(t, l.Keep(hash, text), os.WriteFile(file(dir), []byte("version: 2\n"), 0o600))
		if _, err := Policy(dir, hash); err == nil || !strings.Contains(err.Error(), "was changed") {
			t.Error(err)
		}
		try(t, l.Keep(hash, text))
		same(t, string(must2(Policy(dir, hash))), string(text))
	})
	t.Run("and none under another hash", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		for _, wrong := range []string{"", "sha256:", hash[:len(hash)-1], strings.ToUpper(hash), strings.TrimPrefix(hash, "sha256:"), "sha256:../../../../etc/passwd", hashOf([]byte("x"))} {
			if err := l.Keep(wrong, text); err == nil {
				t.Errorf("%q is taken", wrong)
			}
			if _, err := Policy(dir, wrong); err == nil {
				t.Errorf("%q is read", wrong)
			}
		}
		if _, err := Policy(dir, hash); !errors.Is(err, ErrNoPolicy) {
			t.Error(err)
		}
		same(t, must2(Policies(dir)), nil)
	})
	t.Run("or it is told, whatever fails, and can be done again", func(t *testing.T) {
		for n := 0; ; n++ {
			dir, d := t.TempDir(), &testDisk{}
			l := open(t, dir, Options{disk: d})
			count := 0
			d.failing(func(op, name string) error {
				if count++; count == n+1 {
					return syscall.ENOSPC
				}
				return nil
			})
			err := l.Keep(hash, text)
			d.failing(nil)
			if count <= n {
				try(t, err)
				break
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("operation %d: %v", n, err)
			}
			try(t, l.Keep(hash, text))
			same(t, string(must2(Policy(dir, hash))), string(text))
			same(t, len(must2(os.ReadDir(filepath.Dir(file(dir))))), 1)
		}
	})
	t.Run("but not by a log that is closed or has lost its folder", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		try(t, os.Remove(filepath.Join(dir, "lock")))
		if err := l.Keep(hash, text); err == nil {
			t.Error("it is kept without the lock")
		}
		l.Close()
		same(t, l.Keep(hash, text), ErrClosed)
	})
	t.Run("and a half one of a crash is removed", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		try(t, l.Keep(hash, text), os.WriteFile(file(dir)+tmpEnd, []byte("half"), 0o600))
		keeperOf(l).clean()
		same(t, len(must2(os.ReadDir(filepath.Dir(file(dir))))), 1)
	})
}
