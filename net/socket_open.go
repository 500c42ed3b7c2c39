//go:build linux

package net

import (
	"errors"
	"fmt"
	stdnet "net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// ErrNotConnected says that Write or Send was called on a socket without a peer: use
// WriteTo or SendTo.
var ErrNotConnected = errors.New("ringnet: the socket is not connected: use WriteTo or SendTo, or Connect it")

var errNoPacketHandler = errors.New("ringnet: no handler for datagrams: give one, or set Server.Packets")

// ListenPacket opens a UDP socket on one of the loops, besides those that
// [Server.Start] has opened. addr is "host:port" as for Start, without "udp:". h
// gets its datagrams; nil stands for Server.Packets.
//
// It returns when the loop has opened the socket. Not to be called from a callback,
// which has [Socket.ListenPacket] and [Conn.ListenPacket]: it would wait for itself.
// Safe for concurrent use.
func (s *Server) ListenPacket(addr string, h PacketHandler) (SocketRef, error) {
	at, err := resolvePacket(addr)
	if err != nil {
		return SocketRef{}, err
	}
	return s.openPacket(h, func(l *loop, hs *packetHandlers) (*Socket, error) {
		return l.listenPacket(at, hs)
	})
}

// DialPacket opens a UDP socket on one of the loops and connects it to addr,
// "host:port". See [Server.ListenPacket].
func (s *Server) DialPacket(addr string, h PacketHandler) (SocketRef, error) {
	udp, err := stdnet.ResolveUDPAddr("udp", addr)
	if err != nil {
		return SocketRef{}, fmt.Errorf("ringnet: dial address %q: %w", addr, err)
	}
	to := udp.AddrPort()
	return s.openPacket(h, func(l *loop, hs *packetHandlers) (*Socket, error) {
		return l.dialPacket(to, hs)
	})
}

// openPacket has a loop open a socket; each socket goes to the next loop.
func (s *Server) openPacket(h PacketHandler, open func(l *loop, hs *packetHandlers) (*Socket, error)) (SocketRef, error) {
	if h == nil {
		h = s.Packets
	}
	if h == nil {
		return SocketRef{}, errNoPacketHandler
	}
	s.mu.Lock()
	if s.state != serverRunning {
		defer s.mu.Unlock()
		if s.state == serverNew {
			return SocketRef{}, errors.New("ringnet: the server has not been started")
		}
		return SocketRef{}, ErrServerClosed
	}
	l := s.loops[s.nextLoop%len(s.loops)]
	s.nextLoop++
	s.mu.Unlock()

	type outcome struct {
		ref SocketRef
		err error
	}
	answer := make(chan outcome, 1)
	hs := newPacketHandlers(h)
	if err := l.mail.post(func() {
		socket, err := open(l, hs)
		if err != nil {
			answer <- outcome{err: err}
			return
		}
		l.startSocket(socket)
		answer <- outcome{ref: socket.Ref()}
	}); err != nil {
		return SocketRef{}, err
	}
	o := <-answer
	return o.ref, o.err
}

// ListenPacket opens a UDP socket on the same loop. h gets its datagrams; nil stands
// for the handler of this one.
func (s *Socket) ListenPacket(addr netip.AddrPort, h PacketHandler) (*Socket, error) {
	return s.l.listenPacket(packetAddr{AddrPort: addr}, s.others(h))
}

// DialPacket opens a UDP socket on the same loop and connects it to addr. See
// ListenPacket.
func (s *Socket) DialPacket(addr netip.AddrPort, h PacketHandler) (*Socket, error) {
	return s.l.dialPacket(addr, s.others(h))
}

func (s *Socket) others(h PacketHandler) *packetHandlers {
	if h == nil {
		return s.h
	}
	return newPacketHandlers(h)
}

// ListenPacket opens a UDP socket on the connection's loop. h gets its datagrams.
// Only on the loop's goroutine.
func (c *Conn) ListenPacket(addr netip.AddrPort, h PacketHandler) (*Socket, error) {
	if h == nil {
		return nil, errNoPacketHandler
	}
	return c.l.listenPacket(packetAddr{AddrPort: addr}, newPacketHandlers(h))
}

// DialPacket opens a UDP socket on the connection's loop and connects it to addr. h
// gets its datagrams. Only on the loop's goroutine.
func (c *Conn) DialPacket(addr netip.AddrPort, h PacketHandler) (*Socket, error) {
	if h == nil {
		return nil, errNoPacketHandler
	}
	return c.l.dialPacket(addr, newPacketHandlers(h))
}

// udpPrefix stands in front of addresses that datagrams are received on.
const udpPrefix = "udp:"

// packetAddr is an address to receive on.
type packetAddr struct {
	netip.AddrPort
	v6only bool
}

// resolvePacket reads an address as std's net does.
func resolvePacket(addr string) (packetAddr, error) {
	host, _, err := stdnet.SplitHostPort(addr)
	if err != nil {
		return packetAddr{}, fmt.Errorf("ringnet: listen address %q: %w: write host:port, such as \"udp:127.0.0.1:53\", \"udp:[::1]:53\" or \"udp::53\"", addr, err)
	}
	udp, err := stdnet.ResolveUDPAddr("udp", addr)
	if err != nil {
		return packetAddr{}, fmt.Errorf("ringnet: listen address %q: %w", addr, err)
	}
	ap := udp.AddrPort()
	if host == "" {
		return packetAddr{AddrPort: netip.AddrPortFrom(netip.IPv6Unspecified(), ap.Port())}, nil
	}
	ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	return packetAddr{AddrPort: ap, v6only: ap.Addr().Is6() && !strings.Contains(host, ".")}, nil
}

// listenPacketAll opens a socket on a for each loop; they share the port that the
// first one got. What is sent to a multicast group comes to every socket that is
// bound to it, so that only the first loop has one.
func listenPacketAll(loops []*loop, a packetAddr, hs *packetHandlers) (netip.AddrPort, error) {
	if a.Addr().IsMulticast() {
		loops = loops[:1]
	}
	shared := len(loops) > 1
	if shared && a.Port() != 0 {
		// As for streams: a second server would quietly get half of the datagrams.
		fd, err := loops[0].openUDP(&a, false)
		if err != nil {
			return a.AddrPort, err
		}
		_ = loops[0].r.CloseFd(fd)
	}
	for _, l := range loops {
		s, err := l.makeSocket(a, shared, hs)
		if err != nil {
			return a.AddrPort, err
		}
		l.insertSocket(s)
		a.AddrPort = s.local
	}
	return a.AddrPort, nil
}

// openUDP opens a descriptor on a, which becomes what it could be opened on.
func (l *loop) openUDP(a *packetAddr, shared bool) (int, error) {
	o := ring.UDPOptions{Shared: shared, Reuse: a.Addr().IsMulticast(), V6only: a.v6only, PacketInfo: l.o.PacketInfo, GRO: l.o.GRO}
	fd, err := l.r.OpenUDP(a.AddrPort, o)
	if errors.Is(err, unix.EAFNOSUPPORT) && a.Addr() == netip.IPv6Unspecified() && !a.v6only {
		// A machine without IPv6: every address is every IPv4 address.
		a.AddrPort = netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port())
		fd, err = l.r.OpenUDP(a.AddrPort, o)
	}
	if err != nil {
		return -1, socketError("listen", a.AddrPort, explainListen(err))
	}
	return fd, nil
}

