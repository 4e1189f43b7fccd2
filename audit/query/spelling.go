package query

import (
	"fmt"
	"regexp"
)

// The shapes of what no two people can have chosen: what has another one was
// misspelt, or cut when it was copied, and would never be found.
var (
	forwardID   = regexp.MustCompile(`^f[a-z2-7]{16}$`)
	connID      = regexp.MustCompile(`^c[a-z2-7]{16}$`)
	fingerprint = regexp.MustCompile(`^(SHA256:)?[A-Za-z0-9+/]{43}=?$`)
)

// IsID reports whether it is the id of a forward or of a connection.
func IsID(id string) bool { return forwardID.MatchString(id) || connID.MatchString(id) }

// spelt looks for values that no record can have.
func (q Query) spelt() error {
	for _, s := range []struct {
		values []string
		shape  *regexp.Regexp
		is     string
	}{
		{q.Forwards, forwardID, "id of a forward: f and 16 of the characters a-z and 2-7"},
		{q.Conns, connID, "id of a connection: c and 16 of the characters a-z and 2-7"},
		{q.Keys, fingerprint, "fingerprint of a key: SHA256: and 43 of the characters of base64, as ssh-keygen -l prints it"},
	} {
		for _, v := range s.values {
			if !s.shape.MatchString(v) {
				return fmt.Errorf("%q is no %s", abbreviate(v), s.is)
			}
		}
	}
	for _, v := range q.Targets {
		if w, err := parseWantedTarget(v); err == nil && !w.anyPort && (w.port < 1 || w.port > 65535) {
			return fmt.Errorf("the target %q has no port from 1 to 65535; what was asked of such ports has the reason bad_port", abbreviate(v))
		}
	}
	for name, values := range map[string][]string{"address": q.Addresses, "source": q.Sources} {
		for _, v := range values {
			if w, err := parseWantedAddr(v); err == nil && !w.anyPort && w.port == 0 {
				return fmt.Errorf("the %s %q has no port from 1 to 65535", name, abbreviate(v))
			}
		}
	}
	return nil
}
