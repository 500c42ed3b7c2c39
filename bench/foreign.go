package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// foreign says how a program that does not know package control is started: its
// arguments for an address to listen on. It serves the directory of files.
type foreign func(s server, bins *binaries, addr string) (args []string, err error)

// startForeign starts such a program and waits until it takes connections. It has to be
// told its port, so one is chosen that is free.
func startForeign(core int, bins *binaries, s server) (p *process, addrs, args []string, err error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, nil, nil, err
	}
	if args, err = s.foreign(s, bins, addr); err != nil {
		return nil, nil, nil, err
	}
	p = newProcess(bins.path(s), args)
	p.foreign = true
	close(p.lines) // there are none
	p.cmd.Stdout = &p.errors
	// A group of its own, since it may have children; and it ends with us.
	p.cmd.WaitDelay = time.Second
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := start(p.cmd, core); err != nil {
		return nil, nil, args, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	if err := p.reachable(addr); err != nil {
		p.stop()
		return nil, nil, args, fmt.Errorf("start: %w", err)
	}
	return p, []string{addr}, args, nil
}

// freeAddress is one that nobody listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// reachable waits until connections to an address are taken.
func (p *process) reachable(addr string) error {
	const most = 10 * time.Second
	for from := time.Now(); time.Since(from) < most; {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.ended:
			return p.failure()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return fmt.Errorf("no connection to %s for %v%s", addr, most, p.errors.suffix())
}

// stopForeign ends the program by SIGTERM, or its whole group by SIGKILL.
func (p *process) stopForeign() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(2 * time.Second):
		_ = syscall.Kill(-p.pid(), syscall.SIGKILL)
		<-p.ended
	}
}

// all is the processes of the program. A foreign one may have children, which are looked
// for once, when the load is on it: by then they are there.
func (p *process) all() ([]int, error) {
	if p.pids != nil {
		return p.pids, nil
	}
	p.pids = []int{p.pid()}
	if !p.foreign {
		return p.pids, nil
	}
	var err error
	p.pids, err = family(p.pid())
	return p.pids, err
}

// cpu is the time that they have spent on a CPU.
func (p *process) cpu() (sum time.Duration, err error) {
	pids, err := p.all()
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		one, err := processCPU(pid)
		if err != nil {
			return 0, err
		}
		sum += one
	}
	return sum, nil
}

// weigh measures what they and the kernel hold.
func (p *process) weigh() (sum memory, err error) {
	pids, err := p.all()
	if err != nil {
		return sum, err
	}
	for i, pid := range pids {
		one, err := weigh(pid)
		if err != nil {
			return sum, err
		}
		if i == 0 {
			sum = one
		} else {
			sum.add(one)
		}
	}
	return sum, nil
}

// family is a process and all that descend from it.
func family(pid int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := make(map[int][]int)
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		if parent, ok := parentIn(string(b)); ok {
			children[parent] = append(children[parent], child)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	slices.Sort(all[1:])
	return all, nil
}

// parentIn reads a process's parent in its stat: "PID (NAME) STATE PARENT …". A name
// may have anything in it, also spaces and parentheses.
func parentIn(stat string) (int, bool) {
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(f) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(f[1])
	return parent, err == nil
}
