package main

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// attempts remember what has become of attempts to take files over.
type attempts struct {
	mu     sync.Mutex
	policy attempt            // by which the policy came in force
	last   attempt            // that took something over, or failed
	failed map[string]attempt // the last one of each kind of file, where it failed
}

// An attempt is one to take files over.
type attempt struct {
	At    time.Time `json:"at"`
	By    string    `json:"by"`              // as the reason of its record: signal, command, watch, hosts …
	Error string    `json:"error,omitempty"` // why it failed
}

// kindOf is what an attempt is about. Those of the policy have several reasons.
func kindOf(by string) string {
	switch by {
	case bySignal, byCommand, "watch", "start":
		return "policy"
	}
	return by
}

// taken notes that files are taken over.
func (a *attempts) taken(by string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = attempt{At: time.Now().UTC(), By: by}
	kind := kindOf(by)
	delete(a.failed, kind)
	if kind == "policy" {
		a.policy = a.last
	}
}

// good notes that a kind of file is as it should be.
func (a *attempts) good(kind string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.failed, kind)
}

// bad notes that files were refused.
func (a *attempts) bad(by, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed == nil {
		a.failed = map[string]attempt{}
	}
	a.last = attempt{At: time.Now().UTC(), By: by, Error: why}
	a.failed[kindOf(by)] = a.last
}

// now returns what is noted, the failures in the order in which they came.
func (a *attempts) now() (policy, last attempt, failed []attempt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	failed = []attempt{}
	for _, f := range a.failed {
		failed = append(failed, f)
	}
	slices.SortFunc(failed, func(a, b attempt) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.By, b.By)) })
	return a.policy, a.last, failed
}
