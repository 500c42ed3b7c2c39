//go:build linux

package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is one end of a TCP connection, or a listener. It behaves as Linux's does
// (net/ipv4/tcp.c) in what a program can see: which errno comes when, what a reset
// does to bytes that wait, which events wake whom.
type socket struct {
	name   string // in traces
	id     int    // of the peer that it belongs to
	server bool   // the end that the ring works on
	addr   netip.AddrPort
	link   *Link
	udp    *udp // of a UDP socket

	fd    int       // -1: none
	refs  int       // descriptor, places of the table, operations
	ops   []*op     // armed on it
	used  []uint64  // user data of operations that worked on it
	other *socket   // the end that it is connected to
	queue []*socket // of a listener: connections to accept

	in       pipe
	err      syscall.Errno // sk_err: told once, to whoever asks first
	rdShut   bool          // RCV_SHUTDOWN by shutdown(2)
	finSeen  bool          // RCV_SHUTDOWN by the peer's end
	wrShut   bool          // SEND_SHUTDOWN
	reset    bool          // TCP_CLOSE
	linger0  bool          // SO_LINGER with 0 seconds
	counted  bool          // among the open connections: it was accepted, or opened to connect
	released bool          // the last reference is gone
	nospace  bool          // SOCK_NOSPACE: somebody waits for room
	squeezed time.Duration // there is no room until then

	cutUnread bool // it was closed with bytes unread, so that the peer was reset

	notify func() // of a peer's end
	poked  bool
}

// pipe is what comes towards a socket.
type pipe struct {
	limit int       // of bytes on the wire and unread
	held  int       // these bytes
	wire  []segment // on the wire, in order
	ready []byte    // arrived
	last  time.Duration
}

// segment is something on the wire.
type segment struct {
	seq  uint64
	data []byte
	fin  bool
	rst  bool
	done func(copied bool) // of a zero-copy send: the memory is free
}

// Link is how long things take on the way, and in what pieces they come.
type Link struct {
	Latency, Jitter time.Duration
	Piece           int           // largest piece that arrives at once
	Stall           int           // in a thousand pieces, so many come late
	StallFor        time.Duration // by so much at most
}

func (s *socket) String() string { return s.name }

// ended reports that no more bytes come: receive answers 0 then.
func (s *socket) ended() bool { return s.finSeen || s.rdShut || s.reset }

// room is what a send could take now.
func (e *Engine) room(s *socket) int {
	if s.other == nil || e.now < s.squeezed {
		return 0
	}
	return max(0, s.other.in.limit-s.other.in.held)
}

// writeable is what poll means by room: a third of the whole (sk_stream_is_writeable).
func (e *Engine) writeable(s *socket) bool {
	return s.other != nil && e.room(s)*3 >= s.other.in.limit
}

// mask is what poll(2) would answer (tcp_poll).
func (e *Engine) mask(s *socket) uint32 {
	if s.udp != nil {
		return e.maskUDP(s)
	}
	if s.other == nil {
		if len(s.queue) > 0 {
			return unix.POLLIN
		}
		return 0
	}
	var m uint32
	if s.ended() && s.wrShut || s.reset {
		m |= unix.POLLHUP
	}
	if s.ended() {
		m |= unix.POLLIN | unix.POLLRDHUP
	}
	if len(s.in.ready) > 0 {
		m |= unix.POLLIN
	}
	if s.wrShut || s.reset || e.writeable(s) {
		m |= unix.POLLOUT
	} else {
		s.nospace = true
	}
	if s.err != 0 {
		m |= unix.POLLERR
	}
	return m
}

// transmit puts something on the wire from s to its other end.
func (e *Engine) transmit(s *socket, seg segment) {
	to := s.other
	at := e.now + s.link.Latency + e.upTo(s.link.Jitter)
	if s.link.Stall > 0 && e.rng.IntN(1000) < s.link.Stall {
		at += e.upTo(s.link.StallFor)
	}
	at = max(at, to.in.last)
	to.in.last = at
	e.seq++
	seg.seq = e.seq
	to.in.held += len(seg.data)
	to.in.wire = append(to.in.wire, seg)
	e.After(at-e.now, func() { e.arrive(to, seg.seq) })
}

// arrive is what the end of the way does with what comes.
func (e *Engine) arrive(s *socket, seq uint64) {
	if len(s.in.wire) == 0 || s.in.wire[0].seq != seq {
		return // dropped on the way
	}
	seg := s.in.wire[0]
	s.in.wire = s.in.wire[1:]
	if s.reset {
		e.drop(s, seg)
		return
	}
	switch {
	case seg.rst:
		e.Note("%s: reset arrives", s)
		s.err = unix.ECONNRESET
		if s.finSeen {
			s.err = unix.EPIPE
		}
		e.cut(s)
	case seg.fin:
		e.Note("%s: end of stream arrives", s)
		s.finSeen = true
		e.wake(s, 0)
	case s.released || s.rdShut && s.wrShut:
		// Nobody will ever read it, and the sender must hear that.
		e.Note("%s: %d bytes arrive for nobody", s, len(seg.data))
		e.drop(s, seg)
		if !s.released {
			s.err = unix.ECONNRESET
		}
		e.sendReset(s)
	default:
		e.Note("%s: %d bytes arrive", s, len(seg.data))
		s.in.ready = append(s.in.ready, seg.data...)
		if seg.done != nil {
			seg.done(false)
		}
		e.wake(s, unix.POLLIN)
	}
}

