//go:build linux

package sim

import (
	"syscall"

	"golang.org/x/sys/unix"
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

// acceptErrnos are what accept(2) may answer for reasons of its own.
var acceptErrnos = []syscall.Errno{unix.ECONNABORTED, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS, unix.EINTR,
	unix.EPROTO, unix.EPERM, unix.EAGAIN}

// accept does what an armed accept can do now.
func (e *Engine) accept(o *op) {
	ln := o.sock
	o.wakes = 0
	for len(ln.queue) > 0 {
		if e.chance(e.faults.AcceptErrors) {
			e.counts.AcceptErrors++
			errno := acceptErrnos[e.rng.IntN(len(acceptErrnos))]
			if errno == unix.ECONNABORTED {
				s := ln.queue[0]
				ln.queue = ln.queue[1:]
				s.released = true
				e.sendReset(s)
			}
			e.refuse(o, errno)
			return
		}
		if e.o.Descriptors > 0 && e.openConns >= e.o.Descriptors {
			e.counts.AcceptErrors++
			e.refuse(o, unix.EMFILE)
			return
		}
		s := ln.queue[0]
		ln.queue = ln.queue[1:]
		e.openConns++
		s.counted = true
		fd := e.newFd(s)
		e.Note("%s is descriptor %d", s, fd)
		if !o.multishot || !e.more(o, int32(fd), 0) {
			e.finish(o, int32(fd), 0)
			return
		}
	}
}
