//go:build linux

package net

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	stdnet "net"
	"sync"
	"time"

	"example.com/ringnet/bufring"
)

// A session can stand between a connection's socket and its handler: TLS. The handler
// has plain bytes, and everything else of the connection (timeouts, water marks, closing)
// goes by those of the socket.
//
//	         ┌── layer.in ──► session.Read ──► OnData
//	socket ──┤                                              (and both ways in a
//	         └── outQueue ◄── session.Write ◄── Conn.Write   handshake, see there)
//
// A session is written for goroutines and blocks where it has to wait. Here it never
// does. Reading answers errWouldBlock when nothing is there, which crypto/tls takes for
// a deadline that has passed, and goes on where it was with the next call, also in the
// middle of a record. Writing only puts into the connection's output. So no lock of the
// session is held when anybody else has the thread, and it may be used from callbacks
// and fibers alike. Only a handshake cannot be taken up again; it runs on a coroutine.

// session is what a layer needs of a *tls.Conn.
type session interface {
	stdnet.Conn
	Handshake() error
	CloseWrite() error
	ConnectionState() tls.ConnectionState
}

// layer is what a connection has that has a session.
type layer struct {
	c      *Conn
	s      session
	greets *handshake  // it is not agreed upon yet
	std    stdnet.Conn // what is below the session instead of c, which was handed over

	in    []byte        // received, and not taken by the session
	lease bufring.Lease // where that lies, if it is not a copy
	held  int           // how much is counted as held by the loop

	unsealed int // segments of output that the session has not had

	ended bool // the socket gives nothing more
	said  bool // the session's end has been sent, or must not be any more
}

// greets reports that c is not known to its handler yet.
func (c *Conn) greets() bool { return c.state&layered != 0 && c.rare.layer.greets != nil }

// unwrap takes what was received for c's session. It owns the lease.
func (l *loop) unwrap(c *Conn, lease bufring.Lease) {
	y := c.rare.layer
	if c.state&sawEOF != 0 {
		l.put(lease) // nothing counts behind the session's end
		return
	}
	if len(y.in) > 0 {
		y.keep(lease.Bytes())
		l.put(lease)
		l.checkInput()
	} else {
		y.in, y.lease = lease.Bytes(), lease
	}
	l.unwrapKept(c)
}

// unwrapLater has c's session given b, of which it takes a copy, after the callback that
// is running.
func (l *loop) unwrapLater(c *Conn, b []byte) {
	c.rare.layer.keep(b)
	c.state |= offerPending
	l.mark(c)
}

// unwrapEnd takes the end of what the session reads from.
func (l *loop) unwrapEnd(c *Conn) {
	c.rare.layer.ended = true
	l.unwrapKept(c)
}

// unwrapKept has the session read what there is for it.
func (l *loop) unwrapKept(c *Conn) {
	y := c.rare.layer
	defer y.settle() // also if a callback panics
	if y.greets != nil && !y.greets.goOn() {
		return
	}
	for c.state&(paused|sawEOF|closing|dead) == 0 && l.unwrapSome(c) {
	}
	l.mark(c)
}

// unwrapSome lends the handler a buffer with what the session reads. It reports whether
// there may be more.
func (l *loop) unwrapSome(c *Conn) bool {
	y := c.rare.layer
	lease := l.copyBuffer(len(y.in))
	b, n := lease.Bytes(), 0
	var err error
	for n < len(b) && err == nil {
		var m int
		m, err = y.s.Read(b[n:])
		n += m
	}
	if n > 0 {
		c.state &^= offerPending // what is kept goes along
	}
	if n == 0 {
		l.put(lease)
	} else if lease = lease.Slice(0, n); c.state&hasKept != 0 {
		c.keep(append(c.rare.kept, lease.Bytes()...))
		l.put(lease)
		l.offerKept(c)
	} else {
		l.lend(c, lease)
	}
	switch {
	case err == nil:
		return true
	case err == errWouldBlock:
	case err == io.EOF:
		l.onEOF(c)
	default:
		l.sessionFailed(c, "read", err)
	}
	return false
}

// sessionFailed ends a connection because of its session. An alert may wait in the
// output, so that goes out; nothing may follow it.
func (l *loop) sessionFailed(c *Conn, op string, err error) {
	c.rare.layer.said = err != errCutShort
	l.close(c, &OpError{Op: op, Addr: c.remote, Err: err})
}

