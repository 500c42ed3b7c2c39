//go:build linux

package net

import (
	"errors"
	"iter"
	"runtime/debug"

	"example.com/ringnet/bufring"
	"example.com/ringnet/internal/goroutine"
)

// A fiber is a function that can wait without its loop waiting with it: a coroutine of
// package iter. The loop's goroutine switches to it, on the same locked thread, and it
// switches back when it has to wait for something, or has ended.
//
//	          resume                   park
//	 woken ───────────► running ─────────────────► waits
//	   ▲                   │                         │
//	   │                   └──► ended                │ what it waits for, or its end:
//	   └─────────────────────────────────────────────┘ wake
//
// Only the loop's goroutine resumes fibers, and none is resumed within another: what a
// fiber does may wake others, which then run when it has given the thread back. A
// fiber that waits is on one list, that of what it waits for, and whoever wakes it
// takes it off. So it is woken once, by what comes first; received bytes alone resume
// their reader at once, since these are the hot path (see blocking.OnData).
//
// A fiber belongs to a Stream, and cannot wait any longer than that one's connection
// is open: the end of a connection wakes all fibers that belong to it, wherever they
// wait, and from then on all waiting is refused. So every fiber comes to its end.

// Fiber is a function that runs on a loop besides others; see [Stream.Spawn]. Its
// methods may be called only on fibers of the same loop.
type Fiber struct {
	// What every switch needs, in two lines of the cache.
	next  func() (struct{}, bool) // switches to it
	yield func(struct{}) bool     // switches back
	g     uintptr                 // its goroutine
	stack uintptr                 // about where its stack ends while it waits, see approach

	// What it waits for, and what has come of it.
	waits wait
	ended bool
	at    *Stream // waitBytes, waitRoom, waitSent
	p     []byte  // waitBytes: where to put them; nil: it wants a lease
	n     int     // bytes
	err   error
	link  *Fiber  // the next one on the list that it is on
	to    *Stream // waitBytes, waitRoom: it is in a copy, and this is where the bytes go,
	left  int64   // of which it still wants so many

	lease bufring.Lease // waitBytes: instead of p
	seg   *segment      // waitSent: what is to be sent
	for_  abandoner     // waitOther
	cut   error         // waitSent: it is to wait no longer, because of this
	clock *fiberClock   // waitTime

	l       *loop
	owner   *Stream             // whose end is its end
	sibling *Fiber              // of the same owner
	main    func(*Stream) error // what it runs: this,
	spawned func() error        // or this

	returned bool // its function has; else it has panicked or exited
	panicked *PanicError
	result   error
	refused  int       // times it wanted to wait after its end
	waiters  fiberList // of its end
}

// wait is what a fiber waits for.
type wait uint8

const (
	waitNothing wait = iota // it runs, or will
	waitBytes               // on at.readers
	waitRoom                // on at.writers: until there is less output
	waitSent                // on at.writers: until seg has been sent
	waitTime                // in the wheel, by its clock
	waitOther               // what that is knows how to give it up
)

// abandoner is something that a fiber waits for, and that can be told that it does not
// any more.
type abandoner interface{ abandon(f *Fiber) }

// fiberList is a queue of fibers.
type fiberList struct{ head, tail *Fiber }

func (q *fiberList) empty() bool { return q.head == nil }

func (q *fiberList) push(f *Fiber) {
	if q.tail == nil {
		q.head = f
	} else {
		q.tail.link = f
	}
	q.tail = f
}

// pop takes the first one off; there must be one.
func (q *fiberList) pop() *Fiber {
	f := q.head
	if q.head = f.link; q.head == nil {
		q.tail = nil
	}
	f.link = nil
	return f
}

// remove takes f off, wherever it is.
func (q *fiberList) remove(f *Fiber) {
	var before *Fiber
	for at := q.head; at != f; at = at.link {
		before = at
	}
	if before == nil {
		q.pop()
		return
	}
	before.link = f.link
	if q.tail == f {
		q.tail = before
	}
	f.link = nil
}

// ErrOffLoop says that a Stream, or what belongs to one, was used on another goroutine
// than its loop's. Nothing was done. Run such code on a fiber ([Stream.Spawn]), have it
// called there ([Ref.Post]), or give the other goroutine a [Ref].
var ErrOffLoop = errors.New("ringnet: a Stream belongs to its loop, and this is another goroutine: use it on a fiber of that loop (Spawn, Ref.Post); others can close it and set its deadlines, or have a Ref")

// ErrNotOnFiber says that something would have had to wait where nothing may: in a
// callback. Run it on a fiber ([Stream.Spawn]).
var ErrNotOnFiber = errors.New("ringnet: this would have to wait, which only a fiber can, and not a callback: run it with Spawn")

// errExit is what ends the coroutine of a fiber that has called runtime.Goexit.
// Nothing can stop an exit, and iter's next would pass it on to the loop's goroutine.
// A panic in its stead is passed on as such, and can be recovered from.
var errExit = errors.New("ringnet: a fiber has called runtime.Goexit")

