package main

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"example.com/ringnet/bench/internal/result"
	"example.com/ringnet/ring"
)

// driver moves bytes between connections and the kernel.
type driver interface {
	// start makes the connection able to receive.
	start(c *conn) error
	// flush sends what is due, as far as that goes now.
	flush(c *conn) error
	// complete deals with one completion.
	complete(comp *ring.Completion) error
	// settle runs after a batch of completions. It reports whether there is
	// something to do without waiting for a completion.
	settle() (more bool, err error)
	// calls counts system calls beside io_uring_enter.
	calls() uint64
}

// load is a run.
type load struct {
	plan     plan
	closed   bool
	draining bool // nothing new is begun

	r       *ring.Ring
	driver  driver
	pattern pattern
	out     source                        // what connections send
	asks    int                           // bytes in a request; 0: as many as in the answer
	take    func(c *conn, b []byte) error // deals with what one has received
	conns   []conn                        // those of the plan's number that are open

	nap   time.Duration // the longest that it sleeps
	epoch time.Time
	now   int64 // nanoseconds since epoch, once per turn

	requests uint64
	bytes    uint64
	missed   uint64
	lost     uint64        // datagrams
	late     uint64        // answers to them
	seen     atomic.Uint64 // bytes, for others than this thread
	latency  *hdrhistogram.Histogram
	measured bool // the window is open
}

// answered counts n messages that became due at the time due.
func (l *load) answered(due, n int64) {
	l.requests += uint64(n)
	if l.measured {
		// Out of range only above the histogram's minute.
		_ = l.latency.RecordValues(max(1, l.now-due), n)
	}
}

// tick reads the clock: once a turn, since it costs as much as a tenth of a
// request does here.
func (l *load) tick() { l.now = int64(time.Since(l.epoch)) }

// errQuiet says that answers did not come.
var errQuiet = errors.New("the server has stopped answering")

// quietTime is after how long without any answer a run is given up.
const quietTime = 10 * time.Second

// run turns until the time until, in nanoseconds of the load's clock, or in a
// drain until nothing is unanswered.
func (l *load) run(until int64, s *schedule) error {
	var batch [512]ring.Completion
	last, lastAt := l.bytes, l.now
	for {
		if s != nil && !l.draining {
			if err := s.issue(l); err != nil {
				return err
			}
		}
		more, err := l.driver.settle()
		if err != nil {
			return err
		}
		if err := l.enter(more, until, s); err != nil {
			return err
		}
		l.tick()
		for {
			n := l.r.Reap(batch[:])
			for i := range n {
				if err := l.driver.complete(&batch[i]); err != nil {
					return err
				}
			}
			if n < len(batch) {
				break
			}
		}
		l.seen.Store(l.bytes)
		if l.now >= until || (l.draining && l.idle()) {
			return nil
		}
		if l.bytes != last {
			last, lastAt = l.bytes, l.now
		} else if l.now-lastAt > int64(quietTime) && !l.idle() {
			return fmt.Errorf("%w: nothing came for %v", errQuiet, quietTime)
		}
	}
}

// enter submits, and sleeps if there is nothing to do: until a completion, the
// next request of the schedule, or the time until.
func (l *load) enter(more bool, until int64, s *schedule) error {
	// The first try does not tell the Go scheduler, which would cost as much as
	// the rest of the turn.
	if err := l.r.Poll(); err != nil && !errors.Is(err, ring.ErrBusy) {
		return err
	}
	if more || l.r.Ready() > 0 {
		return nil
	}
	l.tick()
	wake := min(until, l.now+int64(l.nap))
	if s != nil && !l.draining {
		wake = min(wake, s.next)
	}
	if wake <= l.now {
		return nil
	}
	if err := l.r.Wait(1, time.Duration(wake-l.now)); err != nil && !errors.Is(err, ring.ErrBusy) {
		return err
	}
	return nil
}

// idle reports that every message is answered.
func (l *load) idle() bool {
	for i := range l.conns {
		if l.conns[i].inFlight() != 0 {
			return false
		}
	}
	return true
}

// report sums the window up.
func (l *load) report(window time.Duration) result.Report {
	return result.Report{
		Requests: l.requests, Bytes: l.bytes, Seconds: window.Seconds(), Missed: l.missed, Lost: l.lost, Late: l.late,
		Connections: len(l.conns), Latency: latencies(l.latency),
	}
}

// latencies are those of a histogram of nanoseconds.
func latencies(h *hdrhistogram.Histogram) result.Latency {
	us := func(ns int64) float64 { return float64(ns) / 1e3 }
	return result.Latency{
		Min: us(h.Min()), Mean: h.Mean() / 1e3,
		P50: us(h.ValueAtQuantile(50)), P90: us(h.ValueAtQuantile(90)), P99: us(h.ValueAtQuantile(99)),
		P999: us(h.ValueAtQuantile(99.9)), Max: us(h.Max()),
	}
}
