// Command giouring is an echo server on the raw ring of pawelgaczynski/giouring:
// multishot accept, multishot receive from one buffer ring, sends straight out of
// the receive buffers, one loop on one thread.
//
// It builds only with -ldflags=-checklinkname=0. Two limits of the package show:
// BufRingAdd computes in 16 bits, so the buffer ring must have fewer than 4096
// entries, and the completion queue is always twice the submission queue, since
// the fields of Params are not exported.
package main

import (
	"flag"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"unsafe"

	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"

	"example.com/ringnet/bench/internal/control"
)

const (
	entryCount  = 16384 // so the completion queue has 32768 places
	bufferCount = 2048
	group       = 0
)

// The upper half of user data says what completed, the lower the descriptor.
const (
	onAccept = iota + 1
	onRecv
	onSend
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to listen on")
	buf := flag.Int("buf", 4096, "bytes in a receive buffer")
	flag.Parse()
	s := &server{bufBytes: *buf, conns: make(map[int32]*conn)}
	local, err := s.listen(*addr)
	if err != nil {
		control.Fail(err)
	}
	go func() {
		// The ring belongs to the thread that makes it.
		runtime.LockOSThread()
		control.Fail(s.run())
	}()
	control.Serve(func() any {
		n := s.enters.Load()
		return control.Stats{Enters: &n, Heap: control.Heap()}
	}, local)
}

type server struct {
	ring     *giouring.Ring
	enters   atomic.Uint64
	listener int
	conns    map[int32]*conn

	bufs     *giouring.BufAndRing
	mem      []byte
	bufBytes int
	added    int     // buffers put into the ring and not yet published
	starved  []*conn // waiting for a buffer
}

// piece is a received buffer on its way back.
type piece struct {
	id     uint16
	off, n uint32
}

type conn struct {
	fd      int32
	queue   []piece // to be sent; the one at head is in flight
	head    int
	sending bool
	armed   bool
	ended   bool
}

func (s *server) listen(addr string) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return ap, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ap, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return ap, err
	}
	// Accepted sockets inherit it.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return ap, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}); err != nil {
		return ap, fmt.Errorf("bind to %v: %w", ap, err)
	}
	if err := unix.Listen(fd, 4096); err != nil {
		return ap, err
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return ap, err
	}
	s.listener = fd
	return netip.AddrPortFrom(ap.Addr(), uint16(sa.(*unix.SockaddrInet4).Port)), nil
}

func (s *server) run() error {
	s.ring = giouring.NewRing()
	flags := uint32(giouring.SetupSingleIssuer | giouring.SetupDeferTaskrun | giouring.SetupSubmitAll)
	if err := s.ring.QueueInit(entryCount, flags); err != nil {
		return fmt.Errorf("set up io_uring: %w", err)
	}
	if _, err := s.ring.RegisterRingFd(); err != nil {
		return fmt.Errorf("register the ring's descriptor: %w", err)
	}
	var err error
	if s.bufs, err = s.ring.SetupBufRing(bufferCount, group, 0); err != nil {
		return fmt.Errorf("set up the buffer ring: %w", err)
	}
	if s.mem, err = unix.Mmap(-1, 0, bufferCount*s.bufBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return fmt.Errorf("map buffers: %w", err)
	}
	for id := range uint16(bufferCount) {
		s.recycle(id)
	}
	s.publish()
	s.armAccept()
	for {
		s.enters.Add(1)
		if _, err := s.ring.SubmitAndWait(1); err != nil && err != unix.EINTR && err != unix.EBUSY && err != unix.EAGAIN {
			return fmt.Errorf("io_uring_enter: %w", err)
		}
		n := uint32(0)
		s.ring.ForEachCQE(func(c *giouring.CompletionQueueEvent) {
			n++
			s.complete(c)
		})
		s.ring.CQAdvance(n)
		s.publish()
	}
}

