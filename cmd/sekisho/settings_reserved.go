package main

import (
	"fmt"
	"time"

	"sekisho/authz/strictyaml"
)

// reservedSettings are keys whose function this version does not have. Their
// names and defaults are fixed, so that a file can be written down in full; any
// other value is refused, since whoever writes one relies on it.
var reservedSettings = []setting{
	{"authorized_keys_dir", text, func(n *strictyaml.Node, s *Settings) { reserved(n, s.AuthorizedKeysDir, n.String) }},
	{"audit.retain_age", plain, func(n *strictyaml.Node, s *Settings) { reserved(n, s.Audit.RetainAge, n.Duration) }},
	{"audit.retain_size", plain, func(n *strictyaml.Node, s *Settings) { reserved(n, s.Audit.RetainSize, n.Size) }},
	{"admin.socket", text, func(n *strictyaml.Node, s *Settings) { reserved(n, s.Admin.Socket, n.String) }},
	{"metrics.listen", text, func(n *strictyaml.Node, s *Settings) { reserved(n, s.Metrics.Listen, n.String) }},
	penalty("auth_fail", func(p *PenaltySettings) time.Duration { return p.AuthFail }),
	penalty("no_auth", func(p *PenaltySettings) time.Duration { return p.NoAuth }),
	penalty("grace_exceeded", func(p *PenaltySettings) time.Duration { return p.GraceExceeded }),
	penalty("bad_bytes", func(p *PenaltySettings) time.Duration { return p.BadBytes }),
	penalty("threshold", func(p *PenaltySettings) time.Duration { return p.Threshold }),
	penalty("max", func(p *PenaltySettings) time.Duration { return p.Max }),
	{"penalties.exempt", list, func(n *strictyaml.Node, s *Settings) {
		if len(n.Items()) > 0 {
			refuseReserved(n, "[]")
		}
	}},
}

func penalty(name string, field func(*PenaltySettings) time.Duration) setting {
	return setting{"penalties." + name, plain, func(n *strictyaml.Node, s *Settings) { reserved(n, field(&s.Penalties), n.Duration) }}
}

// reserved reads a value and refuses every one but the default.
func reserved[T comparable](n *strictyaml.Node, initial T, read func(*T) bool) {
	value := initial
	if !read(&value) || value == initial {
		return
	}
	switch d := any(initial).(type) {
	case string:
		refuseReserved(n, fmt.Sprintf("%q", d))
	case time.Duration:
		refuseReserved(n, brief(d))
	default:
		refuseReserved(n, fmt.Sprint(d))
	}
}

func refuseReserved(n *strictyaml.Node, initial string) {
	n.Errorf("this setting is not supported by this version").Hint = "leave it at " + initial
}
