//go:build linux

package net

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"time"
)

// watchdog tells of loops that a callback stalls: one goroutine for all loops of a
// server. While any of them works it looks at each a few times per StallAfter; once
// all sleep it parks, without a timer, and the first loop that wakes calls it back.
//
//	loop:      note that it works, then look whether the watchdog is parked
//	watchdog:  note that it is parked, then look whether a loop works, then park
//
// So one of them sees the other. A loop pays for it with one atomic store per turn
// and two per sleep.
type watchdog struct {
	loops  []*loop
	after  time.Duration
	logger *slog.Logger

	parked atomic.Bool
	call   chan struct{}
	stop   chan struct{}
	done   chan struct{}
}

// watched is what a loop shows the watchdog.
type watched struct {
	dog  *watchdog // nil: nobody looks
	turn uint64
	beat atomic.Uint64 // the turn that it is in; 0: it sleeps
}

// working notes that another turn begins.
func (w *watched) working() {
	if w.dog != nil {
		w.turn++
		w.beat.Store(w.turn)
	}
}

// asleep notes that the loop is about to block, awake that it has.
func (w *watched) asleep() {
	if w.dog != nil {
		w.beat.Store(0)
	}
}

func (w *watched) awake() {
	if w.dog == nil {
		return
	}
	w.beat.Store(w.turn)
	if w.dog.parked.Load() && w.dog.parked.CompareAndSwap(true, false) {
		w.dog.call <- struct{}{}
	}
}

// turned notes that a turn of the loop has ended.
func (l *loop) turned(now int64) {
	d := time.Duration(now - l.now)
	l.stats.Turns++
	l.stats.LastTurn = d
	if d > l.stats.LongestTurn {
		l.stats.LongestTurn = d
	}
	if d > l.o.StallAfter && l.o.StallAfter > 0 {
		l.stats.Stalls++
	}
	l.watched.working()
}

// newWatchdog makes one for loops that have not been started; nil if it is off.
func newWatchdog(loops []*loop, o *Options) *watchdog {
	if o.StallAfter < 0 {
		return nil
	}
	w := &watchdog{loops: loops, after: o.StallAfter, logger: o.Logger,
		call: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	for _, l := range loops {
		l.watched.dog = w
	}
	return w
}

// end stops the watchdog and waits for it.
func (w *watchdog) end() {
	if w != nil {
		close(w.stop)
		<-w.done
	}
}

const (
	stallLooks    = 4 // per StallAfter: a stall is seen so much of it late, at most
	stallLookMin  = time.Millisecond
	stallTellOnce = time.Second // a loop that stalls all the time is told of so often
)

// seen is what the watchdog last saw of a loop.
type seen struct {
	beat   uint64
	since  time.Time // when it first saw this beat
	told   bool
	toldAt time.Time
}

// run is the watchdog's goroutine.
func (w *watchdog) run() {
	defer close(w.done)
	look := time.NewTicker(max(w.after/stallLooks, stallLookMin))
	defer look.Stop()
	last := make([]seen, len(w.loops))
	for {
		select {
		case <-w.stop:
			return
		case now := <-look.C:
			if w.look(last, now) {
				continue
			}
		}
		look.Stop()
		if !w.park() {
			return
		}
		look.Reset(max(w.after/stallLooks, stallLookMin))
	}
}

// look looks at each loop, and reports whether any works or has done so since it
// last looked.
func (w *watchdog) look(last []seen, now time.Time) (busy bool) {
	for i, l := range w.loops {
		s, beat := &last[i], l.watched.beat.Load()
		switch {
		case beat != s.beat:
			s.beat, s.since, s.told = beat, now, false
			busy = true
		case beat == 0:
		default:
			busy = true
			if d := time.Since(s.since); d >= w.after && !s.told {
				s.told = true
				if now.Sub(s.toldAt) >= stallTellOnce {
					s.toldAt = now
					w.tell(l, d)
				}
			}
		}
	}
	return busy
}

// tell warns of a loop that has been in the same turn for d, at least.
func (w *watchdog) tell(l *loop, d time.Duration) {
	stack := l.stack()
	if l.watched.beat.Load() == 0 {
		return // it went on just now
	}
	w.logger.Warn("ringnet: a callback stalls its loop", "loop", l.index, "for", d.Round(time.Millisecond), "stack", stack,
		"mend", "callbacks must not block or compute for long: all connections of the loop wait; do such work on another goroutine")
}

// park blocks until a loop works, and reports false when the server has ended.
func (w *watchdog) park() bool {
	w.parked.Store(true)
	for _, l := range w.loops {
		if l.watched.beat.Load() != 0 && w.parked.CompareAndSwap(true, false) {
			return true
		}
	}
	select {
	case <-w.call:
		return true
	case <-w.stop:
		return false
	}
}

// The labels by which a loop's goroutine is known in profiles: its number, for
// people, and what tells it from the loops of other servers.
const (
	labelLoop = "ringnet_loop"
	labelID   = "ringnet_id"
)

// label puts the loop's labels on its goroutine.
func (l *loop) label() {
	if l.watched.dog != nil {
		pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(),
			pprof.Labels(labelLoop, fmt.Sprint(l.index), labelID, fmt.Sprintf("%p", l))))
	}
}

// stack is where the loop's goroutine is. Safe for concurrent use.
//
// It is found in the goroutine profile by its labels. That collects all goroutines
// while they run, and stops them for some ten microseconds only; runtime.Stack for
// all of them would stop the program for as long as it takes to print each.
func (l *loop) stack() string {
	var b bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil {
		return err.Error()
	}
	label := fmt.Sprintf("%q:%q", labelID, fmt.Sprintf("%p", l))
	var fiber, own string
	for group := range strings.SplitSeq(b.String(), "\n\n") {
		// Goroutines that callbacks have started have its labels as well; and so have
		// fibers, of which the one that does not wait is what the loop is at.
		switch {
		case !strings.Contains(group, label):
		case strings.Contains(group, "net.(*loop).run+"):
			own = stackOf(group)
		case strings.Contains(group, "net.(*Fiber).run+") && !strings.Contains(group, "net.(*Fiber).park+"):
			fiber = stackOf(group)
		}
	}
	switch {
	case own == "":
		return "not found"
	case strings.Contains(own, "net.(*loop).resume\n"):
		return fiber + own
	}
	return own
}

// stackOf is the stack in one record of a goroutine profile.
func stackOf(record string) string {
	var stack strings.Builder
	for line := range strings.Lines(record) {
		// #	0x4b5f0d	time.Sleep+0x1ed	/usr/lib/go/src/runtime/time.go:363
		if f := strings.Fields(line); len(f) >= 4 && f[0] == "#" {
			name, _, _ := strings.Cut(f[2], "+0x")
			fmt.Fprintf(&stack, "%s\n\t%s\n", name, strings.Join(f[3:], " "))
		}
	}
	return stack.String()
}
