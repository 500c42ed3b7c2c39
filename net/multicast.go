//go:build linux

package net

import (
	"fmt"
	stdnet "net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// JoinGroup has the socket receive what is sent to a multicast group on an
// interface; nil is the system's choice. The socket is bound to the group's port, on
// the unspecified address or on the group itself.
//
// Each socket that has joined gets every datagram, also several of one server: with
// more than one loop, join on one of them ([Socket.Loop] tells which this is).
func (s *Socket) JoinGroup(ifi *stdnet.Interface, group netip.Addr) error {
	return s.setMembership(ifi, group, true)
}

// LeaveGroup undoes JoinGroup.
func (s *Socket) LeaveGroup(ifi *stdnet.Interface, group netip.Addr) error {
	return s.setMembership(ifi, group, false)
}

func (s *Socket) setMembership(ifi *stdnet.Interface, group netip.Addr, join bool) error {
	op := "leave group"
	if join {
		op = "join group"
	}
	if s.state&socketFinished != 0 {
		return ErrClosed
	}
	group = group.Unmap()
	if !group.IsMulticast() {
		return fmt.Errorf("ringnet: %s %v: it is no multicast address: those are 224.0.0.0/4 and ff00::/8", op, group)
	}
	if group.Is4() == s.v6 && (group.Is6() || s.v6only) {
		return fmt.Errorf("ringnet: %s %v: the socket is bound to %v, which is of another family", op, group, s.local)
	}
	index := 0
	switch {
	case ifi != nil:
		index = ifi.Index
	case group.Zone() != "":
		id, err := s.l.udp.zones.id(s.l, group.Zone())
		if err != nil {
			return err
		}
		index = int(id)
	}
	if err := s.l.r.SetMembership(int(s.fd), group.WithZone(""), index, join); err != nil {
		return socketError(op, netip.AddrPortFrom(group, s.local.Port()), explainGroup(err))
	}
	return nil
}

// explainGroup adds to an errno of a membership what would mend it.
func explainGroup(err error) error {
	switch err {
	case unix.ENODEV:
		return fmt.Errorf("%w: no interface was named and no route leads to the group, or the interface has gone", err)
	case unix.EADDRINUSE:
		return fmt.Errorf("%w: the socket is a member already", err)
	case unix.EADDRNOTAVAIL:
		return fmt.Errorf("%w: the socket is no member of it on this interface", err)
	case unix.ENOBUFS:
		return fmt.Errorf("%w: more memberships than net.ipv4.igmp_max_memberships allows", err)
	}
	return err
}

// SetMulticastInterface sets the interface that multicast leaves by; nil is the
// system's choice.
func (s *Socket) SetMulticastInterface(ifi *stdnet.Interface) error {
	if s.state&socketFinished != 0 {
		return ErrClosed
	}
	index := 0
	if ifi != nil {
		index = ifi.Index
	}
	if s.v6 {
		if err := s.l.r.SetMulticastInterface(int(s.fd), true, index); err != nil || s.v6only {
			return err
		}
	}
	return s.l.r.SetMulticastInterface(int(s.fd), false, index)
}

// SetMulticastTTL sets how far multicast goes, 0 to 255: 0 stays on this machine, 1
// (the default) on the link.
func (s *Socket) SetMulticastTTL(hops int) error {
	return s.setBoth(unix.IP_MULTICAST_TTL, unix.IPV6_MULTICAST_HOPS, hops)
}

// SetMulticastLoopback says whether members on this machine get what the socket
// sends; they do by default.
func (s *Socket) SetMulticastLoopback(on bool) error {
	return s.setBoth(unix.IP_MULTICAST_LOOP, unix.IPV6_MULTICAST_LOOP, boolint(on))
}
