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

// segment is one piece of output. It owns its lease, if mem lies in one; other
// memory is kept reachable by mem itself.
type segment struct {
	next    *segment
	mem     []byte        // what of it is still to be sent
	lease   bufring.Lease // whose bytes mem is; the zero lease: of somebody else
	owner   owner         // who is told when the memory is no longer needed
	file    *transfer     // it is a range of a file, and mem what was read of it
	copied  bool          // the buffer is ours alone: a later Write may add to it
	sealed  bool          // part of a send in flight
	unready bool          // cannot go out as it is: it is a file's, or its connection's session has yet to have it
	waited  bool          // a fiber waits for its memory, which must not depend on the peer: no zero copy
	gone    bool          // off the queue, and kept only for pins
	pins    int32         // zero-copy sends that have not told that they are done with mem
}

// owner is told that a segment's memory is no longer needed: err is nil when all
// of it was sent.
type owner interface {
	released(l *loop, c *Conn, err error)
}

// doneFunc is an owner that wants to be called.
type doneFunc func(error)

func (f doneFunc) released(l *loop, c *Conn, err error) { l.owe(c, f, err) }

// owed is a call to somebody whose memory or file has come free.
type owed struct {
	c   *Conn
	f   func(error)
	err error
}

// owe has f called after what is under way.
func (l *loop) owe(c *Conn, f func(error), err error) { l.owing = append(l.owing, owed{c, f, err}) }

// settleOwing makes the calls that are owed.
func (l *loop) settleOwing() {
	for len(l.owing) > 0 {
		o := l.owing[0]
		l.owing = append(l.owing[:0], l.owing[1:]...)
		l.call(o.c, func() { o.f(o.err) })
	}
}

// eagerBytes is from how many waiting bytes on a connection's output is offered to
// the kernel at once, by a direct call, and not with the batch: a send that waits
// for the end of a batch leaves the peer idle, and for this many bytes the copy
// costs far more than the call.
const eagerBytes = 16 << 10

// write sends a copy of b.
func (l *loop) write(c *Conn, b []byte) {
	if c.state&layered != 0 {
		l.writeLayered(c, b)
		return
	}
	l.writeRaw(c, b)
}

// writeRaw queues a copy of b.
func (l *loop) writeRaw(c *Conn, b []byte) {
	l.mark(c)
	// A large piece with nothing before it goes straight from the caller's
	// memory; only what the kernel did not take is copied.
	if len(b) >= eagerBytes && c.out.head == nil && c.state&(sendArmed|full) == 0 {
		n, errno := l.r.Send(int(c.fd), b, 0)
		if errno == 0 {
			l.stats.DirectSends++
			l.sent(c, n)
			b = b[n:]
		} else if errno != unix.EAGAIN && errno != unix.EINTR {
			// Told to the handler by OnClose, as every failed send is.
			l.fail(c, "write", errno)
			return
		}
	}
	if t := c.out.tail; t != nil && t.copied && !t.sealed {
		n := t.append(b)
		c.out.bytes += n
		l.hold(t, n)
		b = b[n:]
	}
	for len(b) > 0 {
		b = b[l.enqueueCopy(c, b):]
	}
	l.checkHigh(c)
}

// enqueueCopy queues a copy of b, or of the first part of it, and returns how much
// that was.
func (l *loop) enqueueCopy(c *Conn, b []byte) (n int) {
	s := l.newSegment()
	s.lease, n = l.copyBuffer(len(b)).Slice(0, 0).Append(b)
	s.mem, s.copied = s.lease.Bytes(), true
	l.link(c, s)
	return n
}

// scarce reports that half of the receive buffers are out.
func (l *loop) scarce() bool { return l.group.Available() < l.group.Count()/2 }

