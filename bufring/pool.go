//go:build linux

package bufring

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"

	"example.com/ringnet/ring"
)

// ErrExhausted says that every buffer is out. It is flow control, not a failure:
// try again when some have come back.
var ErrExhausted = errors.New("bufring: every buffer is in use")

// poisonByte fills returned buffers of pools with Options.Poison, so that a use
// after release shows as garbage and not as luck.
const poisonByte = 0xdb

var poison = bytes.Repeat([]byte{poisonByte}, 4096) // copying is far faster than a loop

// colourBytes is added to the distance between buffers. Sizes are powers of two
// as a rule, and buffers a multiple of 4 KiB apart fall into the same cache sets:
// the first lines of 64 buffers would fight for the 8 to 12 ways of one L1 set.
const colourBytes = 64

// PoolOptions is what a pool is made with.
type PoolOptions struct {
	// BufBytes is the size of a buffer, 1 to 1 GiB.
	BufBytes int
	// Count is how many buffers there are at most, 1 to 1,048,576. Their memory
	// is reserved at once and costs nothing until it is used.
	Count int
	// Poison overwrites returned buffers. For tests.
	Poison bool
}

// Pool is a fixed number of buffers of one size, handed out last in, first out,
// so that what is used is what is in the cache.
//
// It belongs to one goroutine. Only Lease.Release is safe for concurrent use.
type Pool struct {
	mem      []byte
	bufBytes int
	stride   int
	free     []uint32 // stack of free ids
	bufs     []account
	poison   bool

	// returned is a stack of buffers that other goroutines released: the id of
	// the top one plus one, and under it account.next. The owner takes it whole.
	returned atomic.Uint32

	waiting atomic.Bool // the owner wants a call of notify at the next Release
	notify  func()
}

// account is what is known of one buffer. Its fields are together because they
// are used together, and with thousands of buffers each line of the cache counts.
type account struct {
	charged *int32 // who pays for it, see Charge
	gen     uint32 // odd while it is leased, see Lease
	next    uint32 // in the stack of returned ones, or withKernel
}

// withKernel stands in account.next of a buffer that a group has published.
const withKernel = 1<<32 - 1

// NewPool maps the memory of a pool. On any goroutine.
func NewPool(o PoolOptions) (*Pool, error) {
	if o.BufBytes < 1 || o.BufBytes > 1<<30 {
		return nil, fmt.Errorf("bufring: BufBytes is %d: it must be from 1 to 1073741824", o.BufBytes)
	}
	if o.Count < 1 || o.Count > 1<<20 {
		return nil, fmt.Errorf("bufring: Count is %d: it must be from 1 to 1048576", o.Count)
	}
	p := &Pool{bufBytes: o.BufBytes, stride: (o.BufBytes+colourBytes-1)/colourBytes*colourBytes + colourBytes, poison: o.Poison,
		free: make([]uint32, o.Count), bufs: make([]account, o.Count)}
	var err error
	if p.mem, err = ring.Map(p.stride * o.Count); err != nil {
		return nil, fmt.Errorf("bufring: %d buffers of %d bytes: %w", o.Count, o.BufBytes, err)
	}
	for i := range p.free {
		p.free[i] = uint32(o.Count - 1 - i) // the first buffer lies on top
	}
	return p, nil
}

// Close unmaps the memory. Every lease must be back; it says how many are not,
// and then leaves the memory mapped, since somebody may still read it.
func (p *Pool) Close() error {
	p.Reclaim()
	if p.mem == nil {
		return nil
	}
	if out := p.Out(); out != 0 {
		return fmt.Errorf("bufring: close pool: %d of %d buffers are still out", out, len(p.bufs))
	}
	err := ring.Unmap(p.mem)
	p.mem, p.free = nil, nil
	return err
}

// BufBytes is the size of a buffer.
func (p *Pool) BufBytes() int { return p.bufBytes }

// Count is how many buffers there are.
func (p *Pool) Count() int { return len(p.bufs) }

// Free is how many buffers can be leased now.
func (p *Pool) Free() int { return len(p.free) }

// Out is how many buffers are not free: leased, or with the kernel.
func (p *Pool) Out() int { return len(p.bufs) - len(p.free) }

func (p *Pool) buffer(id uint32) []byte {
	at := int(id) * p.stride
	return p.mem[at : at+p.bufBytes : at+p.bufBytes]
}

// Lease takes a free buffer, the one returned last.
func (p *Pool) Lease() (Lease, error) {
	if len(p.free) == 0 {
		if p.Reclaim() == 0 {
			return Lease{}, ErrExhausted
		}
	}
	top := len(p.free) - 1
	id := p.free[top]
	p.free = p.free[:top]
	return p.lease(id, p.bufBytes), nil
}

// lease marks a buffer as leased, n bytes of it.
func (p *Pool) lease(id uint32, n int) Lease {
	a := &p.bufs[id]
	a.gen++
	return Lease{p: p, id: id, gen: a.gen, to: uint32(n)}
}

// Put takes a lease back; the lease is consumed. It does what Lease.Release does,
// faster, on the pool's own goroutine.
func (p *Pool) Put(l Lease) {
	if l.p != p {
		l.Release()
		return
	}
	p.consume(l)
	p.restore(l.id)
}

