//go:build linux

package net

import (
	"math"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// A zero-copy send has two completions: its result, after which the next send may
// go, and a notification when the kernel no longer needs the memory, as a rule when
// the peer has acknowledged it. Until then the segments that the send covered are
// pinned: they may leave the queue, but their memory stays.
//
//	entry ──► result, More ──► notification: copied or not
//	            next send        memory free
//
// Whether nothing was copied depends on the way to the peer: loopback and veth
// always copy, and so do devices that cannot gather. So there is a route for each
// local address, which is as good as for each device, and one for peers on this
// machine; a route that copies is left alone, and tried again more and more seldom.

// route is what is known of zero copy on the way to some peers.
type route struct {
	self   bool          // the peers are on this machine
	proven bool          // the last report said that nothing was copied
	trials int           // unproven: sends that have yet to report
	copied int           // reports in a row that it was copied
	until  int64         // plain sends until then
	pause  time.Duration // for how long the next time
}

const (
	routeTrials   = 2 // at once
	routeCopied   = 4 // in a row, and a proven route is given up
	routePauseMin = time.Second
	routePauseMax = 10 * time.Minute
	routesMax     = 1024 // known ones; then they are learned anew
)

// routeKey names the peers that share a route.
type routeKey struct {
	local netip.Addr
	self  bool // the peer is on this machine
}

// zeroCopies are a loop's zero-copy sends.
type zeroCopies struct {
	sends  []zeroCopy
	free   []uint32
	routes map[routeKey]*route
}

// zeroCopy is one send whose last completion is outstanding.
type zeroCopy struct {
	c    *Conn
	gen  uint32
	told bool // its result
	segs []*segment
}

// SendMemory sends b, which is not copied, after what was written before. b must
// not be changed until done is called, once, on the loop's goroutine: with nil when
// all of it was handed to the kernel and is needed no more, else with why it will
// not be. done may be nil for memory that never changes. Errors are those of Write;
// then done is not called.
func (c *Conn) SendMemory(b []byte, done func(error)) error {
	if err := c.mayWrite(len(b)); err != nil {
		return err
	}
	l := c.l
	if len(b) == 0 {
		if done != nil {
			l.owe(c, done, nil)
		}
		return nil
	}
	s := segment{mem: b}
	if done != nil {
		s.owner = doneFunc(done)
	}
	l.sendSegment(c, s)
	return nil
}

// sendZeroCopy sends what is at the head of c's output without a copy, if that
// pays. It reports false when it does not.
func (l *loop) sendZeroCopy(c *Conn) bool {
	if !l.largeAhead(c) {
		return false
	}
	r := l.routeOf(c)
	if !r.worth(l) {
		return false
	}
	e := l.entry()
	if e == nil {
		return false // a plain send goes around the queue
	}
	id := l.zeroCopies.take()
	z := &l.zeroCopies.sends[id]
	z.c, z.told = c, false
	s := c.out.head
	if s.next == nil || s.next.file != nil {
		n := len(s.mem)
		if i, ok := l.fixed(s); ok {
			e.PrepareSendZCFixed(int(c.fd), s.mem, sendFlags|before(s.next), i)
		} else {
			e.PrepareSendZC(int(c.fd), s.mem, sendFlags|before(s.next))
		}
		z.pin(s)
		l.queuedBytes += n
	} else {
		m := l.message()
		for ; s != nil && !s.unready && !s.waited && m.Append(s.mem); s = s.next {
			z.pin(s)
			l.queuedBytes += len(s.mem)
		}
		c.out.message = m
		e.PrepareSendmsgZC(int(c.fd), m, sendFlags|before(s))
	}
	e.ReportUsage()
	e.SetUserData(userData(kindZeroCopy, z.gen, id))
	c.state |= sendArmed
	c.rarely().pinned++
	c.rare.notices++
	r.trials++
	l.inFlight++
	l.queuedSends++
	l.stats.ZeroCopySends++
	return true
}

// largeAhead reports that the next send would cover something large that is not
// our own copy: to copy it first and then not to would gain nothing.
func (l *loop) largeAhead(c *Conn) bool {
	for s, i := c.out.head, 0; s != nil && !s.unready && !s.waited && i < ring.MaxVector; s, i = s.next, i+1 {
		if !s.copied && len(s.mem) >= l.zeroCopyFrom {
			return true
		}
	}
	return false
}

func (z *zeroCopy) pin(s *segment) {
	s.sealed = true
	s.pins++
	z.segs = append(z.segs, s)
}

// take returns the place of a new send.
func (zs *zeroCopies) take() uint32 {
	n := len(zs.free)
	if n == 0 {
		zs.sends = append(zs.sends, zeroCopy{})
		return uint32(len(zs.sends) - 1)
	}
	id := zs.free[n-1]
	zs.free = zs.free[:n-1]
	return id
}

// onZeroCopy takes a completion of a zero-copy send.
func (l *loop) onZeroCopy(gen, id uint32, cqe *ring.Completion) {
	if int(id) >= len(l.zeroCopies.sends) || l.zeroCopies.sends[id].c == nil || l.zeroCopies.sends[id].gen != gen {
		l.stats.Stale++
		return
	}
	z := &l.zeroCopies.sends[id]
	c, r := z.c, z.c.rare.route
	if cqe.Notification() {
		r.hear(l, cqe.Copied())
		if cqe.Copied() {
			l.stats.ZeroCopyCopied++
		}
		l.zeroCopyEnds(id)
		if c.stream != nil {
			c.stream.outputMoved()
		}
		l.settle(c)
		return
	}
	res := int(cqe.Res)
	switch errno := syscall.Errno(max(0, -cqe.Res)); errno {
	case unix.ENOMEM, unix.ENOBUFS:
		// Over RLIMIT_MEMLOCK, most likely. A plain send needs none.
		l.stats.ZeroCopyRefused++
		r.until = l.clock() + int64(routePauseMin)
		res = -int(unix.EINTR)
	case unix.EOPNOTSUPP, unix.EINVAL:
		l.stats.ZeroCopyRefused++
		r.until = math.MaxInt64
		res = -int(unix.EINTR)
	}
	l.stats.ZeroCopyBytes += uint64(max(0, res))
	c.state &^= sendArmed
	if m := c.out.message; m != (ring.Message{}) {
		l.messages = append(l.messages, m)
		c.out.message = ring.Message{}
	}
	if !cqe.More() {
		r.trials = max(0, r.trials-1)
		l.zeroCopyEnds(id)
	}
	l.sendDone(c, res)
}

// zeroCopyEnds unpins what a send covered.
func (l *loop) zeroCopyEnds(id uint32) {
	z := &l.zeroCopies.sends[id]
	c := z.c
	l.inFlight--
	c.rare.pinned--
	c.rare.notices--
	for i, s := range z.segs {
		z.segs[i] = nil
		if s.pins--; s.pins == 0 && s.gone {
			var err error
			if len(s.mem) > 0 { // it left the queue unsent
				if err = c.cause; err == nil {
					err = ErrClosed
				}
			}
			l.freeSegment(c, s, err)
		}
	}
	z.c, z.segs = nil, z.segs[:0]
	z.gen = (z.gen + 1) & generationMask
	l.zeroCopies.free = append(l.zeroCopies.free, id)
}

// routeOf is the route to c's peer. It asks for our address once.
func (l *loop) routeOf(c *Conn) *route {
	if r := c.seldom().route; r != nil {
		return r
	}
	local, _ := l.r.LocalAddr(int(c.fd)) // the zero one for Unix sockets, which are a route of their own
	key := routeKey{local.Addr(), local.Addr() == c.remote.AddrPort().Addr() || local.Addr().IsLoopback()}
	zs := &l.zeroCopies
	if zs.routes == nil || len(zs.routes) >= routesMax {
		zs.routes = map[routeKey]*route{}
	}
	r := zs.routes[key]
	if r == nil {
		r = &route{self: key.self, pause: routePauseMin}
		zs.routes[key] = r
	}
	c.rarely().route = r
	return r
}

// worth reports whether to send without a copy now.
func (r *route) worth(l *loop) bool {
	if r.proven {
		return true
	}
	if r.until != 0 {
		if l.clock() < r.until {
			return false
		}
		r.until = 0
	}
	return r.trials < routeTrials
}

// hear takes a usage report.
func (r *route) hear(l *loop, copied bool) {
	r.trials--
	if !copied {
		r.proven, r.copied, r.pause = true, 0, routePauseMin
		return
	}
	if r.copied++; r.proven && r.copied < routeCopied {
		return
	}
	r.proven = false
	r.until = l.clock() + int64(r.pause)
	r.pause = min(2*r.pause, routePauseMax)
}
