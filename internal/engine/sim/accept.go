//go:build linux

package sim

import (
	"syscall"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// firstFd is the lowest descriptor: a number that the process itself has none of,
// so that a call that misses the engine fails.
const firstFd = 100_000

// newFd gives s the lowest free descriptor, as the kernel does: numbers are used
// again at once.
func (e *Engine) newFd(s *socket) int {
	i := 0
	for i < len(e.fds) && e.fds[i] != nil {
		i++
	}
	if i == len(e.fds) {
		e.fds = append(e.fds, nil)
	}
	e.fds[i] = s
	s.fd = firstFd + i
	s.refs++
	return s.fd
}

// socket is what a descriptor names, or nil.
func (e *Engine) socket(fd int) *socket {
	if i := fd - firstFd; i >= 0 && i < len(e.fds) {
		return e.fds[i]
	}
	return nil
}

// acceptErrnos are what accept(2) may answer for reasons of its own. The last one it
// answers only to those who wait in the ring.
var acceptErrnos = []syscall.Errno{unix.ECONNABORTED, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS, unix.EINTR,
	unix.EPROTO, unix.EPERM, unix.EAGAIN}

// accept does what an armed accept can do now.
func (e *Engine) accept(o *op) {
	o.wakes = 0
	for len(o.sock.queue) > 0 {
		fd, errno := e.acceptOne(o.sock, len(acceptErrnos))
		if errno != 0 {
			e.refuse(o, errno)
			return
		}
		if !o.multishot || !e.more(o, int32(fd), 0) {
			e.finish(o, int32(fd), 0)
			return
		}
	}
}

// acceptOne takes the first connection of a listener's queue, or fails with one of
// the first so many of acceptErrnos.
func (e *Engine) acceptOne(ln *socket, errnos int) (int, syscall.Errno) {
	if e.chance(e.faults.AcceptErrors) {
		e.counts.AcceptErrors++
		errno := acceptErrnos[e.rng.IntN(errnos)]
		if errno == unix.ECONNABORTED {
			s := ln.queue[0]
			ln.queue = ln.queue[1:]
			s.released = true
			e.sendReset(s)
		}
		return -1, errno
	}
	if e.o.Descriptors > 0 && e.openConns >= e.o.Descriptors {
		e.counts.AcceptErrors++
		return -1, unix.EMFILE
	}
	s := ln.queue[0]
	ln.queue = ln.queue[1:]
	e.openConns++
	s.counted = true
	fd := e.newFd(s)
	e.Note("%s is descriptor %d", s, fd)
	return fd, 0
}

// Accept implements engine.Sockets.
func (e *Engine) Accept(fd int) (int, syscall.Errno) {
	ln := e.called(fd, "accept(2)", func(o *op) bool { return o.code == sys.IORING_OP_ACCEPT })
	switch {
	case ln == nil:
		return -1, unix.EBADF
	case len(ln.queue) == 0:
		return -1, unix.EAGAIN
	}
	return e.acceptOne(ln, len(acceptErrnos)-1)
}