// unlend replaces what c's output holds of scarce receive buffers by copies,
// before it begins to wait for the peer. Nothing of it may be in flight.
func (l *loop) unlend(c *Conn) {
	for s := c.out.head; s != nil && l.scarce(); s = s.next {
		if !l.group.Owns(s.lease) || s.pins > 0 {
			continue
		}
		lease, n := l.copyBuffer(len(s.mem)).Slice(0, 0).Append(s.mem)
		if n < len(s.mem) { // larger than any of our buffers
			l.put(lease)
			l.stats.HeapBuffers++
			lease = bufring.Wrap(append([]byte(nil), s.mem...))
		}
		l.put(s.lease)
		s.mem, s.lease, s.copied = lease.Bytes(), lease, true
	}
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
	if c.state&(sendArmed|full) != 0 && c.state&layered == 0 && l.group.Owns(lease) && l.scarce() {
		// It has to wait, for as long as the peer likes: others must not wait
		// with it for receive buffers.
		l.writeRaw(c, lease.Bytes())
		l.put(lease)
		return
	}
	l.sendSegment(c, segment{mem: lease.Bytes(), lease: lease})
}

// sendSegment sends memory, and lets go of it afterwards.
func (l *loop) sendSegment(c *Conn, s segment) {
	if c.seals() {
		l.seal(c, s.mem)
		l.letGo(c, &s, nil)
		return
	}
	l.mark(c)
	l.enqueueUnsealed(c, s)
	l.checkHigh(c)
}

// append copies what it can of b behind a copied segment.
func (s *segment) append(b []byte) (n int) {
	s.lease, n = s.lease.Append(b)
	s.mem = s.mem[:len(s.mem)+n]
	return n
}

// enqueue puts a segment at the end of c's output.
func (l *loop) enqueue(c *Conn, what segment) {
	s := l.newSegment()
	*s = what
	l.link(c, s)
}

// newSegment is an empty one.
func (l *loop) newSegment() *segment {
	s := l.freeSegments
	if s == nil {
		return new(segment)
	}
	l.freeSegments, s.next = s.next, nil
	return s
}

// link puts s at the end of c's output.
func (l *loop) link(c *Conn, s *segment) {
	if c.out.tail == nil {
		c.out.head = s
		l.outputMoves(c)
	} else {
		c.out.tail.next = s
	}
	c.out.tail = s
	if s.file == nil {
		c.out.bytes += len(s.mem)
		l.hold(s, len(s.mem))
	}
}

// dequeue takes the first segment off, sent or given up, and gives its memory back,
// unless the kernel may still read it.
func (l *loop) dequeue(c *Conn, err error) {
	s := c.out.head
	c.out.head = s.next
	if c.out.head == nil {
		c.out.tail = nil
	}
	if s.file == nil {
		c.out.bytes -= len(s.mem)
		l.hold(s, -len(s.mem))
	}
	if s.pins > 0 {
		s.gone = true
		return
	}
	l.freeSegment(c, s, err)
}

func (l *loop) freeSegment(c *Conn, s *segment, err error) {
	l.letGo(c, s, err)
	*s = segment{next: l.freeSegments}
	l.freeSegments = s
}

// letGo gives the memory of a segment back.
func (l *loop) letGo(c *Conn, s *segment, err error) {
	if s.unready && c.state&layered != 0 {
		c.rare.layer.unsealed--
	}
	l.put(s.lease)
	if s.owner != nil {
		s.owner.released(l, c, err)
	} else if s.file != nil {
		s.file.released(l, c, err)
	}
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
	l.outputMoves(c)
	for n > 0 && c.out.head != nil {
		s := c.out.head
		have := len(s.mem)
		if n < have {
			s.mem = s.mem[n:]
			c.out.bytes -= n
			l.hold(s, -n)
			return
		}
		n -= have
		c.out.bytes -= have
		l.hold(s, -have)
		s.mem = s.mem[have:]
		l.dequeue(c, nil)
	}
}

// sendFlags are those of every send. Not MSG_WAITALL, and MSG_DONTWAIT: a send
// completes where it is submitted, whole, short or with EAGAIN, and never waits in
// the kernel. For a send that waits there is polled for with POLLRDHUP always in
// the mask (IO_POLL_UNMASK in io_uring/poll.c), so once the peer has ended its
// direction it is found ready again and again, tried 128 times (APOLL_MAX_RETRY),
// and then blocks one of the ring's kernel worker threads, and other sends behind
// it. What does not go out waits for room here instead.
const sendFlags = unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL

