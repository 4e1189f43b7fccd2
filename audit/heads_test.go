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

// A log that is opened with records that no head was over says so in itself.
func TestRecordsWithoutAHeadAreToldOf(t *testing.T) {
	mends := func(dir string) (told []string) {
		for _, r := range read(t, dir) {
			if r.Type == LogMend && r.Reason == "unsigned" {
				told = append(told, r.Detail)
			}
		}
		return told
	}
	stopped := func(t *testing.T) (string, Options) {
		dir, opts := t.TempDir(), withKey(t)
		l := open(t, dir, opts)
		mustNote(t, l, "a")
		must(t, l, Record{Type: ServerStop})
		try(t, l.Close())
		return dir, opts
	}
	t.Run("but not those of a run that has ended in order", func(t *testing.T) {
		dir, opts := stopped(t)
		l := open(t, dir, opts)
		same(t, l.Recovered(), Recovery{})
		same(t, mends(dir), nil)
	})
	t.Run("as of a crash", func(t *testing.T) {
		dir, opts := t.TempDir(), withKey(t)
		opts.headPause = time.Hour
		l := open(t, dir, opts)
		until(t, func() bool { return l.Stats().Signed == 1 })
		mustNote(t, l, "a", "b")
		dir = crash(t, dir)
		l = open(t, dir, opts)
		same(t, l.Recovered(), Recovery{Unsigned: 2})
		same(t, mends(dir), []string{"no signed head was over the 2 records from 1 on when this run began, as a crash leaves the last ones"})
	})
	for name, harm := range map[string]func(t *testing.T, dir string){
		"all heads removed": func(t *testing.T, dir string) {
			files, err := headFiles(dir)
			try(t, err, os.Remove(files[0]))
		},
		"a record appended after the last": func(t *testing.T, dir string) {
			all := read(t, dir)
			r := all[len(all)-1]
			r.Seq++
			tear(t, dir, pieceName(0, 0), string(r.AppendJSON(nil))+"\n")
		},
	} {
		t.Run("and with doubt: "+name, func(t *testing.T) {
			dir, opts := stopped(t)
			harm(t, dir)
			l := open(t, dir, opts)
			if r := l.Recovered(); r.Unsigned == 0 || !strings.Contains(r.Doubt, "ended in order") {
				t.Errorf("%+v", r)
			}
			if told := mends(dir); len(told) != 1 || !strings.Contains(told[0], "they may have been changed") {
				t.Errorf("%q", told)
			}
		})
	}
}

// What a killed process has written and not synced can be read by the next one,
// and would be gone after a power cut: it is synced before it counts.
func TestRecoverySyncsWhatItCounts(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	mustNote(t, l, "a")
	dir = crash(t, dir)
	d := &testDisk{}
	var order []string
	d.failing(func(op, name string) error {
		if op == "sync" || op == "write" {
			order = append(order, op+" "+name)
		}
		return nil
	})
	l, err := Open(dir, Options{Bastion: "b", disk: d, still: true})
	try(t, err)
	d.failing(nil)
	defer l.Close()
	if len(order) < 2 || order[0] != "sync "+pieceName(0, 0) || order[1] != "write "+pieceName(2, 0) {
		t.Errorf("%q", order)
	}
}

// The pages of a batch that was not acknowledged reach the disk in any order.
func TestAHoleAboveTheNewestHeadIsMended(t *testing.T) {
	dir, opts := t.TempDir(), withKey(t)
	opts.headPause = time.Hour
	l := open(t, dir, opts)
	until(t, func() bool { return l.Stats().Signed == 1 })
	mustNote(t, l, "a", "b", "c")
	dir = crash(t, dir)
	path := filepath.Join(dir, pieceName(0, 0))
	text, err := os.ReadFile(path)
	try(t, err)
	lines := bytes.SplitAfter(text, []byte("\n"))
	clear(lines[2])
	try(t, os.WriteFile(path, bytes.Join(lines, nil), 0o600))
	l = open(t, dir, opts)
	same(t, notes(t, dir), []string{"a"})
	if r := l.Recovered(); r.Cut != int64(len(lines[2])+len(lines[3])) {
		t.Errorf("%+v", r)
	}
	saved, err := os.ReadFile(l.Recovered().Saved)
	if err != nil || !bytes.Contains(saved, []byte(`"detail":"c"`)) {
		t.Errorf("%q, %v", saved, err)
	}

	// Below a head it is no crash.
	try(t, l.Close())
	text, err = os.ReadFile(path)
	try(t, err)
	clear(text[10:20])
	try(t, os.WriteFile(path, text, 0o600))
	opts.Bastion = "b"
	if _, err := Open(dir, opts); err == nil {
		t.Error("damage below a head was mended")
	}
}

func TestLongFilesOfHeads(t *testing.T) {
	opts := withKey(t)
	dir := t.TempDir()
	w := headWriter{dir: dir, disk: osDisk{}}
	begin := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	n := uint64(0)
	write := func(s note.Signer) {
		n++
		text, err := tree.Head{Size: n, Time: begin.Add(time.Duration(n) * time.Second)}.Sign(s)
		try(t, err, w.write(stem(0, 0), text))
	}
	for range 2000 {
		write(opts.Signer)
	}
	other := withKey(t)
	for range 1500 { // newer ones, of another key, in several chunks
		write(other.Signer)
	}
	_, h, foreign, err := newestHead(dir, opts.Verifier)
	if err != nil || h.Size != 2000 || !errors.Is(foreign, tree.ErrForeignKey) {
		t.Errorf("%+v, %v, %v", h, foreign, err)
	}
	w.size = thinAt + 1 // as if it had come to be so long
	write(opts.Signer)
	w.close()
	all, err := headsOf(filepath.Join(dir, stem(0, 0)+headsEnd))
	if err != nil || len(all) > 62 || len(all) < 55 {
		t.Errorf("%d heads are left, %v", len(all), err)
	}
	if last, err := tree.PeekHead(all[len(all)-1]); err != nil || last.Size != n {
		t.Errorf("the last is %+v, %v", last, err)
	}
}
