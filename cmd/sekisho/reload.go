package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"sekisho/audit"
	"sekisho/authz"
	"sekisho/authz/strictyaml"
	"sekisho/bastion"
	"sekisho/hostsfile"
)

// How long a file must have been still before a change of it is taken over.
// People save a policy half done more often than tools a hosts file.
const (
	settleHosts  = 200 * time.Millisecond
	settlePolicy = time.Second
	// Commands rename it into its place, sync the folder, and then ask for it
	// to be read. They should be first, since they know who gives back what,
	// and tell what was closed; whatever keeps them, it is read in a second.
	settleLocks = 400 * time.Millisecond
)

// againAfter is when a file is tried again that could not be read at the start.
const againAfter = 5 * time.Second

// follow takes over changes of the files that are followed, until ctx ends: all
// but the settings, and the policy only if the settings say so.
func (svc *service) follow(ctx context.Context) {
	s := svc.setup
	var following sync.WaitGroup
	defer following.Wait()
	watch := func(name string, settle time.Duration, changed func() (retry bool)) {
		following.Go(func() { svc.watch(ctx, s.path(name), settle, changed) })
	}
	watch(s.settings.Hosts, settleHosts, svc.reloadHosts)
	watch(s.settings.Locks, settleLocks, func() (retry bool) { svc.reloadLocks(""); return false })
	for _, name := range s.settings.RevokedKeys {
		watch(name, settleHosts, func() (retry bool) { _, _, problems := svc.reloadLists(); return problems.Err() != nil })
	}
	if dir := s.settings.AuthorizedKeysDir; dir != "" {
		following.Go(func() { watchFolder(ctx, s.path(dir), settleHosts, func() { svc.reloadKeys() }) })
	}
	if s.settings.Watch {
		watch(s.settings.Policy, settlePolicy, svc.reloadPolicy)
	}
}

func (svc *service) watch(ctx context.Context, path string, settle time.Duration, changed func() (retry bool)) {
	// What has changed between the load and the watch, is seen by looking
	// once more after it has begun; and what that look has found may be as it
	// was before, or gone, when the watch looks, which a second one sees.
	looked := make(chan struct{})
	looking, stop := context.WithCancel(ctx)
	defer func() { stop(); <-looked }()
	go func() {
		defer close(looked)
		for left, wait := 2, settle; left > 0; {
			select {
			case <-looking.Done():
				return
			case <-time.After(wait):
			}
			if wait = againAfter; !changed() {
				left, wait = left-1, 2*settle
			}
		}
	}()
	if err := hostsfile.Watch(ctx, path, settle, changed); err != nil {
		svc.log.WithError(err).WithField("file", path).Error("the file cannot be followed; SIGHUP reads it again")
	}
}

// A reloaded is what has become of a reload.
type reloaded struct {
	Policy      string           `json:"policy"`              // hash of the one in force now
	Summary     string           `json:"summary"`             // of it
	Unchanged   bool             `json:"unchanged,omitempty"` // it was in force before, too
	Refused     string           `json:"refused,omitempty"`   // why nothing was taken over
	Problems    []problemLine    `json:"problems,omitempty"`
	Forwards    int              `json:"forwards_closed"`
	Connections int              `json:"connections_closed"`
	Live        int              `json:"live,omitempty"`      // forwards, where too many would end
	WouldEnd    []bastion.Ending `json:"would_end,omitempty"` // of them
}

