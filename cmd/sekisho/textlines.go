package main

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"

	"sekisho/bastion"
)

// textLines formats lines of the operational log as the logrus.TextFormatter
// in it does where nobody looks at a terminal, for a fifth of the time: a
// server writes two for each forward. It is a bastion.FieldFormatter.
type textLines struct{ *logrus.TextFormatter }

func (textLines) TakesFields() {}

// Format leaves to the TextFormatter what it does not know.
func (f textLines) Format(e *logrus.Entry) ([]byte, error) {
	var room [16]bastion.Field
	fields := room[:0]
	if more, ok := e.Context.(bastion.Fields); ok {
		fields = append(fields, more.List...)
	}
	for name, value := range e.Data {
		fields = append(fields, bastion.Field{Name: name, Value: value})
	}
	slices.SortFunc(fields, func(a, b bastion.Field) int { return strings.Compare(a.Name, b.Name) })
	if e.Buffer != nil && e.Caller == nil && e.Message != "" {
		if line, ok := f.appendLine(e.Buffer.AvailableBuffer(), e, fields); ok {
			e.Buffer.Write(line)
			return e.Buffer.Bytes(), nil
		}
	}
	whole := *e
	whole.Data = make(logrus.Fields, len(fields))
	for _, field := range fields {
		whole.Data[field.Name] = field.Value
	}
	return f.TextFormatter.Format(&whole)
}

// appendLine reports false if it does not know how.
func (f textLines) appendLine(line []byte, e *logrus.Entry, fields []bastion.Field) ([]byte, bool) {
	line = e.Time.AppendFormat(append(line, "time=\""...), f.TimestampFormat)
	line = append(append(line, "\" level="...), e.Level.String()...)
	line = appendText(append(line, " msg="...), e.Message)
	for _, field := range fields {
		switch field.Name {
		case logrus.FieldKeyTime, logrus.FieldKeyLevel, logrus.FieldKeyMsg, logrus.FieldKeyLogrusError:
			return nil, false
		}
		line = append(append(append(line, ' '), field.Name...), '=')
		switch v := field.Value.(type) {
		case string:
			line = appendText(line, v)
		case netip.AddrPort:
			line = appendText(line, v.String())
		case int64:
			line = strconv.AppendInt(line, v, 10)
		case uint64:
			line = strconv.AppendUint(line, v, 10)
		default:
			return nil, false
		}
	}
	return append(line, '\n'), true
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
