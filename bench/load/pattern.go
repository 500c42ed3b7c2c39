package main

import (
	"bytes"
	"fmt"

	"example.com/ringnet/bench/internal/payload"
	"example.com/ringnet/ring"
)

const patternPeriod = payload.Period

// maxChunk is the most bytes that one send or receive moves.
const maxChunk = 256 << 10

// pattern is what every connection sends: the stream of package payload, in which
// each connection starts elsewhere. It is mapped memory, so sends take their bytes
// straight from it.
type pattern struct {
	b []byte // patternPeriod + maxChunk bytes
}

func newPattern() (pattern, error) {
	b, err := ring.Map(patternPeriod + maxChunk)
	if err != nil {
		return pattern{}, fmt.Errorf("map the pattern: %w", err)
	}
	payload.Fill(b)
	return pattern{b}, nil
}

// start is where connection i begins.
func (p pattern) start(i int) uint32 { return uint32(i * 4099 % patternPeriod) }

// at returns n bytes of the stream from position pos on, n at most maxChunk.
func (p pattern) at(pos uint32, n int) []byte { return p.b[pos : int(pos)+n] }

// advance is pos, n bytes later.
func (p pattern) advance(pos uint32, n int) uint32 {
	pos += uint32(n)
	if pos >= patternPeriod {
		pos %= patternPeriod
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

// source is what connections send: bytes that repeat after period. With a stride
// each connection has its own, so far apart.
type source struct {
	b      []byte
	period uint32
	stride int
}

// next is what c sends next: a part of what is due, at most maxChunk bytes.
func (s source) next(c *conn) []byte {
	from := s.stride*int(c.index) + int(c.sendPos)
	n := min(c.due, maxChunk, len(s.b)-from)
	if s.stride > 0 {
		n = min(n, int(s.period-c.sendPos))
	}
	return s.b[from : from+n]
}

// sent takes n bytes off what is due.
func (s source) sent(c *conn, n int) {
	c.due -= n
	c.sendPos += uint32(n)
	if c.sendPos >= s.period {
		c.sendPos %= s.period
	}
}
