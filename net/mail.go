//go:build linux

package net

import (
	"errors"
	"runtime/debug"
)

const (
	// mailBudget is how many letters a turn works off, a broadcast counting for
	// each of its receivers, before the loop looks after its connections again.
	mailBudget = 512
	// mailChunk is after how many of them what they have written is put on its
	// way: what several letters have for one connection goes out together, and
	// peers get it while the rest is worked on.
	mailChunk = 64
)

// runMail works off letters of other goroutines.
func (l *loop) runMail() {
	if !l.mail.take() {
		return
	}
	for budget := mailBudget; budget > 0 && l.mail.more(); {
		budget -= mailChunk
		l.runLetters(mailChunk)
	}
}

// runLetters works off so many. A callback that panics ends its connection; what
// is left of the letters comes later.
func (l *loop) runLetters(n int) {
	defer l.contain()
	l.settleDirty() // what a panic left over
	for n > 0 && l.mail.more() {
		if x := l.mail.first(); x.kind == letterFanout {
			f := x.what.(*fanout)
			n -= l.fanOut(f, n)
			if f.done {
				l.mail.pop()
			}
			continue
		}
		x := l.mail.pop()
		n--
		l.stats.Posts++
		l.carryOut(&x)
	}
	l.settleOwing()
	l.settleDirty()
	if l.queuedSends >= flushSends || l.queuedBytes >= flushBytes {
		l.flush()
	}
}

// carryOut does what a letter wants.
func (l *loop) carryOut(x *letter) {
	if x.kind == letterCall {
		l.guard(x.what.(func()))
		return
	}
	c := x.to.c
	if x.kind == letterResult {
		l.takeResult(c, x.what.(*result))
		return
	}
	if c == nil || c.state&(closing|dead|finished) != 0 && x.kind != letterAbort {
		l.drop(x)
		return
	}
	switch x.kind {
	case letterCopy:
		if l.mayPost(c, len(x.mem)) {
			l.write(c, x.mem)
		}
	case letterHeap:
		if l.mayPost(c, len(x.mem)) {
			l.sendHeap(c, x.mem)
		}
	case letterLease:
		if l.mayPost(c, x.lease.Len()) {
			l.send(c, x.lease)
		} else {
			l.put(x.lease)
		}
	case letterPost, letterEither:
		l.call(c, func() { x.what.(func(*Conn))(c) })
	case letterWake:
		x.to.flags.And(^refWaking)
		if c.h.wake != nil {
			l.call(c, func() { c.h.wake.OnWake(c) })
		}
	case letterClose:
		l.close(c, nil)
	case letterAbort:
		cause, _ := x.what.(error)
		l.abort(c, cause)
	}
}

// drop ends a letter whose connection has gone.
func (l *loop) drop(x *letter) {
	switch x.kind {
	case letterLease:
		l.put(x.lease)
	case letterEither:
		l.stray(func() { x.what.(func(*Conn))(nil) })
	case letterWake, letterClose, letterAbort:
		return // it is over, which is what they ask for
	}
	l.stats.PostsDropped++
}

// mayPost reports whether c takes n more bytes from a poster, and tells of it if
// not.
func (l *loop) mayPost(c *Conn, n int) bool {
	err := c.mayWrite(n)
	if err == nil {
		return true
	}
	if !errors.Is(err, ErrBacklog) {
		l.stats.PostsDropped++ // after CloseWrite
		return false
	}
	l.stats.Refused++
	if c.seldom().anchor != nil && c.state&overHigh != 0 {
		c.rare.anchor.flags.Or(refFull)
	}
	if c.h.refused != nil {
		l.call(c, func() { c.h.refused.OnRefused(c, n) })
	}
	return false
}

// sendHeap queues memory of the Go heap that nobody will change any more. The
// segment keeps it reachable for as long as the kernel may read it.
func (l *loop) sendHeap(c *Conn, b []byte) {
	l.sendSegment(c, segment{mem: b})
}

// stray runs a function of the user's that belongs to no connection any more.
func (l *loop) stray(f func()) {
	defer func() {
		if v := recover(); v != nil {
			l.stats.Panics++
			l.o.Logger.Error("ringnet: a posted function panicked", "loop", l.index, "panic", v, "stack", string(debug.Stack()))
		}
	}()
	f()
}

// lastMail works off what came before the mailbox was closed: somebody may wait for
// an answer. No connections are left.
func (l *loop) lastMail() {
	l.mail.close()
	for l.mail.take() {
		for l.mail.more() {
			l.runLetters(mailChunk)
		}
	}
}