// newFiber makes a fiber of s's; somebody has to resume or wake it.
func (s *Stream) newFiber() *Fiber {
	f := &Fiber{l: s.l, owner: s, sibling: s.fibers}
	s.fibers = f
	s.l.fibers++
	s.l.stats.FibersStarted++
	return f
}

// run is the coroutine.
func (f *Fiber) run(yield func(struct{}) bool) {
	f.yield = yield
	f.g = goroutine.ID()
	f.l.runs.Store(f.g)
	defer f.leave()
	if f.main != nil {
		f.result = f.main(f.owner)
	} else {
		f.result = f.spawned()
	}
	f.returned = true
}

// leave, deferred, finds out how the function has ended.
func (f *Fiber) leave() {
	f.ended = true
	if f.returned {
		return
	}
	v := recover()
	if v == nil {
		f.panicked = &PanicError{Value: errExit, Stack: debug.Stack()}
		panic(errExit)
	}
	f.panicked = &PanicError{Value: v, Stack: debug.Stack()}
}

// resume switches to a fiber, until it waits or has ended. On the loop's goroutine,
// while no fiber runs.
func (l *loop) resume(f *Fiber) {
	if f.next == nil {
		f.next, _ = iter.Pull(f.run)
	}
	defer l.suspended(f)
	l.fiber = f
	l.runs.Store(f.g)
	f.next()
}

// suspended, deferred, has the loop's goroutine go on.
func (l *loop) suspended(f *Fiber) {
	l.fiber = nil
	l.runs.Store(l.g)
	if f.ended {
		if f.panicked != nil && f.panicked.Value == any(errExit) {
			_ = recover()
		}
		l.fiberEnded(f)
	} else if f.to != nil {
		f.at.carry(f)
	}
}

// fiberEnded looks after what a fiber leaves.
func (l *loop) fiberEnded(f *Fiber) {
	l.fibers--
	s := f.owner
	for at := &s.fibers; *at != nil; at = &(*at).sibling {
		if *at == f {
			*at = f.sibling
			break
		}
	}
	if e := f.panicked; e != nil {
		f.result = e
		l.stats.Panics++
		l.o.Logger.Error("ringnet: a fiber panicked", "loop", l.index, "panic", e.Value, "stack", string(e.Stack))
		if s.c.state&dead == 0 {
			s.c.cause = e // also if something else came first: the panic is the news
		}
		l.abort(s.c, e)
	} else if f.main != nil {
		if f.result != nil {
			l.logConn(s.c, "a blocking function has returned an error", "err", f.result)
		}
		l.close(s.c, f.result)
	}
	for !f.waiters.empty() {
		l.wake(f.waiters.pop(), nil)
	}
	if l.draining && l.fibers == 0 {
		l.closeDialled()
	}
}

// wake has a fiber go on that was just taken off what it waited for; err is what came
// of that.
func (l *loop) wake(f *Fiber, err error) {
	f.waits, f.err = waitNothing, err
	l.woken.push(f)
}

// resumeWoken runs fibers that have been woken; those that these wake come later.
func (l *loop) resumeWoken() {
	for last := l.woken.tail; ; {
		f := l.woken.pop()
		l.resume(f)
		if f == last || l.woken.empty() {
			return
		}
	}
}

// toWait is the fiber that runs, if it may wait; op names what for.
func (l *loop) toWait(op string) (*Fiber, error) {
	f := l.fiber
	if f == nil {
		return nil, ErrNotOnFiber
	}
	if f.owner.c.state&(closing|dead|finished) != 0 {
		l.refuse()
		return nil, f.owner.closedError(op)
	}
	return f, nil
}

// refusedMost is how often a fiber may want to wait after its end. One that does not
// care would otherwise go on for ever, and its loop with it.
const refusedMost = 1000

func (l *loop) refuse() {
	f := l.fiber
	if f == nil {
		return
	}
	if f.refused++; f.refused > refusedMost {
		panic("ringnet: a fiber goes on, and does not look at errors: its connection has ended, and it still wants to wait")
	}
}

// park has the loop go on until somebody wakes f, and returns what it was woken with.
// Whoever is to wake it knows of it already.
func (f *Fiber) park(w wait) error {
	f.waits = w
	f.stack = goroutine.Stack()
	f.yield(struct{}{})
	return f.err
}

// cancel wakes a fiber that waits, whatever it waits for. What it then gets to know is
// err, or how far it has come.
func (f *Fiber) cancel(err error) {
	switch f.waits {
	case waitNothing:
		return // it will see
	case waitBytes:
		f.at.readers.remove(f)
	case waitRoom:
		f.at.writers.remove(f)
	case waitSent:
		f.at.cut(f, err)
		return
	case waitTime:
		f.l.wheel.remove(&f.clock.timer)
	case waitOther:
		f.for_.abandon(f)
	}
	f.l.wake(f, err)
}
