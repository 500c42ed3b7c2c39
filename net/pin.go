//go:build linux

package net

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// allowedCPUs are those that this process may use. It asks on a goroutine of its own:
// the caller may be a callback on a thread that is pinned itself.
func allowedCPUs() (set unix.CPUSet, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = unix.SchedGetaffinity(0, &set)
	}()
	<-done
	return set, err
}

// checkCPUs refuses processors that loops cannot be pinned to.
func checkCPUs(cpus []int) error {
	if len(cpus) == 0 {
		return nil
	}
	allowed, err := allowedCPUs()
	if err != nil {
		return fmt.Errorf("ringnet: option CPUs: ask which processors this process may use: %w", err)
	}
	for _, cpu := range cpus {
		if cpu < 0 || !allowed.IsSet(cpu) {
			return fmt.Errorf("ringnet: option CPUs is %v: this process may use %s, and not %d: choose among these, or widen what taskset, the container's cpuset or CPUAffinity= in the systemd unit allows",
				cpus, listCPUs(&allowed), cpu)
		}
	}
	return nil
}

// listCPUs writes a set as taskset(1) does: 0-3,8.
func listCPUs(set *unix.CPUSet) string {
	var parts []string
	for i, n := 0, len(set)*64; i < n; i++ {
		if !set.IsSet(i) {
			continue
		}
		from := i
		for i+1 < n && set.IsSet(i+1) {
			i++
		}
		if i == from {
			parts = append(parts, fmt.Sprint(i))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", from, i))
		}
	}
	return strings.Join(parts, ",")
}

// pin keeps the loop's thread on its processor, if it has one. unpin undoes it, so
// that the thread is not given back to other goroutines with what was the loop's. On
// the loop's goroutine, which is locked to its thread.
func (l *loop) pin() (unpin func() error, err error) {
	if len(l.o.CPUs) == 0 {
		return func() error { return nil }, nil
	}
	cpu := l.o.CPUs[l.index%len(l.o.CPUs)]
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, fmt.Errorf("ringnet: loop %d: ask which processors its thread may use: %w", l.index, err)
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		if errors.Is(err, unix.EINVAL) {
			err = fmt.Errorf("%w: it has gone offline, or the cpuset of this process has changed", err)
		}
		return nil, fmt.Errorf("ringnet: pin loop %d to processor %d: %w", l.index, cpu, err)
	}
	return func() error { return unix.SchedSetaffinity(0, &before) }, nil
}
