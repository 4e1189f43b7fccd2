package hostsfile

import (
	"context"
	"errors"
	"fmt"
	"go/build"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	settle   = 40 * time.Millisecond
	deadline = 20 * time.Second // for what must happen; never waited for in full
	quiet    = 6 * settle       // for what must not happen
)

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// replace puts a file in place by rename, as careful writers do.
func replace(t testing.TB, path, text string) {
	t.Helper()
	write(t, path+".new", text)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// link points a symbolic link elsewhere by rename.
func link(t testing.TB, target, path string) {
	t.Helper()
	if err := errors.Join(os.Symlink(target, path+".new"), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t testing.TB, path ...string) string {
	t.Helper()
	dir := filepath.Join(path...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func answer(r interface {
	LookupNetIP(context.Context, string, string) ([]netip.Addr, error)
}, host string) string {
	addrs, err := r.LookupNetIP(context.Background(), "ip", host)
	if err != nil {
		return err.Error()
	}
	return strings.Trim(fmt.Sprint(addrs), "[]")
}

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")

	_, err := Open(path)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err = Open(filepath.Dir(path)); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder: %v", err)
	}

	write(t, path, "10.0.0 a\n10.0.0.1\n")
	_, err = Open(path)
	var parseErr *ParseError
	if !errors.As(err, &parseErr) || len(parseErr.Problems) != 2 {
		t.Fatalf("got %v, want both problems", err)
	}
	want := path + `:1:1: "10.0.0" is not an address: IPv4 address too short` + "\n" + path + `:2:1: address 10.0.0.1 has no name`
	if err.Error() != want {
		t.Errorf("got\n%s\nwant\n%s", err, want)
	}

	write(t, path, "10.0.0.1 a")
	f, err := Open(path)
	if err != nil || len(f.Warnings()) != 1 || answer(f, "a") != "10.0.0.1" {
		t.Errorf("without a newline at the end: %v", err)
	}
	write(t, path, "")
	if f, err = Open(path); err != nil || f.Table().Len() != 0 {
		t.Errorf("an empty file at start: %v", err)
	}
	write(t, path, strings.Repeat("\n", maxFile+1))
	if _, err = Open(path); !errors.As(err, &parseErr) || !strings.Contains(err.Error(), ":1:1: file is larger than 16 MiB") {
		t.Errorf("a file that is too large: %v", err)
	}
}

func TestReload(t *testing.T) {
	const before = "10.0.0.1 a\n10.0.0.2 b\n"
	for _, test := range []struct {
		name, text string
		want       string // the error without the file's name, or ""
		changed    bool
	}{
		{"the same content is no change", before, "", false},
		{"another content is taken over", "10.0.0.9 a\n", "", true},
		{"only another comment is a change", before + "# c\n", "", true},
		{"an empty file is refused", "", ":1:1: no names in the file", false},
		{"a file of white space and comments is refused", "\n\t \n# nothing yet\n", ":1:1: no names in the file", false},
		{"a file cut off within a name is refused", "10.0.0.1 a\n10.0.0.2 bc", ":2:12: no newline at the end: taken as cut off", false},
		{"a file cut off before its newline is refused", strings.TrimSuffix(before, "\n"), ":2:11: no newline at the end: taken as cut off", false},
		{"a file cut off within an address is refused with all problems", "10.0.0 a\n10.0.", ":1:1: \"10.0.0\" is not", false},
		{"a file of zero bytes is refused", strings.Repeat("\x00", 20) + "\n", `:1:1: control character '\x00'`, false},
		{"an error is refused", "10.0.0.9 a\n10.0.0.8 -\n", ":2:10: name \"-\" has a label", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "hosts")
			write(t, path, before)
			f, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			old := f.Table()
			write(t, path, test.text)
			changed, err := f.Reload()
			if changed != test.changed || (f.Table() != old) != test.changed {
				t.Errorf("changed %v, other table %v, want %v", changed, f.Table() != old, test.changed)
			}
			switch {
			case test.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.want != "" && (err == nil || !strings.HasPrefix(err.Error(), path+test.want)):
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
	t.Run("an empty file may stay empty and may be filled", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "hosts")
		write(t, path, "")
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"# soon\n", "10.0.0.1 a\n"} {
			write(t, path, text)
			if changed, err := f.Reload(); !changed || err != nil {
				t.Errorf("%q: %v, %v", text, changed, err)
			}
		}
	})
	t.Run("a file that is gone is refused", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "hosts")
		write(t, path, before)
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(path)
		if changed, err := f.Reload(); changed || !errors.Is(err, fs.ErrNotExist) || answer(f, "a") != "10.0.0.1" {
			t.Errorf("%v, %v", changed, err)
		}
	})
}

