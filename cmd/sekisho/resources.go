package main

import (
	"fmt"
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"github.com/sirupsen/logrus"

	"sekisho/bastion"
)

const (
	// reservedDescriptors are kept for the audit log, the admin socket, the
	// metrics, and for files that are read anew.
	reservedDescriptors = 64

	// leastDescriptors are too few to serve with.
	leastDescriptors = 64
)

// resources takes what the machine gives: it tells the runtime how much memory
// there is, and returns how many sockets of clients and targets there can be
// at once. What will not be enough it says now, and not when it is needed.
func (svc *service) resources() (descriptors int, err error) {
	if os.Getenv("GOMEMLIMIT") == "" {
		if limit, from := memoryLimit("/"); limit > 0 {
			debug.SetMemoryLimit(limit)
			svc.log.WithFields(logrus.Fields{"MiB": limit >> 20, "from": from}).Info("memory limit")
		}
	}
	most, open, err := openFiles()
	if err != nil {
		svc.log.WithError(err).Warn("how many files the process may open is not known")
		return 0, nil
	}
	if most == math.MaxInt {
		return 0, nil
	}
	needed := neededDescriptors(svc.setup.settings.Limits, open)
	const hint = "raise it: LimitNOFILE= in the systemd unit, or ulimit -n; or lower limits.max_connections and limits.max_forwards"
	if most < open+reservedDescriptors+leastDescriptors {
		return 0, failf(hint, "the process may open %d files (RLIMIT_NOFILE), of which %d are open already: that is too few to serve with", most, open)
	}
	descriptors = most - open - reservedDescriptors
	if most < needed {
		svc.log.WithFields(logrus.Fields{"may_open": most, "needed": needed, "for_clients_and_targets": descriptors, "hint": hint}).
			Warn("the process may open fewer files than the limits allow connections and forwards: those beyond are refused")
	}
	return descriptors, nil
}

// neededDescriptors is what it takes to carry all that limits allow, where
// open files are open already.
func neededDescriptors(l bastion.Limits, open int) int {
	return open + reservedDescriptors + l.MaxStartups + l.MaxConnections + l.MaxForwards
}

// openFiles is how many files the process may open, and how many it has open.
// The runtime has raised the former to the hard limit, as it does for every
// program that imports os.
func openFiles() (most, open int, err error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, 0, err
	}
	most = math.MaxInt
	if limit.Cur < math.MaxInt32 {
		most = int(limit.Cur)
	}
	entries, err := os.ReadDir("/dev/fd")
	return most, len(entries), err
}

// memoryLimit is what the runtime should keep the process below, and by what:
// nine tenths of what its control group gives it, so that it collects garbage
// before it is killed for it, and no more than three quarters of the machine's
// memory, which is not all its own. It is 0 where neither can be told.
func memoryLimit(root string) (limit int64, from string) {
	limit = math.MaxInt64
	least := func(n int64, by string) {
		if n > 0 && n < limit {
			limit, from = n, by
		}
	}
	least(machineMemory(root)/4*3, "machine")
	groups, _ := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	for line := range strings.Lines(string(groups)) {
		// hierarchy:controllers:path, of version 2 with the one hierarchy 0
		// and no controllers (cgroups(7)).
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		dir, file := "sys/fs/cgroup", "memory.max"
		if parts[1] != "" {
			dir, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		}
		if parts[1] != "" && parts[1] != "memory" || parts[1] == "" && parts[0] != "0" {
			continue
		}
		// Every group above limits too; in a container the upper ones, and
		// perhaps its own, are not to be seen.
		for group := path.Clean("/" + parts[2]); ; group = path.Dir(group) {
			by := filepath.Join(root, dir, group, file)
			least(readNumber(by)/10*9, by)
			if group == "/" {
				break
			}
		}
	}
	if limit == math.MaxInt64 {
		return 0, ""
	}
	return limit, from
}

// readNumber is the number that a file has, or 0: of a group without a limit,
// too, where it says "max".
func readNumber(file string) int64 {
	content, _ := os.ReadFile(file)
	n, err := strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// machineMemory is how much memory the machine has, or 0.
func machineMemory(root string) int64 {
	content, _ := os.ReadFile(filepath.Join(root, "proc/meminfo"))
	for line := range strings.Lines(string(content)) {
		var kilobytes int64
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kilobytes); n == 1 && kilobytes < math.MaxInt64>>10 {
			return kilobytes << 10
		}
	}
	return 0
}
