//go:build linux

package net

import (
	"math"
	"math/bits"
	"time"
)

// tick is the granularity of timers. They are for timeouts and pauses, of which one
// millisecond more or less is nothing; the kernel's own sleeps are 50 µs late by
// default, and a turn of a busy loop takes longer. It has those that are due about
// the same time fire with one wake-up.
const tick = time.Millisecond

// wheel holds the timers of a loop by the tick at which they are due. Adding and
// removing one takes the same short time however many there are, and allocates
// nothing: a timer brings its own links.
//
// A level has 64 slots, each as wide as all of the level below. A timer lies in the
// level of the highest six bits in which its tick differs from now:
//
//	tick   …│ level 2 │ level 1 │ level 0 │
//	now    …│   5     │   17    │   40    │
//	at     …│   5     │   20    │    3    │   lies in level 1, slot 20
//
// So in each level only slots behind now's are in use, none wraps around, and what
// is due first is in the first slot of the lowest level that has any. When now
// reaches a slot above level 0, what lies in it is put where it belongs from there.
type wheel struct {
	now   int64 // everything due before it has been taken
	limit int64 // what is added is due after it: the end of the last taking
	count int
	used  [wheelLevels]uint64 // which slots have timers
	slots [wheelLevels][wheelSlots]*timer
}

const (
	wheelBits   = 6
	wheelSlots  = 1 << wheelBits
	wheelLevels = 8 // 48 bits of milliseconds, more than the clock can show
)

// timer is what a wheel holds. It is part of whatever it wakes.
type timer struct {
	next, prev *timer // of the same slot, in a circle
	at         int64  // the tick at which it is due
	owner      expirer
	level      uint8
	slot       uint8
	set        bool // it is in the wheel
}

// expirer is told that its timer is due; the timer is out of the wheel then. On the
// loop's goroutine, and a panic is taken for one of the handler that runs.
type expirer interface{ expired(l *loop) }

// tickAfter is the first tick that is not before a time in nanoseconds: what waits
// for it is never early.
func tickAfter(ns int64) int64 {
	at := ns / int64(tick)
	if ns%int64(tick) > 0 {
		at++
	}
	return at
}

// tickAt is the tick that a time lies in.
func tickAt(ns int64) int64 { return ns / int64(tick) }

// plus is t+d, or the end of time.
func plus(t int64, d time.Duration) int64 {
	if d > 0 && t > math.MaxInt64-int64(d) {
		return math.MaxInt64
	}
	return t + int64(d)
}

// add puts t in, to be due at a tick. now is the tick of the clock.
func (w *wheel) add(t *timer, at, now int64) {
	w.forward(now)
	t.at = max(at, w.limit+1, w.now+1)
	w.put(t)
	w.count++
}

// forward moves now on where nothing is in the way, so that a timer lies as low as
// it can.
func (w *wheel) forward(now int64) {
	if first, ok := w.first(); ok {
		now = min(now, first-1)
	}
	w.now = max(w.now, now)
}

// put links t where it belongs.
func (w *wheel) put(t *timer) {
	level := 0
	if differ := t.at ^ w.now; differ >= wheelSlots {
		level = (bits.Len64(uint64(differ)) - 1) / wheelBits
	}
	t.level, t.slot, t.set = uint8(level), uint8(t.at>>(level*wheelBits)&(wheelSlots-1)), true
	if head := w.slots[t.level][t.slot]; head != nil {
		t.next, t.prev = head, head.prev
		head.prev.next = t
		head.prev = t
		return
	}
	t.next, t.prev = t, t
	w.slots[t.level][t.slot] = t
	w.used[t.level] |= 1 << t.slot
}

// remove takes t out, if it is in.
func (w *wheel) remove(t *timer) {
	if !t.set {
		return
	}
	t.set = false
	w.count--
	head := &w.slots[t.level][t.slot]
	if t.next == t {
		*head = nil
		w.used[t.level] &^= 1 << t.slot
	} else {
		t.next.prev, t.prev.next = t.prev, t.next
		if *head == t {
			*head = t.next
		}
	}
	t.next, t.prev = nil, nil
}

// first is the tick by which the wheel has to be looked at again: when the next
// timer is due, or sooner, when it is in a wide slot. Each timer has that happen
// at most once per level.
func (w *wheel) first() (at int64, ok bool) {
	for level, used := range w.used {
		if used != 0 {
			above := (level + 1) * wheelBits
			return w.now>>above<<above | int64(bits.TrailingZeros64(used))<<(level*wheelBits), true
		}
	}
	return 0, false
}

// take takes out the next timer that is due by a tick; nil: no more. Timers come in
// the order of their ticks, and those of one tick in the order in which they were
// added. What is added until the next call with a later tick is not among them.
func (w *wheel) take(until int64) *timer {
	w.limit = max(w.limit, until)
	for {
		at, ok := w.first()
		if !ok || at > until {
			w.now = max(w.now, until)
			return nil
		}
		w.now = at
		for level, used := range w.used {
			if used == 0 {
				continue
			}
			t := w.slots[level][bits.TrailingZeros64(used)]
			if level == 0 {
				w.remove(t)
				return t
			}
			w.spread(level, t)
			break
		}
	}
}

// spread puts the timers of a slot that now has reached where they belong from here.
func (w *wheel) spread(level int, head *timer) {
	w.slots[level][head.slot] = nil
	w.used[level] &^= 1 << head.slot
	head.prev.next = nil
	for t := head; t != nil; {
		next := t.next
		w.put(t)
		t = next
	}
}
