package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
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
		switch p.mode {
		case modeIdle:
			err = hold(p, os.Stdin, os.Stdout)
		case modeSlow:
			err = slow(p, os.Stdin, os.Stdout)
		case modeHandshake:
			err = shake(p, os.Stdout)
		case modeWrk:
			err = byWrk(p, os.Stdout)
		default:
			err = turns(p, os.Stdin, os.Stdout)
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
const coolDown = 100 * time.Millisecond

// turns runs a closed or an open loop and reports to out; without a window it goes
// on until the end of stdin.
func turns(p plan, stdin io.Reader, out io.Writer) error {
	// The ring belongs to its thread, and the thread stays on its core.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if p.meek {
		if err := beMeek(); err != nil {
			return err
		}
	}
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
	if p.window == 0 {
		return l.endless(stdin, out)
	}
	return l.measure(stdin, out)
}

// beMeek lets this thread run only when nothing else wants its core. A load beside the
// measured one then does not stand in its way, where they share a core.
func beMeek() error {
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0); err != nil {
		return fmt.Errorf("-meek: %w", err)
	}
	return nil
}

// newLoad makes a load with its ring and without connections.
func newLoad(p plan) (*load, error) {
	l := &load{plan: p, closed: p.rate == 0, epoch: time.Now(), nap: time.Second, latency: hdrhistogram.New(1, int64(time.Minute), 3)}
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
	l.out = &looped{b: l.pattern.b, period: l.pattern.period}
	l.take = l.received
	for i := range l.plan.conns {
		c := conn{fd: -1, index: int32(i), sendPos: l.pattern.start(i), recvPos: l.pattern.start(i)}
		if l.plan.mode != modeChurn {
			fd, err := connect(l.plan.addr, i)
			if err != nil {
				return err
			}
			c.fd = int32(fd)
		}
		l.conns = append(l.conns, c)
	}
	if l.plan.tls != "" {
		if err := l.seal(); err != nil {
			return err
		}
	}
	if l.plan.mode == modePage {
		if err := l.askForPage(); err != nil {
			return err
		}
	}
	for i := range l.conns {
		if fd := int(l.conns[i].fd); fd >= 0 {
			if err := prepareSocket(fd, l.plan.addr); err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
		}
	}
	var err error
	switch {
	case l.plan.mode == modeChurn:
		l.driver, err = newChurn(l)
	case l.plan.addr.network == "udp":
		l.driver, err = newDatagrams(l)
	case l.plan.driver == "ringed":
		l.driver, err = newRinged(l)
	default:
		l.driver, err = newDirect(l)
	}
	if err != nil {
		return err
	}
	switch l.plan.mode {
	case modeContent:
		err = l.askForContent()
	case modeGet:
		err = l.askForFiles()
	case modePost:
		err = l.acknowledge()
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

// prepareSocket makes a connected socket fit for the drivers.
func prepareSocket(fd int, addr address) error {
	if addr.network == "tcp" {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return err
		}
	}
	return unix.SetNonblock(fd, true)
}

// close closes the connections and the ring. Memory that the kernel may still
// touch is left to the end of the process.
func (l *load) close() {
	_ = l.r.Close()
	for i := range l.conns {
		if fd := int(l.conns[i].fd); fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// first begins the messages that a closed loop keeps in flight.
func (l *load) first() error {
	if l.plan.mode == modePost {
		return nil // the server begins
	}
	n := l.plan.pipeline
	if l.plan.mode == modeChurn {
		n = 1 // one after the other
	}
	for i := range l.conns {
		for range n {
			l.begin(&l.conns[i], l.now)
		}
		if err := l.driver.flush(&l.conns[i]); err != nil {
			return err
		}
	}
	return nil
}

// measure runs the phases, warm-up, window, cool-down and drain, and reports to out.
func (l *load) measure(stdin io.Reader, out io.Writer) error {
	var s *schedule
	l.tick()
	if l.closed {
		if err := l.first(); err != nil {
			return err
		}
	} else {
		s = newSchedule(l.plan.rate, l.now)
	}
	if err := l.run(l.now+int64(l.plan.warmup), s); err != nil {
		return err
	}

	verified := l.bytes
	l.requests, l.bytes, l.missed, l.lost, l.late, l.measured = 0, 0, 0, 0, 0, true
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

	if !l.plan.drain {
		if err := l.goOn(stdin); err != nil {
			return err
		}
	} else if err := l.drain(s); err != nil {
		return err
	}
	report.Verified = verified + l.bytes
	return json.NewEncoder(out).Encode(report)
}

// drain waits, after the cool-down, until everything is answered.
func (l *load) drain(s *schedule) error {
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
	return nil
}

// goOn keeps the load up until the end of stdin.
func (l *load) goOn(stdin io.Reader) error {
	over := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		close(over)
	}()
	for {
		select {
		case <-over:
			return nil
		default:
		}
		if err := l.run(l.now+int64(coolDown/20), nil); err != nil {
			return err
		}
	}
}

// endless keeps a closed loop up until the end of stdin, which ends the process.
func (l *load) endless(stdin io.Reader, out io.Writer) error {
	l.tick()
	if err := l.first(); err != nil {
		return err
	}
	fmt.Fprintln(out, result.Holding)
	go tell(&l.seen, stdin, out)
	return l.run(math.MaxInt64, nil)
}

// tell answers each line of stdin by a number, and ends the process at its end.
func tell(n *atomic.Uint64, stdin io.Reader, out io.Writer) {
	for in := bufio.NewScanner(stdin); in.Scan(); {
		fmt.Fprintln(out, n.Load())
	}
	os.Exit(0)
}

// ownCPU is the time that this process has spent on a CPU, in seconds.
func ownCPU() float64 {
	return usedCPU(unix.RUSAGE_SELF)
}

// usedCPU is that of this process or of those that it has started and awaited.
func usedCPU(who int) float64 {
	var u unix.Rusage
	if unix.Getrusage(who, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}
