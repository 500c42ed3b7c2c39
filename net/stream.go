//go:build linux

package net

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdnet "net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/ringnet/bufring"
	"example.com/ringnet/internal/goroutine"
)

// Stream is a connection for blocking code: std's net.Conn, on a loop. [Blocking] gives
// one to its function, and [Stream.Dial] makes one.
//
// It belongs to its loop: it can be used on every fiber of that loop, by several at the
// same time (one reads, another writes). In callbacks of that loop it can be used as
// well, as long as nothing has to wait ([ErrNotOnFiber]). On other goroutines every
// method answers [ErrOffLoop], or the zero value, except these, which are safe for
// concurrent use: Close, the three that set deadlines, and RemoteAddr.
//
// A fiber waits in Read until there is something to read, and in Write while more than
// Options.HighWater is waiting to be sent. Errors are those of std's connections: io.EOF
// at the end of the stream; os.ErrDeadlineExceeded after a deadline, which ends the
// call and not the connection; [ErrClosed] after Close and after whatever else ended
// the connection on this side, then with the cause ([ErrServerClosed], what Conn.Abort
// was told, a *[PanicError]); *[OpError] where the peer or the network has ended it.
type Stream struct {
	c *Conn
	l *loop

	// Received and not read: what OnData is looking at, or what has been held of it,
	// see below. There are never both, except for a moment. What every request needs
	// comes first, so that it is in two lines of the cache.
	view    []byte
	unread  int       // bytes that are held
	readers fiberList // that wait for bytes; then there are none

	deadlines *deadlines // nil: no deadlines
	writers   fiberList  // that wait for room, or for what they send to have gone

	eof       bool // the peer has ended its direction
	readShut  bool // CloseRead
	copied    bool // the last of what is held is a copy, with room behind it
	withheld  bool // reading is paused, since enough is held
	leaving   bool // Shutdown
	isClosed  bool // Close
	attentive bool // writers wait for room, or to be cut short

	closeAsked atomic.Bool // by another goroutine

	fibers *Fiber          // that belong to it
	ctx    *streamContext  // nil: nobody has asked
	held   bufring.Lease   // the first of what is held
	more   []bufring.Lease // and those behind it
}

var _ interface {
	stdnet.Conn
	io.ReaderFrom
	io.WriterTo
	syscall.Conn
} = (*Stream)(nil)

func newStream(c *Conn) *Stream {
	s := &Stream{c: c, l: c.l}
	c.l.heldInput -= c.keeps() // see holdInput
	c.stream = s
	return s
}

// here reports that the caller runs on the loop, and so may touch what is its.
func (s *Stream) here() bool { return s.l.runs.Load() == goroutine.ID() }

// Conn is the connection underneath: for its options, [Conn.Ref], [Conn.SetContext] and
// the like. What it sends is sent in order with what is written here; what it does with
// reading (PauseRead, timeouts) is best left to the Stream. Nil off the loop.
func (s *Stream) Conn() *Conn {
	if !s.here() {
		return nil
	}
	return s.c
}

// LocalAddr is our address, an [Addr]. It asks the kernel each time; the zero Addr once
// the connection has ended, and off the loop.
func (s *Stream) LocalAddr() stdnet.Addr {
	if !s.here() {
		return Addr{}
	}
	return s.c.LocalAddr()
}

// RemoteAddr is the peer's address, an [Addr]. Safe for concurrent use.
func (s *Stream) RemoteAddr() stdnet.Addr { return s.c.remote }

// Loop is the number of the loop that the Stream lives on. Safe for concurrent use.
func (s *Stream) Loop() int { return s.l.index }

// ShuttingDown reports that Server.Shutdown or Retire was called: time to tell the peer
// to go elsewhere. False off the loop.
func (s *Stream) ShuttingDown() bool { return s.here() && s.l.draining }

// Context ends with the connection, and with its cause: to pass to what takes one, in
// [Await] above all. context.Background off the loop.
func (s *Stream) Context() context.Context {
	if !s.here() {
		return context.Background()
	}
	if s.ctx == nil {
		s.ctx = &streamContext{}
		s.ctx.Context, s.ctx.cancel = context.WithCancelCause(context.Background())
		if s.c.state&(closing|dead|finished) != 0 {
			s.ctx.cancel(s.closedError("use"))
		}
	}
	return s.ctx
}

type streamContext struct {
	context.Context
	cancel context.CancelCauseFunc
}

