//go:build linux

package engine

import (
	"net/netip"
	"syscall"

	"example.com/ringnet/internal/sys"
)

func (KernelSockets) OpenUDP(addr netip.AddrPort, o sys.UDPOptions) (int, error) {
	return sys.OpenUDP(addr, o)
}
func (KernelSockets) ConnectUDP(fd int, addr netip.AddrPort) error { return sys.ConnectUDP(fd, addr) }
func (KernelSockets) SetMembership(fd int, group netip.Addr, ifindex int, join bool) error {
	return sys.SetMembership(fd, group, ifindex, join)
}
func (KernelSockets) SetMulticastInterface(fd int, v6 bool, ifindex int) error {
	return sys.SetMulticastInterface(fd, v6, ifindex)
}
func (KernelSockets) SendBatch(fd int, b *sys.Batch) (int, syscall.Errno) { return b.Send(fd) }
func (KernelSockets) SendOne(fd int, b *sys.Batch, i int) syscall.Errno   { return b.SendOne(fd, i) }
