//go:build linux

package net

import (
	"errors"
	"fmt"
	"io"
	stdnet "net"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// parted is a connection that has left its loop. Who has it owns the descriptor.
type parted struct {
	fd     int
	front  []byte        // received already
	errno  syscall.Errno // that a receive has told, behind the front; 0: none
	remote Addr          // the zero Addr: not known
	layer  *layer        // its session, which it takes along; nil: none
	plain  []byte        // what that has given already

	file *os.File // has the descriptor, if it is not nil
}

// conn makes a connection of std of it. With an error it may be tried again; in the end
// drop has to be called.
func (p *parted) conn() (stdnet.Conn, error) {
	conn, err := p.socket()
	if err != nil || p.layer == nil {
		return conn, err
	}
	p.layer.std = conn
	if len(p.plain) == 0 {
		return p.layer.s, nil
	}
	return &plainFront{session: p.layer.s, rest: p.plain}, nil
}

// socket is conn without the session.
func (p *parted) socket() (stdnet.Conn, error) {
	if p.file == nil {
		p.file = os.NewFile(uintptr(p.fd), "connection")
	}
	// It has a descriptor of its own.
	conn, err := stdnet.FileConn(p.file)
	if err != nil {
		return nil, fmt.Errorf("ringnet: hand over a connection: %w", explainListen(err))
	}
	_ = p.file.Close()
	p.fd = -1
	known := conn.RemoteAddr() != nil
	if len(p.front) == 0 && p.errno == 0 && known {
		return conn, nil
	}
	f := &front{rest: p.front}
	if p.errno != 0 {
		f.err = &stdnet.OpError{Op: "read", Net: conn.LocalAddr().Network(), Source: conn.LocalAddr(), Addr: p.peer(conn), Err: os.NewSyscallError("read", p.errno)}
	}
	f.left.Store(len(f.rest) > 0 || f.err != nil)
	switch conn := conn.(type) {
	case *stdnet.TCPConn:
		return &tcpConn{TCPConn: conn, front: f, peer: p.peer(conn)}, nil
	case *stdnet.UnixConn:
		return &unixConn{UnixConn: conn, front: f, peer: p.peer(conn)}, nil
	}
	_ = conn.Close()
	return nil, fmt.Errorf("ringnet: hand over a connection: a %T is neither of TCP nor of a Unix socket", conn)
}

// peer is the address of the other end, also when the kernel does not know it any more:
// users of std expect one. It is ":0" if the connection was reset before anybody asked.
func (p *parted) peer(conn stdnet.Conn) stdnet.Addr {
	if addr := conn.RemoteAddr(); addr != nil {
		return addr
	}
	return p.remote.std()
}

// std is a as package net of std has it.
func (a Addr) std() stdnet.Addr {
	if a.isUnix() {
		return &stdnet.UnixAddr{Name: a.Path(), Net: "unix"}
	}
	return stdnet.TCPAddrFromAddrPort(a.ip)
}

// drop closes it, and has a TCP peer see a reset: it was promised a server.
func (p *parted) drop() {
	if p.fd < 0 {
		return
	}
	_ = unix.SetsockoptLinger(p.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}) // does nothing on a Unix socket
	if p.file != nil {
		_ = p.file.Close()
	} else {
		_ = unix.Close(p.fd)
	}
	p.fd = -1
}

// front is what was received of a connection before it was handed over. It is taken
// within the connection's own read lock, so that deadlines, Close and the order of
// several readers are as std has them.
type front struct {
	left atomic.Bool // there is something; once it is false it stays so
	rest []byte
	err  error // once, behind rest
}

// within calls f, if something is left, as a read of conn. ok reports that f was called
// and has taken something, or that it could not be called: then err says why.
func (f *front) within(conn syscall.Conn, take func() error) (ok bool, err error) {
	if !f.left.Load() {
		return false, nil
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return true, err
	}
	var inner error
	err = raw.Read(func(uintptr) bool {
		if f.left.Load() { // or another reader was first
			ok = true
			inner = take()
			if len(f.rest) == 0 && f.err == nil {
				f.rest = nil
				f.left.Store(false)
			}
		}
		return true
	})
	if err != nil {
		if op := (*stdnet.OpError)(nil); errors.As(err, &op) {
			op.Op = "read" // it says raw-read
		}
		return true, err
	}
	return ok, inner
}

