package main

import (
	"strings"
	"testing"
)

func TestMetricsAreForThisMachineAndPrivateNetworks(t *testing.T) {
	for where, warned := range map[string]bool{
		"":                          false,
		"127.0.0.1:9122":            false,
		"127.8.8.8:9122":            false,
		"localhost:9122":            false,
		"[::1]:9122":                false,
		"10.0.0.5:9122":             false,
		"192.168.1.1:9122":          false,
		"[fd00::1]:9122":            false,
		"[::ffff:10.0.0.5]:9122":    false,
		"run/metrics.sock":          false,
		"/run/sekisho/metrics.sock": false,
		":9122":                     true,
		"0.0.0.0:9122":              true,
		"[::]:9122":                 true,
		"203.0.113.9:9122":          true,
		"[2001:db8::1]:9122":        true,
		"[::ffff:203.0.113.9]:9122": true,
		"172.32.0.1:9122":           true,
	} {
		s, problems := readSettings("f", []byte(least+"metrics: {listen: \""+where+"\"}\n"), nil, nil)
		if problems.Err() != nil || (len(problems) > 0) != warned || s.Metrics.Listen != where {
			t.Errorf("%q: %v, %q", where, problems, s.Metrics.Listen)
		}
	}
}

func TestProfilesAreForThisMachineOnly(t *testing.T) {
	for where, refused := range map[string]string{
		"127.0.0.1:9122":   "",
		"localhost:9122":   "",
		"[::1]:9122":       "",
		"run/metrics.sock": "",
		"":                 "metrics.listen is empty",
		"10.0.0.5:9122":    "other machines could reach 10.0.0.5:9122",
		":9122":            "other machines could reach :9122",
		"203.0.113.9:9122": "other machines could reach 203.0.113.9:9122",
		"[fd00::1]:9122":   "other machines could reach [fd00::1]:9122",
	} {
		s, problems := readSettings("f", []byte(least+"metrics: {listen: \""+where+"\", pprof: true}\n"), nil, nil)
		switch err := problems.Err(); {
		case refused == "" && (err != nil || !s.Metrics.Pprof):
			t.Errorf("%q: %v", where, err)
		case refused != "" && (err == nil || !strings.Contains(err.Error(), refused)):
			t.Errorf("%q: %v", where, err)
		}
		given := flags{"metrics.pprof": {"true"}}
		if _, problems := readSettings("f", []byte(least+"metrics: {listen: \""+where+"\"}\n"), nil, given); (problems.Err() != nil) != (refused != "") {
			t.Errorf("%q, given elsewhere: %v", where, problems)
		}
	}
	if s, problems := readSettings("f", []byte(least), nil, nil); problems.Err() != nil || s.Metrics.Pprof {
		t.Errorf("profiles are served unasked: %v", problems)
	}
}
