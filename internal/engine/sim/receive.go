//go:build linux

package sim

import (
	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// roundsMax is how many buffers one multishot receive fills before others have
// their turn (MULTISHOT_MAX_RETRY).
const roundsMax = 32

func (e *Engine) issueRecv(o *op) {
	o.events = unix.POLLIN
	o.multishot = o.entry.Ioprio&sys.IORING_RECV_MULTISHOT != 0
	selects := o.entry.Flags&sys.IOSQE_BUFFER_SELECT != 0
	if o.multishot && !selects {
		e.refuse(o, unix.EINVAL)
		return
	}
	if selects {
		if o.group = e.group(o.entry.BufIndex); o.group == nil {
			e.Violate("%s: buffer group %d is not registered", o, o.entry.BufIndex)
			e.refuse(o, unix.ENOBUFS)
			return
		}
	}
	for _, other := range o.sock.ops {
		if other.code == sys.IORING_OP_RECV {
			e.Violate("%s: %s is armed on the same socket", o, other)
		}
	}
	e.arm(o)
	if o.entry.Ioprio&sys.IORING_RECVSEND_POLL_FIRST != 0 {
		if e.mask(o.sock)&unix.POLLIN != 0 {
			o.found = true
			e.queue(o)
		}
		return
	}
	e.recv(o)
	o.found = o.queued // it begins to wait, with bytes left
}

// recv does what an armed receive can do now.
func (e *Engine) recv(o *op) {
	s := o.sock
	once := o.found && o.wakes == 0 // no reason to look again behind the last bytes
	o.found, o.wakes = false, 0
	if e.chance(e.faults.RecvEINTR) {
		e.counts.RecvErrors++
		e.refuse(o, unix.EINTR)
		return
	}
	for round := 0; ; round++ {
		if round == roundsMax {
			o.found = once
			e.queue(o)
			return
		}
		var mem []byte
		var bid uint16
		if o.group != nil {
			// The kernel takes a buffer before it looks at the socket: an empty
			// group is ENOBUFS also where there is nothing to receive.
			var ok bool
			mem, bid, ok = e.pick(o.group)
			if !ok || e.chance(e.faults.NoBuffers) {
				e.counts.NoBuffers++
				e.refuse(o, unix.ENOBUFS)
				return
			}
		} else {
			mem = sys.Bytes(o.entry.Addr, int(o.entry.Len))
		}
		if len(s.in.ready) == 0 {
			if s.err != 0 && round > 0 && e.o.ForgetsResets {
				e.counts.ResetsForgotten++
				e.Note("%s forgets a reset", o)
				return // nothing will wake it
			}
			if once && round > 0 && e.o.ForgetsLate && s.ended() && !s.finSeen {
				e.counts.LateForgotten++
				e.Note("%s forgets an end that it found when it was armed", o)
				return
			}
			errno, ok := s.receiveError()
			if !ok {
				return // wait
			}
			flags := uint32(0)
			if errno == 0 && o.group != nil && e.chance(e.faults.EmptyBuffer) {
				o.group.commit(bid)
				flags = sys.IORING_CQE_F_BUFFER | uint32(bid)<<sys.IORING_CQE_BUFFER_SHIFT
			}
			e.finish(o, -int32(errno), flags)
			return
		}
		n := min(len(mem), len(s.in.ready))
		if n > 1 && e.chance(e.faults.ShortRecv) {
			e.counts.ShortResults++
			n = 1 + e.rng.IntN(n-1)
		}
		e.takeBytes(s, mem[:n])
		flags := uint32(0)
		if o.group != nil {
			o.group.commit(bid)
			flags = sys.IORING_CQE_F_BUFFER | uint32(bid)<<sys.IORING_CQE_BUFFER_SHIFT
		}
		if len(s.in.ready) > 0 {
			flags |= sys.IORING_CQE_F_SOCK_NONEMPTY
		}
		if !o.multishot || !e.more(o, int32(n), flags) {
			e.finish(o, int32(n), flags)
			return
		}
	}
}
