//go:build linux

// Package uring is the engine that the kernel itself runs: io_uring.
package uring

import (
	"errors"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/engine"
	"example.com/ringnet/internal/sys"
)

// Options is what a ring is made with. Flags the kernel does not know are
// dropped one by one, see [New]; Mask drops them without asking.
type Options struct {
	EntryCount      uint32
	CompletionCount uint32
	SQPoll          time.Duration // idle time of the polling kernel thread; 0: none
	BusyPoll        time.Duration // device polling in waits; 0: none
	Mask            uint32        // set-up flags not to use
	NoRegisteredFd  bool          // do not register the ring's descriptor
}

// Engine is an io_uring.
type Engine struct {
	engine.KernelSockets
	u     *sys.Uring
	opts  Options
	begin time.Time

	groups uint64 // those below 64 that were registered, ever
	thread int    // the one that called Enable, 0: none yet
	handed uint32 // entries handed to the polling kernel thread, see polled

	// RingFdError says why the ring's descriptor could not be registered with
	// its thread; entering then costs a reference count more.
	RingFdError error

	wake struct {
		sync.Mutex // not on any hot path: taken by foreign goroutines and Close
		closed     bool
	}
}

var _ engine.Engine = (*Engine)(nil)

// optional are the set-up flags that newer kernels brought, newest first, in the
// order in which they are given up. A flag that others need takes them along:
// TASKRUN_FLAG is valid only with a TASKRUN mode.
var optional = []uint32{
	sys.IORING_SETUP_NO_SQARRAY,                                    // 6.6
	sys.IORING_SETUP_DEFER_TASKRUN | sys.IORING_SETUP_TASKRUN_FLAG, // 6.1
	sys.IORING_SETUP_SINGLE_ISSUER,                                 // 6.0
}

// New makes a ring that waits to be enabled. It asks for every flag that serves
// a loop on one thread and negotiates downwards: EINVAL means a flag is unknown,
// and the newest is given up. Any other errno is returned as it is.
func New(o Options) (*Engine, error) {
	flags := uint32(sys.IORING_SETUP_R_DISABLED | sys.IORING_SETUP_SINGLE_ISSUER | sys.IORING_SETUP_DEFER_TASKRUN |
		sys.IORING_SETUP_TASKRUN_FLAG | sys.IORING_SETUP_NO_SQARRAY | sys.IORING_SETUP_SUBMIT_ALL |
		sys.IORING_SETUP_CQSIZE | sys.IORING_SETUP_CLAMP)
	if o.SQPoll > 0 {
		flags |= sys.IORING_SETUP_SQPOLL
		// The kernel refuses both together: its own thread runs the task work.
		flags &^= sys.IORING_SETUP_DEFER_TASKRUN | sys.IORING_SETUP_TASKRUN_FLAG
	}
	flags &^= o.Mask
	if flags&sys.IORING_SETUP_DEFER_TASKRUN == 0 {
		flags &^= sys.IORING_SETUP_TASKRUN_FLAG
	} else if flags&sys.IORING_SETUP_SINGLE_ISSUER == 0 {
		flags &^= sys.IORING_SETUP_DEFER_TASKRUN | sys.IORING_SETUP_TASKRUN_FLAG
	}
	give := optional
	for {
		u, err := sys.Setup(o.EntryCount, sys.Params{Flags: flags, CQEntries: o.CompletionCount,
			SQThreadIdle: uint32(o.SQPoll / time.Millisecond)})
		if err == nil {
			return &Engine{u: u, opts: o, begin: time.Now()}, nil
		}
		if !errors.Is(err, unix.EINVAL) {
			return nil, err
		}
		for len(give) > 0 && flags&give[0] == 0 {
			give = give[1:]
		}
		if len(give) == 0 {
			return nil, err
		}
		flags &^= give[0]
	}
}

// Queues implements engine.Engine.
func (e *Engine) Queues() *sys.Queues { return &e.u.Queues }

// SetupFlags are the flags that the kernel accepted.
func (e *Engine) SetupFlags() uint32 { return e.u.Params.Flags }

// Fd is the ring's descriptor.
func (e *Engine) Fd() int { return e.u.Fd() }

// Enable implements engine.Engine.
func (e *Engine) Enable() error {
	if err := e.u.Enable(); err != nil {
		return err
	}
	if !e.opts.NoRegisteredFd {
		e.RingFdError = e.u.RegisterRingFd()
	}
	e.thread = unix.Gettid()
	// Nothing here should ever reach a kernel worker thread; if something does,
	// it must not become hundreds (uring.md 1.3, io-wq limits). Since 5.15.
	_ = e.u.LimitWorkers(2, 2)
	if e.opts.BusyPoll > 0 {
		if err := e.u.BusyPoll(e.opts.BusyPoll, true); err != nil {
			return err
		}
	}
	return nil
}

