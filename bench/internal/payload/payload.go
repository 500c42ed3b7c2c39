// Package payload is the bytes that are sent in benchmarks: one endless stream that
// repeats after [Period] bytes.
package payload

import "math/rand/v2"

// Period is after how many bytes the stream repeats. A prime, so that no size of
// message or buffer divides it: bytes that are lost, doubled, swapped or from
// another connection do not fit, unless they are off by exactly this much. Small,
// so that it stays in the first-level cache.
const Period = 16381

// Fill writes the beginning of the stream to b.
func Fill(b []byte) {
	random := rand.New(rand.NewPCG(1, 2))
	for i := range min(Period, len(b)) {
		b[i] = byte(random.Uint32())
	}
	for n := Period; n < len(b); n *= 2 {
		copy(b[n:], b[:n])
	}
}

// Messages cuts the stream into messages of one size.
type Messages struct {
	b         []byte
	size, pos int
}

// NewMessages begins at the beginning of the stream.
func NewMessages(size int) *Messages {
	m := &Messages{b: make([]byte, Period+size), size: size}
	Fill(m.b)
	return m
}

// Next is the next message. It must not be changed.
func (m *Messages) Next() []byte {
	b := m.b[m.pos:][:m.size]
	m.pos = (m.pos + m.size) % Period
	return b
}
