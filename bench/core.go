package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// cores says where the processes run.
type cores struct {
	Server, Load int
}

// pickCores takes the cores that the flags ask for; -1 leaves it to us. Device
// interrupts tend to go to the first core, so the load is there and the server on
// the last one.
func pickCores(server, load int) (cores, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return cores{}, fmt.Errorf("which cores may be used: %w", err)
	}
	first, last := -1, -1
	for i := range 1024 {
		if set.IsSet(i) {
			if first < 0 {
				first = i
			}
			last = i
		}
	}
	c := cores{Server: server, Load: load}
	if c.Server < 0 {
		c.Server = last
	}
	if c.Load < 0 {
		if c.Load = first; c.Load == c.Server {
			c.Load = last
		}
	}
	for _, core := range []int{c.Server, c.Load} {
		if core >= 1024 || !set.IsSet(core) {
			return cores{}, fmt.Errorf("core %d may not be used by this process: see taskset -p %d", core, os.Getpid())
		}
	}
	return c, nil
}

// start starts cmd on a core. The new process inherits the affinity of the thread
// that makes it, so a Go program finds one core and sets GOMAXPROCS to 1.
func start(cmd *exec.Cmd, core int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var old, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &old); err != nil {
		return fmt.Errorf("affinity: %w", err)
	}
	one.Set(core)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("pin to core %d: %w", core, err)
	}
	err := cmd.Start()
	if e := unix.SchedSetaffinity(0, &old); err == nil && e != nil {
		err = fmt.Errorf("unpin from core %d: %w", core, e)
	}
	return err
}

// moveTo moves this process, all its threads, to a core, and back. New threads follow.
func moveTo(core int) (back func(), err error) {
	var old, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &old); err != nil {
		return nil, fmt.Errorf("affinity: %w", err)
	}
	one.Set(core)
	if err := confine(&one); err != nil {
		return nil, fmt.Errorf("move to core %d: %w", core, err)
	}
	return func() { _ = confine(&old) }, nil
}

// confine lets all threads of this process run on some cores only.
func confine(to *unix.CPUSet) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := unix.SchedSetaffinity(tid, to); err != nil && err != unix.ESRCH {
			return err
		}
	}
	return nil
}
