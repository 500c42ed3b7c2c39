//go:build linux

// Package engine names what can stand behind a queue pair: the kernel's io_uring
// (package uring), and, with the same entries and completions, an emulation or a
// simulation. Everything above package ring is the same code for all of them.
package engine

import (
	"net/netip"
	"syscall"
	"time"

	"example.com/ringnet/internal/sys"
)

// Engine consumes the submission queue and fills the completion queue of one
// ring. Unless a method says otherwise it may be called only on the goroutine
// (and thread) that called Enable. One call serves a whole batch of entries; the
// entries themselves go through shared memory.
type Engine interface {
	// Queues are the shared queues; the same pointer for the engine's whole life.
	Queues() *sys.Queues

	// Enable binds the engine to the calling thread. Nothing may be submitted
	// before. Called once.
	Enable() error

	// Submit takes n entries; Poll does that and makes every completion visible
	// that can be had without blocking; Wait also blocks until min completions
	// are visible or timeout has passed (negative: none). Each returns how many
	// entries it took, which may be fewer than n.
	Submit(n uint32) (int, syscall.Errno)
	Poll(n uint32) (int, syscall.Errno)
	Wait(n, min uint32, timeout time.Duration) (int, syscall.Errno)

	// Wake posts a completion from any goroutine, waking a Wait. ErrUnsupported
	// errnos (EINVAL, ENOSYS, EOPNOTSUPP) mean: use a descriptor and a poll.
	// Safe for concurrent use, also with Close.
	Wake(userData uint64) error

	// Passive reports that completions come only out of calls of this interface:
	// nobody else writes to the queues. Who looks for completions in shared memory
	// would look in vain, and has to Poll.
	Passive() bool

	// Now is a monotonic clock, from an arbitrary beginning.
	Now() time.Duration

	// Close ends the engine and frees the queues. Nothing may be in flight.
	Close() error

	Registrar
	Sockets
}

// Registrar holds what operations refer to by index or group.
type Registrar interface {
	RegisterBufRing(group uint16, r *sys.BufRing) error
	UnregisterBufRing(group uint16) error
	RegisterBuffers(bufs [][]byte) error
	UnregisterBuffers() error
	RegisterBuffersSparse(n uint32) error
	UpdateBuffer(index uint32, mem []byte) error
	RegisterFilesSparse(n uint32) error
	UpdateFiles(first uint32, fds []int32) error
	UnregisterFiles() error
}

// Sockets are the calls that go around the queues: those of set-up, and the
// direct ones that are faster than a round through the queues. They go through
// the engine so that a simulation sees and bends them too.
type Sockets interface {
	ListenTCP(addr netip.AddrPort, backlog int, shared, v6only bool) (fd int, err error)
	LocalAddr(fd int) (netip.AddrPort, error)
	PeerAddr(fd int) (netip.AddrPort, error)
	ListenUnix(path string, backlog, mode int) (fd int, err error)
	LocalPath(fd int) (string, error)
	PeerPath(fd int) (string, error)
	PeerCredentials(fd int) (pid int, uid, gid uint32, err error)
	OpenTCP(to, from netip.AddrPort) (fd int, err error)
	OpenUnix(from string) (fd int, err error)
	ConnectUnix(fd int, path string) syscall.Errno
	SetInt(fd, level, name, value int) error
	GetInt(fd, level, name int) (int, error)
	SetLinger(fd, seconds int) error

	// Accept takes a connection from a listener, close-on-exec and non-blocking;
	// EAGAIN when none waits. It does not block where the listener does not.
	Accept(fd int) (int, syscall.Errno)

	// Recv, Send and SendMessage never block. flags are further ones of send(2).
	Recv(fd int, b []byte) (int, syscall.Errno)
	Send(fd int, b []byte, flags int) (int, syscall.Errno)
	SendMessage(fd int, m *sys.Message, flags int) (int, syscall.Errno)
	// AtEnd reports that nothing is left to be received, and the peer has ended its
	// direction.
	AtEnd(fd int) bool
	Shutdown(fd, how int) syscall.Errno
	CloseFd(fd int) syscall.Errno

	// Forget gives a descriptor away that stays open: the engine keeps nothing that
	// refers to it. Nothing may be in flight on it.
	Forget(fd int) syscall.Errno

	// Disconnect drops what a TCP connection has sent and not got acknowledged,
	// and resets it: the notifications of zero-copy sends come then.
	Disconnect(fd int) syscall.Errno

	// Unsent is how many bytes of a stream the peer has not taken from the kernel.
	Unsent(fd int) (int, error)

	Files
	Datagrams
}

// Files are the calls on regular files that never wait for a disk.
type Files interface {
	// ReadFile reads at an offset what is in the page cache: EAGAIN when it is
	// not, another errno when this file or kernel cannot tell.
	ReadFile(fd int, b []byte, offset int64) (int, syscall.Errno)

	// SendFile sends n bytes of file from offset on; the file's part has to be in
	// the page cache, since it would wait for the disk.
	SendFile(fd, file int, offset int64, n int) (int, syscall.Errno)

	// FileBytes is the size of a file now.
	FileBytes(file int) (int64, syscall.Errno)

	// Resident reports that all of mem, a part of a mapped file, is in the page
	// cache.
	Resident(mem []byte) bool
}

// Datagrams are the calls for UDP sockets.
type Datagrams interface {
	OpenUDP(addr netip.AddrPort, o sys.UDPOptions) (fd int, err error)
	ConnectUDP(fd int, addr netip.AddrPort) error
	SetMembership(fd int, group netip.Addr, ifindex int, join bool) error
	SetMulticastInterface(fd int, v6 bool, ifindex int) error

	// SendBatch and SendOne never block.
	SendBatch(fd int, b *sys.Batch) (int, syscall.Errno)
	SendOne(fd int, b *sys.Batch, i int) syscall.Errno
}
