//go:build linux

package bufring

import (
	"errors"
	"math/rand/v2"
	"testing"
)

// held is what the model knows of a lease.
type held struct {
	Lease
	fill    byte   // what the bytes were set to
	account *int32 // who pays, nil: nobody
}

// world is the model: it has no memory and no stacks, only who holds what.
type world struct {
	t        *testing.T
	seed     uint64
	rnd      *rand.Rand
	p        *Pool
	g        *Group   // nil: a plain pool
	leased   []held   // with the test
	released []held   // by other goroutines, not reclaimed
	kernel   []uint16 // published ids in the order in which the kernel takes them
	free     int
	charged  [3]int32 // what the accounts must be
	accounts [3]int32 // what they are
}

func (w *world) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("seed %d: "+format, append([]any{w.seed}, args...)...)
}

// hold fills a fresh lease, and charges it or not.
func (w *world) hold(l Lease) {
	h := held{Lease: l, fill: byte(w.rnd.Uint32())}
	for _, other := range w.leased {
		if other.id == l.id {
			w.fatalf("buffer %d is leased twice", l.id)
		}
	}
	for i := range h.Bytes() {
		h.Bytes()[i] = h.fill
	}
	if i := w.rnd.IntN(4); i < len(w.accounts) {
		h.account = &w.charged[i]
		w.charged[i]++
		w.p.Charge(l, &w.accounts[i])
	}
	w.leased = append(w.leased, h)
}

// pick takes a random lease out of the model.
func (w *world) pick() (held, bool) {
	if len(w.leased) == 0 {
		return held{}, false
	}
	i := w.rnd.IntN(len(w.leased))
	h := w.leased[i]
	w.leased[i] = w.leased[len(w.leased)-1]
	w.leased = w.leased[:len(w.leased)-1]
	if !all(h.Bytes(), h.fill) {
		w.fatalf("the bytes of buffer %d changed while it was leased", h.id)
	}
	if w.rnd.IntN(3) == 0 { // give back through a part of it
		i := w.rnd.IntN(h.Len() + 1)
		h.Lease = h.Slice(i, i+w.rnd.IntN(h.Len()-i+1))
	}
	return h, true
}

func (w *world) freed(h held) {
	w.free++
	if h.account != nil {
		*h.account--
	}
	if !all(w.p.buffer(h.id), poisonByte) {
		w.fatalf("buffer %d is free and not poisoned", h.id)
	}
}

func (w *world) reclaimed() {
	for _, h := range w.released {
		w.freed(h)
	}
	w.released = nil
}

