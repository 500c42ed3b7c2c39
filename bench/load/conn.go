package main

import "fmt"

// maxInFlight bounds the unanswered messages of one connection.
const maxInFlight = 1 << 16

// conn is one connection: two positions in the same stream of bytes, and the
// messages between them.
//
//	received ──── unanswered ──── sent ──── due ────►
//	  recvPos                     sendPos
type conn struct {
	fd      int32
	index   int32
	sendPos uint32 // position in the pattern of the next byte to send
	recvPos uint32 // and of the next byte to receive
	due     int    // bytes to send
	left    int    // bytes until the message being received is complete

	sends    uint32 // messages begun
	receives uint32 // messages completed
	times    []int64
	mask     uint32
	unacked  int // post: messages to be acknowledged

	// What a driver has going.
	sending   bool // a send, or a wait for room, is in flight
	receiving bool // a receive or poll is armed
	ready     bool // direct: there may be more to receive
}

// inFlight is the number of unanswered messages.
func (c *conn) inFlight() int { return int(c.sends - c.receives) }

// sizeOf is the size of a connection's n-th message.
func (l *load) sizeOf(n uint32) int {
	if len(l.plan.sizes) == 1 {
		return l.plan.sizes[0]
	}
	return l.plan.sizes[n/uint32(l.plan.burst)%uint32(len(l.plan.sizes))]
}

// begin makes one more message due, from time at on (nanoseconds of the load's
// clock). The driver sends it at the next flush.
func (l *load) begin(c *conn, at int64) {
	if c.inFlight() == len(c.times) {
		l.grow(c)
	}
	n := l.sizeOf(c.sends)
	if c.inFlight() == 0 {
		c.left = n
	}
	c.times[c.sends&c.mask] = at
	c.sends++
	if l.asks > 0 {
		n = l.asks
	}
	c.due += n
}

// grow makes room for twice as many unanswered messages.
func (l *load) grow(c *conn) {
	times := make([]int64, max(1, 2*len(c.times)))
	mask := uint32(len(times) - 1)
	for n := c.receives; n != c.sends; n++ {
		times[n&mask] = c.times[n&c.mask]
	}
	c.times, c.mask = times, mask
}

// received compares what has come with what was sent, and counts the messages
// that it completes. In a closed loop each of them begins another.
func (l *load) received(c *conn, b []byte) error {
	if err := l.verify(c, b); err != nil {
		return err
	}
	// Messages that were due at the same time and are answered at the same time
	// are counted in one go: with deep pipelines the counting would show.
	due, answers := int64(0), int64(0)
	for n := len(b); n > 0; {
		if c.inFlight() == 0 {
			return &payloadError{fmt.Errorf("connection %d: %d bytes more than were sent", c.index, n)}
		}
		if n < c.left {
			c.left -= n
			break
		}
		n -= c.left
		at := c.times[c.receives&c.mask]
		c.receives++
		c.left = l.sizeOf(c.receives)
		if at != due && answers > 0 {
			l.answered(due, answers)
			answers = 0
		}
		due = at
		answers++
		if l.closed && !l.draining {
			l.begin(c, l.now)
		}
	}
	if answers > 0 {
		l.answered(due, answers)
	}
	return nil
}

// verify compares what has come with the pattern.
func (l *load) verify(c *conn, b []byte) error {
	if err := l.pattern.mismatch(c.recvPos, b); err != nil {
		return &payloadError{fmt.Errorf("connection %d, in message %d: %w", c.index, c.receives, err)}
	}
	c.recvPos = l.pattern.advance(c.recvPos, len(b))
	l.bytes += uint64(len(b))
	return nil
}

// payloadError says that what came back is not what was sent.
type payloadError struct{ err error }

func (e *payloadError) Error() string { return "wrong payload: " + e.err.Error() }
func (e *payloadError) Unwrap() error { return e.err }
