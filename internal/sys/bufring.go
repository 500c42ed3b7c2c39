//go:build linux && (amd64 || arm64)

package sys

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// MaxBufRingEntries is the most entries a buffer ring may have: the kernel keeps
// positions in 16 bits and needs full and empty to differ (io_register_pbuf_ring).
const MaxBufRingEntries = 32768

// BufRing is a ring through which buffers are handed to the kernel, struct
// io_uring_buf_ring. The owner fills entries from the tail on; the kernel takes
// them from its own head, in order. Positions run modulo 65,536, one more bit
// than the largest ring has, and are reduced to an index in full int width:
// reducing them in 16 bits is how rings of 4,096 entries and more went wrong
// elsewhere.
type BufRing struct {
	mem  []byte
	bufs []bufEntry
	mask uint16
	tail uint16 // position of the next entry to fill
}

// NewBufRing maps a ring of entries places, a power of two up to 32,768.
func NewBufRing(entries int) (*BufRing, error) {
	if entries < 1 || entries > MaxBufRingEntries || entries&(entries-1) != 0 {
		return nil, fmt.Errorf("buffer ring of %d entries: must be a power of two from 1 to %d", entries, MaxBufRingEntries)
	}
	mem, err := Map(entries * int(unsafe.Sizeof(bufEntry{})))
	if err != nil {
		return nil, err
	}
	return &BufRing{
		mem:  mem,
		bufs: unsafe.Slice((*bufEntry)(unsafe.Pointer(&mem[0])), entries),
		mask: uint16(entries - 1),
	}, nil
}

// Close unmaps the ring. The kernel must no longer know it.
func (r *BufRing) Close() error {
	err := Unmap(r.mem)
	*r = BufRing{}
	return err
}

// EntryCount is the number of places in the ring.
func (r *BufRing) EntryCount() int { return len(r.bufs) }

// Add fills the next place with b under the id bid. The kernel sees it after the
// next Publish. The caller sees to it that no more than EntryCount buffers are
// with the kernel at once.
func (r *BufRing) Add(b []byte, bid uint16) {
	e := &r.bufs[int(r.tail&r.mask)]
	// Not *e = bufEntry{…}: that would write Resv, which in entry 0 is the tail.
	e.Addr = Address(b)
	e.Len = uint32(len(b))
	e.Bid = bid
	r.tail++
}

// Publish hands every added buffer to the kernel.
//
// The tail is 16 bits wide and shares an aligned 32-bit word with the id of
// entry 0 (struct io_uring_buf: bid at byte 12, resv at byte 14; the tail lies
// over resv). Go has no 16-bit atomic store, so the whole word is stored. That
// is sound because
//   - the id in it is the one that Add wrote last, and only we write ids: the
//     kernel reads this ring and never stores to it, so nothing is undone;
//   - an aligned 32-bit store is one access on amd64 and arm64, and a 16-bit load
//     within it sees either the old half or the new half, never a mix;
//   - the store has release order, which pairs with the kernel's
//     smp_load_acquire(&br->tail): entries are visible before the tail is.
//
// Byte order is little-endian on both, so the tail is the upper half.
func (r *BufRing) Publish() {
	e := &r.bufs[0]
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&e.Bid)), uint32(e.Bid)|uint32(r.tail)<<16)
}

// Tail is the position of the next entry to fill, modulo 65,536.
func (r *BufRing) Tail() uint16 { return r.tail }
