//go:build linux

package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"time"

	"github.com/valyala/fasthttp"

	"example.com/ringnet/bufring"
	"example.com/ringnet/net"
)

// conn is a connection. While it waits for a request it has no buffer: the first bytes of
// one come in the loop's.
type conn struct {
	site *site
	desk *desk
	s    *net.Stream

	first bufring.Lease // bytes that came first, and have yet to get to br
	br    *bufio.Reader // nil: nothing of a request is there
	r     *request      // nil: likewise
	timed bool          // its header has a deadline
	err   error         // of the Stream

	peer   string // for the log
	status int    // of the answer
	sent   int64  // of its content, in bytes
}

// serve answers requests until the connection is to end.
func (c *conn) serve() error {
	for {
		switch err := c.read(); {
		case err == io.EOF:
			return nil
		case err != nil:
			return c.refuse(err)
		}
		c.desk.requests++
		c.r.look()
		c.r.close = c.r.close || c.s.ShuttingDown()
		unread := c.skip()
		err := c.answerLogged()
		switch {
		case err != nil:
			return err
		case unread:
			return c.linger()
		case c.r.close:
			return nil
		}
		c.desk.putRequest(c.r)
		c.r = nil
		if c.br.Buffered() == 0 && !c.first.Valid() {
			c.desk.putReader(c.br)
			c.br = nil
		}
	}
}

// answerLogged answers the request, and adds it to the log if there is one.
func (c *conn) answerLogged() error {
	if c.site.log == nil {
		return c.answer()
	}
	began := c.desk.now()
	err := c.answer()
	c.site.log.add(c, c.desk.now()-began)
	return err
}

// giveBack gives back what the connection has of the desk's.
func (c *conn) giveBack() {
	c.first.Release()
	if c.br != nil {
		c.desk.putReader(c.br)
	}
	if c.r != nil {
		c.desk.putRequest(c.r)
	}
}

// read reads a header.
func (c *conn) read() error {
	if c.br == nil {
		lease, err := c.s.Next()
		if err != nil {
			c.err = err
			return err
		}
		c.first = lease
		c.br = c.desk.reader()
		c.br.Reset(c)
	}
	c.r = c.desk.request()
	err := c.r.h.Read(c.br)
	if c.timed {
		c.timed = false
		_ = c.s.SetReadDeadline(time.Time{}) // refused only at its end
	}
	return err
}

// Read implements io.Reader, for the header: from its second piece on it has a time limit,
// which whole headers never need.
func (c *conn) Read(p []byte) (int, error) {
	if c.first.Valid() {
		n := copy(p, c.first.Bytes())
		rest := c.first.Slice(n, c.first.Len())
		if c.first = rest; rest.Len() == 0 {
			c.first.Release()
			c.first = bufring.Lease{}
		}
		return n, nil
	}
	if !c.timed {
		c.timed = true
		if err := c.s.SetReadDeadline(time.Now().Add(c.site.headerTimeout)); err != nil {
			return 0, err
		}
	}
	n, err := c.s.Read(p)
	if err != nil {
		c.err = err
	}
	return n, err
}

// skip drops a request's content, which means nothing to us, where that has come along
// with its header. It reports whether some is left: then the connection ends.
func (c *conn) skip() (unread bool) {
	n := c.r.content
	if n == 0 {
		return false
	}
	if n < 0 || n > c.br.Buffered() {
		c.r.close = true
		return true
	}
	_, _ = c.br.Discard(n) // it is all there
	return false
}

// refuse ends a connection of which there is no request; where there was the beginning of
// one, it says why.
func (c *conn) refuse(err error) error {
	var small *fasthttp.ErrSmallBuffer
	status := fasthttp.StatusBadRequest
	switch {
	case c.err == io.EOF:
		return nil // it has gone, in the middle of one
	case c.r != nil && errors.Is(c.err, os.ErrDeadlineExceeded):
		status = fasthttp.StatusRequestTimeout
	case c.err != nil:
		return c.err
	case errors.As(err, &small):
		status = fasthttp.StatusRequestHeaderFieldsTooLarge
	}
	c.desk.refused++
	c.r.fields, c.r.head, c.r.close = fields{}, false, true
	if err := c.say(status, ""); err != nil {
		return err
	}
	return c.linger()
}

const (
	lingerTime  = time.Second
	lingerBytes = 256 << 10
)

// linger ends a connection whose peer may be sending still. Were it closed at once, what
// then comes would be answered by a reset, and that may take our answer away from the peer
// before it has read it.
func (c *conn) linger() error {
	if err := c.s.CloseWrite(); err != nil {
		return err
	}
	if err := c.s.SetReadDeadline(time.Now().Add(lingerTime)); err != nil {
		return err
	}
	for n := 0; n < lingerBytes; {
		lease, err := c.s.Next()
		if err != nil {
			return nil // all that matters was sent
		}
		n += lease.Len()
		lease.Release()
	}
	return nil
}
