//go:build linux

package e2e

import "golang.org/x/sys/unix"

const tcpEstablished = 1

// tcpState is the kernel's state of a TCP connection.
func tcpState(fd int) (byte, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, err
	}
	return info.State, nil
}
