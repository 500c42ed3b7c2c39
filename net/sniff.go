//go:build linux

package net

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// ErrNotRecognized is the cause of a connection whose first bytes no rule of a [Sniff]
// matched, where that has no Default.
var ErrNotRecognized = errors.New("ringnet: the first bytes are of no protocol that is served here")

// Sniff is a [Handler] that chooses another one by the first bytes of a connection, so
// that one port can serve several protocols: a binary one on the loops, say, and net/http
// through a [HandOverListener].
//
// The chosen handler knows nothing of that: its OnOpen comes when it is chosen, and its
// OnData begins with the first byte. A connection that ends before is seen by no handler.
// A peer that waits for the server to speak first is not served by a Sniff, which waits
// for the peer.
//
// One Sniff serves all connections of a server, or of an address (Server.Handlers). Its
// fields must not be changed after its first use.
type Sniff struct {
	// Rules are asked in this order. The first that says SniffYes has the connection,
	// but none behind one that still says SniffMore.
	Rules []SniffRule

	// Default has the connections that no rule matches. Nil: they are closed, with
	// ErrNotRecognized as cause.
	Default Handler

	// MaxBytes is how many bytes are looked at, at most: rules that need more do not
	// match then. Default 8 KiB, which has room for long request lines; range 1 to
	// 1 MiB. Options.MaxUnconsumed has to be at least as large.
	MaxBytes int

	// Timeout is for how long a connection may leave the choice open before it is
	// closed; the cause matches os.ErrDeadlineExceeded. Default 10 s; negative: for ever.
	Timeout time.Duration

	once     sync.Once
	err      error       // why it cannot be used
	chosen   []*handlers // of Rules
	fallback *handlers
}

// SniffRule is a handler, and what connections are for it.
type SniffRule struct {
	Match   SniffMatch
	Handler Handler
}

// check implements the look that Start takes at handlers.
func (s *Sniff) check() error {
	s.once.Do(func() { s.err = s.prepare() })
	return s.err
}

// prepare looks at the fields, and fills the defaults in.
func (s *Sniff) prepare() error {
	if s.MaxBytes < 0 || s.MaxBytes > 1<<20 {
		return fmt.Errorf("ringnet: Sniff.MaxBytes is %d: it must be from 1 to %d, or 0 for the default", s.MaxBytes, 1<<20)
	}
	if s.MaxBytes == 0 {
		s.MaxBytes = 8 << 10
	}
	if s.Timeout == 0 {
		s.Timeout = 10 * time.Second
	}
	if len(s.Rules) == 0 {
		return errors.New("ringnet: Sniff.Rules is empty: give a rule, or use its Default as the handler")
	}
	for i, r := range s.Rules {
		if r.Match == nil || r.Handler == nil {
			return fmt.Errorf("ringnet: rule %d of Sniff.Rules has no %s: set both", i, map[bool]string{true: "Match", false: "Handler"}[r.Match == nil])
		}
		if err := checkHandler(r.Handler); err != nil {
			return err
		}
		s.chosen = append(s.chosen, newHandlers(r.Handler))
	}
	if s.Default != nil {
		if err := checkHandler(s.Default); err != nil {
			return err
		}
		s.fallback = newHandlers(s.Default)
	}
	return nil
}

// serves implements the message that Start has for handlers.
func (s *Sniff) serves(addr Addr) {
	for _, r := range s.Rules {
		tellServes(r.Handler, addr)
	}
	tellServes(s.Default, addr)
}

// choose is the handler for a connection that begins with b, or nil if there is none;
// more reports that it depends on what comes. last says that nothing more comes.
func (s *Sniff) choose(b []byte, last bool) (h *handlers, more bool) {
	if len(b) >= s.MaxBytes {
		b, last = b[:s.MaxBytes], true
	}
	for i, r := range s.Rules {
		switch r.Match(b) {
		case SniffYes:
			return s.chosen[i], false
		case SniffMore:
			if !last {
				return nil, true
			}
		}
	}
	return s.fallback, false
}

// OnOpen implements [Handler].
func (s *Sniff) OnOpen(c *Conn) {
	if err := s.check(); err != nil { // a Dialer's; Start would have told
		c.Abort(err)
		return
	}
	if s.Timeout > 0 {
		c.AfterFunc(s.Timeout, s.expired)
	}
}

// expired ends a connection that has not said enough.
func (s *Sniff) expired(c *Conn) {
	if c.state&isStarved != 0 {
		c.AfterFunc(s.Timeout, s.expired) // it may have, but there was no buffer to see it in
		return
	}
	c.l.stats.Timeouts++
	c.Abort(timeoutError(c, "sniff", "%d bytes in %v, which do not tell what it is to be served by", len(c.seldom().kept), s.Timeout))
}

// OnData implements [Handler].
func (s *Sniff) OnData(c *Conn, b []byte) int {
	h, more := s.choose(b, false)
	if more || !s.give(c, h) {
		return 0
	}
	if c.state&layered != 0 {
		c.l.unwrapLater(c, b)
		return len(b)
	}
	return h.OnData(c, b)
}

// OnEOF implements [EOFHandler]: what has come has to do.
func (s *Sniff) OnEOF(c *Conn) {
	if c.state&hasKept == 0 {
		c.l.close(c, io.EOF)
		return
	}
	h, _ := s.choose(c.rare.kept, true)
	// For the chosen handler that comes again, behind the bytes.
	c.state &^= sawEOF
	if s.give(c, h) {
		if c.state&layered != 0 {
			c.l.unwrapLater(c, c.rare.kept)
			c.keep(nil)
		} else {
			c.l.offerKept(c)
		}
	}
	c.l.onEnd(c)
}

// OnClose implements [Handler].
func (s *Sniff) OnClose(*Conn, error) {}

// give makes c one of h's. It reports whether h is to be lent the bytes now: it may have
// closed the connection, paused it, or handed it over.
func (s *Sniff) give(c *Conn, h *handlers) bool {
	l := c.l
	l.dropTimers(c)
	l.dropIdleTiming(c)
	if h == nil {
		l.close(c, ErrNotRecognized)
		return false
	}
	c.h = h
	l.layOver(c, nil)
	c.h.OnOpen(c)
	return c.state&(closing|dead|paused) == 0
}

// dropIdleTiming gives back what c has of timers, if it uses none.
func (l *loop) dropIdleTiming(c *Conn) {
	if g := c.timing; g != nil && c.state&timed == 0 && g.timers == nil {
		l.dropTiming(c)
	}
}
