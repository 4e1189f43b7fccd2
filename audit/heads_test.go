package audit

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"sekisho/audit/tree"
)

// withKey are options with a new log key.
func withKey(t testing.TB) Options {
	t.Helper()
	private, public, err := note.GenerateKey(nil, "bastion-1")
	try(t, err)
	signer, err := note.NewSigner(private)
	try(t, err)
	key, err := note.NewVerifier(public)
	try(t, err)
	return Options{Signer: signer, Verifier: key, headPause: time.Millisecond}
}

// rfcRoot is the Merkle tree hash as RFC 6962 section 2.1 defines it.
func rfcRoot(leaves [][]byte) [32]byte {
	switch n := len(leaves); n {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return sha256.Sum256(append([]byte{0}, leaves[0]...))
	default:
		k := 1
		for 2*k < n {
			k *= 2
		}
		left, right := rfcRoot(leaves[:k]), rfcRoot(leaves[k:])
		return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
	}
}

// leavesOf are the lines of the log, read by nothing of this package.
func leavesOf(t *testing.T, dir string) [][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "0*.jsonl"))
	try(t, err)
	var leaves [][]byte
	for _, path := range paths {
		text, err := os.ReadFile(path)
		try(t, err)
		leaves = append(leaves, bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))...)
	}
	return leaves
}

// heads are all that stand in the folder and that the key has signed.
func heads(t *testing.T, dir string, key note.Verifier) []tree.Head {
	t.Helper()
	files, err := headFiles(dir)
	try(t, err)
	var all []tree.Head
	for _, path := range files {
		texts, err := headsOf(path)
		try(t, err)
		for _, text := range texts {
			h, err := tree.OpenHead(text, key)
			try(t, err)
			all = append(all, h)
		}
	}
	return all
}

func TestHeads(t *testing.T) {
	t.Run("are signed over what is durable, at the latest when the log is closed", func(t *testing.T) {
		dir, opts := t.TempDir(), withKey(t)
		for range 3 {
			l := open(t, dir, opts)
			for _, s := range []string{"a", "b", "c"} {
				mustNote(t, l, s)
			}
			try(t, l.Close())
		}
		leaves := leavesOf(t, dir)
		all := heads(t, dir, opts.Verifier)
		if len(all) < 3 || all[len(all)-1].Size != 12 || len(leaves) != 12 {
			t.Fatalf("%d leaves, and these heads: %v", len(leaves), all)
		}
		for _, h := range all {
			same(t, [32]byte(h.Root), rfcRoot(leaves[:h.Size]))
			same(t, h.Origin, "bastion-1")
		}
	})
	t.Run("stand in the first record of the next run", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		mustNote(t, l, "a")
		try(t, l.Close())
		before := rfcRoot(leavesOf(t, dir))
		open(t, dir, Options{})
		var starts []TreeHead
		try(t, Read(dir, func(r Record) error {
			if r.Type == ServerStart {
				starts = append(starts, r.Head)
			}
			return nil
		}))
		same(t, starts, []TreeHead{{}, {2, before}})
	})
	t.Run("can be asked for at any time", func(t *testing.T) {
		dir, opts := t.TempDir(), withKey(t)
		l := open(t, dir, opts)
		mustNote(t, l, "a")
		text, err := l.Head()
		try(t, err)
		h, err := tree.OpenHead(text, opts.Verifier)
		try(t, err)
		same(t, h.Size, 2)
		same(t, [32]byte(h.Root), rfcRoot(leavesOf(t, dir)))
	})
	t.Run("are none without a key", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		mustNote(t, l, "a")
		text, err := l.Head()
		same(t, [2]any{text == nil, err}, [2]any{true, nil})
		try(t, l.Close())
		same(t, len(heads(t, dir, nil)), 0)
	})
	t.Run("are signed again after they could not be written, and half a one spoils no other", func(t *testing.T) {
		dir, opts := t.TempDir(), withKey(t)
		l := open(t, dir, opts)
		mustNote(t, l, "a")
		try(t, l.Close())
		file := filepath.Join(dir, stem(0, 0)+headsEnd)
		whole, err := os.ReadFile(file)
		try(t, err)
		one := string(splitHeads(whole)[0])
		for _, end := range []string{"b", "bastion-1", "bastion-1\n", "bastion-1\n2\n", "bastion-1\n2\nabc", one[:len(one)-3], one[:len(one)-5], one[:len(one)-9], "\x00\x00\x00"} {
			got := splitHeads([]byte(string(whole) + end + "\n" + string(whole)))
			same(t, len(got), 2*len(splitHeads(whole)))
		}
		same(t, len(splitHeads(whole[:len(whole)-3])), len(splitHeads(whole))-1)

		d := &testDisk{}
		opts.disk = d
		d.failing(func(op, name string) error {
			if op == "write" && strings.HasSuffix(name, headsEnd) {
				return syscall.EIO
			}
			return nil
		})
		l = open(t, dir, opts)
		mustNote(t, l, "b")
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if s := l.signing.Load(); s != nil && errors.Is(s.err, syscall.EIO) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("a head that cannot be written is not told of")
			}
		}
		d.failing(nil)
		try(t, l.Close())
		all := heads(t, dir, opts.Verifier)
		same(t, all[len(all)-1].Size, 4)
	})
}