// consume ends a lease and panics if that was done before.
func (p *Pool) consume(l Lease) {
	// A lease has one owner, who got it in good order from the one before, so
	// plain loads and stores do. Two owners at once are a bug, for the race
	// detector to find.
	a := &p.bufs[l.id]
	if a.gen != l.gen {
		panic(fmt.Sprintf("bufring: lease of buffer %d released twice (generation %d, now %d)", l.id, l.gen, a.gen))
	}
	a.gen++
	if p.poison {
		for b := p.buffer(l.id); len(b) > 0; {
			b = b[copy(b, poison):]
		}
	}
}

// restore puts a buffer on the stack of free ones.
func (p *Pool) restore(id uint32) {
	if a := &p.bufs[id]; a.charged != nil {
		*a.charged--
		a.charged = nil
	}
	p.free = append(p.free, id)
}

// Charge adds one to *account now and takes it away when the lease's buffer is
// free again, however that comes about. At most one account per lease. Leases of
// other pools are not charged.
func (p *Pool) Charge(l Lease, account *int32) {
	if l.p != p || p.bufs[l.id].charged != nil {
		return
	}
	*account++
	p.bufs[l.id].charged = account
}

// Owns reports that l is a lease of this pool.
func (p *Pool) Owns(l Lease) bool { return l.p == p }

// Reclaim takes in what other goroutines released, and returns how many buffers
// that was. With nothing to take it costs one load.
func (p *Pool) Reclaim() int {
	if p.returned.Load() == 0 {
		return 0
	}
	n := 0
	for top := p.returned.Swap(0); top != 0; n++ {
		id := top - 1
		top = p.bufs[id].next
		p.restore(id)
	}
	return n
}

// Notify sets a function that a Release calls, on its own goroutine, after Await.
// Set it before the first lease is handed out.
func (p *Pool) Notify(f func()) { p.notify = f }

// Await asks for one call of the Notify function at the next Release. Call Reclaim
// after it and before sleeping: a buffer may have come back in between.
func (p *Pool) Await() { p.waiting.Store(true) }

// Lease is the right to a buffer's bytes, or to a part of them. It has one owner;
// copies of the value are the same lease. The zero Lease holds nothing, and
// releasing it does nothing.
type Lease struct {
	p        *Pool
	id       uint32
	gen      uint32 // the buffer's generation when it was leased
	from, to uint32 // the part of the buffer
}

// Bytes are the leased bytes. Valid until Release.
func (l Lease) Bytes() []byte {
	if l.p == nil {
		return nil
	}
	at := int(l.id) * l.p.stride
	return l.p.mem[at+int(l.from) : at+int(l.to) : at+l.p.bufBytes]
}

// Len is the number of leased bytes.
func (l Lease) Len() int { return int(l.to - l.from) }

// Valid reports that this is not the zero Lease.
func (l Lease) Valid() bool { return l.p != nil }

// Slice returns the same lease seen through bytes i to j. It replaces l.
func (l Lease) Slice(i, j int) Lease {
	if i < 0 || i > j || j > l.Len() {
		badSlice(i, j, l.Len())
	}
	l.from, l.to = l.from+uint32(i), l.from+uint32(j)
	return l
}

// badSlice is by itself, so that what it takes to say so is not on the stack of all who
// slice.
//
//go:noinline
func badSlice(i, j, n int) {
	panic(fmt.Sprintf("bufring: slice [%d:%d] of a lease of %d bytes", i, j, n))
}

// Append copies what it can of b into the rest of the buffer, behind the leased
// bytes, and returns the lease grown by that and how much it was. It replaces l.
func (l Lease) Append(b []byte) (Lease, int) {
	if l.p == nil {
		return l, 0
	}
	at := int(l.id) * l.p.stride
	n := copy(l.p.mem[at+int(l.to):at+l.p.bufBytes], b)
	l.to += uint32(n)
	return l, n
}

// Release gives the buffer back and consumes the lease: its bytes may not be
// touched any more, and a second Release panics. Safe for concurrent use by
// owners of different leases.
func (l Lease) Release() {
	p := l.p
	if p == nil {
		return
	}
	p.consume(l)
	for {
		top := p.returned.Load()
		p.bufs[l.id].next = top
		if p.returned.CompareAndSwap(top, l.id+1) {
			break
		}
	}
	// The owner sets waiting and then looks at the stack; we push and then look
	// at waiting. Both orders are sequentially consistent, so one of us sees the
	// other.
	if p.waiting.Load() && p.waiting.Swap(false) && p.notify != nil {
		p.notify()
	}
}

// Wrap leases b, memory of the Go heap, which is pinned until the lease is
// released. For the rare bytes that live in no pool. At most 1 GiB.
func Wrap(b []byte) Lease {
	if len(b) > 1<<30 {
		panic(fmt.Sprintf("bufring: wrap %d bytes: a lease holds at most 1073741824", len(b)))
	}
	p := &Pool{bufBytes: len(b), mem: b, bufs: []account{{gen: 1}}}
	w := &wrapped{p: p}
	if len(b) > 0 {
		w.pin.Pin(&b[0])
	}
	p.waiting.Store(true)
	p.notify = w.unpin
	return Lease{p: p, to: uint32(len(b)), gen: 1}
}
