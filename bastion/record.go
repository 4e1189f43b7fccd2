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
	f.write(&rec, f.limits.DialTimeout, func(err error) {
		if err != nil {
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
	more := []Field{
		{fieldReason, rec.Reason}, {"duration_ms", rec.Duration.Milliseconds()},
		{"bytes_up", rec.BytesUp}, {"bytes_down", rec.BytesDown},
	}
	if rec.Detail != "" {
		more = append(more, Field{fieldDetail, printable(rec.Detail)})
	}
	line := f.logLine(fw, more...)
	if t == audit.ForwardFail {
		line.Warn("forward failed")
	} else {
		line.Info("forward closed")
	}
	try := func(err error) {
		for wait := 100 * time.Millisecond; err != nil; wait = min(2*wait, 5*time.Second) {
			line.WithError(err).Error("the end of a forward is not yet recorded")
			f.recordFailed()
			select {
			case <-time.After(wait):
			case <-f.giveUp.Done():
				return
			}
			err = f.recorder.Append(f.giveUp, rec)
		}
	}
	if fw.recording.TryLock() {
		f.write(&rec, 0, func(err error) {
			defer fw.recording.Unlock()
			try(err)
		})
		return
	}
	f.beside(func() { // a progress record is on its way
		fw.recording.Lock()
		defer fw.recording.Unlock()
		try(f.recorder.Append(f.giveUp, rec))
	})
}

// A starter is a Recorder that can be handed a record by whoever does not want
// to wait for it in the end; *audit.Log is one.
type starter interface {
	Start(rec audit.Record) *audit.Pending
}

// write writes rec and calls then, once, with what came of it. It waits for
// that, so that the records of a connection come in the order of their events
// and an answer after its record; but no longer than recordWait: then, and
// where the log fails, the rest is done beside. It is given up after limit; 0:
// when the server no longer waits. Rec is not changed, and not copied: what
// follows may hold it, and a copy on the heap for each is 2 % of a short forward.
func (f *Forwarder) write(rec *audit.Record, limit time.Duration, then func(error)) {
	limited := func(wait func(context.Context) error) error {
		if limit == 0 {
			return wait(f.giveUp)
		}
		ctx, cancel := context.WithTimeout(f.giveUp, limit)
		defer cancel()
		return wait(ctx)
	}
	f.writing.Add(1)
	defer f.writing.Add(-1)
	var pending *audit.Pending
	if log, ok := f.recorder.(starter); ok && f.giveUp.Err() == nil {
		pending = log.Start(*rec)
	}
	if pending == nil {
		f.beside(func() {
			then(limited(func(ctx context.Context) error { return f.recorder.Append(ctx, *rec) }))
		})
		return
	}
	// What follows spares the goroutine, and the two changes between it and
	// this one, of almost every record.
	done, err := pending.WaitFor(recordWait)
	switch {
	case !done:
		f.writing.Add(1)
		go func() {
			defer f.writing.Add(-1)
			then(limited(pending.Wait))
		}()
	case err == nil:
		then(nil)
	default:
		f.beside(func() { then(err) })
	}
}

// beside runs what writes a record, and waits for it no longer than recordWait.
func (f *Forwarder) beside(record func()) {
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
