package main

import (
	"context"
	"time"

	"github.com/fsnotify/fsnotify"
)

// pollFolder is how often a folder is looked at without having been told of a
// change: for file systems that tell of none.
const pollFolder = 5 * time.Second

// watchFolder calls changed after each change of a file in a folder, also one
// that is written in place, once nothing has changed for settle, and in a
// folder that never rests all the same; and at every poll, since not every
// change is told. What has not changed is for changed to find out.
func watchFolder(ctx context.Context, dir string, settle time.Duration, changed func()) {
	var notify *fsnotify.Watcher
	defer func() {
		if notify != nil {
			notify.Close()
		}
	}()
	next := time.NewTimer(settle)
	defer next.Stop()
	var stirred time.Time // when the first change since the last look was told
	wait := func() {
		if stirred.IsZero() {
			stirred = time.Now()
		}
		if time.Since(stirred) < pollFolder {
			next.Reset(settle)
		}
	}
	for {
		var events chan fsnotify.Event
		var errs chan error
		if notify != nil {
			events, errs = notify.Events, notify.Errors
		}
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if e.Name == dir { // it may be gone, and another in its place
				notify.Close()
				notify = nil
			}
			wait()
		case <-errs: // events were lost
			wait()
		case <-next.C:
			stirred = time.Time{}
			if notify == nil {
				notify = newNotify(dir) // before the look, so that no change falls between
			}
			changed()
			next.Reset(pollFolder)
		}
	}
}

// newNotify tells of changes in a folder. It is nil if that cannot be had.
func newNotify(dir string) *fsnotify.Watcher {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil
	}
	if notify.Add(dir) != nil {
		notify.Close()
		return nil
	}
	return notify
}
