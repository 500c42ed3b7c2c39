//go:build linux

package net

import (
	"errors"
	"time"
)

// fiberClock is the timer of a fiber's pauses.
type fiberClock struct {
	timer
	f *Fiber
}

// expired implements expirer.
func (k *fiberClock) expired(l *loop) { l.wake(k.f, nil) }

// Sleep pauses the fiber that calls it; see [Conn.AfterFunc] for how precise that is.
// It is cut short, with an error, when the connection ends that the fiber belongs to.
func (s *Stream) Sleep(d time.Duration) error {
	if !s.here() {
		return s.opError("sleep", ErrOffLoop)
	}
	f, err := s.l.toWait("sleep")
	if err != nil {
		return err
	}
	if f.clock == nil {
		f.clock = &fiberClock{f: f}
		f.clock.owner = f.clock
	}
	s.l.setTimer(&f.clock.timer, d)
	return f.park(waitTime)
}

// Spawn runs f on a fiber of its own, on the same loop: for the other direction of a
// proxy, say. It begins when the caller has to wait, or the callback has returned.
//
// The new fiber belongs to s: when the connection of s ends, which it does when the
// function of [Blocking] returns, nothing that the fiber waits for comes any more, and it
// has to return as well. So a function that has something to finish on another fiber
// has to wait for it ([Fiber.Wait]). What f returns is for Wait, and ends nothing; a
// panic in it ends the connection, as one in the function does.
func (s *Stream) Spawn(f func() error) (*Fiber, error) {
	if !s.here() {
		return nil, s.opError("spawn", ErrOffLoop)
	}
	if f == nil {
		return nil, errors.New("ringnet: spawn: the function is nil")
	}
	if s.c.state&(closing|dead|finished) != 0 {
		return nil, s.ended("spawn")
	}
	fiber := s.newFiber()
	fiber.spawned = f
	s.l.wake(fiber, nil)
	return fiber, nil
}

// Wait waits until the fiber has ended, and returns what its function returned: an
// error, or a *[PanicError]. Any number of fibers may wait.
func (f *Fiber) Wait() error {
	if !f.owner.here() {
		return f.owner.opError("wait", ErrOffLoop)
	}
	if !f.ended {
		w, err := f.l.toWait("wait")
		if err != nil {
			return err
		}
		if w == f {
			return errors.New("ringnet: a fiber waits for its own end")
		}
		f.waiters.push(w)
		w.for_ = f
		if err := w.park(waitOther); err != nil {
			return err
		}
	}
	return f.result
}

// abandon implements abandoner: w no longer waits for the end of f.
func (f *Fiber) abandon(w *Fiber) { f.waiters.remove(w) }

// awaited is work that a fiber waits for.
type awaited[T any] struct {
	v   T
	err error
}

// abandon implements abandoner. A result that comes after the end of the connection
// is dropped, see takeResult.
func (a *awaited[T]) abandon(*Fiber) {}

// Await runs work on a goroutine of the server's pool, where it may block, and waits for
// what it returns. It is [Offload] for fibers, with its errors and limits: ErrNoWorker
// when the pool is full, and a panic in work ends the connection that the fiber belongs
// to. When that ends first, Await answers why at once, and the result is released when
// it comes, as Offload does it. work is on another goroutine, and must leave Streams
// alone.
func Await[T any](s *Stream, work func() (T, error)) (T, error) {
	var none T
	if !s.here() {
		return none, s.opError("await", ErrOffLoop)
	}
	f, err := s.l.toWait("await")
	if err != nil {
		return none, err
	}
	a := &awaited[T]{}
	err = Offload(f.owner.c, work, func(_ *Conn, v T, err error) {
		a.v, a.err = v, err
		f.l.wake(f, nil)
	})
	if err != nil {
		return none, err
	}
	f.for_ = a
	if err := f.park(waitOther); err != nil {
		return none, err
	}
	return a.v, a.err
}

// streamDial is a dial that a fiber waits for.
type streamDial struct {
	f       *Fiber // nil: it has given up
	dialing *Dialing
	context any
	s       *Stream
}

// Dial connects to addr on the loop of s, and waits until the connection has come about;
// see [Conn.Dial], and [Dialer] for Timeout and LocalAddr. Handler and OnError must be
// nil: what is dialled has no handler but its Stream.
//
// The Stream that it returns is the caller's to close, as one of std's net.Dial is: it
// does not end with the one that it was dialled on, and any fiber of the loop may use
// it. On Shutdown it can be used until the last fiber of the loop has returned.
func (s *Stream) Dial(addr string, d Dialer) (*Stream, error) {
	if !s.here() {
		return nil, s.opError("dial", ErrOffLoop)
	}
	if d.Handler != nil || d.OnError != nil {
		return nil, errors.New("ringnet: Dial on a fiber: Dialer.Handler and OnError must be nil, since the Stream is returned: use Conn.Dial to have another Handler")
	}
	l := s.l
	f, err := l.toWait("dial")
	if err != nil {
		return nil, err
	}
	if l.dialled == nil {
		l.dialled = newHandlers(&blocking{})
	}
	w := &streamDial{f: f, context: d.Context}
	d.Context = w
	d.OnError = w.failed
	w.dialing = l.dial(addr, d, l.dialled, nil)
	f.for_ = w
	if err := f.park(waitOther); err != nil {
		return nil, err
	}
	return w.s, nil
}

// opened is the good outcome.
func (w *streamDial) opened(c *Conn) {
	c.context = w.context
	if w.f == nil {
		c.Abort(nil)
		return
	}
	w.s = newStream(c)
	c.l.wake(w.f, nil)
}

// failed is the other one.
func (w *streamDial) failed(err error) {
	if w.f != nil {
		w.f.l.wake(w.f, err)
	}
}

// abandon implements abandoner.
func (w *streamDial) abandon(*Fiber) {
	w.f = nil
	w.dialing.Cancel()
}
