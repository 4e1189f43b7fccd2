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
	penalty("auth_fail", func(p *PenaltySettings) *time.Duration { return &p.AuthFail }),
	penalty("no_auth", func(p *PenaltySettings) *time.Duration { return &p.NoAuth }),
	penalty("grace_exceeded", func(p *PenaltySettings) *time.Duration { return &p.GraceExceeded }),
	penalty("bad_bytes", func(p *PenaltySettings) *time.Duration { return &p.BadBytes }),
	penalty("threshold", func(p *PenaltySettings) *time.Duration { return &p.Threshold }),
	penalty("max", func(p *PenaltySettings) *time.Duration { return &p.Max }),
	{"penalties.exempt", list, func(n *strictyaml.Node, s *Settings) {
		if len(n.Items()) > 0 {
			refuseReserved(n, "penalties.exempt", "[]")
		}
	}},
}

func penalty(name string, field func(*PenaltySettings) *time.Duration) setting {
	return reserved("penalties."+name, plain, func(s *Settings) *time.Duration { return field(&s.Penalties) }, (*strictyaml.Node).Duration)
}

// reserved is a setting of which every value but the default is refused.
func reserved[T comparable](key string, form form, field func(*Settings) *T, read func(*strictyaml.Node, *T) bool) setting {
	return setting{key, form, func(n *strictyaml.Node, s *Settings) {
		initial := *field(s)
		value := initial
		if !read(n, &value) || value == initial {
			return
		}
		switch d := any(initial).(type) {
		case string:
			refuseReserved(n, key, fmt.Sprintf("%q", d))
		case time.Duration:
			refuseReserved(n, key, brief(d))
		default:
			refuseReserved(n, key, fmt.Sprint(d))
		}
	}}
}

func refuseReserved(n *strictyaml.Node, key, initial string) {
	n.Errorf("%s is not supported by this version", key).Hint = "leave it at " + initial
}