// settle keeps a copy of what the session has not taken.
func (y *layer) settle() {
	if len(y.in) == 0 || y.c.state&sawEOF != 0 {
		y.in = nil
	}
	if y.lease.Valid() {
		y.in = bytes.Clone(y.in)
		y.c.l.put(y.lease)
		y.lease = bufring.Lease{}
	}
	y.count(len(y.in))
}

// keep puts b, of which it takes a copy, behind what the session has not taken.
func (y *layer) keep(b []byte) {
	y.in = append(y.in, b...)
	y.count(len(y.in))
}

// forget drops it.
func (y *layer) forget() {
	y.in = nil
	y.count(0)
}

// count tells the loop how much is held.
func (y *layer) count(n int) {
	y.c.l.holdInput(y.c, n-y.held)
	y.held = n
}

// What is sent goes through the session at once, if nothing is before it that has to
// wait: a file, or large memory of blocking code, of which the session has a piece
// whenever the peer has taken the one before. What comes behind such waits, too, as it
// is, since the session numbers what it is given. So the output is
//
//	head ─► sealed, to be sent ─► unready: for the session ◄─ tail
//
// and what the session itself has to say goes between the two.

// sealAtOnce is how large a piece of memory is that the session is given.
const sealAtOnce = 64 << 10

// seals reports that what is sent goes through c's session now.
func (c *Conn) seals() bool { return c.state&layered != 0 && c.rare.layer.unsealed == 0 }

// seal sends b through c's session.
func (l *loop) seal(c *Conn, b []byte) {
	l.mark(c)
	if c.state&dead != 0 {
		return
	}
	if _, err := c.rare.layer.s.Write(b); err != nil {
		l.abort(c, &OpError{Op: "write", Addr: c.remote, Err: err}) // unless the socket has failed, and that has ended c
	}
}

// writeLayered sends a copy of b.
func (l *loop) writeLayered(c *Conn, b []byte) {
	if c.seals() {
		l.seal(c, b)
		return
	}
	l.mark(c)
	if t := c.out.tail; t.copied {
		n := t.append(b)
		c.out.bytes += n
		l.hold(t, n)
		b = b[n:]
	}
	for len(b) > 0 {
		lease, n := l.copyBuffer(len(b)).Slice(0, 0).Append(b)
		l.enqueueUnsealed(c, segment{mem: lease.Bytes(), lease: lease, copied: true})
		b = b[n:]
	}
	l.checkHigh(c)
}

// enqueueUnsealed is enqueue for what the session has not had, if there is one.
func (l *loop) enqueueUnsealed(c *Conn, s segment) {
	if c.state&layered != 0 {
		s.unready = true
		c.rare.layer.unsealed++
	}
	l.enqueue(c, s)
}

// sealAhead gives the session a piece of the memory that is next.
func (l *loop) sealAhead(c *Conn) {
	s, tail := c.out.split()
	for room := sealAtOnce; s != nil && s.file == nil && room > 0 && c.state&dead == 0; {
		n := min(len(s.mem), room)
		l.seal(c, s.mem[:n])
		room -= n
		s.mem = s.mem[n:]
		c.out.bytes -= n
		l.hold(s, -n)
		if len(s.mem) == 0 {
			next := s.next
			l.freeSegment(c, s, nil)
			s = next
		}
	}
	c.out.join(s, tail)
}

// sealPiece gives the session a piece of the file that is next, and returns how much of
// the turn that was. The file stays in the output until its last piece has gone.
func (l *loop) sealPiece(c *Conn, s *segment) int {
	if len(s.mem) == 0 && !l.fill(c, s) {
		return filePieceSmall // a read for which the disk is asked takes as long
	}
	n := len(s.mem)
	l.seal(c, s.mem)
	s.mem = nil
	l.dropChunk(s.file)
	s.file.off += int64(n)
	l.stats.FileBytesSent += uint64(n)
	return n
}

// split takes off what the session has not had; join puts it back.
func (q *outQueue) split() (head, tail *segment) {
	if q.tail == nil || !q.tail.unready {
		return nil, nil
	}
	head, tail = q.head, q.tail
	if head.unready {
		q.head, q.tail = nil, nil
		return head, tail
	}
	last := head
	for !last.next.unready {
		last = last.next
	}
	head, last.next, q.tail = last.next, nil, last
	return head, tail
}

func (q *outQueue) join(head, tail *segment) {
	switch {
	case head == nil:
		return
	case q.tail == nil:
		q.head = head
	default:
		q.tail.next = head
	}
	q.tail = tail
}

