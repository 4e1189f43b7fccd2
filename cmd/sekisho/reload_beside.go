package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"sekisho/audit"
	"sekisho/authz"
	"sekisho/authz/strictyaml"
)

// reloadKeys takes over authorized_keys files that have changed.
func (svc *service) reloadKeys() (forwards, conns int, problems strictyaml.Problems) {
	svc.reloading.Lock()
	defer svc.reloading.Unlock()
	keys, sum, problems := svc.setup.readKeyFiles()
	if problems.Err() != nil {
		svc.refuseOnce("authorized_keys", svc.setup.settings.AuthorizedKeysDir, "the authorized_keys files are not taken over: the keys that were in force stay", sum, problems)
		return 0, 0, problems
	}
	delete(svc.refused, svc.setup.settings.AuthorizedKeysDir)
	svc.attempts.good("authorized_keys")
	if sum == svc.setup.beside.keysSum {
		return 0, 0, nil
	}
	logProblems(svc.log, problems)
	for _, f := range svc.setup.beside.keys {
		if f.Narrows() && !slices.ContainsFunc(keys, func(k authz.KeyFile) bool { return k.User == f.User }) {
			svc.log.WithField("user", printable(f.User)).Warnf("%s is gone: what it narrowed of the user's keys is narrowed no more", f.Name)
		}
	}
	svc.setup.beside.keys, svc.setup.beside.keysSum = keys, sum
	forwards, conns = svc.layBeside("authorized_keys files reloaded", audit.Record{
		Type: audit.PolicyLoad, Policy: svc.setup.policy.Hash(), Reason: "authorized_keys", Detail: many(len(keys), "file") + fmt.Sprintf(", sha256:%x", sum),
	})
	return forwards, conns, nil
}

// reloadLists takes over lists of revoked keys that have changed, each on its
// own: one that cannot be read must not keep the others from revoking.
func (svc *service) reloadLists() (forwards, conns int, problems strictyaml.Problems) {
	svc.reloading.Lock()
	defer svc.reloading.Unlock()
	s, changed := svc.setup, false
	lists := slices.Clone(s.beside.lists) // the policy in force holds the old ones
	for i, name := range s.settings.RevokedKeys {
		list, sum, found := s.readRevokedKeys(name)
		problems = append(problems, found...)
		if found.Err() != nil {
			svc.refuseOnce("revoked_keys", name, s.path(name)+" is not taken over: what it revoked stays revoked", sum, found)
			continue
		}
		delete(svc.refused, name)
		if sum != s.beside.listSums[i] {
			lists[i], s.beside.listSums[i], changed = list, sum, true
		}
	}
	if problems.Err() == nil {
		svc.attempts.good("revoked_keys")
	}
	if !changed {
		return 0, 0, problems
	}
	s.beside.lists = lists
	forwards, conns = svc.layBeside("lists of revoked keys reloaded", audit.Record{
		Type: audit.PolicyLoad, Policy: s.policy.Hash(), Reason: "revoked_keys", Detail: s.beside.listsText(),
	})
	return forwards, conns, problems
}

func (b *beside) listsText() string {
	text := many(len(b.lists), "list")
	for i, l := range b.lists {
		text += fmt.Sprintf("; %s: %s, sha256:%x", l.Name, l.List, b.listSums[i])
	}
	return text
}

// A locking is what has become of a change of the locks.
type locking struct {
	Changes     []string `json:"changes"`
	Text        []byte   `json:"text"` // of the locks that are in force now
	Forwards    int      `json:"forwards_closed"`
	Connections int      `json:"connections_closed"`
}

// reloadLocks takes over what commands have taken away, or given back. By is
// who has, where it is known; a lock itself says by whom it is.
func (svc *service) reloadLocks(by string) (done locking, problems strictyaml.Problems) {
	svc.reloading.Lock()
	defer svc.reloading.Unlock()
	locks, sum, problems := svc.setup.readLocks()
	if locks == nil && problems == nil && svc.setup.beside.locks != nil {
		// A file that is gone would give back all that was taken.
		problems = strictyaml.Problems{{File: svc.setup.path(svc.setup.settings.Locks), Message: "is gone", Hint: "unlock what is to be unlocked; without it the next start begins with no locks"}}
	}
	if problems.Err() != nil {
		svc.refuseOnce("locks", svc.setup.settings.Locks, "the locks are not taken over: those that were in force stay", sum, problems)
		return done, problems
	}
	delete(svc.refused, svc.setup.settings.Locks)
	svc.attempts.good("locks")
	if svc.unwritten && sum == svc.setup.beside.locksSum {
		return locking{Text: svc.setup.beside.locks.Text()}, nil // it is as it was before they were told
	}
	svc.unwritten = false
	return svc.takeLocks(locks, sum, by), nil
}

