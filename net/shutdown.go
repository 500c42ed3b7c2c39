//go:build linux

package net

import (
	"errors"
	"fmt"
	"time"

	"example.com/ringnet/ring"
)

// drain stops accepting, and has every connection end in its own time. On the
// loop's goroutine.
func (l *loop) drain() {
	if l.draining && !l.retiring {
		return
	}
	told := l.retiring
	l.draining, l.retiring = true, false
	l.acceptPaused = false
	l.stopAccepting()
	l.dials.each(func(g *Dialing) { l.cancelDial(g, ErrServerClosed) })
	if !told {
		l.drainSockets()
	}
	l.table.each(func(c *Conn) {
		if told && c.h.shutdown != nil && !c.h.blocking {
			return
		}
		if c.h.shutdown != nil && c.state&(closing|dead|finished) == 0 {
			l.guard(func() { l.call(c, func() { c.h.shutdown.OnShutdown(c) }) })
		} else {
			l.close(c, ErrServerClosed)
		}
	})
}

// cut ends every connection now. On the loop's goroutine.
func (l *loop) cut() {
	l.drain()
	l.cutSockets()
	l.table.each(func(c *Conn) { l.abort(c, ErrServerClosed) })
}

// stop ends the loop once its listeners are closed and no other loop can give it
// connections; there are no connections and no dials left.
func (l *loop) stop() {
	for i := range l.listeners {
		if l.listeners[i].fd >= 0 {
			return
		}
	}
	l.stopped = l.in.closeEmpty()
}

// lastCompletions is how long a loop waits at its end for the last completions
// of the waker's poll. The kernel answers a cancel at once; this is for a machine
// that hardly gets to run.
const lastCompletions = 5 * time.Second

// teardown gives back all that the loop has, and reports whether its ring was
// closed in good order. No connections and no listeners are left.
func (l *loop) teardown() bool {
	var errs []error
	deadline := time.Now().Add(lastCompletions)
	cancelled := false
	for l.inFlight > 0 && time.Now().Before(deadline) {
		if !cancelled {
			if e := l.entry(); e != nil {
				e.PrepareCancelAll()
				e.SetUserData(userData(kindCancelAccept, 0, 0))
				l.inFlight++
				cancelled = true
			}
		}
		if err := l.r.Wait(1, 100*time.Millisecond); err != nil && !errors.Is(err, ring.ErrBusy) {
			errs = append(errs, err)
			break
		}
		l.reset()
		l.reap()
		for l.next < l.count {
			cqe := &l.batch[l.next]
			l.next++
			if !cqe.More() {
				l.inFlight--
			}
		}
	}
	l.lastMail()
	l.final = l.snapshot()
	if l.inFlight > 0 {
		errs = append(errs, fmt.Errorf("ringnet: loop %d: %d operations did not end", l.index, l.inFlight))
	}
	if err := l.waker.Close(); err != nil {
		errs = append(errs, err)
	}
	// A buffer that is still leased stays mapped: its owner may yet read it.
	if err := l.group.Close(); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, l.closePackets()...)
	for _, p := range l.pools() {
		if err := p.Close(); err != nil {
			errs = append(errs, err)
		}
	}
	if err := l.r.Close(); err != nil {
		errs = append(errs, err)
	}
	if l.inFlight == 0 {
		for _, mem := range append(l.messageMem, l.dials.mem...) {
			if err := ring.Unmap(mem); err != nil {
				errs = append(errs, err)
			}
		}
	}
	l.err = errors.Join(errs...)
	return l.err == nil
}
