//go:build linux && (amd64 || arm64)

package sys

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Control is what control data tells of a received datagram.
type Control struct {
	To        netip.Addr // where it was sent to; invalid: not told
	Local     netip.Addr // the address of ours to answer from; invalid: not told, or none
	Interface int        // by which it came; 0: not told
	Segment   int        // the size of each datagram in the buffer but the last; 0: there is one
}

// ControlBytes is enough for everything that Control tells.
const ControlBytes = 64 // CMSG_SPACE of an in6_pktinfo is 40, of an int 24

// cmsgHeader is the size of struct cmsghdr: length, level and type.
const cmsgHeader = 16

func cmsgAlign(n int) int { return (n + 7) &^ 7 }

// ParseControl reads control data as recvmsg(2) leaves it. What is unknown is left
// out, and so is what was cut.
func ParseControl(b []byte) (c Control) {
	for len(b) >= cmsgHeader {
		length := binary.NativeEndian.Uint64(b)
		if length < cmsgHeader || length > uint64(len(b)) {
			break // cut, or not the kernel's
		}
		level, kind := int32(binary.NativeEndian.Uint32(b[8:])), int32(binary.NativeEndian.Uint32(b[12:]))
		data := b[cmsgHeader:length]
		switch {
		case level == unix.IPPROTO_IP && kind == unix.IP_PKTINFO && len(data) >= 12:
			// struct in_pktinfo: interface, our address, the header's destination.
			c.Interface = int(int32(binary.NativeEndian.Uint32(data)))
			c.Local = netip.AddrFrom4([4]byte(data[4:8]))
			c.To = netip.AddrFrom4([4]byte(data[8:12]))
		case level == unix.IPPROTO_IPV6 && kind == unix.IPV6_PKTINFO && len(data) >= 20:
			// struct in6_pktinfo: the header's destination, interface.
			c.To = netip.AddrFrom16([16]byte(data[:16])).Unmap()
			c.Interface = int(int32(binary.NativeEndian.Uint32(data[16:])))
			c.Local = c.To
		case level == unix.SOL_UDP && kind == unix.UDP_GRO && len(data) >= 4:
			c.Segment = int(int32(binary.NativeEndian.Uint32(data)))
		}
		next := cmsgAlign(int(length))
		if next >= len(b) {
			break
		}
		b = b[next:]
	}
	if c.Local.IsMulticast() || c.Local.IsUnspecified() {
		c.Local = netip.Addr{} // nobody can send from there
	}
	return c
}

// PutPacketInfo writes into b what the kernel tells of where a datagram was sent to
// and by which interface it came, and returns its size. For an engine that lives in
// this process, as PutSegmentSize.
func PutPacketInfo(b []byte, to netip.Addr, ifindex uint32) int {
	n := putSource(b, to, ifindex)
	if to.Is4() {
		copy(b[cmsgHeader+8:], b[cmsgHeader+4:cmsgHeader+8])
	}
	return n
}

// PutSegmentSize writes into b the size of the datagrams in a buffer.
func PutSegmentSize(b []byte, size int) int {
	putHeader(b, 4, unix.SOL_UDP, unix.UDP_GRO)
	binary.NativeEndian.PutUint32(b[cmsgHeader:], uint32(size))
	clear(b[cmsgHeader+4 : cmsgHeader+8])
	return cmsgHeader + 8
}

// putSegment writes a UDP_SEGMENT message into b and returns its size.
func putSegment(b []byte, size uint16) int {
	putHeader(b, 2, unix.SOL_UDP, unix.UDP_SEGMENT)
	binary.NativeEndian.PutUint16(b[cmsgHeader:], size)
	clear(b[cmsgHeader+2 : cmsgHeader+8])
	return cmsgHeader + 8
}

// putSource writes a message into b that says which address to send from, and by
// which interface (0: as the routes say), and returns its size.
func putSource(b []byte, from netip.Addr, ifindex uint32) int {
	if from.Is4() {
		putHeader(b, 12, unix.IPPROTO_IP, unix.IP_PKTINFO)
		binary.NativeEndian.PutUint32(b[cmsgHeader:], ifindex)
		ip := from.As4()
		copy(b[cmsgHeader+4:], ip[:])
		clear(b[cmsgHeader+8 : cmsgHeader+16])
		return cmsgHeader + 16
	}
	putHeader(b, 20, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO)
	ip := from.As16()
	copy(b[cmsgHeader:], ip[:])
	binary.NativeEndian.PutUint32(b[cmsgHeader+16:], ifindex)
	clear(b[cmsgHeader+20 : cmsgHeader+24])
	return cmsgHeader + 24
}

func putHeader(b []byte, data int, level, kind int32) {
	binary.NativeEndian.PutUint64(b, uint64(cmsgHeader+data))
	binary.NativeEndian.PutUint32(b[8:], uint32(level))
	binary.NativeEndian.PutUint32(b[12:], uint32(kind))
}
