//go:build linux

package sim

import (
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// udp is what makes a socket one for datagrams. It behaves as Linux's does
// (net/ipv4/udp.c): what comes while its buffer is full is lost, an ICMP message is
// the errno of the next call or receive of a connected socket, and of no other.
type udp struct {
	peer   netip.AddrPort // whom it is connected to
	queue  []datagram     // arrived
	held   int            // bytes of it
	limit  int            // of held
	under  int            // bytes sent that have not left the machine
	room   int            // of under
	v6     bool
	info   bool // UDPOptions.PacketInfo
	gro    bool
	ledger *Ledger
}

// datagram is one that has arrived, or with GRO several.
type datagram struct {
	from    netip.AddrPort
	to      netip.Addr
	data    []byte
	segment int
}

// packetOverhead is what the kernel counts for a datagram beside its bytes.
const packetOverhead = 256

// Ledger counts what became of a socket's datagrams.
type Ledger struct {
	Sent     int // datagrams that the kernel took, segments one by one
	Arrived  int // that came into its buffer
	Received int // of those, that the program received
	Waiting  int // of those, that are still there
}

// UDPRoute is how a UDP peer is connected.
type UDPRoute struct {
	Link
	Loss int // in a thousand datagrams, so many are lost on the way
	Same int // and so many come twice
	// RecvBytes and SendBytes are the buffers of the socket that it sends to.
	RecvBytes, SendBytes int
}

// UDPPeer is a peer that sends and receives datagrams.
type UDPPeer struct {
	Addr    netip.AddrPort
	Receive func(from netip.AddrPort, data []byte)

	e      *Engine
	route  UDPRoute
	closed bool
}

// NewUDPPeer makes a peer, which has a socket at once.
func (e *Engine) NewUDPPeer(addr netip.AddrPort, route UDPRoute, receive func(from netip.AddrPort, data []byte)) *UDPPeer {
	p := &UDPPeer{Addr: addr, Receive: receive, e: e, route: route}
	e.udpPeers = append(e.udpPeers, p)
	return p
}

// Close closes the peer's socket: what still comes is answered with an ICMP message.
func (p *UDPPeer) Close() { p.closed = true }

// SetUDPBuffers sets what sockets that are opened from now on can hold.
func (e *Engine) SetUDPBuffers(recvBytes, sendBytes int) {
	e.udpRecv, e.udpSend = recvBytes, sendBytes
}

// Ledger is what became of the datagrams of a socket of ours, also after it was
// closed; nil when there was none at that address.
func (e *Engine) Ledger(local netip.AddrPort) *Ledger { return e.ledgers[local.Port()] }

// Send sends a datagram to one of our sockets.
func (p *UDPPeer) Send(to netip.AddrPort, data []byte) {
	e := p.e
	copies := 1
	switch {
	case e.rng.IntN(1000) < p.route.Loss:
		e.counts.PacketsLost++
		return
	case e.rng.IntN(1000) < p.route.Same:
		copies = 2
	}
	for range copies {
		d := datagram{from: p.Addr, to: to.Addr(), data: append([]byte{}, data...)}
		e.After(p.delay(), func() { e.arrivePacket(to, d) })
	}
}

// delay is how long a datagram takes; each its own time, so that they overtake each
// other.
func (p *UDPPeer) delay() time.Duration {
	d := p.route.Latency + p.e.upTo(p.route.Jitter)
	if p.route.Stall > 0 && p.e.rng.IntN(1000) < p.route.Stall {
		d += p.e.upTo(p.route.StallFor)
	}
	return d
}

// arrivePacket brings a datagram to the socket that it is for.
func (e *Engine) arrivePacket(to netip.AddrPort, d datagram) {
	var s *socket
	for _, o := range e.fds {
		if o == nil || o.udp == nil || o.addr.Port() != to.Port() {
			continue
		}
		if o.udp.peer.IsValid() && o.udp.peer != d.from {
			continue
		}
		s = o
		break
	}
	if s == nil {
		e.counts.PacketsLost++
		e.Note("a datagram of %d bytes from %v arrives for nobody", len(d.data), d.from)
		return
	}
	u := s.udp
	if u.held+len(d.data)+packetOverhead > u.limit {
		e.counts.PacketsLost++
		e.Note("%s: a datagram of %d bytes from %v does not fit", s, len(d.data), d.from)
		return
	}
	e.Note("%s: a datagram of %d bytes from %v arrives", s, len(d.data), d.from)
	u.ledger.Arrived++
	u.held += len(d.data) + packetOverhead
	if last := len(u.queue) - 1; u.gro && last >= 0 && len(d.data) > 0 {
		// As udp_gro_receive does: of one sender, of one size but the last.
		l := &u.queue[last]
		size := l.segment
		if size == 0 {
			size = len(l.data)
		}
		if l.from == d.from && l.to == d.to && size > 0 && len(l.data)%size == 0 && len(d.data) <= size && len(l.data)+len(d.data) < 65000 {
			l.segment = size
			l.data = append(l.data, d.data...)
			u.ledger.Received++ // with the first
			e.counts.PacketsJoined++
			e.wake(s, unix.POLLIN)
			return
		}
	}
	u.ledger.Waiting++
	u.queue = append(u.queue, d)
	e.wake(s, unix.POLLIN)
}

// issueRecvmsg begins a receive of datagrams.
func (e *Engine) issueRecvmsg(o *op) {
	o.events = unix.POLLIN
	o.multishot = o.entry.Ioprio&sys.IORING_RECV_MULTISHOT != 0
	if o.sock.udp == nil {
		e.Violate("%s: recvmsg is for datagrams here", o)
		e.refuse(o, unix.EINVAL)
		return
	}
	if o.group = e.group(o.entry.BufIndex); o.group == nil || o.entry.Flags&sys.IOSQE_BUFFER_SELECT == 0 {
		e.Violate("%s: buffer group %d is not registered, or none is given", o, o.entry.BufIndex)
		e.refuse(o, unix.ENOBUFS)
		return
	}
	e.packetGroups[o.userData] = o.group.id
	for _, other := range o.sock.ops {
		if other.code == sys.IORING_OP_RECVMSG {
			e.Violate("%s: %s is armed on the same socket", o, other)
		}
	}
	e.arm(o)
	e.recvmsg(o)
}

// recvmsg does what an armed receive of datagrams can do now.
func (e *Engine) recvmsg(o *op) {
	s, u := o.sock, o.sock.udp
	o.wakes = 0
	if e.chance(e.faults.RecvEINTR) {
		e.counts.RecvErrors++
		e.refuse(o, unix.EINTR)
		return
	}
	m := sys.MessageAt(o.entry.Addr)
	for round := 0; ; round++ {
		if round == roundsMax {
			e.queue(o)
			return
		}
		mem, bid, ok := e.pick(o.group)
		if !ok || e.chance(e.faults.NoBuffers) {
			e.counts.NoBuffers++
			e.refuse(o, unix.ENOBUFS)
			return
		}
		if s.err != 0 {
			errno := s.err
			s.err = 0
			e.refuse(o, errno)
			return
		}
		if len(u.queue) == 0 {
			return // wait
		}
		d := u.queue[0]
		u.queue = u.queue[1:]
		u.held -= len(d.data) + packetOverhead
		u.ledger.Waiting--
		u.ledger.Received++
		if !o.multishot {
			n, flags := copy(mem, d.data), uint32(0)
			m.Answer(u.putName(m.NameArea(), d.from), u.putControl(m.ControlArea(), d), truncated(n, d))
			if n > 0 {
				o.group.commit(bid)
				flags = sys.IORING_CQE_F_BUFFER | uint32(bid)<<sys.IORING_CQE_BUFFER_SHIFT
			}
			e.finish(o, int32(n), flags)
			return
		}
		nameLen, controlLen := m.NameLen(), m.ControlLen()
		head := sys.RecvmsgOutBytes + nameLen + controlLen
		if head > len(mem) {
			e.refuse(o, unix.EFAULT)
			return
		}
		n := copy(mem[head:], d.data)
		sys.PutRecvmsgOut(mem, sys.RecvmsgOut{
			NameLen:    uint32(u.putName(mem[sys.RecvmsgOutBytes:][:nameLen], d.from)),
			ControlLen: uint32(u.putControl(mem[sys.RecvmsgOutBytes+nameLen:][:controlLen], d)),
			PayloadLen: uint32(len(d.data)),
			Flags:      uint32(truncated(n, d)),
		})
		o.group.commit(bid)
		flags := sys.IORING_CQE_F_BUFFER | uint32(bid)<<sys.IORING_CQE_BUFFER_SHIFT
		// An empty datagram ends it (io_recvmsg_multishot).
		if len(d.data) == 0 || !e.more(o, int32(head+n), flags) {
			e.finish(o, int32(head+n), flags)
			return
		}
	}
}

func truncated(n int, d datagram) int32 {
	if n < len(d.data) {
		return unix.MSG_TRUNC
	}
	return 0
}

func (u *udp) putName(area []byte, from netip.AddrPort) int {
	var name [sys.SockaddrBytes]byte
	if u.v6 && from.Addr().Is4() {
		from = netip.AddrPortFrom(netip.AddrFrom16(from.Addr().As16()), from.Port())
	}
	b := sys.PutSockaddrScope(name[:], from, 0)
	copy(area, b)
	return len(b)
}

func (u *udp) putControl(area []byte, d datagram) int {
	n := 0
	if u.info && len(area) > 0 {
		n += sys.PutPacketInfo(area, d.to, 1)
	}
	if u.gro && d.segment > 0 && len(area) > n {
		n += sys.PutSegmentSize(area[n:], d.segment)
	}
	return n
}

// maskUDP is what poll(2) would answer (udp_poll).
func (e *Engine) maskUDP(s *socket) uint32 {
	u := s.udp
	var m uint32
	if len(u.queue) > 0 {
		m |= unix.POLLIN
	}
	if s.err != 0 {
		m |= unix.POLLERR | unix.POLLIN
	}
	if e.now >= s.squeezed && 2*u.under <= u.room {
		m |= unix.POLLOUT
	} else {
		s.nospace = true
	}
	return m
}

// OpenUDP implements engine.Datagrams.
func (e *Engine) OpenUDP(addr netip.AddrPort, o sys.UDPOptions) (int, error) {
	s := newSocket("udp", len(e.ledgers), 0, nil)
	if addr.Port() == 0 {
		e.lastPort++
		addr = netip.AddrPortFrom(addr.Addr(), e.lastPort)
	}
	for _, other := range e.fds {
		if other != nil && other.udp != nil && other.addr.Port() == addr.Port() {
			return -1, unix.EADDRINUSE
		}
	}
	s.addr, s.server = addr, true
	s.udp = &udp{limit: e.udpRecv, room: e.udpSend, v6: addr.Addr().Is6(), info: o.PacketInfo, gro: o.GRO, ledger: &Ledger{}}
	e.ledgers[addr.Port()] = s.udp.ledger
	fd := e.newFd(s)
	e.Note("%s is descriptor %d, bound to %v", s, fd, addr)
	return fd, nil
}

func (e *Engine) udp(fd int, what string) *socket {
	s := e.socket(fd)
	if s == nil || s.udp == nil {
		e.Violate("%s on descriptor %d, which is not an open UDP socket", what, fd)
		return nil
	}
	return s
}

// ConnectUDP implements engine.Datagrams.
func (e *Engine) ConnectUDP(fd int, addr netip.AddrPort) error {
	s := e.udp(fd, "connect(2)")
	if s == nil {
		return unix.EBADF
	}
	s.udp.peer = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	s.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), s.addr.Port())
	e.Note("%s: connected to %v", s, addr)
	return nil
}

