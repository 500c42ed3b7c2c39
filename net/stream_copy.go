//go:build linux

package net

import (
	"errors"
	"fmt"
	"io"
	"math"

	"example.com/ringnet/bufring"
)

// A copy between two Streams waits for the bytes like any reader, and the loop sends
// them on when they come, in the buffers that they came in, without the fiber: that runs
// again when the copy has to wait for something else, or is over.
//
//	       bytes for s                      no room
//	 ┌──────────────────────► carry ───────────────────────► to.writers
//	 │                          │                                │
//	 │ all sent on              │ the end, an error, or          │ room
//	 │                          ▼ the loop holds too much        ▼
//	s.readers ◄─────────────── the fiber, in forward ◄───────────┘
//
// What is received in one go leaves with one send: a send for each piece, although its
// bytes would still be in the cache, wakes the peer that much more often, and took 1.2
// times as much CPU per byte.
//
// So a copy costs no switch per piece, and a fiber that is in one has few calls on its
// stack: with those that send a lease it would need 4 KiB for good, and not 2.

// WriteTo implements io.WriterTo, for io.Copy: it writes to w what comes, until the end
// of the stream. To another Stream of the same loop, or this one, the bytes go in the
// buffers that they came in, without a copy.
func (s *Stream) WriteTo(w io.Writer) (n int64, err error) {
	if to, ok := w.(*Stream); ok {
		return s.forward(to, math.MaxInt64)
	}
	return s.copyTo(w)
}

// copyTo is WriteTo anything else.
func (s *Stream) copyTo(w io.Writer) (n int64, err error) {
	for {
		lease, err := s.Next()
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		m := lease.Len()
		wrote, err := w.Write(lease.Bytes())
		lease.Release()
		n += int64(max(0, wrote))
		if err == nil && wrote != m {
			err = io.ErrShortWrite
		}
		if err != nil {
			return n, err
		}
	}
}

