//go:build linux

package net

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bufring"
	"example.com/ringnet/ring"
)

// packets is what a loop has for UDP sockets: nothing until there is one.
//
// They have a group of receive buffers of their own, since a datagram needs room
// for the largest and a stream does not. In each buffer the sender's address and
// control data lie in front:
//
//	┌────────────┬───────────────┬──────────────────┬───────────────┐
//	│ header, 16 │ sender, 28    │ control data     │ payload       │
//	└────────────┴───────────────┴──────────────────┴───────────────┘
type packets struct {
	sockets []socketSlot
	free    []uint32
	used    int

	pool     *bufring.Pool  // what datagrams are received into
	group    *bufring.Group // the same, when the kernel picks buffers itself
	control  int            // bytes of control data in front of each
	template ring.Message   // for multishot receives
	packet   Packet         // what OnPacket is lent

	batch    *ring.Batch
	covers   []cover // what each datagram of the batch stands for
	segments bool    // UDP_SEGMENT is there

	dirty   []*Socket // to settle before the loop enters the kernel
	spare   []*Socket
	starved []*Socket // waiting for a buffer
	closing []*Socket // with output that has a deadline, in order

	calling *Socket // whose handler is running
	opening bool    // in OnSocketOpen or OnSocketShutdown
	ending  *Socket // in OnSocketClose
	zones   zoneCache
}

type socketSlot struct {
	socket *Socket
	gen    uint32
}

// packetGroup is the number of the group; streams have 0.
const packetGroup = 1

// usePackets makes what UDP sockets need. On the loop's goroutine.
func (l *loop) usePackets() (err error) {
	p := &l.udp
	if p.pool != nil {
		return nil
	}
	if l.o.PacketInfo || l.o.GRO {
		p.control = ring.ControlBytes
	}
	if p.batch == nil {
		if p.batch, err = ring.NewBatch(); err != nil {
			return err
		}
		p.covers = make([]cover, 0, ring.BatchPieces)
	}
	size := ring.RecvmsgHeaderBytes + ring.SockaddrBytes + p.control + l.o.PacketBytes
	if !l.recvMultishot {
		p.pool, err = bufring.NewPool(bufring.PoolOptions{BufBytes: size, Count: l.o.PacketBufs, Poison: l.o.poison})
	} else if p.group, err = bufring.NewGroup(l.r, bufring.GroupOptions{ID: packetGroup, BufBytes: size, Count: l.o.PacketBufs, Poison: l.o.poison}); err == nil {
		p.pool = &p.group.Pool
		p.template = l.message()
		var mem []byte
		if mem, err = ring.Map(ring.SockaddrBytes + ring.ControlBytes); err == nil {
			l.messageMem = append(l.messageMem, mem)
			p.template.SetName(mem[:ring.SockaddrBytes]) // only the lengths count
			p.template.SetControl(mem[ring.SockaddrBytes:][:p.control])
		}
	}
	if err != nil {
		if p.group != nil {
			_ = p.group.Close()
		}
		p.pool, p.group = nil, nil
		return err
	}
	p.pool.Notify(l.mail.rouse)
	return nil
}

// closePackets gives that back. No socket is left.
func (l *loop) closePackets() []error {
	var errs []error
	p := &l.udp
	if p.group != nil {
		errs = append(errs, p.group.Close())
	} else if p.pool != nil {
		errs = append(errs, p.pool.Close())
	}
	if p.batch != nil {
		errs = append(errs, p.batch.Close())
	}
	return errs
}

func (p *packets) owns(lease bufring.Lease) bool { return p.pool != nil && p.pool.Owns(lease) }

// available is how many buffers can be received into.
func (p *packets) available() int {
	if p.group != nil {
		return p.group.Available()
	}
	return p.pool.Free()
}

// leased is how many are with handlers, or on their way out.
func (p *packets) leased() int {
	switch {
	case p.pool == nil:
		return 0
	case p.group != nil:
		p.group.Reclaim()
		return p.group.Leased()
	}
	p.pool.Reclaim()
	return p.pool.Out()
}

