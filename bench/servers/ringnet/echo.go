package main

import "example.com/ringnet/net"

// sender sends the buffer that the kernel filled.
type sender struct{ net.Events }

func (sender) OnData(c *net.Conn, b []byte) int {
	if lease, err := c.Detach(); err == nil {
		_ = c.Send(lease) // refused only when c is closing
	}
	return len(b)
}

// writer writes a copy.
type writer struct{ net.Events }

func (writer) OnData(c *net.Conn, b []byte) int {
	if _, err := c.Write(b); err != nil {
		c.Abort(err)
	}
	return len(b)
}

// closer answers one message on each connection, and closes it.
type closer struct {
	net.Events
	size int
}

func (h closer) OnData(c *net.Conn, b []byte) int {
	if len(b) < h.size {
		return 0
	}
	if _, err := c.Write(b[:h.size]); err != nil {
		c.Abort(err)
	}
	c.Close()
	return len(b)
}
