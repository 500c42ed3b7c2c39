//go:build linux && (amd64 || arm64)

package sys

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// Host is the other side of Queues, for an engine that lives in this process: it
// takes entries and posts completions, as the kernel does with io_uring's. All its
// methods belong to the queues' goroutine.
type Host struct {
	Queues   *Queues
	overflow []Completion // did not fit the queue; they come before all later ones
}

// NewHost makes queues of the given sizes, which are rounded up to powers of two.
// Their memory is the Go heap's and needs no release.
func NewHost(entries, completions uint32) *Host {
	entries, completions = roundUp(entries), roundUp(completions)
	words := make([]uint32, 7)
	q := &Queues{
		sqHead: &words[0], sqTail: &words[1], sqFlags: &words[2], sqDropped: &words[3],
		sqMask: entries - 1, sqCount: entries, sqes: make([]Entry, entries),
		cqHead: &words[4], cqTail: &words[5], cqOverflow: &words[6],
		cqMask: completions - 1, cqCount: completions, cqes: make([]Completion, completions),
	}
	return &Host{Queues: q}
}

func roundUp(n uint32) uint32 {
	p := uint32(1)
	for p < n {
		p *= 2
	}
	return p
}

// Next is the oldest entry that was published and not taken, or nil.
func (h *Host) Next() *Entry {
	q := h.Queues
	head := *q.sqHead
	if head == atomic.LoadUint32(q.sqTail) {
		return nil
	}
	return &q.sqes[head&q.sqMask]
}

// Take gives the place of Next's entry back; it may be overwritten from then on.
func (h *Host) Take() { atomic.StoreUint32(h.Queues.sqHead, *h.Queues.sqHead+1) }

// Room is how many completions fit without an overflow.
func (h *Host) Room() uint32 {
	if len(h.overflow) > 0 {
		return 0
	}
	q := h.Queues
	return q.cqCount - (*q.cqTail - atomic.LoadUint32(q.cqHead))
}

// Post adds a completion. When the queue is full it is kept, and the OVERFLOW flag
// says that an enter would bring it.
func (h *Host) Post(c Completion) {
	if h.Room() == 0 {
		h.overflow = append(h.overflow, c)
		h.flag(IORING_SQ_CQ_OVERFLOW, true)
		return
	}
	h.post(c)
}

func (h *Host) post(c Completion) {
	q := h.Queues
	q.cqes[*q.cqTail&q.cqMask] = c
	atomic.StoreUint32(q.cqTail, *q.cqTail+1)
}

// Flush moves what did not fit into the queue, as far as there is room now.
func (h *Host) Flush() {
	if len(h.overflow) == 0 {
		return
	}
	q := h.Queues
	n := min(uint32(len(h.overflow)), q.cqCount-(*q.cqTail-atomic.LoadUint32(q.cqHead)))
	for _, c := range h.overflow[:n] {
		h.post(c)
	}
	h.overflow = append(h.overflow[:0], h.overflow[n:]...)
	h.flag(IORING_SQ_CQ_OVERFLOW, len(h.overflow) > 0)
}

// Overflow is how many completions did not fit.
func (h *Host) Overflow() int { return len(h.overflow) }

// Deferred sets or clears the TASKRUN flag: completions can be had by an enter.
func (h *Host) Deferred(on bool) { h.flag(IORING_SQ_TASKRUN, on) }

func (h *Host) flag(bit uint32, on bool) {
	old := *h.Queues.sqFlags
	flags := old &^ bit
	if on {
		flags |= bit
	}
	if flags != old {
		atomic.StoreUint32(h.Queues.sqFlags, flags)
	}
}

// BufReader is the kernel's side of a BufRing.
type BufReader struct {
	r    *BufRing
	head uint16
}

// NewBufReader begins at the ring's first place, as the kernel does when a ring
// is registered.
func NewBufReader(r *BufRing) *BufReader { return &BufReader{r: r} }

// Peek is the oldest published buffer; ok is false when there is none.
func (b *BufReader) Peek() (mem []byte, bid uint16, ok bool) {
	word := atomic.LoadUint32((*uint32)(unsafe.Pointer(&b.r.bufs[0].Bid)))
	if uint16(word>>16) == b.head {
		return nil, 0, false
	}
	e := &b.r.bufs[int(b.head&b.r.mask)]
	return Bytes(e.Addr, int(e.Len)), e.Bid, true
}

// At is the i-th published buffer that was not taken, Peek being the 0th.
func (b *BufReader) At(i int) (mem []byte, bid uint16, ok bool) {
	at := *b
	at.head += uint16(i)
	return at.Peek()
}

// Commit takes the buffer that Peek showed.
func (b *BufReader) Commit() { b.head++ }

// Bytes are the n bytes at an address that an entry or a vector names. They are
// what Address was given: mapped memory, or pinned memory of the heap.
func Bytes(addr uint64, n int) []byte {
	if n == 0 {
		return nil
	}
	// Read as a pointer, and not converted from a number: it is one, to memory
	// that stays where it is, which checkptr cannot know.
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&addr)), n)
}

// MessageAt is the message whose Address was given.
func MessageAt(addr uint64) *Message { return *(**Message)(unsafe.Pointer(&addr)) }

// Piece is the i-th piece of the vector.
func (m *Message) Piece(i int) []byte {
	if i >= m.Len() {
		panic(fmt.Sprintf("sys: piece %d of a vector of %d", i, m.Len()))
	}
	return Bytes(m.iov[i].Base, int(m.iov[i].Len))
}

// Bytes is the length of all pieces.
func (m *Message) Bytes() int {
	n := 0
	for i := range m.Len() {
		n += int(m.iov[i].Len)
	}
	return n
}

// Name and Control are the lengths that the message was set with.
func (m *Message) NameLen() int    { return int(m.hdr.Namelen) }
func (m *Message) ControlLen() int { return int(m.hdr.Controllen) }

// Duration reads a struct __kernel_timespec at an address.
func TimespecAt(addr uint64) (sec, nsec int64) {
	ts := *(**timespec)(unsafe.Pointer(&addr))
	return ts.Sec, ts.Nsec
}

// NameArea and ControlArea are where a receive puts them, and Answer says how much
// of them was used.
func (m *Message) NameArea() []byte    { return Bytes(m.hdr.Name, int(m.hdr.Namelen)) }
func (m *Message) ControlArea() []byte { return Bytes(m.hdr.Control, int(m.hdr.Controllen)) }
func (m *Message) Answer(name, control int, flags int32) {
	m.hdr.Namelen, m.hdr.Controllen, m.hdr.Flags = uint32(name), uint64(control), flags
}

// PutRecvmsgOut writes the header of a buffer that a multishot recvmsg has filled.
func PutRecvmsgOut(b []byte, out RecvmsgOut) {
	binary.NativeEndian.PutUint32(b, out.NameLen)
	binary.NativeEndian.PutUint32(b[4:], out.ControlLen)
	binary.NativeEndian.PutUint32(b[8:], out.PayloadLen)
	binary.NativeEndian.PutUint32(b[12:], out.Flags)
}
