//go:build linux

package ring

import (
	"net/netip"
	"syscall"

	"example.com/ringnet/internal/sys"
)

// RecvmsgHeaderBytes is what stands in front of the sender's address in a buffer
// that [Entry.PrepareRecvmsgMultishot] filled. So a buffer of the group must have
// room for it, for the name and control lengths of the Message, and for the
// payload.
const RecvmsgHeaderBytes = sys.RecvmsgOutBytes

// ParseRecvmsg takes a buffer apart that [Entry.PrepareRecvmsgMultishot] filled:
// the sender's address, for [ParseSockaddr], control data and payload. b is the
// buffer up to the completion's Res; nameLen and controlLen are the lengths that
// the Message was set with.
//
// A payload that did not fit is cut, with unix.MSG_TRUNC in flags, and so is
// control data, with unix.MSG_CTRUNC. An address that did not fit is cut without a
// flag, and ParseSockaddr refuses it. The parts lie in b, and are valid as long.
//
// An error means that b is no such buffer, or that the lengths are not those of
// its Message. Nothing that a peer sends brings it about. Safe for concurrent use.
func ParseRecvmsg(b []byte, nameLen, controlLen int) (name, control, payload []byte, flags int, err error) {
	return sys.ParseRecvmsg(b, nameLen, controlLen)
}

// Control is what control data tells of a received datagram.
type Control = sys.Control

// ControlBytes is enough for everything that Control tells.
const ControlBytes = sys.ControlBytes

// ParseControl reads the control data of a received datagram. What it does not know
// it leaves out. Safe for concurrent use.
func ParseControl(b []byte) Control { return sys.ParseControl(b) }

// ParseSockaddrScope is [ParseSockaddr] without the zone, whose name the system
// would have to be asked for: scope is the number of the interface, 0 for none.
func ParseSockaddrScope(b []byte) (addr netip.AddrPort, scope uint32, ok bool) {
	return sys.ParseSockaddrScope(b)
}

// PutSockaddrScope is [PutSockaddr] without the zone, in the place of which scope
// is the number of the interface. It returns nil for what is no address.
func PutSockaddrScope(b []byte, addr netip.AddrPort, scope uint32) []byte {
	return sys.PutSockaddrScope(b, addr, scope)
}

// ZoneID finds the number of the interface that an IPv6 zone names; 0 for none. It
// asks the system. Safe for concurrent use.
func ZoneID(zone string) (uint32, error) { return sys.ZoneID(zone) }

// ZoneName is the name of an interface where it can be had, else its number. It
// asks the system. Safe for concurrent use.
func ZoneName(id uint32) string { return sys.ZoneName(id) }

// UDPOptions is how a UDP socket is opened.
type UDPOptions = sys.UDPOptions

// OpenUDP opens a UDP socket on addr. On any goroutine. The caller owns the
// descriptor.
func (r *Ring) OpenUDP(addr netip.AddrPort, o UDPOptions) (int, error) {
	return r.eng.OpenUDP(addr, o)
}

// ConnectUDP sets where a UDP socket sends to, and whom it receives from. On any
// goroutine.
func (r *Ring) ConnectUDP(fd int, addr netip.AddrPort) error { return r.eng.ConnectUDP(fd, addr) }

// SetMembership joins a multicast group on an interface, or leaves it; interface 0
// is the system's choice. On any goroutine.
func (r *Ring) SetMembership(fd int, group netip.Addr, ifindex int, join bool) error {
	return r.eng.SetMembership(fd, group, ifindex, join)
}

// SetMulticastInterface sets the interface that multicast leaves by; 0 is the
// system's choice. On any goroutine.
func (r *Ring) SetMulticastInterface(fd int, v6 bool, ifindex int) error {
	return r.eng.SetMulticastInterface(fd, v6, ifindex)
}

// BatchPieces is the most pieces, and so the most datagrams, that one Batch holds.
const BatchPieces = sys.BatchPieces

// Batch is a number of datagrams that one call sends. It belongs to one goroutine.
type Batch = sys.Batch

// NewBatch maps a batch. The caller closes it.
func NewBatch() (*Batch, error) { return sys.NewBatch() }

// SendBatch sends a batch without blocking and returns how many of its datagrams
// went out; an errno, if that is none. When fewer went out than there are, the
// errno of the next one is lost: send it again and see.
//
// This goes around the queues because it is cheaper: one call for all, no request
// and no completion for each, and the memory is free when it returns.
func (r *Ring) SendBatch(fd int, b *Batch) (int, syscall.Errno) { return r.eng.SendBatch(fd, b) }

// SendOne sends the i-th datagram of a batch without blocking. On a connected
// socket no errno is lost this way.
func (r *Ring) SendOne(fd int, b *Batch, i int) syscall.Errno { return r.eng.SendOne(fd, b, i) }