type event struct {
	changed bool
	err     error
}

// A follower is a File that is being followed.
type follower struct {
	*File
	t       *testing.T
	reports chan event
}

// follow opens and follows a hosts file until the test ends. Unless asked to, it
// does not poll, so that what it sees it was told.
func follow(t *testing.T, path string, opts ...Option) *follower {
	t.Helper()
	f, err := Open(path, append([]Option{WithSettle(settle), WithPoll(time.Hour)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	fo := &follower{f, t, make(chan event, 1000)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- f.Follow(ctx, func(changed bool, err error) { fo.reports <- event{changed, err} })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Follow: %v", err)
		}
	})
	return fo
}

func (f *follower) next() event {
	f.t.Helper()
	select {
	case e := <-f.reports:
		return e
	case <-time.After(deadline):
		f.t.Fatal("nothing is reported")
		return event{}
	}
}

// takes waits for a change to be taken over, after which a is at want. Between
// the steps of a slow writer there may be others before.
func (f *follower) takes(want string) {
	f.t.Helper()
	for {
		if e := f.next(); e.changed && answer(f, "a") == want {
			return
		}
	}
}

// refuses waits for a refusal that says want.
func (f *follower) refuses(want string) {
	f.t.Helper()
	if e := f.next(); e.changed || e.err == nil || !strings.Contains(e.err.Error(), want) {
		f.t.Errorf("got %v, %v, want a refusal with %q", e.changed, e.err, want)
	}
}

func (f *follower) isQuiet() {
	f.t.Helper()
	select {
	case e := <-f.reports:
		f.t.Errorf("reported: %v, %v", e.changed, e.err)
	case <-time.After(quiet):
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) string {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "hosts")
		write(t, path, "10.0.0.1 a\n")
		return path
	}

	t.Run("a file renamed over it is taken over, again and again", func(t *testing.T) {
		path := setup(t)
		f := follow(t, path)
		for i := range 4 {
			replace(t, path, fmt.Sprintf("10.0.1.%d a\n", i))
			f.takes(fmt.Sprintf("10.0.1.%d", i))
		}
	})
	t.Run("a file written in place is taken over", func(t *testing.T) {
		path := setup(t)
		f := follow(t, path)
		for i := range 4 {
			write(t, path, fmt.Sprintf("10.0.1.%d a\n", i))
			f.takes(fmt.Sprintf("10.0.1.%d", i))
		}
	})
	t.Run("an editor that moves the old file away is followed", func(t *testing.T) {
		path := setup(t)
		f := follow(t, path)
		os.Rename(path, path+"~")
		write(t, path, "10.0.1.1 a\n")
		f.takes("10.0.1.1")
	})
	t.Run("a change from before Follow is seen", func(t *testing.T) {
		path := setup(t)
		f, err := Open(path, WithSettle(settle))
		if err != nil {
			t.Fatal(err)
		}
		replace(t, path, "10.0.1.1 a\n")
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		defer cancel()
		f.Follow(ctx, func(changed bool, err error) { cancel() })
		if got := answer(f, "a"); got != "10.0.1.1" {
			t.Error(got)
		}
	})
	t.Run("a half-written file is refused until it is whole", func(t *testing.T) {
		path := setup(t)
		f := follow(t, path)
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		f.refuses("no names in the file")
		file.WriteString("10.0.1.1 b\n10.0.1.")
		f.refuses("no newline at the end")
		if got := answer(f, "a"); got != "10.0.0.1" {
			t.Errorf("a is at %s meanwhile", got)
		}
		file.WriteString("2 a\n")
		f.takes("10.0.1.2")
	})
	t.Run("a refused content is told once, and that it is good again", func(t *testing.T) {
		path := setup(t)
		f := follow(t, path)
		replace(t, path, "10.0.1.1 -\n")
		f.refuses(`name "-"`)
		replace(t, path, "10.0.1.1 -\n")
		f.isQuiet()
		replace(t, path, "10.0.1.2 -\n")
		f.refuses(`name "-"`)
		replace(t, path, "10.0.0.1 a\n")
		if e := f.next(); e.changed || e.err != nil {
			t.Errorf("got %v, %v, want that the file is as in force", e.changed, e.err)
		}
		replace(t, path, "10.0.0.1 a\n")
		f.isQuiet()
	})
	t.Run("a deleted file is told once and followed when it is back", func(t *testing.T) {
		path := setup(t)
		f := follow(t, path)
		os.Remove(path)
		if e := f.next(); e.changed || !errors.Is(e.err, fs.ErrNotExist) {
			t.Errorf("got %v, %v", e.changed, e.err)
		}
		f.isQuiet()
		if got := answer(f, "a"); got != "10.0.0.1" {
			t.Errorf("a is at %s meanwhile", got)
		}
		write(t, path, "10.0.1.1 a\n")
		f.takes("10.0.1.1")
	})
	t.Run("a symbolic link that is swapped is followed, and the file behind it", func(t *testing.T) {
		dir := filepath.Dir(setup(t))
		one, two := mkdir(t, dir, "one")+"/hosts", mkdir(t, dir, "two")+"/hosts"
		write(t, one, "10.0.1.1 a\n")
		write(t, two, "10.0.1.2 a\n")
		path := mkdir(t, dir, "etc") + "/hosts"
		link(t, "../one/hosts", path)
		f := follow(t, path)
		link(t, "../two/hosts", path)
		f.takes("10.0.1.2")
		write(t, two, "10.0.1.3 a\n")
		f.takes("10.0.1.3")
		replace(t, two, "10.0.1.4 a\n")
		f.takes("10.0.1.4")
		write(t, one, "10.0.1.5 a\n")
		f.isQuiet()
		link(t, "../one/hosts", path)
		f.takes("10.0.1.5")
		write(t, one, "10.0.1.6 a\n")
		f.takes("10.0.1.6")
	})
	t.Run("a mounted Kubernetes ConfigMap is followed", func(t *testing.T) {
		dir := filepath.Dir(setup(t))
		vol := mkdir(t, dir, "vol")
		publish := func(i int) {
			data := mkdir(t, vol, fmt.Sprintf("..%d", i))
			write(t, filepath.Join(data, "hosts"), fmt.Sprintf("10.0.1.%d a\n", i))
			link(t, filepath.Base(data), filepath.Join(vol, "..data"))
			os.RemoveAll(filepath.Join(vol, fmt.Sprintf("..%d", i-1)))
		}
		publish(0)
		path := filepath.Join(vol, "hosts")
		link(t, "..data/hosts", path)
		f := follow(t, path)
		for i := 1; i < 4; i++ {
			publish(i)
			f.takes(fmt.Sprintf("10.0.1.%d", i))
		}
	})
	t.Run("a folder that is renamed and comes back is followed further", func(t *testing.T) {
		dir := filepath.Dir(setup(t))
		path := mkdir(t, dir, "etc") + "/hosts"
		write(t, path, "10.0.1.0 a\n")
		f := follow(t, path)
		write(t, path, "10.0.1.1 a\n")
		f.takes("10.0.1.1") // it has begun: a folder that is not there then is an error
		for i := 2; i < 5; i++ {
			os.Rename(dir+"/etc", dir+"/away")
			os.Rename(dir+"/away", dir+"/etc")
			write(t, path, fmt.Sprintf("10.0.1.%d a\n", i))
			f.takes(fmt.Sprintf("10.0.1.%d", i))
		}
	})
	// The folder that is swapped is not among the watched, so this is the poll's.
	t.Run("what sends no events is found by the poll", func(t *testing.T) {
		dir := filepath.Dir(setup(t))
		write(t, mkdir(t, dir, "v1")+"/hosts", "10.0.1.1 a\n")
		write(t, mkdir(t, dir, "v2")+"/hosts", "10.0.1.2 a\n")
		link(t, "v1", dir+"/current")
		f := follow(t, dir+"/current/hosts", WithPoll(settle))
		link(t, "v2", dir+"/current")
		f.takes("10.0.1.2")
		write(t, dir+"/v2/hosts", "10.0.1.3 a\n")
		f.takes("10.0.1.3")
	})
	t.Run("without inotify the poll is enough", func(t *testing.T) {
		path := setup(t)
		before := stateOf(path)
		w := watcher{path: path, settle: settle, poll: settle, known: before}
		replace(t, path, "10.0.1.1 a\n")
		calls := 0
		w.changed = func() bool { calls++; return false }
		for range 5 { // looks, as run does them, but never listens
			w.look()
		}
		if calls != 1 {
			t.Errorf("called %d times, want once", calls)
		}
	})
	t.Run("a file that changes while it is looked at waits", func(t *testing.T) {
		path := setup(t)
		w := watcher{path: path, settle: settle, poll: time.Hour, known: stateOf(path), changed: func() bool { t.Error("called"); return false }}
		for i := range 10 {
			write(t, path, strings.Repeat("10.0.1.1 a\n", i+2))
			if wait := w.look(); wait != settle {
				t.Errorf("next look in %v", wait)
			}
		}
	})
}