func TestHeadsThatCannotBeWrittenStopNoAppendAndAreTold(t *testing.T) {
	dir, opts, d := t.TempDir(), withKey(t), &testDisk{}
	told := make(chan string, 10)
	opts.disk, opts.headPause = d, time.Millisecond
	opts.Warn = func(text string, fields map[string]any) { told <- fmt.Sprint(text, fields["error"]) }
	l := open(t, dir, opts)
	wait := func() string {
		select {
		case text := <-told:
			return text
		case <-time.After(10 * time.Second):
			return "nothing"
		}
	}
	file := filepath.Join(dir, stem(0, 0)+headsEnd)
	hung := make(chan struct{})
	let := sync.OnceFunc(func() { close(hung) })
	t.Cleanup(let)
	for _, fail := range []struct {
		name, op string
		err      error
		hangs    bool
	}{
		{"the disk is full", "write", syscall.ENOSPC, false},
		{"an fsync fails", "sync", syscall.EIO, false},
		{"the file cannot be opened", "open", syscall.EACCES, false},
		{"an fsync hangs, then fails", "sync", syscall.EIO, true},
	} {
		d.failing(func(op, name string) error {
			if !strings.HasSuffix(name, headsEnd) || op != fail.op {
				return nil
			}
			if fail.hangs {
				<-hung
			}
			return fail.err
		})
		if fail.op == "open" {
			try(t, os.Rename(file, file+".old")) // it is open until then
		}
		for range 100 {
			mustNote(t, l, fail.name)
		}
		if fail.hangs {
			let()
		}
		if got := wait(); !strings.Contains(got, "no head") || !strings.Contains(got, fail.err.Error()) {
			t.Errorf("%s: told %q", fail.name, got)
		}
		d.failing(nil)
		if got := wait(); !strings.Contains(got, "again") {
			t.Errorf("%s: told %q", fail.name, got)
		}
	}
	try(t, l.Close())
	same(t, len(notes(t, dir)), 400)
	all := heads(t, dir, opts.Verifier)
	same(t, all[len(all)-1].Size, 401)
	same(t, len(told), 0)
}

// What stands below a head that was signed is held against it at the start.
func TestDamageBelowAHeadIsRefused(t *testing.T) {
	edit := func(from, to string) func(string) string {
		return func(s string) string { return strings.Replace(s, from, to, 1) }
	}
	lines := func(s string) []string { return strings.SplitAfter(s, "\n") }
	tests := []struct {
		name string
		harm func(string) string
		want string
	}{
		{"a changed byte that is a record still", edit(`"detail":"b"`, `"detail":"B"`), "not the records whose head was signed"},
		{"the last record gone", func(s string) string { l := lines(s); return strings.Join(l[:len(l)-2], "") }, "a head signed at"},
		{"the last record torn", func(s string) string { return s[:len(s)-9] }, "a head signed at"},
		{"all records gone", func(string) string { return "" }, "a head signed at"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, opts := t.TempDir(), withKey(t)
			l := open(t, dir, opts)
			for _, s := range []string{"a", "b", "c"} {
				mustNote(t, l, s)
			}
			try(t, l.Close())
			path := filepath.Join(dir, pieceName(0, 0))
			text, err := os.ReadFile(path)
			try(t, err, os.WriteFile(path, []byte(tt.harm(string(text))), 0o600))
			before := folder(t, dir)
			opts.Bastion = "b"
			_, err = Open(dir, opts)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "no crash does this") {
				t.Fatal(err)
			}
			same(t, folder(t, dir), before)

			// Without the key nobody can tell.
			if l, err := Open(dir, Options{Bastion: "b"}); err != nil {
				t.Error(err)
			} else {
				l.Close()
			}
		})
	}
	t.Run("but what is torn above it is mended", func(t *testing.T) {
		dir, opts := t.TempDir(), withKey(t)
		l := open(t, dir, opts)
		mustNote(t, l, "a")
		try(t, l.Close())
		tear(t, dir, pieceName(0, 0), `{"v":1,"se`)
		l = open(t, dir, opts)
		same(t, l.Recovered().Cut, int64(10))
	})
	t.Run("and heads of another key are told of", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, withKey(t))
		try(t, l.Close())
		l = open(t, dir, withKey(t))
		if err := l.Recovered().Foreign; !errors.Is(err, tree.ErrForeignKey) {
			t.Error(err)
		}
		try(t, l.Close())
	})
}
