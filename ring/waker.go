//go:build linux

package ring

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// Waker wakes a ring's goroutine out of Wait from any other goroutine, by a
// completion that carries the waker's user data.
//
// Where the kernel can post to a ring without a ring of one's own (MSG_RING,
// Linux 6.13, SyncMessage) it does that; else an eventfd is polled by the ring.
type Waker struct {
	r        *Ring
	userData uint64

	mu      sync.Mutex // orders Wake against Close; never on the ring's hot path
	fd      int        // eventfd, -1 with MSG_RING
	counter []byte     // what a single read of the eventfd goes to, if polls are single
	closed  bool
}

// NewWaker makes a waker. On any goroutine.
func NewWaker(r *Ring, userData uint64) (*Waker, error) {
	w := &Waker{r: r, userData: userData, fd: -1}
	if r.Have(SyncMessage) {
		return w, nil
	}
	fd, err := sys.NewEventFd()
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		return nil, fmt.Errorf("make eventfd to wake a ring: %w: raise the limit of open files ('ulimit -n' or LimitNOFILE=), or close some", err)
	} else if err != nil {
		return nil, fmt.Errorf("make eventfd to wake a ring: %w", err)
	}
	w.fd = fd
	if !r.Have(PollMultishot) {
		// The kernel lets a read wait only where the descriptor would block.
		if err = unix.SetNonblock(fd, false); err == nil {
			w.counter, err = sys.Map(8)
		}
		if err != nil {
			_ = unix.Close(fd)
			return nil, err
		}
	}
	return w, nil
}

// Armed reports whether the waker holds an operation in the ring.
func (w *Waker) Armed() bool { return w.fd >= 0 }

// Arm posts the poll that a waker by eventfd needs. Call it once the ring is
// enabled, and again after a completion of the waker without More. It reports
// false when the queue is full. Only on the ring's goroutine.
func (w *Waker) Arm() bool {
	if w.fd < 0 {
		return true
	}
	e := w.r.Entry()
	if e == nil {
		return false
	}
	if w.r.Have(PollMultishot) {
		e.PreparePollMultishot(w.fd, unix.POLLIN)
	} else {
		// A single poll looks at the level, and draining the counter first would
		// swallow a Wake that came since the last completion. A read takes the
		// counter and completes in one step.
		e.PrepareRead(w.fd, w.counter, -1)
	}
	e.SetUserData(w.userData)
	return true
}

// Wake makes the ring's Wait return. Safe for concurrent use; after Close it
// does nothing.
func (w *Waker) Wake() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	if w.fd >= 0 {
		sys.SignalEventFd(w.fd)
		return nil
	}
	return w.r.eng.Wake(w.userData)
}

// Close ends the waker: before its ring is closed, and after the poll of a waker
// by eventfd has had its last completion.
func (w *Waker) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	if w.fd >= 0 {
		_ = sys.Unmap(w.counter)
		return unix.Close(w.fd)
	}
	return nil
}
