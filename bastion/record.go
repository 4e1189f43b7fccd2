package bastion

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"sekisho/audit"
)

// deny records that a forward is refused and returns the words for the
// client, who gets them whether or not the record can be written.
func (f *Forwarder) deny(fw *forward, kind RefusalKind, cause *endCause, said string) *Refusal {
	fw.mu.Lock()
	fw.grant = "" // one that might have allowed it did not
	fw.mu.Unlock()
	rec := fw.record(audit.ForwardDeny)
	rec.Reason, rec.Detail = cause.reason, cause.detail
	f.counts.forward("deny", cause.reason)
	line := f.logLine(fw).WithFields(logrus.Fields{fieldReason: rec.Reason, fieldDetail: printable(rec.Detail)})
	line.Warn("forward denied")
	f.write(func() {
		ctx, cancel := context.WithTimeout(f.giveUp, f.limits.DialTimeout)
		defer cancel()
		if err := f.recorder.Append(ctx, rec); err != nil {
			line.WithError(err).Error("a denied forward is not recorded")
			f.recordFailed()
		}
	})
	return &Refusal{Kind: kind, Message: fw.sentence(said), own: kind == ByPolicy}
}

// logFailed ends what runs, and what has not yet come to that.
var logFailed = &endCause{reasonLogFailed, "the audit log cannot be written (audit.on_failure: close)"}

// logFailedWords are those for the client.
const logFailedWords = "the audit log cannot be written, so no forward is opened"

func (f *Forwarder) recordFailed() {
	if f.closeOnLogFailure {
		f.live.cutAll(logFailed)
	}
}

// end records the one end of an opened forward. The record must not be lost
// while this process lives, so where the log fails it is tried again beside
// everything else; if the process ends first, the next start records the
// forward as lost.
func (f *Forwarder) end(fw *forward, t audit.Type, cause *endCause) {
	fw.mu.Lock()
	fw.ended = true
	rec := fw.recordLocked(t)
	fw.mu.Unlock()
	f.live.remove(fw)
	rec.Reason, rec.Detail = cause.reason, cause.detail
	rec.BytesUp, rec.BytesDown = fw.flow.up.Load(), fw.flow.down.Load()
	rec.Duration = time.Since(fw.started)
	result := "close"
	if t == audit.ForwardFail {
		result = "fail"
	}
	f.counts.forward(result, cause.reason)
	line := f.logLine(fw).WithFields(logrus.Fields{
		fieldReason: rec.Reason,
		"bytes_up":  rec.BytesUp, "bytes_down": rec.BytesDown, "duration_ms": rec.Duration.Milliseconds(),
	})
	if rec.Detail != "" {
		line = line.WithField(fieldDetail, printable(rec.Detail))
	}
	if t == audit.ForwardFail {
		line.Warn("forward failed")
	} else {
		line.Info("forward closed")
	}
	f.write(func() {
		fw.recording.Lock()
		defer fw.recording.Unlock()
		for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
			err := f.recorder.Append(f.giveUp, rec)
			if err == nil {
				return
			}
			line.WithError(err).Error("the end of a forward is not yet recorded")
			f.recordFailed()
			select {
			case <-time.After(wait):
			case <-f.giveUp.Done():
				return
			}
		}
	})
}

// write runs what writes a record, and waits for it, so that the records of a
// connection come in the order of their events and an answer after its
// record; but no longer than recordWait.
func (f *Forwarder) write(record func()) {
	f.writing.Add(1)
	done := make(chan struct{})
	go func() {
		defer f.writing.Add(-1)
		defer close(done)
		record()
	}()
	patience := time.NewTimer(recordWait)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
	}
}

// waitRecords waits until every record is written, or until ctx ends; then it
// gives up those that are not.
func (f *Forwarder) waitRecords(ctx context.Context) {
	for f.writing.Load() > 0 && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	f.stopTrying()
}

func (fw *forward) record(t audit.Type) audit.Record {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	return fw.recordLocked(t)
}

func (fw *forward) recordLocked(t audit.Type) audit.Record {
	p := fw.principal
	rec := audit.Record{
		Type: t, Conn: p.Conn, Forward: fw.id, Entrance: p.Entrance,
		User: p.User, Login: p.Login, Key: p.Key, Cert: p.certificate(), Client: p.Client, Source: p.Source,
		Originator: fw.ask.Originator, Target: fw.ask.Target,
		Grant: fw.grant, Policy: fw.policy,
	}
	if addr := fw.address.Load(); addr != nil {
		rec.Address = *addr
	}
	if t == audit.ForwardOpen || t == audit.ForwardDeny {
		rec.Dropped = fw.dropped
	}
	return rec
}
