//go:build linux && (amd64 || arm64)

package sys

import (
	"golang.org/x/sys/unix"
)

// NewEventFd makes a non-blocking counter that one goroutine adds to and a ring
// polls. The caller owns the descriptor.
func NewEventFd() (int, error) { return unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC) }

// SignalEventFd adds one to the counter; whoever polls it wakes. Safe for
// concurrent use. The error EAGAIN means that the counter is full, which is as
// good: it is readable.
func SignalEventFd(fd int) {
	one := [8]byte{1}
	_, _ = unix.Write(fd, one[:])
}

// DrainEventFd sets the counter back to zero.
func DrainEventFd(fd int) {
	var b [8]byte
	_, _ = unix.Read(fd, b[:])
}