// SetMembership implements engine.Datagrams.
func (e *Engine) SetMembership(fd int, group netip.Addr, ifindex int, join bool) error {
	if e.udp(fd, "membership") == nil {
		return unix.EBADF
	}
	return nil
}

// SetMulticastInterface implements engine.Datagrams.
func (e *Engine) SetMulticastInterface(fd int, v6 bool, ifindex int) error {
	if e.udp(fd, "multicast interface") == nil {
		return unix.EBADF
	}
	return nil
}

// SendBatch implements engine.Datagrams. As with sendmmsg(2) the errno of any
// datagram but the first is lost.
func (e *Engine) SendBatch(fd int, b *sys.Batch) (int, syscall.Errno) {
	for i := range b.Len() {
		if errno := e.SendOne(fd, b, i); errno != 0 {
			if i > 0 {
				return i, 0
			}
			return 0, errno
		}
	}
	return b.Len(), 0
}

// SendOne implements engine.Datagrams.
func (e *Engine) SendOne(fd int, b *sys.Batch, i int) syscall.Errno {
	s := e.udp(fd, "sendmsg(2)")
	if s == nil {
		return unix.EBADF
	}
	to := s.udp.peer
	if name := b.Name(i); len(name) > 0 {
		var ok bool
		if to, _, ok = sys.ParseSockaddrScope(name); !ok {
			e.Violate("%s: sendmsg(2) with an address %x", s, name)
			return unix.EINVAL
		}
	}
	data := b.Payload(nil, i)
	errno := e.sendPacket(s, to, data, sys.ParseSegment(b.Control(i)))
	if e.Tracing() {
		e.Note("%s: a datagram of %d bytes to %v: %v", s, len(data), to, errno)
	}
	return errno
}

