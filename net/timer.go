//go:build linux

package net

import (
	"math"
	"runtime/debug"
	"time"
)

// Timer is a function that a loop calls later; see [Conn.AfterFunc]. It is a small
// value to copy and compare. Its methods may be called only on its loop's goroutine.
// The zero Timer is one that has been stopped.
type Timer struct {
	l   *loop
	t   *callTimer
	gen uint64
}

// AfterFunc has f called when d has passed, as a callback of c: on the loop's
// goroutine, and a panic closes c. It is never early, and late by at most a
// millisecond, the granularity of timers, and the turn that the loop is busy with;
// with d of zero or less it is called within a millisecond. Timers fire in the order
// in which they are due.
//
// Close, Abort and the end of the connection drop its timers; f is not called then,
// and after them AfterFunc does nothing and returns the zero Timer. Setting and
// stopping a timer allocates nothing, apart from what f captures, and takes the same
// time with one timer as with a million.
func (c *Conn) AfterFunc(d time.Duration, f func(c *Conn)) Timer {
	if c.state&(closing|dead|finished) != 0 {
		return Timer{}
	}
	t := c.l.newTimer()
	t.c, t.f = c, f
	t.join(c.l.timingOf(c))
	c.l.setTimer(&t.timer, d)
	return Timer{c.l, t, t.gen}
}

// LoopAfterFunc is AfterFunc for what does not end with c: the timer belongs to c's
// loop and is dropped when that ends. It may be set at any time, in OnClose as well:
// to try something again later, say. A panic in f is logged and counted
// (Stats.Panics), and closes nothing.
func (c *Conn) LoopAfterFunc(d time.Duration, f func()) Timer { return c.l.after(d, f) }

// after sets a timer of the loop's own.
func (l *loop) after(d time.Duration, f func()) Timer {
	t := l.newTimer()
	t.g = f
	l.setTimer(&t.timer, d)
	return Timer{l, t, t.gen}
}

// Stop keeps the function from being called. It reports whether it would have been:
// false after it was, is being, or never will be.
func (t Timer) Stop() bool {
	if !t.live() || !t.t.set {
		return false
	}
	t.l.dropTimer(t.t)
	return true
}

// Reset has the function called when d has passed from now, in place of when it was
// due. Called by the function itself, it has that called again. It reports whether
// the function will be called: false, and nothing done, once it has returned, was
// stopped, or its connection has ended; then a new timer is needed.
func (t Timer) Reset(d time.Duration) bool {
	if !t.live() {
		return false
	}
	if c := t.t.c; c != nil && c.state&(closing|dead|finished) != 0 {
		return false
	}
	t.l.wheel.remove(&t.t.timer)
	t.l.setTimer(&t.t.timer, d)
	return true
}

// live reports that the timer is set, or running.
func (t Timer) live() bool { return t.t != nil && t.t.gen == t.gen }

// callTimer is a function to be called later. After its time it waits for its next
// use on a list of the loop; gen then tells old Timers that they mean an earlier one.
type callTimer struct {
	timer
	gen uint64

	c *Conn // whose callback f is
	f func(*Conn)
	g func() // the loop's own, if c is nil

	older, newer *callTimer // of the same connection, or not in use
}

// newTimer takes a timer from the loop's supply.
func (l *loop) newTimer() *callTimer {
	t := l.freeTimers
	if t == nil {
		t = new(callTimer)
		t.owner = t
		return t
	}
	l.freeTimers, t.older = t.older, nil
	return t
}

// setTimer has t due when d has passed.
func (l *loop) setTimer(t *timer, d time.Duration) {
	now := l.clock()
	l.wheel.add(t, tickAfter(plus(now, max(0, d))), tickAt(now))
}

// dropTimer ends a timer's use.
func (l *loop) dropTimer(t *callTimer) {
	l.wheel.remove(&t.timer)
	if t.c != nil {
		t.leave()
	}
	t.gen++
	t.c, t.f, t.g = nil, nil, nil
	t.older, l.freeTimers = l.freeTimers, t
}

// join and leave keep the list of a connection's timers.
func (t *callTimer) join(g *timing) {
	t.older = g.timers
	if g.timers != nil {
		g.timers.newer = t
	}
	g.timers = t
}

func (t *callTimer) leave() {
	if t.older != nil {
		t.older.newer = t.newer
	}
	if t.newer != nil {
		t.newer.older = t.older
	} else {
		t.c.timing.timers = t.older
	}
	t.older, t.newer = nil, nil
}

// dropTimers ends the timers of a connection.
func (l *loop) dropTimers(c *Conn) {
	if c.timing == nil {
		return
	}
	for c.timing.timers != nil {
		l.dropTimer(c.timing.timers)
	}
}

// expired implements expirer.
func (t *callTimer) expired(l *loop) {
	if t.c != nil && t.c.state&(closing|dead|finished) != 0 {
		l.dropTimer(t) // it ended by itself: both directions have
		return
	}
	l.stats.TimersFired++
	gen := t.gen
	if t.c != nil {
		l.calling = t.c
		t.f(t.c) // a panic drops it with the others of c
		l.calling = nil
	} else {
		l.callUnowned(t.g)
	}
	// Nobody has set it again, and it was not dropped with its connection.
	if t.gen == gen && !t.set {
		l.dropTimer(t)
	}
}

// callUnowned calls a function of the user's that is no connection's callback.
func (l *loop) callUnowned(f func()) {
	defer func() {
		if v := recover(); v != nil {
			l.stats.Panics++
			l.o.Logger.Error("ringnet: a function on a loop panicked", "loop", l.index, "panic", v, "stack", string(debug.Stack()))
		}
	}()
	f()
}

// timersMax bounds a turn: so many timers fire before the loop looks after
// everything else.
const timersMax = 1024

// expireTimers fires what is due. That is judged by the time at which the loop last
// looked for completions, so bytes that came in time are before their deadline, also
// after a stall; and what the timers that fire set is not due yet.
func (l *loop) expireTimers() {
	if l.wheel.count == 0 {
		return
	}
	for budget, until := timersMax, tickAt(l.now); budget > 0; {
		budget = l.expireSome(budget, until)
	}
}

// expireSome fires up to budget timers and returns what is left of it, zero when no
// more are due. A panic ends it, and the connection whose callback it was.
func (l *loop) expireSome(budget int, until int64) (left int) {
	left = budget
	defer l.contain()
	l.settleDirty() // what a panic left over
	for left > 0 {
		t := l.wheel.take(until)
		if t == nil {
			return 0
		}
		left--
		t.owner.expired(l)
		if len(l.owing) > 0 {
			l.settleOwing()
		}
		if len(l.dirty) > 0 || !l.woken.empty() {
			l.settleDirty()
		}
	}
	return left
}

// untilTimer is when the wheel has to be looked at again.
func (l *loop) untilTimer() (at int64, ok bool) {
	first, ok := l.wheel.first()
	if !ok || first > math.MaxInt64/int64(tick) {
		return 0, false
	}
	return first * int64(tick), true
}