func (e *Engine) drop(s *socket, seg segment) {
	s.in.held -= len(seg.data)
	if seg.done != nil {
		seg.done(false)
	}
}

// sendReset ends the connection from the side of s, at once.
func (e *Engine) sendReset(s *socket) {
	if s.reset {
		return
	}
	// What waits to be sent is dropped; some of it was on its way already.
	to := s.other
	keep := e.rng.IntN(len(to.in.wire) + 1)
	for _, seg := range to.in.wire[keep:] {
		e.drop(to, seg)
	}
	to.in.wire = to.in.wire[:keep:keep]
	e.counts.Resets++
	e.Note("%s: sends a reset", s)
	e.transmit(s, segment{rst: true})
	e.cut(s)
}

// cut makes s a socket that is connected to nothing any more. What had arrived can
// still be read.
func (e *Engine) cut(s *socket) {
	s.reset = true
	for _, seg := range s.in.wire {
		e.drop(s, seg)
	}
	s.in.wire = nil
	// What it had sent is sent, but it does not wait for acknowledgements any more
	// (tcp_write_queue_purge).
	for i := range s.other.in.wire {
		if seg := &s.other.in.wire[i]; seg.done != nil {
			done := seg.done
			seg.data, seg.done = slices.Clone(seg.data), nil
			done(false)
		}
	}
	e.wake(s, 0)
}

// shutdown is shutdown(2).
func (e *Engine) shutdown(s *socket, how int) syscall.Errno {
	if s.other == nil || s.reset {
		return unix.ENOTCONN
	}
	if how == unix.SHUT_RD || how == unix.SHUT_RDWR {
		s.rdShut = true
	}
	if (how == unix.SHUT_WR || how == unix.SHUT_RDWR) && !s.wrShut {
		s.wrShut = true
		e.transmit(s, segment{fin: true})
	}
	e.wake(s, 0)
	return 0
}

// unref drops one reference. With the last one goes the socket (tcp_close).
func (e *Engine) unref(s *socket) {
	if s.refs--; s.refs > 0 {
		return
	}
	if s.refs < 0 {
		panic("sim: references of " + s.name)
	}
	s.released = true
	if s.server && len(s.used) > 0 && len(e.gone) < 64 {
		e.gone = append(e.gone, s.used...)
	}
	if s.udp != nil {
		return
	}
	if s.other == nil {
		for _, c := range s.queue {
			e.sendReset(c)
			c.released = true
		}
		s.queue = nil
		e.listeners = withoutSocket(e.listeners, s)
		return
	}
	switch {
	case s.reset:
	case len(s.in.ready) > 0 || s.linger0:
		s.cutUnread = len(s.in.ready) > 0
		s.in.held -= len(s.in.ready)
		s.in.ready = nil
		e.sendReset(s)
	case !s.wrShut:
		s.wrShut = true
		e.transmit(s, segment{fin: true})
	}
}

func withoutSocket(all []*socket, s *socket) []*socket {
	for i := range all {
		if all[i] == s {
			return append(all[:i], all[i+1:]...)
		}
	}
	return all
}

// takeBytes moves what has arrived into b, and makes room by that.
func (e *Engine) takeBytes(s *socket, b []byte) int {
	n := copy(b, s.in.ready)
	s.in.ready = s.in.ready[n:]
	if len(s.in.ready) == 0 {
		s.in.ready = nil
	}
	s.in.held -= n
	if n > 0 && s.other.nospace {
		e.After(s.link.Latency, func() { e.space(s.other) })
	}
	return n
}

// space wakes who waits for room, if there is some (sk_stream_write_space).
func (e *Engine) space(s *socket) {
	if !s.nospace || !e.writeable(s) {
		return
	}
	s.nospace = false
	e.wake(s, unix.POLLOUT)
}

// squeeze takes the room away for a while, as a want of memory does.
func (e *Engine) squeeze(s *socket) {
	d := e.upTo(500 * time.Microsecond)
	s.squeezed = e.now + d
	s.nospace = true
	e.After(d, func() { e.space(s) })
}

// receiveError is how a receive ends that finds no bytes; ok is false when it has
// to wait.
func (s *socket) receiveError() (errno syscall.Errno, ok bool) {
	if s.err != 0 {
		errno, s.err = s.err, 0
		return errno, true
	}
	return 0, s.ended()
}

// sendError is why nothing can be sent.
func (s *socket) sendError() syscall.Errno {
	if s.err != 0 {
		errno := s.err
		s.err = 0
		return errno
	}
	if s.wrShut || s.reset {
		return unix.EPIPE
	}
	return 0
}

func newSocket(name string, id int, limit int, link *Link) *socket {
	return &socket{name: fmt.Sprint(name, id), id: id, fd: -1, link: link, in: pipe{limit: limit}}
}
