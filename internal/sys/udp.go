//go:build linux && (amd64 || arm64)

package sys

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// UDPOptions is how a UDP socket is opened.
type UDPOptions struct {
	Shared     bool // SO_REUSEPORT: several sockets divide what comes to one address
	Reuse      bool // SO_REUSEADDR: several sockets each get what comes to one group
	V6only     bool
	PacketInfo bool // with each datagram its destination and interface
	GRO        bool // several datagrams of one sender in one buffer
}

// OpenUDP opens a non-blocking UDP socket on addr. The caller owns the descriptor.
func OpenUDP(addr netip.AddrPort, o UDPOptions) (socket int, err error) {
	family := unix.AF_INET6
	if addr.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	v6 := family == unix.AF_INET6
	for _, opt := range []struct {
		wanted             bool
		level, name, value int
		old                bool // a kernel may be too old for it, and does without
	}{
		{o.Shared, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1, false},
		{o.Reuse, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1, false},
		{v6, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, boolint(o.V6only), false},
		{o.PacketInfo && !v6, unix.IPPROTO_IP, unix.IP_PKTINFO, 1, false},
		{o.PacketInfo && v6, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1, false},
		{o.GRO, unix.SOL_UDP, unix.UDP_GRO, 1, true}, // Linux 5.0
		// Else a socket gets what any socket of the machine has joined (ip(7)).
		{!v6 || !o.V6only, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0, true},
		{v6, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0, true}, // Linux 4.20
	} {
		if !opt.wanted {
			continue
		}
		if err = unix.SetsockoptInt(fd, opt.level, opt.name, opt.value); err != nil && !opt.old {
			return -1, err
		}
	}
	sa, err := sockaddr(addr)
	if err != nil {
		return -1, err
	}
	if err = unix.Bind(fd, sa); err != nil {
		return -1, err
	}
	return fd, nil
}

// ConnectUDP sets where a UDP socket sends to, and the one it receives from.
func ConnectUDP(fd int, addr netip.AddrPort) error {
	sa, err := sockaddr(addr)
	if err != nil {
		return err
	}
	return unix.Connect(fd, sa)
}

// SetMembership joins a multicast group on an interface, or leaves it; interface 0
// is the system's choice.
func SetMembership(fd int, group netip.Addr, ifindex int, join bool) error {
	switch {
	case group.Is4():
		name := unix.IP_DROP_MEMBERSHIP
		if join {
			name = unix.IP_ADD_MEMBERSHIP
		}
		return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, name, &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(ifindex)})
	case group.Is6():
		name := unix.IPV6_LEAVE_GROUP
		if join {
			name = unix.IPV6_JOIN_GROUP
		}
		return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, name, &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(ifindex)})
	}
	return fmt.Errorf("group %v: neither IPv4 nor IPv6", group)
}

// SetMulticastInterface sets the interface that multicast leaves by; 0 is the
// system's choice.
func SetMulticastInterface(fd int, v6 bool, ifindex int) error {
	if v6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, ifindex)
	}
	return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(ifindex)})
}
