//go:build linux && (amd64 || arm64)

package sys

import (
	"errors"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Epoll is an epoll(7) descriptor.
type Epoll struct{ fd int }

// NewEpoll makes one. The caller closes it.
func NewEpoll() (Epoll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return Epoll{fd}, err
}

// Watch has changes of fd reported, edge-triggered, and once what holds already.
func (e Epoll) Watch(fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(fd)}
	// First as a change: when fd is watched already that is the call that looks
	// at its state anew.
	err := unix.EpollCtl(e.fd, unix.EPOLL_CTL_MOD, fd, &ev)
	if errors.Is(err, unix.ENOENT) {
		err = unix.EpollCtl(e.fd, unix.EPOLL_CTL_ADD, fd, &ev)
	}
	return err
}

// Add is Watch for a descriptor that is known not to be watched.
func (e Epoll) Add(fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(fd)}
	return unix.EpollCtl(e.fd, unix.EPOLL_CTL_ADD, fd, &ev)
}

// Remove ends a watch. Needed for a descriptor that is not closed, or whose socket
// others have open as well.
func (e Epoll) Remove(fd int) error {
	return unix.EpollCtl(e.fd, unix.EPOLL_CTL_DEL, fd, nil)
}

// Poll takes events without blocking; the scheduler is not told.
func (e Epoll) Poll(events []unix.EpollEvent) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(e.fd), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
		uintptr(len(events)), 0, 0, 0)
	return int(n), errno
}

// noPwait2 says that epoll_pwait2(2) is missing (before Linux 5.11) or forbidden.
var noPwait2 atomic.Bool

// Wait takes events, and blocks until there are some or timeout has passed;
// negative: none.
func (e Epoll) Wait(events []unix.EpollEvent, timeout time.Duration) (int, syscall.Errno) {
	if timeout < 0 {
		return e.waitMillis(events, -1)
	}
	if !noPwait2.Load() {
		ts := unix.NsecToTimespec(int64(timeout))
		n, _, errno := syscall.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(e.fd), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
			uintptr(len(events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
		if errno != unix.ENOSYS && errno != unix.EPERM {
			return int(n), errno
		}
		noPwait2.Store(true)
	}
	return e.waitMillis(events, int((timeout+time.Millisecond-1)/time.Millisecond))
}

func (e Epoll) waitMillis(events []unix.EpollEvent, millis int) (int, syscall.Errno) {
	n, _, errno := syscall.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(e.fd), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
		uintptr(len(events)), uintptr(millis), 0, 0)
	return int(n), errno
}

// Close closes the descriptor.
func (e Epoll) Close() error { return unix.Close(e.fd) }

// Accept takes a connection from a listener without blocking.
func Accept(fd int, flags int) (int, syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, uintptr(flags), 0, 0)
	return int(r), errno
}

// RecvFlags is Recv with flags.
func RecvFlags(fd int, b []byte, flags int) (int, syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))),
		uintptr(len(b)), uintptr(flags|unix.MSG_DONTWAIT), 0, 0)
	return int(r), errno
}

// Recv receives into the vector, the name and the control data, without blocking.
// It sets their lengths.
func (m *Message) Recv(fd, flags int) (int, syscall.Errno) {
	r, _, errno := syscall.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(m)), uintptr(flags|unix.MSG_DONTWAIT))
	return int(r), errno
}

// RecvInto is Recv with b in place of the vector, which stays as it is.
func (m *Message) RecvInto(fd, flags int, b []byte) (int, syscall.Errno) {
	iov := &iovec{Base: Address(b), Len: uint64(len(b))}
	hdr := &msghdr{}
	*hdr = m.hdr
	hdr.Iov, hdr.Iovlen = addressOf(unsafe.Pointer(iov)), 1
	r, _, errno := syscall.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(hdr)), uintptr(flags|unix.MSG_DONTWAIT))
	runtime.KeepAlive(iov)
	if errno == 0 {
		m.hdr.Namelen, m.hdr.Controllen, m.hdr.Flags = hdr.Namelen, hdr.Controllen, hdr.Flags
	}
	return int(r), errno
}

// Flags are those that Recv found (MSG_TRUNC and its like).
func (m *Message) Flags() int32 { return m.hdr.Flags }

// Connect begins to connect a non-blocking socket (EINPROGRESS).
func Connect(fd int, sockaddr []byte) syscall.Errno {
	_, _, errno := syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(sockaddr))), uintptr(len(sockaddr)))
	return errno
}

// SocketError takes a socket's pending error: how a connect ended.
func SocketError(fd int) syscall.Errno {
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		var errno syscall.Errno
		errors.As(err, &errno)
		return errno
	}
	return syscall.Errno(v)
}

// Poll asks for readiness of a descriptor without blocking.
func Poll(fd int, events int16) (int16, syscall.Errno) {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
	_, err := unix.Poll(p[:], 0)
	if err != nil {
		var errno syscall.Errno
		errors.As(err, &errno)
		return 0, errno
	}
	return p[0].Revents, 0
}

// ReadNow reads of a file what needs no waiting for a disk (EAGAIN otherwise; any
// other errno: this file or kernel cannot tell).
func ReadNow(fd int, b []byte, offset int64) (int, syscall.Errno) {
	n, err := unix.Preadv2(fd, [][]byte{b}, offset, unix.RWF_NOWAIT)
	return n, errnoOf(err)
}

// ReadAt reads from a file, blocking; WriteAt writes.
func ReadAt(fd int, b []byte, offset int64) (int, syscall.Errno) {
	n, err := unix.Pread(fd, b, offset)
	return n, errnoOf(err)
}

// WriteAt writes to a file, blocking.
func WriteAt(fd int, b []byte, offset int64) (int, syscall.Errno) {
	n, err := unix.Pwrite(fd, b, offset)
	return n, errnoOf(err)
}

// Read and Write are those of streams; the descriptor must be ready, or not block.
func Read(fd int, b []byte) (int, syscall.Errno) {
	n, err := unix.Read(fd, b)
	return n, errnoOf(err)
}

// Write writes to a stream.
func Write(fd int, b []byte) (int, syscall.Errno) {
	n, err := unix.Write(fd, b)
	return n, errnoOf(err)
}

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) {
		return unix.EIO
	}
	return errno
}
