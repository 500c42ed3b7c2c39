//go:build linux

package sim

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// ListenTCP implements engine.Sockets.
func (e *Engine) ListenTCP(addr netip.AddrPort, backlog int, shared, v6only bool) (int, error) {
	s := newSocket("listener", len(e.listeners), 0, nil)
	if addr.Port() == 0 {
		e.lastPort++
		addr = netip.AddrPortFrom(addr.Addr(), e.lastPort)
	}
	s.addr = addr
	e.listeners = append(e.listeners, s)
	return e.newFd(s), nil
}

// LocalAddr implements engine.Sockets.
func (e *Engine) LocalAddr(fd int) (netip.AddrPort, error) {
	s := e.socket(fd)
	switch {
	case s == nil:
		return netip.AddrPort{}, unix.EBADF
	case s.other == nil && !s.counted:
		return s.addr, nil
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), e.lastPort), nil
}

// PeerAddr implements engine.Sockets.
func (e *Engine) PeerAddr(fd int) (netip.AddrPort, error) {
	s := e.socket(fd)
	switch {
	case s == nil:
		return netip.AddrPort{}, unix.EBADF
	case s.other == nil || s.reset:
		return netip.AddrPort{}, unix.ENOTCONN
	}
	return s.other.addr, nil
}

// SetInt implements engine.Sockets.
func (e *Engine) SetInt(fd, level, name, value int) error {
	if e.socket(fd) == nil {
		e.Violate("an option is set on descriptor %d, which is not open", fd)
		return unix.EBADF
	}
	return nil
}

// GetInt implements engine.Sockets.
func (e *Engine) GetInt(fd, level, name int) (int, error) {
	if e.socket(fd) == nil {
		e.Violate("an option is read from descriptor %d, which is not open", fd)
		return 0, unix.EBADF
	}
	return 0, nil
}

// SetLinger implements engine.Sockets.
func (e *Engine) SetLinger(fd, seconds int) error {
	s := e.socket(fd)
	if s == nil {
		e.Violate("SO_LINGER is set on descriptor %d, which is not open", fd)
		return unix.EBADF
	}
	s.linger0 = seconds == 0
	return nil
}

// called finds the socket of a direct call, on which no operation of that kind may
// be under way.
func (e *Engine) called(fd int, what string, excludes func(*op) bool) *socket {
	s := e.socket(fd)
	if s == nil {
		e.Violate("%s on descriptor %d, which is not open", what, fd)
		return nil
	}
	for _, o := range s.ops {
		if excludes(o) {
			e.Violate("%s on %s while %s is under way", what, s, o)
		}
	}
	return s
}

func isRecv(o *op) bool { return o.code == sys.IORING_OP_RECV }

// Recv implements engine.Sockets.
func (e *Engine) Recv(fd int, b []byte) (int, syscall.Errno) {
	s := e.called(fd, "recv(2)", func(o *op) bool { return isRecv(o) && len(b) > 0 })
	if s == nil {
		return -1, unix.EBADF
	}
	if e.chance(e.faults.RecvEINTR) {
		e.counts.RecvErrors++
		return -1, unix.EINTR
	}
	if len(s.in.ready) == 0 {
		errno, ok := s.receiveError()
		if !ok {
			errno = unix.EAGAIN
		}
		e.Note("%s: recv(2): %v", s, errno)
		if errno != 0 {
			return -1, errno
		}
		return 0, 0
	}
	if len(b) == 0 {
		return 0, 0 // bytes come before an error
	}
	n := min(len(b), len(s.in.ready))
	short := n > 1 && e.chance(e.faults.ShortRecv)
	if short {
		// recv(2) stops short of what has arrived only when the rest arrives just
		// then, and that is an edge for those who poll.
		e.counts.ShortResults++
		n = 1 + e.rng.IntN(n-1)
	}
	e.takeBytes(s, b[:n])
	e.Note("%s: recv(2): %d of %d", s, n, n+len(s.in.ready))
	if short {
		e.wake(s, unix.POLLIN)
	}
	return n, 0
}

// AtEnd implements engine.Sockets.
func (e *Engine) AtEnd(fd int) bool {
	s := e.socket(fd)
	return s != nil && len(s.in.ready) == 0 && s.err == 0 && s.ended()
}

// Send implements engine.Sockets.
func (e *Engine) Send(fd int, b []byte, flags int) (int, syscall.Errno) {
	return e.sendNow(fd, [][]byte{b}, "send(2)")
}

// SendMessage implements engine.Sockets.
func (e *Engine) SendMessage(fd int, m *sys.Message, flags int) (int, syscall.Errno) {
	pieces := make([][]byte, m.Len())
	for i := range pieces {
		pieces[i] = m.Piece(i)
	}
	return e.sendNow(fd, pieces, "sendmsg(2)")
}

func (e *Engine) sendNow(fd int, pieces [][]byte, what string) (int, syscall.Errno) {
	s := e.called(fd, what, (*op).isSend)
	if s == nil {
		return -1, unix.EBADF
	}
	if len(pieces) == 1 {
		var ok bool
		if pieces[0], ok = e.mapped(pieces[0]); !ok {
			return -1, unix.EFAULT
		}
	}
	n, errno := e.put(s, pieces, nil)
	if e.Tracing() {
		e.Note("%s: %s: %d of %d, %v", s, what, n, total(pieces), errno)
	}
	if errno != 0 {
		return -1, errno
	}
	return n, 0
}

// Shutdown implements engine.Sockets.
func (e *Engine) Shutdown(fd, how int) syscall.Errno {
	s := e.called(fd, "shutdown(2)", func(*op) bool { return false })
	if s == nil {
		return unix.EBADF
	}
	errno := e.shutdown(s, how)
	e.Note("%s: shutdown(2) %d: %v", s, how, errno)
	e.host.Deferred(len(e.work) > 0)
	return errno
}

// Unsent implements engine.Sockets.
func (e *Engine) Unsent(fd int) (int, error) {
	s := e.called(fd, "ioctl(2)", func(*op) bool { return false })
	if s == nil {
		return 0, unix.EBADF
	}
	if s.other == nil || s.reset {
		return 0, nil
	}
	return s.other.in.held, nil
}

// Forget implements engine.Sockets. From then on the world has the descriptor.
func (e *Engine) Forget(fd int) syscall.Errno {
	s := e.called(fd, "giving away", func(*op) bool { return true })
	if s == nil {
		return unix.EBADF
	}
	for _, place := range e.table {
		if place == s {
			e.Violate("%s is given away, and is in the table of direct descriptors", s)
		}
	}
	e.Note("%s: descriptor %d is given away", s, fd)
	e.fds[fd-firstFd] = nil
	s.fd = -1
	p := e.newPeer(s)
	if e.OnForget == nil {
		e.Violate("%s is given away to nobody", s)
		p.Close()
		return 0
	}
	e.OnForget(fd, p)
	return 0
}

// CloseFd implements engine.Sockets.
func (e *Engine) CloseFd(fd int) syscall.Errno {
	s := e.called(fd, "close(2)", func(*op) bool { return true })
	if s == nil {
		return unix.EBADF
	}
	e.Note("%s: close(2) of descriptor %d", s, fd)
	e.fds[fd-firstFd] = nil
	s.fd = -1
	if s.counted {
		e.openConns--
	}
	e.unref(s)
	return 0
}