// reload reads every file but the settings again. What is beside the policy is
// taken over first, each on its own, so that nobody is let in by a policy before
// what narrows it is known; then policy and hosts, both or neither. It is the
// answer to SIGHUP, and to the command, which is refused what would end more
// than half of the forwards unless it says force.
func (svc *service) reload(by string, force bool) (r reloaded) {
	svc.reading.Lock() // a large policy takes seconds to read, for which no lock may wait
	defer svc.reading.Unlock()
	s := svc.setup
	beside := svc.rereadBeside(&r)
	policy, counts, problems := s.readPolicy()
	badPolicy := problems.Err() != nil || s.checkModesOf(s.settings.Policy).Err() != nil

	svc.reloading.Lock()
	defer svc.reloading.Unlock()
	if svc.settingsChanged() {
		svc.log.WithField("file", s.config).Warn("the settings have changed: all but the host keys are read at start only, so restart for them")
	}
	hosts, err := s.hosts.Stage()
	badHosts := err != nil || s.checkModesOf(s.settings.Hosts).Err() != nil
	if err != nil {
		problems = append(problems, hostsProblems(s.path(s.settings.Hosts), err)...)
	}
	problems = append(problems, s.checkModes()...)
	problems.Sort()
	r.Policy, r.Summary, r.Problems = s.policy.Hash(), s.counts.String(), problemLines(append(beside, problems...))
	if problems.Err() != nil {
		r.Refused = refusal(by, s.settings.Watch && !badPolicy, !badHosts)
		svc.refuse(by, r.Refused, problems)
		return r
	}
	if !force {
		laid, _ := s.beside.lay(policy)
		r.WouldEnd, _ = svc.server.Preview(laid)
		if r.Live = svc.server.Forwards(); len(r.WouldEnd)*2 > r.Live {
			r.Refused = fmt.Sprintf("it would end %d of %s", len(r.WouldEnd), many(r.Live, "forward"))
			svc.refuse(by, "the policy is not taken over: "+r.Refused, strictyaml.Problems{{File: s.path(s.settings.Policy), Message: r.Refused}})
			return r
		}
		r.Live, r.WouldEnd = 0, nil
	}
	logProblems(svc.log, problems)
	r.Unchanged = policy.Hash() == s.policy.Hash()
	r.Policy, r.Summary = policy.Hash(), counts.String()
	forwards, conns := svc.takeOver(policy, counts, hosts, by)
	r.Forwards, r.Connections = r.Forwards+forwards, r.Connections+conns
	if beside.Err() != nil {
		r.Refused = "policy and hosts are in force, but not the files beside them that have errors: what was in force of those stays"
	}
	return r
}

// rereadBeside reads again what is beside the policy, and adds to r what that
// has closed.
func (svc *service) rereadBeside(r *reloaded) (problems strictyaml.Problems) {
	add := func(forwards, conns int, found strictyaml.Problems) {
		r.Forwards, r.Connections = r.Forwards+forwards, r.Connections+conns
		problems = append(problems, found...)
	}
	locks, found := svc.reloadLocks("")
	add(locks.Forwards, locks.Connections, found)
	add(svc.reloadLists())
	add(svc.reloadKeys())
	add(0, 0, svc.reloadHostKeys())
	return problems
}

// refusal says what becomes of the files after a reload that took nothing
// over. One that is good by itself is followed, and so is taken over after all.
func refusal(by string, policyFollowed, hostsFollowed bool) string {
	order := map[string]string{bySignal: "SIGHUP", byCommand: "reload"}[by]
	switch {
	case policyFollowed && hostsFollowed:
		return order + ": nothing is taken over now; the policy and the hosts file are followed, each on its own"
	case policyFollowed:
		return order + ": the hosts that were in force stay; the policy is followed on its own"
	case hostsFollowed:
		return order + ": the policy that was in force stays; the hosts file is followed on its own"
	}
	return order + ": nothing is taken over: the policy and hosts that were in force stay"
}

// Who wants a reload; the reasons of its records.
const (
	bySignal  = "signal"
	byCommand = "command"
)

// reloadPolicy takes over a policy that has changed. It is to be tried again
// if the file could not be read, which is told once.
func (svc *service) reloadPolicy() (retry bool) {
	svc.reading.Lock()
	defer svc.reading.Unlock()
	policy, counts, unread, problems := svc.setup.tryPolicy()
	svc.reloading.Lock()
	defer svc.reloading.Unlock()
	last := svc.policyUnread
	svc.policyUnread = ""
	if unread {
		svc.policyUnread = problems[0].Error()
		if svc.policyUnread == last {
			return true
		}
	}
	problems = append(problems, svc.setup.checkModesOf(svc.setup.settings.Policy)...)
	if problems.Err() != nil {
		svc.refuse("watch", "the policy is not taken over: the one that was in force stays", problems)
		return unread
	}
	if policy.Hash() == svc.setup.policy.Hash() {
		svc.attempts.good("policy")
		return false
	}
	logProblems(svc.log, problems)
	svc.takeOver(policy, counts, nil, "watch")
	return false
}

// reloadHosts takes over a hosts file that has changed. It is to be tried again
// if the file could not be read. What is refused is told once.
func (svc *service) reloadHosts() (retry bool) {
	svc.reloading.Lock()
	defer svc.reloading.Unlock()
	s := svc.setup
	problems := s.checkModesOf(s.settings.Hosts)
	staged, err := s.hosts.Stage()
	if err != nil {
		var content *hostsfile.ParseError
		retry = !errors.As(err, &content)
		if problems.Err() == nil {
			problems = hostsProblems(s.path(s.settings.Hosts), err)
		}
	}
	if problems.Err() != nil {
		refused := texts(problems)
		if staged != nil {
			refused = fmt.Sprintf("%x %s", staged.Sum(), refused)
		}
		if refused != svc.hostsRefused {
			svc.hostsRefused = refused
			svc.refuse("hosts", "the hosts file is not taken over: the names that were in force stay", problems)
		}
		return retry
	}
	svc.hostsRefused = ""
	svc.attempts.good("hosts")
	if staged.Changed() {
		told := svc.tell("the hosts file is in force, but that is not in the audit log", hostsRecord(staged, s.policy))
		if staged.Commit() {
			svc.sayHosts()
		}
		svc.attempts.taken("hosts")
		told()
	}
	return false
}

