//go:build linux

package net

import (
	"io"

	"example.com/ringnet/bufring"
)

// What is received while nobody reads is held, in the buffers that it came in, and
// behind a bound the connection is no longer read from, so that the peer waits.
const (
	// unreadMost is how many bytes one Stream holds before that; half of it have to
	// be read before reading goes on.
	unreadMost = 64 << 10
	// holdCopied is up to how many bytes are copied, and their buffer given back: one
	// that is held is missing to all connections. Small pieces share the copy.
	holdCopied = 1 << 10
)

// Read reads what has come, and waits for something if there is nothing. Bytes that
// come while a fiber waits here are copied once, from where the kernel has put them to p.
func (s *Stream) Read(p []byte) (int, error) {
	if err := s.mayRead(); err != nil || len(p) == 0 {
		return 0, err
	}
	if n := s.take(p); n > 0 {
		return n, nil
	}
	f, err := s.toRead()
	if err != nil {
		return 0, err
	}
	f.p = p
	err = f.park(waitBytes)
	f.p = nil
	return f.n, err
}

// Next is Read without a copy: it hands over a buffer with the bytes that came next, to
// keep, to send ([Conn.Send]), or to give to another goroutine. It has to be released:
// until then it is missing to all connections of the loop, and a Stream of which many
// are out is not read from.
func (s *Stream) Next() (bufring.Lease, error) {
	if err := s.mayRead(); err != nil {
		return bufring.Lease{}, err
	}
	if s.unread > 0 || len(s.view) > 0 {
		return s.takeLease(), nil
	}
	f, err := s.toRead()
	if err != nil {
		return bufring.Lease{}, err
	}
	err = f.park(waitBytes)
	lease := f.lease
	f.lease = bufring.Lease{}
	return lease, err
}

// mayRead says why nothing can be read.
func (s *Stream) mayRead() error {
	if !s.here() {
		return s.opError("read", ErrOffLoop)
	}
	if s.c.state&(closing|dead|finished) != 0 {
		return s.ended("read")
	}
	if d := s.deadlines; d != nil && s.l.passed(d.read) {
		return s.timeout("read")
	}
	return nil
}

// ended is closedError for one who may not have noticed.
func (s *Stream) ended(op string) error {
	s.l.refuse()
	return s.closedError(op)
}

// toRead has the running fiber wait for bytes, of which there are none; it has yet to
// say where to, and to park.
func (s *Stream) toRead() (*Fiber, error) {
	f, err := s.mayWait()
	if err == nil {
		s.awaits(f)
	}
	return f, err
}

// mayWait is the running fiber, if it may wait for bytes, of which there are none.
func (s *Stream) mayWait() (*Fiber, error) {
	if s.eof || s.readShut {
		return nil, io.EOF
	}
	if s.leaving {
		s.l.refuse()
		return nil, s.leavingError()
	}
	return s.l.toWait("read")
}

// awaits has f wait for bytes.
func (s *Stream) awaits(f *Fiber) {
	f.at, f.n = s, 0
	s.readers.push(f)
	s.l.readWanted(s.c)
}

// feed gives what has just come to a fiber that waits for it, and has it go on.
func (s *Stream) feed(f *Fiber) {
	switch {
	case f.to != nil:
		s.carry(f)
		return
	case f.p != nil:
		f.n = copy(f.p, s.view)
		s.view = s.view[f.n:]
	default:
		f.lease = s.takeView()
	}
	f.waits, f.err = waitNothing, nil
	s.l.resume(f)
}

// take reads into p what is there.
func (s *Stream) take(p []byte) (n int) {
	if s.unread == 0 {
		n = copy(p, s.view)
		s.view = s.view[n:]
		return n
	}
	for n < len(p) && s.unread > 0 {
		m := copy(p[n:], s.held.Bytes())
		n += m
		if m < s.held.Len() {
			s.held = s.held.Slice(m, s.held.Len())
		} else if s.c.state&isCapped != 0 {
			s.held.Release() // which tells the loop that it may read again
			s.shift()
		} else {
			s.l.put(s.held)
			s.shift()
		}
		s.account(-m)
	}
	return n
}

// takeLease is take for Next. There must be something.
func (s *Stream) takeLease() bufring.Lease {
	if s.unread == 0 {
		return s.takeView()
	}
	lease := s.held
	s.shift()
	s.account(-lease.Len())
	return lease
}

// takeView takes what is left of what OnData is looking at.
func (s *Stream) takeView() bufring.Lease {
	left := len(s.view)
	s.view = nil
	lease, err := s.l.detach(s.c)
	if err != nil {
		panic(err) // it is being lent, or there would be no view
	}
	return lease.Slice(lease.Len()-left, lease.Len())
}

// hold keeps what nobody has read of what OnData is looking at.
func (s *Stream) hold() {
	l, b := s.l, s.view
	if s.readShut {
		s.view = nil
		return
	}
	n := len(b)
	switch {
	case n > holdCopied && !l.scarce() && l.large.Free() >= l.large.Count()/2:
		s.push(s.takeView())
		s.copied = false
	default:
		if s.copied && s.unread > 0 {
			b = b[s.extend(b):]
		}
		for len(b) > 0 {
			lease, m := l.copyBuffer(len(b)).Slice(0, 0).Append(b)
			s.push(lease)
			s.copied = true
			b = b[m:]
		}
	}
	s.view = nil
	s.account(n)
	if s.unread > s.most() && !s.withheld {
		s.withheld = true
		s.c.PauseRead()
	}
}

// most is how much may be unread before the peer has to wait.
func (s *Stream) most() int {
	if s.l.heavy() {
		return 0
	}
	return unreadMost
}

// account counts n bytes more, or less.
func (s *Stream) account(n int) {
	l := s.l
	s.unread += n
	l.holdInput(s.c, n)
	switch {
	case n > 0:
		if l.held > l.heavyFrom {
			l.load()
		}
	case l.heavy():
		l.unload()
	}
	if s.withheld && s.unread <= s.most()/2 {
		s.withheld = false
		s.c.ResumeRead()
	}
}

func (s *Stream) push(lease bufring.Lease) {
	if !s.held.Valid() {
		s.held = lease
	} else {
		s.more = append(s.more, lease)
	}
}

// shift forgets the first of what is held.
func (s *Stream) shift() {
	if len(s.more) == 0 {
		s.held = bufring.Lease{}
		return
	}
	s.held = s.more[0]
	if s.more = s.more[1:]; len(s.more) == 0 {
		s.more = nil
	}
}

// extend copies what it can of b behind the last of what is held.
func (s *Stream) extend(b []byte) (n int) {
	last := &s.held
	if k := len(s.more); k > 0 {
		last = &s.more[k-1]
	}
	*last, n = last.Append(b)
	return n
}

// drop gives back what nobody will read.
func (s *Stream) drop() {
	s.view = nil
	for s.held.Valid() {
		s.account(-s.held.Len())
		s.held.Release()
		s.shift()
	}
}
