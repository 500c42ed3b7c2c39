//go:build linux

package sim

import (
	"bytes"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

func (e *Engine) issueSend(o *op) {
	o.events = unix.POLLOUT
	for _, other := range o.sock.ops {
		if other.isSend() {
			e.Violate("%s: %s is under way on the same socket", o, other)
		}
	}
	e.arm(o)
	if e.chance(e.faults.LateSend) {
		// It was handed to a worker thread, say: the bytes are taken only then.
		e.counts.LateSends++
		o.late = true
		o.was = slices.Concat(o.pieces()...)
		e.After(e.upTo(300*time.Microsecond), func() { e.queue(o) })
		return
	}
	if o.entry.Ioprio&sys.IORING_RECVSEND_POLL_FIRST != 0 && e.mask(o.sock)&unix.POLLOUT == 0 {
		return
	}
	e.send(o)
}

func (o *op) zeroCopy() bool {
	return o.code == sys.IORING_OP_SEND_ZC || o.code == sys.IORING_OP_SENDMSG_ZC
}

// pieces is what a send names, from the bytes on that it has not sent.
func (o *op) pieces() [][]byte {
	var all [][]byte
	if o.code == sys.IORING_OP_SEND || o.code == sys.IORING_OP_SEND_ZC {
		all = [][]byte{sys.Bytes(o.entry.Addr, int(o.entry.Len))}
	} else {
		m := sys.MessageAt(o.entry.Addr)
		for i := range m.Len() {
			all = append(all, m.Piece(i))
		}
	}
	for skip := o.sent; skip > 0; {
		if skip < len(all[0]) {
			all[0] = all[0][skip:]
			break
		}
		skip -= len(all[0])
		all = all[1:]
	}
	return all
}

func total(pieces [][]byte) int {
	n := 0
	for _, p := range pieces {
		n += len(p)
	}
	return n
}

// send does what an armed send can do now.
func (e *Engine) send(o *op) {
	o.wakes = 0
	pieces := o.pieces()
	want := total(pieces)
	if o.was != nil && !bytes.Equal(o.was, slices.Concat(pieces...)) {
		e.Violate("%s: its memory has changed since it was submitted", o)
	}
	var notice *notification
	if o.zeroCopy() {
		notice = &notification{e: e, userData: o.userData, report: o.entry.Ioprio&sys.IORING_SEND_ZC_REPORT_USAGE != 0}
	}
	var n int
	var errno syscall.Errno
	if e.chance(e.faults.SendNoMemory) {
		e.counts.SendErrors++
		errno = []syscall.Errno{unix.ENOMEM, unix.ENOBUFS}[e.rng.IntN(2)]
	} else {
		n, errno = e.put(o.sock, pieces, notice)
	}
	waits := o.entry.OpFlags&unix.MSG_DONTWAIT == 0
	switch {
	case errno == unix.EAGAIN && waits:
		return
	case errno != 0:
		if o.sent > 0 {
			e.finishSend(o, int32(o.sent), notice)
			return
		}
		e.finishSend(o, -int32(errno), notice)
	case n < want && waits && o.entry.OpFlags&unix.MSG_WAITALL != 0:
		o.sent += n
	default:
		e.finishSend(o, int32(o.sent+n), notice)
	}
}

func (e *Engine) finishSend(o *op, res int32, notice *notification) {
	if notice == nil {
		e.finish(o, res, 0)
		return
	}
	e.finish(o, res, sys.IORING_CQE_F_MORE)
	notice.sent()
}

// put sends from pieces as much as goes, without waiting.
func (e *Engine) put(s *socket, pieces [][]byte, notice *notification) (int, syscall.Errno) {
	if errno := s.sendError(); errno != 0 {
		return 0, errno
	}
	switch {
	case e.chance(e.faults.SendEINTR):
		e.counts.SendErrors++
		return 0, unix.EINTR
	case e.chance(e.faults.SendFull):
		e.counts.SendErrors++
		e.squeeze(s)
		return 0, unix.EAGAIN
	}
	want := total(pieces)
	n := min(want, e.room(s))
	if n > 1 && e.chance(e.faults.ShortSend) {
		e.counts.ShortResults++
		n = 1 + e.rng.IntN(n-1)
		e.squeeze(s)
	}
	if n < want {
		s.nospace = true
	}
	if n == 0 && want > 0 {
		return 0, unix.EAGAIN
	}
	left := n
	for _, p := range pieces {
		p = p[:min(len(p), left)]
		left -= len(p)
		for len(p) > 0 {
			m := len(p)
			if m > s.link.Piece {
				m = 1 + e.rng.IntN(s.link.Piece)
			}
			if notice != nil && !e.chance(e.faults.Copied) {
				notice.pending++
				e.transmit(s, segment{data: p[:m:m], done: notice.free})
			} else {
				if notice != nil {
					notice.copied = true
				}
				e.transmit(s, segment{data: append([]byte(nil), p[:m]...)})
			}
			p = p[m:]
		}
	}
	return n, 0
}

// notification is the second completion of a zero-copy send: when the last of its
// memory has arrived, or later.
type notification struct {
	e        *Engine
	userData uint64
	report   bool
	copied   bool
	pending  int
	told     bool // the first completion
}

func (n *notification) free(bool) {
	n.pending--
	n.check()
}

func (n *notification) sent() {
	n.told = true
	n.check()
}

func (n *notification) check() {
	if !n.told || n.pending > 0 {
		return
	}
	wait := time.Duration(0)
	if n.e.chance(n.e.faults.LateNotice) {
		wait = 40 * time.Millisecond // a delayed acknowledgement
	}
	n.e.After(wait, func() {
		res := uint32(0)
		if n.report && n.copied {
			res = sys.IORING_NOTIF_USAGE_ZC_COPIED
		}
		n.e.post(&op{code: sys.IORING_OP_SEND_ZC, userData: n.userData}, int32(res), sys.IORING_CQE_F_NOTIF)
	})
}
