//go:build linux

package epoll

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// finish posts a completion that ends an operation.
func (e *Engine) finish(o *op, res int32, flags uint32) {
	if o.marks&silent != 0 && res >= 0 {
		return
	}
	e.host.Post(sys.Completion{UserData: o.userData, Res: res, Flags: flags})
}

// more posts a completion of a multishot operation that goes on. When the queue
// has no room it ends the operation instead, as the kernel does, and reports false.
func (e *Engine) more(o *op, res int32, flags uint32) bool {
	if e.host.Room() == 0 {
		e.finish(o, res, flags)
		return false
	}
	e.host.Post(sys.Completion{UserData: o.userData, Res: res, Flags: flags | sys.IORING_CQE_F_MORE})
	return true
}

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return unix.EIO
	}
	return errno
}

// start does an entry, or has it wait.
func (e *Engine) start(entry *sys.Entry) {
	const unknown = sys.IOSQE_FIXED_FILE | sys.IOSQE_IO_LINK | sys.IOSQE_IO_HARDLINK | sys.IOSQE_IO_DRAIN
	o := &e.first
	e.set(o, entry)
	if entry.Flags&unknown != 0 {
		e.finish(o, -int32(unix.EINVAL), 0)
		return
	}
	if !e.within(entry) {
		e.finish(o, -int32(unix.EFAULT), 0)
		return
	}
	fd := int(entry.Fd)
	switch entry.Opcode {
	case sys.IORING_OP_NOP:
		e.finish(o, 0, 0)
	case sys.IORING_OP_RECV, sys.IORING_OP_RECVMSG:
		if entry.Ioprio&sys.IORING_RECVSEND_POLL_FIRST != 0 {
			e.wait(o)
			return
		}
		e.try(o)
	case sys.IORING_OP_ACCEPT:
		if entry.FileIndex != 0 {
			e.finish(o, -int32(unix.EINVAL), 0)
			return
		}
		if entry.Ioprio&sys.IORING_ACCEPT_POLL_FIRST != 0 {
			e.wait(o)
			return
		}
		e.try(o)
	case sys.IORING_OP_SEND, sys.IORING_OP_SENDMSG, sys.IORING_OP_SEND_ZC, sys.IORING_OP_SENDMSG_ZC, sys.IORING_OP_CONNECT:
		e.try(o)
	case sys.IORING_OP_POLL_ADD:
		e.wait(o) // which has epoll report what holds already
	case sys.IORING_OP_ASYNC_CANCEL:
		e.cancel(o)
	case sys.IORING_OP_CLOSE:
		if entry.FileIndex != 0 {
			e.finish(o, -int32(unix.ENXIO), 0)
			return
		}
		e.finish(o, -int32(e.CloseFd(fd)), 0)
	case sys.IORING_OP_SHUTDOWN:
		e.finish(o, -int32(sys.Shutdown(fd, int(entry.Len))), 0)
	case sys.IORING_OP_TIMEOUT:
		e.timeout(entry, o)
	case sys.IORING_OP_TIMEOUT_REMOVE:
		e.removeTimeout(o)
	case sys.IORING_OP_READ, sys.IORING_OP_READ_FIXED, sys.IORING_OP_WRITE, sys.IORING_OP_WRITE_FIXED:
		if int64(entry.Off) >= 0 {
			e.file(o, int64(entry.Off))
			return
		}
		e.try(o)
	default:
		e.finish(o, -int32(unix.EINVAL), 0)
	}
}

// within reports that an entry with a registered buffer stays inside of it.
func (e *Engine) within(entry *sys.Entry) bool {
	switch entry.Opcode {
	case sys.IORING_OP_READ_FIXED, sys.IORING_OP_WRITE_FIXED:
	case sys.IORING_OP_SEND_ZC, sys.IORING_OP_SENDMSG_ZC:
		if entry.Ioprio&sys.IORING_RECVSEND_FIXED_BUF == 0 {
			return true
		}
	default:
		return true
	}
	if int(entry.BufIndex) >= len(e.buffers) {
		return false
	}
	b := e.buffers[entry.BufIndex]
	from := sys.Address(b)
	return entry.Addr >= from && entry.Addr-from <= uint64(len(b)) && uint64(entry.Len) <= uint64(len(b))-(entry.Addr-from)
}

