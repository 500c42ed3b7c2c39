//go:build linux

package net

import (
	"errors"
	"sync/atomic"

	"example.com/ringnet/bufring"
)

// Ref names a connection to other goroutines than its loop's: they can have
// things sent, done or ended there, and nothing else. It is small, comparable, and
// fit for a map's key; two Refs of one connection are equal, and those of two
// connections never are. Its methods are safe for concurrent use and do not block.
// It may be kept for any time: it holds some bytes of memory, not the connection.
//
// What one goroutine asks for by Refs of one loop is done in that order. It goes
// through the loop's mailbox, which is bounded (Options.MaxPosted and
// MaxPostedBytes): ErrBusy says that it is full. A Ref whose connection has ended,
// or is ending, answers ErrClosed at once, as the zero Ref does. A connection may
// end after its Ref was used and before the loop comes to it; then nothing happens,
// and what was to be sent is dropped (Stats.PostsDropped).
type Ref struct{ a *anchor }

// anchor is what stays of a connection for its Refs.
type anchor struct {
	l     *loop
	c     *Conn // nil once it has ended; only on the loop's goroutine
	flags atomic.Uint32
}

const (
	refClosing uint32 = 1 << iota // Close, Abort or the end of both directions
	refEnded                      // OnClose is being called or has been
	refFull                       // something posted was refused, and output is above LowWater since

	// On their way to the loop, so that there is one of each at most.
	refWaking
	refAskedClose
	refAskedAbort
)

// Ref names c to other goroutines. The first one of a connection costs a small
// allocation. After OnClose it is the same Ref still, or the zero Ref if none was
// asked for before.
func (c *Conn) Ref() Ref {
	if c.seldom().anchor == nil {
		if c.state&finished != 0 && c.l.finishing != c {
			return Ref{}
		}
		c.rarely().anchor = &anchor{l: c.l, c: c}
		if c.state&(closing|dead) != 0 {
			c.unref(refClosing)
		}
		if c.state&finished != 0 {
			c.unref(refEnded)
		}
	}
	return Ref{c.rare.anchor}
}

// unref tells c's Refs of its end.
func (c *Conn) unref(flag uint32) {
	if c.seldom().anchor != nil {
		c.rare.anchor.flags.Or(flag)
	}
}

// may says what is against posting to the connection, as far as is known here.
func (r Ref) may(not uint32) error {
	if r.a == nil {
		return ErrClosed
	}
	switch flags := r.a.flags.Load(); {
	case flags&not&(refClosing|refEnded) != 0:
		return ErrClosed
	case flags&not&refFull != 0:
		return ErrBacklog
	}
	return nil
}

// refused is what a poster is told when the mailbox did not take a letter.
func refused(err error) error {
	if errors.Is(err, ErrServerClosed) {
		return ErrClosed
	}
	return err
}

// Send has a copy of b sent after what was sent before, as Conn.Write does; b may
// be used again when Send has returned.
//
// Like all that is sent by a Ref it is refused whole where Options.MaxBuffered
// bytes wait for the peer. That shows on the loop: Stats.Refused counts it and
// [RefusedHandler] hears of it. From then on, until the output is down to
// Options.LowWater, Refs of the connection answer ErrBacklog at once.
func (r Ref) Send(b []byte) error {
	if err := r.may(refClosing | refFull); err != nil || len(b) == 0 {
		return err
	}
	return refused(r.a.l.mail.putCopy(r.a, b))
}

// SendLease has a lease's bytes sent, without a copy, as Conn.Send does. It owns the
// lease, also when it returns an error, or when the connection ends before.
func (r Ref) SendLease(lease bufring.Lease) error {
	err := r.may(refClosing | refFull)
	if err == nil && lease.Len() > 0 {
		if err = refused(r.a.l.mail.put(letter{kind: letterLease, to: r.a, lease: lease}, lease.Len())); err == nil {
			return nil
		}
	}
	lease.Release()
	return err
}

// SendMessage has a message sent, without a copy.
func (r Ref) SendMessage(m Message) error {
	if err := r.may(refClosing | refFull); err != nil || m.Len() == 0 {
		return err
	}
	return refused(r.a.l.mail.put(letter{kind: letterHeap, to: r.a, mem: m.b}, m.Len()))
}

// Post has f called on the loop's goroutine, as a callback of the connection. It is
// not called if the connection ends before; see PostOr.
func (r Ref) Post(f func(c *Conn)) error { return r.post(letterPost, f) }

// PostOr is Post for a function that has to be called: once, on the loop's
// goroutine, with the connection, or with nil if that has ended before. With an
// error it is not called.
func (r Ref) PostOr(f func(c *Conn)) error { return r.post(letterEither, f) }

func (r Ref) post(kind letterKind, f func(*Conn)) error {
	if f == nil {
		return errors.New("ringnet: post to a connection: the function is nil")
	}
	if err := r.may(refClosing); err != nil {
		return err
	}
	return refused(r.a.l.mail.put(letter{kind: kind, to: r.a, what: f}, 0))
}

// Wake has OnWake called, see [WakeHandler]: soon, and once for all the calls that
// come before it runs. It is never refused for a full mailbox.
func (r Ref) Wake() error {
	if err := r.may(refClosing); err != nil {
		return err
	}
	// A swap also where the answer is known, since by it OnWake sees what was
	// written before this call.
	if r.a.flags.Or(refWaking)&refWaking != 0 {
		return nil
	}
	return refused(r.a.l.mail.demand(letter{kind: letterWake, to: r.a}))
}

// Close has the connection closed, as Conn.Close does: after what was sent before.
// It is never refused for a full mailbox.
func (r Ref) Close() error {
	if err := r.may(refClosing); err != nil {
		return err
	}
	if r.a.flags.Or(refAskedClose)&refAskedClose != 0 {
		return nil
	}
	return refused(r.a.l.mail.demand(letter{kind: letterClose, to: r.a}))
}

// Abort has the connection ended, as Conn.Abort does, also one that is closing. Of
// several only the first counts. It is never refused for a full mailbox.
func (r Ref) Abort(err error) error {
	if err := r.may(refEnded); err != nil {
		return err
	}
	if r.a.flags.Or(refAskedAbort)&refAskedAbort != 0 {
		return nil
	}
	return refused(r.a.l.mail.demand(letter{kind: letterAbort, to: r.a, what: err}))
}