func (e *Engine) sendPacket(s *socket, to netip.AddrPort, data []byte, segment int) syscall.Errno {
	u := s.udp
	switch {
	case s.err != 0:
		errno := s.err
		s.err = 0
		return errno
	case !to.IsValid():
		e.Violate("%s: a datagram without an address", s)
		return unix.EDESTADDRREQ
	case len(data) > 65507:
		return unix.EMSGSIZE
	case e.chance(e.faults.SendEINTR):
		e.counts.SendErrors++
		return unix.EINTR
	case e.chance(e.faults.SendNoMemory):
		e.counts.SendErrors++
		return []syscall.Errno{unix.ENOMEM, unix.ENOBUFS, unix.EPERM, unix.ENETUNREACH}[e.rng.IntN(4)]
	case e.chance(e.faults.SendFull):
		e.counts.SendErrors++
		e.squeezePackets(s)
		return unix.EAGAIN
	case segment > 0 && (len(data) > 64*segment || segment > 65507):
		e.Violate("%s: %d bytes in segments of %d", s, len(data), segment)
		return unix.EINVAL
	case segment > 0 && e.chance(e.faults.Segments):
		e.counts.SegmentErrors++
		return []syscall.Errno{unix.EINVAL, unix.EINVAL, unix.EIO}[e.rng.IntN(3)]
	case e.now < s.squeezed || u.under > 0 && u.under+len(data)+packetOverhead > u.room:
		s.nospace = true
		return unix.EAGAIN
	}
	for {
		one := data
		if segment > 0 && len(one) > segment {
			one = data[:segment]
		}
		data = data[len(one):]
		u.ledger.Sent++
		e.transmitPacket(s, to, append([]byte{}, one...))
		if len(data) == 0 {
			return 0
		}
	}
}

