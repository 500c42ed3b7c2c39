//go:build linux

package net

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bufring"
	"example.com/ringnet/ring"
)

// A socket's datagrams leave by direct calls of sendmmsg(2), 64 at a time, at the
// end of a turn or when so many wait, and not through the submission queue: the
// kernel would have to make a request and a completion for each. The calls have
// read what they send when they return, so nothing of it is ever in flight. What
// the kernel does not take waits here, and a poll tells when there is room.

// WriteTo sends a copy of b to an address. It takes b or, with an error, nothing:
// ErrClosed after Close, ErrBacklog over Options.MaxBuffered, an *[OpError] with
// syscall.EMSGSIZE above 65,507 bytes (65,527 over IPv6), or one that says why the
// address cannot be reached from this socket. Errors of the network are told to
// [SocketErrorHandler].
func (s *Socket) WriteTo(b []byte, to netip.AddrPort) (int, error) {
	return s.write(b, 0, to, netip.Addr{})
}

// WriteFrom is WriteTo from a certain address of ours, for a socket that is bound to
// all of them; see Packet.To.
func (s *Socket) WriteFrom(b []byte, from netip.Addr, to netip.AddrPort) (int, error) {
	from = from.Unmap()
	if !from.IsValid() || from.Is4() != to.Addr().Unmap().Is4() {
		return 0, socketError("write", to, fmt.Errorf("the source address %v is of another family, or none", from))
	}
	return s.write(b, 0, to, from)
}

// Write sends a copy of b to the peer of a connected socket. See WriteTo; without a
// peer the error is [ErrNotConnected].
func (s *Socket) Write(b []byte) (int, error) {
	return s.write(b, 0, netip.AddrPort{}, netip.Addr{})
}

// WriteSegments sends a copy of b as datagrams of size bytes each, except that the
// last one may be shorter, to an address; the zero AddrPort stands for the peer of a
// connected socket. The kernel gets them as one (UDP_SEGMENT, since Linux 4.18),
// which costs far less than one by one; where it or the network device cannot,
// they go one by one.
//
// b holds up to 64 segments and 65,507 bytes. Errors are those of WriteTo.
func (s *Socket) WriteSegments(b []byte, size int, to netip.AddrPort) error {
	if size < 1 || size > packetBytesMax || len(b) > segmentsMax*size {
		return socketError("write", to, fmt.Errorf("%d bytes in segments of %d: there may be 1 to %d segments, of 1 to %d bytes", len(b), size, segmentsMax, packetBytesMax))
	}
	if len(b) <= size {
		size = 0
	}
	_, err := s.write(b, size, to, netip.Addr{})
	return err
}

// segmentsMax is UDP_MAX_SEGMENTS of older kernels; newer ones take 128.
const segmentsMax = 64

// SendTo sends a lease's bytes to an address, without a copy, and then releases it.
// It owns the lease, also when it returns an error (those of WriteTo).
func (s *Socket) SendTo(lease bufring.Lease, to netip.AddrPort) error {
	name, scope, err := s.check(lease.Len(), to)
	if err != nil {
		lease.Release()
		return err
	}
	s.l.sendPacket(s, lease, name, scope)
	return nil
}

// Send is SendTo for the peer of a connected socket.
func (s *Socket) Send(lease bufring.Lease) error { return s.SendTo(lease, netip.AddrPort{}) }

// Buffered is the number of bytes written and not yet taken by the kernel.
func (s *Socket) Buffered() int { return s.out.bytes }

// fits reports why a socket cannot send to an address.
func (s *Socket) fits(to netip.AddrPort) error {
	switch a := to.Addr(); {
	case !a.IsValid() || to.Port() == 0:
		return socketError("write", to, errors.New("no address to send to: give an IP address and a port"))
	case a.Is6() && !a.Is4In6() && !s.v6:
		return socketError("write", to, fmt.Errorf("%w: the socket is bound to %v and sends over IPv4 only", unix.EAFNOSUPPORT, s.local))
	case (a.Is4() || a.Is4In6()) && s.v6 && s.v6only:
		return socketError("write", to, fmt.Errorf("%w: the socket is bound to %v and sends over IPv6 only", unix.EAFNOSUPPORT, s.local))
	}
	return nil
}

