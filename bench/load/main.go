package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"example.com/ringnet/bench/internal/result"
	"example.com/ringnet/ring"
)

// exitPayload is the exit status when a wrong byte came back.
const exitPayload = 3

func main() {
	// The load makes next to no garbage; a collection in the window would only
	// blur the latencies.
	debug.SetGCPercent(400)
	p, err := parsePlan(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		if p.mode == "idle" {
			err = hold(p, os.Stdin, os.Stdout)
		} else {
			err = echo(p, os.Stdout)
		}
	}
	var wrong *payloadError
	switch {
	case errors.As(err, &wrong):
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(exitPayload)
	case err != nil:
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// coolDown is how long the load goes on after the window, so that the runner can
// read the clocks of a server that is still at work.
const coolDown = 50 * time.Millisecond

// echo runs a closed or an open loop and reports to out.
func echo(p plan, out io.Writer) error {
	// The ring belongs to its thread, and the thread stays on its core.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := raiseFileLimit(); err != nil {
		return err
	}
	l, err := newLoad(p)
	if err != nil {
		return err
	}
	defer l.close()
	if err := l.open(); err != nil {
		return err
	}
	return l.measure(out)
}

// newLoad makes a load with its ring and without connections.
func newLoad(p plan) (*load, error) {
	l := &load{plan: p, closed: p.rate == 0, epoch: time.Now(), latency: hdrhistogram.New(1, int64(time.Minute), 3)}
	var err error
	if l.pattern, err = newPattern(); err != nil {
		return nil, err
	}
	if l.r, err = ring.New(ring.Config{EntryCount: 4096, CompletionCount: 32768}); err != nil {
		return nil, err
	}
	if err := l.r.Enable(); err != nil {
		_ = l.r.Close()
		return nil, err
	}
	return l, nil
}

// open opens the connections and makes them able to receive.
func (l *load) open() error {
	// Connections keep their places: a pointer to one stays good.
	l.conns = make([]conn, 0, l.plan.conns)
	for i := range l.plan.conns {
		fd, err := connect(l.plan.addr, i)
		if err != nil {
			return err
		}
		l.conns = append(l.conns, conn{fd: int32(fd), index: int32(i), sendPos: l.pattern.start(i), recvPos: l.pattern.start(i)})
		if err := unix.SetNonblock(fd, true); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	var err error
	if l.plan.driver == "ringed" {
		l.driver, err = newRinged(l)
	} else {
		l.driver, err = newDirect(l)
	}
	if err != nil {
		return err
	}
	for i := range l.conns {
		if err := l.driver.start(&l.conns[i]); err != nil {
			return err
		}
	}
	return nil
}

// close closes the connections and the ring. Memory that the kernel may still
// touch is left to the end of the process.
func (l *load) close() {
	_ = l.r.Close()
	for i := range l.conns {
		_ = unix.Close(int(l.conns[i].fd))
	}
}

// measure runs the phases, warm-up, window, cool-down and drain, and reports to out.
func (l *load) measure(out io.Writer) error {
	var s *schedule
	l.tick()
	if l.closed {
		for i := range l.conns {
			for range l.plan.pipeline {
				l.begin(&l.conns[i], l.now)
			}
			if err := l.driver.flush(&l.conns[i]); err != nil {
				return err
			}
		}
	} else {
		s = newSchedule(l.plan.rate, l.now)
	}
	if err := l.run(l.now+int64(l.plan.warmup), s); err != nil {
		return err
	}

	verified := l.bytes
	l.requests, l.bytes, l.missed, l.measured = 0, 0, 0, true
	counters, calls, cpu := l.r.Counters(), l.driver.calls(), ownCPU()
	fmt.Fprintln(out, result.Began)
	l.tick()
	from := l.now
	if err := l.run(from+int64(l.plan.window), s); err != nil {
		return err
	}
	window := time.Duration(l.now - from)
	l.measured = false
	fmt.Fprintln(out, result.Ended)
	report := l.report(window)
	report.OwnCPU = ownCPU() - cpu
	end := l.r.Counters()
	report.Enters, report.Waits = end.Enters-counters.Enters, end.Waits-counters.Waits
	report.DirectCalls = l.driver.calls() - calls

	if err := l.run(l.now+int64(coolDown), s); err != nil {
		return err
	}
	l.draining = true
	if err := l.run(l.now+int64(quietTime), s); err != nil {
		return err
	}
	if !l.idle() {
		return fmt.Errorf("%w: messages are unanswered %v after the last one was sent", errQuiet, quietTime)
	}
	report.Verified = verified + l.bytes
	return json.NewEncoder(out).Encode(report)
}

// ownCPU is the time that this process has spent on a CPU, in seconds.
func ownCPU() float64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}