// try makes the first attempt at an operation.
func (e *Engine) try(o *op) {
	if e.step(o, 0) != stepEnded {
		e.wait(o) // which has epoll report what holds already
	}
}

// attempt goes on with an operation that waits.
func (e *Engine) attempt(o *op, events uint32) {
	switch e.step(o, events) {
	case stepEnded:
		e.leave(o)
		e.recycle(o)
	case stepAgain:
		if o.marks&queued == 0 {
			o.marks |= queued
			e.again = append(e.again, o)
		}
	}
}

// step says what came of an attempt.
type step uint8

const (
	stepWait  step = iota // it waits for an event
	stepAgain             // it can go on, after others
	stepEnded             // its last completion is posted
)

func (e *Engine) step(o *op, events uint32) step {
	switch o.opcode {
	case sys.IORING_OP_RECV:
		return e.recv(o, events)
	case sys.IORING_OP_RECVMSG:
		return e.recvmsg(o)
	case sys.IORING_OP_ACCEPT:
		return e.accept(o)
	case sys.IORING_OP_SEND, sys.IORING_OP_SENDMSG, sys.IORING_OP_SEND_ZC, sys.IORING_OP_SENDMSG_ZC:
		return e.sendOn(o)
	case sys.IORING_OP_POLL_ADD:
		return e.polled(o, events)
	case sys.IORING_OP_CONNECT:
		return e.connect(o, events)
	default:
		return e.stream(o)
	}
}

// shareOfTurn is how many times a multishot operation goes on before others have
// their turn; the kernel's number (MULTISHOT_MAX_RETRY in io_uring/net.c).
const shareOfTurn = 32

// failed is the outcome of an errno: to wait, or the end.
func (e *Engine) failed(o *op, errno syscall.Errno) step {
	if errno == unix.EAGAIN && o.opFlags&unix.MSG_DONTWAIT == 0 {
		return stepWait
	}
	e.finish(o, -int32(errno), 0)
	return stepEnded
}

func (e *Engine) recv(o *op, events uint32) step {
	fd, flags := int(o.fd), int(o.opFlags)
	multishot := o.ioprio&sys.IORING_RECV_MULTISHOT != 0
	for range shareOfTurn {
		mem, id, chosen := []byte(nil), uint16(0), o.marks&selected != 0
		if chosen {
			var ok bool
			if o.group != nil {
				mem, id, ok = o.group.Peek()
			}
			if !ok {
				e.finish(o, -int32(unix.ENOBUFS), 0)
				return stepEnded
			}
			if o.len != 0 && int(o.len) < len(mem) {
				mem = mem[:o.len]
			}
		} else {
			mem = sys.Bytes(o.addr, int(o.len))[o.done:]
		}
		n, errno := sys.RecvFlags(fd, mem, flags)
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN && o.opFlags&unix.MSG_DONTWAIT == 0:
			return stepWait
		case errno != 0:
			res := -int32(errno)
			if o.done > 0 {
				res = int32(o.done)
			}
			e.finish(o, res, 0)
			return stepEnded
		case n == 0 || !chosen:
			if o.done += int64(n); n > 0 && flags&unix.MSG_WAITALL != 0 && o.done < int64(o.len) {
				continue
			}
			e.finish(o, int32(o.done), 0)
			return stepEnded
		}
		o.group.Commit()
		cqe := sys.IORING_CQE_F_BUFFER | uint32(id)<<sys.IORING_CQE_BUFFER_SHIFT
		if n == len(mem) {
			cqe |= sys.IORING_CQE_F_SOCK_NONEMPTY // most likely
		}
		if !multishot {
			e.finish(o, int32(n), cqe)
			return stepEnded
		}
		if !e.more(o, int32(n), cqe) {
			return stepEnded
		}
		// A stream that gave less than there was room for is empty, and what comes
		// from now on is a new edge. Only an end may be there already, reported
		// together with the bytes.
		if n < len(mem) && o.marks&stream != 0 && events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) == 0 && events != 0 {
			return stepWait
		}
	}
	return stepAgain
}

