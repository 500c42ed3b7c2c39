//go:build linux

package bufring

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// dice decide what happens next: a seeded generator, or what a fuzzer came up with.
type dice interface {
	IntN(n int) int
	over() bool
}

type seeded struct{ *rand.Rand }

func (seeded) over() bool { return false }

// written are dice whose rolls are written down.
type written struct{ rolls []byte }

func (d *written) IntN(n int) int {
	v := 0
	for most := 1; most < n; most <<= 8 {
		if len(d.rolls) == 0 {
			break
		}
		v = v<<8 | int(d.rolls[0])
		d.rolls = d.rolls[1:]
	}
	return v % n
}

func (d *written) over() bool { return len(d.rolls) == 0 }

// held is what the model knows of a lease.
type held struct {
	Lease
	want    []byte // its bytes
	end     int    // where they end in the buffer
	size    int    // of the buffer
	account *int32 // who pays, nil: nobody
	wrapped bool   // memory of the heap
}

// world is the model. It has no memory of buffers, only who holds what and in which
// order it comes back.
type world struct {
	t        testing.TB
	what     string // to find a failure again
	dice     dice
	p        *Pool
	g        *Group   // nil: a plain pool
	free     []uint32 // the last one is handed out next
	leased   []held   // with the test
	released []held   // on the stack of returned ones, not reclaimed
	kernel   []uint32 // published ids in the order in which the kernel takes them
	gone     []Lease  // that were consumed
	charged  [3]int32 // what the accounts must be
	accounts [3]int32 // what they are
	awaiting bool
	calls    int // of notify, which there must have been
	called   int // and which there were

	window, taken, calm int
}

// newWorld models p as it is when it is fresh.
func newWorld(t testing.TB, what string, d dice, p *Pool) *world {
	w := &world{t: t, what: what, dice: d, p: p}
	for i := range p.Count() {
		w.free = append(w.free, uint32(p.Count()-1-i)) // the first buffer lies on top
	}
	p.Notify(func() { w.called++ })
	return w
}

// newGroupWorld models g as it is when it is fresh.
func newGroupWorld(t testing.TB, what string, d dice, g *Group) *world {
	w := newWorld(t, what, d, &g.Pool)
	w.g, w.window = g, g.Window()
	w.publish()
	return w
}

func (w *world) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s: %s", w.what, fmt.Sprintf(format, args...))
}

// some is n bytes at most.
func (w *world) some(n int) []byte {
	b := make([]byte, w.dice.IntN(n+1))
	fill := byte(w.dice.IntN(256))
	for i := range b {
		b[i] = fill + byte(i)
	}
	return b
}

// hold takes a fresh lease of n bytes in: it must be that of buffer id.
func (w *world) hold(l Lease, id uint32, n int) {
	if l.id != id || l.Len() != n || len(l.Bytes()) != n || !w.p.Owns(l) || !l.Valid() {
		w.fatalf("a lease of %d bytes of buffer %d, want %d of %d", l.Len(), l.id, n, id)
	}
	h := held{Lease: l, end: n, size: w.p.BufBytes(), want: make([]byte, n)}
	fill := byte(w.dice.IntN(256))
	for i := range h.want {
		h.want[i] = fill + byte(i)
	}
	copy(l.Bytes(), h.want)
	if i := w.dice.IntN(4); i < len(w.accounts) {
		h.account = &w.charged[i]
		w.charged[i]++
		w.p.Charge(l, &w.accounts[i])
		w.p.Charge(l, &w.accounts[(i+1)%3]) // one account a lease: the first
	}
	w.leased = append(w.leased, h)
}

// pick takes a random lease out of the model.
func (w *world) pick() (held, bool) {
	if len(w.leased) == 0 {
		return held{}, false
	}
	i := w.dice.IntN(len(w.leased))
	h := w.leased[i]
	w.leased[i] = w.leased[len(w.leased)-1]
	w.leased = w.leased[:len(w.leased)-1]
	return h, true
}

// part narrows a lease down to a part of it.
func (w *world) part(h held) held {
	i := w.dice.IntN(h.Len() + 1)
	j := i + w.dice.IntN(h.Len()-i+1)
	for _, bad := range [][2]int{{-1, 0}, {0, h.Len() + 1}, {h.Len() + 1, h.Len() + 1}, {j + 1, j}} {
		panics(w.t, "a slice beyond the lease", func() { h.Slice(bad[0], bad[1]) })
	}
	h.end -= h.Len() - j
	h.Lease, h.want = h.Slice(i, j), h.want[i:j]
	return h
}

// leave notes that a lease was consumed by Release: it is on the stack of returned
// ones, and its owner is told if he asked for it.
func (w *world) leave(h held) {
	w.bury(h)
	if h.wrapped {
		return
	}
	w.released = append(w.released, h)
	if w.awaiting {
		w.awaiting = false
		w.calls++
	}
}

func (w *world) bury(h held) {
	if w.gone = append(w.gone, h.Lease); len(w.gone) > 8 {
		w.gone = w.gone[1:]
	}
}

