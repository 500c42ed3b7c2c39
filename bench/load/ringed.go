package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bufring"
	"example.com/ringnet/ring"
)

// What a completion is about stands in the upper half of its user data, which
// connection in the lower.
const (
	kindRecv = iota + 1
	kindSend
	kindPoll
	kindRoom
)

func userData(kind int, c *conn) uint64 { return uint64(kind)<<32 | uint64(c.index) }

// ringed sends and receives through the ring: one multishot receive per
// connection out of one group of buffers, sends straight out of the pattern,
// direct descriptors. Nothing but io_uring_enter is called.
type ringed struct {
	l       *load
	group   *bufring.Group
	starved []*conn // their receive ended for want of a buffer

	// silent leaves out the completions of sends that succeed. It needs that no
	// send can find the socket full: what is unanswered on a connection, all
	// together, is less than any send buffer.
	silent bool
}

// silentBytes and silentCount are how much may be unanswered on a connection whose
// sends make no completions. A fresh TCP socket on loopback takes more than a
// megabyte; others take 208 KiB, of which every message has nearly one to itself.
const (
	silentBytes = 64 << 10
	silentCount = 64
)

func newRinged(l *load) (*ringed, error) {
	size := 1024
	for size < 16<<10 && size < l.plan.largest()*l.plan.pipeline {
		size *= 2
	}
	count := 4096
	for count < 32768 && count < 2*len(l.conns) {
		count *= 2
	}
	for count*size > 64<<20 {
		count /= 2
	}
	g, err := bufring.NewGroup(l.r, bufring.GroupOptions{BufBytes: size, Count: count})
	if err != nil {
		return nil, err
	}
	fds := make([]int32, len(l.conns))
	for i := range l.conns {
		fds[i] = l.conns[i].fd
	}
	if err := l.r.RegisterFiles(uint32(len(fds))); err != nil {
		return nil, err
	}
	if err := l.r.UpdateFiles(0, fds); err != nil {
		return nil, err
	}
	silent := l.closed && l.plan.largest()*l.plan.pipeline <= silentBytes &&
		(l.plan.addr.network == "tcp" || l.plan.pipeline <= silentCount)
	return &ringed{l: l, group: g, silent: silent}, nil
}

func (d *ringed) calls() uint64 { return 0 }

// entry finds a place in the submission queue. It is full only if the kernel
// takes nothing, which then no retry mends.
func (d *ringed) entry() (*ring.Entry, error) { return entry(d.l.r) }

func entry(r *ring.Ring) (*ring.Entry, error) {
	for range 1000 {
		if e := r.Entry(); e != nil {
			return e, nil
		}
	}
	return nil, errors.New("the ring takes no more entries: its completion queue is full")
}

func (d *ringed) start(c *conn) error {
	e, err := d.entry()
	if err != nil {
		return err
	}
	e.PrepareRecvMultishot(int(c.index), d.group.ID())
	e.UseDirect()
	e.SetUserData(userData(kindRecv, c))
	c.receiving = true
	return nil
}

func (d *ringed) flush(c *conn) error {
	if c.due == 0 || c.sending {
		return nil
	}
	e, err := d.entry()
	if err != nil {
		return err
	}
	b := d.l.out.next(c)
	e.PrepareSend(int(c.index), b, unix.MSG_WAITALL|unix.MSG_NOSIGNAL)
	e.UseDirect()
	e.SetUserData(userData(kindSend, c))
	if d.silent {
		e.SkipSuccess()
		d.l.out.sent(c, len(b))
		return nil
	}
	c.sending = true
	return nil
}

func (d *ringed) complete(comp *ring.Completion) error {
	c := &d.l.conns[uint32(comp.UserData)]
	if comp.UserData>>32 == kindSend {
		if err := comp.Err(); err != nil {
			return fmt.Errorf("connection %d: send: %w", c.index, err)
		}
		if d.silent {
			return fmt.Errorf("connection %d: the kernel sent only %d bytes of a small message", c.index, comp.Res)
		}
		c.sending = false
		d.l.out.sent(c, int(comp.Res))
		return d.l.driver.flush(c)
	}
	if id, ok := comp.Buffer(); ok {
		lease := d.group.Take(id, int(max(comp.Res, 0)))
		err := d.l.take(c, lease.Bytes())
		d.group.Put(lease)
		if err != nil {
			return err
		}
	}
	if !comp.More() {
		c.receiving = false
		switch {
		case comp.Res == -int32(unix.ENOBUFS):
			d.group.Exhausted()
			d.starved = append(d.starved, c)
		case comp.Res < 0:
			return fmt.Errorf("connection %d: receive: %w", c.index, comp.Err())
		case comp.Res == 0:
			return fmt.Errorf("connection %d: the server closed it with %d messages unanswered", c.index, c.inFlight())
		default:
			if err := d.start(c); err != nil {
				return err
			}
		}
	}
	return d.l.driver.flush(c)
}

func (d *ringed) settle() (bool, error) {
	d.group.Refill()
	for _, c := range d.starved {
		if err := d.start(c); err != nil {
			return false, err
		}
	}
	d.starved = d.starved[:0]
	return false, nil
}
