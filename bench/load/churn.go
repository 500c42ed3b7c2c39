package main

import (
	"fmt"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// churn makes a connection for each message: connect, send, receive the answer,
// close. A conn is then one of so many that do this at the same time.
type churn struct {
	l      *load
	hot    []byte
	opened int
	nCalls uint64
}

// sourceCount is how many source addresses the connections come from, in turn.
// Whoever closes first keeps the pair of ports for a minute (TIME_WAIT), and one
// source address has 28,232 of them.
const sourceCount = 128

func newChurn(l *load) (*churn, error) {
	hot, err := ring.Map(max(4096, l.plan.sizes[0]+1))
	if err != nil {
		return nil, fmt.Errorf("map the receive buffer: %w", err)
	}
	return &churn{l: l, hot: hot}, nil
}

func (d *churn) calls() uint64 { return d.nCalls }

func (d *churn) start(*conn) error { return nil }

// flush opens a connection, sends what is due, and has the ring tell of the answer.
func (d *churn) flush(c *conn) error {
	if c.due == 0 {
		return nil
	}
	fd, err := connectFrom(d.l.plan.addr, int(c.index), 1+d.opened%sourceCount)
	if err != nil {
		return err
	}
	c.fd = int32(fd)
	d.opened++
	for c.due > 0 {
		d.nCalls++
		n, errno := d.l.r.Send(fd, d.l.out.next(c), 0)
		if errno != 0 && errno != unix.EINTR {
			return fmt.Errorf("connection %d: send: %w", c.index, errno)
		}
		if errno == 0 {
			d.l.out.sent(c, n)
		}
	}
	return d.await(c)
}

func (d *churn) await(c *conn) error {
	e, err := entry(d.l.r)
	if err != nil {
		return err
	}
	e.PreparePoll(int(c.fd), unix.POLLIN|unix.POLLRDHUP)
	e.SetUserData(userData(kindPoll, c))
	return nil
}

// complete takes what has come. The connection's turn is over when the answer is
// complete, and where the server closes first, when it has.
func (d *churn) complete(comp *ring.Completion) error {
	c := &d.l.conns[uint32(comp.UserData)]
	if err := comp.Err(); err != nil {
		return fmt.Errorf("connection %d: poll: %w", c.index, err)
	}
	for {
		d.nCalls++
		n, errno := d.l.r.Recv(int(c.fd), d.hot)
		switch {
		case errno == unix.EAGAIN:
			return d.await(c)
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return fmt.Errorf("connection %d: receive: %w", c.index, errno)
		case n == 0 && (c.left > 0 || d.l.plan.first != firstServer):
			return fmt.Errorf("connection %d: the server closed it before it answered", c.index)
		case n == 0:
			return d.end(c)
		}
		if n > c.left {
			return &payloadError{fmt.Errorf("connection %d: %d bytes more than were sent", c.index, n-c.left)}
		}
		if err := d.l.verify(c, d.hot[:n]); err != nil {
			return err
		}
		if c.left -= n; c.left == 0 && d.l.plan.first != firstServer {
			return d.end(c)
		}
	}
}

// end closes the connection and begins the next.
func (d *churn) end(c *conn) error {
	if d.l.plan.first == firstReset {
		if err := unix.SetsockoptLinger(int(c.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return fmt.Errorf("connection %d: linger: %w", c.index, err)
		}
	}
	if err := unix.Close(int(c.fd)); err != nil {
		return fmt.Errorf("connection %d: close: %w", c.index, err)
	}
	c.fd = -1
	d.l.tick()
	d.l.answered(c.times[c.receives&c.mask], 1)
	c.receives++
	if d.l.draining {
		return nil
	}
	d.l.begin(c, d.l.now)
	return d.flush(c)
}

func (d *churn) settle() (bool, error) { return false, nil }