// check says whether n bytes to an address may be written now, and to what address
// in the kernel's terms: the zero one is the connected peer.
func (s *Socket) check(n int, to netip.AddrPort) (netip.AddrPort, uint32, error) {
	if err := s.mayWrite(n); err != nil {
		return to, 0, err
	}
	if to == (netip.AddrPort{}) {
		if s.state&socketConnected == 0 {
			return to, 0, ErrNotConnected
		}
		return to, 0, s.checkSize(n, s.remote)
	}
	if to.Addr().Is4In6() {
		to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	}
	if to.Port() == 0 || s.v6only || to.Addr().Is4() == s.v6 || !to.IsValid() {
		if err := s.fits(to); err != nil {
			return to, 0, err
		}
	}
	if n > packetBytesMax {
		if err := s.checkSize(n, to); err != nil {
			return to, 0, err
		}
	}
	scope := uint32(0)
	if to.Addr().Zone() != "" {
		var err error
		if scope, err = s.l.udp.zones.id(s.l, to.Addr().Zone()); err != nil {
			return to, 0, socketError("write", to, err)
		}
	}
	return to, scope, nil
}

func (s *Socket) mayWrite(n int) error {
	if s.state&(socketClosing|socketDead|socketFinished) != 0 {
		return ErrClosed
	}
	if held := s.out.held(); held > 0 && held+n+packetCost > s.l.o.MaxBuffered {
		// It may only be that nobody has offered the kernel what waits.
		s.l.flushSocket(s)
		if held = s.out.held(); held > 0 && held+n+packetCost > s.l.o.MaxBuffered {
			s.l.checkHighSocket(s, true)
			return ErrBacklog
		}
	}
	return nil
}

func (s *Socket) checkSize(n int, to netip.AddrPort) error {
	most := packetBytesMax
	if to.Addr().Is6() {
		most += 20
	}
	if n > most {
		return socketError("write", to, fmt.Errorf("%w: %d bytes, a datagram holds at most %d", unix.EMSGSIZE, n, most))
	}
	return nil
}

// write queues a copy of b.
func (s *Socket) write(b []byte, size int, to netip.AddrPort, from netip.Addr) (int, error) {
	to, scope, err := s.check(len(b), to)
	if err != nil {
		return 0, err
	}
	d := s.l.enqueuePacket(s, s.l.copyPacket(b))
	d.nameLen = uint8(len(ring.PutSockaddrScope(d.name[:], to, scope)))
	d.segment = uint16(size)
	d.setSource(from, 0)
	s.l.queued(s)
	return len(b), nil
}

// reply is Packet.Reply. The sender's address goes back as the kernel gave it.
func (s *Socket) reply(p *Packet, b []byte) (int, error) {
	if err := s.mayWrite(len(b)); err != nil {
		return 0, err
	}
	if len(b) > packetBytesMax {
		if err := s.checkSize(len(b), p.From); err != nil {
			return 0, err
		}
	}
	d := s.l.enqueuePacket(s, s.l.copyPacket(b))
	d.nameLen = uint8(copy(d.name[:], p.name))
	if p.local.IsValid() {
		d.setSource(p.local, uint32(p.Interface))
	}
	s.l.queued(s)
	return len(b), nil
}

// setSource sets where a datagram comes from. An interface counts only for
// addresses that mean nothing without it.
func (d *datagram) setSource(from netip.Addr, by uint32) {
	switch {
	case !from.IsValid():
		d.source = 0
	case from.Is4():
		a := from.As4()
		d.source = uint8(copy(d.from[:], a[:]))
	default:
		d.from = from.As16()
		d.source = 16
		if !from.IsLinkLocalUnicast() {
			by = 0
		}
	}
	d.by = by
	if d.source == 4 {
		d.by = 0
	}
}

// copyPacket leases memory with a copy of b in it, in one piece.
func (l *loop) copyPacket(b []byte) bufring.Lease {
	for _, p := range l.copies {
		if len(b) > p.BufBytes() {
			continue
		}
		if lease, err := p.Lease(); err == nil {
			lease, _ = lease.Slice(0, 0).Append(b)
			return lease
		}
	}
	l.stats.HeapBuffers++
	return bufring.Wrap(append([]byte(nil), b...))
}

// enqueuePacket adds a datagram to a socket's output. The caller fills in the rest
// and then calls queued.
func (l *loop) enqueuePacket(s *Socket, lease bufring.Lease) *datagram {
	d := s.out.push()
	d.lease = lease
	d.sent, d.split, d.again, d.by, d.source, d.segment = 0, false, false, 0, 0, 0
	s.out.bytes += lease.Len()
	return d
}

// queued looks after a socket's output when there is more of it. A batch that is
// full goes out at once: only what the kernel refuses is to wait.
func (l *loop) queued(s *Socket) {
	l.markSocket(s)
	if s.out.count >= ring.BatchPieces {
		l.flushSocket(s)
	}
	if s.state&socketFull != 0 {
		l.checkHighSocket(s, false)
	}
}

