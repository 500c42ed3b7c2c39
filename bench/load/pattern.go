package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"

	"example.com/ringnet/ring"
)

// patternPeriod is after how many bytes the pattern repeats. A prime, so that no
// size of message or buffer divides it: bytes that are lost, doubled, swapped or
// from another connection do not fit, unless they are off by exactly this much.
// Small, so that it stays in the first-level cache.
const patternPeriod = 16381

// maxChunk is the most bytes that one send or receive moves.
const maxChunk = 256 << 10

// pattern is what every connection sends: one endless stream that repeats after
// patternPeriod bytes, and in which each connection starts elsewhere. It is
// mapped memory, so sends take their bytes straight from it.
type pattern struct {
	b []byte // patternPeriod + maxChunk bytes
}

func newPattern() (pattern, error) {
	b, err := ring.Map(patternPeriod + maxChunk)
	if err != nil {
		return pattern{}, fmt.Errorf("map the pattern: %w", err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range patternPeriod {
		b[i] = byte(random.Uint32())
	}
	for n := patternPeriod; n < len(b); n *= 2 {
		copy(b[n:], b[:n])
	}
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
