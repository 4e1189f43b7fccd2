package main

import (
	"net/netip"
	"strings"

	"sekisho/authz/strictyaml"
)

// MetricsSettings are those of what a monitoring system reads.
type MetricsSettings struct {
	Listen string // an address, the path of a unix socket, or ""
	Pprof  bool   // profiles of the process are to be had there, too
}

func readMetricsPprof(n *strictyaml.Node, s *Settings) { n.Bool(&s.Metrics.Pprof) }

// profiles refuses to serve profiles where other machines could ask for them:
// they tell what the process does and keep it busy.
func (m *MetricsSettings) profiles(file string) strictyaml.Problems {
	switch {
	case !m.Pprof || isSocket(m.Listen) || loopback(m.Listen):
		return nil
	case m.Listen == "":
		return strictyaml.Problems{{File: file, Message: "metrics.pprof is true, and metrics.listen is empty: there is no place for profiles", Hint: "set metrics.listen to a socket such as run/metrics.sock, or leave metrics.pprof away"}}
	}
	return strictyaml.Problems{{
		File: file, Message: "metrics.pprof is true, and other machines could reach " + m.Listen + ": profiles are for this one only",
		Hint: `set metrics.listen to a socket such as run/metrics.sock, or to "127.0.0.1:9122"`,
	}}
}

// readMetricsListen reads where metrics are to be had: an address, the path of
// a unix socket, which has a slash in it, or nowhere.
func readMetricsListen(n *strictyaml.Node, s *Settings) {
	var where string
	if !n.String(&where) {
		return
	}
	switch {
	case where == "":
	case isSocket(where):
		if strings.ContainsRune(where, 0) || strings.HasSuffix(where, "/") {
			n.Errorf("%q is not a path of a socket", where)
			return
		}
	default:
		if what, _ := badListen(where); what != "" {
			n.Errorf("%q is no place for metrics: %s", where, what).Hint = `write "127.0.0.1:9122", or the path of a socket with a slash in it: run/metrics.sock`
			return
		}
		if !private(where) {
			n.Warnf("whoever reaches %s can read the metrics, without a password", where).Hint = `write "127.0.0.1:9122", or a private address of this machine`
		}
	}
	s.Metrics.Listen = where
}

func isSocket(where string) bool { return strings.Contains(where, "/") }

// private reports whether an address to listen on, which is a good one, is
// loopback's or of a private network (RFC 1918, RFC 4193).
func private(where string) bool {
	ap, err := netip.ParseAddrPort(where)
	return loopback(where) || err == nil && ap.Addr().Unmap().IsPrivate()
}

func loopback(where string) bool {
	if strings.HasPrefix(where, "localhost:") {
		return true
	}
	ap, err := netip.ParseAddrPort(where)
	return err == nil && ap.Addr().Unmap().IsLoopback()
}