// startSend puts what waits on the wire, if nothing is in flight.
func (l *loop) startSend(c *Conn) {
	if c.out.head == nil || c.state&(sendArmed|full|dead) != 0 {
		return
	}
	if c.out.head.unready && !l.makeReady(c) {
		return
	}
	if c.out.bytes >= l.zeroCopyFrom && l.sendZeroCopy(c) {
		return
	}
	if c.state&(bulk|roomArmed) != 0 || c.out.bytes >= eagerBytes {
		l.sendDirect(c)
		l.checkLow(c)
		return
	}
	e := l.entry()
	if e == nil {
		l.later(c)
		return
	}
	fd := int(c.fd)
	if c.state&direct != 0 {
		fd = int(c.slot)
	}
	s := c.out.head
	if s.next == nil {
		e.PrepareSend(fd, s.mem, sendFlags)
		s.sealed = true
		l.queuedBytes += len(s.mem)
	} else {
		m := l.message()
		for ; s != nil && !s.unready && m.Append(s.mem); s = s.next {
			s.sealed = true
			l.queuedBytes += len(s.mem)
		}
		c.out.message = m
		e.PrepareSendmsg(fd, m, sendFlags|before(s))
	}
	if c.state&direct != 0 {
		e.UseDirect()
	} else if c.runs++; c.runs >= directEnter {
		l.makeDirect(c)
	}
	e.SetUserData(userData(kindSend, c.gen, c.slot))
	c.state |= sendArmed
	l.inFlight++
	l.queuedSends++
}

// makeReady sees to what is at the head of c's output and cannot go out as it is. It
// reports whether something can go out now.
func (l *loop) makeReady(c *Conn) bool {
	for s := c.out.head; s != nil && s.unready; s = c.out.head {
		if s.file != nil {
			l.sendFileLater(c)
			return false
		}
		l.sealAhead(c)
		if c.state&(full|dead) != 0 {
			return false
		}
	}
	return c.out.head != nil
}

// before is a flag of a send that is followed by s: the file that an answer's head
// is followed by shall fill up its packet.
func before(s *segment) int {
	if s != nil && s.file != nil {
		return unix.MSG_MORE
	}
	return 0
}

// A connection that is used has its socket in the ring's table of direct
// descriptors as well, at the place of its slot: the kernel then need not look the
// descriptor up and count a reference for each send. That spares 75 of some 5,500
// ns a request; putting it there and taking it out costs a call each, so it
// happens with the send that shows the connection to be busy.
const (
	directEnter = 32
	directCount = 4096 // places; connections with a higher slot go without
)

func (l *loop) makeDirect(c *Conn) {
	c.runs = 0
	l.place[0] = c.fd
	if c.slot < l.directs && l.r.UpdateFiles(c.slot, l.place[:]) == nil {
		c.state |= direct
		l.stats.ToDirect++
	}
}

// dropDirect takes c's socket out of the table, which would keep it open.
func (l *loop) dropDirect(c *Conn) {
	if c.state&direct == 0 {
		return
	}
	c.state &^= direct
	l.place[0] = -1
	if l.r.UpdateFiles(c.slot, l.place[:]) != nil {
		// The kernel found no memory to do it. The socket stays until the next
		// connection takes the place; its peer need not wait for that.
		_ = l.r.Shutdown(int(c.fd), unix.SHUT_RDWR)
	}
}

// awaitRoom has the room poll tell when the socket takes something again. It is
// armed when a connection is first in want of it and then stays, edge-triggered.
func (l *loop) awaitRoom(c *Conn) {
	c.state |= full
	l.outputWaits(c)
	l.unlend(c)
	l.armRoom(c)
}

func (l *loop) armRoom(c *Conn) {
	if c.state&roomArmed != 0 {
		return
	}
	e := l.entry()
	if e == nil {
		l.later(c)
		return
	}
	// Multishot also where that is masked: a single poll would complete at once,
	// and for ever, after the peer has ended its direction.
	e.PreparePollMultishot(int(c.fd), unix.POLLOUT)
	e.SetUserData(userData(kindRoom, c.gen, c.slot))
	c.state |= roomArmed
	l.inFlight++
	l.stats.Arms++
}

