package main

import (
	"fmt"
	"net/netip"
	"time"

	"sekisho/authz/strictyaml"
	"sekisho/bastion"
)

// penaltySettings are what sources that misbehave are made to wait. A penalty
// of 0s is none.
var penaltySettings = []setting{
	penalty("auth_fail", func(p *bastion.Penalties) *time.Duration { return &p.AuthFail }),
	penalty("no_auth", func(p *bastion.Penalties) *time.Duration { return &p.NoAuth }),
	penalty("grace_exceeded", func(p *bastion.Penalties) *time.Duration { return &p.GraceExceeded }),
	penalty("bad_bytes", func(p *bastion.Penalties) *time.Duration { return &p.BadBytes }),
	penalty("threshold", func(p *bastion.Penalties) *time.Duration { return &p.Threshold }),
	{"penalties.max", plain, func(n *strictyaml.Node, s *Settings) { positive(n, &s.Penalties.Max) }},
	{"penalties.exempt", list, readExempt},
}

func penalty(name string, field func(*bastion.Penalties) *time.Duration) setting {
	return setting{"penalties." + name, plain, func(n *strictyaml.Node, s *Settings) { n.Duration(field(&s.Penalties)) }}
}

func readExempt(n *strictyaml.Node, s *Settings) {
	if items := n.Items(); n.Kind == strictyaml.List && len(items) == 0 {
		s.Penalties.Exempt = []netip.Prefix{}
		return
	}
	read(n, &s.Penalties.Exempt, func(item *strictyaml.Node) (netip.Prefix, bool) {
		p, ok := readNetwork(item)
		if ok && p.Bits() == 0 {
			item.Warnf("%s exempts everybody from penalties", p).Hint = "list the networks of load balancers, offices and monitors"
		}
		return p, ok
	})
}

// penaltyProblems are those that show only when all settings are known,
// wherever they were written.
func penaltyProblems(p *bastion.Penalties, file string) strictyaml.Problems {
	if p.Max >= p.Threshold {
		return nil
	}
	return strictyaml.Problems{{
		File:    file,
		Message: fmt.Sprintf("penalties.max is %s and penalties.threshold %s, so that no source is ever refused", brief(p.Max), brief(p.Threshold)),
		Hint:    "write a max of at least the threshold; to have no penalties, write 0s for each of them",
	}}
}
