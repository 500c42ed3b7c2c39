//go:build linux

package net

import "io"

// Blocking is a Handler that serves each connection with an ordinary function, which
// reads and writes and waits for both: it runs on a fiber of the loop's, a coroutine
// that gives the loop's thread back while it waits. Other connections of the loop go on
// meanwhile; but what keeps it busy without waiting for its Stream (a computation, a
// file, a lock, a channel, time.Sleep) keeps the whole loop, as a callback would. Such
// work belongs to [Await], and pauses to [Stream.Sleep].
//
// The function begins when the connection's first bytes have come, or its end; a
// connection that never sends anything costs no fiber. Use [BlockingAtOpen] where this
// side speaks first.
//
// When the function returns, the connection is closed: what was written goes out
// first, and OnClose's cause, which Conn.Close has too, is the error it returned. A
// panic, or runtime.Goexit, ends the connection at once, with a *[PanicError].
// When the connection ends first, by the peer, a timeout, [Ref.Close] or Server.Close,
// everything that the function waits for is answered an error (see [Stream]), and so is
// everything that it then wants to wait for: it has to return.
//
// On Shutdown, the next Read that would have to wait, or does, is answered
// [ErrServerClosed]: a function that is at work can finish what it does, and one that
// waits for its peer's next request ends.
//
// A fiber must not call runtime.LockOSThread without undoing it before it waits.
func Blocking(f func(*Stream) error) Handler { return newBlocking(f, false) }

// BlockingAtOpen is Blocking for protocols in which this side speaks first, and for
// connections that are dialled to speak first: the function begins when the connection
// has come about.
func BlockingAtOpen(f func(*Stream) error) Handler { return newBlocking(f, true) }

func newBlocking(f func(*Stream) error, atOpen bool) *blocking {
	if f == nil {
		panic("ringnet: Blocking: the function is nil")
	}
	return &blocking{f: f, atOpen: atOpen}
}

// blocking is the handler of connections with Streams.
type blocking struct {
	f      func(*Stream) error // nil: of Streams that fibers have dialled
	atOpen bool
}

// servesStreams tells what has the methods of this handler.
func (h *blocking) servesStreams() {}

// OnOpen implements Handler.
func (h *blocking) OnOpen(c *Conn) {
	if h.f == nil {
		c.context.(*streamDial).opened(c)
	} else if h.atOpen {
		h.begin(c, newStream(c))
	}
}

// begin starts the function.
func (h *blocking) begin(c *Conn, s *Stream) {
	f := s.newFiber()
	f.main = h.f
	c.l.resume(f)
}

// OnData implements Handler. The bytes are copied from where they were received to
// where the fiber that waits for them wants them, and it runs at once; in the most
// ordinary case it has then answered, and waits again.
func (h *blocking) OnData(c *Conn, b []byte) int {
	n := len(b)
	s := c.stream
	if s == nil {
		s = newStream(c)
		s.view = b
		h.begin(c, s)
	} else {
		s.view = b
	}
	if s.unread == 0 { // else nobody waits, and older bytes come first
		for len(s.view) > 0 && !s.readers.empty() {
			s.feed(s.readers.pop())
		}
	}
	if len(s.view) > 0 {
		if c.parts() {
			n -= len(s.view) // for who gets the connection
			s.view = nil
		} else {
			s.hold()
		}
	}
	return n
}

// OnEOF implements EOFHandler.
func (h *blocking) OnEOF(c *Conn) {
	s := c.stream
	if s == nil {
		s = newStream(c)
		s.eof = true
		h.begin(c, s)
		return
	}
	s.eof = true
	for !s.readers.empty() {
		c.l.wake(s.readers.pop(), io.EOF)
	}
}

// OnClose implements Handler. The fibers have been told when the end began.
func (h *blocking) OnClose(c *Conn, err error) {
	if c.stream != nil {
		c.stream.end()
	}
}

// OnShutdown implements ShutdownHandler.
func (h *blocking) OnShutdown(c *Conn) {
	s := c.stream
	switch {
	case c.l.retiring:
		// It goes on until it ends by itself.
	case h.f == nil:
		if c.l.fibers == 0 {
			c.l.close(c, ErrServerClosed)
		}
	case s == nil:
		c.l.close(c, ErrServerClosed)
	default:
		s.leaving = true
		for !s.readers.empty() {
			c.l.wake(s.readers.pop(), s.leavingError())
		}
	}
}

// closeDialled closes what fibers have dialled and left open, when the server ends and
// no fiber is left to close it.
func (l *loop) closeDialled() {
	l.table.each(func(c *Conn) {
		if h, ok := c.h.Handler.(*blocking); ok && h.f == nil {
			l.close(c, ErrServerClosed)
		}
	})
}