// makeSocket opens a socket that the loop has yet to start.
func (l *loop) makeSocket(a packetAddr, shared bool, hs *packetHandlers) (*Socket, error) {
	fd, err := l.openUDP(&a, shared)
	if err != nil {
		return nil, err
	}
	local, err := l.r.LocalAddr(fd)
	if err != nil {
		_ = l.r.CloseFd(fd)
		return nil, socketError("listen", a.AddrPort, err)
	}
	s := &Socket{l: l, h: hs, fd: int32(fd), v6: a.Addr().Is6(), v6only: a.v6only, local: local}
	// GSO is there when its option is (Linux 4.18).
	if _, err := l.r.GetInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT); err != nil || l.o.NoSegments {
		s.noSegments = true
	} else {
		s.coalesce = packetBytesMax
	}
	if a.Addr().IsMulticast() {
		if err := s.JoinGroup(nil, a.Addr()); err != nil {
			_ = l.r.CloseFd(fd)
			return nil, err
		}
	}
	return s, nil
}

// insertSocket gives s a slot and a generation, as table.insert does.
func (l *loop) insertSocket(s *Socket) {
	p := &l.udp
	if n := len(p.free); n > 0 {
		s.slot, p.free = p.free[n-1], p.free[:n-1]
	} else {
		s.slot = uint32(len(p.sockets))
		p.sockets = append(p.sockets, socketSlot{})
	}
	at := &p.sockets[s.slot]
	at.gen = (at.gen + 1) & generationMask
	at.socket, s.gen = s, at.gen
	p.used++
	l.stats.SocketsOpened++
}

