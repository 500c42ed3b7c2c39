//go:build linux

package net

import (
	"errors"
	"sync"
	"sync/atomic"

	"example.com/ringnet/bufring"
)

// ErrBusy says that a loop's mailbox is full (Options.MaxPosted and
// MaxPostedBytes): posters are faster than the loop. Nothing was posted; try again
// when the loop has had time, or do with less.
var ErrBusy = errors.New("ringnet: too much work waits for the loop")

// letter is one thing that another goroutine wants of a loop.
type letter struct {
	kind  letterKind
	to    *anchor       // whom it is for; nil: for the loop
	mem   []byte        // letterCopy, letterHeap: what to send
	lease bufring.Lease // letterLease: what to send; owned
	what  any           // the rest, by kind
}

type letterKind uint8

const (
	letterCall   letterKind = iota // what: func()
	letterCopy                     // send mem, which lies in the mailbox
	letterHeap                     // send mem, which nobody else will change
	letterLease                    // send lease
	letterPost                     // what: func(*Conn)
	letterEither                   // what: func(*Conn), called with nil if the connection has gone
	letterWake
	letterClose
	letterAbort  // what: error, or nil
	letterResult // what: *result
	letterFanout // what: *fanout
)

// mailbox brings letters from other goroutines to a loop. Posters append to a
// queue under a lock, and the loop takes the whole queue at once, so they meet for
// moments only. What the loop has taken it works off over as many turns as it
// likes.
//
// state is the protocol that loses no wake-up, and wakes no loop that is awake:
//
//	poster:  enqueue, then make it roused; who finds it asleep wakes the loop
//	loop:    make it awake, then look at the queue
//	         from awake, and only from awake, make it asleep, then sleep
//
// A poster that finds roused may leave: the loop has yet to make it awake, and
// looks afterwards. One that finds awake may leave, too: it has made it roused,
// from which the loop cannot fall asleep. All of state's operations are
// sequentially consistent, so there is no third case.
type mailbox struct {
	mu         sync.Mutex
	queue      []letter
	small      []byte // where the bytes of the queue's small sends lie
	bytes      int    // that queue holds
	closed     bool
	maxLetters int
	maxBytes   int

	_ [64]byte // posters are busy above, the loop below

	state atomic.Uint32
	woken atomic.Uint64 // how often wake was called
	wake  func()

	_ [64]byte

	// The loop's own.
	batch      []letter // taken, and from next on not worked off
	next       int
	batchSmall []byte // where the bytes of batch lie
}

const (
	mailAwake uint32 = iota // the loop runs; nothing new in the queue
	mailRoused
	mailAsleep
)

const (
	// smallSend is up to how many bytes a send is copied into the mailbox, and
	// from there into the buffer that other writes of the connection go to as
	// well. A larger one gets memory of its own, which is sent from.
	smallSend = 2 << 10
	// What the mailbox keeps of its memory when it is hardly used any more.
	keepLetters = 1 << 10
	keepBytes   = 64 << 10
)

// post enqueues a function of our own. Safe for concurrent use.
func (m *mailbox) post(f func()) error { return m.put(letter{what: f}, 0) }

// put enqueues a letter that holds so many bytes, unless that is too much. Safe
// for concurrent use.
func (m *mailbox) put(x letter, bytes int) error {
	m.mu.Lock()
	if err := m.room(bytes); err != nil {
		m.mu.Unlock()
		return err
	}
	m.queue = append(m.queue, x)
	m.bytes += bytes
	m.mu.Unlock()
	m.rouse()
	return nil
}

// putCopy enqueues that a copy of b is to be sent. Safe for concurrent use.
func (m *mailbox) putCopy(to *anchor, b []byte) error {
	if len(b) > smallSend {
		return m.put(letter{kind: letterHeap, to: to, mem: append([]byte(nil), b...)}, len(b))
	}
	m.mu.Lock()
	if err := m.room(len(b)); err != nil {
		m.mu.Unlock()
		return err
	}
	at := len(m.small)
	if at+len(b) > cap(m.small) {
		// What is in the old one stays there.
		m.small, at = make([]byte, 0, max(2*cap(m.small), 2*smallSend)), 0
	}
	m.small = append(m.small, b...)
	m.queue = append(m.queue, letter{kind: letterCopy, to: to, mem: m.small[at:len(m.small):len(m.small)]})
	m.bytes += len(b)
	m.mu.Unlock()
	m.rouse()
	return nil
}

// demand enqueues a letter whatever waits already. It is for those of which there
// are never many: one of its kind for each connection, or for each that the loop
// itself has asked for. Safe for concurrent use.
func (m *mailbox) demand(x letter) error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return ErrServerClosed
	}
	m.queue = append(m.queue, x)
	m.mu.Unlock()
	m.rouse()
	return nil
}

// room says why a letter cannot be taken. Under mu.
func (m *mailbox) room(bytes int) error {
	if m.closed {
		return ErrServerClosed
	}
	if len(m.queue) >= m.maxLetters || m.bytes > 0 && m.bytes+bytes > m.maxBytes {
		return ErrBusy
	}
	return nil
}

// rouse makes the loop take a turn. Safe for concurrent use.
func (m *mailbox) rouse() {
	if m.state.Load() != mailRoused && m.state.Swap(mailRoused) == mailAsleep {
		m.woken.Add(1)
		m.wake()
	}
}

// Everything below is on the loop's goroutine.

// roused reports that a turn is due, without taking it.
func (m *mailbox) roused() bool { return m.more() || m.state.Load() == mailRoused }

// length is how many letters wait.
func (m *mailbox) length() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.queue) + len(m.batch) - m.next
}

// doze makes posters wake the loop from now on, and reports whether it may sleep.
func (m *mailbox) doze() bool {
	return !m.more() && m.state.CompareAndSwap(mailAwake, mailAsleep)
}

// awoke says that they need not any more.
func (m *mailbox) awoke() { m.state.CompareAndSwap(mailAsleep, mailAwake) }

// more reports that taken letters are left.
func (m *mailbox) more() bool { return m.next < len(m.batch) }

// take has letters in batch, if there are any.
func (m *mailbox) take() bool {
	if m.more() {
		return true
	}
	if m.state.Load() != mailRoused {
		return false
	}
	m.state.Store(mailAwake)
	// After a crowd the memory for it is not kept for ever.
	letters, small := m.batch, m.batchSmall
	if cap(letters) > keepLetters && len(letters) < cap(letters)/4 {
		letters = nil
	}
	if cap(small) > keepBytes && len(small) < cap(small)/4 {
		small = nil
	}
	m.next = 0
	m.mu.Lock()
	m.batch, m.queue = m.queue, letters[:0]
	m.batchSmall, m.small = m.small, small[:0]
	m.bytes = 0
	m.mu.Unlock()
	return m.more()
}

// first is the next letter; it stays until pop.
func (m *mailbox) first() *letter { return &m.batch[m.next] }

// pop takes the next letter.
func (m *mailbox) pop() letter {
	x := m.batch[m.next]
	m.batch[m.next] = letter{}
	m.next++
	return x
}

// close refuses further letters. Those that were taken can still be had by take.
func (m *mailbox) close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.state.Store(mailRoused)
}
