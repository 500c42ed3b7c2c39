//go:build linux

package engine

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// KernelSockets are the kernel's own socket calls, for engines that work on real
// sockets.
type KernelSockets struct{}

func (KernelSockets) ListenTCP(addr netip.AddrPort, backlog int, shared, v6only bool) (int, error) {
	return sys.ListenTCP(addr, backlog, shared, v6only)
}
func (KernelSockets) LocalAddr(fd int) (netip.AddrPort, error) { return sys.LocalAddr(fd) }
func (KernelSockets) PeerAddr(fd int) (netip.AddrPort, error)  { return sys.PeerAddr(fd) }
func (KernelSockets) ListenUnix(path string, backlog, mode int) (int, error) {
	return sys.ListenUnix(path, backlog, mode)
}
func (KernelSockets) LocalPath(fd int) (string, error) { return sys.LocalPath(fd) }
func (KernelSockets) PeerPath(fd int) (string, error)  { return sys.PeerPath(fd) }
func (KernelSockets) PeerCredentials(fd int) (pid int, uid, gid uint32, err error) {
	return sys.PeerCredentials(fd)
}
func (KernelSockets) OpenTCP(to, from netip.AddrPort) (int, error) { return sys.OpenTCP(to, from) }
func (KernelSockets) OpenUnix(from string) (int, error)            { return sys.OpenUnix(from) }
func (KernelSockets) ConnectUnix(fd int, path string) syscall.Errno {
	return sys.ConnectUnix(fd, path)
}
func (KernelSockets) SetInt(fd, level, name, value int) error {
	return sys.SetInt(fd, level, name, value)
}
func (KernelSockets) GetInt(fd, level, name int) (int, error) { return sys.GetInt(fd, level, name) }
func (KernelSockets) SetLinger(fd, seconds int) error         { return sys.SetLinger(fd, seconds) }
func (KernelSockets) Accept(fd int) (int, syscall.Errno) {
	return sys.Accept(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
}
func (KernelSockets) Recv(fd int, b []byte) (int, syscall.Errno) { return sys.Recv(fd, b) }
func (KernelSockets) Send(fd int, b []byte, flags int) (int, syscall.Errno) {
	return sys.Send(fd, b, flags)
}
func (KernelSockets) Shutdown(fd, how int) syscall.Errno { return sys.Shutdown(fd, how) }
func (KernelSockets) CloseFd(fd int) syscall.Errno       { return sys.Close(fd) }
func (KernelSockets) Forget(int) syscall.Errno           { return 0 }
func (KernelSockets) SendMessage(fd int, m *sys.Message, flags int) (int, syscall.Errno) {
	return m.Send(fd, flags)
}
func (KernelSockets) AtEnd(fd int) bool               { return sys.AtEnd(fd) }
func (KernelSockets) Disconnect(fd int) syscall.Errno { return sys.Disconnect(fd) }
func (KernelSockets) Unsent(fd int) (int, error)      { return sys.Unsent(fd) }
func (KernelSockets) ReadFile(fd int, b []byte, offset int64) (int, syscall.Errno) {
	return sys.ReadNow(fd, b, offset)
}
func (KernelSockets) SendFile(fd, file int, offset int64, n int) (int, syscall.Errno) {
	return sys.SendFile(fd, file, offset, n)
}
func (KernelSockets) FileBytes(file int) (int64, syscall.Errno) { return sys.FileBytes(file) }
func (KernelSockets) Resident(mem []byte) bool                  { return sys.Resident(mem) }