// Submit implements engine.Engine.
func (e *Engine) Submit(n uint32) (int, syscall.Errno) {
	if e.opts.SQPoll > 0 {
		return e.polled(n)
	}
	return e.u.Submit(n)
}

// Poll implements engine.Engine.
func (e *Engine) Poll(n uint32) (int, syscall.Errno) {
	if e.opts.SQPoll > 0 {
		took, errno := e.polled(n)
		if errno == 0 && e.u.Overflowed() {
			_, errno = e.u.Poll(0)
		}
		return took, errno
	}
	return e.u.Poll(n)
}

// polled hands entries to the kernel's polling thread, which takes them by
// itself once the tail is published; only a sleeping one needs a call.
func (e *Engine) polled(n uint32) (int, syscall.Errno) {
	if e.thread == 0 {
		return 0, unix.EBADFD
	}
	if e.u.NeedsWakeup() {
		if errno := e.u.Wakeup(); errno != 0 {
			return 0, errno
		}
	}
	took := e.u.Tail() - e.handed
	e.handed += took
	return int(took), 0
}

// Wait implements engine.Engine.
func (e *Engine) Wait(n, min uint32, timeout time.Duration) (int, syscall.Errno) {
	if e.opts.SQPoll > 0 {
		took, errno := e.polled(n)
		if errno != 0 {
			return 0, errno
		}
		n = uint32(took) // what the kernel returns, too
	}
	return e.u.Wait(n, min, timeout)
}

// Wake implements engine.Engine. Since Linux 6.13.
func (e *Engine) Wake(userData uint64) error {
	// The lock keeps the descriptor ours: after Close its number may belong to
	// a stranger's ring.
	e.wake.Lock()
	defer e.wake.Unlock()
	if e.wake.closed {
		return unix.EBADF
	}
	return sys.SendMessage(e.u.Fd(), userData, 0)
}

// Passive implements engine.Engine: the kernel posts completions at any time.
func (e *Engine) Passive() bool { return false }

// Now implements engine.Engine.
func (e *Engine) Now() time.Duration { return time.Since(e.begin) }

// Close implements engine.Engine.
func (e *Engine) Close() error {
	e.wake.Lock()
	defer e.wake.Unlock()
	if e.wake.closed {
		return nil
	}
	e.wake.closed = true
	// On a foreign thread the same index is another ring, or nothing.
	if unix.Gettid() == e.thread {
		_ = e.u.UnregisterRingFd()
	}
	return e.u.Close()
}

// ErrGroupUsed says that a group was used before and that the kernel goes on in it
// where it was.
var ErrGroupUsed = errors.New("this kernel remembers the place where the group was left")

// RegisterBufRing implements engine.Registrar.
//
// Up to Linux 6.8 the kernel keeps groups below 64 in an array (BGID_ARRAY), and
// unregistering one leaves its head there: a buffer ring registered later begins
// at 0, the kernel in the middle of it, and takes buffers in the wrong order, none
// (ENOBUFS), or places that were never filled. Where the kernel can be asked for
// the head (6.8) it is; one that cannot has this fault.
func (e *Engine) RegisterBufRing(group uint16, r *sys.BufRing) error {
	if err := e.u.RegisterBufRing(group, r); err != nil {
		return err
	}
	if group >= 64 {
		return nil
	}
	again := e.groups&(1<<group) != 0
	e.groups |= 1 << group
	if !again {
		return nil
	}
	if head, err := e.u.BufRingHead(group); err == nil && head == 0 {
		return nil
	}
	return errors.Join(ErrGroupUsed, e.u.UnregisterBufRing(group))
}

// UnregisterBufRing implements engine.Registrar.
func (e *Engine) UnregisterBufRing(group uint16) error { return e.u.UnregisterBufRing(group) }

// RegisterBuffers implements engine.Registrar.
func (e *Engine) RegisterBuffers(bufs [][]byte) error { return e.u.RegisterBuffers(bufs) }

// RegisterBuffersSparse implements engine.Registrar.
func (e *Engine) RegisterBuffersSparse(n uint32) error { return e.u.RegisterBuffersSparse(n) }

// UpdateBuffer implements engine.Registrar.
func (e *Engine) UpdateBuffer(index uint32, mem []byte) error { return e.u.UpdateBuffer(index, mem) }

// UnregisterBuffers implements engine.Registrar.
func (e *Engine) UnregisterBuffers() error { return e.u.UnregisterBuffers() }

// RegisterFilesSparse implements engine.Registrar.
func (e *Engine) RegisterFilesSparse(n uint32) error { return e.u.RegisterFilesSparse(n) }

// UpdateFiles implements engine.Registrar.
func (e *Engine) UpdateFiles(first uint32, fds []int32) error { return e.u.UpdateFiles(first, fds) }

// UnregisterFiles implements engine.Registrar.
func (e *Engine) UnregisterFiles() error { return e.u.UnregisterFiles() }
