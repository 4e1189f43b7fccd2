package ship

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"sekisho/audit"
)

// A format is how a message looks and where it ends.
type format int

const (
	// octets is RFC 5424 with the length before it: RFC 6587 section 3.4.1 over
	// TCP, and RFC 5425 section 4.3 over TLS.
	octets format = iota
	// lines is RFC 5424 with a newline after it, which all who read a unix
	// stream understand. No message has one inside.
	lines
	// local is what syslog(3) of the C library writes to /dev/log, a datagram
	// each: journald and rsyslog read nothing else there.
	local
)

// mostBytes bounds the text of a message. Records are far shorter; many
// receivers cut at this size, or take what is longer for the end of a frame.
const mostBytes = 64 << 10

// appendMessage appends the record with its line as a message to b.
//
//	<110>1 2026-11-22T01:02:03.123456Z bastion-1 sekisho 01J… forward.open [meta sequenceId="813"] {"v":1,"seq":812,…}
//
// PROCID is the run: it changes where a server has ended and another begun
// (RFC 5424 section 6.2.6). The sequenceId of RFC 5424 section 7.3.1 holds only
// 31 bits: it is seq + 1, and after 2147483647 it is 1 again. There is no
// structured data of our own, since its name would need a private enterprise
// number; all is in the line, which is sent as it stands, as UTF-8 without the
// byte order mark that a JSON parser would stumble over.
func (f format) appendMessage(b []byte, facility int, line []byte, rec audit.Record) []byte {
	start := len(b)
	b = append(b, '<')
	b = strconv.AppendInt(b, int64(facility*8+severity(rec.Type)), 10)
	b = append(b, '>')
	if f == local {
		b = append(b, rec.Time.Local().Format("Jan _2 15:04:05")...)
		b = append(b, " sekisho["...)
		b = strconv.AppendInt(b, int64(os.Getpid()), 10)
		b = append(b, "]: "...)
		return append(b, line...)
	}
	b = append(b, '1', ' ')
	b = rec.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = appendField(b, rec.Bastion, 255)
	b = append(b, " sekisho"...)
	b = appendField(b, rec.Run, 128)
	b = appendField(b, string(rec.Type), 32)
	b = append(b, ` [meta sequenceId="`...)
	b = strconv.AppendUint(b, rec.Seq%(1<<31-1)+1, 10)
	b = append(b, `"] `...)
	b = append(b, line...)
	if f == lines {
		return append(b, '\n')
	}
	length := strconv.Itoa(len(b)-start) + " "
	b = append(b, length...)
	copy(b[start+len(length):], b[start:])
	copy(b[start:], length)
	return b
}

// appendField appends a field of the header, which is visible ASCII of a
// limited length, or - for nothing (RFC 5424 section 6.2).
func appendField(b []byte, s string, most int) []byte {
	b = append(b, ' ')
	if s == "" {
		return append(b, '-')
	}
	for i := 0; i < min(len(s), most); i++ {
		c := s[i]
		if c < '!' || c > '~' {
			c = '?'
		}
		b = append(b, c)
	}
	return b
}

// The severities of RFC 5424 section 6.2.1 that are used.
const (
	severityError   = 3
	severityWarning = 4
	severityInfo    = 6
)

// severity tells by its last word what a type of record is about, so that those
// that are not known here fall into place, too.
func severity(t audit.Type) int {
	switch word := string(t[strings.LastIndexByte(string(t), '.')+1:]); word {
	case "mend", "tamper":
		return severityError
	case "fail", "flood", "deny", "reject", "lost":
		return severityWarning
	}
	return severityInfo
}

// shorten returns the line of what fits in any message of a record that does
// not. It says so, and its number finds the whole in the log.
func shorten(line []byte, rec audit.Record) []byte {
	return audit.Record{
		V: rec.V, Seq: rec.Seq, Time: rec.Time, Bastion: rec.Bastion, Run: rec.Run,
		Type: rec.Type, Conn: rec.Conn, Forward: rec.Forward, User: rec.User, Reason: rec.Reason,
		Detail: fmt.Sprintf("this record of %d bytes was too long to be sent: the log has it whole", len(line)),
	}.AppendJSON(nil)
}