func (w *world) step() {
	switch op := w.rnd.IntN(20); {
	case op < 6: // lease
		if w.free == 0 {
			w.reclaimed()
		}
		l, err := w.p.Lease()
		if w.free == 0 {
			if !errors.Is(err, ErrExhausted) {
				w.fatalf("a lease of an exhausted pool: %v", err)
			}
			return
		}
		if err != nil {
			w.fatalf("%v with %d free", err, w.free)
		}
		w.free--
		w.hold(l)
	case op < 9: // put
		if h, ok := w.pick(); ok {
			w.p.Put(h.Lease)
			w.freed(h)
			if w.rnd.IntN(8) == 0 {
				panics(w.t, "a second Put", func() { w.p.Put(h.Lease) })
			}
		}
	case op < 10: // release on this goroutine
		if h, ok := w.pick(); ok {
			h.Release()
			w.released = append(w.released, h)
		}
	case op < 12: // release on another
		var gone []held
		for range w.rnd.IntN(4) {
			if h, ok := w.pick(); ok {
				gone = append(gone, h)
			}
		}
		elsewhere(func() {
			for _, h := range gone {
				h.Release()
			}
		})
		w.released = append(w.released, gone...)
	case op < 13:
		if n := w.p.Reclaim(); n != len(w.released) {
			w.fatalf("reclaimed %d, want %d", n, len(w.released))
		}
		w.reclaimed()
	case w.g == nil:
	case op < 15: // refill
		w.g.Reclaim()
		w.reclaimed()
		before := append([]uint32(nil), w.g.free...)
		w.g.Refill()
		for len(before) > len(w.g.free) { // published last returned first
			top := len(before) - 1
			w.kernel = append(w.kernel, uint16(before[top]))
			before = before[:top]
			w.free--
		}
		if want := min(w.g.Window(), len(w.kernel)+w.free); len(w.kernel) < want {
			w.fatalf("after a refill %d are published, the window is %d and %d are free", len(w.kernel), w.g.Window(), w.free)
		}
	case op < 19: // the kernel fills some
		for range w.rnd.IntN(6) {
			if len(w.kernel) == 0 {
				w.g.Exhausted()
				return
			}
			id := w.kernel[0]
			w.kernel = w.kernel[1:]
			l := w.g.Take(id, w.rnd.IntN(w.g.BufBytes()+1))
			if l.id != uint32(id) {
				w.fatalf("took buffer %d, got %d", id, l.id)
			}
			w.hold(l)
		}
	default:
		if len(w.leased) > 0 { // what the kernel does not hold
			id := uint16(w.leased[0].id)
			panics(w.t, "Take of a leased buffer", func() { w.g.Take(id, 0) })
		}
	}
}

func (w *world) check() {
	if w.p.Free() != w.free || w.p.Out() != w.p.Count()-w.free {
		w.fatalf("%d free and %d out of %d, want %d free", w.p.Free(), w.p.Out(), w.p.Count(), w.free)
	}
	if w.accounts != w.charged {
		w.fatalf("accounts %v, want %v", w.accounts, w.charged)
	}
	if w.free+len(w.leased)+len(w.released)+len(w.kernel) != w.p.Count() {
		w.fatalf("the model lost a buffer") // a bug of this test
	}
	if g := w.g; g != nil {
		if g.Published() != len(w.kernel) || g.Leased() != len(w.leased)+len(w.released) || g.Available() != w.free+len(w.kernel) {
			w.fatalf("published %d, leased %d, available %d; want %d, %d, %d", g.Published(), g.Leased(), g.Available(),
				len(w.kernel), len(w.leased)+len(w.released), w.free+len(w.kernel))
		}
		if g.Window() < g.least || g.Window() > g.Count() {
			w.fatalf("the window is %d, from %d to %d", g.Window(), g.least, g.Count())
		}
	}
}

// end gives everything back.
func (w *world) end() {
	for {
		h, ok := w.pick()
		if !ok {
			break
		}
		w.p.Put(h.Lease)
		w.freed(h)
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
		rnd := rand.New(rand.NewPCG(seed, 1))
		p := newPool(t, PoolOptions{BufBytes: 1 + rnd.IntN(100), Count: 1 + rnd.IntN(20), Poison: true})
		w := &world{t: t, seed: seed, rnd: rnd, p: p, free: p.Count()}
		for range 500 {
			w.step()
			w.check()
		}
		w.end()
	}
}

func TestGroupAgainstAModel(t *testing.T) {
	r := openRing(t)
	for id := range uint16(60) {
		seed := rand.Uint64()
		rnd := rand.New(rand.NewPCG(seed, 2))
		count := 1 + rnd.IntN(40)
		g := newGroup(t, r, GroupOptions{ID: id, BufBytes: 16 + rnd.IntN(100), Count: count, Window: 1 + rnd.IntN(count), Poison: true})
		w := &world{t: t, seed: seed, rnd: rnd, p: &g.Pool, g: g, free: count - g.Published()}
		for i := range g.Published() { // a fresh group publishes from its first buffer on
			w.kernel = append(w.kernel, uint16(i))
		}
		w.check()
		for range 800 {
			w.step()
			w.check()
		}
		w.end()
	}
}