// sayEnd has the session tell the peer that nothing more comes: with TLS, close_notify.
// It reports whether there is something to be sent now.
func (l *loop) sayEnd(c *Conn) bool {
	y := c.rare.layer
	if y.greets != nil || y.unsealed > 0 || y.said {
		return false
	}
	y.said = true
	if c.out.head == nil && c.state&sawEOF != 0 && c.cause == nil {
		c.cause = io.EOF // the peer may have gone, and it is no failure if it does not get this
	}
	_ = y.s.CloseWrite() // an error: the output does not take it, and c ends
	return c.out.head != nil
}

// errWouldBlock is what a session is answered that reads and finds nothing.
var errWouldBlock error = wouldBlock{}

// wouldBlock is a std net.Error that will pass.
type wouldBlock struct{}

func (wouldBlock) Error() string   { return "ringnet: nothing has come" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }

// errCutShort says that the stream has ended and the session has not: somebody between
// may have cut it. It is io.ErrUnexpectedEOF with that to read, and not that itself,
// since crypto/tls makes io.EOF of it between two records.
var errCutShort = fmt.Errorf("the peer has ended the stream without saying so in TLS (close_notify): %w", io.ErrUnexpectedEOF)

// rawConn is the socket as a session sees it. The functions of a tls.Config see it too,
// as ClientHelloInfo.Conn.
type rawConn struct{ y *layer }

// Read implements std's net.Conn.
func (r rawConn) Read(p []byte) (int, error) {
	y := r.y
	if y.std != nil {
		return y.std.Read(p)
	}
	for {
		if n := copy(p, y.in); n > 0 {
			y.in = y.in[n:]
			return n, nil
		}
		switch {
		case y.c.state&(closing|dead|finished) != 0:
			return 0, ErrClosed
		case y.ended:
			return 0, errCutShort
		case y.greets == nil:
			return 0, errWouldBlock
		case !y.greets.wait():
			return 0, ErrClosed
		}
	}
}

// Write implements std's net.Conn. It takes everything, and never waits.
func (r rawConn) Write(b []byte) (int, error) {
	if r.y.std != nil {
		return r.y.std.Write(b)
	}
	c := r.y.c
	if c.state&(dead|finished|writeEnded) != 0 {
		return 0, ErrClosed
	}
	head, tail := c.out.split()
	c.l.writeRaw(c, b)
	c.out.join(head, tail)
	return len(b), nil
}

// Close implements std's net.Conn.
func (r rawConn) Close() error {
	if r.y.std != nil {
		return r.y.std.Close()
	}
	r.y.c.l.abort(r.y.c, ErrClosed)
	return nil
}

// LocalAddr implements std's net.Conn.
func (r rawConn) LocalAddr() stdnet.Addr {
	if r.y.std != nil {
		return r.y.std.LocalAddr()
	}
	return r.y.c.LocalAddr().std()
}

// RemoteAddr implements std's net.Conn.
func (r rawConn) RemoteAddr() stdnet.Addr {
	if r.y.std != nil {
		return r.y.std.RemoteAddr()
	}
	return r.y.c.RemoteAddr().std()
}

// SetDeadline implements std's net.Conn. On a loop it does nothing: nothing there ever
// waits.
func (r rawConn) SetDeadline(t time.Time) error {
	if r.y.std != nil {
		return r.y.std.SetDeadline(t)
	}
	return nil
}

// SetReadDeadline implements std's net.Conn, see SetDeadline.
func (r rawConn) SetReadDeadline(t time.Time) error {
	if r.y.std != nil {
		return r.y.std.SetReadDeadline(t)
	}
	return nil
}

// SetWriteDeadline implements std's net.Conn, see SetDeadline.
func (r rawConn) SetWriteDeadline(t time.Time) error {
	if r.y.std != nil {
		return r.y.std.SetWriteDeadline(t)
	}
	return nil
}

// plainFront is a session that was handed over, with what it had given before. It is
// for goroutines.
type plainFront struct {
	session
	mu   sync.Mutex
	rest []byte
}

// Read implements net.Conn of std.
func (f *plainFront) Read(b []byte) (int, error) {
	f.mu.Lock()
	n := copy(b, f.rest)
	f.rest = f.rest[n:]
	f.mu.Unlock()
	if n > 0 || len(b) == 0 {
		return n, nil
	}
	return f.session.Read(b)
}