// freed notes that a buffer is on the stack of free ones.
func (w *world) freed(h held) {
	w.free = append(w.free, h.id)
	if h.account != nil {
		*h.account--
	}
	if !all(w.p.buffer(h.id), poisonByte) {
		w.fatalf("buffer %d is free and not poisoned", h.id)
	}
}

// reclaimed notes that the stack of returned ones was taken in, last one first.
func (w *world) reclaimed() {
	for _, h := range slices.Backward(w.released) {
		w.freed(h)
	}
	w.released = nil
}

// publish notes that the window was filled up, last returned first.
func (w *world) publish() {
	for len(w.kernel) < w.window && len(w.free) > 0 {
		top := len(w.free) - 1
		w.kernel = append(w.kernel, w.free[top])
		w.free = w.free[:top]
	}
}

func (w *world) grow() { w.window, w.calm = min(w.p.Count(), 2*w.window), 0 }

// refilled notes what a refill makes of the window.
func (w *world) refilled() {
	w.reclaimed()
	switch {
	case w.taken*2 > w.window:
		w.grow()
	case w.taken*8 < w.window && w.window > w.g.least:
		if w.calm++; w.calm >= calmRefills {
			w.window, w.calm = max(w.g.least, w.window/2), 0
		}
	default:
		w.calm = 0
	}
	w.taken = 0
	w.publish()
}

func (w *world) step() {
	switch op := w.dice.IntN(32); {
	case op < 6: // lease
		if len(w.free) == 0 {
			w.reclaimed()
		}
		l, err := w.p.Lease()
		if len(w.free) == 0 {
			if !errors.Is(err, ErrExhausted) || l.Valid() {
				w.fatalf("a lease of an exhausted pool: %v", err)
			}
			return
		}
		if err != nil {
			w.fatalf("%v with %d free", err, len(w.free))
		}
		top := len(w.free) - 1
		id := w.free[top]
		w.free = w.free[:top]
		w.hold(l, id, w.p.BufBytes())
	case op < 7: // wrap
		b := w.some(50)
		h := held{Lease: Wrap(b), want: bytes.Clone(b), end: len(b), size: len(b), wrapped: true}
		account := int32(0)
		if w.p.Charge(h.Lease, &account); account != 0 || w.p.Owns(h.Lease) {
			w.fatalf("the pool takes wrapped memory for its own")
		}
		w.leased = append(w.leased, h)
	case op < 9: // put
		if h, ok := w.pick(); ok {
			w.p.Put(h.Lease)
			if w.bury(h); !h.wrapped {
				w.freed(h)
			}
		}
	case op < 11: // put a part
		if h, ok := w.pick(); ok {
			h = w.part(h)
			w.p.Put(h.Lease)
			if w.bury(h); !h.wrapped {
				w.freed(h)
			}
		}
	case op < 12: // release on this goroutine
		if h, ok := w.pick(); ok {
			h.Release()
			w.leave(h)
		}
	case op < 14: // release on another
		var some []held
		for range w.dice.IntN(4) {
			if h, ok := w.pick(); ok {
				some = append(some, w.part(h))
			}
		}
		elsewhere(func() {
			for _, h := range some {
				h.Release()
			}
		})
		for _, h := range some {
			w.leave(h)
		}
	case op < 15: // release again what was released
		if len(w.gone) > 0 {
			l := w.gone[w.dice.IntN(len(w.gone))]
			panics(w.t, "a second Release", l.Release)
			panics(w.t, "a second Put", func() { w.p.Put(l) })
		}
	case op < 16: // a part
		if h, ok := w.pick(); ok {
			w.leased = append(w.leased, w.part(h))
		}
	case op < 18: // append
		if h, ok := w.pick(); ok {
			more := w.some(150)
			l, n := h.Append(more)
			if room := h.size - h.end; n != min(room, len(more)) {
				w.fatalf("of %d bytes %d were appended, there was room for %d", len(more), n, room)
			}
			h.Lease, h.end, h.want = l, h.end+n, append(bytes.Clone(h.want), more[:n]...)
			w.leased = append(w.leased, h)
		}
	case op < 19:
		if n := w.p.Reclaim(); n != len(w.released) {
			w.fatalf("reclaimed %d, want %d", n, len(w.released))
		}
		w.reclaimed()
	case op < 20:
		w.p.Await()
		w.awaiting = true
	case op < 21: // close, too early
		if w.out() == 0 {
			return
		}
		w.reclaimed() // closing looks for what is back
		if w.out() == 0 {
			w.p.Reclaim()
			return
		}
		closing := w.p.Close
		if w.g != nil {
			closing = w.g.Close
		}
		if err := closing(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%d of %d buffers", w.out(), w.p.Count())) {
			w.fatalf("close with %d leases out: %v", w.out(), err)
		}
	case w.g == nil:
	case op < 24: // refill
		w.g.Refill()
		w.refilled()
	case op < 25: // refill after a long calm
		w.g.calm, w.calm = calmRefills-1, calmRefills-1
		w.g.Refill()
		w.refilled()
	case op < 30: // the kernel fills some
		for range w.dice.IntN(6) {
			if len(w.kernel) == 0 {
				w.g.Exhausted()
				w.grow()
				return
			}
			id, n := w.kernel[0], w.dice.IntN(w.g.BufBytes()+1)
			w.kernel = w.kernel[1:]
			w.taken++
			w.hold(w.g.Take(uint16(id), n), id, n)
		}
	case op < 31: // what the kernel does not hold, or cannot have filled
		id := uint16(w.dice.IntN(w.p.Count() + 2))
		if slices.Contains(w.kernel, uint32(id)) {
			panics(w.t, "Take of too many bytes", func() { w.g.Take(id, w.g.BufBytes()+1) })
			panics(w.t, "Take of fewer bytes than none", func() { w.g.Take(id, -1) })
		} else {
			panics(w.t, "Take of a buffer that the kernel does not hold", func() { w.g.Take(id, 0) })
		}
	default:
		w.g.Exhausted()
		w.grow()
	}
}

