//go:build linux

package sim

import (
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// op is an operation from its entry to its last completion.
//
//	issue ──► armed ──► (an event of its socket) ──► queued as task work ─┐
//	  │         ▲                                                          │
//	  │         └──────────────── nothing to do after all ◄──── run ◄──────┘
//	  └──► done ◄─────────────────────────────────────────────── │
type op struct {
	entry    sys.Entry
	code     uint8
	userData uint64
	sock     *socket
	group    *group // of a receive that selects buffers

	multishot bool
	events    uint32 // of a poll; of others, what they wait for
	key       uint32 // what woke it
	wakes     int    // and how often since it last ran
	found     bool   // it was not woken: there was something when it began to wait
	sent      int    // of a send that waits; of a connect, 1 when its outcome is known
	was       []byte // what the memory of a late one had in it at first

	queued    bool
	armed     bool
	cancelled bool
	late      bool // a send that has yet to take its bytes
	done      bool
}

var names = map[uint8]string{
	sys.IORING_OP_NOP: "nop", sys.IORING_OP_POLL_ADD: "poll", sys.IORING_OP_SENDMSG: "sendmsg", sys.IORING_OP_TIMEOUT: "timeout",
	sys.IORING_OP_ACCEPT: "accept", sys.IORING_OP_ASYNC_CANCEL: "cancel", sys.IORING_OP_CLOSE: "close", sys.IORING_OP_SEND: "send",
	sys.IORING_OP_RECV: "recv", sys.IORING_OP_SHUTDOWN: "shutdown", sys.IORING_OP_SEND_ZC: "send_zc",
	sys.IORING_OP_CONNECT: "connect", sys.IORING_OP_RECVMSG: "recvmsg", sys.IORING_OP_SENDMSG_ZC: "sendmsg_zc", sys.IORING_OP_READ: "read", sys.IORING_OP_MSG_RING: "message",
}

// String names the operation in traces.
func (o *op) String() string {
	name := names[o.code]
	if name == "" {
		name = fmt.Sprintf("operation %d", o.code)
	}
	if o.multishot {
		name += " multishot"
	}
	if o.sock != nil {
		return fmt.Sprintf("%s %s [%x]", o.sock, name, o.userData)
	}
	return fmt.Sprintf("%s [%x]", name, o.userData)
}

func (o *op) isSend() bool {
	switch o.code {
	case sys.IORING_OP_SEND, sys.IORING_OP_SENDMSG, sys.IORING_OP_SEND_ZC, sys.IORING_OP_SENDMSG_ZC:
		return true
	}
	return false
}

// issue begins an operation.
func (e *Engine) issue(entry *sys.Entry) {
	o := &op{entry: *entry, code: entry.Opcode, userData: entry.UserData}
	known := entry.Flags &^ (sys.IOSQE_FIXED_FILE | sys.IOSQE_BUFFER_SELECT | sys.IOSQE_CQE_SKIP_SUCCESS)
	if known != 0 {
		e.refuse(o, unix.EINVAL)
		return
	}
	for _, other := range e.armed {
		if other.userData == o.userData && other.code == o.code && o.code != sys.IORING_OP_ASYNC_CANCEL && !other.done {
			e.Violate("%s: its user data is that of %s, which is in flight", o, other)
		}
	}
	switch o.code {
	case sys.IORING_OP_NOP:
		e.finish(o, 0, 0)
		return
	case sys.IORING_OP_ASYNC_CANCEL:
		e.cancel(o)
		return
	case sys.IORING_OP_TIMEOUT:
		e.timeout(o)
		return
	case sys.IORING_OP_CLOSE:
		e.finish(o, -int32(e.CloseFd(int(entry.Fd))), 0)
		return
	}
	if o.code == sys.IORING_OP_READ {
		e.readFile(o)
		return
	}
	if errno := e.file(o); errno != 0 {
		e.refuse(o, errno)
		return
	}
	switch {
	case o.code == sys.IORING_OP_ACCEPT:
		o.multishot = entry.Ioprio&sys.IORING_ACCEPT_MULTISHOT != 0
		o.events = unix.POLLIN
		e.arm(o)
		e.accept(o)
	case o.code == sys.IORING_OP_RECV:
		e.issueRecv(o)
	case o.code == sys.IORING_OP_CONNECT:
		e.issueConnect(o)
	case o.code == sys.IORING_OP_RECVMSG:
		e.issueRecvmsg(o)
	case o.code == sys.IORING_OP_POLL_ADD:
		e.issuePoll(o)
	case o.code == sys.IORING_OP_SHUTDOWN:
		errno := e.shutdown(o.sock, int(entry.Len))
		e.finish(o, -int32(errno), 0)
	case o.isSend():
		e.issueSend(o)
	default:
		e.refuse(o, unix.EINVAL)
	}
}

// file finds the socket that an entry names and counts a reference.
func (e *Engine) file(o *op) syscall.Errno {
	n := int(o.entry.Fd)
	if o.entry.Flags&sys.IOSQE_FIXED_FILE != 0 {
		if n < 0 || n >= len(e.table) || e.table[n] == nil {
			e.Violate("%s: place %d of the table of direct descriptors is empty", o, n)
			return unix.EBADF
		}
		o.sock = e.table[n]
	} else {
		s := e.socket(n)
		if s == nil {
			e.Violate("%s: descriptor %d is not open", o, n)
			return unix.EBADF
		}
		o.sock = s
	}
	o.sock.refs++
	if o.sock.server {
		o.sock.used = append(o.sock.used, o.userData)
	}
	return 0
}

// arm makes an operation one that is in flight.
func (e *Engine) arm(o *op) {
	o.armed = true
	e.armed = append(e.armed, o)
	o.sock.ops = append(o.sock.ops, o)
	e.Note("%s is armed", o)
}

// refuse ends an operation at once with an errno.
func (e *Engine) refuse(o *op, errno syscall.Errno) { e.finish(o, -int32(errno), 0) }

// finish posts the last completion of an operation.
func (e *Engine) finish(o *op, res int32, flags uint32) {
	if o.done {
		panic("sim: " + o.String() + " ends twice")
	}
	o.done = true
	if o.armed {
		e.armed = without(e.armed, o)
	}
	if o.sock != nil {
		if o.armed {
			o.sock.ops = without(o.sock.ops, o)
		}
	}
	if o.entry.Flags&sys.IOSQE_CQE_SKIP_SUCCESS == 0 || res < 0 {
		e.post(o, res, flags)
	}
	if o.sock != nil {
		e.unref(o.sock)
	}
}

func without(ops []*op, o *op) []*op {
	for i := range ops {
		if ops[i] == o {
			return append(ops[:i], ops[i+1:]...)
		}
	}
	return ops
}

func (e *Engine) post(o *op, res int32, flags uint32) {
	if e.Tracing() {
		outcome := fmt.Sprint(res)
		if res < 0 && flags&sys.IORING_CQE_F_NOTIF == 0 {
			outcome = syscall.Errno(-res).Error()
		}
		over := ""
		if e.host.Room() == 0 {
			over = ", does not fit"
		}
		e.Note("%s: %s, flags %x%s", o, outcome, flags, over)
	}
	e.counts.Completions++
	if e.host.Room() == 0 {
		e.counts.Overflows++
	}
	e.host.Post(sys.Completion{UserData: o.userData, Res: res, Flags: flags})
}

// more posts a completion after which the operation goes on. It reports false, and
// posts nothing, when the queue is full: the kernel never lets such a one wait
// outside it, but ends the operation with it (io_req_post_cqe).
func (e *Engine) more(o *op, res int32, flags uint32) bool {
	if e.host.Room() == 0 {
		return false
	}
	if e.chance(e.faults.LastWithData) {
		e.counts.LastWithData++
		return false
	}
	e.post(o, res, flags|sys.IORING_CQE_F_MORE)
	return true
}

// wake has the operations looked at that wait for one of the events; 0 stands for
// any of them.
func (e *Engine) wake(s *socket, events uint32) {
	for _, o := range s.ops {
		if events != 0 && events&o.events == 0 || o.late {
			continue
		}
		if o.wakes++; o.wakes == 1 {
			o.key = events
		}
		if o.queued {
			continue
		}
		if e.chance(e.faults.Delay) {
			o.queued = true
			e.After(e.upTo(100*time.Microsecond), func() { o.queued = false; e.queue(o) })
			continue
		}
		e.queue(o)
	}
	if s.notify != nil {
		s.poke(e)
	}
}

// queue makes task work of an operation.
func (e *Engine) queue(o *op) {
	if o.queued || o.done {
		return
	}
	o.queued = true
	e.work = append(e.work, o)
}

// runWork runs the deferred task work, as an enter that asks for events does.
func (e *Engine) runWork() {
	for rounds := 0; len(e.work) > 0 && rounds < 4; rounds++ {
		batch := e.work
		e.work = nil
		if e.chance(e.faults.Reorder) {
			e.rng.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
		}
		if len(batch) > 1 && e.chance(e.faults.LeaveWork) {
			n := 1 + e.rng.IntN(len(batch)-1)
			e.work = append(e.work, batch[n:]...)
			batch = batch[:n]
			rounds = 4 // no more in this enter
		}
		for _, o := range batch {
			o.queued = false
			e.run(o)
		}
	}
}

func (e *Engine) run(o *op) {
	if o.done {
		return
	}
	if o.cancelled {
		e.endCancelled(o)
		return
	}
	switch {
	case o.code == sys.IORING_OP_MSG_RING:
		e.finish(o, 0, 0)
	case o.code == sys.IORING_OP_TIMEOUT:
		e.finish(o, -int32(unix.ETIME), 0)
	case o.code == sys.IORING_OP_ACCEPT:
		e.accept(o)
	case o.code == sys.IORING_OP_RECV:
		e.recv(o)
	case o.code == sys.IORING_OP_CONNECT:
		e.connect(o)
	case o.code == sys.IORING_OP_RECVMSG:
		e.recvmsg(o)
	case o.code == sys.IORING_OP_POLL_ADD:
		e.poll(o)
	case o.isSend():
		o.late = false
		e.send(o)
	}
}

// timeout arms a timeout.
func (e *Engine) timeout(o *op) {
	sec, nsec := sys.TimespecAt(o.entry.Addr)
	o.armed = true
	e.armed = append(e.armed, o)
	e.After(time.Duration(sec)*time.Second+time.Duration(nsec), func() { e.queue(o) })
}

// staleCompletion makes one for a connection that has gone. Buffers come along
// with some: they must not be lost.
func (e *Engine) staleCompletion() {
	if len(e.gone) == 0 || e.counts.Stale == staleMost || !e.chance(e.faults.Stale) {
		return
	}
	o := &op{code: sys.IORING_OP_NOP, userData: e.gone[e.rng.IntN(len(e.gone))]}
	res, flags := int32(e.rng.IntN(100)-20), uint32(0)
	if e.rng.IntN(2) == 0 {
		flags = sys.IORING_CQE_F_MORE
	}
	g := e.anyGroup()
	id, packets := e.packetGroups[o.userData]
	if packets {
		g = e.group(id)
	}
	if g != nil && res > 0 && (packets || o.userData>>56 == staleRecv) && e.rng.IntN(2) == 0 {
		if mem, bid, ok := e.pick(g); ok {
			g.commit(bid)
			res = min(res, int32(len(mem)))
			flags |= sys.IORING_CQE_F_BUFFER | uint32(bid)<<sys.IORING_CQE_BUFFER_SHIFT
		}
	}
	e.counts.Stale++
	e.Note("a stale completion")
	e.post(o, res, flags)
}

const staleMost = 200

// staleRecv is package net's kind of a receive, the only one that has buffers.
const staleRecv = 2