// Close closes the connection once what was written has gone out; it does not wait for
// that. Whoever waits in Read or Write is answered [ErrClosed]; what another fiber's
// Write had not yet handed over of a large piece is not sent. Safe for concurrent use.
func (s *Stream) Close() error {
	if !s.here() {
		if s.closeAsked.Swap(true) {
			return s.opError("close", ErrClosed)
		}
		err := refused(s.l.mail.demand(letter{what: func() { _ = s.close() }}))
		if err != nil {
			err = s.opError("close", err)
		}
		return err
	}
	return s.close()
}

func (s *Stream) close() error {
	if s.c.state&(closing|dead|finished) != 0 {
		return s.opError("close", ErrClosed)
	}
	s.isClosed = true
	s.l.close(s.c, nil)
	return nil
}

// CloseRead ends reading: Read answers io.EOF from now on, and what comes is dropped,
// so that the peer does not wait for it to be read.
func (s *Stream) CloseRead() error {
	if !s.here() {
		return s.opError("close", ErrOffLoop)
	}
	if s.c.state&(closing|dead|finished) != 0 {
		return s.closedError("close")
	}
	s.readShut = true
	s.drop()
	for !s.readers.empty() {
		s.l.wake(s.readers.pop(), io.EOF)
	}
	return nil
}

// CloseWrite ends our direction once what was written has gone out: the peer sees the
// end of the stream and may go on sending.
func (s *Stream) CloseWrite() error {
	if !s.here() {
		return s.opError("close", ErrOffLoop)
	}
	if s.c.state&(closing|dead|finished) != 0 {
		return s.closedError("close")
	}
	if err := s.c.CloseWrite(); err != nil {
		return s.opError("close", err)
	}
	s.wakeForRoom(s.opError("write", ErrClosed))
	return nil
}

// SyscallConn gives access to the descriptor, for what [Conn.SetOption] cannot do: by
// Control, on the loop. The descriptor must not be closed, read from or written to,
// which is what the loop does: Read and Write of the RawConn answer an error that
// matches errors.ErrUnsupported.
func (s *Stream) SyscallConn() (syscall.RawConn, error) {
	if !s.here() {
		return nil, s.opError("use", ErrOffLoop)
	}
	if s.c.state&finished != 0 {
		return nil, s.closedError("use")
	}
	return rawStream{s}, nil
}

type rawStream struct{ s *Stream }

func (r rawStream) Control(f func(fd uintptr)) error {
	if !r.s.here() {
		return r.s.opError("use", ErrOffLoop)
	}
	if r.s.c.state&finished != 0 {
		return r.s.closedError("use")
	}
	f(uintptr(r.s.c.fd))
	return nil
}

func (r rawStream) Read(func(fd uintptr) bool) error {
	return fmt.Errorf("ringnet: read from the descriptor of a Stream: the loop has a receive armed on it: use Stream.Read: %w", errors.ErrUnsupported)
}

func (r rawStream) Write(func(fd uintptr) bool) error {
	return fmt.Errorf("ringnet: write to the descriptor of a Stream: the loop has output of its own for it: use Stream.Write: %w", errors.ErrUnsupported)
}

// end is called when the connection begins to end, and again when it has: nobody can
// wait for it any more.
func (s *Stream) end() {
	l := s.l
	s.drop()
	for !s.readers.empty() {
		l.wake(s.readers.pop(), s.closedError("read"))
	}
	s.wakeForRoom(s.closedError("write"))
	for f := s.writers.head; f != nil; {
		next := f.link // cut takes it off
		s.cut(f, s.closedError("write"))
		f = next
	}
	for f := s.fibers; f != nil; f = f.sibling {
		f.cancel(s.closedError("wait"))
	}
	if s.deadlines != nil {
		l.wheel.remove(&s.deadlines.timer)
	}
	if s.ctx != nil {
		s.ctx.cancel(s.closedError("use"))
	}
}

func (s *Stream) opError(op string, err error) error {
	return &OpError{Op: op, Addr: s.c.remote, Err: err}
}

func (s *Stream) timeout(op string) error { return s.opError(op, os.ErrDeadlineExceeded) }

// closedError is what to answer when the connection has ended, or ends.
func (s *Stream) closedError(op string) error {
	cause := s.c.cause
	if s.c.parts() {
		return s.opError(op, closedBy{ErrHandedOver})
	}
	if cause == nil || cause == io.EOF || s.isClosed {
		return s.opError(op, ErrClosed)
	}
	var e *OpError
	if errors.As(cause, &e) {
		return cause
	}
	return s.opError(op, closedBy{cause})
}

