package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// memory is what a server and the kernel hold, in bytes.
type memory struct {
	RSS     int64 // of the process
	Peak    int64 // the most that RSS has been
	Private int64 // of it, pages that only this process has

	// Kernel is memory of the kernel, of the whole machine: live objects of all
	// slab caches, kernel stacks and page tables.
	Kernel int64
	Slab   int64 // of it, live slab objects
	// Sockets is what sockets hold of data, as /proc/net/sockstat tells; it is
	// not part of Kernel.
	Sockets int64
}

// weigh measures process pid and the kernel.
func weigh(pid int) (memory, error) {
	var m memory
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return m, fmt.Errorf("memory of the server: %w", err)
	}
	p := fields(string(rollup))
	m.RSS, m.Private = p["Rss"], p["Private_Clean"]+p["Private_Dirty"]
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
		m.Peak = fields(string(status))["VmHWM"]
	}
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return m, fmt.Errorf("memory of the kernel: %w", err)
	}
	k := fields(string(info))
	m.Slab = k["Slab"]
	// Slab in meminfo is whole pages, and pages with a few objects left stay for
	// long; slabinfo counts the objects, but only root may read it.
	if b, err := os.ReadFile("/proc/slabinfo"); err == nil {
		if live, err := slabObjects(string(b)); err == nil {
			m.Slab = live
		}
	}
	m.Kernel = m.Slab + k["KernelStack"] + k["PageTables"]
	if b, err := os.ReadFile("/proc/net/sockstat"); err == nil {
		m.Sockets = socketPages(string(b)) * int64(os.Getpagesize())
	}
	return m, nil
}

// add adds what another process of the same server holds.
func (m *memory) add(o memory) {
	m.RSS, m.Peak, m.Private = m.RSS+o.RSS, m.Peak+o.Peak, m.Private+o.Private
}

// fields reads lines such as "Rss:   123 kB" and gives bytes.
func fields(s string) map[string]int64 {
	m := make(map[string]int64)
	for line := range strings.SplitSeq(s, "\n") {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "kB" {
			continue
		}
		if n, err := strconv.ParseInt(f[1], 10, 64); err == nil {
			m[strings.TrimSuffix(f[0], ":")] = n << 10
		}
	}
	return m
}

// slabObjects adds up the live objects of /proc/slabinfo, in bytes. Its columns
// are name, active objects, objects, bytes of an object and more.
func slabObjects(s string) (int64, error) {
	var sum int64
	for line := range strings.SplitSeq(s, "\n") {
		f := strings.Fields(line)
		if len(f) < 4 || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "slabinfo") {
			continue
		}
		active, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/slabinfo: %w", err)
		}
		size, err := strconv.ParseInt(f[3], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/slabinfo: %w", err)
		}
		sum += active * size
	}
	if sum == 0 {
		return 0, fmt.Errorf("/proc/slabinfo lists no objects")
	}
	return sum, nil
}

// socketPages is the number of pages that TCP holds, of /proc/net/sockstat.
func socketPages(s string) int64 {
	for line := range strings.SplitSeq(s, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != "TCP:" {
			continue
		}
		for i := 1; i+1 < len(f); i += 2 {
			if f[i] == "mem" {
				n, _ := strconv.ParseInt(f[i+1], 10, 64)
				return n
			}
		}
	}
	return 0
}
