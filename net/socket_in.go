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
// control data lie in front, unless receives are armed one by one:
//
//	┌────────────┬───────────────┬──────────────────┬───────────────┐
//	│ header, 16 │ sender, 28    │ control data     │ payload       │
//	└────────────┴───────────────┴──────────────────┴───────────────┘
type packets struct {
	sockets []socketSlot
	free    []uint32
	used    int

	group    *bufring.Group // what datagrams are received into
	control  int            // bytes of control data in front of each
	areas    [][]byte       // for single receives, not in use
	template ring.Message   // for multishot receives
	packet   Packet         // what OnPacket is lent

	batch  *ring.Batch
	covers []cover // what each datagram of the batch stands for

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
	if p.group != nil {
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
	size := l.o.PacketBytes
	if l.recvMultishot {
		size += p.headBytes()
	}
	p.group, err = bufring.NewGroup(l.r, bufring.GroupOptions{ID: packetGroup, BufBytes: size, Count: l.o.PacketBufs, Poison: l.o.poison})
	if err != nil {
		p.group = nil
		return err
	}
	p.group.Notify(l.mail.rouse)
	p.template = l.message()
	p.setAreas(p.template, l.packetArea()) // only the lengths count
	return nil
}

// packetArea takes memory for an address and control data from the loop's supply.
func (l *loop) packetArea() []byte {
	const size = 96
	if len(l.udp.areas) == 0 {
		mem, err := ring.Map(4096)
		if err != nil {
			panic(err) // the process is out of address space
		}
		l.messageMem = append(l.messageMem, mem)
		for ; len(mem) >= size; mem = mem[size:] {
			l.udp.areas = append(l.udp.areas, mem[:size:size])
		}
	}
	last := len(l.udp.areas) - 1
	area := l.udp.areas[last]
	l.udp.areas = l.udp.areas[:last]
	return area
}

func (p *packets) setAreas(m ring.Message, area []byte) {
	m.Reset()
	m.SetName(area[:ring.SockaddrBytes])
	m.SetControl(area[ring.SockaddrBytes:][:p.control])
}

// closePackets gives that back. No socket is left.
func (l *loop) closePackets() []error {
	var errs []error
	p := &l.udp
	if p.group != nil {
		errs = append(errs, p.group.Close())
	}
	if p.batch != nil {
		errs = append(errs, p.batch.Close())
	}
	return errs
}

func (p *packets) owns(lease bufring.Lease) bool { return p.group != nil && p.group.Owns(lease) }

// leased is how many buffers are with handlers, or on their way out.
func (p *packets) leased() int {
	if p.group == nil {
		return 0
	}
	p.group.Reclaim()
	return p.group.Leased()
}

func (p *packets) scarce() bool { return p.group.Available() < p.group.Count()/2 }
func (p *packets) enough() int  { return (p.group.Count() + 3) / 4 }

// putPacket gives a lease back.
func (l *loop) putPacket(lease bufring.Lease) {
	if l.udp.owns(lease) {
		l.udp.group.Put(lease)
		return
	}
	l.put(lease)
}

// headBytes is what stands in front of the payload.
func (p *packets) headBytes() int { return ring.RecvmsgHeaderBytes + ring.SockaddrBytes + p.control }

// armSocket posts a receive for s. It stays armed until a completion without More:
// an error, an empty datagram, the group empty, the completion queue full, or a
// cancel. Since Linux 6.0 (ring.RecvMultishot); without it each receive is armed
// anew.
func (l *loop) armSocket(s *Socket) {
	p := &l.udp
	if p.group.Available() == 0 {
		l.starveSocket(s)
		return
	}
	e := l.entry()
	if e == nil {
		l.markSocket(s)
		return
	}
	if l.recvMultishot {
		e.PrepareRecvmsgMultishot(int(s.fd), p.template, packetGroup)
	} else {
		if s.area == nil {
			s.message, s.area = l.message(), l.packetArea()
		}
		p.setAreas(s.message, s.area)
		e.PrepareRecvmsgSelect(int(s.fd), s.message, packetGroup)
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
	var lease bufring.Lease
	if id, ok := cqe.Buffer(); ok {
		lease = l.udp.group.Take(id, int(max(cqe.Res, 0)))
	}
	switch {
	case cqe.Res < 0 || s.state&(socketClosing|socketDead) != 0:
		l.udp.group.Put(lease)
	case l.recvMultishot:
		l.deliverMultishot(s, lease)
	default:
		l.deliverSingle(s, lease)
	}
	if cqe.Res < 0 {
		switch errno := syscall.Errno(-cqe.Res); errno {
		case unix.ENOBUFS:
			l.stats.NoBuffers++
			l.udp.group.Exhausted()
			if l.udp.group.Available() < l.udp.enough() {
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
	l.udp.packet.at = l.udp.headBytes()
	l.deliverPacket(s, lease, name, control, payload, flags)
}

// deliverSingle is the same for a buffer that a single receive has filled; with an
// empty datagram comes none.
func (l *loop) deliverSingle(s *Socket, lease bufring.Lease) {
	name := s.area[:min(s.message.NameLen(), ring.SockaddrBytes)]
	control := s.area[ring.SockaddrBytes:][:min(s.message.ControlLen(), l.udp.control)]
	if !lease.Valid() {
		lease = bufring.Wrap(nil)
	}
	l.udp.packet.at = 0
	l.deliverPacket(s, lease, name, control, lease.Bytes(), s.message.Flags())
}

func (l *loop) deliverPacket(s *Socket, lease bufring.Lease, name, control, payload []byte, flags int) {
	from, scope, ok := ring.ParseSockaddrScope(name)
	if !ok {
		// The kernel puts an address to every datagram of an IP socket.
		l.udp.group.Put(lease)
		return
	}
	if scope != 0 {
		from = l.udp.zones.within(l, from, scope)
	}
	l.stats.PacketsReceived++
	l.stats.BytesReceived += uint64(len(payload))
	p := &l.udp.packet
	p.Data, p.From, p.name, p.Truncated = payload, from, name, flags&unix.MSG_TRUNC != 0
	p.socket, p.lease = s, lease
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
		l.udp.group.Put(p.lease)
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
	p.group.Reclaim()
	if p.group.Available() < p.enough() {
		p.group.Await()
		p.group.Reclaim()
		if p.group.Available() < p.enough() {
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
			l.udp.group.Put(l.udp.group.Take(id, 0))
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
