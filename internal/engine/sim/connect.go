//go:build linux

package sim

import (
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// Answer is what becomes of a connect.
type Answer struct {
	After time.Duration // so long it takes; negative: nothing ever comes back
	Errno syscall.Errno // 0: it succeeds
	Route               // of the connection then
	Peer  func(*Peer)   // is called with its other end
}

// kernelPatience is when the kernel itself gives a connect up (tcp_syn_retries).
const kernelPatience = 130 * time.Second

// OpenTCP implements engine.Sockets.
func (e *Engine) OpenTCP(to, from netip.AddrPort) (int, error) {
	if e.o.Descriptors > 0 && e.openConns >= e.o.Descriptors {
		e.counts.ConnectErrors++
		return -1, unix.EMFILE
	}
	s := newSocket("dialler", int(to.Port()), 0, nil)
	s.server, s.counted = true, true
	s.addr = from
	e.openConns++
	fd := e.newFd(s)
	e.Note("%s is descriptor %d", s, fd)
	return fd, nil
}

// issueConnect begins a connect. What becomes of it is for Answer to say.
func (e *Engine) issueConnect(o *op) {
	s := o.sock
	to, ok := sys.ParseSockaddr(sys.Bytes(o.entry.Addr, int(o.entry.Off)))
	if !ok || !s.counted || s.other != nil || len(s.ops) > 0 {
		e.Violate("%s: to %v, on a socket that is not new", o, to)
		e.refuse(o, unix.EINVAL)
		return
	}
	e.arm(o)
	a := Answer{Errno: unix.ECONNREFUSED}
	if e.OnConnect != nil {
		a = e.OnConnect(to)
	}
	if a.After < 0 {
		a.After, a.Errno = kernelPatience, unix.ETIMEDOUT
	}
	e.Note("%s: to %v, in %v: %v", o, to, a.After, a.Errno)
	if a.After == 0 {
		e.answer(o, to, a)
		e.connect(o)
		return
	}
	e.After(a.After, func() {
		if s.released {
			return
		}
		e.answer(o, to, a)
		e.queue(o)
	})
}

// answer is what comes back from the network.
func (e *Engine) answer(o *op, to netip.AddrPort, a Answer) {
	s := o.sock
	o.sent = 1 // there is an outcome
	if s.err = a.Errno; a.Errno != 0 {
		e.counts.ConnectErrors++
		return
	}
	e.counts.Connects++
	link := a.Link
	p := newSocket("peer", s.id, a.RecvBytes, &link)
	s.in.limit, s.link = a.SendBytes, &link
	p.other, s.other = s, p
	p.addr, p.refs = to, 1
	a.Peer(e.newPeer(p))
}

// connect does what a connect in flight can do now.
func (e *Engine) connect(o *op) {
	if o.sent == 0 {
		return
	}
	s := o.sock
	errno := s.err
	s.err = 0
	if errno == 0 && s.reset {
		errno = unix.ECONNRESET
	}
	e.finish(o, -int32(errno), 0)
}

// newPeer is the handle to a peer's end.
func (e *Engine) newPeer(s *socket) *Peer {
	peer := &Peer{e: e, s: s}
	s.notify = func() {
		if peer.Notify != nil {
			peer.Notify()
		}
	}
	return peer
}

// The simulated network is one of TCP; Unix sockets take no time, and are tested
// on the kernel's.

// ListenUnix implements engine.Sockets.
func (e *Engine) ListenUnix(string, int, int) (int, error) { return -1, unix.EAFNOSUPPORT }

// OpenUnix implements engine.Sockets.
func (e *Engine) OpenUnix(string) (int, error) { return -1, unix.EAFNOSUPPORT }

// ConnectUnix implements engine.Sockets.
func (e *Engine) ConnectUnix(int, string) syscall.Errno { return unix.EAFNOSUPPORT }

// LocalPath implements engine.Sockets.
func (e *Engine) LocalPath(int) (string, error) { return "", unix.EAFNOSUPPORT }

// PeerPath implements engine.Sockets.
func (e *Engine) PeerPath(int) (string, error) { return "", unix.EAFNOSUPPORT }

// PeerCredentials implements engine.Sockets.
func (e *Engine) PeerCredentials(int) (pid int, uid, gid uint32, err error) {
	return 0, 0, 0, unix.EAFNOSUPPORT
}