func (p *packets) scarce() bool { return p.available() < p.pool.Count()/2 }
func (p *packets) enough() int  { return (p.pool.Count() + 3) / 4 }

// putPacket gives a lease back.
func (l *loop) putPacket(lease bufring.Lease) {
	if l.udp.owns(lease) {
		l.udp.pool.Put(lease)
		return
	}
	l.put(lease)
}

// headBytes is what stands in front of the payload.
func (p *packets) headBytes() int { return ring.RecvmsgHeaderBytes + ring.SockaddrBytes + p.control }

// armSocket posts a receive for s. It stays armed until a completion without More:
// an error, an empty datagram, the group empty, the completion queue full, or a
// cancel. Since Linux 6.0 (ring.RecvMultishot); without it each receive is armed
// anew, into a buffer that the loop picks.
func (l *loop) armSocket(s *Socket) {
	p := &l.udp
	if p.available() == 0 {
		l.starveSocket(s)
		return
	}
	e := l.entry()
	if e == nil {
		l.markSocket(s)
		return
	}
	if p.group != nil {
		e.PrepareRecvmsgMultishot(int(s.fd), p.template, packetGroup)
	} else {
		s.buffer, _ = p.pool.Lease() // there is one, see above
		b := s.buffer.Bytes()
		if s.message == (ring.Message{}) {
			s.message = l.message()
		}
		s.message.Reset()
		name := ring.RecvmsgHeaderBytes + ring.SockaddrBytes
		s.message.SetName(b[ring.RecvmsgHeaderBytes:name])
		s.message.SetControl(b[name : name+p.control])
		s.message.Append(b[name+p.control:])
		e.PrepareRecvmsg(int(s.fd), s.message, 0)
	}
	e.SetUserData(userData(kindPacket, s.gen, s.slot))
	s.state |= socketRecvArmed
	l.inFlight++
	l.stats.Arms++
}

// onPacket takes a completion of a receive. The last one may still carry a
// datagram.
func (l *loop) onPacket(s *Socket, cqe *ring.Completion) {
	if !cqe.More() {
		s.state &^= socketRecvArmed | socketRecvEnds
		l.inFlight--
	}
	if s.buffer.Valid() {
		lease := s.buffer
		s.buffer = bufring.Lease{}
		if cqe.Res >= 0 && s.state&(socketClosing|socketDead) == 0 {
			l.deliverSingle(s, lease, int(cqe.Res))
		} else {
			l.udp.pool.Put(lease)
		}
	} else if id, ok := cqe.Buffer(); ok {
		lease := l.udp.group.Take(id, int(max(cqe.Res, 0)))
		if cqe.Res > 0 && s.state&(socketClosing|socketDead) == 0 {
			l.deliverMultishot(s, lease)
		} else {
			l.udp.pool.Put(lease)
		}
	}
	if cqe.Res < 0 {
		switch errno := syscall.Errno(-cqe.Res); errno {
		case unix.ENOBUFS:
			l.stats.NoBuffers++
			if l.udp.group != nil {
				l.udp.group.Exhausted()
			}
			if l.udp.available() < l.udp.enough() {
				l.starveSocket(s)
			}
		case unix.ECANCELED, unix.EINTR, unix.EAGAIN:
			// Ours, or nothing: settle arms it again if it is still wanted.
		default:
			// An ICMP error, as a rule. It has been told with this completion, so
			// the next receive does not end with it again.
			if s.state&socketDead == 0 {
				l.packetError(s, socketError("read", s.remote, errno))
			}
		}
	} else if cqe.More() && s.state&(socketClosing|socketDead) == 0 {
		return // the ordinary case
	}
	l.settleSocket(s)
}

// deliverMultishot lends a datagram to the handler, from a buffer that a multishot
// receive has filled. It owns the lease.
func (l *loop) deliverMultishot(s *Socket, lease bufring.Lease) {
	name, control, payload, flags, err := ring.ParseRecvmsg(lease.Bytes(), ring.SockaddrBytes, l.udp.control)
	if err != nil {
		panic(err) // no peer can bring that about
	}
	l.deliverPacket(s, lease, name, control, payload, flags)
}