func TestWatch(t *testing.T) {
	t.Parallel()
	if err := Watch(t.Context(), filepath.Join(t.TempDir(), "none", "policy.yaml"), settle, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}

	dir := t.TempDir()
	path := filepath.Join(dir, "policy.yaml")
	write(t, path, "version: 1\n")
	ctx, cancel := context.WithCancel(t.Context())
	calls := make(chan string, 100)
	done := make(chan error)
	go func() {
		done <- Watch(ctx, path, settle, func() bool {
			text, _ := os.ReadFile(path)
			calls <- string(text)
			return false
		})
	}()
	time.Sleep(quiet) // Watch must have begun before the file changes
	for i := range 20 {
		write(t, fmt.Sprintf("%s/other-%d", dir, i), "x")
	}
	select {
	case <-calls:
		t.Error("called for other files of the folder")
	case <-time.After(quiet):
	}
	replace(t, path, "version: 2\n")
	select {
	case got := <-calls:
		if got != "version: 2\n" {
			t.Errorf("called with %q there", got)
		}
	case <-time.After(deadline):
		t.Fatal("not called")
	}
	os.Chmod(path, 0o600)
	select {
	case <-calls:
	case <-time.After(deadline):
		t.Fatal("not called for another mode")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestStage(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hosts")
	write(t, path, "10.0.0.1 a\n")
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	same, err := f.Stage()
	if err != nil || same.Changed() || same.Commit() {
		t.Errorf("the same content is a change: %v", err)
	}
	write(t, path, "10.0.0.1 a b\n")
	s, err := f.Stage()
	if err != nil || !s.Changed() || s.Table().Len() != 2 || f.Table().Len() != 1 {
		t.Fatalf("staged %+v, %v; in force are %d names", s, err, f.Table().Len())
	}
	write(t, path, "nonsense\n")
	bad, err := f.Stage()
	if parseErr := (*ParseError)(nil); !errors.As(err, &parseErr) || bad.Changed() || bad.Commit() || bad.Sum() == s.Sum() {
		t.Errorf("staged %+v, %v", bad, err)
	}
	if !s.Commit() || f.Table().Len() != 2 || f.Sum() != s.Sum() || s.Commit() {
		t.Errorf("not committed once: %d names", f.Table().Len())
	}
	write(t, path, "10.0.0.1 a b c\n")
	late, _ := f.Stage()
	write(t, path, "10.0.0.1 a b c d\n")
	if _, err := f.Reload(); err != nil || late.Commit() || f.Table().Len() != 4 {
		t.Errorf("what was staged before is in force: %d names", f.Table().Len())
	}
}

// What changed could not read is pending until it can, though the file stays as
// it is.
func TestWatchTriesAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, "version: 1\n")
	calls := make(chan int, 100)
	n := 0
	w := watcher{path: path, settle: settle, poll: 2 * settle, known: state{err: fs.ErrNotExist}}
	w.changed = func() bool {
		n++
		calls <- n
		return n < 3
	}
	go w.run(t.Context())
	for range 3 {
		select {
		case <-calls:
		case <-time.After(deadline):
			t.Fatal("not called again")
		}
	}
	select {
	case <-calls:
		t.Error("called again without having asked for it")
	case <-time.After(quiet):
	}
}