func (s *server) complete(c *giouring.CompletionQueueEvent) {
	fd := int32(c.UserData)
	switch c.UserData >> 32 {
	case onAccept:
		if c.Res >= 0 {
			k := &conn{fd: c.Res}
			s.conns[c.Res] = k
			s.armRecv(k)
		}
		if c.Flags&giouring.CQEFMore == 0 {
			s.armAccept()
		}
	case onRecv:
		s.received(s.conns[fd], c)
	case onSend:
		s.sent(s.conns[fd], c.Res)
	}
}

func (s *server) received(k *conn, c *giouring.CompletionQueueEvent) {
	if c.Flags&giouring.CQEFBuffer != 0 {
		id := uint16(c.Flags >> giouring.CQEBufferShift)
		if c.Res > 0 {
			k.queue = append(k.queue, piece{id: id, n: uint32(c.Res)})
			s.send(k)
		} else {
			s.recycle(id)
		}
	}
	if c.Flags&giouring.CQEFMore != 0 {
		return
	}
	k.armed = false
	switch {
	case c.Res == -int32(unix.ENOBUFS):
		s.starved = append(s.starved, k)
	case c.Res <= 0:
		k.ended = true
		s.settle(k)
	default:
		s.armRecv(k)
	}
}

func (s *server) sent(k *conn, res int32) {
	k.sending = false
	if res < 0 {
		for _, p := range k.queue[k.head:] {
			s.recycle(p.id)
		}
		k.head = len(k.queue)
	} else if p := &k.queue[k.head]; uint32(res) < p.n {
		p.off += uint32(res)
		p.n -= uint32(res)
	} else {
		s.recycle(p.id)
		k.head++
	}
	if k.head == len(k.queue) {
		k.queue, k.head = k.queue[:0], 0
	}
	s.send(k)
	s.settle(k)
}

// settle closes a connection when nothing of it is in flight.
func (s *server) settle(k *conn) {
	if k.ended && !k.sending && !k.armed && k.head == len(k.queue) {
		delete(s.conns, k.fd)
		_ = unix.Close(int(k.fd))
	}
}

func (s *server) entry() *giouring.SubmissionQueueEntry {
	for {
		if e := s.ring.GetSQE(); e != nil {
			return e
		}
		s.enters.Add(1)
		if _, err := s.ring.Submit(); err != nil && err != unix.EBUSY && err != unix.EAGAIN && err != unix.EINTR {
			control.Fail(fmt.Errorf("submit: %w", err))
		}
	}
}

func (s *server) armAccept() {
	e := s.entry()
	e.PrepareMultishotAccept(s.listener, 0, 0, unix.SOCK_CLOEXEC)
	e.UserData = onAccept << 32
}

func (s *server) armRecv(k *conn) {
	e := s.entry()
	e.PrepareRecvMultishot(int(k.fd), 0, 0, 0)
	e.Flags |= giouring.SqeBufferSelect
	e.BufIG = group
	e.UserData = onRecv<<32 | uint64(uint32(k.fd))
	k.armed = true
}

func (s *server) send(k *conn) {
	if k.sending || k.head == len(k.queue) {
		return
	}
	p := k.queue[k.head]
	e := s.entry()
	e.PrepareSend(int(k.fd), s.address(p.id)+uintptr(p.off), p.n, unix.MSG_WAITALL|unix.MSG_NOSIGNAL)
	e.UserData = onSend<<32 | uint64(uint32(k.fd))
	k.sending = true
}

// address is where buffer id lies. The memory is mapped, so it never moves.
func (s *server) address(id uint16) uintptr {
	return uintptr(unsafe.Pointer(&s.mem[int(id)*s.bufBytes]))
}

func (s *server) recycle(id uint16) {
	s.bufs.BufRingAdd(s.address(id), uint32(s.bufBytes), id, giouring.BufRingMask(bufferCount), s.added)
	s.added++
}

func (s *server) publish() {
	if s.added > 0 {
		s.bufs.BufRingAdvance(s.added)
		s.added = 0
	}
	starved := s.starved
	s.starved = nil
	for _, k := range starved {
		s.armRecv(k)
	}
}
