package main

import (
	"fmt"
	"slices"
	"strings"

	"sekisho/authz/strictyaml"
)

// knownTypes are those of records that this version writes, and what several
// of them have in common.
var knownTypes = []string{
	"server", "policy", "auth", "conn", "request", "forward", "admin", "log",
	"server.start", "server.stop", "policy.load", "policy.reject", "auth.ok", "auth.fail", "auth.flood", "conn.close", "request.deny",
	"forward.open", "forward.retry", "forward.progress", "forward.close", "forward.fail", "forward.lost", "forward.deny",
	"admin.kill", "admin.lock", "admin.revoke", "admin.read", "log.mend", "log.prune", "log.resume",
}

// knownReasons are those that this version writes.
var knownReasons = []string{
	"age", "authority_removed", "authorized_keys", "backlog", "bad_cert", "bad_host", "bad_port", "bad_signature", "cert_expired",
	"cert_not_from", "cert_not_yet", "cert_principals", "client_gone", "client_lost", "closed", "command", "connect_refused",
	"connect_timeout", "crash", "dial_failed", "dns_moved", "drain", "duration", "excepted", "expired", "failed", "flood", "gone", "grant_changed",
	"half_closed", "hosts", "idle", "internal_error", "keepalive", "key_expired", "key_file", "key_no_forwarding", "key_not_from",
	"key_not_permitted", "key_removed", "key_unsupported", "killed", "limit", "link_local", "lockdown", "locked", "locks",
	"log_failed", "login_bytes", "login_grace", "loopback", "metadata", "method_not_supported", "multicast", "needs_touch", "never_closed",
	"no_common_algorithm", "no_grant", "no_key_offered", "no_such_name", "not_from", "not_proven", "not_served", "not_yet", "other_user", "outage",
	"outside_hours", "outside_networks", "outside_within", "own_address", "protocol_error", "resolve_failed", "revoked",
	"revoked_keys", "sha1_signature", "signal", "size", "start", "stopped", "target_reset", "too_many_tries", "torn", "unsigned",
	"unknown_authority", "unknown_key", "unknown_user", "unreachable", "unspecified", "watch",
}

// unknown warns of values that no record has, most likely, and searches for
// them nevertheless: the log may be of another version.
func (l *looking) unknown(what string, values, known []string) {
	for _, v := range values {
		v = strings.TrimSuffix(v, ".") // "forward." are all that begin so
		if slices.Contains(known, v) {
			continue
		}
		fmt.Fprintf(l.std.err, "sekisho: warning: no record of this version has the %s %q\n", what, v)
		if hint := strictyaml.DidYouMean(v, known); hint != "" {
			fmt.Fprintf(l.std.err, "sekisho: hint: %s\n", hint)
		}
	}
}
