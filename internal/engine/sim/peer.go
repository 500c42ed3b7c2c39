//go:build linux

package sim

import (
	"io"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Peer is a client on the simulated network, or what listens there for connects, or who
// was given a descriptor of the program (Engine.OnForget). Its methods are called within events
// of the world: functions given to After, Dial or set as Notify.
type Peer struct {
	// Notify is called when there may be something to read or room to write.
	Notify func()

	e *Engine
	s *socket
}

// Route is how a peer is connected.
type Route struct {
	Link
	// RecvBytes and SendBytes are how much the network holds towards the peer and
	// from it.
	RecvBytes, SendBytes int
}

// PeerAddr is the address of the peer that was dialled with an id.
func PeerAddr(id int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, 0}), uint16(id))
}

// Dial connects a peer to a listener, and calls f with it, or with nil when nobody
// listens. id is its port.
func (e *Engine) Dial(id int, r Route, f func(*Peer)) {
	if len(e.listeners) == 0 {
		e.Note("peer%d: connection refused", id)
		f(nil)
		return
	}
	link := r.Link
	ln := e.listeners[id%len(e.listeners)]
	p, s := newSocket("peer", id, r.RecvBytes, &link), newSocket("server", id, r.SendBytes, &link)
	p.other, s.other, s.server = s, p, true
	p.addr, p.refs = PeerAddr(id), 1
	ln.queue = append(ln.queue, s)
	e.Note("peer%d connects", id)
	e.wake(ln, unix.POLLIN)
	f(e.newPeer(p))
}

// poke has the peer look at its socket soon; often at once, sometimes not.
func (s *socket) poke(e *Engine) {
	if s.poked || s.released {
		return
	}
	s.poked = true
	e.After(e.upTo(20*time.Microsecond), func() {
		s.poked = false
		if !s.released {
			s.notify()
		}
	})
}

// Read reads what has come: EAGAIN when there is nothing, io.EOF at the end.
func (p *Peer) Read(b []byte) (int, error) {
	if len(p.s.in.ready) == 0 {
		errno, ok := p.s.receiveError()
		switch {
		case !ok:
			return 0, unix.EAGAIN
		case errno != 0:
			return 0, errno
		case p.s.reset && !p.s.finSeen:
			return 0, unix.ECONNRESET
		}
		return 0, io.EOF
	}
	return p.e.takeBytes(p.s, b), nil
}

// Write writes what there is room for; EAGAIN when that is nothing.
func (p *Peer) Write(b []byte) (int, error) {
	if errno := p.s.sendError(); errno != 0 {
		return 0, errno
	}
	n := min(len(b), p.e.room(p.s))
	if n < len(b) {
		p.s.nospace = true
	}
	if n == 0 {
		return 0, syscall.EAGAIN
	}
	for left := b[:n]; len(left) > 0; {
		m := len(left)
		if m > p.s.link.Piece {
			m = 1 + p.e.rng.IntN(p.s.link.Piece)
		}
		p.e.transmit(p.s, segment{data: append([]byte(nil), left[:m]...)})
		left = left[m:]
	}
	return n, nil
}

// CloseWrite ends the peer's direction.
func (p *Peer) CloseWrite() { _ = p.e.shutdown(p.s, unix.SHUT_WR) }

// Close closes the peer's socket. Bytes that it has not read make that a reset.
func (p *Peer) Close() {
	if !p.s.released {
		if p.s.counted {
			p.e.openConns-- // the program gave it away
		}
		p.e.unref(p.s)
	}
}

// Reset closes it with a reset.
func (p *Peer) Reset() {
	p.s.linger0 = true
	p.Close()
}

// Closed reports that Close or Reset was called.
func (p *Peer) Closed() bool { return p.s.released }

// WasReset reports that the connection was reset, by whichever side.
func (p *Peer) WasReset() bool { return p.s.reset }
