//go:build linux

package net

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// wheelModel is what a wheel should be: a list, sorted by tick and then by the order
// of adding.
type wheelModel struct {
	t     testing.TB
	w     wheel
	now   int64
	list  []modelTimer
	free  []*timer
	added int
}

// lastTick is the largest one that a time can have.
const lastTick = math.MaxInt64/int64(tick) + 1

type modelTimer struct {
	t     *timer
	order int
}

func (m *wheelModel) add(at int64) *timer {
	t := new(timer)
	if n := len(m.free); n > 0 {
		t, m.free = m.free[n-1], m.free[:n-1]
	}
	at = min(at, lastTick)
	m.w.add(t, at, m.now)
	if t.at < at || t.at > max(at, m.now+1) {
		m.t.Fatalf("at tick %d a timer for tick %d is set for %d", m.now, at, t.at)
	}
	m.list = append(m.list, modelTimer{t, m.added})
	m.added++
	m.check()
	return t
}

func (m *wheelModel) remove(i int) {
	m.w.remove(m.list[i].t)
	m.w.remove(m.list[i].t) // once more is nothing
	m.free = append(m.free, m.list[i].t)
	m.list = slices.Delete(m.list, i, i+1)
	m.check()
}

// pass moves the clock on and takes what is due; while that is done, fired may add.
func (m *wheelModel) pass(by int64, fired func()) {
	m.now += max(0, by)
	slices.SortStableFunc(m.list, func(a, b modelTimer) int {
		return cmp.Or(cmp.Compare(a.t.at, b.t.at), cmp.Compare(a.order, b.order))
	})
	for {
		t := m.w.take(m.now)
		if t == nil {
			break
		}
		if t.set || t.next != nil || t.prev != nil {
			m.t.Fatal("a timer that was taken is still in the wheel")
		}
		if len(m.list) == 0 || m.list[0].t != t {
			m.t.Fatalf("at tick %d a timer for %d is taken out of turn", m.now, t.at)
		}
		if t.at > m.now {
			m.t.Fatalf("at tick %d a timer for %d is taken", m.now, t.at)
		}
		m.list = m.list[1:]
		m.free = append(m.free, t)
		if fired != nil {
			fired()
		}
	}
	for _, k := range m.list {
		if k.t.at <= m.now {
			m.t.Fatalf("at tick %d a timer for %d is left", m.now, k.t.at)
		}
	}
	m.check()
}

func (m *wheelModel) check() {
	if m.w.count != len(m.list) {
		m.t.Fatalf("the wheel has %d timers, want %d", m.w.count, len(m.list))
	}
	first, ok := m.w.first()
	if ok != (len(m.list) > 0) {
		m.t.Fatalf("the wheel has a first tick: %v, with %d timers", ok, len(m.list))
	}
	for _, k := range m.list {
		if first > k.t.at {
			m.t.Fatalf("the wheel sleeps until %d, and a timer is due at %d", first, k.t.at)
		}
	}
}

func (m *wheelModel) end() {
	if n := m.w.count; n > 0 {
		m.pass(lastTick-m.now, nil)
	}
	if m.w.used != [wheelLevels]uint64{} || m.w.slots != [wheelLevels][wheelSlots]*timer{} {
		m.t.Fatal("an empty wheel has something in it")
	}
}

func TestWheelAgainstASortedList(t *testing.T) {
	for seed := range uint64(few(400)) {
		r := rand.New(rand.NewPCG(seed, 7))
		m := &wheelModel{t: t, now: r.Int64N(1 << r.IntN(43))}
		m.w.now, m.w.limit = m.now, m.now
		span := func() int64 { return r.Int64N(1 << (1 + r.IntN(1+r.IntN(42)))) }
		most := 1 + r.IntN(60)
		for range 300 {
			switch n := r.IntN(10); {
			case n < 5 && len(m.list) < most:
				m.add(m.now + span() - r.Int64N(3))
			case n < 7 && len(m.list) > 0:
				m.remove(r.IntN(len(m.list)))
			case n < 9:
				m.pass(min(span(), lastTick-1e6-m.now), func() {
					if r.IntN(4) == 0 {
						// Behind all that is due, whatever it says.
						m.list = append(m.list, modelTimer{new(timer), m.added})
						m.added++
						m.w.add(m.list[len(m.list)-1].t, m.now+r.Int64N(100)-50, m.now)
					}
				})
			default: // many at the same tick keep their order
				at := m.now + span()
				for range r.IntN(8) {
					m.add(at)
				}
			}
		}
		m.end()
	}
}

