package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestALogThatHangsDoesNotKeepTheProcess(t *testing.T) {
	hang := func() error { <-t.Context().Done(); return nil }
	good := func() error { return nil }
	bad := errors.New("bad")
	for _, test := range []struct {
		name        string
		record, end func() error
		said        string
		want        string
	}{
		{"a good one", good, good, "", ""},
		{"a record that fails", func() error { return bad }, good, "the stop is not recorded", ""},
		{"a close that fails", good, func() error { return bad }, "", "bad"},
		{"a record that hangs", hang, good, "the audit log did not close", "did not close within"},
		{"a close that hangs", good, hang, "the audit log did not close", "did not close within"},
	} {
		out := &lockedBuffer{}
		log, err := newLog(out, "info", "text")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		err = endLog(log, 200*time.Millisecond, test.record, test.end)
		if time.Since(began) > 5*time.Second {
			t.Errorf("%s: took %v", test.name, time.Since(began))
		}
		if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
		if !strings.Contains(out.String(), test.said) || test.said == "" && out.String() != "" {
			t.Errorf("%s: said is %q, want %q", test.name, out, test.said)
		}
	}
}
