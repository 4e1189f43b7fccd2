package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// stat is what proc(5) says of one process in /proc/PID/stat.
type stat struct {
	pid, parent int
	state       byte
	own         time.Duration // of the processor: utime and stime
	reaped      time.Duration // of its children that are gone and waited for: cutime and cstime
	started     uint64        // ticks since boot; with the pid it names a process
}

// tick is the unit of times in /proc/PID/stat: USER_HZ is 100 on every
// architecture that Go runs on.
const tick = 10 * time.Millisecond

// parseStat reads a line of /proc/PID/stat. The second field is the name of the
// program in parentheses and may hold spaces and parentheses itself.
func parseStat(line []byte) (s stat, err error) {
	open, shut := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 0 || shut < open {
		return s, fmt.Errorf("no name in parentheses: %q", line)
	}
	if s.pid, err = strconv.Atoi(string(bytes.TrimSpace(line[:open]))); err != nil {
		return s, err
	}
	f := strings.Fields(string(line[shut+1:])) // from the third field on
	if len(f) < 20 || len(f[0]) != 1 {
		return s, fmt.Errorf("too few fields: %q", line)
	}
	s.state = f[0][0]
	if s.parent, err = strconv.Atoi(f[1]); err != nil {
		return s, err
	}
	var ticks [4]int64
	for i := range ticks {
		if ticks[i], err = strconv.ParseInt(f[11+i], 10, 64); err != nil {
			return s, err
		}
	}
	s.own, s.reaped = time.Duration(ticks[0]+ticks[1])*tick, time.Duration(ticks[2]+ticks[3])*tick
	s.started, err = strconv.ParseUint(f[19], 10, 64)
	return s, err
}

// processTree returns the process and all its descendants that are there.
func processTree(root int) ([]stat, error) {
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	all, children := map[int]stat{}, map[int][]int{}
	for _, name := range names {
		line, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended meanwhile
		}
		s, err := parseStat(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all[s.pid] = s
		children[s.parent] = append(children[s.parent], s.pid)
	}
	if _, ok := all[root]; !ok {
		return nil, fmt.Errorf("there is no process %d", root)
	}
	tree := []stat{all[root]}
	for i := 0; i < len(tree); i++ {
		for _, pid := range children[tree[i].pid] {
			tree = append(tree, all[pid])
		}
	}
	return tree, nil
}

// cpuTime is what the process and all its descendants, dead ones too, have used
// of the processors.
func cpuTime(root int) (sum time.Duration, err error) {
	tree, err := processTree(root)
	for _, s := range tree {
		sum += s.own + s.reaped
	}
	return sum, err
}

// pss is the memory of the process and all its descendants in bytes, each shared
// page counted once (proportional set size).
func pss(root int) (sum int64, err error) {
	tree, err := processTree(root)
	if err != nil {
		return 0, err
	}
	for _, s := range tree {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", s.pid))
		if os.IsNotExist(err) || len(text) == 0 {
			continue // it has ended meanwhile
		}
		if err != nil {
			return 0, err
		}
		kB, err := parsePSS(string(text))
		if err != nil {
			return 0, err
		}
		sum += kB << 10
	}
	return sum, nil
}

// parsePSS finds the line "Pss: N kB".
func parsePSS(text string) (kB int64, err error) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			return strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		}
	}
	return 0, fmt.Errorf("there is no line Pss in %q", text)
}

// stillThere returns those processes of before that have not ended.
func stillThere(before []stat) []stat {
	return slices.DeleteFunc(slices.Clone(before), func(s stat) bool {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.pid))
		if err != nil {
			return true
		}
		now, err := parseStat(line)
		return err != nil || now.started != s.started || now.state == 'Z'
	})
}
