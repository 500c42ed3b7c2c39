package main

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bench/internal/control"
)

// portsPerSource is how many connections go out from one source address. The
// default range of ephemeral ports has 28,232.
const portsPerSource = 25000

// address is where the server is.
type address struct {
	network string         // tcp, udp or unix
	ip      netip.AddrPort // of the first two
	path    string         // of a Unix socket
}

func parseAddress(s string) (a address, err error) {
	a.network, a.path = control.Network(s)
	if a.network == "unix" {
		if a.path == "" {
			err = errors.New("the path is empty")
		}
		return a, err
	}
	a.ip, err = netip.ParseAddrPort(a.path)
	return a, err
}

// String is the address as it is written.
func (a address) String() string {
	return control.Addr{Network: a.network, Address: a.path}.String()
}

// connect opens connection i to addr. Above portsPerSource connections to a
// loopback address it takes further source addresses, 127.0.0.2 and so on.
func connect(addr address, i int) (int, error) { return connectFrom(addr, i, i/portsPerSource) }

// connectFrom does so from the n-th source address of a loopback.
func connectFrom(addr address, i, n int) (int, error) {
	var family int
	var to unix.Sockaddr
	ip := addr.ip.Addr().Unmap()
	switch {
	case addr.network == "unix":
		family, to = unix.AF_UNIX, &unix.SockaddrUnix{Name: addr.path}
	case ip.Is4():
		family, to = unix.AF_INET, &unix.SockaddrInet4{Addr: ip.As4(), Port: int(addr.ip.Port())}
	default:
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: ip.As16(), Port: int(addr.ip.Port())}
	}
	kind := unix.SOCK_STREAM
	if addr.network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err == unix.EMFILE {
		return -1, fmt.Errorf("connection %d: %w: raise the limit of open files ('ulimit -n') or use fewer -conns", i, err)
	}
	if err != nil {
		return -1, fmt.Errorf("connection %d: socket: %w", i, err)
	}
	if n > 0 && family == unix.AF_INET && ip.IsLoopback() {
		// The port is chosen by connect, which need not keep it from all others.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		from := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + n)}}
		if err := unix.Bind(fd, from); err != nil {
			_ = unix.Close(fd)
			return -1, fmt.Errorf("connection %d: bind to %v: %w", i, netip.AddrFrom4(from.Addr), err)
		}
	}
	err = unix.Connect(fd, to)
	for err == unix.EINTR {
		// The handshake goes on by itself; a second connect waits for its end.
		if err = unix.Connect(fd, to); err == unix.EISCONN {
			err = nil
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connection %d to %v: %w", i, addr, err)
	}
	return fd, nil
}

// raiseFileLimit lifts the soft limit of open files to the hard one.
func raiseFileLimit() error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	lim.Cur = lim.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("raise the limit of open files to %d: %w", lim.Max, err)
	}
	return nil
}