// tellLocks takes over locks that a command could not write into their file.
// They hold until the file is another, or the server ends.
func (svc *service) tellLocks(text []byte, by string) (done locking, problems strictyaml.Problems) {
	svc.reloading.Lock()
	defer svc.reloading.Unlock()
	locks, problems := authz.ParseLocks(bytes.NewReader(text), "the locks")
	if problems.Err() != nil {
		return done, problems
	}
	svc.log.WithField("file", svc.setup.path(svc.setup.settings.Locks)).Error("the locks could not be written: they hold until the server ends")
	svc.unwritten = true
	return svc.takeLocks(locks, svc.setup.beside.locksSum, by), nil
}

// takeLocks puts locks in force; sum is that of their file.
func (svc *service) takeLocks(locks *authz.Locks, sum [sha256.Size]byte, by string) (done locking) {
	before := svc.setup.beside.locks
	records := lockRecords(before, locks, by)
	svc.setup.beside.locks, svc.setup.beside.locksSum = locks, sum
	done.Text = locks.Text()
	followed := svc.locksFollowed
	svc.locksFollowed = nil
	if len(records) == 0 {
		if by != "" && followed != nil && bytes.Equal(followed.Text, done.Text) {
			return *followed // the change of the file was seen before the command that made it came to ask
		}
		return done
	}
	for _, rec := range records {
		done.Changes = append(done.Changes, rec.Request)
	}
	done.Forwards, done.Connections = svc.layBeside("locks changed", records...)
	if by == "" {
		svc.locksFollowed = &done
	}
	return done
}

// lockRecords tell of what one set of locks has that another has not.
func lockRecords(before, after *authz.Locks, by string) (records []audit.Record) {
	for _, l := range after.List() {
		if before.Has(l) == nil {
			records = append(records, lockRecord(l, true))
		}
	}
	for _, l := range before.List() {
		if after.Has(l) == nil {
			// Who put it on is not who takes it off.
			l.By, l.Why = by, ""
			if u := after.WasUndone(l); u != nil {
				l.By, l.Why = u.By, u.Why
			}
			records = append(records, lockRecord(l, false))
		}
	}
	return records
}

// lockRecord is the record of a lock that was put on, or taken off.
func lockRecord(l authz.Lock, on bool) audit.Record {
	rec := audit.Record{Type: audit.AdminLock, Entrance: "admin", Login: l.By, User: l.User, Key: l.Key, Detail: l.Why}
	verb := map[bool]string{true: "lock", false: "unlock"}
	switch {
	case l.IsLockdown():
		verb = map[bool]string{true: "lockdown on", false: "lockdown off"}
	case l.User == "":
		rec.Type = audit.AdminRevoke
		verb = map[bool]string{true: "revoke", false: "revoke --undo"}
	}
	rec.Request = verb[on]
	if !l.IsLockdown() {
		rec.Request += " " + l.String()
	}
	return rec
}

// locksSince are the records of locks that were put on, or taken off, since the
// last run, of which no server has told. One without a time, which somebody has
// written by hand, is told at each start.
func locksSince(locks *authz.Locks, last time.Time) (records []audit.Record) {
	for _, l := range locks.List() {
		if l.At.After(last) || l.At.IsZero() {
			records = append(records, lockRecord(l, true))
		}
	}
	if locks == nil {
		return records
	}
	for _, l := range locks.Undone {
		if l.At.After(last) {
			records = append(records, lockRecord(l, false))
		}
	}
	return records
}

// layBeside lays what is beside the policy over it anew, and records that. The
// records do not hold it up.
func (svc *service) layBeside(said string, records ...audit.Record) (forwards, conns int) {
	told := svc.tell(said+", but that is not in the audit log", records...)
	policy, problems := svc.setup.beside.lay(svc.setup.policy)
	logProblems(svc.log, problems)
	forwards, conns = svc.server.SetPolicy(policy)
	svc.setup.policy = policy
	line := svc.log.WithFields(logrus.Fields{"forwards_closed": forwards, "connections_closed": conns})
	for _, rec := range records {
		if rec.Type == audit.PolicyLoad {
			svc.attempts.taken(rec.Reason)
		}
		if rec.Request != "" {
			line.WithField("by", printable(rec.Login)).Warn(rec.Request)
		}
	}
	line.Info(said)
	told()
	return forwards, conns
}

// refuseOnce is refuse, once for the same content and problems of a file in a
// row.
func (svc *service) refuseOnce(reason, file, text string, sum [sha256.Size]byte, problems strictyaml.Problems) {
	refused := fmt.Sprintf("%x %s", sum, texts(problems))
	if svc.refused[file] == refused {
		return
	}
	svc.refused[file] = refused
	svc.refuse(reason, text, problems)
}
