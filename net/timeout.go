//go:build linux

package net

import (
	"fmt"
	"math"
	"os"
	"time"
)

// Timeouts and deadlines say when a connection has waited long enough. They all end
// it alike: what has not gone out is dropped, and OnClose is told an *[OpError] that
// matches os.ErrDeadlineExceeded.
//
// Timeouts are measured from the last bytes that moved and start again with each;
// deadlines stand until they are moved. Each may be set anew at any time, also from
// within callbacks; moving one costs a store. They are watched with the precision of
// timers (see [Conn.AfterFunc]), and bytes that have come in time always win, however
// long the loop was kept from reading them.

// SetReadTimeout ends the connection when for d no bytes have come while they were
// wanted: not while reading is paused, output is above Options.HighWater, the handler
// holds too many buffers, none is free, or the peer has ended its direction; after
// each of these the time starts again. Zero or less: never, which is the default
// unless Options.ReadTimeout says otherwise.
func (c *Conn) SetReadTimeout(d time.Duration) {
	if g := c.limited(); g != nil {
		g.readTimeout, g.readAt = max(0, d), c.l.clock()
		c.l.watch(g)
	}
}

// SetWriteTimeout ends the connection when for d output has waited and the peer took
// no bytes, also of those that the kernel holds for it, after Close as well. When the
// peer last took some is known to d, so a connection ends within 2d. Zero or less: never, which is the default unless
// Options.WriteTimeout says otherwise.
func (c *Conn) SetWriteTimeout(d time.Duration) {
	if g := c.limited(); g != nil {
		g.writeTimeout, g.writeAt = max(0, d), c.l.clock()
		c.l.watch(g)
	}
}

// SetIdleTimeout ends the connection when for d no bytes have come or gone, whatever
// the reason, unless they waited for a free receive buffer. Zero or less: never,
// which is the default unless Options.IdleTimeout says otherwise.
func (c *Conn) SetIdleTimeout(d time.Duration) {
	if g := c.limited(); g != nil {
		g.idleTimeout = max(0, d)
		g.readAt = c.l.clock()
		c.l.watch(g)
	}
}

// SetReadDeadline ends the connection at t if bytes are wanted then, as in
// SetReadTimeout, whether or not some have come before: for a whole request, say, of
// which a peer sends a byte now and then. Where they are not wanted at t it ends when
// they are again. The zero time takes the deadline back.
func (c *Conn) SetReadDeadline(t time.Time) {
	if g := c.limited(); g != nil {
		g.readBy = c.l.deadline(t)
		c.l.watch(g)
	}
}

// SetWriteDeadline ends the connection at t if output waits then for the peer to take
// it, or when some has to wait later, also after Close. The zero time takes the
// deadline back.
func (c *Conn) SetWriteDeadline(t time.Time) {
	if g := c.limited(); g != nil {
		g.writeBy = c.l.deadline(t)
		c.l.watch(g)
	}
}

// SetDeadline is SetReadDeadline and SetWriteDeadline in one.
func (c *Conn) SetDeadline(t time.Time) {
	if g := c.limited(); g != nil {
		g.readBy = c.l.deadline(t)
		g.writeBy = g.readBy
		c.l.watch(g)
	}
}

// timing is what a connection has that uses timers or timeouts; most have none. Its
// timer is set for the first thing that may be due. Whoever moves bytes only notes
// when; the timer looks when it fires, and is set again for what is left. So a busy
// connection touches the wheel once per timeout and not once per request.
type timing struct {
	timer
	c *Conn

	readTimeout, writeTimeout, idleTimeout time.Duration // 0: none

	// Times of the loop's clock.
	readAt, writeAt int64 // since when reading, or output, has waited; the last bytes
	readBy, writeBy int64 // deadlines; 0: none
	closeBy         int64 // until when output may wait after Close; 0: for ever

	unsent int        // what the kernel held of what was sent, when output began to wait
	timers *callTimer // those of AfterFunc, the newest first
}

// never is later than any time.
const never = math.MaxInt64

// timingOf is c's timing, which it gets with the first use.
func (l *loop) timingOf(c *Conn) *timing {
	if c.timing != nil {
		return c.timing
	}
	g := new(timing)
	if n := len(l.freeTiming); n > 0 {
		g = l.freeTiming[n-1]
		l.freeTiming = l.freeTiming[:n-1]
	}
	g.owner, g.c = g, c
	g.readAt = l.now
	g.writeAt = l.now
	c.timing = g
	return g
}

// freeTimingMax bounds what is kept for the next connections.
const freeTimingMax = 1024

// dropTiming gives back what c has of timers and timeouts, at its end.
func (l *loop) dropTiming(c *Conn) {
	g := c.timing
	if g == nil {
		return
	}
	l.dropTimers(c)
	l.wheel.remove(&g.timer)
	c.timing = nil
	c.state &^= timed
	*g = timing{}
	if len(l.freeTiming) < freeTimingMax {
		l.freeTiming = append(l.freeTiming, g)
	}
}

// limited is c's timing for a limit to be set in it; nil when c is over.
func (c *Conn) limited() *timing {
	if c.state&(dead|finished) != 0 {
		return nil
	}
	c.state |= timed
	return c.l.timingOf(c)
}

// limit gives a new connection the server's timeouts.
func (l *loop) limit(c *Conn) {
	if l.o.ReadTimeout|l.o.WriteTimeout|l.o.IdleTimeout == 0 {
		return
	}
	g := c.limited()
	g.readTimeout, g.writeTimeout, g.idleTimeout = l.o.ReadTimeout, l.o.WriteTimeout, l.o.IdleTimeout
	l.watch(g)
}

