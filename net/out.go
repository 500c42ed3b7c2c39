//go:build linux

package net

import (
	"syscall"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bufring"
	"example.com/ringnet/ring"
)

// outQueue is what a connection has to send, in order. At most one send is in
// flight; it covers segments from the head on, which are then sealed.
//
//	head ─► [sealed] ─► [sealed] ─► [open] ◄─ tail
//	         └── in flight ──┘
type outQueue struct {
	head, tail *segment
	bytes      int          // of all segments
	message    ring.Message // the vector of the send in flight; zero if it has none
}

// segment is one piece of output. It owns its lease.
type segment struct {
	next   *segment
	lease  bufring.Lease // what of it is still to be sent
	copied bool          // the buffer is ours alone: a later Write may add to it
	sealed bool          // part of a send in flight
}

// eagerBytes is from how many waiting bytes on a connection's output is offered to
// the kernel at once, by a direct call, and not with the batch: a send that waits
// for the end of a batch leaves the peer idle, and for this many bytes the copy
// costs far more than the call.
const eagerBytes = 16 << 10

// write queues a copy of b.
func (l *loop) write(c *Conn, b []byte) {
	l.mark(c)
	// A large piece with nothing before it goes straight from the caller's
	// memory; only what the kernel did not take is copied.
	if len(b) >= eagerBytes && c.out.head == nil && c.state&sendArmed == 0 {
		n, errno := l.r.Send(int(c.fd), b)
		if errno == 0 {
			l.stats.DirectSends++
			l.stats.BytesSent += uint64(n)
			b = b[n:]
		} else if errno != unix.EAGAIN && errno != unix.EINTR {
			// Told to the handler by OnClose, as every failed send is.
			l.fail(c, "write", errno)
			return
		}
	}
	if t := c.out.tail; t != nil && t.copied && !t.sealed {
		var n int
		t.lease, n = t.lease.Append(b)
		c.out.bytes += n
		b = b[n:]
	}
	for len(b) > 0 {
		lease, n := l.copyBuffer(len(b)).Slice(0, 0).Append(b)
		l.enqueue(c, lease, true)
		b = b[n:]
	}
	l.checkHigh(c)
}

// copyBuffer leases memory for n bytes, or for the first part of them.
func (l *loop) copyBuffer(n int) bufring.Lease {
	for i, p := range l.copies {
		if n <= p.BufBytes() || i == len(l.copies)-1 {
			if lease, err := p.Lease(); err == nil {
				return lease
			}
		}
	}
	l.stats.HeapBuffers++
	return bufring.Wrap(make([]byte, min(n, l.large.BufBytes())))
}

// send queues a lease, and owns it.
func (l *loop) send(c *Conn, lease bufring.Lease) {
	if lease.Len() == 0 {
		lease.Release()
		return
	}
	l.mark(c)
	if c.state&sendArmed != 0 && l.group.Owns(lease) && l.group.Available() < l.group.Count()/2 {
		// It has to wait behind a send in flight, for as long as the peer likes,
		// while receive buffers run low: others must not wait with it.
		l.write(c, lease.Bytes())
		l.put(lease)
		return
	}
	l.enqueue(c, lease, false)
	l.checkHigh(c)
}

func (l *loop) enqueue(c *Conn, lease bufring.Lease, copied bool) {
	s := l.freeSegments
	if s == nil {
		s = new(segment)
	} else {
		l.freeSegments = s.next
	}
	*s = segment{lease: lease, copied: copied}
	if c.out.tail == nil {
		c.out.head = s
	} else {
		c.out.tail.next = s
	}
	c.out.tail = s
	c.out.bytes += lease.Len()
}

// dequeue takes the first segment off and gives its memory back.
func (l *loop) dequeue(c *Conn) {
	s := c.out.head
	c.out.head = s.next
	if c.out.head == nil {
		c.out.tail = nil
	}
	c.out.bytes -= s.lease.Len()
	l.put(s.lease)
	*s = segment{next: l.freeSegments}
	l.freeSegments = s
}

// put gives a lease back on the loop's goroutine.
func (l *loop) put(lease bufring.Lease) {
	if l.group.Owns(lease) {
		l.group.Put(lease)
		return
	}
	for _, p := range l.copies {
		if p.Owns(lease) {
			p.Put(lease)
			return
		}
	}
	lease.Release() // of another loop, or of the heap
}

// sent takes n sent bytes off the front of the queue.
func (l *loop) sent(c *Conn, n int) {
	l.stats.BytesSent += uint64(n)
	for n > 0 && c.out.head != nil {
		s := c.out.head
		have := s.lease.Len()
		if n < have {
			s.lease = s.lease.Slice(n, have)
			c.out.bytes -= n
			return
		}
		n -= have
		l.dequeue(c)
	}
}

