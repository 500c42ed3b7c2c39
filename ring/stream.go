//go:build linux

package ring

import (
	"net/netip"
	"syscall"

	"example.com/ringnet/internal/sys"
)

// Why [Ring.ListenUnix] is refused, beside errnos; each comes with EADDRINUSE.
var (
	ErrSocketInUse = sys.ErrSocketInUse
	ErrNoSocket    = sys.ErrNoSocket
)

// ListenUnix opens a non-blocking Unix stream listener at a path, or at an abstract
// name that begins with '@'. A socket file that nobody listens at any more is
// replaced. Unless it is negative, mode becomes the file's mode before anybody can
// connect. The caller owns the descriptor, and the file.
func (r *Ring) ListenUnix(path string, backlog, mode int) (int, error) {
	return r.eng.ListenUnix(path, backlog, mode)
}

// LocalPath is the path or '@' name that a Unix socket is bound to; "" if it has
// none.
func (r *Ring) LocalPath(fd int) (string, error) { return r.eng.LocalPath(fd) }

// PeerPath is the path or '@' name of the Unix socket that fd is connected to.
func (r *Ring) PeerPath(fd int) (string, error) { return r.eng.PeerPath(fd) }

// PeerCredentials are the process, user and group that connected a Unix socket, or
// listen at it.
func (r *Ring) PeerCredentials(fd int) (pid int, uid, gid uint32, err error) {
	return r.eng.PeerCredentials(fd)
}

// OpenTCP opens a non-blocking TCP socket, to be connected to an address of to's
// family ([Entry.PrepareConnect]), bound to from unless that is the zero AddrPort.
// The caller owns the descriptor.
func (r *Ring) OpenTCP(to, from netip.AddrPort) (int, error) { return r.eng.OpenTCP(to, from) }

// OpenUnix opens a non-blocking Unix stream socket, bound to the path or '@' name
// from unless that is "". The caller owns the descriptor, and the file.
func (r *Ring) OpenUnix(from string) (int, error) { return r.eng.OpenUnix(from) }

// ConnectUnix connects a Unix socket to a path or '@' name. That takes no time, and
// is done by a direct call: an entry would, with the listener's backlog full, block
// a kernel worker thread, where this answers EAGAIN.
func (r *Ring) ConnectUnix(fd int, path string) syscall.Errno { return r.eng.ConnectUnix(fd, path) }
