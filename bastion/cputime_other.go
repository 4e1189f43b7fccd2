//go:build !linux

package bastion

import (
	"runtime"
	"time"
)

// processTime is taken for the time that has passed: that of all CPUs.
func processTime() time.Duration { return time.Since(epoch) * time.Duration(runtime.GOMAXPROCS(0)) }