// startSend puts what waits on the wire, if nothing is in flight.
func (l *loop) startSend(c *Conn) {
	if c.out.head == nil || c.state&(sendArmed|dead) != 0 {
		return
	}
	blocked := false
	if c.state&bulk != 0 || c.out.bytes >= eagerBytes {
		blocked = l.sendDirect(c)
		if l.checkLow(c); c.out.head == nil || c.state&dead != 0 {
			return
		}
	}
	e := l.entry()
	if e == nil {
		l.later(c)
		return
	}
	s := c.out.head
	if s.next == nil {
		e.PrepareSend(int(c.fd), s.lease.Bytes(), unix.MSG_WAITALL|unix.MSG_NOSIGNAL)
		s.sealed = true
		l.queuedBytes += s.lease.Len()
	} else {
		m := l.message()
		for ; s != nil && m.Append(s.lease.Bytes()); s = s.next {
			s.sealed = true
			l.queuedBytes += s.lease.Len()
		}
		c.out.message = m
		e.PrepareSendmsg(int(c.fd), m, unix.MSG_WAITALL|unix.MSG_NOSIGNAL)
	}
	if blocked {
		e.PollFirst() // the socket was full a moment ago
	}
	e.SetUserData(userData(kindSend, c.gen, c.slot))
	c.state |= sendArmed
	l.inFlight++
	l.queuedSends++
}

// sendDirect sends what the kernel takes at once, and reports that the socket's
// buffer is full.
func (l *loop) sendDirect(c *Conn) (full bool) {
	for c.out.head != nil {
		s := c.out.head
		want := s.lease.Len()
		var n int
		var errno syscall.Errno
		if s.next == nil {
			n, errno = l.r.Send(int(c.fd), s.lease.Bytes())
		} else {
			m := l.message()
			for want = 0; s != nil && m.Append(s.lease.Bytes()); s = s.next {
				want += s.lease.Len()
			}
			n, errno = l.r.SendMessage(int(c.fd), m)
			l.messages = append(l.messages, m)
		}
		switch errno {
		case 0:
			l.stats.DirectSends++
			l.sent(c, n)
			if n < want {
				return true
			}
		case unix.EINTR:
		case unix.EAGAIN:
			return true
		default:
			l.fail(c, "write", errno)
			return false
		}
	}
	return false
}

// message takes a vector from the loop's supply.
func (l *loop) message() ring.Message {
	n := len(l.messages)
	if n == 0 {
		return l.moreMessages()
	}
	m := l.messages[n-1]
	l.messages = l.messages[:n-1]
	m.Reset()
	return m
}

// moreMessages maps another page of vectors. There are never more than sends in
// flight, that is, connections.
func (l *loop) moreMessages() ring.Message {
	mem, err := ring.Map(64 << 10)
	if err != nil {
		panic(err) // the process is out of address space
	}
	l.messageMem = append(l.messageMem, mem)
	ms, err := ring.Messages(mem)
	if err != nil {
		panic(err) // 64 KiB hold some
	}
	l.messages = append(l.messages, ms...)
	return l.message()
}

// onSend takes the completion of a send.
func (l *loop) onSend(c *Conn, cqe *ring.Completion) {
	c.state &^= sendArmed
	l.inFlight--
	if m := c.out.message; m != (ring.Message{}) {
		l.messages = append(l.messages, m)
		c.out.message = ring.Message{}
	}
	if cqe.Res >= 0 {
		n := int(cqe.Res)
		l.sent(c, n)
		if s := c.out.head; s != nil && s.sealed {
			// Short in spite of MSG_WAITALL: a signal, or the vector was longer.
			l.stats.ShortSends++
			for ; s != nil && s.sealed; s = s.next {
				s.sealed = false
			}
		}
		l.checkLow(c)
	} else if c.state&dead == 0 {
		switch errno := syscall.Errno(-cqe.Res); errno {
		case unix.EINTR, unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
			// Nothing was sent; try again with the next turn.
			for s := c.out.head; s != nil && s.sealed; s = s.next {
				s.sealed = false
			}
			l.later(c)
			return
		default:
			l.fail(c, "write", errno)
		}
	}
	if c.out.head != nil || c.state&(noReading|writeEnding) != 0 {
		l.settle(c)
	}
}

// checkHigh stops reading from a connection whose output has grown too long.
func (l *loop) checkHigh(c *Conn) {
	if c.out.bytes > l.o.HighWater && c.state&overHigh == 0 {
		c.state |= overHigh
		l.stats.HighWater++
	}
}

// checkLow goes on reading from it.
func (l *loop) checkLow(c *Conn) {
	if c.state&overHigh == 0 || c.out.bytes > l.o.LowWater {
		return
	}
	c.state &^= overHigh
	l.mark(c)
	if l.h.writable != nil && c.state&(closing|dead) == 0 {
		l.call(c, func() { l.h.writable.OnWritable(c) })
	}
}

// dropOutput gives back what will not be sent. The kernel still reads what is in
// flight; that goes with the send's completion.
func (l *loop) dropOutput(c *Conn) {
	if c.state&sendArmed != 0 {
		return
	}
	for c.out.head != nil {
		l.dequeue(c)
	}
}

// fail ends a connection because of an errno.
func (l *loop) fail(c *Conn, op string, errno syscall.Errno) {
	if errno == unix.ECANCELED && c.cause != nil {
		l.abort(c, c.cause)
		return
	}
	l.abort(c, &OpError{Op: op, Addr: c.remote, Err: errno})
}
