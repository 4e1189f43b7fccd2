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
