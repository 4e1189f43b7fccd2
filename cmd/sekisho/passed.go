package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	firstPassed = 3  // sd_listen_fds(3)
	mostPassed  = 64 // more is a mistake
)

// passedListeners are the sockets that systemd, or who does as it does, has
// opened for this process: sd_listen_fds(3). There may be none. The variables
// that tell of them are removed: they are nobody else's. All of them must be TCP
// sockets that listen, and none stays open if one is not.
func passedListeners() (listeners []net.Listener, err error) {
	defer func() {
		for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
			os.Unsetenv(name)
		}
	}()
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil // there are none, or they are for another process
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 0 || n > mostPassed {
		return nil, failf("systemd sets it, for the sockets of a .socket unit", "LISTEN_FDS is %q, which is no number of sockets", os.Getenv("LISTEN_FDS"))
	}
	for fd := firstPassed; fd < firstPassed+n; fd++ {
		l, failed := passedListener(fd)
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("the socket passed as descriptor %d: %w", fd, failed))
			continue
		}
		listeners = append(listeners, l)
	}
	if err != nil {
		for _, l := range listeners {
			l.Close()
		}
		return nil, &failure{err, "the .socket unit may only have ListenStream= with ports or addresses, and no Accept=yes"}
	}
	return listeners, nil
}

// passedListener takes over one of them. The descriptor itself is closed.
func passedListener(fd int) (net.Listener, error) {
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "passed")
	defer f.Close()
	for _, want := range []struct {
		option int
		values []int
		lacks  string
	}{
		{unix.SO_DOMAIN, []int{unix.AF_INET, unix.AF_INET6}, "it is of no internet protocol"},
		{unix.SO_PROTOCOL, []int{unix.IPPROTO_TCP, unix.IPPROTO_MPTCP}, "it is not TCP's"},
		{unix.SO_ACCEPTCONN, []int{1}, "it does not listen"},
	} {
		value, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, want.option)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(want.values, value) {
			return nil, errors.New(want.lacks)
		}
	}
	return net.FileListener(f)
}