// transmitPacket puts a datagram on the wire.
func (e *Engine) transmitPacket(s *socket, to netip.AddrPort, data []byte) {
	u, cost := s.udp, len(data)+packetOverhead
	u.under += cost
	var p *UDPPeer
	for _, o := range e.udpPeers {
		if o.Addr == to {
			p = o
		}
	}
	delay := 10 * time.Microsecond
	if p != nil {
		delay = p.delay()
	}
	from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), s.addr.Port())
	e.After(delay/2, func() {
		u.under -= cost
		e.packetSpace(s)
	})
	if p != nil && e.rng.IntN(1000) < p.route.Loss {
		e.counts.PacketsLost++
		return
	}
	e.After(delay, func() {
		if p != nil && !p.closed {
			p.Receive(from, data)
			return
		}
		// Nobody listens there: an ICMP message, for whom it may concern.
		if u.peer == to && !s.released {
			e.Note("%s: port unreachable", s)
			e.counts.Unreachable++
			s.err = unix.ECONNREFUSED
			e.wake(s, 0)
		}
	})
}

// squeezePackets takes the room away for a while.
func (e *Engine) squeezePackets(s *socket) {
	d := e.upTo(500 * time.Microsecond)
	s.squeezed = e.now + d
	s.nospace = true
	e.After(d, func() { e.packetSpace(s) })
}

// packetSpace wakes who waits for room, if there is some (sock_def_write_space).
func (e *Engine) packetSpace(s *socket) {
	if s.released || !s.nospace || e.now < s.squeezed || 2*s.udp.under > s.udp.room {
		return
	}
	s.nospace = false
	e.wake(s, unix.POLLOUT)
}

// String is for traces.
func (l *Ledger) String() string { return fmt.Sprintf("%+v", *l) }
