package bastion

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sirupsen/logrus"
)

// Field names of the operational log.
const (
	fieldConn    = "conn"
	fieldForward = "forward"
	fieldUser    = "user"
	fieldLogin   = "login"
	fieldKey     = "key"
	fieldClient  = "client"
	fieldHassh   = "hassh"
	fieldSource  = "source"
	fieldTarget  = "target"
	fieldAddress = "address"
	fieldGrant   = "grant"
	fieldReason  = "reason"
	fieldDetail  = "detail"
)

// logLine is the start of an operational line about a forward.
func (f *Forwarder) logLine(fw *forward) *logrus.Entry { return f.lineOf(f.logFields(fw)) }

// lineOf is what WithFields of the log returns, without a copy of the fields.
func (f *Forwarder) lineOf(fields logrus.Fields) *logrus.Entry {
	return &logrus.Entry{Logger: f.log, Data: fields}
}

func (f *Forwarder) logFields(fw *forward) logrus.Fields {
	const most = 16 // with those of an end; a map that grows costs more than the line
	fields := make(logrus.Fields, most)
	fields[fieldForward], fields[fieldConn], fields[fieldUser] = fw.id, fw.principal.Conn, fw.principal.User
	fields[fieldSource], fields[fieldTarget] = fw.principal.Source, fw.target()
	fw.mu.Lock()
	if fw.grant != "" {
		fields[fieldGrant] = fw.grant
	}
	fw.mu.Unlock()
	if addr := fw.address.Load(); addr != nil {
		fields[fieldAddress] = *addr
	}
	return fields
}

// printable makes a stranger's bytes safe to print on one line and in a
// terminal, and bounds them.
func printable(s string) string {
	const most = 256
	var b strings.Builder
	for _, r := range s {
		if b.Len() >= most {
			return b.String() + "…"
		}
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = '\uFFFD'
		}
		b.WriteRune(r)
	}
	return b.String()
}
