package ship

import (
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// An Address is where a receiver is.
type Address struct {
	Network string // "tcp", "tls" or "unix"
	Host    string // of tcp and tls
	Port    string
	Path    string // of unix
}

var hostForm = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})$`)

// ParseAddress reads tcp://HOST:PORT, tls://HOST:PORT or unix:PATH. Of these
// only tls keeps others on the way from reading and changing what is sent.
func ParseAddress(s string) (Address, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		switch {
		case !filepath.IsAbs(path) || strings.ContainsRune(path, 0):
			return Address{}, errors.New("the path of the socket does not begin with a slash")
		case len(path) > 107: // unix(7)
			return Address{}, errors.New("the path of the socket is longer than 107 bytes")
		}
		return Address{Network: "unix", Path: path}, nil
	}
	network, rest, ok := strings.Cut(s, "://")
	if !ok || network != "tcp" && network != "tls" {
		return Address{}, errors.New("it begins with none of tcp://, tls:// and unix:")
	}
	host, port, err := net.SplitHostPort(rest)
	if err != nil {
		return Address{}, errors.New("it is not a host and a port with a colon between them")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return Address{}, errors.New("its port is not a number from 1 to 65535")
	}
	if _, err := netip.ParseAddr(host); err != nil && !hostForm.MatchString(host) {
		return Address{}, errors.New("its host is neither a name nor an IP address")
	}
	return Address{Network: network, Host: host, Port: port}, nil
}

func (a Address) String() string {
	if a.Network == "unix" {
		return "unix:" + a.Path
	}
	return a.Network + "://" + net.JoinHostPort(a.Host, a.Port)
}
