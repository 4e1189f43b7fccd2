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
func (f *Forwarder) logLine(fw *forward) *logrus.Entry { return f.log.WithFields(f.logFields(fw)) }

func (f *Forwarder) logFields(fw *forward) logrus.Fields {
	fields := logrus.Fields{
		fieldForward: fw.id, fieldConn: fw.principal.Conn, fieldUser: fw.principal.User,
		fieldSource: fw.principal.Source, fieldTarget: fw.target(),
	}
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
