package main

import (
	"fmt"
	"sync/atomic"

	"example.com/ringnet/bench/internal/control"
	"example.com/ringnet/bench/internal/payload"
	"example.com/ringnet/net"
)

// both gives connections that came to the second address to content, and others to
// the handler.
type both struct {
	net.Handler
	server  *net.Server
	content *content
}

func (h *both) OnOpen(c *net.Conn) {
	if c.LocalAddr() == h.server.Addrs()[1] {
		h.content.OnOpen(c)
	} else {
		h.Handler.OnOpen(c)
	}
}

func (h *both) OnData(c *net.Conn, b []byte) int {
	if c.Context() != nil {
		return h.content.OnData(c, b)
	}
	return h.Handler.OnData(c, b)
}

func (h *both) OnWritable(c *net.Conn) {
	if c.Context() != nil {
		h.content.OnWritable(c)
	}
}

// content answers requests, as fast as the peer takes it.
type content struct {
	net.Events
	send   func(c *net.Conn, r control.Request) error // of at most a piece
	piece  int                                        // bytes; 0: of any length
	high   int
	pools  int // bytes
	opened atomic.Int64
}

// Pieces are how much is sent at a time: of copies as little as makes sense, since
// each waits in memory of its own.
const (
	writePiece  = 64 << 10
	staticPiece = 1 << 20
)

// newContent sets the options that bound what the server holds: their defaults,
// written down.
func newContent(s *net.Server, how, file string) *content {
	o := &s.Options
	o.HighWater = 256 << 10
	o.RecvBufBytes, o.RecvBufs = 4<<10, 4096
	o.BulkBufBytes, o.BulkBufs = 256<<10, 128
	// The buffers for copies of small writes: 8,192 of 2 KiB and 2,048 of 16 KiB.
	const copies = 8192*2<<10 + 2048*16<<10
	h := &content{high: o.HighWater, pools: o.RecvBufBytes*o.RecvBufs + o.BulkBufBytes*o.BulkBufs + copies}
	switch {
	case file != "":
		f, err := net.OpenFile(file)
		if err != nil {
			control.Fail(err)
		}
		h.send = func(c *net.Conn, r control.Request) error { return c.SendFile(f, int64(r.Offset), int64(r.N), nil) }
	case how == "static":
		h.piece = staticPiece
		static, err := net.NewStatic(stream(staticPiece))
		if err != nil {
			control.Fail(err)
		}
		h.send = func(c *net.Conn, r control.Request) error {
			return c.SendStatic(static, int(r.Offset%payload.Period), int(r.N))
		}
	case how == "write":
		h.piece = writePiece
		b := stream(writePiece)
		h.send = func(c *net.Conn, r control.Request) error {
			_, err := c.Write(b[r.Offset%payload.Period:][:r.N])
			return err
		}
	default:
		control.Fail(fmt.Errorf("-how %q: use write or static", how))
	}
	return h
}

// stream has n bytes of the stream from every position of its period on.
func stream(n int) []byte {
	b := make([]byte, payload.Period+n)
	payload.Fill(b)
	return b
}

// bound is the most memory that the connections so far can have made the server
// hold at once: each may be one piece above its high-water mark.
func (h *content) bound() uint64 {
	return uint64(int(h.opened.Load())*(h.high+h.piece) + h.pools)
}

// answers is the requests of a connection that are not answered in full.
type answers struct{ waiting []control.Request }

func (h *content) OnOpen(c *net.Conn) {
	c.SetContext(new(answers))
	h.opened.Add(1)
}

func (h *content) OnData(c *net.Conn, b []byte) int {
	a := c.Context().(*answers)
	used := 0
	for ; len(b)-used >= control.RequestBytes; used += control.RequestBytes {
		a.waiting = append(a.waiting, control.ParseRequest(b[used:]))
	}
	h.OnWritable(c)
	return used
}

// OnWritable goes on where the high-water mark had stopped it.
func (h *content) OnWritable(c *net.Conn) {
	a := c.Context().(*answers)
	for len(a.waiting) > 0 && c.Buffered() <= h.high {
		r := &a.waiting[0]
		n := r.N
		if h.piece > 0 {
			n = min(n, uint64(h.piece))
		}
		if err := h.send(c, control.Request{Offset: r.Offset, N: n}); err != nil {
			c.Abort(err)
			return
		}
		if r.Offset, r.N = r.Offset+n, r.N-n; r.N == 0 {
			a.waiting = a.waiting[1:]
		}
	}
}
