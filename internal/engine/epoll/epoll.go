//go:build linux

// Package epoll is the engine for where io_uring is forbidden or too old: it takes
// the same entries, does the operations with epoll(7) and plain calls, and posts
// the same completions.
//
//	entry ─► tried at once ─► done: completion
//	             │ EAGAIN
//	             ▼
//	         waits at its descriptor ─► event ─► tried again
//
// It does what package net and its like use. Linked entries, direct descriptors and
// messages to other rings are not among that; they complete with EINVAL.
package epoll

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/engine"
	"example.com/ringnet/internal/sys"
)

// Options is what an engine is made with.
type Options struct {
	EntryCount, CompletionCount uint32
}

// Engine is an emulated io_uring. Its methods belong to one goroutine, except Wake.
type Engine struct {
	engine.KernelSockets
	host    *sys.Host
	epoll   sys.Epoll
	begin   time.Time
	enabled bool

	places  places         // operations that wait, by descriptor
	named   map[uint64]*op // and by user data
	again   []*op          // those that have more to do than one turn's share
	timers  timers         // and by time
	groups  map[uint16]*sys.BufReader
	buffers [][]byte
	free    *op
	first   op // the one that is tried for the first time
	events  [256]unix.EpollEvent
	message []sys.Message // for multishot recvmsg
	memory  []byte        // where that lies

	post mailbox
	jobs chan struct{} // a place for each file read that runs
}

var _ engine.Engine = (*Engine)(nil)

// maxJobs bounds the goroutines that wait for disks.
const maxJobs = 16

// New makes an engine.
func New(o Options) (*Engine, error) {
	e := &Engine{host: sys.NewHost(o.EntryCount, o.CompletionCount), begin: time.Now(),
		named: make(map[uint64]*op), groups: make(map[uint16]*sys.BufReader), jobs: make(chan struct{}, maxJobs)}
	var err error
	if e.epoll, err = sys.NewEpoll(); err != nil {
		return nil, err
	}
	if e.post.fd, err = sys.NewEventFd(); err == nil {
		// Never read: each write is an edge.
		if err = e.epoll.Add(e.post.fd, unix.EPOLLIN); err != nil {
			_ = unix.Close(e.post.fd)
		}
	}
	if err != nil {
		_ = e.epoll.Close()
		return nil, err
	}
	return e, nil
}

// Queues implements engine.Engine.
func (e *Engine) Queues() *sys.Queues { return e.host.Queues }

// Enable implements engine.Engine.
func (e *Engine) Enable() error {
	e.enabled = true
	return nil
}

// Passive implements engine.Engine.
func (e *Engine) Passive() bool { return true }

// Now implements engine.Engine.
func (e *Engine) Now() time.Duration { return time.Since(e.begin) }

// Submit implements engine.Engine.
func (e *Engine) Submit(n uint32) (int, syscall.Errno) {
	if !e.enabled {
		return 0, unix.EBADFD
	}
	took := 0
	for ; took < int(n); took++ {
		entry := e.host.Next()
		if entry == nil {
			break
		}
		// By value: what an operation posts may let its place be filled again.
		now := *entry
		e.host.Take()
		e.start(&now)
	}
	return took, 0
}

// Poll implements engine.Engine.
func (e *Engine) Poll(n uint32) (int, syscall.Errno) {
	took, errno := e.Submit(n)
	if errno != 0 {
		return 0, errno
	}
	e.collect()
	return took, 0
}

// collect makes visible what can be had without blocking.
func (e *Engine) collect() {
	e.host.Flush()
	e.deliver()
	e.goOn()
	if len(e.timers) > 0 {
		e.expire()
	}
	for {
		n, errno := e.epoll.Poll(e.events[:])
		if errno != 0 {
			return // EINTR; the events stay
		}
		e.dispatch(e.events[:n])
		// More than fits half of the queue would have others wait, and end
		// multishot operations for want of room.
		if n < len(e.events) || e.host.Room() < e.host.Queues.CompletionCount()/2 {
			return
		}
	}
}

// Wait implements engine.Engine.
func (e *Engine) Wait(n, min uint32, timeout time.Duration) (int, syscall.Errno) {
	took, errno := e.Submit(n)
	if errno != 0 {
		return 0, errno
	}
	e.collect()
	var deadline time.Duration
	if timeout >= 0 {
		deadline = e.Now() + timeout
	}
	for e.host.Queues.Ready() < min {
		left := time.Duration(-1)
		if timeout >= 0 {
			if left = deadline - e.Now(); left <= 0 {
				errno = unix.ETIME
				break
			}
		}
		if len(e.again) > 0 {
			left = 0
		} else if len(e.timers) > 0 {
			if until := max(0, time.Duration(e.timers[0].done)-e.Now()); left < 0 || until < left {
				left = until
			}
		}
		var got int
		if got, errno = e.epoll.Wait(e.events[:], left); errno != 0 {
			break // EINTR
		}
		e.dispatch(e.events[:got])
		e.goOn()
		e.expire()
		e.host.Flush()
	}
	if took > 0 {
		return took, 0
	}
	return 0, errno
}

