//go:build linux

package net

import (
	"errors"
	"sync"
	"sync/atomic"
)

// mailboxMax is the most functions that may wait for one loop.
const mailboxMax = 64 << 10

var errMailboxFull = errors.New("ringnet: too much work waits for the loop")

// mailbox brings functions from other goroutines to a loop. The protocol that
// loses no wake-up:
//
//	poster:  enqueue, then latch; whoever sets the latch wakes the loop
//	loop:    clear the latch, then look at the queue, then sleep
//
// A poster that finds the latch set may leave: the loop has yet to clear it and
// will look afterwards.
type mailbox struct {
	mu     sync.Mutex
	queue  []func()
	spare  []func()
	closed bool
	latch  atomic.Bool
	wake   func()
}

// post enqueues f. Safe for concurrent use.
func (m *mailbox) post(f func()) error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return ErrServerClosed
	}
	if len(m.queue) >= mailboxMax {
		m.mu.Unlock()
		return errMailboxFull
	}
	m.queue = append(m.queue, f)
	m.mu.Unlock()
	m.rouse()
	return nil
}

// rouse makes the loop take a turn. Safe for concurrent use.
func (m *mailbox) rouse() {
	if !m.latch.Swap(true) {
		m.wake()
	}
}

// roused reports that a turn is due, without taking it.
func (m *mailbox) roused() bool { return m.latch.Load() }

// length is how many functions wait. Safe for concurrent use.
func (m *mailbox) length() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.queue)
}

// run calls what was posted. On the loop's goroutine.
func (m *mailbox) run(call func(func())) {
	if !m.latch.Load() {
		return
	}
	m.latch.Store(false)
	m.mu.Lock()
	batch := m.queue
	m.queue, m.spare = m.spare, nil
	m.mu.Unlock()
	for _, f := range batch {
		call(f)
	}
	clear(batch)
	m.spare = batch[:0]
}

// close refuses further posts and returns what was not run.
func (m *mailbox) close() []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return m.queue
}
