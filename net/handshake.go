//go:build linux

package net

import (
	"errors"
	"fmt"
	"io"
	"iter"
	stdnet "net"
	"os"
	"runtime/debug"
	"time"
)

// securer makes sessions: what is above the loops of a handler that wants them.
type securer interface {
	// session makes one end of a session, a client's or a server's. host is what a
	// client has dialled.
	session(raw stdnet.Conn, client bool, host string) session

	// limit is how long the handshake may take; 0: for ever.
	limit() time.Duration

	// refused is told of connections that were accepted and came to nothing.
	refused(c *Conn, err error)
}

// handshake is the handler of a connection whose session is not agreed upon. It runs on
// a coroutine, since it has to wait in the middle, and only while it has something to
// do: until the first bytes of a client have come, none is made. When it has succeeded
// the connection's own handler hears of the connection, and otherwise never.
//
//	       bytes            errWouldBlock
//	loop ─────────► goOn ◄─────────────── wait ◄── rawConn.Read ◄── session.Handshake
//
// The functions of a tls.Config run on it. What they panic with ends the connection, as
// it does in a handler.
type handshake struct {
	timer // until when it has to be done
	limit time.Duration

	c    *Conn
	own  *handlers // the connection's
	dial *Dialing  // whose outcome depends on this; nil: it was accepted

	next  func() (struct{}, bool) // switches to the coroutine
	stop  func()                  // has it end
	yield func(struct{}) bool     // switches back

	ended    bool
	returned bool // by itself; else it has panicked or exited
	panicked *PanicError
	err      error
}

// layOver puts a session between c's socket and its handler, if that wants one. Before
// OnOpen.
func (l *loop) layOver(c *Conn, g *Dialing) {
	sec := c.h.secure
	if sec == nil {
		return
	}
	if c.state&layered != 0 {
		l.abort(c, errNested) // a Sniff within TLS has chosen TLS
		return
	}
	k := &handshake{c: c, own: c.h, dial: g}
	y := &layer{c: c, greets: k}
	host := ""
	if g != nil {
		host = g.host
	}
	y.s = sec.session(rawConn{y}, g != nil, host)
	c.rarely().layer = y
	c.state |= layered
	c.h = &handlers{Handler: k}
}

// OnOpen implements Handler.
func (k *handshake) OnOpen(c *Conn) {
	l := c.l
	k.limit = k.own.secure.limit()
	if g := k.dial; g != nil && g.deadline != 0 {
		left := max(time.Duration(g.deadline-l.clock()), 1)
		if k.limit <= 0 || left < k.limit {
			k.limit = left
		}
	}
	if k.limit > 0 {
		k.owner = k
		l.setTimer(&k.timer, k.limit)
	}
	if k.dial != nil {
		k.goOn() // a client speaks first
	}
}

// expired implements expirer.
func (k *handshake) expired(l *loop) {
	l.stats.Timeouts++
	l.abort(k.c, &OpError{Op: opHandshake, Addr: k.c.remote, Err: fmt.Errorf("not done after %v: %w", k.limit.Round(time.Millisecond), os.ErrDeadlineExceeded)})
}

// opHandshake is the Op of errors.
const opHandshake = "TLS handshake"

// OnData implements Handler. It is not called: see unwrap.
func (k *handshake) OnData(_ *Conn, b []byte) int { return len(b) }

// goOn has the handshake go as far as it comes. It reports whether it has succeeded.
func (k *handshake) goOn() bool {
	c := k.c
	y, l := c.rare.layer, c.l
	if c.state&(closing|dead) != 0 {
		return false
	}
	if k.next == nil {
		if y.ended {
			l.close(c, &OpError{Op: opHandshake, Addr: c.remote, Err: io.EOF})
			return false
		}
		k.next, k.stop = iter.Pull(k.run)
	}
	l.call(c, func() { k.resume(func() { k.next() }) })
	switch {
	case !k.ended:
		return false
	case k.panicked != nil:
		l.stats.Panics++
		l.o.Logger.Error("ringnet: a function of a tls.Config panicked", "loop", l.index, "panic", k.panicked.Value, "stack", string(k.panicked.Stack))
		l.abort(c, k.panicked)
		return false
	case k.err != nil:
		l.sessionFailed(c, opHandshake, k.err)
		return false
	}
	l.wheel.remove(&k.timer)
	y.greets = nil
	c.h = k.own
	l.stats.TLSHandshakes++
	if g := k.dial; g != nil {
		defer g.secured(nil) // also if OnOpen panics: it was called
	}
	l.call(c, func() { c.h.OnOpen(c) })
	if l.retiring {
		l.takeLeave(c)
	}
	return true
}

// OnClose implements Handler: there will be no session.
func (k *handshake) OnClose(c *Conn, err error) {
	l := c.l
	l.wheel.remove(&k.timer)
	if k.stop != nil {
		k.resume(k.stop)
	}
	l.stats.TLSHandshakeErrors++
	l.logConn(c, "a TLS handshake has failed", "err", err)
	if k.dial == nil {
		k.own.secure.refused(c, err)
		return
	}
	if e, ok := err.(*OpError); ok && e.Op == opHandshake {
		err = fmt.Errorf("%s: %w", opHandshake, e.Err)
	}
	k.dial.secured(&OpError{Op: "dial", Addr: c.remote, Err: err})
}

// run is the coroutine.
func (k *handshake) run(yield func(struct{}) bool) {
	k.yield = yield
	defer k.leave()
	k.err = k.c.rare.layer.s.Handshake()
	k.returned = true
}

// errHandshakeExit is what ends the coroutine of a handshake in which a function of the
// tls.Config has called runtime.Goexit. Nothing can stop an exit, and iter would pass it
// on to the loop's goroutine. A panic in its stead is passed on as such, and can be
// recovered from.
var errHandshakeExit = errors.New("ringnet: a function of a tls.Config has called runtime.Goexit")

// leave, deferred, finds out how the handshake has ended.
func (k *handshake) leave() {
	k.ended = true
	if k.returned {
		return
	}
	v := recover()
	if v == nil {
		k.panicked = &PanicError{Value: errHandshakeExit, Stack: debug.Stack()}
		panic(errHandshakeExit)
	}
	k.panicked = &PanicError{Value: v, Stack: debug.Stack()}
}

// resume calls one of iter's two functions.
func (k *handshake) resume(f func()) {
	defer func() {
		if k.panicked != nil && k.panicked.Value == any(errHandshakeExit) {
			_ = recover()
		}
	}()
	f()
}

// wait has the loop go on until there is more to read. It reports false when nothing
// will come any more. On the coroutine.
func (k *handshake) wait() bool { return k.yield(struct{}{}) }
