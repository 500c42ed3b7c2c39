//go:build linux

package net

import (
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// Socket is a UDP socket. It belongs to its loop: its methods may be called only
// from callbacks of that loop, except where they say otherwise. After
// OnSocketClose they do nothing and answer ErrClosed. Other goroutines hold a
// [SocketRef].
//
// What is written in one callback goes out together, at the end of the loop's turn
// or in batches of 64. Datagrams leave in the order in which they were written.
type Socket struct {
	l     *loop
	h     *packetHandlers
	fd    int32
	slot  uint32
	gen   uint32
	state socketState
	out   packetQueue

	cancels    uint8 // cancel entries in flight
	v6, v6only bool
	noSegments bool          // they go out one by one
	coalesce   int           // neighbours up to this size go out as segments
	earlier    syscall.Errno // refused a datagram, maybe for an earlier one's sake

	// What a receive that is armed once, without ring.RecvMultishot, has in use.
	message ring.Message
	area    []byte // for the sender's address and control data

	remote   netip.AddrPort // whom it is connected to
	local    netip.AddrPort
	context  any
	cause    error
	errs     []error // to be told
	deadline int64   // closing: when the rest of the output is dropped
}

// socketState is a set of facts about a socket.
type socketState uint16

const (
	// Operations in flight. A socket ends when none is left.
	socketRecvArmed socketState = 1 << iota
	socketRoomArmed

	socketOpened    // OnSocketOpen was called, or is not wanted
	socketFull      // the kernel takes nothing until the room poll says so
	socketOverHigh  // output above the high-water mark
	socketClosing   // Close: nothing is received, send what is left, then end
	socketDead      // end now
	socketFinished  // OnSocketClose is being called or has been
	socketRecvEnds  // its receive is being cancelled
	socketRoomEnds  // its room poll is being cancelled
	socketDirty     // on the loop's list of sockets to settle
	socketStarved   // on the loop's list of those that wait for a buffer
	socketConnected // has a peer
)

const socketInFlight = socketRecvArmed | socketRoomArmed

// packetBytesMax is the most payload of a datagram: 65,535 less the headers of UDP
// and IPv4; IPv6 has room for 20 bytes more.
const packetBytesMax = 65507

// Context is what SetContext stored.
func (s *Socket) Context() any { return s.context }

// SetContext stores what the handler wants to know about this socket.
func (s *Socket) SetContext(v any) { s.context = v }

// Loop is the number of the loop that the socket lives on.
func (s *Socket) Loop() int { return s.l.index }

// LocalAddr is the address that the socket is bound to. A connected one has learnt
// its IP address when it was connected.
func (s *Socket) LocalAddr() netip.AddrPort { return s.local }

// RemoteAddr is the peer of a connected socket, else the zero AddrPort.
func (s *Socket) RemoteAddr() netip.AddrPort { return s.remote }

// Ref is what other goroutines may hold of the socket.
func (s *Socket) Ref() SocketRef { return SocketRef{l: s.l, slot: s.slot, gen: s.gen, local: s.local} }

// Close closes the socket once what was written has gone out, which may take
// Options.CloseTimeout. Nothing more is received, and OnSocketClose follows.
func (s *Socket) Close() { s.l.closeSocket(s, nil) }

// Abort closes the socket at once, dropping what has not gone out. err becomes the
// cause that OnSocketClose is told.
func (s *Socket) Abort(err error) { s.l.abortSocket(s, err) }

// Connect makes to the peer: Write sends to it, nothing is received from anybody
// else, and its ICMP errors are told to the handler. Datagrams that wait to be sent
// still go where they were written to. It may be called again, for another peer.
func (s *Socket) Connect(to netip.AddrPort) error {
	if s.state&socketFinished != 0 {
		return ErrClosed
	}
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if err := s.fits(to); err != nil {
		return err
	}
	s.out.address(s.remote)
	addr := to
	if s.v6 && to.Addr().Is4() {
		addr = netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port())
	}
	if err := s.l.r.ConnectUDP(int(s.fd), addr); err != nil {
		return socketError("connect", to, err)
	}
	s.remote = to
	s.state |= socketConnected
	if local, err := s.l.r.LocalAddr(int(s.fd)); err == nil {
		s.local = local
	}
	return nil
}

// SetBroadcast allows sending to broadcast addresses, which the kernel refuses
// otherwise (EACCES).
func (s *Socket) SetBroadcast(on bool) error {
	return s.SetOption(unix.SOL_SOCKET, unix.SO_BROADCAST, boolint(on))
}

// SetTTL sets the time to live (IPv4) or hop limit (IPv6) of what is sent to single
// hosts, 1 to 255.
func (s *Socket) SetTTL(hops int) error {
	return s.setBoth(unix.IP_TTL, unix.IPV6_UNICAST_HOPS, hops)
}

// SetReadBuffer sets the size of the kernel's receive buffer, in bytes, within
// net.core.rmem_max. What comes while it is full is lost.
func (s *Socket) SetReadBuffer(bytes int) error {
	return s.SetOption(unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
}

// SetWriteBuffer sets the size of the kernel's send buffer, in bytes, within
// net.core.wmem_max. What does not fit waits here, see Options.MaxBuffered.
func (s *Socket) SetWriteBuffer(bytes int) error {
	return s.SetOption(unix.SOL_SOCKET, unix.SO_SNDBUF, bytes)
}

// SetOption sets an integer socket option; see socket(7), ip(7), ipv6(7), udp(7).
func (s *Socket) SetOption(level, name, value int) error {
	if s.state&socketFinished != 0 {
		return ErrClosed
	}
	return s.l.r.SetInt(int(s.fd), level, name, value)
}

// Option reads an integer socket option.
func (s *Socket) Option(level, name int) (int, error) {
	if s.state&socketFinished != 0 {
		return 0, ErrClosed
	}
	return s.l.r.GetInt(int(s.fd), level, name)
}

// setBoth sets an option that IPv4 and IPv6 have under different names. A socket
// for both families has both.
func (s *Socket) setBoth(v4, v6, value int) error {
	if s.v6 {
		if err := s.SetOption(unix.IPPROTO_IPV6, v6, value); err != nil || s.v6only {
			return err
		}
	}
	return s.SetOption(unix.IPPROTO_IP, v4, value)
}

// socketError is an OpError of a socket.
func socketError(op string, addr netip.AddrPort, err error) error {
	return &OpError{Op: op, Addr: UDPAddr(addr), Err: err}
}

// AfterFunc has f called when d has passed, on the loop's goroutine and not after
// Close; see [Conn.AfterFunc] for how precise it is. A panic in f is logged and
// counted, and closes nothing.
func (s *Socket) AfterFunc(d time.Duration, f func(s *Socket)) Timer {
	if s.state&(socketClosing|socketDead|socketFinished) != 0 {
		return Timer{}
	}
	return s.l.after(d, func() {
		if s.state&(socketClosing|socketDead|socketFinished) == 0 {
			f(s)
		}
	})
}
