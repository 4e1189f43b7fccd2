package main

import (
	"context"
	"fmt"
	"time"

	"sekisho/audit"
)

// A logStatus is how the audit log is.
type logStatus struct {
	Dir      string    `json:"dir"`
	Next     uint64    `json:"next_seq"`
	Writable bool      `json:"writable"`
	Since    time.Time `json:"not_writable_since,omitzero"`
	Why      string    `json:"why,omitempty"`         // not
	Durable  time.Time `json:"last_durable,omitzero"` // write

	Waiting int     `json:"waiting"`     // records that are not on stable storage yet
	Lag     float64 `json:"lag_seconds"` // for how long the oldest of them has waited; 0: none waits

	LastFsync float64 `json:"last_fsync_seconds"`
	MeanFsync float64 `json:"mean_fsync_seconds"`

	Signed    uint64 `json:"signed"`               // records below the newest head
	NotSigned string `json:"not_signed,omitempty"` // why that is the newest
	Removed   string `json:"removed,omitempty"`    // a segment, while it was written

	Segments  int    `json:"segments"`
	Bytes     int64  `json:"bytes"`
	DiskError string `json:"disk_error,omitempty"` // why these two are not known
}

// diskWait is how long a status waits for a disk to say what is on it.
const diskWait = 2 * time.Second

func (svc *service) logStatusNow(ctx context.Context) logStatus {
	s := svc.book.Stats()
	why, since := s.Trouble(time.Now())
	l := logStatus{
		Dir: svc.auditPath(), Next: s.Next, Writable: why == "", Since: since, Why: why, Durable: s.Durable,
		Waiting: s.Waiting, Lag: s.Lag(time.Now()).Seconds(),
		LastFsync: s.LastFsync.Seconds(), MeanFsync: s.Fsync.Mean().Seconds(),
		Signed: s.Signed, NotSigned: s.NotSigned, Removed: s.Removed,
	}
	if !svc.countingDisk.CompareAndSwap(false, true) {
		l.DiskError = "the disk does not answer" // to an earlier status
		return l
	}
	counted := make(chan struct{})
	var segments int
	var bytes int64
	var err error
	go func() {
		defer svc.countingDisk.Store(false)
		defer close(counted)
		segments, bytes, err = svc.book.OnDisk()
	}()
	late, cancel := context.WithTimeout(ctx, diskWait)
	defer cancel()
	select {
	case <-counted:
		if l.Segments, l.Bytes = segments, bytes; err != nil {
			l.DiskError = err.Error()
		}
	case <-late.Done():
		l.DiskError = "the disk does not answer"
	}
	return l
}

// rows are lines of status for people.
func (l *logStatus) rows() table {
	state := "can be written"
	if !l.Writable {
		state = fmt.Sprintf("CANNOT BE WRITTEN since %s: %s", when(l.Since), l.Why)
	}
	disk := fmt.Sprintf("%s, %d bytes in %s", many(l.Segments, "segment"), l.Bytes, l.Dir)
	if l.DiskError != "" {
		disk = fmt.Sprintf("not known what is in %s: %s", l.Dir, l.DiskError)
	}
	signed := fmt.Sprintf("the first %d records are below a signed head, %d are not yet", l.Signed, l.Next-min(l.Signed, l.Next))
	if l.NotSigned != "" {
		signed = fmt.Sprintf("%s; NO NEWER HEAD CAN BE SIGNED: %s", signed, l.NotSigned)
	}
	if l.Removed != "" {
		state += "; RECORDS ARE LOST: " + l.Removed
	}
	return table{
		{"audit log", state},
		{"", fmt.Sprintf("next record %d; last durable write %s", l.Next, when(l.Durable))},
		{"", fmt.Sprintf("%s not written yet, the oldest for %s", many(l.Waiting, "record"), millis(l.Lag))},
		{"", fmt.Sprintf("fsync %s last, %s on average", millis(l.LastFsync), millis(l.MeanFsync))},
		{"", signed},
		{"", disk},
	}
}

func millis(seconds float64) string { return fmt.Sprintf("%.1f ms", seconds*1000) }

// trouble is what of the log needs somebody; empty if nothing does.
func (l *logStatus) trouble() string {
	switch {
	case l.Writable && l.Removed != "":
		return "records of the audit log are lost: " + l.Removed
	case l.Writable && l.NotSigned == "":
		return ""
	case l.Writable:
		return "no head of the audit log can be signed: " + l.NotSigned
	}
	return fmt.Sprintf("the audit log cannot be written since %s: %s", when(l.Since), l.Why)
}

// watchLog tells, by the operational log and once it can be by a record, of
// times in which the audit log cannot be written. Its tries end such a time
// also where nobody else would write: whoever watches readyz sends no clients.
func (svc *service) watchLog(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	told, said := uint64(0), uint64(0) // outages
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s := svc.book.Stats()
		if s.Outages == told {
			continue
		}
		from, why := s.LastOutage.From, s.LastOutage.Why
		if s.Failed != "" {
			from, why = s.Since, s.Failed
			if said != s.Outages {
				said = s.Outages
				svc.log.WithField("error", printable(why)).Error("the audit log cannot be written; no forward is opened until it can")
			}
		}
		rec := audit.Record{Type: audit.LogResume, Reason: "outage", Detail: fmt.Sprintf("the log could not be written since %s: %s", when(from), why)}
		limited, cancel := context.WithTimeout(ctx, recordTime)
		err := svc.book.Append(limited, rec)
		cancel()
		if err == nil {
			told = s.Outages
			svc.log.WithField("since", when(from)).Warn("the audit log can be written again")
		}
	}
}
