//go:build linux

package net

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// listener is one listening socket of one loop.
type listener struct {
	fd         int
	addr       Addr
	armed      bool // an accept, or with Options.MaxConns a poll
	cancelling bool
	ready      bool      // polled: there may be connections
	dealt      bool      // its connections are for all loops
	h          *handlers // of its connections; nil: the loop's

	file *socketFile // of a Unix listener, to be removed when it is closed
}

// How long accepting pauses when the process or the system has run out of
// something: at first, and at most. The connections wait in the backlog meanwhile.
const (
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = time.Second
	// A shortage comes and goes with each connection that ends; it is told of
	// once, and again if it lasts or comes back after so long.
	acceptComplainEvery = time.Minute
)

// armAccept posts an accept for every listener that has none.
func (l *loop) armAccept() {
	if l.draining || l.acceptPaused || l.crowded {
		return
	}
	for i := range l.listeners {
		ln := &l.listeners[i]
		if ln.armed || ln.ready {
			continue
		}
		e := l.entry()
		if e == nil {
			l.armLater = true
			return
		}
		if l.limited() {
			l.armListenerPoll(e, ln.fd)
		} else if l.acceptMultishot {
			e.PrepareAcceptMultishot(ln.fd)
		} else {
			e.PrepareAccept(ln.fd)
		}
		e.SetUserData(userData(kindAccept, 0, uint32(i)))
		ln.armed = true
		l.inFlight++
	}
}

// onAccept takes a completion of an accept. The last one may still carry a
// descriptor.
func (l *loop) onAccept(i uint32, cqe *ring.Completion) {
	ln := &l.listeners[i]
	if l.limited() {
		l.onListenerPoll(ln, cqe)
		return
	}
	if !cqe.More() {
		ln.armed, ln.cancelling = false, false
		l.inFlight--
	}
	if cqe.Res < 0 {
		l.acceptFailed(ln, syscall.Errno(-cqe.Res))
	} else {
		l.acceptPause = 0
	}
	// Before the handler hears of the connection, since it may panic.
	if !cqe.More() {
		if l.draining {
			l.endListener(ln)
		} else {
			l.armAccept()
		}
	}
	if cqe.Res >= 0 {
		l.bring(ln, cqe.Res)
	}
}

// acceptFailed decides what an errno of accept means for the listener.
func (l *loop) acceptFailed(ln *listener, errno syscall.Errno) {
	switch errno {
	case unix.ECANCELED:
		return // ours
	case unix.EINTR, unix.EAGAIN, unix.ECONNABORTED, unix.EPROTO, unix.EPERM:
		// That one connection went away before we took it, or a firewall
		// forbade it (accept(2)); the listener is well.
		l.stats.AcceptErrors++
		return
	}
	// EMFILE, ENFILE, ENOBUFS, ENOMEM, or something unheard of. Trying again at
	// once would spin; giving the listener up would turn a shortage into an
	// outage.
	l.stats.AcceptErrors++
	l.acceptPause = min(max(2*l.acceptPause, acceptPauseMin), acceptPauseMax)
	now := l.clock()
	l.acceptPaused, l.acceptAt = true, now+int64(l.acceptPause)
	if now >= l.acceptComplainAt {
		l.acceptComplainAt = now + int64(acceptComplainEvery)
		mend := "the connections wait in the backlog; accepting goes on when the shortage is over"
		if errno == unix.EMFILE {
			mend = "raise the limit of open files ('ulimit -n' or LimitNOFILE=); the connections wait in the backlog meanwhile"
		}
		l.o.Logger.Warn("ringnet: cannot accept connections", "loop", l.index,
			"err", &OpError{Op: "accept", Addr: ln.addr, Err: errno}, "connections", l.table.used, "mend", mend)
	}
}

// resumeAccept goes on accepting when the pause is over.
func (l *loop) resumeAccept(now int64) {
	if l.acceptPaused && now >= l.acceptAt {
		l.acceptPaused = false
		l.acceptMore = l.limited()
		l.armAccept()
	}
}

// open starts a connection on a descriptor, which it owns.
func (l *loop) open(a arrival) {
	fd, isUnix := a.fd, a.isUnix
	c := &Conn{l: l, fd: fd, h: a.h, accepted: true}
	// Now, since a connection that was reset no longer knows its peer, and that
	// is when people want to read it. An error: it has been reset already.
	if isUnix {
		c.remote = l.unixPeer(fd)
	} else {
		peer, _ := l.r.PeerAddr(int(fd))
		c.remote = TCPAddr(peer)
	}
	l.stats.Accepted++
	l.layOver(c, nil)
	l.begin(c)
}

// begin gives a connection its place on the loop and tells its handler.
func (l *loop) begin(c *Conn) {
	l.table.insert(c)
	l.limit(c)
	l.call(c, func() { c.h.OnOpen(c) })
	if l.retiring {
		l.takeLeave(c) // which settles it
		l.settle(c)
		return
	}
	if c.state&(noReading|isDirty) == 0 {
		l.arm(c, true)
		return
	}
	l.settle(c)
}

// steerAccepts arms accepts, or ends them.
func (l *loop) steerAccepts() {
	switch {
	case l.draining:
		l.stopAccepting()
	case l.crowded:
		for i := range l.listeners {
			l.cancelAccept(i)
		}
	default:
		l.armAccept()
	}
}

// stopAccepting closes the listeners once their accepts have ended.
func (l *loop) stopAccepting() {
	for i := range l.listeners {
		if ln := &l.listeners[i]; ln.armed {
			l.cancelAccept(i)
		} else {
			l.endListener(ln)
		}
	}
}

// cancelAccept ends a listener's accept or poll; it is over with its own last
// completion.
func (l *loop) cancelAccept(i int) {
	ln := &l.listeners[i]
	if !ln.armed || ln.cancelling {
		return
	}
	e := l.entry()
	if e == nil {
		l.armLater = true
		return
	}
	e.PrepareCancel(userData(kindAccept, 0, uint32(i)))
	e.SetUserData(userData(kindCancelAccept, 0, uint32(i)))
	ln.cancelling = true
	l.inFlight++
}

// onCancelAccept takes the completion of an accept's cancel. As with others (see
// onCancel), one that came too late may leave the accept armed: try again.
func (l *loop) onCancelAccept(i uint32, cqe *ring.Completion) {
	if ln := &l.listeners[i]; cqe.Res < 0 && ln.armed {
		ln.cancelling = false
		l.armLater = true
	}
}

func (l *loop) closeListener(ln *listener) {
	if ln.fd >= 0 {
		ln.file.remove()
		_ = l.r.CloseFd(ln.fd)
		ln.fd = -1
	}
}
