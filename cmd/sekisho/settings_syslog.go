package main

import (
	"sekisho/audit/ship"
	"sekisho/authz/strictyaml"
)

// SyslogSettings are those of the receiver that the audit log is sent to.
type SyslogSettings struct {
	Address  string // "": none
	CA       string // "": those that the system trusts
	Cert     string // "": none
	Key      string
	Facility int
	Cursor   string // "": cursor.syslog in the folder of the log
}

var syslogSettings = []setting{
	{"audit.syslog.address", text, readSyslogAddress},
	{"audit.syslog.ca", text, func(n *strictyaml.Node, s *Settings) { readPathOrNone(n, &s.Audit.Syslog.CA) }},
	{"audit.syslog.cert", text, func(n *strictyaml.Node, s *Settings) { readPathOrNone(n, &s.Audit.Syslog.Cert) }},
	{"audit.syslog.key", text, func(n *strictyaml.Node, s *Settings) { readPathOrNone(n, &s.Audit.Syslog.Key) }},
	{"audit.syslog.facility", plain, func(n *strictyaml.Node, s *Settings) { n.Int(&s.Audit.Syslog.Facility, 0, 23) }},
	{"audit.syslog.cursor", text, func(n *strictyaml.Node, s *Settings) { readPathOrNone(n, &s.Audit.Syslog.Cursor) }},
}

func readSyslogAddress(n *strictyaml.Node, s *Settings) {
	var address string
	if !n.String(&address) {
		return
	}
	if address != "" {
		if _, err := ship.ParseAddress(address); err != nil {
			n.Errorf("%q is not the address of a syslog receiver: %v", address, err).Hint =
				`write "tls://siem.example:6514", "tcp://127.0.0.1:514" or "unix:/dev/log"; "" is for none`
			return
		}
	}
	s.Audit.Syslog.Address = address
}
