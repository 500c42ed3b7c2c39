//go:build linux

package net

import (
	"errors"
	"fmt"
	stdnet "net"
	"sync"
	"syscall"
)

// ErrQueueFull says that HandOverListener.Backlog connections wait for Accept.
var ErrQueueFull = errors.New("ringnet: too many connections wait to be accepted from the HandOverListener")

// HandOverListener is a net.Listener of the standard library whose connections come from
// event loops: for http.Server.Serve, grpc.Server.Serve and their like, beside handlers
// on the same port or server. The zero value is ready for use; it must not be copied. Its
// methods are safe for concurrent use, and any number of servers may feed one.
//
// Connections get there in two ways:
//
//   - [Conn.HandOverTo], from a callback, and [Stream.HandOverTo], from blocking code;
//   - as a [Handler]: of a Server, of one of its addresses (Server.Handlers), of a Dialer,
//     or chosen by a [Sniff]. Such connections of a server or an address are handed over
//     as they are accepted: no loop ever reads from them.
//
// The queue is bounded by Backlog. When it is full, or the listener is closed, HandOverTo
// answers an error, and connections that came with the listener as their handler are
// reset (Stats.HandOversLost), so that their peers learn at once that they are not served.
//
// The end of a server does not close it, since others may feed it, nor does it end the
// connections: Shutdown of an http.Server does both.
type HandOverListener struct {
	// Backlog is how many connections may wait for Accept. Default 4,096; range 1 to
	// 1,048,576. It must not be changed after the first use.
	Backlog int

	mu       sync.Mutex
	came     sync.Cond
	queue    []*parted
	reserved int // places for connections that are on their way
	closed   bool
	addr     stdnet.Addr
}

// check implements the look that Start takes at handlers.
func (l *HandOverListener) check() error {
	if l.Backlog < 0 || l.Backlog > 1<<20 {
		return fmt.Errorf("ringnet: HandOverListener.Backlog is %d: it must be from 1 to %d, or 0 for the default", l.Backlog, 1<<20)
	}
	return nil
}

// reserve takes a place in the queue.
func (l *HandOverListener) reserve() error {
	if err := l.check(); err != nil {
		return err
	}
	most := l.Backlog
	if most == 0 {
		most = 4096
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return ErrClosed
	case len(l.queue)+l.reserved >= most:
		return ErrQueueFull
	}
	l.reserved++
	return nil
}

// take implements taker: p goes to its place.
func (l *HandOverListener) take(p *parted) {
	l.mu.Lock()
	l.reserved--
	closed := l.closed
	if !closed {
		l.queue = append(l.queue, p)
		l.came.L = &l.mu
		l.came.Signal()
	}
	l.mu.Unlock()
	if closed {
		p.drop()
	}
}

// miss implements taker: the place is free again.
func (l *HandOverListener) miss(error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved--
}

// Accept implements net.Listener of std. It waits for a connection and gives what
// [Conn.HandOver] does. After Close its error matches net.ErrClosed. When the process has
// no descriptor left the error is a temporary one, and the connection waits on.
func (l *HandOverListener) Accept() (stdnet.Conn, error) {
	for {
		p := l.next()
		if p == nil {
			return nil, l.failed(ErrClosed)
		}
		conn, err := p.conn()
		if err == nil {
			l.learn(conn.LocalAddr())
			return conn, nil
		}
		if scarce(err) && l.putBack(p) {
			return nil, l.failed(err)
		}
		// Only this one is broken: it was reset, say.
		p.drop()
	}
}

// next waits for a connection; nil after Close.
func (l *HandOverListener) next() *parted {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.came.L = &l.mu
	for len(l.queue) == 0 {
		if l.closed {
			return nil
		}
		l.came.Wait()
	}
	p := l.queue[0]
	l.queue[0] = nil
	if l.queue = l.queue[1:]; len(l.queue) == 0 {
		l.queue = nil
	}
	return p
}

// putBack has p be the next one again. It reports false after Close.
func (l *HandOverListener) putBack(p *parted) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.queue = append([]*parted{p}, l.queue...)
	l.came.L = &l.mu
	l.came.Signal()
	return true
}

// scarce reports an error that may go away by itself.
func scarce(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && (errno == syscall.EMFILE || errno == syscall.ENFILE || errno == syscall.ENOMEM || errno == syscall.ENOBUFS)
}

// failed is an error of Accept, as std's listeners have it.
func (l *HandOverListener) failed(err error) error {
	addr := l.Addr()
	var errno syscall.Errno
	if errors.As(err, &errno) {
		err = temporary{err, errno}
	}
	return &stdnet.OpError{Op: "accept", Net: addr.Network(), Addr: addr, Err: err}
}

// temporary is an error of which servers of std, which ask for that, find out that
// they should try again.
type temporary struct {
	error
	errno syscall.Errno
}

// Temporary is what http.Server asks.
func (t temporary) Temporary() bool {
	return t.errno.Temporary() || t.errno == syscall.ENOMEM || t.errno == syscall.ENOBUFS
}

// Unwrap gives the error.
func (t temporary) Unwrap() error { return t.error }

// Close implements net.Listener of std: Accept answers an error from now on, and
// connections that wait are reset. The servers that feed it go on, and reset what
// they would have handed over; so close it after them.
func (l *HandOverListener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return l.failed(ErrClosed)
	}
	l.closed = true
	queue := l.queue
	l.queue = nil
	l.came.L = &l.mu
	l.came.Broadcast()
	l.mu.Unlock()
	for _, p := range queue {
		p.drop()
	}
	return nil
}

// Addr implements net.Listener of std: the first address of the first server that was
// started with this listener as a handler, or as one that a Sniff chooses from; else the
// local address of the first connection that was accepted. Before that it is none.
func (l *HandOverListener) Addr() stdnet.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.addr == nil {
		return Addr{}
	}
	return l.addr
}

// serves implements the message that Start has for handlers.
func (l *HandOverListener) serves(addr Addr) { l.learn(addr.std()) }

func (l *HandOverListener) learn(addr stdnet.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.addr == nil {
		l.addr = addr
	}
}

// OnOpen implements [Handler]: c is handed over, or reset.
func (l *HandOverListener) OnOpen(c *Conn) {
	if err := c.HandOverTo(l); err != nil {
		c.l.turnDown(c, err)
	}
}

// OnData implements [Handler]. It takes nothing.
func (l *HandOverListener) OnData(*Conn, []byte) int { return 0 }

// OnClose implements [Handler].
func (l *HandOverListener) OnClose(*Conn, error) {}

var _ stdnet.Listener = (*HandOverListener)(nil)
var _ Handler = (*HandOverListener)(nil)