func (s *Stream) leavingError() error { return s.opError("read", closedBy{ErrServerClosed}) }

// closedBy is ErrClosed with the reason.
type closedBy struct{ cause error }

func (e closedBy) Error() string        { return ErrClosed.Error() + ": " + e.cause.Error() }
func (e closedBy) Is(target error) bool { return target == ErrClosed }
func (e closedBy) Unwrap() error        { return e.cause }

// deadlines are the deadlines of a Stream. The timer is set for the sooner one, or for
// something before it: moving a deadline on costs a store.
type deadlines struct {
	timer
	s           *Stream
	read, write int64 // of the loop's clock; 0: none
}

// SetDeadline is SetReadDeadline and SetWriteDeadline in one. Safe for concurrent use.
func (s *Stream) SetDeadline(t time.Time) error { return s.setDeadline(t, true, true) }

// SetReadDeadline says when Read is to give up: who waits then, and who calls it later,
// is answered os.ErrDeadlineExceeded until the deadline is moved. The zero time stands
// for never. Timers are precise to a millisecond. Safe for concurrent use; on another
// goroutine than the loop's it takes effect a moment later, and an error says only that
// the loop has ended.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.setDeadline(t, true, false) }

// SetWriteDeadline is SetReadDeadline for Write. What a Write had handed over by then is
// sent, and counts in what it returns. Safe for concurrent use.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.setDeadline(t, false, true) }

func (s *Stream) setDeadline(t time.Time, read, write bool) error {
	if !s.here() {
		err := refused(s.l.mail.demand(letter{what: func() { _ = s.moveDeadline(t, read, write) }}))
		if err != nil {
			err = s.opError("set deadline", err)
		}
		return err
	}
	return s.moveDeadline(t, read, write)
}

func (s *Stream) moveDeadline(t time.Time, read, write bool) error {
	var at int64
	if !t.IsZero() {
		at = longPast
		if left := time.Until(t); left > 0 {
			at = plus(s.l.clock(), left)
		}
	}
	return s.moveDeadlineTo(at, read, write)
}

// longPast is a deadline that is over.
const longPast = 1

// moveDeadlineTo is moveDeadline by the loop's clock; 0: never.
func (s *Stream) moveDeadlineTo(at int64, read, write bool) error {
	if s.c.state&(closing|dead|finished) != 0 {
		return s.closedError("set deadline")
	}
	d := s.deadlines
	if d == nil {
		if at == 0 {
			return nil
		}
		d = &deadlines{s: s}
		d.owner = d
		s.deadlines = d
	}
	if read {
		d.read = at
	}
	if write {
		d.write = at
	}
	if at == longPast {
		d.pass(s.l)
	} else if at != 0 {
		d.watch(s.l)
	}
	return nil
}

// passed reports that a deadline is over.
func (l *loop) passed(at int64) bool { return at != 0 && at <= l.now }

// watch has the timer set for what is due next, or sooner.
func (d *deadlines) watch(l *loop) {
	due := int64(never)
	for _, at := range [...]int64{d.read, d.write} {
		if at > l.now {
			due = min(due, at)
		}
	}
	if due == never {
		return
	}
	if at := tickAfter(due); !d.set || at < d.at {
		l.wheel.remove(&d.timer)
		l.wheel.add(&d.timer, at, tickAt(l.now))
	}
}

// expired implements expirer.
func (d *deadlines) expired(l *loop) {
	if l.count == len(l.batch) && l.passed(d.read) && l.now < plus(d.read, unseenMost) {
		// There may be more completions than this turn had room for, with bytes that
		// came in time.
		l.wheel.add(&d.timer, d.at+1, tickAt(l.now))
		return
	}
	d.pass(l)
	d.watch(l)
}

// pass ends what waits beyond a deadline.
func (d *deadlines) pass(l *loop) {
	s := d.s
	if l.passed(d.read) {
		for !s.readers.empty() {
			l.wake(s.readers.pop(), s.timeout("read"))
		}
	}
	if l.passed(d.write) {
		s.wakeForRoom(s.timeout("write"))
		for f := s.writers.head; f != nil; {
			next := f.link
			s.cut(f, s.timeout("write"))
			f = next
		}
	}
}
