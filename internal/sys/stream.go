//go:build linux && (amd64 || arm64)

package sys

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// OpenTCP opens a non-blocking TCP socket to connect to an address like to, bound
// to from unless that is the zero AddrPort. The caller owns the descriptor.
func OpenTCP(to, from netip.AddrPort) (socket int, err error) {
	family := unix.AF_INET6
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil || !from.IsValid() {
		return fd, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if from.Port() == 0 {
		// The port is chosen by connect then, so that one port can serve
		// connections to many peers. Since Linux 4.2; without it there are fewer.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}
	sa, err := sockaddr(from)
	if err != nil {
		return -1, err
	}
	if err = unix.Bind(fd, sa); err != nil {
		return -1, err
	}
	return fd, nil
}
