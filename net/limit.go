//go:build linux

package net

import (
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// connLimit is Options.MaxConns: so many places, which all loops share. With a share
// for each loop, clients that the kernel hashes to a full loop would wait although
// there is room elsewhere. A place is taken when a connection is there to take it,
// and not when a loop begins to wait for one, so that no idle loop sits on places
// that others need:
//
//	listener is readable ─► take a place ─► accept ─► … ─► the connection ends ─► give
//	                           │ none
//	                           ▼
//	                       stand in line; who gives a place wakes the first
//
// A multishot accept would go beyond any limit: it takes all that waits at once. So
// with a limit, listeners are polled, and each connection accepted by a call.
type connLimit struct {
	max  int64
	used atomic.Int64

	waiting atomic.Int32 // length of line, to be read without the lock
	mu      sync.Mutex
	line    []*loop // that have found no place, each once
}

// take takes a place for a connection of l, or puts l in line for one.
func (m *connLimit) take(l *loop) bool {
	if m.tryTake() {
		return true
	}
	if l.in.inLine.Load() {
		return false
	}
	m.stand(l)
	// One may have been given before we stood there.
	if !m.tryTake() {
		return false
	}
	m.leave(l)
	return true
}

func (m *connLimit) tryTake() bool {
	for {
		n := m.used.Load()
		if n >= m.max {
			return false
		}
		if m.used.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (m *connLimit) stand(l *loop) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l.in.inLine.Store(true)
	m.line = append(m.line, l)
	m.waiting.Store(int32(len(m.line)))
}

// leave takes l out of the line. If it was called meanwhile, the call remains: l
// passes it on when it finds that it has no use for it.
func (m *connLimit) leave(l *loop) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l.in.inLine.Store(false)
	m.line = slices.DeleteFunc(m.line, func(other *loop) bool { return other == l })
	m.waiting.Store(int32(len(m.line)))
}

// give gives a place back.
func (m *connLimit) give() {
	m.used.Add(-1)
	m.call()
}

// call tells the first in line that there may be a place. Who is called and has no
// use for it has to call the next.
func (m *connLimit) call() {
	if m.waiting.Load() == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.line) == 0 {
		return
	}
	first := m.line[0]
	m.line = append(m.line[:0], m.line[1:]...)
	m.waiting.Store(int32(len(m.line)))
	first.in.inLine.Store(false)
	first.in.called.Store(true)
	first.mail.rouse()
}

// limited reports that connections are accepted one by one, each with a place of the
// limit.
func (l *loop) limited() bool { return l.team != nil && l.team.limit != nil }

// armListenerPoll prepares the poll of a listener.
func (l *loop) armListenerPoll(e *ring.Entry, fd int) {
	if l.pollMultishot {
		e.PreparePollMultishot(fd, unix.POLLIN)
	} else {
		e.PreparePoll(fd, unix.POLLIN)
	}
}

// onListenerPoll takes a completion of a listener's poll. Also a failed one has the
// listener tried, after which it is polled again.
func (l *loop) onListenerPoll(ln *listener, cqe *ring.Completion) {
	if !cqe.More() {
		ln.armed, ln.cancelling = false, false
		l.inFlight--
		if l.draining {
			l.endListener(ln)
			return
		}
	}
	ln.ready = true
}

// acceptReady accepts what waits at listeners, while there are places and until the
// loop has to look after others.
func (l *loop) acceptReady() {
	called := l.in.called.Load() && l.in.called.Swap(false)
	l.acceptMore = true // also if a handler panics in here
	for i := range l.listeners {
		ln := &l.listeners[i]
		for ln.ready && !l.draining && !l.acceptPaused {
			if l.opened >= opensPerTurn || l.crowded {
				return // pressing brings us back
			}
			called = false // either we take it, or it has gone
			if !l.team.limit.take(l) {
				l.sayFull()
				l.acceptMore = false
				return
			}
			l.atLimit = false
			fd, errno := l.r.Accept(ln.fd)
			if errno == 0 {
				l.acceptPause = 0
				if ln.dealt {
					l.opened++ // it is work, wherever it goes
				}
				l.bring(ln, int32(fd))
				continue
			}
			l.team.limit.give()
			switch errno {
			case unix.EAGAIN:
				ln.ready = false
			case unix.EINTR:
			default:
				l.acceptFailed(ln, errno)
			}
		}
	}
	l.acceptMore = false
	if called {
		l.team.limit.call()
	}
	l.armAccept()
}

// sayFull counts and tells that connections wait since the limit is reached.
func (l *loop) sayFull() {
	if l.atLimit {
		return
	}
	l.atLimit = true
	l.stats.AtLimit++
	if now := l.clock(); now >= l.limitComplainAt {
		l.limitComplainAt = now + int64(acceptComplainEvery)
		l.o.Logger.Warn("ringnet: as many connections as Options.MaxConns allows", "loop", l.index, "max", l.o.MaxConns,
			"mend", "raise MaxConns, or find out who holds the connections; others wait in the backlog meanwhile")
	}
}
