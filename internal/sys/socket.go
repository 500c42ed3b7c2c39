//go:build linux && (amd64 || arm64)

package sys

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Recv receives into b without blocking (EAGAIN when there is nothing). The
// scheduler is not told.
func Recv(fd int, b []byte) (int, syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))),
		uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
	return int(r), errno
}

// AtEnd reports that a stream has nothing left to be received and is ended by its
// peer.
func AtEnd(fd int) bool {
	var b [1]byte
	n, errno := RecvFlags(fd, b[:], unix.MSG_PEEK)
	return n == 0 && errno == 0
}

// Send sends from b without blocking and without SIGPIPE; it may send less than
// b. flags are further ones. The scheduler is not told.
func Send(fd int, b []byte, flags int) (int, syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))),
		uintptr(len(b)), uintptr(flags|unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL), 0, 0)
	return int(r), errno
}

// Send sends a message's vector without blocking and without SIGPIPE.
func (m *Message) Send(fd, flags int) (int, syscall.Errno) {
	r, _, errno := syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(m)),
		uintptr(flags|unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL))
	return int(r), errno
}

// Disconnect resets a TCP connection and drops what it has not got acknowledged;
// the descriptor stays (connect(2) with AF_UNSPEC).
func Disconnect(fd int) syscall.Errno {
	var name [16]byte // AF_UNSPEC is 0
	_, _, errno := syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&name)), uintptr(len(name)))
	return errno
}

// Unsent is how many bytes of a stream the peer has not taken: TCP's, those that it
// has not acknowledged (SIOCOUTQ).
func Unsent(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.SIOCOUTQ) }

// Shutdown ends one or both directions: SHUT_RD, SHUT_WR or SHUT_RDWR.
func Shutdown(fd, how int) syscall.Errno {
	_, _, errno := syscall.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), uintptr(how), 0)
	return errno
}

// Close closes a descriptor that does not linger.
func Close(fd int) syscall.Errno {
	_, _, errno := syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
	return errno
}

// SetInt sets an integer socket option.
func SetInt(fd, level, name, value int) error { return unix.SetsockoptInt(fd, level, name, value) }

// GetInt reads an integer socket option.
func GetInt(fd, level, name int) (int, error) { return unix.GetsockoptInt(fd, level, name) }

// SetLinger sets SO_LINGER; negative seconds turn it off.
func SetLinger(fd, seconds int) error {
	l := unix.Linger{Onoff: 1, Linger: int32(seconds)}
	if seconds < 0 {
		l = unix.Linger{}
	}
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &l)
}

// ListenTCP opens a non-blocking TCP listener on addr with SO_REUSEADDR, and with
// SO_REUSEPORT when shared is set, so that several loops can listen on one port.
// An IPv6 listener on the unspecified address also takes IPv4 unless v6only is
// set. The caller owns the descriptor.
func ListenTCP(addr netip.AddrPort, backlog int, shared, v6only bool) (listener int, err error) {
	family := unix.AF_INET6
	if addr.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return -1, err
	}
	if shared {
		if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return -1, err
		}
	}
	if family == unix.AF_INET6 {
		if err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, boolint(v6only)); err != nil {
			return -1, err
		}
	}
	sa, err := sockaddr(addr)
	if err != nil {
		return -1, err
	}
	if err = unix.Bind(fd, sa); err != nil {
		return -1, err
	}
	if err = unix.Listen(fd, backlog); err != nil {
		return -1, err
	}
	return fd, nil
}

// LocalAddr is the address that a TCP socket is bound to.
func LocalAddr(fd int) (netip.AddrPort, error) { return socketName(unix.SYS_GETSOCKNAME, fd) }

// PeerAddr is the address that a TCP socket is connected to.
func PeerAddr(fd int) (netip.AddrPort, error) { return socketName(unix.SYS_GETPEERNAME, fd) }

// socketName asks for one of a socket's addresses. It allocates nothing, unlike
// unix.Getpeername: every accepted connection is asked.
func socketName(call uintptr, fd int) (netip.AddrPort, error) {
	var name [SockaddrBytes]byte
	n := uint32(len(name))
	_, _, errno := syscall.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&name)), uintptr(unsafe.Pointer(&n)))
	if errno != 0 {
		return netip.AddrPort{}, errno
	}
	addr, ok := ParseSockaddr(name[:min(int(n), len(name))])
	if !ok {
		return netip.AddrPort{}, unix.EAFNOSUPPORT
	}
	return addr, nil
}

func boolint(b bool) int {
	if b {
		return 1
	}
	return 0
}
