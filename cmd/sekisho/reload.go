package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"sekisho/audit"
	"sekisho/authz"
	"sekisho/authz/strictyaml"
	"sekisho/hostsfile"
)

// How long a file must have been still before a change of it is taken over.
// People save a policy half done more often than tools a hosts file.
const (
	settleHosts  = 200 * time.Millisecond
	settlePolicy = time.Second
)

// againAfter is when a file is tried again that could not be read at the start.
const againAfter = 5 * time.Second

// follow takes over changes of the hosts file, and of the policy if the
// settings say so, until ctx ends.
func (svc *service) follow(ctx context.Context) {
	s := svc.setup
	ended := make(chan struct{})
	go func() { defer close(ended); svc.watch(ctx, s.path(s.settings.Hosts), settleHosts, svc.reloadHosts) }()
	if s.settings.Watch {
		svc.watch(ctx, s.path(s.settings.Policy), settlePolicy, svc.reloadPolicy)
	}
	<-ended
}

func (svc *service) watch(ctx context.Context, path string, settle time.Duration, changed func() (retry bool)) {
	// What has changed between the load and the watch, is seen by looking
	// once more after it has begun.
	looked := make(chan struct{})
	looking, stop := context.WithCancel(ctx)
	defer func() { stop(); <-looked }()
	go func() {
		defer close(looked)
		for wait := settle; ; wait = againAfter {
			select {
			case <-looking.Done():
				return
			case <-time.After(wait):
			}
			if !changed() {
				return
			}
		}
	}()
	if err := hostsfile.Watch(ctx, path, settle, changed); err != nil {
		svc.log.WithError(err).WithField("file", path).Error("the file cannot be followed; SIGHUP reads it again")
	}
}

// reload reads policy and hosts again and takes over both, or neither. It is
// the answer to SIGHUP.
func (svc *service) reload() {
	svc.reloading.Lock()
	defer svc.reloading.Unlock()
	s := svc.setup
	if content, err := readFile(s.config); err != nil || !bytes.Equal(content, s.content) {
		svc.log.WithField("file", s.config).Warn("the settings have changed: they are read at start only, so restart for them")
	}

	policy, counts, problems := s.readPolicy()
	problems = append(problems, s.checkModes()...)
	hosts := false
	if problems.Err() == nil {
		// The hosts come last, since they are in force as soon as they are read.
		var err error
		if hosts, err = s.hosts.Reload(); err != nil {
			problems = append(problems, hostsProblems(s.path(s.settings.Hosts), err)...)
		}
	} else if _, found := openHosts(s.path(s.settings.Hosts)); found.Err() != nil {
		problems = append(problems, found...) // only to tell all at once
	}
	if problems.Err() != nil {
		svc.refuse("signal", "SIGHUP: nothing is taken over: the policy and hosts that were in force stay", problems)
		return
	}
	logProblems(svc.log, problems)
	if hosts {
		svc.log.WithField("names", s.hosts.Table().Len()).Info("hosts file reloaded")
	}
	svc.takeOver(policy, counts, "signal")
}

// reloadPolicy takes over a policy that has changed. It is to be tried again
// if the file could not be read, which is told once.
func (svc *service) reloadPolicy() (retry bool) {
	svc.reloading.Lock()
	defer svc.reloading.Unlock()
	policy, counts, unread, problems := svc.setup.tryPolicy()
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
		return false
	}
	logProblems(svc.log, problems)
	svc.takeOver(policy, counts, "watch")
	return false
}

// reloadHosts takes over a hosts file that has changed. It is to be tried again
// if the file could not be read, which is told once.
func (svc *service) reloadHosts() (retry bool) {
	svc.reloading.Lock()
	defer svc.reloading.Unlock()
	s := svc.setup
	problems := s.checkModesOf(s.settings.Hosts)
	changed := false
	if problems.Err() == nil {
		var err error
		if changed, err = s.hosts.Reload(); err != nil {
			problems = hostsProblems(s.path(s.settings.Hosts), err)
			var content *hostsfile.ParseError
			retry = !errors.As(err, &content)
		}
	}
	last := svc.hostsUnread
	svc.hostsUnread = ""
	if retry {
		svc.hostsUnread = problems[0].Error()
		if svc.hostsUnread == last {
			return true
		}
	}
	if problems.Err() != nil {
		logProblems(svc.log, problems)
		svc.log.Error("the hosts file is not taken over: the names that were in force stay")
		return retry
	}
	if changed {
		logProblems(svc.log, fromHosts(s.hosts.Warnings()))
		svc.log.WithField("names", s.hosts.Table().Len()).Info("hosts file reloaded")
	}
	return false
}

// takeOver puts a good policy in force. The book is told first, but a book
// that cannot be written does not keep anybody's access alive.
func (svc *service) takeOver(policy *authz.Policy, counts counts, reason string) {
	recorded := make(chan error, 1)
	go func() {
		recorded <- svc.record(audit.Record{Type: audit.PolicyLoad, Policy: policy.Hash(), Reason: reason, Detail: counts.String()})
	}()
	var err error
	told := false
	select {
	case err = <-recorded:
		told = true
	case <-time.After(300 * time.Millisecond):
	}
	same := policy.Hash() == svc.setup.policy.Hash()
	forwards, conns := svc.server.SetPolicy(policy)
	svc.setup.policy, svc.setup.counts = policy, counts
	text := "policy reloaded: "
	if same {
		text = "policy read again, unchanged: "
	}
	svc.log.WithFields(logrus.Fields{"policy": policy.Hash(), "forwards_closed": forwards, "connections_closed": conns}).
		Infof("%s%s; %s, %s closed", text, counts, many(forwards, "forward"), many(conns, "connection"))
	if !told {
		err = <-recorded
	}
	if err != nil {
		svc.log.WithError(err).Error("the policy is in force, but its load is not in the audit log")
	}
}

// refuse tells of files that are not taken over.
func (svc *service) refuse(reason, text string, problems strictyaml.Problems) {
	problems.Sort()
	logProblems(svc.log, problems)
	svc.log.Error(text)
	var lines []string
	for _, p := range problems.Errors() {
		lines = append(lines, p.Error())
	}
	err := svc.record(audit.Record{Type: audit.PolicyReject, Policy: svc.setup.policy.Hash(), Reason: reason, Detail: strings.Join(lines, "; ")})
	if err != nil {
		svc.log.WithError(err).Error("that the files were refused is not in the audit log")
	}
}
