package main

import (
	"fmt"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// direct receives and sends by system calls, with one buffer that stays in the
// cache; the ring only tells which connections have something. For large
// messages, where the copies cost far more than the calls.
type direct struct {
	l      *load
	hot    []byte
	ready  []*conn // may have more to receive
	nCalls uint64
}

// maxReads is how many full buffers are received from one connection before
// others have their turn.
const maxReads = 8

// meekChunk is how much is received at a time by a load that leaves its core to others:
// they may have to wait for the end of the system call.
const meekChunk = 32 << 10

func newDirect(l *load) (*direct, error) {
	size := maxChunk
	if l.plan.meek {
		size = meekChunk
	}
	hot, err := ring.Map(size)
	if err != nil {
		return nil, fmt.Errorf("map the receive buffer: %w", err)
	}
	return &direct{l: l, hot: hot}, nil
}

func (d *direct) calls() uint64 { return d.nCalls }

func (d *direct) start(c *conn) error {
	e, err := entry(d.l.r)
	if err != nil {
		return err
	}
	e.PreparePollMultishot(int(c.fd), unix.POLLIN|unix.POLLRDHUP)
	e.SetUserData(userData(kindPoll, c))
	c.receiving = true
	return nil
}

func (d *direct) flush(c *conn) error {
	for c.due > 0 && !c.sending {
		d.nCalls++
		sent, errno := d.l.r.Send(int(c.fd), d.l.out.next(c), 0)
		switch errno {
		case 0:
			d.l.out.sent(c, sent)
		case unix.EINTR:
		case unix.EAGAIN:
			e, err := entry(d.l.r)
			if err != nil {
				return err
			}
			e.PreparePoll(int(c.fd), unix.POLLOUT)
			e.SetUserData(userData(kindRoom, c))
			c.sending = true
		default:
			return fmt.Errorf("connection %d: send: %w", c.index, errno)
		}
	}
	return nil
}

func (d *direct) complete(comp *ring.Completion) error {
	c := &d.l.conns[uint32(comp.UserData)]
	if err := comp.Err(); err != nil {
		return fmt.Errorf("connection %d: poll: %w", c.index, err)
	}
	if comp.UserData>>32 == kindRoom {
		c.sending = false
		return d.flush(c)
	}
	if !comp.More() {
		if err := d.start(c); err != nil {
			return err
		}
	}
	if c.ready {
		return nil // its turn comes in settle
	}
	return d.receive(c)
}

// receive takes what the socket has. The poll is edge-triggered: unless the
// socket was seen empty the connection is put on the ready list.
func (d *direct) receive(c *conn) error {
	for range maxReads {
		d.nCalls++
		n, errno := d.l.r.Recv(int(c.fd), d.hot)
		switch {
		case errno == unix.EAGAIN:
			return nil
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return fmt.Errorf("connection %d: receive: %w", c.index, errno)
		case n == 0:
			return fmt.Errorf("connection %d: the server closed it with %d messages unanswered", c.index, c.inFlight())
		}
		if err := d.l.take(c, d.hot[:n]); err != nil {
			return err
		}
		if err := d.flush(c); err != nil {
			return err
		}
		if n < len(d.hot) {
			return nil
		}
	}
	c.ready = true
	d.ready = append(d.ready, c)
	return nil
}

func (d *direct) settle() (bool, error) {
	ready := d.ready
	d.ready = nil
	for _, c := range ready {
		c.ready = false
		if err := d.receive(c); err != nil {
			return false, err
		}
	}
	return len(d.ready) > 0, nil
}
