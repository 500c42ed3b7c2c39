//go:build linux

package epoll

import (
	"syscall"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// file reads from or writes to a file at an offset. Files are always ready as far
// as epoll knows, so what would wait for a disk goes to a goroutine.
func (e *Engine) file(o *op, offset int64) {
	b := sys.Bytes(o.addr, int(o.len))
	fd, data := int(o.fd), o.userData
	call := sys.WriteAt
	if o.opcode == sys.IORING_OP_READ || o.opcode == sys.IORING_OP_READ_FIXED {
		call = sys.ReadAt
		n, errno := sys.ReadNow(fd, b, offset)
		switch errno {
		case 0:
			e.finish(o, int32(n), 0)
			return
		case unix.EAGAIN, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL, unix.EPERM:
		default:
			e.finish(o, -int32(errno), 0)
			return
		}
	}
	quiet := o.marks&silent != 0
	go func() {
		e.jobs <- struct{}{}
		defer func() { <-e.jobs }()
		if c := (sys.Completion{UserData: data, Res: result(call(fd, b, offset))}); c.Res < 0 || !quiet {
			_ = e.post.put(c) // refused only when the engine is closed
		}
	}()
}

func result(n int, errno syscall.Errno) int32 {
	if errno != 0 {
		return -int32(errno)
	}
	return int32(n)
}

// stream reads from or writes to a descriptor without a position: a pipe, a
// socket, a counter.
func (e *Engine) stream(o *op) step {
	fd := int(o.fd)
	b := sys.Bytes(o.addr, int(o.len))
	call, ready := sys.Write, int16(unix.POLLOUT)
	if o.opcode == sys.IORING_OP_READ || o.opcode == sys.IORING_OP_READ_FIXED {
		call, ready = sys.Read, unix.POLLIN
	}
	// It may be a descriptor that blocks.
	got, errno := sys.Poll(fd, ready)
	switch {
	case errno != 0:
		return e.failed(o, errno)
	case got&unix.POLLNVAL != 0:
		return e.failed(o, unix.EBADF)
	case got == 0:
		return stepWait
	}
	n, errno := call(fd, b)
	if errno == unix.EAGAIN || errno == unix.EINTR {
		return stepWait
	}
	e.finish(o, result(n, errno), 0)
	return stepEnded
}