// forward is WriteTo another Stream, of so many bytes at most.
func (s *Stream) forward(to *Stream, most int64) (n int64, err error) {
	if to.l != s.l {
		return 0, s.otherLoop(to)
	}
	for n < most && err == nil {
		var f *Fiber
		if f, err = s.mayForward(to); err != nil {
			break
		}
		if f == nil {
			var m int64
			m, err = s.forwardPiece(to, most-n)
			n += m
			continue
		}
		f.at, f.to, f.left = s, to, most-n
		err = f.park(waitNothing) // for now; the loop goes on with carry
		f.to = nil
		n = most - f.left
	}
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// mayForward says why a copy cannot go on, or who is to wait for it; nil: nobody, and a
// piece has to be sent before anything else.
func (s *Stream) mayForward(to *Stream) (*Fiber, error) {
	if err := s.mayRead(); err != nil {
		return nil, err
	}
	n := s.ahead()
	if n == 0 {
		return s.mayWait()
	}
	if err := to.mayWrite(); err != nil {
		return nil, err
	}
	if s.l.fiber == nil || !s.l.roomFor(n) {
		return nil, nil
	}
	return s.l.toWait("read")
}

// forwardPiece sends a piece on where the loop cannot do it: in a callback, and when it
// holds so much that the fiber has to wait for each piece to have gone.
//
//go:noinline
func (s *Stream) forwardPiece(to *Stream, most int64) (n int64, err error) {
	lease := s.takeUpTo(most)
	n = int64(lease.Len())
	if err := to.sendLease(lease); err != nil {
		return 0, err
	}
	return n, nil
}

// ahead is how much has come, in one piece, and waits to be read.
func (s *Stream) ahead() int {
	if s.unread > 0 {
		return s.held.Len()
	}
	return len(s.view)
}

// takeUpTo takes the first piece of what has come, or as much of it as most says: then it
// is a copy, since the rest of the buffer stays.
func (s *Stream) takeUpTo(most int64) bufring.Lease {
	if int64(s.ahead()) <= most {
		return s.takeLease()
	}
	lease := s.l.copyBuffer(int(most))
	n := s.take(lease.Bytes()[:min(lease.Len(), int(most))])
	return lease.Slice(0, n)
}

// carry sends on what has come for a copy, and has its fiber wait for what is next. On
// the loop's goroutine; f is on no list.
func (s *Stream) carry(f *Fiber) {
	l, to := s.l, f.to
	f.waits = waitNothing // its end may come in between, where a session fails
	for n := s.ahead(); n > 0; n = s.ahead() {
		if to.mayWrite() != nil || !l.roomFor(n) {
			l.wake(f, nil) // it will see
			return
		}
		if to.c.out.bytes > l.high {
			to.toAwaitRoom(f)
			f.waits = waitRoom
			return
		}
		lease := s.takeUpTo(f.left)
		f.left -= int64(lease.Len())
		l.send(to.c, lease)
		if f.left == 0 {
			l.wake(f, nil)
			return
		}
	}
	if f.owner.c.state&(closing|dead|finished) != 0 || s.c.state&(closing|dead|finished) != 0 || s.eof || s.readShut || s.leaving {
		l.wake(f, nil) // the same
		return
	}
	s.awaits(f)
	f.waits = waitBytes
}

func (s *Stream) otherLoop(to *Stream) error {
	return s.opError("copy", fmt.Errorf("%w: the other Stream lives on loop %d, this one on loop %d: dial it on the same loop (Stream.Dial)", ErrOffLoop, to.l.index, s.l.index))
}

// ReadFrom implements io.ReaderFrom, for io.Copy: it sends what r has. Of a regular file
// (*os.File, also within an io.LimitedReader) it is sent as by [Conn.SendFile], from the
// file's offset on, which it moves; it waits until the last byte was handed to the
// kernel. Another Stream's bytes go without a copy, see WriteTo; within an
// io.LimitedReader all but the last piece do. From anything else they are copied as
// io.Copy would; a read that blocks blocks the loop.
func (s *Stream) ReadFrom(r io.Reader) (int64, error) {
	switch r := r.(type) {
	case *Stream:
		return r.WriteTo(s)
	case osFile:
		if n, handled, err := s.sendFrom(r, -1); handled {
			return n, err
		}
	case *io.LimitedReader:
		switch from := r.R.(type) {
		case *Stream:
			n, err := from.forward(s, r.N)
			r.N -= n
			return n, err
		case osFile:
			if r.N <= 0 {
				break
			}
			if n, handled, err := s.sendFrom(from, r.N); handled {
				r.N -= n
				return n, err
			}
		}
	}
	return io.Copy(struct{ io.Writer }{s}, r)
}

// osFile is an *os.File, or what package os gives to ReadFrom in its stead: that has the
// methods, but for WriteTo.
type osFile interface {
	openFile
	io.Seeker
	Fd() uintptr
}

// sendFrom sends what is in a file from its offset on, or as much of it as limit says.
// It has not handled what is no regular file.
func (s *Stream) sendFrom(f osFile, limit int64) (n int64, handled bool, err error) {
	if !s.here() || s.l.fiber == nil {
		return 0, false, nil // the ordinary way says what is wrong
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return 0, false, nil
	}
	off, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, false, nil // opened for appending, say: as long as it can be read
	}
	length := max(0, st.Size()-off)
	if limit >= 0 {
		length = min(length, limit)
	}
	file := &File{f: f, fd: int(f.Fd()), lent: true}
	n, err = s.SendFile(file, off, length)
	_ = file.Close()
	_, seekErr := f.Seek(off+n, io.SeekStart)
	return n, true, errors.Join(err, seekErr)
}

// SendFile is [Conn.SendFile], and waits until the last byte was handed to the kernel.
// It returns how many were.
func (s *Stream) SendFile(file *File, off, n int64) (int64, error) {
	if !s.here() {
		return 0, s.opError("send file", ErrOffLoop)
	}
	if err := s.mayWrite(); err != nil {
		return 0, err
	}
	if err := s.awaitRoom(); err != nil {
		return 0, err
	}
	f, err := s.l.toWait("send file")
	if err != nil {
		return 0, err
	}
	w := &fileWait{f: f, off: off}
	before := s.c.out.tail
	if n < 0 {
		size, err := file.Size()
		if err != nil {
			return 0, err
		}
		n = size - off
	}
	if err := s.c.SendFile(file, off, n, w.done); err != nil {
		return 0, err
	}
	f.at, f.seg = s, nil
	if t := s.c.out.tail; t != before && t != nil {
		f.seg, w.t = t, t.file
	}
	s.writers.push(f)
	if err := f.park(waitSent); err != nil {
		return w.sent, err
	}
	return n, nil
}

// fileWait is a file that a fiber waits for.
type fileWait struct {
	f    *Fiber
	t    *transfer // nil: it is so small that it went out with what was before
	off  int64
	sent int64
}

// done is called when the file has gone out, or will not.
func (w *fileWait) done(err error) {
	f := w.f
	if w.t != nil {
		w.sent = w.t.off - w.off
	}
	f.seg, f.cut = nil, nil
	f.at.writers.remove(f)
	if err != nil && f.at.c.state&(closing|dead|finished) != 0 {
		err = f.at.closedError("write")
	}
	f.l.wake(f, err)
}