// Whoever asks while the file is replaced, in any way, by Follow and by Reload,
// gets the whole old answer or the whole new one.
func TestLookupHasNoGap(t *testing.T) {
	t.Parallel()
	contents := make([]string, 2)
	answers := make([]string, 2)
	for i := range contents {
		addrs := []string{fmt.Sprintf("10.0.%d.1", i), fmt.Sprintf("2001:db8::%d", i+1), fmt.Sprintf("10.0.%d.2", i)}
		answers[i] = strings.Join(addrs, " ")
		contents[i] = strings.Join(addrs, " a\n") + " a\n" + strings.Repeat("# filler\n", 10*i)
	}
	path := filepath.Join(t.TempDir(), "hosts")
	write(t, path, contents[0])
	f := follow(t, path, WithSettle(4*time.Millisecond))

	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	run := func(step func()) {
		go func() {
			for ctx.Err() == nil {
				step()
			}
			done <- struct{}{}
		}()
	}
	var reloaded, asked atomic.Int64
	run(func() {
		if changed, _ := f.Reload(); changed {
			reloaded.Add(1)
		}
		time.Sleep(time.Millisecond)
	})
	for range 3 {
		run(func() {
			if got := answer(f, "a"); !slices.Contains(answers, got) {
				t.Errorf("a is at %s", got)
				stop()
			}
			asked.Add(1)
		})
	}
	for i := range 500 {
		text := contents[i%2]
		switch i / 2 % 3 {
		case 0:
			replace(t, path, text)
		case 1:
			write(t, path, text)
		case 2: // truncated and written in two steps
			file, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			file.WriteString(text[:15])
			time.Sleep(time.Millisecond)
			file.WriteString(text[15:])
			file.Close()
		}
		if i%20 == 0 {
			time.Sleep(20 * time.Millisecond) // long enough for Follow too
		}
	}
	stop()
	for range 4 {
		<-done
	}
	if reloaded.Load() == 0 || asked.Load() == 0 {
		t.Errorf("%d changes taken over by Reload, %d lookups", reloaded.Load(), asked.Load())
	}
	replace(t, path, "10.9.9.9 a\n")
	f.takes("10.9.9.9")
}

// The package stays a leaf.
func TestImports(t *testing.T) {
	pkg, err := build.ImportDir(".", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range pkg.Imports {
		if strings.Contains(path, ".") && path != "github.com/fsnotify/fsnotify" || strings.HasPrefix(path, "sekisho") {
			t.Errorf("imports %s", path)
		}
	}
}