// deliverSingle is the same for a buffer that a single receive has filled.
func (l *loop) deliverSingle(s *Socket, lease bufring.Lease, n int) {
	b, m := lease.Bytes(), s.message
	control := b[ring.RecvmsgHeaderBytes+ring.SockaddrBytes:][:min(m.ControlLen(), l.udp.control)]
	name := b[ring.RecvmsgHeaderBytes:][:min(m.NameLen(), ring.SockaddrBytes)]
	l.deliverPacket(s, lease, name, control, b[l.udp.headBytes():][:n], m.Flags())
}

func (l *loop) deliverPacket(s *Socket, lease bufring.Lease, name, control, payload []byte, flags int) {
	from, scope, ok := ring.ParseSockaddrScope(name)
	if !ok {
		// The kernel puts an address to every datagram of an IP socket.
		l.udp.pool.Put(lease)
		return
	}
	if scope != 0 {
		from = l.udp.zones.within(l, from, scope)
	}
	l.stats.PacketsReceived++
	l.stats.BytesReceived += uint64(len(payload))
	p := &l.udp.packet
	p.Data, p.From, p.name, p.Truncated = payload, from, name, flags&unix.MSG_TRUNC != 0
	p.socket, p.lease, p.at = s, lease, l.udp.headBytes()
	if len(control) > 0 {
		c := ring.ParseControl(control)
		p.To, p.local, p.Interface, p.Segment = c.To, c.Local, c.Interface, c.Segment
		if p.Segment >= len(payload) {
			p.Segment = 0
		}
	} else if l.udp.control > 0 {
		p.To, p.local, p.Interface, p.Segment = netip.Addr{}, netip.Addr{}, 0, 0
	}
	if p.Truncated {
		l.stats.PacketsTruncated++
	}
	l.udp.calling = s
	s.h.OnPacket(s, p)
	l.udp.calling = nil
	l.takeBack()
}

// takeBack ends what OnPacket was lent.
func (l *loop) takeBack() {
	p := &l.udp.packet
	if p.lease.Valid() {
		l.udp.pool.Put(p.lease)
		p.lease = bufring.Lease{}
	}
	p.socket, p.Data, p.name = nil, nil, nil
}

// starveSocket parks s until buffers are back.
func (l *loop) starveSocket(s *Socket) {
	if s.state&socketStarved == 0 {
		s.state |= socketStarved
		l.udp.starved = append(l.udp.starved, s)
		l.stats.Starved++
	}
}

// feedSockets arms parked sockets once a good part of the buffers is back, see
// loop.feed.
func (l *loop) feedSockets() {
	p := &l.udp
	if len(p.starved) == 0 {
		return
	}
	p.pool.Reclaim()
	if p.available() < p.enough() {
		p.pool.Await()
		p.pool.Reclaim()
		if p.available() < p.enough() {
			return
		}
	}
	for _, s := range p.starved {
		s.state &^= socketStarved
		l.markSocket(s)
	}
	clear(p.starved)
	p.starved = p.starved[:0]
}

// completePacket is the part of complete for sockets.
func (l *loop) completePacket(k kind, gen, slot uint32, cqe *ring.Completion) {
	s := l.findSocket(gen, slot)
	if s == nil {
		l.stats.Stale++
		if id, ok := cqe.Buffer(); ok {
			l.udp.pool.Put(l.udp.group.Take(id, 0))
		}
		return
	}
	switch k {
	case kindPacket:
		l.onPacket(s, cqe)
	case kindPacketRoom:
		l.onPacketRoom(s, cqe)
	case kindCancelPacket:
		l.onCancelSocket(s, cqe, socketRecvEnds)
	case kindCancelPacketRoom:
		l.onCancelSocket(s, cqe, socketRoomEnds)
	}
}