// read is Read as long as something is left.
func (f *front) read(conn syscall.Conn, b []byte) (n int, err error, ok bool) {
	ok, err = f.within(conn, func() error {
		if n = copy(b, f.rest); n > 0 || len(b) == 0 {
			f.rest = f.rest[n:]
			return nil
		}
		return f.takeError()
	})
	return n, err, ok
}

func (f *front) takeError() error {
	err := f.err
	f.err = nil
	return err
}

// writeTo writes all that is left to w. ok reports that the rest of the stream may
// follow.
func (f *front) writeTo(conn syscall.Conn, w io.Writer) (n int64, err error, ok bool) {
	for {
		var b []byte
		some, err := f.within(conn, func() error {
			if b = f.rest; len(b) > 0 {
				f.rest = nil
				return nil
			}
			return f.takeError()
		})
		if !some || err != nil {
			return n, err, err == nil
		}
		m, err := w.Write(b)
		n += int64(m)
		if err == nil && m < len(b) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return n, err, false
		}
	}
}

// file refuses what would lose the front.
func (f *front) file() error {
	if f.left.Load() {
		return errors.New("ringnet: File of a connection that was handed over with bytes in front: read these first, a descriptor does not have them")
	}
	return nil
}

// tcpConn is a connection with something in front.
type tcpConn struct {
	*stdnet.TCPConn
	front *front
	peer  stdnet.Addr
}

// Read implements net.Conn of std.
func (c *tcpConn) Read(b []byte) (int, error) {
	if n, err, ok := c.front.read(c.TCPConn, b); ok {
		return n, err
	}
	return c.TCPConn.Read(b)
}

// WriteTo implements io.WriterTo.
func (c *tcpConn) WriteTo(w io.Writer) (int64, error) {
	n, err, ok := c.front.writeTo(c.TCPConn, w)
	if !ok {
		return n, err
	}
	m, err := c.TCPConn.WriteTo(w)
	return n + m, err
}

// RemoteAddr implements net.Conn of std.
func (c *tcpConn) RemoteAddr() stdnet.Addr { return c.peer }

// File is as that of net.TCPConn.
func (c *tcpConn) File() (*os.File, error) {
	if err := c.front.file(); err != nil {
		return nil, err
	}
	return c.TCPConn.File()
}

// unixConn is that of a Unix socket.
type unixConn struct {
	*stdnet.UnixConn
	front *front
	peer  stdnet.Addr
}

// Read implements net.Conn of std.
func (c *unixConn) Read(b []byte) (int, error) {
	if n, err, ok := c.front.read(c.UnixConn, b); ok {
		return n, err
	}
	return c.UnixConn.Read(b)
}

// ReadFrom implements net.PacketConn of std.
func (c *unixConn) ReadFrom(b []byte) (int, stdnet.Addr, error) {
	if n, err, ok := c.front.read(c.UnixConn, b); ok {
		return n, nil, err
	}
	return c.UnixConn.ReadFrom(b)
}

// ReadFromUnix is as that of net.UnixConn.
func (c *unixConn) ReadFromUnix(b []byte) (int, *stdnet.UnixAddr, error) {
	if n, err, ok := c.front.read(c.UnixConn, b); ok {
		return n, nil, err
	}
	return c.UnixConn.ReadFromUnix(b)
}

// ReadMsgUnix is as that of net.UnixConn. The front has no control messages: descriptors
// that came with it were not asked for when it was received, and are closed.
func (c *unixConn) ReadMsgUnix(b, oob []byte) (n, oobn, flags int, addr *stdnet.UnixAddr, err error) {
	if n, err, ok := c.front.read(c.UnixConn, b); ok {
		return n, 0, 0, nil, err
	}
	return c.UnixConn.ReadMsgUnix(b, oob)
}

// RemoteAddr implements net.Conn of std.
func (c *unixConn) RemoteAddr() stdnet.Addr { return c.peer }

// File is as that of net.UnixConn.
func (c *unixConn) File() (*os.File, error) {
	if err := c.front.file(); err != nil {
		return nil, err
	}
	return c.UnixConn.File()
}
