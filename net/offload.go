//go:build linux

package net

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"

	"golang.org/x/sync/errgroup"
)

// ErrNoWorker says that Offload found all Options.OffloadWorkers at work. Nothing
// was begun; there is no queue behind it that could grow.
var ErrNoWorker = errors.New("ringnet: every worker for offloaded work is busy")

// Offload has work run on a goroutine of the server's pool, where it may block, and
// then done, with what work returned, on the loop as a callback of c. Call it on the
// loop's goroutine, from a callback. With an error neither is called: ErrNoWorker
// when the pool is full (Options.OffloadWorkers), ErrBusy when Options.MaxPosted
// results of this loop are outstanding, ErrClosed when c is closed or closing, or
// when the server has ended.
//
// When c ends before, done is not called and the result dropped
// (Stats.OffloadsDropped). A result that came without an error is then released, on
// another goroutine as a rule: by its method Release, as a lease has it, else by its
// Close, as an io.Closer has it.
//
// A panic in work ends c with a *[PanicError], as one in a callback does, and done is
// not called; so does runtime.Goexit.
//
// On Shutdown a connection does not wait for what it has offloaded, unless the
// handler keeps it open ([ShutdownHandler]). The pool's goroutines end with their
// work: Shutdown waits for that until its context ends, and says so if any are left;
// Close and Wait do not wait.
func Offload[T any](c *Conn, work func() (T, error), done func(c *Conn, v T, err error)) error {
	if work == nil || done == nil {
		return errors.New("ringnet: offload: a function is nil")
	}
	l := c.l
	r, err := l.hire(c)
	if err != nil {
		return err
	}
	err = l.crew.submit(func() {
		var v T
		var err error
		r.done = func(c *Conn) { done(c, v, err) }
		r.drop = func() {
			if r.panicked == nil && err == nil {
				dispose(v)
			}
		}
		// Deferred, since runtime.Goexit runs nothing else.
		defer r.send()
		defer r.judge()
		v, err = work()
		r.returned = true
	})
	if err != nil {
		l.offloaded--
		return err
	}
	l.stats.Offloads++
	return nil
}

// Offload is the function [Offload] for results of any type.
func (c *Conn) Offload(work func() (any, error), done func(c *Conn, v any, err error)) error {
	return Offload(c, work, done)
}

// result is offloaded work, and then what came of it, on its way back to the loop.
type result struct {
	to       *anchor
	done     func(*Conn)
	drop     func() // instead of done
	returned bool
	panicked *PanicError
}

// hire sees whether c may offload something.
func (l *loop) hire(c *Conn) (*result, error) {
	if c.state&(closing|dead|finished) != 0 {
		return nil, ErrClosed
	}
	if l.offloaded >= l.o.MaxPosted {
		return nil, ErrBusy
	}
	l.offloaded++
	return &result{to: c.Ref().a}, nil
}

// judge, deferred, finds out how work has ended.
func (r *result) judge() {
	if v := recover(); v != nil {
		r.panicked = &PanicError{Value: v, Stack: debug.Stack()}
	} else if !r.returned {
		r.panicked = &PanicError{Value: "runtime.Goexit was called", Stack: debug.Stack()}
	}
}

// send is on the worker's goroutine. The mailbox does not refuse it: there are never
// more of these letters than the loop has asked for.
func (r *result) send() {
	if r.to.l.mail.demand(letter{kind: letterResult, to: r.to, what: r}) != nil {
		r.discard() // the loop has ended
	}
}

// discard drops the result, on any goroutine.
func (r *result) discard() {
	l := r.to.l
	defer func() {
		if v := recover(); v != nil {
			l.o.Logger.Error("ringnet: the release of an offloaded result panicked", "loop", l.index, "panic", v, "stack", string(debug.Stack()))
		}
	}()
	r.drop()
}

// takeResult is where a result comes back to; c is nil, or closing, when it comes
// too late.
func (l *loop) takeResult(c *Conn, r *result) {
	l.offloaded--
	if e := r.panicked; e != nil {
		l.stats.Panics++
		l.o.Logger.Error("ringnet: offloaded work panicked", "loop", l.index, "panic", e.Value, "stack", string(e.Stack))
	}
	switch {
	case c == nil || c.state&(closing|dead|finished) != 0:
		l.stats.OffloadsDropped++
		if r.panicked == nil && l.crew.submit(r.discard) != nil {
			r.discard() // no worker is free: better slow than never
		}
	case r.panicked != nil:
		l.abort(c, r.panicked)
	default:
		l.call(c, func() { r.done(c) })
	}
}

// dispose releases a result that nobody will get.
func dispose(v any) {
	switch v := v.(type) {
	case interface{ Release() }:
		v.Release()
	case io.Closer:
		_ = v.Close() // nobody is left to be told
	}
}

// crew are the goroutines of a server's offloaded work: at most a number of them,
// each there for one piece of work. Go keeps and uses again what a goroutine leaves,
// so that a pool which kept them would save little, and have to look after them by a
// timer that ticks in an idle server as well: 0.044 % of a core was seen.
type crew struct {
	mu     sync.Mutex
	group  errgroup.Group
	closed bool
	gone   chan struct{} // closed after close, when no worker is left

	// instead runs work in place of the group. For the package's tests.
	instead func(func()) error
}

func newCrew(size int) *crew {
	w := &crew{gone: make(chan struct{})}
	w.group.SetLimit(size)
	return w
}

// submit has f run by a worker, at once. Safe for concurrent use.
func (w *crew) submit(f func()) error {
	if w.instead != nil {
		return w.instead(f)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return ErrClosed
	}
	if !w.group.TryGo(func() error { f(); return nil }) {
		return ErrNoWorker
	}
	return nil
}

// close refuses further work and returns when no worker is left. Called once.
func (w *crew) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	_ = w.group.Wait() // no worker returns an error
	close(w.gone)
}

// wait waits for the end of close.
func (w *crew) wait(ctx context.Context) error {
	select {
	case <-w.gone:
		return nil
	default:
	}
	select {
	case <-w.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("ringnet: offloaded work has not ended: its goroutines end with it, and what it returns is dropped: %w", ctx.Err())
	}
}