// dispatch tries again what waits at the descriptors of events.
func (e *Engine) dispatch(events []unix.EpollEvent) {
	for i := range events {
		if fd := int(events[i].Fd); fd != e.post.fd {
			e.ready(fd, events[i].Events)
		} else {
			e.deliver() // now: this edge will not be reported again
		}
	}
}

// goOn continues operations that had used up their share of a turn.
func (e *Engine) goOn() {
	if len(e.again) == 0 {
		return
	}
	batch := e.again
	e.again = nil
	for _, o := range batch {
		o.marks &^= queued
		if o.marks&waits != 0 {
			e.attempt(o, 0)
		} else {
			e.recycle(o) // cancelled meanwhile
		}
	}
}

// mailbox is what other goroutines post.
type mailbox struct {
	fd     int
	full   atomic.Bool
	mu     sync.Mutex // held for a moment by both sides, never on the path of a request
	posted []sys.Completion
	closed bool
}

func (m *mailbox) put(c sys.Completion) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return unix.EBADF
	}
	m.posted = append(m.posted, c)
	m.full.Store(true)
	sys.SignalEventFd(m.fd)
	return nil
}

// Wake implements engine.Engine.
func (e *Engine) Wake(userData uint64) error {
	return e.post.put(sys.Completion{UserData: userData})
}

// deliver posts what other goroutines have left.
func (e *Engine) deliver() {
	if !e.post.full.Load() {
		return
	}
	e.post.mu.Lock()
	posted := e.post.posted
	e.post.posted = nil
	e.post.full.Store(false)
	e.post.mu.Unlock()
	for _, c := range posted {
		e.host.Post(c)
	}
}

// Close implements engine.Engine.
func (e *Engine) Close() error {
	e.post.mu.Lock()
	defer e.post.mu.Unlock()
	if e.post.closed {
		return nil
	}
	e.post.closed = true
	err := e.epoll.Close()
	if er := unix.Close(e.post.fd); err == nil {
		err = er
	}
	if er := sys.Unmap(e.memory); err == nil {
		err = er
	}
	e.memory, e.message = nil, nil
	return err
}

// Accept implements engine.Sockets.
func (e *Engine) Accept(fd int) (int, syscall.Errno) {
	conn, errno := e.KernelSockets.Accept(fd)
	if errno == 0 {
		e.places.forget(conn)
	}
	return conn, errno
}

// CloseFd implements engine.Sockets.
func (e *Engine) CloseFd(fd int) syscall.Errno {
	e.places.forget(fd)
	return e.KernelSockets.CloseFd(fd)
}

// Forget implements engine.Sockets. The kernel takes a descriptor out of the epoll set
// by itself only when nobody has its socket open any more.
func (e *Engine) Forget(fd int) syscall.Errno {
	if err := e.epoll.Remove(fd); err != nil && !errors.Is(err, unix.ENOENT) {
		return errnoOf(err)
	}
	e.places.forget(fd)
	return 0
}

// RegisterBufRing implements engine.Registrar.
func (e *Engine) RegisterBufRing(group uint16, r *sys.BufRing) error {
	if e.groups[group] != nil {
		return unix.EEXIST
	}
	e.groups[group] = sys.NewBufReader(r)
	return nil
}

// UnregisterBufRing implements engine.Registrar.
func (e *Engine) UnregisterBufRing(group uint16) error {
	if e.groups[group] == nil {
		return unix.ENOENT
	}
	delete(e.groups, group)
	return nil
}

// RegisterBuffers implements engine.Registrar. Nothing is pinned: there is nobody
// to gain from it.
func (e *Engine) RegisterBuffers(bufs [][]byte) error {
	if e.buffers != nil {
		return unix.EBUSY
	}
	e.buffers = append([][]byte{}, bufs...)
	return nil
}

// RegisterBuffersSparse implements engine.Registrar.
func (e *Engine) RegisterBuffersSparse(n uint32) error {
	if e.buffers != nil {
		return unix.EBUSY
	}
	e.buffers = make([][]byte, n)
	return nil
}

// UpdateBuffer implements engine.Registrar.
func (e *Engine) UpdateBuffer(index uint32, mem []byte) error {
	if int(index) >= len(e.buffers) {
		return unix.EINVAL
	}
	e.buffers[index] = mem
	return nil
}

// UnregisterBuffers implements engine.Registrar.
func (e *Engine) UnregisterBuffers() error {
	if e.buffers == nil {
		return unix.ENXIO
	}
	e.buffers = nil
	return nil
}

// RegisterFilesSparse implements engine.Registrar.
func (e *Engine) RegisterFilesSparse(uint32) error { return unix.EINVAL }

// UpdateFiles implements engine.Registrar.
func (e *Engine) UpdateFiles(uint32, []int32) error { return unix.ENXIO }

// UnregisterFiles implements engine.Registrar.
func (e *Engine) UnregisterFiles() error { return unix.ENXIO }
