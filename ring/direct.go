//go:build linux

package ring

import (
	"net/netip"
	"syscall"
)

// The calls below go around the queues, straight to the engine: for set-up, and
// where one call is cheaper than an entry and a completion. They never block.
// Only on the ring's goroutine, except the ones about listeners.

// Accept takes a connection from a listener that does not block, and gives its
// descriptor, made with SOCK_NONBLOCK and SOCK_CLOEXEC; EAGAIN when none waits. The
// caller owns the descriptor.
func (r *Ring) Accept(fd int) (int, syscall.Errno) { return r.eng.Accept(fd) }

// Recv receives into b; EAGAIN when nothing is there, 0 bytes at end of stream.
// No receive may be armed on fd.
func (r *Ring) Recv(fd int, b []byte) (int, syscall.Errno) { return r.eng.Recv(fd, b) }

// AtEnd reports that a stream has nothing left to be received and is ended by its
// peer. Other than Recv also while a receive is armed.
func (r *Ring) AtEnd(fd int) bool { return r.eng.AtEnd(fd) }

// Send sends what it can of b; EAGAIN when that is nothing. No send may be in
// flight on fd.
func (r *Ring) Send(fd int, b []byte, flags int) (int, syscall.Errno) {
	return r.eng.Send(fd, b, flags)
}

// SendMessage is Send for a vector.
func (r *Ring) SendMessage(fd int, m Message, flags int) (int, syscall.Errno) {
	return r.eng.SendMessage(fd, m.m, flags)
}

// Shutdown is shutdown(2). With unix.SHUT_RDWR it completes an armed receive with
// 0 and a waiting send with EPIPE.
func (r *Ring) Shutdown(fd, how int) syscall.Errno { return r.eng.Shutdown(fd, how) }

// Disconnect resets a TCP connection and drops what of it is not acknowledged; the
// descriptor stays. Notifications of zero-copy sends come then.
func (r *Ring) Disconnect(fd int) syscall.Errno { return r.eng.Disconnect(fd) }

// Unsent is how many bytes that were sent on a stream the peer has not taken yet.
func (r *Ring) Unsent(fd int) (int, error) { return r.eng.Unsent(fd) }

// ReadFile reads of a regular file at an offset what is in the page cache: EAGAIN
// when it is not, another errno when this file or kernel cannot tell.
func (r *Ring) ReadFile(fd int, b []byte, offset int64) (int, syscall.Errno) {
	return r.eng.ReadFile(fd, b, offset)
}

// SendFile sends n bytes of a file from offset on (sendfile(2)). The socket must
// not block; for what is not in the page cache it waits for the disk.
func (r *Ring) SendFile(fd, file int, offset int64, n int) (int, syscall.Errno) {
	return r.eng.SendFile(fd, file, offset, n)
}

// FileBytes is the size of a file now.
func (r *Ring) FileBytes(file int) (int64, syscall.Errno) { return r.eng.FileBytes(file) }

// Resident reports that all of mem, at most 4 MiB of what MapFile returned, is in
// the page cache.
func (r *Ring) Resident(mem []byte) bool { return r.eng.Resident(mem) }

// CloseFd closes a descriptor. Nothing may be in flight on it: a close cancels
// nothing, and operations of the old owner would go on under a number that may
// soon be somebody else's.
func (r *Ring) CloseFd(fd int) syscall.Errno { return r.eng.CloseFd(fd) }

// Forget gives a descriptor away that stays open: from then on it is the caller's to
// use by other means than this ring, on any goroutine. Nothing may be in flight on it.
func (r *Ring) Forget(fd int) syscall.Errno { return r.eng.Forget(fd) }

// ListenTCP opens a TCP listener; shared sets SO_REUSEPORT, so that several rings
// can listen on one port. On any goroutine. The caller owns the descriptor.
func (r *Ring) ListenTCP(addr netip.AddrPort, backlog int, shared, v6only bool) (int, error) {
	return r.eng.ListenTCP(addr, backlog, shared, v6only)
}

// LocalAddr is the address that fd is bound to. On any goroutine.
func (r *Ring) LocalAddr(fd int) (netip.AddrPort, error) { return r.eng.LocalAddr(fd) }

// PeerAddr is the address that fd is connected to. On any goroutine.
func (r *Ring) PeerAddr(fd int) (netip.AddrPort, error) { return r.eng.PeerAddr(fd) }

// SetInt sets an integer socket option. On any goroutine.
func (r *Ring) SetInt(fd, level, name, value int) error { return r.eng.SetInt(fd, level, name, value) }

// GetInt reads an integer socket option. On any goroutine.
func (r *Ring) GetInt(fd, level, name int) (int, error) { return r.eng.GetInt(fd, level, name) }

// SetLinger sets SO_LINGER in seconds; negative turns it off. On any goroutine.
func (r *Ring) SetLinger(fd, seconds int) error { return r.eng.SetLinger(fd, seconds) }
