package main

import (
	"context"
	"net/netip"
	"time"

	"github.com/sirupsen/logrus"

	"sekisho/audit/ship"
	"sekisho/authz/strictyaml"
)

// deliverTime is how long the end of the audit log may take to its receiver.
const deliverTime = 5 * time.Second

// syslogTLS are the files of audit.syslog.
func (s *setup) syslogTLS() (files ship.TLS) {
	for _, f := range []struct {
		dst  *string
		path string
	}{
		{&files.CA, s.settings.Audit.Syslog.CA},
		{&files.Cert, s.settings.Audit.Syslog.Cert},
		{&files.Key, s.settings.Audit.Syslog.Key},
	} {
		if f.path != "" {
			*f.dst = s.path(f.path)
		}
	}
	return files
}

// checkSyslog returns what is wrong with audit.syslog as a whole.
func (s *setup) checkSyslog() (problems strictyaml.Problems) {
	c := s.settings.Audit.Syslog
	say := func(warning bool, message, hint string) {
		problems = append(problems, strictyaml.Problem{File: s.config, Message: "audit.syslog: " + message, Hint: hint, Warning: warning})
	}
	a, err := ship.ParseAddress(c.Address)
	if err != nil {
		return nil // there is none, or it was told
	}
	files := c.CA != "" || c.Cert != "" || c.Key != ""
	switch {
	case a.Network != "tls" && files:
		say(false, "ca, cert and key are for TLS, and the address is "+c.Address, "write tls:// before the address, or leave them out")
	case (c.Cert == "") != (c.Key == ""):
		say(false, "cert and key go together", "name both, or none")
	case a.Network == "tls":
		if err := s.syslogTLS().Check(); err != nil {
			say(false, err.Error(), "each is a file in PEM; paths are relative to the folder of "+s.config)
		}
	case a.Network == "tcp" && !isLoopback(a.Host):
		say(true, "whoever is on the way to "+a.Host+" can read and change what is sent over tcp://", "use tls:// if the receiver knows it")
	}
	return problems
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// syslogModes looks at who could change whom the log is sent to.
func (s *setup) syslogModes(m *modes) {
	files := s.syslogTLS()
	if files.CA != "" {
		m.decides(files.CA)
	}
	if files.Cert != "" {
		m.decides(files.Cert)
	}
	if files.Key != "" {
		m.secret(files.Key)
	}
}

// ship begins to send the audit log to its receiver, if there is one.
func (svc *service) ship() error {
	c := svc.setup.settings.Audit.Syslog
	if c.Address == "" {
		return nil
	}
	address, err := ship.ParseAddress(c.Address)
	if err != nil {
		return err
	}
	cursor := ""
	if c.Cursor != "" {
		cursor = svc.setup.path(c.Cursor)
	}
	svc.sink, err = ship.Start(ship.Options{
		Dir: svc.auditPath(), Durable: svc.book.Durable, Address: address, TLS: svc.setup.syslogTLS(),
		Facility: c.Facility, Cursor: cursor, Tell: svc.tellShip,
	})
	if err != nil {
		return &failure{err, "without its cursor the whole log would be sent again: remove the file if that is what you want"}
	}
	return nil
}

// deliver sends the end of the audit log.
func (svc *service) deliver() {
	if svc.sink == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), deliverTime)
	defer cancel()
	if err := svc.sink.Close(ctx); err != nil {
		svc.log.WithError(err).Warn("the syslog receiver did not get the end of the audit log")
	}
}

// tellShip says what happens on the way to the receiver.
func (svc *service) tellShip(e ship.Event) {
	fields := logrus.Fields{"receiver": svc.setup.settings.Audit.Syslog.Address, "seq": e.Next, "behind": e.Behind}
	if !e.Oldest.IsZero() {
		fields["oldest"] = e.Oldest.Format(time.RFC3339)
	}
	if e.Count > 0 {
		fields["records"] = e.Count
	}
	line := svc.log.WithFields(fields)
	if e.Err != nil {
		line = line.WithError(e.Err)
	}
	switch e.What {
	case ship.Connected:
		line.Info("syslog: connected")
	case ship.CaughtUp:
		line.Info("syslog: the receiver has caught up with the audit log")
	case ship.Lost:
		line.Warn("syslog: no connection; records wait in the audit log")
	case ship.StillLost:
		line.Error("syslog: still no connection; records wait in the audit log")
	case ship.Missed:
		line.Error("syslog: records were gone or damaged before they could be sent, and the receiver will never get them")
	case ship.Shortened:
		line.Warn("syslog: a record is too long and is sent without most of it; the audit log has it whole")
	case ship.OtherLog:
		line.Warn("syslog: the cursor is not of this audit log, which is sent from its beginning")
	case ship.Unreadable:
		line.Error("syslog: the audit log cannot be read there; trying again, and going on with the next segment once there is one")
	case ship.NoCursor:
		line.Error("syslog: the cursor cannot be written; after a restart records will be sent again")
	}
}