// sayHosts tells of names that have come in force.
func (svc *service) sayHosts() {
	hosts := svc.setup.hosts
	logProblems(svc.log, fromHosts(hosts.Warnings()))
	svc.log.WithField("names", hosts.Table().Len()).Info("hosts file reloaded")
}

// hostsRecord is the record of names that come in force under a policy.
func hostsRecord(staged *hostsfile.Staged, policy *authz.Policy) audit.Record {
	return audit.Record{
		Type: audit.PolicyLoad, Policy: policy.Hash(), Reason: "hosts",
		Detail: fmt.Sprintf("hosts: %s, sha256:%x", many(staged.Table().Len(), "name"), staged.Sum()),
	}
}

// takeOver puts a good policy in force, and with it the hosts, if there are
// any. The book is told first, but a book that cannot be written does not keep
// anybody's access alive.
func (svc *service) takeOver(policy *authz.Policy, counts counts, hosts *hostsfile.Staged, reason string) (forwards, conns int) {
	var recs []audit.Record
	if hosts != nil && hosts.Changed() {
		recs = append(recs, hostsRecord(hosts, policy))
	}
	recs = append(recs, audit.Record{Type: audit.PolicyLoad, Policy: policy.Hash(), Reason: reason, Detail: counts.String()})
	text := svc.setup.takeText()
	told := svc.tellAfter(func() { svc.keepPolicy(text, &recs[len(recs)-1]) }, "the policy is in force, but its load is not in the audit log", recs...)
	same := policy.Hash() == svc.setup.policy.Hash()
	// The names first, since ending what is no longer allowed takes a while.
	names := hosts != nil && hosts.Commit()
	policy, problems := svc.setup.beside.lay(policy)
	logProblems(svc.log, problems)
	forwards, conns = svc.server.SetPolicy(policy)
	if hosts != nil {
		svc.hostsRefused = ""
		svc.attempts.good("hosts")
	}
	svc.attempts.taken(reason)
	if names {
		svc.sayHosts()
	}
	svc.setup.policy, svc.setup.counts = policy, counts
	done := "policy reloaded: "
	if same {
		done = "policy read again, unchanged: "
	}
	svc.log.WithFields(logrus.Fields{"policy": policy.Hash(), "forwards_closed": forwards, "connections_closed": conns}).
		Infof("%s%s; %s, %s closed", done, counts, many(forwards, "forward"), many(conns, "connection"))
	told()
	return forwards, conns
}

// refuse tells of files that are not taken over.
func (svc *service) refuse(reason, text string, problems strictyaml.Problems) {
	problems.Sort()
	logProblems(svc.log, problems)
	svc.log.Error(text)
	svc.attempts.bad(reason, texts(problems))
	svc.tell("that the files were refused is not in the audit log",
		audit.Record{Type: audit.PolicyReject, Policy: svc.setup.policy.Hash(), Reason: reason, Detail: texts(problems)})()
}

// texts are the errors among problems, in one line.
func texts(problems strictyaml.Problems) string {
	var lines []string
	for _, p := range problems.Errors() {
		lines = append(lines, p.Error())
	}
	return strings.Join(lines, "; ")
}

// tell appends records, and waits for that no longer than it takes a book that
// is well. The function that it returns, which does not wait, logs a failure,
// also one that comes later.
func (svc *service) tell(failure string, recs ...audit.Record) (told func()) {
	return svc.tellAfter(func() {}, failure, recs...)
}

// tellAfter is tell, after something else that waits for the disk.
func (svc *service) tellAfter(before func(), failure string, recs ...audit.Record) (told func()) {
	recorded := make(chan error, 1)
	go func() {
		before()
		var errs []error
		for _, rec := range recs {
			errs = append(errs, svc.record(rec))
		}
		recorded <- errors.Join(errs...)
	}()
	log := func(err error) {
		if err != nil {
			svc.log.WithError(err).Error(failure)
		}
	}
	select {
	case err := <-recorded:
		return func() { log(err) }
	case <-time.After(300 * time.Millisecond):
		return func() { go func() { log(<-recorded) }() }
	}
}
