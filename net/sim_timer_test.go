//go:build linux

package net

import (
	"errors"
	"math/rand/v2"
	"os"
	"time"
)

// Timers and timeouts of simulated worlds. They have draws of their own, and most
// worlds have none.

// simClocks is what a world knows of its timers.
type simClocks struct {
	r      *rand.Rand // nil: the world has none
	lastAt int64      // the tick at which the last timer that fired was due
	fired  int
	firing *simTimer
}

func (w *world) drawClocks(o *Options) {
	r := rand.New(rand.NewPCG(w.seed, 0x7_1_3e_5))
	if r.IntN(3) > 0 {
		return
	}
	w.clocks.r = r
	some := func() time.Duration { return time.Duration(1+r.IntN(200)) * time.Millisecond }
	if r.IntN(4) == 0 {
		o.ReadTimeout = some()
	}
	if r.IntN(4) == 0 {
		o.WriteTimeout = some()
	}
	if r.IntN(4) == 0 {
		o.IdleTimeout = some()
	}
}

// simTimer is a timer that a world's handler has set.
type simTimer struct {
	k    *simConn // nil: the loop's own
	t    Timer
	due  time.Duration
	over bool // fired, or stopped
}

// simLimits is what a connection's handler knows of its own timeouts.
type simLimits struct {
	read, idle time.Duration // those in force; 0: none
	anyWrite   bool
	readBy     time.Duration // the deadline; 0: none
	lastIn     time.Duration // when bytes came last, or reading began
	timers     []*simTimer
	pausedLate bool // reading was paused when it had ended, before the handler heard of it
}

// clocksAtOpen gives a connection what the server's options say.
func (k *simConn) clocksAtOpen() {
	o := k.w.o
	k.lim.read, k.lim.idle, k.lim.anyWrite, k.lim.lastIn = o.ReadTimeout, o.IdleTimeout, o.WriteTimeout > 0, k.w.e.Clock()
	k.wind()
}

// wind does something to the timers and timeouts of a connection, now and then.
func (k *simConn) wind() {
	w := k.w
	r := w.clocks.r
	if r == nil || k.closing || k.c.state&(closing|dead|finished) != 0 {
		return
	}
	now, lim := w.e.Clock(), &k.lim
	some := func() time.Duration { return time.Duration(r.Int64N(int64(time.Microsecond) << r.IntN(19))) }
	switch r.IntN(12) {
	case 0, 1:
		k.setTimer(some())
	case 2:
		if n := len(lim.timers); n > 0 {
			t := lim.timers[r.IntN(n)]
			if t.t.Stop() == t.over {
				w.e.Violate("Stop of a timer that was over: %v", t.over)
			}
			t.over = true
		}
	case 3:
		if n := len(lim.timers); n > 0 {
			t, d := lim.timers[r.IntN(n)], some()
			due := w.e.Clock() + d
			// One may set itself again while it runs.
			if can := !t.over || t == w.clocks.firing; t.t.Reset(d) != can {
				w.e.Violate("Reset of a timer that was over: %v", t.over)
			} else if can {
				t.due, t.over = due, false
			}
		}
	case 4:
		lim.read = some()
		k.c.SetReadTimeout(lim.read)
		lim.lastIn = now
	case 5:
		lim.read, lim.idle, lim.anyWrite, lim.readBy = 0, 0, false, 0
		k.c.SetReadTimeout(0)
		k.c.SetIdleTimeout(0)
		k.c.SetWriteTimeout(0)
		k.c.SetDeadline(time.Time{})
	case 6:
		lim.idle = some()
		k.c.SetIdleTimeout(lim.idle)
		lim.lastIn = now
	case 7:
		lim.anyWrite = true
		k.c.SetWriteTimeout(some())
	case 8:
		// SetReadDeadline, without the wall clock, which is no part of a world.
		if g := k.c.limited(); g != nil {
			lim.readBy = w.e.Clock() + some()
			g.readBy = max(1, int64(lim.readBy))
			w.l.watch(g)
		}
	}
	w.overdue()
}

// setTimer sets one more timer of the connection, or of its loop.
func (k *simConn) setTimer(d time.Duration) {
	w := k.w
	t := &simTimer{k: k, due: w.e.Clock() + d}
	if w.clocks.r.IntN(5) == 0 {
		t.k = nil
		t.t = k.c.LoopAfterFunc(d, func() { w.fire(t, k) })
		return
	}
	t.t = k.c.AfterFunc(d, func(c *Conn) {
		if c != k.c {
			w.e.Violate("a timer of connection %d fires for another", k.n)
		}
		w.fire(t, k)
	})
	if t.t == (Timer{}) {
		return // it is closing, which the handler has yet to hear
	}
	k.lim.timers = append(k.lim.timers, t)
}