// onRoom takes a completion of the room poll.
func (l *loop) onRoom(c *Conn, cqe *ring.Completion) {
	if !cqe.More() {
		c.state &^= roomArmed | leaving
		l.inFlight--
	}
	if cqe.Res < 0 || cqe.Res&(unix.POLLOUT|unix.POLLERR|unix.POLLHUP) != 0 {
		c.state &^= full // a failed poll is answered by trying again
	}
	l.settle(c)
}

// sendDirect sends what the kernel takes at once, and waits for room for the rest.
func (l *loop) sendDirect(c *Conn) {
	for c.out.head != nil {
		if c.out.head.unready && !l.makeReady(c) {
			return
		}
		s := c.out.head
		want := len(s.mem)
		var n int
		var errno syscall.Errno
		if s.next == nil {
			n, errno = l.r.Send(int(c.fd), s.mem, 0)
		} else {
			m := l.message()
			for want = 0; s != nil && !s.unready && m.Append(s.mem); s = s.next {
				want += len(s.mem)
			}
			n, errno = l.r.SendMessage(int(c.fd), m, before(s))
			l.messages = append(l.messages, m)
		}
		switch errno {
		case 0:
			l.stats.DirectSends++
			if l.sent(c, n); n < want {
				l.stats.ShortSends++
				l.awaitRoom(c)
				return
			}
		case unix.EINTR:
		case unix.EAGAIN:
			l.awaitRoom(c)
			return
		default:
			l.fail(c, "write", errno)
			return
		}
	}
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
	l.sendDone(c, int(cqe.Res))
}

// sendDone takes the result of a send.
func (l *loop) sendDone(c *Conn, res int) {
	if res > 0 {
		l.sent(c, res)
	}
	if s := c.out.head; s != nil && s.sealed {
		// It was not all sent.
		for ; s != nil && s.sealed; s = s.next {
			s.sealed = false
		}
		switch errno := syscall.Errno(max(0, -res)); {
		case c.state&dead != 0:
		case errno == 0 || errno == unix.EAGAIN:
			l.stats.ShortSends++
			l.awaitRoom(c)
		case errno == unix.EINTR || errno == unix.ENOBUFS || errno == unix.ENOMEM:
			l.later(c)
		default:
			l.fail(c, "write", errno)
		}
	}
	l.checkLow(c)
	if c.out.head != nil || c.state&(noReading|writeEnding) != 0 {
		l.settle(c)
	}
}

// checkHigh stops reading from a connection whose output has grown too long. Blocking
// code waits in Write instead, and decides by itself what it reads.
func (l *loop) checkHigh(c *Conn) {
	if l.held > l.heavyFrom {
		l.load()
	}
	if (c.out.bytes > l.high || c.seldom().files > filesMax) && c.state&overHigh == 0 && c.stream == nil {
		c.state |= overHigh
		l.stats.HighWater++
	}
}

// checkLow goes on reading from it.
func (l *loop) checkLow(c *Conn) {
	if l.heavy() {
		l.unload()
	}
	if c.stream != nil {
		c.stream.outputMoved()
	}
	if c.state&overHigh == 0 || c.out.bytes > l.low || c.seldom().files > filesLow {
		return
	}
	c.state &^= overHigh
	l.readWanted(c)
	if c.seldom().anchor != nil {
		c.rare.anchor.flags.And(^refFull)
	}
	l.mark(c)
	if c.h.writable != nil && c.state&(closing|dead) == 0 {
		l.call(c, func() { c.h.writable.OnWritable(c) })
	}
}

// dropOutput gives back what will not be sent. While a send is in flight the
// kernel may read from it.
func (l *loop) dropOutput(c *Conn) {
	if rare := c.seldom(); c.state&sendArmed != 0 || rare.pinned > rare.notices {
		return // the second: it reads into the chunk of a file
	}
	err := c.cause
	if err == nil {
		err = ErrClosed
	}
	for c.out.head != nil {
		l.dequeue(c, err)
	}
}

// fail ends a connection because of an errno.
func (l *loop) fail(c *Conn, op string, errno syscall.Errno) {
	l.abort(c, &OpError{Op: op, Addr: c.remote, Err: errno})
}
