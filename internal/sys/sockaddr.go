//go:build linux && (amd64 || arm64)

package sys

import (
	"encoding/binary"
	"fmt"
	stdnet "net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// sockaddr turns addr into what bind(2) and connect(2) take.
func sockaddr(addr netip.AddrPort) (unix.Sockaddr, error) {
	a := addr.Addr()
	switch {
	case a.Is4():
		return &unix.SockaddrInet4{Port: int(addr.Port()), Addr: a.As4()}, nil
	case a.Is6():
		zone, err := zoneID(a.Zone())
		if err != nil {
			return nil, err
		}
		return &unix.SockaddrInet6{Port: int(addr.Port()), Addr: a.As16(), ZoneId: zone}, nil
	}
	return nil, fmt.Errorf("address %v: neither IPv4 nor IPv6", addr)
}

// SockaddrBytes is enough for any IPv4 or IPv6 address in the kernel's form
// (struct sockaddr_in6).
const SockaddrBytes = 28

// PutSockaddr writes addr in the kernel's form into b, which has at least
// SockaddrBytes, and returns the part it used: for an entry that connects or
// sends to an address.
func PutSockaddr(b []byte, addr netip.AddrPort) ([]byte, error) {
	zone, err := zoneID(addr.Addr().Zone())
	if err != nil {
		return nil, err
	}
	if b = PutSockaddrScope(b, addr, zone); b == nil {
		return nil, fmt.Errorf("address %v: neither IPv4 nor IPv6", addr)
	}
	return b, nil
}

// PutSockaddrScope is PutSockaddr for who knows the number of the interface that
// the address's zone stands for; it asks nobody. It returns nil for what is no
// address.
func PutSockaddrScope(b []byte, addr netip.AddrPort, scope uint32) []byte {
	a := addr.Addr()
	switch {
	case a.Is4():
		b = b[:16]
		binary.NativeEndian.PutUint16(b, unix.AF_INET)
		binary.BigEndian.PutUint16(b[2:], addr.Port())
		ip := a.As4()
		copy(b[4:], ip[:])
		clear(b[8:])
		return b
	case a.Is6():
		b = b[:SockaddrBytes]
		binary.NativeEndian.PutUint16(b, unix.AF_INET6)
		binary.BigEndian.PutUint16(b[2:], addr.Port())
		clear(b[4:8])
		ip := a.As16()
		copy(b[8:], ip[:])
		binary.NativeEndian.PutUint32(b[24:], scope)
		return b
	}
	return nil
}

// ParseSockaddr reads an address in the kernel's form; ok is false when b is too
// short for its family or the family is not an IP one.
func ParseSockaddr(b []byte) (addr netip.AddrPort, ok bool) {
	addr, scope, ok := ParseSockaddrScope(b)
	if scope != 0 {
		addr = netip.AddrPortFrom(addr.Addr().WithZone(zoneName(scope)), addr.Port())
	}
	return addr, ok
}

// ParseSockaddrScope is ParseSockaddr without the zone: it gives the number of the
// interface, whose name nobody is asked for.
func ParseSockaddrScope(b []byte) (addr netip.AddrPort, scope uint32, ok bool) {
	if len(b) < 2 {
		return netip.AddrPort{}, 0, false
	}
	switch binary.NativeEndian.Uint16(b) {
	case unix.AF_INET:
		if len(b) < 8 {
			return netip.AddrPort{}, 0, false
		}
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:])), 0, true
	case unix.AF_INET6:
		if len(b) < SockaddrBytes {
			return netip.AddrPort{}, 0, false
		}
		a := netip.AddrFrom16([16]byte(b[8:24]))
		if !a.Is4In6() {
			scope = binary.NativeEndian.Uint32(b[24:])
		}
		return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(b[2:])), scope, true
	}
	return netip.AddrPort{}, 0, false
}

// ZoneID finds the number of the interface that an IPv6 zone names; 0 for none.
func ZoneID(zone string) (uint32, error) { return zoneID(zone) }

// ZoneName is the name of the interface where it can be had, else its number.
func ZoneName(id uint32) string { return zoneName(id) }

// zoneID finds the interface index that an IPv6 zone names.
func zoneID(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	ifi, err := stdnet.InterfaceByName(zone)
	if err != nil {
		return 0, fmt.Errorf("IPv6 zone %q: no such network interface", zone)
	}
	return uint32(ifi.Index), nil
}

// zoneName is the interface's name where it can be had, else its number.
func zoneName(id uint32) string {
	if ifi, err := stdnet.InterfaceByIndex(int(id)); err == nil {
		return ifi.Name
	}
	return strconv.FormatUint(uint64(id), 10)
}
