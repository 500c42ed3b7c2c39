package main

import (
	"bytes"
	"fmt"

	"example.com/ringnet/bench/internal/payload"
	"example.com/ringnet/ring"
)

// maxChunk is the most bytes that one send or receive moves.
const maxChunk = 256 << 10

// pattern is a stream that repeats: what every connection sends, and what it is to
// receive. It is mapped memory, so sends take their bytes straight from it.
type pattern struct {
	b      []byte // period + maxChunk bytes
	period uint32
}

// newPattern makes the stream of package payload, in which each connection starts
// elsewhere.
func newPattern() (pattern, error) {
	once := make([]byte, payload.Period)
	payload.Fill(once)
	return repeating(once)
}

// repeating makes a pattern of once, again and again.
func repeating(once []byte) (pattern, error) {
	b, err := ring.Map(len(once) + maxChunk)
	if err != nil {
		return pattern{}, fmt.Errorf("map the pattern: %w", err)
	}
	for n := copy(b, once); n < len(b); n *= 2 {
		copy(b[n:], b[:n])
	}
	return pattern{b, uint32(len(once))}, nil
}

// start is where connection i begins.
func (p pattern) start(i int) uint32 { return uint32(i * 4099 % int(p.period)) }

// at returns n bytes of the stream from position pos on, n at most maxChunk.
func (p pattern) at(pos uint32, n int) []byte { return p.b[pos : int(pos)+n] }

// advance is pos, n bytes later.
func (p pattern) advance(pos uint32, n int) uint32 {
	pos += uint32(n)
	if pos >= p.period {
		pos %= p.period
	}
	return pos
}

// mismatch explains where got differs from the stream at pos; nil if it does not.
func (p pattern) mismatch(pos uint32, got []byte) error {
	want := p.at(pos, len(got))
	if bytes.Equal(got, want) {
		return nil
	}
	at := 0
	for got[at] == want[at] {
		at++
	}
	return fmt.Errorf("byte %d of %d is %#02x, sent was %#02x", at, len(got), got[at], want[at])
}

// source is where the bytes come from that connections send.
type source interface {
	// next is what c sends next: a part of what is due, at most maxChunk bytes.
	next(c *conn) []byte
	// sent takes n of these bytes off what is due.
	sent(c *conn, n int)
}

// looped is bytes that repeat after period. With a stride each connection has its
// own, so far apart.
type looped struct {
	b      []byte
	period uint32
	stride int
}

func (s *looped) next(c *conn) []byte {
	from := s.stride*int(c.index) + int(c.sendPos)
	n := min(c.due, maxChunk, len(s.b)-from)
	if s.stride > 0 {
		n = min(n, int(s.period-c.sendPos))
	}
	return s.b[from : from+n]
}

func (s *looped) sent(c *conn, n int) {
	c.due -= n
	c.sendPos += uint32(n)
	if c.sendPos >= s.period {
		c.sendPos %= s.period
	}
}
