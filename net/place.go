//go:build linux

package net

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// Placement says which loop gets a connection. A connection stays on its loop.
type Placement uint8

const (
	// Reuseport gives each loop its own listener on each address (SO_REUSEPORT), and
	// the kernel chooses by a hash of both ends. Nothing passes between loops, but
	// few connections spread unevenly. The default.
	Reuseport Placement = iota

	// RoundRobin has one listener for each address, on one of the loops, which deals
	// what it accepts to all loops in turn. It costs some 10 µs for each connection
	// that goes to a loop that sleeps, and nothing for requests.
	RoundRobin

	// LeastConnections is as RoundRobin, but gives each connection to a loop with the
	// fewest, which evens out connections that live for different times.
	LeastConnections
)

// String names the placement.
func (p Placement) String() string {
	switch p {
	case Reuseport:
		return "reuseport"
	case RoundRobin:
		return "round robin"
	case LeastConnections:
		return "least connections"
	}
	return fmt.Sprintf("Placement(%d)", uint8(p))
}

const (
	// inboxMax is how many connections may wait for one loop to take them over from
	// another, and from how many that wait for their OnOpen a loop lets the others
	// wait in the kernel.
	inboxMax = 1024
	// opensPerTurn is how many connections a loop opens before those that it has get
	// their turn.
	opensPerTurn = 128
)

// team is what the loops of a server have in common.
type team struct {
	loops []*loop
	how   Placement
	limit *connLimit    // nil: there is none
	next  atomic.Uint32 // the turn of RoundRobin
}

func newTeam(o *Options, loops []*loop) *team {
	c := &team{loops: loops, how: o.Placement}
	if o.MaxConns > 0 {
		c.limit = &connLimit{max: int64(o.MaxConns)}
	}
	return c
}

// arrival is an accepted connection that has no Conn yet. Who has it owns its
// descriptor.
type arrival struct {
	fd     int32
	isUnix bool
	h      *handlers
}

// inbox brings descriptors of accepted connections from the loop that accepted them
// to the one that is to have them. Whoever holds a descriptor owns it: put and close
// hand it over or do not.
type inbox struct {
	mu     sync.Mutex
	queue  []arrival
	any    atomic.Bool // queue is not empty: a look without the lock
	closed bool

	// load is how many connections the loop has or is about to get, counted for
	// LeastConnections.
	load atomic.Int64

	// What connLimit knows of the loop: it stands in line for a place, and it was
	// called since there may be one.
	inLine, called atomic.Bool

	_ [64]byte // the acceptor looks at all loads; each has a cache line
}

// put reports false, and a stays the caller's, when the loop has ended or does not
// come round to what it has. Safe for concurrent use.
func (b *inbox) put(a arrival) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || len(b.queue) >= inboxMax {
		return false
	}
	b.queue = append(b.queue, a)
	b.any.Store(true)
	return true
}

// take moves what has come to the end of to.
func (b *inbox) take(to []arrival) []arrival {
	if !b.any.Load() {
		return to
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	to = append(to, b.queue...)
	b.queue = b.queue[:0]
	b.any.Store(false)
	return to
}

// closeEmpty refuses further descriptors, or reports false if some have come.
func (b *inbox) closeEmpty() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = len(b.queue) == 0
	return b.closed
}

// deal gives an accepted connection to a loop. A loop that has ended or
// is too far behind is passed over, at last for the one that accepted.
func (c *team) deal(from *loop, a arrival) {
	first := c.choose()
	for i := range c.loops {
		to := c.loops[(first+i)%len(c.loops)]
		if to == from {
			break
		}
		c.count(to, 1)
		if to.in.put(a) {
			from.stats.Dealt++
			to.mail.rouse()
			return
		}
		c.count(to, -1)
	}
	c.count(from, 1)
	from.take(a)
}

// choose is the index of the loop whose turn it is.
func (c *team) choose() int {
	n := len(c.loops)
	first := int(c.next.Add(1)-1) % n
	if c.how != LeastConnections {
		return first
	}
	// Of those that have equally few, the next in turn.
	best, least := first, c.loops[first].in.load.Load()
	for i := 1; i < n; i++ {
		if at := (first + i) % n; c.loops[at].in.load.Load() < least {
			best, least = at, c.loops[at].in.load.Load()
		}
	}
	return best
}

// count notes that a loop gets a connection, or has one less.
func (c *team) count(l *loop, n int64) {
	if c.how == LeastConnections {
		l.in.load.Add(n)
	}
}

// bring has an accepted connection served on the loop that it is for. It owns fd.
func (l *loop) bring(ln *listener, fd int32) {
	a := arrival{fd, ln.addr.isUnix(), ln.h}
	if a.h == nil {
		a.h = l.h
	}
	if a.h.std != nil {
		l.passAccepted(a) // which any loop can do
		return
	}
	if ln.dealt && len(l.team.loops) > 1 {
		l.team.deal(l, a)
		return
	}
	if l.team != nil {
		l.team.count(l, 1)
	}
	l.take(a)
}

// take opens a connection on this loop, now or when it is its turn.
func (l *loop) take(a arrival) {
	switch {
	case l.draining && !l.retiring:
		l.turnAway(a)
	case l.opened < opensPerTurn && len(l.arrivals) == 0:
		l.opened++
		l.open(a)
	default:
		l.arrivals = append(l.arrivals, a)
		if len(l.arrivals) >= inboxMax && !l.crowded {
			l.crowded = true
			l.steerAccepts()
		}
	}
}

// openArrivals opens connections that have waited for their turn.
func (l *loop) openArrivals() {
	l.arrivals = l.in.take(l.arrivals)
	n := 0
	for n < len(l.arrivals) && l.opened < opensPerTurn {
		a := l.arrivals[n]
		n++
		if l.draining && !l.retiring {
			l.turnAway(a)
			continue
		}
		l.opened++
		l.guard(func() { l.open(a) })
	}
	l.opened = 0
	l.arrivals = append(l.arrivals[:0], l.arrivals[n:]...)
	if l.crowded && len(l.arrivals) == 0 {
		l.crowded = false
		l.steerAccepts()
	}
}

// turnAway closes a connection that nobody will serve, since the server is ending.
func (l *loop) turnAway(a arrival) {
	l.stats.Dropped++
	_ = l.r.CloseFd(int(a.fd))
	l.left()
}

// left notes that the loop has one accepted connection less.
func (l *loop) left() {
	if l.team == nil {
		return
	}
	l.team.count(l, -1)
	l.giveBack()
}

// giveBack gives back the place that an accepted connection has had of MaxConns.
func (l *loop) giveBack() {
	if l.limited() {
		l.team.limit.give()
	}
}
