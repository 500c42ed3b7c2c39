//go:build linux

package bufring

import (
	"fmt"

	"example.com/ringnet/ring"
)

// GroupOptions is what a group is made with.
type GroupOptions struct {
	// ID names the group in entries; each group of a ring has its own.
	ID uint16
	// BufBytes is the size of a buffer. Default 4 KiB, range 16 to 1 GiB.
	BufBytes int
	// Count is how many buffers there are. Default 1,024, range 1 to 32,768.
	Count int
	// Window is the least number of buffers that are kept with the kernel. The
	// kernel takes them oldest first, so every published buffer is visited in
	// turn: a small window keeps the working set in the cache, and it grows by
	// itself while the load needs more. Default 32, at most Count.
	Window int
	// Poison overwrites returned buffers. For tests.
	Poison bool
}

// check fills the defaults in and refuses what is out of range.
func (o GroupOptions) check() (GroupOptions, error) {
	if o.BufBytes == 0 {
		o.BufBytes = 4096
	}
	if o.BufBytes < 16 || o.BufBytes > 1<<30 {
		return o, fmt.Errorf("bufring: BufBytes is %d: it must be from 16 to 1073741824", o.BufBytes)
	}
	if o.Count == 0 {
		o.Count = 1024
	}
	if o.Count < 1 || o.Count > maxGroup {
		return o, fmt.Errorf("bufring: Count is %d: it must be from 1 to %d", o.Count, maxGroup)
	}
	if o.Window == 0 {
		o.Window = min(32, o.Count)
	}
	if o.Window < 1 || o.Window > o.Count {
		return o, fmt.Errorf("bufring: Window is %d: it must be from 1 to Count (%d)", o.Window, o.Count)
	}
	return o, nil
}

// maxGroup is the most buffers in a group: buffer ids have 16 bits, and the
// kernel's ring has at most 32,768 places (io_register_pbuf_ring).
const maxGroup = 32768

// Group is a pool whose buffers the kernel fills. It belongs to the goroutine of
// the ring it is registered with.
type Group struct {
	Pool
	r         *ring.Ring
	ring      *ring.BufRing
	id        uint16
	published int // buffers with the kernel
	window    int // how many there should be
	least     int
	taken     int // since the last Refill
	calm      int // Refills in a row that needed less than an eighth of the window
}

// calmRefills is after how many quiet refills the window is halved: long enough
// that a load which comes in waves of a second keeps its window.
const calmRefills = 1 << 14

// NewGroup maps a group's memory and registers it with r, which must be enabled.
// On r's goroutine. Since Linux 5.19 (ring.BufferRings).
func NewGroup(r *ring.Ring, o GroupOptions) (*Group, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	places := 1
	for places < o.Count {
		places *= 2
	}
	p, err := NewPool(PoolOptions{BufBytes: o.BufBytes, Count: o.Count, Poison: o.Poison})
	if err != nil {
		return nil, err
	}
	br, err := ring.NewBufRing(places)
	if err != nil {
		_ = p.Close()
		return nil, err
	}
	g := &Group{r: r, ring: br, id: o.ID, window: o.Window, least: o.Window}
	g.adopt(p)
	if err := r.RegisterBufRing(o.ID, br); err != nil {
		_ = br.Close()
		_ = g.Pool.Close()
		return nil, err
	}
	g.Refill()
	return g, nil
}

// adopt takes the contents of a fresh pool over.
func (g *Group) adopt(p *Pool) {
	g.mem, g.bufBytes, g.stride, g.poison = p.mem, p.bufBytes, p.stride, p.poison
	g.free, g.bufs = p.free, p.bufs
}

// Close takes the group back from the kernel and unmaps it. No receive may be
// armed on it and every lease must be back.
func (g *Group) Close() error {
	g.Reclaim()
	if g.mem == nil {
		return nil
	}
	if leased := g.Leased(); leased != 0 {
		return fmt.Errorf("bufring: close group %d: %d of %d buffers are still leased", g.id, leased, g.Count())
	}
	if err := g.r.UnregisterBufRing(g.id); err != nil {
		return err
	}
	if err := g.ring.Close(); err != nil {
		return err
	}
	// What the kernel had not taken is ours again. The order no longer matters.
	g.free = g.free[:cap(g.free)]
	g.published = 0
	return g.Pool.Close()
}

// ID is the group's number in entries.
func (g *Group) ID() uint16 { return g.id }

// Published is how many buffers are with the kernel.
func (g *Group) Published() int { return g.published }

// Window is how many buffers a Refill leaves with the kernel, if there are as many.
func (g *Group) Window() int { return g.window }

// Leased is how many buffers are leased.
func (g *Group) Leased() int { return g.Count() - len(g.free) - g.published }

// Available is how many buffers are with the kernel or could be.
func (g *Group) Available() int { return g.published + len(g.free) }

// Take accepts from the kernel the buffer id, of which a completion says that it
// was filled with n bytes. Every completion with a buffer must be taken exactly
// once, also when nobody wants its bytes.
func (g *Group) Take(id uint16, n int) Lease {
	if int(id) >= len(g.bufs) || g.bufs[id].next != withKernel {
		panic(fmt.Sprintf("bufring: group %d: the kernel filled buffer %d, which it does not hold", g.id, id))
	}
	if n < 0 || n > g.bufBytes {
		panic(fmt.Sprintf("bufring: group %d: the kernel filled buffer %d with %d bytes, it has %d", g.id, id, n, g.bufBytes))
	}
	g.bufs[id].next = 0
	g.published--
	g.taken++
	return g.lease(uint32(id), n)
}

// Exhausted widens the window: a receive found no buffer with the kernel.
func (g *Group) Exhausted() { g.grow() }

func (g *Group) grow() {
	g.window = min(g.Count(), g.window*2)
	g.calm = 0
}

// Refill publishes free buffers until the window is full, last returned first,
// with one store for all. Call it once per turn, before entering the kernel.
func (g *Group) Refill() {
	g.Reclaim()
	// One enter must never find the window empty while buffers are free: a
	// receive that ends with ENOBUFS costs far more than a published buffer.
	if g.taken*2 > g.window {
		g.grow()
	} else if g.taken*8 < g.window && g.window > g.least {
		if g.calm++; g.calm >= calmRefills {
			g.calm = 0
			g.window = max(g.least, g.window/2)
		}
	} else {
		g.calm = 0
	}
	g.taken = 0
	n := min(g.window-g.published, len(g.free))
	if n <= 0 {
		return
	}
	for range n {
		top := len(g.free) - 1
		id := g.free[top]
		g.free = g.free[:top]
		g.bufs[id].next = withKernel
		g.ring.Add(g.buffer(id), uint16(id))
	}
	g.published += n
	g.ring.Publish()
}
