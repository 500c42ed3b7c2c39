//go:build linux

package net

import (
	"slices"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// A socket ends as a connection does, see close.go:
//
//	closing   nothing is received any more; what was written goes out
//	dead      cancels end the operations in flight
//	(none in flight)
//	finished  OnSocketClose, then close(2), then the slot is free
//
// There is no shutdown(2) among it: that is for connected sockets only.

// markSocket has s settled before the loop enters the kernel.
func (l *loop) markSocket(s *Socket) {
	if s.state&(socketDirty|socketFinished) == 0 {
		s.state |= socketDirty
		l.udp.dirty = append(l.udp.dirty, s)
	}
}

// settleSockets settles the marked ones, before the loop enters the kernel: what a
// whole turn has written goes out with as few calls as may be. Those that are
// marked meanwhile come in the next turn, which pressing has begin at once.
func (l *loop) settleSockets() {
	l.udp.dirty, l.udp.spare = l.udp.spare[:0], l.udp.dirty
	for i, s := range l.udp.spare {
		l.udp.spare[i] = nil
		s.state &^= socketDirty
		l.startSocket(s)
		l.guard(func() { l.settleSocket(s) })
	}
}

// settleSocket does what a socket needs now, given what is so. It may be called at
// any time.
func (l *loop) settleSocket(s *Socket) {
	if s.state&(socketFinished|socketOpened) != socketOpened {
		return
	}
	if s.state&socketDead == 0 && s.out.count > 0 {
		before := s.out.count
		l.flushSocket(s)
		l.checkHighSocket(s, false)
		if s.out.count < before {
			l.checkLowSocket(s)
		}
	}
	l.tellErrors(s)
	if s.state&socketFull != 0 && s.state&(socketRoomArmed|socketDead) == 0 && s.out.count > 0 {
		l.awaitSocketRoom(s)
	}
	if s.state&(socketClosing|socketDead) != 0 {
		l.endSocket(s)
		return
	}
	if s.state&(socketRecvArmed|socketStarved) == 0 {
		l.armSocket(s)
	}
}

// tellErrors hands the handler what went wrong.
func (l *loop) tellErrors(s *Socket) {
	for len(s.errs) > 0 && s.state&socketFinished == 0 {
		err := s.errs[0]
		s.errs = s.errs[1:]
		l.callSocket(s, func() { s.h.errors.OnSocketError(s, err) })
	}
	s.errs = nil
}

// awaitSocketRoom has a poll tell when the kernel takes datagrams again. It is a
// single one: a standing poll would be told of each datagram that has left.
func (l *loop) awaitSocketRoom(s *Socket) {
	e := l.entry()
	if e == nil {
		l.markSocket(s)
		return
	}
	e.PreparePoll(int(s.fd), unix.POLLOUT)
	e.SetUserData(userData(kindPacketRoom, s.gen, s.slot))
	s.state |= socketRoomArmed
	l.inFlight++
	l.stats.Arms++
}

// onPacketRoom takes the completion of that poll.
func (l *loop) onPacketRoom(s *Socket, cqe *ring.Completion) {
	s.state &^= socketRoomArmed | socketRoomEnds
	l.inFlight--
	s.state &^= socketFull // a failed poll is answered by trying again
	before := s.out.count
	l.settleSocket(s)
	if before == 0 && s.state&socketFinished == 0 {
		l.checkLowSocket(s)
	}
}

// endSocket takes a socket through its last steps.
func (l *loop) endSocket(s *Socket) {
	if s.out.count == 0 {
		s.state |= socketDead
	}
	if s.state&socketRecvArmed != 0 {
		l.cancelSocket(s, kindPacket, kindCancelPacket, socketRecvEnds)
	}
	if s.state&socketDead == 0 {
		return
	}
	for s.out.count > 0 {
		l.putPacket(s.out.pop())
	}
	if s.state&socketRoomArmed != 0 {
		l.cancelSocket(s, kindPacketRoom, kindCancelPacketRoom, socketRoomEnds)
	}
	if s.state&socketInFlight == 0 && s.cancels == 0 {
		l.finishSocket(s)
	}
}

// cancelSocket ends an operation; it is over with its own last completion.
func (l *loop) cancelSocket(s *Socket, k, own kind, busy socketState) {
	if s.state&busy != 0 {
		return
	}
	e := l.entry()
	if e == nil {
		l.markSocket(s)
		return
	}
	e.PrepareCancel(userData(k, s.gen, s.slot))
	e.SetUserData(userData(own, s.gen, s.slot))
	s.state |= busy
	s.cancels++
	l.inFlight++
}

// onCancelSocket takes the completion of a cancel, see onCancel.
func (l *loop) onCancelSocket(s *Socket, cqe *ring.Completion, busy socketState) {
	s.cancels--
	l.inFlight--
	if cqe.Res < 0 {
		s.state &^= busy
	}
	l.settleSocket(s)
}

// closeSocket is Socket.Close, with a cause.
func (l *loop) closeSocket(s *Socket, cause error) {
	if s.state&(socketClosing|socketDead|socketFinished) != 0 {
		return
	}
	if s.cause == nil {
		s.cause = cause
	}
	s.state |= socketClosing
	if s.out.count > 0 && l.o.CloseTimeout > 0 {
		s.deadline = l.clock() + int64(l.o.CloseTimeout)
		l.udp.closing = append(l.udp.closing, s)
	}
	l.markSocket(s)
}

// abortSocket is Socket.Abort.
func (l *loop) abortSocket(s *Socket, cause error) {
	if s.state&(socketDead|socketFinished) != 0 {
		return
	}
	if s.cause == nil {
		s.cause = cause
	}
	s.state |= socketClosing | socketDead
	l.markSocket(s)
}

// finishSocket is the last step: nothing of s is in flight.
func (l *loop) finishSocket(s *Socket) {
	s.state |= socketFinished
	s.errs = nil
	if s.h.close != nil {
		l.udp.ending = s
		l.callSocket(s, func() { s.h.close.OnSocketClose(s, s.cause) })
	}
	l.releaseSocket(s)
}

// releaseSocket frees what s has, after OnSocketClose has returned or panicked.
func (l *loop) releaseSocket(s *Socket) {
	p := &l.udp
	p.ending = nil
	_ = l.r.CloseFd(int(s.fd))
	if s.area != nil {
		l.messages, p.areas = append(l.messages, s.message), append(p.areas, s.area)
		s.message, s.area = ring.Message{}, nil
	}
	if s.state&socketStarved != 0 {
		p.starved = slices.DeleteFunc(p.starved, func(o *Socket) bool { return o == s })
	}
	if s.deadline != 0 {
		p.closing = slices.DeleteFunc(p.closing, func(o *Socket) bool { return o == s })
	}
	p.sockets[s.slot].socket = nil
	p.free = append(p.free, s.slot)
	p.used--
	s.context = nil
	l.stats.SocketsClosed++
	if l.acceptPaused {
		l.acceptAt = 0 // a descriptor is free
	}
}

// expireSockets drops the output of closed sockets that did not go out in time.
func (l *loop) expireSockets(now int64) {
	for _, s := range l.udp.closing {
		if now < s.deadline {
			return // all have the same time, so the list is in order
		}
		if s.state&socketDead == 0 {
			if s.cause == nil {
				s.cause = ErrCloseTimeout
			}
			l.abortSocket(s, ErrCloseTimeout)
		}
	}
}

// drainSockets has every socket end in its own time, cutSockets now.
func (l *loop) drainSockets() {
	l.eachSocket(func(s *Socket) {
		l.startSocket(s)
		if s.h.shutdown != nil && s.state&(socketClosing|socketDead|socketFinished) == 0 {
			l.guard(func() {
				l.udp.opening = true
				l.callSocket(s, func() { s.h.shutdown.OnSocketShutdown(s) })
				l.udp.opening = false
			})
		} else {
			l.closeSocket(s, ErrServerClosed)
		}
	})
}

func (l *loop) cutSockets() {
	l.eachSocket(func(s *Socket) { l.abortSocket(s, ErrServerClosed) })
}

// empty reports that nothing is left to serve.
func (l *loop) empty() bool { return l.table.used+l.dials.used+l.udp.used+l.fibers == 0 }

func (l *loop) eachSocket(f func(s *Socket)) {
	for i := range l.udp.sockets {
		if s := l.udp.sockets[i].socket; s != nil {
			f(s)
		}
	}
}

// callSocket runs a callback of s.
func (l *loop) callSocket(s *Socket, f func()) {
	before := l.udp.calling
	l.udp.calling = s
	f()
	l.udp.calling = before
}

// socketPanicked is the part of contain for callbacks of sockets.
func (l *loop) socketPanicked(cause *PanicError) {
	p := &l.udp
	s := p.calling
	p.calling = nil
	opening := p.opening
	p.opening = false
	if p.packet.socket != nil {
		l.takeBack()
	}
	if p.ending == s {
		l.releaseSocket(s)
		return
	}
	if opening {
		s.state |= socketOpened
		l.abortSocket(s, cause)
	}
	l.markSocket(s)
}
