package audit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// packed compresses a segment as it stands, and removes it.
func packed(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	to := strings.TrimSuffix(path, plainEnd) + packedEnd
	try(t, os.WriteFile(to, z.EncodeAll(text, nil), 0o600), os.Remove(path))
	return to
}

func TestPackedSegments(t *testing.T) {
	two := func(t *testing.T) (dir, first string) {
		dir = t.TempDir()
		l := open(t, dir, Options{})
		mustNote(t, l, "a")
		mustNote(t, l, "b")
		try(t, l.Close())
		l = open(t, dir, Options{})
		mustNote(t, l, "c")
		try(t, l.Close())
		return dir, filepath.Join(dir, pieceName(0, 0))
	}
	t.Run("are read as the others are", func(t *testing.T) {
		dir, first := two(t)
		packed(t, first)
		same(t, notes(t, dir), []string{"a", "b", "c"})
		l := open(t, dir, Options{})
		mustNote(t, l, "d")
		same(t, notes(t, dir), []string{"a", "b", "c", "d"})
	})
	t.Run("are not read when the plain one is still there", func(t *testing.T) {
		dir, first := two(t)
		text, err := os.ReadFile(first)
		try(t, err)
		try(t, os.WriteFile(packed(t, first), []byte("not zstd"), 0o600), os.WriteFile(first, text, 0o600))
		same(t, notes(t, dir), []string{"a", "b", "c"})
	})
	t.Run("of which the last is packed, go on", func(t *testing.T) {
		dir, _ := two(t)
		packed(t, filepath.Join(dir, pieceName(3, 0)))
		l := open(t, dir, Options{})
		mustNote(t, l, "d")
		same(t, notes(t, dir), []string{"a", "b", "c", "d"})
	})
	for name, harm := range map[string]func([]byte) []byte{
		"a byte of it changed": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"its end missing":      func(b []byte) []byte { return b[:len(b)-5] },
		"nothing in it":        func(b []byte) []byte { return nil },
	} {
		for _, last := range []bool{false, true} {
			t.Run("with "+name+" are damage", func(t *testing.T) {
				dir, path := two(t)
				if last {
					path = filepath.Join(dir, pieceName(3, 0))
				}
				path = packed(t, path)
				b, err := os.ReadFile(path)
				try(t, err, os.WriteFile(path, harm(b), 0o600))
				if err := Read(dir, func(Record) error { return nil }); err == nil || !strings.Contains(err.Error(), path) {
					t.Errorf("Read: %v", err)
				}
				before := folder(t, dir)
				if _, err := Open(dir, Options{Bastion: "b"}); err == nil || !strings.Contains(err.Error(), path) {
					t.Errorf("Open: %v", err)
				}
				same(t, folder(t, dir), before)
			})
		}
	}
}
