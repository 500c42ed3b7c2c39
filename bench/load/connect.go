package main

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// portsPerSource is how many connections go out from one source address. The
// default range of ephemeral ports has 28,232.
const portsPerSource = 25000

// connect opens connection i to addr. Above portsPerSource connections to a
// loopback address it takes further source addresses, 127.0.0.2 and so on.
func connect(addr netip.AddrPort, i int) (int, error) {
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: addr.Addr().As16(), Port: int(addr.Port())})
	if ip := addr.Addr().Unmap(); ip.Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Addr: ip.As4(), Port: int(addr.Port())}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == unix.EMFILE {
		return -1, fmt.Errorf("connection %d: %w: raise the limit of open files ('ulimit -n') or use fewer -conns", i, err)
	}
	if err != nil {
		return -1, fmt.Errorf("connection %d: socket: %w", i, err)
	}
	if source := i / portsPerSource; source > 0 && family == unix.AF_INET && addr.Addr().IsLoopback() {
		from := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + source)}}
		if err := unix.Bind(fd, from); err != nil {
			_ = unix.Close(fd)
			return -1, fmt.Errorf("connection %d: bind to 127.0.0.%d: %w", i, 1+source, err)
		}
	}
	err = unix.Connect(fd, to)
	for err == unix.EINTR {
		// The handshake goes on by itself; a second connect waits for its end.
		if err = unix.Connect(fd, to); err == unix.EISCONN {
			err = nil
		}
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
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
