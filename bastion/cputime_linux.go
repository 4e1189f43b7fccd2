package bastion

import (
	"time"

	"golang.org/x/sys/unix"
)

// processTime is the CPU time that the process has used (clock_gettime(2)).
func processTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
