//go:build linux

package net

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bufring"
	"example.com/ringnet/ring"
)

// arm posts a receive into the loop's group for c. It stays armed until a
// completion without More: end of stream, error, group empty, completion queue
// full, or cancelled. Since Linux 6.0 (ring.RecvMultishot); without it each
// receive is armed anew.
func (l *loop) arm(c *Conn, fresh bool) {
	if l.group.Available() == 0 {
		l.starve(c) // the kernel would answer ENOBUFS at once, and the loop would spin
		return
	}
	e := l.entry()
	if e == nil {
		l.later(c)
		return
	}
	if l.recvMultishot {
		e.PrepareRecvMultishot(int(c.fd), l.group.ID())
	} else {
		e.PrepareRecvSelect(int(c.fd), l.group.ID())
	}
	if fresh {
		e.PollFirst() // a client that has just connected has rarely sent yet
	}
	e.SetUserData(userData(kindRecv, c.gen, c.slot))
	c.state |= recvArmed
	c.unsure = l.untold.any
	l.inFlight++
	l.stats.Arms++
}

// onRecv takes a completion of a receive into the group. The last one may still
// carry bytes, so these come first and the end afterwards.
func (l *loop) onRecv(c *Conn, cqe *ring.Completion) {
	if !cqe.More() {
		c.state &^= recvArmed | cancelling
		l.inFlight--
	}
	if id, ok := cqe.Buffer(); ok {
		lease := l.group.Take(id, int(max(cqe.Res, 0)))
		if cqe.Res > 0 && c.state&(closing|dead|finished) == 0 {
			l.weigh(c, int(cqe.Res), cqe.NonEmpty())
			l.deliver(c, lease)
		} else {
			if cqe.Res > 0 && c.parts() {
				l.keepMore(c, lease.Bytes())
			}
			l.group.Put(lease)
		}
	}
	switch {
	case cqe.Res == 0:
		l.onEnd(c)
	case cqe.Res < 0:
		switch errno := syscall.Errno(-cqe.Res); errno {
		case unix.ENOBUFS:
			l.stats.NoBuffers++
			l.group.Exhausted()
			if l.group.Available() < l.enough() {
				l.starve(c)
			}
		case unix.ECANCELED, unix.EINTR, unix.EAGAIN:
			// Ours, or nothing: settle arms it again if it is still wanted.
		default:
			if c.state&dead == 0 && !l.tellLater(c, errno) {
				l.fail(c, "read", errno)
			}
		}
	case cqe.More() && c.state&(noReading|wantBulk) == 0:
		// The ordinary case: it stays armed and nothing has changed.
		if c.unsure && !cqe.NonEmpty() {
			l.doubt(c)
		}
		return
	}
	l.settle(c)
}

// deliver lends received bytes to the handler, behind what it left of earlier
// ones. It owns the lease.
func (l *loop) deliver(c *Conn, lease bufring.Lease) {
	l.stats.BytesReceived += uint64(lease.Len())
	l.gather.note(c)
	if c.state&timed != 0 {
		c.timing.readAt = l.now
	}
	if c.state&(hasKept|paused|layered) != 0 {
		if c.state&layered != 0 {
			l.unwrap(c, lease)
			return
		}
		c.keep(append(c.seldom().kept, lease.Bytes()...))
		l.put(lease)
		if c.state&paused == 0 {
			l.offerKept(c)
		} else {
			l.checkInput()
		}
		return
	}
	l.lend(c, lease)
}

// lend lends bytes to the handler, in front of which none are kept. It owns the lease.
func (l *loop) lend(c *Conn, lease bufring.Lease) {
	l.lent, l.lentTo = lease, c
	b := lease.Bytes()
	n := l.onData(c, b)
	if l.lentTo == nil {
		return // detached, and thereby consumed
	}
	l.lentTo = nil
	if uint(n) < uint(len(b)) {
		if c.state&(closing|dead) == 0 || c.parts() {
			c.keep(append([]byte(nil), b[n:]...))
			l.checkKept(c)
		}
	} else if n != len(b) {
		l.misconsumed(c, n, len(b))
	}
	l.put(lease)
}

// keep sets what is kept of received bytes.
func (c *Conn) keep(b []byte) {
	if len(b) == 0 && c.rare == nil {
		return
	}
	c.l.holdInput(c, len(b)-len(c.rarely().kept))
	if len(b) == 0 {
		c.rare.kept = nil
		c.state &^= hasKept
		return
	}
	c.rare.kept = b
	c.state |= hasKept
}

// forget drops what was received and not consumed.
func (c *Conn) forget() {
	c.keep(nil)
	if c.state&layered != 0 {
		c.rare.layer.forget()
	}
}

