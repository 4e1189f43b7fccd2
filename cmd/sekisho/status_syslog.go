package main

import (
	"fmt"
	"time"
)

// A syslogStatus is how far the syslog receiver is behind the audit log.
type syslogStatus struct {
	Address   string    `json:"address"`
	Next      uint64    `json:"next_seq"`           // the next record to be sent
	Behind    uint64    `json:"behind"`             // records that are to be sent
	Oldest    time.Time `json:"oldest,omitzero"`    // when the first of them was made
	Lag       float64   `json:"lag_seconds"`        // how long ago that was; 0: none is to be sent
	Connected time.Time `json:"connected,omitzero"` // since when; left out: it is not
	Error     string    `json:"error,omitempty"`    // of the last loss of the connection
	Missed    uint64    `json:"missed"`             // records that were gone before they could be sent, in this run
	Shortened uint64    `json:"shortened"`          // records that were too long to be sent whole, in this run
}

// syslogLate is from which lag on somebody should look.
const syslogLate = 5 * time.Minute

// syslogNow is nil if the log is sent nowhere.
func (svc *service) syslogNow() *syslogStatus {
	if svc.sink == nil {
		return nil
	}
	s := svc.sink.Stats()
	st := &syslogStatus{
		Address: svc.setup.settings.Audit.Syslog.Address, Next: s.Next, Behind: s.Behind, Oldest: s.Oldest,
		Connected: s.Connected, Missed: s.Missed, Shortened: s.Shortened,
	}
	if s.Behind > 0 && !s.Oldest.IsZero() {
		st.Lag = max(time.Since(s.Oldest).Seconds(), 0)
	}
	if s.Err != nil {
		st.Error = s.Err.Error()
	}
	return st
}

// rows are lines of status for people.
func (s *syslogStatus) rows() table {
	if s == nil {
		return nil
	}
	state := "not connected"
	if !s.Connected.IsZero() {
		state = "connected since " + when(s.Connected)
	}
	if s.Error != "" {
		state += "; last loss: " + printable(s.Error)
	}
	lag := "nothing is to be sent"
	if s.Behind > 0 {
		lag = fmt.Sprintf("%s behind, from record %d on", many(int(s.Behind), "record"), s.Next)
		if !s.Oldest.IsZero() {
			lag += ", the oldest of " + when(s.Oldest)
		}
	}
	t := table{{"syslog", s.Address + ": " + state}, {"", lag}}
	if s.Missed > 0 || s.Shortened > 0 {
		t = append(t, []string{"", fmt.Sprintf("MISSED %s, shortened %d", many(int(s.Missed), "record"), s.Shortened)})
	}
	return t
}

// trouble is what of it needs somebody; empty if nothing does.
func (s *syslogStatus) trouble() string {
	if s == nil || s.Lag < syslogLate.Seconds() {
		return ""
	}
	return fmt.Sprintf("the syslog receiver is %s behind, the oldest of %s", many(int(s.Behind), "record"), when(s.Oldest))
}
