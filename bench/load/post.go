package main

import "example.com/ringnet/bench/internal/control"

// ackMax is the most messages that one byte acknowledges.
const ackMax = control.AckMax

// acknowledge makes connections take messages that the server sends on its own
// accord: the same stream on each, from the beginning of the pattern. Messages are
// acknowledged some at a time, by a byte that says how many.
func (l *load) acknowledge() error {
	size := l.plan.sizes[0]
	some := control.Ack(l.plan.pipeline)
	acks := make([]byte, 256)
	for i := range acks {
		acks[i] = byte(some)
	}
	l.out = &looped{b: acks, period: 1}
	for i := range l.conns {
		c := &l.conns[i]
		c.sendPos, c.recvPos, c.left = 0, 0, size
	}
	l.take = func(c *conn, b []byte) error {
		if err := l.verify(c, b); err != nil {
			return err
		}
		n := 0
		for rest := len(b); rest > 0; {
			if rest < c.left {
				c.left -= rest
				break
			}
			rest -= c.left
			c.left = size
			n++
		}
		l.requests += uint64(n)
		c.unacked += n
		for ; c.unacked >= some; c.unacked -= some {
			c.due++
		}
		return nil
	}
	return nil
}
