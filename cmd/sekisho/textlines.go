package main

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/sirupsen/logrus"
)

// textLines formats lines of the operational log as the logrus.TextFormatter
// in it does where nobody looks at a terminal, for a fifth of the time: a
// server writes two for each forward.
type textLines struct{ *logrus.TextFormatter }

// Format leaves to the TextFormatter what it does not know.
func (f textLines) Format(e *logrus.Entry) ([]byte, error) {
	if e.Buffer == nil || e.Caller != nil || e.Message == "" {
		return f.TextFormatter.Format(e)
	}
	var room [16]string
	keys := room[:0]
	for key := range e.Data {
		switch key {
		case logrus.FieldKeyTime, logrus.FieldKeyLevel, logrus.FieldKeyMsg, logrus.FieldKeyLogrusError:
			return f.TextFormatter.Format(e)
		}
		keys = append(keys, key)
	}
	slices.Sort(keys)

	line := append(e.Buffer.AvailableBuffer(), "time=\""...)
	line = append(e.Time.AppendFormat(line, f.TimestampFormat), "\" level="...)
	line = append(append(line, e.Level.String()...), " msg="...)
	line = appendText(line, e.Message)
	for _, key := range keys {
		line = append(append(append(line, ' '), key...), '=')
		switch v := e.Data[key].(type) {
		case string:
			line = appendText(line, v)
		case netip.AddrPort:
			line = appendText(line, v.String())
		case int64:
			line = strconv.AppendInt(line, v, 10)
		case uint64:
			line = strconv.AppendUint(line, v, 10)
		default:
			return f.TextFormatter.Format(e)
		}
	}
	e.Buffer.Write(append(line, '\n'))
	return e.Buffer.Bytes(), nil
}

// appendText appends s, quoted unless all of it is letters, digits and -._/@^+.
func appendText(line []byte, s string) []byte {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-', c == '.', c == '_', c == '/', c == '@', c == '^', c == '+':
		default:
			return strconv.AppendQuote(line, s)
		}
	}
	return append(line, s...)
}
