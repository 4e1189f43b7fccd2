package hostsfile

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// pollInterval is how often a file is looked at without an event: for file
// systems that send none, and for the few changes that no watched folder shows.
const pollInterval = 5 * time.Second

// Watch calls changed each time the file at path has become another than it was,
// and has then been still for settle, until ctx ends; then it returns nil. The
// file is another when its time, size, mode or inode is, when a symbolic link
// leads elsewhere, when it is gone, or when it is back. What it was at first is
// what Watch finds when called.
//
// It is the folder that is watched, since editors write another file and rename
// it, and the folders of the links on the way, since Kubernetes swaps one of
// those. Where that cannot be had, the file is looked at every 5 s. A file that
// never comes to rest is never reported.
//
// changed is never called twice at once. When it returns retry, as it should if it
// could not read the file, for want of descriptors perhaps, then the change is
// still pending: changed is called again, at the next event in a folder or at the
// next poll. The error is that the folder of path is not there to begin with.
func Watch(ctx context.Context, path string, settle time.Duration, changed func() (retry bool)) error {
	w := watcher{path: path, settle: settle, poll: pollInterval, known: stateOf(path), changed: changed}
	return w.run(ctx)
}

// A watcher is one Watch.
type watcher struct {
	path         string
	settle, poll time.Duration
	changed      func() (retry bool)

	known   state  // what changed was last called for
	retry   bool   // changed asked to be called for it again
	pending *state // differs from known, and is to be found again after settle; or nil

	notify  *fsnotify.Watcher // nil while there is none: the poll goes on
	folders []folder          // that notify watches
}

func (w *watcher) run(ctx context.Context) error {
	if _, err := os.Stat(filepath.Dir(w.path)); err != nil {
		return err
	}
	defer w.close()
	next := time.NewTimer(0)
	defer next.Stop()
	soon := true // next is due sooner than a poll
	for ctx.Err() == nil {
		var events chan fsnotify.Event
		var errs chan error
		if w.notify != nil {
			events, errs = w.notify.Events, w.notify.Errors
		}
		// An event, of whatever file in the folder, only brings the next look
		// forward; so a busy folder costs four looks a settle time at most. An
		// error means that events were lost, which is an event too.
		event := false
		select {
		case <-ctx.Done():
			return nil
		case e := <-events:
			event = true
			// A folder that is removed or renamed is no longer watched, even when
			// it comes back as it was.
			if slices.ContainsFunc(w.folders, func(f folder) bool { return f.name == e.Name }) {
				w.close()
			}
		case <-errs:
			event = true
		case <-next.C:
			w.listen() // before look, so that no change falls between the two
			next.Reset(w.look())
			soon = w.pending != nil
		}
		if event && !soon {
			next.Reset(w.settle / 4)
			soon = true
		}
	}
	return nil
}

// look compares the file with what is known of it, and returns when to look again.
// It needs no clock: a state found twice, settle apart, was there all the time.
func (w *watcher) look() time.Duration {
	now := stateOf(w.path)
	switch {
	case now.same(w.known) && !w.retry:
		w.pending = nil
	case w.pending == nil || !now.same(*w.pending):
		w.pending = &now
		return w.settle
	default:
		w.known, w.pending = now, nil
		w.retry = w.changed()
	}
	return w.poll
}

// listen has events come from the folders that the path leads through now. A
// folder that cannot be watched is tried again at each look.
func (w *watcher) listen() {
	folders := foldersOf(w.path)
	if w.notify != nil && slices.EqualFunc(folders, w.folders, folder.same) {
		return
	}
	// A new watcher each time, since a folder may be another under the same name.
	w.close()
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return
	}
	w.notify = notify
	w.folders = slices.DeleteFunc(folders, func(f folder) bool { return notify.Add(f.name) != nil })
}

func (w *watcher) close() {
	if w.notify != nil {
		w.notify.Close()
		w.notify = nil
	}
}

// A state is what can be seen of a file without reading it.
type state struct {
	target string // where the symbolic links lead
	info   os.FileInfo
	err    error // why there is no info
}

func stateOf(path string) state {
	info, err := os.Stat(path)
	if err != nil {
		return state{err: err}
	}
	target, err := filepath.EvalSymlinks(path)
	return state{target, info, err}
}

func (s state) same(o state) bool {
	if s.err != nil || o.err != nil {
		return s.err != nil && o.err != nil && s.err.Error() == o.err.Error()
	}
	return s.target == o.target && os.SameFile(s.info, o.info) &&
		s.info.ModTime().Equal(o.info.ModTime()) && s.info.Size() == o.info.Size() && s.info.Mode() == o.info.Mode()
}

// A folder is a folder as it was once found under a name.
type folder struct {
	name string
	info os.FileInfo
}

func (f folder) same(o folder) bool { return f.name == o.name && os.SameFile(f.info, o.info) }

// foldersOf returns the folders that hold path, the file that it links to, and
// every link between.
func foldersOf(path string) []folder {
	var found []folder
	for range 40 { // as many links as Linux follows
		dir := filepath.Dir(path)
		info, err := os.Stat(dir)
		if err == nil && !slices.ContainsFunc(found, func(f folder) bool { return os.SameFile(f.info, info) }) {
			found = append(found, folder{dir, info})
		}
		target, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		path = target
	}
	return found
}