// sendPacket queues a lease, and owns it.
func (l *loop) sendPacket(s *Socket, lease bufring.Lease, to netip.AddrPort, scope uint32) {
	if s.state&socketFull != 0 && l.udp.owns(lease) && l.udp.scarce() {
		lease = l.unlendPacket(lease) // it has to wait, others must not wait with it
	}
	d := l.enqueuePacket(s, lease)
	d.nameLen = uint8(len(ring.PutSockaddrScope(d.name[:], to, scope)))
	l.queued(s)
}

// unlendPacket replaces a receive buffer by a copy.
func (l *loop) unlendPacket(lease bufring.Lease) bufring.Lease {
	c := l.copyPacket(lease.Bytes())
	l.udp.group.Put(lease)
	return c
}

// flushSocket offers a socket's output to the kernel until that is full or all is
// gone. It calls no handler: what goes wrong is told later.
func (l *loop) flushSocket(s *Socket) {
	for s.out.count > 0 && s.state&socketFull == 0 {
		l.fillBatch(s)
		sent, errno := l.sendBatch(s)
		l.stats.PacketSends++
		for i := range sent {
			l.packetSent(s, l.udp.covers[i])
		}
		if errno != 0 {
			l.packetRefused(s, l.udp.covers[sent], errno)
		}
	}
}

// cover says what of a queue one datagram of the batch stands for: whole datagrams,
// or a segment of so many bytes of the first one.
type cover struct {
	whole   int
	part    int
	segment uint16
}

// fillBatch puts the first datagrams of a socket into the loop's batch. Neighbours
// of one size to one address become one with segments.
func (l *loop) fillBatch(s *Socket) {
	b := l.udp.batch
	b.Reset()
	l.udp.covers = l.udp.covers[:0]
	for i := 0; i < s.out.count && !b.Full(); {
		d := s.out.at(i)
		mem := d.lease.Bytes()
		if d.segment > 0 && (d.split || s.noSegments) {
			if mem = mem[d.sent:]; len(mem) > int(d.segment) {
				l.addToBatch(d, mem[:d.segment], cover{part: int(d.segment)})
				return // sent tells where the next one begins
			}
			l.addToBatch(d, mem, cover{whole: 1})
			i++
			continue
		}
		c := l.addToBatch(d, mem, cover{whole: 1, segment: d.segment})
		i++
		if size := len(mem); d.segment == 0 && size > 0 && size <= s.coalesce && !d.again {
			for total := size; i < s.out.count && !b.Full(); i++ {
				next := s.out.at(i)
				n := next.lease.Len()
				if total += n; n > size || n == 0 || total > packetBytesMax || next.segment > 0 || next.again || !next.sameWay(d) {
					break
				}
				b.Add(next.lease.Bytes())
				c.segment = uint16(size)
				if c.whole++; n < size {
					i++
					break // only the last one may be shorter
				}
			}
		}
		if c.segment > 0 {
			b.SetSegment(c.segment)
		}
	}
}

// addToBatch begins a datagram of the batch.
func (l *loop) addToBatch(d *datagram, mem []byte, c cover) *cover {
	l.udp.batch.Begin(d.name[:d.nameLen])
	d.putSource(l.udp.batch)
	l.udp.batch.Add(mem)
	l.udp.covers = append(l.udp.covers, c)
	return &l.udp.covers[len(l.udp.covers)-1]
}

// sameWay reports that two datagrams have the same addresses.
func (d *datagram) sameWay(o *datagram) bool {
	return string(d.name[:d.nameLen]) == string(o.name[:o.nameLen]) && d.source == o.source &&
		(d.source == 0 || d.from == o.from && d.by == o.by)
}

func (d *datagram) putSource(b *ring.Batch) {
	switch d.source {
	case 4:
		b.SetSource(netip.AddrFrom4([4]byte(d.from[:4])), d.by)
	case 16:
		b.SetSource(netip.AddrFrom16(d.from), d.by)
	}
}

// sendBatch sends the batch, and returns how many went out and, if not all, why the
// next one did not; 0 means that it is not known, and to try again.
func (l *loop) sendBatch(s *Socket) (int, syscall.Errno) {
	b := l.udp.batch
	if s.state&socketConnected == 0 {
		return l.r.SendBatch(int(s.fd), b)
	}
	// A connected socket hears of ICMP errors with its next call, and when that is
	// in the middle of a sendmmsg(2) the errno is lost. One to one peer is mostly
	// one datagram with segments.
	for i := range b.Len() {
		if errno := l.r.SendOne(int(s.fd), b, i); errno != 0 {
			return i, errno
		}
	}
	return b.Len(), 0
}

