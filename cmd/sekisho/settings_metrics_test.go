package main

import "testing"

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
