package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"
)

// quietFrom is the size of a policy from which on it is read quietly. A small
// one takes no time that anybody would notice, and is in force the sooner.
const quietFrom = 256 << 10

var quieting sync.Mutex

// quiet calls f where it takes no processor that anything else could use: on a
// thread of the lowest priority, which is thrown away, and which takes no place
// of those that carry forwards. Meanwhile garbage is collected less often, since
// the collector knows no priority. Beside forwards that take all of two cores,
// reading a policy of 100,000 grants cost them half of their throughput without
// this, 13 % without the last, and none that could be measured with it.
func quiet(f func()) {
	quieting.Lock()
	defer quieting.Unlock()
	defer debug.SetGCPercent(debug.SetGCPercent(200))
	before := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(before + 1)
	defer func() {
		if os.Getenv("GOMAXPROCS") != "" {
			runtime.GOMAXPROCS(before)
		} else {
			runtime.SetDefaultGOMAXPROCS() // which follows changes of the machine
		}
	}()
	done := make(chan any)
	go func() {
		defer func() { done <- recover() }()
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 19)
		f()
	}()
	if p := <-done; p != nil {
		panic(p) // where it can be recovered from
	}
}