// findSocket returns the socket that an operation belongs to, or nil when that has
// gone.
func (l *loop) findSocket(gen, i uint32) *Socket {
	if int(i) < len(l.udp.sockets) && l.udp.sockets[i].gen == gen {
		return l.udp.sockets[i].socket
	}
	return nil
}

// startSocket tells the handler of a socket and begins to receive. On the loop's own
// thread, and not within a callback.
func (l *loop) startSocket(s *Socket) {
	if s.state&socketOpened != 0 {
		return
	}
	if s.h.open != nil {
		l.guard(func() {
			l.udp.opening = true
			l.callSocket(s, func() { s.h.open.OnSocketOpen(s) })
			l.udp.opening = false
		})
	}
	s.state |= socketOpened
	l.markSocket(s)
}

// listenPacket opens a socket on a loop that runs. On its goroutine.
func (l *loop) listenPacket(a packetAddr, hs *packetHandlers) (*Socket, error) {
	if !a.IsValid() {
		return nil, errors.New("ringnet: no address to receive on: give an IP address and a port, such as 127.0.0.1:0")
	}
	if l.draining {
		return nil, ErrServerClosed
	}
	if err := l.usePackets(); err != nil {
		return nil, err
	}
	s, err := l.makeSocket(a, false, hs)
	if err != nil {
		return nil, err
	}
	l.insertSocket(s)
	l.markSocket(s) // it is started after the callback that may be running: they do not nest
	return s, nil
}

// dialPacket opens a socket and connects it.
func (l *loop) dialPacket(to netip.AddrPort, hs *packetHandlers) (*Socket, error) {
	if !to.Addr().IsValid() || to.Port() == 0 {
		return nil, socketError("dial", to, errors.New("no address to connect to: give an IP address and a port"))
	}
	if l.draining {
		return nil, ErrServerClosed
	}
	if err := l.usePackets(); err != nil {
		return nil, err
	}
	any := netip.IPv6Unspecified()
	if to.Addr().Unmap().Is4() {
		any = netip.IPv4Unspecified()
	}
	s, err := l.makeSocket(packetAddr{AddrPort: netip.AddrPortFrom(any, 0), v6only: any.Is6()}, false, hs)
	if err != nil {
		return nil, err
	}
	if err := s.Connect(to); err != nil {
		_ = l.r.CloseFd(int(s.fd))
		return nil, err
	}
	l.insertSocket(s)
	l.markSocket(s)
	return s, nil
}

// SocketRef is what other goroutines may hold of a [Socket]. It stays valid, and
// does nothing, after the socket has been closed. Safe for concurrent use.
type SocketRef struct {
	l         *loop
	slot, gen uint32
	local     netip.AddrPort
}

// LocalAddr is the address that the socket was bound to when the reference was made.
func (r SocketRef) LocalAddr() netip.AddrPort { return r.local }

// Post has f called with the socket, on its loop. f is not called when the socket has
// been closed by then. [ErrServerClosed] when the loop has ended, and an error
// when more than 65,536 functions wait for it.
func (r SocketRef) Post(f func(s *Socket)) error {
	if r.l == nil {
		return ErrClosed
	}
	return r.l.mail.post(func() {
		if s := r.l.findSocket(r.gen, r.slot); s != nil && s.state&socketFinished == 0 {
			r.l.callSocket(s, func() { f(s) })
		}
	})
}

// WriteTo has the socket send a copy of b to an address; the zero AddrPort stands for
// the peer of a connected one. Errors are those of Post: what Socket.WriteTo answers
// later is lost, but for Stats.PacketErrors.
func (r SocketRef) WriteTo(b []byte, to netip.AddrPort) error {
	mine := append([]byte(nil), b...)
	return r.Post(func(s *Socket) {
		if _, err := s.WriteTo(mine, to); err != nil {
			s.l.packetError(s, err)
		}
	})
}

// Close closes the socket as Socket.Close does, soon.
func (r SocketRef) Close() error { return r.Post((*Socket).Close) }
