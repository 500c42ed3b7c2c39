package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processCPU is the time that all threads of a process have spent on a CPU, those
// that have ended too. It is what /proc/PID/task/*/schedstat adds up to, in
// nanoseconds, but also counts the slice that a thread is in the middle of.
func processCPU(pid int) (time.Duration, error) {
	// clock_getcpuclockid(3): the complement of the pid, and CPUCLOCK_SCHED.
	const sched = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|sched, &ts); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// userHz is the unit of /proc/stat: always 100 for user space.
const userHz = 100

// coreIdle is the time that a core has had nothing to do. Waiting for I/O is
// that, too: a thread in io_uring_enter counts as such.
func coreIdle(core int) (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseCoreIdle(string(b), core)
}

func parseCoreIdle(stat string, core int) (time.Duration, error) {
	name := "cpu" + strconv.Itoa(core)
	for line := range strings.SplitSeq(stat, "\n") {
		f := strings.Fields(line)
		if len(f) < 6 || f[0] != name {
			continue
		}
		idle, err := strconv.ParseInt(f[4], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		wait, err := strconv.ParseInt(f[5], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		return time.Duration(idle+wait) * time.Second / userHz, nil
	}
	return 0, fmt.Errorf("/proc/stat has no line for core %d", core)
}
