package main

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"sekisho/bastion"
)

func TestALineOfTheOperationalLogIsWhatLogrusMakesOfIt(t *testing.T) {
	theirs := &logrus.TextFormatter{FullTimestamp: true, TimestampFormat: time.RFC3339}
	for name, e := range map[string]*logrus.Entry{
		"the end of a forward":        {Message: "forward closed", Data: endOfForward()},
		"no field":                    {Message: "forward closed"},
		"one word":                    {Message: "started"},
		"no message":                  {Data: logrus.Fields{"a": "b"}},
		"an empty value":              {Message: "x", Data: logrus.Fields{"a": ""}},
		"what a stranger sent":        {Message: "x\ny", Data: logrus.Fields{"a": "\x1b[31m\" =\\\xff\u202e日本\x00"}},
		"every byte that may be bare": {Message: "x", Data: logrus.Fields{"a": "azAZ09-._/@^+"}},
		"IPv6":                        {Message: "x", Data: logrus.Fields{"a": netip.MustParseAddrPort("[2001:db8::1]:22"), "b": netip.AddrPort{}}},
		"numbers":                     {Message: "x", Data: logrus.Fields{"a": int64(-1), "b": uint64(1 << 63), "c": 3, "d": 1.5}},
		"an error":                    {Message: "x", Data: logrus.Fields{"error": errors.New("no space left on device")}},
		"others":                      {Message: "x", Data: logrus.Fields{"a": time.Second, "b": nil, "c": []string{"d"}, "e": true, "f": netip.MustParseAddr("::1")}},
		"names that logrus has":       {Message: "x", Data: logrus.Fields{"time": "a", "level": "b", "msg": "c", "logrus_error": "d"}},
		"and those of a caller":       {Message: "x", Data: logrus.Fields{"func": "a", "file": "b"}},
		"more fields than most":       {Message: "x", Data: manyFields()},
	} {
		for _, level := range []logrus.Level{logrus.InfoLevel, logrus.WarnLevel, logrus.ErrorLevel, logrus.DebugLevel} {
			e.Level, e.Time = level, time.Date(2026, 11, 24, 10, 12, 7, 123, time.FixedZone("", 9*3600))
			want := formatted(t, theirs, e)
			if got := formatted(t, textLines{theirs}, e); got != want {
				t.Errorf("%s:\n got %q\nwant %q", name, got, want)
			}
			if got := formatted(t, textLines{theirs}, withFields(e)); got != want {
				t.Errorf("%s, half of the fields in the context:\n got %q\nwant %q", name, got, want)
			}
		}
	}
}

// withFields is e with every other field in a bastion.Fields.
func withFields(e *logrus.Entry) *logrus.Entry {
	split := *e
	var fields bastion.Fields
	split.Data = logrus.Fields{}
	for name, value := range e.Data {
		if len(fields.List) <= len(split.Data) {
			fields.List = append(fields.List, bastion.Field{Name: name, Value: value})
		} else {
			split.Data[name] = value
		}
	}
	split.Context = fields
	return &split
}

func formatted(t *testing.T, f logrus.Formatter, e *logrus.Entry) string {
	t.Helper()
	e.Buffer = new(bytes.Buffer)
	text, err := f.Format(e)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func endOfForward() logrus.Fields {
	return logrus.Fields{
		"forward": "fq2mdx7t5hrtq6w4n", "conn": "cwzq4k7bdfx2m5nrt", "user": "bob", "grant": "dba-db",
		"source": netip.MustParseAddrPort("203.0.113.9:51234"), "target": "rds:3306",
		"address": netip.MustParseAddrPort("10.0.11.147:3306"), "reason": "closed",
		"duration_ms": int64(12), "bytes_up": uint64(1924), "bytes_down": uint64(48210),
	}
}

func manyFields() logrus.Fields {
	fields := logrus.Fields{}
	for c := 'a'; c <= 'z'; c++ {
		fields[string(c)] = string(c)
	}
	return fields
}

func BenchmarkLine(b *testing.B) {
	log, err := newLog(io.Discard, "info", "text")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		log.WithFields(endOfForward()).Info("forward closed")
	}
}
