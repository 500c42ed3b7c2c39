//go:build linux

package net

import (
	"golang.org/x/sys/unix"

	"example.com/ringnet/bufring"
)

// Write has two ways.
//
//	small   copied into the loop's memory, where what one turn writes is put together
//	        and goes out with one send; Write returns at once
//	large   sent from the caller's memory: at once as much as the socket takes, and the
//	        rest while Write waits, since the memory is the caller's again after that
//
// largeWrite is where the second begins. It is where a direct send pays (see
// eagerBytes), which needs neither.
const largeWrite = eagerBytes

// Write sends b after what was written before. It waits while more than
// Options.HighWater bytes of this Stream are waiting, and with a large b (16 KiB) until
// all of it was handed to the kernel. What it returns with an error is how much was.
// Several fibers may write at the same time; each b goes out in one piece.
//
// In a callback it does what [Conn.Write] does.
func (s *Stream) Write(b []byte) (int, error) {
	if !s.here() {
		return 0, s.opError("write", ErrOffLoop)
	}
	if err := s.mayWrite(); err != nil {
		return 0, err
	}
	if l, c := s.l, s.c; len(b) < largeWrite && c.out.bytes <= l.high && l.roomFor(len(b)) {
		if len(b) > 0 {
			l.write(c, b)
		}
		return len(b), nil
	}
	return s.writeSlowly(b)
}

// mayWrite says why nothing can be written.
func (s *Stream) mayWrite() error {
	if s.c.state&(closing|dead|writeEnding|writeEnded|finished) != 0 {
		if s.c.state&(closing|dead|finished) == 0 {
			return s.opError("write", ErrClosed) // after CloseWrite
		}
		return s.ended("write")
	}
	if d := s.deadlines; d != nil && s.l.passed(d.write) {
		return s.timeout("write")
	}
	return nil
}

// writeSlowly is Write of what is large, or has to wait.
func (s *Stream) writeSlowly(b []byte) (int, error) {
	l, c := s.l, s.c
	if l.fiber == nil {
		n, err := c.Write(b)
		if err != nil {
			err = s.opError("write", err)
		}
		return n, err
	}
	// A loop that holds too much for all of its connections copies nothing more for
	// those that can wait.
	if len(b) < largeWrite && l.roomFor(len(b)) {
		if err := s.awaitRoom(); err != nil {
			return 0, err
		}
		l.write(c, b)
		return len(b), nil
	}
	n := 0
	if c.out.head == nil && c.state&(sendArmed|full|layered) == 0 {
		sent, errno := l.r.Send(int(c.fd), b, 0)
		switch errno {
		case 0:
			l.stats.DirectSends++
			l.sent(c, sent)
			n = sent
		case unix.EAGAIN, unix.EINTR:
		default:
			l.fail(c, "write", errno)
			return 0, s.closedError("write")
		}
	}
	if n == len(b) {
		return n, nil
	}
	f, err := l.toWait("write")
	if err != nil {
		return n, err
	}
	left, err := s.sendAndWait(f, segment{mem: b[n:], waited: true})
	return len(b) - left, err
}

// roomFor reports that the loop may hold n bytes more.
func (l *loop) roomFor(n int) bool { return l.held == 0 || l.held+n <= l.o.MaxLoopBytes }

// sendAndWait sends memory that is not the loop's, and waits until that is no longer
// needed. It returns how much of it was not sent.
func (s *Stream) sendAndWait(f *Fiber, what segment) (left int, err error) {
	l, c := s.l, s.c
	what.owner = f
	l.mark(c)
	l.enqueueUnsealed(c, what)
	f.at, f.seg, f.n = s, c.out.tail, 0
	s.writers.push(f)
	err = f.park(waitSent)
	return f.n, err
}

// released implements owner: what f waits for has gone out, or will not.
func (f *Fiber) released(l *loop, c *Conn, err error) {
	f.n, f.seg, f.cut = len(f.seg.mem), nil, nil
	f.at.writers.remove(f)
	if err != nil && c.state&(closing|dead|finished) != 0 {
		err = f.at.closedError("write")
	}
	l.wake(f, err)
}

// cut has a fiber wait no longer for what it sends, with an error: nothing more of that
// goes out. While the kernel is at it, which is not for long, that has to wait.
func (s *Stream) cut(f *Fiber, err error) {
	if f.waits != waitSent || f.seg == nil || s.c.parts() {
		return // or it is for the peer to have before the connection is another's
	}
	if s.l.cutOut(s.c, f.seg, err) {
		f.seg, f.cut = nil, nil
		return
	}
	s.attentive, f.cut = true, err
}

// cutOut takes a segment out of c's output. It reports false, and does nothing, while
// something is in flight for it.
func (l *loop) cutOut(c *Conn, s *segment, err error) bool {
	if s.sealed || s.pins > 0 || s.file != nil && s.file.reading {
		return false
	}
	var before *segment
	for at := c.out.head; at != s; at = at.next {
		before = at
	}
	if before == nil {
		c.out.head = s.next
	} else {
		before.next = s.next
	}
	if c.out.tail == s {
		c.out.tail = before
	}
	if s.file == nil {
		c.out.bytes -= len(s.mem)
		l.hold(s, -len(s.mem))
	}
	l.freeSegment(c, s, err)
	l.mark(c)
	return true
}

// awaitRoom waits until so much of the output has gone that there is room for more.
func (s *Stream) awaitRoom() error {
	for s.c.out.bytes > s.l.high {
		f, err := s.l.toWait("write")
		if err != nil {
			return err
		}
		s.toAwaitRoom(f)
		if err := f.park(waitRoom); err != nil {
			return err
		}
		if err := s.mayWrite(); err != nil {
			return err
		}
	}
	return nil
}

// toAwaitRoom has f wait for room.
func (s *Stream) toAwaitRoom(f *Fiber) {
	f.at = s
	s.writers.push(f)
	s.attentive = true
	s.l.stats.HighWater++
}

// outputMoved is called when some of the output has gone, or is not in flight any more.
func (s *Stream) outputMoved() {
	if !s.attentive {
		return
	}
	s.attentive = false
	if s.c.out.bytes <= s.l.low {
		s.wakeForRoom(nil)
	}
	for f := s.writers.head; f != nil; {
		next := f.link
		if f.waits == waitRoom {
			s.attentive = true
		} else if f.cut != nil {
			s.cut(f, f.cut)
		}
		f = next
	}
}

// wakeForRoom wakes those who wait for room.
func (s *Stream) wakeForRoom(err error) {
	for f := s.writers.head; f != nil; {
		next := f.link
		if f.waits == waitRoom {
			s.writers.remove(f)
			s.l.wake(f, err)
		}
		f = next
	}
}

// sendLease sends a lease, which it owns, after what was written before; it waits for
// room.
func (s *Stream) sendLease(lease bufring.Lease) error {
	err := s.mayWrite()
	if err == nil && s.c.out.bytes > s.l.high {
		err = s.awaitRoom()
	}
	if err != nil {
		lease.Release()
		return err
	}
	if !s.l.roomFor(lease.Len()) && s.l.fiber != nil {
		return s.sendLeaseSlowly(lease)
	}
	s.l.send(s.c, lease)
	return nil
}

// sendLeaseSlowly is sendLease where the loop holds too much already.
func (s *Stream) sendLeaseSlowly(lease bufring.Lease) error {
	f, err := s.l.toWait("write")
	if err != nil {
		lease.Release()
		return err
	}
	_, err = s.sendAndWait(f, segment{mem: lease.Bytes(), lease: lease})
	return err
}