// packetSent takes off the queue what one datagram of the batch stood for.
func (l *loop) packetSent(s *Socket, c cover) {
	if s.earlier != 0 {
		// It was refused for an earlier one's sake, as is clear now.
		l.packetError(s, socketError("write", s.remote, s.earlier))
		s.earlier = 0
	}
	if c.whole == 0 {
		d := s.out.at(0)
		d.sent += int32(c.part)
		d.again = false
		s.out.bytes -= c.part
		l.stats.PacketsSent++
		l.stats.BytesSent += uint64(c.part)
		return
	}
	if c.segment > 0 {
		l.stats.Segmented++
	}
	for range c.whole {
		d := s.out.at(0)
		n := d.lease.Len() - int(d.sent)
		l.stats.BytesSent += uint64(n)
		if d.segment > 0 && d.sent == 0 && !d.split {
			l.stats.PacketsSent += uint64((n + int(d.segment) - 1) / int(d.segment))
		} else {
			l.stats.PacketsSent++
		}
		l.putPacket(s.out.pop())
	}
}

// packetRefused decides what an errno means for the first datagrams of the queue.
func (l *loop) packetRefused(s *Socket, c cover, errno syscall.Errno) {
	d := s.out.at(0)
	switch errno {
	case unix.EINTR:
		return
	case unix.EAGAIN:
		s.state |= socketFull
		l.stats.PacketWaits++
		for i := 0; i < s.out.count && l.udp.scarce(); i++ {
			if d := s.out.at(i); l.udp.owns(d.lease) && d.sent == 0 {
				d.lease = l.unlendPacket(d.lease)
			}
		}
		return
	}
	if c.segment > 0 {
		// Several at once. One by one it shows which of them it is about, if any.
		d.split, d.again = d.segment > 0, d.segment == 0
		switch {
		case !isSegmentErrno(errno):
			if s.state&socketConnected != 0 {
				s.earlier = errno
			}
		case errno == unix.EINVAL || errno == unix.EMSGSIZE:
			// Larger than the route's MTU: stay below it where we choose.
			if d.segment == 0 {
				s.coalesce = int(c.segment) - 1
			}
		default:
			s.coalesce, s.noSegments = 0, true // the device cannot
		}
		return
	}
	if s.state&socketConnected != 0 && !d.again && errno != unix.EMSGSIZE {
		// It may be the answer to an earlier one. Then this one was not looked at.
		d.again = true
		s.earlier = errno
		return
	}
	s.earlier = 0
	l.packetError(s, socketError("write", d.to(s.remote), errno))
	if c.whole == 0 {
		d.sent += int32(c.part)
		d.again = false
		s.out.bytes -= c.part
		return
	}
	l.putPacket(s.out.pop())
}

// isSegmentErrno reports whether an errno may be about segments and not about the
// datagrams: EIO without checksum offload, EINVAL for segments above the MTU
// (udp_send_skb in net/ipv4/udp.c).
func isSegmentErrno(errno syscall.Errno) bool {
	switch errno {
	case unix.EINVAL, unix.EIO, unix.EMSGSIZE, unix.EOPNOTSUPP, unix.ENOPROTOOPT:
		return true
	}
	return false
}

// packetErrorsMax is how many errors may wait to be told.
const packetErrorsMax = 64

// packetError has an error told to the handler.
func (l *loop) packetError(s *Socket, err error) {
	l.stats.PacketErrors++
	if s.h.errors != nil && len(s.errs) < packetErrorsMax {
		s.errs = append(s.errs, err)
		l.markSocket(s)
	}
}

// checkHighSocket notes that a socket's output has grown too long.
func (l *loop) checkHighSocket(s *Socket, refused bool) {
	if s.state&socketOverHigh == 0 && (refused || s.out.held() > l.o.HighWater) {
		s.state |= socketOverHigh
		l.stats.HighWater++
	}
}

// checkLowSocket tells that there is room again.
func (l *loop) checkLowSocket(s *Socket) {
	if s.state&socketOverHigh == 0 || s.out.held() > l.o.LowWater {
		return
	}
	s.state &^= socketOverHigh
	if s.h.writable != nil && s.state&(socketClosing|socketDead) == 0 {
		l.callSocket(s, func() { s.h.writable.OnSocketWritable(s) })
	}
}
