//go:build linux

package net

import (
	"errors"
	stdnet "net"
	"syscall"
)

// Code that is written for goroutines gets its connections handed over: they leave the
// ring for good, and go on as std's net.Conn on Go's own poller. (Feeding goroutines from
// a loop instead costs more than it gains: each wake crosses threads.)
//
//	HandOver ─► the receive is cancelled ─► what was written has gone out ─►
//	            its last completion comes,   the poll for room is cancelled
//	            and may carry bytes
//	─► nothing is in flight ─► OnClose ─► the descriptor, and the bytes that were
//	                                      received and not consumed, have a new owner
//
// While that goes on the connection is closing: nothing more is lent to the handler, and
// nothing more is taken from it. So whatever ends a closing connection ends the hand-over:
// a send that fails, CloseTimeout for a peer that takes nothing, Abort, a shutdown that
// is cut short. The end of the stream does not, since the kernel tells it again; nor
// does a reset that a receive was told and the kernel will not tell again: the new owner
// is told that behind the bytes.

// ErrHandedOver is the cause that OnClose is told of a connection that was handed over
// to the standard library. The connection itself goes on.
var ErrHandedOver = errors.New("ringnet: handed over to the standard library")

// HandOver ends what the loop does for the connection and gives it to f as a connection
// of the standard library, for code that needs goroutines: net/http, gRPC and their like.
// f is called once, on a goroutine of its own, and owns what it gets: it may serve it there.
//
// What was written before goes out first. Received bytes that the handler has not
// consumed come first when f reads; within OnData those are what OnData does not count
// as consumed when it returns, so that a handler that has only looked returns 0.
// Afterwards no callback comes but OnClose, with [ErrHandedOver] as cause, before f is
// called. Write answers ErrClosed from now on, as after Close; timers are dropped; Refs
// answer ErrClosed.
//
// f gets a *net.TCPConn or *net.UnixConn of std, or with bytes in front something that
// has all methods of the one or the other; once these are read that costs nothing more.
// What cannot be seen through it is the front itself: File fails until it is read, and
// a Unix connection has no splice(2) then. Delay and keep-alive are set as std sets them
// for connections that it accepts: no delay, keep-alive after 15 s.
//
// A connection that [TLS] secures is handed over as a *tls.Conn, which goes on where the
// loop was, so that net/http serves it as one that it has secured itself, HTTP/2 included.
// With bytes in front it is not that type, but has its methods of net.Conn, Handshake,
// CloseWrite and ConnectionState: better hand such a connection over in OnOpen.
//
// If the connection ends before, f is called with the cause instead: a failed send, say,
// [ErrCloseTimeout] when the peer takes nothing for Options.CloseTimeout, ErrServerClosed.
// OnClose is told the same. A connection for which the process has no descriptor left to
// duplicate it with is closed, and f told so. Shutdown waits for the hand-over, but not for f
// or its connection; for MaxConns it has ended.
//
// ErrClosed, and f is not called, when the connection is closed or closing.
// Only on the loop's goroutine.
func (c *Conn) HandOver(f func(conn stdnet.Conn, err error)) error {
	if f == nil {
		return errors.New("ringnet: hand over a connection: the function is nil")
	}
	return c.l.handOver(c, takerFunc(f))
}

// HandOverTo is HandOver to whoever accepts from a listener. It takes a place in the
// listener's queue at once: with an error (ErrQueueFull, or ErrClosed if the listener or
// the connection is closed) nothing has changed, and the handler may tell the peer so.
// If nobody has accepted it when the listener is closed, it is reset.
// Only on the loop's goroutine.
func (c *Conn) HandOverTo(to *HandOverListener) error {
	if c.state&(closing|dead|finished) != 0 {
		return ErrClosed
	}
	if err := to.reserve(); err != nil {
		return err
	}
	return c.l.handOver(c, to)
}

// HandOver is [Conn.HandOver] from blocking code: what has not been read comes first when
// f reads. What other fibers are writing goes out whole, and all else that waits for the
// Stream is answered an error that matches [ErrHandedOver] and ErrClosed, as everything
// is that is asked of the Stream from now on. So the function of [Blocking] has to
// return, and what it returns ends nothing; a panic in it ends the connection, as long
// as it has not been given to f.
func (s *Stream) HandOver(f func(conn stdnet.Conn, err error)) error {
	if !s.here() {
		return s.opError("hand over", ErrOffLoop)
	}
	if s.c.state&(closing|dead|finished) != 0 {
		return s.closedError("hand over")
	}
	return s.c.HandOver(f)
}

// HandOverTo is [Conn.HandOverTo] from blocking code; see HandOver.
func (s *Stream) HandOverTo(to *HandOverListener) error {
	if !s.here() {
		return s.opError("hand over", ErrOffLoop)
	}
	if s.c.state&(closing|dead|finished) != 0 {
		return s.closedError("hand over")
	}
	return s.c.HandOverTo(to)
}

// rest is a copy of what has not been read.
func (s *Stream) rest() []byte {
	b := append([]byte(nil), s.held.Bytes()...)
	for _, lease := range s.more {
		b = append(b, lease.Bytes()...)
	}
	return append(b, s.view...)
}

// taker gets a connection that is handed over, or is told why it does not: one of the
// two, once, on the loop's goroutine.
type taker interface {
	take(p *parted)
	miss(err error)
}

// takerFunc is a taker that has a goroutine for each connection.
type takerFunc func(stdnet.Conn, error)

func (f takerFunc) take(p *parted) {
	go func() {
		conn, err := p.conn()
		if err != nil {
			p.drop()
		}
		f(conn, err)
	}()
}

