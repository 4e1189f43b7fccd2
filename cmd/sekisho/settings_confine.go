package main

import "sekisho/authz/strictyaml"

// How far serve gives up what it needs no more: see confine.
const (
	confineAuto    = "auto"    // as far as the kernel can; what it cannot is a warning
	confineRequire = "require" // and if it cannot, serve does not start
	confineOff     = "off"     // it may open any file
)

var confineSettings = []setting{
	{"confine", text, func(n *strictyaml.Node, s *Settings) { n.OneOf(&s.Confine, confineAuto, confineRequire, confineOff) }},
}
