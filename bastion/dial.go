package bastion

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// NewDialer returns the Dialer for targets on the server's own network. The
// TCP keepalive finds targets that vanished while nothing is sent.
func NewDialer() Dialer {
	return &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3,
	}}
}

// dialReason is the code of a failed dial.
func dialReason(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return reasonRefused
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT),
		errors.As(err, &timeout) && timeout.Timeout():
		return reasonTimeout
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTDOWN):
		return reasonUnreachable
	}
	return reasonDialFailed
}
