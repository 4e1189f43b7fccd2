package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cpus says which processors the servers have and which the load has: a half
// each, so that neither waits for the other and what one costs is not hidden in
// the other. With one processor, or if asked for, all have all.
type cpus struct{ servers, load unix.CPUSet }

func splitCPUs(pin bool) (c cpus, text string, err error) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return c, "", fmt.Errorf("which processors there are: %w", err)
	}
	n := all.Count()
	if !pin || n < 2 {
		return cpus{all, all}, fmt.Sprintf("servers and load share %d processors", n), nil
	}
	seen := 0
	var names [2][]string
	for i := 0; seen < n; i++ {
		if !all.IsSet(i) {
			continue
		}
		if seen < n/2 {
			c.servers.Set(i)
			names[0] = append(names[0], fmt.Sprint(i))
		} else {
			c.load.Set(i)
			names[1] = append(names[1], fmt.Sprint(i))
		}
		seen++
	}
	return c, fmt.Sprintf("servers on processor %s, load and targets on processor %s",
		strings.Join(names[0], ","), strings.Join(names[1], ",")), nil
}

// stayOn has this process run on the given processors only.
func stayOn(set *unix.CPUSet) error {
	// A thread that is made meanwhile has the processors of the one that makes it.
	for range 3 {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, t := range tasks {
			var tid int
			fmt.Sscan(t.Name(), &tid)
			if err := unix.SchedSetaffinity(tid, set); err != nil && err != unix.ESRCH {
				return fmt.Errorf("staying on some processors: %w", err)
			}
		}
	}
	runtime.GOMAXPROCS(set.Count())
	return nil
}

// A launcher starts processes on some processors. It has a thread of its own,
// which lives as long as this process: processes inherit its processors, and
// are killed when it is gone.
type launcher struct{ orders chan func() }

func newLauncher(set unix.CPUSet) launcher {
	l := launcher{make(chan func())}
	go func() {
		runtime.LockOSThread()
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			fmt.Fprintln(os.Stderr, "bench: pinning:", err)
		}
		for order := range l.orders {
			order()
		}
	}()
	return l
}

// process is one that was started here.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once it has ended
}

func (l launcher) start(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 2 * time.Second // a child of it may hold its output open
	started := make(chan error)
	l.orders <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, err
	}
	p := &process{cmd, make(chan struct{})}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop ends the process in order, then what is left of it and its descendants by
// force.
func (p *process) stop() {
	tree, _ := processTree(p.pid())
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
	tree = slices.DeleteFunc(tree, func(s stat) bool { return s.pid == p.pid() })
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if tree = stillThere(tree); len(tree) == 0 {
			return
		}
		if time.Now().After(deadline) {
			break
		}
	}
	for _, s := range tree {
		syscall.Kill(s.pid, syscall.SIGKILL)
	}
}
