package main

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bench/internal/control"
	"example.com/ringnet/bench/internal/result"
)

// slow asks for content on every connection and reads it slowly, a little from
// each in turn, until the end of stdin.
func slow(p plan, stdin io.Reader, out io.Writer) error {
	if err := raiseFileLimit(); err != nil {
		return err
	}
	pattern, err := newPattern()
	if err != nil {
		return err
	}
	l := &load{plan: p, pattern: pattern}
	request := control.Request{N: uint64(p.sizes[0])}.AppendTo(nil)
	for i := range p.conns {
		fd, err := connect(p.addr, i)
		if err != nil {
			return err
		}
		if _, err := unix.Write(fd, request); err != nil {
			return fmt.Errorf("connection %d: send: %w", i, err)
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		l.conns = append(l.conns, conn{fd: int32(fd), index: int32(i), left: p.sizes[0]})
	}
	buf := make([]byte, p.drip)
	begun, ready := 0, false
	var seen atomic.Uint64
	// Every connection has a time of its own within a period.
	from := time.Now()
	for turn := 0; ; turn++ {
		c := &l.conns[turn%p.conns]
		n, err := l.sip(c, buf)
		if err != nil {
			return err
		}
		if n > 0 && c.left == p.sizes[0]-n {
			begun++
		}
		seen.Add(uint64(n))
		if begun == p.conns && !ready {
			ready = true
			fmt.Fprintln(out, result.Holding)
			go tell(&seen, stdin, out)
		}
		due := from.Add(p.every / time.Duration(p.conns) * time.Duration(turn))
		if wait := time.Until(due); wait > time.Millisecond {
			time.Sleep(wait)
		} else if wait < -p.every {
			from = from.Add(-wait) // it has fallen behind, and need not catch up
		}
	}
}

// sip reads a little. A connection that has got everything asks no more.
func (l *load) sip(c *conn, buf []byte) (int, error) {
	n, err := unix.Read(int(c.fd), buf[:min(len(buf), c.left)])
	switch {
	case c.left == 0 || err == unix.EAGAIN || err == unix.EINTR:
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("connection %d: receive: %w", c.index, err)
	case n == 0:
		return 0, fmt.Errorf("connection %d: the server closed it with %d bytes to come", c.index, c.left)
	}
	c.left -= n
	return n, l.verify(c, buf[:n])
}