// offerKept offers everything that the handler has not consumed, in one piece.
func (l *loop) offerKept(c *Conn) {
	b := c.rare.kept
	l.lent, l.lentTo = bufring.Lease{}, c
	n := l.onData(c, b)
	if l.lentTo == nil {
		return // detach has taken what was kept
	}
	l.lentTo = nil
	switch {
	case c.state&(closing|dead) != 0 && !c.parts():
		// Nobody will want the rest; close has dropped it.
	case uint(n) <= uint(len(b)):
		c.keep(b[n:])
		l.checkKept(c)
	default:
		l.misconsumed(c, n, len(b))
	}
}

// onData calls the handler. A panic leaves through dispatch, see contain.
func (l *loop) onData(c *Conn, b []byte) int {
	l.calling, l.offering = c, c
	n := c.h.OnData(c, b)
	l.calling, l.offering = nil, nil
	return n
}

func (l *loop) checkKept(c *Conn) {
	if c.parts() {
		return // no more will come, and all of it leaves the loop
	}
	if len(c.seldom().kept) > l.o.MaxUnconsumed {
		l.abort(c, ErrUnconsumed)
	}
	l.checkInput()
}

func (l *loop) misconsumed(c *Conn, n, of int) {
	l.abort(c, fmt.Errorf("ringnet: OnData returned %d for %d bytes: it must return how many it consumed", n, of))
}

// detach is Conn.Detach.
func (l *loop) detach(c *Conn) (bufring.Lease, error) {
	if l.lentTo != c || c == nil {
		return bufring.Lease{}, ErrNoData
	}
	l.lentTo = nil
	if !l.lent.Valid() {
		return l.detachKept(c), nil
	}
	l.group.Charge(l.lent, &c.held)
	if int(c.held) > l.share && c.state&overShare == 0 {
		c.state |= overShare
		l.capped = append(l.capped, c)
		c.state |= isCapped
		l.mark(c)
	}
	return l.lent, nil
}

// detachKept is detach for bytes that were kept.
func (l *loop) detachKept(c *Conn) bufring.Lease {
	lease := bufring.Wrap(c.rare.kept)
	c.keep(nil)
	return lease
}

// onEnd learns that nothing more will come by c's socket.
func (l *loop) onEnd(c *Conn) {
	if c.state&layered != 0 {
		l.unwrapEnd(c)
		return
	}
	l.onEOF(c)
}

// onEOF learns that the peer has ended its direction.
func (l *loop) onEOF(c *Conn) {
	if c.state&(sawEOF|closing|dead) != 0 {
		return // or we have, and this is how the receive ends
	}
	if c.state&paused != 0 {
		// Bytes may be withheld, and the end comes after them.
		c.state |= eofPending
		return
	}
	c.state |= sawEOF
	if c.h.eof == nil {
		l.close(c, nil)
		return
	}
	l.call(c, func() { c.h.eof.OnEOF(c) })
}

// starve parks c until receive buffers are back. First come, first served.
func (l *loop) starve(c *Conn) {
	if c.state&isStarved == 0 {
		c.state |= isStarved
		l.starved = append(l.starved, c)
		l.stats.Starved++
		l.logStarved()
	}
}

// feed arms parked connections once a good part of the group is back: one at a
// time they would only take turns at ENOBUFS.
func (l *loop) feed() {
	if len(l.starved) == 0 {
		return
	}
	l.group.Reclaim()
	if l.group.Available() < l.enough() {
		// Buffers may be with other goroutines: have the next one to come back
		// wake us, and look again since it may have come just now.
		l.group.Await()
		l.group.Reclaim()
		if l.group.Available() < l.enough() {
			return
		}
	}
	n := min(len(l.starved), max(1, l.group.Available()))
	batch := append([]*Conn(nil), l.starved[:n]...)
	l.starved = append(l.starved[:0], l.starved[n:]...)
	for _, c := range batch {
		c.state &^= isStarved
		l.readWanted(c)
	}
	l.settleEach(batch)
}

// enough is how many buffers must be available before parked connections go on: a
// quarter of the group, since with less most of them would park again at once.
func (l *loop) enough() int { return (l.group.Count() + 3) / 4 }

// uncap lets connections read again that have given back half of their share.
func (l *loop) uncap() {
	if len(l.capped) == 0 {
		return
	}
	// The buffers may be with other goroutines: have the next one to come back
	// wake us.
	l.group.Await()
	l.group.Reclaim()
	kept := l.capped[:0]
	for _, c := range l.capped {
		if c.state&finished != 0 {
			c.state &^= isCapped
			continue
		}
		if int(c.held) > l.share/2 {
			kept = append(kept, c)
			continue
		}
		c.state &^= isCapped | overShare
		l.readWanted(c)
		l.mark(c)
	}
	clear(l.capped[len(kept):])
	l.capped = kept
}