func (f takerFunc) miss(err error) { go f(nil, err) }

// parting is what a connection has that is being handed over.
type parting struct {
	to    taker
	errno syscall.Errno // what a receive has told; see parted
	front []byte        // received before what is kept
	raw   []byte        // layered: what the session has not had; it gives front before that
	gone  bool          // it has come to its end, and the descriptor goes to the taker
}

// handOver begins. The connection must not be closing.
func (l *loop) handOver(c *Conn, to taker) error {
	if c.state&(closing|dead|finished) != 0 {
		return ErrClosed
	}
	p := &parting{to: to}
	c.rarely().parting = p
	c.state |= closing
	c.unref(refClosing)
	l.dropTimers(c)
	if c.out.head != nil || c.rare.notices > 0 {
		l.lingers(c)
	}
	if s := c.stream; s != nil {
		p.front = s.rest() // what is kept came behind it
		s.end()
	}
	l.mark(c)
	return nil
}

// parts reports that c is being handed over, so that its bytes are wanted still.
func (c *Conn) parts() bool {
	return c.state&(closing|dead|finished) == closing && c.seldom().parting != nil
}

// keepMore puts bytes that came after HandOver behind those that are kept.
func (l *loop) keepMore(c *Conn, b []byte) {
	l.stats.BytesReceived += uint64(len(b))
	if c.state&layered != 0 {
		c.rare.layer.keep(b)
		return
	}
	c.keep(append(c.seldom().kept, b...))
}

// tellLater reports whether the error of a receive is for the new owner to hear. With
// output to be sent it is not: that will never go out.
func (l *loop) tellLater(c *Conn, errno syscall.Errno) bool {
	if !c.parts() || c.out.head != nil || c.state&sendArmed != 0 {
		return false
	}
	c.rare.parting.errno = errno
	return true
}

// part does what the hand-over needs now; see settle.
func (l *loop) part(c *Conn) {
	if c.state&recvArmed != 0 {
		l.cancel(c, kindRecv)
	}
	if c.state&pollArmed != 0 {
		l.cancel(c, kindPoll)
	}
	if c.out.head != nil || c.state&sendArmed != 0 {
		return
	}
	l.endWrite(c)
	c.state &^= full
	if c.state&roomArmed != 0 {
		l.cancel(c, kindRoom)
	}
	if c.state&inFlight != 0 || c.cancels > 0 || c.rare.pinned > 0 {
		return
	}
	if c.state&direct != 0 {
		// As long as it is in the table the socket stays open when the new owner
		// closes it, and the peer would wait for that.
		if l.place[0] = -1; l.r.UpdateFiles(c.slot, l.place[:]) != nil {
			l.later(c)
			return
		}
		c.state &^= direct
	}
	p := c.rare.parting
	p.front, p.gone = append(p.front, c.rare.kept...), true
	if c.state&layered != 0 {
		p.raw = c.rare.layer.in
	}
	c.cause = ErrHandedOver
	l.stats.HandedOver++
	l.finish(c)
}

// pass gives the descriptor of a connection that was to be handed over to who is to have
// it, or closes it when the connection has ended before.
func (l *loop) pass(c *Conn) {
	p := c.rare.parting
	c.rare.parting = nil
	if !p.gone {
		_ = l.r.CloseFd(int(c.fd))
		l.stats.HandOversLost++
		err := c.cause
		if err == nil {
			err = ErrClosed // by Abort(nil)
		}
		p.to.miss(err)
		return
	}
	_ = l.r.Forget(int(c.fd)) // an error: there was nothing to be forgotten
	to := &parted{fd: int(c.fd), front: p.front, errno: p.errno, remote: c.remote}
	if c.state&layered != 0 {
		to.layer, to.front, to.plain = c.rare.layer, p.raw, p.front
	}
	p.to.take(to)
}

// passAccepted gives an accepted connection to the listener that all of its kind are
// for. It has never been a Conn. It owns the descriptor.
func (l *loop) passAccepted(a arrival) {
	if l.draining && !l.retiring {
		l.stats.Dropped++
		_ = l.r.CloseFd(int(a.fd))
		l.giveBack()
		return
	}
	l.stats.Accepted++
	l.stats.Closed++
	if err := a.h.std.reserve(); err != nil {
		l.logRefused(err)
		l.stats.HandOversLost++
		if !a.isUnix {
			_ = l.r.SetLinger(int(a.fd), 0)
		}
		_ = l.r.CloseFd(int(a.fd))
	} else {
		l.stats.HandedOver++
		_ = l.r.Forget(int(a.fd))
		a.h.std.take(&parted{fd: int(a.fd), remote: Addr{}})
	}
	l.giveBack()
}

// turnDown resets a connection that a HandOverListener does not take.
func (l *loop) turnDown(c *Conn, err error) {
	l.logRefused(err)
	l.stats.HandOversLost++
	_ = c.SetLinger(0) // an error: Unix sockets know no reset
	l.abort(c, err)
}

// logRefused tells that connections are reset, since nobody accepts them.
func (l *loop) logRefused(err error) {
	now := l.clock()
	if now < l.refusedComplainAt {
		return
	}
	l.refusedComplainAt = plus(now, complainEvery)
	mend := "accept faster from the HandOverListener, or set its Backlog higher"
	if errors.Is(err, ErrClosed) {
		mend = "close the HandOverListener after the server that feeds it"
	}
	l.o.Logger.Warn("ringnet: connections that were to be handed over are reset", "loop", l.index, "err", err, "mend", mend)
}
