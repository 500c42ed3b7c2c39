//go:build linux

package epoll

import (
	"container/heap"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// op is an operation that could not be completed at once. There is one for each
// connection at rest, so it keeps of its entry only what is needed.
type op struct {
	userData uint64
	addr     uint64 // of a timeout: its index in timers
	fd       int32
	len      uint32
	opFlags  uint32
	ioprio   uint16
	opcode   uint8
	marks    marks

	next  *op // at the same descriptor
	twin  *op // with the same user data
	group *sys.BufReader

	// done is how many bytes of a send were sent; of a connect, the length of the
	// address; of a timeout, its deadline.
	done int64
}

type marks uint8

const (
	waits    marks = 1 << iota // in places or timers
	queued                     // in again
	stream                     // a receive that gives less than there is room for has taken all
	selected                   // IOSQE_BUFFER_SELECT
	silent                     // IOSQE_CQE_SKIP_SUCCESS
)

// set makes o the operation of an entry.
func (e *Engine) set(o *op, entry *sys.Entry) {
	*o = op{userData: entry.UserData, addr: entry.Addr, fd: entry.Fd, len: entry.Len, opFlags: entry.OpFlags,
		ioprio: entry.Ioprio, opcode: entry.Opcode}
	if entry.Flags&sys.IOSQE_BUFFER_SELECT != 0 {
		o.marks |= selected
		o.group = e.groups[entry.BufIndex]
	}
	if entry.Flags&sys.IOSQE_CQE_SKIP_SUCCESS != 0 {
		o.marks |= silent
	}
	if o.opcode == sys.IORING_OP_CONNECT {
		o.done = int64(entry.Off)
	}
}

// place is what waits at one descriptor, in the order in which it came.
type place struct {
	ops     *op
	watched bool
	stream  int8 // whether it is a stream: 0 unknown, 1 yes, -1 no
}

// places holds a place for each descriptor that something has waited at.
type places struct{ by []place }

func (p *places) at(fd int) *place {
	for fd >= len(p.by) {
		p.by = append(p.by, make([]place, max(64, len(p.by)/8, fd+1-len(p.by)))...)
	}
	return &p.by[fd]
}

// forget empties the place of a descriptor that is closed, or new. The kernel
// takes a closed descriptor out of the epoll set by itself. What still waits there
// can only be cancelled.
func (p *places) forget(fd int) {
	if fd >= 0 && fd < len(p.by) {
		p.by[fd] = place{ops: p.by[fd].ops}
	}
}

// watched is what every waiting descriptor is watched for.
const watched = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLPRI

// Which events are worth an attempt.
const (
	ended  = unix.EPOLLHUP | unix.EPOLLERR
	reads  = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLPRI | ended
	writes = unix.EPOLLOUT | ended
)

func (o *op) wants() uint32 {
	switch o.opcode {
	case sys.IORING_OP_POLL_ADD:
		return o.opFlags | ended
	case sys.IORING_OP_SEND, sys.IORING_OP_SENDMSG, sys.IORING_OP_SEND_ZC, sys.IORING_OP_SENDMSG_ZC,
		sys.IORING_OP_CONNECT, sys.IORING_OP_WRITE, sys.IORING_OP_WRITE_FIXED:
		return writes
	}
	return reads
}

// wait puts an operation at its descriptor. It copies o.
func (e *Engine) wait(first *op) {
	if first.fd < 0 {
		e.finish(first, -int32(unix.EBADF), 0)
		return
	}
	o := e.free
	if o == nil {
		o = new(op)
	} else {
		e.free = o.next
	}
	*o = *first
	o.marks |= waits
	at := &e.places.at(int(o.fd)).ops
	for *at != nil {
		at = &(*at).next
	}
	*at = o
	e.name(o)
	if o.opcode == sys.IORING_OP_RECV {
		if e.isStream(int(o.fd)) {
			o.marks |= stream
		}
	}
	if err := e.watch(int(o.fd)); err != nil {
		e.end(o, -int32(errnoOf(err)))
	}
}

func (e *Engine) name(o *op) {
	o.twin = e.named[o.userData]
	e.named[o.userData] = o
}

// watch has epoll report a descriptor. Each time that something begins to wait,
// and not only the first: the descriptor may have been closed and made again
// behind our back, and what waits without a try must hear of what holds already.
func (e *Engine) watch(fd int) error {
	p := e.places.at(fd)
	if !p.watched {
		p.watched = true
		if err := e.epoll.Add(fd, watched); err != unix.EEXIST {
			return err
		}
	}
	return e.epoll.Watch(fd, watched)
}

// isStream asks once what kind of socket it is. A Unix socket may give less than
// there is room for and still have more: it stops behind bytes that came with
// descriptors.
func (e *Engine) isStream(fd int) bool {
	p := e.places.at(fd)
	if p.stream == 0 {
		p.stream = -1
		if kind, err := e.GetInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err == nil && kind == unix.IPPROTO_TCP {
			p.stream = 1
		}
	}
	return p.stream > 0
}

// leave takes o from where it waits.
func (e *Engine) leave(o *op) {
	if o.marks&waits == 0 {
		return
	}
	o.marks &^= waits
	if o.opcode == sys.IORING_OP_TIMEOUT {
		heap.Remove(&e.timers, int(o.addr))
	} else {
		for at := &e.places.by[o.fd].ops; *at != nil; at = &(*at).next {
			if *at == o {
				*at = o.next
				break
			}
		}
	}
	o.next = nil
	if first := e.named[o.userData]; first != o {
		for first.twin != o {
			first = first.twin
		}
		first.twin = o.twin
	} else if o.twin != nil {
		e.named[o.userData] = o.twin
	} else {
		delete(e.named, o.userData)
	}
	o.twin = nil
}

// end posts the last completion of a waiting operation.
func (e *Engine) end(o *op, res int32) {
	e.leave(o)
	e.finish(o, res, 0)
	e.recycle(o)
}

func (e *Engine) recycle(o *op) {
	if o.marks&queued != 0 {
		return // goOn will
	}
	*o = op{next: e.free}
	e.free = o
}

// ready tries what waits at a descriptor of which epoll reports events.
func (e *Engine) ready(fd int, events uint32) {
	if fd >= len(e.places.by) {
		return
	}
	for o := e.places.by[fd].ops; o != nil; {
		next := o.next
		if events&o.wants() != 0 {
			e.attempt(o, events)
		}
		o = next
	}
}

// cancel ends what a cancel names and posts the cancel's own completion.
func (e *Engine) cancel(c *op) {
	flags := c.opFlags
	all := flags&(sys.IORING_ASYNC_CANCEL_ALL|sys.IORING_ASYNC_CANCEL_ANY) != 0
	found := int32(0)
	end := func(o *op) {
		res := -int32(unix.ECANCELED)
		if o.done > 0 && o.opcode != sys.IORING_OP_TIMEOUT && o.wants() == writes && o.opcode != sys.IORING_OP_CONNECT {
			res = int32(o.done) // part of it was sent, which must not get lost
		}
		e.end(o, res)
		found++
	}
	if flags&(sys.IORING_ASYNC_CANCEL_ANY|sys.IORING_ASYNC_CANCEL_FD) != 0 {
		for fd := range e.places.by {
			if flags&sys.IORING_ASYNC_CANCEL_FD != 0 && fd != int(c.fd) {
				continue
			}
			for e.places.by[fd].ops != nil && (found == 0 || all) {
				end(e.places.by[fd].ops)
			}
		}
		for flags&sys.IORING_ASYNC_CANCEL_ANY != 0 && len(e.timers) > 0 {
			end(e.timers[0])
		}
	} else {
		for o := e.named[c.addr]; o != nil && (found == 0 || all); o = e.named[c.addr] {
			end(o)
		}
	}
	switch {
	case all:
		e.finish(c, found, 0)
	case found == 0:
		e.finish(c, -int32(unix.ENOENT), 0)
	default:
		e.finish(c, 0, 0)
	}
}

// timers is a heap of timeouts by their deadlines.
type timers []*op

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].done < t[j].done }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].addr, t[j].addr = uint64(i), uint64(j)
}
func (t *timers) Push(x any) {
	o := x.(*op)
	o.addr = uint64(len(*t))
	*t = append(*t, o)
}
func (t *timers) Pop() any {
	old := *t
	o := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	return o
}

// timeout starts a timeout. Absolute times and counting completions are not there.
func (e *Engine) timeout(entry *sys.Entry, o *op) {
	if entry.Off != 0 || entry.OpFlags != 0 {
		e.finish(o, -int32(unix.EINVAL), 0)
		return
	}
	sec, nsec := sys.TimespecAt(entry.Addr)
	t := new(op)
	*t = *o
	t.marks |= waits
	t.done = int64(e.Now()) + sec*int64(time.Second) + nsec
	heap.Push(&e.timers, t)
	e.name(t)
}

// expire ends the timeouts that are due.
func (e *Engine) expire() {
	now := int64(e.Now())
	for len(e.timers) > 0 && e.timers[0].done <= now {
		e.end(e.timers[0], -int32(unix.ETIME))
	}
}

// removeTimeout is TIMEOUT_REMOVE.
func (e *Engine) removeTimeout(r *op) {
	for o := e.named[r.addr]; o != nil; o = o.twin {
		if o.opcode == sys.IORING_OP_TIMEOUT {
			e.end(o, -int32(unix.ECANCELED))
			e.finish(r, 0, 0)
			return
		}
	}
	e.finish(r, -int32(unix.ENOENT), 0)
}