// deadline is a time of the loop's clock; 0 stands for none.
func (l *loop) deadline(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(1, plus(l.clock(), time.Until(t)))
}

// readWanted notes that reading goes on after it was held up.
func (l *loop) readWanted(c *Conn) {
	if c.state&timed != 0 {
		c.timing.readAt = l.clock()
		l.watch(c.timing)
	}
}

// outputMoves notes that bytes have gone, or that output comes where there was none.
func (l *loop) outputMoves(c *Conn) {
	if c.state&timed != 0 {
		c.timing.writeAt = l.now
	}
}

// outputWaits has the timer watch output that waits for the peer. The time counts
// from when the last bytes have gone.
func (l *loop) outputWaits(c *Conn) {
	if c.state&timed != 0 {
		l.drains(c.timing)
		l.watch(c.timing)
	}
}

// drains notes whether the peer has taken any of what the kernel holds, and reports
// that. The kernel says that there is room again only when a third of its buffer is
// free, which can take a slow reader longer than any timeout.
func (l *loop) drains(g *timing) bool {
	n, err := l.r.Unsent(int(g.c.fd))
	less := err == nil && n < g.unsent
	g.unsent = n
	if less {
		g.writeAt = l.now
	}
	return less
}

// lingers gives a closed connection CloseTimeout for what it has yet to send, and
// again for as long as its peer takes some of it.
func (l *loop) lingers(c *Conn) {
	if l.o.CloseTimeout > 0 {
		g := l.timingOf(c)
		c.state |= timed
		g.writeAt = l.clock()
		g.closeBy = plus(g.writeAt, l.o.CloseTimeout)
		l.drains(g)
		l.watch(g)
	}
}

// watch has g's timer set for what may be due first, or sooner.
func (l *loop) watch(g *timing) {
	due, _ := g.next()
	if due == never {
		return
	}
	if at := tickAfter(due); !g.set || at < g.at {
		l.wheel.remove(&g.timer)
		l.wheel.add(&g.timer, at, tickAt(l.now))
	}
}

// limitKind is which of a connection's limits.
type limitKind uint8

const (
	noLimit limitKind = iota
	readTimeout
	writeTimeout
	idleTimeout
	readDeadline
	writeDeadline
	closeTimeout
)

// next is what is due first, as things are, and when.
func (g *timing) next() (due int64, what limitKind) {
	c := g.c
	due = never
	sooner := func(at int64, k limitKind) {
		if at < due {
			due, what = at, k
		}
	}
	if g.closeBy > 0 && (c.state&dead == 0 || c.seldom().notices > 0) {
		sooner(g.closeBy, closeTimeout)
	}
	if c.state&dead != 0 {
		return due, what
	}
	if c.state&(noReading|isStarved) == 0 && (c.stream == nil || !c.stream.readers.empty()) {
		if g.readTimeout > 0 {
			sooner(plus(g.readAt, g.readTimeout), readTimeout)
		}
		if g.readBy > 0 {
			sooner(g.readBy, readDeadline)
		}
	}
	if c.state&full != 0 {
		if g.writeTimeout > 0 {
			sooner(plus(g.writeAt, g.writeTimeout), writeTimeout)
		}
		if g.writeBy > 0 {
			sooner(g.writeBy, writeDeadline)
		}
	}
	if g.idleTimeout > 0 && c.state&isStarved == 0 {
		sooner(plus(max(g.readAt, g.writeAt), g.idleTimeout), idleTimeout)
	}
	return due, what
}

// expired implements expirer: ends the connection, or waits for what is left.
func (g *timing) expired(l *loop) {
	due, what := g.next()
	if due > l.now {
		l.watch(g)
		return
	}
	c := g.c
	if l.count == len(l.batch) && l.now < plus(due, unseenMost) {
		// There may be more completions than this turn had room for, and bytes of
		// c among them.
		l.wheel.add(&g.timer, g.at+1, tickAt(l.now))
		return
	}
	if (what == writeTimeout || what == idleTimeout) && c.state&full != 0 && l.drains(g) {
		l.watch(g)
		return
	}
	var err error
	switch what {
	case readTimeout:
		err = timeoutError(c, "read", "no bytes came for %v", g.readTimeout)
	case writeTimeout:
		err = timeoutError(c, "write", "the peer took no bytes for %v", g.writeTimeout)
	case idleTimeout:
		err = timeoutError(c, "idle", "no bytes came or went for %v", g.idleTimeout)
	case readDeadline:
		err = timeoutError(c, "read", "the deadline has passed")
	case writeDeadline:
		err = timeoutError(c, "write", "the deadline has passed")
	case closeTimeout:
		if c.state&dead == 0 {
			l.drains(g)
			if by := plus(g.writeAt, l.o.CloseTimeout); by > l.now {
				g.closeBy = by
				l.watch(g)
				return
			}
		}
		g.closeBy = 0
		if c.cause == nil {
			c.cause = ErrCloseTimeout // also when all is sent, and only not acknowledged
		}
		l.abort(c, ErrCloseTimeout)
		return
	}
	l.stats.Timeouts++
	l.logConn(c, "a connection has timed out", "err", err)
	l.abort(c, err)
}

// unseenMost bounds how long a timeout waits for completions to be looked at, on a
// loop that has more of them each turn than it can do.
const unseenMost = time.Second

func timeoutError(c *Conn, op, format string, args ...any) error {
	return &OpError{Op: op, Addr: c.remote, Err: fmt.Errorf(format+": %w", append(args, os.ErrDeadlineExceeded)...)}
}