// FuzzWheel reads its input as additions, removals and passing time.
func FuzzWheel(f *testing.F) {
	f.Add([]byte{0, 1, 0, 1, 0, 64, 2, 1, 2, 63})
	f.Add([]byte{3, 255, 255, 255, 255, 2, 255, 4, 255, 255, 255, 255, 1, 0})
	f.Add([]byte{0, 0, 0, 0, 2, 0, 0, 1, 1, 1, 1, 0, 2, 255})
	f.Fuzz(func(t *testing.T, ops []byte) {
		m := &wheelModel{t: t}
		byteOf := func() int64 {
			if len(ops) == 0 {
				return 0
			}
			b := ops[0]
			ops = ops[1:]
			return int64(b)
		}
		long := func() int64 {
			if len(ops) < 4 {
				return 0
			}
			n := binary.LittleEndian.Uint32(ops)
			ops = ops[4:]
			return int64(n) << (n % 11)
		}
		for n := 0; len(ops) > 0 && n < 1000; n++ {
			switch byteOf() % 5 {
			case 0:
				m.add(m.now + byteOf())
			case 1:
				if n := int64(len(m.list)); n > 0 {
					m.remove(int(byteOf() % n))
				}
			case 2:
				m.pass(byteOf(), nil)
			case 3:
				m.add(m.now + long())
			case 4:
				m.pass(min(long(), lastTick-1e6-m.now), nil)
			}
		}
		m.end()
	})
}

// A timer far away costs a wake-up per level on the way, at most, and none is late.
func TestWheelWakesSeldomForFarTimers(t *testing.T) {
	for _, d := range []time.Duration{time.Millisecond, 63 * time.Millisecond, time.Second, time.Minute, time.Hour, 24 * time.Hour, 10000 * time.Hour} {
		var w wheel
		w.now = 123456789
		var tm timer
		w.add(&tm, w.now+int64(d/tick), w.now)
		wakes := 0
		for {
			at, ok := w.first()
			if !ok {
				t.Fatal("lost")
			}
			wakes++
			if w.take(at) == &tm {
				if at != tm.at {
					t.Errorf("%v: due at %d, taken at %d", d, tm.at, at)
				}
				break
			}
		}
		if wakes > wheelLevels {
			t.Errorf("%v: %d wake-ups", d, wakes)
		}
	}
}

func TestWheelAllocatesNothing(t *testing.T) {
	var w wheel
	timers := make([]timer, 1000)
	now := int64(0)
	n := testing.AllocsPerRun(100, func() {
		for i := range timers {
			w.add(&timers[i], now+int64(i*i), now)
		}
		for i := 0; i < len(timers); i += 2 {
			w.remove(&timers[i])
		}
		now += 2_000_000
		for w.take(now) != nil {
		}
	})
	if n > 0 || w.count != 0 {
		t.Errorf("%v allocations, %d timers left", n, w.count)
	}
}

func TestTicksAreNeverEarlyAndTimeHasAnEnd(t *testing.T) {
	ms := int64(time.Millisecond)
	for _, c := range []struct{ ns, at int64 }{{0, 0}, {1, 1}, {ms - 1, 1}, {ms, 1}, {ms + 1, 2}, {math.MaxInt64, math.MaxInt64/ms + 1}} {
		if got := tickAfter(c.ns); got != c.at {
			t.Errorf("the tick after %d ns is %d, want %d", c.ns, got, c.at)
		}
	}
	if plus(5, math.MaxInt64) != math.MaxInt64 || plus(5, -3) != 2 || plus(math.MaxInt64-1, 1) != math.MaxInt64 {
		t.Error("sums of times overflow")
	}
}
