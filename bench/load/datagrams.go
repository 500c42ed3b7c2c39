package main

import (
	"encoding/binary"
	"fmt"
	"time"

	"example.com/ringnet/bench/internal/payload"
	"example.com/ringnet/ring"
)

// Sizes of datagrams: the number in front, and what IPv4 carries.
const (
	datagramMin = 8
	datagramMax = 65507
)

// datagrams sends and receives datagrams through the ring, each source with so many
// in flight. A datagram begins with its number, so answers may come in any order. One
// that is not answered in time is lost, and the next takes its place.
type datagrams struct {
	*ringed
	size    int
	slots   []slot // those of each source together
	mem     []byte // what slots send
	scanned int64  // when slots were last looked at for lost ones
}

// slot is one datagram in flight. Of a source with four of them the first has the
// numbers 0, 4, 8, …
type slot struct {
	number uint64
	at     int64 // when it was sent; 0: nothing is in flight
}

// scanEvery is how often losses are looked for.
const scanEvery = 10 * time.Millisecond

func newDatagrams(l *load) (*datagrams, error) {
	r, err := newRinged(l)
	if err != nil {
		return nil, err
	}
	d := &datagrams{ringed: r, size: l.plan.sizes[0], slots: make([]slot, len(l.conns)*l.plan.pipeline)}
	if d.mem, err = ring.Map(len(d.slots) * d.size); err != nil {
		return nil, fmt.Errorf("map datagrams: %w", err)
	}
	for i := range d.slots {
		d.slots[i].number = uint64(i % l.plan.pipeline)
	}
	l.take, l.nap = d.answer, scanEvery
	return d, nil
}

// flush sends a source's first datagrams. The later ones follow answers and losses.
func (d *datagrams) flush(c *conn) error {
	for i := 0; c.due > 0; i++ {
		if err := d.send(c, int(c.index)*d.l.plan.pipeline+i); err != nil {
			return err
		}
		c.due -= d.size
	}
	return nil
}

// send sends slot i's datagram, which c belongs to.
func (d *datagrams) send(c *conn, i int) error {
	e, err := d.entry()
	if err != nil {
		return err
	}
	s := &d.slots[i]
	b := d.mem[i*d.size:][:d.size]
	binary.LittleEndian.PutUint64(b, s.number)
	copy(b[datagramMin:], d.l.pattern.at(d.position(c, s.number), d.size-datagramMin))
	e.PrepareSend(int(c.index), b, 0)
	e.UseDirect()
	e.SkipSuccess()
	e.SetUserData(userData(kindSend, c))
	s.at = max(1, d.l.now)
	return nil
}

// position is where in the pattern a datagram's bytes lie.
func (d *datagrams) position(c *conn, number uint64) uint32 {
	return uint32((uint64(d.l.pattern.start(int(c.index))) + number*61) % payload.Period)
}

// answer takes one datagram that has come.
func (d *datagrams) answer(c *conn, b []byte) error {
	wrong := func(format string, args ...any) error {
		return &payloadError{fmt.Errorf("source %d: "+format, append([]any{c.index}, args...)...)}
	}
	if len(b) != d.size {
		return wrong("a datagram of %d bytes came, sent were %d", len(b), d.size)
	}
	number := binary.LittleEndian.Uint64(b)
	i := int(c.index)*d.l.plan.pipeline + int(number%uint64(d.l.plan.pipeline))
	s := &d.slots[i]
	if number > s.number || (number == s.number && s.at == 0) {
		return wrong("datagram %d came and was not sent", number)
	}
	if err := d.l.pattern.mismatch(d.position(c, number), b[datagramMin:]); err != nil {
		return wrong("datagram %d: %w", number, err)
	}
	d.l.bytes += uint64(len(b))
	if number < s.number {
		d.l.late++
		return nil
	}
	d.l.answered(s.at, 1)
	return d.follow(c, i)
}

// follow puts the next datagram into a slot.
func (d *datagrams) follow(c *conn, i int) error {
	s := &d.slots[i]
	s.number += uint64(d.l.plan.pipeline)
	s.at = 0
	c.receives++
	if d.l.draining {
		return nil
	}
	c.sends++
	return d.send(c, i)
}

// settle looks for datagrams that are not answered.
func (d *datagrams) settle() (bool, error) {
	if d.l.now-d.scanned >= int64(scanEvery) {
		d.scanned = d.l.now
		for i := range d.slots {
			if at := d.slots[i].at; at == 0 || d.l.now-at < int64(d.l.plan.timeout) {
				continue
			}
			d.l.lost++
			if err := d.follow(&d.l.conns[i/d.l.plan.pipeline], i); err != nil {
				return false, err
			}
		}
	}
	return d.ringed.settle()
}
