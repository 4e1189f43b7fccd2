package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// A notifier tells the service manager how the server is: sd_notify(3). The
// zero one has nobody to tell.
type notifier struct {
	socket   string
	watchdog time.Duration // without a sign of life for so long, the manager ends the process; 0: it waits for none
}

// notifyTime is how long a manager may take to take a message.
const notifyTime = 2 * time.Second

// findNotifier finds out whom to tell, and removes the variables that say it:
// they are nobody else's.
func findNotifier() (n notifier) {
	defer func() {
		for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
			os.Unsetenv(name)
		}
	}()
	// Other kinds of addresses are for machines of their own: vsock:….
	if n.socket = os.Getenv("NOTIFY_SOCKET"); !strings.HasPrefix(n.socket, "/") && !strings.HasPrefix(n.socket, "@") {
		return notifier{}
	}
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return n
	}
	if usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 && usec < int64(365*24*time.Hour/time.Microsecond) {
		n.watchdog = time.Duration(usec) * time.Microsecond
	}
	return n
}

// tell sends variables such as READY=1. Each message finds the socket anew, so
// that a manager may be replaced.
func (n notifier) tell(variables ...string) error {
	if n.socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(notifyTime))
	if _, err := conn.Write([]byte(strings.Join(variables, "\n"))); err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	return nil
}

// usec is a variable with a duration, as the manager has them.
func (notifier) usec(name string, d time.Duration) string {
	return name + "=" + strconv.FormatInt(d.Microseconds(), 10)
}
