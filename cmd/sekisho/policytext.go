package main

import (
	"sekisho/audit"
)

// Old decisions stay explainable because every policy that comes into force is
// kept beside the audit log. If that fails:
//
// At the start, nothing runs yet that could be hurt, somebody may be there to
// see it, and a policy that was in force before is there already: the server
// does not start.
//
// At a reload the policy comes into force all the same. It may be the one that
// takes access away, and a full disk is to keep nobody's access alive. The
// operational log says so, and so does the record of the load; the next reload
// tries again.

// keepFirst keeps the policy that the server starts with.
func (svc *service) keepFirst() error {
	text := svc.setup.takeText()
	if err := svc.book.Keep(svc.setup.policy.Hash(), text); err != nil {
		return failf("the folder is to have room and to belong, with what is in it, to the user who serves",
			"the policy is not kept beside the audit log, and its decisions could not be explained later: %w", err)
	}
	return nil
}

// keepPolicy keeps the text of a policy that comes into force, and has the
// record of its load say so if it cannot.
func (svc *service) keepPolicy(text []byte, load *audit.Record) {
	if err := svc.book.Keep(load.Policy, text); err != nil {
		svc.log.WithError(err).WithField("policy", load.Policy).
			Error("the policy is in force and not kept beside the audit log: its decisions cannot be explained later; sekisho reload tries again")
		load.Detail += "; the text is not kept beside the log: " + err.Error()
	}
}

// takeText returns the text that the policy was last read from, which is
// needed once.
func (s *setup) takeText() []byte {
	text := s.policyText
	s.policyText = nil
	return text
}
