package bastion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/anmitsu/go-shlex"

	"sekisho/audit"
	"sekisho/authz"
)

// An AuditCommand answers "ssh bastion audit WORDS…" for somebody who has the
// role auditor. Its context ends when he is gone; a write fails from then on,
// and when he loses the role. It returns the exit status.
type AuditCommand func(ctx context.Context, words []string, stdout, stderr io.Writer) (status int)

const (
	// maxReaders bounds how many read the log over SSH at once: each may take a
	// core for as long as it lasts.
	maxReaders = 4
	// readerStall is how long a reader may take nothing of what he has asked
	// for, as behind a pager, before his connection is ended.
	readerStall = 10 * time.Minute
)

var errNoRole = errors.New("the role auditor is needed")

// isAuditor tells whether the connection's principal has the role now.
func (c *connection) isAuditor() bool {
	p := c.principal()
	return c.server.policies.get().HasRole(authz.Request{
		User: p.User, Key: p.Key, Cert: p.Cert, Touch: p.Touch, Source: p.Source.Addr(), Time: c.server.now(),
	}, authz.Auditor)
}

// readLog answers one of the commands that read the audit log. That somebody
// reads it is a record itself, and durable before he sees anything.
func (c *connection) readLog(line string) answer {
	switch {
	case c.server.audit == nil:
		return answer{err: "sekisho: error: the audit log cannot be read here\n", status: 1}
	case !c.isAuditor():
		c.denyRequest("exec "+line, errNoRole.Error())
		return answer{err: "sekisho: error: reading the audit log wants the role auditor\nsekisho: hint: roles are in policy.yaml; \"ssh bastion targets\" tells what you may reach\n", status: 1}
	}
	// Quoted as for a shell: ssh joins its words with spaces, and there is none.
	words, err := shlex.Split(line, true)
	if err != nil || len(words) == 0 || words[0] != "audit" {
		return answer{err: fmt.Sprintf("sekisho: error: %q is not quoted as it should be\nsekisho: hint: ssh bastion 'audit search --since \"last monday\"'\n", printable(line)), status: 2}
	}
	words = words[1:]
	return answer{run: func(ctx context.Context, stdout, stderr io.Writer) int {
		select {
		case c.server.readers <- struct{}{}:
			defer func() { <-c.server.readers }()
		default:
			fmt.Fprintf(stderr, "sekisho: error: %d others read the log at this moment\nsekisho: hint: try again in a while\n", maxReaders)
			return 1
		}
		rec := c.record(audit.AdminRead)
		rec.Request = line
		if err := c.recordFirst(ctx, rec); err != nil {
			fmt.Fprint(stderr, "sekisho: error: the audit log cannot be written, and without a record of it nobody reads it\n")
			return 1
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		return c.server.audit(ctx, words, c.reader(stdout, cancel), c.reader(stderr, cancel))
	}}
}

// recordFirst makes a record that something has to wait for.
func (c *connection) recordFirst(ctx context.Context, rec audit.Record) error {
	ctx, cancel := context.WithTimeout(ctx, c.server.limits.DialTimeout)
	defer cancel()
	err := c.server.forwarder.recorder.Append(ctx, rec)
	if err != nil {
		c.line().WithError(err).Errorf("%s is not recorded", rec.Type)
		c.server.forwarder.recordFailed()
	}
	return err
}

// reader is where a command writes what it has read.
func (c *connection) reader(w io.Writer, stop func()) io.Writer {
	return &reader{c: c, w: w, stop: stop}
}

type reader struct {
	c    *connection
	stop func()

	mu sync.Mutex
	w  io.Writer
}

func (r *reader) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.c.isAuditor() {
		r.stop()
		return 0, errNoRole
	}
	stall := time.AfterFunc(readerStall, func() {
		r.c.end(&endCause{reasonIdle, fmt.Sprintf("took nothing of the audit log for %v", readerStall)})
	})
	defer stall.Stop()
	n, err := r.w.Write(b)
	if err != nil {
		r.stop()
	}
	return n, err
}