// out is how many of the pool's buffers are leased.
func (w *world) out() int { return w.p.Count() - len(w.free) - len(w.kernel) }

func (w *world) check() {
	if w.p.Free() != len(w.free) || w.p.Out() != w.p.Count()-len(w.free) {
		w.fatalf("%d free and %d out of %d, want %d free", w.p.Free(), w.p.Out(), w.p.Count(), len(w.free))
	}
	if w.accounts != w.charged {
		w.fatalf("accounts %v, want %v", w.accounts, w.charged)
	}
	if w.called != w.calls {
		w.fatalf("notify was called %d times, want %d", w.called, w.calls)
	}
	out := len(w.released)
	for _, h := range w.leased {
		if !bytes.Equal(h.Bytes(), h.want) || h.Len() != len(h.want) {
			w.fatalf("the bytes of buffer %d changed while it was leased: %x, want %x", h.id, h.Bytes(), h.want)
		}
		if !h.wrapped {
			out++
		}
	}
	if out != w.out() {
		w.fatalf("the model lost a buffer") // a bug of this test
	}
	if g := w.g; g != nil {
		if g.Published() != len(w.kernel) || g.Leased() != out || g.Available() != len(w.free)+len(w.kernel) {
			w.fatalf("published %d, leased %d, available %d; want %d, %d, %d", g.Published(), g.Leased(), g.Available(),
				len(w.kernel), out, len(w.free)+len(w.kernel))
		}
		if g.Window() != w.window || w.window < g.least || w.window > g.Count() {
			w.fatalf("the window is %d, want %d, from %d to %d", g.Window(), w.window, g.least, g.Count())
		}
	}
}

// run lets the dice decide, and then gives everything back.
func (w *world) run(steps int) {
	w.check()
	for range steps {
		if w.dice.over() {
			break
		}
		w.step()
		w.check()
	}
	for {
		h, ok := w.pick()
		if !ok {
			break
		}
		w.p.Put(h.Lease)
		if !h.wrapped {
			w.freed(h)
		}
	}
	w.p.Reclaim()
	w.reclaimed()
	w.check()
	if w.charged != [3]int32{} {
		w.fatalf("everything is back, and the accounts are %v", w.charged)
	}
}

func TestPoolAgainstAModel(t *testing.T) {
	for range 60 {
		seed := rand.Uint64()
		d := seeded{rand.New(rand.NewPCG(seed, 1))}
		p := newPool(t, PoolOptions{BufBytes: 1 + d.IntN(100), Count: 1 + d.IntN(20), Poison: true})
		newWorld(t, fmt.Sprintf("seed %d", seed), d, p).run(500)
	}
}

func TestGroupAgainstAModel(t *testing.T) {
	r := openRing(t)
	for id := range uint16(60) {
		seed := rand.Uint64()
		d := seeded{rand.New(rand.NewPCG(seed, 2))}
		count := 1 + d.IntN(40)
		g := newGroup(t, r, GroupOptions{ID: id, BufBytes: 16 + d.IntN(100), Count: count, Window: 1 + d.IntN(count), Poison: true})
		newGroupWorld(t, fmt.Sprintf("seed %d", seed), d, g).run(800)
	}
}

// rolls are n bytes that look random.
func rolls(seed uint64, n int) []byte {
	b := make([]byte, n)
	rnd := rand.New(rand.NewPCG(seed, 3))
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

func FuzzPool(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(rolls(seed, 400))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &written{data}
		p, err := NewPool(PoolOptions{BufBytes: 1 + d.IntN(100), Count: 1 + d.IntN(20), Poison: true})
		if err != nil {
			t.Fatal(err)
		}
		newWorld(t, "these rolls", d, p).run(2000)
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
}

func FuzzGroup(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(rolls(seed, 600))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &written{data}
		r := openRing(t)
		count := 1 + d.IntN(40)
		g := newGroup(t, r, GroupOptions{ID: uint16(d.IntN(1 << 16)), BufBytes: 16 + d.IntN(100), Count: count, Window: 1 + d.IntN(count), Poison: true})
		newGroupWorld(t, "these rolls", d, g).run(2000)
	})
}
