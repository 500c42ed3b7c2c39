//go:build linux

package sim

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

func (e *Engine) OpenUDP(addr netip.AddrPort, o sys.UDPOptions) (int, error) { return -1, unix.EINVAL }
func (e *Engine) ConnectUDP(fd int, addr netip.AddrPort) error               { return unix.EINVAL }
func (e *Engine) SetMembership(fd int, group netip.Addr, ifindex int, join bool) error {
	return unix.EINVAL
}
func (e *Engine) SetMulticastInterface(fd int, v6 bool, ifindex int) error { return unix.EINVAL }
func (e *Engine) SendBatch(fd int, b *sys.Batch) (int, syscall.Errno)      { return 0, unix.EINVAL }
func (e *Engine) SendOne(fd int, b *sys.Batch, i int) syscall.Errno        { return unix.EINVAL }
