//go:build linux

package net

import "math"

// A loop counts the bytes that it holds for its connections: output that is not sent
// and input that is not consumed. Options.MaxLoopBytes bounds them, in three steps:
//
//	above half     nothing more is read from connections whose output is above the
//	               average that this half allows; what they hold has to go out first.
//	               Light connections go on: all of them together are within the half
//	input > half   the connection that keeps most is closed: input that waits for its
//	               rest cannot be got rid of by not reading
//	at the bound   writes are refused
//
// Counting costs an addition where a segment comes or goes.

// hold counts n bytes of a segment more, or less, if they are the loop's: other
// memory is there whether they wait or not, and what is read of files has its bound.
func (l *loop) hold(s *segment, n int) {
	if s.owner == nil && s.file == nil {
		l.held += n
	}
}

// holdInput counts n bytes of c's input more, or less. That of blocking code is not for
// the second step: it is consumed in its time, and meanwhile no more of it is read.
func (l *loop) holdInput(c *Conn, n int) {
	l.held += n
	if c.stream == nil {
		l.heldInput += n
	}
}

// setMarks sets the marks by which connections are steered, and from how many bytes
// held on they are set anew.
func (l *loop) setMarks(high, low, heavyFrom int) { l.high, l.low, l.heavyFrom = high, low, heavyFrom }

// heavy reports that the first step is taken.
func (l *loop) heavy() bool { return l.heavyFrom == math.MaxInt }

// load takes the first step. Its marks go by the number of connections at this time:
// those that come later have nothing yet.
func (l *loop) load() {
	l.stats.Heavy++
	share := max(1, l.o.MaxLoopBytes/2/max(1, l.table.used))
	l.setMarks(min(l.o.HighWater, share), min(l.o.LowWater, share), math.MaxInt)
	l.table.each(func(c *Conn) {
		if l.checkHigh(c); c.state&overHigh != 0 {
			l.mark(c)
		}
	})
}

// unload takes it back, some way below the half so that it is not taken again at
// once.
func (l *loop) unload() {
	if l.held <= l.o.MaxLoopBytes/4 {
		l.setMarks(l.o.HighWater, l.o.LowWater, l.o.MaxLoopBytes/2)
	}
}

// keeps is how many bytes of input are kept for c.
func (c *Conn) keeps() int {
	if c.state&layered != 0 {
		return len(c.rare.kept) + c.rare.layer.held
	}
	return len(c.seldom().kept)
}

// checkInput takes the second step: it ends the connections that keep most, while
// all together keep too much.
func (l *loop) checkInput() {
	for l.heldInput > l.o.MaxLoopBytes/2 {
		var most *Conn
		l.table.each(func(c *Conn) {
			if kept := c.keeps(); kept > 0 && c.stream == nil && !c.parts() && (most == nil || kept > most.keeps()) {
				most = c
			}
		})
		if most == nil {
			return
		}
		l.stats.Evicted++
		l.abort(most, ErrUnconsumed) // which drops what it keeps
	}
}