func (e *Engine) accept(o *op) step {
	for range shareOfTurn {
		fd, errno := sys.Accept(int(o.fd), int(o.opFlags))
		switch errno {
		case 0:
			e.places.forget(fd)
			if o.ioprio&sys.IORING_ACCEPT_MULTISHOT == 0 {
				e.finish(o, int32(fd), 0)
				return stepEnded
			}
			if !e.more(o, int32(fd), 0) {
				return stepEnded
			}
		case unix.EINTR:
		case unix.EAGAIN:
			return stepWait
		default:
			e.finish(o, -int32(errno), 0)
			return stepEnded
		}
	}
	return stepAgain
}

// sendOn sends what is left of a send.
func (e *Engine) sendOn(o *op) step {
	zc := o.opcode == sys.IORING_OP_SEND_ZC || o.opcode == sys.IORING_OP_SENDMSG_ZC
	for {
		n, want, errno := e.sendRest(o)
		if errno == unix.EINTR {
			continue
		}
		if errno == 0 {
			o.done += int64(n)
			if n < want && o.opFlags&unix.MSG_WAITALL != 0 {
				continue
			}
		} else if errno == unix.EAGAIN && o.opFlags&unix.MSG_DONTWAIT == 0 {
			return stepWait
		}
		res := int32(o.done)
		if errno != 0 && o.done == 0 {
			res = -int32(errno)
		}
		if !zc {
			e.finish(o, res, 0)
			return stepEnded
		}
		// The bytes are copied, so the notification comes at once. It comes after
		// an error, too.
		e.host.Post(sys.Completion{UserData: o.userData, Res: res, Flags: sys.IORING_CQE_F_MORE})
		usage := uint32(0)
		if o.ioprio&sys.IORING_SEND_ZC_REPORT_USAGE != 0 {
			usage = sys.IORING_NOTIF_USAGE_ZC_COPIED
		}
		e.host.Post(sys.Completion{UserData: o.userData, Res: int32(usage), Flags: sys.IORING_CQE_F_NOTIF})
		return stepEnded
	}
}

// sendRest makes one call for what is left.
func (e *Engine) sendRest(o *op) (n, want int, errno syscall.Errno) {
	fd := int(o.fd)
	flags := int(o.opFlags)
	switch o.opcode {
	case sys.IORING_OP_SEND, sys.IORING_OP_SEND_ZC:
		b := sys.Bytes(o.addr, int(o.len))[o.done:]
		n, errno = sys.Send(fd, b, flags)
		return n, len(b), errno
	}
	m := sys.MessageAt(o.addr)
	if o.done == 0 {
		n, errno = m.Send(fd, flags)
		return n, m.Bytes(), errno
	}
	// The rest of a vector, piece by piece.
	skip := int(o.done)
	for i := range m.Len() {
		b := m.Piece(i)
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		n, errno = sys.Send(fd, b[skip:], flags)
		return n, m.Bytes() - int(o.done), errno
	}
	return 0, 0, 0
}

func (e *Engine) polled(o *op, events uint32) step {
	got := events & (o.opFlags | unix.EPOLLERR | unix.EPOLLHUP)
	if got == 0 {
		return stepWait
	}
	if o.len&sys.IORING_POLL_ADD_MULTI == 0 {
		e.finish(o, int32(got), 0)
		return stepEnded
	}
	if !e.more(o, int32(got), 0) {
		return stepEnded
	}
	return stepWait
}