// timerSlack is how late a timer may be in a world, beyond its tick: a turn, in which
// calls take their microseconds.
const timerSlack = 20 * time.Millisecond

// fire is what a timer does.
func (w *world) fire(t *simTimer, k *simConn) {
	now := w.e.Clock()
	w.clocks.fired++
	w.e.Note("a timer fires, due at %v", t.due)
	switch {
	case t.over:
		w.e.Violate("a timer fires that is over")
	case now < t.due:
		w.e.Violate("a timer fires %v early", t.due-now)
	case now > t.due+tick+timerSlack:
		w.e.Violate("a timer fires %v late", now-t.due)
	case w.running != nil:
		w.e.Violate("a timer fires within a callback")
	}
	if at := t.t.t.at; at < w.clocks.lastAt {
		w.e.Violate("a timer for tick %d fires behind one for %d", at, w.clocks.lastAt)
	} else {
		w.clocks.lastAt = at
	}
	t.over = true
	panics := w.clocks.r.IntN(40) == 0
	if t.k == nil {
		if panics {
			w.panics++
			panic("the world's function on the loop panics")
		}
		return
	}
	if k.closed || k.closing || k.c.state&(closing|dead|finished) != 0 {
		w.e.Violate("a timer of connection %d fires after its end", k.n)
		return
	}
	w.running, w.clocks.firing = k.c, t
	defer func() {
		w.leave()
		w.clocks.firing = nil
	}()
	if w.clocks.r.IntN(4) == 0 {
		d := time.Duration(w.clocks.r.IntN(3000)) * time.Microsecond
		t.due, t.over = w.e.Clock()+d, false
		if !t.t.Reset(d) {
			w.e.Violate("a timer that is running cannot be set again")
		}
	}
	switch w.clocks.r.IntN(12) {
	case 0:
		k.close()
	case 1:
		k.abort(errSimAbort)
	case 2:
		k.write(100)
	case 3:
		k.meddle()
	}
	k.wind()
	if panics && !k.closed {
		k.closing, k.aborted = true, true
		w.panics++
		panic("the world's timer panics")
	}
}

// came notes that bytes came, which had to be in time.
func (k *simConn) came() {
	k.lim.lastIn = k.w.e.Clock()
}

// timedOut reports that a connection ended by a timeout, and holds that to the rules.
func (k *simConn) timedOut(err error) bool {
	var op *OpError
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &op) {
		return false
	}
	lim, now := &k.lim, k.w.e.Clock()
	// What the handler was lent was there when its turn began.
	silent := now - lim.lastIn + time.Duration(k.w.l.stats.LongestTurn)
	switch {
	case op.Op == "idle" && (lim.idle == 0 || silent < lim.idle):
		k.w.e.Violate("connection %d is taken for idle after %v, its timeout is %v", k.n, silent, lim.idle)
	case op.Op == "write" && (!lim.anyWrite || k.c.Buffered() == 0 && k.wrote == 0 && k.c.state&layered == 0):
		k.w.e.Violate("connection %d times out in writing, and has no timeout, or nothing to write", k.n)
	case op.Op == "read" && (lim.read == 0 || silent < lim.read) && (lim.readBy == 0 || now < lim.readBy):
		k.w.e.Violate("connection %d times out in reading after %v, its timeout is %v, its deadline %v", k.n, silent, lim.read, lim.readBy)
	case op.Op == "read" && k.paused && !lim.pausedLate:
		k.w.e.Violate("connection %d times out in reading, which is paused", k.n)
	}
	return true
}

// overdue looks for connections that should have timed out, and have not.
func (w *world) overdue() {
	if w.clocks.r == nil {
		return
	}
	now := w.l.now
	w.l.table.each(func(c *Conn) {
		g := c.timing
		if g == nil || c.state&(dead|finished) != 0 {
			return
		}
		due, what := g.next()
		switch what {
		case readTimeout, idleTimeout, writeTimeout, closeTimeout:
			if now > due+int64(tick+timerSlack) {
				w.e.Violate("limit %d of a connection is %v overdue: timer set %v for tick %d", what, time.Duration(now-due), g.set, g.at)
			}
			if !g.set && c.state&isDirty == 0 && w.running == nil {
				w.e.Violate("limit %d of a connection is watched by no timer", what)
			}
		}
	})
}
