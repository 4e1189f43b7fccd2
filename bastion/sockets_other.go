//go:build !linux

package bastion

import (
	"net"
	"syscall"
	"time"
)

// setUserTimeout does nothing: TCP_USER_TIMEOUT is Linux's.
func setUserTimeout(syscall.Conn, time.Duration) {}

// vanished is false: what a peer has acknowledged can be told on Linux only.
func vanished(net.Conn, time.Duration) bool { return false }

// tcpPath is 0: what TCP knows of the path can be told on Linux only.
func tcpPath(net.Conn) (roundTrip time.Duration, rate float64) { return 0, 0 }
