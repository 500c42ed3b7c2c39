//go:build linux

package uring

import (
	"net/netip"
	"syscall"

	"example.com/ringnet/internal/sys"
)

// sockets are the kernel's own socket calls.
type sockets struct{}

func (sockets) ListenTCP(addr netip.AddrPort, backlog int, shared, v6only bool) (int, error) {
	return sys.ListenTCP(addr, backlog, shared, v6only)
}
func (sockets) LocalAddr(fd int) (netip.AddrPort, error)                { return sys.LocalAddr(fd) }
func (sockets) PeerAddr(fd int) (netip.AddrPort, error)                 { return sys.PeerAddr(fd) }
func (sockets) SetInt(fd, level, name, value int) error                 { return sys.SetInt(fd, level, name, value) }
func (sockets) GetInt(fd, level, name int) (int, error)                 { return sys.GetInt(fd, level, name) }
func (sockets) SetLinger(fd, seconds int) error                         { return sys.SetLinger(fd, seconds) }
func (sockets) Recv(fd int, b []byte) (int, syscall.Errno)              { return sys.Recv(fd, b) }
func (sockets) Send(fd int, b []byte) (int, syscall.Errno)              { return sys.Send(fd, b) }
func (sockets) Shutdown(fd, how int) syscall.Errno                      { return sys.Shutdown(fd, how) }
func (sockets) CloseFd(fd int) syscall.Errno                            { return sys.Close(fd) }
func (sockets) SendMessage(fd int, m *sys.Message) (int, syscall.Errno) { return m.Send(fd) }