func (e *Engine) connect(o *op, events uint32) step {
	if events == 0 {
		errno := sys.Connect(int(o.fd), sys.Bytes(o.addr, int(o.done)))
		if errno == unix.EINPROGRESS || errno == unix.EAGAIN {
			return stepWait
		}
		e.finish(o, -int32(errno), 0)
		return stepEnded
	}
	e.finish(o, -int32(sys.SocketError(int(o.fd))), 0)
	return stepEnded
}

func (e *Engine) recvmsg(o *op) step {
	m := sys.MessageAt(o.addr)
	if o.marks&selected == 0 {
		n, errno := m.Recv(int(o.fd), int(o.opFlags))
		if errno != 0 {
			return e.failed(o, errno)
		}
		e.finish(o, int32(n), 0)
		return stepEnded
	}
	if o.ioprio&sys.IORING_RECV_MULTISHOT == 0 {
		return e.recvmsgSelect(o, m)
	}
	if err := e.needMessage(); err != nil {
		return e.failed(o, unix.ENOMEM)
	}
	for range shareOfTurn {
		var mem []byte
		var id uint16
		ok := o.group != nil
		if ok {
			mem, id, ok = o.group.Peek()
		}
		if !ok {
			return e.failed(o, unix.ENOBUFS)
		}
		name, control := m.NameLen(), m.ControlLen()
		head := sys.RecvmsgOutBytes + name + control
		if head > len(mem) {
			return e.failed(o, unix.EFAULT)
		}
		in := &e.message[0]
		in.Reset()
		in.SetName(mem[sys.RecvmsgOutBytes : sys.RecvmsgOutBytes+name])
		in.SetControl(mem[sys.RecvmsgOutBytes+name : head])
		in.Append(mem[head:])
		n, errno := in.Recv(int(o.fd), int(o.opFlags))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return e.failed(o, errno)
		}
		o.group.Commit()
		sys.PutRecvmsgOut(mem, sys.RecvmsgOut{NameLen: uint32(in.NameLen()), ControlLen: uint32(in.ControlLen()),
			PayloadLen: uint32(n), Flags: uint32(in.Flags())})
		cqe := sys.IORING_CQE_F_BUFFER | uint32(id)<<sys.IORING_CQE_BUFFER_SHIFT
		if n == 0 {
			// An empty datagram is delivered and ends it, since the kernel takes a
			// receive of 0 bytes for the end of a stream whatever the socket is
			// (io_recvmsg_multishot in io_uring/net.c).
			e.finish(o, int32(head), cqe)
			return stepEnded
		}
		if !e.more(o, int32(head+n), cqe) {
			return stepEnded
		}
	}
	return stepAgain
}

// recvmsgSelect receives once: the payload goes into a buffer of the group, name and
// control data to where the message has them.
func (e *Engine) recvmsgSelect(o *op, m *sys.Message) step {
	if o.group == nil {
		return e.failed(o, unix.ENOBUFS)
	}
	mem, id, ok := o.group.Peek()
	if !ok {
		return e.failed(o, unix.ENOBUFS)
	}
	n, errno := m.RecvInto(int(o.fd), int(o.opFlags), mem)
	if errno == unix.EINTR {
		return stepAgain
	}
	if errno != 0 {
		return e.failed(o, errno)
	}
	if n == 0 {
		e.finish(o, 0, 0) // the buffer stays (io_recvmsg in io_uring/net.c)
		return stepEnded
	}
	o.group.Commit()
	e.finish(o, int32(min(n, len(mem))), sys.IORING_CQE_F_BUFFER|uint32(id)<<sys.IORING_CQE_BUFFER_SHIFT)
	return stepEnded
}

// needMessage maps the message that multishot recvmsg receives through.
func (e *Engine) needMessage() (err error) {
	if e.message != nil {
		return nil
	}
	if e.memory, err = sys.Map(sys.PageBytes); err != nil {
		return err
	}
	e.message, err = sys.Messages(e.memory)
	return err
}
