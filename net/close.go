//go:build linux

package net

import (
	"io"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// A connection ends in this order, whatever the cause; each step waits for the
// one before:
//
//	closing   nothing is read any more; what was written goes out
//	dead      shutdown(2) or cancel ends the operations in flight
//	(none in flight)
//	finished  OnClose, then close(2), then the slot is free
//
// close(2) cancels nothing, and the kernel may write into our memory until an
// operation's last completion: hence the order.

// settle does what a connection needs now, given what is so. It is called when
// something about it has changed and may be called at any time.
func (l *loop) settle(c *Conn) {
	if c.state&finished != 0 {
		return
	}
	if c.state&(full|roomArmed|dead) == full {
		l.armRoom(c) // there was no entry for it, or the poll has ended
	}
	l.startSend(c)
	if c.state&(closing|dead|writeEnding|writeEnded) != 0 {
		if l.end(c); c.state&finished != 0 {
			return
		}
	}
	if c.state&offerPending != 0 && c.state&(paused|closing|dead) == 0 {
		c.state &^= offerPending
		if c.state&hasKept != 0 {
			l.offerKept(c)
			l.mark(c) // for what the handler did
		}
		if c.state&layered != 0 {
			l.unwrapKept(c)
		}
	}
	if c.state&(eofPending|paused|offerPending) == eofPending {
		c.state &^= eofPending
		l.onEOF(c)
	}
	l.read(c)
}

// read keeps the right receive armed, or none.
func (l *loop) read(c *Conn) {
	switch {
	case c.state&dead != 0:
		return
	case c.state&recvArmed != 0:
		if c.state&(noReading&^(closing|sawEOF)|wantBulk) != 0 {
			l.cancel(c, kindRecv)
		}
	case c.state&pollArmed != 0:
		if c.state&wantSmall != 0 {
			l.cancel(c, kindPoll)
			return
		}
		l.receive(c)
	case c.state&(noReading|isStarved) != 0:
	default:
		if c.state&wantBulk != 0 {
			l.toBulk(c)
		} else if c.state&wantSmall != 0 {
			l.toSmall(c)
		}
		if c.state&bulk == 0 {
			l.arm(c, false)
			return
		}
		l.armPoll(c)
		l.receive(c)
	}
}

// end takes a connection through its last steps.
func (l *loop) end(c *Conn) {
	if c.parts() {
		l.part(c)
		return
	}
	if c.out.head == nil && c.state&(sendArmed|layered|dead) == layered && l.sayEnd(c) {
		l.startSend(c)
		return
	}
	if c.out.head == nil && c.state&sendArmed == 0 {
		l.endWrite(c)
		if c.state&closing != 0 || c.state&(writeEnded|sawEOF) == writeEnded|sawEOF && c.stream == nil {
			// Also when both directions have ended, but not if blocking code may have
			// yet to read something.
			c.state |= closing | dead
			c.unref(refClosing)
		}
	}
	if c.state&dead == 0 {
		return
	}
	l.dropOutput(c)
	if c.state&inFlight != 0 || c.seldom().pinned > 0 {
		if c.seldom().cutOff && c.rare.notices > 0 {
			// The memory is free when the peer has acknowledged it, or now.
			c.rare.cutOff = false
			_ = l.r.Disconnect(int(c.fd)) // ENOTCONN: so it was
		}
		if c.state&shut == 0 {
			// Completes an armed receive with 0.
			c.state |= shut
			if l.r.Shutdown(int(c.fd), unix.SHUT_RDWR) != 0 {
				c.unsure = true
			}
		}
		if c.state&recvArmed != 0 && c.unsure {
			l.cancel(c, kindRecv) // it may forget this as well, behind bytes, or was not told
		}
		if c.state&pollArmed != 0 {
			l.cancel(c, kindPoll) // a multishot poll outlives a hang-up
		}
		if c.state&roomArmed != 0 {
			l.cancel(c, kindRoom)
		}
		return
	}
	if c.cancels == 0 {
		l.finish(c)
	}
}

// endWrite ends our direction, if that is wanted. Nothing may be left to be sent.
func (l *loop) endWrite(c *Conn) {
	if c.state&(writeEnding|writeEnded) == writeEnding {
		c.state = c.state&^writeEnding | writeEnded
		_ = l.r.Shutdown(int(c.fd), unix.SHUT_WR) // ENOTCONN: the peer has gone, which a receive tells
	}
}

// cancel ends an armed receive or poll; it is over with its own last completion.
func (l *loop) cancel(c *Conn, k kind) {
	busy, own := cancelling, kindCancel
	if k == kindRoom {
		busy, own = leaving, kindCancelRoom
	}
	if c.state&busy != 0 {
		return
	}
	e := l.entry()
	if e == nil {
		l.later(c)
		return
	}
	e.PrepareCancel(userData(k, c.gen, c.slot))
	e.SetUserData(userData(own, c.gen, c.slot))
	c.state |= busy
	c.cancels++
	l.inFlight++
}

// onCancel takes the completion of a cancel. ENOENT and EALREADY are ordinary: the
// operation has ended, or is running and could not be stopped just then. In the
// second case it may be armed still, so settle may try again. Only that one: were
// the other one's cancel sent again as well, each failure would make two more.
func (l *loop) onCancel(c *Conn, cqe *ring.Completion, busy state) {
	c.cancels--
	l.inFlight--
	if cqe.Res < 0 {
		c.state &^= busy
	}
	l.settle(c)
}

// close is Conn.Close, with a cause.
func (l *loop) close(c *Conn, cause error) {
	if c.state&(closing|dead|finished) != 0 {
		return
	}
	if c.cause == nil {
		c.cause = cause
	}
	c.state |= closing
	c.unref(refClosing)
	c.forget()
	l.dropTimers(c)
	if c.state&layered != 0 {
		l.sayEnd(c)
	}
	if c.out.head != nil || c.seldom().notices > 0 {
		l.lingers(c)
	}
	if c.stream != nil {
		c.stream.end()
	}
	l.mark(c)
}

// abort is Conn.Abort.
func (l *loop) abort(c *Conn, cause error) {
	if c.state&finished != 0 {
		return
	}
	if c.seldom().notices > 0 {
		c.rare.cutOff = true
	}
	if c.state&dead != 0 {
		if c.seldom().notices > 0 {
			l.mark(c)
		}
		return
	}
	if c.cause == nil {
		c.cause = cause
	}
	c.state |= closing | dead
	c.unref(refClosing)
	c.forget()
	l.dropTimers(c)
	if c.stream != nil {
		c.stream.end()
	}
	l.mark(c)
}

// finish is the last step: nothing of c is in flight.
func (l *loop) finish(c *Conn) {
	l.settleOwing() // before OnClose, the last that is heard of c
	c.state |= finished
	c.unref(refEnded)
	c.forget()
	l.stats.Closed++
	if c.cause == nil && c.state&sawEOF != 0 {
		c.cause = io.EOF // the peer was first to end, and nothing else went wrong
	}
	l.finishing = c
	l.call(c, func() { c.h.OnClose(c, c.cause) })
	l.release(c)
}

// release frees what c has, after OnClose has returned or panicked.
func (l *loop) release(c *Conn) {
	l.finishing = nil
	l.dropTiming(c)
	l.dropDirect(c)
	if c.seldom().parting != nil {
		l.pass(c)
	} else {
		_ = l.r.CloseFd(int(c.fd)) // no error of close(2) on a socket can be acted upon
	}
	l.table.remove(c)
	c.context = nil
	if c.seldom().anchor != nil {
		c.rare.anchor.c = nil
	}
	if c.accepted {
		l.left()
	}
	if l.heavy() {
		l.unload()
	}
	if l.acceptPaused {
		l.acceptAt = 0 // a descriptor is free
	}
}

// untilExpiry is how long the loop may sleep; negative: for ever.
func (l *loop) untilExpiry() time.Duration {
	at, ok := l.untilTimer()
	if l.acceptPaused && (!ok || l.acceptAt < at) {
		at, ok = l.acceptAt, true
	}
	if next := l.dials.next; next != 0 && (!ok || next < at) {
		at, ok = next, true
	}
	if c := l.udp.closing; len(c) > 0 && (!ok || c[0].deadline < at) {
		at, ok = c[0].deadline, true
	}
	if !ok {
		return -1
	}
	return max(0, time.Duration(at-l.clock()))
}
