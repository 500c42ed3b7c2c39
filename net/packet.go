//go:build linux

package net

import (
	"iter"
	"net/netip"

	"example.com/ringnet/bufring"
)

// PacketHandler is what a server does with the datagrams of its UDP sockets. One
// handler may serve many sockets, on all loops; the callbacks of a loop's sockets
// and connections are never called two at once.
//
// A panic in OnPacket loses that datagram and nothing else: the socket serves
// everybody else as well. It is logged, and counted in Stats.Panics. A panic in
// OnSocketOpen or OnSocketShutdown closes the socket with a *[PanicError] as cause.
type PacketHandler interface {
	// OnPacket is lent a datagram, in the buffer that the kernel filled. p and all
	// that is in it are valid until OnPacket returns; to keep the bytes, copy them
	// or call p.Detach.
	OnPacket(s *Socket, p *Packet)
}

// SocketOpenHandler may be implemented by a PacketHandler.
type SocketOpenHandler interface {
	// OnSocketOpen is called once for each socket, on its loop, before anything
	// else.
	OnSocketOpen(s *Socket)
}

// SocketCloseHandler may be implemented by a PacketHandler.
type SocketCloseHandler interface {
	// OnSocketClose is called exactly once for each socket that was opened, on every
	// path, when no operation of it is left and before its descriptor can be used
	// again. err is the cause: nil when this side closed it, [ErrServerClosed] on
	// shutdown, *[PanicError], [ErrCloseTimeout], or what Abort was given.
	OnSocketClose(s *Socket, err error)
}

// SocketErrorHandler may be implemented by a PacketHandler that wants to hear of
// datagrams which did not go out, and of what routers and peers answer to those
// that did. Without it such errors are only counted (Stats.PacketErrors).
type SocketErrorHandler interface {
	// OnSocketError is told an *[OpError]. The socket stays open. With Op "write" a
	// datagram to Addr was not sent (too large, forbidden by a firewall, no route).
	// A connected socket also hears of ICMP messages, such as
	// syscall.ECONNREFUSED when nobody listens at the peer's port: those belong to
	// some earlier datagram. Of more than 64 errors at a time the rest is only
	// counted.
	OnSocketError(s *Socket, err error)
}

// SocketWritableHandler may be implemented by a PacketHandler that sends on its own
// accord and not in answer to datagrams.
type SocketWritableHandler interface {
	// OnSocketWritable is called when the bytes not yet sent, having been above
	// Options.HighWater, are down to Options.LowWater.
	OnSocketWritable(s *Socket)
}

// SocketShutdownHandler may be implemented by a PacketHandler that wants to take
// leave. With it, a socket stays open on Shutdown until the handler closes it or
// the context of Shutdown ends; without it, it is closed when its output has gone
// out.
type SocketShutdownHandler interface {
	OnSocketShutdown(s *Socket)
}

// packetHandlers is a PacketHandler with its optional parts looked up once.
type packetHandlers struct {
	PacketHandler
	open     SocketOpenHandler
	close    SocketCloseHandler
	errors   SocketErrorHandler
	writable SocketWritableHandler
	shutdown SocketShutdownHandler
}

func newPacketHandlers(h PacketHandler) *packetHandlers {
	hs := &packetHandlers{PacketHandler: h}
	hs.open, _ = h.(SocketOpenHandler)
	hs.close, _ = h.(SocketCloseHandler)
	hs.errors, _ = h.(SocketErrorHandler)
	hs.writable, _ = h.(SocketWritableHandler)
	hs.shutdown, _ = h.(SocketShutdownHandler)
	return hs
}

// Packet is a received datagram, or with Options.GRO several of one sender. It
// belongs to the loop and is valid until OnPacket returns. Only on the loop's
// goroutine.
type Packet struct {
	// Data are the bytes, in the buffer that the kernel filled. They may be empty:
	// an empty datagram is a datagram.
	Data []byte

	// From is the sender. IPv4 addresses are plain also on a socket that takes both
	// families; link-local IPv6 addresses carry their zone.
	From netip.AddrPort

	// To is the address that the datagram was sent to, and Interface the number of
	// the interface that it came by; with Options.PacketInfo, else they are zero.
	To        netip.Addr
	Interface int

	// Segment, if not 0, is the size of each of the datagrams that Data is made of,
	// except that the last one may be shorter; see [Packet.Segments] and
	// Options.GRO.
	Segment int

	// Truncated says that the datagram was larger than Options.PacketBytes, and
	// that the rest of it is lost.
	Truncated bool

	socket *Socket
	lease  bufring.Lease // the whole buffer; zero when it is detached
	at     int           // where in it Data is
	name   []byte        // the sender in the kernel's form, in the buffer
	local  netip.Addr    // to answer from
}

// Segments are the datagrams that Data is made of: one, unless Options.GRO is set.
func (p *Packet) Segments() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		rest := p.Data
		for p.Segment > 0 && len(rest) > p.Segment {
			if !yield(rest[:p.Segment:p.Segment]) {
				return
			}
			rest = rest[p.Segment:]
		}
		yield(rest)
	}
}

// Detach takes Data as a lease: to keep, to hand to another goroutine, or to
// [Socket.SendTo]. [ErrNoData] outside OnPacket, or when called twice.
//
// A leased buffer is missing to all sockets of the loop until it is released.
// When handlers hold all of them nothing is received any more, and the kernel
// drops what its own buffers cannot keep.
func (p *Packet) Detach() (bufring.Lease, error) {
	if !p.lease.Valid() {
		return bufring.Lease{}, ErrNoData
	}
	lease := p.lease.Slice(p.at, p.at+len(p.Data))
	p.lease = bufring.Lease{}
	return lease, nil
}

// Reply sends a copy of b to the sender, from the address that the datagram was sent
// to if that is known (Options.PacketInfo) and one of ours alone. It costs less
// than WriteTo with From. Errors are those of [Socket.WriteTo]. Only within
// OnPacket.
func (p *Packet) Reply(b []byte) (int, error) {
	if p.socket == nil {
		return 0, ErrNoData
	}
	return p.socket.reply(p, b)
}
